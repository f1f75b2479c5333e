"""Predicted cycles against measured ones, over random accelerators and networks."""

from dataclasses import asdict, dataclass
from statistics import median

import numpy as np

from systola.model.graph.nodes import Norm
from systola.sim.runs.random_cases import random_case
from systola.sim.runs.simulate import simulate

__all__ = ["MEDIAN_LIMIT", "WORST_LIMIT", "Comparison", "compare_predictions", "random_batch",
           "summary"]

MEDIAN_LIMIT, WORST_LIMIT = 0.002, 0.02
"""Relative errors that the prediction is to stay below."""

_MOST_IMAGES = 4
"""In a run: groups of sequences of three and four are computed in different orders."""


@dataclass(frozen=True)
class Comparison:
    """One program: what was predicted, and what the hardware took.

    Attributes
    ----------
    seed, batch : int
        Of `random_case`, and the images in the run.
    config : str
        The accelerator in short.
    network : str
        The network in short.
    predicted, measured : int
        Cycles from start to done.
    """

    seed: int
    batch: int
    config: str
    network: str
    predicted: int
    measured: int

    @property
    def error(self):
        """The difference in measured cycles; positive if the program was quicker."""
        return self.predicted / self.measured - 1


def random_batch(seed):
    """Return how many images the program of this seed computes: half of them compute several."""
    rng = np.random.default_rng([seed, 3])
    return int(rng.integers(2, _MOST_IMAGES + 1)) if rng.random() < 0.5 else 1


def compare_predictions(count, seed=0, *, progress=None):
    """Yield a `Comparison` for `count` random cases, the first with this seed.

    Parameters
    ----------
    count, seed : int
        Cases; each has the seed after the one before.
    progress : callable, optional
        Called as ``progress(done, total, text=...)``.

    Raises
    ------
    SimulationError
        If a simulation cannot be compiled or hangs.
    RuntimeError
        If a result is not the model's: then its cycles mean nothing.
    """
    progress = progress or (lambda *args, **more: None)
    for index in range(count):
        progress(index, count, text=f"simulating: case {index + 1} of {count}")
        batch = random_batch(seed + index)
        graph, config, codes = random_case(seed + index, images=batch)
        result = simulate(graph, config, codes, batch=batch, trace=False, optimize="-O0")
        if result.mismatches:
            raise RuntimeError(f"seed {seed + index}: {result.mismatches} values are not the "
                               f"model's, as `systola simulate --random --seed` shows")
        yield Comparison(seed=seed + index, batch=batch, config=_shape(config),
                         network=_network(graph), predicted=result.cycles_predicted,
                         measured=result.cycles)


def summary(rows):
    """Return median, worst and all of the `Comparison` objects `rows` as plain data."""
    errors = [abs(row.error) for row in rows]
    return {"median": median(errors), "worst": max(errors),
            "within": median(errors) < MEDIAN_LIMIT and max(errors) < WORST_LIMIT,
            "limits": {"median": MEDIAN_LIMIT, "worst": WORST_LIMIT},
            "cases": [asdict(row) | {"error": row.error} for row in rows]}


def _shape(config):
    return (f"{config.rows}x{config.cols}/{config.lanes} {config.pe_style} "
            f"w{config.weight_bits}a{config.act_bits} {config.attention} {config.gelu}")


def _network(graph):
    rows, channels = graph.tensors[graph.of(Norm)[0].name].shape
    return f"{rows} x {channels}, {len(graph.nodes)} nodes"
