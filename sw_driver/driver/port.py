"""Lines of bytes: what the channel needs of one, and a serial port."""

import os
import time
from abc import ABC, abstractmethod

import serial

from systola.sw_driver.driver.errors import LinkError

__all__ = ["Port", "SerialPort"]

_SLICE = 0.01
"""Seconds that a read of the port waits at most before it looks at the time again."""


class Port(ABC):
    """A line that carries bytes both ways, and may lose or damage them.

    Attributes
    ----------
    name : str
        For messages.
    baud : int
        Bits per second, for messages.
    """

    name, baud = "?", 0

    @abstractmethod
    def write(self, data):
        """Send bytes; `LinkError` if they are not taken."""

    @abstractmethod
    def read(self, timeout):
        """Return the bytes that are there, or come first within `timeout` seconds, or none."""

    def clock(self):
        """Return the time in seconds that timeouts count in."""
        return time.monotonic()

    @abstractmethod
    def close(self):
        """Release the line."""


class SerialPort(Port):
    """A serial port, opened for this process alone.

    Parameters
    ----------
    name : str
        Device or URL, as pyserial's ``serial_for_url`` takes it.
    baud : int
        Bits per second.

    Raises
    ------
    ValueError
        If the port cannot be opened, or `baud` is not a positive integer.
    """

    def __init__(self, name, baud=1_000_000):
        if not isinstance(baud, int) or baud < 1:
            raise ValueError(f"baud must be a positive integer, not {baud!r}")
        self.name, self.baud = name, baud
        options = {} if "://" in name else {"exclusive": True}
        try:
            self._serial = serial.serial_for_url(name, baud, timeout=_SLICE, write_timeout=2.0,
                                                 **options)
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise ValueError(f"port {name!r} cannot be opened: {_reason(error)}") from None

    def write(self, data):
        """Send bytes; `LinkError` if the port does not take them within 2 seconds."""
        try:
            self._serial.write(data)
        except OSError as error:
            raise LinkError(f"port {self.name!r} does not take data: {_reason(error)}") from None

    def read(self, timeout):
        """Return received bytes; `LinkError` if the port has gone."""
        deadline = self.clock() + timeout
        try:
            while True:
                data = self._serial.read(max(self._serial.in_waiting, 1))
                if data or self.clock() >= deadline:
                    return data
        except OSError as error:
            raise LinkError(f"port {self.name!r} is gone: {_reason(error)}") from None

    def close(self):
        """Release the port."""
        self._serial.close()


def _reason(error):
    """Return one line that says why."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else " ".join(str(error).split())
