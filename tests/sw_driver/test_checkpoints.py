"""Checkpoints of other people on one accelerator, by the machine model: every stored tensor."""

from pathlib import Path

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS
from systola.model.data.images import encode, float_inputs
from systola.model.graph.integer_forward import forward
from systola.model.importers.registry import load_checkpoint
from systola.model.quantization.quantize import quantize
from systola.sim.machine.machine import Machine
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.compiler.layout import CompileError
from systola.sw_driver.program.image import decode_outputs

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
FOLDERS = sorted(path.parent.name for path in CHECKPOINTS.glob("*/expected.npz"))
CONFIG = PRESETS["windows"]


def network_of(folder):
    """Return the integer network of a folder, and its first image."""
    graph = load_checkpoint(CHECKPOINTS / folder)
    with np.load(CHECKPOINTS / folder / "expected.npz") as arrays:
        images = arrays["images"].astype(np.float32) / 255
    network = quantize(graph, float_inputs(graph, images), method="minmax",
                       **CONFIG.model_settings)
    return network, {name: rows[0] for name, rows in encode(network, images[:1]).items()}


@pytest.mark.parametrize("folder", sorted({*FOLDERS} - {"timm_vit_qknorm"}))
def test_runs_as_the_network_says(folder):
    """CLIP's first norm and features without a head have 16 bits; Swin moves rows."""
    network, codes = network_of(folder)
    expected = forward(network, codes)
    program = compile_network(network, CONFIG, trace=True)
    outputs = decode_outputs(program, Machine(CONFIG, 1).run(program.fill(codes)))
    assert {*network.outputs} <= {*outputs}
    assert [name for name, value in outputs.items()
            if not np.array_equal(value, expected[name])] == []


def test_what_the_accelerator_does_not_have_is_named():
    message = r"^node 'blocks\.0\.q_norm': the accelerator has no norm of each head"
    with pytest.raises(CompileError, match=message):
        compile_network(network_of("timm_vit_qknorm")[0], CONFIG)
