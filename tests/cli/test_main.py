import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from systola.cli.main import main
from systola.files.tensors import read_tensors
from systola.model.data.digits import checkpoint_path


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Return a function that runs the command in a fresh folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYSTOLA_DEBUG", raising=False)

    def call(*args):
        code = main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return code, out, err

    return call


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
    for name in ("demo", "quantize", "evaluate", "inspect", "generate", "synth", "simulate",
                 "conform"):
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
    (["simulate", "--images", "none"], ["'none'", "integer"]),
    (["simulate", "--images", "0"], ["0", "images"]),
    (["simulate", "--seed", "1"], ["--random"]),
    (["simulate", "--model", "digits", "--random"], ["--random"]),
    (["simulate", "--model", "deit_tiny"], ["--random-weights", "checkpoint", "deit_tiny"]),
    (["simulate", "--model", "digits", "--random-weights"], ["deit_tiny", "'digits'"]),
    (["simulate", "--random-weights"], ["--model"]),
    (["simulate", "--random", "--blocks", "1"], ["--random", "--blocks"]),
    (["simulate", "--random", "--attention", "exact"], ["--random", "--attention"]),
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


def test_quantize_then_evaluate(run, tmp_path):
    code, out, _ = run("quantize", "--model", "digits", "-o", "digits.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["channels"] == 64
    code, out, _ = run("evaluate", "--model", "digits", "--quantized", "digits.safetensors",
                       "--json")
    result = json.loads(out)
    assert code == 0
    assert result["float_top1"] >= 0.97
    assert result["int_top1"] >= result["float_top1"] - 0.01
    assert result["agreement"] > 0.97


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


def test_images_of_another_shape_are_refused(run, tmp_path):
    np.savez(tmp_path / "data.npz", images=np.zeros((3, 10, 10), np.uint8), labels=np.arange(3))
    refused(run("evaluate", "--model", "digits", "--data", "data.npz"), "16 patches", "25")


def test_debug_shows_the_traceback(run, monkeypatch):
    monkeypatch.setenv("SYSTOLA_DEBUG", "1")
    with pytest.raises(ValueError, match="huge"):
        run("synth", "--config", "huge")
