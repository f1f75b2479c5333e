"""Every payload layout that crosses a unit boundary, defined once."""

from amaranth import signed, unsigned
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature

from systola.hw.contract.frame import HEADER
from systola.hw.contract.isa import (
    FORMATS,
    HEADER_BYTES,
    INSTRUCTION_BYTES,
    INSTRUCTION_HEADER,
)
from systola.hw.contract.numbers import SHIFT_BITS

__all__ = ["FactorPort", "ParamPort", "ReadPort", "WritePort", "body", "engine_instruction",
           "factor_write", "frame_header", "instruction_header", "param_record", "param_word",
           "param_write", "read_request", "row_beat", "table_write", "word", "write_request"]


def word(config):
    """Return the layout of a scratchpad word: R lanes of 8 bits."""
    return data.ArrayLayout(unsigned(8), config.rows)


def read_request():
    """Return the payload of a scratchpad read: the word address."""
    return data.StructLayout({"addr": unsigned(16)})


def write_request(config):
    """Return the payload of a scratchpad write: address, word, one enable bit per lane."""
    return data.StructLayout({"addr": unsigned(16), "data": word(config),
                              "mask": unsigned(config.rows)})


def ReadPort(config):
    """Return the client's signature of a scratchpad read port: requests out, words in, in order."""
    return Signature({"req": Out(stream.Signature(read_request())),
                      "rsp": In(stream.Signature(word(config)))})


def WritePort(config):
    """Return the client's signature of a scratchpad write port.

    A write is visible to every read whose request is accepted after it was accepted.
    """
    return Signature({"req": Out(stream.Signature(write_request(config)))})


def row_beat(shape, lanes):
    """Return one beat of a row stream: `lanes` elements, which of them count, and the row's end.

    ``keep`` is all ones but in the last beat of a row, where it is a run of ones from lane 0.
    """
    return data.StructLayout({"x": data.ArrayLayout(shape, lanes), "keep": unsigned(lanes),
                              "last": unsigned(1)})


def param_record(mult_bits, bias_bits=32):
    """Return the requantization parameters of one channel; ``mult`` carries the sign."""
    return data.StructLayout({"bias": signed(bias_bits), "mult": signed(mult_bits + 1),
                              "shift": unsigned(SHIFT_BITS)})


def param_word(config):
    """Return the layout of a parameter word: `lanes` records."""
    return data.ArrayLayout(param_record(config.mult_bits), config.lanes)


def param_write(config):
    """Return the payload of a parameter memory write."""
    return data.StructLayout({"addr": unsigned(16), "data": param_word(config)})


def table_write():
    """Return the payload of a table write: which (see LOAD_TABLE), entry, and its byte."""
    return data.StructLayout({"addr": unsigned(8), "data": signed(8), "table": unsigned(1)})


def factor_write(config):
    """Return the payload of a row factor write."""
    return data.StructLayout({"addr": unsigned(16), "factor": unsigned(config.mult_bits)})


def FactorPort(config):
    """Return the client's signature of a row factor read port: entries out, factors in order in."""
    return Signature({"req": Out(stream.Signature(unsigned(16))),
                      "rsp": In(stream.Signature(unsigned(config.mult_bits)))})


def ParamPort(config):
    """Return the client's signature of a parameter read port: addresses out, words in, in order."""
    return Signature({"req": Out(stream.Signature(unsigned(16))),
                      "rsp": In(stream.Signature(param_word(config)))})


def instruction_header():
    """Return the header of an instruction, its lowest bits."""
    return data.StructLayout(dict(INSTRUCTION_HEADER))


def body(opcode):
    """Return the fields of `opcode` as they lie in an instruction behind its header's bytes."""
    return data.StructLayout({field.name: (signed if field.signed else unsigned)(field.bits)
                              for field in FORMATS[opcode].fields})


def engine_instruction():
    """Return the payload of an engine's instruction stream; view ``body`` by ``body(opcode)``."""
    return data.StructLayout({"opcode": instruction_header()["opcode"].shape,
                              "body": 8 * (INSTRUCTION_BYTES - HEADER_BYTES)})


def frame_header():
    """Return the header of a frame on the serial link, its first byte lowest."""
    return data.StructLayout({name: unsigned(8 * size) for name, size, _ in HEADER})
