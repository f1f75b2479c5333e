"""What lies in a board's memory: a table of resident programs at its beginning.

Little-endian: magic (8 bytes), number of entries (u32), CRC-32 of the entries (u32), then for each
entry its name (32 bytes of UTF-8, filled with zeros), first beat (u32), beats (u32), and the CRC-32
of the program's stream as it was compiled (u32). Hosts keep it; the hardware does not read it.
"""

import struct
import zlib
from dataclasses import dataclass

__all__ = ["DIRECTORY_BYTES", "ENTRIES_MAX", "Directory", "Resident"]

_MAGIC = b"SYSRES\0\1"
_HEADER, _ENTRY = struct.Struct("<8sII"), struct.Struct("<32sIII")
ENTRIES_MAX = 22
"""Most programs."""

DIRECTORY_BYTES = 1024
"""Bytes that are kept for the table; a memory's first programs lie behind it."""

if _HEADER.size + ENTRIES_MAX * _ENTRY.size > DIRECTORY_BYTES:
    raise AssertionError("the directory is longer than the place that is kept for it")


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A program in memory: ``beats`` from beat ``address`` on; ``crc`` of the compiled stream."""

    name: str
    address: int
    beats: int
    crc: int


@dataclass(frozen=True)
class Directory:
    """The table of a memory of ``size`` beats of ``bus_bytes``.

    Attributes
    ----------
    programs : tuple of Resident
        In no particular order; none overlaps another or the table.
    """

    size: int
    bus_bytes: int
    programs: tuple = ()

    @property
    def beats(self):
        """Beats of the table itself."""
        return -(-DIRECTORY_BYTES // self.bus_bytes)

    def find(self, name):
        """Return the `Resident` called `name`, or None."""
        return next((entry for entry in self.programs if entry.name == name), None)

    def without(self, name):
        """Return the table without the program `name`."""
        return Directory(self.size, self.bus_bytes,
                         tuple(entry for entry in self.programs if entry.name != name))

    def place(self, name, stream):
        """Return the table with a program for the bytes `stream` in its first gap.

        Raises ``ValueError`` if the name cannot be one or is there, or nothing is free that is as
        long.
        """
        coded = name.encode()
        if not 0 < len(coded) <= 32 or not name.isprintable():
            raise ValueError(f"name must be 1 to 32 printable characters, not {name!r}")
        if self.find(name):
            raise ValueError(f"name must not be that of a resident program, not {name!r}")
        if len(self.programs) == ENTRIES_MAX:
            raise ValueError(f"the board has {ENTRIES_MAX} resident programs, the most there may "
                             f"be: remove one of {self._names()}")
        beats, at, widest = len(stream) // self.bus_bytes, self.beats, 0
        starts = sorted(self.programs, key=lambda entry: entry.address)
        for start, end in [(entry.address, entry.address + entry.beats)
                           for entry in starts] + [(self.size, self.size)]:
            if start - at >= beats:
                entry = Resident(name=name, address=at, beats=beats, crc=zlib.crc32(stream))
                return Directory(self.size, self.bus_bytes, (*self.programs, entry))
            widest, at = max(widest, start - at), end
        way = f"; remove one of {self._names()}" if self.programs else ""
        raise ValueError(f"program has {len(stream):,} bytes, and the board's memory of "
                         f"{self.size * self.bus_bytes:,} has {widest * self.bus_bytes:,} free in "
                         f"one piece{way}")

    def _names(self):
        return ", ".join(entry.name for entry in self.programs)

    def encode(self):
        """Return the bytes of the table, whole beats."""
        entries = b"".join(_ENTRY.pack(entry.name.encode(), entry.address, entry.beats, entry.crc)
                           for entry in self.programs)
        data = _HEADER.pack(_MAGIC, len(self.programs), zlib.crc32(entries)) + entries
        return data.ljust(self.beats * self.bus_bytes, b"\0")

    @classmethod
    def decode(cls, data, size, bus_bytes):
        """Return the table in `data`, or None if there is none, or it is damaged."""
        magic, count, crc = _HEADER.unpack_from(data)
        entries = data[_HEADER.size:_HEADER.size + count * _ENTRY.size]
        if magic != _MAGIC or count > ENTRIES_MAX or zlib.crc32(entries) != crc:
            return None
        programs = []
        table = cls(size, bus_bytes)
        for name, address, beats, stream_crc in _ENTRY.iter_unpack(entries):
            try:
                text = name.rstrip(b"\0").decode()
            except UnicodeDecodeError:
                return None
            programs.append(Resident(name=text, address=address, beats=beats, crc=stream_crc))
        at = table.beats
        for entry in sorted(programs, key=lambda entry: entry.address):
            if entry.address < at or not entry.beats or entry.address + entry.beats > size:
                return None
            at = entry.address + entry.beats
        if len({entry.name for entry in programs}) != len(programs):
            return None
        return cls(size, bus_bytes, tuple(programs))
