"""A network: nodes in order, the tensors they make, and what leaves it."""

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from systola.model.graph.nodes import KINDS, GraphError, Input, Node

__all__ = ["RECORDED_RANGES", "Graph"]

RECORDED_RANGES = "recorded_ranges"
"""Entry of ``meta``, if a checkpoint's quantizers recorded any: largest magnitudes by tensor."""

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_NAME_LENGTH = 120
_MOST_NUMBERS = 2**28
"""Most numbers in a tensor: what a file of a few bytes can make a reader allocate is bounded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A network as data, for one image unless it was `repeated`.

    Parameters
    ----------
    nodes : tuple of Node
        In an order in which each reads only what earlier ones made.
    outputs : tuple of str
        Tensors that are results.
    scales : dict of str to float
        Real value of one code of each tensor of an integer network; for reports and for encoding
        inputs, not for inference.
    meta : dict
        How images become the input (``patch_size``, ``mean``, ``std``), and where it came from.
    images : int
        Images whose rows follow each other.

    Raises
    ------
    GraphError
        If a name is used twice or before it is made, a tensor is made of unfit inputs, or a
        parameter is out of range.
    """

    nodes: tuple
    outputs: tuple
    scales: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    images: int = 1

    def __post_init__(self):
        self.tensors  # noqa: B018 - checks all nodes
        for name in self.outputs:
            if name not in self.tensors:
                raise GraphError(f"output {str(name)[:60]!r} must be the name of a node")
            if not self.by_name[name].inputs:
                raise GraphError(f"output {name!r} must be computed, not "
                                 f"{self.by_name[name].kind}")
        if not self.outputs or len(set(self.outputs)) != len(self.outputs):
            raise GraphError("a network must have an output, and each once")
        if not self.inputs:
            raise GraphError("a network must have an input")

    @cached_property
    def tensors(self):
        """Dictionary of `Tensor` by name, in order."""
        tensors = {}
        for node in self.nodes:
            if not isinstance(node, Node):
                raise GraphError(f"node must be one of {', '.join(KINDS)}, not {type(node)}")
            if (not isinstance(node.name, str) or len(node.name) > _NAME_LENGTH
                    or not _NAME.fullmatch(node.name)):
                raise GraphError(f"name of a node must be letters, digits and _ between dots, at "
                                 f"most {_NAME_LENGTH}, not {str(node.name)[:60]!r}")
            if node.name in tensors:
                raise GraphError(f"node {node.name!r}: name must be used once")
            for name in node.inputs:
                if not isinstance(name, str) or name not in tensors:
                    raise GraphError(f"node {node.name!r}: input {str(name)[:60]!r} must be made "
                                     f"by a node before it")
            tensor = node.tensor(*(tensors[name] for name in node.inputs))
            if prod(tensor.shape) > _MOST_NUMBERS:
                raise GraphError(f"node {node.name!r}: tensor must have at most {_MOST_NUMBERS:,} "
                                 f"numbers, not {' x '.join(map(str, tensor.shape))}")
            tensors[node.name] = tensor
            # Before another node reads it: ranges of integers mean nothing to a float.
            first = self.nodes[0].name
            if (tensors[first].bits is None) != (tensor.bits is None):
                float_one = first if tensors[first].bits is None else node.name
                raise GraphError(f"node {float_one!r}: bits must be given in an integer network")
        return tensors

    @cached_property
    def by_name(self):
        """Dictionary of nodes."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def consumers(self):
        """Dictionary of the nodes that read each tensor, in order, each once."""
        readers = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers[name].append(node)
        return readers

    @property
    def is_integer(self):
        """Whether it is an integer network."""
        return self.tensors[self.nodes[0].name].bits is not None

    @property
    def inputs(self):
        """The `Input` nodes."""
        return [node for node in self.nodes if isinstance(node, Input)]

    def of(self, kind):
        """Return the nodes of class `kind`, in order."""
        return [node for node in self.nodes if isinstance(node, kind)]

    def input_tensors(self, node):
        """Return the tensors that `node` reads."""
        return [self.tensors[name] for name in node.inputs]

    @cached_property
    def multiplications(self):
        """Products of two operands that the network needs."""
        return int(sum(node.multiplications(self.tensors[node.name], *self.input_tensors(node))
                       for node in self.nodes))

    def repeated(self, count):
        """Return the network for `count` images at once: rows of an image after the other's."""
        if count == 1:
            return self
        return dataclasses.replace(self, images=self.images * count, nodes=tuple(
            node.repeated(count, *self.input_tensors(node)) for node in self.nodes))

    def between(self, inputs, outputs):
        """Return the part that makes `outputs`, with the tensors `inputs` coming from outside.

        Raises
        ------
        GraphError
            If a name is not in the network, or an output needs an input of the whole network that
            is not among `inputs`.
        """
        for name in (*inputs, *outputs):
            if name not in self.tensors:
                raise GraphError(f"the network has no tensor {name!r}")
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if node.name not in needed:
                continue
            if node.name in inputs:
                tensor = self.tensors[node.name]
                node = Input(name=node.name, rows=tensor.rows, channels=tensor.channels,
                             bits=tensor.bits)
            elif isinstance(node, Input):
                raise GraphError(f"tensor {outputs[-1]!r} needs the input {node.name!r} as well")
            needed.update(node.inputs)
            kept.append(node)
        return dataclasses.replace(self, nodes=tuple(reversed(kept)), outputs=tuple(outputs))

    def summary(self):
        """Return sizes as plain data: counts of nodes by kind, inputs, outputs, parameters."""
        return {
            "nodes": dict(Counter(node.kind for node in self.nodes)),
            "inputs": {node.name: [node.rows, node.channels] for node in self.inputs},
            "outputs": {name: list(self.tensors[name].shape) for name in self.outputs},
            "multiplications": self.multiplications, "images": self.images}
