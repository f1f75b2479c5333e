"""Programs that stay on the board: written once, then only inputs and results cross the link."""

import zlib

from systola.hw.contract.player_registers import PLAYER_REGISTERS, Target, played_crc
from systola.sw_driver.driver.errors import (
    DriverError,
    HardwareError,
    MismatchError,
    RunTimeoutError,
)
from systola.sw_driver.program.directory import Directory

__all__ = ["DamagedError", "ResidentPrograms"]

_CONTROL, _STATUS = PLAYER_REGISTERS["PLAY_CONTROL"], PLAYER_REGISTERS["PLAY_STATUS"]


_SLICE = 0.5
"""Seconds after which to look whether anything has come."""


class DamagedError(DriverError):
    """What lies in the board's memory is not what was written there."""


class ResidentPrograms:
    """The programs in the memory of the board behind `accelerator`.

    A program's inputs are written into its place in memory. Whatever is played comes with a
    checksum of its beats, and results are only given if that is the one of the program with these
    inputs: no damage, wherever it happened, goes unnoticed
    (`systola.hw.contract.player_registers.played_crc` says what a checksum of 32 bits can miss).

    Parameters
    ----------
    accelerator : Accelerator
        Its transport must have a memory.

    Attributes
    ----------
    directory : Directory
        What is there.
    found : bool
        Whether the memory had a directory; else an empty one was begun, and whatever lay there
        counts as nothing.

    Raises
    ------
    DriverError
        If the board has no memory for programs.
    """

    def __init__(self, accelerator):
        self.accelerator, self.transport = accelerator, accelerator.transport
        self.size, self.bus_bytes = self.transport.memory_beats, self.transport.bus_bytes
        if not self.size:
            raise DriverError("the board has no memory for resident programs: run it without "
                              "--resident, or build it with --memory")
        empty = Directory(self.size, self.bus_bytes)
        if empty.beats >= self.size:
            raise DriverError(f"the board's memory of {self.size * self.bus_bytes:,} bytes has no "
                              f"room for programs")
        if self._status("busy"):  # what a host before this one began
            self._write("PLAY_CONTROL", _CONTROL.field("stop").mask)
            self._wait()
        found = Directory.decode(self.read(0, empty.beats), self.size, self.bus_bytes)
        self.found, self.directory = found is not None, found or empty

    def flash(self, name, program, *, readback=True, progress=None):
        """Write `program` into memory as `name`, in place of one that has this name.

        It is checked by its checksum, and with `readback` byte by byte. Until that is done the
        directory does not name it. `progress` is called with bytes done and all bytes.

        Raises
        ------
        MismatchError
            If it was made for other hardware.
        ValueError
            If there is no room, or the name cannot be one.
        DamagedError
            If the memory does not keep it.
        """
        self.accelerator.load(program)
        without = self.directory.without(name)
        directory = without.place(name, program.stream)
        if without != self.directory or not self.found:
            self._keep(without)
        entry, total = directory.find(name), len(program.stream) * (2 if readback else 1)
        step = 64 * 256 * self.bus_bytes
        for start in range(0, len(program.stream), step):
            self.transport.put(entry.address + start // self.bus_bytes,
                               program.stream[start:start + step], "program")
            if progress:
                progress(min(start + step, len(program.stream)), total)
        where = f"program {name!r} at beat {entry.address}"
        found = self._play(entry.address, entry.beats, Target.NOWHERE)
        if found != played_crc(program.stream, self.bus_bytes):
            raise DamagedError(f"{where} has another checksum than what was written: the memory "
                               f"does not keep it")
        if readback:
            step //= self.bus_bytes
            for start in range(0, entry.beats, step):
                beats = min(step, entry.beats - start)
                at = start * self.bus_bytes
                if (self.read(entry.address + start, beats)
                        != program.stream[at:at + beats * self.bus_bytes]):
                    raise DamagedError(f"{where} does not read back as it was written")
                if progress:
                    progress(len(program.stream) + at + beats * self.bus_bytes, total)
        self._keep(directory)
        return entry

    def remove(self, name):
        """Take the program `name` off the board; ``ValueError`` if there is none."""
        self._named(name)
        self._keep(self.directory.without(name))

    def holds(self, name, program):
        """Return whether the program `name` is there, and is `program`."""
        entry = self.directory.find(name)
        return (entry is not None and entry.crc == zlib.crc32(program.stream)
                and entry.beats * self.bus_bytes == len(program.stream))

    def run(self, name, program, batches):
        """Run the resident `program`, called `name`, on each of `batches`; yield the outputs.

        Inputs are dicts as of `Program.fill`. Those of a batch are sent while the one before runs.

        Raises
        ------
        MismatchError
            If what has this name is another program.
        DamagedError
            If the memory or the link damaged program or inputs; there are no outputs then.
        DriverError, ProgramError
            As from `Accelerator.run`.
        """
        entry = self._named(name)
        if not self.holds(name, program):
            raise MismatchError(f"the resident program {name!r} is another one: write this one "
                                f"with `systola flash`")
        self.accelerator.load(program)
        batches = iter(batches)
        inputs = next(batches, None)
        if inputs is None:
            return
        expected = self._put(entry, program, inputs)
        while expected is not None:
            # The player waits for the accelerator, which counts its cycles from its start.
            self.accelerator.start(*_plays(entry.address, entry.beats, Target.ACCELERATOR))
            inputs = next(batches, None)
            following = None if inputs is None else self._put(entry, program, inputs)
            try:
                outputs = self.accelerator.results(program)
            except HardwareError:
                self._check(name, expected)
                raise
            self._check(name, expected)
            yield outputs
            expected = following

    def _check(self, name, expected):
        """Raise `DamagedError` unless what was played has the checksum `expected`."""
        if self._wait() != expected:
            raise DamagedError(f"the resident program {name!r} or its inputs were damaged on the "
                               f"board: write it again with `systola flash`")

    def _named(self, name):
        entry = self.directory.find(name)
        if entry is None:
            names = ", ".join(entry.name for entry in self.directory.programs)
            raise ValueError(f"no resident program is called {name!r}: there "
                             f"{f'are {names}' if names else 'is none'}")
        return entry

    def _put(self, entry, program, inputs):
        """Write inputs into a program's place; return the checksum that it then has."""
        stream = program.fill(inputs)
        for slot in program.inputs:
            length = slot.rows * slot.planes * slot.words * self.bus_bytes
            self.transport.put(entry.address + slot.offset // self.bus_bytes,
                               stream[slot.offset:slot.offset + length])
        return played_crc(stream, self.bus_bytes)

    def _keep(self, directory):
        """Write the directory, and read it again."""
        data = directory.encode()
        self.transport.put(0, data, "control")
        if self.read(0, directory.beats) != data:
            raise DamagedError("the board's memory does not keep the directory of its programs")
        self.directory, self.found = directory, True

    def read(self, address, beats):
        """Return the bytes of `beats` beats of the memory from `address` on."""
        self._start(address, beats, Target.HOST)
        data = self._receive()
        found = self._wait()
        if len(data) != beats * self.bus_bytes or found != played_crc(data, self.bus_bytes):
            raise DamagedError(f"{beats} beats from {address} on did not come as the board read "
                               f"them")
        return data

    def _receive(self):
        """Return the next frame; a timeout passes while nothing of it comes."""
        clock, timeout, arrived = self.transport.clock, self.accelerator.timeout, None
        while True:
            if self.transport.arrived != arrived:
                arrived, deadline = self.transport.arrived, clock() + timeout
            try:
                return self.transport.receive(min(timeout, _SLICE))
            except TimeoutError:
                if clock() >= deadline and self.transport.arrived == arrived:
                    raise RunTimeoutError(f"waited {timeout:g} s for what the board reads of its "
                                          f"memory") from None

    def _play(self, address, beats, target):
        """Play to the end; return the checksum."""
        self._start(address, beats, target)
        return self._wait()

    def _start(self, address, beats, target):
        self.transport.access(*_plays(address, beats, target))

    def _wait(self):
        """Wait until nothing is played; return the checksum."""
        deadline = self.transport.clock() + self.accelerator.timeout
        while True:
            status, crc = self.transport.access(
                (_STATUS.offset, None), (PLAYER_REGISTERS["PLAY_CRC"].offset, None))
            if _STATUS.field("failed").get(status):
                raise DriverError("the board's memory answered a read with an error")
            if not _STATUS.field("busy").get(status):
                return crc
            if self.transport.clock() >= deadline:
                raise RunTimeoutError(f"waited {self.accelerator.timeout:g} s for the board to "
                                      f"read its memory: reset it")

    def _status(self, field):
        return _STATUS.field(field).get(self.transport.read_register(_STATUS.offset))

    def _write(self, name, value):
        self.transport.write_register(PLAYER_REGISTERS[name].offset, value)


def _plays(address, beats, target):
    """Return the accesses ``(offset, value)`` that play beats of the memory to a `Target`."""
    start = _CONTROL.field("start").mask | target << _CONTROL.field("target").lsb
    return [(PLAYER_REGISTERS[name].offset, value) for name, value in (
        ("PLAY_ADDRESS", address), ("PLAY_BEATS", beats), ("PLAY_CONTROL", start))]
