"""Variants of nodes that only the integer reader has: operators of others, to compare with.

Hardware and kernel do not compute them: the compiler refuses a network that has one, and the kernel
leaves the node to the model of its operator.
"""

from collections.abc import Callable
from dataclasses import dataclass

from systola.model.operators.ibert_exp import check_constants
from systola.model.operators.ibert_gelu import check_gelu_constants
from systola.model.operators.sqrt2 import check_thresholds

__all__ = ["ACTIVATIONS", "NORMS", "SOFTMAXES", "Variant"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a node of a variant has, and what the variant is called.

    Parameters
    ----------
    words : str
        Its name for a reader.
    bits : tuple of int
        Of a softmax: bits that hold its results, which are not negative, with a sign.
    units : range or tuple
        Of a softmax: what its ``unit`` may be; none if it has none.
    check : callable, optional
        Raises ``ValueError`` if the ``constants`` of a node, a tuple of ints, are not sound;
        without it the node has none.
    """

    words: str
    bits: tuple = ()
    units: range | tuple = ()
    check: Callable | None = None


_UNITS, _OCTAVES = range(1, 2**24), tuple(1 << s for s in range(8))

SOFTMAXES = {
    "ibert": Variant(words="I-BERT softmax", bits=(8, 16), check=check_constants),
    "log_int": Variant(words="log-int-softmax (FQ-ViT)", bits=(17,), check=check_constants),
    "ita": Variant(words="streaming softmax (ITA)", bits=(9,), units=_OCTAVES),
    "shiftmax_half_16": Variant(words="Shiftmax with Half_16 codes (BitLog2)", bits=(9,),
                                units=_UNITS),
    "shiftmax_sqrt2_17": Variant(words="Shiftmax with Sqrt2_17 codes (RepQ-ViT)", bits=(25,),
                                 units=_UNITS, check=check_thresholds),
}
"""Of `Softmax`: all make shares, so that A.V divides nothing.

``ibert`` has (x0, b, c) as constants, of scale ``2**(1-bits)``; ``log_int`` the same, and powers of
two of scale 2**-15. ``ita`` has the codes of an octave as its unit, and the scale 1/255. The codes
of ``shiftmax_half_16`` and ``shiftmax_sqrt2_17`` (with its 16 thresholds) are decoded; their scale
is the layer's.
"""

ACTIVATIONS = {"ibert": Variant(words="I-BERT GELU", check=check_gelu_constants)}
"""Of `Activation`: ``ibert`` has (b, c, one) as constants, and a negative multiplier."""

NORMS = {"ibert": Variant(words="I-BERT layer norm"), "l1": Variant(words="L1 layer norm")}
"""Of `Norm`."""
