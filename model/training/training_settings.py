"""How a network is trained: rates, losses, and when it ends."""

from dataclasses import dataclass
from math import isfinite

from systola.files.tensors import ModelError

__all__ = ["SCALES", "TrainingSettings"]

SCALES = "learned", "tracked", "fixed"
"""What scales do: they get gradients, follow running ranges, or stay."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of `systola.model.training.finetune.finetune`; I-ViT's where it has them.

    Parameters
    ----------
    epochs : int
        Passes over the training images.
    batch : int
        Images of a step.
    rate, least_rate : float
        Learning rate of AdamW at the first step and at the last, by a half cosine in between.
    decay : float
        Weight decay of matrices; other parameters have none.
    scale_rate : float
        What `rate` is multiplied by for the logarithms of scales.
    smoothing : float
        Of labels, from 0 to below 1.
    distill : float
        Share of the loss that compares with the float network's logits, from 0 to 1; labels have
        the rest.
    temperature : float
        By which both networks' logits are divided for that.
    clip : float
        Most that the norm of all gradients together may be; 0 for no limit.
    scales : str
        One of `SCALES`.
    freeze : int or None
        Epochs after which scales stay as they are.
    validation : float
        Share of the images that is held back, evenly spaced, from 0 to 0.5. With it the best epoch
        is kept, else the last.
    patience : int or None
        Epochs without a better one after which training ends.
    mirror : bool
        Whether images are mirrored, left for right, at random.
    shift : int
        Most pixels that images are moved by in each direction, at random.
    seed : int
        Of the order of images, and of what is done to them.

    Raises
    ------
    ModelError
        If a setting is out of range.
    """

    epochs: int = 90
    batch: int = 128
    rate: float = 1e-6
    least_rate: float = 5e-7
    decay: float = 1e-4
    scale_rate: float = 1.0
    smoothing: float = 0.1
    distill: float = 0.5
    temperature: float = 1.0
    clip: float = 1.0
    scales: str = "learned"
    freeze: int | None = None
    validation: float = 0.1
    patience: int | None = None
    mirror: bool = False
    shift: int = 0
    seed: int = 0

    def __post_init__(self):
        for name, least in (("epochs", 0), ("batch", 1), ("shift", 0), ("seed", 0),
                            ("freeze", 0), ("patience", 1)):
            value = getattr(self, name)
            if value is None and name in ("freeze", "patience"):
                continue
            if type(value) is not int or not least <= value < 2**31:
                raise ModelError(f"{name} must be an integer of at least {least}, not {value!r}")
        for name, low, high in (("rate", 0, 1), ("least_rate", 0, 1), ("decay", 0, 1),
                                ("scale_rate", 0, 1e6), ("distill", 0, 1),
                                ("temperature", 1e-3, 1e3), ("clip", 0, 1e9),
                                ("validation", 0, 0.5), ("smoothing", 0, 0.999)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (
                    isfinite(value) and low <= value <= high):
                raise ModelError(f"{name} must be a number from {low:g} to {high:g}, not "
                                 f"{value!r}")
        if self.least_rate > self.rate:
            raise ModelError(f"least_rate must be at most rate ({self.rate:g}), not "
                             f"{self.least_rate:g}")
        if type(self.mirror) is not bool:
            raise ModelError(f"mirror must be True or False, not {self.mirror!r}")
        if self.scales not in SCALES:
            raise ModelError(f"scales must be {' or '.join(map(repr, SCALES))}, not "
                             f"{self.scales!r}")
        if self.patience is not None and not self.validation:
            raise ModelError("patience must be left out with a validation of 0: it counts epochs "
                             "by their accuracy there")
