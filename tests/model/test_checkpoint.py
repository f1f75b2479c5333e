import re
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import save_file

from systola.files.tensors import ModelError, read_tensors, write_tensors
from systola.model.data.digits import checkpoint_path
from systola.model.data.synthetic import random_float_vit
from systola.model.importers.checkpoint import load_checkpoint

SIZES = {"channels": 12, "heads": 3, "blocks": 2, "hidden": 20, "classes": 5, "tokens": 10,
         "patch_dim": 8}


@pytest.fixture
def tensors():
    """Return a valid checkpoint as timm names it: 2 channels, 2x2 patches, 9 of them."""
    parameters = dict(random_float_vit(np.random.default_rng(1), **SIZES).parameters)
    parameters["patch_embed.proj.weight"] = parameters["patch_embed.proj.weight"].reshape(
        12, 2, 2, 2)
    parameters["cls_token"] = parameters["cls_token"].reshape(1, 1, 12)
    parameters["pos_embed"] = parameters["pos_embed"].reshape(1, 10, 12)
    return parameters


def load(tmp_path, tensors, metadata=None, **options):
    path = tmp_path / "model.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path,
              metadata or {"heads": "3"})
    return load_checkpoint(path, **options)


def refuses(tmp_path, tensors, message, metadata=None):
    with pytest.raises(ModelError, match=f"^{re.escape(message)}") as info:
        load(tmp_path, tensors, metadata)
    assert "\n" not in str(info.value)


def test_reads_every_dimension(tmp_path, tensors):
    vit = load(tmp_path, tensors, {"heads": "3", "mean": "0.25,0.5", "std": "0.5", "eps": "1e-5"})
    assert (vit.channels, vit.heads, vit.blocks, vit.classes, vit.tokens, vit.patch_dim) == (
        12, 3, 2, 5, 10, 8)
    assert (vit.patch_size, vit.mean, vit.std, vit.eps) == (2, (0.25, 0.5), (0.5,), 1e-5)
    assert load(tmp_path, tensors, heads=4).heads == 4


def test_npz_equals_safetensors(tmp_path, tensors):
    path = tmp_path / "model.npz"
    np.savez(path, heads=3, mean="0.1", **tensors)
    vit, other = load_checkpoint(path), load(tmp_path, tensors)
    assert (vit.heads, vit.mean) == (3, (0.1,))
    for name, value in other.parameters.items():
        np.testing.assert_array_equal(vit.parameters[name], value)


def test_heads_default_to_64_channels_each(tmp_path, tensors):
    refuses(tmp_path, tensors, "heads must divide the 12 channels, not 0", {"x": "y"})


@pytest.mark.parametrize(("heads", "shown"), [("5", "5"), ("0", "0"), ("two", "'two'")])
def test_heads_must_divide_channels(tmp_path, tensors, heads, shown):
    refuses(tmp_path, tensors, f"heads must divide the 12 channels, not {shown}",
            {"heads": heads})


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "pos_embed", "head.weight",
                                  "cls_token", "blocks.1.attn.qkv.bias", "norm.bias"])
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
    ("blocks.1.mlp.fc2.weight", (12, 21), (12, 20)), ("cls_token", (1, 12), (1, 1, 12))])
def test_wrong_shape_is_named(tmp_path, tensors, name, shape, expected):
    tensors[name] = np.zeros(shape, np.float32)
    refuses(tmp_path, tensors, f"tensor {name!r} must have shape {expected}, not {shape}")


def test_other_errors_are_one_line(tmp_path, tensors):
    refuses(tmp_path, {**tensors, "dist_token": tensors["cls_token"]},
            "tensor 'dist_token' is not part of a Vision Transformer with 2 blocks")
    refuses(tmp_path, {**tensors, "norm.bias": np.full(12, np.nan, np.float32)},
            "tensor 'norm.bias' must hold finite float32 numbers only")
    refuses(tmp_path, {**tensors, "norm.bias": np.zeros(12, np.int32)},
            "tensor 'norm.bias' must hold floating point numbers, not int32")
    refuses(tmp_path, {**tensors, "pos_embed": np.zeros((1, 9, 12), np.float32)},
            "tensor 'pos_embed' must have 1 + a square number of tokens, not 9")
    refuses(tmp_path, {**tensors, "patch_embed.proj.weight": np.zeros((12, 2, 2, 3), np.float32)},
            "tensor 'patch_embed.proj.weight' must have square patches, not shape (12, 2, 2, 3)")
    refuses(tmp_path, tensors, "metadata 'std' must be 1 or 2 numbers from 1e-30 to 1e+30, not '0'",
            {"heads": "3", "std": "0"})
    refuses(tmp_path, tensors, "metadata 'mean' must be 1 or 2 numbers from -1e+30 to 1e+30",
            {"heads": "3", "mean": "1,2,3"})


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
    with pytest.raises(ModelError, match=r"^model file must end in .* not 'model\.pth'$"):
        load_checkpoint("model.pth")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.safetensors"
    write_tensors(path, {"a": np.arange(3)}, {"k": "v"})
    before = path.read_bytes()

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
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
    vit = load_checkpoint(checkpoint_path())
    assert (vit.channels, vit.heads, vit.blocks, vit.classes, vit.tokens, vit.patch_dim) == (
        64, 4, 4, 10, 17, 4)
    assert [vit.parameters[f"blocks.{i}.mlp.fc1.weight"].shape for i in range(4)] == [
        (256, 64)] * 4
    assert all(a.dtype == b.dtype == np.float32 for a, b in pairwise(vit.parameters.values()))
