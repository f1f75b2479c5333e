"""Rows of the report on processing elements, compared with each other, as plain data."""

from dataclasses import dataclass

import numpy as np

from systola.boards.power.energy import dynamic_energy, estimate, sample_coefficients
from systola.boards.power.pe_designs import BASELINES, CODEBOOK, LOG2_FEED, TWO_PRECISIONS
from systola.boards.synthesis.sizes import Size

__all__ = ["Row", "describe"]

_PARTS = {"logic": ("lut", "carry"), "wires": ("wire", "wire_register"),
          "registers": ("ff", "ff_clock", "shift_clock", "lutram_clock"),
          "dsp": ("dsp_clock", "dsp_input", "dsp_product", "dsp_output")}
_LIKE = {"dsp_packed": "dsp", "shift": "lut",
         **dict.fromkeys((TWO_PRECISIONS, CODEBOOK, LOG2_FEED), "dsp_packed")}
"""Rows that are also compared with another one of the same width."""


@dataclass
class Row:
    """A measured array: its place in the table, sizes, events a cycle, and energies by draw.

    ``inner`` is the energy without what sits at the edge, ``edge`` that one's size.
    """

    operation: str
    bits: int
    style: str
    size: Size
    edge: Size
    pes: int
    macs: int
    events: dict
    energy: np.ndarray
    inner: np.ndarray
    power: np.ndarray
    toggles: float
    compared: int
    like: str = ""


def describe(table, mhz):
    """Return the rows as dictionaries, low-bit ones with their ratios."""
    by_key = {(row.operation, row.bits, row.style): row for row in table}
    described = []
    for row in table:
        energy, power = estimate(row.energy), estimate(row.power)
        item = {"operation": row.operation, "bits": row.bits,
                "style": "dequant_first" if row.style in BASELINES.values() else row.style,
                "multiplier": {"dsp": "DSP slice", "lut": "fabric"}[row.like],
                "pes": row.pes, "macs": row.macs,
                **{name: getattr(row.size, name) / row.pes
                   for name in ("lut", "ff", "carry", "dsp")},
                **{f"{name}_per_mac": getattr(row.size, name) / row.pes / row.macs
                   for name in ("lut", "ff", "dsp")},
                "toggles_per_cycle": row.toggles, "energy_pj_per_mac": energy.value,
                "energy_low": energy.low, "energy_high": energy.high,
                "energy_parts": _parts(row), "power_uw_per_pe": power.value,
                "power_low": power.low, "power_high": power.high, "freq_mhz": mhz,
                "sums_compared": row.compared, "label": "estimate"}
        if row.style in BASELINES.values():
            item["edge"] = {name: getattr(row.edge, name) / row.pes for name in ("lut", "ff")}
        else:
            base = by_key[row.operation, row.bits, BASELINES[row.like]]
            inner = estimate(row.energy / base.inner)
            item |= {"baseline": f"dequant_first, {item['multiplier']}", **_against(row, base),
                     "ratio_without_scalers": inner.value,
                     "ratio_without_scalers_low": inner.low,
                     "ratio_without_scalers_high": inner.high}
            other = by_key.get((row.operation, row.bits, _LIKE.get(row.style)))
            if other:
                item["against"] = {"style": other.style, **_against(row, other)}
        described.append(item)
    return described


def _parts(row):
    """Return what share of the energy goes into what, at the coefficients' own values."""
    samples = sample_coefficients(0)
    total = dynamic_energy(row.events, samples)[0]
    return {name: float(dynamic_energy({key: row.events.get(key, 0) for key in keys},
                                       samples)[0] / total) for name, keys in _PARTS.items()}


def _against(row, base):
    """Return the ratio of energies with its interval, those of sizes, and why it is not below 1."""
    ratio = estimate(row.energy / base.energy)
    found = {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
    macs, others = row.pes * row.macs, base.pes * base.macs
    for name in "lut", "ff", "dsp":
        size = getattr(base.size, name) / others
        found[f"{name}_ratio"] = getattr(row.size, name) / macs / size if size else None
    if ratio.high >= 1:
        parts, shares = _parts(row), _parts(base)
        most = max(parts, key=lambda name: parts[name] * row.energy[0]
                   - shares[name] * base.energy[0])
        where = {"dsp": "inside the DSP slice, whose ports and product show sign bits of narrow "
                        "operands, so that its energy depends little on their width",
                 "logic": "in look-up tables and carry chains", "wires": "in wires between cells",
                 "registers": "in flip-flops and shift registers with their clock"}[most]
        name = "dequant_first" if base.style in BASELINES.values() else base.style
        found["explanation"] = (
            f"{'not below' if ratio.value >= 1 else 'not for all draws below'} {name}: "
            f"{parts[most] * row.energy[0]:.2f} pJ here and {shares[most] * base.energy[0]:.2f} "
            f"pJ there are spent {where}")
    return found
