import numpy as np
import pytest

from systola.hw.contract.dsp_packing import plan_packing
from systola.model.networks.integer_forward import forward
from systola.sim.machine.machine import Machine
from systola.sim.runs.random_cases import random_case
from systola.sw_driver.compiler.compiler import compile_model
from systola.sw_driver.program.image import decode_outputs

VARIED = ("rows", "cols", "lanes", "vector_lanes", "norm_lanes", "weight_bits", "act_bits",
          "pe_style", "token_depth", "banks", "mult_bits", "code_mult_bits", "attention",
          "attention_bits", "gelu", "norm_roots", "norm_start")


@pytest.fixture(scope="module")
def cases():
    return [random_case(seed) for seed in range(60)]


def test_everything_varies(cases):
    configs = [config for _, config, _ in cases]
    assert len({config.hash for config in configs}) == len(configs)
    for name in VARIED:
        values = [getattr(config, name) for config in configs]
        assert len(set(values)) >= 2, name
        if isinstance(values[0], str):
            assert all(values.count(value) > 10 for value in set(values)), name
    assert {config.pe_style for config in configs} == {"dsp", "lut", "dsp_packed"}


def test_packed_arrays_can_be_planned(cases):
    packed = [config for _, config, _ in cases if config.pe_style == "dsp_packed"]
    for config in packed:
        plan = plan_packing(config.weight_bits, config.act_bits, config.rows, cols=config.cols)
        assert plan.group >= 2
    assert {config.attention for config in packed} == {"exact", "deferred"}


def test_models_have_the_settings_of_their_accelerator(cases):
    for model, config, codes in cases:
        for name, value in config.model_settings.items():
            assert getattr(model, name) == value
        assert codes.shape == (2, model.tokens - 1, model.patch.weight.shape[1])


@pytest.mark.parametrize("seed", range(24))
def test_programs_equal_the_model(cases, seed):
    model, config, codes = cases[seed]
    program, expected = compile_model(model, config, trace=True), forward(model, codes[0])
    outputs = decode_outputs(program, Machine(config, seed).run(
        program.fill({"patches": codes[0]})))
    assert [name for name in outputs if not np.array_equal(outputs[name], expected[name])] == []
