"""What malice, a bad compiler or a bad line make of a program."""

import numpy as np

from systola.hw.contract.isa import (
    FORMATS,
    HEADER_BYTES,
    INSTRUCTION_BYTES,
    Engine,
    Opcode,
    formats,
)
from systola.sim.soak.streams import (
    Maker,
    frame_bytes,
    operations,
    random_instructions,
    whole_program,
)

__all__ = ["KINDS", "hostile_stream"]

_EXTREMES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF)

# Each of these takes (rng, config, instructions) and returns a stream.


def _valid(rng, config, program):
    return whole_program(program, config)


def _flip(stream, places, rng, count):
    out = bytearray(stream)
    for _ in range(count):
        out[places[rng.integers(len(places))]] ^= 1 << rng.integers(8)
    return bytes(out)


def _spans(program, config):
    """Return the byte places of instructions (BEGIN and END too), and those of data."""
    size = frame_bytes(config)
    words, data, at = list(range(INSTRUCTION_BYTES)), [], size
    for item in program:
        words += range(at, at + INSTRUCTION_BYTES)
        data += range(at + size, at + size + len(item.data))
        at += size + len(item.data)
    return [*words, *range(at, at + INSTRUCTION_BYTES)], data


def _instruction_bits(rng, config, program):
    words, _ = _spans(program, config)
    return _flip(whole_program(program, config), words, rng, rng.integers(1, 4))


def _used_bits(rng, config, program):
    """Flip bits where there are fields, of which there are few in most instructions."""
    item = program[rng.integers(len(program))]
    for _ in range(rng.integers(1, 4)):
        field = FORMATS[item.opcode].fields[rng.integers(len(FORMATS[item.opcode].fields))]
        item.fields[field.name] ^= 1 << int(rng.integers(min(field.bits, 10)))
    return whole_program(program, config)


def _data_bits(rng, config, program):
    _, data = _spans(program, config)
    stream = whole_program(program, config)
    return _flip(stream, data, rng, rng.integers(1, 9)) if data else stream


def _extreme(rng, config, program):
    item = program[rng.integers(len(program))]
    fields = FORMATS[item.opcode].fields
    for _ in range(rng.integers(1, 3)):
        limits = (*_EXTREMES, config.scratchpad_words - 1, config.scratchpad_words,
                  config.param_depth - 1, config.param_depth, config.token_depth,
                  config.factor_depth, config.rows, config.max_row)
        field = fields[rng.integers(len(fields))]
        item.fields[field.name] = int(limits[rng.integers(len(limits))]) - int(rng.integers(2))
    return whole_program(program, config)


def _swapped(rng, config, program):
    a, b = rng.integers(len(program), size=2)
    program[a], program[b] = program[b], program[a]
    return whole_program(program, config)


def _duplicated(rng, config, program):
    k = rng.integers(len(program))
    program.insert(k, program[k])
    return whole_program(program, config)


def _deleted(rng, config, program):
    del program[rng.integers(len(program))]
    return whole_program(program, config)


def _tokens(rng, config, program):
    for _ in range(rng.integers(1, 4)):
        item = program[rng.integers(len(program))]
        if rng.integers(2):
            item.wait ^= 1 << int(rng.integers(len(Engine)))
        else:
            item.signal ^= 1 << int(rng.integers(len(Engine)))
    return whole_program(program, config)


def _beat_count(rng, config, program):
    """Let the field, or the data, have some beats more or less."""
    loads = [item for item in program if "beats" in item.fields] or program
    item = loads[rng.integers(len(loads))]
    change = int(rng.integers(1, 5)) * (1 if rng.integers(2) else -1)
    if "beats" in item.fields and rng.integers(2):
        item.fields["beats"] += change
    elif change > 0:
        item.data += bytes(change * config.bus_bytes)
    else:
        item.data = item.data[:change * config.bus_bytes]
    return whole_program(program, config)


def _truncated(rng, config, program):
    stream = whole_program(program, config)
    return stream[:rng.integers(len(stream) // config.bus_bytes) * config.bus_bytes]


def _no_end(rng, config, program):
    return whole_program(program, config)[:-frame_bytes(config)]


def _begin_twice(rng, config, program):
    stream = whole_program(program, config)
    return stream[:frame_bytes(config)] + stream


def _trailing(rng, config, program):
    return whole_program(program, config) + Maker(rng, config).noise(int(rng.integers(1, 40)))


def _foreign(rng, config, program):
    stream = bytearray(whole_program(program, config))
    stream[HEADER_BYTES + rng.integers(8)] ^= 1 << rng.integers(8)
    return bytes(stream)


def _opcodes(rng, config, program):
    """Random words with valid operation codes; many with small numbers, which pass more checks."""
    out, opcodes = [whole_program([], config)[:frame_bytes(config)]], operations(config)
    for _ in range(rng.integers(1, 12)):
        opcode = opcodes[rng.integers(len(opcodes))]
        word = rng.integers(256, size=INSTRUCTION_BYTES, dtype=np.uint8)
        if rng.integers(4):
            word[2::2] = rng.integers(1, 3, size=31)
            word[3::2] = 0
        word[0] = opcode
        out.append(word.tobytes().ljust(frame_bytes(config), b"\0"))
    return b"".join(out)


def _noise(rng, config, program):
    """Beats that mean nothing, behind a BEGIN or not."""
    begin = whole_program([], config)[:frame_bytes(config)] if rng.integers(2) else b""
    return begin + Maker(rng, config).noise(int(rng.integers(1, 200)))


def _reckless(rng, config, program):
    """Every instruction alone is right; their order and tokens are not thought of."""
    maker, opcodes = Maker(rng, config), operations(config)
    program = [maker.make(opcodes[rng.integers(len(opcodes))])
               for _ in range(rng.integers(1, 20))]
    for item in program:
        if rng.integers(2):
            item.signal = int(rng.integers(8))
        if rng.integers(4) == 0:
            item.wait = int(rng.integers(8))
    return whole_program(program, config)


def _long(rng, config, program):
    """Rows on top of each other: much work from one instruction."""
    maker = Maker(rng, config)
    opcodes = [opcode for opcode in (Opcode.STORE, Opcode.FETCH, Opcode.SHIFTMAX, Opcode.SHIFTGELU,
                                     Opcode.LAYERNORM, Opcode.MEAN) if opcode in formats(config)]
    opcode = opcodes[rng.integers(len(opcodes))]
    fields = {"rows": int(rng.integers(20, 200))}
    if config.factor_depth and opcode is Opcode.SHIFTMAX:
        fields = {"rows": config.factor_depth, "factor_base": 0}
    fields |= {field.name: 0 for field in FORMATS[opcode].fields
               if field.name.endswith("stride")}
    program.insert(rng.integers(len(program) + 1), maker.make(opcode, **fields))
    return whole_program(program, config)


_STREAMS = {
    "valid": _valid, "bits of instructions": _instruction_bits, "bits of fields": _used_bits,
    "bits of data": _data_bits, "extreme fields": _extreme, "swapped": _swapped,
    "duplicated": _duplicated, "deleted": _deleted, "tokens": _tokens,
    "beat counts": _beat_count, "truncated": _truncated, "no END": _no_end,
    "BEGIN twice": _begin_twice, "beats after END": _trailing, "other configuration": _foreign,
    "random words": _opcodes, "noise": _noise, "reckless": _reckless, "long": _long,
}
KINDS = tuple(_STREAMS)
"""What `hostile_stream` can do to a program."""


def hostile_stream(kind, rng, config):
    """Return a stream of this kind, whole beats."""
    program = random_instructions(rng, config, int(rng.integers(1, 9)))
    return _STREAMS[kind](rng, config, program)
