"""Row factor memory: what the rows of A.V are multiplied with to divide them by their sums."""

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from systola.hw.parts import shapes
from systola.hw.parts.credit_queue import CreditQueue

__all__ = ["RowFactors"]


class RowFactors(wiring.Component):
    """``config.factor_depth`` factors, written by the VECTOR engine and read by the MATRIX engine.

    Factors come in the order of the requests, at the earliest 3 cycles later, one a cycle
    sustained. A factor written in a cycle is visible to requests of later cycles. Addresses must be
    below ``config.factor_depth``.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Size; ``attention`` must not be ``published``.

    Members
    -------
    w : In(stream.Signature(shapes.factor_write(config), always_ready=True))
        Writes.
    r : In(shapes.FactorPort(config))
        Reads.

    Raises
    ------
    ValueError
        If `config` has no factors.
    """

    def __init__(self, config):
        if not config.factor_depth:
            raise ValueError(f"attention must be one that is divided after A.V, not "
                             f"{config.attention!r}")
        self.config = config
        super().__init__({"w": In(stream.Signature(shapes.factor_write(config),
                                                    always_ready=True)),
                          "r": In(shapes.FactorPort(config))})

    def elaborate(self, platform):
        m = Module()
        shape, depth = self.r.rsp.p.shape(), self.config.factor_depth
        m.submodules.memory = memory = Memory(shape=shape, depth=depth, init=[])
        m.submodules.queue = queue = CreditQueue(shape=shape)
        write, read = memory.write_port(), memory.read_port()
        wiring.connect(m, queue.o, wiring.flipped(self.r.rsp))
        asked, arrives = Signal(), Signal()
        m.d.comb += [
            write.en.eq(self.w.valid), write.addr.eq(self.w.p.addr),
            write.data.eq(self.w.p.factor),
            self.r.req.ready.eq(queue.room), queue.take.eq(self.r.req.valid & queue.room),
            queue.data.eq(read.data), queue.push.eq(arrives), read.en.eq(1),
        ]
        m.d.sync += [read.addr.eq(self.r.req.p), asked.eq(queue.take), arrives.eq(asked)]
        return m
