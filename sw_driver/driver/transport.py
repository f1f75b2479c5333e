"""What the driver needs from a link to the accelerator: registers and two byte streams."""

import time
from abc import ABC, abstractmethod

from systola.sw_driver.driver.errors import DriverError

__all__ = ["Transport"]


class Transport(ABC):
    """A link to one accelerator; simulation, a memory-mapped board or a UART bridge.

    All methods block until they are done, from any thread but one at a time.
    """

    @abstractmethod
    def read_register(self, offset):
        """Return the 32-bit register at byte `offset`."""

    @abstractmethod
    def write_register(self, offset, value):
        """Write the 32-bit register at byte `offset`."""

    def access(self, *accesses):
        """Carry out ``(offset, value)`` in order, a read where ``value`` is None.

        Returns what was read, a list. Links on which a round trip takes long have one for all.
        """
        found = []
        for offset, value in accesses:
            if value is None:
                found.append(self.read_register(offset))
            else:
                self.write_register(offset, value)
        return found

    @property
    def arrived(self):
        """A number that grows whenever something of a result frame has come."""
        return 0

    @property
    def memory_beats(self):
        """Beats of the device's memory for resident programs, 0 without one."""
        return 0

    def put(self, address, data, what="inputs"):
        """Write `data`, whole beats, to beat `address` on of that memory; `what` it is.

        May return before it is written: what follows comes after it.
        """
        raise DriverError("this link has no memory for resident programs")

    @abstractmethod
    def send(self, data):
        """Hand `data`, whole beats, to the input stream.

        Must not wait for results to be received: the accelerator may stop taking data until they
        are.
        """

    @abstractmethod
    def receive(self, timeout):
        """Return the bytes of the next result frame, whole beats.

        Raises ``TimeoutError`` if its last beat does not come within `timeout` seconds of `clock`;
        a frame that was begun is not lost.
        """

    @abstractmethod
    def flush(self):
        """Stop both streams and forget data that was not sent or not received yet."""

    def clock(self):
        """Return the time in seconds that timeouts count in, simulated time in a simulation."""
        return time.monotonic()

    @abstractmethod
    def close(self):
        """Release the link."""
