import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.files.tensors import ModelError, read_tensors, write_tensors
from systola.model.data.synthetic import random_float_vit
from systola.model.graph.float_forward import float_forward
from systola.model.graph.graph_file import load_network, save_network
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import GraphError, Linear
from systola.model.quantization.codebooks import (
    EXPONENTS,
    exponent_of,
    kmeans_values,
    nupes_values,
    power_values,
    search_of,
)
from systola.model.quantization.grid import CodebookGrid, UniformGrid
from systola.model.quantization.methods import CODEBOOKS
from systola.model.quantization.quantize import quantize
from systola.model.quantization.rounding import Moments, fit, round_columns, row_scales
from systola.model.quantization.uniform import quantize as to_codes
from tests.model.test_rounding import error, problem

SIZES = {"channels": 24, "heads": 3, "blocks": 2, "hidden": 40, "classes": 5, "tokens": 10,
         "patch_dim": 12}


# --- Values ---

def test_values_of_powers_of_steps():
    assert nupes_values(0.5).tolist() == [-127, -93, -65, -41, -23, -10, -3, 0, 3, 10, 23, 41, 65,
                                          93, 127]
    assert nupes_values(1).tolist() == [-127, -109, -91, -73, -54, -36, -18, 0, 18, 36, 54, 73, 91,
                                        109, 127]
    for exponent in EXPONENTS:
        values = nupes_values(exponent)
        assert 13 <= len(values) <= 15
        assert (np.diff(values) > 0).all()
        np.testing.assert_array_equal(values, -values[::-1])
        real = 127 * (np.arange(8) / 7) ** (1 / exponent)
        assert np.abs(real % 1 - 0.5).min() > 1e-3  # far from where machines could differ
        assert exponent_of(values) == exponent
    assert exponent_of(power_values()) is None


@pytest.mark.parametrize("exponent", [0, -1, 1.01, float("nan")])
def test_other_exponents_are_refused(exponent):
    with pytest.raises(ValueError, match=rf"^exponent must be above 0 and at most 1, not "
                                         rf"{exponent}$"):
        nupes_values(exponent)


def test_powers_of_two():
    assert power_values().tolist() == [-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64]


def spent(x, energy, values):
    return (energy * np.square(x - CodebookGrid(values).nearest(x))).sum()


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([1, 30, 60]), st.booleans())
def test_no_value_of_k_means_can_be_exchanged_for_a_better_one(seed, spread, skewed):
    rng = np.random.default_rng(seed)
    x = np.clip(np.rint(rng.laplace(size=300) * spread + 20 * skewed), -127, 127)
    energy = rng.random(300)
    values = kmeans_values(x, energy)
    assert len(values) == 16
    assert (np.diff(values) > 0).all()
    assert 0 in values
    assert np.abs(values).max() <= 127
    least = spent(x, energy, values)
    for index in np.flatnonzero(values):
        for other in set(range(-127, 128)) - set(values.tolist()):
            changed = np.sort(np.where(np.arange(16) == index, other, values))
            assert spent(x, energy, changed) >= least * (1 - 1e-9)


def test_k_means_is_not_worse_than_searches_from_random_starts():
    rng = np.random.default_rng(1)
    x, energy = np.clip(rng.normal(size=(20, 50)) * 40, -127, 127), rng.random(50)
    least = spent(x, energy, kmeans_values(x, energy))
    for _ in range(20):
        values = rng.choice(np.arange(-127, 128), 16, replace=False)
        for _ in range(30):
            values = np.union1d(values, [0])
            nearest = CodebookGrid(values).nearest(x)
            values = np.array([value if value == 0 or not (at := nearest == value).any() else
                               round((x * energy)[at].sum() / (at * energy).sum())
                               for value in values])
        # Boundaries of k-means are between integers: half a step of rounding is allowed.
        assert least <= 1.01 * spent(x, energy, np.union1d(values, [0])[:16])


def test_few_values_are_kept_as_they_are():
    x = np.array([-127, -3, 5, 90, 5, 0, 127])
    assert set(x) <= set(kmeans_values(x, 1.0).tolist())
    assert 0 in kmeans_values(np.zeros(5), 1.0)
    assert 0 in kmeans_values(np.array([300.0, -300.0]), 1.0)


# --- Rounding ---

@pytest.mark.parametrize("values", [nupes_values(0.5), power_values(), [0], [-5, 0, 3]])
def test_the_nearest_value_is_taken(values):
    x = np.linspace(-140, 140, 2241)
    got = CodebookGrid(values).nearest(x)
    off = np.abs(x[:, None] - np.asarray(values))
    np.testing.assert_array_equal(np.abs(x - got), off.min(axis=1))
    np.testing.assert_array_equal(got, np.asarray(values)[off.argmin(axis=1)])  # ties downwards


def test_bounds_of_the_error():
    """Those of docs/ARITHMETIC.md, section 2."""
    x = np.linspace(-127, 127, 100001)
    for values, most in ((nupes_values(1), 9.5), (nupes_values(0.5), 17), (power_values(), 63)):
        off = np.abs(CodebookGrid(values).nearest(x) - x)
        assert most - 0.01 < off.max() <= most
    small = np.abs(x) <= 23
    assert np.abs(CodebookGrid(nupes_values(0.5)).nearest(x) - x)[small].max() <= 6.5
    octaves = (np.abs(x) >= 1) & (np.abs(x) <= 96)
    off = np.abs(CodebookGrid(power_values()).nearest(x) - x)
    assert (off <= np.abs(x) / 3 + 1e-9)[octaves].all()


def rounded(x, y, weight, grid):
    """Return weights that `grid` stands for, real numbers, and their codes."""
    fitted, moments = fit(x, y, weight)
    scale = row_scales(fitted, np.zeros(len(weight)), grid, moments)
    codes = round_columns(fitted, scale, grid, moments)
    return codes * scale[:, None], codes


def found(x, y, weight, codebook):
    """Return the grid that is found for a layer."""
    fitted, moments = fit(x, y, weight)
    return search_of(codebook)(fitted, np.zeros(len(weight)), moments)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(["normal", "laplace", "standard_t"]))
def test_searches_are_not_worse_than_what_they_start_from(seed, kind):
    x, weight, y = problem(seed)
    draw = getattr(np.random.default_rng(seed), kind)
    weight = draw(3, size=weight.shape) if kind == "standard_t" else draw(size=weight.shape)
    y = x @ weight.T
    errors = {exponent: error(x, y, rounded(x, y, weight, CodebookGrid(nupes_values(exponent)))[0])
              for exponent in EXPONENTS}
    grid = found(x, y, weight, "nupes")
    searched = error(x, y, rounded(x, y, weight, grid)[0])
    # By sums in float32: the same up to their rounding.
    assert searched <= 1.001 * min(errors.values())
    assert searched <= 1.001 * errors[1.0]
    assert errors[exponent_of(grid.values)] == searched
    assert found(x, y, weight, "squares").values.tolist() == nupes_values(0.5).tolist()


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_rounding_spreads_the_error_of_a_codebook(codebook):
    for seed in range(5):
        x, weight, y = problem(seed)
        grid = found(x, y, weight, codebook)
        real, codes = rounded(x, y, weight, grid)
        assert np.isin(codes, grid.values).all()
        fitted, moments = fit(x, y, weight)
        scale = row_scales(fitted, np.zeros(len(weight)), grid, moments)[:, None]
        assert error(x, y, real) < error(x, y, grid.nearest(fitted / scale) * scale)
        again = found(x, y, weight, codebook)
        assert again.values.tolist() == grid.values.tolist()


def test_sixteen_fitted_values_are_better_than_fifteen_equal_steps():
    for seed in range(5):
        x, weight, y = problem(seed)
        uniform, kmeans = (error(x, y, rounded(x, y, weight, grid)[0])
                           for grid in (UniformGrid(4), found(x, y, weight, "kmeans")))
        assert kmeans < 0.9 * uniform


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_dead_inputs_and_weights_of_zero(codebook):
    x, weight, _ = problem(1)
    for dead_x, dead_weight in ((0 * x, weight), (x * (np.arange(24) > 3), weight),
                                (x, 0 * weight), (0 * x, 0 * weight)):
        grid = found(dead_x, dead_x @ dead_weight.T, dead_weight, codebook)
        assert 0 in grid.values
        real, codes = rounded(dead_x, dead_x @ dead_weight.T, dead_weight, grid)
        assert np.isfinite(real).all()
        assert np.isin(codes, grid.values).all()
        if not dead_weight.any():
            assert not codes.any()


def test_without_statistics_the_error_is_that_of_the_weights():
    weight = np.random.default_rng(2).normal(size=(6, 20))
    moments = Moments.of_weights(weight)
    other = weight + 0.1
    assert moments.error(other) - moments.error(weight) == pytest.approx(1.2)
    grid = search_of("kmeans")(weight, np.zeros(6), moments)
    scale = row_scales(weight, np.zeros(6), grid, moments)
    np.testing.assert_array_equal(round_columns(weight, scale, grid, moments),
                                  grid.nearest(weight / scale[:, None]))


# --- Networks ---

@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(7)
    graph = random_float_vit(rng, **SIZES)
    images = rng.standard_normal((512, 9, 12), dtype=np.float32)
    return graph, {"patches": images[:384]}, {"patches": images[384:]}


@pytest.fixture(scope="module")
def made(network):
    """Return the integer networks of all codebooks, by name and method."""
    graph, training, _ = network
    return {(codebook, method): quantize(graph, training, codebook=codebook, method=method)
            for codebook in CODEBOOKS for method in ("gptq", "mse")}


def of_the_logits(network, made):
    """Return the relative error of the logits of images that gave no ranges."""
    graph, _, test = network
    real = float_forward(graph, test)["logits"]
    codes = {"patches": to_codes(test["patches"], made.scales["patches"], 8)}
    got = forward(made, codes, keep=["logits"])["logits"] * made.scales["logits"]
    return np.sqrt(np.square(got - real).mean() / np.square(real).mean())


@pytest.mark.parametrize("method", ["gptq", "mse"])
@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_all_weights_are_values_of_the_codebook(network, made, codebook, method):
    graph = made[codebook, method]
    about = graph.meta["quantization"]["codebooks"]
    assert about.keys() == {node.name for node in graph.of(Linear)}
    for node in graph.of(Linear):
        assert node.codebook.dtype == node.weight.dtype == np.int8
        assert 0 in node.codebook
        assert len(node.codebook) <= 16
        assert (np.diff(node.codebook.astype(int)) > 0).all()
        assert node.codebook.min() >= -127
        assert np.isin(node.weight, node.codebook).all()
        assert node.weight_bits == 8
        assert about[node.name]["kind"] == codebook
        assert ("exponent" in about[node.name]) == (codebook in ("nupes", "squares"))
    # Q, K and V are no weights: they keep their bits.
    assert {node.bits for node in graph.of(Linear) if node.symmetric} == {8}
    assert of_the_logits(network, graph) < 0.4


def test_fitted_codebooks_beat_uniform_weights_of_four_bits(network, made):
    graph, training, _ = network
    four = {node.name: {"weight_bits": 4} for node in graph.of(Linear)}
    uniform = of_the_logits(network, quantize(graph, training, choices=four))
    assert of_the_logits(network, made["kmeans", "gptq"]) < 0.95 * uniform
    assert of_the_logits(network, made["nupes", "gptq"]) < uniform
    assert of_the_logits(network, made["powers", "gptq"]) > uniform


def test_quantizing_twice_gives_the_same(network, made):
    graph, training, _ = network
    for codebook in CODEBOOKS:
        again = quantize(graph, training, codebook=codebook)
        for node, other in zip(made[codebook, "gptq"].of(Linear), again.of(Linear), strict=True):
            for name in "weight", "codebook", "mult", "bias":
                np.testing.assert_array_equal(getattr(node, name), getattr(other, name))


def test_codebooks_of_some_nodes(network):
    graph, training, _ = network
    made = quantize(graph, training, method="minmax", codebook="powers", choices={
        "logits": {"codebook": None, "weight_bits": 5}, "blocks.0.fc1": {"codebook": "squares"}})
    assert made.by_name["logits"].codebook is None
    assert made.by_name["logits"].weight_bits == 5
    assert made.by_name["blocks.0.fc1"].codebook.tolist() == nupes_values(0.5).tolist()
    assert made.by_name["blocks.1.fc1"].codebook.tolist() == power_values().tolist()
    assert "logits" not in made.meta["quantization"]["codebooks"]
    alone = quantize(graph, training, method="minmax",
                     choices={"blocks.0.fc1": {"codebook": "kmeans"}})
    assert [node.name for node in alone.of(Linear) if node.codebook is not None] == [
        "blocks.0.fc1"]


NAMES = "codebook must be one of nupes, squares, kmeans, powers, not "


@pytest.mark.parametrize(("arguments", "message"), [
    ({"codebook": "squared"}, f"{NAMES}'squared'"),
    ({"codebook": ["nupes"]}, f"{NAMES}\"['nupes']\""),
    ({"choices": {"logits": {"codebook": "best"}}}, f"{NAMES}'best'"),
    ({"codebook": "nupes", "weight_bits": 4},
     "node 'patch_embed': weight_bits must be 8 with a codebook, the bits of its values, not 4"),
    ({"codebook": "nupes", "choices": {"logits": {"weight_bits": 6}}},
     "node 'logits': weight_bits must be 8 with a codebook, the bits of its values, not 6"),
    ({"choices": {"embed": {"codebook": "nupes"}}},
     "choices must give bits, weight_bits or codebook of nodes that have them, not {'embed': {"),
])
def test_what_cannot_be_is_refused(network, arguments, message):
    graph, training, _ = network
    with pytest.raises(ModelError, match=f"^{re.escape(message)}"):
        quantize(graph, training, **arguments)


# --- Nodes and files ---

def test_a_codebook_changes_no_result(network, made):
    graph = made["kmeans", "gptq"]
    plain = dataclasses.replace(graph, nodes=tuple(
        dataclasses.replace(node, codebook=None) if isinstance(node, Linear) else node
        for node in graph.nodes))
    assert of_the_logits(network, plain) == of_the_logits(network, graph)
    assert graph.repeated(3).by_name["logits"].codebook is graph.by_name["logits"].codebook


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_a_file_keeps_codebooks(made, tmp_path, codebook):
    graph = made[codebook, "gptq"]
    for name in "a.safetensors", "b.safetensors":
        save_network(graph, tmp_path / name)
        graph = load_network(tmp_path / name)
    for node, other in zip(made[codebook, "gptq"].of(Linear), graph.of(Linear), strict=True):
        assert other.codebook.dtype == np.int8
        np.testing.assert_array_equal(node.codebook, other.codebook)
        np.testing.assert_array_equal(node.weight, other.weight)
    assert graph.meta == made[codebook, "gptq"].meta
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def with_changed(graph, name, **attributes):
    """Return a network with other attributes of a node."""
    return dataclasses.replace(graph, nodes=tuple(
        dataclasses.replace(node, **attributes) if node.name == name else node
        for node in graph.nodes))


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c[::-1].copy(), "codebook must be in ascending order, not 127, 93"),
    (lambda c: np.append(c, c[-1]), "codebook must be in ascending order, not 127, 127"),
    (lambda c: np.arange(-8, 9), "codebook must be 1 to 16 values, not 17"),
    (lambda c: c[:0], "codebook must be 1 to 16 values, not 0"),
    (lambda c: c.tolist(), "codebook must be an array of shape (15,), not [-127, "),
    (lambda c: c[:, None], "codebook must be an array of shape (15,), not of shape (15, 1)"),
    (lambda c: c.astype(float), "codebook must be integers, not float64"),
    (lambda c: np.array(0), "codebook must be an array of shape (1,), not of shape ()"),
    (lambda c: np.append(c[:-1], 128), "codebook must be from -127 to 127, not 128"),
    (lambda c: np.append([-128], c[1:]), "codebook must be from -127 to 127, not -128"),
    (lambda c: c[c != 0], "codebook must be values with 0 among them, not [-127, -93, "),
    (lambda c: c[c != 23], "weight must be values of the codebook, not 23"),
])
def test_codebooks_that_are_none_are_refused(made, change, message):
    graph = made["squares", "gptq"]
    codebook = change(graph.by_name["blocks.0.fc1"].codebook.astype(np.int64))
    with pytest.raises(GraphError, match=f"^node 'blocks.0.fc1': {re.escape(message)}"):
        with_changed(graph, "blocks.0.fc1", codebook=codebook)


def test_weights_beside_a_codebook_are_refused(made, network):
    graph = made["squares", "gptq"]
    weight = graph.by_name["logits"].weight.copy()
    weight[2, 3] = 50
    with pytest.raises(GraphError, match=r"^node 'logits': weight must be values of the codebook, "
                                         r"not 50$"):
        with_changed(graph, "logits", weight=weight)
    with pytest.raises(GraphError, match=r"^node 'logits': weight_bits must be 8 with a codebook, "
                                         r"not 4$"):
        with_changed(graph, "logits", weight=0 * weight, weight_bits=4)
    with pytest.raises(GraphError, match=r"^node 'logits': codebook must be left out here, not of "
                                         r"shape \(1,\)$"):
        with_changed(network[0], "logits", codebook=np.array([0]))


def _put(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(("change", "message"), [
    (_put("logits.codebook", np.arange(-4, 5, dtype=np.int16)),
     "tensor 'logits.codebook' must hold int8, not int16"),
    (_put("logits.codebook", np.zeros((1, 1), np.int8)),
     "node 'logits': codebook must be an array of shape (1,), not of shape (1, 1)"),
    (_put("logits.codebook", np.zeros(2**20, np.int8)),
     "node 'logits': codebook must be 1 to 16 values, not 1048576"),
    (_put("logits.codebook", np.array([-128, 0], np.int8)),
     "node 'logits': codebook must be from -127 to 127, not -128"),
    (_put("logits.codebook", np.array([0, 3, 3], np.int8)),
     "node 'logits': codebook must be in ascending order, not 3, 3"),
    (_put("logits.codebook", np.array([0], np.int8)),
     "node 'logits': weight must be values of the codebook, not "),
    (_put("logits.weight", np.full((5, 24), 1, np.int8)),
     "node 'logits': weight must be values of the codebook, not 1"),
    (_put("blocks.0.norm1.codebook", np.zeros(1, np.int8)),
     "tensor 'blocks.0.norm1.codebook' is not part of the network"),
])
def test_hostile_codebooks_in_files_are_refused(made, tmp_path, change, message):
    path = tmp_path / "n.safetensors"
    save_network(made["squares", "gptq"], path)
    tensors, metadata = read_tensors(path)
    change(tensors)
    write_tensors(path, tensors, metadata)
    with pytest.raises(ModelError, match=f"^{re.escape(message)}"):
        load_network(path)
