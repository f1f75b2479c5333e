import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from systola.files.tensors import ModelError, read_tensors, write_tensors
from systola.model.data.digits import checkpoint_path
from systola.model.graph.graph_file import is_integer_network
from systola.model.graph.nodes import Linear, Norm, Scores
from systola.model.importers.registry import load_checkpoint

LINEARS = {"qkv": "attn.qkv", "attn_out": "attn.proj", "fc1": "mlp.fc1", "out": "mlp.fc2"}


@pytest.fixture
def tensors():
    """Return a valid checkpoint as timm names it: 2 channels, 2x2 patches, 9 of them."""
    channels, hidden = 12, 20
    shapes = {"patch_embed.proj.weight": (channels, 2, 2, 2), "patch_embed.proj.bias": (channels,),
              "cls_token": (1, 1, channels), "pos_embed": (1, 10, channels)}
    for index in range(2):
        for name, rows, columns in (
                ("attn.qkv", 3 * channels, channels), ("attn.proj", channels, channels),
                ("mlp.fc1", hidden, channels), ("mlp.fc2", channels, hidden)):
            shapes[f"blocks.{index}.{name}.weight"] = rows, columns
            shapes[f"blocks.{index}.{name}.bias"] = (rows,)
        for name in "norm1", "norm2":
            for part in "weight", "bias":
                shapes[f"blocks.{index}.{name}.{part}"] = (channels,)
    shapes |= {"norm.weight": (channels,), "norm.bias": (channels,),
               "head.weight": (5, channels), "head.bias": (5,)}
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def load(tmp_path, tensors, metadata=None, **options):
    path = tmp_path / "model.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path,
              metadata or {"heads": "3"})
    return load_checkpoint(path, **options)


def refuses(tmp_path, tensors, message, metadata=None):
    with pytest.raises(ModelError, match=f"^{re.escape(message)}") as info:
        load(tmp_path, tensors, metadata)
    assert "\n" not in str(info.value)


def sizes(graph):
    """Return what the sizes of a network's tensors say; those of all blocks must be alike."""
    scores = graph.of(Scores)
    assert [node.name for node in scores] == [f"blocks.{i}.scores" for i in range(len(scores))]
    assert len({(node.heads, node.head_dim, node.scale) for node in scores}) == 1
    (patches,) = graph.inputs
    tokens, channels = graph.tensors[f"blocks.{len(scores) - 1}.out"].shape
    assert scores[0].heads * scores[0].head_dim == channels
    assert scores[0].scale == scores[0].head_dim ** -0.5
    assert patches.rows == tokens - 1
    return {"channels": channels, "heads": scores[0].heads, "blocks": len(scores),
            "classes": graph.tensors["logits"].channels, "tokens": tokens,
            "patch_dim": patches.channels}


def parameters(graph):
    """Return the arrays of a float network by node and attribute."""
    arrays = {f"{node.name}.{part}": getattr(node, part) for node in graph.of(Linear) + graph.of(
        Norm) for part in ("weight", "bias")}
    return arrays | {name: graph.by_name[name].values for name in ("prefix", "position")}


def test_reads_every_dimension(tmp_path, tensors):
    graph = load(tmp_path, tensors, {"heads": "3", "mean": "0.25,0.5", "std": "0.5", "eps": "1e-5"})
    assert sizes(graph) == {"channels": 12, "heads": 3, "blocks": 2, "classes": 5, "tokens": 10,
                            "patch_dim": 8}
    assert graph.meta == {
        "family": "vit", "classes": 5, "patch_size": 2, "image_size": [6, 6], "heads": 3,
        "activation": "gelu",
        "mean": [0.25, 0.5], "std": [0.5, 0.5], "eps": 1e-5, "assumed": [], "origins": {
            "family": "tensors", "classes": "tensors", "image_size": "pos_embed",
            "activation": "timm's default",
            **dict.fromkeys(("heads", "mean", "std", "eps"), "metadata")}}
    assert {norm.eps for norm in graph.of(Norm)} == {1e-5}
    assert sizes(load(tmp_path, tensors, heads=4))["heads"] == 4
    graph = load(tmp_path, tensors)
    assert (graph.meta["mean"], graph.meta["std"]) == ([0.5, 0.5], [0.5, 0.5])
    assert graph.meta["assumed"] == [
        "mean 0.5, 0.5: 0.5 for images of 2 planes", "std 0.5, 0.5: 0.5 for images of 2 planes",
        "eps 1e-06: as in timm's and DeiT's Vision Transformers"]
    assert {norm.eps for norm in graph.of(Norm)} == {1e-6}
    assert not graph.is_integer
    assert not is_integer_network(tmp_path / "model.safetensors")


def test_every_tensor_has_its_place(tmp_path, tensors):
    expected = {"patch_embed.weight": tensors["patch_embed.proj.weight"].reshape(12, 8),
                "patch_embed.bias": tensors["patch_embed.proj.bias"],
                "prefix": tensors["cls_token"][0] + tensors["pos_embed"][0, :1],
                "position": tensors["pos_embed"][0, 1:]}
    for part in "weight", "bias":
        expected |= {f"norm.{part}": tensors[f"norm.{part}"],
                     f"logits.{part}": tensors[f"head.{part}"]}
        for name in "blocks.0", "blocks.1":
            for norm in "norm1", "norm2":
                expected[f"{name}.{norm}.{part}"] = tensors[f"{name}.{norm}.{part}"]
            for linear, source in LINEARS.items():
                expected[f"{name}.{linear}.{part}"] = tensors[f"{name}.{source}.{part}"]
    got = parameters(load(tmp_path, tensors))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == np.float32
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_npz_equals_safetensors(tmp_path, tensors):
    path = tmp_path / "model.npz"
    np.savez(path, heads=3, mean="0.1", **tensors)
    graph, other = load_checkpoint(path), load(tmp_path, tensors)
    assert (sizes(graph)["heads"], graph.meta["mean"]) == (3, [0.1, 0.1])
    got = parameters(graph)
    for name, value in parameters(other).items():
        np.testing.assert_array_equal(got[name], value)


def test_heads_that_nobody_says_are_assumed_with_a_reason(tmp_path, tensors):
    graph = load(tmp_path, tensors, {"x": "y"})
    assert "heads 3: as in vit_tiny and deit_tiny, the smallest published ones" in (
        graph.meta["assumed"])


@pytest.mark.parametrize(("heads", "message"), [
    ("5", "heads must divide the 12 channels, not 5"),
    ("0", "heads must be an integer from 1 to 12, not '0' (metadata)"),
    ("two", "heads must be an integer from 1 to 12, not 'two' (metadata)")])
def test_heads_must_divide_channels(tmp_path, tensors, heads, message):
    refuses(tmp_path, tensors, message, {"heads": heads})


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "pos_embed", "head.bias",
                                  "blocks.1.attn.qkv.bias", "norm.bias"])
def test_missing_tensor_is_named(tmp_path, tensors, name):
    del tensors[name]
    with pytest.raises(ModelError, match=f"^tensor '{name}' .*is missing from the checkpoint$"):
        load(tmp_path, tensors)


def test_missing_block_is_named(tmp_path, tensors):
    for name in [name for name in tensors if name.startswith("blocks.0.")]:
        del tensors[name]
    refuses(tmp_path, tensors, "tensor 'blocks.0.norm1.weight' of shape (12,) is missing")


@pytest.mark.parametrize(("name", "shape", "expected"), [
    ("blocks.0.attn.qkv.weight", (24, 12), (36, 12)), ("head.bias", (6,), (5,)),
    ("blocks.1.mlp.fc2.weight", (12, 21), (12, 20)), ("cls_token", (1, 12), (1, 1, 12)),
    ("cls_token", (1, 2, 12), (1, 1, 12))])
def test_wrong_shape_is_named(tmp_path, tensors, name, shape, expected):
    tensors[name] = np.zeros(shape, np.float32)
    refuses(tmp_path, tensors, f"tensor {name!r} must have shape {expected}, not {shape}")


def test_other_errors_are_one_line(tmp_path, tensors):
    refuses(tmp_path, {**tensors, "blocks.1.attn.unknown": tensors["cls_token"]},
            "tensor 'blocks.1.attn.unknown' is not part of a Vision Transformer with 2 blocks")
    refuses(tmp_path, {**tensors, "norm.bias": np.full(12, np.nan, np.float32)},
            "tensor 'norm.bias' must hold finite float32 numbers only")
    refuses(tmp_path, {**tensors, "norm.bias": np.full(12, 1e39)},
            "tensor 'norm.bias' must hold finite float32 numbers only")
    refuses(tmp_path, {**tensors, "norm.bias": np.zeros(12, np.int32)},
            "tensor 'norm.bias' must hold floating point numbers, not int32")
    refuses(tmp_path, {**tensors, "pos_embed": np.zeros((1, 8, 12), np.float32)},
            "tensor 'pos_embed' must have 1 + a square number of tokens, not 8")
    refuses(tmp_path, {**tensors, "patch_embed.proj.weight": np.zeros((12, 2, 2, 3), np.float32)},
            "tensor 'patch_embed.proj.weight' must have square patches, not shape (12, 2, 2, 3)")
    scale = "(of images in 0..1, not 0..255)"
    refuses(tmp_path, tensors, f"std must be 1 or 2 numbers from 1e-30 to 1 {scale}, not '0' "
            f"(metadata)", {"heads": "3", "std": "0"})
    refuses(tmp_path, tensors, f"mean must be 1 or 2 numbers from -1 to 1 {scale}, not '.1,.2,.3'",
            {"heads": "3", "mean": ".1,.2,.3"})
    refuses(tmp_path, tensors, f"mean must be 1 or 2 numbers from -1 to 1 {scale}, not '123.675' "
            f"(metadata)", {"heads": "3", "mean": "123.675"})
    for eps in "1.1", "0", "-1e-9", "1e-6,1e-6", "nan", "small":
        refuses(tmp_path, tensors, f"eps must be a number from 1e-30 to 1, not '{eps}' (metadata)",
                {"heads": "3", "eps": eps})
    huge = {name: np.full_like(tensors[name], 3e38) for name in ("cls_token", "pos_embed")}
    refuses(tmp_path, {**tensors, **huge}, "node 'prefix': values must be finite, not inf")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file(tmp_path, tensors, suffix, keep):
    path = tmp_path / f"model{suffix}"
    if suffix == ".npz":
        np.savez(path, heads=3, **tensors)
    else:
        save_file(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * keep)])
    with pytest.raises(ModelError, match=r"^model file '.*' must be a complete \S+ file") as info:
        load_checkpoint(path)
    assert "\n" not in str(info.value)


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, pos_embed=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ModelError, match="without pickled objects"):
        load_checkpoint(path)


def test_missing_file_and_suffix(tmp_path):
    with pytest.raises(ModelError, match=r"^model file '.*no\.npz' does not exist$"):
        load_checkpoint(tmp_path / "no.npz")
    with pytest.raises(ModelError, match=r"^model file must end in .* not 'model\.txt'$"):
        load_checkpoint("model.txt")
    with pytest.raises(ModelError, match=r"^model file 'model\.pth' does not exist$"):
        load_checkpoint("model.pth")
    with pytest.raises(ModelError, match=r"^model file 'm\.onnx' is an ONNX graph, which is not"):
        load_checkpoint("m.onnx")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.safetensors"
    write_tensors(path, {"a": np.arange(3)}, {"k": "v"})
    before = path.read_bytes()

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ModelError, match=r"cannot be written: No space left on device$"):
        write_tensors(path, {"a": np.arange(4)}, {})
    assert [item.name for item in tmp_path.iterdir()] == ["out.safetensors"]
    assert path.read_bytes() == before


def test_write_into_missing_folder(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be written: No such file or directory$"):
        write_tensors(tmp_path / "no" / "out.safetensors", {"a": np.arange(4)}, {})
    with pytest.raises(ModelError, match=r"must end in \.safetensors, not 'out\.npz'$"):
        write_tensors("out.npz", {}, {})


def test_tensors_keep_shape_and_order(tmp_path):
    path = tmp_path / "out.safetensors"
    tensors = {"scalar": np.array(7), "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
               "view": np.arange(20)[::2]}
    write_tensors(path, tensors, {"k": "v"})
    got, metadata = read_tensors(path)
    assert metadata == {"k": "v"}
    for name, value in tensors.items():
        np.testing.assert_array_equal(got[name], value)
        assert got[name].shape == value.shape


def test_digits_checkpoint_is_the_documented_network():
    graph = load_checkpoint(checkpoint_path())
    assert sizes(graph) == {"channels": 64, "heads": 4, "blocks": 4, "classes": 10, "tokens": 17,
                            "patch_dim": 4}
    assert [graph.by_name[f"blocks.{i}.fc1"].weight.shape for i in range(4)] == [(256, 64)] * 4
    assert {value.dtype for value in parameters(graph).values()} == {np.dtype(np.float32)}
