"""Which nodes of a network are computed together, and the order of what is.

The patterns select recipes for the order of work (`attention.py`, `mlp.py`); everything else is
computed node by node.
"""

import dataclasses
from dataclasses import dataclass

from systola.model.graph.nodes import (
    Activation,
    Context,
    Linear,
    Norm,
    Rows,
    Scores,
    Softmax,
)
from systola.sw_driver.compiler.layout import CompileError

__all__ = ["AttentionPattern", "MlpPattern", "arranged"]


@dataclass(frozen=True, eq=False)
class MlpPattern:
    """A linear layer, an activation and a second linear layer that only read each other."""

    first: Linear
    activation: Activation
    second: Linear

    @property
    def nodes(self):
        """All its nodes, in order."""
        return self.first, self.activation, self.second


@dataclass(frozen=True, eq=False)
class AttentionPattern:
    """Projections of one tensor to Q, K and V, attention, and the projection of its result.

    With `norm` and `mlp`, the layer norm of that result and the layers behind, which then fill the
    time of the last Shiftmax. With `order`, rows of the context are moved before its projection.
    """

    query: Linear
    key: Linear
    value: Linear
    scores: Scores
    softmax: Softmax
    context: Context
    projection: Linear
    norm: Norm | None = None
    mlp: MlpPattern | None = None
    order: Rows | None = None

    @property
    def nodes(self):
        """All its nodes, in order."""
        first = tuple(dict.fromkeys((self.query, self.key, self.value)))
        order = () if self.order is None else (self.order,)
        rest = () if self.mlp is None else (self.norm, *self.mlp.nodes)
        return (*first, self.scores, self.softmax, self.context, *order, self.projection, *rest)

    @property
    def source(self):
        """Name of the tensor that is projected."""
        return self.query.input


def arranged(graph, moved=frozenset()):
    """Return the graph with the nodes of each pattern together, and the pattern of each node.

    `moved` are the names of the `Rows` nodes that are moved in memory.

    Returns
    -------
    Graph
        The same network, its nodes in the order in which they will be computed.
    dict of str to pattern
        By the name of every node that belongs to one.
    set of str
        Layer norms that an attention emits beside its projections; they come right before it.

    Raises
    ------
    CompileError
        If attention is not between linear layers.
    """
    owner = {}
    for node in graph.of(Scores):
        pattern = _attention(graph, node, moved)
        for member in pattern.nodes:
            if member.name in owner:
                raise CompileError(f"node {member.name!r}: the projection of one attention must "
                                   f"not make queries, keys or values of another")
            owner[member.name] = pattern
    for node in graph.of(Activation):
        mlp = _mlp(graph, node)
        if mlp is not None and not {member.name for member in mlp.nodes} & owner.keys():
            owner |= {member.name: mlp for member in mlp.nodes}
    waiting = {node.name for node in graph.of(Norm) if _waits(graph, node, owner)}
    order, done = [], set()

    def emit(node):
        group = owner[node.name].nodes if node.name in owner else (node,)
        names = {member.name for member in group}
        if names <= done:
            return
        done.update(names)  # a cycle through the group shows in the order, which is checked
        for member in group:
            for name in member.inputs:
                if name not in names:
                    emit(graph.by_name[name])
        order.extend(group)

    for node in graph.nodes:
        if node.name not in waiting:
            emit(node)
    try:
        return dataclasses.replace(graph, nodes=tuple(order)), owner, waiting
    except ValueError as error:
        raise CompileError(f"attention and layers behind it must not depend on each other by other "
                           f"ways: {error}") from None


def _waits(graph, node, owner):
    """Return whether only one attention reads the norm `node`, as what it projects."""
    patterns = {owner.get(reader.name) for reader in graph.consumers[node.name]}
    return (len(patterns) == 1 and node.name not in graph.outputs
            and isinstance(pattern := patterns.pop(), AttentionPattern)
            and pattern.source == node.name)


def _attention(graph, scores, moved):
    """Return the pattern around a `Scores` node."""
    def only(name, kind, what):
        readers = graph.consumers[name]
        if len(readers) != 1 or not isinstance(readers[0], kind) or name in graph.outputs:
            raise CompileError(f"node {name!r}: its result must be read by one {what} node only")
        return readers[0]

    softmax = only(scores.name, Softmax, "softmax")
    context = only(softmax.name, Context, "context")
    projection, order = only(context.name, Linear | Rows, "linear"), None
    if isinstance(projection, Rows):
        order = projection
        if order.name not in moved or order.beside > 1:
            raise CompileError(f"copies must be true for node {order.name!r}, which moves the "
                               f"result of an attention, not false", copies=True)
        if len(order.sources) > 1:
            raise CompileError(f"node {order.name!r}: rows of an attention's result cannot be "
                               f"moved together with those of other tensors")
        projection = only(order.name, Linear, "linear")
    linears = [graph.by_name[name] for name in (scores.query, scores.key, context.value)]
    for node in linears:
        if (not isinstance(node, Linear) or node.residual is not None
                or not set(graph.consumers[node.name]) <= {scores, context}
                or node.name in graph.outputs):
            raise CompileError(f"node {node.name!r}: queries, keys and values must be made by "
                               f"linear nodes without residual for one attention only")
    if len({node.input for node in linears}) != 1:
        raise CompileError(f"node {scores.name!r}: queries, keys and values must be projections of "
                           f"one tensor")
    if projection.residual == context.name or context.head_dim != scores.head_dim:
        raise CompileError(f"node {context.name!r}: head_dim must be {scores.head_dim} as in "
                           f"{scores.name!r}, and the context an operand")
    behind = (None, None) if order else _behind(graph, projection)
    return AttentionPattern(*linears, scores, softmax, context, projection, *behind, order)


def _behind(graph, projection):
    """Return the norm and the MLP behind the projection of an attention, if they are there."""
    for node in graph.consumers[projection.name]:
        readers = graph.consumers[node.name]
        if (isinstance(node, Norm) and len(readers) == 1 and isinstance(readers[0], Linear)
                and node.name not in graph.outputs and readers[0].residual is None):
            behind = graph.consumers[readers[0].name]
            if len(behind) == 1 and isinstance(behind[0], Activation):
                mlp = _mlp(graph, behind[0])
                if mlp is not None and mlp.second.residual in (None, projection.name):
                    return node, mlp
    return None, None


def _mlp(graph, activation):
    """Return the pattern around an activation, or None."""
    first = graph.by_name[activation.input]
    behind = graph.consumers[activation.name]
    if (isinstance(first, Linear) and first.residual is None and len(behind) == 1
            and not isinstance(graph.by_name[first.input], Rows)  # it has no parts of its own
            and isinstance(behind[0], Linear) and behind[0].input == activation.name
            and behind[0].residual != activation.name
            and not any(isinstance(reader, Scores | Context)
                        for reader in graph.consumers[behind[0].name])
            and graph.consumers[first.name] == [activation]
            and not {first.name, activation.name} & {*graph.outputs}):
        return MlpPattern(first, activation, behind[0])
    return None
