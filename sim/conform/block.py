"""The published encoder block chained in exact integers, node by node (ARITHMETIC section 16)."""

import numpy as np

from systola.hw.contract.numbers import GELU_SHIFT, SOFTMAX_SHIFT
from systola.model.operators.requant import dyadic
from systola.model.quantization.uniform import exp_constant
from systola.sim.conform.golden import JUDGED, SHOWN, GoldenError

__all__ = ["check_block"]

_GELU_FACTOR = 1.702
_SIGMOID_BITS = 8


def check_block(report):
    """Chain the block of the file through the engine and compare every node it stores."""
    for node, value in _Chain(report.golden, report.engine).nodes():
        operator = f"block {node}"
        report.stored(operator, f"{node}.out_int", value, JUDGED)
        report.stored(operator, f"{node}.out_f32", value, SHOWN,
                      "whole chain in integers against the float32 run")


class _Chain:
    """The block's operators on the scales and weights of one file."""

    def __init__(self, golden, engine):
        self.golden, self.engine = golden, engine
        self.heads, self.dim = golden.integer("heads"), golden.integer("dim")
        if self.heads < 1 or self.dim % self.heads:
            raise GoldenError(f"{golden.name} heads must divide dim {self.dim}, "
                              f"not {self.heads!r}")

    def nodes(self):
        """Yield ``(name, integers)`` of every node, in execution order."""
        x, x_scale = self.golden.ints("x"), self.golden.floats("x_scale")
        y = yield from self._attention(x)
        x, x_scale = (yield from self._residual("qact2", y, "attn.qact3", x, x_scale)), \
            self.golden.floats("qact2.scale")
        y = yield from self._mlp(x)
        yield from self._residual("qact4", y, "mlp.qact2", x, x_scale)

    def _attention(self, x):
        x = yield from self._norm("norm1", "qact1", x)
        x = yield from self._linear("attn.qkv", x)
        x = yield from self._requant("attn.qact1", x, self._scale("attn.qkv"), 8)
        head_dim = self.dim // self.heads
        q, k, v = np.moveaxis(x.reshape(len(x), 3, self.heads, head_dim), 0, 2)
        scores = self.engine.matmul(q, k)
        yield "attn.matmul_1", scores
        scale = self._scale("attn.matmul_1") * np.float32(head_dim ** -0.5)
        scores = yield from self._requant("attn.qact_attn1", scores, scale, 8)
        bits = 1 - int(np.log2(self.golden.scale("attn.int_softmax.scale")))
        x0 = exp_constant(self._scale("attn.qact_attn1"), dtype=np.float32)
        attention = self.engine.shiftmax(scores, x0, SOFTMAX_SHIFT, bits)
        yield "attn.int_softmax", attention
        context = np.stack([self.engine.digit_matmul(*pair) for pair in zip(attention, v,
                                                                            strict=True)])
        yield "attn.matmul_2", context
        context = np.moveaxis(context, 0, 1).reshape(x.shape[0], self.dim)
        context = yield from self._requant("attn.qact2", context, self._scale("attn.matmul_2"), 8)
        y = yield from self._linear("attn.proj", context)
        return (yield from self._requant("attn.qact3", y, self._scale("attn.proj"), 16))

    def _mlp(self, x):
        x = yield from self._norm("norm2", "qact3", x)
        x = yield from self._linear("mlp.fc1", x)
        x = yield from self._requant("mlp.qact_gelu", x, self._scale("mlp.fc1"), 8)
        x0 = exp_constant(self._scale("mlp.qact_gelu"), _GELU_FACTOR, np.float32)
        x = self.engine.shiftgelu(x, x0, GELU_SHIFT, _SIGMOID_BITS)
        yield "mlp.act", x
        x = yield from self._requant("mlp.qact1", x, self._scale("mlp.act"), 8)
        y = yield from self._linear("mlp.fc2", x)
        return (yield from self._requant("mlp.qact2", y, self._scale("mlp.fc2"), 16))

    def _norm(self, norm, node, x):
        y = self.engine.layernorm(x) + self.golden.ints(f"{norm}.bias_int")
        return (yield from self._requant(node, y, self._scale(norm), 8))

    def _linear(self, node, x):
        acc = self.engine.linear(x, self.golden.ints(f"{node}.w_int"),
                                 self.golden.ints(f"{node}.b_int"))
        yield node, acc
        return acc

    def _requant(self, node, z, scale, bits):
        y = self.engine.requantize(z, *self._dyadic(scale, node), bits)
        yield node, y
        return y

    def _residual(self, node, y, source, x, x_scale):
        mult, shift = self._dyadic(self._scale(source), node)
        res_mult, res_shift = self._dyadic(x_scale, node)
        out = self.engine.requantize(y, mult, shift, 16, residual=x, res_mult=res_mult,
                                     res_shift=res_shift)
        yield node, out
        return out

    def _scale(self, node):
        return self.golden.floats(f"{node}.scale")

    def _dyadic(self, scale, node):
        return dyadic(scale.astype(np.float64) / float(self.golden.scale(f"{node}.scale")))
