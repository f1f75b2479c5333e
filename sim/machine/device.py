"""Model of the device's end of the serial link: channel, bridge, and a machine behind them.

Bytes of the line go in and come out; what is between follows the rules of ``hw/contract/frame.py``
and ``hw/contract/link.py``, without their cycles. One `DeviceModel` is a board that host software
can be tested against in milliseconds.
"""

from systola.hw.contract.frame import (
    BUFFER,
    INFO,
    MODULUS,
    VERSION,
    Frame,
    FrameReader,
    Kind,
    piece,
)
from systola.hw.contract.isa import INSTRUCTION_BYTES, Error, Opcode, decode
from systola.hw.contract.link import COUNT_MAX, Command, Reply, Status
from systola.hw.contract.player_registers import (
    PLAYER_BASE,
    PLAYER_MAGIC,
    PLAYER_REGISTERS,
    Target,
    played_crc,
)
from systola.hw.contract.regmap import MAGIC, REGISTERS
from systola.hw.contract.regmap import VERSION as REGISTERS_VERSION
from systola.sim.machine.machine import DeadlockError, Machine, MachineError, ProgramFault

__all__ = ["ChannelModel", "DeviceModel"]


class ChannelModel:
    """The channel of ``hw/host/channel.py``: frames of the line, two byte streams inside.

    Parameters
    ----------
    info : callable
        Returns the fields of an INFO frame but ``buffer``, a dict.
    buffer : int
        Bytes of each buffer.

    Attributes
    ----------
    arrived : bytearray
        Stream from the host; the owner takes bytes from its front with `take`.
    line : bytearray
        Bytes for the line, to be taken from its front.
    opened : callable or None
        Called when a session begins.
    """

    def __init__(self, info, *, buffer=BUFFER):
        self.info, self.buffer, self.opened = info, buffer, None
        self.session, self.line, self._reader = 0, bytearray(), FrameReader()
        self._clear()

    def _clear(self):
        self.arrived, self._kept = bytearray(), bytearray()
        self._expected = self._base = self._next = 0
        self._told, self._wanted = self.buffer, MODULUS - 1

    @property
    def room(self):
        """Bytes that `put` takes now."""
        return self.buffer - len(self._kept)

    def put(self, data):
        """Append to the stream to the host, at most `room` bytes."""
        if len(data) > self.room:
            raise ValueError(f"data must be at most {self.room} bytes, not {len(data)}")
        self._kept += data
        self._send()

    def take(self, count):
        """Return and remove `count` bytes of what has arrived."""
        data = bytes(self.arrived[:count])
        del self.arrived[:count]
        if self._limit() - self._told >= self.buffer // 2:
            self._report()
        return data

    def feed(self, data):
        """Take bytes from the line."""
        damaged = self._reader.damaged
        for frame in self._reader.feed(data):
            self._act(frame)
        if self._reader.damaged != damaged:
            self._report()

    def _act(self, frame):
        if frame.kind is Kind.INFO:
            return
        if frame.kind is Kind.QUERY:
            values = {**self.info(), "buffer": self.buffer}
            self._write(Kind.INFO, b"".join(values[name].to_bytes(size, "little")
                                            for name, size, _ in INFO))
            return
        if frame.kind is Kind.RESET:
            if frame.session and frame.session != self.session:
                self.session = frame.session
                self._clear()
                if self.opened:
                    self.opened()
            self._report()
            return
        if frame.session != self.session:
            self._report()
            return
        self._wanted = frame.window or self._wanted
        acknowledged = (frame.acknowledge - self._base) % MODULUS
        if acknowledged <= self._next - self._base:
            del self._kept[:acknowledged]
            self._base += acknowledged
        if frame.kind is Kind.RESEND:
            self._next = self._base
        if (frame.payload and frame.sequence == self._expected % MODULUS
                and len(frame.payload) <= self.buffer - len(self.arrived)):
            self.arrived += frame.payload
            self._expected += len(frame.payload)
        if not self._send() and (frame.payload or frame.kind is Kind.RESEND):
            self._report()

    def _limit(self):
        return self._expected + self.buffer - len(self.arrived)

    def _send(self):
        """Send what was not sent yet; whether there was something."""
        before, most = self._next, piece(self._wanted)
        while payload := bytes(self._kept[self._next - self._base:][:most]):
            if self._next != self._base and self._next + most - self._base > self._wanted:
                break
            self._write(Kind.DATA, payload)
            self._next += len(payload)
        return self._next != before

    def _report(self):
        self._write(Kind.DATA, b"")

    def _write(self, kind, payload):
        self._told = self._limit()
        self.line += Frame(kind=kind, session=self.session, sequence=self._next % MODULUS,
                           acknowledge=self._expected % MODULUS,
                           window=self.buffer - len(self.arrived), payload=payload).encode()


class DeviceModel:
    """A board with an accelerator of configuration `config`, and `size` beats for programs.

    Attributes
    ----------
    memory : bytearray
        What lies in the memory for resident programs; a new session leaves it as it is.
    channel : ChannelModel
        Its link; `feed` it and take its ``line``.
    slow : callable or None
        When it returns true, the accelerator takes nothing for now.
    """

    def __init__(self, config, *, size=0, buffer=BUFFER):
        self.config, self.slow = config, None
        self.size, self.memory = size, bytearray(size * config.bus_bytes)
        self._player, self._played = {"PLAY_ID": PLAYER_MAGIC, "PLAY_SIZE": size}, []
        self.channel = ChannelModel(self._info, buffer=buffer)
        self.channel.opened = self._begin
        self._begin()

    def _begin(self):
        """Begin a session."""
        self._owed, self._left, self._place, self._reply = bytearray(), 0, None, Reply.SEND
        if self._played:
            self._stop()
        self._reset()

    def _reset(self):
        """Reset the accelerator."""
        self._values = {"ID": MAGIC, "VERSION": REGISTERS_VERSION,
                        "HASH_LOW": self.config.hash & 0xFFFFFFFF,
                        "HASH_HIGH": self.config.hash >> 32}
        self._stream, self._running, self._at = bytearray(), False, 0

    def _info(self):
        return {"magic": MAGIC, "version": VERSION, "bus_bytes": self.config.bus_bytes,
                "config_hash": self.config.hash, "status": self._values.get("STATUS", 0),
                "memory": self.size}

    def feed(self, data):
        """Take bytes from the line, and do what they say."""
        self.channel.feed(data)
        self.work()

    def work(self):
        """Carry out commands until there is none, or no room for what they answer."""
        while not (self.slow and self.slow()):
            part = self._owed[:self.channel.room]
            self.channel.put(part)
            del self._owed[:len(part)]
            if self._owed or not self._command():
                break

    def _command(self):
        """Carry out a command, or take a beat of one; False if its bytes are not all there."""
        arrived, size = self.channel.arrived, self.config.bus_bytes
        if self._left:
            if len(arrived) < size:
                return False
            self._put(self.channel.take(size))
            self._left -= 1
            if not self._left:
                self._owed += bytes([self._reply, self._refused])
            return True
        sizes = {Command.READ: 2, Command.WRITE: 6, Command.SEND: 2,
                 **({Command.PUT: 6} if self.size else {})}
        if not arrived or len(arrived) < sizes.get(arrived[0], 1):
            return False
        if arrived[0] not in sizes:
            self.channel.take(1)
            self._owed += bytes([Reply.UNKNOWN, 0])
            return True
        command, value, *data = self.channel.take(sizes[arrived[0]])
        number = int.from_bytes(bytes(data), "little")
        if command in {Command.SEND, Command.PUT}:
            self._left, self._reply = value or COUNT_MAX, Reply[Command(command).name]
            self._place = number if command == Command.PUT else None
            is_over = command == Command.PUT and number + self._left > self.size
            self._refused = Status.REFUSED if is_over else Status(0)
        elif command == Command.WRITE:
            self._write(value, number)
        else:
            names = [name for name, register in self._registers().items()
                     if register.offset == value]
            values = self._values | self._player
            answer = values.get(names[0], 0) if names else 0
            self._owed += bytes([Reply.READ, 0 if names else Status.REFUSED])
            self._owed += answer.to_bytes(4, "little")
        return True

    def _registers(self):
        return REGISTERS | PLAYER_REGISTERS if self.size else REGISTERS

    def _put(self, beat):
        """Take a beat of a SEND or PUT."""
        if self._place is None:
            self._beat(beat)
        elif not self._refused:
            at = self._place * self.config.bus_bytes
            self.memory[at:at + len(beat)] = beat
            self._place += 1

    def _write(self, offset, value):
        control = REGISTERS["CONTROL"]
        if self.size and offset >= PLAYER_BASE:
            refused = self._write_player(offset, value)
            self._owed += bytes([Reply.WRITE, Status.REFUSED if refused else 0])
            self._play()
            return
        self._owed += bytes([Reply.WRITE, 0 if offset == control.offset else Status.REFUSED])
        if offset != control.offset:
            return
        status = self._values.get("STATUS", 0)
        if control.field("reset").get(value):
            self._reset()
        elif control.field("start").get(value) and not status & 0b101:
            self._values["STATUS"] = 1
            self._stream.clear()
            self._running, self._at = True, 0
            self._play()

    def _write_player(self, offset, value):
        """Write a register of the player; returns whether it is refused."""
        values, size = self._player, self.config.bus_bytes
        name = next((name for name, register in PLAYER_REGISTERS.items()
                     if register.offset == offset and register.writable), None)
        control, is_busy = PLAYER_REGISTERS["PLAY_CONTROL"], bool(self._played)
        if name is None:
            return True
        if name != "PLAY_CONTROL":
            if not is_busy:
                values[name] = value
            return is_busy
        if is_busy and control.field("stop").get(value):
            self._stop()
            is_busy = False
        if not control.field("start").get(value):
            return False
        first, count = values.get("PLAY_ADDRESS", 0), values.get("PLAY_BEATS", 0)
        target = control.field("target").get(value)
        if is_busy or not 0 < count <= self.size - first or target not in list(Target):
            return True
        data = bytes(self.memory[first * size:(first + count) * size])
        values |= {"PLAY_STATUS": 0, "PLAY_CRC": played_crc(data, size)}
        beats = [data[at:at + size] for at in range(0, len(data), size)]
        if target == Target.HOST:
            self._give([beats])
        elif target == Target.ACCELERATOR:
            self._played, values["PLAY_STATUS"] = beats, 1
        return False

    def _stop(self):
        """Let go of what is played."""
        self._played, self._player["PLAY_STATUS"] = [], 0b100

    def _play(self):
        """Let the accelerator have what is played, as long as it takes it."""
        if not self._played:
            return
        while self._played and (self._running or self._values.get("STATUS", 0) & 0b100):
            self._beat(self._played.pop(0))
        if not self._played:
            self._player["PLAY_STATUS"] = 0

    def _beat(self, beat):
        """Take a beat of a program; the whole program runs with its last."""
        if not self._running:
            return
        self._stream += beat
        if not self._complete():
            return
        self._running = False
        try:
            frames = Machine(self.config).run(bytes(self._stream))
        except MachineError as error:
            self._values |= {"STATUS": 0b100, "ERROR": error.cause, "ERROR_INDEX": error.index}
            return
        except (DeadlockError, ProgramFault) as error:  # of a damaged program
            self._values |= {"STATUS": 0b100, "ERROR": Error.DEADLOCK if isinstance(
                error, DeadlockError) else Error.LEFTOVER, "ERROR_INDEX": 0}
            return
        self._values["STATUS"] = 0b010
        self._give(frames)

    def _give(self, frames):
        """Send result frames."""
        for frame in frames:
            for index, word in enumerate(frame):
                self._owed += bytes([Reply.LAST if index == len(frame) - 1 else Reply.BEAT])
                self._owed += bytes(word).ljust(self.config.bus_bytes, b"\0")

    def _complete(self):
        """Return whether the stream reaches END, or an instruction that is none."""
        size = self.config.bus_bytes
        length = -(-INSTRUCTION_BYTES // size) * size
        while self._at + length <= len(self._stream):
            try:
                opcode, _, _, fields = decode(bytes(self._stream[self._at:self._at + length]))
            except ValueError:
                return True
            if opcode is Opcode.END:
                return True
            self._at += length + fields.get("beats", 0) * size
        return False
