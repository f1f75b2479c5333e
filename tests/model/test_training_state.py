"""Checkpoints of trainings from anywhere: a state, or one line of error, whatever is in them."""

import copy
import importlib
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from systola.files.tensors import ModelError, read_tensors, write_tensors
from systola.model.training.training_settings import TrainingSettings
from tests.model.test_real_network import made

torch = pytest.importorskip("torch", reason="training needs PyTorch: pip install 'systola[train]'")
pytestmark = pytest.mark.torch
training = importlib.import_module("systola.model.training.finetune")
state_file = importlib.import_module("systola.model.training.training_state")

EXAMPLES = int(os.environ.get("SYSTOLA_FUZZ", 0))
fuzz = settings(max_examples=EXAMPLES or 60, derandomize=not EXAMPLES, deadline=None, database=None,
                suppress_health_check=list(HealthCheck))
KEY = "systola_training"
SETTINGS = TrainingSettings(epochs=1, batch=16, rate=1e-3, distill=0.0, validation=0.25,
                            scales="tracked")


class Case:
    """A training with a good checkpoint, and a function that reads other ones for it."""

    def __init__(self, folder):
        _, patches, self.network = made(weight_bits=4, act_bits=4)
        self.codes = {"patches": np.clip(np.rint(patches["patches"] * 3), -8, 7).astype(np.int64)}
        self.labels, self.path = np.arange(32) % 5, folder / "state.safetensors"
        training.finetune(self.network, self.codes, self.labels, SETTINGS, checkpoint=self.path)
        self.good = self.path.read_bytes()
        self.tensors, self.metadata = read_tensors(self.path)
        self.header = json.loads(self.metadata[KEY])

    def read(self, network=None):
        """Go on from the file; returns the state, or the line that refuses it."""
        try:
            training.finetune(network or self.network, self.codes, self.labels, SETTINGS,
                              checkpoint=self.path)
        except ModelError as error:
            line = str(error)
        else:
            return None
        assert "\n" not in line
        assert 20 < len(line) < 400
        return line

    def read_bytes(self, content):
        self.path.write_bytes(content)
        return self.read()

    def read_header(self, header, tensors=None):
        write_tensors(self.path, self.tensors if tensors is None else tensors,
                      {KEY: header if isinstance(header, str) else json.dumps(header)})
        return self.read()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("state"))


def test_a_good_file_is_read(case):
    assert case.read_bytes(case.good) is None


def test_truncation_is_refused(case):
    ends = {0, 1, 7, 8, 9, len(case.good) - 1, *range(100, len(case.good), 997)}
    for end in sorted(ends):
        line = case.read_bytes(case.good[:end])
        assert line
        assert "state.safetensors" in line


@fuzz
@given(edits=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1,
                      max_size=8))
def test_damaged_bytes_give_a_state_or_a_line(case, edits):
    content = bytearray(case.good)
    (length,) = struct.unpack("<Q", case.good[:8])
    for index, (place, value) in enumerate(edits):
        # Half of them in the names and the JSON, which are a small part of the file.
        content[place % (length + 8 if index % 2 else len(content))] = value
    case.read_bytes(bytes(content))


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-10**20, 10**20), st.just(10**400),
                   st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4),
                   st.just([]), st.just({}), st.just([[1]]), st.just({"epoch": 0}))


@fuzz
@given(steps=st.lists(st.integers(0, 40), min_size=1, max_size=4), value=VALUES,
       removed=st.booleans())
@example(steps=[1], value=None, removed=True)
def test_lies_in_the_header_give_a_state_or_a_line(case, steps, value, removed):
    tree = here = copy.deepcopy(case.header)
    for index, step in enumerate(steps):
        keys = sorted(here) if isinstance(here, dict) else range(len(here))
        key = keys[step % len(keys)]
        below = here[key]
        if index + 1 == len(steps) or not isinstance(below, dict | list) or not below:
            if removed:
                del here[key]
            else:
                here[key] = value
            break
        here = below
    case.read_header(tree)


def changed(header, *path, to):
    """Return a header with another value in one place; None removes it."""
    header = copy.deepcopy(header)
    place = header
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return header


@pytest.mark.parametrize(("path", "to", "line"), [
    (("version",), 2, "its version must be 1"),
    (("about", "network"), "0" * 32, "must be of the same network"),
    (("about", "images"), 3, "must be of the same images"),
    (("about", "settings", "rate"), 0.5,
     "must be of the same settings: rate 0.001, not 0.5; name another file"),
    (("about",), 5, "must be a complete one of `systola finetune`"),
    (("history",), [], "its history must be of epochs in order, from 0 on"),
    (("history", 1, "epoch"), 2, "its history must be of epochs in order, from 0 on"),
    (("history", 1, "loss"), "x", "its history must hold numbers"),
    (("history", 1, "validation_loss"), None, "its history must be of the images held back"),
    (("history", 1, "epoch"), None, "'epoch' is missing"),
    (("frozen",), 1, "steps must be counts, and frozen true or false"),
    (("steps",), [], "must be a complete one of `systola finetune`"),
    (("gauges",), {}, "is missing"),
])
def test_headers_of_something_else_are_refused(case, path, to, line):
    assert line in case.read_header(changed(case.header, *path, to=to))


def test_a_step_that_no_training_has_is_refused(case):
    name = next(iter(case.header["steps"]))
    for wrong in (0, -1, 1.5, "1", True, 2**40):
        assert "steps must be counts" in case.read_header(
            changed(case.header, "steps", name, to=wrong))
    name = next(iter(case.header["gauges"]))
    for wrong in ([-1, 0.0, 0.0], [1, -1.0, 0.0], [1, "1", 0.0], [True, 0.0, 0.0]):
        assert "ranges must be counts and magnitudes" in case.read_header(
            changed(case.header, "gauges", name, to=wrong))


@pytest.mark.parametrize("text", ["", "{", "[]", "{\"version\": NaN}", "null", "{" * 40,
                                  "{\"version\": 1, \"version\": 1}"])
def test_bad_json_is_refused(case, text):
    assert "must be a complete one of `systola finetune`" in case.read_header(text)


@pytest.mark.parametrize("kind", ["now", "best", "exp_avg", "exp_avg_sq"])
def test_bad_tensors_are_refused(case, kind):
    name = next(name for name in case.tensors if name.startswith(f"{kind}|") and
                case.tensors[name].ndim == 2)
    array = case.tensors[name]
    for wrong, line in ((array[:-1], "a parameter must be float32 of shape"),
                        (array.reshape(1, -1), "a parameter must be float32 of shape"),
                        (array.astype(np.float64), "a parameter must be float32 of shape"),
                        (np.full_like(array, np.nan), "all its numbers must be finite"),
                        (np.full_like(array, np.inf), "all its numbers must be finite")):
        assert line in case.read_header(case.header, {**case.tensors, name: wrong})
    assert "is missing" in case.read_header(
        case.header, {key: value for key, value in case.tensors.items() if key != name})
    if kind == "exp_avg_sq":
        assert "must not be negative" in case.read_header(
            case.header, {**case.tensors, name: array - 1})


def test_a_file_of_something_else_is_refused(case):
    write_tensors(case.path, {"a": np.zeros(3)}, {})
    assert "'systola_training' is missing" in case.read()
    case.path.write_bytes(case.good)
    assert "must be of the same network" in case.read(made(1)[2])
