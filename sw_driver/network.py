"""The network as a sequence of operations: what is computed, in which order, on which tensors.

The order is a valid sequential program. It is chosen so that engines overlap: the scores of a head
come early so that Shiftmax runs while the array multiplies on, and V is computed while the first
scores are normalised.
"""

import numpy as np

from systola.hw.isa import Flag, Opcode
from systola.model.integer import Dyadic, Linear
from systola.sw_driver.checks import SCORE_BITS
from systola.sw_driver.layout import Group, Tensor
from systola.sw_driver.lowering import Lowering, cut
from systola.sw_driver.packing import code_words, split_planes

__all__ = ["lower"]


def lower(model, config, *, trace, param_words):
    """Return the `Lowering` of the complete network, its operations not yet placed."""
    build = Lowering(config, param_words=param_words, trace=trace)
    x = _embed(build, model)
    for index, block in enumerate(model.blocks):
        prefix = f"blocks.{index}."
        x = _attention(build, model, block, prefix, x)
        x = _mlp(build, model, block, prefix, x)
    norm = build.norm("norm", model.norm, x.view(rows=1), model.channels, model.act_bits)
    logits = build.tensor("logits", 1, model.classes, planes=2, group=Group.PROJECTED)
    build.linear("logits", model.head, norm.view(), logits.view())
    build.declare("logits", (model.classes,))
    build.store("logits", logits, [(0, model.classes, None, 0, 0)])
    build.macs = _macs(model)
    return build


def _embed(build, model):
    """Class row by LOAD, patches by MATMUL with the position as residual."""
    tokens, channels, depth = model.tokens, model.channels, model.patch.weight.shape[1]
    patches = build.tensor("patches", tokens - 1, depth)
    codes = np.zeros((tokens - 1, depth), np.int64)
    load = build.load(patches, code_words(codes, build.config))
    build.inputs.append(("patches", load, tokens - 1, depth))
    position = build.tensor("position", tokens - 1, channels, planes=2,
                            group=Group.PROJECTED)
    build.load(position, split_planes(model.position, build.config))
    embed = build.tensor("embed", tokens, channels, planes=2, group=Group.SCORES)
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
    context = Tensor(prefix + "context", model.tokens, heads * build.words(width))
    work = _Heads(build, model, block, prefix, norm, context)
    if work.merged():
        work.project([(kind, head) for kind in "qk" for head in range(heads)])
        work.scores(0)
        work.project([("v", head) for head in range(heads)])
        for head in range(1, heads):
            work.scores(head)
            work.context(head - 1)
    else:
        work.one_by_one()
    work.context(heads - 1)
    work.store_context()
    padded = np.zeros((channels, heads, build.words(width) * build.config.rows), np.int64)
    padded[:, :, :width] = np.reshape(block.proj.weight, (channels, heads, width))
    out = build.tensor(prefix + "attn_out", model.tokens, channels, planes=2,
                       group=Group.PROJECTED)
    build.linear(prefix + "attn_out", block.proj, context.view(), out.view(),
                 weight=padded.reshape(channels, -1), residual=x.view(),
                 rescale=block.attn_residual)
    build.store_traced(prefix + "attn_out", out, channels)
    return out


class _Heads:
    """The operations of one block's heads and the tensors between them."""

    def __init__(self, build, model, block, prefix, norm, out):
        self.build, self.model, self.block = build, model, block
        self.prefix, self.norm, self.out = prefix, norm, out
        self.views, self.attention = {}, {}
        if build.trace:
            tokens, square = model.tokens, (model.heads, model.tokens, model.tokens)
            for name, shape in (("qkv", (tokens, 3 * model.channels)), ("scores", square),
                                ("attention", square), ("context", (tokens, model.channels))):
                build.declare(prefix + name, shape)
        self.rescale = {name: build.broadcast_params(prefix + name, getattr(block, name))
                        for name in ("scores", "context")}

    def merged(self):
        """Return whether heads side by side, padded to words, need fewer tiles than each alone."""
        cols, heads, width = self.build.config.cols, self.model.heads, self.model.head_dim
        padded = self.build.words(width) * self.build.config.rows
        together = sum(-(-((count - 1) * padded + width) // cols) for count in (2 * heads, heads))
        return together < 3 * heads * -(-width // cols)

    def one_by_one(self):
        """Order the heads so that Shiftmax runs beside the projections of other heads."""
        heads = self.model.heads
        for head in range(heads):
            self.project([("q", head)])
            if head:
                self.scores(head - 1)
            self.project([("k", head)])
        for head in range(heads):
            self.project([("v", head)])
            if head == 0:
                self.scores(heads - 1)
            else:
                self.context(head - 1)

    def project(self, parts):
        """Compute a list of (``q``, ``k`` or ``v``, head), side by side, each from a word on."""
        build, width, layer = self.build, self.model.head_dim, self.block.qkv
        words = build.words(width)
        rows = np.arange(width)
        source = np.full((len(parts), words * build.config.rows), -1)
        for index, (kind, head) in enumerate(parts):
            source[index, :width] = rows + "qkv".index(kind) * self.model.channels + head * width
        source = source.reshape(-1)[:source.size - source.shape[1] + width]
        kind, head = parts[0]
        name = f"{self.prefix}{kind}.{head}"
        out = Tensor(name, self.model.tokens, len(parts) * words,
                     group=Group.PROJECTED)
        build.linear(name, _rows(layer, source), self.norm.view(), out.view())
        if build.trace:
            lanes = words * build.config.rows
            build.store(self.prefix + "qkv", out, [
                (index * lanes, width, None, 0,
                 "qkv".index(kind) * self.model.channels + head * width)
                for index, (kind, head) in enumerate(parts)])
        for index, part in enumerate(parts):
            self.views[part] = out.view(word=index * words, words=words)

    def scores(self, head):
        """Compute Q.K^T of one head and its Shiftmax."""
        build, tokens = self.build, self.model.tokens
        name = f"{self.prefix}scores.{head}"
        scores = build.tensor(name, tokens, tokens, group=Group.SCORES)
        feed = build.fetch(name, self.views["k", head], self.model.head_dim)
        for low, count in build.chunks(tokens):
            build.matmul(name, cut(self.views["q", head], low, count),
                         scores.view(row=low, rows=count), feed, self.rescale["scores"],
                         channels=tokens, bits=SCORE_BITS, flags=Flag.BROADCAST)
        attention = build.tensor(f"{self.prefix}attention.{head}", tokens, tokens,
                                 planes=build.config.attention_digits, group=Group.ATTENTION)
        build.vector(Opcode.SHIFTMAX, attention.name, scores.view(), attention.view(), tokens,
                     x0=-int(self.block.softmax_x0), numerator=0, factor_base=0)
        self.attention[head] = attention
        if build.trace:
            build.store(self.prefix + "scores", scores, [(0, tokens, head, 0, 0)])
            build.store(self.prefix + "attention", attention, [(0, tokens, head, 0, 0)],
                        build.config.act_bits)

    def context(self, head):
        """Compute A.V of one head into its words of the context."""
        build, width, words = self.build, self.model.head_dim, self.build.words
        name = f"{self.prefix}context.{head}"
        feed = build.fetch(name, self.views["v", head], width, Flag.TRANSPOSE)
        for low, count in build.chunks(self.model.tokens):
            build.matmul(name, self.attention[head].view(row=low, rows=count),
                         self.out.view(row=low, rows=count, word=head * words(width),
                                       words=words(width)),
                         feed, self.rescale["context"], channels=width,
                         bits=self.model.act_bits, flags=Flag.BROADCAST | Flag.UNSIGNED)

    def store_context(self):
        """Store the context of all heads when tracing."""
        build, width = self.build, self.model.head_dim
        lanes = build.words(width) * build.config.rows
        if build.trace:
            build.store(self.prefix + "context", self.out, [
                (head * lanes, width, None, 0, head * width)
                for head in range(self.model.heads)])


def _mlp(build, model, block, prefix, x):
    """Lower the MLP half of a block; returns the tensor ``out``."""
    channels, hidden = model.channels, model.hidden
    norm = build.norm(prefix + "norm2", block.norm2, x.view(), channels, model.act_bits)
    fc1 = build.tensor(prefix + "fc1", model.tokens, hidden, group=Group.SCORES)
    build.linear(prefix + "fc1", block.fc1, norm.view(), fc1.view())
    build.store_traced(prefix + "fc1", fc1, hidden)
    gelu = build.tensor(prefix + "gelu", model.tokens, hidden, group=Group.ATTENTION)
    build.gelu(block, fc1.view(), gelu, hidden, model.act_bits)
    build.store_traced(prefix + "gelu", gelu, hidden)
    out = build.tensor(prefix + "out", model.tokens, channels, planes=2,
                       group=Group.SCORES)
    build.linear(prefix + "out", block.fc2, gelu.view(), out.view(), residual=x.view(),
                 rescale=block.mlp_residual)
    build.store_traced(prefix + "out", out, channels)
    return out


def _macs(model):
    tokens, channels = model.tokens, model.channels
    attention = 4 * tokens * channels * channels + 2 * tokens * tokens * channels
    total = model.patch.weight.size * (tokens - 1) + model.head.weight.size
    return int(total + len(model.blocks) * (attention + 2 * tokens * channels * model.hidden))


def _rows(layer, source):
    """Return `layer` with its output channels in the order of `source`; -1 is an empty one."""
    empty = source < 0

    def pick(values):
        values = np.asarray(values)[source]
        values[empty] = 0
        return values

    return Linear(weight=pick(layer.weight), bias=pick(layer.bias), out_bits=layer.out_bits,
                  requant=Dyadic(mult=pick(layer.requant.mult), shift=pick(layer.requant.shift)))
