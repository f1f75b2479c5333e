"""An accelerator of `systola generate --player` in a system: program and results in its memory."""

import time

import numpy as np

from systola.hw.contract.player_registers import PLAYER_MAGIC, PLAYER_REGISTERS, played_crc
from systola.hw.contract.regmap import REGISTERS
from systola.sw_driver.driver.driver import Accelerator
from systola.sw_driver.driver.errors import (
    DriverError,
    HardwareError,
    IdentityError,
    RunTimeoutError,
)
from systola.sw_driver.driver.resident import DamagedError
from systola.sw_driver.driver.transport import Transport
from systola.sw_driver.program.image import decode_outputs

__all__ = ["PlayedAccelerator"]

_STATUS, _CONTROL = PLAYER_REGISTERS["PLAY_STATUS"], PLAYER_REGISTERS["PLAY_CONTROL"]


class _Registers(Transport):
    """Registers alone: streams are the system's."""

    def __init__(self, registers):
        self._registers = registers

    def read_register(self, offset):
        """Return the register at `offset`."""
        return int(self._registers.read(offset))

    def write_register(self, offset, value):
        """Write the register at `offset`."""
        self._registers.write(offset, value)

    def send(self, data):
        """Refuse: the accelerator reads itself."""
        raise DriverError("an accelerator with a player takes no stream")

    def receive(self, timeout):
        """Refuse: results go to memory."""
        raise TimeoutError("results go to memory, by a DMA engine")

    def flush(self):
        """Do nothing: there is no stream."""

    def close(self):
        """Do nothing: registers are the caller's."""


class PlayedAccelerator:
    """Runs programs that lie in memory which the processor and the accelerator share.

    Made for PYNQ, whose objects fit as they are, and for what is like it.

    Parameters
    ----------
    registers : object
        ``read(offset)`` and ``write(offset, value)`` of 32-bit registers, as of ``pynq.MMIO``.
    allocate : callable
        ``allocate(shape=(n,), dtype=numpy.uint8)`` returns an array with ``physical_address``,
        ``flush()`` and ``invalidate()``, at a multiple of a beat, as ``pynq.allocate`` does.
    receiver : object
        The DMA channel from stream to memory: ``transfer(array, start, nbytes)`` arms it for one
        frame, ``idle`` tells whether that is there, as of the ``recvchannel`` of ``pynq.lib.dma``.
    timeout : float
        Seconds that a run may take.

    Raises
    ------
    IdentityError
        If the registers are not those of an accelerator with a player.
    """

    def __init__(self, registers, allocate, receiver, *, timeout=10.0):
        self._transport = _Registers(registers)
        self.accelerator = Accelerator(self._transport, timeout=timeout)
        self._allocate, self._receiver, self.timeout = allocate, receiver, timeout
        self._buffer = self._result = self.program = None
        found = self._read("PLAY_ID")
        if found != PLAYER_MAGIC:
            raise IdentityError(f"register PLAY_ID must read {PLAYER_MAGIC:#x}, not {found:#x}: is "
                                f"this an accelerator of `systola generate --player`?")

    def load(self, program):
        """Put `program` into memory; `MismatchError` if it was made for other hardware."""
        self.accelerator.load(program)
        beat = program.config.bus_bytes
        self._buffer = self._allocate(shape=(len(program.stream),), dtype=np.uint8)
        self._result = self._allocate(shape=(max(program.frames, default=1) * beat,),
                                      dtype=np.uint8)
        if self._buffer.physical_address % beat:
            raise DriverError(f"program must lie at a multiple of {beat} bytes in memory, not at "
                              f"{self._buffer.physical_address:#x}")
        self._buffer[:] = np.frombuffer(program.stream, np.uint8)
        self._buffer.flush()
        self.program = program

    def run(self, inputs):
        """Run the program on `inputs` (`Program.fill`); return its outputs.

        Raises
        ------
        DriverError
            If no program is loaded, or the accelerator is busy or holds an error.
        HardwareError, RunTimeoutError
            If it refuses an instruction, or does not end in time.
        DamagedError
            If it read anything else than what was meant, or the memory answered an error.
        """
        program = self.program
        if program is None:
            raise DriverError("no program is loaded")
        beat, stream = program.config.bus_bytes, program.fill(inputs)
        for slot in program.inputs:
            end = slot.offset + slot.rows * slot.planes * slot.words * beat
            self._buffer[slot.offset:end] = np.frombuffer(stream[slot.offset:end], np.uint8)
        self._buffer.flush()
        plays = [(PLAYER_REGISTERS[name].offset, value) for name, value in (
            ("PLAY_ADDRESS", self._buffer.physical_address // beat),
            ("PLAY_BEATS", len(stream) // beat),
            ("PLAY_CONTROL", _CONTROL.field("start").mask))]
        frames, deadline = [], time.monotonic() + self.timeout
        for index, beats in enumerate(program.frames):
            self._receiver.transfer(self._result, 0, beats * beat)
            if index == 0:
                self.accelerator.start(*plays)
            while not self._receiver.idle:
                self._check(deadline, f"for result frame {index}")
            self._result.invalidate()
            frames.append(np.array(self._result[:beats * beat]))
        while not self._is_over():
            self._check(deadline, "for the end of the program")
        if (found := self._read("PLAY_CRC")) != played_crc(stream, beat):
            raise DamagedError(f"what was played has the checksum {found:#010x}, not "
                               f"{played_crc(stream, beat):#010x}: memory was changed, or not "
                               f"flushed")
        return decode_outputs(program, frames)

    def _is_over(self):
        """Return whether the program is done, and nothing of it is under way."""
        return (REGISTERS["STATUS"].field("done").get(self._register("STATUS"))
                and not _STATUS.field("busy").get(self._read("PLAY_STATUS")))

    def _check(self, deadline, what):
        """Raise what went wrong, if anything did."""
        if _STATUS.field("failed").get(self._read("PLAY_STATUS")):
            raise DamagedError("the memory answered an error when the program was read")
        state = self._register("STATUS")
        if REGISTERS["STATUS"].field("error").get(state):
            raise HardwareError(REGISTERS["ERROR"].field("cause").get(self._register("ERROR")),
                                self._register("ERROR_INDEX"), self._register("ERROR_WORD"))
        if time.monotonic() >= deadline:
            raise RunTimeoutError(f"waited {self.timeout:g} s {what}; status {state:#x}")

    def _read(self, name):
        return self._transport.read_register(PLAYER_REGISTERS[name].offset)

    def _register(self, name):
        return self._transport.read_register(REGISTERS[name].offset)
