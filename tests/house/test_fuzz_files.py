"""Files from anywhere: every reader gives a value or one line of its own error, in little memory.

``SYSTOLA_FUZZ=N`` tries N examples of each kind, others every time; without it, few and the same.
"""

import contextlib
import copy
import functools
import gzip
import io
import json
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from systola.cli.main import main
from systola.files.bounded import parse_json, parse_toml, shorten, shown
from systola.files.tensors import ModelError, read_tensors, write_tensors
from systola.hw.contract.config import AcceleratorConfig, ConfigError
from systola.model.data.class_labels import network_labels
from systola.model.data.image_source import PictureSource
from systola.model.data.images import encode, load_data, open_images
from systola.model.data.preparation import preparation
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.graph_file import VERSION, load_network, save_network
from systola.model.graph.integer_forward import forward
from systola.model.importers.registry import load_checkpoint
from systola.model.importers.vision_transformer import block_shapes
from systola.sim.conform.golden import Golden, GoldenError
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.compiler.layout import CompileError
from systola.sw_driver.program.image import Program, ProgramError, decode_outputs

EXAMPLES = int(os.environ.get("SYSTOLA_FUZZ", 0))
fuzz = settings(max_examples=EXAMPLES or 60, derandomize=not EXAMPLES, deadline=None, database=None,
                suppress_health_check=list(HealthCheck))

MEMORY = 48 * 2**20
"""Bytes that reading one of these files, all below 20 kB, may take."""

SIZES = {"channels": 4, "heads": 2, "blocks": 1, "hidden": 5, "classes": 3, "tokens": 5,
         "patch_dim": 4}
CONFIG = AcceleratorConfig(rows=2, cols=2, lanes=1, max_row=16, banks=1)
KEY = "systola_network"


def golden(path):
    """Read a file of golden vectors whole."""
    arrays = Golden(path)
    return {name: arrays.ints(name) for name in arrays}


def idx_images(path):
    """Read a file of images whole, as the smallest network takes them."""
    return open_images(path, graph=network(), labelled=False)[:]


@functools.cache
def network():
    """Return a network that takes images of 4 x 4 pixels."""
    graph = random_vit(np.random.default_rng(1), **SIZES, **CONFIG.model_settings,
                       choices={"blocks.0.fc1": {"codebook": "squares"}})
    graph.meta.update(patch_size=2, mean=[0.5], std=[0.25], image_size=[4, 4], crop_pct=0.9,
                      interpolation="bicubic", class_names=["a", "b", "c"])
    return graph


READERS = {
    "checkpoint.safetensors": (load_checkpoint, ModelError),
    "checkpoint.npz": (load_checkpoint, ModelError),
    "model.safetensors": (load_network, ModelError),
    "images.safetensors": (load_data, ModelError),
    "images.npz": (load_data, ModelError),
    "train-images-idx3-ubyte": (idx_images, ModelError),
    "train-images-idx3-ubyte.gz": (idx_images, ModelError),
    "golden.npz": (golden, GoldenError),
    "program.bin": (Program.read, ProgramError),
    "config.toml": (AcceleratorConfig.load, ConfigError),
    "config.json": (AcceleratorConfig.load, ConfigError),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return the bytes of a good file for every reader."""
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(1)
    shapes = {"patch_embed.proj.weight": (4, 1, 2, 2), "patch_embed.proj.bias": (4,),
              "cls_token": (1, 1, 4), "pos_embed": (1, 5, 4), **block_shapes(0, 4, 5),
              "norm.weight": (4,), "norm.bias": (4,), "head.weight": (3, 4), "head.bias": (3,)}
    parameters = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    write_tensors(folder / "checkpoint.safetensors", parameters, {"heads": "2", "std": "0.5"})
    np.savez(folder / "checkpoint.npz", heads=2, std="0.5", **parameters)
    model = network()
    save_network(model, folder / "model.safetensors")
    images = struct.pack(">HBB3I", 0, 8, 3, 2, 4, 4) + rng.bytes(32)
    (folder / "train-images-idx3-ubyte").write_bytes(images)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    data = {"images": rng.random((2, 4, 4), np.float32), "labels": np.arange(2)}
    write_tensors(folder / "images.safetensors", data, {})
    np.savez_compressed(folder / "images.npz", **data)
    np.savez(folder / "golden.npz", a_x=np.arange(6).reshape(2, 3), a_y=np.arange(3, dtype=">i2"))
    compile_network(model, CONFIG).write(folder / "program.bin")
    (folder / "config.toml").write_text('preset = "tiny"\nrows = 8\ngelu = "table"\n')
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    files = _Files({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files.keys() == READERS.keys()
    return files


class _Files(dict):
    """Contents by name, which a failure does not print."""

    def __repr__(self):
        return "good"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Return a function that reads some bytes as a file of that name: a value, or an error."""
    folder = tmp_path_factory.mktemp("fuzz")

    def read(name, content):
        path = folder / name
        if content is not None:
            path.write_bytes(content)
        reader, expected = READERS[name]
        tracemalloc.start(1)
        try:
            return reader(path)
        except expected as error:
            text = str(error)
            assert text.isprintable(), text
            assert 0 < len(text) < 600
            return error
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < MEMORY

    read.folder = folder
    return read


def refused(result):
    """Tell whether a reader refused its file."""
    return isinstance(result, Exception)


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_read(good, outcome, name):
    assert not refused(outcome(name, good[name]))


@pytest.mark.parametrize("name", [name for name in READERS if not name.startswith("config")])
def test_truncation_at_every_byte_is_refused(good, outcome, name):
    (outcome.folder / name).write_bytes(good[name])
    for size in reversed(range(len(good[name]))):
        os.truncate(outcome.folder / name, size)
        assert refused(outcome(name, None)), size


def test_every_flipped_bit_of_a_program_is_refused(good):
    image = bytearray(good["program.bin"])
    for bit in range(8 * len(image)):
        image[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProgramError):
            Program.from_bytes(image)
        image[bit // 8] ^= 1 << bit % 8
    Program.from_bytes(bytes(image))


# --- Random bytes and damage of all kinds ---

WORDS = st.sampled_from([value.to_bytes(size, "little", signed=value < 0) for value, size in (
    (0, 4), (-1, 4), (-1, 8), (2**31, 4), (2**63, 8), (2**40, 8), (1, 2), (65535, 2))])
EDIT = st.tuples(st.floats(0, 1), st.sampled_from(["flip", "over", "insert", "cut", "repeat"]),
                 st.integers(1, 40), st.one_of(WORDS, st.binary(min_size=1, max_size=9)))


def damaged(content, edits):
    """Return `content` after edits: where, what, how many bytes, which bytes."""
    content = bytearray(content)
    for where, kind, count, new in edits:
        at = int(where * max(len(content) - 1, 0))
        if kind == "flip" and content:
            content[at] ^= 1 << count % 8
        elif kind == "over":
            content[at:at + len(new)] = new
        elif kind == "insert":
            content[at:at] = new
        elif kind == "cut":
            del content[at:at + count]
        else:
            content[at:at] = content[at:at + count] * 3
    return bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@fuzz
@given(edits=st.lists(EDIT, min_size=1, max_size=6), noise=st.binary(max_size=300),
       pure=st.integers(0, 9))
def test_damaged_files(good, outcome, name, edits, noise, pure):
    outcome(name, noise if pure == 0 else damaged(good[name], edits))


# --- Lies in files whose checksums are right ---

VALUES = st.sampled_from([
    -1, 0, 1, 2, 3, 7, 255, 256, 65536, 2**31, 2**32, 2**53, 2**63, 2**64, 10**12, 10**400, -2**63,
    0.5, 1e308, -0.0, 1e-320, True, False, None, "", "x", "9" * 30, "\ud800\x1b[31m\n", [], {}, [0],
    [[]], {"a": 1}, [1, 2, 3, 4], [-1], [2**62, 4], [1e300], "NaN", ["1"] * 50])


def lie(tree, steps, value, action):
    """Change one place of a JSON value: `steps` choose the way down, `action` what happens."""
    tree = copy.deepcopy(tree)
    node, parent, key = tree, None, None
    for step in steps:
        keys = (sorted(node) if isinstance(node, dict) else range(len(node))
                if isinstance(node, list) else [])
        if not keys:
            break
        parent, key = node, keys[step % len(keys)]
        node = node[key]
    if parent is None or action == "whole":
        return value
    if action == "remove":
        del parent[key]
    elif action == "add" and isinstance(parent, dict):
        parent["surprise"] = value
    elif action == "add":
        parent.insert(key, copy.deepcopy(node))
    else:
        parent[key] = value
    return tree


LIE = {"steps": st.lists(st.integers(0, 30), min_size=1, max_size=5), "value": VALUES,
       "action": st.sampled_from(["set", "set", "set", "add", "remove", "whole"])}


def forge(image, change):
    """Return a program image with `change` made to its metadata, checksums right."""
    length = struct.unpack_from("<Q", image, 28 + 16)[0]
    meta, stream = json.loads(image[84:84 + length]), image[84 + length:]
    meta = change(meta)
    sections = meta if isinstance(meta, bytes) else json.dumps(meta).encode(), stream
    table, offset = b"", 84
    for name, data in zip((b"meta", b"stream"), sections, strict=True):
        table += struct.pack("<8sQQI", name, offset, len(data), zlib.crc32(data))
        offset += len(data)
    return b"".join((image[:24], struct.pack("<I", zlib.crc32(table)), table, *sections))


@fuzz
@given(**LIE)
def test_lies_in_programs(good, outcome, steps, value, action):
    image = forge(good["program.bin"], lambda meta: lie(meta, steps, value, action))
    program = outcome("program.bin", image)
    if refused(program):
        return
    # What was accepted can be used, in memory of the order of the file's size.
    tracemalloc.start(1)
    rows = {slot.name: (slot.row + slot.rows, slot.channels) for slot in program.inputs}
    assert len(program.fill({name: np.zeros(shape, int) for name, shape in rows.items()})) == len(
        program.stream)
    if sum(program.frames) < 10_000:
        results = [bytearray(beats * program.config.bus_bytes) for beats in program.frames]
        decode_outputs(program, [memoryview(result) for result in results])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY
    program.write(outcome.folder / "again.bin")
    assert Program.read(outcome.folder / "again.bin") == program


@pytest.mark.slow
@fuzz
@given(**LIE)
def test_lies_in_integer_networks(good, outcome, steps, value, action):
    graph = outcome("model.safetensors", lying_network(
        good, lambda about: lie(about, steps, value, action)))
    if not refused(graph):
        use(graph)


@fuzz
@given(**{**LIE, "steps": st.tuples(*[st.integers(0, 30)] * 2)})
def test_lies_in_nodes(good, outcome, steps, value, action):
    """Deeper than the lies above mostly get: a table of a node, or one of its attributes."""
    def change(about):
        about = copy.deepcopy(about)
        index = steps[0] % len(about["nodes"])
        about["nodes"][index] = lie(about["nodes"][index], steps[1:], value, action)
        return about

    graph = outcome("model.safetensors", lying_network(good, change))
    if not refused(graph):
        use(graph)


def lying_network(good, change):
    """Return a network file with `change` made to its JSON entry."""
    content = good["model.safetensors"]
    length = struct.unpack_from("<Q", content)[0]
    head = json.loads(content[8:8 + length])
    head["__metadata__"][KEY] = json.dumps(change(json.loads(head["__metadata__"][KEY])))
    return tensors(head, content[8 + length:])


def use(graph):
    """Encode for what was accepted, compute and compile it: that works or is refused in a line."""
    tracemalloc.start(1)
    with contextlib.suppress(ValueError):
        encode(graph, np.zeros((1, 4, 4), np.float32))
    source = PictureSource("lies", np.arange(3))
    source.classes = "a", "c", "b"
    for check in (lambda: preparation(graph.meta, 1).apply(Image.new("RGB", (5, 6))),
                  lambda: network_labels(source, graph)):
        with contextlib.suppress(ModelError):
            check()
    if sum(node.rows * node.channels for node in graph.inputs) < 10_000:
        forward(graph, random_codes(np.random.default_rng(0), graph))
    with contextlib.suppress(CompileError):
        compile_network(graph, CONFIG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".safetensors")])
@fuzz
@given(**LIE)
def test_lies_in_safetensors(good, outcome, name, steps, value, action):
    length = struct.unpack_from("<Q", good[name])[0]
    head = lie(json.loads(good[name][8:8 + length]), steps, value, action)
    text = json.dumps(head).encode("utf-8", "replace")
    outcome(name, struct.pack("<Q", len(text)) + text + good[name][8 + length:])


@fuzz
@given(**LIE)
def test_lies_in_configurations(good, outcome, steps, value, action):
    fields = {**json.loads(good["config.json"]), "preset": "tiny"}
    config = outcome("config.json", json.dumps(lie(fields, steps, value, action)).encode())
    assert refused(config) or AcceleratorConfig.from_dict(config.to_dict()) == config


DESCRIPTIONS = st.sampled_from(["<f4", "<i8", ">u2", "|S0", "<U0", "<U1000", "|O", "|b1", "<c16",
                                "|V8", "<M8[s]", "(3,)<f4", [["a", "<f4"]], "", 7, None])
NAMES = st.sampled_from(["images.npy", "labels.npy", "a_x.npy", "heads.npy", "x", "../x.npy", "/"])


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".npz")])
@fuzz
@given(names=st.lists(NAMES, max_size=3), description=DESCRIPTIONS, shape=VALUES,
       data=st.binary(max_size=64), fortran=st.booleans(), kind=st.sampled_from([0, 8, 12, 14]))
def test_lies_in_archives(good, outcome, name, names, description, shape, data, fortran, kind):
    archive = io.BytesIO(good[name])
    with zipfile.ZipFile(archive, "a", kind) as file:
        for entry in names:
            header = repr({"descr": description, "fortran_order": fortran,
                           "shape": tuple(shape) if isinstance(shape, list) else shape}).encode()
            header = header.ljust(max(118, len(header))) + b"\n"
            if entry not in file.namelist():
                file.writestr(entry, b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header
                              + data)
    outcome(name, archive.getvalue())


# --- Single attacks ---

def archive(members, kind=zipfile.ZIP_DEFLATED):
    """Return an archive of (name, npy header fields, bytes of data)."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", kind) as file:
        for name, (description, shape), data in members:
            header = repr({"descr": description, "fortran_order": False, "shape": shape}).encode()
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(header))
                          + header + data)
    return content.getvalue()


def tensors(head, data=b""):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


BIG = {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}
ATTACKS = {
    "terabytes announced.images.npz": archive([("images", ("<f8", (2**40,)), b"\0" * 64)]),
    "bomb.images.npz": archive([("images", ("|u1", (1, 9000, 9000)), bytes(81 * 10**6))]),
    "bomb of another method.images.npz":
        archive([("images", ("|u1", (2**16, 1, 1)), bytes(2**16))], zipfile.ZIP_LZMA),
    "items without size.images.npz": archive([("images", ("<U0", (2**40,)), b"")]),
    "negative shape.golden.npz": archive([("a_x", ("<i8", (-1,)), bytes(8))]),
    "empty of 2**80.golden.npz": archive([("a_x", ("<i8", (0, 2**80)), b"")]),
    "nested header.golden.npz": archive([("a_x", ("<i8", eval("(" * 60 + ")" * 60)), b"")]),
    "many texts.checkpoint.npz": archive([("heads", ("|S1", (10**6,)), b"1" * 10**6)]),
    "header of terabytes.model.safetensors": struct.pack("<Q", 2**42) + b"{}",
    "tensor of terabytes.checkpoint.safetensors": tensors({"pos_embed": BIG}),
    "overflowing shape.images.safetensors": tensors({"images": {
        "dtype": "U8", "shape": [2**32, 2**32, 0], "data_offsets": [0, 0]}}),
    "deep header.model.safetensors": tensors(b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "deep entry.model.safetensors": tensors({"__metadata__": {KEY: "[" * 10**5 + "]" * 10**5}}),
    "same tensor twice.images.safetensors": tensors(
        b'{"images":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"images":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0"),
    "dots.config.toml": b"rows" + b".a" * 8000 + b" = 1",
    "many dots.config.toml": b"rows" + b".a" * 10**6 + b" = 1",
    "brackets.config.toml": b"rows = " + b"[" * 16000,
    "digits.config.toml": b"rows = " + b"9" * 10000,
    "hexadecimal.config.toml": b"rows = 0x" + b"f" * 10000,
    "not text.config.toml": b"rows = '\xff'",
    "list for a preset.config.toml": b"preset = [1]",
    "long key.config.toml": b"a" * 10000 + b" = 1",
    "escape sequence.config.json": b'{"\\u001b[31m\\n": 1}',
    "deep.config.json": b"[" * 8000 + b"]" * 8000,
    "key twice.config.json": b'{"rows": 8, "rows": 4}',
    "not a number.config.json": b'{"rows": NaN}',
    "infinite.config.json": b'{"rows": 1e999}',
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack(outcome, attack):
    assert refused(outcome(attack.partition(".")[2], ATTACKS[attack]))


@pytest.mark.parametrize("change", [
    lambda meta: b"[" * 10**5, lambda meta: b"{" + b" " * 2**24 + b"}",
    lambda meta: b'{"a":1,"a":1}', lambda meta: b'{"a":' * 900 + b"1" + b"}" * 900,
    lambda meta: {**meta, "frames": [10**12]},
    lambda meta: {**meta, "frames": [1] * 10**5},
    lambda meta: {**meta, "outputs": [{**meta["outputs"][0], "shape": [10**6, 10**6]}]},
    lambda meta: {**meta, "inputs": [{**meta["inputs"][0], "rows": 10**12}]},
    lambda meta: {**meta, "inputs": meta["inputs"] * 2},
    lambda meta: {**meta, "model": {"deep": json.loads("[" * 100 + "]" * 100)}},
    lambda meta: {**meta, "names": meta["names"][1:]},
    lambda meta: {**meta, "instructions": 10**9, "names": []},
])
def test_attack_on_a_program(good, outcome, change):
    assert refused(outcome("program.bin", forge(good["program.bin"], change)))


@pytest.mark.parametrize("change", [
    {"nodes": [{}] * 10**5}, {"nodes": [{"kind": "input", "name": "x", "rows": 1}] * 10**4},
    {"scales": {"patches": 1e-300}}, {"meta": {"patch_size": 2, "mean": [], "std": [0]}},
    {"meta": {"patch_size": "2"}}, {"outputs": ["logits"] * 10**5}, {"outputs": [["logits"]]},
])
def test_attack_on_a_network(good, outcome, change):
    assert refused(outcome("model.safetensors", lying_network(
        good, lambda about: {**about, **change})))


@pytest.mark.parametrize(("name", "change"), [
    ("patches", {"rows": 2**20 - 1, "channels": 2**20 - 1}), ("patches", {"rows": 2**20 - 2}),
    ("patches", {"bits": 10**9}), ("blocks.0.scores", {"heads": 2**20 - 1}),
    ("blocks.0.scores", {"head_dim": 2**20 - 1}), ("blocks.0.scores", {"query_channel": 2**62}),
    ("blocks.0.scores", {"sequences": [[0, 2**62]]}),
    ("blocks.0.scores", {"sequences": [[0, 1]] * 10**5}),
    ("blocks.0.scores", {"sequences": [[index, 1] for index in range(10**5)]}),
    ("embed", {"sources": ["prefix"] * 10**5}), ("embed", {"sources": ["prefix", {"a": 1}]}),
    ("embed", {"sources": [["prefix"]]}), ("logits", {"name": "x" * 10**6}),
    ("logits", {"input": "\x1b[31m\n"}), ("logits", {"residual": "x" * 10**6}),
])
def test_attack_on_a_node(good, outcome, name, change):
    def attack(about):
        for node in about["nodes"]:
            if node["name"] == name:
                node.update(change)
                return about
        raise AssertionError(name)

    assert refused(outcome("model.safetensors", lying_network(good, attack)))


def test_a_few_bytes_make_no_terabytes(outcome):
    """Sizes that no array in the file bears out: rows that only scores and means read."""
    def network(rows):
        one = {"dtype": "I32", "shape": [], "data_offsets": [0, 4]}
        shift = {"dtype": "U8", "shape": [], "data_offsets": [4, 5]}
        nodes = [{"kind": "input", "name": "x", "rows": rows, "channels": 2, "bits": 8},
                 {"kind": "scores", "name": "s", "query": "x", "key": "x", "heads": 1,
                  "head_dim": 2, "sequences": [[0, rows]], "bits": 8},
                 {"kind": "mean", "name": "m", "input": "x", "bits": 8}]
        about = {"version": VERSION, "nodes": nodes, "outputs": ["m"], "scales": {}, "meta": {}}
        head = {"__metadata__": {KEY: json.dumps(about)}}
        for index, name in enumerate("sm"):
            head |= {f"{name}.mult": shifted(one, 5 * index),
                     f"{name}.shift": shifted(shift, 5 * index)}
        return tensors(head, b"\x01\0\0\0\0" * 2)

    def shifted(entry, by):
        return {**entry, "data_offsets": [offset + by for offset in entry["data_offsets"]]}

    assert refused(outcome("model.safetensors", network(2**16)))
    use(outcome("model.safetensors", network(2**14)))


LIMITED = """
import resource, sys
from pathlib import Path
from test_fuzz_files import READERS
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 160 * 2**20,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    reader, expected = READERS[path.name.partition(".")[2]]
    try:
        reader(path)
    except expected as error:
        assert "allocate" not in str(error), error
        print(path.name)
"""


def test_attacks_fit_a_limited_address_space(good, tmp_path):
    for name, content in ATTACKS.items():
        (tmp_path / name).write_bytes(content)
    for name, content in good.items():
        sparse = tmp_path / f"sparse.{name}"
        sparse.write_bytes(content)
        os.truncate(sparse, 2**40)
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], text=True, timeout=120,
                          cwd=Path(__file__).parent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == sorted(path.name for path in tmp_path.iterdir())


# --- What is no regular file, and the command line ---

def strange(folder, name):
    """Yield paths called `name` that are something else than a readable, whole file."""
    yield folder / "absent" / name
    yield folder / ("x" * 300) / name
    for kind in "folder", "pipe", "zero", "loop", "empty":
        path = folder / kind / name
        path.parent.mkdir()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "empty":
            path.write_bytes(b"")
        else:
            path.symlink_to("/dev/zero" if kind == "zero" else path)
        yield path


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused(outcome, tmp_path, name):
    reader, expected = READERS[name]
    for path in strange(tmp_path, name):
        if (path.parent.name, name) == ("empty", "config.toml"):
            assert reader(path) == AcceleratorConfig()  # every field has a default
            continue
        with pytest.raises(expected, match=r"^[^\n]{10,600}$"):
            reader(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", READERS)
def test_unreadable_file_is_refused(good, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(good[name])
    path.chmod(0)
    reader, expected = READERS[name]
    with pytest.raises(expected, match=r"^[^\n]*Permission denied[^\n]*$"):
        reader(path)


COMMANDS = {
    "checkpoint": ["quantize", "--data", "digits", "-o", "out.safetensors", "--model"],
    "model": ["simulate", "--model"],
    "images": ["quantize", "--model", "digits", "-o", "out.safetensors", "--data"],
    "config": ["generate", "-o", "out", "--config"],
}


@pytest.mark.parametrize("name", [name for name in READERS if name.split(".")[0] in COMMANDS])
def test_commands_answer_in_one_line(good, outcome, capfd, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(name)
    paths = list(strange(tmp_path, name))
    for index in range(6):
        content = bytearray(good[name])
        for _ in range(20):
            content[draw.randrange(len(content))] = draw.randrange(256)
        paths.append(tmp_path / f"{index}.{name}")
        paths[-1].write_bytes(content)
    for attack, content in ATTACKS.items():
        if attack.endswith(name):
            paths.append(tmp_path / attack)
            paths[-1].write_bytes(content)
    for path in paths:
        if READERS[name] == (load_data, ModelError) and not refused(outcome(
                name, path.read_bytes() if os.path.isfile(path) else b"")):
            continue  # pixels are anything
        if path.parent.name == "empty" and name == "config.toml":
            continue
        assert main([*COMMANDS[name.split(".")[0]], str(path)]) == 2, path
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1), err
        assert err.startswith("systola: ")
        assert not (tmp_path / "out").exists()


def test_golden_vectors_on_the_command_line(capfd, tmp_path):
    (tmp_path / "linear.npz").write_bytes(ATTACKS["bomb.images.npz"])
    assert main(["conform", str(tmp_path)]) == 2
    assert capfd.readouterr().err.count("\n") == 1


# --- What the readers share ---

def test_what_messages_show():
    deep = []
    for _ in range(10**5):
        deep = [deep]
    assert shown(deep) == "a huge list"
    assert shown(10**10**4) == "a huge int"
    assert shown("a\n\x1b") == r"'a\n\x1b'"
    assert len(shown("x" * 10**6)) == 163
    assert shorten("one\ntwo") == "one"
    assert shorten("a\x1b\ud800") == "a??"
    assert shorten("") == ""


def test_nesting_is_limited_just_there():
    for parse, form in (parse_json, "{}"), (parse_toml, "a = {}"):
        extra = parse is parse_toml  # the table around it
        fits = "[" * (32 - extra) + "]" * (32 - extra)
        parse(form.format(fits) if extra else fits)
        with pytest.raises(ValueError, match="nested at most 32 deep"):
            parse(form.format(f"[{fits}]") if extra else f"[{fits}]")


def test_good_files_go_through_and_huge_weights_do_not(good, capfd, tmp_path):
    for name in "checkpoint.safetensors", "images.npz":
        (tmp_path / name).write_bytes(good[name])
    model, data, out = (str(tmp_path / name) for name in ("checkpoint.safetensors", "images.npz",
                                                          "out.safetensors"))
    command = ["quantize", "--model", model, "--data", data, "-o", out]
    assert main(command) == 0
    parameters, metadata = read_tensors(model)
    parameters["blocks.0.mlp.fc1.weight"][:] = 3e38
    write_tensors(model, parameters, metadata)
    capfd.readouterr()
    assert main(command) == 2
    err = capfd.readouterr().err
    assert err == ("systola: weights must keep every tensor finite, which 'blocks.0.fc1' is not "
                   "for the calibration images\n")
