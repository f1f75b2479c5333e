import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.model.allocation.allocate import Limit
from systola.model.allocation.choice_problem import AllocationError
from systola.model.allocation.node_precisions import Precision
from systola.model.data.images import encode, float_inputs, load_data
from systola.model.evaluation.accuracy import open_float
from systola.model.evaluation.allocated import Allocator, default_precisions
from systola.model.evaluation.allocation_sweep import KINDS, random_choice, scorer, sweep
from systola.model.graph.graph_file import load_network, save_network
from systola.model.graph.integer_forward import forward as definition
from systola.model.graph.nodes import Activation, Context, Linear, Norm, Scores
from systola.model.kernel.engine import engine_report, forward
from systola.sim.machine.machine import Machine
from systola.sw_driver.compiler.compiler import CompileError, compile_network, compile_operations
from systola.sw_driver.program.image import decode_outputs

MIXED = [Precision(8, 8), Precision(4, 4), Precision(3, 6)]


@pytest.fixture(scope="module")
def digits():
    graph = open_float("digits")
    return graph, float_inputs(graph, load_data("digits", "train")[0][:200])


@pytest.fixture(scope="module")
def allocator(digits):
    return Allocator(*digits, precisions=MIXED, method="mse")


@pytest.fixture(scope="module")
def mixed(allocator):
    """Return a network in which all three precisions occur."""
    allocation = allocator.allocate({"bytes": Limit.parse("bytes", "0.3"),
                                     "bops": Limit.parse("bops", "0.4")})
    assert set(allocation.chosen) == {0, 1, 2}
    return allocator.network(allocation), allocation


def test_every_node_has_its_bits(mixed, allocator):
    network, allocation = mixed
    for name, precision in allocation.precisions(allocator.nodes).items():
        node = network.by_name[name]
        read = network.tensors[node.input].bits
        assert f"{node.weight_bits}x{read}" == precision
        assert np.abs(node.weight).max() < 1 << node.weight_bits - 1
    # Q, K and V, scores and what goes into an activation keep theirs.
    assert {network.tensors[node.query].bits for node in network.of(Scores)} == {8}
    assert {node.bits for node in network.of(Scores)} == {8}
    assert {network.tensors[node.input].bits for node in network.of(Activation)} == {8}
    assert len({node.bits for node in network.of(Norm)}
               | {node.bits for node in network.of(Context)}) > 1


def test_a_file_keeps_them(mixed, tmp_path):
    network, allocation = mixed
    save_network(network, tmp_path / "n.safetensors")
    again = load_network(tmp_path / "n.safetensors")
    assert [(node.weight_bits, node.bits) for node in again.of(Linear)] == [
        (node.weight_bits, node.bits) for node in network.of(Linear)]
    about = again.meta["quantization"]["allocated"]
    assert about["precisions"] == ["8x8", "4x4", "3x6"]
    assert about["limits"]["bytes"]["cost"] == allocation.costs["bytes"]["cost"]
    codes = encode(network, load_data("digits", "test")[0][:3])
    for name, value in definition(network, codes).items():
        np.testing.assert_array_equal(value, definition(again, codes)[name])


def test_the_kernel_computes_the_same(mixed):
    network, _ = mixed
    codes = encode(network, load_data("digits", "test")[0][:20])
    assert engine_report(network, "c")["numpy_nodes"] == {}
    for name, value in definition(network, codes).items():
        np.testing.assert_array_equal(forward(network, codes, engine="c")[name], value)


@pytest.mark.parametrize("preset", ["digits", "arty_s7_50"])
def test_an_array_of_eight_bits_runs_them(digits, mixed, preset):
    """Codes of fewer bits are codes of eight: in plain and in packed multipliers."""
    config, (_, allocation) = PRESETS[preset], mixed
    network = Allocator(*digits, precisions=MIXED, method="minmax",
                        **config.model_settings).network(allocation)
    codes = {name: value[0] for name, value in encode(
        network, load_data("digits", "test")[0][:1]).items()}
    program = compile_network(network, config, trace=True)
    outputs = decode_outputs(program, Machine(config, 1).run(program.fill(codes)))
    expected = definition(network, codes)
    assert len(outputs) > 40
    for name, value in outputs.items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_narrower_array_refuses_by_name(mixed):
    network, _ = mixed
    first = next(node.name for node in network.of(Linear) if node.weight_bits == 8)
    narrow = dataclasses.replace(PRESETS["digits"], weight_bits=4)
    with pytest.raises(CompileError, match=f"^weight_bits must be at least 8 as in node '{first}', "
                                           f"not 4$"):
        compile_network(network, narrow)


def test_limits_are_kept_by_the_network(digits):
    """What the costs say is what the network has, and losses are those of the choices."""
    allocator = Allocator(*digits, method="mse")
    for name, share in ("bytes", "0.5"), ("bops", "0.25"), ("bops", "0"), ("bytes", "1"):
        allocation = allocator.allocate({name: share})
        network = allocator.network(allocation)
        cost = {"bytes": sum(-(-node.weight.size * node.weight_bits // 8)
                             for node in network.of(Linear)),
                "bops": sum(node.weight.size * network.tensors[node.input].rows * node.weight_bits
                            * network.tensors[node.input].bits for node in network.of(Linear))}
        assert cost[name] == allocation.costs[name]["cost"] <= allocation.costs[name]["limit"]
    assert set(allocation.chosen) == {0}


def test_cycles_that_no_precision_changes_are_refused(digits):
    config = PRESETS["digits"]
    allocator = Allocator(*digits, predict=lambda network: compile_operations(
        network, config)[2].cycles, **config.model_settings)
    with pytest.raises(ValueError, match=r"^cycles cannot be limited by fewer bits on this "
                                         r"accelerator: [\d,]+ with all nodes at any of 8x8, 4x8, "
                                         r"4x4; bytes and bops can$"):
        allocator.allocate({"cycles": 0.5})


def doubled(network):
    """Return cycles of an array that takes half the time for 4-bit operands, with some overlap."""
    cycles = 0
    for node in network.of(Linear):
        few = node.weight_bits <= 4 and network.tensors[node.input].bits <= 4
        cycles += node.weight.size * network.tensors[node.input].rows // (128 if few else 64)
    return max(cycles, 40_000)  # what streams weights


def test_cycles_of_an_array_that_gains(digits):
    allocator = Allocator(*digits, predict=doubled, method="minmax")
    for limit in "0.5", "48000":
        allocation = allocator.allocate({"cycles": limit})
        cost = allocation.costs["cycles"]
        assert doubled(allocator.network(allocation)) == cost["cost"] <= cost["limit"]
    assert 1 not in allocation.chosen  # weights alone gain nothing here
    with pytest.raises(AllocationError, match="cycles"):
        allocator.allocate({"cycles": 39999})


def test_what_cannot_be_had_is_refused(digits):
    with pytest.raises(ValueError, match=r"^energy needs a table of estimates"):
        Allocator(*digits).cost("energy")
    assert Allocator(*digits, energies={8: 1.5, 4: 0.25}).cost("energy").rows[0] == [
        6144.0, 6144.0, 1024.0]
    with pytest.raises(ValueError, match=r"^cycles need an accelerator that predicts them$"):
        Allocator(*digits).cost("cycles")
    with pytest.raises(ValueError, match=r"^precision 8x8 must have at most the act_bits of the "
                                         r"accelerator, 6$"):
        Allocator(*digits, precisions=MIXED, act_bits=6)


@pytest.mark.parametrize(("weight_bits", "act_bits", "expected"), [
    (8, 8, "8x8 4x8 4x4"), (8, 6, "8x6 4x6 4x4"), (4, 8, "4x8 4x4"), (3, 3, "3x3")])
def test_default_precisions(weight_bits, act_bits, expected):
    settings = AcceleratorConfig(weight_bits=weight_bits, act_bits=act_bits).model_settings
    assert " ".join(map(str, default_precisions(settings))) == expected


def test_random_choices_use_what_a_limit_allows(allocator):
    cost, rng = allocator.cost("bytes"), np.random.default_rng(0)
    limit = (cost.low + cost.high) // 2
    found = {random_choice(allocator.nodes, cost, limit, rng) for _ in range(20)}
    assert len(found) == 20
    for chosen in found:
        total = sum(row[choice] for row, choice in zip(cost.rows, chosen, strict=True))
        assert total <= limit
        for row, choice in zip(cost.rows, chosen, strict=True):
            assert all(total + other - row[choice] > limit for other in row if other > row[choice])


def test_an_allocation_loses_less_than_chance(digits, allocator):
    graph, _ = digits
    images = load_data("digits", "test")

    class Scored:
        labels = images[1]

        def __len__(self):
            return len(images[0])

        def __getitem__(self, part):
            return images[0][part]

    score = scorer(graph, Scored())
    assert score.float_top1 > 0.99
    rows = sweep(allocator, "bops", ["0.3"], score, random=6, seed=3)
    kinds = [row["kind"] for row in rows]
    assert [kinds.count(kind) for kind in KINDS] == [1, 6, 3]
    (best,) = (row for row in rows if row["kind"] == "allocated")
    chance = [row for row in rows if row["kind"] == "random"]
    assert all(best["loss"] < row["loss"] for row in chance)
    assert best["error"] < np.median([row["error"] for row in chance])
    assert all(row["cost"] <= 0.3 * (rows[0]["cost"] - rows[1]["cost"]) + rows[1]["cost"]
               for row in (*chance, best))
