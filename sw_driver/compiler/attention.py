"""The attention half of a block: projections, scores, Shiftmax and context, in units.

A unit is one head and some rows. Per unit the array computes the scores, VECTOR turns them into
attention where they are, and the array multiplies them with V. The array's work is ordered so that
it never needs what it, or VECTOR, computed directly before:

    scores(u)  other work  context(u - 1)  scores(u + 1)  other work  context(u)  ...

The other work beside one head's units are the projections to K and V of the next one; beside the
last head's, the output projection of rows two units before. The context is
written over Q of the same rows, whose heads have had their scores: without padding head h begins
at channel h * head_dim, never beyond the words of Q of the heads up to h.
"""

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.model.networks.integer_vit import Dyadic, Linear
from systola.sw_driver.compiler.fits import SCORE_BITS
from systola.sw_driver.compiler.lowering import split

__all__ = ["Attention"]

EXPONENTIALS = 1
"""The table of deferred attention."""


class Attention:
    """The operations of one block's attention and the tensors between them.

    Parameters
    ----------
    build : Lowering
        Where operations go.
    model, block, prefix
        Model, its block and the prefix of the block's tensor names.
    norm : list of (int, int, Tensor)
        The normalised rows: first row, rows, tensor.
    units : list of (int, int)
        Row chunks of the attention.
    """

    def __init__(self, build, model, block, prefix, norm, units):
        self.build, self.model, self.block, self.prefix = build, model, block, prefix
        self.norm, self.units = norm, units
        self.config, self.tokens, self.width = build.config, model.tokens, model.head_dim
        self.pad = build.words(self.width)  # words of a head
        heads = list(range(model.heads))
        self.groups = [heads] if self._merged() else [[head] for head in heads]
        self.query = self._tensor("q", model.heads)
        self.stationary = {}     # (kind, head) to a view of all rows
        self.attention, self.factors = {}, {}  # of units between scores and context
        self.context_ops, self.query_ops = {}, []
        self.layers = {}         # rows of qkv as they are projected

    def _merged(self):
        """Return whether heads side by side, padded to words, need fewer tiles than each alone."""
        cols, heads, width = self.config.cols, self.model.heads, self.width
        together = -(-((heads - 1) * self.pad * self.config.rows + width) // cols)
        return together < heads * -(-width // cols)

    def _tensor(self, name, heads):
        return self.build.tensor(self.prefix + name, self.tokens,
                                 heads * self.pad * self.config.rows)

    def dense(self):
        """Return whether heads of the context lie side by side without padding."""
        return self.width % self.config.lanes == 0

    # --- Projections ---

    def first_projections(self, each):
        """Project to Q, and to K and V of the first group; `each` is called after each chunk."""
        alone = len(self.groups) == 1
        index = 0
        while index < len(self.norm):  # `each` may append to it
            for group in self.groups:
                self.project("q", group, index)
            self.project("k", self.groups[0], index)
            if not alone:
                self.project("v", self.groups[0], index)
            each(index)
            index += 1

    def project(self, kind, heads, index):
        """Project chunk `index` of the normalised rows to `kind` of `heads`, side by side."""
        build, lanes = self.build, self.pad * self.config.rows
        if kind == "q":
            out = self.query.view(word=heads[0] * self.pad, words=len(heads) * self.pad)
        elif (kind, heads[0]) not in self.stationary:
            out = self._tensor(f"{kind}.{heads[0]}", len(heads)).view()
            for place, head in enumerate(heads):
                self.stationary[kind, head] = out.columns(place * self.pad, self.pad)
        else:
            view = self.stationary[kind, heads[0]]
            out = view.tensor.view()
        low, rows, norm = self.norm[index]
        layer = self._projection(kind, heads)
        op = build.linear(self.prefix + "qkv", layer, norm.view(), out.cut(low, rows))
        if kind == "q":
            self.query_ops.append(op)
        if index == 0:
            build.count_passes(len(layer.weight), self.model.channels, self.tokens)
        if build.trace:
            build.declare(self.prefix + "qkv", (self.tokens, 3 * self.model.channels))
            build.store(self.prefix + "qkv", out.cut(low, rows), [
                (place * lanes, self.width, None, low,
                 "qkv".index(kind) * self.model.channels + head * self.width)
                for place, head in enumerate(heads)])

    def _projection(self, kind, heads):
        """Return the layer of `kind` for `heads` side by side, each padded to words but the last.

        It is made once, and so are its tiles.
        """
        key = kind, heads[0]
        if key not in self.layers:
            source = np.full((len(heads), self.pad * self.config.rows), -1)
            for place, head in enumerate(heads):
                source[place, :self.width] = (np.arange(self.width) + head * self.width
                                              + "qkv".index(kind) * self.model.channels)
            source = source.reshape(-1)[:source.size - source.shape[1] + self.width]
            self.layers[key] = _rows(self.block.qkv, source)
        return self.layers[key]

    # --- Units ---

    def run(self, project_rows, each):
        """Emit all units but the last context; ``project_rows(low, rows, after)`` projects it.

        `each` is called after the scores and Shiftmax of each unit.

        Returns what is left to do: that context, and the projections of the last (two) units.
        """
        units = [(head, *rows) for head in range(self.model.heads) for rows in self.units]
        work = self._work(units)
        self._records()
        for index, unit in enumerate(units):
            self.scores(*unit)
            each()
            for task in work[index]:
                task()
            done = index - len(units) + len(self.units) - 2
            if done >= 0:  # beside the last head: rows of two units before
                self._projector(project_rows, *self.units[done])()
            if index:
                self.context(*units[index - 1])
        left = max(len(self.units) - 2, 0)
        return [lambda: self.context(*units[-1]),
                *(self._projector(project_rows, *rows) for rows in self.units[left:])]

    def _records(self):
        """Load what all units need; the queries are long done when this is."""
        build, block = self.build, self.block
        self.score_params = build.broadcast_params(
            self.prefix + "scores", block.scores.mult, block.scores.shift,
            after=self.query_ops[-1:])
        # With row factors only the shift is used.
        mult = 1 if self.config.factor_depth else block.context.mult
        self.context_params = build.broadcast_params(self.prefix + "context", mult,
                                                     block.context.shift)

    def _work(self, units):
        """Return for each unit the tasks between its scores and the context of the unit before.

        K of a group is needed by its first scores. V is needed one unit later, and begins one unit
        later, when V of the group before the last is free.
        """
        work = [[] for _ in range(len(units) + 1)]
        chunks, count = range(len(self.norm)), len(self.units)
        position = 0
        if len(self.groups) == 1:
            work[0] += [self._projection_task("v", self.groups[0], index) for index in chunks]
        for group, following in zip(self.groups, self.groups[1:], strict=False):
            slots = len(group) * count
            for kind, first in ("k", position), ("v", position + 1):
                for place, (low, length) in enumerate(split(len(chunks), slots)):
                    work[first + place * slots // min(slots, len(chunks))] += [
                        self._projection_task(kind, following, index)
                        for index in range(low, low + length)]
            position += slots
        return work

    def _projection_task(self, kind, heads, index):
        return lambda: self.project(kind, heads, index)

    def _projector(self, project_rows, low, rows):
        return lambda: project_rows(low, rows, [self.context_ops[self.model.heads - 1, low]])

    def scores(self, head, low, rows):
        """Compute Q.K^T of a unit and its Shiftmax in place."""
        build, tokens = self.build, self.tokens
        name = f"{self.prefix}scores.{head}"
        attention = build.tensor(f"{self.prefix}attention.{head}", rows, tokens,
                                 planes=self.config.attention_digits)
        scores = attention.view(planes=1)
        query = self.query.view(row=low, rows=rows, word=head * self.pad, words=self.pad)
        build.matmul(name, query, scores,
                     build.fetch(name, self.stationary["k", head], self.width),
                     self.score_params, channels=tokens, bits=SCORE_BITS, flags=Flag.BROADCAST)
        build.count_passes(tokens, self.width, rows)
        square = self.model.heads, tokens, tokens
        build.store_traced(self.prefix + "scores", scores, square, tokens, head, low, 0)
        factors = build.factors(attention.name, rows)
        build.vector(Opcode.SHIFTMAX, attention.name, scores, attention.view(), tokens,
                     x0=-int(self.block.softmax_x0), factors=factors,
                     table=EXPONENTIALS if factors else None,
                     numerator=int(self.block.context.mult) if factors else 0)
        build.store_traced(self.prefix + "attention", attention.view(), square, tokens, head, low,
                           0, digit_bits=self.config.act_bits)
        self.attention[head, low], self.factors[head, low] = attention, factors

    def context(self, head, low, rows):
        """Compute A.V of a unit over Q of its rows."""
        build, width = self.build, self.width
        name = f"{self.prefix}context.{head}"
        attention = self.attention.pop((head, low))
        out = self._context_view(head, low, rows)
        self.context_ops[head, low] = build.matmul(
            name, attention.view(), out,
            build.fetch(name, self.stationary["v", head], width, Flag.TRANSPOSE),
            self.context_params, channels=width, bits=self.model.act_bits,
            flags=Flag.BROADCAST | Flag.UNSIGNED, factors=self.factors.pop((head, low)))
        build.count_passes(width, self.tokens, rows, self.config.attention_digits)
        if build.trace:
            build.declare(self.prefix + "context", (self.tokens, self.model.channels))
            build.store(self.prefix + "context", out,
                        [(out.lane, width, None, low, head * width)])

    def _context_view(self, head, low, rows):
        """Return where the context of a unit goes."""
        first = head * (self.width if self.dense() else self.pad * self.config.rows)
        word, lane = divmod(first, self.config.rows)
        return self.query.view(row=low, rows=rows, word=word, lane=lane,
                               words=self.build.words(lane + self.width))

    def context_rows(self, low, rows):
        """Return the view of all heads' context of some rows, and the projection's weights."""
        weight, heads = self.block.proj.weight, self.model.heads
        if self.dense():
            return self.query.view(row=low, rows=rows, word=0,
                                   words=self.build.words(self.model.channels)), weight
        padded = np.zeros((len(weight), heads, self.pad * self.config.rows), np.int64)
        padded[:, :, :self.width] = np.reshape(weight, (len(weight), heads, self.width))
        return self.query.view(row=low, rows=rows), padded.reshape(len(weight), -1)


def _rows(layer, source):
    """Return `layer` with its output channels in the order of `source`; -1 is an empty one."""
    empty = source < 0

    def pick(values):
        values = np.asarray(values)[source]
        values[empty] = 0
        return values

    return Linear(weight=pick(layer.weight), bias=pick(layer.bias), out_bits=layer.out_bits,
                  requant=Dyadic(mult=pick(layer.requant.mult), shift=pick(layer.requant.shift)),
                  symmetric=layer.symmetric)
