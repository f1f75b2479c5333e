"""Mean and variance of rows in one pass over the data."""

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.divider import Divider
from systola.hw.pipeline import Pipeline
from systola.hw.shapes import row_beat

__all__ = ["RowMoments"]


class RowMoments(wiring.Component):
    """Compute ``mean = rne(sum x / C)`` and ``v = sum (x - mean)**2`` of each row, exactly.

    Rounds half to even. ``v = sum x**2 - mean * (2 * sum x - C * mean)``, so the row is not needed
    a second time. Throughput one beat a cycle, and one row every `period` cycles (the division and
    the products, while the next row is summed). Latency from the last beat `latency` cycles.
    Model: ``systola.sim.layernorm``.

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    steps : int
        Quotient bits per cycle.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(16), lanes)))
        Rows of 1 to `max_row` codes, C of them by ``keep``.
    o : Out(stream.Signature(StructLayout))
        ``mean``: signed(16), ``v``: unsigned(v_bits), for each row.

    Raises
    ------
    ValueError
        If `lanes` or `max_row` is not a positive integer.
    """

    def __init__(self, *, lanes, max_row, steps=2):
        for name, value in ("lanes", lanes), ("max_row", max_row):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        self.lanes, self.count_bits = lanes, max_row.bit_length()
        self.v_bits = (max_row << 30).bit_length()  # C * 2**30 bounds the variance of 16-bit codes
        self.steps = steps
        self.period = -(-16 // steps) + 4 + 2 * Pipeline.multiply_cycles(16)
        levels = -(-(lanes - 1).bit_length() // 2)
        self.latency = 2 + levels + 1 + self.period
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(16), lanes))),
            "o": Out(stream.Signature(data.StructLayout(
                {"mean": signed(16), "v": unsigned(self.v_bits)}))),
        })

    def elaborate(self, platform):
        m = Module()
        row = Signal(data.StructLayout({"total": signed(16 + self.count_bits),
                                        "squares": unsigned(32 + self.count_bits),
                                        "count": unsigned(self.count_bits)}), reset_less=True)
        row_valid, row_free = Signal(), Signal()
        self._add_up(m, row, row_valid, row_free)
        self._combine(m, row, row_valid, row_free)
        return m

    def _add_up(self, m, row, row_valid, row_free):
        """Sum x, x**2 and the kept lanes of each row into `row`."""
        advance = Signal()
        m.d.comb += [advance.eq(~row_valid | row_free), self.i.ready.eq(advance)]
        pipe, beat = Pipeline(m, advance), self.i.p
        x = [pipe.reg(Mux(beat.keep[k], beat.x[k], 0)) for k in range(self.lanes)]
        squares, cycles = pipe.add_up([pipe.reg((x[k] * x[k]).as_unsigned())
                                       for k in range(self.lanes)])
        total, _ = pipe.add_up([pipe.reg(value) for value in x])
        count = pipe.delay(sum(beat.keep[k] for k in range(self.lanes)), cycles + 2)
        valid = pipe.delay(self.i.valid, cycles + 2, reset_less=False)
        last = pipe.delay(beat.last, cycles + 2)
        first = Signal(init=1)
        with m.If(advance):
            m.d.sync += row_valid.eq(valid & last)
            with m.If(valid):
                m.d.sync += [first.eq(last), row.total.eq(Mux(first, 0, row.total) + total),
                             row.squares.eq(Mux(first, 0, row.squares) + squares),
                             row.count.eq(Mux(first, 0, row.count) + count)]

    def _combine(self, m, row, row_valid, row_free):
        """Divide for the mean, then multiply twice for the variance."""
        m.submodules.divider = divider = Divider(
            width=16 + self.count_bits, den_width=self.count_bits, steps=self.steps,
            quot_bits=16)  # |sum| // C is at most 2**15
        held = Signal.like(row, reset_less=True)
        mean = Signal(signed(16), reset_less=True)
        factor = Signal(signed(18 + self.count_bits), reset_less=True)
        product = Pipeline(m).multiply(factor, mean)
        quot, rem = divider.o.p.quot, divider.o.p.rem
        cycles = Pipeline.multiply_cycles(16)
        step, rounded = Signal(range(2 * cycles + 2)), Signal(17)
        m.d.comb += [
            divider.i.p.num.eq(abs(row.total)), divider.i.p.den.eq(row.count),
            divider.o.ready.eq(1),
            rounded.eq(quot + ((rem << 1) + quot[0] > held.count)),  # a tie rounds up if odd
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [row_free.eq(1), divider.i.valid.eq(row_valid)]
                m.d.sync += [held.eq(row), step.eq(0)]
                with m.If(row_valid):
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.sync += [mean.eq(Mux(held.total < 0, -rounded, rounded)),
                             factor.eq(held.count)]
                with m.If(divider.o.valid):
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                with m.If(step != 2 * cycles + 1):
                    m.d.sync += step.eq(step + 1)
                with m.If(step == cycles):  # `factor` becomes the second factor; the mean stays
                    m.d.sync += factor.eq((held.total << 1) - product)
                with m.If((step == 2 * cycles + 1) & (~self.o.valid | self.o.ready)):
                    m.d.sync += [self.o.p.mean.eq(mean), self.o.valid.eq(1),
                                 self.o.p.v.eq(held.squares - product)]
                    m.next = "IDLE"
        return m
