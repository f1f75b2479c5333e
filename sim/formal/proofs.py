"""The list of proofs: what is claimed of which unit, and the fault on which the proof must fail."""

import inspect
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType

from systola.hw.contract.config import AcceleratorConfig
from systola.sim.formal import arithmetic, ports, queues
from systola.sim.formal.bench import keep_stream_rules

__all__ = ["PROOFS", "Proof", "proof_table"]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One unit in one bench.

    Parameters
    ----------
    name, claim : str
        What it is called, and what is proved.
    module : str
        Where the unit is.
    bench : callable
        Takes a `systola.sim.formal.bench.Bench` to fill and the unit's module.
    fault : tuple of str
        A piece of the module's source, and what stands there in the faulty unit.
    reduced : tuple of tuples of str
        Pieces of the source that set widths, replaced by smaller ones in both.
    inside : str
        Module of a part of the unit, if the fault is there.
    method, depth : str, int
        See `systola.sim.formal.prover.decide`.
    """

    name: str
    claim: str
    module: str
    bench: callable
    fault: tuple[str, str]
    reduced: tuple = ()
    inside: str = ""
    method: str = "pdr"
    depth: int = 20

    def hardware(self, *, faulty=False):
        """Return the unit's module, or a copy of it with what is replaced."""
        at_unit = [*self.reduced, *([self.fault] if faulty and not self.inside else [])]
        module = _with(self.module, at_unit)
        if faulty and self.inside:
            module = _with(self.module, at_unit, copy=True)
            inner = _with(self.inside, [self.fault])
            for name in inner.__all__:
                if hasattr(module, name):
                    setattr(module, name, getattr(inner, name))
        return module


def _with(name, edits, *, copy=False):
    """Return module `name`, or a copy of it if there are edits of its source.

    Raises ``ValueError`` if a piece to replace is not in the source exactly once.
    """
    module = import_module(name)
    if not edits and not copy:
        return module
    source = inspect.getsource(module)
    for old, new in edits:
        if source.count(old) != 1:
            raise ValueError(f"{old!r} must be in {name} once, not {source.count(old)} times")
        source = source.replace(old, new)
    edited = ModuleType(name)
    edited.__package__ = module.__package__
    exec(compile(source, f"{name} with replacements", "exec"), edited.__dict__)
    return edited


_SMALL = {"banks": 1, "bank_depth": 16, "token_depth": 2, "param_depth": 2, "max_row": 8,
          "weight_fifo": 2, "stream_fifo": 4, "queue_depth": 2}
_ONE = AcceleratorConfig(rows=2, cols=2, lanes=1, **_SMALL)
_TWO = AcceleratorConfig(rows=2, cols=2, lanes=2, **_SMALL)
_DEFERRED = AcceleratorConfig(rows=2, cols=2, lanes=1, attention="deferred", **_SMALL)
_CODED = AcceleratorConfig(rows=2, cols=2, lanes=1, attention="half_16", weight_codes=True,
                           **_SMALL)

_ROOT = (("ITERATIONS = 10", "ITERATIONS = 3"), ("width, 18, 62", "width, 4, 62"),
         ("from systola.hw.contract.numbers import MAX31", "MAX31 = (1 << 7) - 1"),
         ("25 if published else 31", "25 if published else 7"),
         ("max(len(self.i.p.v), 31)", "max(len(self.i.p.v), 7)"))

_NORMALISED_ROOT = (
    ("from systola.hw.contract.latency import ROOT_LOWEST, root_cycles, root_skip",
     "ROOT_LOWEST, root_cycles, root_skip = 0, lambda width: 2, lambda width: 1"),
    ("from systola.hw.contract.numbers import NORM_NUMERATOR, NORM_ROOT_BITS",
     "NORM_NUMERATOR, NORM_ROOT_BITS = (1 << 5) - 1, 4"), ("width, 18, 63", "width, 8, 63"))


def _streams(module, fault, make, name=None, reduced=(), **options):
    """Return the proof of the stream rules of the unit that `make` gets from its module."""
    return Proof(
        name=f"stream {name or module.rpartition('.')[2]}", module=f"systola.hw.{module}",
        fault=fault, reduced=reduced,
        claim="valid and payload stay until ready; nothing waits for ready",
        bench=lambda bench, hw: keep_stream_rules(bench, lambda: make(hw), **options))


_STREAMS = [
    _streams("parts.register_slice",
             ("moves.eq(~self.o.valid | self.o.ready)", "moves.eq(self.o.ready)"),
             lambda hw: hw.RegisterSlice(3)),
    _streams("parts.register_slice", ("with m.If(empty):", "with m.If(1):"),
             lambda hw: hw.RegisterSlice(3, forward=False), "register_slice, way back"),
    _streams("parts.divider", ("with m.Elif(self.o.ready):", "with m.Else():"),
             lambda hw: hw.Divider(width=4, den_width=3)),
    _streams("vector.inverse_root",
             ("with m.If(self.o.valid & self.o.ready):", "with m.If(self.o.valid):"),
             lambda hw: hw.InverseRoot(width=8, start="leading_one", steps=7), reduced=_ROOT),
    _streams("load.transposer", ("free.eq(~self.o.valid | self.o.ready)", "free.eq(self.o.ready)"),
             lambda hw: hw.Transposer(rows=4, cols=2)),
    _streams("vector.row_reader", ("take.eq(full & self.o.ready)", "take.eq(full)"),
             lambda hw: hw.RowReader(_TWO)),
    _streams("vector.row_writer", ("move.eq(full & ~self.dst.req.valid)", "move.eq(full)"),
             lambda hw: hw.RowWriter(_TWO)),
    _streams("vector.row_writer",
             ("move.eq(full & ~self.dst.req.valid)", "move.eq(full)"),
             lambda hw: hw.RowWriter(_CODED), "row_writer, packed"),
    _streams("matrix.word_writer", ("move.eq(full & (~req.valid | last))", "move.eq(full)"),
             lambda hw: hw.WordWriter(_ONE)),
    _streams("load.unpackers", ("self.o.valid.eq(self.i.valid & full)",
                        "self.o.valid.eq(self.i.valid & full & self.o.ready)"),
             lambda hw: hw.ParamUnpacker(_ONE), "unpackers, parameters"),
    _streams("load.unpackers", ("with m.If(moved):", "with m.If(self.o.valid):"),
             lambda hw: hw.TableUnpacker(_ONE),
             "unpackers, tables"),
    _streams("load.unpackers", ("high & self.o.ready)),", "high)),"),
             lambda hw: hw.CodeUnpacker(_CODED), "unpackers, codes", low=("start",)),
    _streams("matrix.residual_reader",
             ("rsp.ready.eq(~has_low | ~o.valid | o.ready)", "rsp.ready.eq(1)"),
             lambda hw: hw.ResidualReader(_ONE)),
    _streams("vector.row_maximum",
             ("o_taken.eq(self.o.valid & self.o.ready)", "o_taken.eq(self.o.valid)"),
             lambda hw: hw.RowMaximum(lanes=1, max_row=2, in_bits=2, slots=2)),
    _streams("parts.requant", ("advance.eq(~valid | self.o.ready)", "advance.eq(1)"),
             lambda hw: hw.Requantizer(lanes=1, in_bits=4, mult_bits=3, code_mult_bits=2,
                                       bias_bits=3)),
    _streams("parts.requant", ("with m.If(empty):", "with m.If(1):"),
             lambda hw: hw.Requantizer(lanes=1, in_bits=4, mult_bits=3, code_mult_bits=2,
                                       bias_bits=3, registered=True), "requant, registered"),
    _streams("parts.threshold_quantizer",
             ("advance = ~self.o.valid | self.o.ready", "advance = self.o.ready"),
             lambda hw: hw.ThresholdQuantizer(lanes=1, in_bits=2, bits=2, sets=1)),
    _streams("vector.row_moments", ("with m.If(~self.o.valid | self.o.ready):", "with m.If(1):"),
             lambda hw: hw.RowMoments(lanes=1, max_row=3, steps=16)),
    _streams("vector.row_sums", ("self.i.ready.eq(~(waits & beat.last))", "self.i.ready.eq(1)"),
             lambda hw: hw.RowSums(lanes=1, max_row=3)),
    _streams("vector.fine_moments", ("with m.If(~self.o.valid | self.o.ready):", "with m.If(1):"),
             lambda hw: hw.FineMoments(lanes=1, max_row=3)),
    _streams("vector.normalised_root",
             ("divider.o.ready.eq(self.o.ready)", "divider.o.ready.eq(1)"),
             lambda hw: hw.NormalisedRoot(width=8), reduced=_NORMALISED_ROOT),
    _streams("control.token_gate", ("granted.eq(~self.o.ready)", "granted.eq(0)"),
             lambda hw: hw.TokenGate(engine=0, payload=3, depth=2, bits=3),
             strobes=("done", "take", "blocked", "clear")),
    _streams("memory.row_factors", ("queue.take.eq(self.r.req.valid & queue.room)",
                           "queue.take.eq(self.r.req.valid)"),
             lambda hw: hw.RowFactors(_DEFERRED)),
    _streams("vector.lanes", ("self.o.valid.eq(self.i.valid),",
                       "self.o.valid.eq(self.i.valid & self.o.ready),"),
             lambda hw: hw.Narrow(shape=2, wide=4, narrow=2), "lanes, narrow"),
    _streams("vector.lanes",
             ("self.i.ready.eq(~self.o.valid | self.o.ready)", "self.i.ready.eq(1)"),
             lambda hw: hw.Widen(shape=2, wide=4, narrow=2), "lanes, widen"),
    _streams("host.framer", ("with m.If(held & self.o.ready):", "with m.If(held):"),
             lambda hw: hw.Framer(), strobes=("start", "cut")),
    _streams("load.region_walker",
             ("self.i.ready.eq(~busy)", "self.i.ready.eq(~busy & self.o.ready)"),
             lambda hw: hw.RegionWalker(_ONE)),
    _streams("matrix.feeder", ("words.w_rdy & ~pause)", "words.w_rdy & ~pause & self.swap_ready)"),
             lambda hw: hw.Feeder(_ONE),
             strobes=("swap_ready", "tiles", "rows_read")),
]

_QUEUES = [
    Proof(name="queue register_slice", module="systola.hw.parts.register_slice",
          claim="two entries: nothing lost, invented, changed or overtaken",
          bench=partial(queues.register_slice, forward=True),
          fault=("empty.eq(~valid | moves)", "empty.eq(moves)")),
    Proof(name="queue register_slice, way back", module="systola.hw.parts.register_slice",
          claim="one entry that passes on: nothing lost, invented, changed or overtaken",
          bench=partial(queues.register_slice, forward=False),
          fault=("payload.eq(Mux(empty, self.i.p, spare))", "payload.eq(self.i.p)")),
    Proof(name="queue fifo", module="amaranth.lib.fifo",
          claim="nothing lost, invented, changed or overtaken",
          bench=partial(queues.fifo, kind="SyncFIFO", depth=3),
          fault=("self.w_rdy.eq(self.level != self.depth)", "self.w_rdy.eq(1)")),
    Proof(name="queue fifo, buffered", module="amaranth.lib.fifo",
          claim="nothing lost, invented, changed or overtaken",
          bench=partial(queues.fifo, kind="SyncFIFOBuffered", depth=3, late=1),
          fault=("inner_r_rdy.eq(inner_level != 0)", "inner_r_rdy.eq(1)")),
    Proof(name="queue credit", module="systola.hw.parts.credit_queue",
          claim="accepted reads find room; nothing lost, invented, changed or overtaken",
          bench=queues.credit_queue, fault=("reserved < self.depth - 1", "reserved < self.depth")),
    Proof(name="queue row_maximum", module="systola.hw.vector.row_maximum",
          claim="rows leave as they came: nothing lost, invented, changed or overtaken",
          bench=queues.row_queue, fault=("beats.r_en.eq(o_taken)", "beats.r_en.eq(self.o.ready)")),
    Proof(name="queue tile_loader", module="systola.hw.matrix.tile_loader",
          claim="columns reach the array in order, each at its place, none lost",
          bench=queues.tile_columns,
          fault=("fifo.r_en.eq(load)", "fifo.r_en.eq(col != cols)")),
    Proof(name="tokens", module="systola.hw.control.token_gate",
          claim="three gates, any program: counters never under- or overflow, none is lost",
          bench=queues.count_tokens, fault=("- 1 - self.depth)]", "- self.depth)]")),
]

_PORTS = [
    Proof(name="axi-lite", module="systola.hw.host.register_file",
          claim="answers stay until taken; one for each read and write, in two cycles at most",
          bench=partial(ports.axi_lite, config=_ONE),
          fault=("with m.If(has_address & has_word & ~port.bvalid):",
                 "with m.If(has_address & has_word):")),
    Proof(name="arbiter", module="systola.hw.parts.arbiter",
          claim="one grant if any may be; a request waits for turns * (clients - 1) others at most",
          bench=partial(ports.arbitration, clients=3), reduced=(("turns = 8", "turns = 3"),),
          fault=("favoured[-1], favoured[1:-1]", "favoured[1:]")),
]

_ARITHMETIC = [
    Proof(name="divider", module="systola.hw.parts.divider",
          claim="quot = num // den, rem = num % den in its cycle: 7 by 4 bits, all operands",
          bench=partial(arithmetic.division, width=7, den_width=4, steps=2, quot_bits=5),
          method="induction", depth=12,
          fault=("trial + Mux(trial[-1], den, 0)", "trial + Mux(trial[-1], den, 1)")),
    Proof(name="root", module="systola.hw.vector.inverse_root",
          claim="3 steps of the root of all numbers of 8 bits, isqrt or one above; its reciprocal",
          bench=partial(arithmetic.root, width=8), method="induction", depth=14,
          reduced=_ROOT,
          fault=("shift.eq((k + 2) // 2)", "shift.eq((k + 1) // 2)")),
    Proof(name="normalised root", module="systola.hw.vector.normalised_root",
          claim="4 bits of the root of all numbers of 8 bits, the place of these, the quotient",
          bench=partial(arithmetic.normalised_root, width=8), method="induction", depth=14,
          reduced=_NORMALISED_ROOT,
          fault=("Cat(Const(3, 2), root ^", "Cat(Const(1, 2), root ^")),
    Proof(name="product, dsp", module="systola.hw.matrix.pe",
          claim="psum + weight * act, 4 by 5 bits, all operands",
          bench=partial(arithmetic.product, style="dsp", bits=4), method="induction", depth=8,
          fault=("product.eq(act * weight)", "product.eq(act[:-1] * weight)")),
    Proof(name="product, lut", module="systola.hw.matrix.pe",
          claim="psum + weight * act by Booth adders, 4 by 5 bits, all operands",
          bench=partial(arithmetic.product, style="lut", bits=4), method="induction", depth=8,
          fault=("add_with_carry(total[k:].as_signed(), term, high)",
                 "add_with_carry(total[k:].as_signed(), term, Const(0, 1))")),
    Proof(name="packed products, 2 bits", module="systola.hw.matrix.systolic",
          claim="4 products of 2-bit weights in a slice equal 4 multiplications, all operands",
          bench=partial(arithmetic.packed_products, bits=2, rows=1, group=4),
          method="induction", depth=8, inside="systola.hw.matrix.unwrap",
          fault=("whole - below)", "whole)")),
    Proof(name="packed products, 4 bits", module="systola.hw.matrix.systolic",
          claim="2 products of 4-bit weights in a slice equal 2 multiplications, all operands",
          bench=partial(arithmetic.packed_products, bits=4, rows=1, group=2),
          method="induction", depth=8, inside="systola.hw.matrix.unwrap",
          fault=("borrow = lanes[-1]", "borrow = Const(0, 1)")),
    Proof(name="two precisions", module="systola.hw.matrix.systolic",
          claim="2 products of 4-bit or 4 of 2-bit weights in a slice, in turn, all operands",
          bench=partial(arithmetic.two_precisions, bits=4, narrow_bits=2),
          method="induction", depth=8,
          fault=("packed.word_select(k, place)", "packed.word_select(0, place)")),
    Proof(name="field counter", module="systola.hw.matrix.unwrap",
          claim="the count follows a sum of 7 bits through any step that a tap may see",
          bench=arithmetic.field_counter, method="induction", depth=2,
          fault=("up, down = borrow & ~negative", "up, down = borrow")),
    Proof(name="requantizer", module="systola.hw.parts.requant",
          claim="sat(rne((z + bias) * mult, shift), bits): 3 by 3 bits, all shifts and widths",
          bench=partial(arithmetic.requantization, in_bits=3, mult_bits=2, out_bits=3),
          method="induction", depth=16, inside="systola.hw.parts.rescaler",
          fault=("up = near[0] & (sticky | near[1])", "up = near[0]")),
]

PROOFS = {proof.name: proof for proof in [*_STREAMS, *_QUEUES, *_PORTS, *_ARITHMETIC]}
"""All of them, by name."""


def proof_table():
    """Return the proofs as a Markdown table, for docs/FORMAL.md."""
    lines = ["| proof | unit | claim | method |", "|---|---|---|---|"]
    lines += [f"| {proof.name} | `{proof.module.split('.', 1)[1]}` | {proof.claim} | "
              f"{proof.method} |" for proof in PROOFS.values()]
    return "\n".join(lines) + "\n"
