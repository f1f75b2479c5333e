"""Integer networks on disk: safetensors with one JSON entry, versioned, checked, without pickle."""

import dataclasses
import json
from functools import cache

import numpy as np

from systola.files.bounded import parse_json, shorten, shown
from systola.files.tensors import (
    INTEGER_KEY,
    LARGEST,
    SMALLEST,
    ModelError,
    read_tensors,
    write_tensors,
)
from systola.model.graph.graph import Graph
from systola.model.graph.nodes import CODES, KINDS, GraphError

__all__ = ["VERSION", "is_integer_network", "load_network", "save_network"]

VERSION = 4
"""Version of the file format; a reader accepts its own only."""

_OLD_KEY = "systola_integer_vit"
_ENTRIES = ("version", "nodes", "outputs", "scales", "meta")
_HEADER_BYTES = 2**22
_MOST_NODES = 2**14
"""Most bytes of the JSON entry, and most nodes."""


def save_network(graph, path):
    """Write the integer network `graph` to the ``.safetensors`` file `path`, in one step.

    Raises
    ------
    ModelError
        If it is a float network, holds several images, is inconsistent (see `load_network`), or
        the file cannot be written.
    """
    if not graph.is_integer or graph.images != 1:
        raise ModelError("a network file must hold an integer network of one image")
    try:
        dataclasses.replace(graph)  # arrays may have been written to since it was checked
    except GraphError as error:
        raise ModelError(str(error)) from None
    tensors, nodes = {}, []
    for node in graph.nodes:
        entry = {"kind": node.kind}
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if field.name in CODES and value is not None:
                tensors[f"{node.name}.{field.name}"] = np.asarray(value).astype(CODES[field.name])
            elif value is not None:
                entry[field.name] = value.item() if isinstance(value, np.generic) else value
        nodes.append(entry)
    header = {"version": VERSION, "nodes": nodes, "outputs": graph.outputs,
              "scales": graph.scales, "meta": graph.meta}
    text = json.dumps(header, sort_keys=True)
    _network(text, tensors)
    write_tensors(path, tensors, {INTEGER_KEY: text})


def load_network(path):
    """Read and check an integer network.

    Raises
    ------
    ModelError
        If the file is damaged or of another version, or anything in it is missing, unknown, of a
        wrong shape or type, or out of range.
    """
    tensors, metadata = read_tensors(path)
    if INTEGER_KEY not in metadata:
        if _OLD_KEY in metadata:
            raise ModelError(f"model file {str(path)!r} is of version 2 or older; quantize the "
                             f"checkpoint again with `systola quantize`")
        raise ModelError(f"model file {str(path)!r} must hold an integer network (metadata "
                         f"{INTEGER_KEY!r}), as `systola quantize` writes")
    return _network(metadata[INTEGER_KEY], tensors)


def is_integer_network(path):
    """Tell whether `path` is an integer network rather than a float checkpoint.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    return bool({INTEGER_KEY, _OLD_KEY} & read_tensors(path)[1].keys())


def _network(text, tensors):
    """Return the checked network of a JSON entry and arrays."""
    header, used = _parsed(text), set()
    nodes = tuple(_node(entry, tensors, used) for entry in header["nodes"])
    unknown = sorted(tensors.keys() - used)
    if unknown:
        raise ModelError(f"tensor {shown(unknown[0])} is not part of the network")
    try:
        graph = Graph(nodes=nodes, outputs=tuple(header["outputs"]), scales=header["scales"],
                      meta=header["meta"])
    except GraphError as error:
        raise ModelError(str(error)) from None
    if not graph.is_integer:
        raise ModelError("the network must be an integer one: its nodes have no bits")
    return graph


def _parsed(text):
    """Return the checked JSON entry."""
    if len(text) > _HEADER_BYTES:
        raise ModelError(f"metadata {INTEGER_KEY!r} must have at most {_HEADER_BYTES:,} bytes, "
                         f"not {len(text):,}")
    try:
        header = parse_json(text)
    except ValueError as error:
        raise ModelError(f"metadata {INTEGER_KEY!r} must be JSON: {shorten(error)}") from None
    if not isinstance(header, dict) or header.get("version") != VERSION:
        version = header.get("version") if isinstance(header, dict) else header
        raise ModelError(f"version of the integer network must be {VERSION}, not {shown(version)}")
    wrong = sorted({*_ENTRIES} ^ header.keys())
    if wrong:
        raise ModelError(f"entries of the integer network must be {', '.join(sorted(_ENTRIES))}; "
                         f"missing or unknown: {shorten(', '.join(wrong))}")
    nodes, outputs = header["nodes"], header["outputs"]
    if not isinstance(nodes, list) or not 1 <= len(nodes) <= _MOST_NODES:
        raise ModelError(f"nodes must be a list of 1 to {_MOST_NODES}, not {shown(nodes)}")
    if not isinstance(outputs, list) or not all(isinstance(name, str) for name in outputs):
        raise ModelError(f"outputs must be a list of names, not {shown(outputs)}")
    for name in "scales", "meta":
        if not isinstance(header[name], dict):
            raise ModelError(f"{name} must be a table, not {shown(header[name])}")
    _check_numbers(header["scales"], header["meta"])
    return header


def _node(entry, tensors, used):
    """Return the node of a table, with its arrays from `tensors`; notes their names in `used`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str) or (
            entry["kind"] not in KINDS):
        raise ModelError(f"node must be a table whose kind is one of {', '.join(KINDS)}, "
                         f"not {shown(entry)}")
    kind, name = KINDS[entry["kind"]], entry.get("name")
    if not isinstance(name, str):
        raise ModelError(f"node must have a name, not {shown(name)}")
    values = {}
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING
        if field.name in CODES:
            key = f"{name}.{field.name}"
            if key in tensors:
                if tensors[key].dtype != CODES[field.name]:
                    raise ModelError(f"tensor {shown(key)} must hold "
                                     f"{np.dtype(CODES[field.name])}, not {tensors[key].dtype}")
                values[field.name] = _widened(tensors[key])
                used.add(key)
            elif required:
                raise ModelError(f"tensor {shown(key)} is missing from the network")
        elif field.name in entry:
            values[field.name] = _frozen(entry[field.name])
        elif required:
            raise ModelError(f"node {shown(name)}: {field.name} is missing")
    unknown = sorted(entry.keys() - ({"kind", *values} - CODES.keys()))
    if unknown:
        raise ModelError(f"node {shown(name)} must not have {shown(unknown[0])}")
    for attribute, value in values.items():
        _check_type(kind, name, attribute, value)
    return kind(**values)


def _widened(array):
    """Return parameters as the quantizer makes them: weights and tables narrow, others int64."""
    return array if array.dtype in (np.int8, np.int16) else array.astype(np.int64)


def _frozen(value):
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


_TYPES = str, bool, tuple, int, float


@cache
def _types(kind, attribute):
    """Return the types that the annotation of a field names, of those that JSON has."""
    annotation = str(kind.__dataclass_fields__[attribute].type)
    return [part for part in _TYPES if part.__name__ in annotation]


def _check_type(kind, name, attribute, value):
    """Check an attribute against the annotation of its field; ranges are the graph's business."""
    wanted = _types(kind, attribute)
    if wanted and not isinstance(value, np.ndarray) and type(value) not in wanted:
        raise ModelError(f"node {shown(name)}: {attribute} must be "
                         f"{' or '.join(part.__name__ for part in wanted)}, not {shown(value)}")


def _check_numbers(scales, meta):
    """Check what is computed with: scales, and how images become the network's input."""
    for name, value in scales.items():
        if not _is_number(value) or not SMALLEST <= value <= LARGEST:
            raise ModelError(f"scale {shown(name)} must be a number from {SMALLEST:g} to "
                             f"{LARGEST:g}, not {shown(value)}")
    size = meta.get("patch_size", 0)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**16:
        raise ModelError(f"patch_size must be an integer from 0 to {2**16 - 1}, not {shown(size)}")
    sides = meta.get("image_size", [1, 1])
    if not isinstance(sides, list) or len(sides) != 2 or not all(
            type(side) is int and 1 <= side < 2**16 for side in sides):
        raise ModelError(f"image_size must be a height and a width, not {shown(sides)}")
    for name, low in (("mean", -LARGEST), ("std", SMALLEST), ("code_mean", -LARGEST),
                      ("code_std", SMALLEST)):
        values = meta.get(name, [0.5])
        if (not isinstance(values, list) or not values
                or not all(_is_number(value) and low <= value <= LARGEST for value in values)):
            raise ModelError(f"{name} must be a list of numbers from {low:g} to {LARGEST:g}, "
                             f"not {shown(values)}")


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)
