"""Register slice: cuts the timing paths of a stream between two units."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RegisterSlice"]


class RegisterSlice(wiring.Component):
    """Pass a stream on with ``i.ready`` straight from a register.

    With `forward`, valid and payload come from registers, too: latency 1 cycle, two entries. Else
    only the way back is cut: latency 0, one entry, and a payload multiplexer in the way forward.
    Throughput 1 in both cases. Both take one LUT a bit; two flip-flops a bit, or one.

    Model: none: moves data

    Parameters
    ----------
    shape : ShapeLike
        Payload.
    forward : bool
        Cut the way forward, too.

    Members
    -------
    i : In(stream.Signature(shape))
        Values.
    o : Out(stream.Signature(shape))
        The same values.
    """

    def __init__(self, shape, *, forward=True):
        self.shape, self.forward = shape, forward
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        # What came in while the output was stalled; the input is ready as long as this is empty.
        empty, spare = Signal(init=1), Signal(self.shape, reset_less=True)
        valid, payload = Signal(), Signal(self.shape)
        moves = Signal()  # the next one leaves the slice, or enters its output register
        m.d.comb += [self.i.ready.eq(empty), valid.eq(~empty | self.i.valid),
                     payload.eq(Mux(empty, self.i.p, spare))]
        with m.If(empty):
            m.d.sync += spare.eq(self.i.p)
        if self.forward:
            register = Signal(self.shape, reset_less=True)
            m.d.comb += [moves.eq(~self.o.valid | self.o.ready), self.o.p.eq(register)]
            with m.If(moves):
                m.d.sync += [self.o.valid.eq(valid), register.eq(payload)]
        else:
            m.d.comb += [moves.eq(self.o.ready), self.o.valid.eq(valid), self.o.p.eq(payload)]
        m.d.sync += empty.eq(~valid | moves)
        return m
