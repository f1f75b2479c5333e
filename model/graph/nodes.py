"""Kinds of nodes: what each computes, from which tensors, with which parameters.

A node makes one tensor, which has the node's name: rows of channels, or for attention rows of keys
for each head. The same kinds make float and integer networks. In a float one ``bits`` is None and
parameters are float32; in an integer one every node has its own bits, its operator variant and the
dyadic multipliers of its requantization (docs/ARITHMETIC.md).
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from systola.hw.contract.numbers import MAX31, MAX_SHIFT

__all__ = ["CODES", "KINDS", "Activation", "Add", "Constant", "Context", "GraphError", "Input",
           "Linear", "Mean", "Node", "Norm", "Rows", "Scores", "Softmax", "Tensor"]

MOST = 2**20 - 1
"""Most rows and channels of a tensor."""

CODES = {"weight": np.int8, "bias": np.int32, "mult": np.int32, "shift": np.uint8,
         "res_mult": np.int32, "res_shift": np.uint8, "other_mult": np.int32,
         "other_shift": np.uint8, "values": np.int16, "table": np.int8, "index": np.int32}
"""Types of the parameters that are arrays in files of integer networks."""

_SHOWN = 120


class GraphError(ValueError):
    """A network is inconsistent; the message is one line that names node, attribute and value."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a node makes.

    ``rows`` of ``channels`` numbers of ``bits`` (None: float). Attention has ``heads`` such
    matrices, the channels being keys, ``sequences`` of rows that attend to each other as (first
    row, rows), and a ``stage``: ``scores``, ``shares`` that add up to 1, or ``exponentials``, which
    are not divided yet; elsewhere all three are empty.
    """

    rows: int
    channels: int
    bits: int | None
    heads: int = 0
    sequences: tuple = ()
    stage: str = ""

    @property
    def shape(self):
        """(rows, channels), or (heads, rows, keys)."""
        return (*([self.heads] if self.heads else []), self.rows, self.channels)


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


def _renamed(node, names, *attributes):
    return dataclasses.replace(node, **{
        name: names.get(getattr(node, name), getattr(node, name)) for name in attributes})


@dataclass(frozen=True, kw_only=True, eq=False)
class Input(Node):
    """Rows that come from outside: codes of up to 8 bits, or numbers of up to 16."""

    rows: int
    channels: int
    bits: int | None = None

    inputs = ()

    def tensor(self):
        """Return the tensor."""
        self.integer("rows", 1, MOST)
        self.integer("channels", 1, MOST)
        if self.bits is not None:
            self.integer("bits", 2, 16)
        return Tensor(rows=self.rows, channels=self.channels, bits=self.bits)

    def repeated(self, count):
        """Return the input of `count` images."""
        return dataclasses.replace(self, rows=self.rows * count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Constant(Node):
    """Rows that are the same for every image: tokens, position embeddings; ``values`` (rows, C)."""

    values: np.ndarray
    bits: int | None = None

    inputs = ()

    def tensor(self):
        """Return the tensor."""
        if np.ndim(self.values) != 2 or 0 in np.shape(self.values):
            self.refuse("values", "rows of channels", f"of shape {np.shape(self.values)}")
        if self.bits is None:
            self.array("values", self.values.shape)
        else:
            self.integer("bits", 2, 16)
            half = 1 << self.bits - 1
            self.array("values", self.values.shape, -half, half - 1)
        return Tensor(rows=len(self.values), channels=self.values.shape[1], bits=self.bits)

    def repeated(self, count):
        """Return the rows `count` times."""
        return dataclasses.replace(self, values=np.tile(self.values, (count, 1)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Node):
    """``y = x @ weight.T + bias [+ residual]``; weight (N, K), bias (N,).

    Integers: ``sat(rne(acc * mult, shift) [+ rne(residual * res_mult, res_shift)], bits)`` with
    mult and shift (N,), and weights of ``weight_bits`` without their most negative code. A
    `symmetric` one saturates below at ``-(2**(bits-1) - 1)``: its results become stationary
    operands, and a packed DSP slice has no room for one code more.
    """

    input: str
    weight: np.ndarray
    bias: np.ndarray
    residual: str | None = None
    bits: int | None = None
    weight_bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None
    symmetric: bool = False
    res_mult: np.ndarray | None = None
    res_shift: np.ndarray | None = None

    @property
    def inputs(self):
        """The operand, then the residual if there is one."""
        return (self.input,) if self.residual is None else (self.input, self.residual)

    def tensor(self, source, residual=None):
        """Return the tensor."""
        self.matrices(input=source, **({} if residual is None else {"residual": residual}))
        if np.ndim(self.weight) != 2 or 0 in np.shape(self.weight):
            self.refuse("weight", "a matrix", f"of shape {np.shape(self.weight)}")
        channels = len(self.weight)
        if residual is not None and (residual.rows, residual.channels) != (source.rows, channels):
            self.refuse("residual", f"{source.rows} rows of {channels} channels",
                        f"{residual.rows} of {residual.channels}")
        if self.bits is None:
            self.array("weight", (channels, source.channels))
            self.array("bias", (channels,))
        else:
            self.integer("bits", 2, 16)
            self.integer("weight_bits", 2, 8)
            top = (1 << self.weight_bits - 1) - 1
            self.array("weight", (channels, source.channels), -top, top)
            self.array("bias", (channels,), -MAX31 - 1, MAX31)
            self.dyadic(shape=(channels,))
            if residual is None:
                self.absent("res_mult", "res_shift")
            else:
                self.dyadic("res_mult", "res_shift")
        return Tensor(rows=source.rows, channels=channels, bits=self.bits)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return _renamed(self, inputs, "input", "residual")

    def multiplications(self, tensor, source, residual=None):
        """Return rows x N x K."""
        return source.rows * self.weight.size


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores(Node):
    """``q @ k.T`` of every head, within sequences of rows.

    Head h of the queries are the channels ``query_channel + h * head_dim`` and on of tensor
    `query`; likewise the keys. ``sequences`` are (first row, rows) that tile the rows; a row
    attends to the rows of its own sequence, and channels beyond their number are 0. A float network
    multiplies by `scale`; an integer one requantizes by ``mult`` and ``shift`` to ``bits``.
    """

    query: str
    key: str
    heads: int
    head_dim: int
    sequences: tuple
    query_channel: int = 0
    key_channel: int = 0
    scale: float | None = None
    bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None

    @property
    def inputs(self):
        """Queries, keys."""
        return self.query, self.key

    def tensor(self, query, key):
        """Return the tensor."""
        self.matrices(query=query, key=key)
        self.integer("heads", 1, MOST)
        self.integer("head_dim", 1, MOST)
        for name, tensor in ("query", query), ("key", key):
            self.heads_fit(f"{name}_channel", self.heads, tensor)
        if query.rows != key.rows:
            self.refuse("key", f"{query.rows} rows as the queries", key.rows)
        end = 0
        for sequence in self.sequences:
            if (not isinstance(sequence, tuple) or len(sequence) != 2
                    or not all(type(value) is int for value in sequence)
                    or sequence[0] != end or sequence[1] < 1):
                self.refuse("sequences", f"whole, in order, and go on at row {end}", repr(sequence))
            end += sequence[1]
        if end != query.rows:
            self.refuse("sequences", f"all {query.rows} rows", end)
        if self.bits is None:
            if not isinstance(self.scale, float) or not 0 < self.scale < 1e9:
                self.refuse("scale", "a positive number", repr(self.scale))
        else:
            self.operands(query=query, key=key)
            self.absent("scale")
            self.integer("bits", 2, 8)
            self.dyadic()
        return Tensor(rows=query.rows, channels=max(rows for _, rows in self.sequences),
                      bits=self.bits, heads=self.heads, sequences=self.sequences,
                      stage="scores")

    def repeated(self, count, query, key):
        """Return the scores of `count` images, which do not attend to each other."""
        return dataclasses.replace(self, sequences=tuple(
            (image * query.rows + first, rows) for image in range(count)
            for first, rows in self.sequences))

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return _renamed(self, inputs, "query", "key")

    def multiplications(self, tensor, query, key):
        """Return the squares of the sequences' rows, for all channels."""
        return _pairs(tensor) * self.heads * self.head_dim


@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax(Node):
    """Softmax over the keys of a row's own sequence.

    Variants of integers: ``exact`` (Shiftmax as published, ``bits`` of attention), ``deferred``
    (exponentials from 0 to 128; `Context` divides). ``unit`` is the score of 1, at least 1: -x0 of
    the publication.
    """

    input: str
    variant: str | None = None
    unit: int | None = None
    bits: int | None = None

    @property
    def inputs(self):
        """Scores."""
        return (self.input,)

    def tensor(self, scores):
        """Return the tensor."""
        if scores.stage != "scores":
            self.refuse("input", "scores", scores.stage or "rows of channels")
        if self.bits is not None:
            self.choice("variant", "exact", "deferred")
            self.integer("unit", 1, 2**24 - 1)
            self.choice("bits", *((8, 16) if self.variant == "exact" else (8,)))
        return dataclasses.replace(scores, bits=self.bits, stage=(
            "exponentials" if self.variant == "deferred" else "shares"))

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return _renamed(self, inputs, "input")


@dataclass(frozen=True, kw_only=True, eq=False)
class Context(Node):
    """``attention @ v`` of every head, the heads side by side.

    Requantized by ``mult`` and ``shift``. Of deferred attention ``mult`` is the numerator: row t is
    rescaled by ``min(mult // sum of its exponentials, 2**factor_bits - 1) / 2**shift``.
    """

    attention: str
    value: str
    head_dim: int
    value_channel: int = 0
    bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None
    factor_bits: int | None = None

    @property
    def inputs(self):
        """Attention, values."""
        return self.attention, self.value

    def tensor(self, attention, value):
        """Return the tensor."""
        self.matrices(value=value)
        stage = "shares" if self.factor_bits is None else "exponentials"
        if attention.stage != stage:
            self.refuse("attention", f"{stage} {'without' if stage == 'shares' else 'with'} "
                        f"factor_bits", attention.stage or "rows of channels")
        self.integer("head_dim", 1, MOST)
        self.heads_fit("value_channel", attention.heads, value)
        if value.rows != attention.rows:
            self.refuse("value", f"{attention.rows} rows as the attention", value.rows)
        if self.bits is not None:
            self.operands(value=value)
            self.integer("bits", 2, 8)
            self.dyadic()
            if self.factor_bits is not None:
                self.integer("factor_bits", 8, 31)
                # A row's sum is at least 128, so a larger numerator could give no larger factor.
                self.array("mult", (), 0, min(MAX31, (1 << self.factor_bits + 7) - 1))
        return Tensor(rows=attention.rows, channels=attention.heads * self.head_dim,
                      bits=self.bits)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return _renamed(self, inputs, "attention", "value")

    def multiplications(self, tensor, attention, value):
        """Return the squares of the sequences' rows, for all channels."""
        return _pairs(attention) * tensor.channels


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation(Node):
    """A function of every element.

    Variants of integers: ``exact`` (ShiftGELU as published, ``unit`` being the code of 1 / 1.702,
    requantized by ``mult`` and ``shift`` to ``bits``), ``table`` (``table[code + 128]`` of any
    function).
    """

    input: str
    function: str = "gelu"
    variant: str | None = None
    unit: int | None = None
    bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None
    table: np.ndarray | None = None

    @property
    def inputs(self):
        """The operand."""
        return (self.input,)

    def tensor(self, source):
        """Return the tensor."""
        self.matrices(input=source)
        self.choice("function", "gelu")
        if self.bits is not None:
            self.choice("variant", "exact", "table")
            self.integer("bits", 2, 8)
            self.operands(input=source)
            if self.variant == "exact":
                self.integer("unit", 1, 2**24 - 1)
                self.dyadic()
                self.absent("table")
            else:
                self.absent("unit", "mult", "shift")
                half = 1 << self.bits - 1
                self.array("table", (256,), -half, half - 1)
        return dataclasses.replace(source, bits=self.bits)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return _renamed(self, inputs, "input")


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm(Node):
    """Layer norm of every row with ``weight`` and ``bias`` (C,).

    Integers: I-LayerNorm, ``sat(rne((o + bias) * mult, shift), bits)`` with mult and shift (C,);
    variants of its root's start: ``published``, ``leading_one``.
    """

    input: str
    weight: np.ndarray | None = None
    bias: np.ndarray
    eps: float | None = None
    variant: str | None = None
    bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None

    @property
    def inputs(self):
        """The operand."""
        return (self.input,)

    def tensor(self, source):
        """Return the tensor."""
        self.matrices(input=source)
        shape = (source.channels,)
        if self.bits is None:
            self.array("weight", shape)
            self.array("bias", shape)
            if not isinstance(self.eps, float) or not 0 <= self.eps <= 1:
                self.refuse("eps", "a number from 0 to 1", repr(self.eps))
        else:
            self.absent("weight", "eps")
            self.choice("variant", "published", "leading_one")
            self.integer("bits", 2, 8)
            self.array("bias", shape, -MAX31 - 1, MAX31)
            self.dyadic(shape=shape)
        return dataclasses.replace(source, bits=self.bits)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return _renamed(self, inputs, "input")


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """The sum of two tensors of the same shape.

    Integers: ``sat(rne(a * mult, shift) + rne(b * other_mult, other_shift), bits)``.
    """

    input: str
    other: str
    bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None
    other_mult: np.ndarray | None = None
    other_shift: np.ndarray | None = None

    @property
    def inputs(self):
        """Both operands."""
        return self.input, self.other

    def tensor(self, source, other):
        """Return the tensor."""
        self.matrices(input=source, other=other)
        if (source.rows, source.channels) != (other.rows, other.channels):
            self.refuse("other", f"{source.rows} rows of {source.channels} channels",
                        f"{other.rows} of {other.channels}")
        if self.bits is not None:
            self.integer("bits", 2, 16)
            self.dyadic()
            self.dyadic("other_mult", "other_shift")
        return dataclasses.replace(source, bits=self.bits)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return _renamed(self, inputs, "input", "other")


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows(Node):
    """Rows of other tensors in a new order: selection, concatenation, gathering.

    Row i is row ``index[i, 1]`` of ``sources[index[i, 0]]``; all sources have the same channels,
    bits and scale.
    """

    sources: tuple
    index: np.ndarray

    @property
    def inputs(self):
        """The sources."""
        return self.sources

    def tensor(self, *sources):
        """Return the tensor."""
        self.matrices(**{f"source {index}": tensor for index, tensor in enumerate(sources)})
        if not sources or len({(tensor.channels, tensor.bits) for tensor in sources}) != 1:
            self.refuse("sources", "tensors of the same channels and bits",
                        [(tensor.channels, tensor.bits) for tensor in sources])
        count = len(self.index) if np.ndim(self.index) else 0
        self.array("index", (max(count, 1), 2), 0, MOST)
        which, row = self.index.T
        rows = np.array([tensor.rows for tensor in sources])
        wrong = (which >= len(rows)) | (row >= rows[np.minimum(which, len(rows) - 1)])
        if wrong.any():
            at = wrong.argmax()
            self.refuse("index", "rows of the sources", f"row {row[at]} of source {which[at]}")
        return dataclasses.replace(sources[0], rows=count)

    def repeated(self, count, *sources):
        """Return the rows of `count` images."""
        step = np.array([tensor.rows for tensor in sources])[self.index[:, 0]]
        return dataclasses.replace(self, index=np.concatenate([
            np.stack([self.index[:, 0], self.index[:, 1] + image * step], axis=1)
            for image in range(count)]))

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return dataclasses.replace(self, sources=tuple(inputs.get(name, name)
                                                       for name in self.sources))


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Node):
    """The mean of each of ``groups`` equal groups of rows.

    Integers: ``sat(rne(sum * mult, shift), bits)``; mult and shift are numbers.
    """

    input: str
    groups: int = 1
    bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None

    @property
    def inputs(self):
        """The operand."""
        return (self.input,)

    def tensor(self, source):
        """Return the tensor."""
        self.matrices(input=source)
        self.integer("groups", 1, source.rows)
        if source.rows % self.groups:
            self.refuse("groups", f"a divisor of {source.rows} rows", self.groups)
        if self.bits is not None:
            self.integer("bits", 2, 16)
            self.dyadic(low=0)
        return dataclasses.replace(source, rows=self.groups, bits=self.bits)

    def repeated(self, count, source):
        """Return the means of `count` images."""
        return dataclasses.replace(self, groups=self.groups * count)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return _renamed(self, inputs, "input")


KINDS = {kind.__name__.lower(): kind for kind in (
    Input, Constant, Linear, Scores, Softmax, Context, Activation, Norm, Add, Rows, Mean)}
"""Node classes by the name of their kind."""


def _pairs(attention):
    return sum(rows * rows for _, rows in attention.sequences)
