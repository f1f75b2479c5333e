"""Telling the best of random alternatives from the luckiest."""

import numpy as np
import pytest

from systola.model.evaluation.chance import beside_chance


def test_the_counts_are_those_of_the_best():
    right = np.array([1, 1, 1, 0, 0, 0], bool)
    others = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
    found = beside_chance(right, others)
    assert (found["random"], found["best_top1"]) == (3, 4 / 6)
    assert (found["only_best"], found["only_allocated"]) == (3, 2)
    # Of 5 images that differ, 3 or more on either side: all cases.
    assert found["p"] == 1.0


def test_p_is_of_the_images_that_differ():
    right, other = np.ones(100, bool), np.ones(100, bool)
    other[:9] = False
    right[9] = False
    # 9 to 1: 2 * (1 + 10) / 2**10.
    assert beside_chance(right, other[None])["p"] == pytest.approx(22 / 1024)
    assert beside_chance(right, right[None])["p"] == 1.0


def test_equally_good_ones_are_so_on_the_other_half():
    rng = np.random.default_rng(1)
    right, others = rng.random(4000) < 0.9, rng.random((50, 4000)) < 0.9
    found = beside_chance(right, others)
    assert found["best_top1"] > right.mean() + 0.004
    assert found["held_out_top1"] == pytest.approx(right.mean(), abs=5e-4)
    assert abs(found["held_out_best_top1"] - 0.9) < 0.004


def test_a_better_one_stays_better_on_the_other_half():
    rng = np.random.default_rng(2)
    right = rng.random(2000) < 0.8
    others = rng.random((20, 2000)) < 0.8
    others[7] = rng.random(2000) < 0.95
    found = beside_chance(right, others)
    assert found["held_out_best_top1"] == pytest.approx(others[7].mean(), abs=2e-3)
    assert found["p"] < 1e-6


def test_of_a_single_image_there_are_no_halves():
    found = beside_chance([True], [[False]])
    assert found["held_out_top1"] is None
    assert found["held_out_best_top1"] is None


@pytest.mark.parametrize("others", [np.zeros((0, 3)), np.zeros((2, 4)), np.zeros(3)])
def test_what_cannot_be_compared_is_refused(others):
    with pytest.raises(ValueError, match=r"^others must be at least one row of 3 images, not of "):
        beside_chance(np.ones(3), others)
