import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.model.graph.float_forward import gelu, gelu_tanh, quick_gelu
from systola.model.graph.nodes import FUNCTIONS
from systola.model.quantization.activation_table import activation_table

REAL = {"gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu}
scales = st.floats(2.0**-23, 2.0**6)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.sampled_from(FUNCTIONS), scales, scales, st.integers(2, 8))
def test_every_entry_is_within_half_a_code_or_saturates(function, source, target, bits):
    table = activation_table(function, source, target, bits)
    assert table.shape == (256,)
    assert table.dtype == np.int8
    real = REAL[function](np.arange(-128, 128) * source).astype(np.float64) / target
    half = 1 << bits - 1
    error = np.abs(table - np.clip(real, -half, half - 1))
    assert (error <= 0.5 + 2e-6 * np.abs(real) + 1e-6 / target).all()  # float32's share


def test_the_functions_differ():
    tables = [activation_table(function, 4 / 127, 4 / 127, 8) for function in FUNCTIONS]
    assert (tables[0] != tables[2]).sum() > 20
    fine = [activation_table(function, 4 / 127, 2.0**-23, 8) for function in FUNCTIONS]
    assert all((table[129:] == 127).all() and table[128] == 0 for table in fine)


@pytest.mark.parametrize(("arguments", "message"), [
    ((1.0, 1.0, 1), "bits must be from 2 to 8, not 1"),
    ((1.0, 1.0, 9), "bits must be from 2 to 8, not 9"),
    ((0.0, 1.0, 8), "source must be finite and above 0, not 0.0"),
    ((1.0, float("inf"), 8), "target must be finite and above 0, not inf"),
])
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        activation_table("gelu", *arguments)
