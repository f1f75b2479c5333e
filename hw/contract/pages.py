"""Reference pages made from the data they describe: instruction set and registers."""

from systola.hw.contract.isa import (
    CHANNELS,
    FORMATS,
    INSTRUCTION_BYTES,
    Engine,
    Error,
    Opcode,
    Region,
    When,
)
from systola.hw.contract.regmap import REGISTERS
from systola.hw.contract.stream_registers import STREAM_REGISTERS

__all__ = ["isa_page", "register_table"]

_PREFACE = f"""# Instruction set

Made by `make docs` from `hw/contract/isa.py` and `hw/contract/regmap.py`; do not edit.

A program is one stream of beats, `config.bus_bytes` bytes wide (R bytes rounded up to a power of
two). It holds instructions of {INSTRUCTION_BYTES} bytes, little-endian, each in
ceil({INSTRUCTION_BYTES} / bus bytes) beats (one beat if the bus is wider), and behind an
instruction with a `beats` field that many beats of data, one scratchpad word (the lowest R bytes)
in each.

| bytes | bits | content |
|---|---|---|
| 0 | 7..0 | opcode |
| 1 | 2..0 | `wait`: a bit per engine ({", ".join(f"{e.value} {e.name}" for e in Engine)}) |
| 1 | 5..3 | `signal`: a bit per engine |
| 2.. | | the operation's fields, in the order below without gaps; the rest is zero |

**Tokens.** An instruction starts when it has taken one token from each other engine in `wait`; its
own engine's bit means that everything before it in this engine is complete. When all its effects
are visible it gives one token to every engine in `signal`. **Order.** Instructions are a valid
sequential program, except that a MATMUL stands before the LOAD_WEIGHTS or FETCH that feeds it.
**Checks.** The dispatcher checks every instruction before anything of it happens; a refused one
sets the sticky error (below), and the rest of the stream is discarded until reset. So does an
instruction that cannot be handed on while nothing moves any more (DEADLOCK: a token or weights that
never come; waiting for the host does not count), and END if it finds tokens or weights that no
instruction has taken (LEFTOVER).

Tensors, planes and regions are described in [ARCHITECTURE.md](ARCHITECTURE.md), section 2. `R`,
`C` and `lanes` are `rows`, `cols` and `lanes` of the configuration. A value outside a field's range
is refused (FIELD_RANGE, of counts ZERO_COUNT), and so is an operation of which an operand leaves
its memory (SCRATCHPAD_RANGE, PARAM_RANGE, FACTOR_RANGE). Names in amounts that are no fields are of
the configuration, too.
"""

_WINDOW = """Behind those above, in an accelerator of `systola generate --mapped`. A beat is its
words, the lowest bytes first; of a beat of 2 bytes, the upper half of a word is zero.
"""


def _operations():
    yield "## Operations\n"
    yield "| code | operation | engine | does |"
    yield "|---|---|---|---|"
    for opcode, form in FORMATS.items():
        engine = form.engine.name if form.engine is not None else "dispatcher"
        link = f"[{opcode.name}](#{opcode.name.lower()})"
        yield f"| {opcode.value} | {link} | {engine} | {form.doc} |"


def _fields(opcode):
    form = FORMATS[opcode]
    yield f"\n### {opcode.name}\n"
    yield form.doc + "\n"
    if not form.fields:
        yield "No fields."
        return
    yield "| byte | bits | field | range | meaning |"
    yield "|---|---|---|---|---|"
    for field in form.fields:
        sign = ", signed" if field.signed else ""
        yield (f"| {form.offset(field.name)} | {field.bits}{sign} | `{field.name}` "
               f"| {_range(field)} | {field.doc} |")
    if form.operands:
        yield "\n| | from | amount | if |"
        yield "|---|---|---|---|"
        yield from (_region(operand) if isinstance(operand, Region) else _span(operand)
                    for operand in form.operands)
    if form.factors:
        yield f"\n`beats` must be {' * '.join(map(_code, form.factors))} (BEAT_COUNT)."


def _code(value):
    """Return a name in quotes; numbers stay as they are."""
    return f"`{value}`" if isinstance(value, str) else str(value)


def _range(field):
    low = max(field.low, int(field.count))
    if field.high is None:
        return f"at least {low}" if low else ""
    high = f"config.{field.high}" if isinstance(field.high, str) else field.high
    return f"{low} to {_code(high)}"


def _region(region):
    planes = [f"{_code(region.planes)} planes" if region.planes != 1 else "1 plane"]
    if isinstance(region.more, When):
        planes.append(f"one more if {region.more.value}")
    elif region.more:
        planes.append(f"{_code(region.more)} more")
    when = region.when.value if region.when else ""
    packed = f" if {region.packed.value}" if isinstance(region.packed, When) else ""
    words = f"{_code(region.words)} words" + (
        f", two in one{packed} with log2 attention" if region.packed else "")
    return (f"| {_access(region)} | `{region.prefix}base` | {' and '.join(planes)} of "
            f"{_code(region.rows)} rows of {words} | {when} |")


def _span(span):
    count = _code(span.count)
    if span.count == CHANNELS:
        count = "ceil(((`words` - 1) * R + `lanes_last`) / `lanes`)"
    if span.several:
        count += f" if {span.several.value}, else 1"
    when = [span.when.value] if span.when else []
    when += [f"{span.only[0]} {' or '.join(span.only[1:])}"] if span.only else []
    return f"| {_access(span)} | {_code(span.base)} | {count} | {', '.join(when)} |"


def _access(operand):
    memory = "words" if isinstance(operand, Region) else operand.memory.value
    return f"{'writes' if operand.writes else 'reads'} {memory}"


def _errors():
    yield "\n## Error causes\n"
    yield "| code | cause |"
    yield "|---|---|"
    yield from (f"| {error.value} | {error.name} |" for error in Error)


def register_table(registers=REGISTERS):
    """Return AXI4-Lite registers as a Markdown table."""
    lines = ["| offset | register | bits | access | meaning |", "|---|---|---|---|---|"]
    for register in registers.values():
        access = "" if register.fields else "ro"
        lines.append(f"| 0x{register.offset:02x} | `{register.name}` | 31..0 | {access} "
                     f"| {register.doc} |")
        for field in register.fields:
            high = field.lsb + field.width - 1
            bits = str(high) if field.width == 1 else f"{high}..{field.lsb}"
            lines.append(f"| | `.{field.name}` | {bits} | {field.access} | {field.doc} |")
    return "\n".join(lines)


def isa_page():
    """Return docs/ISA.md."""
    lines = [_PREFACE, *_operations()]
    for opcode in Opcode:
        lines += _fields(opcode)
    lines += [*_errors(), "\n## Registers\n", register_table(),
              "\n## Streams in registers\n", _WINDOW, register_table(STREAM_REGISTERS)]
    return "\n".join(lines) + "\n"
