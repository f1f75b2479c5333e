"""An integer network whose linear nodes have bits of their own, as limits of cost allow."""

import dataclasses

import numpy as np

from systola.hw.contract.config import AcceleratorConfig
from systola.model.allocation.allocate import Limit, allocate, check_limits
from systola.model.allocation.choice_problem import text
from systola.model.allocation.measures import COSTS
from systola.model.allocation.node_costs import (
    bit_operations,
    measured,
    product_energy,
    weight_bytes,
)
from systola.model.allocation.node_precisions import NodePrecisions, Precision
from systola.model.allocation.sensitivity import sensitivities
from systola.model.quantization.methods import BEST
from systola.model.quantization.quantize import quantize

__all__ = ["Allocator", "default_precisions"]

_FEW = 4
_NOISE = 2
"""Images of noise: cycles depend on shapes and bits, not on ranges."""


def default_precisions(settings):
    """Return the precisions to choose from: those of `settings`, weights of 4 bits, both of 4."""
    many = Precision(settings["weight_bits"], settings["act_bits"])
    few = min(_FEW, many.weight_bits), min(_FEW, many.act_bits)
    return tuple(dict.fromkeys((many, Precision(few[0], many.act_bits), Precision(*few))))


class Allocator:
    """Allocations of bits for one float network; what they cost and lose is found out once.

    Parameters
    ----------
    graph : Graph
        The float network.
    images : dict of str to ndarray or MappedRows
        Training images as its inputs, (B, rows, channels).
    precisions : iterable of Precision, optional
        What nodes choose from, by default `default_precisions`; none has more bits than the
        settings.
    predict : callable, optional
        Returns the cycles of an integer network on the accelerator; for limits of ``cycles``.
    energies : dict of int to float, optional
        pJ of a product by bits; for limits of ``energy``.
    progress : callable, optional
        Called as ``progress(done, total, text)``.
    measure : str
        Of losses, see `systola.model.allocation.sensitivity.sensitivities`.
    method, **settings
        As of `systola.model.quantization.quantize.quantize`.

    Attributes
    ----------
    nodes : NodePrecisions
        The nodes and choices.

    Raises
    ------
    ValueError
        If a setting or a precision is out of range.
    """

    def __init__(self, graph, images, *, precisions=None, predict=None, energies=None,
                 progress=None, method=BEST, measure="logits", **settings):
        self.graph, self.images, self.method, self.measure = graph, images, method, measure
        self.settings = AcceleratorConfig(**settings).model_settings
        self.nodes = NodePrecisions(graph, precisions or default_precisions(self.settings))
        for precision in self.nodes.precisions:
            for name in "weight_bits", "act_bits":
                if getattr(precision, name) > self.settings[name]:
                    raise ValueError(f"precision {precision} must have at most the {name} of the "
                                     f"accelerator, {self.settings[name]}")
        self._predict, self._energies = predict, energies
        self._progress = progress or (lambda *_, **__: None)
        self._costs, self._losses = {}, None
        self.measured_on = 0

    def cost(self, name):
        """Return the `NodeCost` of that name.

        Raises
        ------
        ValueError
            If it cannot be had here, or is the same whatever the precisions are.
        """
        if name not in COSTS:
            raise ValueError(f"cost must be one of {', '.join(COSTS)}, not {str(name)[:40]!r}")
        if name not in self._costs:
            self._costs[name] = getattr(self, f"_{name}")()
        return self._costs[name]

    def _bytes(self):
        return weight_bytes(self.graph, self.nodes)

    def _bops(self):
        return bit_operations(self.graph, self.nodes)

    def _energy(self):
        if self._energies is None:
            raise ValueError("energy needs a table of estimates, as `systola report pe --json` "
                             "prints")
        return product_energy(self.graph, self.nodes, self._energies)

    def _cycles(self):
        if self._predict is None:
            raise ValueError("cycles need an accelerator that predicts them")
        noise = np.random.default_rng(0)
        inputs = {node.name: noise.standard_normal((_NOISE, node.rows, node.channels), np.float32)
                  for node in self.graph.inputs}

        def measure(chosen):
            return self._predict(quantize(self.graph, inputs, method="minmax", **self.settings,
                                          choices=self.nodes.choices(chosen)))

        self._progress(0, None, "predicting cycles")
        found = measured(self.nodes, measure, progress=lambda done, total: self._progress(
            done, total, "predicting cycles"))
        if isinstance(found, int):
            shown = ", ".join(map(str, self.nodes.precisions))
            raise ValueError(f"cycles cannot be limited by fewer bits on this accelerator: "
                             f"{text(found)} with all nodes at any of {shown}; bytes and bops can")
        return found

    @property
    def losses(self):
        """By node and precision what `sensitivities` measures."""
        if self._losses is None:
            self._progress(0, None, "measuring the loss of every node")
            self._losses, self.measured_on = sensitivities(
                self.graph, self.images, self.nodes, method=self.method,
                measure=self.measure, progress=lambda done, total: self._progress(
                    done, total, "measuring the loss of every node"), **self.settings)
        return self._losses

    def allocate(self, limits):
        """Return the `Allocation` of least loss within limits, a dict by cost.

        A limit is a `Limit`, or what `Limit.parse` takes as a text or a number.

        Raises
        ------
        ValueError
            As of `cost`.
        AllocationError
            If limits cannot be kept.
        """
        limits = {name: limit if isinstance(limit, Limit) else Limit.parse(name, str(limit))
                  for name, limit in limits.items()}
        costs = {name: self.cost(name) for name in limits}
        check_limits(self.nodes, costs, limits)
        return allocate(self.nodes, self.losses, costs, limits)

    def network(self, allocation, **options):
        """Return the integer network of an `Allocation`.

        Its ``meta`` says under ``quantization`` what was ``allocated``: the ``loss``, its
        ``measure`` and the ``images`` for it, the ``precisions`` that nodes chose from, ``limits``.
        `options` are ``nodes`` and ``progress`` of `quantize`.
        """
        made = quantize(self.graph, self.images, method=self.method,
                        choices=self.nodes.choices(allocation.chosen), **options, **self.settings)
        about = made.meta["quantization"] | {"allocated": self.about(allocation)}
        return dataclasses.replace(made, meta={**made.meta, "quantization": about})

    def about(self, allocation):
        """Return an `Allocation` as plain data."""
        return {"loss": allocation.loss, "measure": self.measure, "images": self.measured_on,
                "precisions": list(map(str, self.nodes.precisions)),
                "limits": {name: {key: _plain(value) for key, value in row.items()}
                           for name, row in allocation.costs.items()}}


def _plain(value):
    return int(value) if value == int(value) else float(value)

