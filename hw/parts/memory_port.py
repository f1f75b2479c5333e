"""The port behind which a memory for resident programs is, whatever it is made of."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ADDRESS_BITS", "MemoryPort", "played_beat", "read_request", "write_request"]

ADDRESS_BITS = 32
"""Bits of an address, which counts beats, and of a number of beats."""


def read_request():
    """Return the layout of a request for ``beats`` beats from ``address`` on; at least one."""
    return data.StructLayout({"address": ADDRESS_BITS, "beats": ADDRESS_BITS})


def played_beat(bus_bytes):
    """Return the layout of a beat that was read; ``error`` if the memory could not read it."""
    return data.StructLayout({"beat": 8 * bus_bytes, "error": 1})


def write_request(bus_bytes):
    """Return the layout of a beat to be written to ``address``."""
    return data.StructLayout({"address": ADDRESS_BITS, "beat": 8 * bus_bytes})


class MemoryPort(wiring.Signature):
    """Three streams, as their user has them.

    Every request is answered with as many beats as it asks for, in order; the next one may be taken
    meanwhile. A request that is taken after a write was sees what was written; of a beat that is
    written while a request for it is under way, either may be seen. The memory gives what was asked
    for, even if nobody wants it any more: it needs no reset, and knows nothing of sessions. What
    lies beyond its size is never asked for or written.

    Every memory is a component with ``port : In(MemoryPort(bus_bytes=...))`` and ``size``, its
    beats.

    Parameters
    ----------
    bus_bytes : int
        Bytes of a beat.

    Members
    -------
    read : Out(stream of `read_request`)
        What to read.
    data : In(stream of `played_beat`)
        What was read.
    write : Out(stream of `write_request`)
        What to write.
    """

    def __init__(self, *, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__({
            "read": Out(stream.Signature(read_request())),
            "data": In(stream.Signature(played_beat(bus_bytes))),
            "write": Out(stream.Signature(write_request(bus_bytes))),
        })
