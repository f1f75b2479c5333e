# amaranth: UnusedElaboratable=no
import random

import pytest

from systola.hw.parts.divider import Divider
from systola.sim.harness import collect, drive, run

SIZES = [(31, 27, 1), (8, 8, 2), (40, 25, 2), (13, 5, 3), (4, 9, 4), (1, 1, 1), (31, 31, 31)]


def numbers(rng, width, den_width, count=40):
    """Edges and random magnitudes, all with a nonzero denominator."""
    nums = [0, 1, 2**width - 1, 2**(width - 1)]
    dens = [1, 2**den_width - 1, 2**(den_width - 1), max(1, 2**den_width - 2)]
    cases = [(num, den) for num in nums for den in dens]
    cases += [(rng.randrange(2**width) >> rng.randrange(width),
               (rng.randrange(2**den_width) >> rng.randrange(den_width)) or 1)
              for _ in range(count)]
    rng.shuffle(cases)
    return cases


def simulate(dut, payloads, rng=None, max_cycles=20_000):
    got = []

    async def producer(ctx):
        await drive(ctx, dut.i, payloads, rng)

    async def consumer(ctx):
        got.extend(await collect(ctx, dut.o, len(payloads), rng))

    return run(dut, producer, consumer, max_cycles=max_cycles), got


@pytest.mark.parametrize("size", SIZES)
def test_serial_quotient_and_remainder(size):
    rng = random.Random(str(size))
    width, den_width, steps = size
    cases = numbers(rng, width, den_width)
    dut = Divider(width=width, den_width=den_width, steps=steps)
    _, got = simulate(dut, [{"num": num, "den": den} for num, den in cases], rng)
    assert [(p.quot, p.rem) for p in got] == [divmod(*case) for case in cases]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("width", "den_width", "steps", "quot_bits"),
                         [(40, 25, 2, 21), (40, 25, 4, 21), (26, 11, 2, 16), (9, 9, 2, 9)])
def test_fewer_quotient_bits_when_the_quotient_fits(width, den_width, steps, quot_bits, seed):
    rng = random.Random(seed)
    cases = []
    while len(cases) < 50:
        den = rng.randrange(1, 2**den_width)
        quot = rng.randrange(2**quot_bits) >> rng.randrange(quot_bits)
        num = quot * den + rng.choice([0, den - 1, rng.randrange(den)])
        if num < 2**width:
            cases.append((num, den))
    dut = Divider(width=width, den_width=den_width, steps=steps, quot_bits=quot_bits)
    _, got = simulate(dut, [{"num": num, "den": den} for num, den in cases], rng)
    assert [(p.quot, p.rem) for p in got] == [divmod(*case) for case in cases]


@pytest.mark.parametrize("size", SIZES)
def test_serial_latency(size):
    width, den_width, steps = size
    dut = Divider(width=width, den_width=den_width, steps=steps)
    assert dut.cycles == -(-width // steps)
    # The first result is delivered cycles + 1 cycles after its operands, then one every so many.
    assert simulate(dut, [{"num": 1, "den": 1}] * 5)[0] == 5 * (dut.cycles + 1) + 1


@pytest.mark.parametrize("name", ["width", "den_width", "steps"])
@pytest.mark.parametrize("value", [0, -3, 2.0])
def test_error_names_the_parameter(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a positive integer, not {value}$"):
        Divider(**{"width": 8, "den_width": 8, name: value})


def test_error_for_more_quotient_bits_than_numerator_bits():
    with pytest.raises(ValueError, match=r"^quot_bits must be at most width \(8\), not 9$"):
        Divider(width=8, den_width=8, quot_bits=9)
