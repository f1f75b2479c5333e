"""Sequential checker of instructions: one narrow multiply-add path runs a table of steps."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.checks import When, check_steps
from systola.hw.contract.isa import HEADER_BYTES, INSTRUCTION_BYTES, Error, Flag, Opcode
from systola.hw.contract.latency import CHECK_LATENCY
from systola.hw.contract.numbers import CODE_BITS
from systola.hw.parts import shapes

__all__ = ["Checker"]

_SUM_BITS = 35
"""Three products of 16-bit fields and two fields stay below 2**34."""

_ROLES = "a", "b", "low", "high"
"""Operands of a `Step`."""


class Checker(wiring.Component):
    """Run the `check_steps` of one instruction; stop at the first that fails.

    Each step takes a cycle for every started four bits of its multiplier (at least one), and the
    stages around take `Checker.LATENCY` more, once. A MATMUL of the digits network takes about 30
    cycles. Nothing between registers is deeper than 5 LUTs.

    Model: sim/machine/refusals.py

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

    LATENCY = CHECK_LATENCY
    """Cycles from start to done beyond those of the steps."""

    def __init__(self, config):
        self.config = config
        super().__init__({"word": In(8 * INSTRUCTION_BYTES), "start": In(1), "done": Out(1),
                          "cause": Out(8)})

    def elaborate(self, platform):
        m = Module()
        program = [(opcode, step) for opcode, steps in check_steps(self.config).items()
                   for step in steps]
        sources = {role: list(dict.fromkeys(self._place(opcode, getattr(step, role))
                                            for opcode, step in program)) for role in _ROLES}
        # Those that steps have, behind the one that always holds.
        whens = [True, *(when for when in When if any(when in (step.when, step.halved)
                                                      for _, step in program))]
        halved = len(whens) if any(step.halved for _, step in program) else 0
        # One bit for each source of an operand: quicker than numbers.
        codes = data.StructLayout({role: len(places) for role, places in sources.items()} | {
            "less": 1, "when": len(whens), "halved": halved, "first": 1, "last": 1, "cause": 8})
        chosen, ready, advance = Signal(codes), Signal(), Signal()
        more = self._choose(m, program, sources, whens, chosen, ready, advance)

        # Second and third stage: the operands.
        a, b, fetched, fetch = Signal(32), Signal(16), Signal(), Signal(codes)
        x0, y0, applies, loaded, step = Signal(32), Signal(16), Signal(), Signal(), Signal(codes)
        holds = Signal(len(whens), init=1)
        flags, out_bits = (self._value(self._place(Opcode.MATMUL, name))
                           for name in ("flags", "out_bits"))
        assert all(self._place(opcode, "out_bits") == self._place(Opcode.MATMUL, "out_bits")
                   for opcode, step in program if step.when is When.WIDE)
        conditions = {True: 1, When.RESIDUAL: (flags & Flag.RESIDUAL).any(),
                      When.ROW_SCALE: (flags & Flag.ROW_SCALE).any(),
                      When.PER_CHANNEL: ~(flags & Flag.BROADCAST).any(),
                      When.WIDE: out_bits > CODE_BITS,
                      When.UNSIGNED: (flags & Flag.UNSIGNED).any()}
        m.d.sync += holds.eq(Cat(conditions[when] for when in whens))
        with m.If(advance):
            m.d.sync += [fetched.eq(ready), fetch.eq(chosen),
                         a.eq(self._select("a", chosen.a, sources)),
                         b.eq(self._select("b", chosen.b, sources)),
                         loaded.eq(fetched), step.eq(fetch), x0.eq(a),
                         y0.eq((b - fetch.less) >> (holds[:halved] & fetch.halved).any()),
                         applies.eq((holds & fetch.when).any())]

        # Fourth: four bits of the product a cycle.
        x, y, fresh, short, active = Signal(32), Signal(16), Signal(), Signal(), Signal()
        current = Signal(codes)
        m.d.comb += advance.eq(~active | short)
        with m.If(advance):
            m.d.sync += [active.eq(loaded), current.eq(step), x.eq(Mux(applies, x0, 0)), y.eq(y0),
                         short.eq(~applies | (y0[4:] == 0)), fresh.eq(step.first)]
        with m.Else():
            m.d.sync += [x.eq(x << 4), y.eq(y >> 4), short.eq(y[8:] == 0), fresh.eq(0)]

        # Fifth to seventh: sum, limits, and judgement.
        halves = [Signal(34, name=f"half_{k}") for k in range(2)]  # of the four bits' product
        total, restart, multiplied = Signal(_SUM_BITS), Signal(), Signal()
        leaves, due, judged = Signal(), Signal(), Signal()
        behind, waiting, told = Signal(codes), Signal(codes), Signal(codes)
        low, high, fails = Signal(32), Signal(_SUM_BITS), Signal()
        # Written as shifts, or synthesis would spend DSP slices that the array needs.
        m.d.sync += [half.eq(Mux(y[2 * k], x, 0) + (Mux(y[2 * k + 1], x, 0) << 1))
                     for k, half in enumerate(halves)]
        m.d.sync += [restart.eq(fresh), multiplied.eq(active), leaves.eq(active & short),
                     behind.eq(current), due.eq(leaves), waiting.eq(behind), judged.eq(due),
                     told.eq(waiting),
                     low.eq(self._select("low", behind.low, sources)),
                     high.eq(self._select("high", behind.high, sources)),
                     fails.eq((waiting.cause != Error.NONE)
                              & ((total < low) | (total > high)))]
        with m.If(multiplied):
            m.d.sync += total.eq(Mux(restart, 0, total) + (halves[0] + (halves[1] << 2)))
        m.d.comb += [self.done.eq(judged & (fails | told.last)),
                     self.cause.eq(Mux(fails, told.cause, 0))]
        with m.If(self.done):
            m.d.sync += [stage.eq(0) for stage in
                         (more, ready, fetched, loaded, active, multiplied, leaves, due, judged)]
        return m

    def _choose(self, m, program, sources, whens, chosen, ready, advance):
        """Make the first stage: a table of the steps, read from `start` to an operation's last.

        Returns the register that says that there are more.
        """
        ends = {k for k in range(len(program))
                if k + 1 == len(program) or program[k][0] is not program[k + 1][0]}
        begins = {opcode: next(k for k, (other, _) in enumerate(program) if other is opcode)
                  for opcode, _ in program}
        index, more, entry = Signal(range(len(program))), Signal(), Signal(chosen.shape())
        with m.Switch(index):
            for k, (opcode, step) in enumerate(program):
                with m.Case(k):
                    m.d.comb += entry.eq(chosen.shape().const({
                        role: 1 << places.index(self._place(opcode, getattr(step, role)))
                        for role, places in sources.items()} | {
                        "less": step.less, "when": 1 << whens.index(step.when or True),
                        "halved": step.halved and 1 << whens.index(step.halved),
                        "first": step.first, "last": k in ends, "cause": step.cause}))
        with m.If(advance):
            m.d.sync += [chosen.eq(entry), ready.eq(more), index.eq(index + 1),
                         more.eq(more & ~entry.last)]
        begin = Signal()
        m.d.sync += begin.eq(self.start)
        with m.If(begin):
            m.d.sync += more.eq(1)
            opcode = shapes.instruction_header()["opcode"]
            with m.Switch(self.word[opcode.offset:opcode.offset + opcode.width]):
                for code, k in begins.items():
                    with m.Case(code):
                        m.d.sync += index.eq(k)
        return more

    def _place(self, opcode, operand):
        """Return what an operand is: a constant, or first bit and width of a field."""
        if isinstance(operand, str):
            field = shapes.body(opcode)[operand]
            return 8 * HEADER_BYTES + field.offset, field.width
        return (1 << _SUM_BITS) - 1 if operand is None else operand

    def _value(self, place):
        """Return a constant, or a field of the instruction."""
        if isinstance(place, tuple):
            return self.word[place[0]:sum(place)]
        return Const(place, _SUM_BITS)

    def _select(self, role, code, sources):
        """Return the operand that `code` selects."""
        values = [Mux(chosen, self._value(place), 0)
                  for chosen, place in zip(code, sources[role], strict=True)]
        while len(values) > 1:
            values = [values[k] | (values[k + 1] if k + 1 < len(values) else 0)
                      for k in range(0, len(values), 2)]
        return values[0]
