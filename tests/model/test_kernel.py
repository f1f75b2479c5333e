"""Whole networks by the kernel: equal to their definition; what happens without a compiler."""

import dataclasses
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from systola.hw.contract.config import PUBLISHED
from systola.model.data.digits import checkpoint_path
from systola.model.data.images import encode, float_inputs, load_data
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.evaluation.accuracy import open_network
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.integer_forward import forward as definition
from systola.model.graph.nodes import Activation, Linear, Norm
from systola.model.importers.registry import load_checkpoint
from systola.model.kernel import compile as kernel
from systola.model.kernel.engine import ENGINES, engine_report, forward
from systola.model.quantization.quantize import quantize

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
SIZES = {"channels": 12, "heads": 2, "blocks": 2, "hidden": 18, "classes": 5, "tokens": 9,
         "patch_dim": 5}
VARIANTS = [{}, PUBLISHED, {"attention": "published", "attention_bits": 8},
            {"attention": "deferred"}, {"gelu": "published"}, {"norm": "leading_one"},
            {"norm": "published"}, {"norm": "compared", "act_bits": 4},
            {"mult_bits": 31, "code_mult_bits": 31},
            {"mult_bits": 16}, {"weight_bits": 3, "act_bits": 4}, {"prefixes": 0,
                                                                  "pooling": "mean"},
            {"prefixes": 2, "distilled": True}]


def network(seed=0, **settings):
    return random_vit(np.random.default_rng(seed), **{**SIZES, **settings})


def same(got, wanted):
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_networks(variant):
    graph = network(**variant)
    codes = random_codes(np.random.default_rng(1), graph, 3)
    codes["patches"][0], codes["patches"][1] = codes["patches"].min(), codes["patches"].max()
    same(forward(graph, codes, engine="c"), definition(graph, codes))
    whole = graph.repeated(3)
    rows = {name: value.reshape(-1, value.shape[-1]) for name, value in codes.items()}
    same(forward(whole, rows, engine="c"), definition(whole, rows))
    blocks = encoder_blocks(graph, 1)
    (stream,) = blocks.inputs
    edge = np.where(np.random.default_rng(2).random((2, stream.rows, stream.channels)) < 0.5,
                    -2**15, 2**15 - 1)
    same(forward(blocks, {stream.name: edge}, engine="c"),
         definition(blocks, {stream.name: edge}))


@pytest.mark.slow
def test_the_digits():
    graph, images = open_network("digits"), load_data("digits", "test")[0][:40]
    codes = encode(graph, images)
    assert engine_report(graph, "c")["numpy_nodes"] == {}
    same(forward(graph, codes, engine="c"), definition(graph, codes))
    assert checkpoint_path().is_file()


@pytest.mark.parametrize("folder", ["hf_swin", "timm_swin", "timm_vit_qknorm", "timm_vit_reg4",
                                    "hf_dinov2", "timm_clip", "hf_deit_teacher"])
def test_checkpoints(folder):
    """Windows with a bias on scores, norms of queries, several tokens and heads."""
    graph = load_checkpoint(CHECKPOINTS / folder)
    with np.load(CHECKPOINTS / folder / "expected.npz") as arrays:
        images = arrays["images"].astype(np.float32) / 255
    integer = quantize(graph, float_inputs(graph, images))
    codes = encode(integer, images)
    assert engine_report(integer, "c")["numpy_nodes"] == {}
    same(forward(integer, codes, engine="c"), definition(integer, codes))


def test_threads_and_batches_change_nothing():
    graph = network()
    codes = random_codes(np.random.default_rng(3), graph, 37)
    wanted = definition(graph, codes)
    for threads in None, 1, 2, 5:
        for _ in range(3):
            same(forward(graph, codes, engine="c", threads=threads), wanted)
    one = forward(graph, {"patches": codes["patches"][4]}, engine="c")
    same(one, {name: value[4] for name, value in wanted.items()})
    for dtype in np.int8, np.int16, np.int32:
        same(forward(graph, {"patches": codes["patches"].astype(dtype)}, engine="c"), wanted)
    none = forward(graph, {"patches": codes["patches"][:0]}, engine="c")
    same(none, definition(graph, {"patches": codes["patches"][:0]}))


@pytest.mark.parametrize("keep", [["logits"], ["blocks.0.fc1", "blocks.1.out"], []])
def test_kept_tensors_survive_those_that_follow(keep):
    graph = network()
    codes = random_codes(np.random.default_rng(4), graph, 3)
    wanted = definition(graph, codes, keep=keep)
    for _ in range(2):
        same(forward(graph, codes, keep=keep, engine="c"), wanted)
    assert forward(graph, codes, keep=keep, engine="numpy").keys() == wanted.keys()


def test_nodes_without_c_code_are_computed_by_their_models(monkeypatch):
    """One node between others, one at each end, and all of them."""
    from systola.model.kernel import program

    graph = network()
    codes = random_codes(np.random.default_rng(5), graph, 3)
    wanted, step_of = definition(graph, codes), program.step_of
    for left in (["blocks.0.attention"], ["patch_embed", "logits"], list(wanted)):
        def some(node, graph, library, left=left):
            if node.name in left:
                raise program.Unfit("it is left")
            return step_of(node, graph, library)

        monkeypatch.setattr(program, "step_of", some)
        fresh = dataclasses.replace(graph)
        same(forward(fresh, codes, engine="c"), wanted)
        assert engine_report(fresh, "c")["numpy_nodes"] == dict.fromkeys(left, "it is left")


def test_compared_norms_are_left_to_their_model():
    graph = network(norm="compared", act_bits=4)
    left = engine_report(graph, "c")["numpy_nodes"]
    assert list(left) == [node.name for node in graph.of(Norm)]
    assert left["norm"] == ("node 'norm': a compared layer norm has no C code, only the model of "
                            "its operator")


def test_a_network_that_is_forgotten_takes_its_weights_along():
    graph = network()
    forward(graph, random_codes(np.random.default_rng(0), graph), engine="c")
    gone = weakref.ref(graph)
    del graph
    gc.collect()
    assert gone() is None


def test_errors_are_those_of_the_definition():
    graph = network()
    codes = random_codes(np.random.default_rng(0), graph, 2)
    for call in (lambda run: run(graph, {"patches": codes["patches"] + 200}),
                 lambda run: run(graph, {"x": codes["patches"]}),
                 lambda run: run(graph, {"patches": codes["patches"][:, 1:]}),
                 lambda run: run(graph, codes, keep=["patches"])):
        said = []
        for run in forward, definition:
            with pytest.raises(ValueError, match=r"\S") as error:
                call(run)
            said.append(str(error.value))
        assert said[0] == said[1]
    with pytest.raises(ValueError, match=r"^engine must be 'auto' or 'c' or .* or 'numpy', not "
                                         r"'gpu'$"):
        forward(graph, codes, engine="gpu")
    assert ENGINES[0] == "auto"


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Return a function that makes a script the compiler, and the cache empty."""
    monkeypatch.setenv("SYSTOLA_CACHE", str(tmp_path / "cache"))
    kernel._found.cache_clear()

    def make(text, name="cc"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return path

    yield make
    kernel._found.cache_clear()


def entries(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


REAL = shutil.which("g++")


@pytest.mark.parametrize(("script", "reason"), [
    (None, r"'.*/none': No such file or directory"),
    ("echo 'cc: error: what?' >&2; exit 1", r"'.*/cc' cannot compile it: cc: error: what\?"),
    (f'case "$*" in *-dM*) exec {REAL} "$@";; esac; exit 3', r"'.*/cc' cannot compile it: "),
    (f'case "$*" in *-dM*) exec {REAL} "$@";; esac; echo nothing > kernel.so',
     r"'gcc|/.*/kernel\.so.*"),
])
def test_without_a_compiler_numpy_computes(script, reason, compiler, tmp_path, monkeypatch):
    graph = network()
    codes = random_codes(np.random.default_rng(0), graph, 2)
    if script is None:
        monkeypatch.setenv("CXX", str(tmp_path / "none"))
    else:
        compiler(script)
    report = engine_report(graph)
    assert report.keys() == {"engine", "reason"}
    assert report["engine"] == "numpy"
    assert re.search(reason, report["reason"])
    same(forward(graph, codes), definition(graph, codes))
    with pytest.raises(kernel.KernelError, match=r"^engine 'c' must have a compiled kernel, and "
                                                 r"there is none: .+"):
        forward(graph, codes, engine="c")


@pytest.mark.slow
def test_a_compiler_that_does_not_know_the_processor_compiles_for_any(compiler):
    compiler(f'case "$*" in *-march=native*) echo error: what >&2; exit 1;; esac; '
             f'exec {REAL} "$@"')
    graph = network()
    codes = random_codes(np.random.default_rng(0), graph, 2)
    same(forward(graph, codes, engine="c"), definition(graph, codes))
    assert engine_report(graph, "c")["instructions"] in {"C", "NEON"}


@pytest.mark.slow
def test_the_cache_is_for_one_processor_and_one_compiler(compiler, tmp_path, monkeypatch):
    """A folder that machines share must not give one of them the instructions of another."""
    kernel.load("c-plain")
    (first,) = entries(tmp_path)
    kernel._found.cache_clear()
    kernel.load("c-plain")
    assert entries(tmp_path) == [first]
    kernel._found.cache_clear()
    # The same command on a processor with one instruction set more, and of another version.
    for index, macro in enumerate(["__AVX10__ 1", '__VERSION__ "99.1"']):
        monkeypatch.setattr(kernel, "_machine", lambda command, flags, macro=macro: (
            [], f"#define {macro}\n".encode()))
        kernel.load("c-plain")
        kernel._found.cache_clear()
        assert len(entries(tmp_path)) == index + 2


@pytest.mark.slow
def test_the_source_is_part_of_the_name(compiler, tmp_path, monkeypatch):
    kernel.load("c-plain")
    kernel._found.cache_clear()
    changed = tmp_path / "kernel.c"
    changed.write_text(kernel.SOURCE.read_text() + "\n/* changed */\n")
    monkeypatch.setattr(kernel, "SOURCE", changed)
    kernel.load("c-plain")
    assert len(entries(tmp_path)) == 2


def test_what_failed_is_not_tried_again(compiler, tmp_path):
    log = tmp_path / "calls"
    compiler(f"echo x >> {log}; exit 1")
    for _ in range(3):
        with pytest.raises(kernel.KernelError):
            kernel.load()
    assert log.read_text().count("x") == 2  # with and without the flag for this processor


@pytest.mark.slow
def test_processes_compile_once(tmp_path):
    log = tmp_path / "calls"
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\ncase "$*" in *-dM*) ;; *) echo x >> {log};; esac\n'
                      f'exec {REAL} "$@"\n')
    script.chmod(0o755)
    env = {**os.environ, "CXX": str(script), "SYSTOLA_CACHE": str(tmp_path / "cache")}
    program = ("from systola.model.kernel.compile import load\n"
               "import json; print(json.dumps(load('c-plain').about))")
    runs = [subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE,
                             cwd=Path(__file__).parents[2]) for _ in range(2)]
    said = [json.loads(run.communicate()[0]) for run in runs]
    assert said[0] == said[1]
    assert said[0]["compiler"].startswith("cc ")
    assert log.read_text() == "x\n"


def test_the_workspace_is_small():
    """Tensors take the place of those that nobody reads any more."""
    from systola.model.kernel.engine import _library, _program

    graph = network(blocks=12, tokens=50, channels=24, hidden=96)
    program = _program(graph, _library("c")[0])
    few, every = (program.plan(graph, keep).bytes for keep in (
        ["logits"], [node.name for node in graph.nodes if node.inputs]))
    assert few < every / 5
    assert program.plan(graph, ["logits"]) is program.plan(graph, ["logits"])
    assert len(graph.of(Linear)) == 4 * 12 + 2
    assert len(graph.of(Activation)) == 12
