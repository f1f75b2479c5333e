"""Commands over the serial link, as data: the one definition for both ends.

They and their replies are what the two streams of ``hw/contract/frame.py`` carry, which lose and
damage nothing. Everything is little-endian. The host sends commands and gets one reply for each, in
order, once the command has had its effect; result beats come by themselves, between replies, never
inside one. A bridge whose replies or results are not taken stalls the accelerator.
"""

from enum import IntEnum, IntFlag

__all__ = ["COUNT_MAX", "FOLLOWING", "LOWER_CASE", "Command", "Reply", "Status", "command_bytes"]


class Command(IntEnum):
    """First byte of a command.

    READ: the address, a byte. WRITE: the address, then 4 bytes of data. SEND: a count of beats, a
    byte (0 is 256), then that many beats of ``bus_bytes`` each for the input stream. PUT: a count
    of beats as well, then 4 bytes of address in beats, then the beats for the memory of resident
    programs; only of a device that has one (INFO tells). They wait where a program that is being
    played is still to be read (``hw/resident/player.py``).
    """

    READ = ord("R")
    WRITE = ord("W")
    SEND = ord("S")
    PUT = ord("P")


class Reply(IntEnum):
    """First byte of what the bridge sends.

    READ: a `Status`, then 4 bytes of data. WRITE, SEND, PUT: a `Status`. UNKNOWN: a `Status`,
    after a byte that is no command. BEAT: ``bus_bytes`` of result; LAST: the same, with TLAST.
    """

    READ = ord("r")
    WRITE = ord("w")
    SEND = ord("s")
    PUT = ord("p")
    UNKNOWN = ord("?")
    BEAT = ord("b")
    LAST = ord("e")


class Status(IntFlag):
    """Second byte of a reply.

    REFUSED: the register answered an error (there is none at that address, it is read only, or the
    value is not possible now), or the beats do not lie in the memory, and none was written.
    """

    REFUSED = 1


LOWER_CASE = 0x20
"""The bit that makes a command's byte that of its reply (and which UNKNOWN has set anyway)."""

FOLLOWING = {Reply.READ: 5, Reply.WRITE: 1, Reply.SEND: 1, Reply.PUT: 1, Reply.UNKNOWN: 1}
"""Bytes after the first one of a reply; `Reply.BEAT` and `Reply.LAST` have ``bus_bytes``."""

COUNT_MAX = 256
"""Most beats in one SEND or PUT."""


def command_bytes(command, *, address=0, data=0, beats=()):
    """Return the bytes of one command; `beats` are byte strings of equal length.

    Raises ``ValueError`` naming the value if there are no beats or too many, or one is too large.
    """
    if command in {Command.SEND, Command.PUT}:
        if not 0 < len(beats) <= COUNT_MAX or len({len(beat) for beat in beats}) != 1:
            raise ValueError(f"beats must be 1 to {COUNT_MAX} byte strings of one length, "
                             f"not {[len(beat) for beat in beats]!r}")
        place = b"" if command is Command.SEND else _checked("address", address, 32)
        return bytes([command, len(beats) % COUNT_MAX]) + place + b"".join(beats)
    written = _checked("data", data, 32)
    return (bytes([command]) + _checked("address", address, 8)
            + (written if command is Command.WRITE else b""))


def _checked(name, value, bits):
    """Return the bytes of a number of `bits`; ``ValueError`` naming it if it is no such one."""
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name} must be from 0 to {(1 << bits) - 1}, not {value!r}")
    return value.to_bytes(bits // 8, "little")
