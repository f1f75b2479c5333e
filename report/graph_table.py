"""A network's graph as data: what every node makes, how, and what that takes."""

import dataclasses
from math import prod

import numpy as np

from systola.model.graph.nodes import CODES
from systola.report.graph_picture import variant

__all__ = ["graph_table"]


def graph_table(graph):
    """Return the sizes of a network and of its nodes as plain data.

    Returns
    -------
    dict
        Sums: ``integer``, ``images``, ``kinds`` (nodes of each), ``inputs``, ``outputs``,
        ``parameters`` with ``parameter_bytes``, ``products``, ``largest_tensor_bytes``. And
        ``nodes``, in order, with ``name``, ``kind``, ``inputs``, ``shape`` (rows, channels; or
        heads, rows, keys), ``bits`` (None: float), ``weight_bits`` (of linear nodes of integer
        networks, else None), ``variant``, ``parameters``, ``parameter_bytes`` (as in a file),
        ``tensor_bytes`` (whole bytes an element) and ``products``.
    """
    nodes = [_row(graph, node) for node in graph.nodes]
    summary = graph.summary()
    return {
        "integer": graph.is_integer, "images": graph.images, "kinds": summary["nodes"],
        "inputs": summary["inputs"], "outputs": summary["outputs"],
        **{name: sum(row[name] for row in nodes)
           for name in ("parameters", "parameter_bytes", "products")},
        "largest_tensor_bytes": max(row["tensor_bytes"] for row in nodes), "nodes": nodes}


def _row(graph, node):
    tensor = graph.tensors[node.name]
    arrays = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)
              if field.name in CODES and getattr(node, field.name) is not None}
    element = 4 if tensor.bits is None else -(-tensor.bits // 8)
    return {
        "name": node.name, "kind": node.kind, "inputs": list(node.inputs),
        "shape": list(tensor.shape), "bits": tensor.bits,
        "weight_bits": getattr(node, "weight_bits", None), "variant": variant(node),
        "parameters": sum(map(np.size, arrays.values())),
        "parameter_bytes": sum(np.size(value) * _bytes(graph, name)
                               for name, value in arrays.items()),
        "tensor_bytes": prod(tensor.shape) * element,
        "products": int(node.multiplications(tensor, *graph.input_tensors(node)))}


def _bytes(graph, name):
    """Return the bytes of a number of an array: those of the file format, or a float32's."""
    integer = graph.is_integer or name == "index"
    return np.dtype(CODES[name] if integer else np.float32).itemsize
