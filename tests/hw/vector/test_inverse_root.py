# amaranth: UnusedElaboratable=no
import random

import pytest

from systola.hw.contract.numbers import MAX31
from systola.hw.vector.inverse_root import ITERATIONS, InverseRoot
from systola.model.operators import layernorm
from systola.sim.harness import collect, drive, run

START = ["published", "leading_one"]


def expected(v, start):
    """Iterate as the model does, in Python integers."""
    k = 1 << 16 if start == "published" else 1 << (v.bit_length() + 1) // 2
    for _ in range(ITERATIONS):
        k = max((k + v // k) >> 1, 1)
    return k, MAX31 // k


def simulate(dut, values, rng=None):
    got = []

    async def producer(ctx):
        await drive(ctx, dut.i, [{"v": v, "tag": k % 32} for k, v in enumerate(values)], rng)

    async def consumer(ctx):
        got.extend((p.root, p.factor, p.tag) for p in await collect(ctx, dut.o, len(values), rng))

    return run(dut, producer, consumer, max_cycles=50_000), got


@pytest.mark.parametrize("start", START)
@pytest.mark.parametrize(("width", "steps"), [(40, 2), (31, 1), (37, 3), (46, 4), (18, 2)])
def test_root_and_factor(start, width, steps):
    rng = random.Random(f"{start} {width}")
    values = [0, 1, 2, 3, 4, 2**width - 1, 2**(width - 1)]
    for _ in range(8):
        root = rng.randrange(2**(width // 2)) >> rng.randrange(width // 2) or 1
        values += [root**2 - 1, root**2, root**2 + 2 * root]  # the last one oscillates
    rng.shuffle(values)
    dut = InverseRoot(width=width, start=start, steps=steps, tag=5)
    _, got = simulate(dut, values, rng)
    assert got == [(*expected(v, start), k % 32) for k, v in enumerate(values)]


@pytest.mark.parametrize("start", START)
def test_latency(start):
    dut = InverseRoot(width=40, start=start)
    divider = 13 if start == "published" else 16
    assert dut.latency == ITERATIONS * (divider + 1) + 1
    assert simulate(dut, [2**39 - 1])[0] == dut.latency + 1
    assert simulate(InverseRoot(width=40, start=start), [5, 6, 7])[0] == 3 * (dut.latency + 1)


def test_constants_are_the_models():
    assert ITERATIONS == layernorm.ITERATIONS


def test_errors_name_the_parameter():
    with pytest.raises(ValueError, match=r"^width must be an integer from 18 to 62, not 63$"):
        InverseRoot(width=63, start="published")
    with pytest.raises(ValueError, match=r"^start must be 'published' or 'leading_one', not 2$"):
        InverseRoot(width=40, start=2)
