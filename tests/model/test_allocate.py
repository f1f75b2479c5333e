import re
from fractions import Fraction

import numpy as np
import pytest

from systola.model.allocation.allocate import Limit, allocate, check_limits
from systola.model.allocation.choice_problem import AllocationError
from systola.model.allocation.node_costs import NodeCost, measured
from systola.model.allocation.node_precisions import NodePrecisions, Precision
from systola.model.data.synthetic import random_float_vit

NODES = NodePrecisions(
    random_float_vit(np.random.default_rng(1), channels=6, heads=2, blocks=1, hidden=9, classes=3,
                     tokens=5, patch_dim=3), [Precision(8, 8), Precision(4, 4)])
LOSSES = [[0.0, loss] for loss in (6.0, 1.0, 2.0, 3.0, 4.0, 5.0)]


def test_limits_are_shares_or_numbers():
    cost = NodeCost([], 100, 301)
    for text, expected in (("0", 100), ("1", 301), ("0.5", Fraction(401, 2)), ("1.0", 301),
                           ("250", 250), ("2", 2), ("1e3", 1000)):
        assert Limit.parse("bytes", text).of(cost) == expected


@pytest.mark.parametrize("text", ["", "1.5", "-1", "-0.1", "1/2", "nan", "inf", "a", "0.5 of all"])
def test_texts_that_are_no_limit(text):
    with pytest.raises(ValueError, match=f"^limit of bytes must be a share from 0 to 1 or a whole "
                                         f"number above 1, not {re.escape(repr(text))}$"):
        Limit.parse("bytes", text)


def test_only_costs_are_limited():
    with pytest.raises(ValueError, match=r"^a limit must be of bytes, bops, cycles, energy, not of "
                                         r"'watts'$"):
        Limit.parse("watts", "0.5")


def test_least_loss_within_a_limit():
    cost = NodeCost.of_rows([[8, 4]] * 6)
    found = allocate(NODES, LOSSES, {"bytes": cost}, {"bytes": Limit.parse("bytes", "0.5")})
    assert found.chosen == (0, 1, 1, 1, 0, 0)
    assert found.loss == 6
    assert found.costs == {"bytes": {"limit": 36, "cost": 36, "least": 24, "most": 48}}
    assert found.precisions(NODES)["blocks.0.qkv"] == "4x4"


def overlapping(chosen):
    """Return cycles in which what one node saves hides behind its neighbour."""
    saved = sum(10 for index in range(6) if chosen[index])
    return 200 - saved + 7 * sum(chosen[index] and chosen[index + 1] for index in range(5))


def test_a_limit_is_kept_when_measured():
    """The entries add up to less than what is measured, so that a first answer breaks the limit."""
    cost = measured(NODES, overlapping)
    assert cost.low == 200 - 60 + 35
    limits = {"cycles": Limit.parse("cycles", "180")}
    first = allocate(NODES, LOSSES, {"cycles": NodeCost(cost.rows, cost.low, cost.high)}, limits)
    assert overlapping(first.chosen) > 180
    found = allocate(NODES, LOSSES, {"cycles": cost}, limits)
    assert found.costs["cycles"]["cost"] == overlapping(found.chosen) <= 180


def test_what_nothing_keeps_is_refused():
    cost = NodeCost.of_rows([[8, 4]] * 6)
    with pytest.raises(AllocationError, match=r"^bytes must be at least 24, with every node at its "
                                              r"fewest bits, not 23$"):
        check_limits(NODES, {"bytes": cost}, {"bytes": Limit.parse("bytes", "23")})
    wrong = NodeCost([[20, 10]] * 6, 110, 120, measure=lambda chosen: 110)  # never what was hoped
    with pytest.raises(AllocationError, match=r"^cycles: nothing that was tried keeps 100 when "
                                              r"measured; 110 would do, with the same bits "
                                              r"everywhere$"):
        allocate(NODES, LOSSES, {"cycles": wrong}, {"cycles": Limit.parse("cycles", "100")})
