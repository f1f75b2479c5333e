"""Latencies of the array: what the hardware is built by, and the compiler predicts by."""

from systola.hw.contract.dsp_packing import plan_packing

__all__ = ["array_delays", "array_latency", "matmul_latency", "slice_columns"]


def array_delays(cols, group):
    """Return for each array column the cycles that its sums are later than those of column 0."""
    return [c // group for c in range(cols)]


def array_latency(rows, style):
    """Return the cycles from a vector's entry to its sum at column 0.

    A cycle a row and two to multiply and add; packed sums take one more to be told apart.
    """
    return rows + 2 + (style == "dsp_packed")


def matmul_latency(config):
    """Return the cycles from a tile's last word at the array to the first group at the requantizer.

    For the MATRIX engine of an `AcceleratorConfig`, see ``hw/matrix/matrix_engine.py``.
    """
    delays = array_delays(config.cols, slice_columns(config))
    return array_latency(config.rows, config.pe_style) + delays[-1] + 4


def slice_columns(config):
    """Return the columns of the array that share a DSP slice, and get their weights at once."""
    if config.pe_style != "dsp_packed":
        return 1
    return plan_packing(config.weight_bits, config.act_bits, config.rows, cols=config.cols).group
