"""Transport over a serial line: commands of ``hw/contract/link.py`` through the channel."""

from collections import Counter, deque

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

    Attributes
    ----------
    traffic : Counter
        Bytes of the two streams by what they carried: ``inputs`` (written to memory),
        ``program`` (streamed), ``results``, and ``control``, everything else.

    Raises
    ------
    LinkError
        From every method: the line is dead, or the accelerator behind it does not react.
    """

    def __init__(self, port, *, silence=3.0, stall=30.0, rng=None):
        if not stall > 0:
            raise ValueError(f"stall must be positive, not {stall!r}")
        self.port, self.stall, self.traffic = port, stall, Counter()
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
        self._begin(command, **values)
        return self._finish()[0]

    def access(self, *accesses):
        """Carry out register accesses in order, in one round trip; returns what was read."""
        for offset, value in accesses:
            if value is None:
                self._begin(Command.READ, address=offset)
            else:
                self._begin(Command.WRITE, address=offset, data=value)
        values = self._finish()
        return [value for (_, given), value in zip(accesses, values, strict=True)
                if given is None]

    def _begin(self, command, **values):
        self._asked.append((command, values["address"]))
        self._queue(command, **values)

    def _finish(self):
        """Wait for the replies of all that was begun; returns their data."""
        asked, self._asked = self._asked, []
        self._until(lambda: len(self._replies) == len(asked))
        replies, self._replies = self._replies, []
        for (command, address), (refused, _) in zip(asked, replies, strict=True):
            if refused:
                raise DriverError(f"the accelerator refused to {command.name.lower()} register "
                                  f"{address:#x}")
        return [data for _, data in replies]

    def _queue(self, command, **values):
        self._pending.append(command)
        data = command_bytes(command, **values)
        self.traffic["control"] += len(data)
        self.channel.write(data)

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

    @property
    def arrived(self):
        """Bytes of results that have come."""
        return self.traffic["results"]

    @property
    def memory_beats(self):
        """Beats of the board's memory for resident programs, 0 without one."""
        return self.channel.info["memory"]

    def send(self, data):
        """Send `data` to the input stream; returns when the board has it in its buffer."""
        self._send_beats(Command.SEND, data, "program")
        self._until(lambda: not self.channel.unsent)

    def put(self, address, data, what="inputs"):
        """Write `data` to beat `address` on of the memory; `what` it is counts in ``traffic``.

        Raises `DriverError` if it does not lie there. Returns when all but the last KBytes are on
        their way: they wait where a program that is being played is still to be read.
        """
        beats = len(data) // self.bus_bytes
        if not 0 <= address <= self.memory_beats - beats:
            raise DriverError(f"beats {address} to {address + beats} do not lie in the board's "
                              f"memory of {self.memory_beats}")
        self._send_beats(Command.PUT, data, what, address)

    def _send_beats(self, command, data, what, address=0):
        size = self.bus_bytes
        if len(data) % size:
            raise ValueError(f"data must be whole beats of {size} bytes, not {len(data)} bytes")
        step = COUNT_MAX * size
        for start in range(0, len(data), step):
            part = data[start:start + step]
            self.traffic[what] += len(part)
            self.traffic["control"] -= len(part)
            # The channel keeps its bytes until they are acknowledged: not the whole program.
            self._until(lambda: self.channel.unsent < step)
            self._queue(command, address=address + start // size,
                        beats=[part[k:k + size] for k in range(0, len(part), size)])

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
            self.traffic["control" if tag in FOLLOWING else "results"] += size
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
        refused = bool(body[0] & Status.REFUSED)
        if command in {Command.READ, Command.WRITE}:
            self._replies.append((refused, int.from_bytes(body[1:], "little")))
        elif refused:
            raise DriverError("the board refused beats for its memory: they do not lie in it")

    def flush(self):
        """Open a new session: stops both streams, and resets the accelerator."""
        self.channel.open()
        self._pending, self._frames = deque(), deque()
        self._inbox, self._beats = bytearray(), bytearray()
        self._asked, self._replies = [], []

    def clock(self):
        """Return the port's time."""
        return self.port.clock()

    def close(self):
        """Release the port."""
        self.port.close()
