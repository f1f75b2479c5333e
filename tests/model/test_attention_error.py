import numpy as np
import pytest

from systola.model.evaluation.attention_error import DEVIATIONS, OPERATORS, attention_error


@pytest.fixture(scope="module")
def report():
    return attention_error()


def test_deferred_attention_is_as_good_as_16_bits(report):
    assert list(report) == list(OPERATORS)
    short, exact, deferred, _ = ([entry["operator"] for entry in entries]
                                 for entries in report.values())
    for k, deviation in enumerate(DEVIATIONS):
        assert deferred[k] < 1.15 * exact[k], deviation
        assert deferred[k] < short[k] / 2, deviation
    assert max(deferred) < 0.05
    assert np.mean(deferred) < 0.6 * np.mean(exact)


def test_normalised_attention_is_the_most_accurate(report):
    *others, normalised = ([entry["operator"] for entry in entries] for entries in report.values())
    assert max(normalised) < 2e-3 < 3 * np.min(others)


def test_rows_of_attention_sum_to_one(report):
    short, exact, *divided = ([entry["row_sum"] for entry in entries]
                              for entries in report.values())
    assert short[0] < 0.25  # 8-bit probabilities of 197 keys are mostly zero
    assert min(exact) > 0.97
    assert np.abs(np.array(divided) - 1).max() < 1e-3


def test_quantized_inputs_only_add_to_the_error(report):
    for entries in report.values():
        for entry in entries:
            assert entry["operator"] < entry["total"] < entry["operator"] + 0.04


def test_figures_depend_on_the_seed_only():
    few = {"rows": 50, "tokens": 20, "deviations": (1.0,)}
    assert attention_error(**few) == attention_error(**few) != attention_error(**few, seed=1)
