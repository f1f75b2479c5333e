"""A Swin Transformer on the Verilog of the accelerator that `systola simulate` chooses for it."""

from pathlib import Path

import pytest

from systola.cli.cases import choose_case
from systola.hw.contract.config import PRESETS
from systola.sim.runs.simulate import simulate

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


def case(folder, **choice):
    """Return the case that the command's options choose; what is not given is as by default."""
    options = {"is_random": False, "random_weights": False, "config": None, "attention": None,
               "blocks": None, "seed": None, "images": 1,
               "data": str(CHECKPOINTS / folder / "expected.npz"), "update": None}
    return choose_case(str(CHECKPOINTS / folder), **options | choice)


def test_a_checkpoint_gets_the_first_preset_that_runs_it():
    found = case("timm_swin")
    assert found.about["config"] == "preset windows"
    assert found.config == PRESETS["windows"]
    assert case("timm_vit").about["config"] == "preset digits"


@pytest.mark.parametrize("config", ["digits", "windows"])
def test_what_was_asked_for_is_not_replaced(config):
    found = case("timm_vit", config=config)
    assert found.config == PRESETS[config]
    assert "config" not in found.about


@pytest.mark.slow
def test_windows_in_verilog():
    """Shifted ones of two sizes, their biases, patches that are merged: every stored tensor."""
    found = case("hf_swin")
    result = simulate(found.model, found.config, found.inputs)
    report = result.report()
    assert (report["mismatches"], report["differing"]) == (0, {})
    assert report["tensors_compared"] == len(found.model.nodes) - len(found.model.inputs) + 1
    assert abs(report["cycles"] / report["cycles_predicted"] - 1) < 0.02
