"""PyTorch files are read without executing anything in them."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from systola.files.tensors import ModelError
from systola.files.torch_file import read_torch
from systola.model.importers.registry import load_checkpoint


class Global:
    """Pickled as the name of something in a module, whatever that is."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Storage:
    """Pickled as PyTorch's persistent id of a storage."""

    def __init__(self, kind, key, count):
        self.pid = ("storage", Global("torch", kind), key, "cpu", count)


class Call:
    """Pickled as a call of a global."""

    def __init__(self, module, name, *args):
        self.function, self.args = Global(module, name), args


class Pickler(pickle._Pickler):
    """The pure Python pickler, which can be taught to write names of modules that are not here."""

    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Global):
            self.write(f"c{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.args)
            self.write(b"R")
        else:
            super().save(value, save_persistent_id)


def dumped(value):
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


def tensor(key, shape, *, kind="FloatStorage", count=None, strides=None, offset=0):
    strides = strides or [int(np.prod(shape[index + 1:])) for index in range(len(shape))]
    count = int(np.prod(shape)) if count is None else count
    return Call("torch._utils", "_rebuild_tensor_v2", Storage(kind, key, count), offset,
                tuple(shape), tuple(strides), False, OrderedDict())


def archive(path, content, storages, **more):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", content if isinstance(content, bytes) else dumped(content))
        for key, data in storages.items():
            file.writestr(f"model/data/{key}", data)
        for name, data in more.items():
            file.writestr(f"model/{name}", data)
    return path


NUMBERS = np.arange(6, dtype=np.float32)


def test_views_types_and_what_is_saved_beside(tmp_path):
    half, whole = NUMBERS.astype(np.float16), np.arange(4)
    path = archive(tmp_path / "m.pth", {
        "model": OrderedDict(
            a=tensor("0", (2, 3)), t=tensor("0", (3, 2), strides=(1, 3)),
            part=tensor("0", (2,), count=6, offset=3), half=tensor("1", (6,), kind="HalfStorage"),
            short=tensor("2", (2,), kind="BFloat16Storage"),
            index=tensor("3", (4,), kind="LongStorage"), scalar=tensor("0", (), count=6),
            parameter=Call("torch._utils", "_rebuild_parameter", tensor("0", (6,)), True, {})),
        "epoch": 3, "best": Call("numpy._core.multiarray", "scalar",
                                 Call("numpy", "dtype", "f8", False, True), b"\0" * 8),
        "args": Call("argparse", "Namespace"), "names": ["a", ("b", None)]},
        {"0": NUMBERS.tobytes(), "1": half.tobytes(), "2": struct.pack("<HH", 0x3F80, 0xC000),
         "3": whole.tobytes()})
    got = read_torch(path)
    model = got["model"]
    np.testing.assert_array_equal(model["a"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(model["t"], NUMBERS.reshape(2, 3).T)
    assert model["part"].tolist() == [3, 4]
    assert (model["half"].dtype, model["half"].tolist()) == (np.float16, NUMBERS.tolist())
    assert (model["short"].dtype, model["short"].tolist()) == (np.float32, [1.0, -2.0])
    assert model["index"].tolist() == [0, 1, 2, 3]
    assert model["scalar"].shape == ()
    assert model["parameter"].tolist() == NUMBERS.tolist()
    assert (got["epoch"], got["best"], got["args"], got["names"]) == (3, None, None,
                                                                     ["a", ["b", None]])


def old_file(path, content, storages, count=None):
    """Write a file as PyTorch did before 1.6."""
    path.write_bytes(b"".join([
        dumped(0x1950a86a20f9469cfc6c), dumped(1001), dumped({"little_endian": True}),
        dumped(content), dumped(list(storages)),
        *(struct.pack("<q", len(data) if count is None else count) + data.tobytes()
          for data in storages.values())]))
    return path


def test_files_from_before_archives(tmp_path):
    content = {"w": tensor("94", (2, 3)), "v": tensor("7", (2,), kind="DoubleStorage")}
    # An old persistent id has one entry more.
    path = old_file(tmp_path / "m.pth", content, {"94": NUMBERS, "7": np.array([0.5, -1])})
    got = read_torch(path)
    np.testing.assert_array_equal(got["w"], NUMBERS.reshape(2, 3))
    assert got["v"].tolist() == [0.5, -1.0]
    for count in -1, 2, 7, 2**62:
        with pytest.raises(ValueError, match="storage '94' must have as many numbers"):
            read_torch(old_file(tmp_path / "m.pth", content, {"94": NUMBERS}, count))


HOSTILE = {
    "a command": Call("os", "system", "touch {}"),
    "a command of posix": Call("posix", "system", "touch {}"),
    "a subprocess": Call("subprocess", "check_output", ["touch", "{}"]),
    "code": Call("builtins", "exec", "open('{}', 'w')"),
    "code of Python 2": Call("__builtin__", "eval", "open('{}', 'w')"),
    "a file": Call("io", "open", "{}", "w"),
    "an attribute": Call("builtins", "getattr", Global("os", "system"), "__call__"),
    "a loader": Call("torch", "load", "{}"),
    "a jump": Call("runpy", "run_path", "{}"),
    "numpy's own loader": Call("numpy", "load", "{}"),
    "a module of our own": Call("systola.files.torch_file", "read_torch", "{}"),
    "a class of PyTorch": Call("torch.nn.modules.linear", "Linear", 1, 1),
    "a sparse tensor": Call("torch._utils", "_rebuild_sparse_tensor", 1)}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("old", [False, True])
def test_nothing_is_executed(tmp_path, what, old):
    trace = tmp_path / "executed"

    def aimed(value):
        if isinstance(value, str):
            return value.replace("{}", str(trace))
        return [aimed(item) for item in value] if isinstance(value, list) else value

    call = Call(HOSTILE[what].function.module, HOSTILE[what].function.name,
                *map(aimed, HOSTILE[what].args))
    content, path = {"w": tensor("0", (6,)), "x": call}, tmp_path / "m.pth"
    if old:
        old_file(path, content, {"0": NUMBERS})
    else:
        archive(path, content, {"0": NUMBERS.tobytes()})
    with pytest.raises(ModelError, match=r"asks for '.*', and nothing but tensors is") as info:
        load_checkpoint(path)
    assert "\n" not in str(info.value)
    assert not trace.exists()


@pytest.mark.parametrize(("content", "message"), [
    ({"w": tensor("0", (7,), count=6)}, r"must not be larger than its storage of 6 numbers"),
    ({"w": tensor("0", (1000, 1000), strides=(0, 0), count=6)}, "must not be larger"),
    ({"w": tensor("0", (2,), count=6, offset=5)}, "."),
    ({"w": tensor("0", (2,), count=6, offset=-1)}, "must be a view of a storage"),
    ({"w": tensor("0", (2,), count=6, strides=(-1,))}, "must be a view of a storage"),
    ({"w": tensor("0", (6,), count=60)}, r"must have 240 bytes as announced, not 24"),
    ({"w": tensor("9", (6,))}, "."),
    ({"w": tensor("0", (6,), kind="QInt8Storage")}, "."),
    (b"\x80\x02}q\x00(X\x01\x00\x00", "."), (b"", "."), (dumped(7), "tensors of a state_dict"),
    (dumped({"a": [1, 2]}), "must hold the tensors of a state_dict")])
def test_damaged_and_misleading_files(tmp_path, content, message):
    path = archive(tmp_path / "m.pt", content, {"0": NUMBERS.tobytes()})
    with pytest.raises(ModelError, match=message) as info:
        load_checkpoint(path)
    assert "\n" not in str(info.value)


def test_one_object_named_many_times_is_bounded(tmp_path):
    bomb = tensor("0", (6,))
    for _ in range(7):
        bomb = [bomb] * 60
    with pytest.raises(ValueError, match="must hold at most"):
        read_torch(archive(tmp_path / "m.pt", {"w": bomb}, {"0": NUMBERS.tobytes()}))


def test_archives_that_expand_or_are_foreign(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", dumped({"w": tensor("0", (2**22,))}))
        file.writestr("m/data/0", bytes(2**24))
    with pytest.raises(ValueError, match="must not expand to"):
        read_torch(path)
    archive(path, {"w": tensor("0", (6,))}, {"0": NUMBERS.tobytes()}, byteorder=b"big")
    with pytest.raises(ValueError, match="must be little-endian"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"must hold one entry data\.pkl"):
        read_torch(path)


@settings(max_examples=150, derandomize=True, deadline=None, database=None,
          suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damage_is_an_error_or_data(tmp_path_factory, data):
    """Every byte of a pickle may be anything: the reader returns data or one line."""
    content = bytearray(dumped({"w": tensor("0", (2, 3)), "v": [1, "a", None]}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = archive(tmp_path_factory.mktemp("m") / "m.pt", bytes(content),
                   {"0": NUMBERS.tobytes()})
    try:
        read_torch(path)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
