"""A float network as an ONNX model, its int8 forms, and ONNX Runtime on them."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from systola.model.graph.nodes import (
    Activation,
    Add,
    Constant,
    Context,
    Input,
    Linear,
    Norm,
    Rows,
    Scores,
    Softmax,
)

__all__ = ["onnx_model", "onnx_network", "quantized_onnx"]

_OPSET = 20
_BATCH = "batch"


def onnx_model(graph, path):
    """Write a float network as an ONNX model with a batch of any size.

    Raises
    ------
    ValueError
        If a node has no ONNX form here: attention within sequences, with a bias or a mask,
        norms in groups.
    """
    maker = _Maker(graph)
    for node in graph.nodes:
        maker.add(node)
    output = graph.outputs[0]
    model = helper.make_model(helper.make_graph(
        maker.nodes, "network",
        [_value(node.name, node.rows, node.channels) for node in graph.inputs],
        [_value(output, *graph.tensors[output].shape)], maker.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def quantized_onnx(source, target, *, calibration=None):
    """Write the int8 form of an ONNX model: with `calibration`, inputs by name, a static one."""
    if calibration is None:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8)
    else:
        quantize_static(source, target, _Reader(calibration), quant_format=QuantFormat.QDQ,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        per_channel=True)


def onnx_network(path, threads):
    """Return a function from inputs by name, float32 (B, rows, C), to the output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that wait by computing nothing would count as computing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


class _Reader(CalibrationDataReader):
    def __init__(self, inputs):
        self._images = iter([{name: value[index:index + 1] for name, value in inputs.items()}
                             for index in range(len(next(iter(inputs.values()))))])

    def get_next(self):
        return next(self._images, None)


class _Maker:
    """Collects the ONNX nodes and constants of a graph."""

    def __init__(self, graph):
        self.graph, self.nodes, self.constants = graph, [], []

    def add(self, node):
        """Add a node of the graph."""
        if isinstance(node, Input):
            return
        if isinstance(node, Constant):
            self.constant(node.name, node.values[None])
        elif isinstance(node, Linear):
            self._linear(node)
        elif isinstance(node, Norm) and node.groups == 1:
            self.op("LayerNormalization", node.name, node.input, self.constant(
                f"{node.name}.weight", node.weight), self.constant(f"{node.name}.bias", node.bias),
                axis=-1, epsilon=node.eps)
        elif isinstance(node, Activation) and node.function != "quick_gelu":
            self.op("Gelu", node.name, node.input, approximate=(
                "tanh" if node.function == "gelu_tanh" else "none"))
        elif (isinstance(node, Scores) and node.bias_index is None and node.key_counts is None
              and len(node.sequences) == 1):
            self._scores(node)
        elif isinstance(node, Softmax):
            self.op("Softmax", node.name, node.input, axis=-1)
        elif isinstance(node, Context):
            self._context(node)
        elif isinstance(node, Rows):
            self._rows(node)
        elif isinstance(node, Add):
            self.op("Add", node.name, node.input, node.other)
        else:
            raise ValueError(f"node {node.name!r}: kind {node.kind} has no ONNX form here")

    def op(self, kind, output, *inputs, **attributes):
        """Add an ONNX node and return the name of its output."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, name, value):
        """Add a constant and return its name."""
        value = np.asarray(value)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _linear(self, node):
        weight = self.constant(f"{node.name}.weight", node.weight.T)
        bias = self.constant(f"{node.name}.bias", node.bias)
        product = self.op("MatMul", f"{node.name}.product", node.input, weight)
        if node.residual is None:
            self.op("Add", node.name, product, bias)
        else:
            self.op("Add", node.name, self.op("Add", f"{node.name}.sum", product, bias),
                    node.residual)

    def _heads(self, name, source, first, heads, width, order):
        numbers = {"start": [first], "end": [first + heads * width], "axis": [2],
                   "shape": [0, 0, heads, width]}
        made = {what: self.constant(f"{name}.{what}", np.array(value, np.int64))
                for what, value in numbers.items()}
        part = self.op("Slice", f"{name}.part", source, made["start"], made["end"], made["axis"])
        apart = self.op("Reshape", f"{name}.apart", part, made["shape"])
        return self.op("Transpose", name, apart, perm=order)

    def _scores(self, node):
        query = self._heads(f"{node.name}.q", node.query, node.query_channel, node.heads,
                            node.head_dim, [0, 2, 1, 3])
        key = self._heads(f"{node.name}.k", node.key, node.key_channel, node.heads, node.head_dim,
                          [0, 2, 3, 1])
        product = self.op("MatMul", f"{node.name}.product", query, key)
        self.op("Mul", node.name, product, self.constant(f"{node.name}.scale",
                                                         np.float32(node.scale)))

    def _context(self, node):
        heads = self.graph.tensors[node.attention].heads
        value = self._heads(f"{node.name}.v", node.value, node.value_channel, heads, node.head_dim,
                            [0, 2, 1, 3])
        product = self.op("MatMul", f"{node.name}.product", node.attention, value)
        apart = self.op("Transpose", f"{node.name}.apart", product, perm=[0, 2, 1, 3])
        self.op("Reshape", node.name, apart, self.constant(
            f"{node.name}.shape", np.array([0, 0, heads * node.head_dim], np.int64)))

    def _rows(self, node):
        starts = np.cumsum([0, *(self.graph.tensors[name].rows for name in node.sources)])
        index = (starts[node.index[:, 0]] + node.index[:, 1]).astype(np.int64)
        sources = [self._for_every_image(node, name) for name in node.sources]
        whole = sources[0] if len(sources) == 1 else self.op(
            "Concat", f"{node.name}.whole", *sources, axis=1)
        picked = self.op("Gather", f"{node.name}.picked", whole, self.constant(
            f"{node.name}.index", index), axis=1)
        self.op("Reshape", node.name, picked, self.constant(f"{node.name}.shape", np.array(
            [0, *self.graph.tensors[node.name].shape], np.int64)))

    def _for_every_image(self, node, name):
        """Return a source of rows, a constant one once for every image."""
        source = self.graph.by_name[name]
        if not isinstance(source, Constant):
            return name
        stem = f"{node.name}.{name}"
        shape = self.op("Shape", f"{stem}.batch", self.graph.inputs[0].name, start=0, end=1)
        whole = self.op("Concat", f"{stem}.shape", shape, self.constant(
            f"{stem}.rows", np.array(source.values.shape, np.int64)), axis=0)
        return self.op("Expand", stem, name, whole)


def _value(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [_BATCH, *shape])
