import numpy as np
import pytest

from systola.hw.contract.config import ATTENTIONS
from systola.hw.contract.dsp_packing import plan_packing
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Activation, Linear, Mean, Norm, Softmax
from systola.sim.machine.machine import Machine
from systola.sim.runs.random_cases import random_case
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.program.image import decode_outputs

VARIED = ("rows", "cols", "lanes", "vector_lanes", "norm_lanes", "weight_bits", "act_bits",
          "pe_style", "token_depth", "acc_buffers", "banks", "param_ports", "mult_bits",
          "code_mult_bits", "attention", "attention_bits", "gelu", "norm_roots", "norm",
          "narrow_bits", "weight_codes")


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
            least = 1 if name == "attention" else 11  # of log2 schemes there are several
            assert all(values.count(value) >= least for value in set(values)), name
    assert {config.attention for config in configs} == set(ATTENTIONS)
    assert {config.pe_style for config in configs} == {"dsp", "lut", "dsp_packed"}


def test_packed_arrays_can_be_planned(cases):
    packed = [config for _, config, _ in cases if config.pe_style == "dsp_packed"]
    for config in packed:
        plan = plan_packing(config.weight_bits, config.act_bits, config.rows, cols=config.cols)
        assert plan.group >= 2
    assert {config.attention for config in packed} >= {"published", "normalised"}
    assert {config.deferred for config in packed} == {False, True}


def test_models_have_the_settings_of_their_accelerator(cases):
    for graph, config, codes in cases:
        assert {node.variant for node in graph.of(Softmax)} == {config.attention}
        assert {node.variant for node in graph.of(Activation)} == {config.gelu}
        assert {node.variant for node in graph.of(Norm)} == {config.norm}
        bits = {node.bits for node in graph.of(Norm)}
        assert bits <= {config.act_bits, config.narrow_bits or config.act_bits}
        assert max(node.weight_bits for node in graph.of(Linear)) == config.weight_bits
        for node in graph.inputs:
            assert codes[node.name].shape == (2, node.rows, node.channels)


def test_networks_differ(cases):
    graphs = [graph for graph, _, _ in cases]
    prefixes = [graph.tensors["prefix"].rows if "prefix" in graph.by_name else 0
                for graph in graphs]
    assert set(prefixes) >= {0, 1, 2, 3, 4, 5}
    assert sum(bool(graph.of(Mean)) for graph in graphs) > 5
    assert sum("logits_dist" in graph.by_name for graph in graphs) > 5
    assert sum(len({node.weight_bits for node in graph.of(Linear)}) > 1 for graph in graphs) > 10


@pytest.mark.parametrize("seed", range(50))
def test_programs_equal_the_model(cases, seed):
    """On the machine model: one image, and all of them in one program."""
    graph, config, codes = cases[seed]
    expected = forward(graph, codes)
    for images in 1, 2:
        program = compile_network(graph, config, trace=True, images=images)
        part = {name: values if images == 2 else values[0] for name, values in codes.items()}
        outputs = decode_outputs(program, Machine(config, seed).run(program.fill(part)))
        wrong = [name for name, value in outputs.items() if not np.array_equal(
            value, expected[name] if images == 2 else expected[name][0])]
        assert wrong == []
