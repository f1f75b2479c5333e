"""Which layers run in the array's second precision, twice as many columns at a time."""

import numpy as np

from systola.model.graph.nodes import Linear

__all__ = ["is_narrow", "narrow_nodes"]


def narrow_nodes(graph, config):
    """Return the names of the linear nodes that an accelerator of `config` multiplies narrow.

    Their weights and operands have at most ``narrow_bits``, and so small sums that two fit an entry
    of the accumulators. Others run in the wide precision, whatever their bits.
    """
    return frozenset(node.name for node in graph.of(Linear) if is_narrow(node, graph, config))


def is_narrow(node, graph, config):
    """Return whether linear node `node` is one of `narrow_nodes`."""
    bits = graph.tensors[node.input].bits
    if max(node.weight_bits, bits) > config.narrow_bits:
        return False
    largest = int(np.abs(np.asarray(node.weight, np.int64)).sum(axis=1).max()) << bits - 1
    return largest < 1 << config.sum_bits(narrow=True) - 1
