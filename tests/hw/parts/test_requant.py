# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest

from systola.hw.contract.config import mult_limb
from systola.hw.parts.requant import Requantizer
from systola.model.operators.requant import requantize
from systola.sim.harness import collect, drive, run

# lanes, in_bits, mult_bits, code_mult_bits, bias_bits, residual, and bits of the widest result
SIZES = [(2, 32, 24, 16, 32, True), (2, 28, 24, 15, 32, True), (2, 40, 31, 31, 40, True),
         (3, 40, 31, 8, 32, True), (2, 32, 31, 24, 32, False), (2, 32, 24, 15, 32, False),
         (2, 32, 24, 16, 32, False), (2, 16, 24, 24, 32, False), (1, 17, 8, 8, 2, True),
         (1, 2, 2, 2, 2, False), (1, 9, 25, 17, 3, True), (1, 45, 31, 16, 45, True),
         (1, 26, 24, 12, 32, True), (1, 44, 16, 12, 48, False), (1, 28, 16, 16, 32, True),
         (1, 20, 18, 24, 20, True), (2, 33, 12, 12, 32, False, 8), (1, 20, 16, 10, 32, False, 6),
         (1, 30, 9, 9, 32, False, 2)]


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
    lanes, in_bits, mult_bits, code_bits, bias_bits, residual, *widest = size
    code_bits = min(code_bits, mult_bits)
    long = int(rng.random() < 0.5)
    width = mult_bits if long else code_bits
    low, high = -(1 << in_bits - 1), (1 << in_bits - 1) - 1
    least, most = -(1 << bias_bits - 1), (1 << bias_bits - 1) - 1
    z, p = [], []
    for _ in range(lanes):  # the sum of input and bias has the range of the input, with its edges
        z.append(signed_value(rng, in_bits))
        total = signed_value(rng, in_bits) if rng.random() < 0.7 else z[-1]
        p.append({"bias": max(least, low, min(most, high, total - z[-1])),
                  "mult": multiplier(rng, width), "shift": rng.randrange(64)})
    case = {"z": z, "p": p,
            "bits": rng.randint(2, *widest or [16]), "tag": rng.randrange(32), "long": long,
            "symmetric": int(rng.random() < 0.5)}
    if residual:
        case |= {"res": [signed_value(rng, 16) for _ in range(lanes)],
                 "use_res": int(rng.random() < 0.5)}
        if rng.random() < 0.3:  # the residual nearly cancels a branch far beyond the output
            case["res_mult"], case["res_shift"] = -(1 << width), rng.randrange(width)
            for k, res in enumerate(case["res"]):
                shift = rng.choice([0, 1, 7, 15])
                case["p"][k] = {"bias": 0, "mult": -(1 << width),
                                "shift": min(shift + case["res_shift"], 63)}
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
                      np.array([p["shift"] for p in case["p"]]), case["bits"],
                      symmetric=case["symmetric"], **residual).tolist()


def build(size, registered=False):
    lanes, in_bits, mult_bits, code_bits, bias_bits, residual, *widest = size
    return Requantizer(lanes=lanes, in_bits=in_bits, mult_bits=mult_bits, code_mult_bits=code_bits,
                       bias_bits=bias_bits, residual=residual, tag=5, out_bits=(*widest, 16)[0],
                       registered=registered)


def simulate(size, cases, rng=None, stalled=(), cycles=None, registered=False):
    """Return the results of `cases`, and of those `stalled`, which `rng` stalls on both sides.

    The list `cycles` takes those in which the results of `cases` come.
    """
    dut, got = build(size, registered), []

    async def producer(ctx):
        for k, case in enumerate([*cases, *stalled]):
            plain = {key: value for key, value in case.items() if not key.startswith("res_")}
            if size[5]:  # these two ports belong to the beat, so they may change with it
                ctx.set(dut.res_mult, case["res_mult"])
                ctx.set(dut.res_shift, case["res_shift"])
            await drive(ctx, dut.i, [plain], rng if k >= len(cases) else None)

    async def consumer(ctx):
        out = await collect(ctx, dut.o, len(cases), cycles=cycles)
        out += await collect(ctx, dut.o, len(stalled), rng)
        got.extend((list(p.y), p.tag) for p in out)

    run(dut, producer, consumer)
    return got


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_matches_model(size, registered):
    """Without stalls, and with stalls on both sides."""
    rng = random.Random(f"{size}")
    cases = [random_case(rng, size) for _ in range(120)]
    got = simulate(size, cases[:60], rng, cases[60:], registered=registered)
    assert got == [(expected(case), case["tag"]) for case in cases]


def single(z, mult, shift, bits, **fields):
    """Return a case of one lane per `z`, all with the same parameters."""
    return {"z": list(z), "p": [{"bias": 0, "mult": mult, "shift": shift}] * len(z), "bits": bits,
            "tag": 0, "long": 0, "symmetric": 0, **fields}


@pytest.mark.parametrize("symmetric", [0, 1])
def test_saturation_edges(symmetric):
    size, shift, cases = (1, 32, 24, 24, 32, False), 4, {}
    for bits in 2, 5, 8, 16:
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        halves = [k * 8 for v in (low, low + 1, high, 0) for k in range(2 * v - 3, 2 * v + 4)]
        cases[bits] = [single([z + d], 1, shift, bits, symmetric=symmetric)
                       for z in halves for d in (-1, 0, 1)]
    got = iter(simulate(size, [case for some in cases.values() for case in some]))
    for bits, some in cases.items():
        y = [next(got)[0] for _ in some]
        assert y == [expected(case) for case in some]
        assert min(y) == [-(1 << bits - 1) + symmetric]
        assert max(y) == [(1 << bits - 1) - 1]


def test_ties_go_to_even():
    case = single([-5, -3, -1, 1, 3, 5, 7], 1, 1, 8)
    assert simulate((7, 16, 8, 8, 4, False), [case])[0][0] == [-2, -2, 0, 0, 2, 2, 4]


def test_each_branch_is_rounded_on_its_own():
    case = single([1, 3], 1, 1, 8, res=[1, 3], use_res=1, res_mult=1, res_shift=1)
    # Rounded once they would give 1 and 3.
    assert simulate((2, 16, 8, 8, 4, True), [case])[0][0] == [0, 4]


@pytest.mark.slow
@pytest.mark.parametrize(("limb", "code_bits"), [(12, 12), (14, 13), (16, 15), (16, 16)])
def test_limb_boundaries(limb, code_bits):
    """Multipliers around the sign of each limb, and every shift around a limb."""
    assert mult_limb(24, code_bits) == limb
    size = (4, 28, 24, code_bits, 32, True)
    edges = [sign * (1 << bit) + d for bit in (limb - 2, limb - 1, limb, limb + 1, 23)
             for sign in (1, -1) for d in (-1, 0, 1)]
    z = [-(1 << 27), (1 << 27) - 1, 1, -1]
    cases = [single(z, mult, shift, 16, long=long, symmetric=0, use_res=0, res=[0] * 4, res_mult=0,
                    res_shift=0)
             for mult in edges for shift in (0, limb, 17, 33, 47, 48)
             for long in (0, 1) if long or -(1 << code_bits) <= mult < 1 << code_bits]
    for case in cases[::3]:
        case["z"] = [z // 2 for z in z]
        case["p"] = [{**p, "bias": z - z // 2} for p, z in zip(case["p"], z, strict=True)]
    assert [y for y, _ in simulate(size, cases)] == [expected(case) for case in cases]


@pytest.mark.parametrize(("code_bits", "expected"), [
    (12, {(0, 0): (1, 9), (1, 0): (2, 11), (0, 1): (4, 12), (1, 1): (4, 12)}),
    *((bits, {(0, 0): (1, 9), (1, 0): (2, 11), (0, 1): (2, 10), (1, 1): (3, 11)})
      for bits in (15, 16)),
    (24, {(0, 0): (2, 11), (1, 0): (2, 11), (0, 1): (3, 11), (1, 1): (3, 11)})])
@pytest.mark.parametrize("use_res", [0, 1])
@pytest.mark.parametrize("long", [0, 1])
def test_latency_and_throughput(code_bits, expected, use_res, long):
    size = (1, 28, 24, code_bits, 32, True)
    dut, (slots, latency) = build(size), expected[long, use_res]
    assert dut.slots(long=long, use_res=use_res) == slots
    assert dut.latency(long=long, use_res=use_res) == latency
    case = single([5], 3, 1, 8, long=long, use_res=use_res, res=[7], res_mult=3, res_shift=2)

    cycles = []
    simulate(size, [case] * 22, cycles=cycles)
    assert cycles[0] == 1 + latency
    assert cycles[21] - cycles[1] == 20 * slots


@pytest.mark.parametrize(("name", "low", "high", "value"), [
    ("lanes", 1, 64, 0), ("in_bits", 2, 48, 49), ("mult_bits", 2, 31, 32), ("bias_bits", 2, 48, 1),
    ("code_mult_bits", 2, 31, 1), ("mult_bits", 2, 31, "8")])
def test_error_names_the_parameter(name, low, high, value):
    expected = rf"^{name} must be an integer from {low} to {high}, not {value!r}$"
    with pytest.raises(ValueError, match=expected):
        Requantizer(**{"lanes": 1, "in_bits": 32, "mult_bits": 24, "code_mult_bits": 16,
                       name: value})
