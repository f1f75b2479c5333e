import dataclasses
import json
import re

import numpy as np
import pytest

from systola.files.tensors import ModelError, read_tensors, write_tensors
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.networks.integer_file import VERSION, is_integer_model, load_model, save_model
from systola.model.networks.integer_forward import forward

KEY = "systola_integer_vit"


def make(**settings):
    return random_vit(np.random.default_rng(2), channels=8, heads=2, blocks=2, hidden=12,
                      classes=3, tokens=5, patch_dim=3, **settings)


@pytest.fixture(scope="module")
def model():
    return make(mult_bits=16, weight_bits=6, act_bits=7)


def equal(a, b):
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(
            equal(getattr(a, item.name), getattr(b, item.name)) for item in dataclasses.fields(a))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def damage(tmp_path, model, change):
    """Save, let `change` edit tensors and header, write back; return the path."""
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata[KEY])
    change(tensors, header)
    write_tensors(path, tensors, {KEY: json.dumps(header)})
    return path


@pytest.mark.parametrize("settings", [
    {"mult_bits": 16, "weight_bits": 6, "act_bits": 7}, {"attention": "deferred"},
    {"attention": "deferred", "mult_bits": 12}, {"code_mult_bits": 10, "gelu": "table"}])
def test_round_trip_keeps_every_field(tmp_path, settings):
    model, path = make(**settings), tmp_path / "model.safetensors"
    save_model(model, path)
    assert is_integer_model(path)
    loaded = load_model(path)
    assert equal(loaded, model)
    codes = random_codes(np.random.default_rng(3), model, 2)
    np.testing.assert_array_equal(forward(loaded, codes)["logits"],
                                  forward(model, codes)["logits"])


def test_saving_twice_gives_the_same_bytes(tmp_path, model):
    for name in "a.safetensors", "b.safetensors":
        save_model(model, tmp_path / name)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def _set(name, index, value):
    def change(tensors, header):
        tensors[name][index] = value
    return change


def _edit(**entries):
    return lambda tensors, header: header.update(entries)


@pytest.mark.parametrize(("change", "message"), [
    (lambda t, h: t.pop("blocks.1.fc2.bias"), "tensor 'blocks.1.fc2.bias' is missing from"),
    (lambda t, h: t.update(extra=np.zeros(1)), "tensor 'extra' is not part of the model"),
    (lambda t, h: t.update(cls_row=np.zeros(9, np.int16)),
     "tensor 'cls_row' must have shape (8,), not (9,)"),
    (lambda t, h: t.update(cls_row=np.zeros(8, np.int32)),
     "tensor 'cls_row' must hold int16, not int32"),
    (_set("head.weight", (0, 0), 32), "tensor 'head.weight' must lie from -31 to 31, not 32"),
    (_set("norm.requant.shift", 0, 64), "tensor 'norm.requant.shift' must lie from 0 to 63, not"),
    (_set("patch.requant.mult", 0, 2**16), "tensor 'patch.requant.mult' must lie from -65535 to"),
    (_set("blocks.0.gelu_x0", (), 0), "tensor 'blocks.0.gelu_x0' must lie from -255 to -1, not"),
    (_set("blocks.0.softmax_x0", (), -256), "tensor 'blocks.0.softmax_x0' must lie from -255"),
    (_set("head.out_bits", (), 17), "tensor 'head.out_bits' must lie from 9 to 16, not 17"),
    (_set("blocks.0.qkv.out_bits", (), 9), "tensor 'blocks.0.qkv.out_bits' must lie from 2 to 8"),
    (_set("blocks.0.qkv.symmetric", (), 2), "tensor 'blocks.0.qkv.symmetric' must lie from 0 to 1"),
    (_edit(attention="deferred"), "attention 'deferred' needs act_bits 8 and mult_bits up to 24"),
    (_edit(code_mult_bits=10), "tensor 'blocks.0.norm1.requant.mult' must lie from -1023 to 1023"),
    (_edit(version=VERSION + 1), f"version of the integer model must be {VERSION}, not"),
    (_edit(heads=3), "heads must divide the 8 channels, not 3"),
    (_edit(heads=True), "heads must be an integer from 1 to 1048575, not True"),
    (_edit(hidden="many"), "hidden must be an integer from 1 to 1048575, not 'many'"),
    (_edit(gelu="tanh"), "gelu must be 'exact' or 'table', not 'tanh'"),
    (_edit(mult_bits=40), "mult_bits must be an integer from 8 to 31, not 40"),
    (_edit(scales=[]), "scales must be a table, not []"),
    (_edit(colour=1), "entries of the integer model must be"),
    (lambda t, h: h.pop("classes"), "entries of the integer model must be"),
    (_edit(blocks=1), "tensor 'blocks.1.attn_residual.mult' is not part of the model"),
])
def test_damaged_file_is_refused(tmp_path, model, change, message):
    path = damage(tmp_path, model, change)
    with pytest.raises(ModelError, match=f"^{re.escape(message)}") as info:
        load_model(path)
    assert "\n" not in str(info.value)


def test_numerators_leave_room_for_the_row_factors(tmp_path):
    model = make(attention="deferred", mult_bits=12)
    path = damage(tmp_path, model, _set("blocks.1.context.mult", (), 2**19))
    with pytest.raises(ModelError, match=r"^tensor 'blocks.1.context.mult' must lie from 0 to 524"):
        load_model(path)


def test_truncated_file_is_refused(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"must be a complete \.safetensors file"):
        load_model(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"a": np.zeros(1)}, {})
    assert not is_integer_model(path)
    with pytest.raises(ModelError, match="must hold an integer model"):
        load_model(path)
    write_tensors(path, {"a": np.zeros(1)}, {KEY: "{"})
    with pytest.raises(ModelError, match="must be JSON"):
        load_model(path)
    write_tensors(path, {"a": np.zeros(1)}, {KEY: "3"})
    with pytest.raises(ModelError, match="version of the integer model must be"):
        load_model(path)


def test_inconsistent_model_is_not_saved(tmp_path, model):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match=r"^tensor 'cls_row' must lie from -32768 to 32767"):
        save_model(dataclasses.replace(model, cls_row=np.full(8, 40000)), path)
    with pytest.raises(ModelError, match=r"^tensor 'cls_row' must hold int16, not float64$"):
        save_model(dataclasses.replace(model, cls_row=np.zeros(8)), path)
    assert not path.exists()
