"""Dispatcher: cuts the program stream into checked instructions and their data."""

from amaranth import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.checks import COUNT_FIELDS
from systola.hw.contract.isa import HEADER_BYTES, INSTRUCTION_BYTES, Engine, Error, Opcode, formats
from systola.hw.control.checker import Checker
from systola.hw.parts import shapes

__all__ = ["Dispatcher"]


def _queued_instruction():
    """Return what waits in an engine's queue: the instruction and its token bits."""
    engines = len(Engine)
    return data.StructLayout({"payload": shapes.engine_instruction(), "wait": engines,
                              "signal": engines})


class Dispatcher(wiring.Component):
    """Take a program from the stream, refuse what is wrong, hand the rest to the engines.

    An instruction is collected from ``64 / bus_bytes`` beats (one if the bus is wider; its upper
    bytes are ignored), decoded in three cycles, checked (`Checker`) and queued; the beats that
    belong to it are then forwarded one a cycle before the next instruction is read. The first
    instruction must be BEGIN, and BEGIN must come nowhere else (`Error.BAD_OPCODE`). A refused
    instruction reaches no engine; from there on the stream is discarded, so that a host which
    sends a whole program never hangs, until this unit is reset. An instruction that cannot be
    handed on when the watchdog calls, with its data, ends the program the same way
    (`Error.DEADLOCK`). After END nothing is taken from the stream until the next start.

    Model: sim/machine/machine.py

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes and limits.

    Members
    -------
    stream : In(stream.Signature(shapes.bus_beat(config)))
        Program.
    load, matrix, vector : Out(stream.Signature(_queued_instruction()))
        Instructions of each engine.
    data : Out(stream.Signature(shapes.bus_beat(config)))
        The beats that follow instructions.
    start : In(1)
        Take a program; ignored while ``busy`` or ``error``.
    idle : In(1)
        No instruction is in a queue or an engine.
    left : In(1)
        Tokens or weights are left that no instruction has taken; looked at when END finds ``idle``.
    stuck : In(1)
        Nothing moves any more.
    begins : Out(1)
        The start is not ignored.
    busy, done, error : Out(1)
        From start to END or error; END was reached and everything is idle; an instruction was
        refused, or the program ended at it.
    cause, index, word : Out
        With ``error``: the `Error`, the instruction's index and its first 32 bits. The index
        counts the instructions that are handed on, with their data.
    issued : Out(1)
        One cycle high for every accepted instruction, END when it is complete.
    """

    def __init__(self, config):
        self.config = config
        queue = Out(stream.Signature(_queued_instruction()))
        super().__init__({
            "stream": In(stream.Signature(shapes.bus_beat(config))),
            "load": queue, "matrix": queue, "vector": queue,
            "data": Out(stream.Signature(shapes.bus_beat(config))),
            "start": In(1), "idle": In(1), "left": In(1), "stuck": In(1),
            "begins": Out(1), "busy": Out(1), "done": Out(1), "error": Out(1),
            "cause": Out(8), "index": Out(32), "word": Out(32), "issued": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.checker = checker = Checker(self.config)
        instruction = Signal(8 * INSTRUCTION_BYTES)
        beats = max(INSTRUCTION_BYTES // self.config.bus_bytes, 1)
        beat, left, one_left = Signal(range(beats)), Signal(32), Signal()
        refuse = Signal(8)  # cause, in the cycle of the refusal
        passed = Signal()  # the instruction, with its data
        facts = self._facts(m, instruction)
        m.d.comb += [checker.word.eq(instruction), self.data.p.eq(self.stream.p),
                     self.word.eq(instruction[:32])]
        self._present(m, instruction)
        with m.If(passed):
            m.d.sync += self.index.eq(self.index + 1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.begins.eq(self.start)
                with m.If(self.start):
                    m.d.sync += [self.busy.eq(1), self.done.eq(0), self.index.eq(0)]
                    m.next = "COLLECT"
            with m.State("COLLECT"):
                m.d.comb += self.stream.ready.eq(1)
                with m.If(self.stream.valid):
                    arrived = self.stream.p.as_value()[:len(instruction)]
                    m.d.sync += [instruction.eq(Cat(instruction, arrived)[len(arrived):]),
                                 beat.eq(beat + 1)]
                    with m.If(beat == beats - 1):
                        m.d.sync += beat.eq(0)
                        m.next = "LOOK"
            with m.State("LOOK"):
                m.next = "SORT"
            with m.State("SORT"):
                m.next = "DECODE"
            with m.State("DECODE"):
                self._decode(m, facts, refuse, checker.start)
                m.d.comb += passed.eq(self.issued)
                with m.If(refuse != Error.NONE):
                    m.next = "ERROR"
            with m.State("CHECK"):
                with m.If(checker.done):
                    m.d.comb += refuse.eq(checker.cause)
                    m.next = "ISSUE"
                with m.If(refuse != Error.NONE):
                    m.next = "ERROR"
            with m.State("ISSUE"):
                self._issue(m, facts, instruction, left, one_left)
                m.d.comb += passed.eq(self.issued & ~facts.data)
                self._give_up(m, refuse)
            with m.State("DATA"):
                m.d.comb += [self.data.valid.eq(self.stream.valid),
                             self.stream.ready.eq(self.data.ready)]
                with m.If(self.stream.valid & self.data.ready):
                    m.d.sync += [left.eq(left - 1), one_left.eq(left == 2)]
                    with m.If(one_left):
                        m.d.comb += passed.eq(1)
                        m.next = "COLLECT"
                self._give_up(m, refuse)
            with m.State("DRAIN"):
                with m.If(self.idle & self.left):
                    m.d.comb += refuse.eq(Error.LEFTOVER)
                    m.next = "ERROR"
                with m.Elif(self.idle):
                    m.d.comb += [self.issued.eq(1), passed.eq(1)]
                    m.d.sync += [self.busy.eq(0), self.done.eq(1)]
                    m.next = "IDLE"
                self._give_up(m, refuse)
            with m.State("ERROR"):
                m.d.comb += self.stream.ready.eq(1)
        with m.If(refuse != Error.NONE):
            m.d.sync += [self.error.eq(1), self.cause.eq(refuse), self.busy.eq(0)]
        return m

    def _present(self, m, instruction):
        """Put the instruction on every queue's payload; its valid says whose it is."""
        header = self._header(instruction)
        for queue in self.load, self.matrix, self.vector:
            m.d.comb += [queue.p.payload.opcode.eq(header.opcode),
                         queue.p.wait.eq(header.wait), queue.p.signal.eq(header.signal),
                         queue.p.payload.body.eq(instruction[8 * HEADER_BYTES:])]

    def _header(self, instruction):
        header = shapes.instruction_header()
        return header(instruction[:header.size])

    def _body(self, code, instruction):
        """Return the fields of an instruction, if it is `code`."""
        body = shapes.body(code)
        return body(instruction[8 * HEADER_BYTES:][:body.size])

    def _facts(self, m, instruction):
        """Return registers that say about the instruction, from two cycles later, what it is.

        ``begin``, ``end`` and ``engines`` (a bit each) by its opcode, ``data`` if beats follow,
        ``misplaced`` and ``foreign`` about BEGIN, ``zero`` if a count is, ``single`` if one beat
        follows. An unknown opcode is nothing.
        """
        forms = formats(self.config)
        codes = list(forms)
        is_code = Signal(len(codes))
        opcode = self._header(instruction).opcode
        m.d.sync += is_code.eq(Cat(opcode == code for code in codes))
        bodies = {code: self._body(code, instruction) for code in codes}
        # Which fields are zero, once for all operations that have them at the same place.
        fields, zeros = {}, []
        for number, (code, form) in enumerate(forms.items()):
            for field in form.fields:
                if field.name in COUNT_FIELDS:
                    place = shapes.body(code)[field.name]
                    key = place.offset, place.width
                    if key not in fields:
                        fields[key] = Signal(name=f"zero_{place.offset}")
                        m.d.sync += fields[key].eq(bodies[code][field.name] == 0)
                    zeros.append(is_code[number] & fields[key])
        facts = Signal(data.StructLayout({
            "begin": 1, "end": 1, "engines": len(Engine), "data": 1, "misplaced": 1, "foreign": 1,
            "zero": 1, "single": 1}))
        first, foreign, single = Signal(), Signal(), Signal(len(codes))

        def any_of(condition):
            return Cat(is_code[k] for k, code in enumerate(codes) if condition(code)).any()

        def beats(code):
            return "beats" in shapes.body(code).members

        m.d.sync += [
            first.eq(self.index == 0),
            foreign.eq(bodies[Opcode.BEGIN].config_hash != self.config.hash),
            single.eq(Cat(bodies[code].beats == 1 if beats(code) else 0 for code in codes)),
            facts.begin.eq(any_of(lambda code: code is Opcode.BEGIN)),
            facts.end.eq(any_of(lambda code: forms[code].engine is None
                                and code is not Opcode.BEGIN)),
            facts.engines.eq(Cat(any_of(lambda code, engine=engine: forms[code].engine is engine)
                                 for engine in Engine)),
            facts.data.eq(any_of(beats)), facts.single.eq((single & is_code).any()),
            facts.misplaced.eq(first != any_of(lambda code: code is Opcode.BEGIN)),
            facts.foreign.eq(foreign), facts.zero.eq(Cat(*zeros).any()),
        ]
        return facts

    def _decode(self, m, facts, refuse, check):
        """Refuse unknown operations, misplaced or foreign BEGIN and zero counts; start the rest."""
        m.next = "CHECK"
        with m.If(facts.misplaced | ~(facts.begin | facts.end | facts.engines.any())):
            m.d.comb += refuse.eq(Error.BAD_OPCODE)
        with m.Elif(facts.begin):
            with m.If(facts.foreign):
                m.d.comb += refuse.eq(Error.CONFIG_HASH)
            with m.Else():
                m.d.comb += self.issued.eq(1)
                m.next = "COLLECT"
        with m.Elif(facts.end):
            m.next = "DRAIN"
        with m.Elif(facts.zero):
            m.d.comb += refuse.eq(Error.ZERO_COUNT)
        with m.Else():
            m.d.comb += check.eq(1)

    def _give_up(self, m, refuse):
        """Stop waiting when nothing moves any more."""
        with m.If(self.stuck):
            m.d.comb += refuse.eq(Error.DEADLOCK)
            m.next = "ERROR"

    def _issue(self, m, facts, instruction, left, one_left):
        """Offer the instruction to its engine's queue, then go on with its data or the next."""
        queues = {Engine.LOAD: self.load, Engine.MATRIX: self.matrix, Engine.VECTOR: self.vector}
        for engine, queue in queues.items():
            m.d.comb += queue.valid.eq(facts.engines[engine])
        m.d.comb += self.issued.eq(Cat(facts.engines[engine] & queue.ready
                                       for engine, queue in queues.items()).any())
        for code in formats(self.config):
            if "beats" in shapes.body(code).members:  # at the same place in all
                m.d.sync += left.eq(self._body(code, instruction).beats)
        m.d.sync += one_left.eq(facts.single)
        with m.If(self.issued):
            m.next = "COLLECT"
            with m.If(facts.data):
                m.next = "DATA"
