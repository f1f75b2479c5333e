"""Accuracy of an integer model beside its float one, and what each arithmetic option costs."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from systola.files.tensors import ModelError
from systola.model.data import digits
from systola.model.data.images import encode, float_inputs, load_data
from systola.model.graph.float_forward import float_forward
from systola.model.graph.graph_file import is_integer_network, load_network
from systola.model.graph.integer_forward import forward
from systola.model.importers.registry import load_checkpoint
from systola.model.quantization.quantize import quantize

__all__ = ["CALIBRATION_IMAGES", "OPTIONS", "calibration_images", "deviation", "evaluate",
           "evaluate_source", "float_logits", "integer_logits", "measure_options", "open_as_is",
           "open_float", "open_network", "quantized"]

CALIBRATION_IMAGES = 2048
"""Images that ranges are taken from, at most: evenly spaced ones of a larger set."""

_BATCH = 32

OPTIONS = {
    "full width": {"mult_bits": 31, "code_mult_bits": 31},
    "24-bit multipliers (default)": {},
    "20-bit multipliers": {"mult_bits": 20},
    "16-bit multipliers": {"mult_bits": 16},
    "16-bit multipliers of 8-bit results": {"code_mult_bits": 16},
    "8-bit attention": {"attention_bits": 8},
    "deferred attention": {"attention": "deferred"},
    "GELU table": {"gelu": "table"},
    "leading-one root start": {"norm": "leading_one"},
    "normalised layer norm": {"norm": "normalised"},
    "6-bit weights and activations": {"weight_bits": 6, "act_bits": 6},
    "4-bit weights": {"weight_bits": 4},
}
"""Settings measured by `measure_options`, as differences from the default ones."""


def open_float(source, **facts):
    """Return the float model of `source`: ``digits``, or a checkpoint file or folder.

    Raises
    ------
    ModelError
        If the checkpoint is missing or unusable; `facts` are as `load_checkpoint` takes them.
    """
    path = digits.checkpoint_path() if str(source) == "digits" else source
    return load_checkpoint(path, **facts)


def open_as_is(source, **facts):
    """Return the network of `source`: ``digits`` or a checkpoint, float, or an integer network.

    Raises
    ------
    ModelError
        If the file is missing or unusable; `facts` are as `load_checkpoint` takes them.
    """
    return load_network(source) if _is_integer(source) else open_float(source, **facts)


def open_network(source, *, data=None, facts=None, progress=None, **settings):
    """Return the integer model of `source`, quantizing a float checkpoint on training images.

    Parameters
    ----------
    source : str or Path
        ``digits``, a float checkpoint, or an integer model file, which excludes `settings`.
    data : str or Path, optional
        Training images to take ranges from (see `systola.model.data.images.load_data`); needed for
        a float checkpoint. Test images here would flatter the result.
    facts : dict, optional
        What the user says of a checkpoint, as `load_checkpoint` takes it.
    progress, **settings
        As in `systola.model.quantization.quantize.quantize`.

    Raises
    ------
    ValueError
        If a file or a setting is unusable; one line.
    """
    if _is_integer(source):
        if settings:
            raise ModelError(f"model file {str(source)!r} is quantized already; "
                             f"{', '.join(sorted(settings))} cannot be set")
        return load_network(source)
    return quantized(source, open_float(source, **(facts or {})), data, progress=progress,
                     **settings)


def _is_integer(source):
    return (str(source) != "digits" and Path(source).suffix == ".safetensors"
            and is_integer_network(source))


def _data_source(source, data, what):
    if data is not None:
        return data
    if str(source) != "digits":
        raise ModelError(f"{what} must name a file of images for model {str(source)!r} "
                         f"(--data FILE)")
    return "digits"


def calibration_images(source, data=None):
    """Return the training images, in 0..1, that ranges of the model `source` are taken from.

    Raises
    ------
    ModelError
        If `source` is not ``digits`` and no `data` are named, or they are unusable.
    """
    images = load_data(_data_source(source, data, "calibration"), "train", labelled=False)[0]
    return images[::-(-len(images) // CALIBRATION_IMAGES)]


def quantized(source, graph, data=None, *, progress=None, **settings):
    """Return the integer model of `graph`, the float model of `source`; see `open_network`."""
    model = _quantized(graph, calibration_images(source, data), progress=progress, **settings)
    return replace(model, meta={**model.meta, "source": Path(source).stem})


def _quantized(graph, images, *, progress=None, **settings):
    return quantize(graph, float_inputs(graph, images), progress=progress, **settings)


def float_logits(graph, images, *, batch=_BATCH, progress=None):
    """Return the float logits of images in 0..1, float32 (B, classes)."""
    with np.errstate(over="ignore", invalid="ignore"):  # said below
        logits = _batched(lambda part: float_forward(graph, part)[graph.outputs[0]][:, 0],
                          float_inputs(graph, images), batch, progress)
    if not np.isfinite(logits).all():
        raise ModelError(f"weights must keep the logits finite, which those of image "
                         f"{int((~np.isfinite(logits)).any(axis=1).argmax())} are not")
    return logits


def integer_logits(graph, images, *, batch=_BATCH, progress=None):
    """Return the integer logits of images in 0..1, int64 (B, classes), `batch` images at a time."""
    name = graph.outputs[0]
    return _batched(lambda part: forward(graph, part, keep=[name])[name][:, 0],
                    encode(graph, images), batch, progress)


def _batched(function, inputs, batch, progress):
    parts, count = [], len(next(iter(inputs.values())))
    for start in range(0, count, batch):
        parts.append(function({name: value[start:start + batch]
                               for name, value in inputs.items()}))
        if progress:
            progress(min(start + batch, count), count)
    return np.concatenate(parts)


def evaluate(vit, model, images, labels, *, batch=_BATCH, progress=None, keep=None):
    """Compare the integer model with its float one on labelled images in 0..1.

    Parameters
    ----------
    vit : Graph or None
        The float model; without it only the integer one is judged.
    model : Graph
        The integer model.
    images, labels : ndarray
        See `systola.model.data.images.load_data`.
    batch : int
        Images that are computed at a time; it changes no result.
    progress : callable, optional
        Called as ``progress(images done, images in total)``.
    keep : dict, optional
        Gets ``labels``, and the logits as ``integer`` codes and ``float`` numbers, (B, classes).

    Returns
    -------
    dict
        ``images``, their number; ``int_top1``, and with a float model ``float_top1`` and
        ``agreement`` (equal predictions): shares from 0 to 1.

    Raises
    ------
    ModelError
        If the images do not fit the model, or a label is not one of its classes.
    """
    _check_labels(model, labels)
    logits = integer_logits(model, images, batch=batch, progress=progress)
    got = logits.argmax(axis=1)
    report = {"images": len(labels), "int_top1": float(np.mean(got == labels))}
    if keep is not None:
        keep.update(labels=labels, integer=logits)
    if vit is not None:
        real = float_logits(vit, images, batch=batch)
        expected = real.argmax(axis=1)
        report["float_top1"] = float(np.mean(expected == labels))
        report["agreement"] = float(np.mean(got == expected))
        if keep is not None:
            keep["float"] = real
    return report


def _check_labels(model, labels):
    """Raise `ModelError` unless all labels are classes of the model."""
    classes = model.tensors[model.outputs[0]].channels
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        raise ModelError(f"labels must be from 0 to {classes - 1}, the classes there are, not "
                         f"{labels[wrong][0]}")


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
        Labelled test images; the digits' own for ``digits`` and integer models made from it.
    reference : str or Path, optional
        Float model to compare an integer model file with; by default ``digits`` if it was made from
        it, else none.
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
    model = open_network(source, data=calibration, facts=facts, **settings)
    origin = model.meta.get("source") if _is_integer(source) else source
    if reference is None and (not _is_integer(source) or origin == "digits"):
        reference = origin
    images, labels = load_data(_data_source(origin, data, "data"), "test")
    vit = None if reference is None else open_float(reference, **(facts or {}))
    return evaluate(vit, model, images, labels, progress=progress)


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

    Full width is the default with 31-bit multipliers. Options that change scales (all bit widths
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
    calibration = calibration_images(source, calibration)
    images, labels = load_data(_data_source(source, data, "data"), "test")
    exact = float_logits(vit, images).astype(np.float64)
    full = _quantized(vit, calibration, **OPTIONS["full width"])
    reference = integer_logits(full, images)
    report = {}
    for done, (name, settings) in enumerate(options.items()):
        model = _quantized(vit, calibration, **settings)
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
