"""The kernel against the models of the operators, node by node: shapes, widths, extremes."""

import numpy as np
import pytest

from systola.hw.contract.numbers import MAX31, epsilon_bits
from systola.model.graph.graph import Graph
from systola.model.graph.integer_forward import forward as definition
from systola.model.graph.nodes import (
    Activation,
    Add,
    Constant,
    Context,
    Input,
    Linear,
    Mean,
    Norm,
    Rows,
    Scores,
    Softmax,
)
from systola.model.kernel.compile import FORMS, KernelError, load
from systola.model.kernel.engine import engine_report, forward
from systola.model.kernel.steps import fields_of

SEEDS = range(8)
NORMS = "published", "leading_one", "normalised"


@pytest.fixture(params=FORMS)
def form(request):
    try:
        load(request.param)
    except KernelError as error:
        if request.param == "c":
            raise
        pytest.skip(str(error))  # a form of another processor
    return request.param


def dyadic(rng, reach, bits, shape=(), mult_bits=24):
    """Return factors that bring numbers up to `reach` beyond `bits` by a few bits or below them."""
    mult = rng.integers(1 << mult_bits - 2, 1 << mult_bits - 1, shape) * rng.choice([-1, 1], shape)
    shift = np.clip(int(np.log2(reach)) + mult_bits - bits - rng.integers(0, 4, shape), 0, 63)
    return np.asarray(mult, np.int32), np.asarray(shift, np.uint8)


def values(rng, node, images):
    """Return numbers of an input, the extremes among them and in whole rows."""
    high = 1 << node.bits - 1
    found = rng.integers(-high, high, (images, node.rows, node.channels))
    kind = rng.random(found.shape)
    found = np.where(kind < 0.1, -high, np.where(kind > 0.9, high - 1, found))
    found[:, 0] = rng.choice([-high, high - 1])
    return found


def check(nodes, rng, form, *, images=2, left=(), inputs=None):
    """Compare all tensors, and which nodes are left to the models of their operators."""
    graph = Graph(nodes=tuple(nodes), outputs=(nodes[-1].name,))
    inputs = {node.name: values(rng, node, images) for node in graph.inputs} | (inputs or {})
    wanted, got = definition(graph, inputs), forward(graph, inputs, engine=form, threads=1)
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == np.int64
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert set(engine_report(graph, form)["numpy_nodes"]) == set(left)
    return wanted


def linear(rng, rows, inputs, channels, *, weight_bits=8, x_bits=8, bits=8, **changes):
    top = (1 << weight_bits - 1) - 1
    weight = rng.integers(-top, top + 1, (channels, inputs))
    mult, shift = dyadic(rng, 16 * (1 << x_bits) * top, bits, channels)
    arguments = {"weight": weight.astype(np.int8), "weight_bits": weight_bits, "bits": bits,
                 "bias": rng.integers(-1 << 12, 1 << 12, channels).astype(np.int32),
                 "mult": mult, "shift": shift, **changes}
    return [Input(name="x", rows=rows, channels=inputs, bits=x_bits),
            Linear(name="y", input="x", **arguments)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_linear(seed, form):
    rng = np.random.default_rng(seed)
    rows, inputs, channels = rng.integers(1, (20, 90, 150))
    check(linear(rng, rows, inputs, channels, x_bits=int(rng.integers(2, 9)),
                 weight_bits=int(rng.integers(2, 9)), bits=int(rng.integers(2, 17)),
                 symmetric=bool(seed % 2)), rng, form)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 64, 64), (6, 3, 65), (13, 5, 193), (5, 192, 16)])
def test_linear_at_the_edges_of_tiles(shape, form):
    rng = np.random.default_rng(3)
    check(linear(rng, *shape), rng, form)


@pytest.mark.parametrize("seed", SEEDS)
def test_linear_of_wide_numbers(seed, form):
    rng = np.random.default_rng(seed)
    rows, inputs, channels = rng.integers(1, (12, 60, 90))
    check(linear(rng, rows, inputs, channels, x_bits=int(rng.integers(9, 17))), rng, form)


@pytest.mark.parametrize("x_bits", [8, 16])
@pytest.mark.parametrize("res_bits", [8, 16])
@pytest.mark.parametrize("bits", [8, 16])
def test_linear_with_a_residual(x_bits, res_bits, bits, form):
    rng = np.random.default_rng(bits + res_bits)
    rows, inputs, channels = 9, 33, 70
    mult, shift = dyadic(rng, 1 << res_bits, bits + 1)
    nodes = linear(rng, rows, inputs, channels, x_bits=x_bits, bits=bits, residual="r",
                   res_mult=mult, res_shift=shift)
    check([Input(name="r", rows=rows, channels=channels, bits=res_bits), *nodes], rng, form)


def test_saturation_of_branches(form):
    """A main branch beyond 20 bits against the largest residual that is computed in C, and one."""
    rng = np.random.default_rng(5)
    for mult, left in (15 << 10, ()), ((15 << 10) + 1, ("y",)):
        nodes = linear(rng, 40, 16, 64, bits=16, residual="r",
                       res_mult=np.array(mult, np.int32), res_shift=np.array(10, np.uint8),
                       mult=np.full(64, 1 << 20, np.int32), shift=np.full(64, 18, np.uint8))
        wanted = check([Input(name="r", rows=40, channels=64, bits=16), *nodes], rng, form,
                       left=left)["y"]
        assert (wanted.min(), wanted.max()) == (-2**15, 2**15 - 1)


@pytest.mark.parametrize(("mult", "shift", "left"), [
    (MAX31, 63, ()), (-MAX31, 50, ()), (0, 0, ()), (1, 0, ()), (MAX31, 0, ("y",)),
    (MAX31, 20, ("y",)), (-MAX31, 31, ())])
def test_extreme_factors(mult, shift, left, form):
    """Where products pass 53 bits, only fused rounding is exact."""
    rng = np.random.default_rng(1)
    if abs(mult) == MAX31 and not load(form).has_fma:
        left = ("y",)
    nodes = linear(rng, 9, 600, 20, mult=np.full(20, mult, np.int32),
                   shift=np.full(20, shift, np.uint8), bias=np.arange(20, dtype=np.int32))
    nodes[1].weight[...] = 127
    check(nodes, rng, form, left=left)


def test_ties_go_to_even(form):
    x = np.arange(-128, 128).reshape(1, 256, 1)
    for shift in 1, 2, 3:
        nodes = [Input(name="x", rows=256, channels=1, bits=8), Linear(
            name="y", input="x", weight=np.array([[1], [-1]], np.int8), weight_bits=8, bits=8,
            bias=np.zeros(2, np.int32), mult=np.array([1, 5], np.int32),
            shift=np.array([shift, shift + 2], np.uint8))]
        y = check(nodes, np.random.default_rng(0), form, inputs={"x": x})["y"]
        np.testing.assert_array_equal(y[0, :, 0], np.rint(x[0, :, 0] / 2**shift))


def test_sums_at_the_end_of_32_bits(form):
    rng = np.random.default_rng(2)
    for bias, left in ((MAX31 - 128 * 127 * 3, ()), (MAX31 - 128 * 127 * 3 + 1, ("y",)),
                       (-MAX31 + 128 * 127 * 3, ()), (-MAX31 - 1, ("y",))):
        nodes = linear(rng, 3, 3, 5, bias=np.full(5, bias, np.int32),
                       weight=np.full((5, 3), 127, np.int8), mult=np.full(5, 3, np.int32),
                       shift=np.full(5, 26, np.uint8))
        check(nodes, rng, form, left=left)


def attention(rng, sequences, heads, head_dim, *, act_bits=8, bias=False, counts=None, **softmax):
    rows = sum(count for _, count in sequences)
    channels = 3 * heads * head_dim + 5
    keys = max(count for _, count in sequences) if counts is None else max(counts)
    mult, shift = dyadic(rng, 2 * 127 * head_dim**0.5 * 127, 8)
    extra = {}
    if bias:
        bias_mult, bias_shift = dyadic(rng, 1 << 15, 7)
        extra = {"bias_table": rng.integers(-1 << 15, 1 << 15, (11, heads)).astype(np.int16),
                 "bias_index": rng.integers(0, 11, (rows, keys)).astype(np.int32),
                 "bias_mult": bias_mult, "bias_shift": bias_shift}
    return [Input(name="x", rows=rows, channels=channels, bits=act_bits),
            Scores(name="s", query="x", key="x", heads=heads, head_dim=head_dim, bits=act_bits,
                   query_channel=1, key_channel=3 + heads * head_dim, sequences=sequences,
                   mult=mult, shift=shift, key_counts=counts, **extra),
            Softmax(name="a", input="s", **softmax)]


SEQUENCES = ((0, 1),), ((0, 65),), ((0, 7), (7, 7), (14, 7)), ((0, 3), (3, 20), (23, 1), (24, 6))


@pytest.mark.parametrize("unit", [1, 7, 40, 367, 400, 2**15])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("sequences", SEQUENCES, ids=str)
def test_exact_attention(sequences, bits, unit, form):
    rng = np.random.default_rng(unit)
    nodes = attention(rng, sequences, 3, int(rng.integers(1, 40)), bias=bool(unit % 2),
                      act_bits=(3, 8)[unit % 2], variant="published", unit=unit, bits=bits)
    width = nodes[1].head_dim
    mult, shift = dyadic(rng, 60 << bits - 1, 8)
    check([*nodes, Context(name="c", attention="a", value="x", head_dim=width,
                           value_channel=2 * 3 * width + 2, bits=8, mult=mult, shift=shift)],
          rng, form)


VARIANTS = pytest.mark.parametrize("variant", [
    {"variant": "published", "bits": 8}, {"variant": "published", "bits": 16},
    {"variant": "deferred", "bits": 8}, {"variant": "normalised", "bits": 16}], ids=str)


@VARIANTS
@pytest.mark.parametrize("sequences", SEQUENCES, ids=str)
@pytest.mark.parametrize("mask", ["causal", "padded", "any"])
def test_masked_attention(mask, sequences, variant, form):
    rng = np.random.default_rng(len(sequences))
    counts = np.concatenate([{"causal": np.arange(1, rows + 1),
                              "padded": np.full(rows, rng.integers(1, rows + 1)),
                              "any": rng.integers(1, rows + 1, rows)}[mask]
                             for _, rows in sequences]).astype(np.int32)
    nodes = attention(rng, sequences, 2, 7, bias=mask != "causal", counts=counts, unit=20,
                      **variant)
    factor = {"factor_bits": 16} if variant["variant"] in ("deferred", "normalised") else {}
    mult, shift = ((np.array(1 << 22, np.int32), np.array(22, np.uint8)) if factor
                   else dyadic(rng, 60 << variant["bits"] - 1, 8))
    got = check([*nodes, Context(name="c", attention="a", value="x", head_dim=7, value_channel=16,
                                 bits=8, mult=mult, shift=shift, **factor)], rng, form)
    for row, count in enumerate(counts):
        assert not got["a"][..., row, count:].any()


@VARIANTS
def test_no_keys_of_other_sequences_where_memory_was_used(variant, form):
    """Tensors that nobody reads leave their numbers where scores and attention come to lie."""
    rng = np.random.default_rng(7)
    nodes = attention(rng, SEQUENCES[3], 3, 5, unit=20, **variant)
    x, scores, softmax = nodes
    used = [Linear(name=f"used{index}", input="x", weight_bits=8, bits=16,
                   weight=np.zeros((channels, x.channels), np.int8),
                   bias=np.full(channels, 5000, np.int32), mult=np.full(channels, 2, np.int32),
                   shift=np.zeros(channels, np.uint8))
            for index, channels in enumerate([300, 100])]
    graph = Graph(nodes=(x, *used, scores, softmax), outputs=("a",))
    inputs = {"x": values(rng, x, 2)}
    for keep in ["a"], ["s"]:
        wanted = definition(graph, inputs, keep=keep)
        got = forward(graph, inputs, keep=keep, engine=form, threads=1)
        np.testing.assert_array_equal(got[keep[0]], wanted[keep[0]])


@pytest.mark.parametrize("bits", [8, 16])
def test_exponentials_beyond_31_bits_are_left(bits, form):
    rng = np.random.default_rng(1)
    for unit, left in (2**16 - 1, ()), (2**16, ("a",)), (2**24 - 1, ("a",)):
        check(attention(rng, ((0, 9),), 2, 4, variant="published", unit=unit, bits=bits), rng, form,
              left=left)


@pytest.mark.parametrize("unit", [1, 30, 255, 5000])
@pytest.mark.parametrize("sequences", [*SEQUENCES, ((0, 600),)], ids=str)
def test_normalised_attention(sequences, unit, form):
    rng = np.random.default_rng(unit)
    nodes = attention(rng, sequences, 2, int(rng.integers(1, 40)), variant="normalised", unit=unit,
                      bits=16)
    width = nodes[1].head_dim
    codes = check(nodes, rng, form)["a"]
    if any(rows == 1 for _, rows in sequences):
        assert codes.max() == 2**15  # for which 16 signed bits have no room
    for numerator, factor_bits, shift in (1 << 29, 16, 28), (MAX31, 17, 31), (0, 8, 0), (
            1 << 21, 8, 20):
        check([*nodes, Context(name="c", attention="a", value="x", head_dim=width,
                               value_channel=2 * 2 * width + 2, bits=8, factor_bits=factor_bits,
                               mult=np.array(numerator, np.int32),
                               shift=np.array(shift, np.uint8))], rng, form)


@pytest.mark.parametrize("unit", [1, 30, 5000])
@pytest.mark.parametrize("sequences", SEQUENCES, ids=str)
def test_deferred_attention(sequences, unit, form):
    rng = np.random.default_rng(unit)
    nodes = attention(rng, sequences, 2, int(rng.integers(1, 40)), variant="deferred", unit=unit,
                      bits=8)
    width = nodes[1].head_dim
    for numerator, factor_bits, shift in (1 << 22, 16, 20), (1 << 29, 24, 24), (0, 8, 0), (
            MAX31, 31, 40):
        check([*nodes, Context(name="c", attention="a", value="x", head_dim=width,
                               value_channel=2 * 2 * width + 2, bits=8, factor_bits=factor_bits,
                               mult=np.array(numerator, np.int32),
                               shift=np.array(shift, np.uint8))], rng, form)


@pytest.mark.parametrize("seed", SEEDS)
def test_activations(seed, form):
    rng = np.random.default_rng(seed)
    rows, channels, bits = *map(int, rng.integers(1, (30, 200))), int(rng.integers(2, 9))
    unit = int(rng.choice([1, 20, 300, 2**24 - 1]))
    mult, shift = dyadic(rng, 1 << 14, bits)
    x = Input(name="x", rows=rows, channels=channels, bits=int(rng.integers(2, 9)))
    found = values(rng, x, 2)
    found[:, rows // 2] = -1 << x.bits - 1  # a row whose maximum is negative
    check([x, Activation(name="y", input="x", variant="published", unit=unit, bits=bits, mult=mult,
                         shift=shift),
           Activation(name="z", input="x", variant="table", bits=bits, table=rng.integers(
               -1 << bits - 1, 1 << bits - 1, 256).astype(np.int8))], rng, form,
          inputs={"x": found})


def epsilon(rng, variant, channels):
    """Return the epsilon of a variant, from none to the largest."""
    if variant != "normalised":
        return None
    most = (1 << epsilon_bits(channels)) - 1
    return int(rng.choice([0, 1, 1 << int(rng.integers(0, 30)), most]))


@pytest.mark.parametrize("variant", NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_norms(seed, variant, form):
    rng = np.random.default_rng(seed)
    groups, width, rows = map(int, rng.integers(1, (5, 90, 30)))
    x_bits, bits = (8, 16)[seed % 2], int(rng.integers(2, 17))
    channels = groups * width
    mult, shift = dyadic(rng, 2**30 / width**0.5, bits, channels, mult_bits=20)
    x = Input(name="x", rows=rows + 2, channels=channels, bits=x_bits)
    found = values(rng, x, 2)
    found[:, 1] = 5  # no variance
    found[:, 2, ::2] = 6
    left = ()
    bound = 2**(31 if variant == "normalised" else 30) + 2**20
    if bound * int(abs(mult).max()) >= 2**53 and not load(form).has_fma:
        left = ("y",)
    check([x, Norm(name="y", input="x", groups=groups, variant=variant, bits=bits, mult=mult,
                   shift=shift, epsilon=epsilon(rng, variant, width),
                   bias=rng.integers(-1 << 20, 1 << 20, channels).astype(np.int32))], rng, form,
          inputs={"x": found}, left=left)


@pytest.mark.parametrize("variant", NORMS)
def test_norms_of_many_extremes(variant, form):
    """Sums and squares where they are largest."""
    rng = np.random.default_rng(8)
    channels = 4096
    found = np.where(rng.random((1, 12, channels)) < 0.5, -2**15, 2**15 - 1)
    found[:, 0], found[:, 1], found[:, 2, 1:] = -2**15, 2**15 - 1, -2**15
    mult, shift = dyadic(rng, 2**24, 8, channels, mult_bits=16)
    check([Input(name="x", rows=12, channels=channels, bits=16),
           Norm(name="y", input="x", variant=variant, bits=16, mult=mult, shift=shift,
                epsilon=epsilon(rng, variant, channels), bias=np.zeros(channels, np.int32))],
          rng, form, inputs={"x": found})


@pytest.mark.parametrize("bias", [MAX31, -MAX31 - 1])
def test_norms_with_the_largest_bias(bias, form):
    rng = np.random.default_rng(4)
    left = () if load(form).has_fma else ("y",)
    check([Input(name="x", rows=11, channels=24, bits=16), Norm(
        name="y", input="x", variant="published", bits=8, bias=np.full(24, bias, np.int32),
        mult=np.full(24, MAX31, np.int32), shift=np.full(24, 55, np.uint8))], rng, form, left=left)


@pytest.mark.parametrize("seed", SEEDS)
def test_sums_of_tensors(seed, form):
    rng = np.random.default_rng(seed)
    x_bits, other_bits, bits = map(int, rng.integers(2, 17, 3))
    (mult, shift), (other_mult, other_shift) = (dyadic(rng, 1 << source, bits, mult_bits=18)
                                                for source in (x_bits, other_bits))
    rows, channels = map(int, rng.integers(1, (20, 60)))
    check([Input(name="x", rows=rows, channels=channels, bits=x_bits),
           Input(name="o", rows=rows, channels=channels, bits=other_bits),
           Add(name="y", input="x", other="o", bits=bits, mult=mult, shift=shift,
               other_mult=other_mult, other_shift=other_shift)], rng, form)


def test_sums_that_nearly_cancel_are_left(form):
    rng = np.random.default_rng(0)
    shift = np.array(0, np.uint8)
    nodes = [Input(name="x", rows=9, channels=9, bits=16), Input(name="o", rows=9, channels=9,
                                                                 bits=16)]
    for other, left in (16, ("y",)), (-16, ("y",)), (15, ()):
        check([*nodes, Add(name="y", input="x", other="o", bits=16, shift=shift,
                           mult=np.array(16, np.int32), other_shift=shift,
                           other_mult=np.array(other, np.int32))], rng, form, left=left)


@pytest.mark.parametrize("seed", SEEDS)
def test_means(seed, form):
    rng = np.random.default_rng(seed)
    groups, each, channels = map(int, rng.integers(1, (4, 40, 30)))
    x_bits, bits = int(rng.integers(2, 17)), int(rng.integers(2, 17))
    mult, shift = dyadic(rng, each << x_bits - 1, bits, mult_bits=18)
    check([Input(name="x", rows=groups * each, channels=channels, bits=x_bits),
           Mean(name="y", input="x", groups=groups, bits=bits, mult=np.abs(mult, out=mult),
                shift=shift)], rng, form)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("seed", SEEDS)
def test_rows(seed, bits, form):
    rng = np.random.default_rng(seed)
    x, k, channels = map(int, rng.integers(1, (12, 9, 40)))
    which = rng.integers(0, 2, 24)
    index = np.stack([which, rng.integers(0, 1 << 20, 24) % np.where(which, k, x)], axis=1)
    high = 1 << bits - 1
    constant = Constant(name="k", bits=bits, values=rng.integers(-high, high, (k, channels)).astype(
        np.int16))
    check([Input(name="x", rows=x, channels=channels, bits=bits), constant,
           Rows(name="y", sources=("x", "k"), index=index, beside=(1, 2, 3, 4)[seed % 4]),
           Rows(name="z", sources=("y",), index=np.array([(0, row) for row in range(3)] * 2))],
          rng, form, images=3)


@pytest.mark.parametrize("width", [1, 2, 64])
def test_normalised_roots_of_every_size(width, form):
    """Rows whose sum of squares has every number of bits that there is, with any epsilon."""
    rng = np.random.default_rng(width)
    scale = 2.0 ** np.linspace(0, 15, 200)[:, None]
    x = np.clip(np.rint(rng.standard_normal((1, 200, width)) * scale), -2**15, 2**15 - 1)
    for bits in 0, 1, 7, 20, 33, 45:
        check([Input(name="x", rows=200, channels=width, bits=16),
               Norm(name="y", input="x", variant="normalised", bits=16, epsilon=(1 << bits) - 1,
                    mult=np.full(width, 1, np.int32), shift=np.full(width, 16, np.uint8),
                    bias=np.zeros(width, np.int32))], rng, form, inputs={"x": x.astype(int)})


def test_fields_are_those_of_the_source():
    assert fields_of("rows") == (("i64", "count"), ("const i64 *", "copies"))
    kinds = {kind for name in ("linear", "scores", "context", "shiftmax", "exponentials", "table",
                               "norm", "add", "mean") for kind, _ in fields_of(name)}
    assert {"i64", "f64", "const i8 *", "const f64 *", "const i16 *"} <= kinds
