"""Read levelling of a DDR3 memory without a processor: where in time its data are right."""

import random

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_least, check_positive
from systola.hw.parts.memory_port import MemoryPort
from systola.hw.resident.start_sequence import CsrBus

__all__ = ["BEATS", "REGISTERS", "ReadLevelling"]

BEATS = 8
"""Beats of the pattern, from address 0 on; what was there is lost."""

REGISTERS = ("dly_sel", "rdly_dq_rst", "rdly_dq_inc", "rdly_dq_bitslip_rst", "rdly_dq_bitslip",
             "wdly_dq_bitslip_rst", "wdly_dq_bitslip")
"""LiteDRAM's names of the registers that it needs: which byte lanes are meant, and delay of reads,
bit slip of reads and bit slip of writes, each to its first value and to the next one."""


class ReadLevelling(wiring.Component):
    """Finds delay and bit slips for each byte lane with which a pattern is read as it was written.

    For each lane it tries all of them, the delays innermost, keeps the longest row of delays that
    are right, and sets the one in its middle. The pattern is another one for each bit slip of
    writes, so that what an earlier one wrote never passes for right.

    It takes about ``bitslips**2 * delays * (BEATS + settle + 20)`` cycles for a lane: 2 ms for
    the two of an Arty at 100 MHz.

    Model: tests/hw/resident/test_read_levelling.py

    Parameters
    ----------
    bus_bytes : int
        Bytes of a beat, a multiple of `lanes`.
    lanes : int
        Bytes of the memory's data pins: byte k of a beat goes over lane ``k % lanes``.
    registers : dict of int
        Addresses of `REGISTERS`.
    address_bits : int
        Bits of an address of a register.
    delays, bitslips : int
        How many there are.
    settle : int
        Cycles from a change until reading.

    Members
    -------
    start : In(1)
        From now on the memory carries out commands; it stays high.
    port : Out(MemoryPort(bus_bytes=bus_bytes))
        The memory.
    csr : Out(CsrBus(address_bits=address_bits))
        The registers; ``adr`` is 0 when nothing is written.
    done : Out(1)
        All lanes are set.
    failed : Out(lanes)
        Lanes for which nothing was right.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, lanes, registers, address_bits, delays=32, bitslips=8,
                 settle=16):
        check_positive(bus_bytes=bus_bytes, lanes=lanes, address_bits=address_bits, settle=settle)
        check_least(delays=(delays, 2), bitslips=(bitslips, 2))
        if bus_bytes % lanes:
            raise ValueError(f"bus_bytes must be a multiple of {lanes} lanes, not {bus_bytes!r}")
        absent = [name for name in REGISTERS if name not in registers]
        if absent:
            raise ValueError(f"registers must have {absent[0]}, not only {', '.join(registers)}")
        self.bus_bytes, self.lanes, self.registers = bus_bytes, lanes, registers
        self.delays, self.bitslips, self.settle = delays, bitslips, settle
        super().__init__({
            "start": In(1), "port": Out(MemoryPort(bus_bytes=bus_bytes)),
            "csr": Out(CsrBus(address_bits=address_bits)), "done": Out(1), "failed": Out(lanes),
        })

    def elaborate(self, platform):
        m = Module()
        bits = 8 * self.bus_bytes
        lane = Signal(range(self.lanes))
        write_slip, read_slip, delay = Signal(range(self.bitslips)), Signal(range(self.bitslips)), \
            Signal(range(self.delays))
        right, run, best = Signal(), Signal(range(self.delays + 1)), Signal(range(self.delays + 1))
        best_write, best_read, best_delay = (Signal.like(value) for value in
                                             (write_slip, read_slip, delay))
        count, wait = Signal(range(BEATS)), Signal(range(self.settle))
        # Bits without a period, a bit further in every beat.
        base = Signal(bits, init=random.Random(bits).getrandbits(bits))
        beat = Signal(bits)
        port = self.port
        m.d.comb += [
            port.write.p.address.eq(count), port.write.p.beat.eq(beat),
            port.read.p.address.eq(0), port.read.p.beats.eq(BEATS),
        ]

        def set_register(name, value=1):
            m.d.comb += [self.csr.adr.eq(self.registers[name]), self.csr.we.eq(1),
                         self.csr.dat_w.eq(value)]

        def repeat(state, name, left, after):
            with m.State(state):
                m.next = after
                with m.If(left != 0):
                    set_register(name)
                    m.d.sync += left.eq(left - 1)
                    m.next = state

        wrong = Cat((port.data.p.beat ^ beat).word_select(k, 8).any()
                    & (lane == k % self.lanes) for k in range(self.bus_bytes))
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.next = "LANE"
            with m.State("LANE"):
                set_register("dly_sel", 1 << lane)
                m.d.sync += [best.eq(0), best_write.eq(0), best_read.eq(0), best_delay.eq(0)]
                m.next = "FIRST_WRITE_SLIP"
            with m.State("FIRST_WRITE_SLIP"):
                set_register("wdly_dq_bitslip_rst")
                m.d.sync += [write_slip.eq(0), wait.eq(self.settle - 1)]
                m.next = "SETTLE_WRITE"
            with m.State("SETTLE_WRITE"):
                m.d.sync += [wait.eq(wait - 1), count.eq(0), beat.eq(base)]
                with m.If(wait == 0):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += port.write.valid.eq(1)
                with m.If(port.write.ready):
                    m.d.sync += [count.eq(count + 1), beat.eq(beat.rotate_left(1))]
                    with m.If(count == BEATS - 1):
                        m.next = "FIRST_READ_SLIP"
            with m.State("FIRST_READ_SLIP"):
                set_register("rdly_dq_bitslip_rst")
                m.d.sync += read_slip.eq(0)
                m.next = "FIRST_DELAY"
            with m.State("FIRST_DELAY"):
                set_register("rdly_dq_rst")
                m.d.sync += [delay.eq(0), run.eq(0), wait.eq(self.settle - 1)]
                m.next = "SETTLE_READ"
            with m.State("SETTLE_READ"):
                m.d.sync += [wait.eq(wait - 1), count.eq(0), beat.eq(base), right.eq(1)]
                with m.If(wait == 0):
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += port.read.valid.eq(1)
                with m.If(port.read.ready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += port.data.ready.eq(1)
                with m.If(port.data.valid):
                    m.d.sync += [count.eq(count + 1), beat.eq(beat.rotate_left(1))]
                    with m.If(wrong.any()):
                        m.d.sync += right.eq(0)
                    with m.If(count == BEATS - 1):
                        m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += run.eq(0)
                with m.If(right):
                    m.d.sync += run.eq(run + 1)
                m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.If(run > best):
                    m.d.sync += [best.eq(run), best_write.eq(write_slip), best_read.eq(read_slip),
                                 best_delay.eq(delay - (run >> 1))]
                m.d.sync += wait.eq(self.settle - 1)
                m.next = "SETTLE_READ"
                with m.If(delay != self.delays - 1):
                    set_register("rdly_dq_inc")
                    m.d.sync += delay.eq(delay + 1)
                with m.Elif(read_slip != self.bitslips - 1):
                    set_register("rdly_dq_bitslip")
                    m.d.sync += read_slip.eq(read_slip + 1)
                    m.next = "FIRST_DELAY"
                with m.Elif(write_slip != self.bitslips - 1):
                    set_register("wdly_dq_bitslip")
                    m.d.sync += [write_slip.eq(write_slip + 1),
                                 base.eq(base.rotate_left(BEATS + 1))]
                    m.next = "SETTLE_WRITE"
                with m.Else():
                    m.next = "BEST_WRITE"
            with m.State("BEST_WRITE"):
                set_register("wdly_dq_bitslip_rst")
                m.d.sync += self.failed.bit_select(lane, 1).eq(best == 0)
                m.next = "WRITE_SLIPS"
            repeat("WRITE_SLIPS", "wdly_dq_bitslip", best_write, "BEST_READ")
            with m.State("BEST_READ"):
                set_register("rdly_dq_bitslip_rst")
                m.next = "READ_SLIPS"
            repeat("READ_SLIPS", "rdly_dq_bitslip", best_read, "BEST_DELAY")
            with m.State("BEST_DELAY"):
                set_register("rdly_dq_rst")
                m.next = "DELAYS"
            repeat("DELAYS", "rdly_dq_inc", best_delay, "NEXT")
            with m.State("NEXT"):
                m.d.sync += [lane.eq(lane + 1), base.eq(base.rotate_left(BEATS + 1))]
                m.next = "LANE"
                with m.If(lane == self.lanes - 1):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
        return m
