"""`systola quantize --allocate` and `systola report allocations`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
VIT = CHECKPOINTS / "timm_vit"
IMAGES = VIT / "expected.npz"
QUANTIZE = "quantize", "--model", VIT, "--data", IMAGES, "--method", "mse", "-o", "q.safetensors"


def refused(result, line):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"systola: {line}"


def test_bits_by_node_from_the_checkpoint_to_the_table(run):
    code, out, _ = run(*QUANTIZE, "--allocate", "bytes=0.4", "--allocate", "bops=0.5", "--json")
    made = json.loads(out)
    assert code == 0
    about = made["quantization"]["allocated"]
    for row in about["limits"].values():
        assert row["least"] <= row["cost"] <= row["limit"] <= row["most"]
    assert len(set(made["allocation"].values())) > 1
    code, out, _ = run("inspect", "q.safetensors", "--no-presets", "--json")
    rows = {row["name"]: row for row in json.loads(out)["nodes"]}
    for name, precision in made["allocation"].items():
        read = rows[rows[name]["inputs"][0]]["bits"]
        assert f"{rows[name]['weight_bits']}x{read}" == precision
    assert json.loads(out)["quantization"]["allocated"] == about
    code, out, _ = run("evaluate", "--model", VIT, "--quantized", "q.safetensors", "--data",
                       IMAGES, "--json")
    assert json.loads(out)["int_top1"] > 0.8


def test_what_was_allocated_is_said(run):
    code, out, _ = run(*QUANTIZE, "--allocate", "bytes=0", "--precisions", "8x8,4x4")
    assert code == 0
    assert "bits by node; nodes:" in out
    count = out.count("of 4x4")
    assert count == 1
    assert "linear nodes by bits of weights x activations: " in out
    assert "bytes, weights packed: " in out


def test_the_measure_of_hawq(run):
    code, out, _ = run(*QUANTIZE, "--allocate", "bytes=0.5", "--measure", "trace")
    assert code == 0
    assert out.splitlines()[-1].startswith("loss: ")
    assert "variance" not in out


def test_energy_is_of_a_report(run, tmp_path):
    rows = [{"operation": operation, "style": style, "bits": bits, "energy_pj_per_mac": energy}
            for operation, style, bits, energy in (
                ("linear", "dsp", 8, 2.0), ("linear", "dsp", 4, 0.5), ("linear", "lut", 8, 9.0),
                ("qk", "dsp", 8, 7.0))]
    (tmp_path / "pe.json").write_text(json.dumps({"rows": rows}))
    arguments = *QUANTIZE, "--allocate", "energy=0", "--energies"
    code, out, _ = run(*arguments, "pe.json", "--json")
    limits = json.loads(out)["quantization"]["allocated"]["limits"]["energy"]
    assert code == 0
    assert limits["most"] == 4 * limits["least"] == 4 * limits["cost"]
    (tmp_path / "bad.json").write_text("[]")
    code, _, err = run(*arguments, "bad.json")
    assert code == 2
    assert "--energies must be what `systola report pe --json` printed, not 'bad.json'" in err


@pytest.mark.parametrize(("arguments", "line"), [
    (["--allocate", "bytes"], "--allocate must be COST=LIMIT, like bytes=0.5, not 'bytes'"),
    (["--allocate", "bytes=0.5", "--allocate", "bytes=7"], "--allocate must limit 'bytes' once"),
    (["--allocate", "watts=0.5"],
     "a limit must be of bytes, bops, cycles, energy, not of 'watts'"),
    (["--allocate", "bops=few"],
     "limit of bops must be a share from 0 to 1 or a whole number above 1, not 'few'"),
    (["--allocate", "energy=0.5"],
     "--allocate energy=LIMIT needs --energies FILE, and the other way round"),
    (["--measure", "trace"], "--measure is for --allocate COST=LIMIT"),
    (["--precisions", "8x8,4x4"], "--precisions is for --allocate COST=LIMIT"),
    (["--precisions", "8", "--allocate", "bops=1"],
     "precision must be bits of weights x bits of activations, like 4x8, not '8'"),
    (["--precisions", "4x4", "--allocate", "bops=1"],
     "precisions must be at least two to choose from, not 4x4"),
    (["--weight-bits", "4", "--precisions", "8x8,4x8", "--allocate", "bops=1"],
     "precision 8x8 must have at most the weight_bits of the accelerator, 4")])
def test_wrong_usage_is_one_line(run, arguments, line):
    refused(run(*QUANTIZE, *arguments), line)


def test_limits_that_cannot_be_kept_say_the_least(run):
    code, out, err = run(*QUANTIZE, "--allocate", "bytes=2")
    assert (code, out) == (2, "")
    least = int(err.rpartition("at least ")[2].partition(", with")[0].replace(",", ""))
    assert run(*QUANTIZE, "--allocate", f"bytes={least}")[0] == 0
    code, _, err = run(*QUANTIZE, "--allocate", f"bytes={least - 1}")
    assert code == 2
    assert err.splitlines()[-1] == (f"systola: bytes must be at least {least:,}, with every node "
                                    f"at its fewest bits, not {least - 1:,}")


def test_cycles_are_those_of_the_accelerator(run):
    code, out, err = run("quantize", "--model", "digits", "--allocate", "cycles=0.7", "-o",
                         "q.safetensors")
    assert (code, out) == (2, "")
    assert "cycles cannot be limited by fewer bits on this accelerator: " in err.splitlines()[-1]


def test_without_the_solver(run, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("systola.model.allocation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    code, _, err = run(*QUANTIZE, "--allocate", "bytes=0.5")
    assert code == 2
    assert "scipy" in err.splitlines()[-1]


def test_a_picture_of_accuracy_over_cost(run, tmp_path):
    arguments = ("report", "allocations", "--model", VIT, "--data", IMAGES, "--calibration",
                 IMAGES, "--method", "mse", "--cost", "bytes", "--limits", "0.3,0.6")
    code, out, _ = run(*arguments, "--random", 2, "-o", "a.svg", "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["float_top1"], result["picture"]) == (1.0, "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()
    costs = [row["cost"] for row in result["rows"]]
    assert costs == sorted(costs)
    kinds = [row["kind"] for row in result["rows"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "allocated": 2, "random": 4, "the same bits everywhere": 3}
    assert all(np.isfinite(row["error"]) for row in result["rows"])
    assert set(result["chance"]) == {"0.3", "0.6"}
    assert all(found["random"] == 2 for found in result["chance"].values())
    code, out, _ = run(*arguments)
    assert code == 0
    assert "all 4x4" in out
    assert "random ones" not in out
    code, out, _ = run(*arguments, "--random", 1)
    assert code == 0
    assert "\nlimit 0.6: the best of 1 random ones has top-1 0." in out
    refused(run(*arguments, "-o", "a.pdf"), "output must be a file that ends in .svg or .png, in "
                                            "an existing folder, not 'a.pdf'")
