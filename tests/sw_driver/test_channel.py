"""The host's end of the link against the model of the device's, over lines of every quality."""

import random

import pytest

from systola.hw.contract.config import PRESETS
from systola.hw.contract.frame import LENGTH_MAX, VERSION, Frame, Kind
from systola.hw.contract.regmap import MAGIC, REGISTERS
from systola.sim.machine.device import ChannelModel, DeviceModel
from systola.sim.soak.line_faults import BROKEN, FAULTS, Faults
from systola.sw_driver.driver.channel import Channel
from systola.sw_driver.driver.driver import Accelerator
from systola.sw_driver.driver.errors import DriverError, IdentityError, LinkError
from systola.sw_driver.driver.port import Port
from systola.sw_driver.driver.uart import UartTransport

TINY = PRESETS["tiny"]
BYTE = 1e-5
"""Seconds of a byte on the line."""


class Wire(Port):
    """A line to a device model, in its own time, which damages bytes both ways."""

    name, baud = "wire", 1_000_000

    def __init__(self, device, rng=None, rate=0.0, kinds=tuple(FAULTS), mute=False):
        self.device, self.mute, self.now = device, mute, 0.0
        self.faults = Faults(rng or random.Random(0), rate, kinds)

    def write(self, data):
        for byte in self.faults.apply(data):
            if not self.mute and byte < BROKEN:
                self.device.feed(bytes([byte]))
        self.now += len(data) * BYTE

    def read(self, timeout):
        if isinstance(self.device, DeviceModel):
            self.device.work()
        line = self.device.channel.line if isinstance(self.device, DeviceModel) else (
            self.device.line)
        data = bytes(byte for byte in self.faults.apply(line) if byte < BROKEN)
        line.clear()
        self.now += len(data) * BYTE if data else timeout
        return b"" if self.mute else data

    def clock(self):
        return self.now

    def close(self):
        pass


def echo(buffer=512):
    """Return a channel model that has no accelerator."""
    return ChannelModel(lambda: {"magic": MAGIC, "version": VERSION, "bus_bytes": 4,
                                 "config_hash": 5, "status": 6, "memory": 7}, buffer=buffer)


def exchange(channel, model, sent, rng, limit=100_000):
    """Send `sent` to a device that returns every byte; returns what came back."""
    channel.write(sent)
    got, back = bytearray(), bytearray()
    for _ in range(limit):
        channel.pump(0.001)
        got += channel.read()
        if rng.random() < 0.7:  # takes what has arrived in pieces, and not at once
            back += model.take(rng.randrange(1, 400))
        part = back[:min(model.room, rng.randrange(1, 400))]
        model.put(bytes(part))
        del back[:len(part)]
        if len(got) == len(sent):
            break
    return bytes(got)


@pytest.mark.parametrize("kind", [*FAULTS, None])
@pytest.mark.parametrize("rate", [0.0005, 0.01])
def test_streams_lose_and_invent_nothing(kind, rate):
    for seed in range(3):
        rng = random.Random(f"{kind} {rate} {seed}")
        model = echo(buffer=rng.choice([300, 512, 2048]))
        # A spell of silence costs as much as many other faults.
        wire = Wire(model, rng, rate / 4 if kind in {None, "silence"} else rate,
                    (kind,) if kind else tuple(FAULTS))
        channel = Channel(wire, rng=rng, silence=30)
        channel.open()
        sent = rng.randbytes(rng.randrange(500, 2_500))
        assert exchange(channel, model, sent, rng) == sent
        assert channel.unsent == 0
        assert sum(wire.faults.counts.values()) > 0 or rate < 0.001 or kind == "silence"


def test_a_good_line_repeats_nothing_and_numbers_wrap():
    rng = random.Random(1)
    model = echo(buffer=2048)
    channel = Channel(Wire(model), rng=rng)
    channel.open()
    sent = rng.randbytes(70_000)
    assert exchange(channel, model, sent, rng) == sent
    assert channel.repeats == 0


def test_a_full_device_is_waited_for_without_repeating_bytes():
    model = echo(buffer=300)
    wire = Wire(model)
    channel = Channel(wire)
    channel.open()
    channel.write(bytes(1000))
    for _ in range(300):
        channel.pump(0.1)  # 30 s, far longer than a dead line is waited for
    assert (len(model.arrived), channel.unsent) == (300, 700)
    while channel.unsent:
        model.take(70)
        channel.pump(0.1)
    assert channel._sent == 1000


def test_a_damaged_frame_is_asked_for_at_once():
    model = echo()
    wire = Wire(model)
    channel = Channel(wire)
    channel.open()
    model.put(b"abc")
    model.line[8] ^= 1
    start = wire.now
    assert channel.pump(1)
    assert channel.read() == b"abc"
    assert wire.now - start < 0.01  # the timer would have waited twice as long


def test_identity_and_silence():
    model = echo()
    channel = Channel(Wire(model))
    channel.open()
    assert channel.info == {"magic": MAGIC, "version": VERSION, "bus_bytes": 4, "config_hash": 5,
                            "status": 6, "memory": 7, "buffer": 512}
    dead = Channel(Wire(model, mute=True))
    with pytest.raises(LinkError, match=r"^nothing answers at wire for 3 s: check the cable, that "
                                        r"the board is programmed, and the baud rate \(1000000\)"):
        dead.open()
    channel.port.mute = True
    channel.write(b"a")
    with pytest.raises(LinkError, match=r"^nothing answers at wire for 15 s"):
        channel.pump(60)
    assert channel.port.now < 22
    other = echo()
    other.info = lambda: {"magic": 1, "version": 9, "bus_bytes": 4, "config_hash": 5, "status": 6,
                          "memory": 7}
    with pytest.raises(IdentityError, match=r"magic 0x1 with version 9$"):
        Channel(Wire(other)).open()


def test_a_device_that_was_reset_is_noticed():
    model = echo()
    channel = Channel(Wire(model))
    channel.open()
    model.session = 0  # as the button does
    model._clear()
    channel.write(b"abc")
    with pytest.raises(LinkError, match=r"was reset, or another program uses it: open it again$"):
        channel.pump(1)
    channel.open()
    channel.write(b"abc")
    channel.pump(1)
    assert model.arrived == b"abc"


def test_the_model_follows_the_rules_of_sessions():
    model, opened = echo(), []
    model.opened = lambda: opened.append(model.session)

    def ask(**values):
        model.line.clear()
        model.feed(Frame(**values).encode())
        return bytes(model.line)

    assert ask(kind=Kind.DATA, session=3, payload=b"x") == Frame(
        kind=Kind.DATA, window=512).encode()
    assert ask(kind=Kind.RESET, session=0)
    assert opened == []
    assert ask(kind=Kind.RESET, session=3) == Frame(kind=Kind.DATA, session=3, window=512).encode()
    assert ask(kind=Kind.DATA, session=3, payload=b"x") == Frame(
        kind=Kind.DATA, session=3, acknowledge=1, window=511).encode()
    ask(kind=Kind.RESET, session=3)
    assert (opened, model.arrived) == ([3], b"x")
    ask(kind=Kind.RESET, session=4)
    assert (opened, model.arrived) == ([3, 4], b"")
    model.put(bytes(LENGTH_MAX + 1))
    assert ask(kind=Kind.DATA, session=4, acknowledge=300) == b""  # more than was ever sent
    assert model.room == 512 - LENGTH_MAX - 1
    with pytest.raises(ValueError, match=r"^data must be at most 256 bytes, not 257$"):
        model.put(bytes(257))


@pytest.mark.parametrize("rate", [0, 0.003])
def test_registers_over_the_line(rate):
    rng = random.Random(7)
    device = DeviceModel(TINY, buffer=300)
    transport = UartTransport(Wire(device, rng, rate), rng=rng, silence=20)
    for _ in range(40):
        assert transport.read_register(REGISTERS["ID"].offset) == MAGIC
        transport.write_register(REGISTERS["CONTROL"].offset, 0)
    with pytest.raises(DriverError, match=r"^the accelerator refused to read register 0xfc$"):
        transport.read_register(0xFC)
    with pytest.raises(DriverError, match=r"^the accelerator refused to write register 0x0$"):
        transport.write_register(0, 1)
    with pytest.raises(ValueError, match=r"^data must be whole beats of"):
        transport.send(b"a")
    with pytest.raises(TimeoutError):
        transport.receive(0.5)
    transport.flush()
    assert Accelerator(transport).config_hash == TINY.hash


def test_an_accelerator_that_takes_nothing_is_an_error_in_time():
    device = DeviceModel(TINY)
    wire = Wire(device)
    transport = UartTransport(wire, stall=5)
    device.slow = lambda: True
    start = wire.now
    with pytest.raises(LinkError, match=r"^the accelerator at wire has taken nothing for 5 s"):
        transport.read_register(0)
    assert wire.now - start < 12
    device.slow = None
    transport.flush()
    assert transport.read_register(0) == MAGIC


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Channel(Wire(echo()), silence=0), "silence must be positive, not 0"),
    (lambda: UartTransport(Wire(echo()), stall=-1), "stall must be positive, not -1"),
    (lambda: Faults(random.Random(0), 1), "rate must be from 0 to below 1, not 1"),
    (lambda: Faults(random.Random(0), 0.1, ["x"]), "kinds must be among flip,"),
    (lambda: Frame(kind=Kind.DATA, session=65536).encode(),
     "session must be from 0 to 65535, not 65536"),
])
def test_unusable_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()
