import itertools
import runpy
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from systola.model.allocation.choice_problem import AllocationError, ChoiceProblem

HAWQ = runpy.run_path(str(Path(__file__).with_name("hawq_tables.py")))


def hawq_problem():
    """Return HAWQ-V3's problem of ResNet18: 4 or 8 bits for each of 19 layers."""
    losses = [[trace * HAWQ["ERRORS"][bits][layer] for bits in (4, 8)]
              for layer, trace in enumerate(HAWQ["TRACES"])]
    costs = {"size": [[count * bits for bits in (4, 8)] for count in HAWQ["PARAMETERS"]],
             "bops": [[count * bits * bits for bits in (4, 8)] for count in HAWQ["PRODUCTS"]],
             "latency": list(zip(HAWQ["LATENCIES"][4], HAWQ["LATENCIES"][8], strict=True))}
    return ChoiceProblem(losses=losses, costs=costs, tied=HAWQ["TIED"],
                         labels=[(4, 8)] * len(losses))


def half_way(problem, name):
    """Return the limit half way between all few and all many bits."""
    return (Fraction(problem.least(name)) + Fraction(problem.most(name))) / 2


@pytest.mark.parametrize(("name", "bits", "objective", "cost"), [
    ("size", "8888888888888884844", -1.233207, None),
    ("bops", "8884888848884444444", -1.092024, 66_588_770_304),
    ("latency", "8888848848884484844", -1.105039, 4.2201)])
def test_resnet18_of_hawq(name, bits, objective, cost):
    problem = hawq_problem()
    limit = half_way(problem, name)
    start = time.perf_counter()
    found = problem.solve({name: limit})
    seconds = time.perf_counter() - start
    assert "".join("48"[choice] for choice in found.choices) == bits
    few = sum(row[0] for row in problem.losses)
    assert found.loss - few == pytest.approx(objective, abs=1e-6)
    assert cost is None or float(found.costs[name]) == pytest.approx(cost, rel=1e-4)
    assert found.costs[name] <= limit
    assert seconds < 1


def exhausted(problem, limits):
    """Return the best choices of all by the rule that `ChoiceProblem` states, or None."""
    best = None
    units = problem._loss_units
    for choices in itertools.product(*(range(len(row)) for row in problem.losses)):
        if any(problem.labels[group[0]][choices[group[0]]] != problem.labels[node][choices[node]]
               for group in problem.tied for node in group[1:]):
            continue
        costs = [sum(row[choice] for row, choice in zip(problem.costs[name], choices,
                                                        strict=True)) for name in limits]
        if any(cost > limit for cost, limit in zip(costs, limits.values(), strict=True)):
            continue
        loss = sum(row[choice] for row, choice in zip(units, choices, strict=True))
        key = (loss, *costs, choices)
        best = key if best is None or key < best else best
    return best and best[-1]


def random_problem(seed):
    """Return a problem of up to 12 layers and limits, many of which are tight or equal sums."""
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(1, 13))
    most = 2 if nodes > 7 else 3
    shape = [int(rng.integers(2, most + 1)) for _ in range(nodes)]
    coarse = rng.random() < 0.5  # then many choices are of equal loss and cost
    losses = [[int(rng.integers(0, 4)) if coarse else float(rng.random()) for _ in range(count)]
              for count in shape]
    large = int(rng.choice([3, 100, 10**9]))
    costs = {name: [[int(rng.integers(0, large)) for _ in range(count)] for count in shape]
             for name in ("bytes", "cycles")[:int(rng.integers(1, 3))]}
    labels = [[int(rng.integers(0, 2)) for _ in range(count)] for count in shape]
    tied = [(0, nodes - 1)] if nodes > 1 and rng.random() < 0.5 else []
    problem = ChoiceProblem(losses=losses, costs=costs, labels=labels, tied=tied)
    limits = {}
    for name, rows in costs.items():
        low, high = sum(map(min, rows)), sum(map(max, rows))
        chosen = sum(row[int(rng.integers(len(row)))] for row in rows)
        limits[name] = int(rng.choice([low, chosen, chosen - 1, (low + high) // 2, high]))
    return problem, limits


@pytest.mark.parametrize("part", range(10))
def test_equals_exhaustive_search(part):
    solved = 0
    for seed in range(20 * part, 20 * part + 20):
        problem, limits = random_problem(seed)
        expected = exhausted(problem, limits)
        if expected is None:
            with pytest.raises(AllocationError):
                problem.solve(limits)
        else:
            assert problem.solve(limits).choices == expected, seed
            solved += 1
    assert solved > 5


def test_sums_are_of_decimals():
    problem = ChoiceProblem(losses=[(1, 0), (1, 0)], costs={"ms": [(0, 0.1), (0, 0.2)]})
    found = problem.solve({"ms": 0.3})  # 0.1 + 0.2 is more than that in floating point
    assert found.choices == (1, 1)
    assert found.costs["ms"] == Fraction(3, 10)


def test_what_tolerances_let_through_is_refused():
    """One unit of 2**60 is far below what the solver can see."""
    large = 2**60
    problem = ChoiceProblem(losses=[(1, 0), (2, 0), (4, 0)],
                            costs={"units": [(0, large + 1), (0, large + 3), (0, 2 * large + 5)]})
    for limit, expected in ((2 * large + 4, (1, 1, 0)), (2 * large + 3, (0, 1, 0)),
                            (2 * large + 5, (0, 0, 1)), (4 * large + 9, (1, 1, 1)),
                            (4 * large + 8, (0, 1, 1))):
        assert problem.solve({"units": limit}).choices == exhausted(
            ChoiceProblem(losses=problem.losses, costs=problem.costs), {"units": limit})
        if expected != (0, 1, 0):
            assert problem.solve({"units": limit}).choices == expected


def test_equal_losses_take_the_cheaper_then_the_earlier_choice():
    problem = ChoiceProblem(losses=[(0, 0)] * 3, costs={"a": [(5, 3), (1, 1), (2, 2)],
                                                       "b": [(1, 1), (7, 6), (1, 1)]})
    assert problem.solve({}).choices == (0, 0, 0)
    assert problem.solve({"a": 100}).choices == (1, 0, 0)
    assert problem.solve({"b": 100}).choices == (0, 1, 0)
    assert problem.solve({"a": 100, "b": 100}).choices == (1, 1, 0)


def test_limits_that_cannot_be_kept_say_what_would_do():
    problem = ChoiceProblem(losses=[(1, 0), (1, 0)],
                            costs={"bytes": [(4, 8), (4, 8)], "cycles": [(9, 1), (9, 1)]})
    with pytest.raises(AllocationError, match=r"^bytes must be at least 8, with every node at its "
                                              r"fewest bits, not 7$"):
        problem.solve({"bytes": 7})
    with pytest.raises(AllocationError, match=r"^limits bytes 12 and cycles 5 cannot be kept "
                                              r"together; what would do: bytes 16 with cycles 5, "
                                              r"or cycles 10 with bytes 12$"):
        problem.solve({"bytes": 12, "cycles": 5})
    assert problem.solve({"bytes": 12, "cycles": 10}).costs == {"bytes": 12, "cycles": 10}


@pytest.mark.parametrize(("arguments", "line"), [
    ({"losses": [], "costs": {}}, "losses must have at least one node, and a choice for each"),
    ({"losses": [(1, 2)], "costs": {"bytes": [(1,)]}},
     r"bytes must have \[2\] choices by node, not \[1\]"),
    ({"losses": [(1, float("nan"))], "costs": {}}, "losses must be finite, not nan")])
def test_refuses(arguments, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        ChoiceProblem(**arguments)
