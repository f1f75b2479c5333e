"""Changed training images as an integer network reads them, and what the float one says of them."""

from systola.model.data.augmentation import Augmentation
from systola.model.data.images import encode
from systola.model.evaluation.accuracy import float_logits

__all__ = ["training_views"]


def training_views(network, reference, images, settings):
    """Return what images become in an epoch, or None if they stay as they are.

    Parameters
    ----------
    network : Graph
        The integer network.
    reference : Graph
        The float network, which is asked for the images as they have become.
    images : Images or array
        In 0..1, all that are trained on or held back.
    settings : TrainingSettings
        Of `systola.model.training`: ``mirror``, ``shift``, ``seed`` and ``distill``.

    Returns
    -------
    callable or None
        ``views`` of `systola.model.training.finetune.finetune`.
    """
    if not settings.mirror and not settings.shift:
        return None
    augmentation = Augmentation(images, mirror=settings.mirror, shift=settings.shift,
                                seed=settings.seed)

    def views(epoch, chosen):
        changed = augmentation.at(epoch, chosen)
        return encode(network, changed), (
            float_logits(reference, changed) if settings.distill else None)

    return views
