"""The table of operators, each replaced alone."""

import dataclasses

import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.model.evaluation.ablation import METHOD, REPLACEMENTS, ablate
from systola.model.evaluation.accuracy import calibration_images, open_float, scored_images
from systola.model.graph.nodes import ALTERNATIVES
from systola.model.operators.operations import RESCALING, Count
from systola.model.quantization.replacements import REPLACED

BASELINE = {name: getattr(AcceleratorConfig, name) for name in REPLACED}


def test_every_operator_is_in_the_table():
    listed = {(item.setting, item.variant): item for item in REPLACEMENTS}
    assert len(listed) == len(REPLACEMENTS) == len({item.name for item in REPLACEMENTS})
    assert {key for key, item in listed.items() if item.model_only} == {
        (setting, variant) for setting, kind in REPLACED.items()
        for variant in ALTERNATIVES[kind]}
    assert BASELINE.items() <= listed.keys()
    assert all(item.operations.why for item in REPLACEMENTS)


def test_counts():
    """A few that are easy to see, and that sums are sums."""
    by = {(item.setting, item.variant): item.operations for item in REPLACEMENTS}
    assert by["gelu", "table"].element == Count(look_up=1)
    assert by["gelu", "published"].element.divide == 1
    assert by["norm", "l1"].element == Count(add=5, multiply=1, shift=1) + RESCALING
    assert by["norm", "published"].row.divide == 12
    assert by["attention", "normalised"].element.multiply == 0
    assert by["attention", "ita"].element.multiply == 0
    coded, plain = by["attention", "shiftmax_half_16"].element, by["attention", "published"].element
    assert dataclasses.asdict(coded).items() >= {"divide": 0, "shift": plain.shift + 3}.items()
    assert str(Count(add=2, look_up=1)) == "2 add, 1 look up"
    assert str(Count()) == "none"


@pytest.fixture(scope="module")
def result():
    vit = open_float("digits")
    calls, settings = [], []

    def measure(operators):
        settings.append(operators)
        return {"cycles": len(settings)}

    found = ablate("digits", vit, calibration_images("digits", vit).thinned(200),
                   scored_images("digits", vit), baseline=BASELINE, measure=measure,
                   progress=lambda *args: calls.append(args))
    return found, calls, settings


def test_rows(result):
    found, calls, settings = result
    rows = {row["operator"]: row for row in found["rows"]}
    assert list(rows) == ["baseline", *(item.name for item in REPLACEMENTS)]
    assert (found["images"], found["method"], found["float_top1"] > 0.99) == (359, METHOD, True)
    base = rows["baseline"]
    assert (base["agreement_baseline"], base["error_baseline"]) == (1.0, 0.0)
    assert base["error_float"] < 0.02
    for item in REPLACEMENTS:
        row = rows[item.name]
        assert row["in_baseline"] == (BASELINE[item.setting] == item.variant)
        assert row["operations"] == item.operations.to_dict()
        if row["in_baseline"]:
            assert row["error_float"] == base["error_float"]
        else:
            assert row["error_baseline"] > 0.001  # something was replaced
            assert row["int_top1"] > 0.95
        assert ("cycles" in row) == (not item.model_only)
    # Each differs from the baseline in one setting.
    assert all(sum(chosen[name] != BASELINE[name] for name in BASELINE) <= 1
               for chosen in settings)
    assert len(settings) == 1 + sum(not item.model_only for item in REPLACEMENTS) - 3
    total = len(REPLACEMENTS) - 3 + 1
    assert calls == [(0, total, "running the float network"), *(
        (done, total, f"replacing operators: {name}") for done, name in enumerate(
            ["baseline", *(item.name for item in REPLACEMENTS
                           if BASELINE[item.setting] != item.variant)]))]


def test_weaknesses_show(result):
    """Every published form costs something on the digits, coarse ones several times as much."""
    error = {(row["setting"], row["variant"]): row["error_float"] for row in result[0]["rows"]}
    base = error["attention", "normalised"]
    assert all(error["attention", name] > 1.2 * base for name in ("published", "ibert"))
    assert error["attention", "log_int"] > error["attention", "shiftmax_sqrt2_17"] > 1.5 * base
    assert error["attention", "ita"] > 2 * base
    assert error["gelu", "ibert"] > error["gelu", "published"] > base
    assert error["norm", "l1"] > 3 * error["norm", "published"]
    assert abs(error["norm", "ibert"] - error["norm", "published"]) < 0.1 * base


def test_another_baseline():
    vit = open_float("digits")
    baseline = {**BASELINE, "gelu": "published"}
    found = ablate("digits", vit, calibration_images("digits", vit).thinned(50),
                   scored_images("digits", vit).thinned(20), baseline=baseline, mult_bits=20)
    rows = {row["operator"]: row for row in found["rows"]}
    assert rows["ShiftGELU (I-ViT)"]["in_baseline"]
    assert not rows["activation table"]["in_baseline"]
    assert found["baseline"] == baseline
