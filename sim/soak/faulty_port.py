"""A port whose bytes are damaged, and on which things happen in the middle of them."""

import heapq
from abc import abstractmethod

from systola.sim.soak.line_faults import BROKEN
from systola.sw_driver.driver.port import Port

__all__ = ["FaultyPort", "SoakError"]


class SoakError(AssertionError):
    """A scenario did not end."""


class FaultyPort(Port):
    """A port whose bytes are damaged, and on which things happen after a number of bytes.

    Attributes
    ----------
    faults : Faults
        What happens to bytes.
    deadline : float
        Time at which the scenario counts as hung.
    """

    name, baud = "the simulated line", 1_000_000

    def __init__(self):
        self.faults, self.deadline = None, float("inf")
        self._events, self._written, self._mute, self._held = [], 0, 0.0, b""

    def begin(self, faults, limit):
        """Begin a scenario."""
        self.faults, self.deadline = faults, self.clock() + limit
        self._events, self._written, self._mute, self._held = [], 0, 0.0, b""

    def after(self, count, action):
        """Call `action` once `count` more bytes were written."""
        heapq.heappush(self._events, (self._written + count, len(self._events), action))

    def mute(self, seconds):
        """Lose everything for a while."""
        self._mute = self.clock() + seconds

    def away(self, seconds):
        """Let time pass without reading: what the board sends waits in the system's buffer."""
        until = self.clock() + seconds
        while self.clock() < until:
            self._held += self.get(until - self.clock())

    def write(self, data):
        """Send bytes over the line; what happens in the middle of them happens there."""
        data, end = bytes(data), self._written + len(data)
        while self._events and self._events[0][0] <= end:
            count, _, action = heapq.heappop(self._events)
            part = max(count - self._written, 0)
            self._put(data[:part])
            data = data[part:]
            action()
        self._put(data)

    def _put(self, data):
        self._written += len(data)
        if self.clock() >= self._mute:
            self.put(self.faults.apply(data))

    def read(self, timeout):
        """Return what arrives over the line."""
        if self.clock() > self.deadline:
            raise SoakError("the host has not given up")
        data, self._held = self._held or self.get(timeout), b""
        if self.clock() < self._mute:
            return b""
        return bytes(byte for byte in self.faults.apply(data) if byte < BROKEN)

    @abstractmethod
    def put(self, symbols):
        """Hand damaged bytes to the board."""

    @abstractmethod
    def get(self, timeout):
        """Return bytes of the board, waiting at most `timeout` seconds."""

    @abstractmethod
    def press(self):
        """Press the board's button."""

    def close(self):
        """Do nothing: the line stays."""
