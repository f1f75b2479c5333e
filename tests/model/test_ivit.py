"""Models fine-tuned with I-ViT's public code, as its state dicts have them.

The files are built here: names and shapes are those of the public code's own files (checked once
against what it saved, see docs/MODELS.md), numbers are random, and buffers are computed from them
as its quantizers do.
"""

import json
from collections import OrderedDict

import numpy as np
import pytest

from systola.cli.main import main
from systola.files.tensors import ModelError
from systola.model.data.images import encode, float_inputs
from systola.model.graph.float_forward import float_forward
from systola.model.graph.graph import RECORDED_RANGES
from systola.model.graph.graph_file import load_network
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Linear
from systola.model.importers.registry import load_checkpoint
from systola.model.quantization.quantize import quantize
from tests.model.test_torch_file import Call, archive, tensor

HEADS = {"vit": 3, "swin": [3, 6]}
SIDES = {"vit": 24, "swin": 16}
IDLE = "qact_softmax", "act_out"


class State:
    """A state_dict in the making: layers with the buffers that one pass leaves behind."""

    def __init__(self, seed=0):
        self.rng, self.tensors = np.random.default_rng(seed), {}

    def quantizer(self, name):
        """Add a QuantAct; returns its scale."""
        scale = np.float32(self.rng.uniform(0.02, 0.06))
        idle = name.rpartition(".")[2] in IDLE
        self.tensors[f"{name}.act_scaling_factor"] = (
            np.zeros(1, np.float32) if idle else np.array(scale))
        return scale

    def number(self, name, value, shape=(1,)):
        """Add the scale of an operator."""
        self.tensors[f"{name}.act_scaling_factor"] = np.full(shape, value, np.float32)

    def layer(self, name, source, *shape, bias=True):
        """Add a QuantLinear, or a QuantConv2d of four dimensions, that reads a scale."""
        weight = self.rng.normal(0, 0.3, shape).astype(np.float32)
        scale = np.abs(weight).reshape(shape[0], -1).max(axis=1) / np.float32(127)
        wide = scale.reshape(-1, *(1,) * (len(shape) - 1))
        kind = "conv" if len(shape) == 4 else "fc"
        self.tensors |= {f"{name}.weight": weight, f"{name}.{kind}_scaling_factor": scale,
                         f"{name}.weight_integer": np.rint(weight / wide)}
        if bias:
            values = self.rng.normal(0, 0.1, shape[0]).astype(np.float32)
            self.tensors |= {f"{name}.bias": values,
                             f"{name}.bias_integer": np.rint(values / (scale * source))}

    def norm(self, name, channels):
        """Add an IntLayerNorm."""
        weight, bias = (self.rng.normal(mean, 0.1, channels).astype(np.float32)
                        for mean in (1, 0))
        unit = np.float32(channels**0.5 / 2**30)
        self.tensors |= {f"{name}.weight": weight, f"{name}.bias": bias,
                         f"{name}.norm_scaling_factor": unit * weight,
                         f"{name}.bias_integer": np.floor(bias / weight / unit)}

    def attention(self, name, source, channels, softmax, bits, context):
        """Add what both kinds of attention have."""
        values = self.quantizer(f"{name}.qact1")
        self.layer(f"{name}.qkv", source, 3 * channels, channels)
        self.quantizer(f"{name}.qact_attn1")
        self.number(f"{name}.{softmax}", 2.0 ** (1 - bits))
        self.number(f"{name}.matmul_1", values**2, ())
        self.number(f"{name}.matmul_2", values * 2.0 ** (1 - bits))
        self.layer(f"{name}.proj", self.quantizer(f"{name}.{context}"), channels, channels)

    def mlp(self, name, source, channels, hidden):
        """Add an Mlp."""
        self.layer(f"{name}.fc1", source, hidden, channels)
        self.number(f"{name}.act", self.quantizer(f"{name}.qact_gelu") / 128)
        self.layer(f"{name}.fc2", self.quantizer(f"{name}.qact1"), channels, hidden)
        self.quantizer(f"{name}.qact2")

    def block(self, name, channels, hidden, **attention):
        """Add a block without what only one of the families has."""
        self.norm(f"{name}.norm1", channels)
        self.attention(f"{name}.attn", self.quantizer(f"{name}.qact1"), channels, **attention)
        self.quantizer(f"{name}.qact2")
        self.norm(f"{name}.norm2", channels)
        self.mlp(f"{name}.mlp", self.quantizer(f"{name}.qact3"), channels, hidden)
        self.quantizer(f"{name}.qact4")


def vit():
    """Return the state of a ``VisionTransformer`` of 36 channels and two blocks."""
    state = State()
    state.tensors["cls_token"] = state.rng.normal(0, 0.2, (1, 1, 36)).astype(np.float32)
    state.tensors["pos_embed"] = state.rng.normal(0, 0.2, (1, 10, 36)).astype(np.float32)
    state.layer("patch_embed.proj", state.quantizer("qact_input"), 36, 3, 8, 8)
    for name in ("patch_embed.qact", "qact_pos", "qact1"):
        state.quantizer(name)
    for index in range(2):
        name = f"blocks.{index}"
        state.block(name, 36, 72, softmax="int_softmax", bits=16, context="qact2")
        state.quantizer(f"{name}.attn.qact3")
        state.quantizer(f"{name}.attn.qact_softmax")
    state.norm("norm", 36)
    state.layer("head", state.quantizer("qact2"), 10, 36)
    state.quantizer("act_out")
    return state.tensors


def swin():
    """Return the state of a ``SwinTransformer`` of 12 channels and two stages of two blocks."""
    state = State(1)
    state.layer("patch_embed.proj", state.quantizer("qact_input"), 12, 3, 2, 2)
    state.quantizer("patch_embed.qact_before_norm")
    state.norm("patch_embed.norm", 12)
    state.quantizer("patch_embed.qact")
    state.quantizer("qact1")
    for stage, channels in enumerate((12, 24)):
        for index in range(2):
            name = f"layers.{stage}.blocks.{index}"
            state.block(name, channels, 2 * channels, softmax="log_int_softmax", bits=8,
                        context="qact3")
            for more in ("qact_table", "qact2", "qact4"):
                state.quantizer(f"{name}.attn.{more}")
            state.tensors[f"{name}.attn.relative_position_bias_table"] = state.rng.normal(
                0, 0.2, (49, 3 * 2**stage)).astype(np.float32)
            state.tensors[f"{name}.attn.relative_position_index"] = np.zeros((16, 16), np.int64)
    state.tensors["layers.0.blocks.1.attn_mask"] = np.zeros((4, 16, 16), np.float32)
    state.norm("layers.0.downsample.norm", 48)
    state.layer("layers.0.downsample.reduction", state.quantizer("layers.0.downsample.qact1"),
                24, 48, bias=False)
    state.quantizer("layers.0.downsample.qact2")
    state.norm("norm", 24)
    state.quantizer("qact2")
    state.layer("head", state.quantizer("qact3"), 10, 24)
    state.quantizer("act_out")
    return state.tensors


STATES = {"vit": vit, "swin": swin}


def write(path, tensors, wrapped=True):
    """Write a state_dict as ``torch.save`` does; wrapped, with what training keeps beside it."""
    kinds = {"f": "FloatStorage", "i": "LongStorage"}
    views = OrderedDict((name, tensor(str(index), value.shape, kind=kinds[value.dtype.kind]))
                        for index, (name, value) in enumerate(tensors.items()))
    content = {"model": views, "epoch": 3, "args": Call("argparse", "Namespace")}
    return archive(path, content if wrapped else views, {
        str(index): np.ascontiguousarray(value, np.float32 if value.dtype.kind == "f" else None)
        .tobytes() for index, value in enumerate(tensors.values())})


def read(path, kind):
    return load_checkpoint(path, heads=HEADS[kind], image_size=SIDES[kind])


@pytest.fixture(params=STATES)
def kind(request):
    return request.param


@pytest.fixture
def images(kind):
    return np.random.default_rng(2).random((6, 3, SIDES[kind], SIDES[kind]), np.float32)


def test_weights_are_those_of_the_same_network_without_buffers(kind, images, tmp_path):
    state = STATES[kind]()
    graph = read(write(tmp_path / "m.pth.tar", state, wrapped=False), kind)
    plain = {name: value for name, value in state.items() if not name.rpartition(".")[2].endswith(
        ("_scaling_factor", "_integer"))}
    bare = load_checkpoint(write(tmp_path / "plain.pth", plain), heads=HEADS[kind],
                           image_size=SIDES[kind], activation="quick_gelu", eps=1e-6,
                           mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert [node.name for node in graph.nodes] == [node.name for node in bare.nodes]
    one, other = (float_forward(network, float_inputs(network, images))["logits"]
                  for network in (graph, bare))
    assert np.array_equal(one, other)
    assert graph.meta["quantizers"] == "I-ViT"
    assert graph.meta["origins"]["activation"] == "ShiftGELU of I-ViT's public code"
    assert "quantizers" not in bare.meta


def test_scales_and_codes_are_those_of_the_file(kind, images, tmp_path):
    """Of the method ``recorded``: those of exponentials' inputs are widened, as always."""
    state = STATES[kind]()
    graph = read(write(tmp_path / "m.pth", state), kind)
    network = quantize(graph, float_inputs(graph, images), method="recorded", gelu="table")
    tops = {"patches": 127, "norm": 127}
    named = {"patches": "qact_input", "norm": "qact2"}
    blocks = {"vit": ["blocks.0", "blocks.1"], "swin": ["layers.0.blocks.0", "layers.1.blocks.1"]}
    for block in blocks[kind]:
        context = "qact2" if kind == "vit" else "qact3"
        named |= {f"{block}.norm1": f"{block}.qact1", f"{block}.qkv": f"{block}.attn.qact1",
                  f"{block}.context": f"{block}.attn.{context}",
                  f"{block}.fc1": f"{block}.mlp.qact_gelu", f"{block}.gelu": f"{block}.mlp.qact1",
                  f"{block}.norm2": f"{block}.qact3", f"{block}.attn_out": f"{block}.qact2"}
    if kind == "swin":
        named |= {"layers.1.downsample.norm": "layers.0.downsample.qact1", "pooled": "qact3"}
    for name, quantizer in named.items():
        wanted = float(state[f"{quantizer}.act_scaling_factor"])
        assert network.scales[name] == pytest.approx(wanted, rel=1e-6), name
        top = 2 ** (network.tensors[name].bits - 1) - 1
        assert graph.meta[RECORDED_RANGES][name] == pytest.approx(wanted * tops.get(
            name, top), rel=1e-6), name
    same = [np.mean(node.weight == state[f"{name}.weight_integer"].reshape(node.weight.shape))
            for node in network.of(Linear)
            for name in (node.name.replace(".fc1", ".mlp.fc1"),) if f"{name}.weight" in state]
    assert same
    assert min(same) > 0.999  # a tie may be rounded otherwise
    forward(network, encode(network, images))


def test_the_record_says_what_is_used_and_what_is_not(kind, tmp_path):
    notes = read(write(tmp_path / "m.pth", STATES[kind]()), kind).meta["notes"]
    text = "\n".join(notes)
    assert "which --method recorded quantizes with" in text
    assert "compared with the float ones, which are used; all agree" in text
    assert "act_out" in text.partition("never computed by that code")[0]
    where = "blocks.*" if kind == "vit" else "layers.*.blocks.*"
    assert f"{where}.mlp.qact2" in text.partition("the first term of a sum")[0]


def test_commands_say_it_too(kind, images, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "m.pth", STATES[kind]())
    np.savez(tmp_path / "i.npz", images=images, labels=np.arange(len(images)))
    heads = ["--heads", "3"] if kind == "vit" else []
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_args": {"num_heads": HEADS[kind]}}))
    assert main(["quantize", "--model", "m.pth", "--data", "i.npz", "--method", "recorded",
                 "--image-size", str(SIDES[kind]), *heads, "-o", "q.safetensors"]) == 0
    said = capfd.readouterr().err
    assert "which --method recorded quantizes with" in said
    assert "never computed by that code" in said
    assert load_network(tmp_path / "q.safetensors").meta["quantization"]["method"] == "recorded"


def test_weights_that_training_moved_a_little_are_said(kind, tmp_path):
    state = STATES[kind]()
    state["head.weight"] = state["head.weight"] + np.float32(2e-4)
    notes = read(write(tmp_path / "m.pth", state), kind).meta["notes"]
    assert any("a step or less away, the first in head.weight_integer: training went on" in note
               for note in notes)


def test_a_model_that_never_computed_has_no_ranges(kind, images, tmp_path):
    """As the public code builds it: buffers are zeros of one number."""
    state = {name: np.zeros(1 if name.endswith(("act_scaling_factor", "norm_scaling_factor"))
                            else value.shape, np.float32)
             if name.rpartition(".")[2].endswith(("_scaling_factor", "_integer")) else value
             for name, value in STATES[kind]().items()}
    graph = read(write(tmp_path / "m.pth", state), kind)
    assert graph.meta[RECORDED_RANGES] == {}
    assert any("never computed before the file was saved" in note for note in graph.meta["notes"])
    with pytest.raises(ModelError, match=r"^method must be another one than .recorded"):
        quantize(graph, float_inputs(graph, images), method="recorded")


def test_later_versions_keep_ranges_beside_scales(kind, tmp_path):
    state = STATES[kind]()
    reach = state["qact_input.act_scaling_factor"] * 127
    state |= {"qact_input.x_min": -reach, "qact_input.x_max": reach / 2}
    assert read(write(tmp_path / "m.pth", state), kind).meta[RECORDED_RANGES]["patches"]
    state["qact_input.x_min"] = -2 * reach
    with pytest.raises(ModelError, match=r"^tensor 'qact_input.act_scaling_factor' must be the"):
        read(write(tmp_path / "m.pth", state), kind)


@pytest.mark.parametrize(("change", "line"), [
    (lambda s: s | {"head.weight_integer": s["head.weight_integer"][::-1]},
     r"tensor 'head.weight_integer' must agree with 'head.weight': entry \d+, \d+ stands for "),
    (lambda s: s | {"head.bias_integer": s["head.bias_integer"] * 2 + 9e6},
     r"tensor 'head.bias_integer' must agree with 'head.bias': entry \d+ stands for "),
    (lambda s: s | {"norm.norm_scaling_factor": s["norm.norm_scaling_factor"] * 2},
     r"tensor 'norm.norm_scaling_factor' must agree with 'norm.weight': entry \d+ stands for "),
    (lambda s: s | {"head.fc_scaling_factor": s["head.fc_scaling_factor"][:3]},
     r"tensor 'head.fc_scaling_factor' must have shape \(10,\), not \(3,\)"),
    (lambda s: s | {"qact_input.act_scaling_factor": np.array(np.nan)},
     "tensor 'qact_input.act_scaling_factor' must hold finite floating point numbers"),
    (lambda s: s | {"qact_input.act_scaling_factor": np.array(-1.0)},
     "tensor 'qact_input.act_scaling_factor' must be a scale above 0, not -1"),
    (lambda s: s | {"qact9.act_scaling_factor": np.array(1.0)},
     "tensor 'qact9.act_scaling_factor' is not part of a (Swin|Vision Transformer) of I-ViT's"),
    (lambda s: s | {"norm.fc_scaling_factor": np.ones(3)},
     "tensor 'norm.fc_scaling_factor' is not part of a (Swin|Vision Transformer) of I-ViT's"),
    (lambda s: {name: value for name, value in s.items() if name != "head.weight_integer"},
     "tensor 'head.weight_integer' is missing from the checkpoint"),
    (lambda s: {name: value * (3 if name.endswith("1.mlp.act.act_scaling_factor") else 1)
                for name, value in s.items()}, "tensor '.*mlp.act.act_scaling_factor' must be "),
    (lambda s: {name: value for name, value in s.items() if name != "norm.weight"},
     "tensor '?norm.*"),
    (lambda s: s | {"norm.bias": np.zeros(5)},
     r"tensor 'norm.bias' must have shape .*, not \(5,\)"),
    (lambda s: s | {"head.weight": s["head.weight"] * np.nan},
     "tensor 'head(.fc)?.weight' must hold finite float32 numbers only"),
])
def test_buffers_that_contradict_are_refused(kind, tmp_path, change, line):
    path = write(tmp_path / "m.pth", change(STATES[kind]()))
    with pytest.raises(ModelError, match=f"^({line})"):
        read(path, kind)


def test_ranges_that_no_network_has_are_refused(tmp_path):
    graph = read(write(tmp_path / "m.pth", STATES["vit"]()), "vit")
    inputs = float_inputs(graph, np.zeros((2, 3, 24, 24), np.float32))
    for wrong in ({"nowhere": 1.0}, {"patches": "x"}, {"patches": 0}, {"patches": float("inf")}):
        graph.meta[RECORDED_RANGES] = wrong
        with pytest.raises(ModelError, match=r"^recorded_ranges must be numbers above 0"):
            quantize(graph, inputs, method="recorded")
    graph.meta[RECORDED_RANGES] = {"patches": 1.0}
    with pytest.raises(ModelError, match=r"^norm must be another one than 'compared'"):
        quantize(graph, inputs, method="recorded", norm="compared", act_bits=4)
