"""The kinds of nodes of attention: scores, softmax and context, within sequences of rows."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from systola.hw.contract.numbers import FACTOR_BITS, INT_BITS, LEVELS
from systola.model.graph.node import MOST, Node, Tensor, with_inputs
from systola.model.graph.variants import SOFTMAXES
from systola.model.operators.deferred import exp_table, numerator_bits
from systola.model.operators.log2_exponentials import leveled_table

__all__ = ["DEFERRED", "EXPONENTIALS", "Context", "Scores", "Softmax"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores(Node):
    """``q @ k.T`` of every head, within sequences of rows.

    Head h of the queries are the channels ``query_channel + h * head_dim`` and on of tensor
    `query`; likewise the keys. ``sequences`` are (first row, rows) that tile the rows; a row
    attends to the rows of its own sequence, and channels beyond their number are 0. A float network
    multiplies by `scale`; an integer one requantizes by ``mult`` and ``shift`` to ``bits``.

    With `key_counts` (rows,) row t attends to the first ``key_counts[t]`` rows of its sequence
    only: 1, 2, 3 .. are a causal mask, the length of a text that is padded is a padding mask. There
    are keys, then, for the most that a row of a sequence attends to; a score beyond those of a row
    is computed, but has no weight.

    With a `bias_index` (rows, keys) a bias is added to every score, as relative positions have it:
    of head h ``bias_table[bias_index[row, key], h]``; an integer network rescales it by
    ``bias_mult`` and ``bias_shift`` before, like a residual.
    """

    query: str
    key: str
    heads: int
    head_dim: int
    sequences: tuple
    query_channel: int = 0
    key_channel: int = 0
    scale: float | None = None
    bias_table: np.ndarray | None = None
    bias_index: np.ndarray | None = None
    key_counts: np.ndarray | None = None
    bits: int | None = None
    mult: np.ndarray | None = None
    shift: np.ndarray | None = None
    bias_mult: np.ndarray | None = None
    bias_shift: np.ndarray | None = None

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
        self._check_sequences(query.rows)
        tensor = Tensor(rows=query.rows, channels=0, bits=self.bits, heads=self.heads,
                        sequences=self.sequences, stage="scores", key_counts=self._key_counts())
        keys = max(keys for _, _, keys in tensor.spans)
        self._check_bias(query.rows, keys)
        if self.bits is None:
            if not isinstance(self.scale, float) or not 0 < self.scale < 1e9:
                self.refuse("scale", "a positive number", repr(self.scale))
        else:
            self.operands(query=query, key=key)
            self.absent("scale")
            self.integer("bits", 2, 8)
            self.dyadic()
        return dataclasses.replace(tensor, channels=keys)

    def _check_sequences(self, rows):
        """Check that the sequences tile the rows."""
        end = 0
        for sequence in self.sequences:
            if (not isinstance(sequence, tuple) or len(sequence) != 2
                    or not all(type(value) is int for value in sequence)
                    or sequence[0] != end or sequence[1] < 1):
                self.refuse("sequences", f"whole, in order, and go on at row {end}", repr(sequence))
            end += sequence[1]
        if end != rows:
            self.refuse("sequences", f"all {rows} rows", end)

    def _key_counts(self):
        """Return the checked keys of the rows, () if each has all of its sequence."""
        if self.key_counts is None:
            return ()
        self.array("key_counts", (sum(rows for _, rows in self.sequences),), 1, MOST)
        for first, rows in self.sequences:
            wrong = [count for count in self.key_counts[first:first + rows] if count > rows]
            if wrong:
                self.refuse("key_counts", f"at most the {rows} rows of the sequence from row "
                            f"{first} on", int(wrong[0]))
        return tuple(int(count) for count in self.key_counts)

    def _check_bias(self, rows, keys):
        """Check table and index of the bias, of which there are both or none."""
        if self.bias_index is None:
            self.absent("bias_table", "bias_mult", "bias_shift")
            return
        if np.ndim(self.bias_table) != 2 or not len(self.bias_table):
            self.refuse("bias_table", "entries of heads", f"of shape {np.shape(self.bias_table)}")
        entries = len(self.bias_table)
        self.array("bias_index", (rows, keys), 0, entries - 1)
        if self.bits is None:
            self.array("bias_table", (entries, self.heads))
            self.absent("bias_mult", "bias_shift")
        else:
            self.array("bias_table", (entries, self.heads), -2**15, 2**15 - 1)
            self.dyadic("bias_mult", "bias_shift")

    def repeated(self, count, query, key):
        """Return the scores of `count` images, which do not attend to each other."""
        index = None if self.bias_index is None else np.tile(self.bias_index, (count, 1))
        counts = None if self.key_counts is None else np.tile(self.key_counts, count)
        return dataclasses.replace(
            self, bias_index=index, key_counts=counts, sequences=tuple(
                (image * query.rows + first, rows) for image in range(count)
                for first, rows in self.sequences))

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return with_inputs(self, inputs, "query", "key")

    def multiplications(self, tensor, query, key):
        """Return the keys of all rows, for all channels."""
        return _pairs(tensor) * self.heads * self.head_dim


DEFERRED = "deferred", *LEVELS
"""Variants of softmax whose results are exponentials of 8 bits."""

EXPONENTIALS = "normalised", *DEFERRED
"""Variants of softmax whose results `Context` divides."""

_BITS = {"published": (8, 16), "normalised": (16,), **dict.fromkeys(DEFERRED, (8,)),
         **{name: variant.bits for name, variant in SOFTMAXES.items()}}
"""Bits that each variant of softmax makes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax(Node):
    """Softmax over the keys of a row's own sequence.

    Variants of integers: ``published`` (Shiftmax as published, ``bits`` of attention),
    ``normalised`` (exponentials of 16 bits, from 0 to 32768; `Context` divides), ``deferred``
    (the same of 8 bits, from 0 to 128) and the schemes of `systola.hw.contract.numbers.LEVELS`
    (these, but of a log2 code's levels only). ``unit`` is the score of 1, at least 1: -x0 of the
    publication. For comparison there are those of `systola.model.graph.variants.SOFTMAXES`, some
    with ``constants``.
    """

    input: str
    variant: str | None = None
    unit: int | None = None
    bits: int | None = None
    constants: tuple | None = None

    @property
    def inputs(self):
        """Scores."""
        return (self.input,)

    def tensor(self, scores):
        """Return the tensor."""
        if scores.stage != "scores":
            self.refuse("input", "scores", scores.stage or "rows of channels")
        if self.bits is not None:
            self.choice("variant", *_BITS)
            self._check_variant(SOFTMAXES.get(self.variant))
            self.choice("bits", *_BITS[self.variant])
        return dataclasses.replace(scores, bits=self.bits, stage=(
            "exponentials" if self.variant in EXPONENTIALS else "shares"))

    def _check_variant(self, variant):
        """Check unit and constants, of a variant that hardware has (None) or has not."""
        if variant is None or isinstance(variant.units, range):
            self.integer("unit", 1, 2**24 - 1)
        elif variant.units:
            self.choice("unit", *variant.units)
        else:
            self.absent("unit")
        self.checked_constants(variant)

    def exponentials(self):
        """Return the table of `EXPONENTIALS`, (256,) uint8 or uint16.

        Entry d is that of a score d below its row's maximum; of log2 attention one of its levels.
        """
        if self.variant in LEVELS:
            return leveled_table(-self.unit, self.variant)
        return exp_table(-self.unit, self.bits)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return with_inputs(self, inputs, "input")


@dataclass(frozen=True, kw_only=True, eq=False)
class Context(Node):
    """``attention @ v`` of every head, the heads side by side.

    Requantized by ``mult`` and ``shift``. Of exponentials ``mult`` is the numerator: row t is
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
                self.integer("factor_bits", 8, FACTOR_BITS if attention.bits == 16 else INT_BITS)
                # A row has a least sum, so a larger numerator could give no larger factor.
                most = numerator_bits(attention.bits, self.factor_bits)
                self.array("mult", (), 0, (1 << most) - 1)
        return Tensor(rows=attention.rows, channels=attention.heads * self.head_dim,
                      bits=self.bits)

    def renamed(self, inputs):
        """Return the node reading other tensors."""
        return with_inputs(self, inputs, "attention", "value")

    def multiplications(self, tensor, attention, value):
        """Return the keys of all rows, for all channels."""
        return _pairs(attention) * tensor.channels


def _pairs(attention):
    return sum(rows * keys for _, rows, keys in attention.runs)
