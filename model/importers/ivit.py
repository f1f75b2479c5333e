"""Fine-tuned models of I-ViT's public PyTorch code: float weights beside its quantizers' buffers.

The weights become the float graph as everybody's do. The scales of activations that training has
recorded are the ranges of the method ``recorded``; integer weights and biases are made of the float
ones again, and must agree with those in the file.
"""

import dataclasses
import re

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import ModelError
from systola.model.graph.graph import RECORDED_RANGES
from systola.model.importers.encoder_graph import block_count
from systola.model.importers.swin import recognize as is_swin
from systola.model.importers.swin import swin_graph
from systola.model.importers.timm import timm_graph

__all__ = ["ivit_graph", "recognize"]

_BUFFERS = ("act_scaling_factor", "fc_scaling_factor", "conv_scaling_factor", "norm_scaling_factor",
            "weight_integer", "bias_integer", "x_min", "x_max", "min_val", "max_val")
"""What the quantizers keep in a state_dict beside parameters; ranges only in later versions."""

_LIMITS = ("x_min", "x_max"), ("min_val", "max_val")

_WHOSE = "I-ViT's public code"
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_EPS = 1e-6
_BITS, _WIDE = 8, 16
_NORM_BITS = 30
"""Fraction bits of the codes of an integer norm before its gains."""

_SIGMOID_BITS = 7
_DRIFT = 1e-3
"""Relative difference of a number from one that was recorded a few steps of training before."""

_HALF = 0.5 + _DRIFT
_FLOAT = 1e-6
"""Relative rounding of float32 numbers that were computed in several steps."""

# By the name of a quantizer: the tensor of the graph that it has the range of, or why it has none,
# and its bits. `{i}` is a block with what is before its name, `{n}` the stage behind.
_FIRST = "the first term of a sum, which is rescaled to the sum in one step"
_IDLE = "never computed by that code"
_MLP = {"{i}.qact3": ("{i}.norm2", _BITS), "{i}.mlp.qact_gelu": ("{i}.fc1", _BITS),
        "{i}.mlp.qact1": ("{i}.gelu", _BITS), "{i}.mlp.qact2": (None, _WIDE, _FIRST),
        "{i}.qact1": ("{i}.norm1", _BITS), "{i}.qact2": ("{i}.attn_out", _WIDE),
        "{i}.qact4": ("{i}.out", _WIDE), "{i}.attn.qact1": ("{i}.qkv", _BITS)}
_VIT_BLOCK = {**_MLP, "{i}.attn.qact_attn1": ("{i}.scores", _BITS),
              "{i}.attn.qact2": ("{i}.context", _BITS),
              "{i}.attn.qact3": (None, _WIDE, _FIRST),
              "{i}.attn.qact_softmax": (None, _BITS, _IDLE)}
_SWIN_BLOCK = {**_MLP, "{i}.attn.qact_attn1": (None, _BITS, _FIRST),
               "{i}.attn.qact_table": (None, _BITS, "the bias of scores, which has 16 bits here"),
               "{i}.attn.qact2": ("{i}.scores", _BITS), "{i}.attn.qact3": ("{i}.context", _BITS),
               "{i}.attn.qact4": (None, _WIDE, _FIRST)}
_VIT = {"qact_input": ("patches", _BITS), "patch_embed.qact": (None, _WIDE, _FIRST),
        "qact_pos": (None, _WIDE, "position embeddings, whose range is that of their numbers"),
        "qact1": ("embed", _WIDE), "qact2": ("norm", _BITS), "act_out": (None, _BITS, _IDLE)}
_SWIN = {"qact_input": ("patches", _BITS), "patch_embed.qact_before_norm": ("patch_embed", _BITS),
         "patch_embed.qact": (None, _WIDE, "what is rescaled again at once"),
         "qact1": ("patch_embed.norm", _WIDE), "qact2": ("norm", _BITS), "qact3": ("pooled", _BITS),
         "act_out": (None, _BITS, _IDLE)}
_SWIN_STAGE = {"{i}.downsample.qact1": ("{n}.downsample.norm", _BITS),
               "{i}.downsample.qact2": ("{n}.merged", _BITS)}

# By the name of a layer, the quantizer of what it reads.
_VIT_READS = {"patch_embed.proj": "qact_input", "head": "qact2", "attn.qkv": "qact1",
              "attn.proj": "attn.qact2", "mlp.fc1": "qact3", "mlp.fc2": "mlp.qact1"}
_SWIN_READS = {**_VIT_READS, "head": "qact3", "attn.proj": "attn.qact3"}


def recognize(checkpoint):
    """Tell whether a checkpoint has the buffers of I-ViT's quantizers beside its weights."""
    return any(name.endswith(".act_scaling_factor") for name in checkpoint.tensors) and any(
        name.endswith(".weight_integer") for name in checkpoint.tensors)


def ivit_graph(checkpoint, facts):
    """Return the float graph of a model that was fine-tuned with I-ViT's public code.

    Its ``meta`` has `RECORDED_RANGES`, and under ``notes`` what agrees and what is not used.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a DeiT or Vision Transformer (``models/vit_quant.py``), or a Swin
        (``models/swin_quant.py``).
    facts : Facts

    Raises
    ------
    ModelError
        If a buffer is unknown, damaged, or contradicts the weights, or the network cannot be
        expressed.
    """
    buffers, weights = {}, {}
    for name, value in checkpoint.tensors.items():
        module, _, what = name.rpartition(".")
        if what in _BUFFERS:
            buffers[module, what] = value
        else:
            weights[name] = value
    plain = dataclasses.replace(checkpoint, tensors=weights)
    swin = is_swin(plain)
    patch = weights.get("patch_embed.proj.weight")
    # What a file beside the weights says is of the network that fine-tuning started from.
    facts.know("activation", "quick_gelu", f"ShiftGELU of {_WHOSE}")
    facts.know("eps", _EPS, f"{_WHOSE}, whose integer norms leave it out")
    if patch is not None and patch.ndim == 4 and patch.shape[1] == 3:
        facts.know("mean", _MEAN, f"data_utils.py of {_WHOSE}")
        facts.know("std", _STD, f"data_utils.py of {_WHOSE}")
    facts.note("quantizers", "I-ViT", "tensors")
    record = _Record(buffers, weights, swin)
    record.check()
    facts.note(RECORDED_RANGES, record.ranges, f"act_scaling_factor of {_WHOSE}")
    facts.note("notes", [*facts.values.get("notes", ()), *record.notes()], "weights")
    return (swin_graph if swin else timm_graph)(plain, facts)


class _Record:
    """The buffers of all quantizers, compared with the weights; `ranges` by tensor."""

    def __init__(self, buffers, weights, swin):
        self.buffers, self.weights, self.swin = buffers, weights, swin
        self.left, self.ranges, self.unused, self.moved = set(buffers), {}, {}, []
        self.codes, self.silent = 0, []
        blocks = ([f"layers.{stage}.blocks.{index}" for stage in range(block_count(
            weights, "layers")) for index in range(block_count(weights, f"layers.{stage}.blocks"))]
            if swin else [f"blocks.{index}" for index in range(block_count(weights))])
        self.blocks, reads = blocks, _SWIN_READS if swin else _VIT_READS
        self.quantizers = dict(_SWIN if swin else _VIT)
        self.reads = {name: reads[name] for name in ("patch_embed.proj", "head")}
        for block in blocks:
            self.quantizers |= _named(_SWIN_BLOCK if swin else _VIT_BLOCK, block)
            self.reads |= {f"{block}.{layer}": f"{block}.{source}"
                           for layer, source in reads.items() if layer not in self.reads}
        if swin and "patch_embed.norm.weight" not in weights:
            self.quantizers["qact1"] = "patch_embed", _WIDE
        if swin:
            for stage in range(block_count(weights, "layers") - 1):
                self.quantizers |= _named(_SWIN_STAGE, f"layers.{stage}", f"layers.{stage + 1}")
                name = f"layers.{stage}.downsample"
                self.reads[f"{name}.reduction"] = f"{name}.qact1"

    def check(self):
        """Take in all buffers; `ModelError` for one that is unknown, damaged, or contradicts."""
        self.scales = {name: self.quantizer(name, *about)
                       for name, about in self.quantizers.items()
                       if (name, "act_scaling_factor") in self.buffers}
        for module, what in sorted(self.buffers):
            if what in ("fc_scaling_factor", "conv_scaling_factor"):
                self.layer(module, what)
            elif what == "norm_scaling_factor":
                self.norm(module)
        for block in self.blocks:
            self.operators(block)
        if self.left:
            name = ".".join(min(self.left))
            raise ModelError(f"tensor {shown(name)} is not part of a {self.kind} of {_WHOSE}")

    @property
    def kind(self):
        """What the network is, for messages."""
        return "Swin" if self.swin else "Vision Transformer"

    def take(self, module, what, *shapes):
        """Return a buffer as float64, or None if there is none; of one of some shapes."""
        if (module, what) not in self.buffers:
            return None
        self.left.discard((module, what))
        value, name = self.buffers[module, what], f"{module}.{what}"
        if value.shape not in shapes:
            raise ModelError(f"tensor {shown(name)} must have shape {shapes[0]}, not {value.shape}")
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise ModelError(f"tensor {shown(name)} must hold finite floating point numbers")
        return value.astype(np.float64)

    def number(self, module, what="act_scaling_factor"):
        """Return a buffer of one number, or None."""
        value = self.take(module, what, (), (1,))  # as training leaves it, and as it starts
        return None if value is None else float(value.reshape(()))

    def quantizer(self, name, tensor, bits, why=None):
        """Take in a quantizer of activations; return its scale, 0 if it never computed."""
        scale = self.number(name)
        if scale < 0:
            raise ModelError(f"tensor '{name}.act_scaling_factor' must be a scale above 0, not "
                             f"{scale:g}")
        top = 2 ** (bits - 1) - 1
        for low, high in _LIMITS:
            ends = self.number(name, low), self.number(name, high)
            if None not in ends and scale and not np.isclose(
                    max(-ends[0], ends[1]) / top, scale, rtol=_DRIFT):
                raise ModelError(f"tensor '{name}.act_scaling_factor' must be the range "
                                 f"{ends[0]:g} to {ends[1]:g} / {top}, not {scale:g}")
        if tensor is None:
            self.unused.setdefault(why, []).append(name)
        elif scale:
            self.ranges[tensor] = scale * top
        else:
            self.silent.append(name)
        return scale

    def layer(self, module, what):
        """Compare the integers of a linear layer, or of the patches, with its weights."""
        weight = self.weights.get(f"{module}.weight")
        if module not in self.reads or weight is None or weight.ndim < 2:
            return  # left over, which is said
        rows = len(weight)
        scale = self.take(module, what, (rows,), (rows, 1), (1, rows, 1, 1)).reshape(-1)
        codes = self.take(module, "weight_integer", weight.shape)
        if codes is None:
            raise ModelError(f"tensor '{module}.weight_integer' is missing from the checkpoint, "
                             f"whose weights have scales")
        biases = self.take(module, "bias_integer", (rows,))
        if not scale.any():
            self.silent.append(module)
            return
        self.agree(f"{module}.weight_integer", f"{module}.weight", codes, scale.reshape(
            -1, *(1,) * (weight.ndim - 1)))
        bias, source = self.weights.get(f"{module}.bias"), self.scales.get(self.reads[module])
        if biases is not None and bias is not None and source:
            self.agree(f"{module}.bias_integer", f"{module}.bias", biases, scale * source)

    def norm(self, module):
        """Compare the integers of a norm with its gains and biases."""
        gain, bias = (self.weights.get(f"{module}.{what}") for what in ("weight", "bias"))
        if gain is None or bias is None or gain.ndim != 1:
            return
        count = len(gain)
        scale = self.take(module, "norm_scaling_factor", (count,), (1,))
        codes = self.take(module, "bias_integer", (count,))
        if not scale.any() or len(scale) != count:
            self.silent.append(module)
            return
        unit = count ** 0.5 / 2.0**_NORM_BITS
        self.agree(f"{module}.norm_scaling_factor", f"{module}.weight", scale / unit, 1.0, most=0)
        if codes is not None:  # rounded down
            self.agree(f"{module}.bias_integer", f"{module}.bias", codes, scale, most=1 + _DRIFT)

    def operators(self, block):
        """Compare the scales of what has none of its own: products, GELU and softmax."""
        values = self.scales.get(f"{block}.attn.qact1", 0.0)
        softmax = f"{block}.attn.{'log_int_softmax' if self.swin else 'int_softmax'}"
        shares = self.number(softmax)
        for name, wanted in ((f"{block}.attn.matmul_1", values**2),
                             (f"{block}.attn.matmul_2", values * (shares or 0.0)),
                             (f"{block}.mlp.act", self.scales.get(f"{block}.mlp.qact_gelu", 0.0)
                              / 2**_SIGMOID_BITS)):
            there = self.number(name)
            if there and wanted and not np.isclose(there, wanted, rtol=_DRIFT):
                raise ModelError(f"tensor '{name}.act_scaling_factor' must be {wanted:g}, the "
                                 f"scales of what it multiplies, not {there:g}")
        if shares and (shares < 0 or np.log2(shares) % 1):
            raise ModelError(f"tensor '{softmax}.act_scaling_factor' must be a power of two, not "
                             f"{shares:g}")

    def agree(self, name, parameter, codes, scale, most=_HALF):
        """Compare codes with what they stand for: `most` steps away, or some steps of training."""
        values = self.weights[parameter].astype(np.float64)
        if values.shape != codes.shape:
            return  # of a wrong shape, which the graph refuses
        stands, step = codes * scale, np.abs(scale) * (most > 0)
        apart, own = np.abs(stands - values), most * step + _FLOAT * np.abs(values)
        trained = own + step + _DRIFT * float(np.abs(values).max(initial=0))
        if (apart > trained).any():
            where = np.unravel_index(int((apart - trained).argmax()), apart.shape)
            raise ModelError(f"tensor {name!r} must agree with {parameter!r}: entry "
                             f"{', '.join(map(str, where))} stands for {float(stands[where]):g}, "
                             f"not {float(values[where]):g}")
        self.codes += codes.size
        if (apart > own).any():
            self.moved.append((name, int((apart > own).sum())))

    def notes(self):
        """Return sentences of what agrees, and of what is not used."""
        several = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in self.silent})
        used = f"ranges of {len(self.ranges)} tensors, which --method recorded quantizes with"
        sentences = [f"I-ViT: {used}, and other methods do not"]
        if self.codes:
            sentences.append(f"I-ViT: {self.codes:,} integer weights, biases and gains compared "
                             f"with the float ones, which are used" + (
                                 "; all agree" if not self.moved else ""))
        if self.moved:
            count, (name, _) = sum(number for _, number in self.moved), self.moved[0]
            sentences.append(f"I-ViT: {count:,} of them are a step or less away, the first in "
                             f"{name}: training went on after they were recorded")
        if several:
            sentences.append(f"I-ViT: never computed before the file was saved, so nothing is "
                             f"known of {', '.join(several)}")
        for why, names in self.unused.items():
            short = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})
            sentences.append(f"I-ViT: ranges of {', '.join(short)} are not used: {why}")
        return sentences


def _named(table, block, behind=""):
    """Return a table of quantizers for one block or stage."""
    def full(text):
        return text and text.replace("{i}", block).replace("{n}", behind)

    return {full(name): (full(tensor), *rest) for name, (tensor, *rest) in table.items()}
