"""Sequential checker of instructions: one narrow multiply-add path runs a table of steps."""

from amaranth import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw import shapes
from systola.hw.checks import When, check_steps
from systola.hw.isa import INSTRUCTION_BYTES, Error, Flag, Opcode

__all__ = ["Checker"]

_SUM_BITS = 35
"""Three products of 16-bit fields and two fields stay below 2**34."""


class Checker(wiring.Component):
    """Run the `check_steps` of one instruction; stop at the first that fails.

    Each step takes a cycle for every started four bits of its multiplier (at least one); loading
    the first step and comparing the last sum take one more each. A MATMUL of the digits network
    takes about 25 cycles.

    Parameters
    ----------
    config : AcceleratorConfig
        Limits.

    Members
    -------
    word : In(512)
        The instruction, constant from start to done.
    start : In(1)
        Begin; the opcode must be one of an engine.
    done : Out(1)
        High for one cycle at the end.
    cause : Out(8)
        `Error` of the instruction, together with ``done``.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({"word": In(8 * INSTRUCTION_BYTES), "start": In(1), "done": Out(1),
                          "cause": Out(8)})

    def elaborate(self, platform):
        m = Module()
        program = [(opcode, step) for opcode, steps in check_steps(self.config).items()
                   for step in steps]
        ends = {k for k in range(len(program))
                if k + 1 == len(program) or program[k][0] is not program[k + 1][0]}
        starts = {opcode: next(k for k, (other, _) in enumerate(program) if other is opcode)
                  for opcode, _ in program}
        index = Signal(range(len(program)))  # the step to load next
        more, active = Signal(), Signal()    # there is one; one is being multiplied
        a, b, first, last = Signal(32), Signal(16), Signal(), Signal()
        low, high, cause = Signal(_SUM_BITS), Signal(_SUM_BITS), Signal(8)
        with m.Switch(index):
            for k, (opcode, step) in enumerate(program):
                with m.Case(k):
                    self._select(m, opcode, step, a, b)
                    high_value = self._operand(opcode, step.high)
                    m.d.comb += [first.eq(step.first), last.eq(k in ends), cause.eq(step.cause),
                                 low.eq(self._operand(opcode, step.low)), high.eq(high_value)]

        x, y, total = Signal(32), Signal(16), Signal(_SUM_BITS)
        fresh, ending = Signal(), Signal()
        limits = [Signal.like(s) for s in (low, high, cause)]
        checks = low_due, high_due, cause_due = [Signal.like(s) for s in limits]
        due, ending_due, leave, fails = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            leave.eq(active & (y[4:] == 0)),
            fails.eq((cause_due != Error.NONE) & ((total < low_due) | (total > high_due))),
            self.done.eq(due & (fails | ending_due)), self.cause.eq(Mux(fails, cause_due, 0)),
        ]
        # Written as shifts, or synthesis would spend DSP slices that the array needs.
        product = sum(Mux(y[k], x << k, 0) for k in range(4))
        with m.If(active):
            m.d.sync += [total.eq(Mux(fresh, 0, total) + product), x.eq(x << 4), y.eq(y >> 4),
                         fresh.eq(0)]
        m.d.sync += [due.eq(leave), ending_due.eq(ending)]
        m.d.sync += [later.eq(now) for later, now in zip(checks, limits, strict=True)]
        with m.If(~active | leave):
            m.d.sync += [active.eq(more), index.eq(index + 1), x.eq(a), y.eq(b), fresh.eq(first),
                         ending.eq(last), more.eq(more & ~last)]
            m.d.sync += [now.eq(new) for now, new in zip(limits, (low, high, cause), strict=True)]
        with m.If(self.done):
            m.d.sync += [more.eq(0), active.eq(0), due.eq(0)]
        with m.If(self.start):
            m.d.sync += more.eq(1)
            with m.Switch(self.word[:8]):
                for opcode, k in starts.items():
                    with m.Case(opcode):
                        m.d.sync += index.eq(k)
        return m

    def _operand(self, opcode, operand):
        """Return a constant, a field of the instruction, or for None the largest sum."""
        if isinstance(operand, str):
            form = shapes.body(opcode)
            return form(self.word[16:16 + form.size])[operand]
        return Const((1 << _SUM_BITS) - 1 if operand is None else operand, _SUM_BITS)

    def _select(self, m, opcode, step, a, b):
        """Drive the operands of `step`."""
        m.d.comb += a.eq(self._operand(opcode, step.a))
        term = b.eq(self._operand(opcode, step.b) - step.less)
        if step.when is None:
            m.d.comb += term
            return
        flags, out_bits = (self._operand(Opcode.MATMUL, name) for name in ("flags", "out_bits"))
        with m.If({When.RESIDUAL: (flags & Flag.RESIDUAL).any(),
                   When.ROW_SCALE: (flags & Flag.ROW_SCALE).any(),
                   When.PER_CHANNEL: ~(flags & Flag.BROADCAST).any(),
                   When.WIDE: out_bits > 8}[step.when]):
            m.d.comb += term
