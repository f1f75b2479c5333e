"""Models in memory: as the folders that they would be saved as, and what only objects can have."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

import systola
from systola.files.tensors import ModelError
from systola.model.graph.nodes import Constant
from systola.model.importers.registry import load_checkpoint

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
TIMM = sorted(path.parent.name for path in CHECKPOINTS.glob("timm_*/model.safetensors"))
TRANSFORMERS = sorted(path.parent.name for path in CHECKPOINTS.glob("hf_*/model.safetensors"))
IN_MEMORY = (("attention.attention.query", "attention.q_proj"),
             ("attention.attention.key", "attention.k_proj"),
             ("attention.attention.value", "attention.v_proj"),
             ("attention.self.query", "attention.q_proj"),
             ("attention.self.key", "attention.k_proj"),
             ("attention.self.value", "attention.v_proj"),
             ("attention.self.relative", "attention.relative_position_bias.relative"),
             ("attention.output.dense", "attention.o_proj"), ("intermediate.dense", "mlp.fc1"),
             ("output.dense", "mlp.fc2"), ("vit.encoder.layer.", "vit.layers."),
             ("deit.encoder.layer.", "deit.layers."))
"""Names of files and of transformers 5 in memory."""


class LayerNorm:
    def __init__(self, eps):
        self.eps = eps


class GELU:
    approximate = "none"


class QuickGELU:
    pass


class RmsNorm(LayerNorm):
    pass


class Table:
    """A configuration or image processor of transformers."""

    def __init__(self, path):
        self.path = path

    def to_dict(self):
        return json.loads(self.path.read_text())


class Model:
    """What importing needs of a module: tensors, and layers by name."""

    def __init__(self, folder, layers=None):
        self.tensors = load_file(CHECKPOINTS / folder / "model.safetensors")
        self.layers = layers or {}

    def state_dict(self):
        return dict(self.tensors)

    def named_modules(self):
        return iter(self.layers.items())


def of_transformers(folder):
    model = Model(folder)
    model.config = Table(CHECKPOINTS / folder / "config.json")
    return model, Table(CHECKPOINTS / folder / "preprocessor_config.json")


def of_timm(folder):
    """Return a model with the layers that timm's has; its configuration has tuples."""
    said = Table(CHECKPOINTS / folder / "config.json").to_dict()
    arguments = said["model_args"]
    graph = load_checkpoint(CHECKPOINTS / folder)
    clip, swin = folder == "timm_clip", folder == "timm_swin"
    norm = LayerNorm(1e-5 if clip or swin else 1e-6)
    layers = {"patch_embed": SimpleNamespace(img_size=tuple(graph.meta["image_size"])),
              "norm": norm}
    for stage in range(2):
        for block in range(arguments["depths"][stage] if swin else 1):
            name = f"layers.{stage}.blocks.{block}" if swin else f"blocks.{stage}"
            heads = arguments["num_heads"]
            layers |= {f"{name}.norm1": norm, f"{name}.mlp.act": QuickGELU() if clip else GELU(),
                       f"{name}.attn": SimpleNamespace(num_heads=heads[stage] if swin else heads)}
    model = Model(folder, layers)
    model.num_classes, model.global_pool = said["num_classes"], said["global_pool"]
    model.pretrained_cfg = {name: tuple(value) if isinstance(value, list) else value
                            for name, value in said["pretrained_cfg"].items()}
    model.pretrained_cfg["architecture"] = said["architecture"]
    return model


def same(got, wanted):
    assert [node.name for node in got.nodes] == [node.name for node in wanted.nodes]
    for one, other in zip(got.nodes, wanted.nodes, strict=True):
        for name, value in vars(other).items():
            np.testing.assert_array_equal(getattr(one, name), value)
    drop = {"origins", "notes"}
    assert {k: v for k, v in got.meta.items() if k not in drop} == {
        k: v for k, v in wanted.meta.items() if k not in drop}
    assert got.meta["assumed"] == []
    assert set(got.meta["origins"].values()) & {"the model"}
    assert not any("json" in origin for origin in got.meta["origins"].values())


@pytest.mark.parametrize("folder", TIMM)
def test_a_model_of_timm_is_its_folder(folder):
    same(load_checkpoint(of_timm(folder)), load_checkpoint(CHECKPOINTS / folder))


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("folder", TRANSFORMERS)
def test_a_model_of_transformers_is_its_folder(folder, renamed):
    """Version 5 calls tensors otherwise in memory, and in what ``torch.save`` makes of them."""
    model, processor = of_transformers(folder)
    if renamed:
        names = dict.fromkeys(model.tensors)
        for name in names:
            new = name
            for old, other in IN_MEMORY:
                new = new.replace(old, other)
            names[name] = new
        assert list(names.values()) != list(names)
        model.tensors = {names[name]: value for name, value in model.tensors.items()}
    same(load_checkpoint(model, processor=processor), load_checkpoint(CHECKPOINTS / folder))


def test_registers_of_transformers():
    """``dinov2_with_registers`` has positions for class token and patches, none for registers."""
    model, processor = of_transformers("hf_dinov2")
    registers = np.random.default_rng(1).standard_normal(
        (1, 2, *model.tensors["dinov2.embeddings.cls_token"].shape[2:]), np.float32)
    model.tensors = {name.replace("dinov2.", "dinov2_with_registers."): value
                     for name, value in model.tensors.items()}
    model.tensors["dinov2_with_registers.embeddings.register_tokens"] = registers
    before, after = ({node.name: node.values for node in graph.of(Constant)} for graph in (
        load_checkpoint(CHECKPOINTS / "hf_dinov2"), load_checkpoint(model, processor=processor)))
    np.testing.assert_array_equal(after["position"], before["position"])
    np.testing.assert_array_equal(after["prefix"],
                                  np.concatenate([before["prefix"], registers[0]]))


def test_what_is_wrapped_is_taken_off():
    model = of_timm("timm_vit")
    wrapped = SimpleNamespace(state_dict=lambda: {}, module=SimpleNamespace(_orig_mod=model))
    same(load_checkpoint(wrapped), load_checkpoint(CHECKPOINTS / "timm_vit"))


def test_the_model_knows_better_than_its_architecture():
    model = of_timm("timm_vit")
    for name, layer in model.layers.items():
        if name.endswith(".attn"):
            layer.num_heads = 6
        if name.endswith("act"):
            model.layers[name] = QuickGELU()
    meta = load_checkpoint(model).meta
    assert (meta["heads"], meta["activation"]) == (6, "quick_gelu")
    assert meta["origins"]["heads"] == meta["origins"]["activation"] == "the model"


def test_without_a_processor_its_facts_are_assumed():
    model, _ = of_transformers("hf_vit")
    assert [sentence.split()[0] for sentence in load_checkpoint(model).meta["assumed"]] == [
        "mean", "std"]
    assert load_checkpoint(model, mean=0.5, std=0.5).meta["assumed"] == []


def change(name, layer):
    def apply(model):
        model.layers[name] = layer
    return apply


@pytest.mark.parametrize(("apply", "message"), [
    (change("blocks.1.norm1", LayerNorm(1e-3)),
     "epsilon of layer norms must be the same.*, not 1e-06 in norm and 0.001 in blocks.1.norm1"),
    (change("blocks.1.norm1", RmsNorm(1e-6)),
     "layer blocks.1.norm1 must be of LayerNorm or LayerNormFp32, not RmsNorm"),
    (change("blocks.1.mlp.act", Model("timm_vit")),
     "layer blocks.1.mlp.act must be GELU, GELUTanh, QuickGELU, not Model"),
    (change("blocks.1.attn", SimpleNamespace(num_heads=1)), "number of heads must be the same"),
    (lambda model: model.tensors.update(cls_token=SimpleNamespace(is_meta=True)),
     "tensor 'cls_token' has no numbers"),
    (lambda model: model.tensors.update(cls_token="text"),
     "tensor 'cls_token' must be numbers that numpy has"),
])
def test_refusals(apply, message):
    model = of_timm("timm_vit")
    apply(model)
    with pytest.raises(ModelError, match=f"^{message}") as info:
        systola.load_checkpoint(model)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("model", [7, None, Model("timm_vit"), SimpleNamespace(config={})])
def test_what_is_no_model(model):
    with pytest.raises(ModelError, match=r"^model must be a path, or an object with state_dict"):
        systola.load_checkpoint(model)


def test_a_processor_has_its_place():
    with pytest.raises(ModelError, match="processor must be left out with a model of timm"):
        load_checkpoint(of_timm("timm_vit"), processor=Table(CHECKPOINTS / "no"))
    with pytest.raises(ModelError, match="processor must be left out with a path"):
        systola.load_checkpoint(CHECKPOINTS / "hf_vit", processor=Table(CHECKPOINTS / "no"))
    model, _ = of_transformers("hf_vit")
    with pytest.raises(ModelError, match="int must have to_dict"):
        systola.load_checkpoint(model, processor=7)


def answered(model, graph, size):
    """Return the largest difference of logits, relative to the largest, on two images."""
    import torch

    from systola.model.data.images import float_inputs
    from systola.model.graph.float_forward import float_forward

    images = np.random.default_rng(1).random((2, 3, size, size), np.float32)
    mean, std = (np.array(graph.meta[name], np.float32)[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        wanted = model.eval()(torch.tensor((images - mean) / std))
    wanted = getattr(wanted, "logits", wanted).numpy()
    (got,) = float_forward(graph, float_inputs(graph, images)).values()
    return np.abs(got[:, 0] - wanted).max() / np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "more"), [
    ("vit_tiny_patch16_224", {}), ("deit_tiny_distilled_patch16_224", {}),
    ("vit_base_patch16_clip_quickgelu_224", {}),
    ("vit_tiny_patch16_224", {"reg_tokens": 4, "global_pool": "avg"})])
def test_timm_itself(name, more):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3,
                              num_classes=10, **more)
    graph = systola.load_checkpoint(model)
    assert graph.meta["assumed"] == []
    assert answered(model, graph, 32) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Dinov2", "Dinov2WithRegisters", "Swin"])
def test_transformers_itself(kind):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    sizes = {"image_size": 32, "num_labels": 10}
    sizes |= {"patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [3, 6],
              "window_size": 4} if kind == "Swin" else {
        "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 96}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}ForImageClassification")(config)
    assert answered(model, systola.load_checkpoint(model, mean=0.5, std=0.5), 32) < 1e-5
