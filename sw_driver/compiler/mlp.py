"""A linear layer, an activation and a linear layer as operations, chunk by chunk.

The first layer of a chunk comes before the second layer of the chunk before, so that the activation
hides behind that. Behind an attention, the output projection and the norm of its last units fill
the beginning.
"""

import numpy as np

from systola.hw.contract.isa import Opcode
from systola.sw_driver.compiler.lowering import Place, finish
from systola.sw_driver.compiler.moves import copy_rows

__all__ = ["GELU", "Behind", "Mlp", "Reordered", "activate", "first_steps"]

GELU = 0
"""The table of the activation."""


def activate(build, graph, node, view, channels, row, first, out=None):
    """Activate `channels` channels of `view`: those from `first` on, from `row` on.

    In place, or to the view `out`.
    """
    out = out or view
    table = node.variant == "table"
    params = {"param_base": 0} if table else {"params": build.broadcast_params(
        node.name, node.mult, node.shift)}
    build.vector(Opcode.SHIFTGELU, node.name, view, out, channels, out_bits=node.bits,
                 unit=1 if table else int(node.unit), tables=[GELU] if table else [], **params)
    build.store_traced(node.name, out, graph.tensors[node.name].shape,
                       Place(columns=channels, row=row, column=first))


def first_steps(build, graph, pattern, operand, low, most=None):
    """Emit the first layer of an MLP of rows from `low` on, and the activation in place.

    At most `most` channels go into a MATMUL. Yields before each; returns the tensor.
    """
    first, activation, _ = pattern.nodes
    channels, table = len(first.weight), activation.variant == "table"
    out = build.tensor(first.name, operand.rows, channels)

    def each(start, count):
        view = out.view().columns(start // build.config.rows, build.words(count))
        build.store_traced(first.name, view, graph.tensors[first.name].shape,
                           Place(columns=count, row=low, column=start))
        activate(build, graph, activation, view, count, low, start)

    # A table needs no whole rows: each column group is activated as it comes.
    most = min(build.config.max_row if table else channels, most or channels)
    yield from build.linear_steps(first.name, first, operand, out.view(), most=most,
                                  each=each if table else None)
    if not table:
        each(0, channels)
    return out


class Mlp:
    """The operations of one `MlpPattern`, and of what comes before it in an `AttentionPattern`.

    Parameters
    ----------
    network : Network
        What emits the rest.
    pattern : MlpPattern
        Its nodes.
    norms : dict of int to View, optional
        The operand by first row, if it is there already; it then decides the chunks.
    """

    def __init__(self, network, pattern, norms=None):
        self.network, self.build, self.graph = network, network.build, network.graph
        self.pattern = pattern
        self.tensor = self.graph.tensors[pattern.second.name]
        self.rows = self.tensor.rows
        self.norms = norms or {}
        self.chunks = ([(low, view.rows) for low, view in self.norms.items()]
                       or network.plan.chunks(self.rows))
        for node in pattern.first, pattern.second:
            self.build.count_linear(node.name, node, self.rows)

    def run(self):
        """Emit everything; all of the operand is there."""
        self._interleave([])

    def run_behind(self, behind, context, left):
        """Emit the MLP behind an attention; `context` and `left` are what that left to do.

        That is put between the first chunks' first layer, as the softmax of the last context and
        the norms behind the projections must come first.
        """
        hidden = []
        # Rows that were projected a while ago, and their norms begun.
        early = left[0][0].low if len(behind.attention.units) > 3 else 0

        def first(before):
            self._first_of(hidden, min(before, behind.normal))

        first(early)
        context()
        behind.normalise()
        for index, (_, task) in enumerate(left):
            if index:
                first(early if hidden else left[-1][0].low)
            task()
            behind.normalise()
        self._interleave(hidden)

    def _interleave(self, hidden):
        done = 0
        while done < len(self.chunks):
            if len(hidden) < min(done + 2, len(self.chunks)):
                self._first_of(hidden, self.rows)
            else:
                self._second(hidden[done], *self.chunks[done], final=done == len(self.chunks) - 1)
                hidden[done], done = None, done + 1

    def _first_of(self, hidden, rows):
        """Emit the first layer of the next chunk if it needs none but the first `rows` rows."""
        if len(hidden) < len(self.chunks) and sum(self.chunks[len(hidden)]) <= rows:
            hidden.append(self._first(*self.chunks[len(hidden)]))

    def _first(self, low, rows):
        """Multiply by the first layer and activate in place; returns the tensor."""
        most = self._store_group(len(self.pattern.first.weight), rows)
        return finish(first_steps(self.build, self.graph, self.pattern, self.norms.pop(low), low,
                                  most))

    def _store_group(self, channels, rows):
        """Return how many channels a MATMUL may have so that results are stored in between."""
        network, build, second = self.network, self.build, self.pattern.second
        if not network.stores_later(second.name):
            return None
        stride = build.words(self.tensor.channels) * 2
        pieces = -(-rows * stride // max(build.store_room(rows), stride))
        return -(-build.words(channels) // (pieces + 1)) * build.config.rows

    def _second(self, hidden, low, rows, *, final=False):
        """Multiply by the second layer."""
        node = self.pattern.second
        most = self._store_group(self.tensor.channels, rows) if final else None
        self.network.begin(node.name, low, rows)
        self.network.linear_rows(node, hidden.view(), low, rows, most=most)
        self.network.finish(node.name, low, rows)


class Behind:
    """The output projection of an attention and, before an MLP, the norm of its result.

    Both are emitted for some rows at a time, as these are complete.
    """

    def __init__(self, network, pattern, attention, mlp=None):
        self.network, self.pattern, self.attention, self.mlp = network, pattern, attention, mlp
        self.waiting = []  # rows that are projected but not normalised
        self.normal = 0    # rows that are normalised, from the first on
        network.build.count_linear(pattern.projection.name, attention.output, attention.rows)

    def project(self, low, rows, after):
        """Project the context of some rows, to be normalised later."""
        network, node = self.network, self.pattern.projection
        network.begin(node.name, low, rows)
        network.linear_rows(node, self.attention.context_rows(low, rows), low, rows,
                            layer=self.attention.output, after=after)
        network.finish(node.name, low, rows, except_for=self.pattern.norm)
        self.waiting.append((low, rows))

    def normalise(self):
        """Normalise what was projected: behind the softmax that the array needs sooner."""
        if self.mlp is None:
            return
        network, norm, norms = self.network, self.pattern.norm, self.mlp.norms
        for low, rows in self.waiting:
            for first, count in self.mlp.chunks:
                start, end = max(first, low), min(first + count, low + rows)
                if start < end:
                    if first not in norms:
                        norms[first] = network.build.tensor(
                            norm.name, count,
                            network.graph.tensors[norm.name].channels).view()
                    network.norm_rows(norm, norms[first].cut(start - first, end - start), start)
            self.normal = low + rows
        self.waiting = []

    def finish(self):
        """Do what only the end allows: nothing."""


class Reordered(Behind):
    """The output projection of an attention whose context is moved to rows in another order."""

    def __init__(self, network, pattern, attention, mlp=None):
        super().__init__(network, pattern, attention, mlp)
        self.words = attention.context_rows(attention.low, attention.rows).words
        self.moved = network.build.tensor(pattern.order.name, len(pattern.order.index),
                                          self.words * network.build.config.rows)

    def project(self, low, rows, after):
        """Move the context of some rows; `finish` projects it."""
        source = self.pattern.order.index[:, 1]
        targets = np.flatnonzero((source >= low) & (source < low + rows))
        copy_rows(self.network.build, self.pattern.order.name,
                  (self.attention.query, source[targets] - self.attention.low),
                  (self.moved, targets), words=self.words)

    def finish(self):
        """Project all rows, in their new order."""
        network, order, node = self.network, self.pattern.order, self.pattern.projection
        build, context = network.build, self.pattern.context
        if build.trace:
            self._store(order, context)
        for low, rows in network.plan.chunks(len(order.index)):
            network.begin(node.name, low, rows)
            network.linear_rows(node, self.moved.view(row=low, rows=rows), low, rows,
                                layer=self.attention.output)
            network.finish(node.name, low, rows)

    def _store(self, order, context):
        """Store the rows as they are behind the move, head by head."""
        network, attention = self.network, self.attention
        view = self.moved.view()
        network.build.declare(order.name, network.graph.tensors[order.name].shape)
        lanes = attention.head_lanes
        network.build.store(order.name, view, *(
            Place(columns=context.head_dim, row=0, column=head * context.head_dim,
                  lane=head * lanes) for head in range(attention.heads)))
