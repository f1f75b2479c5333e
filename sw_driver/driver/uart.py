"""Transport over a serial line: commands of ``hw/contract/link.py`` through the channel."""

from collections import deque

from systola.hw.contract.link import COUNT_MAX, FOLLOWING, Command, Reply, Status, command_bytes
from systola.sw_driver.driver.channel import Channel
from systola.sw_driver.driver.errors import DriverError, LinkError
from systola.sw_driver.driver.transport import Transport

__all__ = ["UartTransport"]


class UartTransport(Transport):
    """The accelerator behind `port`; making one opens a session, which resets the accelerator.

    Parameters
    ----------
    port : Port
        The line.
    silence : float
        Seconds after which a silent line is dead.
    stall : float
        Seconds that a command may wait although the line works.
    rng : random.Random, optional
        Chooses session numbers.

    Raises
    ------
    LinkError
        From every method: the line is dead, or the accelerator behind it does not react.
    """

    def __init__(self, port, *, silence=3.0, stall=30.0, rng=None):
        if not stall > 0:
            raise ValueError(f"stall must be positive, not {stall!r}")
        self.port, self.stall = port, stall
        self.channel = Channel(port, silence=silence, rng=rng)
        self.flush()

    @property
    def bus_bytes(self):
        """Bytes of a stream beat of the accelerator."""
        return self.channel.info["bus_bytes"]

    def read_register(self, offset):
        """Return the 32-bit register at byte `offset`."""
        return self._command(Command.READ, address=offset)

    def write_register(self, offset, value):
        """Write the 32-bit register at byte `offset`."""
        self._command(Command.WRITE, address=offset, data=value)

    def _command(self, command, **values):
        """Carry out a register access; returns the data of its reply."""
        self._reply = None
        self._queue(command, **values)
        self._until(lambda: self._reply is not None)
        refused, data = self._reply
        if refused:
            raise DriverError(f"the accelerator refused to {command.name.lower()} register "
                              f"{values['address']:#x}")
        return data

    def _queue(self, command, **values):
        self._pending.append(command)
        self.channel.write(command_bytes(command, **values))

    def _until(self, condition):
        """Pump until `condition`; `LinkError` if nothing moves for `stall` seconds."""
        last = self.clock()
        while not condition():
            if self.channel.pump(self.stall / 8):
                last = self.clock()
                self._parse()
            elif self.clock() - last >= self.stall:
                raise LinkError(f"the accelerator at {self.port.name} has taken nothing for "
                                f"{self.stall:g} s: reset it")

    def send(self, data):
        """Send `data` to the input stream; returns when the board has it in its buffer."""
        size = self.bus_bytes
        if len(data) % size:
            raise ValueError(f"data must be whole beats of {size} bytes, not {len(data)} bytes")
        step = COUNT_MAX * size
        for start in range(0, len(data), step):
            part = data[start:start + step]
            # The channel keeps its bytes until they are acknowledged: not the whole program.
            self._until(lambda: self.channel.unsent < step)
            self._queue(Command.SEND,
                        beats=[part[k:k + size] for k in range(0, len(part), size)])
        self._until(lambda: not self.channel.unsent)

    def receive(self, timeout):
        """Return the next result frame."""
        deadline = self.clock() + timeout
        while not self._frames:
            left = deadline - self.clock()
            self.channel.pump(max(left, 0))
            self._parse()
            if left <= 0 and not self._frames:
                raise TimeoutError(f"no result frame within {timeout:g} s")
        return self._frames.popleft()

    def _parse(self):
        """Take replies and result beats from what has arrived."""
        inbox = self._inbox
        inbox += self.channel.read()
        while inbox:
            if inbox[0] not in list(Reply):
                raise LinkError(f"reply must begin with a known byte, not {inbox[0]:#x}: reset the "
                                f"accelerator at {self.port.name}")
            tag = Reply(inbox[0])
            size = 1 + FOLLOWING.get(tag, self.bus_bytes)
            if len(inbox) < size:
                break
            body = bytes(inbox[1:size])
            del inbox[:size]
            if tag in FOLLOWING:
                self._answered(tag, body)
            else:
                self._beats += body
                if tag is Reply.LAST:
                    self._frames.append(bytes(self._beats))
                    self._beats.clear()

    def _answered(self, tag, body):
        command = self._pending.popleft() if self._pending else None
        if command is None or tag is not Reply[command.name]:
            raise LinkError(f"reply must be to {command.name if command else 'no command'}, "
                            f"not {tag.name}: reset the accelerator at {self.port.name}")
        if command is not Command.SEND:
            self._reply = bool(body[0] & Status.REFUSED), int.from_bytes(body[1:], "little")

    def flush(self):
        """Open a new session: stops both streams, and resets the accelerator."""
        self.channel.open()
        self._pending, self._frames = deque(), deque()
        self._inbox, self._beats, self._reply = bytearray(), bytearray(), None

    def clock(self):
        """Return the port's time."""
        return self.port.clock()

    def close(self):
        """Release the port."""
        self.port.close()
