"""Driver: load a program onto an accelerator, run it, read results, errors and counters."""

from systola.hw.contract.regmap import COUNTERS, MAGIC, REGISTERS, VERSION
from systola.sw_driver.driver.errors import (
    DriverError,
    HardwareError,
    IdentityError,
    MismatchError,
    RunTimeoutError,
)
from systola.sw_driver.program.image import decode_outputs

__all__ = ["Accelerator", "DriverError", "HardwareError", "IdentityError", "MismatchError",
           "RunTimeoutError"]

_POLL = 0.05
"""Seconds to wait for a result before looking at the status again."""


class Accelerator:
    """One accelerator behind a `Transport`; a context manager that closes it.

    Parameters
    ----------
    transport : Transport
        The link.
    timeout : float
        Seconds, on the transport's clock, that a run may take once its program is handed over.

    Raises
    ------
    IdentityError
        If the magic number or the register map's version is another.
    """

    def __init__(self, transport, *, timeout=60.0):
        if not timeout > 0:
            raise ValueError(f"timeout must be positive, not {timeout!r}")
        self.transport, self.timeout = transport, timeout
        self.program = None
        for name, expected in ("ID", MAGIC), ("VERSION", VERSION):
            value = self._read(name)
            if value != expected:
                raise IdentityError(f"register {name} must read {expected:#x}, not {value:#x}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.transport.close()

    @property
    def config_hash(self):
        """Hash of the configuration that the hardware was built from."""
        return self._read("HASH_LOW") | self._read("HASH_HIGH") << 32

    def load(self, program):
        """Choose the program that `run` runs.

        Raises `MismatchError` if it was made for other hardware.
        """
        there = self.config_hash
        if program.config.hash != there:
            raise MismatchError(f"program is for configuration {program.config.hash:#018x}, "
                                f"the hardware has {there:#018x}")
        self.program = program

    def run(self, inputs):
        """Run the program on `inputs`, a dict of integer arrays by name (`Program.fill`).

        Returns
        -------
        dict of str to int64 array
            The program's outputs in the model's shapes.

        Raises
        ------
        DriverError
            If no program is loaded, or the accelerator is busy or holds an error (see `reset`).
        ProgramError
            If the inputs are not the program's.
        HardwareError
            If the accelerator refuses an instruction.
        RunTimeoutError
            If the program does not end within the timeout.
        """
        if self.program is None:
            raise DriverError("no program is loaded")
        stream = self.program.fill(inputs)
        self.start()
        self.transport.send(stream)
        return self.results(self.program)

    def start(self, *before):
        """Make the accelerator take a program from its input stream.

        What is ``(offset, value)`` of `before` is written before, in the same round trip. Raises
        `DriverError` if it is busy, and `HardwareError` if it holds an error.
        """
        self._raise_error()
        if self._status("busy"):
            raise DriverError("the accelerator is busy; reset it first")
        control = REGISTERS["CONTROL"]
        self.transport.access(*before, (control.offset, control.field("start").mask))

    def results(self, program):
        """Wait for the end of `program`, which was started and handed over; return its outputs.

        Raises what `run` does.
        """
        deadline = self.transport.clock() + self.timeout
        frames = [self._frame(index, deadline) for index in range(len(program.frames))]
        while not self._status("done"):
            self._raise_error()
            self._check_time(deadline, "to report done")
        beat = program.config.bus_bytes
        for index, (frame, beats) in enumerate(zip(frames, program.frames, strict=True)):
            if len(frame) != beats * beat:
                raise DriverError(f"result frame {index} must have {beats} beats of {beat} bytes, "
                                  f"not {len(frame)} bytes")
        return decode_outputs(program, [memoryview(frame) for frame in frames])

    def counters(self):
        """Return the performance counters of the last run by lower-case name."""
        return {name.lower(): self._read(name) for name, _ in COUNTERS}

    def reset(self):
        """Drop everything in flight and clear an error; the loaded program stays."""
        self.transport.flush()
        self._write("CONTROL", "reset")

    def _frame(self, index, deadline):
        while True:
            left = deadline - self.transport.clock()
            try:
                return self.transport.receive(max(min(left, _POLL), 0))
            except TimeoutError:
                self._raise_error()
                self._check_time(deadline, f"for result frame {index}")

    def _check_time(self, deadline, what):
        if self.transport.clock() >= deadline:
            raise RunTimeoutError(f"waited {self.timeout:g} s {what}; status "
                                  f"{self._read('STATUS'):#x}, "
                                  f"{self._read('INSTRUCTIONS')} instructions issued")

    def _raise_error(self):
        if self._status("error"):
            cause = REGISTERS["ERROR"].field("cause").get(self._read("ERROR"))
            raise HardwareError(cause, self._read("ERROR_INDEX"), self._read("ERROR_WORD"))

    def _status(self, name):
        return REGISTERS["STATUS"].field(name).get(self._read("STATUS"))

    def _read(self, name):
        return self.transport.read_register(REGISTERS[name].offset)

    def _write(self, name, field):
        register = REGISTERS[name]
        self.transport.write_register(register.offset, register.field(field).mask)
