"""A checkpoint as it lies on a disk: tensors, and what the files beside them say."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from systola.files.bounded import parse_json, read_file, shorten, shown
from systola.files.tensors import ModelError, other_kind, read_tensors
from systola.files.torch_file import SUFFIXES, read_torch

__all__ = ["Checkpoint", "float_tensors", "read_checkpoint"]

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
          "pytorch_model.bin.index.json")
"""What the weights of a folder are called, the one to prefer first."""

_JSON_BYTES = 2**24
_MOST_SHARDS = 1000
_WRAPPERS = "state_dict", "model", "state_dict_ema", "model_ema", "teacher", "student", "module"
"""Entries of a training checkpoint that hold the weights, the one to prefer first."""

_PREFIXES = "module.", "_orig_mod.", "model.", "backbone.", "encoder."
"""What a wrapping module puts before the name of every tensor."""

_FOREIGN = {
    ".onnx": "an ONNX graph", ".h5": "a Keras or TensorFlow file", ".msgpack": "a Flax file",
    ".gguf": "a GGUF file", ".pkl": "a pickle", ".tflite": "a TensorFlow Lite file",
    ".engine": "a TensorRT engine"}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and everything that was said beside them.

    Attributes
    ----------
    path : Path or None
        The folder or file it came from; None of an object in memory.
    tensors : dict of str to ndarray
        Without the prefixes of wrapping modules.
    metadata : dict of str to str
        Of the tensor file.
    config, preprocessor : dict
        ``config.json`` and ``preprocessor_config.json``; empty where there are none.
    notes : tuple of str
        What was chosen where a file leaves a choice.
    """

    path: Path | None
    tensors: dict
    metadata: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    preprocessor: dict = field(default_factory=dict)
    notes: tuple = ()


def read_checkpoint(path):
    """Read a folder as model hubs have them, or a single file of weights.

    A file gets the ``config.json`` and ``preprocessor_config.json`` of its folder.

    Parameters
    ----------
    path : str or Path
        A folder with ``model.safetensors`` (or its index, or ``pytorch_model.bin``), or a
        ``.safetensors``, ``.npz`` or PyTorch file.

    Raises
    ------
    ModelError
        If a file is missing, damaged, of a kind that is not read, or would have to be executed.
    """
    path = Path(path)
    try:
        weights = _weights(path) if path.is_dir() else path
    except OSError as error:
        raise ModelError(f"model folder {shown(str(path))} cannot be read: "
                         f"{error.strerror}") from None
    folder = path if path.is_dir() else path.parent
    tensors, metadata, notes = _read(weights)
    tensors, more = float_tensors(tensors, metadata, f"model file {str(weights)!r}")
    return Checkpoint(path=path, tensors=tensors, metadata=metadata,
                      config=_table(folder / _CONFIG),
                      preprocessor=_table(folder / _PREPROCESSOR), notes=(*notes, *more))


def float_tensors(tensors, metadata, what):
    """Return tensors of a float checkpoint without the prefixes of wrapping modules, and notes.

    Parameters
    ----------
    tensors : dict of str to ndarray
    metadata : dict of str to str
    what : str
        What they come from, for the error.

    Raises
    ------
    ModelError
        If they are not of a float network in PyTorch's layout.
    """
    kind = other_kind(tensors, metadata, "a float checkpoint")
    if kind:
        raise ModelError(f"{what} must be a float checkpoint, not {kind}")
    if any(name.startswith("Transformer/encoderblock") for name in tensors):
        raise ModelError(f"{what} must be a PyTorch checkpoint, not a JAX one of google-research: "
                         f"load it with timm and save that model's state_dict")
    return _without_prefixes(tensors)


def _weights(folder):
    """Return the file of weights in a folder."""
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(file for file in folder.iterdir()
                   if file.suffix == ".safetensors" or file.suffix in SUFFIXES)
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"model folder {str(folder)!r} must hold one file of weights, not "
                         f"{len(found)}: name the file, as {str(found[0])!r}")
    raise ModelError(f"model folder {str(folder)!r} must hold {_NAMES[0]} or another file of "
                     f"weights; a folder of images goes to --data")


def _read(path):
    """Return tensors, metadata and notes of a file or of the shards that an index names."""
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix in SUFFIXES:
        return _read_pytorch(path)
    if path.suffix in _FOREIGN:
        raise ModelError(f"model file {str(path)!r} is {_FOREIGN[path.suffix]}, which is not read; "
                         f"save the weights as .safetensors or as a PyTorch state_dict")
    return *read_tensors(path), ()


def _read_shards(index):
    table = _table(index)
    names = table.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"index {str(index)!r} must have a table weight_map")
    shards = sorted({str(shard) for shard in names.values()})
    if len(shards) > _MOST_SHARDS or any(Path(shard).name != shard for shard in shards):
        raise ModelError(f"index {str(index)!r} must name at most {_MOST_SHARDS} files of its own "
                         f"folder, not {shown(shards[0])}")
    tensors, metadata, notes = {}, {}, ()
    for shard in shards:
        found, more, notes = _read(index.parent / shard)
        wanted = {name for name, where in names.items() if where == shard}
        if found.keys() != wanted:
            wrong = sorted(found.keys() ^ wanted)[0]
            raise ModelError(f"shard {shard!r} must hold the tensors that {index.name} says; "
                             f"missing or unknown: {shown(wrong)}")
        tensors |= found
        metadata |= more
    return tensors, metadata, notes


def _read_pytorch(path):
    try:
        content = read_torch(path)
    except FileNotFoundError:
        raise ModelError(f"model file {str(path)!r} does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or shorten(error) or "damaged"
        raise ModelError(f"model file {str(path)!r} must be tensors that torch.save wrote: "
                         f"{reason}") from None
    notes = []
    while isinstance(content, dict) and not any(isinstance(value, np.ndarray)
                                                for value in content.values()):
        there = [name for name in _WRAPPERS if isinstance(content.get(name), dict)]
        if not there:
            break
        if len(there) > 1:
            notes.append(f"weights: entry {there[0]!r} of {path.name}, which also has "
                         f"{', '.join(map(repr, there[1:]))}")
        content = content[there[0]]
    tensors = {name: value for name, value in content.items()
               if isinstance(value, np.ndarray)} if isinstance(content, dict) else {}
    if not tensors:
        raise ModelError(f"model file {str(path)!r} must hold the tensors of a state_dict")
    return tensors, {}, notes


def _table(path):
    """Return the table of a JSON file, or an empty one if there is no such file."""
    try:
        table = parse_json(read_file(path, _JSON_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} must be JSON: "
                         f"{getattr(error, 'strerror', None) or shorten(error)}") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path.name} must be a table, not {shown(table)}")
    return table


def _without_prefixes(tensors):
    """Return tensors without the prefixes that most of their names have, and notes."""
    notes, again = [], True
    while again:
        again = False
        for prefix in _PREFIXES:
            having = [name for name in tensors if name.startswith(prefix)]
            others = set(tensors) - set(having)
            cut = {name.removeprefix(prefix) for name in having}
            # `encoder.layer.0...` is the name of a Hugging Face model without its own prefix.
            if len(having) * 2 <= len(tensors) or cut & others or (
                    prefix == "encoder." and any(name.startswith("layer") for name in cut)):
                continue
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
            notes.append(f"names: without the prefix {prefix!r}")
            again = True
    return tensors, notes
