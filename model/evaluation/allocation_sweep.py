"""Accuracy over cost: allocations at several limits, random ones, and the same bits everywhere."""

import numpy as np

from systola.model.allocation.allocate import Allocation, Limit
from systola.model.allocation.choice_problem import ChoiceProblem, exact
from systola.model.evaluation.accuracy import float_logits, integer_logits
from systola.model.evaluation.chance import beside_chance

__all__ = ["KINDS", "chances", "random_choice", "scorer", "sweep"]

KINDS = "allocated", "random", "the same bits everywhere"


def scorer(graph, images):
    """Return a function that scores an integer network beside the float one on labelled images.

    Parameters
    ----------
    graph : Graph
        The float network.
    images : Images
        Labelled ones.

    Returns
    -------
    callable
        Of an integer network it gives ``int_top1``, ``agreement`` (equal predictions), and
        ``error``, the mean square of what differs in the logits over their variance, and
        ``right``, a bool array (images,) of correct predictions. The attribute ``float_top1`` is
        that of the float network.
    """
    real = float_logits(graph, images).astype(np.float64)
    predicted, labels = real.argmax(axis=1), np.asarray(images.labels)

    def score(network):
        codes = integer_logits(network, images)
        got = codes.argmax(axis=1)
        error = np.square(codes * network.scales[network.outputs[0]] - real).mean() / real.var()
        return {"int_top1": float(np.mean(got == labels)),
                "agreement": float(np.mean(got == predicted)), "error": float(error),
                "right": got == labels}

    score.float_top1 = float(np.mean(predicted == labels))
    return score


def sweep(allocator, name, shares, score, *, random=0, seed=0, progress=None):
    """Return what allocations cost, lose and score.

    Parameters
    ----------
    allocator : Allocator
        Of the network.
    name : str
        The cost that is limited.
    shares : iterable of str
        Limits, as `Limit.parse` takes them.
    score : callable
        Takes an integer network and returns a dict of figures.
    random : int
        Random allocations within each limit, too; see `random_choice`.
    seed : int
        Of these.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    list of dict
        For every different allocation: ``kind``, one of `KINDS`; ``limit`` as given, None for the
        same bits everywhere; ``cost``, ``loss``, ``precisions`` by node, and the score.
    """
    nodes, rng = allocator.nodes, np.random.default_rng(seed)
    limits = {share: Limit.parse(name, share) for share in shares}
    found = {}  # by choices: kind and limit
    for index in range(len(nodes.precisions)):
        found.setdefault((index,) * len(nodes.nodes), (KINDS[2], None))
    for share, limit in limits.items():
        found[allocator.allocate({name: limit}).chosen] = KINDS[0], share
    for share, limit in limits.items():
        for _ in range(random):
            chosen = random_choice(nodes, allocator.cost(name), limit.of(allocator.cost(name)), rng)
            found.setdefault(chosen, (KINDS[1], share))
    cost = allocator.cost(name)
    problem = ChoiceProblem(losses=allocator.losses, costs={name: cost.rows})
    rows = []
    for done, (chosen, (kind, share)) in enumerate(found.items()):
        solution = problem.solution(chosen)
        true = cost.measure(chosen) if cost.measure else solution.costs[name]
        allocation = Allocation(chosen, solution.loss, {})
        rows.append({"kind": kind, "limit": share,
                     "cost": int(true) if true == int(true) else float(true),
                     "loss": solution.loss, "precisions": allocation.precisions(nodes),
                     **score(allocator.network(allocation))})
        if progress:
            progress(done + 1, len(found))
    return rows


def chances(rows):
    """Return for every limit with random allocations what `beside_chance` says, by limit.

    `rows` are those of `sweep`, with ``right`` in their scores.
    """
    random = {}
    for row in rows:
        if row["kind"] == KINDS[1]:
            random.setdefault(row["limit"], []).append(row["right"])
    return {row["limit"]: beside_chance(row["right"], random[row["limit"]])
            for row in rows if row["kind"] == KINDS[0] and row["limit"] in random}


def random_choice(nodes, cost, limit, rng):
    """Return random choices within a limit that leave no node room for its next dearer one.

    From the cheapest precision everywhere, each node in a random order takes one at random that
    fits; then each, in another order, the dearest that fits. Tied nodes change together.

    Parameters
    ----------
    nodes : NodePrecisions
        The nodes and choices.
    cost : NodeCost
        What is limited, as its entries add up.
    limit : int, float or Fraction
        The most of it.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    tuple of int
    """
    rows = [[exact(value) for value in row] for row in cost.rows]
    count, choices = len(rows), range(len(nodes.precisions))
    groups = [*nodes.tied, *([node] for node in range(count)
                             if not any(node in group for group in nodes.tied))]
    sums = [sum(column) for column in zip(*rows, strict=True)]
    chosen = [sums.index(min(sums))] * count

    def fitting(group):
        """Return choices of a group that fit, with what they cost, the dearest last."""
        rest = sum(rows[node][chosen[node]] for node in range(count) if node not in group)
        found = [(sum(rows[node][choice] for node in group), choice) for choice in choices]
        return sorted(entry for entry in found if entry[0] + rest <= limit)

    for pick in (lambda found: found[int(rng.integers(len(found)))], lambda found: found[-1]):
        for index in rng.permutation(len(groups)):
            found = fitting(groups[index])
            choice = pick(found)[1] if found else None
            for node in groups[index] if found else ():
                chosen[node] = choice
    return tuple(chosen)
