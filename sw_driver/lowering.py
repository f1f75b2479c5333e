"""The network as a sequence of operations: what is computed, in which order, on which tensors.

The order is a valid sequential program. It is chosen so that engines overlap: parameters are
loaded one operation ahead, the scores of a head stand one MATMUL behind its K so that Shiftmax
runs while the array multiplies on, and V is computed while the scores are normalised.
"""

import itertools

import numpy as np

from systola.hw.isa import Flag, Opcode
from systola.sw_driver.checks import SCORE_BITS
from systola.sw_driver.layout import ParamBlock, Tensor
from systola.sw_driver.operation import Operation
from systola.sw_driver.packing import (
    code_words,
    gelu_table,
    param_beats,
    param_records,
    split_planes,
    table_beats,
    tile_beats,
    to_beats,
    words_of,
)

__all__ = ["Lowering", "lower"]


class Lowering:
    """Builds the operations of one network for one configuration.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    param_words : int
        Most parameter words one MATMUL may use; wider layers are split.
    trace : bool
        Whether to store every named tensor.

    Attributes
    ----------
    ops : list of Operation
        The program without BEGIN and END.
    inputs : list of (name, Operation, rows, channels)
        LOADs whose data the driver replaces.
    outputs : list of (name, shape, parts)
        Results; each part is (STORE operation, digit_bits, lane, columns, head, row, column).
    macs : int
        Multiply-accumulates of the network, each once.
    """

    def __init__(self, config, *, param_words, trace=False):
        self.config, self.param_words, self.trace = config, param_words, trace
        self.ops, self.inputs, self.outputs, self.macs = [], [], [], 0

    def words(self, channels):
        """Return the words of a row of `channels` channels."""
        return words_of(channels, self.config)

    def tensor(self, name, rows, channels, *, planes=1, bank=0):
        """Return a new tensor for rows of `channels` channels."""
        return Tensor(name, rows, self.words(channels), planes, bank)

    def region(self, words, channels):
        """Return the fields for `words` words in a row that hold `channels` channels."""
        return {"words": words, "lanes_last": channels - (words - 1) * self.config.rows}

    def chunks(self, rows):
        """Return (first row, rows) of equal parts of at most token_depth rows."""
        count = -(-rows // self.config.token_depth)
        edges = [rows * i // count for i in range(count + 1)]
        return [(low, high - low) for low, high in itertools.pairwise(edges)]

    def load(self, tensor, words, *, first_row=False):
        """Load `words` (n, R) into all of `tensor`, or into the first row of its planes."""
        view = tensor.view(rows=1 if first_row else None)
        fields = {"rows": view.rows * tensor.planes, "words": tensor.words}
        if first_row:  # the planes are the rows of the transfer
            fields["stride"] = tensor.plane
        op = Operation(Opcode.LOAD, tensor.name, writes={"": view}, fields=fields,
                       data=to_beats(words, self.config))
        self.ops.append(op)
        return op

    def store(self, name, shape, parts):
        """Store tensors as result `name`.

        A part is (tensor, digit_bits, [(lane, columns, head, row, column)]).
        """
        stored = []
        for tensor, digit_bits, places in parts:
            view = tensor.view()
            op = Operation(Opcode.STORE, name, reads={"": view},
                           fields={"rows": tensor.rows * tensor.planes, "words": tensor.words})
            self.ops.append(op)
            stored += [(op, tensor, digit_bits, *place) for place in places]
        self.outputs.append((name, shape, stored))

    def store_traced(self, name, tensor, channels):
        """Store a plain tensor of rows of `channels` when tracing."""
        if self.trace:
            self.store(name, (tensor.rows, channels), [(tensor, 0, [(0, channels, None, 0, 0)])])

    def params(self, name, bias, mult, shift, *, words=None):
        """Load parameter records, one operation ahead of the last MATRIX or VECTOR operation."""
        records = param_records(bias, mult, shift)
        count = words or -(-len(records) // self.config.lanes)
        block = ParamBlock(name, records, count)
        self.ops.append(Operation(Opcode.LOAD_PARAMS, name, loads=block,
                                  data=param_beats(records, count, self.config)))
        return block

    def broadcast_params(self, name, dyadic):
        """Load one parameter word with the same record in all lanes."""
        lanes = self.config.lanes
        return self.params(name, 0, np.full(lanes, dyadic.mult), np.full(lanes, dyadic.shift))

    def matmul(self, name, act, out, feed, params, *, channels, bits, flags=0, residual=None,
               rescale=None):
        """Append a MATMUL and the operation that feeds it.

        `act`, `out` and `residual` are views of equal rows; `feed` makes the feeding operation.
        """
        fields = {"rows": act.rows, "act_words": act.words, "digits": act.tensor.planes,
                  **self.region(out.words, channels), "out_bits": bits}
        reads = {"act_": act}
        if residual is None:
            fields |= dict.fromkeys(("res_base", "res_stride", "res_plane", "res_mult",
                                     "res_shift"), 0)
        else:
            reads["res_"] = residual
            flags |= Flag.RESIDUAL
            fields |= {"res_mult": int(rescale.mult), "res_shift": int(rescale.shift)}
        self.ops += [Operation(Opcode.MATMUL, name, reads=reads, writes={"out_": out},
                               fields=fields | {"flags": int(flags)}, params=params), feed()]

    def weights(self, name, weight):
        """Return a maker of LOAD_WEIGHTS for `weight` (N, K)."""
        data = tile_beats(weight, self.config)
        return lambda: Operation(Opcode.LOAD_WEIGHTS, name, data=data)

    def fetch(self, name, source, channels, flags=0):
        """Return a maker of a FETCH of all rows of `source`."""
        fields = {"rows": source.rows, "flags": int(flags),
                  **self.region(source.words, channels)}
        return lambda: Operation(Opcode.FETCH, name, reads={"": source}, fields=fields)

    def linear(self, name, layer, act, out, *, depth=None, residual=None, rescale=None):
        """Append a linear layer from view `act` to view `out`, in column groups and row chunks.

        `depth` is a weight array (N, K) in the lane order of `act` when that is padded.
        """
        weight = layer.weight if depth is None else depth
        rows = self.config.rows
        limit = max(self.param_words * self.config.lanes // rows, 1) * rows
        for start in range(0, len(weight), limit):
            part = slice(start, min(start + limit, len(weight)))
            columns = part.stop - start
            tiles = -(-columns // self.config.cols)
            params = self.params(name, layer.bias[part], layer.requant.mult[part],
                                 layer.requant.shift[part],
                                 words=tiles * self.config.cols // self.config.lanes)
            feed = self.weights(name, weight[part])
            for low, count in self.chunks(act.rows):
                cut = {"word": start // rows, "words": self.words(columns), "rows": count}
                self.matmul(
                    name, _cut(act, low, count), _cut(out, low, **cut), feed, params,
                    channels=columns, bits=layer.out_bits, rescale=rescale,
                    residual=None if residual is None else _cut(residual, low, **cut))

    def vector(self, opcode, name, source, out, channels, *, params=None, table=False, **fields):
        """Append a VECTOR operation over all rows, in the row chunks of the MATMULs."""
        for low, count in self.chunks(source.rows):
            self.ops.append(Operation(
                opcode, name, reads={"src_": _cut(source, low, count)},
                writes={"dst_": _cut(out, low, count)}, params=params,
                table_read=table,
                fields={"rows": count, **self.region(source.words, channels), **fields}))

    def norm(self, name, norm, source, channels, bits):
        """Append a LAYERNORM of view `source`; returns its output tensor."""
        out = self.tensor(name, source.rows, channels, bank=0)
        params = self.params(name, norm.bias, norm.requant.mult, norm.requant.shift)
        self.vector(Opcode.LAYERNORM, name, source, out.view(), channels, out_bits=bits,
                    params=params)
        self.store_traced(name, out, channels)
        return out

    def gelu(self, block, source, out, channels, bits):
        """Append a SHIFTGELU, with its requantization or its table."""
        rescale, table, fields = block.gelu, self.config.gelu == "table", {}
        if table:
            entries = gelu_table(block.gelu_x0, rescale.mult, rescale.shift, bits)
            self.ops.append(Operation(Opcode.LOAD_TABLE, out.name, table_write=True,
                                      data=table_beats(entries, self.config)))
            fields["param_base"] = 0
        else:
            fields["params"] = self.broadcast_params(out.name, rescale)
        self.vector(Opcode.SHIFTGELU, out.name, source, out.view(), channels, table=table,
                    x0=-int(block.gelu_x0), out_bits=bits, **fields)


def _cut(view, row, rows, word=0, words=None):
    """Return a part of a view."""
    return view.tensor.view(row=view.row + row, rows=rows, word=view.word + word,
                            words=view.words - word if words is None else words)


def lower(model, config, *, trace, param_words):
    """Return the `Lowering` of the complete network, its operations not yet placed."""
    build = Lowering(config, param_words=param_words, trace=trace)
    x = _embed(build, model)
    for index, block in enumerate(model.blocks):
        prefix = f"blocks.{index}."
        x = _attention(build, model, block, prefix, x)
        x = _mlp(build, model, block, prefix, x)
    norm = build.norm("norm", model.norm, x.view(rows=1), model.channels, model.act_bits)
    logits = build.tensor("logits", 1, model.classes, planes=2, bank=1)
    build.linear("logits", model.head, norm.view(), logits.view())
    build.store("logits", (model.classes,), [(logits, 0, [(0, model.classes, None, 0, 0)])])
    build.macs = _macs(model)
    return build


def _embed(build, model):
    """Class row by LOAD, patches by MATMUL with the position as residual."""
    tokens, channels, depth = model.tokens, model.channels, model.patch.weight.shape[1]
    patches = build.tensor("patches", tokens - 1, depth, bank=0)
    codes = np.zeros((tokens - 1, depth), np.int64)
    load = build.load(patches, code_words(codes, build.config))
    build.inputs.append(("patches", load, tokens - 1, depth))
    position = build.tensor("position", tokens - 1, channels, planes=2, bank=1)
    build.load(position, split_planes(model.position, build.config))
    embed = build.tensor("embed", tokens, channels, planes=2, bank=2)
    build.load(embed, split_planes(np.reshape(model.cls_row, (1, -1)), build.config),
               first_row=True)
    build.linear("embed", model.patch, patches.view(), embed.view(row=1),
                 residual=position.view(), rescale=model.position_residual)
    build.store_traced("embed", embed, channels)
    return embed


def _attention(build, model, block, prefix, x):
    """Lower the attention half of a block; returns the tensor ``attn_out``."""
    heads, width, channels = model.heads, model.head_dim, model.channels
    norm = build.norm(prefix + "norm1", block.norm1, x.view(), channels, model.act_bits)
    context = Tensor(prefix + "context", model.tokens, heads * build.words(width), 1, 0)
    work = _Heads(build, model, block, prefix, norm, context)
    for head in range(heads):
        work.project("q", head)
        if head:
            work.scores(head - 1)
        work.project("k", head)
    for head in range(heads):
        work.project("v", head)
        if head == 0:
            work.scores(heads - 1)
        else:
            work.context(head - 1)
    work.context(heads - 1)
    work.store()
    padded = np.zeros((channels, heads, build.words(width) * build.config.rows), np.int64)
    padded[:, :, :width] = np.reshape(block.proj.weight, (channels, heads, width))
    out = build.tensor(prefix + "attn_out", model.tokens, channels, planes=2, bank=1)
    build.linear(prefix + "attn_out", block.proj, context.view(), out.view(),
                 depth=padded.reshape(channels, -1), residual=x.view(),
                 rescale=block.attn_residual)
    build.store_traced(prefix + "attn_out", out, channels)
    return out


class _Heads:
    """The operations of one block's heads and the tensors between them."""

    def __init__(self, build, model, block, prefix, norm, out):
        self.build, self.model, self.block = build, model, block
        self.prefix, self.norm, self.out = prefix, norm, out
        self.tensors = {}
        self.rescale = {name: build.broadcast_params(prefix + name, getattr(block, name))
                        for name in ("scores", "context")}

    def project(self, kind, head):
        """Compute Q, K or V of one head."""
        build, width = self.build, self.model.head_dim
        start = "qkv".index(kind) * self.model.channels + head * width
        part, layer = slice(start, start + width), self.block.qkv
        out = build.tensor(f"{self.prefix}{kind}.{head}", self.model.tokens, width,
                           bank={"q": 1, "k": 2, "v": 3}[kind])
        self.tensors[kind, head] = out
        rows = type(layer)(weight=layer.weight[part], bias=layer.bias[part],
                           requant=type(layer.requant)(mult=layer.requant.mult[part],
                                                       shift=layer.requant.shift[part]),
                           out_bits=layer.out_bits)
        build.linear(out.name, rows, self.norm.view(), out.view())

    def scores(self, head):
        """Compute Q.K^T of one head and its Shiftmax."""
        build, tokens = self.build, self.model.tokens
        name = f"{self.prefix}scores.{head}"
        scores = build.tensor(name, tokens, tokens, bank=2 + head)
        feed = build.fetch(name, self.tensors["k", head].view(), self.model.head_dim)
        for low, count in build.chunks(tokens):
            build.matmul(name, self.tensors["q", head].view(row=low, rows=count),
                         scores.view(row=low, rows=count), feed, self.rescale["scores"],
                         channels=tokens, bits=SCORE_BITS, flags=Flag.BROADCAST)
        attention = build.tensor(f"{self.prefix}attention.{head}", tokens, tokens,
                                 planes=build.config.attention_digits, bank=3 + head)
        build.vector(Opcode.SHIFTMAX, attention.name, scores.view(), attention.view(), tokens,
                     x0=-int(self.block.softmax_x0))
        self.tensors["scores", head], self.tensors["attention", head] = scores, attention

    def context(self, head):
        """Compute A.V of one head into its words of the context."""
        build, width, words = self.build, self.model.head_dim, self.build.words
        name = f"{self.prefix}context.{head}"
        feed = build.fetch(name, self.tensors["v", head].view(), width, Flag.TRANSPOSE)
        for low, count in build.chunks(self.model.tokens):
            build.matmul(name, self.tensors["attention", head].view(row=low, rows=count),
                         self.out.view(row=low, rows=count, word=head * words(width),
                                       words=words(width)),
                         feed, self.rescale["context"], channels=width,
                         bits=self.model.act_bits, flags=Flag.BROADCAST)

    def store(self):
        """Store the traced tensors of the heads."""
        build, model = self.build, self.model
        if not build.trace:
            return
        tokens, width, heads = model.tokens, model.head_dim, range(model.heads)
        build.store(self.prefix + "qkv", (tokens, 3 * model.channels), [
            (self.tensors[kind, head], 0,
             [(0, width, None, 0, index * model.channels + head * width)])
            for index, kind in enumerate("qkv") for head in heads])
        for name, bits in ("scores", 0), ("attention", build.config.act_bits):
            build.store(self.prefix + name, (model.heads, tokens, tokens), [
                (self.tensors[name, head], bits, [(0, tokens, head, 0, 0)]) for head in heads])
        lanes = build.words(width) * build.config.rows
        build.store(self.prefix + "context", (tokens, model.channels), [
            (self.out, 0, [(head * lanes, width, None, 0, head * width) for head in heads])])


def _mlp(build, model, block, prefix, x):
    """Lower the MLP half of a block; returns the tensor ``out``."""
    channels, hidden = model.channels, model.hidden
    norm = build.norm(prefix + "norm2", block.norm2, x.view(), channels, model.act_bits)
    fc1 = build.tensor(prefix + "fc1", model.tokens, hidden, bank=2)
    build.linear(prefix + "fc1", block.fc1, norm.view(), fc1.view())
    build.store_traced(prefix + "fc1", fc1, hidden)
    gelu = build.tensor(prefix + "gelu", model.tokens, hidden, bank=3)
    build.gelu(block, fc1.view(), gelu, hidden, model.act_bits)
    build.store_traced(prefix + "gelu", gelu, hidden)
    out = build.tensor(prefix + "out", model.tokens, channels, planes=2, bank=0)
    build.linear(prefix + "out", block.fc2, gelu.view(), out.view(), residual=x.view(),
                 rescale=block.mlp_residual)
    build.store_traced(prefix + "out", out, channels)
    return out


def _macs(model):
    tokens, channels = model.tokens, model.channels
    attention = 4 * tokens * channels * channels + 2 * tokens * tokens * channels
    total = model.patch.weight.size * (tokens - 1) + model.head.weight.size
    return int(total + len(model.blocks) * (attention + 2 * tokens * channels * model.hidden))
