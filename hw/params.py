"""Parameter memory: requantization records for the matrix and vector engines."""

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from systola.hw import shapes
from systola.hw.credit import CreditQueue

__all__ = ["ParamMemory"]


class ParamMemory(wiring.Component):
    """``config.param_depth`` words of ``config.lanes`` records; every port works in every cycle.

    A read port gives its words in order, at the earliest 2 cycles after the request, one a cycle
    sustained. A word written in a cycle is visible to requests of later cycles.

    Parameters
    ----------
    config : AcceleratorConfig
        Size of the memory.
    readers : int
        Number of read ports; each costs a copy of the memory.

    Members
    -------
    r : In(shapes.ParamPort(config)).array(readers)
        Read ports.
    w : In(stream.Signature(shapes.param_write(config)))
        Writes, always accepted.

    Raises
    ------
    ValueError
        If `readers` is not a positive integer.
    """

    def __init__(self, config, readers=2):
        if not isinstance(readers, int) or readers < 1:
            raise ValueError(f"readers must be a positive integer, not {readers!r}")
        self.config = config
        super().__init__({"r": In(shapes.ParamPort(config)).array(readers),
                          "w": In(stream.Signature(shapes.param_write(config)))})

    def elaborate(self, platform):
        m = Module()
        word = shapes.param_word(self.config)
        m.submodules.memory = memory = Memory(shape=word, depth=self.config.param_depth, init=[])
        write = memory.write_port()
        m.d.comb += [self.w.ready.eq(1), write.en.eq(self.w.valid),
                     write.addr.eq(self.w.p.addr), write.data.eq(self.w.p.data)]
        for index, port in enumerate(self.r):
            read, pushed = memory.read_port(), Signal()
            m.submodules[f"queue{index}"] = queue = CreditQueue(shape=word)
            wiring.connect(m, queue.o, wiring.flipped(port.rsp))
            m.d.comb += [read.addr.eq(port.req.p), read.en.eq(queue.take),
                         port.req.ready.eq(queue.room),
                         queue.take.eq(port.req.valid & queue.room),
                         queue.push.eq(pushed), queue.data.eq(read.data)]
            m.d.sync += pushed.eq(queue.take)
        return m
