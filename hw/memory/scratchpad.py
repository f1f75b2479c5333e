"""Banked scratchpad memory shared by the engines."""

from itertools import pairwise

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from systola.hw.memory.bank import Bank
from systola.hw.parts import shapes
from systola.hw.parts.arbiter import Arbiter
from systola.hw.parts.arguments import check_positive
from systola.hw.parts.credit_queue import CreditQueue

__all__ = ["Scratchpad"]


class Scratchpad(wiring.Component):
    """Words of R lanes in ``config.banks`` dual-port banks; the address's upper bits select one.

    Port A of every bank belongs to reader 0, the MATRIX activations: a word a cycle, never a
    conflict. Port B serves the other readers and all writers, at most one read and one write a
    cycle over all banks. Both in one bank take turns. Ports with lower indices go first, but one
    that waits is served within `Arbiter.turns` services of others for each port behind the first.

    Words come in request order, reader 0's at the earliest 6 cycles after the acceptance of the
    request, others' 5, and one a cycle sustained; a reader that does not take its words only stops
    itself. A read sees the writes accepted in cycles before its own, and none of later ones; of the
    same cycle only reader 0 may see one. Addresses must be below ``config.scratchpad_words``.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Size of the memory.
    readers, writers : int
        Number of ports.

    Members
    -------
    r : In(shapes.ReadPort(config)).array(readers)
        Read ports: MATRIX activations, then the others, highest priority first.
    w : In(shapes.WritePort(config)).array(writers)
        Write ports, highest priority first.

    Raises
    ------
    ValueError
        If `readers` or `writers` is not a positive integer.
    """

    CREDITS = 8
    """Words on the way to a reader or waiting for it; 8 of 7 cycles' way sustain one a cycle."""

    def __init__(self, config, readers, writers):
        check_positive(readers=readers, writers=writers)
        self.config, self.readers, self.writers = config, readers, writers
        self._offset_bits = config.bank_depth.bit_length() - 1
        super().__init__({
            "r": In(shapes.ReadPort(config)).array(readers),
            "w": In(shapes.WritePort(config)).array(writers),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        banks, queues = [], []
        for index in range(config.banks):
            bank = Bank(lanes=config.rows, depth=config.bank_depth)
            m.submodules[f"bank{index}"] = bank
            banks.append(bank)
        for index in range(self.readers):
            queue = CreditQueue(shape=shapes.word(config), depth=self.CREDITS)
            m.submodules[f"queue{index}"] = queue
            wiring.connect(m, queue.o, wiring.flipped(self.r[index].rsp))
            queues.append(queue)
        self._port_a(m, banks, queues[0])
        self._port_b(m, banks, queues[1:])
        return m

    def _select(self, addr):
        """Return which bank `addr` is in, one-hot, and its place there."""
        which = addr >> self._offset_bits
        return (Cat(which == index for index in range(self.config.banks)),
                addr[:self._offset_bits])

    def _port_a(self, m, banks, queue):
        """Read for reader 0 in the third cycle, when every write accepted before it is in."""
        req = self.r[0].req
        m.d.comb += [req.ready.eq(queue.room), queue.take.eq(req.valid & queue.room)]
        valid, addr = Signal(), Signal(16)
        early, due = Signal(len(banks)), Signal(len(banks))
        early_place, place = (Signal(self._offset_bits) for _ in range(2))
        where, offset = self._select(addr)
        m.d.sync += [valid.eq(queue.take), addr.eq(req.p.addr),
                     early.eq(Mux(valid, where, 0)), early_place.eq(offset),
                     due.eq(early), place.eq(early_place)]
        for index, bank in enumerate(banks):
            m.d.comb += [bank.a_addr.eq(place), bank.a_read.eq(due[index])]
        self._push(m, due.any(), [bank.a for bank in banks], [(queue, 1)])

    def _push(self, m, read, outputs, queues):
        """Join the banks' words a cycle after `read`; push the result to the queue selected."""
        joined = Signal.like(queues[0][0].data, reset_less=True)
        arrives, pushed = Signal(), Signal()
        word = outputs[0].as_value()
        for output in outputs[1:]:
            word |= output.as_value()
        m.d.sync += [arrives.eq(read), pushed.eq(arrives), joined.eq(word)]
        for queue, select in queues:
            m.d.comb += [queue.data.eq(joined), queue.push.eq(pushed & select)]

    def _port_b(self, m, banks, queues):
        """Accept a read and a write a cycle, and send both on unless they need the same bank."""
        m.submodules.writes = writes = Arbiter(len(self.w))
        write = data.StructLayout({"place": self._offset_bits,
                                   "data": self.w[0].req.p.data.shape(),
                                   "mask": self.config.rows})
        held, read_place = Signal(write, reset_less=True), Signal(self._offset_bits)
        # Whether there is a write and a read, and in which bank.
        slot = data.StructLayout({"valid": 1, "bank": range(len(banks))})
        written, from_where = Signal(slot), Signal(slot)
        # Whether they go on; known a cycle ahead, because readiness begins here and ends far away.
        send_write, send_read = Signal(init=1), Signal(init=1)
        m.d.comb += [writes.valid.eq(Cat(port.req.valid for port in self.w)),
                     writes.free.eq(send_write)]
        for index, port in enumerate(self.w):
            m.d.comb += port.req.ready.eq(writes.grant[index])
        next_write = self._chosen(m, self.w, writes.grant, send_write, written)
        m.d.sync += written.eq(next_write)
        for index, port in enumerate(self.w):
            with m.If(writes.grant[index]):
                m.d.sync += [held.place.eq(self._select(port.req.p.addr)[1]),
                             held.data.eq(port.req.p.data), held.mask.eq(port.req.p.mask)]
        self._to_banks(m, banks, held, (send_write, written), read_place,
                       (send_read, from_where))
        if not queues:
            return
        m.submodules.reads = reads = Arbiter(len(queues))
        ports, has_read = self.r[1:], Signal()
        m.d.comb += [
            reads.valid.eq(Cat(port.req.valid & queue.room
                               for port, queue in zip(ports, queues, strict=True))),
            reads.free.eq(send_read),
        ]
        next_read = self._chosen(m, ports, reads.grant, send_read, from_where)
        conflict = (next_write.valid & next_read.valid & (next_write.bank == next_read.bank))
        # The older one goes first, of equals the read. At most one of the two has waited.
        m.d.sync += [from_where.eq(next_read), send_read.eq(~(conflict & ~send_write)),
                     send_write.eq(~(conflict & send_write))]
        whose = [Signal(len(queues), name=f"whose_{stage}") for stage in range(4)]
        with m.If(reads.free):
            m.d.sync += [has_read.eq(reads.grant.any()), whose[0].eq(reads.grant)]
        for index, port in enumerate(ports):
            with m.If(reads.grant[index]):
                m.d.sync += read_place.eq(self._select(port.req.p.addr)[1])
        m.d.sync += [after.eq(before) for before, after in pairwise(whose)]
        for index, (port, queue) in enumerate(zip(ports, queues, strict=True)):
            m.d.comb += [port.req.ready.eq(reads.grant[index]),
                         queue.take.eq(reads.grant[index])]
        read = Signal()
        m.d.sync += read.eq(has_read & send_read)
        self._push(m, read, [bank.b for bank in banks],
                   [(queue, whose[3][index]) for index, queue in enumerate(queues)])

    def _chosen(self, m, ports, grant, free, slot):
        """Return the granted request's `slot`; if not `free`, that of the one that waits."""
        chosen = Signal.like(slot)
        bank, upper = Mux(free, 0, slot.bank), self._offset_bits
        for index, port in enumerate(ports):
            bank |= Mux(grant[index], port.req.p.addr[upper:upper + len(slot.bank)], 0)
        m.d.comb += [chosen.valid.eq(grant.any() | (slot.valid & ~free)), chosen.bank.eq(bank)]
        return chosen

    def _to_banks(self, m, banks, write, written, read_place, read_from):
        """Register what port B of each bank does in the next cycle.

        `written` and `read_from` are, of the write and the read, whether it goes on, and its slot.
        """
        word = Signal(write.data.shape(), reset_less=True)
        m.d.sync += word.eq(write.data)
        for index, bank in enumerate(banks):
            place = Signal(self._offset_bits, name=f"place_{index}", reset_less=True)
            mask = Signal(self.config.rows, name=f"mask_{index}", reset_less=True)
            read = Signal(name=f"read_{index}", reset_less=True)
            writes, reads = (goes & slot.valid & (slot.bank == index)
                             for goes, slot in (written, read_from))
            m.d.sync += [place.eq(Mux(writes, write.place, read_place)),
                         mask.eq(Mux(writes, write.mask, 0)), read.eq(reads)]
            m.d.comb += [bank.b_addr.eq(place), bank.b_write.eq(mask), bank.b_read.eq(read),
                         bank.b_data.eq(word)]
