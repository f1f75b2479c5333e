"""Mean and deviation of images: what families of networks were trained with."""

from systola.files.tensors import SMALLEST
from systola.model.importers.facts import per_channel

__all__ = ["find_normalisation"]

_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], "ImageNet's"
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711], "OpenAI's")
_USUAL = {"deit": _IMAGENET, "deit_distilled": _IMAGENET, "dinov2": _IMAGENET, "swin": _IMAGENET,
          "clip": _CLIP}


def find_normalisation(facts, planes, family, means, deviations):
    """Find ``mean`` and ``std`` of images in 0..1, one number a plane.

    Parameters
    ----------
    facts : Facts
    planes : int
        Colours of an image.
    family : str
        Whose usual numbers are assumed where nobody says any.
    means, deviations : list of (value, origin)
        What files say, None if nothing.

    Raises
    ------
    ModelError
        If a number is of images in 0..255, or there are too many or too few.
    """
    mean, std, whose = _USUAL.get(family, ([0.5] * 3, [0.5] * 3, "0.5"))
    why = f"{whose}, as networks of the family {family} mostly have"
    if planes != 3:
        mean, std, why = [0.5] * planes, [0.5] * planes, f"0.5 for images of {planes} planes"
    scale = "of images in 0..1, not 0..255"
    facts.find("mean", *means, assume=(mean, why), check=per_channel(planes, -1, 1, scale))
    facts.find("std", *deviations, assume=(std, why),
               check=per_channel(planes, SMALLEST, 1, scale))
