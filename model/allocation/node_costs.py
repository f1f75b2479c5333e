"""What each node costs at each of its precisions: bytes, bit operations, and what is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["NodeCost", "bit_operations", "measured", "product_energy", "weight_bytes"]


@dataclass(frozen=True)
class NodeCost:
    """A cost as data.

    Attributes
    ----------
    rows : list of list of int, float or Fraction
        By node and choice.
    low, high : int, float or Fraction
        The least and the most that a network costs whose nodes all have the same choice: what
        shares are between.
    measure : callable, optional
        Returns the true cost of choices, an index for each node, where `rows` only add up to an
        estimate.
    """

    rows: list
    low: object
    high: object
    measure: Callable | None = None

    @classmethod
    def of_rows(cls, rows):
        """Return a cost that adds up exactly."""
        sums = [sum(column) for column in zip(*rows, strict=True)]
        return cls(rows, min(sums), max(sums))


def weight_bytes(graph, nodes):
    """Return the bytes of the weights of every node at each precision, packed, rounded up.

    Without biases and multipliers, which have the same bits at every precision.

    Parameters
    ----------
    graph : Graph
        The network.
    nodes : NodePrecisions
        Its nodes and choices.

    Returns
    -------
    NodeCost
    """
    return NodeCost.of_rows([[-(-graph.by_name[name].weight.size * precision.weight_bits // 8)
             for precision in nodes.precisions] for name in nodes.nodes])


def bit_operations(graph, nodes):
    """Return the products of every node times bits of weights times bits of activations.

    For one image; parameters and result as of `weight_bytes`.
    """
    return NodeCost.of_rows([[products * precision.weight_bits * precision.act_bits
                              for precision in nodes.precisions]
                             for products in _products(graph, nodes)])


def product_energy(graph, nodes, table):
    """Return the energy of every node's products in pJ at each precision, for one image.

    Parameters
    ----------
    graph, nodes
        As of `weight_bytes`.
    table : dict of int to float
        pJ of a product of two operands of so many bits; one with operands of different bits is
        taken for one of the more.

    Raises
    ------
    ValueError
        If the table has no entry for the bits of a choice.
    """
    def energy(precision):
        bits = max(precision.weight_bits, precision.act_bits)
        if bits not in table:
            raise ValueError(f"energy must be known for products of {bits} bits, not only of "
                             f"{', '.join(map(str, sorted(table))) or 'none'}")
        return table[bits]

    return NodeCost.of_rows([[products * energy(precision) for precision in nodes.precisions]
                             for products in _products(graph, nodes)])


def _products(graph, nodes):
    return [int(node.multiplications(graph.tensors[node.name], *graph.input_tensors(node)))
            for node in map(graph.by_name.get, nodes.nodes)]


def measured(nodes, measure, progress=None):
    """Return the cost that `measure` finds of whole networks, taken apart by nodes.

    All nodes have the first choice, and one at a time another one; nodes that read the same tensor
    go together where its bits change, and share the difference. The first node's entries have the
    whole network's figure in them. Where nodes overlap in time their sum is an estimate, which the
    cost's ``measure`` corrects.

    Parameters
    ----------
    nodes : NodePrecisions
        The nodes and choices.
    measure : callable
        Takes choices, an index for each node, and returns an int.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    NodeCost or int
        The figure alone where it is the same whatever precision all nodes have.
    """
    count, choices = len(nodes.nodes), range(len(nodes.precisions))
    whole = [measure([choice] * count) for choice in choices]
    if len(set(whole)) == 1:
        return whole[0]
    rows, known = [], {}
    for node in range(count):
        rows.append([0])
        for choice in choices[1:]:
            changed = nodes.changed_with(node, choice)
            if (changed, choice) not in known:
                known[changed, choice] = measure([choice if other in changed else 0
                                                  for other in range(count)])
            rows[node].append(Fraction(known[changed, choice] - whole[0], len(changed)))
        if progress:
            progress(node + 1, count)
    rows[0] = [value + whole[0] for value in rows[0]]
    return NodeCost(rows, min(whole), max(whole), measure)
