"""Accumulator memories behind the columns of the systolic array, in several buffers."""

from itertools import pairwise

from amaranth import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.contract.latency import SUM_GAP
from systola.hw.parts import shapes
from systola.hw.parts.arguments import check_positive

__all__ = ["Accumulators"]


class Accumulators(wiring.Component):
    """Add up partial sums: entry (buffer, t) := (first ? 0 : entry) + (psum << act_bits*digit).

    The control `i` of column 0 comes one cycle before its psum, when the entry is read; the new
    value is written two cycles after the psum, with registers on both sides of the addition: block
    RAM may be far from it. Column c takes both ``delays[c]`` cycles later. One sum a cycle; two
    sums for the same entry must be at least `gap` cycles apart. Sums wrap at `acc_bits`.

    Meanwhile another buffer can be read: ``row_en`` in one cycle gives all columns of entry
    ``row_t`` of ``row_buffer`` in the next, in its place of ``rows``, and holds them. Meanwhile,
    that buffer's entries may only be written with ``first`` sums.

    With `half`, a ``narrow`` control says that psum and entry are two numbers each, of `half` and
    `half_acc` bits, the first one lowest, which are added up apart.

    Model: model/operators/matmul.py

    Parameters
    ----------
    delays : sequence of int
        For each column of the array, cycles that its sums are later than those of column 0; 0 and
        rising by at most one.
    psum_bits : int
        Bits of the sums.
    act_bits, digits : int
        Bits and greatest number of the digits of a split operand.
    acc_bits, depth : int
        Bits of an entry, and entries of a buffer.
    buffers : int
        Number of buffers, each a memory of its own for every column.
    half, half_acc : int, optional
        Bits of each of two narrow sums, and of each part of a narrow entry; 0 if there are none.

    Members
    -------
    valid, i : In(1), In(shapes.control_layout(depth, digits, buffers, narrow=bool(half)))
        Control of column 0.
    psum : In(ArrayLayout(signed(psum_bits), len(delays)))
        Sums, column c delayed by ``delays[c]`` cycles.
    done : Out(1)
        From now on the rows of a tile that is complete with its ``last`` sum can be read, in their
        order and one a cycle; the last of several is written one cycle later.
    row_en, row_t, row_buffer : In
        Read request.
    rows : Out(ArrayLayout(ArrayLayout(signed(acc_bits), cols), buffers))
        The entry read, at its buffer.

    Raises
    ------
    ValueError
        If `delays` is not such a sequence or another parameter not a positive integer; the message
        names it.
    """

    gap = SUM_GAP

    def __init__(self, *, delays, psum_bits, act_bits, digits, acc_bits, depth, buffers=2, half=0,
                 half_acc=0):
        delays = tuple(delays)
        if not delays or delays[0] or any(b - a not in {0, 1} for a, b in pairwise(delays)):
            raise ValueError(f"delays must start with 0 and rise by at most 1, not {delays!r}")
        check_positive(psum_bits=psum_bits, act_bits=act_bits, digits=digits, acc_bits=acc_bits,
                       depth=depth, buffers=buffers)
        self.delays, self.act_bits, self.digits = delays, act_bits, digits
        if half and not (half <= half_acc <= acc_bits // 2 and 2 * half <= psum_bits):
            raise ValueError(f"half must be at most half_acc ({half_acc!r}), and both at most half "
                             f"of the whole (of {psum_bits!r} and {acc_bits!r}), not {half!r}")
        self.acc_bits, self.depth, self.buffers = acc_bits, depth, buffers
        self.half, self.half_acc = half, half_acc
        super().__init__({
            "valid": In(1), "i": In(shapes.control_layout(depth, digits, buffers,
                                                            narrow=bool(half))),
            "psum": In(data.ArrayLayout(signed(psum_bits), len(delays))), "done": Out(1),
            "row_en": In(1), "row_t": In(range(depth)),
            "row_buffer": In(range(buffers)),
            "rows": Out(data.ArrayLayout(
                data.ArrayLayout(signed(self.acc_bits), len(delays)), buffers)),
        })

    def elaborate(self, platform):
        m = Module()
        valids, controls = [self.valid], [self.i]
        for stage in range(1, self.delays[-1] + 4):
            valids.append(Signal(name=f"valid_{stage}"))
            controls.append(Signal(self.i.shape(), name=f"control_{stage}", reset_less=True))
            m.d.sync += [valids[stage].eq(valids[stage - 1]),
                         controls[stage].eq(controls[stage - 1])]
        # Of one row, which is read at once, its write is awaited.
        ends = [valid & control.last & ((control.t == 0) == alone) for alone, valid, control in (
            (0, valids[-3], controls[-3]), (1, valids[-2], controls[-2]))]
        m.d.sync += self.done.eq(ends[0] | ends[1])
        for c, delay in enumerate(self.delays):
            before = Array()
            total = Signal(signed(self.acc_bits), name=f"total_{c}", reset_less=True)
            weighted = Signal.like(total, name=f"weighted_{c}")
            here, summed, adds, after = controls[delay:delay + 4]
            for buffer in range(self.buffers):
                memory = Memory(shape=signed(self.acc_bits), depth=self.depth, init=[])
                m.submodules[f"memory_{c}_{buffer}"] = memory
                write, read = memory.write_port(), memory.read_port()
                # The request of a row comes late in its cycle: no address waits for it.
                adds_here = valids[delay] & (here.buffer == buffer) & ~here.first
                m.d.comb += [
                    read.en.eq((self.row_en & (self.row_buffer == buffer)) | adds_here),
                    read.addr.eq(Mux(adds_here, here.t, self.row_t)),
                    write.en.eq(valids[delay + 3] & (after.buffer == buffer)),
                    write.addr.eq(after.t), write.data.eq(total),
                ]
                m.d.comb += self.rows[buffer][c].eq(read.data)
                before.append(Signal.like(total, name=f"before_{c}_{buffer}"))
                m.d.sync += before[buffer].eq(read.data)
            shifted = self.psum[c]
            for digit in range(1, self.digits):
                shifted = Mux(summed.digit == digit, self.psum[c] << self.act_bits * digit,
                              shifted)
            m.d.sync += weighted.eq(shifted)
            if self.half:
                with m.If(summed.narrow):
                    m.d.sync += weighted.eq(self._pair(self.psum[c], self.half))
            old = Mux(adds.first, 0, before[adds.buffer])
            m.d.sync += total.eq(self._add(weighted, old, adds.narrow) if self.half
                                 else weighted + old)
        return m

    def _pair(self, psum, bits):
        """Return the two numbers of `bits` in `psum`, each in its half of an entry."""
        low, high = (psum[k * bits:(k + 1) * bits] for k in range(2))
        return Cat(low, *[low[-1]] * (self.half_acc - bits), high).as_signed()

    def _add(self, a, b, narrow):
        """Return the sum of two entries; of narrow ones no carry goes from half to half.

        One chain: in the place between the halves, one operand lets the carry pass or not.
        """
        place = self.half_acc
        total = (Cat(a[:place], ~narrow, a[place:]).as_signed()
                 + Cat(b[:place], Const(0, 1), b[place:]).as_signed())
        return Cat(total[:place], total[place + 1:])
