"""Swin Transformers of timm, Microsoft and Hugging Face.

Attention in windows is attention in sequences of rows, gathered in window order. A shifted window
that wraps around the image consists of parts that must not see each other: they are sequences of
their own, so that no mask is needed.
"""

import re

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import SMALLEST, ModelError
from systola.model.graph.graph import Graph
from systola.model.graph.nodes import Activation, Context, Input, Mean, Rows, Scores, Softmax
from systola.model.importers.cropping import find_transform
from systola.model.importers.encoder_graph import (
    block_count,
    checked,
    note_classes,
    patch_shape,
)
from systola.model.importers.facts import number, pair, whole
from systola.model.importers.huggingface import find_activation, find_preprocessing
from systola.model.importers.normalisation import find_normalisation
from systola.model.importers.vision_transformer import linear, norm

__all__ = ["recognize", "swin_graph", "window_rows"]

_HEAD_DIM = 32
"""Channels of a head in every published Swin."""

_BLOCK = {"attention.output.dense": "attn.proj", "attention.o_proj": "attn.proj",
          "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
          "layernorm_before": "norm1", "layernorm_after": "norm2"}
_OUTER = {"embeddings.patch_embeddings.projection": "patch_embed.proj",
          "embeddings.norm": "patch_embed.norm", "layernorm": "norm", "classifier": "head.fc",
          "head": "head.fc"}
_QKV = re.compile(r"(.*)\.attention\.(?:self\.(query|key|value)|(q|k|v)_proj)\.(weight|bias)")
_TABLE = re.compile(r"\.attention\.(self|relative_position_bias)\.(?=relative_position_bias_table)")
_BUFFERS = re.compile(r".*(relative_position_index|attn_mask|embeddings\.mask_token)|mask_token")
"""Names of Hugging Face and Microsoft in timm's, and what can be computed from the sizes."""


def recognize(checkpoint):
    """Tell whether a checkpoint has the windows of a Swin Transformer."""
    return any(re.search(r"layers\.0\.blocks\.0\..*relative_position_bias_table", name)
               for name in checkpoint.tensors)


def swin_graph(checkpoint, facts):
    """Return the float graph of a Swin Transformer.

    Parameters
    ----------
    checkpoint : Checkpoint
    facts : Facts

    Raises
    ------
    ModelError
        If the network cannot be expressed, or what no file says is not given.
    """
    config = checkpoint.config
    tensors = _own_names(checkpoint.tensors)
    facts.note("family", "swin", "tensors")
    patch = patch_shape(tensors)
    note_classes(tensors, "head.fc.weight", config.get("num_classes"), facts)
    _find_images(checkpoint, facts, patch[1])
    arguments = config.get("model_args") or {}
    eps = facts.find("eps", (config.get("layer_norm_eps", arguments.get("eps")), "config.json"),
                     (1e-5 if config.get("architecture") else None, "timm's Swin"),
                     assume=(1e-5, "as in every Swin"), check=number(SMALLEST, 1))
    activation = find_activation({"hidden_act": config.get("hidden_act", arguments.get(
        "act_layer", "gelu"))}, facts, "swin")
    size = arguments.get("img_size", config.get("image_size", _input_size(config)))
    sides = facts.find("image_size", (size, "config.json"), assume=(
        [224, 224], "as most published Swins; no file says it"), check=pair)
    stages = block_count(tensors, "layers")
    window = _window(tensors, arguments, config, facts)
    builder = _Builder(tensors, patch, sides, window, eps, activation)
    heads = _heads(arguments.get("num_heads", config.get("num_heads")), builder.channels, stages,
                   facts)
    graph = builder.graph(stages, heads)
    unknown = sorted(tensors.keys() - builder.used)
    if unknown:
        raise ModelError(f"tensor {shown(unknown[0])} is not part of a Swin with {stages} stages")
    return Graph(nodes=graph.nodes, outputs=graph.outputs,
                 meta={**facts.meta(), "patch_size": patch[2]})


def _input_size(config):
    size = (config.get("pretrained_cfg") or {}).get("input_size")
    return size[1:] if isinstance(size, list) and len(size) == 3 else None


def _find_images(checkpoint, facts, planes):
    if checkpoint.preprocessor:
        find_preprocessing(checkpoint, facts, "swin", planes)
        return
    pretrained = checkpoint.config.get("pretrained_cfg") or {}
    find_normalisation(facts, planes, "swin", *(
        [(pretrained.get(name), "config.json"), (checkpoint.metadata.get(name), "metadata")]
        for name in ("mean", "std")))
    find_transform(facts, pretrained)


def _own_names(tensors):
    """Return tensors with timm's names: a downsampling belongs to the stage behind it."""
    own, parts = {}, {}
    for name, value in tensors.items():
        short = re.sub(r"^(swin\.)?(encoder\.)?", "", name)
        if _BUFFERS.fullmatch(short) or short.startswith("pooler."):
            continue
        match = _QKV.fullmatch(short)
        if match:
            role = (match[2] or match[3])[0]
            parts.setdefault((match[1], match[4]), {})[role] = value
            continue
        stem, _, what = short.rpartition(".")
        block = re.fullmatch(r"(layers\.\d+\.blocks\.\d+)\.(.*)", stem)
        if short.endswith("relative_position_bias_table"):
            short = _TABLE.sub(".attn.", short)
        elif block and block[2] in _BLOCK:
            short = f"{block[1]}.{_BLOCK[block[2]]}.{what}"
        elif stem in _OUTER:
            short = f"{_OUTER[stem]}.{what}"
        own[short] = value
    for (block, what), found in parts.items():
        if found.keys() != {"q", "k", "v"}:
            raise ModelError(f"{what} of queries, keys and values of {block} must be three tensors")
        own[f"{block}.attn.qkv.{what}"] = np.concatenate([found[role] for role in "qkv"])
    if any(name.startswith("layers.0.downsample.") for name in own):
        own = {re.sub(r"^layers\.(\d+)\.downsample", lambda match:
                      f"layers.{int(match[1]) + 1}.downsample", name): value
               for name, value in own.items()}
    return own


def _window(tensors, arguments, config, facts):
    """Return the side of a window, which the bias tables show."""
    table = tensors["layers.0.blocks.0.attn.relative_position_bias_table"]
    side = (round(len(table) ** 0.5) + 1) // 2
    said = arguments.get("window_size", config.get("window_size"))
    if len(table) != (2 * side - 1) ** 2 or said not in (None, side, [side, side]):
        raise ModelError(f"window_size must fit the relative positions, of which there are "
                         f"{len(table)}, not {shown(said)}")
    facts.note("window", side, "relative_position_bias_table")
    return side


def _heads(said, channels, stages, facts):
    """Return the heads of every stage."""
    usual = [channels * 2**stage // _HEAD_DIM for stage in range(stages)]
    fits = channels % _HEAD_DIM == 0
    heads = facts.find("heads", (said, "config.json"), assume=(
        usual, f"channels / {_HEAD_DIM}, as in every published Swin") if fits else None)
    if not isinstance(heads, list) or len(heads) != stages:
        raise ModelError(f"heads must be {stages} numbers, one a stage, not {shown(heads)}")
    return [whole(1, channels * 2**stage)(count) for stage, count in enumerate(heads)]


def window_rows(sides, window, shift):
    """Return the rows of an image in window order.

    Parameters
    ----------
    sides : (int, int)
        Rows and columns of tokens, multiples of `window`.
    window, shift : int
        Side of a window, and how far the windows are shifted down and right.

    Returns
    -------
    order : int array (tokens,)
        Token by place in window order.
    sequences : tuple of (int, int)
        First place and number of the tokens that see each other.
    offsets : int array (tokens, 2)
        Row and column within its window of the token at each place.
    """
    height, width = sides
    row, column = np.divmod(np.arange(height * width), width)
    # Windows lie on the image rolled up and left by the shift, as the publication has it.
    row, column = (row - shift) % height, (column - shift) % width
    region = np.zeros(height * width, np.int64)
    if shift:
        region = (row >= height - shift) * 2 + (column >= width - shift)
    place = row // window * (width // window) + column // window
    order = np.lexsort((column % window, row % window, region, place))
    groups = (place * 4 + region)[order]
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sequences = tuple((int(start), int(count)) for start, count in zip(
        starts, np.diff(starts, append=len(groups)), strict=True))
    return order, sequences, np.stack([row % window, column % window], axis=1)[order]


def _bias_index(sequences, offsets, window):
    """Return the entry of the bias table for every row and key, (rows, keys)."""
    index = np.zeros((len(offsets), max(count for _, count in sequences)), np.int64)
    for first, count in sequences:
        own = offsets[first:first + count]
        apart = own[:, None] - own[None] + window - 1
        index[first:first + count, :count] = apart[..., 0] * (2 * window - 1) + apart[..., 1]
    return index


class _Builder:
    """Makes the nodes of one network; `used` are the tensors that were read."""

    def __init__(self, tensors, patch, sides, window, eps, activation):
        self.tensors, self.window, self.eps, self.activation = tensors, window, eps, activation
        self.channels, self.planes, self.patch = patch[0], patch[1], patch[2]
        self.sides = [side // self.patch for side in sides]
        if any(side % self.patch for side in sides):
            raise ModelError(f"image_size must be a multiple of the patch size {self.patch}, not "
                             f"{sides[0]} x {sides[1]}")
        self.used = set()

    def take(self, name, *shape):
        """Return a checked parameter."""
        self.used.add(name)
        return checked(self.tensors, name, shape)

    def layer(self, name, outputs, inputs, bias=True):
        """Return weight and bias of a linear layer by name."""
        parameters = {f"{name}.weight": self.take(f"{name}.weight", outputs, inputs)}
        if bias:
            parameters[f"{name}.bias"] = self.take(f"{name}.bias", outputs)
        return parameters

    def norm(self, name, source, channels):
        """Return a norm node."""
        parameters = {f"{name}.{kind}": self.take(f"{name}.{kind}", channels)
                      for kind in ("weight", "bias")}
        return norm(parameters, name, source, self.eps)

    def graph(self, stages, heads):
        """Return the whole network."""
        return Graph(nodes=tuple(self.nodes(stages, heads)), outputs=(self.output,))

    def nodes(self, stages, heads):
        """Yield all nodes."""
        rows, width = self.sides[0] * self.sides[1], self.planes * self.patch**2
        yield Input(name="patches", rows=rows, channels=width)
        name = "patch_embed.proj"
        weight = self.take(f"{name}.weight", self.channels, self.planes, self.patch, self.patch)
        yield linear({f"{name}.weight": weight.reshape(self.channels, -1),
                      f"{name}.bias": self.take(f"{name}.bias", self.channels)}, name, "patches",
                     name="patch_embed")
        stream, channels = "patch_embed", self.channels
        if "patch_embed.norm.weight" in self.tensors:
            yield self.norm("patch_embed.norm", stream, channels)
            stream = "patch_embed.norm"
        for stage in range(stages):
            if stage:
                yield from self.merged(f"layers.{stage}.downsample", stream, channels)
                stream, channels = f"layers.{stage}.merged", 2 * channels
            for index in range(block_count(self.tensors, f"layers.{stage}.blocks")):
                name = f"layers.{stage}.blocks.{index}"
                yield from self.block(name, stream, channels, heads[stage], index % 2)
                stream = f"{name}.out"
        yield self.norm("norm", stream, channels)
        yield Mean(name="pooled", input="norm")
        self.output = "pooled"
        if "head.fc.weight" in self.tensors:
            classes = len(self.tensors["head.fc.weight"])
            yield linear(self.layer("head.fc", classes, channels), "head.fc", "pooled",
                         name="logits")
            self.output = "logits"

    def merged(self, name, stream, channels):
        """Yield the merging of four patches into one of twice the channels."""
        height, width = self.sides
        if height % 2 or width % 2:
            raise ModelError(f"image_size must give an even number of tokens before {name!r}, not "
                             f"{height} x {width}")
        token = np.arange(height * width).reshape(height // 2, 2, width // 2, 2)
        # Columns outside: the order of the publication's concatenation.
        order = token.transpose(0, 2, 3, 1).ravel()
        stage = name.removesuffix(".downsample")
        yield Rows(name=f"{stage}.beside", sources=(stream,), beside=4,
                   index=np.stack([np.zeros_like(order), order], axis=1))
        yield self.norm(f"{name}.norm", f"{stage}.beside", 4 * channels)
        yield linear(self.layer(f"{name}.reduction", 2 * channels, 4 * channels, bias=False),
                     f"{name}.reduction", f"{name}.norm", name=f"{stage}.merged")
        self.sides = [height // 2, width // 2]

    def block(self, name, stream, channels, heads, odd):
        """Yield a block; every other one has shifted windows, unless one is the whole image."""
        if channels % heads:
            raise ModelError(f"heads must divide the {channels} channels of {name}, not {heads}")
        order, sequences, index = self.windows(name, odd)
        table = self.take(f"{name}.attn.relative_position_bias_table",
                          (2 * self.window - 1) ** 2, heads)
        there = np.stack([np.zeros_like(order), order], axis=1)
        back = np.stack([np.zeros_like(order), np.argsort(order)], axis=1)
        hidden, qkv, head_dim = self.hidden(name), f"{name}.qkv", channels // heads
        yield self.norm(f"{name}.norm1", stream, channels)
        yield Rows(name=f"{name}.windows", sources=(f"{name}.norm1",), index=there)
        source = f"{name}.attn.qkv"
        yield linear(self.layer(source, 3 * channels, channels, f"{source}.bias" in self.tensors),
                     source, f"{name}.windows", name=qkv)
        yield Scores(name=f"{name}.scores", query=qkv, key=qkv, key_channel=channels, heads=heads,
                     head_dim=head_dim, sequences=sequences, scale=float(head_dim ** -0.5),
                     bias_table=table, bias_index=index)
        yield Softmax(name=f"{name}.attention", input=f"{name}.scores")
        yield Context(name=f"{name}.context", attention=f"{name}.attention", value=qkv,
                      value_channel=2 * channels, head_dim=head_dim)
        yield Rows(name=f"{name}.image", sources=(f"{name}.context",), index=back)
        yield linear(self.layer(f"{name}.attn.proj", channels, channels), f"{name}.attn.proj",
                     f"{name}.image", name=f"{name}.attn_out", residual=stream)
        yield self.norm(f"{name}.norm2", f"{name}.attn_out", channels)
        yield linear(self.layer(f"{name}.mlp.fc1", hidden, channels), f"{name}.mlp.fc1",
                     f"{name}.norm2", name=f"{name}.fc1")
        yield Activation(name=f"{name}.gelu", input=f"{name}.fc1", function=self.activation)
        yield linear(self.layer(f"{name}.mlp.fc2", channels, hidden), f"{name}.mlp.fc2",
                     f"{name}.gelu", name=f"{name}.out", residual=f"{name}.attn_out")

    def hidden(self, name):
        """Return the hidden channels of a block."""
        weight = self.tensors.get(f"{name}.mlp.fc1.weight")
        return len(weight) if weight is not None and weight.ndim == 2 else 1

    def windows(self, name, odd):
        """Return order, sequences and bias index of a block's windows."""
        if any(side % self.window for side in self.sides):
            raise ModelError(f"windows of {self.window} x {self.window} must tile the "
                             f"{self.sides[0]} x {self.sides[1]} tokens of {name}: padded windows "
                             f"are not supported (another image_size would do)")
        shift = self.window // 2 if odd and min(self.sides) > self.window else 0
        order, sequences, offsets = window_rows(self.sides, self.window, shift)
        return order, sequences, _bias_index(sequences, offsets, self.window)
