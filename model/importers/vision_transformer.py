"""The float graph of a Vision Transformer from parameters in the naming of timm."""

import numpy as np

from systola.model.graph.graph import Graph
from systola.model.graph.nodes import (
    Activation,
    Constant,
    Context,
    GraphError,
    Input,
    Linear,
    Mean,
    Norm,
    Rows,
    Scores,
    Softmax,
)

__all__ = ["POOLINGS", "block_shapes", "vision_transformer"]

POOLINGS = ("token", "mean")
"""What feeds the head: the first class token, or the mean over the patches."""


def block_shapes(index, channels, hidden):
    """Return the names and shapes of the parameters of encoder block `index`."""
    shapes = {"norm1.weight": (channels,), "norm1.bias": (channels,),
              "attn.qkv.weight": (3 * channels, channels), "attn.qkv.bias": (3 * channels,),
              "attn.proj.weight": (channels, channels), "attn.proj.bias": (channels,),
              "norm2.weight": (channels,), "norm2.bias": (channels,),
              "mlp.fc1.weight": (hidden, channels), "mlp.fc1.bias": (hidden,),
              "mlp.fc2.weight": (channels, hidden), "mlp.fc2.bias": (channels,)}
    return {f"blocks.{index}.{name}": shape for name, shape in shapes.items()}


def vision_transformer(parameters, *, heads, blocks, prefix, position, eps=1e-6,
                       pooling="token", meta=None):
    """Return the float graph of an encoder of patches.

    Parameters
    ----------
    parameters : dict of str to float32 ndarray
        ``patch_embed.proj`` (C, patch_dim), ``blocks.i.*`` as in `block_shapes`, ``norm``, ``head``
        and, where there are two heads, ``head_dist`` of the second token: weights and biases.
    heads, blocks : int
        Attention heads and encoder blocks.
    prefix : ndarray (n, C)
        Rows before the patches, positions included: class tokens, then registers. With `pooling`
        ``mean`` there may be none.
    position : ndarray (P, C)
        Position embeddings of the patches.
    eps : float
        Of the layer norms.
    pooling : str
        One of `POOLINGS`. The mean comes before the last norm.
    meta : dict, optional
        Of the graph.

    Raises
    ------
    GraphError
        If shapes do not fit, or there is no token for a head.
    """
    p = parameters
    patches, prefixes = len(position), len(prefix)
    _check_pooling(pooling, prefixes, 1 + ("head_dist.weight" in p))
    nodes = [
        Input(name="patches", rows=patches, channels=p["patch_embed.proj.weight"].shape[1]),
        Constant(name="position", values=np.asarray(position, np.float32)),
        _linear(p, "patch_embed.proj", "patches", name="patch_embed", residual="position"),
    ]
    stream = "patch_embed"
    if prefixes:
        nodes += [Constant(name="prefix", values=np.asarray(prefix, np.float32)),
                  Rows(name="embed", sources=("prefix", "patch_embed"), index=np.array(
                      [(0, row) for row in range(prefixes)]
                      + [(1, row) for row in range(patches)]))]
        stream = "embed"
    for index in range(blocks):
        nodes += _block(p, f"blocks.{index}", stream, heads, prefixes + patches, eps)
        stream = f"blocks.{index}.out"
    return Graph(nodes=(*nodes, *_head(p, stream, prefixes, patches, pooling, eps)),
                 outputs=("logits",), meta=meta or {})


def _check_pooling(pooling, prefixes, heads):
    """Raise `GraphError` unless so many classifying heads have what they read."""
    if pooling not in POOLINGS:
        raise GraphError(f"pooling must be {' or '.join(map(repr, POOLINGS))}, not {pooling!r}")
    if pooling == "mean" and heads > 1:
        raise GraphError("a distilled network must have pooling 'token', not 'mean'")
    if pooling == "token" and prefixes < heads:
        raise GraphError(f"prefix must have at least {heads} rows for the heads, not {prefixes}")


def _block(p, name, stream, heads, tokens, eps):
    channels = p[f"{name}.norm1.weight"].shape[0]
    head_dim, qkv = channels // heads, f"{name}.qkv"
    yield _norm(p, f"{name}.norm1", stream, eps)
    yield _linear(p, f"{name}.attn.qkv", f"{name}.norm1", name=qkv)
    yield Scores(name=f"{name}.scores", query=qkv, key=qkv, key_channel=channels, heads=heads,
                 head_dim=head_dim, sequences=((0, tokens),), scale=float(head_dim ** -0.5))
    yield Softmax(name=f"{name}.attention", input=f"{name}.scores")
    yield Context(name=f"{name}.context", attention=f"{name}.attention", value=qkv,
                  value_channel=2 * channels, head_dim=head_dim)
    yield _linear(p, f"{name}.attn.proj", f"{name}.context", name=f"{name}.attn_out",
                  residual=stream)
    yield _norm(p, f"{name}.norm2", f"{name}.attn_out", eps)
    yield _linear(p, f"{name}.mlp.fc1", f"{name}.norm2", name=f"{name}.fc1")
    yield Activation(name=f"{name}.gelu", input=f"{name}.fc1")
    yield _linear(p, f"{name}.mlp.fc2", f"{name}.gelu", name=f"{name}.out",
                  residual=f"{name}.attn_out")


def _head(p, stream, prefixes, patches, pooling, eps):
    if pooling == "mean":
        if prefixes:
            yield Rows(name="pooled_rows", sources=(stream,), index=np.array(
                [(0, prefixes + row) for row in range(patches)]))
        yield Mean(name="pooled", input="pooled_rows" if prefixes else stream)
    else:
        yield Rows(name="pooled", sources=(stream,), index=np.array([(0, 0)]))
    yield _norm(p, "norm", "pooled", eps)
    if "head_dist.weight" not in p:
        yield _linear(p, "head", "norm", name="logits")
        return
    # Two heads on two tokens, averaged: the second one's logits are the first one's residual.
    half = {f"half.{kind}": p[f"head_dist.{kind}"] / 2 for kind in ("weight", "bias")}
    half |= {f"first.{kind}": p[f"head.{kind}"] / 2 for kind in ("weight", "bias")}
    yield Rows(name="pooled_dist", sources=(stream,), index=np.array([(0, 1)]))
    yield _norm(p, "norm", "pooled_dist", eps, name="norm_dist")
    yield _linear(half, "half", "norm_dist", name="logits_dist")
    yield _linear(half, "first", "norm", name="logits", residual="logits_dist")


def _linear(p, source, operand, *, name, residual=None):
    return Linear(name=name, input=operand, weight=p[f"{source}.weight"],
                  bias=p[f"{source}.bias"], residual=residual)


def _norm(p, source, operand, eps, name=None):
    return Norm(name=name or source, input=operand, weight=p[f"{source}.weight"],
                bias=p[f"{source}.bias"], eps=eps)
