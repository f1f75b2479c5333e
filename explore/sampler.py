"""Searching a space that is too large to be tried: points that a sampler of Optuna asks for.

A generation is asked for, measured and told as a whole, in order, so that which points come next
depends on the seed and on results, not on how many workers there are or which one is quicker.
"""

import warnings
from collections import Counter

from systola.explore.space import SpaceError

__all__ = ["GENERATION", "sample"]

GENERATION = 32
"""Points that are measured before the sampler learns of them."""

_TRIES = 20
"""Combinations that are asked for at most, for each point that may still be tried."""


def sample(space, measure, figures):
    """Try points of a space until there are as many as it says.

    Parameters
    ----------
    space : systola.explore.space.Space
    measure : callable
        Takes a list of points, and returns the numbers of those that were measured and are within
        the limits.
    figures : callable
        Takes such numbers, and returns their objectives, less is better.

    Returns
    -------
    Counter
        Combinations that are no points, by reason.

    Raises
    ------
    ModuleNotFoundError
        Without Optuna, which the extra ``explore`` brings.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search, skipped, seen = space.search, Counter(), set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            directions=["minimize"] * len(space.objectives),
            sampler=optuna.samplers.NSGAIISampler(population_size=GENERATION, seed=search["seed"]))
    tried, known = 0, {}
    for _ in range(-(-_TRIES * search["points"] // GENERATION)):
        if tried >= search["points"] or len(seen) >= space.size:
            break
        trials, points = [], {}
        for _ in range(GENERATION):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial = study.ask()
                indices = tuple(trial.suggest_int(axis.name, 0, len(axis.values) - 1)
                                if isinstance(axis.values[0], int) and len(axis.values) > 2
                                else trial.suggest_categorical(axis.name,
                                                               list(range(len(axis.values))))
                                for axis in space.axes)
            point, new = None, indices not in seen
            seen.add(indices)
            try:
                point = space.choose(indices)
            except SpaceError as error:
                skipped[str(error)] += new
            trials.append((trial, point))
            if point is not None and new and tried + len(points) < search["points"]:
                points[point.number] = point
        tried += len(points)
        found = sorted(measure(list(points.values()))) if points else []
        known |= dict(zip(found, figures(found), strict=True))
        for trial, point in trials:  # in the order in which they were asked for
            values = None if point is None else known.get(point.number)
            if values is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, values)
    return +skipped
