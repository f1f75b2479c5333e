"""Float32 Vision Transformer in numpy: the reference for accuracy, ranges and pictures."""

from math import erf

import numpy as np

__all__ = ["forward", "gelu", "softmax"]


def forward(vit, patches, hook=None):
    """Return the logits, float32 (B, classes), of a batch of patches.

    Parameters
    ----------
    vit : systola.model.importers.checkpoint.FloatVit
        The model.
    patches : ndarray
        Normalised patches, (B, T-1, patch_dim).
    hook : callable, optional
        Called as ``hook(name, array)`` with ``input``, then every stored tensor under the name it
        has in the integer model (docs/ARCHITECTURE.md section 5) with a leading batch axis.

    Raises
    ------
    ValueError
        If the patches do not fit the model.
    """
    hook = hook or _ignore
    p = vit.parameters
    patches = np.asarray(patches, dtype=np.float32)
    if patches.ndim != 3 or patches.shape[1:] != (vit.tokens - 1, vit.patch_dim):
        raise ValueError(f"patches must be of shape (B, {vit.tokens - 1}, {vit.patch_dim}), "
                         f"not {patches.shape}")
    hook("input", patches)
    x = _linear(patches, p, "patch_embed.proj")
    first = np.broadcast_to(p["cls_token"], (len(x), 1, vit.channels))
    x = np.concatenate([first, x], axis=1) + p["pos_embed"]
    hook("embed", x)
    for index in range(vit.blocks):
        x = _block(vit, f"blocks.{index}", x, hook)
    x = _norm(x[:, :1], p, "norm", vit.eps)
    hook("norm", x)
    logits = _linear(x[:, 0], p, "head")
    hook("logits", logits)
    return logits


def softmax(x):
    """Return the softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


_erf = np.frompyfunc(erf, 1, 1)
_GRID = np.linspace(-6, 6, 24001)
_GRID_GELU = _GRID * 0.5 * (1 + _erf(_GRID / np.sqrt(2)).astype(np.float64))


def gelu(x):
    """Return ``x * Phi(x)``, interpolated on a grid of 1/2000: within 1e-7 of the exact value."""
    inner = np.interp(x, _GRID, _GRID_GELU)
    return np.where(np.abs(x) < 6, inner, np.maximum(x, 0)).astype(np.float32)


def _block(vit, name, x, hook):
    p, heads = vit.parameters, vit.heads
    batch, tokens, channels = x.shape
    y = _norm(x, p, f"{name}.norm1", vit.eps)
    hook(f"{name}.norm1", y)
    y = _linear(y, p, f"{name}.attn.qkv")
    hook(f"{name}.qkv", y)
    q, k, v = y.reshape(batch, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) * np.float32((channels // heads) ** -0.5)
    hook(f"{name}.scores", scores)
    attention = softmax(scores)
    hook(f"{name}.attention", attention)
    context = (attention @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, channels)
    hook(f"{name}.context", context)
    x = x + _linear(context, p, f"{name}.attn.proj")
    hook(f"{name}.attn_out", x)
    y = _norm(x, p, f"{name}.norm2", vit.eps)
    hook(f"{name}.norm2", y)
    y = _linear(y, p, f"{name}.mlp.fc1")
    hook(f"{name}.fc1", y)
    y = gelu(y)
    hook(f"{name}.gelu", y)
    x = x + _linear(y, p, f"{name}.mlp.fc2")
    hook(f"{name}.out", x)
    return x


def _linear(x, p, name):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _norm(x, p, name, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(eps)) * p[f"{name}.weight"] + p[f"{name}.bias"]


def _ignore(name, array):
    pass
