"""`systola benchmark`."""

import json

import pytest


def test_rates_and_ratios_of_one_run(run):
    code, out, _ = run("benchmark", "model", "--blocks", 1, "--batches", "1,3", "--threads", 1,
                       "--rounds", 1, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["images"], report["threads"]) == ([1, 3], [1])
    rates = report["images_per_processor_second"]
    assert {"systola", "numpy"} <= rates.keys()
    for runner, reason in report["left_out"].items():
        assert reason.endswith(" is not installed")
        assert runner not in rates
    for case in "1x1", "3x1":
        assert report["ratios"]["numpy"][case] == pytest.approx(
            rates["systola"][case] / rates["numpy"][case])
    assert report["engine"]["engine"] == "c"
    assert report["engine"]["numpy_nodes"] == {}
    assert report["ratios"]["numpy"]["1x1"] > 2
    one, three = (report["memory_mbyte"][batch] for batch in "13")
    assert three < one + 0.1


def test_the_engine_is_chosen_and_said(run):
    code, out, _ = run("benchmark", "model", "--blocks", 1, "--batches", 1, "--threads", 1,
                       "--rounds", 1, "--engine", "numpy")
    assert code == 0
    assert "integers computed by numpy\n" in out
    assert "peak memory" in out


@pytest.mark.parametrize(("args", "fragment"), [
    (["--batches", "0"], "--batches must be numbers from 1 to 1024 between commas, not '0'"),
    (["--threads", "1,x"], "--threads must be numbers from 1 to 1024 between commas, not '1,x'"),
    (["--engine", "gpu"], "engine must be 'auto' or 'c'"),
])
def test_refusals(run, args, fragment):
    code, out, err = run("benchmark", "model", *args)
    assert (code, out) == (2, "")
    assert fragment in err
