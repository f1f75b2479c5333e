"""Pace of weights, passes and written words in the predictor, as the hardware sets it."""

from itertools import pairwise

import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.isa import Opcode
from systola.hw.contract.latency import SUM_GAP
from systola.sw_driver.compiler.array_times import ArrayTimes, StreamTimes
from systola.sw_driver.compiler.costs import COSTS, vector_cycles


class Source:
    """Weights that are there at once; notes when each is pushed."""

    regular = False
    last = 0

    def __init__(self):
        self.times = []

    def next(self):
        return 0

    def taken(self, time):
        self.times.append(time)


def array(**fields):
    config = AcceleratorConfig(**{"rows": 2, "cols": 1, "lanes": 1, **fields})
    return ArrayTimes(config, COSTS, StreamTimes(config, COSTS))


@pytest.mark.parametrize(("depth", "gap"), [(2, 2), (3, 1), (64, 1)])
def test_a_fifo_of_two_words_takes_one_every_other_cycle(depth, gap):
    times, source = array(rows=8, cols=8, lanes=1, weight_fifo=depth), Source()
    times._tile(source)
    assert min(b - a for a, b in pairwise(source.times)) == gap


def test_passes_of_one_row_are_apart_by_the_gap_of_sums():
    class Job:
        rows, act_words, digits = 1, 7, 1

    times = array()
    times._reduce(Job, Source())
    begins = [begin for begin, _ in times.passes]
    assert len(begins) == 7
    assert min(b - a for a, b in pairwise(begins)) == SUM_GAP


@pytest.mark.parametrize(("attention", "pace"), [("deferred", 64), ("half_16", 32)])
def test_words_of_one_beat_are_written_in_two_cycles(attention, pace):
    """And two words of codes are one, whose beats take as long."""
    config = AcceleratorConfig(rows=4, cols=4, lanes=4, vector_lanes=4, attention=attention)
    cycles = [vector_cycles(Opcode.SHIFTMAX, {"words": 32, "lanes_last": 4, "rows": rows}, config,
                            COSTS) for rows in (4, 12)]
    assert cycles[1] - cycles[0] == 8 * pace
