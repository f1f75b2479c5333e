"""Every payload layout that crosses a unit boundary, defined once."""

from amaranth import Array, signed, unsigned
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import bits_for

from systola.hw.contract.frame import HEADER
from systola.hw.contract.isa import (
    FORMATS,
    HEADER_BYTES,
    INSTRUCTION_BYTES,
    INSTRUCTION_HEADER,
)
from systola.hw.contract.numbers import SHIFT_BITS
from systola.hw.contract.regmap import TRACE

__all__ = ["FactorPort", "ParamPort", "ReadPort", "WritePort", "access_layout", "block_tag", "body",
           "bus_beat", "control_layout", "engine_instruction", "factor_write", "first_lane",
           "frame_header", "group_tag", "instruction_header", "param_record", "param_word",
           "param_write", "read_request", "result_beat", "row_beat", "scaling", "table_write",
           "threshold_write", "trace_layout", "walk_item", "weight_word", "word", "write_request"]


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
    return data.StructLayout({"addr": unsigned(8), "data": signed(8), "table": unsigned(2)})


def threshold_write(shape, *, bits, sets, lanes=None):
    """Return the payload that writes a threshold: which set, which level from 1 on, its value.

    With `lanes`, also which of them it is for.
    """
    lane = {} if lanes is None else {"lane": range(lanes)}
    return data.StructLayout({"set": range(sets), **lane, "level": bits, "data": shape})


def factor_write(config):
    """Return the payload of a row factor write."""
    return data.StructLayout({"addr": unsigned(16), "factor": unsigned(config.factor_bits)})


def FactorPort(config):
    """Return the client's signature of a row factor read port: entries out, factors in order in."""
    return Signature({"req": Out(stream.Signature(unsigned(16))),
                      "rsp": In(stream.Signature(unsigned(config.factor_bits)))})


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


def bus_beat(config):
    """Return a stream beat: ``config.bus_bytes`` bytes, a scratchpad word in the lowest R."""
    return data.ArrayLayout(unsigned(8), config.bus_bytes)


def result_beat(config):
    """Return one beat of the result stream: a word, and whether it is the operation's last."""
    return data.StructLayout({"word": word(config), "last": 1})


def walk_item(config):
    """Return one step: the address, or a zero word; whether the word is its row's last.

    ``block_end`` and ``tag`` are for the `Transposer`. ``final`` marks the last step of a walk.
    """
    return data.StructLayout({"addr": unsigned(16), "zero": 1, "row_end": 1, "block_end": 1,
                              "tag": block_tag(config.rows), "final": 1})


def block_tag(rows):
    """Return what describes a block of rows.

    Emit `count` columns from column `first` on, then `pad` words of zeros; ``final`` is passed on.
    """
    return data.StructLayout({"first": range(rows), "count": range(rows + 1),
                              "pad": range(rows + 1), "final": 1})


def weight_word(config):
    """Return what goes to the array for a column of a stationary tile: a word.

    If there are narrow tiles, ``narrow``: it holds two columns of such a one.
    """
    if not config.narrow_bits:
        return word(config)
    return data.StructLayout({"word": word(config), "narrow": 1})


def control_layout(depth, digits, buffers, *, narrow=False):
    """Return what goes with every partial sum of column 0, `valid` apart.

    ``t``: entry of ``buffer``; ``digit``: the sum weighs ``2**(act_bits*digit)``; ``first``: forget
    the entry's old value; ``last``: the tile's last sum; ``narrow``, if there are such: it is two.
    """
    return data.StructLayout({"t": range(depth), "buffer": range(buffers), "digit": range(digits),
                              "first": 1, "last": 1, **({"narrow": 1} if narrow else {})})


def group_tag(config):
    """Return what tells where a group of ``config.lanes`` results goes.

    ``lane``: its first lane in the word; ``mask``: its valid lanes; ``addr``: the word; ``flush``:
    last group for this word now; ``wide``: 16 bits in two planes; ``end``: last of the instruction.
    """
    return data.StructLayout({"lane": range(config.rows), "mask": config.lanes, "addr": 16,
                              "flush": 1, "wide": 1, "end": 1})


def first_lane(config, group):
    """Return the lane at which group `group` of ``config.lanes`` lanes begins."""
    starts = range(0, config.rows, config.lanes)
    return Array(starts)[group[:bits_for(len(starts) - 1)]]


def scaling():
    """Return the payload that says how to requantize the rows to come.

    ``base``: first parameter word; ``broadcast``: its record 0 serves all elements, else record k
    behind serves element k of every row; ``bits``: output bits, at most
    ``config.norm_bits``.
    """
    return data.StructLayout({"base": 16, "broadcast": 1, "bits": 5})


def trace_layout():
    """Return the layout of ``regmap.TRACE``."""
    return data.StructLayout({name: bits for name, bits, _ in TRACE})


def access_layout(config):
    """Return the layout of the accesses to memories in a cycle: whether, and which address.

    Reads and writes of the scratchpad (``r0`` to ``r3``, ``w0`` to ``w2``, in the order of their
    priority), of the parameters (``param_...``), and of the row factors (``factor_...``).
    """
    ports = [*(f"r{k}" for k in range(4)), *(f"w{k}" for k in range(3)), "param_r0", "param_r1",
             "param_w", *(("factor_r", "factor_w") if config.factor_depth else ())]
    return data.StructLayout({name: data.StructLayout({"valid": 1, "addr": 16})
                              for name in ports})
