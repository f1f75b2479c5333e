"""A float network and the integer network that is made of it, run side by side, node by node."""

import numpy as np

from systola.model.graph import float_forward, integer_forward
from systola.model.graph.nodes import Constant
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["Lockstep"]

_NUMBERS = 1 << 24
"""Most numbers of a tensor: fewer images of larger networks."""

_IMAGES = 512
_ROWS = 1 << 14


class Lockstep:
    """Tensors of some images in the float network, and as the codes that the integer nodes make.

    Parameters
    ----------
    graph : Graph
        The float network; nodes are given to `step` in its order.
    inputs : dict of str to ndarray or MappedRows
        Images as its inputs, (B, rows, channels); evenly spaced ones of many.
    scales : dict of str to float
        Real value of a code of every tensor.
    """

    def __init__(self, graph, inputs, scales):
        self.graph, self.scales = graph, scales
        largest = max(int(np.prod(tensor.shape)) for tensor in graph.tensors.values())
        count = len(next(iter(inputs.values())))
        self.images = min(count, _IMAGES, max(_NUMBERS // largest, 1))
        chosen = np.linspace(0, count - 1, self.images).round().astype(int)
        self.inputs = {name: np.asarray(value[chosen], np.float32)
                       for name, value in inputs.items()}
        self.real, self.codes = {}, {}
        self._left = {name: len(readers) for name, readers in graph.consumers.items()}

    def step(self, node, made):
        """Run a float node and the integer node made of it."""
        name = node.name
        if name in self.inputs:
            self.real[name] = self.inputs[name]
            self.codes[name] = to_codes(self.inputs[name], self.scales[name], made.bits)
        elif isinstance(node, Constant):
            shape = (self.images, *node.values.shape)
            self.real[name] = np.broadcast_to(node.values, shape)
            self.codes[name] = np.broadcast_to(made.values.astype(np.int64), shape)
        else:
            for module, values, one in ((float_forward, self.real, node),
                                        (integer_forward, self.codes, made)):
                values[name] = module.compute(one, self.graph,
                                              *(values[source] for source in node.inputs))
        for source in dict.fromkeys(node.inputs):
            self._left[source] -= 1
            if not self._left[source]:
                del self.real[source], self.codes[source]

    def problem(self, node):
        """Return what a linear node reads (n, K) and should make of it (n, N), as real numbers.

        It reads what the integer network delivers, and its result with the residual that comes
        from there should be that of the float network: not yet made, so computed here.
        """
        inputs = self._rows(self.codes[node.input]) * float(self.scales[node.input])
        real = float_forward.compute(node, self.graph,
                                     *(self.real[name] for name in node.inputs))
        targets = self._rows(real).astype(np.float64)
        if node.residual is not None:
            targets -= self._rows(self.codes[node.residual]) * float(self.scales[node.residual])
        return inputs, targets

    def _rows(self, x):
        x = x.reshape(-1, x.shape[-1])
        return x[::-(-len(x) // _ROWS)]
