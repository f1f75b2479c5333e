"""The driver of an accelerator with a player, against a model of a system with shared memory."""

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS
from systola.hw.contract.player_registers import PLAYER_MAGIC, PLAYER_REGISTERS, played_crc
from systola.hw.contract.regmap import MAGIC, REGISTERS, VERSION
from systola.sim.machine.machine import Machine, MachineError
from systola.sim.soak.fault_runs import small_cases
from systola.sw_driver.driver.errors import (
    DriverError,
    HardwareError,
    IdentityError,
    MismatchError,
    RunTimeoutError,
)
from systola.sw_driver.driver.played import PlayedAccelerator
from systola.sw_driver.driver.resident import DamagedError

TINY = PRESETS["tiny"]
OFFSETS = {register.offset: name for name, register in (REGISTERS | PLAYER_REGISTERS).items()}


class Buffer(np.ndarray):
    """Memory that the accelerator sees as it was when it was flushed last."""

    def flush(self):
        self.system.memory[self.physical_address] = self.tobytes()

    def invalidate(self):
        self[:] = np.frombuffer(self.system.memory[self.physical_address], np.uint8)


class System:
    """Registers, shared memory, and a DMA channel."""

    def __init__(self, config=TINY):
        self.config, self.memory, self.next = config, {}, 0x1000
        self.values = {"ID": MAGIC, "VERSION": VERSION, "PLAY_ID": PLAYER_MAGIC,
                       "HASH_LOW": config.hash & 0xFFFFFFFF, "HASH_HIGH": config.hash >> 32}
        self.frames, self.armed, self.played, self.spoil = [], None, False, None

    def allocate(self, shape, dtype):
        buffer = np.zeros(shape, dtype).view(Buffer)
        buffer.system, buffer.physical_address = self, self.next
        self.memory[self.next], self.next = bytes(shape[0]), self.next + shape[0] + 4096 & ~4095
        return buffer

    def read(self, offset):
        return self.values.get(OFFSETS[offset], 0)

    def write(self, offset, value):
        name = OFFSETS[offset]
        if name == "PLAY_CONTROL" and value & 1:
            self.played = True
        elif name == "CONTROL" and value & 1:
            assert self.played
            self.played, self.values["STATUS"] = False, 1
            self._play()
        else:
            self.values[name] = value

    def _play(self):
        address = self.values["PLAY_ADDRESS"] * self.config.bus_bytes
        length = self.values["PLAY_BEATS"] * self.config.bus_bytes
        data = bytearray(self.memory[address][:length])
        if self.spoil == "error":
            self.values["PLAY_STATUS"] = 0b010
            return
        if self.spoil is not None:
            data[self.spoil] ^= 1
        self.values["PLAY_CRC"] = played_crc(bytes(data), self.config.bus_bytes)
        try:
            frames = Machine(self.config).run(bytes(data))
        except MachineError as error:
            self.values |= {"STATUS": 0b100, "ERROR": error.cause, "ERROR_INDEX": error.index}
            return
        self.frames = [b"".join(bytes(word).ljust(self.config.bus_bytes, b"\0") for word in frame)
                       for frame in frames]
        self._move()

    def transfer(self, array, start, nbytes):
        assert self.armed is None
        self.armed = array, start, nbytes
        self._move()

    def _move(self):
        if self.armed is None or not self.frames:
            return
        (array, start, nbytes), frame = self.armed, self.frames.pop(0)
        assert len(frame) == nbytes
        memory = bytearray(self.memory[array.physical_address])
        memory[start:start + nbytes] = frame
        self.memory[array.physical_address] = bytes(memory)
        self.armed = None
        if not self.frames:
            self.values["STATUS"] = 0b010

    @property
    def idle(self):
        return self.armed is None


def connect(system, **options):
    return PlayedAccelerator(system, system.allocate, system, **options)


@pytest.fixture(scope="module")
def cases():
    return small_cases(4, TINY)


def test_programs_run_from_shared_memory(cases):
    system = System()
    accelerator = connect(system)
    for program, inputs, expected in (*cases, cases[0]):
        accelerator.load(program)
        for _ in range(2):
            outputs = accelerator.run(inputs)
            np.testing.assert_array_equal(outputs["logits"], expected["logits"])


def test_what_goes_wrong_is_an_error(cases):
    program, inputs, expected = cases[1]
    system = System()
    accelerator = connect(system, timeout=0.2)
    with pytest.raises(DriverError, match=r"^no program is loaded$"):
        accelerator.run(inputs)
    with pytest.raises(MismatchError):
        connect(System(PRESETS["small"])).load(program)
    accelerator.load(program)
    system.spoil = len(program.stream) - 70  # unused bytes of an instruction
    data = bytearray(program.stream)
    while system.spoil > 0:
        data[:] = program.fill(inputs)
        data[system.spoil] ^= 1
        try:
            Machine(TINY).run(bytes(data))
            break
        except MachineError:
            system.spoil -= 1
    with pytest.raises(DamagedError, match=r"^what was played has the checksum"):
        accelerator.run(inputs)
    system.spoil = 0
    with pytest.raises(HardwareError):
        accelerator.run(inputs)
    system.values["STATUS"], system.spoil, system.armed = 0, "error", None
    with pytest.raises(DamagedError, match=r"^the memory answered an error"):
        accelerator.run(inputs)
    system.values |= {"STATUS": 0, "PLAY_STATUS": 0}
    system.spoil = system.armed = None
    outputs = accelerator.run(inputs)
    np.testing.assert_array_equal(outputs["logits"], expected["logits"])
    system._play = lambda: None  # it is never read
    system.values["STATUS"] = 0
    with pytest.raises(RunTimeoutError, match=r"^waited 0.2 s for result frame 0"):
        accelerator.run(inputs)


def test_other_hardware_is_refused():
    system = System()
    system.values["PLAY_ID"] = 0
    with pytest.raises(IdentityError, match=r"^register PLAY_ID must read 0x\w+, not 0x0: is this"):
        connect(system)
