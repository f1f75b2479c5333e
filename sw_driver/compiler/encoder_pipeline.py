"""Encoder blocks of many short sequences as operations: group by group, four at a time.

With few rows a softmax or a norm takes VECTOR longer than the array has other work of the same
rows. So four groups of sequences are under way, each further in its block than the next. A step of
group k, in the array beside VECTOR:

    Q, K, V (k + 2)                                | activation (k - 1)
    output projection (k), second layer (k - 1)    | norm 2 (k)
    scores (k + 2), context (k + 1)                | norm 1 (k - 1, next block)
    first layer (k)                                | softmax (k + 2)

Groups of the next block follow those of this one without a gap. MATMULs whose results take long to
drain (scores, output projection) come before others, which the accumulators' buffers even out.
"""

import itertools

from systola.sw_driver.compiler.attention import Attention
from systola.sw_driver.compiler.lowering import finish
from systola.sw_driver.compiler.mlp import first_steps

__all__ = ["EncoderPipeline"]


class EncoderPipeline:
    """The operations of a chain of encoder blocks.

    Parameters
    ----------
    network : Network
        What emits the rest.
    chain : list of AttentionPattern
        The blocks, each behind the one before.
    groups : list of Unit
        Rows that are computed together, at least `plan.GROUPS`, as the first one of the next block
        needs this block's first.
    """

    def __init__(self, network, chain, groups):
        self.network = network
        self.steps = [_Step(network, pattern, group, first=group is groups[0])
                      for pattern in chain for group in groups]

    def run(self):
        """Emit everything."""
        for step in self.steps[:2]:
            finish(step.make())
        for index in range(-2, len(self.steps) + 1):
            ahead, behind, mlp, last = (self._step(index + place) for place in (2, 1, 0, -1))
            if index + 2 < len(self.steps):
                _in_turn(self._step(index + 4).make(), ahead.project())
                finish(mlp.project_out())
                finish(last.second())
                _in_turn(ahead.score(), behind.compute_context())
                finish(mlp.first())
                continue
            # Nothing is ahead: norms and activations hide behind what is left.
            for step in mlp, behind:
                finish(step.compute_context())
                finish(step.project_out())
            left = [last.second(), mlp.first()]
            for steps in left if index + 2 == len(self.steps) else reversed(left):
                finish(steps)

    def _step(self, index):
        return self.steps[index] if 0 <= index < len(self.steps) else _Nothing()


class _Step:
    """One group of rows in one block."""

    def __init__(self, network, pattern, group, *, first):
        self.network, self.build, self.graph = network, network.build, network.graph
        self.pattern, self.group, self.is_first = pattern, group, first
        self.low, self.rows = group.low, group.rows
        self.attention = self.norm = self.hidden = None

    def make(self):
        """Emit what makes the rows, if that was put off until now."""
        yield from self.network.put_off(self.graph.by_name[self.pattern.source].input, self.low)

    def project(self):
        """Emit the projections to Q, K and V."""
        norm = self.graph.by_name[self.pattern.source]
        part = self.network.source_part(norm, self.low, self.rows)
        self.attention = Attention(self.build, self.graph, self.pattern, [part], [self.group],
                                   joint=True)
        if self.is_first:
            for load in self.attention.tables():
                load()
        for kind in ["qkv"] if self.attention.joint else "qkv":
            for heads in self.attention.groups:
                yield from self.attention.project(kind, heads, 0)

    def score(self):
        """Emit scores and softmax of all heads; yields before each, as others before MATMULs."""
        self.attention.load_records()
        for head in range(self.attention.heads):
            yield from self.attention.scores(head, self.group)

    def compute_context(self):
        """Emit the context of all heads, once."""
        if self.attention.context_ops:
            return
        for head in range(self.attention.heads):
            yield from self.attention.context(head, self.group)

    def project_out(self):
        """Emit the projection of the context and the norm of its result, once."""
        if self.norm is not None:
            return
        network, pattern, layer = self.network, self.pattern, self.attention.output
        self.build.count_linear(pattern.projection.name, layer, self.rows)
        yield from network.linear_steps(
            pattern.projection, self.attention.context_rows(self.low, self.rows), self.low,
            self.rows, layer=layer, after=list(self.attention.context_ops.values())[-1:])
        network.finish(pattern.projection.name, self.low, self.rows, except_for=pattern.norm)
        channels = self.graph.tensors[pattern.norm.name].channels
        self.norm = self.build.tensor(pattern.norm.name, self.rows, channels).view()
        network.norm_rows(pattern.norm, self.norm, self.low)

    def first(self):
        """Emit the first layer of the MLP and the activation in place."""
        mlp = self.pattern.mlp
        if self.is_first:
            self.network.load_table(mlp.activation)
        self.build.count_linear(mlp.first.name, mlp.first, self.rows)
        self.hidden = yield from first_steps(self.build, self.graph, mlp, self.norm, self.low)

    def second(self):
        """Emit the second layer and the norm of what follows."""
        node = self.pattern.mlp.second
        self.build.count_linear(node.name, node, self.rows)
        self.network.begin(node.name, self.low, self.rows)
        yield from self.network.linear_steps(node, self.hidden.view(), self.low, self.rows)
        self.network.finish(node.name, self.low, self.rows)


class _Nothing:
    """A group before the first or behind the last one: nothing to emit."""

    def make(self):
        """Emit nothing, in no step."""
        return iter(())

    project = score = compute_context = project_out = first = second = make


def _in_turn(first, second):
    """Emit a step of the one, a step of the other, and so on until both end."""
    for _ in itertools.zip_longest(first, second):
        pass
