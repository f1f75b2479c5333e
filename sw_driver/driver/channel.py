"""The host's end of ``hw/contract/frame.py``: two reliable byte streams over a bad line."""

import random

from systola.hw.contract.frame import (
    BUFFER,
    INFO,
    LENGTH_MAX,
    LENGTH_MIN,
    MODULUS,
    VERSION,
    Frame,
    FrameReader,
    Kind,
)
from systola.hw.contract.regmap import MAGIC
from systola.sw_driver.driver.errors import IdentityError, LinkError

__all__ = ["Channel"]

_FIRST = 0.2
"""Seconds before the first repetition, until round trips have been measured."""

_SHORTEST = 0.02
"""Shortest such time: an operating system's scheduling, not the line."""

_LOST = 5
"""How many times as long a line may be silent that has worked before: adapters come and go, and a
simulated board is slow."""


class Channel:
    """Two byte streams to and from the device at the other end of `port`.

    Work happens inside `pump` only, in the caller's thread. What was not acknowledged in the time
    that round trips take (estimated as in RFC 6298) is sent again, and what did not come is asked
    for again, while nothing comes each time after twice as long.
    Frames of both ends get shorter when they have to be repeated, and slowly longer when not.

    Parameters
    ----------
    port : Port
        The line, see ``sw_driver/driver/port.py``.
    silence : float
        Seconds, on the port's clock, without any undamaged frame after which `open` gives up; later
        it may be `_LOST` times as many.
    rng : random.Random, optional
        Chooses session numbers.

    Attributes
    ----------
    info : dict
        What the device told of itself, by the names of ``frame.INFO``, once `open` was called.
    repeats : int
        How often bytes were sent or asked for again.
    """

    def __init__(self, port, *, silence=3.0, rng=None):
        if not silence > 0:
            raise ValueError(f"silence must be positive, not {silence!r}")
        self.port, self.silence = port, silence
        self.info, self.repeats = None, 0
        self._rng = rng or random.SystemRandom()
        self._reader = FrameReader()
        self._session = None
        self._smooth, self._varies = _FIRST, 0.0
        self._clear()

    def _clear(self):
        """Forget both streams."""
        self._out, self._inbox = bytearray(), bytearray()
        # Numbers of bytes, not modulo anything: acknowledged, next to send, sent, may be sent.
        self._base = self._next = self._sent = self._limit = 0
        self._expected = 0
        self._asked = self._recovered = None  # where repetition was begun at once, without timer
        self._length, self._factor = LENGTH_MAX, 1
        self._wanted = BUFFER  # bytes that the device should have under way
        self._answer = False  # whether the device should be told what arrived
        self._timed = None  # (number, time) of a byte whose acknowledgement is awaited
        # Last sign of life, last repetition or sign of life, end of the last `pump`.
        self._heard = self._since = self._paused = self.port.clock()

    @property
    def unsent(self):
        """Bytes written that the device has not acknowledged."""
        return len(self._out)

    def open(self):
        """Open a new session: the accelerator is reset, and both streams are empty.

        Raises
        ------
        LinkError
            If nothing answers.
        IdentityError
            If what answers speaks another version.
        """
        self._session = None
        self._clear()
        info = self._ask(Frame(kind=Kind.QUERY), lambda frame: frame.kind is Kind.INFO)
        self.info = _fields(info.payload)
        session = self._rng.randrange(1, MODULUS - 1)
        session += session >= info.session  # any but the device's own, and not 0
        opened = self._ask(
            Frame(kind=Kind.RESET, session=session),
            lambda frame: frame.kind is Kind.DATA and frame.session == session)
        asked = self._since
        self._clear()
        self._session, self._limit = session, opened.window
        # A full frame and its answer are longer by about this.
        self._smooth = 8 * (self.port.clock() - asked)
        self._varies = self._smooth / 2

    def _ask(self, question, is_answer):
        """Send `question` until a frame comes that `is_answer`; returns it."""
        port, start, wait = self.port, self.port.clock(), _FIRST
        while True:
            self._since = port.clock()
            # Its first FLAG ends whatever a host before this one left unfinished.
            port.write(question.encode())
            until, damaged = self._since + wait, self._reader.damaged
            # A damaged frame may have been the answer.
            while (now := port.clock()) < until and self._reader.damaged == damaged:
                for frame in self._reader.feed(port.read(until - now)):
                    if is_answer(frame):
                        return frame
            if port.clock() - start >= self.silence:
                raise self._dead(self.silence)
            wait = min(1.5 * wait, self.silence / 8)

    def _dead(self, seconds):
        return LinkError(f"nothing answers at {self.port.name} for {seconds:g} s: check the "
                         f"cable, that the board is programmed, and the baud rate "
                         f"({self.port.baud})")

    def write(self, data):
        """Append `data` to the stream to the device; `pump` sends it."""
        self._out += data

    def read(self):
        """Return what has arrived of the stream from the device."""
        data, self._inbox = bytes(self._inbox), bytearray()
        return data

    def pump(self, timeout):
        """Send what may be sent, then receive; wait at most `timeout` seconds for something.

        Returns
        -------
        bool
            Whether there was progress: bytes acknowledged or arrived.

        Raises
        ------
        LinkError
            If the line is dead, or the device has lost the session (it was reset).
        """
        before = self._base, self._expected
        now = self.port.clock()
        deadline = now + timeout
        # Time that the caller spent elsewhere is not the line's.
        self._heard += now - self._paused
        self._since += now - self._paused
        self._send()
        try:
            while not self._step(deadline) and self.port.clock() < deadline:
                pass
            return (self._base, self._expected) != before
        finally:
            self._paused = self.port.clock()

    def _step(self, deadline):
        """Receive once, until `deadline` at most, and send what follows; whether something came."""
        before = self._base, self._expected
        due = self._since + self._patience()
        damaged = self._reader.damaged
        for frame in self._reader.feed(
                self.port.read(max(min(deadline, due) - self.port.clock(), 0))):
            self._take(frame)
        if self._reader.damaged != damaged and self._asked != self._expected:
            self._again(self._expected)
        now = self.port.clock()
        if now - self._heard >= _LOST * self.silence:
            raise self._dead(_LOST * self.silence)
        if now >= self._since + self._patience():
            self._factor = min(2 * self._factor, 64)
            self._back()
            self._again(None)
        self._send()
        return (self._base, self._expected) != before

    def _patience(self):
        """Return the seconds after which to repeat."""
        measured = max(self._smooth + 4 * self._varies, _SHORTEST)
        # Never later than lets some repetitions happen before the line is given up.
        return min(measured * self._factor, self.silence / 4)

    def _back(self):
        """Begin again with the first byte that was not acknowledged."""
        if self._next > self._base:
            self._length = max(self._length // 2, LENGTH_MIN)
        self._next, self._timed = self._base, None

    def _take(self, frame):
        """Act on an undamaged frame."""
        if frame.session != self._session:
            raise LinkError(f"the accelerator at {self.port.name} was reset, or another program "
                            f"uses it: open it again")
        now = self.port.clock()
        self._heard = self._since = now
        self._factor = 1
        if frame.kind is not Kind.DATA:
            return
        reached = self._base + (frame.acknowledge - self._base) % MODULUS
        if reached <= self._sent:
            limit = max(self._limit, reached + frame.window)
            if (reached == self._base < self._sent and not frame.payload
                    and limit == self._limit and self._recovered != self._base):
                self._recovered = self._base  # what begins here was lost, what follows arrived
                self.repeats += 1
                self._back()
            if reached > self._base:
                self._acknowledge(reached, now)
            self._limit = limit
        if frame.payload:
            self._answer = True
            if frame.sequence == self._expected % MODULUS:
                self._inbox += frame.payload
                self._expected += len(frame.payload)
                # A buffer without loss, and it is twice as much.
                self._wanted = min(self._wanted + 1 + self._wanted * len(frame.payload) // BUFFER,
                                   BUFFER)
            elif self._asked != self._expected:
                self._again(self._expected)

    def _acknowledge(self, reached, now):
        del self._out[:reached - self._base]
        self._base, self._next = reached, max(self._next, reached)
        self._length = min(self._length + 1 + self._length // 16, LENGTH_MAX)
        if self._timed and reached >= self._timed[0]:
            sample, self._timed = now - self._timed[1], None
            self._varies += (abs(sample - self._smooth) - self._varies) / 4
            self._smooth += (sample - self._smooth) / 8

    def _again(self, asked):
        """Ask the device to repeat, because of a gap at `asked`, or of the time (None)."""
        self._asked = asked
        self.repeats += 1
        self._wanted = max(self._wanted // 2, LENGTH_MIN)
        self._write(Kind.RESEND, b"")

    def _send(self):
        """Send what the window allows, and what has to be acknowledged."""
        # What follows a damaged frame is lost, too: where frames have to be short, few are under
        # way; one of the shortest, 8 of the longest, which is what a device has room for.
        end = min(self._base + len(self._out), self._limit,
                  self._base + self._length ** 2 // LENGTH_MIN)
        while self._next < end:
            start = self._next - self._base
            payload = bytes(self._out[start:start + min(self._length, end - self._next)])
            if self._timed is None and self._next == self._sent:
                self._timed = self._next + len(payload), self.port.clock()
            self._write(Kind.DATA, payload)
            self._next += len(payload)
            self._sent = max(self._sent, self._next)
        if self._answer:
            self._write(Kind.DATA, b"")

    def _write(self, kind, payload):
        self._answer = False
        self._since = self.port.clock()
        self.port.write(Frame(kind=kind, session=self._session, sequence=self._next % MODULUS,
                              acknowledge=self._expected % MODULUS, window=self._wanted,
                              payload=payload).encode())


def _fields(payload):
    """Return the fields of an INFO frame; `IdentityError` if this is another kind of device."""
    values, at = {}, 0
    for name, size, _ in INFO:
        values[name] = int.from_bytes(payload[at:at + size], "little")
        at += size
    if values["magic"] != MAGIC or values["version"] != VERSION:
        raise IdentityError(f"the device must be a systola accelerator (magic {MAGIC:#x}) with "
                            f"link version {VERSION}, not magic {values['magic']:#x} with version "
                            f"{values['version']}")
    return values
