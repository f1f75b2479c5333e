"""Which operator computes a softmax node, by its variant."""

from systola.hw.contract.numbers import SOFTMAX_SHIFT
from systola.model.graph.attention_nodes import DEFERRED
from systola.model.operators import log2
from systola.model.operators.deferred import deferred_softmax
from systola.model.operators.ibert_softmax import ibert_softmax
from systola.model.operators.ita_softmax import ita_softmax
from systola.model.operators.log_int_softmax import decode_log_int, log_int_softmax
from systola.model.operators.normalised import normalised_softmax
from systola.model.operators.shiftmax import shiftmax
from systola.model.operators.sqrt2 import decode_sqrt2, encode_sqrt2

__all__ = ["softmax_operator"]

_CODED_BITS = 16
"""Bits of Shiftmax before its results become codes of attention."""


def softmax_operator(node):
    """Return the function of scores (..., keys) that an integer `Softmax` node stands for."""
    return _OPERATORS[node.variant](node)


def _from_table(softmax):
    def operator(node):
        table = node.exponentials()
        return lambda x: softmax(x, table)[0]

    return operator


def _shiftmax(node, bits=None):
    return lambda x: shiftmax(x, -node.unit, SOFTMAX_SHIFT, bits or node.bits)


def _half_16(node):
    shares = _shiftmax(node, _CODED_BITS)
    return lambda x: log2.decode(*log2.encode(shares(x), "Half_16"))


def _sqrt2_17(node):
    shares = _shiftmax(node, _CODED_BITS)
    return lambda x: decode_sqrt2(encode_sqrt2(shares(x), node.constants))


_OPERATORS = {
    "published": _shiftmax,
    **dict.fromkeys(DEFERRED, _from_table(deferred_softmax)),
    "normalised": _from_table(normalised_softmax),
    "ibert": lambda node: lambda x: ibert_softmax(x, node.constants, node.bits),
    "log_int": lambda node: lambda x: decode_log_int(log_int_softmax(x, node.constants)),
    "ita": lambda node: lambda x: ita_softmax(x, int(node.unit).bit_length() - 1),
    "shiftmax_half_16": _half_16,
    "shiftmax_sqrt2_17": _sqrt2_17,
}
