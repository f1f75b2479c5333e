import numpy as np
import pytest

from systola.model.evaluation.attention_error import DEVIATIONS, OPERATORS, attention_error


@pytest.fixture(scope="module")
def report():
    return attention_error()


def figures(report, name):
    """Return one figure of each deviation, by operator."""
    return {operator: [entry[name] for entry in entries] for operator, entries in report.items()}


def test_deferred_attention_is_as_good_as_16_bits(report):
    assert list(report) == list(OPERATORS)
    short, exact, deferred, *_ = figures(report, "operator").values()
    for k, deviation in enumerate(DEVIATIONS):
        assert deferred[k] < 1.15 * exact[k], deviation
        assert deferred[k] < short[k] / 2, deviation
    assert max(deferred) < 0.05
    assert np.mean(deferred) < 0.6 * np.mean(exact)


def test_normalised_attention_is_the_most_accurate(report):
    errors = figures(report, "operator")
    assert max(errors.pop("normalised, 16 bits")) < 2e-3 < 3 * np.min(list(errors.values()))


def test_codes_of_exponentials_are_better_than_codes_of_shares(report):
    """Their rows add up to 1; at every spread, for both schemes and for shares of any accuracy."""
    errors = figures(report, "operator")
    for scheme in "Single_16", "Half_16":
        ours = np.array(errors[f"{scheme}, 4 bits"])
        for shares in "Shiftmax", "normalised":
            assert (ours < 1.01 * np.array(errors[f"{scheme} codes of shares, {shares}"])).all()
    worst = [max(errors[f"Half_16{what}"]) for what in (", 4 bits", " codes of shares, normalised")]
    assert worst[0] < 0.11 < worst[1] / 3


def test_rows_of_attention_sum_to_one(report):
    sums = figures(report, "row_sum")
    short, exact, *_ = sums.values()
    assert short[0] < 0.25  # 8-bit probabilities of 197 keys are mostly zero
    assert min(exact) > 0.97
    divided = [values for name, values in sums.items()
               if "Shiftmax" not in name and "shares" not in name]
    assert len(divided) == 5
    assert np.abs(np.array(divided) - 1).max() < 1e-3


def test_quantized_inputs_only_add_to_the_error(report):
    for entries in report.values():
        for entry in entries:
            assert entry["operator"] < entry["total"] < entry["operator"] + 0.04


def test_figures_depend_on_the_seed_only():
    few = {"rows": 50, "tokens": 20, "deviations": (1.0,)}
    assert attention_error(**few) == attention_error(**few) != attention_error(**few, seed=1)
