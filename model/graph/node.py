"""What all kinds of nodes are: a name, tensors read, one tensor made, and parameters to check.

A node makes one tensor, which has the node's name: rows of channels, or for attention rows of keys
for each head. The same kinds make float and integer networks. In a float one ``bits`` is None and
parameters are float32; in an integer one every node has its own bits, its operator variant and the
dyadic multipliers of its requantization (docs/ARITHMETIC.md).
"""

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np

from systola.hw.contract.numbers import MAX31, MAX_SHIFT

__all__ = ["MOST", "GraphError", "Node", "Tensor", "with_inputs"]

MOST = 2**20 - 1
"""Most rows and channels of a tensor."""

_SHOWN = 120
_LARGEST = 2**62


class GraphError(ValueError):
    """A network is inconsistent; the message is one line that names node, attribute and value."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a node makes.

    ``rows`` of ``channels`` numbers of ``bits`` (None: float). Attention has ``heads`` such
    matrices, the channels being keys, ``sequences`` of rows that attend to each other as (first
    row, rows), and a ``stage``: ``scores``, ``shares`` that add up to 1, or ``exponentials``, which
    are not divided yet; elsewhere all three are empty. With ``key_counts``, a row attends to that
    many of the first keys of its sequence only.
    """

    rows: int
    channels: int
    bits: int | None
    heads: int = 0
    sequences: tuple = ()
    stage: str = ""
    key_counts: tuple = ()

    @property
    def shape(self):
        """(rows, channels), or (heads, rows, keys)."""
        return (*([self.heads] if self.heads else []), self.rows, self.channels)

    @property
    def spans(self):
        """(first row, rows, keys) of every sequence: the most keys that one of its rows has."""
        return tuple((first, rows, max(self.key_counts[first:first + rows], default=rows))
                     for first, rows in self.sequences)

    @property
    def runs(self):
        """(first row, rows, keys) of rows of a sequence that follow each other with equal keys."""
        if not self.key_counts:
            return self.spans
        return tuple(
            (run[0], len(run), keys) for first, rows in self.sequences
            for keys, group in itertools.groupby(range(first, first + rows),
                                                 self.key_counts.__getitem__)
            for run in [list(group)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One step of a network, and the tensor of its name.

    Every kind has ``inputs``, the names of the tensors it reads in order, and ``tensor(*inputs)``,
    which checks the node against the `Tensor`s of these and returns the one it makes; it raises
    `GraphError` if a parameter has another shape, type or range, or the inputs do not fit.
    """

    name: str

    @property
    def kind(self):
        """The node's kind as files name it."""
        return type(self).__name__.lower()

    def repeated(self, count, *inputs):
        """Return this node for `count` images, one after the other; `inputs` are of one."""
        return self

    def renamed(self, inputs):
        """Return this node reading the tensors `inputs`, a dict from old to new names."""
        return self

    def multiplications(self, tensor, *inputs):
        """Return how many products of two operands the node needs."""
        return 0

    def refuse(self, attribute, expected, value):
        """Raise `GraphError` for one attribute."""
        raise GraphError(f"node {self.name!r}: {attribute} must be {expected}, "
                         f"not {str(value)[:_SHOWN]}")

    def integer(self, attribute, low, high):
        """Check that an attribute is an integer from `low` to `high`."""
        value = getattr(self, attribute)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not (
                low <= value <= high):
            self.refuse(attribute, f"an integer from {low} to {high}", repr(value))

    def choice(self, attribute, *values):
        """Check that an attribute is one of `values`."""
        if getattr(self, attribute) not in values:
            self.refuse(attribute, " or ".join(map(repr, values)), repr(getattr(self, attribute)))

    def checked_constants(self, variant):
        """Check the ``constants`` of a `systola.model.graph.variants.Variant`, or that of none."""
        if variant is None or variant.check is None:
            self.absent("constants")
            return
        value = self.constants
        if not isinstance(value, tuple) or not value or not all(
                type(number) is int and abs(number) < _LARGEST for number in value):
            self.refuse("constants", "a tuple of integers", repr(value))
        try:
            variant.check(value)
        except ValueError as error:
            raise GraphError(f"node {self.name!r}: {str(error)[:2 * _SHOWN]}") from None

    def absent(self, *attributes):
        """Check that attributes that this variant of the node does not read are None."""
        for attribute in attributes:
            if getattr(self, attribute) is not None:
                self.refuse(attribute, "left out here", _described(getattr(self, attribute)))

    def operands(self, **inputs):
        """Check that inputs, of an integer network, are codes that the array can multiply."""
        for what, tensor in inputs.items():
            if tensor.bits > 8:
                self.refuse(what, "of at most 8 bits", tensor.bits)

    def array(self, attribute, shape, low=None, high=None):
        """Check an array's shape and, with a range, that it holds integers of it; else floats."""
        value = getattr(self, attribute)
        if not isinstance(value, np.ndarray) or value.shape != tuple(shape):
            self.refuse(attribute, f"an array of shape {tuple(shape)}", _described(value))
        if low is None:
            if value.dtype.kind != "f":
                self.refuse(attribute, "floating point numbers", value.dtype)
            if not np.isfinite(value).all():
                self.refuse(attribute, "finite", value[~np.isfinite(value)].ravel()[0])
        elif value.dtype.kind not in "iu":
            self.refuse(attribute, "integers", value.dtype)
        elif value.size and not low <= value.min() <= value.max() <= high:
            outside = value[(value < low) | (value > high)].ravel()[0]
            self.refuse(attribute, f"from {low} to {high}", outside)

    def dyadic(self, mult="mult", shift="shift", shape=(), low=-MAX31):
        """Check a multiplier and its shift, both of `shape`."""
        self.array(mult, shape, low, MAX31)
        self.array(shift, shape, 0, MAX_SHIFT)

    def heads_fit(self, first, heads, tensor):
        """Check that `tensor` has `heads` of ``head_dim`` from the channel `first` says on."""
        if heads * self.head_dim > tensor.channels:
            self.refuse("head_dim", f"at most {tensor.channels // heads} for {heads} heads in "
                        f"{tensor.channels} channels", self.head_dim)
        self.integer(first, 0, tensor.channels - heads * self.head_dim)

    def matrices(self, **inputs):
        """Check that inputs are rows of channels and not attention."""
        for what, tensor in inputs.items():
            if tensor.heads:
                self.refuse(what, "rows of channels", "attention")


def _described(value):
    return f"of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)


def with_inputs(node, names, *attributes):
    """Return `node` with `attributes`, names of tensors, replaced by what `names` has for them."""
    return dataclasses.replace(node, **{
        name: names.get(getattr(node, name), getattr(node, name)) for name in attributes})
