"""Units without division beside those that divide: their sizes, and the table of them.

``python -m systola.boards.synthesis.comparisons [unit ...]`` measures all of them anew, or some,
into ``comparisons.json``; ``make docs`` makes the table in docs/PERFORMANCE.md of it.
"""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from amaranth import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.boards.synthesis.synth import synthesize
from systola.hw.contract.config import PRESETS
from systola.hw.contract.numbers import epsilon_bits
from systola.hw.parts.pipeline import Pipeline
from systola.hw.parts.requant import Requantizer
from systola.hw.parts.threshold_quantizer import ThresholdQuantizer
from systola.hw.vector.comparing_norm import ComparingNorm
from systola.hw.vector.comparing_softmax import ComparingSoftmax
from systola.hw.vector.layernorm import ILayerNorm
from systola.hw.vector.normalised_softmax import NormalisedSoftmax
from systola.hw.vector.shiftmax import Shiftmax

__all__ = ["BITS", "CONFIG", "RECORD", "UNITS", "comparison_table", "measure"]

CONFIG = PRESETS["arty_s7_50"]
"""Whose lanes, widths and longest row the units have."""

BITS = 2, 3, 4
"""Bits of the results."""

RECORD = Path(__file__).with_suffix(".json")
"""What was measured."""

_SETS = 64
"""Words of parameters of a quantizer, for one channel a lane."""


class _Records(wiring.Component):
    """The memory of a requantizer's parameters: a record a lane, read in one cycle.

    Model: none: moves data
    """

    def __init__(self, shape):
        self.shape = shape
        super().__init__({"addr": In(range(_SETS)), "en": In(1), "data": Out(shape),
                          "w": In(stream.Signature(data.StructLayout(
                              {"addr": range(_SETS), "data": shape})))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.shape, depth=_SETS, init=[])
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [read.addr.eq(self.addr), read.en.eq(self.en), self.data.eq(read.data),
                     self.w.ready.eq(1), write.addr.eq(self.w.p.addr), write.data.eq(self.w.p.data),
                     write.en.eq(self.w.valid)]
        return m


class _Product(wiring.Component):
    """The product of a row's sum of squares and a channel's share, with its registers.

    Model: none: Python's *
    """

    def __init__(self, bits, by):
        super().__init__({"a": In(signed(bits)), "b": In(signed(by)), "y": Out(signed(bits + by))})

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m)
        m.d.comb += self.y.eq(pipe.multiply(pipe.reg(self.a), pipe.reg(self.b)))
        return m


def _requantizer(lanes, in_bits, bits, *, symmetric):
    width = min(CONFIG.code_mult_bits, CONFIG.mult_bits)
    unit = Requantizer(lanes=lanes, in_bits=in_bits, mult_bits=width, code_mult_bits=width,
                       bias_bits=in_bits, out_bits=bits, residual=False, symmetric=symmetric)
    return [unit], unit.latency(long=False), unit.slots(long=False)


def _with_records(bits):
    (unit,), latency, cycles = _requantizer(CONFIG.lanes, CONFIG.acc_bits, bits, symmetric=True)
    return [unit, _Records(unit.i.p.p.shape())], latency + 1, cycles


def _thresholds(bits, in_luts=False):
    unit = ThresholdQuantizer(lanes=CONFIG.lanes, in_bits=CONFIG.acc_bits, bits=bits, sets=_SETS,
                              in_luts=in_luts)
    return [unit], unit.latency, 1


_ROWS = {"lanes": CONFIG.vector_lanes, "max_row": CONFIG.max_row}


def _shiftmax(bits):
    unit = Shiftmax(unit_bits=CONFIG.x0_bits, out_bits=bits + 1, **_ROWS)
    return [unit], unit.latency, unit.division


def _normalised(bits):
    unit = NormalisedSoftmax(factor_bits=CONFIG.factor_bits, **_ROWS)
    return [unit], unit.latency, unit.division


def _comparing(bits):
    unit = ComparingSoftmax(bits=bits, **_ROWS)
    return [unit], unit.latency, unit.period


_NORM = {"lanes": CONFIG.norm_lanes, "max_row": CONFIG.max_row}


def _norm(bits):
    unit = ILayerNorm(variant="normalised", **_NORM)
    scaler, latency, _ = _requantizer(CONFIG.norm_lanes, 33, bits, symmetric=False)
    return [unit, *scaler], unit.latency + latency, unit.period


def _comparing_norm(bits):
    unit = ComparingNorm(bits=bits, **_NORM)
    return [unit], unit.latency, unit.period


_EDGE_BITS = 21
"""Bits of the square of a channel's edge, with a sign."""


def _product(bits):
    return ([_Product(epsilon_bits(CONFIG.max_row) + 2, _EDGE_BITS)],
            Pipeline.multiply_cycles(_EDGE_BITS) + 1, 1)


UNITS = {
    "requantizer with its parameters": _with_records,
    "the same without them": partial(_requantizer, CONFIG.lanes, CONFIG.acc_bits, symmetric=True),
    "threshold quantizer": _thresholds,
    "the same, thresholds in LUTs": partial(_thresholds, in_luts=True),
    "Shiftmax": _shiftmax,
    "normalised softmax, codes of 16 bits": _normalised,
    "comparing softmax": _comparing,
    "normalised layer norm, requantizer": _norm,
    "comparing norm, one gain": _comparing_norm,
    "product for channels' own gains, one of b a lane": _product,
}
"""By what the table calls them: functions of the bits that return the components, the cycles from
the first input that matters to the first result, and those between beats or rows at least."""


def measure(name, bits):
    """Synthesize a unit for 7 series; return its size, latency and cycles as a dictionary."""
    parts, latency, cycles = UNITS[name](bits)
    sizes = [asdict(synthesize(part, "unit", infer_dsp=True).total) for part in parts]
    total = {key: sum(size[key] for size in sizes) for key in sizes[0]}
    return {**total, "latency": latency, "cycles": cycles}


def comparison_table():
    """Return what was measured as a Markdown table."""
    lines = ["| unit | bits b | LUT | FF | carry | DSP | RAMB36 | latency | cycles |",
             "|---|---|---|---|---|---|---|---|---|"]
    for name, by_bits in json.loads(RECORD.read_text()).items():
        sizes = list(by_bits.items())
        if all(size == sizes[0][1] for _, size in sizes):
            sizes = [("any", sizes[0][1])]
        lines += [f"| {name} | {bits} | " + " | ".join(f"{value:,}" for value in size.values())
                  + " |" for bits, size in sizes]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in sys.argv[1:] or UNITS:
        if name not in UNITS:
            sys.exit(f"unit must be one of {', '.join(UNITS)}, not {name!r}")
        record[name] = {str(bits): measure(name, bits) for bits in BITS}
        print(name, record[name], flush=True)
        RECORD.write_text(json.dumps({name: record[name] for name in UNITS if name in record},
                                     indent=1) + "\n")
