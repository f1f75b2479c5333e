"""Predicted against measured cycles: the comparison itself, and a few cases of it."""

import pytest

from systola.sim.runs.predictions import (
    WORST_LIMIT,
    Comparison,
    compare_predictions,
    random_batch,
    summary,
)


def comparison(predicted, measured):
    return Comparison(seed=3, batch=1, config="4x4", network="5 x 6", predicted=predicted,
                      measured=measured)


def test_errors_are_in_measured_cycles_and_signed():
    assert comparison(110, 100).error == pytest.approx(0.1)
    assert comparison(90, 100).error == pytest.approx(-0.1)


def test_summary_counts_both_signs():
    found = summary([comparison(1001, 1000), comparison(985, 1000), comparison(1000, 1000)])
    assert (found["median"], found["worst"]) == pytest.approx((0.001, 0.015))
    assert found["within"]
    assert [case["error"] for case in found["cases"]] == pytest.approx([0.001, -0.015, 0])
    assert not summary([comparison(1021, 1000), *[comparison(1, 1)] * 2])["within"]
    assert not summary([comparison(1003, 1000)])["within"]


def test_about_half_of_the_programs_have_several_images():
    batches = [random_batch(seed) for seed in range(100)]
    assert set(batches) == {1, 2, 3, 4}
    assert 30 < batches.count(1) < 70


@pytest.mark.slow
def test_cases_are_within_the_limit():
    seen = []
    rows = list(compare_predictions(1, seed=6, progress=lambda done, total, text: seen.append(
        (done, total))))
    assert [row.seed for row in rows] == [6]
    assert seen == [(0, 1)]
    for row in rows:
        assert 0 < row.measured < 100_000
        assert abs(row.error) < WORST_LIMIT
