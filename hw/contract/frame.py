"""Frames on the serial link, as data: two reliable byte streams over a line that loses and damages.

A frame on the line is `FLAG`, its bytes with every `FLAG` and `ESCAPE` among them replaced by
`ESCAPE` and the byte ``^ FLIP``, `FLAG`; one FLAG may end a frame and begin the next, and empty
frames mean nothing. So after any damage both ends agree again at the next FLAG. The bytes are the
header (`HEADER`), ``length`` bytes of payload and the CRC-32 of both (that of zlib and Ethernet);
everything is little-endian. A byte without its stop bit counts as lost.

**Streams.** Each end sends the other a stream of bytes, numbered from 0 modulo 2**16 from the
beginning of a session: ``sequence`` is the number of a frame's first byte, ``acknowledge`` of the
next byte that its sender expects, and ``window`` of how many from there on it can take. Bytes are
taken in order only; a frame that does not begin with the byte expected, or does not fit, is dropped
as a whole and comes again (go back N). An acknowledgement of bytes that were never sent, or were
acknowledged before, means nothing. The commands of ``hw/contract/link.py`` and their replies are
what the streams carry.

**Time.** Only the host has timers. The device repeats bytes when the host sends RESEND, and reports
(an empty DATA, or one with bytes) after every frame with payload, every RESEND, every damaged
frame, and when its window has grown by half of its buffer since the last frame, if not before; one
report may answer several of these. The host gets whatever it lacks by RESEND, as often as it takes.
It must not have more bytes under way than the window allows, and the device not more than its
buffer holds.

**Bad lines.** Long frames hardly get over a line that damages one byte in a hundred, and what
follows a damaged one is lost, too. So the host chooses how long its frames are, and how long the
device's: the window of the host's last frame is how many bytes the device may have under way, and a
quarter of that, but `LENGTH_MIN` to `LENGTH_MAX`, the most that one frame carries (``piece``). A
frame always may be under way. In a frame of the host, a window of 0 says nothing; a session begins
without a bound.

**Sessions.** The host opens a session with a RESET that carries a number other than the device's,
which QUERY tells; the accelerator, its registers and both streams are then as after power-on,
except for memories. A RESET with the device's own number changes nothing, so it may be repeated.
Both are answered in any state, whatever the accelerator does; a RESET that opens a session cuts
short what the device is sending, which the host then finds damaged. After power-on the session is
0, which no RESET carries; frames of another session are answered (with an empty DATA that tells the
right one) but otherwise ignored.
"""

import zlib
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["BUFFER", "CRC_BYTES", "ESCAPE", "FLAG", "FLIP", "HEADER", "HEADER_BYTES", "INFO",
           "INFO_BYTES", "LENGTH_MAX", "LENGTH_MIN", "MODULUS", "VERSION", "Frame", "FrameReader",
           "Kind", "piece"]

VERSION = 2
"""Version of frames and commands."""

FLAG, ESCAPE, FLIP = 0x7E, 0x7D, 0x20

HEADER = (
    ("kind", 1, "a `Kind`"),
    ("session", 2, "number of the session, 1 to 65,535; 0 before the first"),
    ("sequence", 2, "number of the first byte of the payload; of the next one if there is none"),
    ("acknowledge", 2, "number of the next byte that the sender of the frame expects"),
    ("window", 2, "bytes from that one on for which it has room, or which it wants under way"),
    ("length", 1, "bytes of payload"),
)
"""Fields of a header: name, bytes, meaning."""

INFO = (
    ("magic", 4, "the bytes `sysa`"),
    ("version", 1, "version of frames and commands"),
    ("bus_bytes", 2, "bytes of a stream beat"),
    ("buffer", 2, "bytes of the buffer for each direction"),
    ("config_hash", 8, "hash of the configuration"),
    ("status", 4, "register STATUS as the bridge read it last"),
    ("memory", 4, "beats of the memory for resident programs, 0 without one"),
)
"""Payload of an INFO frame: name, bytes, meaning."""

CRC_BYTES = 4
LENGTH_MAX = 255
"""Most bytes of payload."""

LENGTH_MIN = 32
"""Payload of the shortest frames, which get over lines that damage one byte in a hundred."""

MODULUS = 1 << 16
"""What bytes are numbered modulo."""

BUFFER = 2048
"""Bytes that a device buffers in each direction: at 1 Mbaud, 20 ms of a USB adapter's delay."""



def piece(window):
    """Return the most bytes of payload of the device's frames at the host's `window`."""
    return min(max(window // 4, LENGTH_MIN), LENGTH_MAX)


HEADER_BYTES = sum(size for _, size, _ in HEADER)
INFO_BYTES = sum(size for _, size, _ in INFO)


class Kind(IntEnum):
    """First byte of a frame.

    DATA: payload for the stream, or none, from either end. RESEND: the same from the host, and the
    device repeats everything that ``acknowledge`` does not cover. RESET: the host opens a session.
    QUERY: it asks what is there. INFO: the device answers that. RESET and QUERY have no payload.
    """

    DATA = 1
    RESEND = 2
    RESET = 3
    QUERY = 4
    INFO = 5


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame; ``length`` is that of `payload`."""

    kind: Kind
    session: int = 0
    sequence: int = 0
    acknowledge: int = 0
    window: int = 0
    payload: bytes = b""

    def encode(self):
        """Return the frame as it goes over the line, with a FLAG at both ends.

        Raises ``ValueError`` naming a field that is out of range.
        """
        body = b""
        for name, size, _ in HEADER:
            value = len(self.payload) if name == "length" else getattr(self, name)
            if not 0 <= value < 1 << 8 * size:
                raise ValueError(f"{name} must be from 0 to {(1 << 8 * size) - 1}, not {value!r}")
            body += int(value).to_bytes(size, "little")
        body += self.payload
        body += zlib.crc32(body).to_bytes(CRC_BYTES, "little")
        for byte in ESCAPE, FLAG:  # in this order: escapes are not escaped again
            body = body.replace(bytes([byte]), bytes([ESCAPE, byte ^ FLIP]))
        return bytes([FLAG]) + body + bytes([FLAG])

    @classmethod
    def decode(cls, body):
        """Return the frame of the bytes between two FLAGs, or None if they are damaged."""
        body = bytearray(body)
        at = body.find(ESCAPE)
        while at >= 0:
            if at + 1 == len(body):
                return None
            body[at:at + 2] = [body[at + 1] ^ FLIP]
            at = body.find(ESCAPE, at + 1)
        payload = bytes(body[HEADER_BYTES:-CRC_BYTES])
        crc = int.from_bytes(body[-CRC_BYTES:], "little")
        if len(body) < HEADER_BYTES + CRC_BYTES or zlib.crc32(body[:-CRC_BYTES]) != crc:
            return None
        values, at = {}, 0
        for name, size, _ in HEADER:
            values[name] = int.from_bytes(body[at:at + size], "little")
            at += size
        if values.pop("length") != len(payload) or values["kind"] not in list(Kind):
            return None
        return cls(**{**values, "kind": Kind(values["kind"]), "payload": payload})


_LONGEST = 2 * (HEADER_BYTES + LENGTH_MAX + CRC_BYTES)


class FrameReader:
    """Finds frames in received bytes, however they are cut.

    Attributes
    ----------
    damaged : int
        Frames that were not empty and not right.
    """

    def __init__(self):
        self._open, self._skip, self.damaged = bytearray(), False, 0

    def feed(self, data):
        """Return the frames that `data`, the next bytes received, complete."""
        *bodies, rest = bytes(data).split(bytes([FLAG]))
        frames = []
        for body in bodies:
            self._grow(body)
            if self._open or self._skip:
                frame = None if self._skip else Frame.decode(self._open)
                self.damaged += frame is None
                frames += [frame] if frame else []
            self._open, self._skip = bytearray(), False
        self._grow(rest)
        return frames

    def _grow(self, part):
        """Keep `part`, unless the frame is longer than any: garbage without end."""
        self._open += part
        if len(self._open) > _LONGEST:
            self._open, self._skip = bytearray(), True
