"""Which precision every tensor of a network needs, from what reads it."""

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.numbers import CODE_BITS, RESIDUAL_BITS
from systola.model.graph.nodes import (
    ALTERNATIVES,
    DEFERRED,
    Activation,
    Constant,
    Context,
    GraphError,
    Input,
    Linear,
    Mean,
    Norm,
    Rows,
    Scores,
    Softmax,
)

__all__ = ["MAX_UNIT", "qkv_bits", "tensor_bits"]

MAX_UNIT = 2 ** AcceleratorConfig().x0_bits - 1
"""Largest unit that an accelerator's ShiftExp takes; finer scales are widened to it."""


def qkv_bits(settings):
    """Return the bits of Q, K and V: Q is a streamed operand of the array, K and V stationary."""
    return min(settings["act_bits"], settings["weight_bits"])


def tensor_bits(graph, settings, choices=None):
    """Return the bits of every tensor by name.

    What a linear layer reads has ``act_bits``; queries, keys and values the smaller of `act_bits`
    and ``weight_bits``; what goes into softmax or an activation 8; what a norm reads, a residual
    and a result 16.

    Parameters
    ----------
    graph : Graph
        The float network.
    settings : dict
        ``act_bits``, ``weight_bits``, ``attention``, ``attention_bits``.
    choices : dict of str to dict, optional
        By node, ``bits`` of its result instead.

    Raises
    ------
    GraphError
        If the readers of a tensor need it differently, or a node cannot make what they need.
    """
    choices = choices or {}
    fixed = {"operand": settings["act_bits"], "attended": qkv_bits(settings),
             "vector": CODE_BITS, "wide": RESIDUAL_BITS}
    roles, bits = {}, {}
    for node in reversed(graph.nodes):
        wanted = {_role(reader, index, roles) for reader in graph.consumers[node.name]
                  for index, name in enumerate(reader.inputs) if name == node.name}
        wanted |= {"wide"} if node.name in graph.outputs else set()
        wanted -= {"any"}
        if len(wanted) > 1:
            raise GraphError(f"node {node.name!r}: its readers need it as "
                             f"{' and as '.join(sorted(wanted))}, which no node makes at once")
        role = wanted.pop() if wanted else "operand" if isinstance(node, Norm) else "wide"
        if role not in _MAKES.get(type(node), {"operand", "wide"}):
            raise GraphError(f"node {node.name!r}: a {node.kind} cannot be read as {role}")
        roles[node.name] = role
        if isinstance(node, Softmax):
            variant = ALTERNATIVES[Softmax].get(settings["attention"])
            bits[node.name] = variant.bits[-1] if variant else (
                CODE_BITS if settings["attention"] in DEFERRED
                else settings["attention_bits"])  # normalised: 16
        else:
            bits[node.name] = choices.get(node.name, {}).get("bits", fixed[role])
    for node in graph.of(Rows):  # in order: of rows of rows, too
        bits[node.name] = bits[node.sources[0]]
    return bits


_MAKES = {
    Input: {"operand", "wide"}, Constant: {"wide"},
    Linear: {"operand", "attended", "vector", "wide"}, Scores: {"vector"}, Softmax: {"attention"},
    Context: {"operand"}, Activation: {"operand"},
    Norm: {"operand", "attended", "wide"},
    Rows: {"operand", "wide"}, Mean: {"operand", "wide"}}


def _role(reader, index, roles):
    """Return how `reader` needs its input number `index`."""
    if isinstance(reader, Linear):
        return "wide" if index else "operand"
    if isinstance(reader, Scores):
        return "attended"
    if isinstance(reader, Context):
        return "attended" if index else "attention"
    if isinstance(reader, Softmax | Activation):
        return "vector"
    if isinstance(reader, Rows):
        return roles[reader.name]
    return "any" if isinstance(reader, Mean) else "wide"
