# amaranth: UnusedElaboratable=no
"""Row factors: quotients that saturate."""

import random

import pytest

from systola.hw.vector.factor_divider import FactorDivider
from systola.model.operators.deferred import row_factors
from systola.sim.harness import collect, drive, run


def simulate(sums, numerator, *, rng=None, **params):
    """Return the cycles and the factors of `sums`."""
    dut, factors = FactorDivider(**params), []

    async def producer(ctx):
        ctx.set(dut.numerator, numerator)
        await drive(ctx, dut.i, sums, rng)

    async def consumer(ctx):
        factors.extend(await collect(ctx, dut.o, len(sums), rng))

    return run(dut, producer, consumer), factors


@pytest.mark.parametrize("seed", range(8))
def test_matches_model(seed):
    rng = random.Random(seed)
    bits, sum_bits = rng.randrange(1, 32), rng.randrange(1, 33)
    numerator = rng.choice([0, 1, 2**31 - 1, rng.randrange(1 << 31)])
    top = (1 << sum_bits) - 1
    near = [(numerator >> bits) + k for k in (-1, 0, 1)] + [numerator // ((1 << bits) - 1)]
    sums = [0, 1, top, *(total for total in near if 0 <= total <= top),
            *(rng.randrange(1 << rng.randint(1, sum_bits)) for _ in range(20))]
    _, factors = simulate(sums, numerator, rng=rng if seed else None, sum_bits=sum_bits,
                          factor_bits=bits, steps=rng.randint(1, 4))
    assert factors == [int(row_factors(total, numerator, bits)) for total in sums]


@pytest.mark.parametrize(("bits", "steps", "division"), [(24, 2, 13), (17, 3, 7), (8, 1, 9)])
def test_cycles(bits, steps, division):
    params = {"sum_bits": 20, "factor_bits": bits, "steps": steps}
    assert FactorDivider(**params).division == division
    assert [simulate([77] * count, 99, **params)[0] for count in (1, 5)] == [
        division + 1, 5 * division + 1]


@pytest.mark.parametrize(("params", "message"), [
    ({"sum_bits": 0}, "sum_bits must be an integer from 1 to 64, not 0"),
    ({"factor_bits": 32}, "factor_bits must be an integer from 1 to 31, not 32"),
    ({"steps": 0}, "steps must be an integer from 1 to 31, not 0"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        FactorDivider(**{"sum_bits": 20, "factor_bits": 24, "steps": 2, **params})
