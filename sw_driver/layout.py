"""Where tensors lie: views of scratchpad tensors, and the allocators of both memories.

A tensor is placed once and lives from its first to its last use in stream order. Tensors that are
read at the same time prefer different banks (`Group`), and a bank is filled round robin, so that
memory freed a moment ago, whose readers may still run, is reused last.
"""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

__all__ = ["CompileError", "Group", "ParamBlock", "Tensor", "View", "allocate_params",
           "allocate_scratchpad"]


class CompileError(ValueError):
    """The model does not fit the accelerator; the message is one line with the numbers."""


class Group(IntEnum):
    """Which tensors want a quarter of the banks for themselves, by who reads them when.

    MATRIX reads one of STREAMED and ATTENTION in almost every cycle, and goes first. Meanwhile the
    residual, VECTOR and FETCH read the other two.
    """

    STREAMED = 0   # what layers multiply: patches, normalised rows, context
    PROJECTED = 1  # q, k, v; the position; the sum after the attention
    SCORES = 2     # what VECTOR reads beside MATRIX: scores, fc1; the sum after the MLP
    ATTENTION = 3  # what VECTOR writes to be multiplied: attention, gelu


@dataclass(eq=False)
class Tensor:
    """``planes`` planes of ``rows`` rows of ``words`` words, contiguous.

    ``base`` is set by allocation.
    """

    name: str
    rows: int
    words: int
    planes: int = 1
    group: Group = Group.STREAMED
    base: int | None = None

    @property
    def plane(self):
        """Words from one plane to the next."""
        return self.rows * self.words

    @property
    def size(self):
        """Words of all planes."""
        return self.planes * self.plane

    def view(self, *, row=0, rows=None, word=0, words=None):
        """Return a rectangle of this tensor (all planes); everything by default."""
        return View(self, row, self.rows - row if rows is None else rows,
                    word, self.words - word if words is None else words)


@dataclass(frozen=True, eq=False)
class View:
    """Rows ``row`` .. of words ``word`` .. of a tensor, in all its planes."""

    tensor: Tensor
    row: int
    rows: int
    word: int
    words: int

    @property
    def base(self):
        """Address of the first word."""
        return self.tensor.base + self.row * self.tensor.words + self.word

    def addresses(self):
        """Return the addresses of all words, planes x rows x words of them, flat."""
        tensor = self.tensor
        return (self.base + np.arange(tensor.planes)[:, None, None] * tensor.plane
                + np.arange(self.rows)[:, None] * tensor.words + np.arange(self.words)).reshape(-1)


@dataclass(eq=False)
class ParamBlock:
    """``count`` words of parameter memory with their records; ``base`` is set by allocation."""

    name: str
    records: np.ndarray
    count: int
    base: int | None = None

    def addresses(self):
        """Return the addresses of all words."""
        return self.base + np.arange(self.count)


@dataclass
class _Memory:
    """Occupation of a memory: for every word the last operation that needs it."""

    words: int
    until: np.ndarray = field(init=False)

    def __post_init__(self):
        self.until = np.full(self.words, -1)

    def starts(self, size, first):
        """Return the addresses from which `size` words are free at operation `first`."""
        if size > self.words:
            return np.empty(0, int)
        busy = np.concatenate([[0], np.cumsum(self.until >= first)])
        return np.flatnonzero(busy[size:] == busy[:-size])


def _lifetimes(ops, kind):
    """Return ``{object: [first, last]}`` of the tensors or blocks the operations touch."""
    spans = {}
    for index, op in enumerate(ops):
        for item in op.touched(kind):
            spans.setdefault(item, [index, index])[1] = index
    return spans


def allocate_scratchpad(ops, config):
    """Set ``base`` of every tensor that `ops` touch; returns the most words live at once.

    Raises `CompileError` when they do not fit.
    """
    spans = _lifetimes(ops, Tensor)
    need = np.zeros(len(ops) + 1, np.int64)
    for tensor, (first, last) in spans.items():
        need[first:last + 1] += tensor.size
    peak = int(need.max())
    there = config.scratchpad_words
    if peak > there:
        raise CompileError(f"scratchpad must have at least {peak} words for this model, "
                           f"not {there} (banks * bank_depth)")
    if not _place_in_banks(spans, config) and not _pack(spans, there):
        raise CompileError(f"scratchpad of {there} words is too fragmented for this model, "
                           f"which needs {peak} of them at once")
    return peak


def _place_in_banks(spans, config):
    """Place tensors in order of use where they disturb others least; False if one finds no room."""
    memory, cursors = _Memory(config.scratchpad_words), {}
    for tensor, (first, last) in spans.items():
        starts = memory.starts(tensor.size, first)
        if not starts.size:
            return False
        tensor.base = int(_by_bank(tensor, starts, config, cursors))
        memory.until[tensor.base:tensor.base + tensor.size] = last
    return True


def _pack(spans, words):
    """Place the largest tensors first, each as low as it can be; False if one finds no room."""
    placed = []
    for tensor in sorted(spans, key=lambda tensor: -tensor.size):
        first, last = spans[tensor]
        tensor.base = 0
        for other in sorted(placed, key=lambda other: other.base):
            alive = spans[other][0] <= last and first <= spans[other][1]
            if alive and other.base < tensor.base + tensor.size:
                tensor.base = max(tensor.base, other.base + other.size)
        if tensor.base + tensor.size > words:
            return False
        placed.append(tensor)
    return True


def _by_bank(tensor, starts, config, cursors):
    """Choose from the group's banks, else from the next group's, round robin within a bank."""
    depth = config.bank_depth
    for bank in _banks(tensor.group, config.banks):
        inside = starts[(starts >= bank * depth) & (starts + tensor.size <= (bank + 1) * depth)]
        if inside.size:
            cursor = cursors.get(bank, 0)
            start = inside[inside >= cursor][0] if (inside >= cursor).any() else inside[0]
            cursors[bank] = start + tensor.size
            return start
    return starts[0]


def _banks(group, banks):
    """Return the banks in order of preference; the second choice is the group read in turn."""
    size = max(banks // 4, 1)
    first = group * size if banks >= 4 else (group in (Group.PROJECTED, Group.SCORES)) * banks // 2
    order = (first ^ (other * size + bank) for other in (0, 3, 1, 2) for bank in range(size))
    return [bank for bank in order if bank < banks]


def allocate_params(ops, config):
    """Set ``base`` of every parameter block, as a ring in order of use.

    Raises `CompileError` when blocks that are needed at the same time do not fit.
    """
    memory, cursor = _Memory(config.param_depth), 0
    for block, (first, last) in _lifetimes(ops, ParamBlock).items():
        starts = memory.starts(block.count, first)
        if not starts.size:
            raise CompileError(f"param_depth must be larger than {config.param_depth} words: "
                               f"{block.name} needs {block.count} beside those still in use")
        after = starts[starts >= cursor]
        block.base = int(after[0] if after.size else starts[0])
        cursor = block.base + block.count
        memory.until[block.base:cursor] = last
