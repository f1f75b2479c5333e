"""Latencies that the hardware is built by, and that the compiler predicts by."""

from systola.hw.contract.config import RESIDUAL_BITS, mult_limb, requant_slots
from systola.hw.contract.dsp_packing import plan_packing
from systola.hw.contract.numbers import NORM_ROOT_BITS, SQUARE_FRACTION

__all__ = ["CHECK_LATENCY", "LANE_LATENCY", "ROOT_LOWEST", "SUM_GAP", "array_delays",
           "array_latency", "edge_cycles", "matmul_latency", "requant_latency", "root_cycles",
           "root_skip", "slice_columns"]

CHECK_LATENCY = 8
"""Cycles of the dispatcher's checks beyond those of the steps."""

LANE_LATENCY = 8
"""Cycles of a requantizer's lane from the operands of a slot to its result."""

SUM_GAP = 4
"""Cycles from a sum to the next one for the same entry of an accumulator buffer, at least."""

ROOT_LOWEST = 3
"""Groups of four bits of a variance at its lower end, above which one that matters has bits."""


def root_skip(width):
    """Return how many groups of four leading zeros a normalised root skips, once or twice.

    Then the highest group of `width` bits that is not zero is among the first so many.
    """
    return -(-(-(-width // 4) - ROOT_LOWEST) // 3)


def root_cycles(width):
    """Return the cycles that `hw.vector.normalised_root.NormalisedRoot` takes for the root."""
    return root_skip(width) - 1 + NORM_ROOT_BITS // 2


def edge_cycles(bits):
    """Return the cycles that `hw.vector.comparing_norm.ComparingNorm` takes for a row's edges.

    Two to begin, and one for two bits of the share; one more if there are several edges. Each is
    written in a cycle, in which the square of the next one grows; that of edge k is by 8*(k - 1)
    first ones larger than the one before, 8 of them a cycle.
    """
    levels = (1 << bits - 1) - 1
    share = 2 + SQUARE_FRACTION // 2 + 1 + (levels > 1)
    return share + levels + (levels - 1) * (levels - 2) // 2


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

    For the MATRIX engine of an `AcceleratorConfig`, see ``hw/matrix/matrix_engine.py``; one more
    if the tile has a single row.
    """
    delays = array_delays(config.cols, slice_columns(config))
    return array_latency(config.rows, config.pe_style) + delays[-1] + 4


def slice_columns(config):
    """Return the columns of the array that share a DSP slice, and get their weights at once."""
    if config.pe_style != "dsp_packed":
        return 1
    return plan_packing(config.weight_bits, config.act_bits, config.rows, cols=config.cols).group


def requant_latency(mult_bits, code_mult_bits, *, long, residual):
    """Return the cycles from the first one in which a requantizer is offered a beat to its result.

    `long` for multipliers of `mult_bits` instead of `code_mult_bits`.
    """
    if residual and mult_limb(mult_bits, code_mult_bits) < RESIDUAL_BITS:
        return LANE_LATENCY + 4
    if requant_slots(mult_bits, code_mult_bits, long=long) == 2:
        return LANE_LATENCY + 3
    return LANE_LATENCY + 1 + bool(residual)
