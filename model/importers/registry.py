"""All importers, and the one that a checkpoint needs: a new family is one file and one entry."""

import os

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import ModelError
from systola.model.graph.nodes import GraphError
from systola.model.importers import huggingface, ivit, swin, timm
from systola.model.importers.checkpoint import read_checkpoint
from systola.model.importers.class_names import class_names
from systola.model.importers.encoder_graph import refuse_unknown
from systola.model.importers.facts import Facts
from systola.model.importers.model_object import CALLED, object_checkpoint

__all__ = ["FACTS", "IMPORTERS", "load_checkpoint"]

FACTS = "heads", "mean", "std", "eps", "activation", "image_size"
"""What a user can say of a network."""

IMPORTERS = {
    "I-ViT": (ivit.recognize, ivit.ivit_graph),
    "Swin": (swin.recognize, swin.swin_graph),
    "timm": (timm.recognize, timm.timm_graph),
    "Hugging Face": (huggingface.recognize, huggingface.huggingface_graph),
}
"""By name, a function that recognizes a checkpoint and one that makes its graph of it."""


def load_checkpoint(source, *, processor=None, hints=None, **given):
    """Read a float checkpoint and return its `Graph`.

    What the tensors do not say (heads, mean and deviation of images, epsilon, activation, image
    size) is taken from `given`, from the files beside them, from `hints`, or assumed where nearly
    all networks of the kind have it: the graph's ``meta`` has each fact, ``origins`` by name, and
    ``assumed``, a list of sentences.

    Parameters
    ----------
    source : str, Path or module
        A folder as on a model hub, or a file, see `read_checkpoint`; or a model of timm or
        transformers, see `object_checkpoint`.
    processor : object, optional
        The image processor of a model of transformers.
    hints : dict, optional
        ``mean`` and ``std`` that a file of images says.
    **given
        Any of `FACTS`; None is not said.

    Raises
    ------
    ModelError
        If a file or tensor is missing, damaged or of an unsupported network, or what no file says
        has to be given; one line that names it.
    """
    unknown = given.keys() - {*FACTS}
    if unknown:
        raise TypeError(f"load_checkpoint() takes {', '.join(FACTS)}, not {sorted(unknown)[0]}")
    if isinstance(source, str | os.PathLike):
        if processor is not None:
            raise ModelError("processor must be left out with a path, which has its own")
        checkpoint, facts = read_checkpoint(source), Facts(given, hints)
    else:
        checkpoint, facts = object_checkpoint(source, processor), Facts(given, hints, CALLED)
    if checkpoint.notes:
        facts.note("notes", list(checkpoint.notes), "weights")
    names = class_names(checkpoint.config)
    if names:
        facts.note("class_names", names, "config.json")
    for recognize, graph in IMPORTERS.values():
        if recognize(checkpoint):
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # the graph refuses infinities
                    return graph(checkpoint, facts)
            except GraphError as error:
                raise ModelError(str(error)) from None
    if not checkpoint.tensors:
        raise ModelError(f"model {shown(str(source))} must hold tensors")
    if "patch_embed.proj.weight" in checkpoint.tensors or any(
            name.startswith("blocks.") for name in checkpoint.tensors):
        return timm.timm_graph(checkpoint, facts)  # says what is missing
    refuse_unknown(checkpoint.tensors, f"a network of {', '.join(IMPORTERS)} (model_type "
                   f"{shown(checkpoint.config.get('model_type'))})")
    return None
