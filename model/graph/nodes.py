"""Kinds of nodes: what each computes, from which tensors, with which parameters."""

import dataclasses
from dataclasses import dataclass
from math import isfinite

import numpy as np

from systola.hw.contract.numbers import (
    CODE_BITS,
    COMPARED_BITS,
    COMPARED_ROW,
    MAX31,
    SQUARE_FRACTION,
    epsilon_bits,
)
from systola.model.graph.attention_nodes import DEFERRED, Context, Scores, Softmax
from systola.model.graph.node import MOST, GraphError, Node, Tensor, with_inputs
from systola.model.graph.variants import ACTIVATIONS, NORMS, SOFTMAXES

__all__ = ["ALTERNATIVES", "CODEBOOK_BITS", "CODES", "DEFERRED", "FUNCTIONS", "KINDS",
           "Activation", "Add", "Constant", "Context", "GraphError", "Input", "Linear", "Mean",
           "Node", "Norm", "Rows", "Scores", "Softmax", "Tensor"]

CODEBOOK_BITS = 4
"""Bits of a code for weights: a codebook has at most ``2**CODEBOOK_BITS`` values."""

FUNCTIONS = "gelu", "gelu_tanh", "quick_gelu"
"""Activations: ``x Phi(x)``, its form with tanh, and ``x / (1 + exp(-1.702 x))``."""

CODES = {"weight": np.int8, "codebook": np.int8, "bias": np.int32, "mult": np.int32,
         "shift": np.uint8, "res_mult": np.int32, "res_shift": np.uint8, "other_mult": np.int32,
         "other_shift": np.uint8, "values": np.int16, "table": np.int8, "index": np.int32,
         "bias_table": np.int16, "bias_index": np.int32, "bias_mult": np.int32,
         "bias_shift": np.uint8, "key_counts": np.int32}
"""Types of the parameters that are arrays in files of integer networks."""


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

    Weights with a ``codebook`` are from few values, so that a code of 4 bits can stand for each:
    at most ``2**CODEBOOK_BITS`` integers in ascending order, 0 among them, of ``weight_bits`` 8.
    ``weight`` holds the values, not the codes, so that a codebook changes no result.
    """

    input: str
    weight: np.ndarray
    bias: np.ndarray
    residual: str | None = None
    bits: int | None = None
    weight_bits: int | None = None
    codebook: np.ndarray | None = None
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
            self.absent("codebook")
        else:
            self.integer("bits", 2, 16)
            self.integer("weight_bits", 2, 8)
            top = (1 << self.weight_bits - 1) - 1
            self.array("weight", (channels, source.channels), -top, top)
            if self.codebook is not None:
                self._check_codebook(top)
            self.array("bias", (channels,), -MAX31 - 1, MAX31)
            self.dyadic(shape=(channels,))
            if residual is None:
                self.absent("res_mult", "res_shift")
            else:
                self.dyadic("res_mult", "res_shift")
        return Tensor(rows=source.rows, channels=channels, bits=self.bits)

    def _check_codebook(self, top):
        """Check that all weights, from -top to top, are values of a codebook that can be one."""
        if self.weight_bits != CODE_BITS:
            self.refuse("weight_bits", f"{CODE_BITS} with a codebook", self.weight_bits)
        count, most = np.size(self.codebook), 1 << CODEBOOK_BITS
        if not 1 <= count <= most:
            self.refuse("codebook", f"1 to {most} values", count)
        self.array("codebook", (count,), -top, top)
        falls = np.diff(self.codebook.astype(np.int64)) <= 0
        if falls.any():
            first = falls.argmax()
            self.refuse("codebook", "in ascending order",
                        f"{self.codebook[first]}, {self.codebook[first + 1]}")
        known = np.zeros(1 << CODE_BITS, bool)
        known[self.codebook.astype(np.uint8)] = True  # negative values wrap around, all in a place
        if not known[0]:  # what the compiler fills tiles up with
            self.refuse("codebook", "values with 0 among them", self.codebook.tolist())
        wrong = ~known[self.weight.astype(np.uint8)]
        if wrong.any():
            self.refuse("weight", "values of the codebook", self.weight[wrong][0])

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return with_inputs(self, inputs, "input", "residual")

    def multiplications(self, tensor, source, residual=None):
        """Return rows x N x K."""
        return source.rows * self.weight.size


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation(Node):
    """A function of every element, one of `FUNCTIONS`, plus a constant `offset` if there is one.

    Variants of integers: ``published`` (ShiftGELU, which stands for all three functions, ``unit``
    being the code of 1 / 1.702, requantized by ``mult`` and ``shift`` to ``bits``), ``table``
    (``table[code + 128]`` of any function). For comparison there are those of
    `systola.model.graph.variants.ACTIVATIONS`, which stand for all three as well.
    """

    input: str
    function: str = "gelu"
    offset: float | None = None
    variant: str | None = None
    unit: int | None = None
    bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None
    table: np.ndarray | None = None
    constants: tuple | None = None

    @property
    def inputs(self):
        """The operand."""
        return (self.input,)

    def tensor(self, source):
        """Return the tensor."""
        self.matrices(input=source)
        self.choice("function", *FUNCTIONS)
        if self.bits is None:
            if self.offset is not None and not (isinstance(self.offset, float)
                                                and isfinite(self.offset)):
                self.refuse("offset", "a finite number", repr(self.offset))
        else:
            self.absent("offset")
            self.choice("variant", "published", "table", *ACTIVATIONS)
            self.integer("bits", 2, 8)
            self.operands(input=source)
            self.checked_constants(ACTIVATIONS.get(self.variant))
            if self.variant != "table":
                self.dyadic()
                self.absent("table")
                if self.variant == "published":
                    self.integer("unit", 1, 2**24 - 1)
                else:
                    self.absent("unit")
            else:
                self.absent("unit", "mult", "shift")
                half = 1 << self.bits - 1
                self.array("table", (256,), -half, half - 1)
        return dataclasses.replace(source, bits=self.bits)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return with_inputs(self, inputs, "input")


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm(Node):
    """Layer norm of every row with ``weight`` and ``bias`` (C,), in ``groups`` equal parts of it.

    More than one group are the heads of a query or key norm.

    Integers: ``sat(rne((o + bias) * mult, shift), bits)`` with mult and shift (C,); variants:
    I-LayerNorm, with its root's start ``published`` or ``leading_one``, and ``normalised``, which
    adds ``epsilon`` to the sum of squares, in units of ``2**(-2 * NORM_FRACTION)``. A ``compared``
    one has that epsilon and a ``share`` alone, for all channels: symmetric codes of 2 to 4 bits by
    comparison of squares (`systola.model.operators.norm_codes.norm_codes`). For comparison there
    are those of `systola.model.graph.variants.NORMS`.
    """

    input: str
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    groups: int = 1
    eps: float | None = None
    variant: str | None = None
    bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None
    epsilon: int | None = None
    share: int | None = None

    @property
    def inputs(self):
        """The operand."""
        return (self.input,)

    def tensor(self, source):
        """Return the tensor."""
        self.matrices(input=source)
        shape = (source.channels,)
        self.integer("groups", 1, source.channels)
        if source.channels % self.groups:
            self.refuse("groups", f"a divisor of {source.channels} channels", self.groups)
        if self.bits is None:
            self.array("weight", shape)
            self.array("bias", shape)
            if not isinstance(self.eps, float) or not 0 <= self.eps <= 1:
                self.refuse("eps", "a number from 0 to 1", repr(self.eps))
            self.absent("epsilon", "share")
        else:
            self.absent("weight", "eps")
            self.choice("variant", "published", "leading_one", "normalised", "compared", *NORMS)
            if self.variant in ("normalised", "compared"):
                channels = source.channels // self.groups
                self.integer("epsilon", 0, (1 << epsilon_bits(channels)) - 1)
            else:
                self.absent("epsilon")
            if self.variant == "compared":
                self._check_compared(source)
            else:
                self.absent("share")
                self.integer("bits", 2, 16)
                self.array("bias", shape, -MAX31 - 1, MAX31)
                self.dyadic(shape=shape)
        return dataclasses.replace(source, bits=self.bits)

    def _check_compared(self, source):
        """Check what a compared one has, and that its rows are within what its operator takes."""
        self.absent("bias", "mult", "shift")
        self.integer("bits", 2, COMPARED_BITS)
        self.integer("share", 0, (1 << SQUARE_FRACTION) - 1)
        channels = source.channels // self.groups
        if channels > COMPARED_ROW:
            self.refuse("input", f"of at most {COMPARED_ROW} channels in a group", channels)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return with_inputs(self, inputs, "input")


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
        return with_inputs(self, inputs, "input", "other")


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows(Node):
    """Rows of other tensors in a new order: selection, concatenation, gathering.

    Row i is row ``index[i, 1]`` of ``sources[index[i, 0]]``; all sources have the same channels,
    bits and scale. ``beside`` rows that follow each other so become one row of as many times the
    channels.
    """

    sources: tuple
    index: np.ndarray
    beside: int = 1

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
        self.integer("beside", 1, count)
        if count % self.beside:
            self.refuse("beside", f"a divisor of {count} rows", self.beside)
        return dataclasses.replace(sources[0], rows=count // self.beside,
                                   channels=sources[0].channels * self.beside)

    def keeps_order(self, *sources):
        """Return whether these are all rows of one tensor in their order, as a window of all is."""
        rows = np.arange(sources[0].rows)
        return len(sources) == self.beside == 1 and np.array_equal(self.index[:, 1], rows)

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
        return with_inputs(self, inputs, "input")


KINDS = {kind.__name__.lower(): kind for kind in (
    Input, Constant, Linear, Scores, Softmax, Context, Activation, Norm, Add, Rows, Mean)}
"""Node classes by the name of their kind."""

ALTERNATIVES = {Softmax: SOFTMAXES, Activation: ACTIVATIONS, Norm: NORMS}
"""By the class of a node, its variants that neither hardware nor kernel has."""
