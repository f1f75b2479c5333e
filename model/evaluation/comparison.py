"""A float model and the integer one that it is compared with: whether they belong together."""

import io

import numpy as np

from systola.files.at_once import write_at_once
from systola.files.tensors import ModelError
from systola.model.data.images import image_facts
from systola.model.evaluation.accuracy import open_float

__all__ = ["check_pair", "open_reference", "write_logits"]

_SHARED = ("family", "classes", "patch_size", "image_size", "heads", "mean", "std", "eps",
           "activation")
"""Facts that an integer network keeps of the float one."""


def open_reference(source, *, data=None, **facts):
    """Return the float model of `source`, which takes images as the file `data` says.

    Parameters
    ----------
    source : str or Path
        ``digits`` or a checkpoint.
    data : str or Path, optional
        Images; ``mean`` and ``std`` there are used if no file of the checkpoint has any.
    **facts
        As `load_checkpoint` takes them; what is given decides.

    Raises
    ------
    ModelError
        If a file is unusable, or mean or deviation of data and checkpoint differ.
    """
    hints = image_facts(data) if data else {}
    graph = open_float(source, hints=hints, **facts)
    for name, said in hints.items():
        if graph.meta["origins"][name] != "given" and not _same(graph.meta[name], said):
            wanted = ", ".join(f"{item:g}" for item in graph.meta[name])
            raise ModelError(f"{name} of {str(data)!r} must be {wanted} as of the model "
                             f"({graph.meta['origins'][name]}), not {said} (--{name} decides)")
    return graph


def _same(mine, said):
    try:
        said = [float(item) for item in (said.split(",") if isinstance(said, str) else said)]
        return bool(np.allclose(mine, said, rtol=1e-4, atol=1e-6))
    except (TypeError, ValueError):
        return False


def check_pair(vit, model, path):
    """Raise `ModelError` if the integer model of a file was made from another float one.

    Files of before this was noted say less, and are compared in what they say.
    """
    for name in _SHARED:
        there, wanted = model.meta.get(name), vit.meta.get(name)
        if there is not None and there != wanted:
            raise ModelError(f"{name} of {str(path)!r} must be {wanted} as of the float model, not "
                             f"{there}")


def write_logits(path, model, logits):
    """Write arrays, and the ``scale`` of the integer logits, to an ``.npz`` file in one step.

    Raises
    ------
    ModelError
        If it cannot be written.
    """
    file = io.BytesIO()
    np.savez(file, scale=np.float32(model.scales[model.outputs[0]]), **logits)
    try:
        write_at_once(path, file.getvalue())
    except OSError as error:
        raise ModelError(f"logits {str(path)!r} cannot be written: "
                         f"{error.strerror or error}") from None
