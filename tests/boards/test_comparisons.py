"""What is recorded of units without division is what synthesis measures."""

import json

import pytest

from systola.boards.synthesis.comparisons import BITS, RECORD, UNITS, comparison_table, measure

FOUND = json.loads(RECORD.read_text())


def test_every_unit_was_measured():
    assert list(FOUND) == list(UNITS)
    assert all(list(by_bits) == [str(bits) for bits in BITS] for by_bits in FOUND.values())
    equal = [size["2"] == size["3"] == size["4"] for size in FOUND.values()]
    assert comparison_table().count("\n") == 2 + 3 * equal.count(False) + equal.count(True)


def test_none_takes_a_dsp_slice():
    assert not any(size["dsp"] for by_bits in FOUND.values() for size in by_bits.values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits"), [
    ("threshold quantizer", 2), ("the same, thresholds in LUTs", 2), ("the same without them", 3),
    ("comparing softmax", 3), ("comparing norm, one gain", 2)])
def test_measured_anew(name, bits):
    assert measure(name, bits) == FOUND[name][str(bits)]
