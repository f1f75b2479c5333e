# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest

from systola.hw.parts.threshold_quantizer import ThresholdQuantizer
from systola.model.operators.requant import requantize
from systola.model.operators.threshold import channel_thresholds, threshold_quantize
from systola.sim.harness import collect, drive, run


def random_channels(rng, count, in_bits):
    """Return bias, mult and shift of channels: multipliers of both signs, 0, and powers of two."""
    mult = [rng.choice([rng.randint(-2**24, 2**24) >> rng.randrange(25), rng.choice([1, -1])
                        << rng.randrange(25), 0 if rng.random() < 0.2 else 1])
            for _ in range(count)]
    bias = [rng.randint(-2**(in_bits - 2), 2**(in_bits - 2) - 1) >> rng.randrange(in_bits)
            for _ in range(count)]
    shift = [rng.randrange(64) if rng.random() < 0.2 else
             min(63, max(0, abs(m).bit_length() + rng.randrange(-3, in_bits))) for m in mult]
    return np.array(bias), np.array(mult), np.array(shift)


def simulate(dut, thresholds, falling, beats, rng=None, cycles=None):
    """Return the codes of `beats`, ``(set, z)``."""
    got = []
    writes = [{"set": index // dut.lanes, "lane": index % dut.lanes, "level": level, "data": value}
              for index in range(len(falling))
              for level, value in enumerate([-int(falling[index]), *thresholds[index].tolist()])]

    async def producer(ctx):
        if rng:
            rng.shuffle(writes)
        await drive(ctx, dut.w, writes)
        await drive(ctx, dut.i, [{"set": index, "z": z} for index, z in beats], rng)

    async def consumer(ctx):
        got.extend(list(p) for p in await collect(ctx, dut.o, len(beats), rng, cycles=cycles))

    run(dut, producer, consumer)
    return got


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("lanes", "in_bits", "bits", "sets"), [
    (1, 24, 2, 5), (4, 24, 3, 4), (2, 24, 4, 3), (3, 2, 2, 2), (1, 48, 4, 2), (2, 33, 3, 1),
    (1, 20, 8, 1)])
def test_matches_model_and_requantization(lanes, in_bits, bits, sets, symmetric):
    """Stalls on both sides; inputs at the thresholds, beside them, at the ends, and anywhere."""
    rng = random.Random(f"{lanes} {in_bits} {bits} {symmetric}")
    bias, mult, shift = random_channels(rng, lanes * sets, in_bits)
    thresholds, falling = channel_thresholds(bias, mult, shift, bits, in_bits, symmetric=symmetric)
    low, high = -(1 << in_bits - 1), (1 << in_bits - 1) - 1
    beats = []
    for _ in range(150):
        index = rng.randrange(sets)
        z = [rng.choice([low, high, int(rng.choice(thresholds[index * lanes + k]))
                         + rng.choice([0, 1]), rng.randint(low, high) >> rng.randrange(in_bits)])
             for k in range(lanes)]
        beats.append((index, [min(max(value, low), high) for value in z]))
    dut = ThresholdQuantizer(lanes=lanes, in_bits=in_bits, bits=bits, sets=sets)
    got = simulate(dut, thresholds, falling, beats, rng)
    of = [slice(index * lanes, index * lanes + lanes) for index, _ in beats]
    assert got == [threshold_quantize(z, thresholds[s], falling[s]).tolist()
                   for s, (_, z) in zip(of, beats, strict=True)]
    if in_bits < 46:
        assert got == [requantize(z + bias[s], mult[s], shift[s], bits,
                                  symmetric=symmetric).tolist()
                       for s, (_, z) in zip(of, beats, strict=True)]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_latency_and_throughput(bits):
    thresholds, falling = channel_thresholds([0] * 4, [1] * 4, [0] * 4, bits, 9)
    dut, cycles = ThresholdQuantizer(lanes=4, in_bits=9, bits=bits, sets=1), []
    simulate(dut, thresholds, falling, [(0, [0, 1, 2, 3])] * 20, cycles=cycles)
    assert dut.latency == bits + 1
    first = 4 * 2**bits + dut.latency + 1  # all writes, and the transfer of the first beat
    assert cycles == list(range(first, first + 20))


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be an integer from 1 to 64, not 0"),
    ({"in_bits": 49}, "in_bits must be an integer from 2 to 48, not 49"),
    ({"bits": 1}, "bits must be an integer from 2 to 8, not 1"),
    ({"sets": 0}, "sets must be an integer from 1 to 65536, not 0"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ThresholdQuantizer(**{"lanes": 1, "in_bits": 24, "bits": 2, "sets": 2, **params})
