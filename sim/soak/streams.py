"""Random programs that the accelerator must run, and one that shows what became of it."""

from dataclasses import dataclass

import numpy as np

from systola.hw.contract.isa import (
    FEEDERS,
    FORMATS,
    INSTRUCTION_BYTES,
    WEIGHT_STREAMS,
    Engine,
    Error,
    Flag,
    Opcode,
    encode,
    formats,
)
from systola.sim.machine.refusals import (
    beats_needed,
    check_instruction,
    fetch_words,
    limits,
    weight_words,
)

__all__ = ["Instruction", "Maker", "check_program", "frame_bytes", "operations",
           "random_instructions", "short_program", "whole_program"]


def operations(config):
    """Return the operations of the engines of `config`."""
    return [opcode for opcode, form in formats(config).items() if form.engine is not None]


@dataclass
class Instruction:
    """An instruction that is still to be encoded, and its beats as bytes."""

    opcode: Opcode
    fields: dict
    wait: int = 0
    signal: int = 0
    data: bytes = b""

    @property
    def engine(self):
        """The engine that runs it, or None."""
        return FORMATS[self.opcode].engine


def _render(instructions, config):
    """Return the bytes of instructions, in whole beats; fields keep the bits they have room for."""
    out = []
    for item in instructions:
        fields = {}
        for field in FORMATS[item.opcode].fields:
            value = item.fields[field.name] % (1 << field.bits)
            half = 1 << field.bits - 1
            fields[field.name] = value - 2 * half if field.signed and value >= half else value
        word = encode(item.opcode, wait=item.wait, signal=item.signal, **fields)
        out += [word.ljust(frame_bytes(config), b"\0"), item.data]
    return b"".join(out)


class Maker:
    """Makes random instructions that the dispatcher accepts."""

    def __init__(self, rng, config):
        self.rng, self.config = rng, config

    def number(self, low, high):
        """Return an integer from `low` to `high`."""
        return int(self.rng.integers(low, high + 1))

    def noise(self, beats):
        """Return random beats."""
        return self.rng.integers(256, size=beats * self.config.bus_bytes, dtype=np.uint8).tobytes()

    def fields(self, opcode, **fixed):
        """Return random fields that pass all checks, with those of `fixed`."""
        config = self.config
        while True:
            rows, words = self.number(1, config.token_depth), self.number(1, 3)
            stride = words + self.number(0, 1)
            values = {"flags": self.number(0, 31), "numerator": self.number(1, 2**31 - 1),
                      "res_mult": self.number(-1000, 1000),
                      "key_words": words, "key_last": 1, "key_step": 0}
            values |= {name: self.number(*ends) for name, ends in limits(opcode, config).items()}
            values |= {"rows": rows, "words": words, "act_words": self.number(1, 2),
                       "count": self.number(1, min(3, config.param_depth)),
                       "shift": self.number(0, 40), "res_shift": self.number(0, 20)}
            if opcode is Opcode.LAYERNORM:
                values["epsilon_low"] = self.number(0, 2**32 - 1) >> self.number(0, 31)
                values["epsilon_high"] *= self.number(0, 1)
                values["share"] = (self.number(0, 2**32 - 1) >> self.number(0, 31)
                                   if config.compared_norm else 0)
            for field in FORMATS[opcode].fields:
                if field.name.endswith("stride"):
                    values[field.name] = stride
                elif field.name.endswith("plane"):
                    values[field.name] = rows * stride
                elif field.name == "param_base" or opcode is Opcode.LOAD_PARAMS:
                    values.setdefault(field.name, self.number(0, config.param_depth - 1))
                elif field.name == "factor_base":
                    values[field.name] = self.number(0, max(config.factor_depth - 1, 0))
                elif field.name.endswith("base"):
                    values[field.name] = self.number(0, config.scratchpad_words - 1)
            if FORMATS[opcode].engine is Engine.VECTOR and self.number(0, 3):
                values["lanes_last"] = config.rows  # else more lanes are written, with anything
            values |= fixed
            values["beats"] = beats_needed(opcode, values, config) or values.get("beats", 1)
            values = {field.name: values[field.name] for field in FORMATS[opcode].fields}
            if check_instruction(opcode, values, config) is Error.NONE:
                return values

    def beats(self, opcode, fields):
        """Return the data of an instruction, within what its consumers can compute with."""
        config, beat = self.config, self.config.bus_bytes
        if opcode is Opcode.LOAD_PARAMS:
            out = []
            for _ in range(fields["count"]):
                word = b"".join(
                    self.number(-2**12, 2**12).to_bytes(4, "little", signed=True)
                    + self.number(-2**7, 2**7).to_bytes(4, "little", signed=True)
                    + bytes([self.number(0, 12)]) for _ in range(config.lanes))
                out.append(word.ljust(config.param_beats * beat, b"\x5a"))
            return b"".join(out)
        if opcode is Opcode.LOAD_TABLE and fields["table"]:
            values = self.rng.integers(1, 129, size=fields["beats"] * config.rows, dtype=np.uint8)
            rows = values.reshape(-1, config.rows)
            return np.pad(rows, ((0, 0), (0, beat - config.rows))).tobytes()
        return self.noise(fields.get("beats", 0))

    def make(self, opcode, **fixed):
        """Return an instruction, with its data."""
        fields = self.fields(opcode, **fixed)
        return Instruction(opcode, fields, data=self.beats(opcode, fields))

    def matmul(self):
        """Return a MATMUL and what feeds it: one or two instructions."""
        config = self.config
        matmul = self.make(Opcode.MATMUL)
        need = weight_words(matmul.fields, config)
        for _ in range(10 * self.number(0, 1)):
            fetch = self.make(Opcode.FETCH, flags=self.number(0, 1))
            if fetch_words(fetch.fields, config) == need:
                return [matmul, fetch]
        narrow = matmul.fields["flags"] & Flag.NARROW
        if config.weight_codes and not narrow and self.number(0, 1):
            return [matmul, self.make(Opcode.LOAD_CODES, beats=config.codebook_beats + need // 2)]
        opcode = Opcode.LOAD_NARROW if narrow else Opcode.LOAD_WEIGHTS
        first = self.number(1, need)
        return [matmul, *(self.make(opcode, beats=part) for part in (first, need - first) if part)]


def random_instructions(rng, config, length):
    """Return about `length` instructions, each waiting for the one before.

    Only a MATMUL and what feeds it run at the same time.
    """
    maker, opcodes = Maker(rng, config), operations(config)
    program, last = [], None
    while len(program) < length:
        opcode = opcodes[rng.integers(len(opcodes))]
        if opcode in (*FEEDERS, Opcode.MATMUL):
            group = maker.matmul()
        else:
            group = [maker.make(opcode)]
        _order(last, group)
        program += group
        last = group[0]
    return program


def _order(before, group):
    """Have an instruction, and what feeds it from the scratchpad, wait for the one `before`."""
    for item in group:
        if before is None or item.opcode in WEIGHT_STREAMS:
            continue
        item.wait |= 1 << before.engine
        if before.engine is not item.engine:
            before.signal |= 1 << item.engine


def check_program(rng, config):
    """Return the stream of a program that shows the scratchpad, and makes everything known.

    It stores the scratchpad, fills all memories anew, computes something with every engine, and
    stores the scratchpad again. What it leaves, and its second result, do not depend on what it
    found.
    """
    maker = Maker(rng, config)
    whole = {"base": 0, "stride": 1, "rows": config.scratchpad_words, "words": 1}
    program = [maker.make(Opcode.STORE, **whole), maker.make(Opcode.LOAD, **whole),
               maker.make(Opcode.LOAD_PARAMS, base=0, count=config.param_depth)]
    if config.factor_depth or config.gelu == "table":
        program += [maker.make(Opcode.LOAD_TABLE, table=k) for k in range(config.last_table + 1)]
    last = program[-1]
    work = [maker.make(opcode) for opcode in (Opcode.SHIFTGELU, Opcode.LAYERNORM, Opcode.MEAN)
            if opcode in formats(config)]
    if config.factor_depth:
        work.insert(0, maker.make(
            Opcode.SHIFTMAX, rows=config.factor_depth, factor_base=0, words=1, src_stride=1,
            dst_stride=1, src_base=0, dst_base=config.factor_depth))
    for group in (*([item] for item in work), maker.matmul(), [maker.make(Opcode.STORE, **whole)]):
        _order(last, group)
        program += group
        last = group[0]
    return whole_program(program, config)


def short_program(rng, config):
    """Return the stream of BEGIN, a MATMUL of one tile, its weights, and END."""
    maker = Maker(rng, config)
    # Words 0 and 1 are multiplied, words 2 and 3 written.
    matmul = maker.make(Opcode.MATMUL, rows=2, act_words=1, digits=1, words=1, out_group=0,
                        lanes_last=1, out_bits=8, flags=0, act_base=0, act_stride=1, out_base=2,
                        out_stride=1)
    return whole_program([matmul, maker.make(Opcode.LOAD_WEIGHTS, beats=config.cols)], config)


def frame_bytes(config):
    """Return the bytes that an instruction takes in the stream: whole beats."""
    return -(-INSTRUCTION_BYTES // config.bus_bytes) * config.bus_bytes


def whole_program(instructions, config):
    """Return the stream of a program with BEGIN and END."""
    begin = Instruction(Opcode.BEGIN, {"config_hash": config.hash})
    return _render([begin, *instructions, Instruction(Opcode.END, {})], config)
