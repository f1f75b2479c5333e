"""What can go wrong between a host and an accelerator; every message is one line."""

from systola.hw.contract.isa import Error, Opcode

__all__ = ["DriverError", "HardwareError", "IdentityError", "LinkError", "MismatchError",
           "RunTimeoutError"]


_STOPPED = Error.DEADLOCK, Error.LEFTOVER
"""Causes that are not in the instruction itself."""


class DriverError(RuntimeError):
    """The accelerator cannot be used as asked; the message is one line."""


class LinkError(DriverError):
    """The line to the accelerator is dead, or the accelerator behind it was reset."""


class IdentityError(DriverError):
    """What answers is not an accelerator that this driver knows."""


class MismatchError(DriverError):
    """The program was compiled for another configuration than the hardware has."""


class RunTimeoutError(DriverError):
    """A program did not end in time."""


class HardwareError(DriverError):
    """The accelerator refused an instruction or gave up on one.

    Attributes
    ----------
    cause : Error or int
        Why; an int if this driver does not know the code.
    index : int
        Index of the instruction in the stream, BEGIN being 0.
    opcode : Opcode or int
        Its operation; an int if it is none.
    """

    def __init__(self, cause, index, word):
        self.cause, self.index = _known(Error, cause), index
        self.opcode = _known(Opcode, word & 0xFF)
        what = "could not go on" if self.cause in _STOPPED else "was refused"
        super().__init__(f"instruction {index} ({_label(self.opcode)}) {what}: "
                         f"{_label(self.cause)}")


def _known(kind, value):
    try:
        return kind(value)
    except ValueError:
        return value


def _label(value):
    return getattr(value, "name", f"unknown code {int(value)}")
