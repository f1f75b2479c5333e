"""Attention as operations: projections, scores, softmax and context in units of a head's rows.

Units follow each other such that the array always has other work while VECTOR computes a softmax:
scores of a unit, then projections to keys and values of the next head, then the context of the unit
before.
"""

import dataclasses
import functools
import itertools

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.model.operators.log2_exponentials import nearest_codes
from systola.sw_driver.compiler.lowering import Place, finish, split
from systola.sw_driver.compiler.payloads import split_planes

__all__ = ["Attention"]

EXPONENTIALS = 1
"""The first table of exponentials, of their low bytes or their codes."""


class Attention:
    """The operations of one attention and the tensors between them.

    Keys and values of one head, or of all side by side, are there at a time.

    Parameters
    ----------
    build : Lowering
        Where operations go.
    graph : Graph
        The network.
    pattern : AttentionPattern
        Its nodes.
    source : list of (int, int, Tensor)
        The rows that are projected: first row, rows, tensor. It may grow while the first
        projections are emitted.
    units : list of Unit
        Chunks of rows, in order; all rows of this attention.
    joint : bool
        Whether Q, K and V of all heads may be projected at once, where that takes fewer tiles.
    """

    def __init__(self, build, graph, pattern, source, units, *, joint=False):
        self.build, self.graph, self.pattern = build, graph, pattern
        self.source, self.units = source, units
        self.config, self.width = build.config, pattern.scores.head_dim
        self.low, self.rows = units[0].low, sum(unit.rows for unit in units)
        self.heads = pattern.scores.heads
        self.pad = build.words(self.width)  # words of a head
        self.projected = {"q": (pattern.query, pattern.scores.query_channel),
                          "k": (pattern.key, pattern.scores.key_channel),
                          "v": (pattern.value, pattern.context.value_channel)}
        heads = list(range(self.heads))
        self.groups = [heads] if self._merged() else [[head] for head in heads]
        self.joint = joint and self._fewer_at_once()
        self.query = self._tensor(f"{pattern.query.name}.q", (3 if self.joint else 1) * self.heads)
        self.stationary = {}     # (kind, head) to a view of all rows
        self.attention, self.factors = {}, {}  # of units between scores and context
        self.context_ops, self.query_ops = {}, []
        self.layers = {}         # rows of the projections as they are emitted
        self.output = self._output_layer()

    def _merged(self):
        """Return whether heads side by side, padded to words, need fewer tiles than each alone."""
        cols, heads, width = self._tile_columns(), self.heads, self.width
        together = -(-((heads - 1) * self.pad * self.config.rows + width) // cols)
        return together < heads * -(-width // cols)

    def _fewer_at_once(self):
        """Return whether Q, K and V side by side need fewer tiles than each alone."""
        if len(self.groups) > 1 or len({node.name for node, _ in self.projected.values()}) > 1:
            return False

        def tiles(heads):
            return -(-((heads - 1) * self.pad * self.config.rows + self.width)
                     // self._tile_columns())

        return tiles(3 * self.heads) < 3 * tiles(self.heads)

    def _tile_columns(self):
        """Return the columns of a tile of the projections to Q; those to K and V are alike."""
        return self.build.tile_columns(self.pattern.query.name)

    def _tensor(self, name, heads):
        return self.build.tensor(name, self.rows, heads * self.pad * self.config.rows)

    def _dense(self):
        """Return whether heads of the context lie side by side without padding."""
        return self.width % self.config.lanes == 0

    @property
    def head_lanes(self):
        """Lanes from one head of the context to the next."""
        return self.width if self._dense() else self.pad * self.config.rows

    # --- Projections ---

    def first_projections(self, each):
        """Project to Q, and to K and V of the first group; `each` is called after each chunk."""
        alone = len(self.groups) == 1
        index = 0
        while index < len(self.source):  # `each` may append to it
            for group in self.groups:
                finish(self.project("q", group, index))
            finish(self.project("k", self.groups[0], index))
            if not alone:
                finish(self.project("v", self.groups[0], index))
            each(index)
            index += 1

    def project(self, kinds, heads, index):
        """Project chunk `index` of the source to `kinds` of `heads`; yields before each MATMUL.

        `kinds` is ``q``, ``k``, ``v``, or ``qkv`` if they are `joint`.
        """
        build, lanes = self.build, self.pad * self.config.rows
        node, _ = self.projected[kinds[0]]
        low, rows, source = self.source[index]
        out = self._target(kinds, heads, low, rows)
        layer = self._projection(kinds, heads)
        op = yield from build.linear_steps(node.name, layer, source.view(), out)
        if "q" in kinds:
            self.query_ops.append(op)
        if index == 0:
            build.count_linear(node.name, layer, self.rows)
        if build.trace:
            build.declare(node.name, self.graph.tensors[node.name].shape)
            build.store(node.name, out, *(
                Place(columns=self.width, row=low,
                      column=self.projected[kind][1] + head * self.width, lane=index * lanes)
                for index, (kind, head) in enumerate(itertools.product(kinds, heads))))

    def _target(self, kind, heads, low, rows):
        if kind == "q":
            return self.query.view(row=low - self.low, rows=rows, word=heads[0] * self.pad,
                                   words=len(heads) * self.pad)
        if self.joint:
            whole = self.query.view()
            for place, other in enumerate(itertools.product(kind, heads)):
                self.stationary[other] = whole.columns(place * self.pad, self.pad)
            return self.query.view(row=low - self.low, rows=rows)
        if (kind, heads[0]) not in self.stationary:
            name = f"{self.projected[kind][0].name}.{kind}.{heads[0]}"
            whole = self._tensor(name, len(heads)).view()
            for place, head in enumerate(heads):
                self.stationary[kind, head] = whole.columns(place * self.pad, self.pad)
        return self.stationary[kind, heads[0]].tensor.view(row=low - self.low, rows=rows)

    def _projection(self, kinds, heads):
        """Return the layer of `kinds` for `heads` side by side, each padded to words but the last.

        It is made once, and so are its tiles.
        """
        key = kinds, heads[0]
        if key not in self.layers:
            node, _ = self.projected[kinds[0]]
            rows = np.full((len(kinds) * len(heads), self.pad * self.config.rows), -1)
            for place, (kind, head) in enumerate(itertools.product(kinds, heads)):
                first = self.projected[kind][1] + head * self.width
                rows[place, :self.width] = np.arange(first, first + self.width)
            rows = rows.reshape(-1)[:rows.size - rows.shape[1] + self.width]
            self.layers[key] = _rows(node, rows, f"{node.name}.{kinds}.{heads[0]}")
        return self.layers[key]

    # --- Units ---

    def run(self, project_rows, each):
        """Emit all units but the last context; ``project_rows(low, rows, after)`` projects it.

        `each` is called after the scores and the softmax of each unit.

        Returns what is left to do: that context, and the projections of the last units with these.
        """
        order = [(head, unit) for head in range(self.heads) for unit in self.units]
        work, last = self._work(order), self.heads - 1
        project = {order.index((last, unit)) + 2: unit for unit in self.units}
        self.load_records()
        for index, (head, unit) in enumerate(order):
            finish(self.scores(head, unit))
            each()
            for task in work[index]:
                task()
            if index in project:  # its context is complete since one unit
                self._project(project_rows, project[index])
            if index:
                finish(self.context(*order[index - 1]))
        left = [unit for index, unit in project.items() if index >= len(order)]
        return (lambda: finish(self.context(*order[-1])),
                [(unit, functools.partial(self._project, project_rows, unit)) for unit in left])

    def load_records(self):
        """Load what all units need; the queries are long done when this is."""
        build, pattern = self.build, self.pattern
        scores, context = pattern.scores, pattern.context
        self.score_params = build.broadcast_params(scores.name, scores.mult, scores.shift,
                                                   after=self.query_ops[-1:])
        # With row factors only the shift is used.
        mult = 1 if self.config.factor_depth else context.mult
        self.context_params = build.broadcast_params(context.name, mult, context.shift)

    def _projection_task(self, kind, heads, index):
        return lambda: finish(self.project(kind, heads, index))

    def _work(self, order):
        """Return for each unit the tasks between its scores and the context of the unit before.

        K of a group is needed by its first scores. V is needed one unit later, and begins one unit
        later, when V of the group before the last is free.
        """
        work = [[] for _ in range(len(order) + 1)]
        chunks, count = range(len(self.source)), len(self.units)
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

    def _project(self, project_rows, unit):
        project_rows(unit.low, unit.rows, [self.context_ops[self.heads - 1, unit.low]])

    def scores(self, head, unit):
        """Yield once before each MATMUL of Q.K^T of a unit and before its softmax, in place."""
        build, low = self.build, unit.low
        scores, softmax = self.pattern.scores, self.pattern.softmax
        name = f"{scores.name}.{head}"
        attention = build.attention(f"{softmax.name}.{head}", unit.rows, unit.keys)
        codes = (attention.over or attention).view(planes=1)
        query = self.query.view(row=low - self.low, rows=unit.rows, word=head * self.pad,
                                words=self.pad)
        for first, rows, (start, keys) in unit.parts:
            yield
            keyed = self.stationary["k", head].cut(start - self.low, keys)
            bias = self._bias(head, start, keys)
            build.matmul(name, query.cut(first - low, rows), codes.cut(first - low, rows),
                         build.fetch(name, keyed, self.width), self.score_params, channels=keys,
                         bits=scores.bits, flags=Flag.BROADCAST,
                         residual=bias and bias.cut(first - start, rows),
                         res_mult=scores.bias_mult, res_shift=scores.bias_shift)
            build.count_passes(keys, self.width, rows)
        yield
        shape = self.graph.tensors[scores.name].shape
        place = Place(columns=unit.keys, row=low, head=head)
        build.store_traced(scores.name, codes, shape, place)
        factors = build.factors(attention.name, unit.rows)
        for first, rows, keys, step in self._key_runs(unit):
            build.vector(Opcode.SHIFTMAX, attention.name, codes.cut(first, rows),
                         attention.view(row=first, rows=rows), unit.keys, keys=(keys, step),
                         unit=int(softmax.unit), factors=factors and factors.cut(first, rows),
                         tables=self._tables(),
                         numerator=int(self.pattern.context.mult) if factors else 0)
        build.store_traced(softmax.name, attention.view(), shape, place, self.config.act_bits)
        self.attention[head, low], self.factors[head, low] = attention, factors

    def _key_runs(self, unit):
        """Return (first row, rows, keys, step) of rows of a unit that one SHIFTMAX computes.

        Each has `step` keys more than the one before, but no more than the unit's.
        """
        counts = self.graph.tensors[self.pattern.scores.name].key_counts
        counts = counts[unit.low:unit.low + unit.rows] or (unit.keys,) * unit.rows
        runs, start = [], 0
        while start < len(counts):
            rows, step = max((_run_length(counts[start:], unit.keys, step), -step)
                             for step in range(2))
            runs.append((start, rows, counts[start], -step))
            start += rows
        return runs

    def _bias(self, head, start, keys):
        """Return the view of the bias of a sequence's scores, None if there is none.

        Sequences that have the same share it.
        """
        scores = self.pattern.scores
        if scores.bias_index is None:
            return None
        index = scores.bias_index[start:start + keys, :keys]
        key = scores.name, head, keys, index.tobytes()
        if key not in self.build.biases:
            bias = self.build.tensor(f"{scores.name}.bias", keys, keys, planes=2)
            self.build.load(bias.view(), split_planes(
                scores.bias_table[index, head].astype(np.int64), self.config))
            self.build.biases[key] = bias
        return self.build.biases[key].view()

    def context(self, head, unit):
        """Yield once before each MATMUL of A.V of a unit, over Q of its rows."""
        build, width, low = self.build, self.width, unit.low
        context = self.pattern.context
        name = f"{context.name}.{head}"
        attention, factors = self.attention.pop((head, low)).view(), self.factors.pop((head, low))
        out = self._context_view(head, low, unit.rows)
        for first, rows, (start, keys) in unit.parts:
            yield
            values = self.stationary["v", head].cut(start - self.low, keys)
            self.context_ops[head, low] = build.matmul(
                name, attention.cut(first - low, rows), out.cut(first - low, rows),
                build.fetch(name, values, width, Flag.TRANSPOSE), self.context_params,
                channels=width, bits=context.bits, flags=Flag.BROADCAST | Flag.UNSIGNED,
                act_words=build.words(keys), factors=factors and factors.cut(first - low, rows))
            build.count_passes(width, keys, rows, self.config.attention_digits)
        if build.trace:
            build.declare(context.name, self.graph.tensors[context.name].shape)
            build.store(context.name, out, Place(
                columns=width, row=low, column=head * width, lane=out.lane))

    def _context_view(self, head, low, rows):
        """Return where the context of a unit goes: over its queries."""
        first = head * self.head_lanes
        word, lane = divmod(first, self.config.rows)
        words = self.build.words(lane + self.width)
        return self.query.view(row=low - self.low, rows=rows, word=word, lane=lane, words=words)

    def context_rows(self, low, rows):
        """Return the view of all heads' context of some rows."""
        words = (self.build.words(self.heads * self.width) if self._dense()
                 else self.heads * self.pad)
        return self.query.view(row=low - self.low, rows=rows, words=words)

    def _output_layer(self):
        """Return the projection of the context, its weights in the lane order of the context."""
        node = self.pattern.projection
        if self._dense():
            return node
        padded = np.zeros((len(node.weight), self.heads, self.pad * self.config.rows), np.int64)
        padded[:, :, :self.width] = np.reshape(node.weight, (len(node.weight), self.heads,
                                                             self.width))
        return dataclasses.replace(node, weight=padded.reshape(len(node.weight), -1))

    def tables(self):
        """Return what loads the exponentials: a table for each byte, or none."""
        softmax, tables = self.pattern.softmax, self._tables()
        if not tables:
            return []
        entries = (nearest_codes(-softmax.unit, softmax.variant) if self.config.levels
                   else softmax.exponentials())
        return [functools.partial(self.build.load_table, softmax.name, table,
                                  entries >> 8 * byte & 255)
                for byte, table in enumerate(tables)]

    def _tables(self):
        """Return the tables of exponentials that the accelerator looks up."""
        return range(EXPONENTIALS, EXPONENTIALS + self.config.exponential_tables)


def _run_length(counts, most, step):
    """Return how many of `counts` grow by `step` up to `most`, from the first one on."""
    wanted = (min(counts[0] + step * index, most) for index in range(len(counts)))
    return sum(1 for _ in itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(counts, wanted, strict=True)))


def _rows(node, source, name):
    """Return a linear node with output channels in the order of `source`; -1 is an empty one."""
    empty = source < 0

    def pick(values):
        values = np.asarray(values)[source]
        values[empty] = 0
        return values

    return dataclasses.replace(node, name=name, **{
        attribute: pick(getattr(node, attribute))
        for attribute in ("weight", "bias", "mult", "shift")})
