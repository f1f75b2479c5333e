import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.latency import array_delays, matmul_latency


@pytest.mark.parametrize(("style", "cycles"), [("dsp", 24 + 8 + 5), ("dsp_packed", 24 + 4 + 6)])
def test_latency_of_a_configuration(style, cycles):
    config = AcceleratorConfig(rows=24, cols=8, pe_style=style)
    assert matmul_latency(config) == cycles


def test_columns_of_a_slice_have_the_same_delay():
    assert array_delays(6, 1) == [0, 1, 2, 3, 4, 5]
    assert array_delays(6, 3) == [0, 0, 0, 1, 1, 1]
