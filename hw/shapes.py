"""Every payload layout that crosses a unit boundary, defined once."""

from amaranth import signed, unsigned
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature

__all__ = ["ReadPort", "WritePort", "param_record", "param_word", "read_request", "row_beat", "word",
           "write_request"]


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
                              "shift": unsigned(6)})


def param_word(config):
    """Return the layout of a parameter word: `lanes` records."""
    return data.ArrayLayout(param_record(config.mult_bits), config.lanes)
