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

__all__ = ["POOLINGS", "block_shapes", "linear", "norm", "vision_transformer"]

POOLINGS = "token", "mean", "mean_of_norm", "token_and_mean", "rows"
"""What the head reads: the norm of the first token, the norm of the mean over the patches, the mean
over the norms of the patches, or first token and mean of patches, both normed, beside each other;
or every row, normed.
"""


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
                       pooling="token", activation="gelu", meta=None):
    """Return the float graph of an encoder of patches.

    Parameters
    ----------
    parameters : dict of str to float32 ndarray
        ``patch_embed.proj`` (C, patch_dim), ``blocks.i.*`` as in `block_shapes`, ``norm``, ``head``
        and, where there are two heads, ``head_dist`` of the second token: weights and biases.
        Linear layers may lack their bias. ``norm_pre`` is before the first block, and
        ``blocks.i.attn.q_norm`` and ``k_norm`` are of a head's channels, where there are any.
        Without ``head`` the features are the result, without ``norm`` they are not normed.
    heads, blocks : int
        Attention heads and encoder blocks.
    prefix : ndarray (n, C)
        Rows before the patches, positions included: class tokens, then registers. With a `pooling`
        of patches alone there may be none.
    position : ndarray (P, C)
        Position embeddings of the patches.
    eps : float
        Of the layer norms.
    pooling : str
        One of `POOLINGS`.
    activation : str
        One of `systola.model.graph.nodes.FUNCTIONS`.
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
        linear(p, "patch_embed.proj", "patches", name="patch_embed", residual="position"),
    ]
    stream = "patch_embed"
    if prefixes:
        nodes += [Constant(name="prefix", values=np.asarray(prefix, np.float32)),
                  Rows(name="embed", sources=("prefix", "patch_embed"), index=np.array(
                      [(0, row) for row in range(prefixes)]
                      + [(1, row) for row in range(patches)]))]
        stream = "embed"
    if "norm_pre.weight" in p:
        nodes.append(norm(p, "norm_pre", stream, eps))
        stream = "norm_pre"
    for index in range(blocks):
        nodes += _block(p, f"blocks.{index}", stream, heads, prefixes + patches, eps, activation)
        stream = f"blocks.{index}.out"
    nodes += _head(p, stream, prefixes, patches, pooling, eps)
    return Graph(nodes=tuple(nodes), outputs=(nodes[-1].name,), meta=meta or {})


def _check_pooling(pooling, prefixes, heads):
    """Raise `GraphError` unless so many classifying heads have what they read."""
    if pooling not in POOLINGS:
        raise GraphError(f"pooling must be {' or '.join(map(repr, POOLINGS))}, not {pooling!r}")
    if pooling != "token" and heads > 1:
        raise GraphError(f"a distilled network must have pooling 'token', not {pooling!r}")
    if pooling.startswith("token") and prefixes < heads:
        raise GraphError(f"prefix must have at least {heads} rows for the heads, not {prefixes}")


def _block(p, name, stream, heads, tokens, eps, activation):
    yield norm(p, f"{name}.norm1", stream, eps)
    yield from _attention(p, name, heads, tokens, eps)
    yield linear(p, f"{name}.attn.proj", f"{name}.context", name=f"{name}.attn_out",
                 residual=stream)
    yield norm(p, f"{name}.norm2", f"{name}.attn_out", eps)
    yield linear(p, f"{name}.mlp.fc1", f"{name}.norm2", name=f"{name}.fc1")
    yield Activation(name=f"{name}.gelu", input=f"{name}.fc1", function=activation)
    yield linear(p, f"{name}.mlp.fc2", f"{name}.gelu", name=f"{name}.out",
                 residual=f"{name}.attn_out")


def _attention(p, name, heads, tokens, eps):
    """Yield the nodes from Q, K and V to the context; with norms of Q and K they are apart."""
    channels = len(p[f"{name}.attn.proj.weight"])
    head_dim, qkv = channels // heads, f"{name}.qkv"
    query, key, value, first = qkv, qkv, qkv, channels
    if f"{name}.attn.q_norm.weight" in p:
        query, key, value, first = f"{name}.q_norm", f"{name}.k_norm", f"{name}.v", 0
        for index, part in enumerate("qkv"):
            rows = slice(index * channels, (index + 1) * channels)
            cut = {f"{part}.{kind}": p[f"{name}.attn.qkv.{kind}"][rows]
                   for kind in ("weight", "bias") if f"{name}.attn.qkv.{kind}" in p}
            yield linear(cut, part, f"{name}.norm1", name=f"{name}.{part}")
        for part in "qk":
            wide = {f"norm.{kind}": np.tile(p[f"{name}.attn.{part}_norm.{kind}"], heads)
                    for kind in ("weight", "bias")}
            yield norm(wide, "norm", f"{name}.{part}", eps, name=f"{name}.{part}_norm",
                       groups=heads)
    else:
        yield linear(p, f"{name}.attn.qkv", f"{name}.norm1", name=qkv)
    yield Scores(name=f"{name}.scores", query=query, key=key, key_channel=first, heads=heads,
                 head_dim=head_dim, sequences=((0, tokens),), scale=float(head_dim ** -0.5))
    yield Softmax(name=f"{name}.attention", input=f"{name}.scores")
    yield Context(name=f"{name}.context", attention=f"{name}.attention", value=value,
                  value_channel=2 * first, head_dim=head_dim)


def _head(p, stream, prefixes, patches, pooling, eps):
    """Yield the nodes behind the last block: pooling, norm, heads; the last is the result."""
    pooled, first = "pooled", None
    if pooling == "rows":
        stream = yield from _normed(p, stream, eps, "norm")
    elif pooling.startswith("token"):
        yield Rows(name="pooled", sources=(stream,), index=np.array([(0, 0)]))
        first = yield from _normed(p, "pooled", eps, "norm")
    if pooling not in ("token", "rows"):
        pooled = "pooled_patches" if first else "pooled"
        if prefixes:
            yield Rows(name="pooled_rows", sources=(stream,), index=np.array(
                [(0, prefixes + row) for row in range(patches)]))
            stream = "pooled_rows"
        if pooling == "mean":
            yield Mean(name=pooled, input=stream)
            stream = yield from _normed(p, pooled, eps, "norm")
        else:
            stream = yield from _normed(p, stream, eps, "norm_patches")
            yield Mean(name=pooled, input=stream)
            stream = pooled
    if "head.weight" not in p:
        return
    if pooling == "token":
        yield from _token_heads(p, stream, first, eps)
    elif pooling == "token_and_mean":
        # One head on two vectors is two heads, of which one has the other's logits as residual.
        channels = p["head.weight"].shape[1] // 2
        halves = {"token.weight": p["head.weight"][:, :channels], "token.bias": p["head.bias"],
                  "mean.weight": p["head.weight"][:, channels:]}
        yield linear(halves, "mean", stream, name="logits_mean")
        yield linear(halves, "token", first, name="logits", residual="logits_mean")
    else:
        yield linear(p, "head", stream, name="logits")


def _token_heads(p, stream, first, eps):
    """Yield the head on the first token, and the average with that on the second."""
    if "head_dist.weight" not in p:
        yield linear(p, "head", first, name="logits")
        return
    half = {f"half.{kind}": p[f"head_dist.{kind}"] / 2 for kind in ("weight", "bias")}
    half |= {f"first.{kind}": p[f"head.{kind}"] / 2 for kind in ("weight", "bias")}
    yield Rows(name="pooled_dist", sources=(stream,), index=np.array([(0, 1)]))
    second = yield from _normed(p, "pooled_dist", eps, "norm_dist")
    # The second one's logits are the first one's residual.
    yield linear(half, "half", second, name="logits_dist")
    yield linear(half, "first", first, name="logits", residual="logits_dist")


def _normed(p, source, eps, name):
    """Yield the last norm of `source`, if there is one; returns what it makes."""
    if "norm.weight" not in p:
        return source
    yield norm(p, "norm", source, eps, name=name)
    return name


def linear(p, source, operand, *, name, residual=None):
    """Return a `Linear` node with the parameters `source`; without a bias there it is zero."""
    weight = p[f"{source}.weight"]
    bias = p.get(f"{source}.bias")
    return Linear(name=name, input=operand, weight=weight, residual=residual,
                  bias=np.zeros(len(weight), np.float32) if bias is None else bias)


def norm(p, source, operand, eps, *, name=None, groups=1):
    """Return a `Norm` node with the parameters `source`, by default of that name."""
    return Norm(name=name or source, input=operand, weight=p[f"{source}.weight"],
                bias=p[f"{source}.bias"], eps=eps, groups=groups)
