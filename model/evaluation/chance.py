"""Whether the best of many random alternatives is better, or only the luckiest on these images."""

import numpy as np
from scipy.stats import binomtest

__all__ = ["beside_chance"]

_HALVES = 200


def beside_chance(right, others, *, seed=0):
    """Return how a choice compares with the best of some random ones on the same images.

    The best of many is chosen by the images on which it is then judged, so that its figure has
    luck in it: of 50 networks that are all equally good, the best has two standard deviations
    more than their mean. So it is also chosen by a random half of the images and judged on the
    other half, and the mean of 200 such splits is given.

    Parameters
    ----------
    right : bool array (images,)
        Which images the choice has right.
    others : bool array (alternatives, images)
        The same of the random ones.
    seed : int
        Of the halves.

    Returns
    -------
    dict
        ``random``, how many there are; ``best_top1``, the highest top-1 of them; ``only_best`` and
        ``only_allocated``, images that only that one or only the choice has right; ``p``, the
        two-sided exact McNemar test of these two numbers (McNemar 1947), not corrected for the best
        having been chosen. With two images or more ``held_out_best_top1`` and
        ``held_out_top1``: top-1 of the best by the other half, and of the choice, on the same
        halves; else None.

    Raises
    ------
    ValueError
        If there are no alternatives, or not of the same images.
    """
    right, others = np.asarray(right, bool), np.asarray(others, bool)
    if not len(others) or others.shape[1:] != right.shape:
        raise ValueError(f"others must be at least one row of {len(right)} images, not of shape "
                         f"{others.shape}")
    best = others[others.sum(axis=1).argmax()]
    only_best, only_choice = int((best & ~right).sum()), int((right & ~best).sum())
    differ, held_out = only_best + only_choice, (None, None)
    if len(right) > 1:
        rng, means = np.random.default_rng(seed), []
        for _ in range(_HALVES):
            order = rng.permutation(len(right))
            chosen_by, judged = order[:len(order) // 2], order[len(order) // 2:]
            luckiest = others[:, chosen_by].sum(axis=1).argmax()
            means.append((others[luckiest, judged].mean(), right[judged].mean()))
        held_out = map(float, np.mean(means, axis=0))
    held_out_best, held_out_choice = held_out
    return {"random": len(others), "best_top1": float(best.mean()), "only_best": only_best,
            "only_allocated": only_choice,
            "p": float(binomtest(only_best, differ).pvalue) if differ else 1.0,
            "held_out_best_top1": held_out_best, "held_out_top1": held_out_choice}
