"""Banked scratchpad memory shared by the engines."""

from amaranth import Array, Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from systola.hw import shapes
from systola.hw.credit import CreditQueue

__all__ = ["Scratchpad"]


class Scratchpad(wiring.Component):
    """Words of R lanes in ``config.banks`` banks; one read and one write per bank and cycle.

    The address's upper bits select the bank. Per bank the port with the lowest index goes first.
    Each reader gets its words in request order, at the earliest 2 cycles after the acceptance,
    one word a cycle sustained; a reader that does not take its words only stops itself.
    A write is visible to every read accepted in a later cycle than the write; a read accepted in
    the same cycle gets the old word. Addresses must be below ``config.scratchpad_words``.

    Parameters
    ----------
    config : AcceleratorConfig
        Size of the memory.
    readers, writers : int
        Number of ports.

    Members
    -------
    r : In(shapes.ReadPort(config)).array(readers)
        Read ports, highest priority first.
    w : In(shapes.WritePort(config)).array(writers)
        Write ports, highest priority first.

    Raises
    ------
    ValueError
        If `readers` or `writers` is not a positive integer.
    """

    def __init__(self, config, readers, writers):
        for name, value in ("readers", readers), ("writers", writers):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        self.config, self.readers, self.writers = config, readers, writers
        super().__init__({
            "r": In(shapes.ReadPort(config)).array(readers),
            "w": In(shapes.WritePort(config)).array(writers),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        offset_bits = config.bank_depth.bit_length() - 1
        queues = []
        for index in range(self.readers):
            queue = CreditQueue(shape=shapes.word(config))
            m.submodules[f"queue{index}"] = queue
            wiring.connect(m, queue.o, wiring.flipped(self.r[index].rsp))
            queues.append(queue)

        def select(requests, addresses, bank):
            """Return the requests to `bank`, and of those the one that is served, as one-hot."""
            wants = [valid & (addr >> offset_bits == bank)
                     for valid, addr in zip(requests, addresses, strict=True)]
            return [want & ~Cat(*wants[:k]).any() for k, want in enumerate(wants)]

        reads = [port.req.valid & queue.room
                 for port, queue in zip(self.r, queues, strict=True)]
        served = [[] for _ in queues]   # per reader: this bank serves it, and the bank's output
        taken = [[] for _ in self.w]
        for bank in range(config.banks):
            memory = Memory(shape=data.ArrayLayout(8, config.rows), depth=config.bank_depth,
                            init=[])
            m.submodules[f"bank{bank}"] = memory
            read, write = memory.read_port(), memory.write_port(granularity=1)
            grants = select(reads, [port.req.p.addr for port in self.r], bank)
            m.d.comb += read.en.eq(Cat(*grants).any())
            for grant, port, words in zip(grants, self.r, served, strict=True):
                with m.If(grant):
                    m.d.comb += read.addr.eq(port.req.p.addr[:offset_bits])
                words.append((grant, read.data.as_value()))
            grants = select([port.req.valid for port in self.w],
                            [port.req.p.addr for port in self.w], bank)
            for grant, port, banks in zip(grants, self.w, taken, strict=True):
                with m.If(grant):
                    m.d.comb += [write.addr.eq(port.req.p.addr[:offset_bits]),
                                 write.data.eq(port.req.p.data), write.en.eq(port.req.p.mask)]
                banks.append(grant)

        for port, banks in zip(self.w, taken, strict=True):
            m.d.comb += port.req.ready.eq(Cat(*banks).any())
        for port, queue, words in zip(self.r, queues, served, strict=True):
            grants = Cat(grant for grant, _ in words)
            bank, pushed = Signal(range(config.banks)), Signal()  # the word on its way
            m.d.sync += [bank.eq(port.req.p.addr >> offset_bits), pushed.eq(grants.any())]
            m.d.comb += [queue.take.eq(grants.any()), port.req.ready.eq(queue.take),
                         queue.push.eq(pushed),
                         queue.data.eq(Array(output for _, output in words)[bank])]
        return m
