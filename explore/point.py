"""One point of a design space: an accelerator, a quantization, and how programs are made."""

import hashlib
import json
from dataclasses import dataclass

from systola.hw.contract.config import AcceleratorConfig

__all__ = ["Point"]


@dataclass(frozen=True)
class Point:
    """A point.

    Attributes
    ----------
    number : int
        Its place in the space, in the order in which that is enumerated.
    choices : dict
        What was chosen of each axis, by its name.
    config : AcceleratorConfig
    quantization : dict
        Settings of `systola.model.quantization.quantize.quantize`.
    batch : int
        Images that one run of the program computes.
    """

    number: int
    choices: dict
    config: AcceleratorConfig
    quantization: dict
    batch: int = 1

    @property
    def name(self):
        """Short identity of what the point is, whatever space it is in."""
        text = json.dumps([self.config.to_dict(), self.quantization, self.batch], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def fields(self):
        """Return the numbers that a limit may name before anything is measured."""
        return {name: value for name, value in self.config.to_dict().items()
                if isinstance(value, int)} | {"batch": self.batch}
