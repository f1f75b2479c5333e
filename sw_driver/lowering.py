"""Layers as operations: tensors, parameters, tiles, column groups and row chunks."""

import itertools

import numpy as np

from systola.hw.isa import Flag, Opcode
from systola.sw_driver.layout import Group, ParamBlock, Tensor
from systola.sw_driver.operation import Operation
from systola.sw_driver.packing import (
    gelu_table,
    param_beats,
    param_records,
    table_beats,
    tile_beats,
    to_beats,
    words_of,
)

__all__ = ["Lowering", "cut"]


class Lowering:
    """Builds the operations of one network for one configuration.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    param_words : int
        Most parameter words one MATMUL may use; wider layers are split.
    trace : bool
        Whether to store every named tensor.

    Attributes
    ----------
    ops : list of Operation
        The program without BEGIN and END.
    inputs : list of (name, Operation, rows, channels)
        LOADs whose data the driver replaces.
    outputs : dict of name to (shape, parts)
        Results; each part is (STORE operation, digit_bits, lane, columns, head, row, column).
    macs : int
        Multiply-accumulates of the network, each once.
    """

    def __init__(self, config, *, param_words, trace=False):
        self.config, self.param_words, self.trace = config, param_words, trace
        self.ops, self.inputs, self.outputs, self.macs = [], [], {}, 0

    def words(self, channels):
        """Return the words of a row of `channels` channels."""
        return words_of(channels, self.config)

    def tensor(self, name, rows, channels, *, planes=1, group=Group.STREAMED):
        """Return a new tensor for rows of `channels` channels."""
        return Tensor(name, rows, self.words(channels), planes, group)

    def region(self, words, channels):
        """Return the fields for `words` words in a row that hold `channels` channels."""
        return {"words": words, "lanes_last": channels - (words - 1) * self.config.rows}

    def chunks(self, rows):
        """Return (first row, rows) of equal parts of at most token_depth rows."""
        count = -(-rows // self.config.token_depth)
        edges = [rows * i // count for i in range(count + 1)]
        return [(low, high - low) for low, high in itertools.pairwise(edges)]

    def load(self, tensor, words, *, first_row=False):
        """Load `words` (n, R) into all of `tensor`, or into the first row of its planes."""
        view = tensor.view(rows=1 if first_row else None)
        fields = {"rows": view.rows * tensor.planes, "words": tensor.words}
        if first_row:  # the planes are the rows of the transfer
            fields["stride"] = tensor.plane
        op = Operation(Opcode.LOAD, tensor.name, writes={"": view}, fields=fields,
                       data=to_beats(words, self.config))
        self.ops.append(op)
        return op

    def declare(self, name, shape):
        """Give a result its shape and its place among the results."""
        self.outputs[name] = shape, []

    def store(self, name, tensor, places, digit_bits=0):
        """Store `tensor` as parts of result `name`: [(lane, columns, head, row, column)]."""
        op = Operation(Opcode.STORE, name, reads={"": tensor.view()},
                       fields={"rows": tensor.rows * tensor.planes, "words": tensor.words})
        self.ops.append(op)
        self.outputs[name][1].extend((op, tensor, digit_bits, *place) for place in places)

    def store_traced(self, name, tensor, channels):
        """Store a plain tensor of rows of `channels` when tracing."""
        if self.trace:
            self.declare(name, (tensor.rows, channels))
            self.store(name, tensor, [(0, channels, None, 0, 0)])

    def params(self, name, bias, mult, shift, *, words=None):
        """Load parameter records, one operation ahead of the last MATRIX or VECTOR operation."""
        records = param_records(bias, mult, shift)
        count = words or -(-len(records) // self.config.lanes)
        block = ParamBlock(name, records, count)
        self.ops.append(Operation(Opcode.LOAD_PARAMS, name, loads=block,
                                  data=param_beats(records, count, self.config)))
        return block

    def broadcast_params(self, name, dyadic):
        """Load one parameter word with the same record in all lanes."""
        lanes = self.config.lanes
        return self.params(name, 0, np.full(lanes, dyadic.mult), np.full(lanes, dyadic.shift))

    def matmul(self, name, act, out, feed, params, *, channels, bits, flags=0, residual=None,
               rescale=None):
        """Append a MATMUL and the operation that feeds it.

        `act`, `out` and `residual` are views of equal rows; `feed` makes the feeding operation.
        """
        fields = {"rows": act.rows, "act_words": act.words, "digits": act.tensor.planes,
                  **self.region(out.words, channels), "out_group": 0, "out_bits": bits,
                  "factor_base": 0}
        reads = {"act_": act}
        if residual is None:
            fields |= dict.fromkeys(("res_base", "res_stride", "res_plane", "res_mult",
                                     "res_shift"), 0)
        else:
            reads["res_"] = residual
            flags |= Flag.RESIDUAL
            fields |= {"res_mult": int(rescale.mult), "res_shift": int(rescale.shift)}
        self.ops += [Operation(Opcode.MATMUL, name, reads=reads, writes={"out_": out},
                               fields=fields | {"flags": int(flags)}, params=params), feed()]

    def weights(self, name, weight):
        """Return a maker of LOAD_WEIGHTS for `weight` (N, K)."""
        data = tile_beats(weight, self.config)
        return lambda: Operation(Opcode.LOAD_WEIGHTS, name, data=data)

    def fetch(self, name, source, channels, flags=0):
        """Return a maker of a FETCH of all rows of `source`."""
        fields = {"rows": source.rows, "flags": int(flags),
                  **self.region(source.words, channels)}
        return lambda: Operation(Opcode.FETCH, name, reads={"": source}, fields=fields)

    def linear(self, name, layer, act, out, *, weight=None, residual=None, rescale=None):
        """Append a linear layer from view `act` to view `out`, in column groups and row chunks.

        `weight` (N, K) replaces the layer's, in the lane order of a padded `act`.
        """
        weight = layer.weight if weight is None else weight
        rows = self.config.rows
        limit = max(self.param_words * self.config.lanes // rows, 1) * rows
        for start in range(0, len(weight), limit):
            part = slice(start, min(start + limit, len(weight)))
            columns = part.stop - start
            tiles = -(-columns // self.config.cols)
            params = self.params(name, layer.bias[part], layer.requant.mult[part],
                                 layer.requant.shift[part],
                                 words=tiles * self.config.cols // self.config.lanes)
            feed = self.weights(name, weight[part])
            for low, count in self.chunks(act.rows):
                part_of = {"word": start // rows, "words": self.words(columns), "rows": count}
                self.matmul(
                    name, cut(act, low, count), cut(out, low, **part_of), feed, params,
                    channels=columns, bits=layer.out_bits, rescale=rescale,
                    residual=None if residual is None else cut(residual, low, **part_of))

    def vector(self, opcode, name, source, out, channels, *, params=None, table=False, **fields):
        """Append a VECTOR operation over all rows, in the row chunks of the MATMULs."""
        for low, count in self.chunks(source.rows):
            self.ops.append(Operation(
                opcode, name, reads={"src_": cut(source, low, count)},
                writes={"dst_": cut(out, low, count)}, params=params,
                table_read=table,
                fields={"rows": count, **self.region(source.words, channels), **fields}))

    def norm(self, name, norm, source, channels, bits):
        """Append a LAYERNORM of view `source`; returns its output tensor."""
        out = self.tensor(name, source.rows, channels)
        params = self.params(name, norm.bias, norm.requant.mult, norm.requant.shift)
        self.vector(Opcode.LAYERNORM, name, source, out.view(), channels, out_bits=bits,
                    params=params)
        self.store_traced(name, out, channels)
        return out

    def gelu(self, block, source, out, channels, bits):
        """Append a SHIFTGELU, with its requantization or its table."""
        rescale, table, fields = block.gelu, self.config.gelu == "table", {}
        if table:
            entries = gelu_table(block.gelu_x0, rescale.mult, rescale.shift, bits)
            self.ops.append(Operation(Opcode.LOAD_TABLE, out.name, table_write=True,
                                      fields={"table": 0},
                                      data=table_beats(entries, self.config)))
            fields["param_base"] = 0
        else:
            fields["params"] = self.broadcast_params(out.name, rescale)
        self.vector(Opcode.SHIFTGELU, out.name, source, out.view(), channels, table=table,
                    x0=-int(block.gelu_x0), out_bits=bits, **fields)


def cut(view, row, rows, word=0, words=None):
    """Return a part of a view."""
    return view.tensor.view(row=view.row + row, rows=rows, word=view.word + word,
                            words=view.words - word if words is None else words)
