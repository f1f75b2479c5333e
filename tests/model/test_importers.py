"""Checkpoints in the formats that people have, against the answers of the public code.

``tests/checkpoints`` holds folders as timm 1.0.31 and transformers 5.24.0 wrote them, with images
and what PyTorch computed for them (``expected.npz``), and one of them in other wrappings.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from systola.files.tensors import ModelError
from systola.model.data.images import encode, float_inputs
from systola.model.graph.float_forward import float_forward
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Activation, Constant, Norm, Rows, Scores
from systola.model.importers.position import resampled
from systola.model.importers.registry import load_checkpoint
from systola.model.importers.swin import window_rows
from systola.model.importers.vision_transformer import block_shapes
from systola.model.quantization.quantize import quantize

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
FOLDERS = sorted(path.parent.name for path in CHECKPOINTS.glob("*/expected.npz"))
WRAPPED = sorted(path.name for path in (CHECKPOINTS / "wrapped").iterdir())
FAMILIES = {"hf_deit": "deit", "hf_deit_teacher": "deit_distilled", "hf_dinov2": "dinov2",
            "hf_swin": "swin", "timm_clip": "clip", "timm_deit": "deit",
            "timm_deit_distilled": "deit_distilled", "timm_swin": "swin",
            "timm_vit_patch14": "dinov2"}


def expected(folder):
    with np.load(CHECKPOINTS / folder / "expected.npz") as arrays:
        return {name: arrays[name] for name in arrays}


def answers(graph, images):
    (result,) = float_forward(graph, float_inputs(graph, images.astype(np.float32) / 255)).values()
    return result[:, 0]


def error(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@pytest.fixture
def copy(tmp_path):
    """Return a function that copies a folder and applies changes to its config: the copy."""
    def make(name, change=None, tensors=None):
        folder = tmp_path / name
        shutil.copytree(CHECKPOINTS / name, folder)
        if change:
            config = json.loads((folder / "config.json").read_text())
            change(config)
            (folder / "config.json").write_text(json.dumps(config))
        if tensors:
            content = load_file(folder / "model.safetensors")
            tensors(content)
            save_file(content, folder / "model.safetensors")
        return folder
    return make


@pytest.mark.parametrize("folder", FOLDERS)
def test_answers_are_those_of_the_public_code(folder):
    wanted, graph = expected(folder), load_checkpoint(CHECKPOINTS / folder)
    got = answers(graph, wanted["images"])
    assert error(got, wanted["logits"]) < 1e-5
    assert (got.argmax(axis=1) == wanted["labels"]).all()
    assert graph.meta["assumed"] == []
    assert graph.meta["family"] == FAMILIES.get(folder, "vit")
    assert graph.meta["classes"] == (0 if folder == "timm_vit_features" else 10)
    for name in "mean", "std":
        np.testing.assert_allclose(graph.meta[name], wanted[name], rtol=1e-6)


@pytest.mark.parametrize("folder", FOLDERS)
def test_integers_follow(folder):
    """Random weights spread little: the error of the logits says more than their largest."""
    wanted, graph = expected(folder), load_checkpoint(CHECKPOINTS / folder)
    images = wanted["images"].astype(np.float32) / 255
    network = quantize(graph, float_inputs(graph, images))
    (name,) = network.outputs
    got = forward(network, encode(network, images), keep=[name])[name][:, 0] * network.scales[name]
    rms = np.sqrt(np.mean((got - wanted["logits"])**2) / np.mean(wanted["logits"]**2))
    assert rms < 0.06
    assert (got.argmax(axis=1) == wanted["labels"]).mean() >= 0.75


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappings(name):
    wanted = expected("timm_vit")
    graph = load_checkpoint(CHECKPOINTS / "wrapped" / name, heads=3)
    rounding = {"bf16.safetensors": 0.02, "fp16.safetensors": 0.002}.get(name, 1e-5)
    assert error(answers(graph, wanted["images"]), wanted["logits"]) < rounding
    assert [sentence.split()[0] for sentence in graph.meta["assumed"]] == ["mean", "std", "eps"]
    assert graph.meta["origins"]["heads"] == "given"


def test_hints_go_before_assumptions_and_behind_files():
    hints = {"mean": [0.25] * 3, "std": [0.75] * 3}
    graph = load_checkpoint(CHECKPOINTS / "wrapped" / "plain.pt", hints=hints)
    assert (graph.meta["mean"], graph.meta["origins"]["mean"]) == ([0.25] * 3, "data file")
    graph = load_checkpoint(CHECKPOINTS / "timm_vit", hints=hints)
    assert (graph.meta["mean"], graph.meta["origins"]["mean"]) == ([0.5] * 3, "config.json")
    graph = load_checkpoint(CHECKPOINTS / "timm_vit", mean="0.1", hints=hints)
    assert (graph.meta["mean"], graph.meta["origins"]["mean"]) == ([0.1] * 3, "given")


@pytest.mark.parametrize(("architecture", "mean"), [
    ("vit_tiny_patch16_224", [0.5] * 3), ("deit_tiny_patch16_224", [0.485, 0.456, 0.406])])
def test_a_folder_as_on_the_hub(tmp_path, architecture, mean):
    """It has no arguments of the model: heads and epsilon are those of the architecture."""
    shapes = {"patch_embed.proj.weight": (192, 3, 16, 16), "patch_embed.proj.bias": (192,),
              "cls_token": (1, 1, 192), "pos_embed": (1, 197, 192), "norm.weight": (192,),
              "norm.bias": (192,), "head.weight": (1000, 192), "head.bias": (1000,)}
    for index in range(12):
        shapes |= block_shapes(index, 192, 768)
    save_file({name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()},
              tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({
        "architecture": architecture, "num_classes": 1000, "num_features": 192,
        "pretrained_cfg": {"input_size": [3, 224, 224], "mean": mean, "std": [0.25] * 3,
                           "interpolation": "bicubic", "crop_pct": 0.9}}))
    meta = load_checkpoint(tmp_path).meta
    assert (meta["heads"], meta["eps"], meta["mean"], meta["assumed"]) == (3, 1e-6, mean, [])
    assert (meta["crop_pct"], meta["interpolation"]) == (0.9, "bicubic")
    assert meta["image_size"] == [224, 224]


def test_a_file_has_the_configuration_of_its_folder():
    one = load_checkpoint(CHECKPOINTS / "hf_vit" / "model.safetensors").meta
    assert one == load_checkpoint(CHECKPOINTS / "hf_vit").meta
    assert one["eps"] == 1e-12
    assert one["interpolation"] == "bilinear"
    assert one["resize"] == {"height": 32, "width": 32}


def test_rescaling_other_than_to_1_is_in_mean_and_deviation(copy):
    folder = copy("hf_vit")
    path = folder / "preprocessor_config.json"
    said = {**json.loads(path.read_text()), "rescale_factor": 1 / 127.5}
    path.write_text(json.dumps(said))
    meta = load_checkpoint(folder).meta
    # (2 v - 0.5) / 0.5 = (v - 0.25) / 0.25
    np.testing.assert_allclose([meta["mean"], meta["std"]], [[0.25] * 3] * 2)
    path.write_text(json.dumps({**said, "rescale_factor": 1 / 255, "do_normalize": False}))
    meta = load_checkpoint(folder).meta
    assert (meta["mean"], meta["std"]) == ([0.0] * 3, [1.0] * 3)


def test_activations_are_told_apart():
    functions = {name: {node.function for node in load_checkpoint(CHECKPOINTS / name).of(
        Activation)} for name in ("timm_vit", "hf_vit_gelu_tanh", "timm_clip")}
    assert functions == {"timm_vit": {"gelu"}, "hf_vit_gelu_tanh": {"gelu_tanh"},
                         "timm_clip": {"quick_gelu"}}


def test_structure_of_query_norms_and_patch_merging():
    graph = load_checkpoint(CHECKPOINTS / "timm_vit_qknorm")
    assert [node.name for node in graph.of(Norm) if node.groups == 3] == [
        f"blocks.{index}.{part}_norm" for index in range(2) for part in "qk"]
    graph = load_checkpoint(CHECKPOINTS / "timm_swin")
    (beside,) = (node for node in graph.of(Rows) if node.beside == 4)
    # Of the four patches the two of the left column come first.
    assert beside.index[:8, 1].tolist() == [0, 16, 1, 17, 2, 18, 3, 19]
    plain, shifted = (graph.by_name[f"layers.0.blocks.{index}.scores"] for index in range(2))
    assert {rows for _, rows in plain.sequences} == {16}
    assert {rows for _, rows in shifted.sequences} == {16, 8, 4}
    assert len(shifted.sequences) == 9 + 3 * 2 + 3 * 2 + 4


@pytest.mark.parametrize(("sides", "window", "shift"), [((8, 8), 4, 2), ((6, 9), 3, 1),
                                                        ((4, 8), 4, 0), ((14, 7), 7, 3)])
def test_windows_are_the_publication_s_masked_ones(sides, window, shift):
    """Two tokens see each other where rolling, cutting and the mask of the publication say so."""
    height, width = sides
    order, sequences, offsets = window_rows(sides, window, shift)
    assert sorted(order) == list(range(height * width))
    token = np.roll(np.arange(height * width).reshape(sides), (-shift, -shift), (0, 1))
    mask = np.zeros(sides, int)
    edges = (slice(0, -window), slice(-window, -shift), slice(-shift, None)) if shift else (
        slice(None),)
    for number, (rows, columns) in enumerate((one, two) for one in edges for two in edges):
        mask[rows, columns] = number
    sees = np.zeros((height * width,) * 2, bool)
    place = np.zeros((height * width, 2), int)
    for top in range(0, height, window):
        for left in range(0, width, window):
            cut = slice(top, top + window), slice(left, left + window)
            tokens, regions = token[cut].ravel(), mask[cut].ravel()
            sees[np.ix_(tokens, tokens)] = regions[:, None] == regions[None]
            place[tokens] = np.stack(np.divmod(np.arange(window**2), window), axis=1)
    got = np.zeros_like(sees)
    for first, rows in sequences:
        tokens = order[first:first + rows]
        got[np.ix_(tokens, tokens)] = True
    assert (got == sees).all()
    assert (place[order] == offsets).all()


def test_positions_are_resampled_as_pytorch_does():
    with np.load(Path(__file__).parent / "position_torch.npz") as wanted:
        for name in sorted(wanted.files):
            if name != "x":
                size, antialias = name.split("_")
                got = resampled(wanted["x"], (4, 6), [int(side) for side in size.split("x")],
                                antialias=antialias == "1")
                np.testing.assert_allclose(got, wanted[name], atol=1e-5, err_msg=name)


def test_another_image_size_on_request():
    graph = load_checkpoint(CHECKPOINTS / "timm_vit_reg4", image_size=[48, 24])
    own = load_checkpoint(CHECKPOINTS / "timm_vit_reg4")
    assert graph.inputs[0].rows == 18
    assert graph.meta["image_size"] == [48, 24]
    np.testing.assert_array_equal(graph.by_name["prefix"].values, own.by_name["prefix"].values)
    np.testing.assert_array_equal(
        graph.by_name["position"].values,
        resampled(own.by_name["position"].values, (4, 4), (6, 3), antialias=True))
    with pytest.raises(ModelError, match=r"^images must be of 48 x 24 pixels, not 24 x 48"):
        float_inputs(graph, np.zeros((1, 3, 24, 48), np.float32))
    with pytest.raises(ModelError, match=r"^image_size must be a multiple of the patch size 8"):
        load_checkpoint(CHECKPOINTS / "timm_vit", image_size=[30, 30])


def drop(name):
    return lambda tensors: tensors.pop(name)


def add(name, shape=(36,)):
    return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(("folder", "change", "tensors", "message"), [
    ("timm_vit", None, add("blocks.0.attn.rel_pos.table"), "has relative position bias, which is"),
    ("timm_vit", None, add("attn_pool.q.weight"), "has attention pooling, which is not supported"),
    ("timm_vit", None, add("blocks.1.mlp.fc1_g.weight"), r"has a gated MLP \(SwiGLU\), which is"),
    ("timm_vit", None, add("rope.freqs"), "has rotary position embedding, which is not supported"),
    ("timm_vit", None, drop("head.weight"), "^the head must be of 10 classes as config.json says"),
    ("timm_vit", None, drop("blocks.1.attn.qkv.bias"), "'blocks.1.attn.qkv.bias' of shape"),
    ("timm_vit", None, add("pos_embed", (1, 26, 36)), "^tensor 'pos_embed' must have 16 positions"),
    ("timm_vit", lambda config: config.update(architecture="vit_base_patch16_rpn_224"), None,
     r"has norms behind attention and MLP \(ResPostBlock\), which is not supported"),
    ("timm_vit", lambda config: config["model_args"].update(global_pool="map"), None,
     "^global_pool must be 'token' or 'avg', not 'map'"),
    ("timm_vit", lambda config: config["model_args"].update(num_heads=5), None,
     "^heads must divide the 36 channels, not 5"),
    ("timm_vit", lambda config: config["model_args"].update(act_layer="silu"), None,
     "^activation must be one of gelu, gelu_tanh, quick_gelu, not 'silu'"),
    ("timm_vit", lambda config: config["pretrained_cfg"].update(mean=[123.675] * 3), None,
     r"^mean must be 1 or 3 numbers from -1 to 1 \(of images in 0..1, not 0..255\)"),
    ("timm_vit", lambda config: config.update(model_args=[1]), None, "^model_args of config.json"),
    ("hf_vit", lambda config: config.update(model_type="siglip"), None,
     "^model_type 'siglip' has attention pooling, which is not supported"),
    ("hf_vit", lambda config: config.update(model_type="bert"), None, "^model_type must be one of"),
    ("hf_vit", lambda config: config.update(hidden_act="relu"), None, "^hidden_act must be one of"),
    ("hf_vit", lambda config: config.update(num_hidden_layers=3), None,
     "^num_hidden_layers must be 2, the blocks there are, not 3"),
    ("hf_vit", lambda config: config.update(image_size=40), None,
     r"^tensor 'pos_embed' must have 25 positions of patches \(image_size 40 x 40 from config"),
    ("hf_vit", None, drop("vit.encoder.layer.0.attention.attention.key.bias"),
     "^bias of queries, keys and values of blocks.0 must be three tensors"),
    ("hf_dinov2", lambda config: config.update(use_swiglu_ffn=True), None, "a gated MLP"),
    ("hf_swin", lambda config: config.update(window_size=7), None, "^window_size must fit"),
    ("hf_swin", lambda config: config.update(image_size=40), None,
     "^windows of 4 x 4 must tile the 10 x 10 tokens of layers.1.blocks.0: padded windows"),
    ("timm_swin", lambda config: config["model_args"].update(num_heads=[3]), None,
     "^heads must be 2 numbers, one a stage"),
    ("timm_swin", None, drop("layers.0.blocks.1.norm2.bias"), "norm2.bias' of shape"),
    ("timm_swin", None, add("layers.0.blocks.0.extra"), "is not part of a Swin with 2 stages"),
])
def test_refusals_name_what_it_is(copy, folder, change, tensors, message):
    with pytest.raises(ModelError, match=message) as info:
        load_checkpoint(copy(folder, change, tensors))
    assert "\n" not in str(info.value)


def test_unknown_arguments_are_said(copy):
    folder = copy("timm_vit", lambda config: config["model_args"].update(new_trick=True))
    assert load_checkpoint(folder).meta["assumed"] == [
        "model_args 'new_trick' True: not known, and taken to change nothing"]


def test_folders_without_weights_and_with_too_many(tmp_path, copy):
    with pytest.raises(ModelError, match=r"must hold model\.safetensors or another file of"):
        load_checkpoint(tmp_path)
    folder = copy("timm_vit")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    assert load_checkpoint(folder).meta["heads"] == 3
    shutil.copy(folder / "one.safetensors", folder / "two.safetensors")
    with pytest.raises(ModelError, match=r"must hold one file of weights, not 2: name the file"):
        load_checkpoint(folder)


def test_shards_must_be_what_the_index_says(copy):
    folder = copy("timm_vit_sharded")
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    shard = "model-00001-of-00002.safetensors"
    table["weight_map"].pop("blocks.0.norm1.bias")
    index.write_text(json.dumps(table))
    with pytest.raises(ModelError, match=r"^shard 'model-00001.* missing or unknown: 'blocks\.0\."):
        load_checkpoint(folder)
    table["weight_map"]["blocks.0.norm1.bias"] = f"../timm_vit_sharded/{shard}"
    index.write_text(json.dumps(table))
    with pytest.raises(ModelError, match=r"must name at most 1000 files of its own folder"):
        load_checkpoint(folder)


def test_a_clip_folder_of_hugging_face(tmp_path):
    """Its image tower is timm's under other names; the text tower is left out, and said so."""
    wanted, source = expected("timm_clip"), load_file(
        CHECKPOINTS / "timm_clip" / "model.safetensors")
    tensors = {"logit_scale": np.zeros(1, np.float32),
               "text_model.final_layer_norm.weight": np.zeros(3, np.float32),
               "visual_projection.weight": source["head.weight"]}
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj",
             "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for name, value in source.items():
        if name.startswith("blocks."):
            _, index, part = name.split(".", 2)
            stem, _, what = part.rpartition(".")
            layer = f"vision_model.encoder.layers.{index}"
            if stem == "attn.qkv":
                for role, piece in zip("qkv", np.split(value, 3), strict=True):
                    tensors[f"{layer}.self_attn.{role}_proj.{what}"] = np.ascontiguousarray(piece)
            else:
                tensors[f"{layer}.{names[stem]}.{what}"] = value
    embeddings = "vision_model.embeddings"
    tensors |= {f"{embeddings}.class_embedding": source["cls_token"].reshape(-1),
                f"{embeddings}.position_embedding.weight": source["pos_embed"][0],
                f"{embeddings}.position_ids": np.arange(17)[None],
                f"{embeddings}.patch_embedding.weight": source["patch_embed.proj.weight"]}
    for here, there in ("norm_pre", "pre_layrnorm"), ("norm", "post_layernorm"):
        tensors |= {f"vision_model.{there}.{kind}": source[f"{here}.{kind}"]
                    for kind in ("weight", "bias")}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({
        "model_type": "clip", "vision_config": {
            "num_attention_heads": 3, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
            "image_size": 32, "num_hidden_layers": 2}}))
    graph = load_checkpoint(tmp_path)
    bias = source["head.bias"]
    assert error(answers(graph, wanted["images"]) + bias, wanted["logits"]) < 1e-5
    assert graph.meta["left_out"] == ["an index", "the text tower"]
    assert {node.scale for node in graph.of(Scores)} == {12**-0.5}


def test_integer_scores_have_their_bias_at_its_own_scale():
    wanted, graph = expected("timm_swin"), load_checkpoint(CHECKPOINTS / "timm_swin")
    images = wanted["images"].astype(np.float32) / 255
    network = quantize(graph, float_inputs(graph, images))
    name = "layers.0.blocks.1.scores"
    node, real = network.by_name[name], graph.by_name[name]
    scale = network.scales[name] * float(node.bias_mult) / 2.0 ** float(node.bias_shift)
    np.testing.assert_allclose(node.bias_table * scale, real.bias_table, atol=scale)
    cut = network.between(["layers.0.blocks.1.qkv"], [name])
    zeros = {cut.inputs[0].name: np.zeros((256, 36), np.int64)}
    got = forward(cut, zeros)[name]
    bias = real.bias_table[real.bias_index[0, 0]] / network.scales[name]
    np.testing.assert_allclose(got[:, 0, 0], bias, atol=0.51)


def test_meta_calls_registers_otherwise(copy):
    """And its positions are those of class token and patches."""
    rng = np.random.default_rng(1)

    def change(tensors):
        channels = tensors["cls_token"].shape[2]
        tensors["register_tokens"] = rng.standard_normal((1, 3, channels), np.float32)
    before, after = (
        {node.name: node.values for node in load_checkpoint(folder).of(Constant)}
        for folder in (CHECKPOINTS / "timm_vit", copy("timm_vit", None, change)))
    np.testing.assert_array_equal(after["position"], before["position"])
    np.testing.assert_array_equal(after["prefix"][:1], before["prefix"])
    assert len(after["prefix"]) == 4


def test_another_size_for_tests_is_said(copy):
    def change(config):
        config["pretrained_cfg"]["test_input_size"] = [3, 64, 64]
    folder = copy("timm_vit", change)
    graph = load_checkpoint(folder)
    (sentence,) = graph.meta["assumed"]
    assert sentence.startswith("image_size as input_size [3, 32, 32]: ")
    assert graph.meta["image_size"] == [32, 32]
    graph = load_checkpoint(folder, image_size=[64, 64])
    assert (graph.meta["assumed"], graph.meta["image_size"]) == ([], [64, 64])
