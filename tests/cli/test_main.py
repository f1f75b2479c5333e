import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from systola.cli.console import CONFIGURATION
from systola.files.tensors import ModelError, read_tensors
from systola.hw.contract.config import PRESETS
from systola.model.data.digits import checkpoint_path
from systola.model.evaluation import accuracy
from systola.model.evaluation.accuracy import open_float

GOLDEN = Path(__file__).parents[1] / "golden"


def refused(result, *fragments):
    """Check for exit code 2, nothing on stdout, and one error line with all `fragments`.

    On a slow machine there may be lines of progress before it.
    """
    code, out, err = result
    assert (code, out) == (2, ""), result
    *before, line = err.splitlines()
    assert all(text.endswith(" ...") for text in before)
    assert line.startswith("systola: ")
    for fragment in fragments:
        assert fragment in line


def checkpoint(path, change=lambda tensors, metadata: None):
    """Write the digits checkpoint to `path`, changed."""
    tensors, (_, metadata) = load_file(checkpoint_path()), read_tensors(checkpoint_path())
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


def test_help_is_quick_and_names_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    for name in ("demo", "quantize", "evaluate", "ablate", "inspect", "generate", "synth",
                 "simulate", "conform"):
        assert f"\n  {name} " in out
        assert run(name, "--help")[0] == 0
    slow = "import systola.cli.main, sys; systola.cli.main.main(['--help']); print({'numpy', " \
           "'amaranth', 'cocotb', 'rich', 'sklearn'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", slow], capture_output=True, text=True, check=True)
    assert out.stdout.endswith("set()\n")


def test_without_arguments_shows_help(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "Commands:" in out


@pytest.mark.parametrize(("args", "fragments"), [
    (["fly"], ["'fly'"]),
    (["generate"], ["'-o'"]),
    (["generate", "--config", "tiny", "-o", "out", "--name", "1st"], ["name", "'1st'", "letter"]),
    (["generate", "-o", "out", "--name", "logic"], ["name", "'logic'", "keyword", "'logic_0'"]),
    (["simulate", "--images", "none"], ["'none'", "integer"]),
    (["simulate", "--images", "0"], ["0", "images"]),
    (["simulate", "--seed", "1"], ["--random"]),
    (["simulate", "--model", "digits", "--random"], ["--random"]),
    (["simulate", "--model", "deit_tiny"], ["--random-weights", "checkpoint", "deit_tiny"]),
    (["simulate", "--model", "digits", "--linear-bits", "4x4"], ["--linear-bits", "--allocate"]),
    (["simulate", "--model", "deit_tiny", "--random-weights", "--linear-bits", "8x8,4"],
     ["--linear-bits", "4x8", "'4'"]),
    (["simulate", "--model", "deit_tiny", "--random-weights", "--linear-bits", "9x8"],
     ["weight_bits", "2 to 8", "9"]),
    (["simulate", "--model", "digits", "--random-weights"], ["deit_tiny", "'digits'"]),
    (["simulate", "--random-weights"], ["--model"]),
    (["simulate", "--random", "--blocks", "1"], ["--random", "--blocks"]),
    (["simulate", "--random", "--attention", "published"], ["--random", "--attention"]),
    (["simulate", "--model", "digits", "--blocks", "5"], ["--blocks", "4", "5"]),
    (["simulate", "--model", "digits", "--attention", "fast"], ["'fast'", "deferred"]),
    (["simulate", "--model", "digits", "--timeline", "t.png"], ["t.png", ".html"]),
    (["simulate", "--model", "digits", "--timeline", "no/t.html"], ["no/t.html", "folder"]),
    (["simulate", "--model", "digits", "--timeline", "t.html", "--stalls", "1"], ["--stalls"]),
    (["quantize", "--model", "digits"], ["'-o'"]),
    (["conform", "nowhere"], ["'nowhere'"]),
    (["synth", "--config", "huge"], ["'huge'", "digits, small, tiny"]),
    (["synth", "--array", "--config", "tiny"], ["--array", "--config"]),
    (["synth", "--rows", "4"], ["--rows", "--array"]),
    (["synth", "--array", "--cols", "7"], ["cannot be packed", "16256", "7 columns"]),
    (["synth", "--array", "--weight-bits", "1"], ["weight_bits", "1", "2 to 8"]),
    (["synth", "--array", "--style", "dsp", "--max-tokens", "0"], ["max_tokens", "0"]),
    (["evaluate", "--model", "nowhere.npz"], ["'nowhere.npz'", "does not exist"]),
    (["evaluate", "--model", "digits", "--act-bits", "9"], ["act_bits", "9", "2 to 8"]),
    (["evaluate", "--model", "digits", "--gelu", "fast"], ["gelu", "'fast'", "'table'"]),
    (["evaluate", "--model", "digits", "--attention", "late"], ["attention", "'late'"]),
    (["quantize", "--model", "digits", "-o", "m.safetensors", "--attention", "deferred",
      "--act-bits", "6"], ["'deferred'", "act_bits 8", "6"]),
    (["evaluate", "--model", "digits", "--code-mult-bits", "40"], ["code_mult_bits", "40"]),
    (["evaluate", "--model", "digits", "--heads", "5"], ["heads", "64 channels", "5"]),
    (["simulate", "--model", "digits", "--config", "tiny"], ["must", "not"]),
    (["simulate", "--random", "--data", "d.npz"], ["--random", "--data"]),
    (["simulate", "--model", "deit_tiny", "--random-weights", "--data", "d.npz"],
     ["--random-weights", "--data", "'d.npz'"]),
    (["conform", str(GOLDEN), "--simulator", "icarus"], ["--simulator", "--rtl"]),
    (["run", "--model", "digits", "--registers", "/dev/uio0", "--baud", "9600"],
     ["--baud", "--port", "--registers"]),
    (["report", "--images", "3", "pe"], ["--images", "before pe", "behind"]),
    (["report", "--config", "tiny", "area"], ["--config", "before area"]),
    (["synth", "--array", "--style", "lut", "--max-tokens", "2"], ["--max-tokens", "--style"]),
    (["evaluate", "--model", "digits", "--attention", "deferred", "--attention-bits", "8"],
     ["--attention-bits", "--attention published"]),
    (["evaluate", "--model", "digits", "--code-mult-bits", "31"], ["code_mult_bits", "24", "31"]),
    (["quantize", "--model", "digits", "-o", "m.safetensors", "--mult-bits", "16",
      "--code-mult-bits", "17"], ["code_mult_bits", "16", "17"]),
    (["evaluate", "--model", "digits", "--quantized", str(checkpoint_path())],
     ["--quantized", str(checkpoint_path()), "float checkpoint", "--model"]),
    (["evaluate", "--model", "digits", "--data", str(checkpoint_path())],
     ["'images'", "it is a float checkpoint"]),
    (["quantize", "--model", str(checkpoint_path()), "-o", "m.safetensors"], ["--data FILE"]),
])
def test_wrong_usage_is_one_line(run, args, fragments):
    refused(run(*args), *fragments)


@pytest.mark.parametrize(("name", "text", "fragments"), [
    ("c.toml", "rows = 16\nspeed = 3\n", ["'speed'", "rows, cols"]),
    ("c.toml", "rows = 16\ncols = 5\n", ["lanes", "divide", "4"]),
    ("c.toml", "rows = '16'\n", ["rows", "'16'"]),
    ("c.toml", "rows = = 16\n", ["c.toml", "cannot be read"]),
    ("c.json", '{"preset": "large"}', ["preset", "'large'"]),
    ("c.json", "[1, 2]", ["table"]),
])
@pytest.mark.parametrize("command", ["generate", "synth", "simulate"])
def test_bad_config_is_refused(run, tmp_path, command, name, text, fragments):
    (tmp_path / name).write_text(text)
    extra = {"generate": ["-o", "out"], "simulate": ["--model", "digits"]}.get(command, [])
    refused(run(command, "--config", name, *extra), *fragments)
    assert not (tmp_path / "out").exists()


def _transpose(tensors, metadata):
    tensors["blocks.1.mlp.fc1.weight"] = np.ascontiguousarray(tensors["blocks.1.mlp.fc1.weight"].T)


def _drop(tensors, metadata):
    del tensors["blocks.2.norm1.bias"]


def _infinite(tensors, metadata):
    tensors["head.weight"][0, 0] = np.inf


@pytest.mark.parametrize(("change", "fragments"), [
    (_transpose, ["blocks.1.mlp.fc1.weight", "(256, 64)", "(64, 256)"]),
    (_drop, ["blocks.2.norm1.bias", "missing"]),
    (_infinite, ["head.weight", "finite"]),
    (lambda tensors, metadata: metadata.update(heads="7"), ["heads", "64 channels", "7"]),
])
def test_bad_checkpoint_is_refused(run, tmp_path, change, fragments):
    path = checkpoint(tmp_path / "bad.safetensors", change)
    refused(run("quantize", "--model", path, "--data", "digits", "-o", "out.safetensors"),
            *fragments)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("size", [0, 7, 100, 5000, -1])
def test_truncated_checkpoint_is_refused(run, tmp_path, size):
    path = checkpoint(tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    refused(run("quantize", "--model", path, "--data", "digits", "-o", "out.safetensors"),
            "cut.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["cut.safetensors"]


def test_unwritable_output_is_refused(run):
    refused(run("quantize", "--model", "digits", "-o", "no/such/folder.safetensors"),
            "'no/such/folder.safetensors'", "no folder 'no/such'")
    refused(run("quantize", "--model", "digits", "-o", "model.npz"), "'model.npz'", ".safetensors")


@pytest.mark.slow
def test_an_integer_model_is_not_a_checkpoint(run, tmp_path):
    """It was told that a tensor is missing; quantize copied it, and ignored its other options."""
    assert run("quantize", "--model", "digits", "-o", "q.safetensors")[0] == 0
    before = (tmp_path / "q.safetensors").read_bytes()
    refused(run("evaluate", "--model", "q.safetensors"), "'q.safetensors' is an integer model",
            "evaluate --model CHECKPOINT --quantized q.safetensors",
            "simulate --model q.safetensors")
    refused(run("quantize", "--model", "q.safetensors", "--data", "d.npz", "-o", "z.safetensors"),
            "'q.safetensors' is an integer model", "float checkpoint")
    refused(run("evaluate", "--model", "digits", "--data", "q.safetensors"), "'images'",
            "it is an integer model")
    with pytest.raises(ModelError, match="must be a float checkpoint, not an integer model"):
        open_float("q.safetensors")
    np.savez(tmp_path / "d.npz", images=np.zeros((1, 8, 8), np.uint8), labels=np.arange(1))
    refused(run("evaluate", "--model", "d.npz"), "must be a float checkpoint, not images")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["d.npz", "q.safetensors"]
    assert (tmp_path / "q.safetensors").read_bytes() == before


@pytest.mark.slow
def test_heads_reach_the_measured_options(run, monkeypatch):
    seen = {}
    monkeypatch.setattr(accuracy, "measure_options",
                        lambda source, **options: seen.update(options) or {})
    code, *_ = run("evaluate", "--model", "digits", "--heads", "8", "--options", "--json")
    assert (code, seen["facts"]["heads"]) == (0, 8)


def test_help_names_the_presets():
    names = CONFIGURATION[CONFIGURATION.index("(") + 1:CONFIGURATION.index(")")].split(", ")
    assert sorted(names) == sorted(PRESETS)


@pytest.mark.slow
def test_quantize_then_evaluate(run, tmp_path):
    code, out, _ = run("quantize", "--model", "digits", "-o", "digits.safetensors", "--json")
    assert code == 0
    made = json.loads(out)
    assert made["outputs"] == {"logits": [1, 10]}
    assert made["inputs"] == {"patches": [16, 4]}
    assert (made["nodes"]["linear"], made["nodes"]["softmax"]) == (18, 4)
    digits = PRESETS["digits"].model_settings  # a model for the default accelerator, to simulate
    assert {name: made[name] for name in digits} == digits
    code, out, _ = run("evaluate", "--model", "digits", "--quantized", "digits.safetensors",
                       "--json")
    result = json.loads(out)
    assert code == 0
    assert result["float_top1"] >= 0.97
    assert result["int_top1"] >= result["float_top1"] - 0.01
    assert result["agreement"] > 0.97


@pytest.mark.slow
def test_deferred_model_and_errors_of_the_operators(run):
    code, out, _ = run("quantize", "--model", "digits", "-o", "deferred.safetensors",
                       "--attention", "deferred", "--code-mult-bits", "16", "--json")
    settings = json.loads(out)
    assert (code, settings["attention"], settings["code_mult_bits"]) == (0, "deferred", 16)
    args = "evaluate", "--model", "digits", "--quantized", "deferred.safetensors"
    code, out, _ = run(*args, "--attention-error", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["agreement"] > 0.97
    assert len(result["attention_error"]["deferred, 8 bits"]) == 5
    code, out, _ = run(*args, "--attention-error")
    assert code == 0
    assert "deferred, 8 bits" in out


@pytest.mark.slow
def test_images_of_another_shape_are_refused(run, tmp_path):
    np.savez(tmp_path / "data.npz", images=np.zeros((3, 10, 10), np.uint8), labels=np.arange(3))
    refused(run("evaluate", "--model", "digits", "--data", "data.npz"), "8 x 8 pixels", "10 x 10")


def test_debug_shows_the_traceback(run, monkeypatch):
    monkeypatch.setenv("SYSTOLA_DEBUG", "1")
    with pytest.raises(ValueError, match="huge"):
        run("synth", "--config", "huge")
