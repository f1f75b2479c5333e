"""Recipes of post-training quantization by name."""

from dataclasses import dataclass

__all__ = ["BEST", "CODEBOOKS", "METHODS", "Method", "method_named"]


@dataclass(frozen=True)
class Method:
    """How ranges are found, and what is done for accuracy beyond that; all of it offline.

    Parameters
    ----------
    about : str
        One line for the reader of a list.
    ranges : str
        ``running`` (minimum and maximum as published, a moving average over batches),
        ``percentile`` (99.99 % of the values), ``error`` (least squared error of the codes), or
        ``recorded`` (those that the network's `RECORDED_RANGES` say, others ``running``).
    equalize : bool
        Move scales and constants between layers, see `systola.model.quantization.equalize`.
    reconstruct : bool
        Round weights so that each layer's output, given what the quantized layers before deliver,
        is nearest to the float one (`systola.model.quantization.rounding`).
    """

    about: str
    ranges: str
    equalize: bool = False
    reconstruct: bool = False


METHODS = {
    "minmax": Method("running minimum and maximum, weights to the nearest code", "running"),
    "percentile": Method("ranges that hold 99.99 % of the values", "percentile"),
    "mse": Method("ranges of the least squared error", "error"),
    "equalize": Method("the same after moving scales and constants between layers", "error",
                       equalize=True),
    "gptq": Method("the same, and weights rounded for the least error of each layer's output",
                   "error", equalize=True, reconstruct=True),
    "recorded": Method("ranges that the checkpoint's own quantizers recorded (I-ViT), weights to "
                       "the nearest code", "recorded"),
}
"""Recipes, each doing what the one before does and more, but for ranges of the first and last."""

BEST = "gptq"
"""The default."""

CODEBOOKS = {
    "nupes": "a power of equal steps, its exponent searched for each layer",
    "squares": "the same with exponent 1/2",
    "kmeans": "16 values fitted to the weights of each layer",
    "powers": "0 and powers of two",
}
"""Codebooks of weights by name, see `systola.model.quantization.codebooks`."""


def method_named(name):
    """Return an entry of `METHODS`; ``ValueError`` for another name."""
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {str(name)[:60]!r}")
    return METHODS[name]
