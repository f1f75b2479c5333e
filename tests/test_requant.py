# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest

from systola.hw.requant import Requantizer
from systola.sim.harness import collect, drive, run
from systola.sim.requant import requantize

# lanes, in_bits, mult_bits, bias_bits, residual
SIZES = [(2, 32, 24, 32, True), (2, 32, 31, 40, True), (3, 40, 31, 32, True),
         (2, 32, 31, 32, False), (2, 16, 24, 32, False), (1, 17, 8, 2, True), (1, 2, 2, 2, False),
         (1, 9, 25, 3, True), (1, 45, 31, 45, True)]


def signed_value(rng, bits):
    """Edges, or a random magnitude below a random power of two."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    edges = [low, high, 0, 1, -1, low + 1]
    return rng.choice(edges) if rng.random() < 0.2 else (
        rng.randint(low, high) >> rng.randrange(bits))


def multiplier(rng, bits):
    """Any multiplier, or a power of two: those make ties."""
    power = rng.choice([-1, 1]) << rng.randrange(bits)
    return power if rng.random() < 0.4 else signed_value(rng, bits + 1)


def random_case(rng, size):
    lanes, in_bits, mult_bits, bias_bits, residual = size
    case = {"z": [signed_value(rng, in_bits) for _ in range(lanes)],
            "p": [{"bias": signed_value(rng, bias_bits) if rng.random() < 0.7 else 0,
                   "mult": multiplier(rng, mult_bits), "shift": rng.randrange(64)}
                  for _ in range(lanes)],
            "bits": rng.randint(2, 16), "tag": rng.randrange(32)}
    if residual:
        case |= {"res": [signed_value(rng, 16) for _ in range(lanes)],
                 "use_res": int(rng.random() < 0.7)}
        if rng.random() < 0.3:  # the residual nearly cancels a branch far beyond the output
            case["res_mult"], case["res_shift"] = -(1 << mult_bits), 0
            low, high = -(1 << in_bits - 1), (1 << in_bits - 1) - 1
            for k, res in enumerate(case["res"]):
                shift = rng.choice([0, 1, 7, 15])
                case["p"][k] = {"bias": 0, "mult": -(1 << mult_bits), "shift": shift}
                case["z"][k] = max(low, min(high, rng.choice([0, 1]) - (res << shift)))
        else:
            case["res_mult"], case["res_shift"] = multiplier(rng, mult_bits), rng.randrange(64)
    return case


def expected(case):
    residual = {}
    if case.get("use_res"):
        residual = {"residual": np.array(case["res"]), "res_mult": case["res_mult"],
                    "res_shift": case["res_shift"]}
    z = np.array([z + p["bias"] for z, p in zip(case["z"], case["p"], strict=True)])
    return requantize(z, np.array([p["mult"] for p in case["p"]]),
                      np.array([p["shift"] for p in case["p"]]), case["bits"], **residual).tolist()


def simulate(size, cases, rng=None):
    lanes, in_bits, mult_bits, bias_bits, residual = size
    dut = Requantizer(lanes=lanes, in_bits=in_bits, mult_bits=mult_bits, bias_bits=bias_bits,
                      residual=residual, tag=5)
    got = []

    async def producer(ctx):
        for case in cases:
            plain = {key: value for key, value in case.items() if not key.startswith("res_")}
            if residual:  # these two ports are sampled with the beat, so they may change at once
                ctx.set(dut.res_mult, case["res_mult"])
                ctx.set(dut.res_shift, case["res_shift"])
            await drive(ctx, dut.i, [plain], rng)

    async def consumer(ctx):
        got.extend((list(p.y), p.tag) for p in await collect(ctx, dut.o, len(cases), rng))

    return run(dut, producer, consumer), got


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_matches_model(size, seed):
    rng = random.Random(f"{size} {seed}")
    cases = [random_case(rng, size) for _ in range(160)]
    assert simulate(size, cases, rng)[1] == [(expected(case), case["tag"]) for case in cases]


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_saturation_edges(bits):
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    size, shift = (1, 32, 24, 32, False), 4
    halves = [k * 8 for v in (low, high, 0) for k in range(2 * v - 3, 2 * v + 4)]
    cases = [{"z": [z + d], "p": [{"bias": 0, "mult": 1, "shift": shift}], "bits": bits, "tag": 0}
             for z in halves for d in (-1, 0, 1)]
    got = simulate(size, cases)[1]
    assert [y for y, _ in got] == [expected(case) for case in cases]
    assert min(got)[0] == [low]
    assert max(got)[0] == [high]


def test_ties_go_to_even():
    size = (7, 16, 8, 4, False)
    case = {"z": [-5, -3, -1, 1, 3, 5, 7], "p": [{"bias": 0, "mult": 1, "shift": 1}] * 7,
            "bits": 8, "tag": 0}
    assert simulate(size, [case])[1][0][0] == [-2, -2, 0, 0, 2, 2, 4]


def test_each_branch_is_rounded_on_its_own():
    case = {"z": [1, 3], "p": [{"bias": 0, "mult": 1, "shift": 1}] * 2, "bits": 8, "tag": 0,
            "res": [1, 3], "use_res": 1, "res_mult": 1, "res_shift": 1}
    assert simulate((2, 16, 8, 4, True), [case])[1][0][0] == [0, 4]  # rounded once: 1 and 3


@pytest.mark.parametrize("residual", [False, True])
def test_latency_and_throughput(residual):
    rng, size = random.Random(1), (1, 32, 24, 32, residual)
    latency = 8 if residual else 7
    assert Requantizer(lanes=1, in_bits=32, mult_bits=24, residual=residual).latency == latency
    cases = [random_case(rng, size) for _ in range(20)]
    assert simulate(size, cases)[0] == 20 + latency


@pytest.mark.parametrize(("name", "low", "high", "value"), [
    ("lanes", 1, 64, 0), ("in_bits", 2, 48, 49), ("mult_bits", 2, 31, 32), ("bias_bits", 2, 48, 1),
    ("mult_bits", 2, 31, "8")])
def test_error_names_the_parameter(name, low, high, value):
    expected = rf"^{name} must be an integer from {low} to {high}, not {value!r}$"
    with pytest.raises(ValueError, match=expected):
        Requantizer(**{"lanes": 1, "in_bits": 32, "mult_bits": 24, name: value})
