"""Attention as operations: projections, scores, softmax and context in units of a head's rows.

Units follow each other such that the array always has other work while VECTOR computes a softmax:
scores of a unit, then projections, then the context of the unit before. Long sequences go head by
head, with the projections to keys and values of the next one between (`HeadAttention`); many short
ones go group by group, with all projections of the next group between (`SequenceAttention`).
"""

import dataclasses
import functools
import itertools

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.model.operators.deferred import exp_table
from systola.sw_driver.compiler.lowering import split

__all__ = ["Attention", "HeadAttention", "SequenceAttention"]

EXPONENTIALS = 1
"""The table of deferred attention."""


class Attention:
    """The operations of one attention and the tensors between them.

    A subclass says where projections go, in which order the units are computed, and which work
    comes between them.

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
        Chunks of rows, in order.
    """

    def __init__(self, build, graph, pattern, source, units):
        self.build, self.graph, self.pattern = build, graph, pattern
        self.source, self.units = source, units
        self.config, self.width = build.config, pattern.scores.head_dim
        self.rows = graph.tensors[pattern.scores.name].rows
        self.heads = pattern.scores.heads
        self.pad = build.words(self.width)  # words of a head
        self.projected = {"q": (pattern.query, pattern.scores.query_channel),
                          "k": (pattern.key, pattern.scores.key_channel),
                          "v": (pattern.value, pattern.context.value_channel)}
        heads = list(range(self.heads))
        self.groups = [heads] if self._merged() else [[head] for head in heads]
        self.attention, self.factors = {}, {}  # of units between scores and context
        self.context_ops, self.query_ops = {}, []
        self.layers = {}         # rows of the projections as they are emitted
        self.output = self._output_layer()

    def _merged(self):
        """Return whether heads side by side, padded to words, need fewer tiles than each alone."""
        cols, heads, width = self.config.cols, self.heads, self.width
        together = -(-((heads - 1) * self.pad * self.config.rows + width) // cols)
        return together < heads * -(-width // cols)

    def _tensor(self, name, rows, heads):
        return self.build.tensor(name, rows, heads * self.pad * self.config.rows)

    def _dense(self):
        """Return whether heads of the context lie side by side without padding."""
        return self.width % self.config.lanes == 0

    # --- Projections ---

    def project(self, kind, heads, index):
        """Project chunk `index` of the source to `kind` of `heads`, side by side."""
        build, lanes = self.build, self.pad * self.config.rows
        node, start = self.projected[kind]
        low, rows, source = self.source[index]
        out = self._target(kind, heads, low, rows)
        layer = self._projection(kind, heads)
        op = build.linear(node.name, layer, source.view(), out)
        if kind == "q":
            self.query_ops.append(op)
        if index == 0:
            build.count_passes(*layer.weight.shape, self.rows)
        if build.trace:
            build.declare(node.name, self.graph.tensors[node.name].shape)
            build.store(node.name, out, [
                (place * lanes, self.width, None, low, start + head * self.width)
                for place, head in enumerate(heads)])

    def _projection(self, kind, heads):
        """Return the layer of `kind` for `heads` side by side, each padded to words but the last.

        It is made once, and so are its tiles.
        """
        key = kind, heads[0]
        if key not in self.layers:
            node, start = self.projected[kind]
            rows = np.full((len(heads), self.pad * self.config.rows), -1)
            for place, head in enumerate(heads):
                rows[place, :self.width] = np.arange(self.width) + head * self.width + start
            rows = rows.reshape(-1)[:rows.size - rows.shape[1] + self.width]
            self.layers[key] = _rows(node, rows, f"{node.name}.{kind}.{heads[0]}")
        return self.layers[key]

    # --- Units ---

    def run(self, project_rows, each, lag):
        """Emit all units but the last contexts; ``project_rows(low, rows, after)`` projects them.

        `each` is called after the scores and the softmax of each unit. A context comes `lag` units
        after its scores. ``project_rows`` calls what it gets as ``each`` after each MATMUL.

        Returns what is left to do: those contexts, and the projections of the last units with
        these.
        """
        order = self._order()
        work, last = self._work(order), self.heads - 1
        project = {order.index((last, unit)) + lag + 1: unit for unit in self.units}
        self._records()
        for index, (head, unit) in enumerate(order):
            context = self._context(*order[index - lag]) if index >= lag else []
            projector = None
            if index in project:  # its context is complete since one unit
                projector = functools.partial(self._project, project_rows, project[index])
            self._unit(self._scores(head, unit), context, each, work[index], projector)
        left = [unit for index, unit in project.items() if index >= len(order)]
        return ([functools.partial(self.compute_context, *item) for item in order[-lag:]],
                [(unit, functools.partial(self._project, project_rows, unit)) for unit in left])

    def _records(self):
        """Load what all units need; the queries are long done when this is."""
        build, pattern = self.build, self.pattern
        scores, context = pattern.scores, pattern.context
        self.score_params = build.broadcast_params(scores.name, scores.mult, scores.shift,
                                                   after=self.query_ops[-1:])
        # With row factors only the shift is used.
        mult = 1 if self.config.factor_depth else context.mult
        self.context_params = build.broadcast_params(context.name, mult, context.shift)

    def _projection_task(self, kind, heads, index):
        return lambda: self.project(kind, heads, index)

    def _project(self, project_rows, unit, each=None):
        project_rows(unit.low, unit.rows, [self.context_ops[self.heads - 1, unit.low]], each)

    def _scores(self, head, unit):
        """Yield once before each MATMUL of Q.K^T of a unit and before its softmax, in place."""
        build, low = self.build, unit.low
        scores, softmax = self.pattern.scores, self.pattern.softmax
        name = f"{scores.name}.{head}"
        attention = build.tensor(f"{softmax.name}.{head}", unit.rows, unit.keys,
                                 planes=self.config.attention_digits)
        codes = attention.view(planes=1)
        query = self._query_rows(low, unit.rows).columns(head * self.pad, self.pad)
        for first, rows, (start, keys) in unit.parts:
            yield
            keyed = self._stationary("k", head, start, keys)
            build.matmul(name, query.cut(first - low, rows), codes.cut(first - low, rows),
                         build.fetch(name, keyed, self.width), self.score_params, channels=keys,
                         bits=scores.bits, flags=Flag.BROADCAST)
            build.count_passes(keys, self.width, rows)
        yield
        shape = self.graph.tensors[scores.name].shape
        build.store_traced(scores.name, codes, shape, unit.keys, head, low, 0)
        factors = build.factors(attention.name, unit.rows)
        build.vector(Opcode.SHIFTMAX, attention.name, codes, attention.view(), unit.keys,
                     x0=int(softmax.unit), factors=factors,
                     table=EXPONENTIALS if factors else None,
                     numerator=int(self.pattern.context.mult) if factors else 0)
        build.store_traced(softmax.name, attention.view(), shape, unit.keys, head, low, 0,
                           digit_bits=self.config.act_bits)
        self.attention[head, low], self.factors[head, low] = attention, factors

    def compute_context(self, head, unit):
        """Compute A.V of a unit over Q of its rows."""
        _finish(self._context(head, unit))

    def _context(self, head, unit):
        """Yield once before each MATMUL of A.V of a unit, over Q of its rows."""
        build, width, low = self.build, self.width, unit.low
        context = self.pattern.context
        name = f"{context.name}.{head}"
        attention, factors = self.attention.pop((head, low)).view(), self.factors.pop((head, low))
        out = self._context_view(head, low, unit.rows)
        for first, rows, (start, keys) in unit.parts:
            yield
            values = self._stationary("v", head, start, keys)
            self.context_ops[head, low] = build.matmul(
                name, attention.cut(first - low, rows), out.cut(first - low, rows),
                build.fetch(name, values, width, Flag.TRANSPOSE), self.context_params,
                channels=width, bits=context.bits, flags=Flag.BROADCAST | Flag.UNSIGNED,
                factors=factors and factors.cut(first - low, rows))
            build.count_passes(width, keys, rows, self.config.attention_digits)
        if build.trace:
            build.declare(context.name, self.graph.tensors[context.name].shape)
            build.store(context.name, out, [(out.lane, width, None, low, head * width)])

    def _context_view(self, head, low, rows):
        """Return where the context of a unit goes: over its queries."""
        first = head * (self.width if self._dense() else self.pad * self.config.rows)
        word, lane = divmod(first, self.config.rows)
        words = self.build.words(lane + self.width)
        return dataclasses.replace(self._query_rows(low, rows).columns(word, words), lane=lane)

    def context_rows(self, low, rows):
        """Return the view of all heads' context of some rows."""
        view = self._query_rows(low, rows)
        return view.columns(0, self.build.words(self.heads * self.width)) if self._dense() else view

    def _output_layer(self):
        """Return the projection of the context, its weights in the lane order of the context."""
        node = self.pattern.projection
        if self._dense():
            return node
        padded = np.zeros((len(node.weight), self.heads, self.pad * self.config.rows), np.int64)
        padded[:, :, :self.width] = np.reshape(node.weight, (len(node.weight), self.heads,
                                                             self.width))
        return dataclasses.replace(node, weight=padded.reshape(len(node.weight), -1))

    def load_table(self):
        """Load the exponentials of deferred attention, if it is."""
        if self.config.factor_depth:
            softmax = self.pattern.softmax
            self.build.load_table(softmax.name, EXPONENTIALS, exp_table(-softmax.unit))


class HeadAttention(Attention):
    """Attention head by head; keys and values of one head, of all rows, are there at a time."""

    def __init__(self, build, graph, pattern, source, units):
        super().__init__(build, graph, pattern, source, units)
        self.query = self._tensor(f"{pattern.query.name}.q", self.rows, self.heads)
        self.stationary = {}  # (kind, head) to a view of all rows

    def first_projections(self, each):
        """Project to Q, and to K and V of the first group; `each` is called after each chunk."""
        alone = len(self.groups) == 1
        index = 0
        while index < len(self.source):  # `each` may append to it
            for group in self.groups:
                self.project("q", group, index)
            self.project("k", self.groups[0], index)
            if not alone:
                self.project("v", self.groups[0], index)
            each(index)
            index += 1

    def _target(self, kind, heads, low, rows):
        if kind == "q":
            return self.query.view(row=low, rows=rows, word=heads[0] * self.pad,
                                   words=len(heads) * self.pad)
        if (kind, heads[0]) not in self.stationary:
            name = f"{self.projected[kind][0].name}.{kind}.{heads[0]}"
            whole = self._tensor(name, self.rows, len(heads)).view()
            for place, head in enumerate(heads):
                self.stationary[kind, head] = whole.columns(place * self.pad, self.pad)
        return self.stationary[kind, heads[0]].tensor.view(row=low, rows=rows)

    def _unit(self, scores, context, each, tasks, projector):
        """Emit scores and softmax of a unit, other work, and the context of an earlier one."""
        _finish(scores)
        each()
        for task in tasks:
            task()
        if projector:
            projector()
        _finish(context)

    def _query_rows(self, low, rows):
        return self.query.view(row=low, rows=rows)

    def _stationary(self, kind, head, start, keys):
        return self.stationary[kind, head].cut(start, keys)

    def _order(self):
        return [(head, unit) for head in range(self.heads) for unit in self.units]

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


class SequenceAttention(Attention):
    """Attention of one group of sequences after the other; each unit is such a group.

    The rows of `source` must come in the same parts as the units. Projections of a group come
    between the units of the group before.
    """

    def __init__(self, build, graph, pattern, source, units):
        super().__init__(build, graph, pattern, source, units)
        self.projections = {}  # (kind, first row of a group) to a tensor of all heads

    def first_projections(self, each):
        """Project the first group; `each` is called after it."""
        for task in self._projection_tasks(0):
            task()
        each(0)

    def _projection_tasks(self, index):
        heads = list(range(self.heads))
        whole = [self._projection_task(kind, heads, index) for kind in "qkv"] \
            if len(self.groups) == 1 else [
                self._projection_task(kind, group, index)
                for kind in "qkv" for group in self.groups]
        return whole

    def _target(self, kind, heads, low, rows):
        if (kind, low) not in self.projections:
            name = f"{self.projected[kind][0].name}.{kind}.{low}"
            self.projections[kind, low] = self._tensor(name, rows, self.heads)
        return self.projections[kind, low].view(word=heads[0] * self.pad,
                                                words=len(heads) * self.pad)

    def _unit(self, scores, context, each, tasks, projector):
        """Emit a unit such that MATMULs that drain for long do not follow each other.

        Those of the scores come between those of an earlier unit's context, those of the output
        projection between those of the other projections.
        """
        for _ in itertools.zip_longest(scores, context):
            pass
        each()
        if projector:
            projector(lambda *_: tasks and tasks.pop(0)())
        for task in tasks:
            task()

    def _query_rows(self, low, rows):
        return self.projections["q", low].view()

    def _stationary(self, kind, head, start, keys):
        unit = next(unit for unit in self.units if unit.low <= start < unit.low + unit.rows)
        return self.projections[kind, unit.low].view(
            row=start - unit.low, rows=keys, word=head * self.pad, words=self.pad)

    def _order(self):
        return [(head, unit) for unit in self.units for head in range(self.heads)]

    def _work(self, order):
        """Return for each unit the projections of the next group: between its scores and context."""
        work = [[] for _ in order]
        for index in range(1, len(self.units)):
            tasks = self._projection_tasks(index)
            for place, (low, length) in enumerate(split(len(tasks), self.heads)):
                work[(index - 1) * self.heads + place] += tasks[low:low + length]
        return work


def _finish(steps):
    """Emit all of what a generator emits step by step."""
    for _ in steps:
        pass


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
