"""Labels of images as numbers of a network's classes, by name where both sides have names."""

from collections import Counter

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import ModelError

__all__ = ["check_labels", "integer_labels", "network_labels"]


def integer_labels(labels, count):
    """Return an array of labels as int64; raises `ModelError` unless each image has a number."""
    if labels.shape != (count,):
        raise ModelError(f"'labels' must have shape {(count,)}, one for each image, "
                         f"not {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ModelError(f"'labels' must hold integers, not {labels.dtype}")
    if labels.size and labels.max() >= 2**31:
        raise ModelError(f"'labels' must be numbers of classes, not {labels.max()}")
    return labels.astype(np.int64)


def check_labels(graph, labels):
    """Raise `ModelError` unless all labels are classes of the network."""
    classes = _count(graph)
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        raise ModelError(f"labels must be from 0 to {classes - 1}, the classes there are, not "
                         f"{labels[wrong][0]}")


def network_labels(source, graph):
    """Return the labels of a source as classes of a network, and a sentence on how, or None.

    Parameters
    ----------
    source : ArraySource or PictureSource
    graph : Graph or None
        Its ``meta`` may have ``class_names``. Without a network, labels stay what they are.

    Raises
    ------
    ModelError
        If some classes are among the network's and others are not, or if there are no common names
        and another number of classes than the network has.
    """
    labels, sentence = source.labels, None
    if graph is None:
        return labels, None
    if source.classes is not None:
        names = _names(graph)
        table, sentence = _by_name(source.classes, names) if names else (None, None)
        if table is None:
            sentence = _in_order(source, _count(graph), bool(names))
        else:
            labels = np.where(labels >= 0, table[np.maximum(labels, 0)], labels)
    check_labels(graph, labels)
    return labels, sentence


def _count(graph):
    return graph.tensors[graph.outputs[0]].channels


def _names(graph):
    """Return the names of the network's classes, or None if it has none for each."""
    names = graph.meta.get("class_names")
    usable = isinstance(names, list) and len(names) == _count(graph) and all(
        isinstance(name, str) for name in names)
    return names if usable else None


def _plain(name):
    return " ".join(name.replace("_", " ").casefold().split())


def _by_name(classes, names):
    """Return the network's number of each class and a sentence, or twice None: no common names."""
    wanted, there = ([_plain(name) for name in side] for side in (classes, names))
    if wanted == there:
        return np.arange(len(there)), "labels: names and order of the checkpoint's classes"
    numbers = {name: index for index, name in enumerate(there)}
    unknown = [name for name, plain in zip(classes, wanted, strict=True) if plain not in numbers]
    if len(unknown) == len(classes):
        return None, None
    if unknown:
        raise ModelError(f"class {shown(unknown[0])} must be one of the checkpoint's classes "
                         f"({shown(names[0])}, ...), as {len(classes) - len(unknown)} others are")
    counts = Counter(there)
    twice = next((name for name in wanted if counts[name] > 1), None)
    if twice is not None:
        raise ModelError(f"class {shown(twice)} must be one of the checkpoint's, which has "
                         f"{counts[twice]} of that name; label the images by number")
    return (np.array([numbers[name] for name in wanted]),
            "labels: by the names of the checkpoint's classes")


def _in_order(source, count, named):
    """Return the sentence on labels by number, where there are no common names."""
    classes = source.classes
    if len(classes) != count:
        raise ModelError(f"classes of {source.name!r} must be the {count} of the network, or have "
                         f"their names, not {len(classes)} ({shown(classes[0])}, ...)")
    how = "numbers of the data" if source.numbered else "order of the names"
    why = "no name is one of the checkpoint's classes" if named else "the checkpoint has no names"
    shown_names = ", ".join(list(classes[:3]) + (["..."] if len(classes) > 3 else []))
    return f"labels: {how} ({shown_names}), as {why}"
