import dataclasses
import json
import re
import tracemalloc

import numpy as np
import pytest

from systola.files.tensors import ModelError, read_tensors, write_tensors
from systola.hw.contract.config import PUBLISHED
from systola.model.data.synthetic import random_codes, random_float_vit, random_vit
from systola.model.graph.graph import Graph
from systola.model.graph.graph_file import (
    VERSION,
    is_integer_network,
    load_network,
    save_network,
)
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import CODES, KINDS, Add, Mean

KEY = "systola_network"
SIZES = {"channels": 8, "heads": 2, "blocks": 2, "hidden": 12, "classes": 3, "tokens": 5,
         "patch_dim": 3}


def make(**settings):
    return random_vit(np.random.default_rng(2), **{**SIZES, **PUBLISHED, **settings})


@pytest.fixture(scope="module")
def graph():
    return make(mult_bits=16, weight_bits=6, act_bits=7)


@pytest.fixture(scope="module")
def kinds():
    """Return small networks that together have every kind of node in every variant."""
    sizes = {**SIZES, "blocks": 1, "channels": 4, "hidden": 3, "prefixes": 0, "pooling": "mean"}
    sizes |= PUBLISHED
    networks = [random_vit(np.random.default_rng(3), **{**sizes, **variant}) for variant in (
        {"gelu": "table", "prefixes": 1}, {"attention": "deferred"},
        {"attention": "normalised", "norm": "normalised"},
        {"norm": "compared", "act_bits": 3})]
    one = np.array(2**23), np.array(23)
    x = networks[0].tensors["blocks.0.out"]
    networks[0] = dataclasses.replace(networks[0], nodes=(
        *networks[0].nodes,
        Add(name="sum", input="blocks.0.attn_out", other="blocks.0.out", bits=16, mult=one[0],
            shift=one[1], other_mult=one[0], other_shift=one[1]),
        Mean(name="mean", input="sum", groups=x.rows, bits=16, mult=one[0], shift=one[1])),
        outputs=("logits", "mean"))
    assert {node.kind for network in networks for node in network.nodes} == KINDS.keys()
    return networks


def equal(a, b):
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(
            equal(getattr(a, item.name), getattr(b, item.name)) for item in dataclasses.fields(a))
    if isinstance(a, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def damage(tmp_path, graph, change):
    """Save, let `change` edit tensors and header, write back; return the path."""
    path = tmp_path / "model.safetensors"
    save_network(graph, path)
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata[KEY])
    change(tensors, header)
    write_tensors(path, tensors, {KEY: json.dumps(header)})
    return path


def node_of(header, name):
    return next(entry for entry in header["nodes"] if entry["name"] == name)


@pytest.mark.parametrize("settings", [
    {"mult_bits": 16, "weight_bits": 6, "act_bits": 7}, {"attention": "deferred"},
    {"attention": "deferred", "mult_bits": 12}, {"attention": "normalised"},
    {"code_mult_bits": 10, "gelu": "table"}])
def test_round_trip_keeps_every_field(tmp_path, settings):
    graph, path = make(**settings), tmp_path / "model.safetensors"
    save_network(graph, path)
    assert is_integer_network(path)
    loaded = load_network(path)
    assert equal(loaded, graph)
    codes = random_codes(np.random.default_rng(3), graph, 2)
    np.testing.assert_array_equal(forward(loaded, codes)["logits"],
                                  forward(graph, codes)["logits"])


def test_round_trip_keeps_every_kind(tmp_path, kinds):
    for graph in kinds:
        graph.meta.update(source="any", patch_size=2, mean=[0.5, 0.25], std=[1])
        save_network(graph, tmp_path / "model.safetensors")
        assert equal(load_network(tmp_path / "model.safetensors"), graph)


def test_saving_twice_gives_the_same_bytes(tmp_path, graph):
    for name in "a.safetensors", "b.safetensors":
        save_network(graph, tmp_path / name)
    loaded = load_network(tmp_path / "a.safetensors")
    save_network(loaded, tmp_path / "c.safetensors")
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(contents) == 1


def _set(name, index, value):
    def change(tensors, header):
        tensors[name][index] = value
    return change


def _edit(**entries):
    return lambda tensors, header: header.update(entries)


def _node(target, /, **entries):
    return lambda tensors, header: node_of(header, target).update(entries)


def _without(name, attribute):
    return lambda tensors, header: node_of(header, name).pop(attribute)


@pytest.mark.parametrize(("change", "message"), [
    (lambda t, h: t.pop("blocks.1.out.bias"), "tensor 'blocks.1.out.bias' is missing from"),
    (lambda t, h: t.pop("blocks.1.out.mult"),
     "node 'blocks.1.out': mult must be an array of shape (8,), not None"),
    (lambda t, h: t.pop("blocks.1.out.res_shift"), "node 'blocks.1.out': res_shift must be an"),
    (lambda t, h: t.update(extra=np.zeros(1)), "tensor 'extra' is not part of the network"),
    (lambda t, h: t.update({"blocks.0.scores.bias": np.zeros(1, np.int32)}),
     "tensor 'blocks.0.scores.bias' is not part of the network"),
    (lambda t, h: t.update({"blocks.0.norm1.weight": np.zeros(8, np.int8)}),
     "node 'blocks.0.norm1': weight must be left out here, not of shape (8,)"),
    (lambda t, h: t.update({"blocks.0.qkv.res_mult": np.array(1, np.int32)}),
     "node 'blocks.0.qkv': res_mult must be left out here, not of shape ()"),
    (lambda t, h: t.update({"blocks.0.gelu.table": np.zeros(256, np.int8)}),
     "node 'blocks.0.gelu': table must be left out here, not of shape (256,)"),
    (lambda t, h: t.update({"prefix.values": np.zeros((1, 9), np.int16)}),
     "node 'embed': sources must be tensors of the same channels and bits, not [(9, 16), (8, 16)]"),
    (lambda t, h: t.update({"prefix.values": np.zeros((0, 8), np.int16)}),
     "node 'prefix': values must be rows of channels, not of shape (0, 8)"),
    (lambda t, h: t.update({"prefix.values": np.zeros((1, 8), np.int32)}),
     "tensor 'prefix.values' must hold int16, not int32"),
    (lambda t, h: t.update({"logits.bias": np.zeros(4, np.int32)}),
     "node 'logits': bias must be an array of shape (3,), not of shape (4,)"),
    (lambda t, h: t.update({"logits.mult": np.zeros((), np.int32)}),
     "node 'logits': mult must be an array of shape (3,), not of shape ()"),
    (_set("logits.weight", (0, 0), 32), "node 'logits': weight must be from -31 to 31, not 32"),
    (_set("norm.shift", 0, 64), "node 'norm': shift must be from 0 to 63, not 64"),
    (_set("patch_embed.mult", 0, -2**31), "node 'patch_embed': mult must be from -2147483647 to"),
    (_set("embed.index", (4, 1), 4),
     "node 'embed': index must be rows of the sources, not row 4 of source 1"),
    (_set("embed.index", (0, 0), 2),
     "node 'embed': index must be rows of the sources, not row 0 of source 2"),
    (_set("embed.index", (0, 0), -1), "node 'embed': index must be from 0 to 1048575, not -1"),
    (_node("blocks.0.gelu", unit=0), "node 'blocks.0.gelu': unit must be an integer from 1 to"),
    (_node("blocks.0.attention", unit=2**24),
     "node 'blocks.0.attention': unit must be an integer from 1 to 16777215, not 16777216"),
    (_node("logits", bits=17), "node 'logits': bits must be an integer from 2 to 16, not 17"),
    (_node("blocks.0.scores", bits=9), "node 'blocks.0.scores': bits must be an integer from 2 to"),
    (_node("blocks.0.qkv", bits=9), "node 'blocks.0.scores': query must be of at most 8 bits"),
    (_node("blocks.0.qkv", symmetric=2), "node 'blocks.0.qkv': symmetric must be bool, not 2"),
    (_node("blocks.0.qkv", weight_bits=5), "node 'blocks.0.qkv': weight must be from -15 to 15"),
    (_node("blocks.0.qkv", input="blocks.0.scores"),
     "node 'blocks.0.qkv': input 'blocks.0.scores' must be made by a node before it"),
    (_node("blocks.0.attn_out", input="blocks.0.attention"),
     "node 'blocks.0.attn_out': input must be rows of channels, not attention"),
    (_node("blocks.0.attention", variant="deferred"),
     "node 'blocks.0.attention': bits must be 8, not 16"),
    (_node("blocks.0.attention", variant="deferred", bits=8),
     "node 'blocks.0.context': attention must be shares without factor_bits, not exponentials"),
    (_node("blocks.0.context", factor_bits=24),
     "node 'blocks.0.context': attention must be exponentials with factor_bits, not shares"),
    (_node("blocks.0.context", attention="blocks.0.scores"),
     "node 'blocks.0.context': attention must be shares without factor_bits, not scores"),
    (_node("blocks.1.attention", input="blocks.0.attention"),
     "node 'blocks.1.attention': input must be scores, not shares"),
    (_node("blocks.0.context", attention="embed"),
     "node 'blocks.0.context': attention must be shares without factor_bits, not rows of channels"),
    (_node("blocks.0.scores", heads=5),
     "node 'blocks.0.scores': key_channel must be an integer from 0 to 4, not 8"),
    (_node("blocks.0.scores", heads=7),
     "node 'blocks.0.scores': head_dim must be at most 3 for 7 heads in 24 channels, not 4"),
    (_node("blocks.0.context", head_dim=13),
     "node 'blocks.0.context': head_dim must be at most 12 for 2 heads in 24 channels, not 13"),
    (_node("blocks.0.context", value_channel=17),
     "node 'blocks.0.context': value_channel must be an integer from 0 to 16, not 17"),
    (_node("blocks.0.scores", heads=True), "node 'blocks.0.scores': heads must be int, not True"),
    (_node("blocks.0.scores", scale=0.5), "node 'blocks.0.scores': scale must be left out here"),
    (_node("blocks.0.scores", sequences=[]), "node 'blocks.0.scores': sequences must be all 5"),
    (_node("blocks.0.scores", sequences=[5]),
     "node 'blocks.0.scores': sequences must be whole, in order, and go on at row 0, not 5"),
    (_node("blocks.0.scores", sequences=[[0, 5.0]]),
     "node 'blocks.0.scores': sequences must be whole, in order, and go on at row 0, not (0, 5.0)"),
    (_node("blocks.0.scores", sequences=[[0, True], [1, 4]]),
     "node 'blocks.0.scores': sequences must be whole"),
    (_node("blocks.0.scores", sequences=[{"0": 0, "1": 5}]),
     "node 'blocks.0.scores': sequences must be whole"),
    (_node("embed", sources=[]), "node 'embed': sources must be tensors of the same channels"),
    (_node("embed", sources=[["prefix"], {}]), "node 'embed': input \"('prefix',)\" must be made"),
    (_node("embed", sources=[{}, "prefix"]), "node 'embed': input '{}' must be made"),
    (_node("embed", sources=["prefix"] * 3000 + ["patches"]),
     "node 'embed': sources must be tensors of the same channels and bits, not [(8, 16), (8, 16),"),
    (_node("blocks.0.norm1", eps=1e-6), "node 'blocks.0.norm1': eps must be left out here, not"),
    (_node("blocks.0.gelu", variant="tanh"),
     "node 'blocks.0.gelu': variant must be 'published' or"),
    (_node("blocks.0.gelu", variant="table"), "node 'blocks.0.gelu': unit must be left out here"),
    (_node("blocks.0.gelu", function="relu"),
     "node 'blocks.0.gelu': function must be 'gelu' or 'gelu_tanh' or 'quick_gelu', not"),
    (_node("blocks.0.gelu", input="embed"),
     "node 'blocks.0.gelu': input must be of at most 8 bits, not 16"),
    (_without("blocks.0.gelu", "variant"), "node 'blocks.0.gelu': variant must be 'published' or"),
    (_without("blocks.0.norm1", "bits"), "node 'blocks.0.norm1': weight must be an array of shape"),
    (_without("blocks.0.scores", "heads"), "node 'blocks.0.scores': heads is missing"),
    (_without("patches", "rows"), "node 'patches': rows is missing"),
    (_without("patches", "bits"), "node 'patches': bits must be given in an integer network"),
    (_without("patches", "name"), "node must have a name, not None"),
    (_without("patches", "kind"), "node must be a table whose kind is one of input, constant,"),
    (_node("patches", kind=["input"]), "node must be a table whose kind is one of input, constant"),
    (_node("patches", kind="output"), "node must be a table whose kind is one of input, constant"),
    (_node("patches", rows=0), "node 'patches': rows must be an integer from 1 to 1048575, not 0"),
    (_node("patches", rows="many"), "node 'patches': rows must be int, not 'many'"),
    (_node("patches", rows=10**400), "node 'patches': rows must be an integer from 1 to"),
    (_node("patches", channels=2**18, rows=2**18),
     "node 'patches': tensor must have at most 268,435,456 numbers, not 262144 x 262144"),
    (_node("patches", channels=4), "node 'patch_embed': weight must be an array of shape (8, 4)"),
    (_node("patches", name=""), "name of a node must be letters, digits and _ between dots"),
    (_node("patches", name="x" * 121), "name of a node must be letters, digits and _ between dots"),
    (_node("patches", name="\x1b[31m\n"), "name of a node must be letters, digits and _ between"),
    (_node("patches", name="patch_embed"), "node 'patch_embed': name must be used once"),
    (_node("patches", colour=1), "node 'patches' must not have 'colour'"),
    (_node("patches", weight=1), "node 'patches' must not have 'weight'"),
    (_node("logits", weight=1), "node 'logits' must not have 'weight'"),
    (_node("logits", mult=None), "node 'logits' must not have 'mult'"),
    (lambda t, h: h["nodes"].reverse(), "node 'logits': input 'norm' must be made by a node"),
    (lambda t, h: h["nodes"].append(h["nodes"][0]), "node 'patches': name must be used once"),
    (lambda t, h: h["nodes"].append(3), "node must be a table whose kind is one of input"),
    (_edit(nodes=[]), "nodes must be a list of 1 to 16384, not []"),
    (_edit(nodes={"a": 1}), "nodes must be a list of 1 to 16384, not {'a': 1}"),
    (_edit(nodes=[{}] * 16385), "nodes must be a list of 1 to 16384, not "),
    (_edit(outputs=[]), "a network must have an output, and each once"),
    (_edit(outputs=["logits", "logits"]), "a network must have an output, and each once"),
    (_edit(outputs="logits"), "outputs must be a list of names, not 'logits'"),
    (_edit(outputs=[["logits"]]), "outputs must be a list of names, not [['logits']]"),
    (_edit(outputs=["x" * 10**4]), "output 'xxxxxxxxxxxx"),
    (_edit(outputs=["patches"]), "output 'patches' must be computed, not input"),
    (_edit(outputs=["prefix"]), "output 'prefix' must be computed, not constant"),
    (_edit(version=VERSION + 1), f"version of the integer network must be {VERSION}, not"),
    (_edit(version=None), f"version of the integer network must be {VERSION}, not None"),
    (_edit(scales=[]), "scales must be a table, not []"),
    (_edit(scales={"logits": 0}), "scale 'logits' must be a number from 1e-30 to 1e+30, not 0"),
    (_edit(scales={"logits": True}), "scale 'logits' must be a number from 1e-30 to 1e+30, not"),
    (_edit(meta=None), "meta must be a table, not None"),
    (_edit(meta={"patch_size": 2.0}), "patch_size must be an integer from 0 to 65535, not 2.0"),
    (_edit(meta={"mean": []}), "mean must be a list of numbers from -1e+30 to 1e+30, not []"),
    (_edit(meta={"std": [0]}), "std must be a list of numbers from 1e-30 to 1e+30, not [0]"),
    (_edit(meta={"code_mean": "0.5"}),
     "code_mean must be a list of numbers from -1e+30 to 1e+30, not '0.5'"),
    (_edit(meta={"code_std": [0.5, -1]}),
     "code_std must be a list of numbers from 1e-30 to 1e+30, not [0.5, -1]"),
    (_edit(colour=1), "entries of the integer network must be"),
    (lambda t, h: h.pop("meta"), "entries of the integer network must be"),
])
def test_damaged_file_is_refused(tmp_path, graph, change, message):
    path = damage(tmp_path, graph, change)
    with pytest.raises(ModelError, match=f"^{re.escape(message)}") as info:
        load_network(path)
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 600


WRONG = [-1, 0, 1, 3, 9, 17, 2**31, 10**400, 0.5, 1e300, True, None, "", "embed", "\x1b[31m\n", [],
         {}, [0], [[]], [[0, 5]], ["embed"], [[0, 2**62]], ["1"] * 999]
OUTSIDE = {np.dtype(np.int8): (-128, 127), np.dtype(np.int16): (-2**15, 2**15 - 1),
           np.dtype(np.int32): (-2**31, 2**31 - 1), np.dtype(np.uint8): (64, 255)}


def loaded(path, trace=True):
    """Return the network or None; a refusal is one short line, in little memory."""
    if trace:
        tracemalloc.start(1)
    try:
        return load_network(path)
    except ModelError as error:
        text = str(error)
        assert text.isprintable(), text
        assert 0 < len(text) < 600
        return None
    finally:
        if trace:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 4 * 2**20


def same_type(value, old):
    return type(value) is type(old) and not isinstance(value, list | dict)


@pytest.mark.slow
def test_every_attribute_wrong_in_every_way(tmp_path, kinds):
    """Of another type it is refused; of the same, the network can be run, or it is refused."""
    accepted, seen = 0, set()
    for graph in kinds:
        path = tmp_path / "model.safetensors"
        save_network(graph, path)
        tensors, metadata = read_tensors(path)
        text = metadata[KEY]
        codes = random_codes(np.random.default_rng(0), graph, 1)
        for index, entry in enumerate(json.loads(text)["nodes"]):
            if (shape := (entry["kind"], entry.get("variant"), *sorted(entry))) in seen:
                continue
            seen.add(shape)
            for attribute, old in entry.items():
                for value in WRONG:
                    header = json.loads(text)
                    header["nodes"][index][attribute] = value
                    write_tensors(path, tensors, {KEY: json.dumps(header)})
                    network = loaded(path, trace=len(repr(value)) > 8)  # slow; for large ones
                    if network is None:
                        continue
                    accepted += 1
                    assert same_type(value, old) or isinstance(old, list), (entry, value)
                    if network.inputs[0].rows == graph.inputs[0].rows:
                        half = 1 << network.inputs[0].bits - 1
                        forward(network, {name: np.clip(array, -half, half - 1)
                                          for name, array in codes.items()})
    assert accepted > 20


@pytest.mark.slow
def test_every_array_wrong_in_every_way(tmp_path, kinds):
    seen = set()
    for graph in kinds:
        path = tmp_path / "model.safetensors"
        save_network(graph, path)
        tensors, metadata = read_tensors(path)
        codes = random_codes(np.random.default_rng(0), graph, 1)
        for name, value in tensors.items():
            node, _, attribute = name.rpartition(".")
            assert value.dtype == CODES[attribute]
            variant = graph.by_name[node].kind, getattr(graph.by_name[node], "variant", None)
            if (*variant, attribute) in seen:
                continue
            seen.add((*variant, attribute))
            others = [value.astype(dtype) for dtype in (np.int64, np.float32, np.uint16, np.bool_)]
            others += [value[None], np.concatenate([value.reshape(-1), value.reshape(-1)]),
                       value.reshape(-1)[:0], value[..., :0] if value.ndim else value[None]]
            for other in others:
                write_tensors(path, {**tensors, name: other}, metadata)
                assert loaded(path) is None, (name, other.dtype, other.shape)
            write_tensors(path, {key: array for key, array in tensors.items() if key != name},
                          metadata)
            assert loaded(path) is None, name
            for extreme in OUTSIDE[value.dtype]:
                other = value.copy()
                other.reshape(-1)[-1] = extreme
                write_tensors(path, {**tensors, name: other}, metadata)
                network = loaded(path)
                allowed = attribute in ("table", "values", "bias") or (
                    extreme > 0 and attribute in ("mult", "res_mult", "other_mult", "weight"))
                assert (network is not None) == allowed, (name, extreme)
                if network is not None:
                    forward(network, codes)


@pytest.mark.parametrize(("attention", "most"), [("deferred", 2**19), ("normalised", 2**26)])
def test_numerators_leave_room_for_the_row_factors(tmp_path, attention, most):
    graph = make(attention=attention, mult_bits=12)
    path = damage(tmp_path, graph, _set("blocks.1.context.mult", (), most))
    with pytest.raises(ModelError, match=rf"^node 'blocks.1.context': mult must be from 0 to "
                                         rf"{most - 1}, not {most}$"):
        load_network(path)


def test_truncated_file_is_refused(tmp_path, graph):
    path = tmp_path / "model.safetensors"
    save_network(graph, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"must be a complete \.safetensors file"):
        load_network(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"a": np.zeros(1)}, {})
    assert not is_integer_network(path)
    with pytest.raises(ModelError, match="must hold an integer network"):
        load_network(path)
    for text, message in (("{", "must be JSON"), ('{"version": NaN}', "must be JSON"), (
            "3", "version of the integer network must be"), (
            '{"version": 4, "version": 4}', "must be JSON"), (
            "[" * 10**5 + "]" * 10**5, "must be JSON"), (
            " " * (2**22 + 1), "must have at most 4,194,304 bytes, not 4,194,305")):
        write_tensors(path, {"a": np.zeros(1)}, {KEY: text})
        assert is_integer_network(path)
        with pytest.raises(ModelError, match=message) as info:
            load_network(path)
        assert str(info.value).isprintable()


def test_files_of_older_versions_are_named(tmp_path):
    path = tmp_path / "old.safetensors"
    write_tensors(path, {"a": np.zeros(1)}, {"systola_integer_vit": '{"version": 2}'})
    assert is_integer_network(path)
    with pytest.raises(ModelError, match=r"^model file '.*old\.safetensors' is of version 2 or "
                                         r"older; quantize the checkpoint again with `systola "
                                         r"quantize`$"):
        load_network(path)


def changed(graph, name, **values):
    return dataclasses.replace(graph, nodes=tuple(
        dataclasses.replace(node, **values) if node.name == name else node
        for node in graph.nodes))


def test_inconsistent_network_is_not_saved(tmp_path, graph):
    path = tmp_path / "model.safetensors"
    wrong = changed(graph, "prefix", values=np.zeros((1, 8), int))
    wrong.by_name["prefix"].values[:] = 40000
    with pytest.raises(ModelError, match=r"^node 'prefix': values must be from -32768 to 32767, "
                                         r"not 40000$"):
        save_network(wrong, path)
    # What no reader would take back is not written, though it can be computed with.
    with pytest.raises(ModelError, match=r"^node 'logits': symmetric must be bool, not 1$"):
        save_network(changed(graph, "logits", symmetric=1), path)
    with pytest.raises(ModelError, match=r"^scale 'logits' must be a number from 1e-30 to 1e\+30"):
        save_network(dataclasses.replace(graph, scales={"logits": -1.0}), path)
    with pytest.raises(ModelError, match=r"^metadata 'systola_network' must be JSON: numbers must "
                                         r"be finite"):
        save_network(dataclasses.replace(graph, meta={"x": float("nan")}), path)
    assert not path.exists()


def test_only_integer_networks_of_one_image_are_saved(tmp_path, graph):
    floats = random_float_vit(np.random.default_rng(2), **SIZES)
    for other in floats, graph.repeated(2):
        with pytest.raises(ModelError, match=r"^a network file must hold an integer network of one "
                                             r"image$"):
            save_network(other, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_are_numbers(tmp_path, graph):
    path = tmp_path / "model.safetensors"
    save_network(changed(graph, "logits", bits=np.int64(12)), path)
    assert type(load_network(path).by_name["logits"].bits) is int


def test_a_file_of_a_float_network_is_refused(tmp_path):
    """Its nodes have no bits, and there are none whose arrays could be floats."""
    path = tmp_path / "model.safetensors"
    header = {"version": VERSION, "outputs": ["m"], "scales": {}, "meta": {}, "nodes": [
        {"kind": "input", "name": "x", "rows": 2, "channels": 3},
        {"kind": "mean", "name": "m", "input": "x", "groups": 1}]}
    write_tensors(path, {"a": np.zeros(1)}, {KEY: json.dumps(header)})
    with pytest.raises(ModelError, match="tensor 'a' is not part of the network"):
        load_network(path)
    write_tensors(path, {}, {KEY: json.dumps(header)})
    with pytest.raises(ModelError, match=r"^the network must be an integer one: its nodes have no "
                                         r"bits$"):
        load_network(path)
    header["nodes"][0]["bits"] = 8
    write_tensors(path, {}, {KEY: json.dumps(header)})
    with pytest.raises(ModelError, match=r"^node 'm': bits must be given in an integer network$"):
        load_network(path)


def test_a_network_needs_an_input(kinds):
    constant = kinds[0].by_name["prefix"]
    mean = dataclasses.replace(kinds[0].by_name["mean"], input="prefix", groups=1)
    with pytest.raises(ValueError, match=r"^a network must have an input$"):
        Graph(nodes=(constant, mean), outputs=("mean",))
