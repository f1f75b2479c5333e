"""The whole integer Vision Transformer from the unit models: what every accelerator must equal."""

import numpy as np

from systola.hw.contract.config import GELU_SHIFT, SOFTMAX_SHIFT
from systola.model.operators.deferred import (
    deferred_context,
    deferred_softmax,
    exp_table,
    row_factors,
)
from systola.model.operators.layernorm import layernorm_requant
from systola.model.operators.matmul import linear, matmul
from systola.model.operators.requant import requantize
from systola.model.operators.shiftgelu import gelu_table, shiftgelu
from systola.model.operators.shiftmax import shiftmax

__all__ = ["forward", "forward_blocks", "tensor_names"]

SCORE_BITS = 8
_CHUNK = 32  # images at a time, so that a layer's tensors stay in the cache


def tensor_names(model):
    """Return the names of all tensors of `forward`, in the order they are computed."""
    parts = ("norm1", "qkv", "scores", "attention", "context", "attn_out", "norm2", "fc1", "gelu",
             "out")
    blocks = [f"blocks.{i}.{part}" for i in range(len(model.blocks)) for part in parts]
    return ["embed", *blocks, "norm", "logits"]


def forward(model, codes, *, keep=None):
    """Run the integer network and return its tensors by name.

    Parameters
    ----------
    model : systola.model.networks.integer_vit.IntegerVit
        The quantized network.
    codes : int array (T-1, P) or (B, T-1, P)
        Flattened patches at the input scale, `model.act_bits` signed bits.
    keep : collection of str, optional
        Names to return; all of `tensor_names` by default.

    Returns
    -------
    dict of str to int64 array
        ``embed`` (T, C); of each block ``norm1`` (T, C), ``qkv`` (T, 3C), ``scores`` and
        ``attention`` (heads, T, T), ``context``, ``attn_out`` and ``norm2`` (T, C), ``fc1`` and
        ``gelu`` (T, hidden), ``out`` (T, C); ``norm`` (1, C) and ``logits`` (classes,). A batch
        adds a leading axis to all. Deferred ``attention`` are the exponentials, 0 to 128.

    Raises
    ------
    ValueError
        If `codes` has another shape or values out of range, or `keep` an unknown name.
    """
    codes = np.asarray(codes)
    patch = (model.tokens - 1, model.patch.weight.shape[1])
    if codes.ndim not in (2, 3) or codes.shape[-2:] != patch:
        raise ValueError(f"codes must be of shape {patch} or (B, {patch[0]}, {patch[1]}), "
                         f"not {codes.shape}")
    limit = 1 << model.act_bits - 1
    if not np.issubdtype(codes.dtype, np.integer) or (codes.size and not (
            -limit <= codes.min() <= codes.max() < limit)):
        raise ValueError(f"codes must be integers from {-limit} to {limit - 1}")
    return _chunked(_network, model, codes, _kept(tensor_names(model), keep))


def forward_blocks(model, x, *, keep=None):
    """Run the encoder blocks alone and return their tensors by name.

    Parameters
    ----------
    model : systola.model.networks.integer_vit.IntegerVit
        The quantized network.
    x : int array (T, C) or (B, T, C)
        Residual stream at the scale of ``embed``, 16 bits.
    keep : collection of str, optional
        Names to return; all tensors ``blocks.*`` of `tensor_names` by default.

    Returns
    -------
    dict of str to int64 array
        As `forward`.

    Raises
    ------
    ValueError
        If `x` has another shape or values out of range, or `keep` an unknown name.
    """
    x, shape = np.asarray(x), (model.tokens, model.channels)
    if x.ndim not in (2, 3) or x.shape[-2:] != shape:
        raise ValueError(f"x must be of shape {shape} or (B, {shape[0]}, {shape[1]}), "
                         f"not {x.shape}")
    if not np.issubdtype(x.dtype, np.integer) or (x.size and not (
            -1 << 15 <= x.min() <= x.max() < 1 << 15)):
        raise ValueError("x must be integers from -32768 to 32767")
    names = [name for name in tensor_names(model) if name.startswith("blocks.")]
    return _chunked(_only_blocks, model, x, _kept(names, keep))


def _kept(names, keep):
    keep = set(names) if keep is None else set(keep)
    if not keep <= set(names):
        raise ValueError(f"keep must name tensors of the model, not {sorted(keep - set(names))}")
    return keep


def _chunked(function, model, inputs, keep):
    """Run ``function(model, part, keep)`` on int64 `inputs`, a batch in parts."""
    if inputs.ndim == 2:
        return function(model, inputs.astype(np.int64), keep)
    parts = [function(model, inputs[i:i + _CHUNK].astype(np.int64), keep)
             for i in range(0, max(len(inputs), 1), _CHUNK)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _network(model, codes, keep):
    """Run `codes` (..., T-1, P) and return the tensors in `keep`."""
    x = _embed(model, codes)
    kept = {"embed": x} if "embed" in keep else {}
    x = _blocks(model, x, keep, kept)
    x = _norm(model, model.norm, x[..., :1, :])
    last = {"norm": x, "logits": _layer(model.head, x)[..., 0, :]}
    return kept | {name: value for name, value in last.items() if name in keep}


def _only_blocks(model, x, keep):
    kept = {}
    _blocks(model, x, keep, kept)
    return kept


def _blocks(model, x, keep, kept):
    """Run `x` (..., T, C) through all blocks, put the tensors in `keep` into `kept`, return x."""
    for i, block in enumerate(model.blocks):
        for half in _attention, _mlp:
            for name, value in half(model, block, x):
                if f"blocks.{i}.{name}" in keep:
                    kept[f"blocks.{i}.{name}"] = value
            x = value
    return x


def _embed(model, codes):
    """Return the tokens (..., T, C): the class row, then the patches plus their positions."""
    patches = _layer(model.patch, codes, model.position, model.position_residual)
    tokens = np.empty((*patches.shape[:-2], model.tokens, model.channels), np.int64)
    tokens[..., 0, :] = model.cls_row
    tokens[..., 1:, :] = patches
    return tokens


def _attention(model, block, x):
    """Yield the named tensors of the attention half of `block`; the last one is its output."""
    norm = _norm(model, block.norm1, x)
    yield "norm1", norm
    qkv = _layer(block.qkv, norm)
    yield "qkv", qkv
    q, k, v = _heads(qkv, 3 * model.heads, 3)
    scores = _rescale(matmul(q, k), block.scores, SCORE_BITS)
    yield "scores", scores
    if model.attention == "deferred":
        attention, sums = deferred_softmax(scores, exp_table(block.softmax_x0))
        yield "attention", attention
        factors = row_factors(sums, block.context.mult, model.mult_bits)
        context = deferred_context(attention, factors, v, block.context.shift, model.act_bits)
    else:
        attention = shiftmax(scores, block.softmax_x0, SOFTMAX_SHIFT, model.attention_bits)
        yield "attention", attention
        context = _rescale(matmul(attention, np.swapaxes(v, -1, -2)), block.context,
                           model.act_bits)
    context = np.swapaxes(context, -3, -2).reshape(x.shape)
    yield "context", context
    yield "attn_out", _layer(block.proj, context, x, block.attn_residual)


def _mlp(model, block, x):
    """Yield the named tensors of the MLP half of `block`; the last one is its output."""
    norm = _norm(model, block.norm2, x)
    yield "norm2", norm
    fc1 = _layer(block.fc1, norm)
    yield "fc1", fc1
    if model.gelu == "table":
        table = gelu_table(block.gelu_x0, block.gelu.mult, block.gelu.shift, model.act_bits)
        gelu = table.astype(np.int64)[fc1 + 128]
    else:
        gelu = _rescale(shiftgelu(fc1, block.gelu_x0, GELU_SHIFT), block.gelu, model.act_bits)
    yield "gelu", gelu
    yield "out", _layer(block.fc2, gelu, x, block.mlp_residual)


def _heads(qkv, count, groups):
    """Split (..., T, groups*C) into `groups` arrays of (..., heads, T, head_dim)."""
    split = qkv.reshape(*qkv.shape[:-1], count, qkv.shape[-1] // count)
    return np.split(np.swapaxes(split, -3, -2), groups, axis=-3)


def _norm(model, norm, x):
    return layernorm_requant(x, norm.bias, norm.requant.mult, norm.requant.shift, model.act_bits,
                             model.norm_start)


def _layer(layer, x, residual=None, rescale=None):
    """Return the requantized output of a `Linear`, with the rescaled residual if there is one."""
    extra = {} if residual is None else {"residual": residual, "res_mult": rescale.mult,
                                         "res_shift": rescale.shift}
    return requantize(linear(x, layer.weight, layer.bias), layer.requant.mult, layer.requant.shift,
                      layer.out_bits, symmetric=layer.symmetric, **extra)


def _rescale(z, requant, bits):
    return requantize(z, requant.mult, requant.shift, bits)
