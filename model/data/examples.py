"""The networks that come with the project, by name: their checkpoints and their images."""

from importlib.resources import files
from pathlib import Path

from systola.model.data import digits

__all__ = ["EXAMPLES", "checkpoint_path", "images_path", "is_example", "remarks"]

EXAMPLES = "digits", "fashion"
"""Names that stand for a checkpoint with images of its own."""

_FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts the IDX files."""


def is_example(source):
    """Tell whether a model's name is one of `EXAMPLES`."""
    return str(source) in EXAMPLES


def checkpoint_path(name):
    """Return the file or folder of the float checkpoint of an example."""
    return digits.checkpoint_path() if name == "digits" else files("systola.examples.fashion")


def images_path(name):
    """Return where the images of an example are, as `systola.model.data.images` takes it.

    Those of ``fashion`` are all of Fashion-MNIST where Debian's package is installed, and else a
    part of them that comes with the project.
    """
    if name == "digits":
        return "digits"
    return _FASHION if _FASHION.is_dir() else files("systola.examples.fashion") / "subset"


def remarks(name):
    """Return sentences about the images of an example that results say."""
    if name != "fashion" or _FASHION.is_dir():
        return []
    return [("the first images of Fashion-MNIST, which come with the project; all 10,000 test "
             "images are used where Debian's package dataset-fashion-mnist is, or with --data")]
