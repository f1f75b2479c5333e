"""AXI4-Lite registers as data: the one definition for hardware, C header, driver and docs."""

from dataclasses import dataclass

from systola.hw.contract.isa import Engine

__all__ = ["ADDRESS_BITS", "COUNTERS", "MAGIC", "REGISTERS", "VERSION", "Register",
           "RegisterField"]

ADDRESS_BITS = 8
"""Width of the byte address; every register is one aligned 32-bit word."""

MAGIC = int.from_bytes(b"sysa", "little")
"""Value of the ``ID`` register."""

VERSION = 2
"""Version of this register map, in the ``VERSION`` register."""


@dataclass(frozen=True)
class RegisterField:
    """Bits of a register.

    ``access`` is ``ro`` (read only), ``rw`` (read and write) or ``w1`` (writing 1 acts, writing 0
    does nothing, reads as 0).
    """

    name: str
    lsb: int
    width: int
    access: str
    doc: str

    @property
    def mask(self):
        """Mask of these bits in the register."""
        return ((1 << self.width) - 1) << self.lsb

    def get(self, value):
        """Return this field of a register's `value`."""
        return (value & self.mask) >> self.lsb


@dataclass(frozen=True)
class Register:
    """A 32-bit register: name, byte offset, what it means, and its fields (all ``ro`` if none)."""

    name: str
    offset: int
    doc: str
    fields: tuple[RegisterField, ...] = ()

    @property
    def writable(self):
        """Whether a write is accepted; a write to another register answers SLVERR."""
        return any(field.access != "ro" for field in self.fields)

    def field(self, name):
        """Return the field called `name`; ``KeyError`` if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)


def _engine_counters(engine):
    name = engine.name
    wait = "Cycles in which {} was ready for its next instruction, which lacked a token of {}."
    return (
        (f"{name}_BUSY", f"Cycles with an instruction inside the {name} engine."),
        *((f"{name}_WAIT_{other.name}", wait.format(name, other.name))
          for other in Engine if other is not engine),
        (f"{name}_IDLE", f"Cycles in which the {name} engine was empty and waited for no token."),
    )


COUNTERS = (
    ("CYCLES", "Clock cycles from start to done or error."),
    *(counter for engine in Engine for counter in _engine_counters(engine)),
    ("ARRAY_ACTIVE", "Cycles in which a word of activations entered the array."),
    ("ARRAY_WAIT_WEIGHTS", "Cycles in which the next word waited for its weights."),
    ("ARRAY_WAIT_DRAIN", "Cycles in which the next word waited for accumulators to be drained."),
    ("ARRAY_WAIT_DATA", "Cycles in which the next word waited for the scratchpad."),
    ("STREAM_STALL", "Cycles in which the input stream was wanted and offered nothing."),
    ("RESULT_STALL", "Cycles in which an output beat was offered and not taken."),
    ("INSTRUCTIONS", "Instructions issued, BEGIN and END included."),
)
"""Names and meanings of the performance counters; start clears them, and they wrap at 2**32.

MATRIX takes an instruction while it still drains the one before, so that it may be busy and wait;
LOAD and VECTOR are never both, and their counters add up to CYCLES.
"""

TRACE = (
    ("busy", 1, "a program runs"),
    ("started", len(Engine), "by engine: takes its next instruction"),
    ("done", len(Engine), "by engine: its oldest instruction is complete"),
    *((f"waits_{engine.name.lower()}", len(Engine),
       "by engine: its next instruction lacks that token; own bit: waits for those inside")
      for engine in Engine),
    ("entered", 1, "a word of activations enters the array"),
    ("wait_weights", 1, "the next word waits for its weights"),
    ("wait_drain", 1, "it waits for accumulators to be drained"),
    ("wait_data", 1, "it waits for the scratchpad"),
    ("starved", 1, "MATRIX would take an instruction and none is in its queue"),
)
"""Fields of the trace port that simulations have, lowest first: name, bits, meaning."""

_WORDS = (
    ("ID", "Magic number, the bytes `sysa`.", ()),
    ("VERSION", "Version of the register map.", ()),
    ("HASH_LOW", "Configuration hash, bits 31 to 0.", ()),
    ("HASH_HIGH", "Configuration hash, bits 63 to 32.", ()),
    ("CONTROL", "Commands and the interrupt enable.", (
        RegisterField("start", 0, 1, "w1", "Clear counters, tokens and done, and take a program "
                      "from the stream; ignored while busy or after an error."),
        RegisterField("reset", 1, 1, "w1", "Drop everything in flight and clear the error, done "
                      "and the counters; the scratchpad keeps its contents. Stop both streams "
                      "before."),
        RegisterField("irq_enable", 2, 1, "rw", "Interrupt while done or error is set."))),
    ("STATUS", "State of the accelerator.", (
        RegisterField("busy", 0, 1, "ro", "A program runs: from start to done or error."),
        RegisterField("done", 1, 1, "ro", "END was reached and all engines are idle; cleared by "
                      "start and reset."),
        RegisterField("error", 2, 1, "ro", "An instruction was refused, or the program stopped at "
                      "it; nothing after it was issued and the stream is discarded until reset."))),
    ("ERROR", "Why the instruction was refused; cleared by reset.", (
        RegisterField("cause", 0, 8, "ro", "Cause, see `Error` in the instruction set."),)),
    ("ERROR_INDEX", "Index of that instruction in the stream, BEGIN being 0.", ()),
    ("ERROR_WORD", "First 32 bits of that instruction.", ()),
    *((name, doc, ()) for name, doc in COUNTERS),
)

REGISTERS = {name: Register(name, 4 * index, doc, fields)
             for index, (name, doc, fields) in enumerate(_WORDS)}
"""All registers by name, in address order; other addresses answer SLVERR and read as zero."""
