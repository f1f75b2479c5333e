"""Precisions that linear nodes can choose from, and what choosing them asks of the quantizer."""

from dataclasses import dataclass

from systola.model.graph.nodes import Linear, Rows

__all__ = ["PRECISIONS", "NodePrecisions", "Precision", "take_turns"]


@dataclass(frozen=True, order=True)
class Precision:
    """Bits of a linear node's weights and of the activations that it reads, 2 to 8 each."""

    weight_bits: int
    act_bits: int

    def __post_init__(self):
        for name in "weight_bits", "act_bits":
            bits = getattr(self, name)
            if type(bits) is not int or not 2 <= bits <= 8:
                raise ValueError(f"{name} must be an integer from 2 to 8, not {bits!r}")

    def __str__(self):
        return f"{self.weight_bits}x{self.act_bits}"

    @classmethod
    def parse(cls, text):
        """Return the precision that ``WxA`` stands for."""
        weight, cross, act = text.strip().partition("x")
        if not cross or not (weight.isdecimal() and act.isdecimal()):
            raise ValueError(f"precision must be bits of weights x bits of activations, like 4x8, "
                             f"not {text!r}")
        return cls(int(weight), int(act))


PRECISIONS = Precision(8, 8), Precision(4, 8), Precision(4, 4)
"""What nodes choose from by default."""


class NodePrecisions:
    """The linear nodes of a network, what each can choose from, and which must agree.

    Nodes that read the same tensor, or rows of the same, read it with the same bits. Results keep
    theirs: Q, K, V and attention are what the settings say.

    Parameters
    ----------
    graph : Graph
        The network, float or integer.
    precisions : iterable of Precision
        The choices; of equal worth, the earlier one is taken.

    Attributes
    ----------
    nodes : list of str
        Names of the linear nodes, in order.
    precisions : tuple of Precision
        The choices, each once.
    tied : list of list of int
        Groups of more than one node, by index, that must have the same ``act_bits``.

    Raises
    ------
    ValueError
        If there are fewer than two choices, or no linear node.
    """

    def __init__(self, graph, precisions=PRECISIONS):
        self.precisions = tuple(dict.fromkeys(precisions))
        if len(self.precisions) < 2:
            raise ValueError(f"precisions must be at least two to choose from, not "
                             f"{', '.join(map(str, self.precisions)) or 'none'}")
        self.nodes = [node.name for node in graph.of(Linear)]
        if not self.nodes:
            raise ValueError("the network must have linear nodes, to give them bits")
        self._made = _read_by(graph, self.nodes)
        self.tied = [group for group in _groups(self._made) if len(group) > 1]

    @property
    def labels(self):
        """For each node, what of each choice tied nodes must have in common."""
        return [[precision.act_bits for precision in self.precisions]] * len(self.nodes)

    def changed_with(self, node, choice):
        """Return the nodes by index that change with one, if it changes from its first choice."""
        if self.precisions[choice].act_bits == self.precisions[0].act_bits:
            return (node,)
        return next((tuple(group) for group in self.tied if node in group), (node,))

    def choices(self, chosen):
        """Return ``choices`` of `systola.model.quantization.quantize.quantize`.

        Parameters
        ----------
        chosen : sequence of int
            For each node the index of its precision.

        Raises
        ------
        ValueError
            If nodes that read the same tensor read it with different bits.
        """
        return _choices(self.nodes, self._made, [self.precisions[index] for index in chosen])


def take_turns(graph, precisions):
    """Return ``choices`` in which linear nodes have `precisions` in turn, in their order.

    Nodes that read the same tensor, or rows of the same, have the same one.

    Parameters
    ----------
    graph : Graph
        The network, float or integer.
    precisions : sequence of Precision
        As many as come before the first one again.
    """
    nodes = [node.name for node in graph.of(Linear)]
    made, chosen = _read_by(graph, nodes), {}
    for turn, group in enumerate(sorted(_groups(made))):
        chosen |= dict.fromkeys(group, precisions[turn % len(precisions)])
    return _choices(nodes, made, [chosen[index] for index in range(len(nodes))])


def _read_by(graph, nodes):
    """Return for each linear node what makes the tensors that it reads."""
    return [_made(graph, graph.by_name[name].input) for name in nodes]


def _groups(read):
    """Return nodes, by index, in groups that read something in common."""
    groups = []  # of tensors and nodes
    for index, made in enumerate(read):
        joined = [group for group in groups if group[0] & made]
        groups = [group for group in groups if group not in joined]
        groups.append((made.union(*(tensors for tensors, _ in joined)),
                       sorted([index, *(node for _, nodes in joined for node in nodes)])))
    return [nodes for _, nodes in groups]


def _choices(nodes, read, precisions):
    """Return ``choices`` of the quantizer that give each node its precision."""
    choices = {}
    for name, made, precision in zip(nodes, read, precisions, strict=True):
        choices.setdefault(name, {})["weight_bits"] = precision.weight_bits
        for source in made:
            if choices.setdefault(source, {}).setdefault(
                    "bits", precision.act_bits) != precision.act_bits:
                raise ValueError(f"bits of {source!r} must be the same for all its readers, "
                                 f"not {choices[source]['bits']} and {precision.act_bits}")
    return choices


def _made(graph, name):
    """Return the names of the nodes whose results are read as `name`, rows being only looked at."""
    node = graph.by_name[name]
    if isinstance(node, Rows):
        return frozenset().union(*(_made(graph, source) for source in node.sources))
    return frozenset([name])
