"""Registers of the player of resident programs, as data; behind those of the accelerator."""

import functools
import operator
import zlib
from enum import IntEnum

from systola.hw.contract.regmap import REGISTERS, Register, RegisterField

__all__ = ["PLAYER_BASE", "PLAYER_MAGIC", "PLAYER_REGISTERS", "Target", "played_crc"]

PLAYER_BASE = 0x80
"""Byte offset of the first of these registers; below are those of ``hw/contract/regmap.py``."""

PLAYER_MAGIC = int.from_bytes(b"sysp", "little")
"""Value of ``PLAY_ID``."""


class Target(IntEnum):
    """Where what is played goes."""

    ACCELERATOR = 0
    NOWHERE = 1
    HOST = 2


_TARGETS = ", ".join(f"{target.value} {target.name.lower()}" for target in Target)

_WORDS = (
    ("PLAY_ID", "Magic number, the bytes `sysp`.", ()),
    ("PLAY_SIZE", "Beats of the memory.", ()),
    ("PLAY_ADDRESS", "Beat to begin at; a write while busy answers SLVERR.", (
        RegisterField("address", 0, 32, "rw", "In beats; with an AXI4 memory, times the bytes of a "
                      "beat the address on the bus."),)),
    ("PLAY_BEATS", "How many beats; a write while busy answers SLVERR.", (
        RegisterField("beats", 0, 32, "rw", "At least 1."),)),
    ("PLAY_CONTROL", "Commands.", (
        RegisterField("start", 0, 1, "w1", "Play those beats; answers SLVERR while busy, and if "
                      "they do not lie in the memory."),
        RegisterField("stop", 1, 1, "w1", "Let go of what is left of them: it is still read, and "
                      "goes nowhere."),
        RegisterField("target", 2, 2, "w1", f"With start, where they go: {_TARGETS}."))),
    ("PLAY_STATUS", "State of the player.", (
        RegisterField("busy", 0, 1, "ro", "Beats are read, or wait to be taken."),
        RegisterField("failed", 1, 1, "ro", "The memory answered an error: from that beat on "
                      "nothing was given; cleared by start."),
        RegisterField("stopped", 2, 1, "ro", "Beats were let go of; cleared by start."))),
    ("PLAY_CRC", "Checksum of the beats given since start, see `played_crc`.", ()),
)

PLAYER_REGISTERS = {name: Register(name, PLAYER_BASE + 4 * index, doc, fields)
                    for index, (name, doc, fields) in enumerate(_WORDS)}
"""All of these registers by name, in address order."""

if max(register.offset for register in REGISTERS.values()) >= PLAYER_BASE:
    raise AssertionError("the accelerator's registers reach into those of the player")


def played_crc(data, bus_bytes):
    """Return what ``PLAY_CRC`` reads after the beats `data`, a whole number of `bus_bytes`.

    Each beat is folded to 4 bytes by exclusive or (a beat of fewer bytes is filled with zeros), and
    the CRC-32 of zlib taken of these. So one damaged bit is always found, and so are beats that are
    lost, repeated or swapped; two bits of one beat that lie a multiple of 32 apart are not.
    """
    if not data or len(data) % bus_bytes:
        raise ValueError(f"data must be whole beats of {bus_bytes} bytes, not {len(data)} bytes")
    beats = len(data) // bus_bytes
    folded = bytearray(4 * beats)
    for lane in range(min(4, bus_bytes)):
        columns = (int.from_bytes(data[at::bus_bytes], "little")
                   for at in range(lane, bus_bytes, 4))
        folded[lane::4] = functools.reduce(operator.xor, columns).to_bytes(beats, "little")
    return zlib.crc32(folded)
