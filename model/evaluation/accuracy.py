"""Accuracy of an integer model beside its float one, and what each arithmetic option costs."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from systola.files.tensors import ModelError
from systola.hw.contract.config import PUBLISHED
from systola.hw.contract.numbers import LEVELS
from systola.model.data import examples
from systola.model.data.class_labels import check_labels
from systola.model.data.image_source import Images
from systola.model.data.images import encode, float_inputs, has_training, open_images
from systola.model.graph.float_forward import float_forward
from systola.model.graph.graph_file import is_integer_network, load_network
from systola.model.importers.registry import load_checkpoint
from systola.model.kernel.engine import engine_report, forward
from systola.model.quantization.quantize import quantize

__all__ = ["CALIBRATION_IMAGES", "OPTIONS", "calibration_images", "deviation", "evaluate",
           "evaluate_source", "float_logits", "integer_logits", "is_integer", "measure_options",
           "of_source", "open_as_is", "open_float", "open_network", "quantized", "scored_images"]

CALIBRATION_IMAGES = 2048
"""Images that ranges are taken from, at most: evenly spaced ones of a larger set."""

_BATCH = 32

_LEAST_PARTS, _PART_BATCHES = 16, 8
"""Of images that workers share: at least so many parts where there are as many batches, and of at
most so many batches, which is what a worker that dies costs."""

OPTIONS = {
    "published operators": PUBLISHED,
    "full width": {"mult_bits": 31, "code_mult_bits": 31},
    "24-bit multipliers (default)": {},
    "20-bit multipliers": {"mult_bits": 20},
    "16-bit multipliers": {"mult_bits": 16},
    "16-bit multipliers of 8-bit results": {"code_mult_bits": 16},
    "published attention": {"attention": "published"},
    "published 8-bit attention": {"attention": "published", "attention_bits": 8},
    "deferred attention": {"attention": "deferred"},
    **{f"log2 attention, {scheme.capitalize()}": {"attention": scheme} for scheme in LEVELS},
    "published GELU": {"gelu": "published"},
    "published layer norm": {"norm": "published"},
    "layer norm with leading-one start": {"norm": "leading_one"},
    "6-bit weights and activations": {"weight_bits": 6, "act_bits": 6},
    "4-bit weights": {"weight_bits": 4},
}
"""Settings measured by `measure_options`, as differences from the default ones."""


def open_float(source, **facts):
    """Return the float model of `source`: an example by name, or a checkpoint file or folder.

    Raises
    ------
    ModelError
        If the checkpoint is missing or unusable; `facts` are as `load_checkpoint` takes them.
    """
    path = examples.checkpoint_path(source) if examples.is_example(source) else source
    return load_checkpoint(path, **facts)


def open_as_is(source, **facts):
    """Return the network of `source`: an example or a checkpoint, float, or an integer network.

    Raises
    ------
    ModelError
        If the file is missing or unusable; `facts` are as `load_checkpoint` takes them.
    """
    return load_network(source) if is_integer(source) else open_float(source, **facts)


def open_network(source, *, data=None, scored=None, facts=None, progress=None, **settings):
    """Return the integer model of `source`, quantizing a float checkpoint on training images.

    Parameters
    ----------
    source : str or Path
        An example, a float checkpoint, or an integer model file, which excludes `settings`.
    data : str or Path, optional
        Training images to take ranges from (see `systola.model.data.images.open_images`); needed
        for a float checkpoint. Test images here would flatter the result.
    scored : str or Path, optional
        As of `calibration_images`.
    facts : dict, optional
        What the user says of a checkpoint, as `load_checkpoint` takes it.
    progress, **settings
        As in `systola.model.quantization.quantize.quantize`.

    Raises
    ------
    ValueError
        If a file or a setting is unusable; one line.
    """
    if is_integer(source):
        if settings:
            raise ModelError(f"model file {str(source)!r} is quantized already; "
                             f"{', '.join(sorted(settings))} cannot be set")
        return load_network(source)
    graph = open_float(source, **(facts or {}))
    return quantized(source, graph, calibration_images(source, graph, data, scored=scored),
                     progress=progress, **settings)


def is_integer(source):
    """Tell whether `source` is the file of an integer network, not a checkpoint or an example."""
    return (not examples.is_example(source) and Path(source).suffix == ".safetensors"
            and is_integer_network(source))


def _data_source(source, data, what):
    if data is not None:
        return data
    if not examples.is_example(source):
        raise ModelError(f"{what} must name a file of images for model {str(source)!r} "
                         f"(--data FILE)")
    return source


def calibration_images(source, graph, data=None, *, scored=None):
    """Return the training images that ranges of a network are taken from, as `Images`.

    Parameters
    ----------
    source : str or Path
        Where the network is from: an example has images of its own.
    graph : Graph
        The float network.
    data : str or Path, optional
        The images; of a set with parts, those for training.
    scored : str or Path, optional
        Images that are scored; if they are a part of a set, its training images do for `data`.

    Raises
    ------
    ModelError
        If `source` is no example and no images are named, or they are unusable.
    """
    if data is None and scored is not None and has_training(scored):
        data = scored
    images = open_images(_data_source(source, data, "calibration"), "train", graph=graph,
                         labelled=False)
    return images.thinned(CALIBRATION_IMAGES)


def scored_images(source, graph, data=None):
    """Return the labelled images that a network is scored on, as `Images`.

    Parameters
    ----------
    source, graph
        As of `calibration_images`; the network may be an integer one.
    data : str or Path, optional
        The images; of a set with parts, those for test, or else for validation.

    Raises
    ------
    ModelError
        If `source` is no example and no images are named, or they are unusable.
    """
    return open_images(_data_source(source, data, "data"), "test", graph=graph)


def quantized(source, graph, images, *, progress=None, **settings):
    """Return the integer model of `graph`, the float model of `source`; see `open_network`."""
    return of_source(_quantized(graph, images, progress=progress, **settings), source)


def of_source(model, source):
    """Return an integer model that says what it was made from, the float model of `source`."""
    return replace(model, meta={**model.meta, "source": Path(source).stem})


def _quantized(graph, images, *, progress=None, **settings):
    return quantize(graph, float_inputs(graph, images), progress=progress, **settings)


def float_logits(graph, images, *, batch=_BATCH, progress=None):
    """Return the float logits of images in 0..1, float32 (B, classes)."""
    return _batched(lambda part, first: _float_logits(graph, part, first), images, batch, progress)


def _float_logits(graph, images, first):
    with np.errstate(over="ignore", invalid="ignore"):  # said below
        logits = float_forward(graph, float_inputs(graph, images))[graph.outputs[0]][:, 0]
    if not np.isfinite(logits).all():
        wrong = int((~np.isfinite(logits)).any(axis=1).argmax())
        raise ModelError(f"weights must keep the logits finite, which those of image "
                         f"{first + wrong} are not")
    return logits


def integer_logits(graph, images, *, batch=_BATCH, progress=None, engine="auto"):
    """Return the integer logits of images in 0..1, int64 (B, classes), `batch` images at a time.

    They do not depend on `engine`, which is as `systola.model.kernel.engine.forward` takes it.
    """
    return _batched(lambda part, first: _integer_logits(graph, part, engine), images, batch,
                    progress)


def _integer_logits(graph, images, engine):
    name = graph.outputs[0]
    return forward(graph, encode(graph, images), keep=[name], engine=engine)[name][:, 0]


def _batched(function, images, batch, progress):
    """Return what `function` makes of the images, some at a time, one array behind the other."""
    return np.concatenate(_batches(function, images, batch, progress))


def _batches(function, images, batch, progress):
    """Return a list of what `function` makes of some images and the number of the first."""
    parts, count = [], len(images)
    for start in range(0, count, batch):
        parts.append(function(images[start:start + batch], start))
        if progress:
            progress(min(start + batch, count), count)
    return parts


def evaluate(vit, model, images, labels, *, batch=_BATCH, progress=None, keep=None,
             engine="auto", cluster=None):
    """Compare the integer model with its float one on labelled images in 0..1.

    Images are read a batch at a time and given to both; only predictions are collected.

    Parameters
    ----------
    vit : Graph or None
        The float model; without it only the integer one is judged.
    model : Graph
        The integer model.
    images : array or Images
        See `systola.model.data.images.open_images`.
    labels : ndarray
    batch : int
        Images that are computed at a time; it changes no result.
    progress : callable, optional
        Called as ``progress(images done, images in total)``.
    keep : dict, optional
        Gets ``labels``, and the logits as ``integer`` codes and ``float`` numbers, (B, classes).
    engine : str
        What computes the integer model, see `systola.model.kernel.engine.forward`.
    cluster : systola.cluster.cluster.Cluster, optional
        Workers that share the images. Predictions and integer logits are those of one process, bit
        for bit; so are the float ones on processors of the same kind. Pictures in files are read
        by the workers, by the same path.

    Returns
    -------
    dict
        ``images``, their number; ``int_top1``, and with a float model ``float_top1`` and
        ``agreement`` (equal predictions): shares from 0 to 1; ``engine`` of `engine_report`.

    Raises
    ------
    ModelError
        If the images do not fit the model, or a label is not one of its classes.
    """
    check_labels(model, labels)
    parts = _parts(images, batch, progress, cluster,
                   {"vit": vit, "model": model, "engine": engine, "keep": keep is not None})
    got, *expected = np.concatenate([predicted for predicted, _ in parts]).T
    report = {"images": len(labels), "int_top1": float(np.mean(got == labels)),
              "engine": engine_report(model, engine)}
    if expected:
        report["float_top1"] = float(np.mean(expected[0] == labels))
        report["agreement"] = float(np.mean(got == expected[0]))
    if keep is not None:
        keep["labels"] = labels
        keep.update({name: np.concatenate([kept[name] for _, kept in parts])
                     for name in parts[0][1]})
    return report


def _parts(images, batch, progress, cluster, common):
    """Return predictions and what is kept of all images, a part after the other."""
    count = len(images)
    if cluster is None:
        return _batches(lambda part, first: _score(common, part, first), images, batch, progress)
    # Whole batches, so that every result is of the same batch as in one process.
    size = batch * min(max(count // (batch * _LEAST_PARTS), 1), _PART_BATCHES)
    starts = range(0, count, size)
    in_files = isinstance(images, Images) and images.in_files
    common |= {"batch": batch, "images": images.part(0, count) if in_files else None}
    results = cluster.map(_score_part, common, (
        (start, min(start + size, count), None if in_files else images[start:start + size])
        for start in starts), done=progress and (
            lambda done: progress(min(done * size, count), count)))
    for *_, noted in results:
        if noted is not None:
            images.note(noted)
    return [part for parts, _ in results for part in parts]


def _score_part(common, start, stop, images):
    """Return what `_score` does for some batches of the images, and what was noted of them."""
    in_files = images is None
    if in_files:
        images = common["images"].part(start, stop)
    parts = _batches(lambda part, first: _score(common, part, start + first), images,
                     common["batch"], None)
    return parts, images.noted() if in_files else None


def _score(common, images, first):
    """Return the predictions for images, int64 (B, 1 or 2), and their logits if they are kept."""
    logits = {"integer": _integer_logits(common["model"], images, common["engine"])}
    if common["vit"] is not None:
        logits["float"] = _float_logits(common["vit"], images, first)
    predicted = np.stack([values.argmax(axis=1) for values in logits.values()], axis=1)
    if not common["keep"]:
        return predicted, {}
    return predicted, logits | {"integer": logits["integer"].astype(np.int32)}  # 16-bit codes


def evaluate_source(source="digits", *, data=None, calibration=None, reference=None, facts=None,
                    progress=None, **settings):
    """Open, if necessary quantize, and evaluate the model `source` on labelled images.

    Parameters
    ----------
    source, facts, **settings
        As in `open_network`.
    calibration : str or Path, optional
        Training images to take ranges from, ``data`` of `open_network`.
    data : str or Path, optional
        Labelled test images; an example's own for it and for integer models made from it.
    reference : str or Path, optional
        Float model to compare an integer model file with; by default an example if it was made
        from one, else none.
    progress : callable, optional
        Called as ``progress(images done, images in total)`` during the integer evaluation.

    Returns
    -------
    dict
        As `evaluate`.

    Raises
    ------
    ValueError
        If a file or a setting is unusable; one line.
    """
    model = open_network(source, data=calibration, scored=data, facts=facts, **settings)
    origin = model.meta.get("source") if is_integer(source) else source
    if reference is None and (not is_integer(source) or examples.is_example(origin)):
        reference = origin
    images = scored_images(origin, model, data)
    vit = None if reference is None else open_float(reference, **(facts or {}))
    return evaluate(vit, model, images, images.labels, progress=progress)


def deviation(reference, logits):
    """Compare two arrays of integer logits (B, classes).

    Returns
    -------
    dict
        ``logits_different`` and ``images_different`` (shares), ``largest_difference`` (LSB of the
        16-bit logits) and ``agreement`` (equal predictions).
    """
    difference = np.abs(np.asarray(logits, dtype=np.int64) - reference)
    return {"logits_different": float(np.mean(difference != 0)),
            "images_different": float(np.mean(difference.any(axis=1))),
            "largest_difference": int(difference.max()),
            "agreement": float(np.mean(logits.argmax(axis=1) == reference.argmax(axis=1)))}


def measure_options(source="digits", *, data=None, calibration=None, options=None, facts=None,
                    progress=None):
    """Quantize with every setting in `options` and compare the logits with those at full width.

    Full width is the default with 31-bit multipliers. All are quantized by the method ``minmax``,
    which does not make up for what an option costs. Options that change scales (all bit widths
    but those of multipliers) differ in nearly every logit; their ``int_top1`` and errors are what
    counts.

    Returns
    -------
    dict of str to dict
        By option, its ``settings``, ``int_top1``, the entries of `deviation`, and the RMS errors
        of the logits ``error_float`` (against the float model) and ``error_full`` (against full
        width), divided by the RMS of the float logits.
    """
    options = OPTIONS if options is None else options
    vit = open_float(source, **(facts or {}))
    calibration = calibration_images(source, vit, calibration, scored=data)
    images = scored_images(source, vit, data)
    labels = images.labels
    exact = float_logits(vit, images).astype(np.float64)
    full = _quantized(vit, calibration, method="minmax", **OPTIONS["full width"])
    reference = integer_logits(full, images)
    report = {}
    for done, (name, settings) in enumerate(options.items()):
        model = _quantized(vit, calibration, **{"method": "minmax", **settings})
        logits = integer_logits(model, images)
        real = logits * model.scales["logits"]
        report[name] = {"settings": settings,
                        "int_top1": float(np.mean(logits.argmax(axis=1) == labels)),
                        "error_float": _rms(real - exact) / _rms(exact),
                        "error_full": _rms(real - reference * full.scales["logits"]) / _rms(exact),
                        **deviation(reference, logits)}
        if progress:
            progress(done + 1, len(options))
    return report


def _rms(values):
    return float(np.sqrt(np.mean(np.square(values))))
