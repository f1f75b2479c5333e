"""Rows that COPY moves: rectangles, and networks with windows on the machine model."""

import dataclasses
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.hw.contract.config import PRESETS, AcceleratorConfig, ConfigError
from systola.hw.contract.isa import Opcode
from systola.model.data.images import encode, float_inputs
from systola.model.data.synthetic import random_float_swin
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Rows, Scores
from systola.model.importers.registry import load_checkpoint
from systola.model.quantization.quantize import quantize
from systola.sim.machine.machine import Machine
from systola.sw_driver.compiler.compiler import compile_network, compile_operations
from systola.sw_driver.compiler.layout import CompileError, Tensor
from systola.sw_driver.compiler.moves import copy_rows
from systola.sw_driver.program.image import decode_outputs

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
CONFIG = AcceleratorConfig(rows=12, cols=4, lanes=4, copies=True, norm_bits=16, pooling="mean",
                           bank_depth=2048)


class Copies:
    """Takes the place of a `Lowering`: keeps (source, target) addresses of every COPY."""

    def __init__(self):
        self.pairs, self.count = [], 0

    def copy(self, name, source, out):
        assert (source.rows, source.words) == (out.rows, out.words)
        self.pairs += zip(source.addresses().tolist(), out.addresses().tolist(), strict=True)
        self.count += 1


def moved(sources, targets, width, aim_width, planes=1, **options):
    """Return the COPYs of rows of one tensor to another, at 0 and at 10,000."""
    copies = Copies()
    origin = Tensor("a", max(sources) + 1, width, planes, base=0)
    aim = Tensor("b", max(targets) + 1, aim_width, planes, base=10_000)
    copy_rows(copies, "x", (origin, np.array(sources)), (aim, np.array(targets)), **options)
    return copies


@given(st.permutations(range(12)), st.integers(1, 3), st.integers(1, 2))
@settings(deadline=None)
def test_every_word_goes_where_its_row_goes(order, words, planes):
    copies = moved(order, list(range(12)), words, words, planes)
    stride = words * planes
    assert sorted(copies.pairs) == sorted(
        (row * stride + word, 10_000 + place * stride + word)
        for place, row in enumerate(order) for word in range(stride))


@given(st.permutations(range(8)), st.integers(1, 3))
@settings(deadline=None)
def test_rows_beside_each_other_are_parts_of_rows(order, words):
    copies = moved(order, list(range(8)), words, 4 * words, words=words,
                   places=(0, 2 * words))
    assert sorted(copies.pairs) == sorted(
        (row * words + word, 10_000 + place * 4 * words + 2 * words + word)
        for place, row in enumerate(order) for word in range(words))


def test_a_window_is_one_copy():
    """Of 4 x 4 patches in an image of 8 x 8; so is every other patch of a row of them."""
    image = np.arange(64).reshape(8, 8)
    window = image[4:, :4].ravel()
    assert moved(window.tolist(), list(range(16)), 3, 3).count == 1
    assert moved(list(range(0, 8, 2)), list(range(4)), 3, 12, words=3).count == 1
    assert moved(list(range(64)), list(range(64)), 3, 3).count == 1
    assert moved([3, 2, 1], [0, 1, 2], 3, 3).count == 3  # strides are not negative


@cache
def swin_for(**model_settings):
    """Return the integer network of a small Swin, its first image, and all its tensors."""
    graph = load_checkpoint(CHECKPOINTS / "timm_swin")
    with np.load(CHECKPOINTS / "timm_swin" / "expected.npz") as arrays:
        images = arrays["images"].astype(np.float32) / 255
    network = quantize(graph, float_inputs(graph, images), **model_settings)
    codes = {name: rows[0] for name, rows in encode(network, images[:1]).items()}
    return network, codes, forward(network, codes)


@pytest.fixture
def swin():
    """Return that for the plain accelerator."""
    return swin_for(**CONFIG.model_settings)


CASES = {
    "plain": {}, "one lane": {"lanes": 1, "cols": 3}, "few rows at once": {"token_depth": 8},
    "six lanes": {"rows": 6, "cols": 6, "lanes": 6, "bank_depth": 4096},
    "preset": dataclasses.asdict(PRESETS["windows"]),
}


@pytest.mark.parametrize("name", CASES)
def test_windows_on_the_machine(name):
    """Every tensor, moved rows included, under several schedules."""
    config = dataclasses.replace(CONFIG, **CASES[name])
    network, codes, expected = swin_for(**config.model_settings)
    for trace in True, False:
        program = compile_network(network, config, trace=trace)
        for seed in range(2):
            frames = Machine(config, seed).run(program.fill(codes))
            outputs = decode_outputs(program, frames)
            wrong = [key for key, value in outputs.items()
                     if not np.array_equal(value, expected[key])]
            assert wrong == []
        assert set(outputs) == (set(expected) if trace else set(network.outputs))


@pytest.mark.parametrize("images", [1, 2])
def test_a_stage_that_is_one_window(images):
    """Nothing changes its order there; the shifted window is the same one."""
    rng = np.random.default_rng(3)
    graph = random_float_swin(rng, channels=12, depths=(1, 2), heads=(3, 3), window=2, side=8,
                              patch=2, classes=5)
    network = quantize(graph, {"patches": rng.standard_normal((4, 16, 12), np.float32)},
                       method="minmax", **CONFIG.model_settings).repeated(images)
    codes = {"patches": rng.integers(-128, 128, (16 * images, 12))}
    expected = forward(network, codes)
    program = compile_network(network, CONFIG, trace=True)
    outputs = decode_outputs(program, Machine(CONFIG, 2).run(program.fill(codes)))
    assert "logits" in outputs
    assert [name for name, value in outputs.items()
            if not np.array_equal(value, expected[name])] == []


def test_two_images_share_weights_and_biases(swin):
    network, *_ = swin
    loads = [sum(op.opcode is Opcode.LOAD and op.name.endswith("bias")
                 for op in compile_operations(graph, CONFIG)[1])
             for graph in (network, network.repeated(2))]
    assert loads[0] == loads[1] > 0


def test_sequences_that_have_the_same_bias_share_it(swin):
    """Four windows of 16 that are alike, and parts of shifted ones: once a head each."""
    network, *_ = swin
    wanted = 0
    for node in network.of(Scores):
        blocks = {node.bias_index[first:first + rows, :rows].tobytes()
                  for first, rows in node.sequences}
        wanted += len(blocks) * node.heads
    _, ops, _ = compile_operations(network, CONFIG)
    assert sum(op.opcode is Opcode.LOAD and op.name.endswith("bias") for op in ops) == wanted


@pytest.mark.parametrize(("fields", "message", "needs"), [
    ({"copies": False},
     "copies must be true for node 'layers.1.beside', which puts rows side by side, not false",
     {"copies": True}),
    ({"norm_bits": 8},
     "norm_bits must be 16 for node 'patch_embed.norm', whose result has 16 bits, not 8",
     {"norm_bits": 16}),
    ({"rows": 8}, "rows must divide 12, the channels that node 'layers.1.beside' puts side by",
     {})])
def test_refusals_say_what_would_do(swin, fields, message, needs):
    with pytest.raises(CompileError, match=f"^{re.escape(message)}") as info:
        compile_network(swin[0], dataclasses.replace(CONFIG, **fields))
    assert info.value.needs == needs


def test_a_moved_context_needs_copies(swin):
    part = swin[0].between(["patches"], ["layers.0.blocks.1.out"])
    assert not [node for node in part.of(Rows) if node.beside > 1]
    with pytest.raises(CompileError, match=r"^copies must be true for node 'layers\.0\.blocks\.0\."
                                           r"image', which moves the result of an attention"):
        compile_network(part, dataclasses.replace(CONFIG, copies=False))


def test_a_context_is_moved_alone(swin):
    network = swin[0]
    node = network.by_name["layers.0.blocks.0.image"]
    index = node.index.copy()
    index[3, 0] = 1
    mixed = dataclasses.replace(node, index=index,
                                sources=(*node.sources, "layers.0.blocks.0.windows"))
    nodes = tuple(mixed if other is node else other for other in network.nodes)
    with pytest.raises(CompileError, match=r"^node 'layers\.0\.blocks\.0\.image': rows of an "
                                           r"attention's result cannot be moved together"):
        compile_network(dataclasses.replace(network, nodes=nodes), CONFIG)


def test_a_bias_too_large_for_the_hardware_is_refused(swin):
    network = swin[0]
    node = network.of(Scores)[0]
    wrong = dataclasses.replace(node, bias_mult=np.array(2**20, np.int32),
                                bias_shift=np.array(1, np.uint8))
    nodes = [wrong if other is node else other for other in network.nodes]
    with pytest.raises(CompileError, match=rf"^node '{re.escape(node.name)}': bias "):
        compile_network(dataclasses.replace(network, nodes=tuple(nodes)), CONFIG)


@pytest.mark.parametrize(("fields", "message"), [
    ({"copies": 1}, "copies must be true or false, not 1"),
    ({"norm_bits": 12}, "norm_bits must be 8 or 16, not 12")])
def test_fields(fields, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        AcceleratorConfig(**fields)
