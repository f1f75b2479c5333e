"""Parameter memory: requantization records for the matrix and vector engines."""

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from systola.hw.parts import shapes
from systola.hw.parts.arbiter import Arbiter
from systola.hw.parts.arguments import check_positive
from systola.hw.parts.credit_queue import CreditQueue
from systola.hw.parts.register_slice import RegisterSlice

__all__ = ["ParamMemory"]


class ParamMemory(wiring.Component):
    """``config.param_depth`` words of ``config.lanes`` records, read by several clients in turn.

    One word a cycle over all read ports, of which lower indices go first; one that waits is served
    within `Arbiter.turns` services of others for each port behind the first. With as many
    ``config.param_ports`` as read ports, each has one a cycle for itself, and block RAM keeps all
    words as often. A port gives its words in order, at the earliest 4 cycles after the request, one
    a cycle if it is alone. A word written
    in a cycle is visible to requests of later cycles. Requests pass a register slice, so that no
    client's signals reach another one within a cycle.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Size of the memory.
    readers : int
        Number of read ports.

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
        check_positive(readers=readers)
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
        clients = list(enumerate(self.r))
        for group in [clients] if self.config.param_ports == 1 else [[one] for one in clients]:
            self._serve(m, memory.read_port(), group)
        return m

    def _serve(self, m, read, clients):
        """Give numbered read ports of this unit their turns at one of the memory."""
        word = shapes.param_word(self.config)
        arbiter = Arbiter(len(clients))
        m.submodules[f"arbiter{clients[0][0]}"] = arbiter
        m.d.comb += [arbiter.free.eq(1), read.en.eq(1)]
        asked, arrives = Signal(len(clients)), Signal(len(clients))
        m.d.sync += [asked.eq(arbiter.grant), arrives.eq(asked)]
        for place, (index, port) in enumerate(clients):
            m.submodules[f"queue{index}"] = queue = CreditQueue(shape=word)
            wiring.connect(m, queue.o, wiring.flipped(port.rsp))
            m.submodules[f"request{index}"] = request = RegisterSlice(len(read.addr))
            m.d.comb += [request.i.valid.eq(port.req.valid), request.i.p.eq(port.req.p),
                         port.req.ready.eq(request.i.ready),
                         arbiter.valid[place].eq(request.o.valid & queue.room),
                         request.o.ready.eq(arbiter.grant[place]),
                         queue.take.eq(arbiter.grant[place]),
                         queue.push.eq(arrives[place]), queue.data.eq(read.data)]
            with m.If(arbiter.grant[place]):
                m.d.sync += read.addr.eq(request.o.p)
