"""Where tensors lie: views of scratchpad tensors, and the allocators of the three memories.

A tensor is placed once and lives from its first to its last use in stream order; the scratchpad is
packed offline from these lifetimes. Parameters and row factors are placed in order of use over what
was freed longest ago: what was freed a moment ago may still have readers that run.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from systola.hw.contract.config import SCRATCHPAD_WORDS

__all__ = ["Block", "CompileError", "FactorBlock", "FactorPart", "ParamBlock", "Tensor", "View",
           "allocate_blocks", "allocate_scratchpad"]


class CompileError(ValueError):
    """The model does not fit the accelerator; the message is one line with the numbers.

    ``needs`` are fields of a configuration with values with which it would get further.
    """

    def __init__(self, message, **needs):
        super().__init__(message)
        self.needs = needs


@dataclass(eq=False)
class Tensor:
    """``rows`` rows of ``planes`` planes of ``words`` words, contiguous.

    ``base`` is set by allocation. One that lies ``over`` another, no smaller one, begins where that
    does: what reads all of it writes this one, row by row, and nothing needs the rest any more.
    """

    name: str
    rows: int
    words: int
    planes: int = 1
    over: "Tensor | None" = None
    base: int | None = None

    @property
    def plane(self):
        """Words from one plane to the next."""
        return self.words

    @property
    def stride(self):
        """Words from one row to the next."""
        return self.planes * self.words

    @property
    def size(self):
        """Words of all rows."""
        return self.rows * self.stride

    def view(self, *, row=0, rows=None, word=0, words=None, planes=None, lane=0, step=1):
        """Return a rectangle of this tensor; everything by default."""
        return View(self, row, self.rows - row if rows is None else rows,
                    word, self.words - word if words is None else words,
                    self.planes if planes is None else planes, lane, step)


@dataclass(frozen=True, eq=False)
class View:
    """Rows ``row``, ``row + step`` .. of words ``word`` .. of a tensor's first ``planes`` planes.

    What begins inside a word begins at ``lane`` of it.
    """

    tensor: Tensor
    row: int
    rows: int
    word: int
    words: int
    planes: int
    lane: int = 0
    step: int = 1

    @property
    def base(self):
        """Address of the first word."""
        return self.tensor.base + self.row * self.tensor.stride + self.word

    @property
    def stride(self):
        """Words from one row to the next."""
        return self.step * self.tensor.stride

    def cut(self, row, rows):
        """Return some rows of this view."""
        return replace(self, row=self.row + row * self.step, rows=rows)

    def columns(self, word, words):
        """Return some words of the rows of this view."""
        return replace(self, word=self.word + word, words=words, lane=0)

    def addresses(self):
        """Return the addresses of all words, rows x planes x words of them, flat."""
        tensor = self.tensor
        return (self.base + np.arange(self.rows)[:, None, None] * self.stride
                + np.arange(self.planes)[:, None] * tensor.plane
                + np.arange(self.words)).reshape(-1)


@dataclass(eq=False)
class Block:
    """``count`` words of a memory; ``base`` is set by allocation."""

    name: str
    count: int
    base: int | None = None

    def addresses(self):
        """Return the addresses of all words."""
        return self.base + np.arange(self.count)


class ParamBlock(Block):
    """Words of parameter memory."""


class FactorBlock(Block):
    """Entries of the row factor memory."""

    def cut(self, first, count):
        """Return some of the entries."""
        return FactorPart(self, first, count)


@dataclass(frozen=True, eq=False)
class FactorPart:
    """``count`` entries of a block of row factors, from its entry ``first`` on."""

    block: FactorBlock
    first: int
    count: int

    @property
    def base(self):
        """Address of the first entry."""
        return self.block.base + self.first

    def addresses(self):
        """Return the addresses of all entries."""
        return self.base + np.arange(self.count)


def _lifetimes(ops, kind):
    """Return ``{object: [first, last]}`` of the tensors or blocks the operations touch."""
    spans = {}
    for index, op in enumerate(ops):
        for item in op.touched(kind):
            spans.setdefault(item, [index, index])[1] = index
    return spans


def allocate_scratchpad(ops, config):
    """Set ``base`` of every tensor that `ops` touch; returns the words used and the most live.

    What is free behind a tensor that lies over another stays so if there is room without it: what
    used it would wait for the operation that writes the one over the other. It counts as free.

    Raises `CompileError` when they do not fit.
    """
    spans = _lifetimes(ops, Tensor)
    over = [tensor for tensor in spans if tensor.over]
    whole = {tensor: list(span) for tensor, span in spans.items() if not tensor.over}
    for tensor in over:
        whole[tensor.over][1] = max(whole[tensor.over][1], spans[tensor][1])
        spans[tensor][0] = spans[tensor.over][1] + 1
    need = _need(spans, len(ops))
    if over:
        try:
            used = _allocated(whole, _need(whole, len(ops)), config)
        except CompileError:
            pass
        else:
            for tensor in over:
                tensor.base = tensor.over.base
            return used, int(need.max())
    return _allocated(spans, need, config), int(need.max())


def _need(spans, count):
    """Return the words that live at each of `count` operations."""
    need = np.zeros(count + 1, np.int64)
    for tensor, (first, last) in spans.items():
        need[first:last + 1] += tensor.size
    return need


def _allocated(spans, need, config):
    """Place the tensors of `spans`, of which `need` words live at each operation.

    Returns the words used; raises `CompileError` when they do not fit.
    """
    peak, there = int(need.max()), config.scratchpad_words
    at = int(need.argmax())
    live = [tensor for tensor, (first, last) in spans.items() if first <= at <= last]
    what = _largest(live)
    if peak > there:
        raise CompileError(f"scratchpad must have at least {peak} words for this model ({what}), "
                           f"not {there} (banks * bank_depth{_deeper(config, peak)})",
                           **_depth(config, peak))
    order = sorted((tensor for tensor in spans if not tensor.over),
                   key=lambda tensor: -tensor.size)
    for _ in range(_TRIALS):
        misfit = _pack(order, spans, there)
        if misfit is None:
            return max(tensor.base + tensor.size for tensor in order)
        order.insert(0, order.pop(misfit))  # what found no room is placed first next time
    raise CompileError(f"scratchpad of {there} words is too fragmented for this model, which "
                       f"needs {peak} of them at once ({what}){_deeper(config, there + 1)}",
                       **_depth(config, there + 1))


_LISTED = 4
"""Tensors that a refusal lists; a large network has hundreds of them at once."""


def _largest(tensors):
    """Return the largest of `tensors` and their words, for a refusal; chunks of one are one."""
    words = {}
    for tensor in tensors:
        words[tensor.name] = words.get(tensor.name, 0) + tensor.size
    order = sorted(words, key=words.get, reverse=True)
    rest = order[_LISTED:]
    return ", ".join([*(f"{name} {words[name]}" for name in order[:_LISTED]),
                      *([f"and {len(rest)} others {sum(words[name] for name in rest)}"]
                        if rest else [])])


def _deeper(config, words):
    """Return how banks of a larger depth give at least `words`, for a refusal."""
    needs = _depth(config, words)
    return (f"; with banks = {config.banks}, bank_depth = {needs['bank_depth']} or more"
            if needs else f"; at most {SCRATCHPAD_WORDS} can be had")


def _depth(config, words):
    """Return the ``bank_depth`` that gives at least `words`, or nothing if none does."""
    depth = 1 << (-(-words // config.banks) - 1).bit_length()
    return {"bank_depth": depth} if depth * config.banks <= SCRATCHPAD_WORDS else {}


def _pack(tensors, spans, words):
    """Place `tensors` in this order, each as low as it can be, and those over them.

    Returns the index of the first that finds no room, None if all do.
    """
    above = {}
    for tensor in spans:
        if tensor.over:
            above.setdefault(tensor.over, []).append(tensor)
    first, last, low, high = np.zeros((4, len(spans)), np.int64)
    count = 0
    for index, tensor in enumerate(tensors):
        parts = [(part, *spans[part]) for part in (tensor, *above.get(tensor, ()))]
        taken = []
        for part, begin, end in parts:
            alive = (first[:count] <= end) & (begin <= last[:count])
            taken.append((part.size, sorted(zip(low[:count][alive], high[:count][alive],
                                                strict=True))))
        base = _lowest(taken)
        for part, begin, end in parts:
            part.base = int(base)
            first[count], last[count] = begin, end
            low[count], high[count] = base, base + part.size
            count += 1
        if base + tensor.size > words:
            return index
    return None


def _lowest(taken):
    """Return the lowest base at which no part meets what is there.

    `taken` are the size of each part, and the (first, end) of what lives at its time, in order.
    """
    base = 0
    while True:
        before = base
        for size, others in taken:
            for start, end in others:
                if start < base + size and base < end:
                    base = end
        # A step up for one part may be one into another part's way.
        if base == before or len(taken) == 1:
            return base


_TRIALS = 100
"""Orders in which tensors are packed before memory counts as too fragmented."""

def allocate_blocks(ops, kind, name, words):
    """Place every block of class `kind` in a memory of `words`, over what was used longest ago.

    Raises `CompileError`, with the configuration's `name` for the size, when blocks that are
    needed at the same time do not fit.
    """
    until = np.full(words, -1)  # for every word the last operation that needs it
    for block, (first, last) in _lifetimes(ops, kind).items():
        newest = (sliding_window_view(until, block.count).max(axis=1) if block.count <= words
                  else np.array([first]))
        start = int(newest.argmin())
        if newest[start] >= first:
            raise CompileError(f"{name} must be larger than {words} words: "
                               f"{block.name} needs {block.count} beside those still in use",
                               **{name: 2 * (words if name == "param_depth" else words // 2)})
        block.base = start
        until[start:start + block.count] = last
