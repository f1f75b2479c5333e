"""The network as a sequence of operations: what is computed, in which order, on which tensors.

The order is a valid sequential program. Tokens are cut into chunks (`Plan`), and every layer works
on a chunk at a time, so that VECTOR normalises or activates one chunk while the array multiplies
another. The residual stream stays in one tensor: the projections before a residual write over it.
"""

import numpy as np

from systola.hw.contract.isa import Opcode
from systola.sw_driver.compiler.attention import EXPONENTIALS, Attention
from systola.sw_driver.compiler.lowering import Lowering
from systola.sw_driver.compiler.payloads import code_words, exp_table, gelu_table, split_planes

__all__ = ["lower"]

_GELU = 0
"""The table of GELU."""


def lower(model, config, plan, *, trace, param_words, blocks_only=False):
    """Return the `Lowering` of the network, its operations not yet placed."""
    build = Lowering(config, param_words=param_words, trace=trace)
    network = _Network(build, model, plan, blocks_only)
    network.start()
    for index in range(len(model.blocks)):
        network.block(index)
    if blocks_only:
        build.store_rest()
    else:
        network.head()
    build.macs = _macs(model, blocks_only)
    return build


class _Network:
    """The residual stream ``x`` and what waits for it: the rows normalised for the next block."""

    def __init__(self, build, model, plan, blocks_only):
        self.build, self.model, self.plan, self.blocks_only = build, model, plan, blocks_only
        self.x = build.tensor("embed", model.tokens, model.channels, planes=2)
        self.ready = []   # chunks normalised for the next block: first row, rows, tensor
        self.todo = []    # chunks of the first block that nothing has normalised yet

    def start(self):
        """Load the residual stream, or compute it from patches."""
        build, model, x = self.build, self.model, self.x
        if self.blocks_only:
            codes = np.zeros((model.tokens, model.channels), np.int64)
            op = build.load(x.view(), split_planes(codes, build.config))
            build.inputs.append(("embed", op, 0, model.tokens, model.channels, 2))
            self.todo = list(self.plan.first)
            return
        # The position, and the whole class row; patches add to it in place.
        rows = np.concatenate([np.reshape(model.cls_row, (1, -1)), model.position])
        build.load(x.view(), split_planes(rows, build.config))
        chunks = self.plan.mlp
        following = self._load_patches(*chunks[0])
        for index, (low, rows) in enumerate(chunks):
            patches = following
            if index + 1 < len(chunks):
                following = self._load_patches(*chunks[index + 1])
            if patches is not None:
                out = x.view(row=low + rows - patches.rows, rows=patches.rows)
                build.linear("embed", model.patch, patches.view(), out, residual=out,
                             rescale=model.position_residual)
            self._finish(-1, low, rows)
        build.count_passes(model.channels, model.patch.weight.shape[1], model.tokens - 1)

    def _load_patches(self, low, rows):
        """Load the patches of some rows; the class token, row 0, has none."""
        build, depth = self.build, self.model.patch.weight.shape[1]
        first = max(low, 1)
        count = low + rows - first
        if count == 0:
            return None
        patches = build.tensor("patches", count, depth)
        op = build.load(patches.view(), code_words(np.zeros((count, depth), np.int64),
                                                   build.config))
        build.inputs.append(("patches", op, first - 1, count, depth, 1))
        return patches

    def _finish(self, index, low, rows):
        """Rows of the residual stream after block `index` (-1: the embedding) are complete."""
        build, model = self.build, self.model
        name = "embed" if index < 0 else f"blocks.{index}.out"
        view = self.x.view(row=low, rows=rows)
        shape = model.tokens, model.channels
        last = index + 1 == len(model.blocks)
        if last and self.blocks_only and not build.trace:
            build.declare(name, shape)
            build.store_later(name, view, model.channels, low)
        else:
            build.store_traced(name, view, shape, model.channels, None, low, 0)
        if not last:
            self._norm1(index + 1, low, rows)

    def _norm1(self, index, low, rows):
        out = self.build.tensor(f"blocks.{index}.norm1", rows, self.model.channels)
        self.ready.append((low, rows, out))
        return self.build.norm(
            out.name, self.model.blocks[index].norm1, self.x.view(row=low, rows=rows), out.view(),
            self.model.act_bits, row=low, rows=self.model.tokens)

    def block(self, index):
        """Lower block `index`."""
        model, build, block = self.model, self.build, self.model.blocks[index]
        for ahead in range(2):  # one chunk ahead of the projections
            op = self._norm_first()
            if ahead == 0 and op is not None:
                build.hold = [op]
        attention = Attention(build, model, block, f"blocks.{index}.", self.ready,
                              self.plan.units)
        mlp = _Mlp(self, index, attention)
        attention.first_projections(lambda chunk: self._between(block, index, chunk))
        self.ready = []
        mlp.run(attention.run(mlp.project, mlp.normalise))

    def _norm_first(self):
        """Normalise the next chunk of the first block, if there is one; returns the operation."""
        return self._norm1(0, *self.todo.pop(0)) if self.todo else None

    def _between(self, block, index, chunk):
        """After the first projections of a chunk: the next norm, and the tables in turn."""
        self._norm_first()
        build, model, config = self.build, self.model, self.build.config
        if chunk == 0 and config.attention == "deferred":
            build.load_table(f"blocks.{index}.attention", EXPONENTIALS,
                             exp_table(block.softmax_x0))
        if chunk == (len(self.ready) - 1) // 2 and config.gelu == "table":
            build.load_table(f"blocks.{index}.gelu", _GELU, gelu_table(
                block.gelu_x0, block.gelu.mult, block.gelu.shift, model.act_bits))

    def head(self):
        """Classify the class token."""
        build, model = self.build, self.model
        norm = build.tensor("norm", 1, model.channels)
        build.norm("norm", model.norm, self.x.view(rows=1), norm.view(), model.act_bits,
                   row=0, rows=1)
        logits = build.tensor("logits", 1, model.classes, planes=2)
        build.linear("logits", model.head, norm.view(), logits.view())
        build.count_passes(model.classes, model.channels, 1)
        build.declare("logits", (model.classes,))
        build.store("logits", logits.view(), [(0, model.classes, None, 0, 0)])


class _Mlp:
    """The output projection of the attention and the MLP of one block, chunk by chunk."""

    def __init__(self, network, index, attention):
        self.network, self.build, self.model = network, network.build, network.model
        self.index, self.attention = index, attention
        self.block, self.prefix = network.model.blocks[index], f"blocks.{index}."
        self.chunks = network.plan.mlp
        self.norms = {}
        self.waiting = []  # rows that are projected but not normalised
        self.normal = 0    # rows that are normalised, from the first on
        model = self.model
        self.build.count_passes(model.channels, attention.context_rows(0, 1)[1].shape[1],
                                model.tokens)
        self.build.count_passes(model.hidden, model.channels, model.tokens)
        self.build.count_passes(model.channels, model.hidden, model.tokens)

    def project(self, low, rows, after):
        """Project the context of some rows onto the residual stream, to be normalised later."""
        build, model, block, name = self.build, self.model, self.block, self.prefix + "attn_out"
        out = self.network.x.view(row=low, rows=rows)
        context, weight = self.attention.context_rows(low, rows)
        build.linear(name, block.proj, context, out, weight=weight, residual=out,
                     rescale=block.attn_residual, after=after)
        shape = model.tokens, model.channels
        build.store_traced(name, out, shape, model.channels, None, low, 0)
        self.waiting.append((low, rows))

    def normalise(self):
        """Normalise what was projected: behind the Shiftmax that the array needs sooner."""
        for low, rows in self.waiting:
            for first, count in self.chunks:
                start, end = max(first, low), min(first + count, low + rows)
                if start < end:
                    norm = self._norm(first, count)
                    self.build.norm(norm.name, self.block.norm2,
                                    self.network.x.view(row=start, rows=end - start),
                                    norm.view(row=start - first, rows=end - start),
                                    self.model.act_bits, row=start, rows=self.model.tokens)
            self.normal = low + rows
        self.waiting = []

    def _norm(self, first, rows):
        if first not in self.norms:
            self.norms[first] = self.build.tensor(self.prefix + "norm2", rows,
                                                  self.model.channels)
        return self.norms[first]

    def run(self, left):
        """Emit the MLP: fc1 of a chunk before fc2 of the chunk before.

        `left` are the last context and the output projections of the last units. They are put
        between the first chunks' fc1, as Shiftmax of that context and the norms behind those
        projections must come first.
        """
        context, *left = left
        units, hidden = self.attention.units, []
        # Rows that were projected a while ago, and their norms begun.
        early = units[-3][0] + units[-3][1] if len(units) > 3 else 0
        starts = [units[-len(left) + index][0] for index in range(len(left))]

        def first(before):
            """Emit fc1 of the next chunk if it needs no row from `before` on."""
            rows = min(before, self.normal)
            if len(hidden) < len(self.chunks) and sum(self.chunks[len(hidden)]) <= rows:
                hidden.append(self._first(*self.chunks[len(hidden)]))

        first(early)
        context()
        self.normalise()
        for index, task in enumerate(left):
            if index:
                first(early if hidden else starts[-1])
            task()
            self.normalise()
        done = 0
        while done < len(self.chunks):
            if len(hidden) < min(done + 2, len(self.chunks)):
                first(self.model.tokens)
            else:
                self._second(hidden[done], *self.chunks[done], final=done == len(self.chunks) - 1)
                hidden[done], done = None, done + 1

    def _first(self, low, rows):
        """Multiply by fc1 and activate in place; returns the tensor."""
        build, model, block = self.build, self.model, self.block
        name, hidden, shape = self.prefix + "gelu", model.hidden, (model.tokens, model.hidden)
        out = build.tensor(self.prefix + "fc1", rows, hidden)
        table = build.config.gelu == "table"

        def activate(first, channels):
            view = out.view().columns(first // build.config.rows, build.words(channels))
            build.store_traced(self.prefix + "fc1", view, shape, channels, None, low, first)
            params = {"param_base": 0} if table else {"params": build.broadcast_params(
                name, block.gelu.mult, block.gelu.shift)}
            build.vector(Opcode.SHIFTGELU, name, view, view, channels, out_bits=model.act_bits,
                         x0=-int(block.gelu_x0), table=_GELU if table else None, **params)
            build.store_traced(name, view, shape, channels, None, low, first)

        # A table needs no whole rows: each column group is activated as it comes.
        most = min(build.config.max_row if table else hidden,
                   self._store_group(hidden, rows) or hidden)
        build.linear(self.prefix + "fc1", block.fc1, self._norm(low, rows).view(), out.view(),
                     most=most, each=activate if table else None)
        if not table:
            activate(0, hidden)
        return out

    def _store_group(self, channels, rows):
        """Return how many channels a MATMUL may have so that results are stored in between."""
        network, build = self.network, self.build
        if not network.blocks_only or build.trace or self.index + 1 < len(self.model.blocks):
            return None
        pieces = -(-rows * network.x.stride // max(build.store_room(rows), network.x.stride))
        return -(-build.words(channels) // (pieces + 1)) * build.config.rows

    def _second(self, hidden, low, rows, *, final=False):
        """Multiply by fc2 onto the residual stream."""
        build, block = self.build, self.block
        out = self.network.x.view(row=low, rows=rows)
        build.linear(self.prefix + "out", block.fc2, hidden.view(), out, residual=out,
                     rescale=block.mlp_residual,
                     most=self._store_group(self.model.channels, rows) if final else None)
        self.network._finish(self.index, low, rows)


def _macs(model, blocks_only):
    tokens, channels = model.tokens, model.channels
    attention = 4 * tokens * channels * channels + 2 * tokens * tokens * channels
    total = len(model.blocks) * (attention + 2 * tokens * channels * model.hidden)
    if not blocks_only:
        total += model.patch.weight.size * (tokens - 1) + model.head.weight.size
    return int(total)
