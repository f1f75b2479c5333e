"""A training that can go on later, as a file: safetensors with one JSON entry, without pickle."""

import hashlib
import json
from math import inf, isfinite

import numpy as np
import torch

from systola.files.bounded import parse_json, shown
from systola.files.tensors import ModelError, read_tensors, write_tensors
from systola.model.graph.nodes import CODES

__all__ = ["TrainingState", "identity", "load_state", "save_state"]

_KEY = "systola_training"
_VERSION = 1
_MOMENTS = "exp_avg", "exp_avg_sq"


class TrainingState:
    """What is known between two epochs, beside the module and its optimizer.

    Attributes
    ----------
    epoch : int
        Epochs done.
    history : list of dict
        A record of each, from the start on (epoch 0).
    best : dict of str to Tensor
        Parameters of the best epoch so far, by name.
    """

    def __init__(self):
        self.epoch, self.history, self.best = 0, [], {}


def identity(network):
    """Return what tells an integer network from others, as text: a hash of all its numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for node in network.nodes:
        digest.update(f"{node.kind} {node.name} {node.inputs}".encode())
        for name in sorted(CODES.keys() & vars(node).keys()):
            value = getattr(node, name)
            if value is not None:
                digest.update(name.encode() + np.asarray(value, np.int64).tobytes())
    digest.update(json.dumps(network.scales, sort_keys=True).encode())
    return digest.hexdigest()


def save_state(path, module, optimizer, state, about):
    """Write a state to a ``.safetensors`` file, in one step.

    Parameters
    ----------
    path : str or Path
    module : TrainedNetwork
    optimizer : torch.optim.AdamW
        Of the module's parameters.
    state : TrainingState
    about : dict
        Plain data that must be the same when training goes on.

    Raises
    ------
    ModelError
        If the file cannot be written.
    """
    tensors, steps = {}, {}
    for name, parameter in module.named_parameters():
        tensors[f"now|{name}"] = _numpy(parameter)
        if name in state.best:
            tensors[f"best|{name}"] = _numpy(state.best[name])
        moments = optimizer.state.get(parameter)
        if moments:
            steps[name] = int(moments["step"])
            tensors |= {f"{what}|{name}": _numpy(moments[what]) for what in _MOMENTS}
    text = json.dumps({"version": _VERSION, "about": about, "history": state.history,
                       "steps": steps, "frozen": module.frozen,
                       "gauges": {name: gauge.state for name, gauge in module.gauges.items()}})
    write_tensors(path, tensors, {_KEY: text})


def load_state(path, module, optimizer, about):
    """Read a file of `save_state` into a module and its optimizer.

    Parameters
    ----------
    path, module, optimizer, about
        As of `save_state`.

    Returns
    -------
    TrainingState

    Raises
    ------
    ModelError
        If the file is damaged, or of a training of another network, of other images or with other
        settings.
    """
    tensors, metadata = read_tensors(path)
    try:
        header = parse_json(metadata[_KEY])
        if header["version"] != _VERSION:
            raise ValueError(f"its version must be {_VERSION}")
        _check_about(path, header["about"], about)
        _fill(module, optimizer, tensors, header)
        state = TrainingState()
        state.history = [_record(entry, about) for entry in header["history"]]
        state.epoch = len(state.history) - 1
        if not state.history or [record["epoch"] for record in state.history] != list(
                range(state.epoch + 1)):
            raise ValueError("its history must be of epochs in order, from 0 on")
        state.best = {name: torch.from_numpy(_like(tensors[f"best|{name}"], parameter))
                      for name, parameter in module.named_parameters()}
    except ModelError:
        raise
    except KeyError as error:
        raise ModelError(f"checkpoint {str(path)!r} must be a complete one of `systola finetune`: "
                         f"{shown(str(error.args[0]))} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"checkpoint {str(path)!r} must be a complete one of `systola finetune`: "
                         f"{' '.join(str(error).split())[:120]}") from None
    return state


def _record(entry, about):
    """Return an epoch's record from JSON, which holds nothing but numbers."""
    if not all(type(value) in (int, float) and isfinite(value) for value in entry.values()) or (
            type(entry["epoch"]) is not int):
        raise ValueError("its history must hold numbers")
    held_back = {"validation_top1", "validation_loss"} if about["settings"]["validation"] else set()
    if entry.keys() & {"validation_top1", "validation_loss"} != held_back:
        raise ValueError("its history must be of the images held back, if there are any")
    return entry


def _check_about(path, there, about):
    for name, value in about.items():
        found = there.get(name)
        if found == value:
            continue
        wanted = f"{name} ({value})"
        if isinstance(value, dict) and isinstance(found, dict):
            which = next(key for key in (*value, *found) if key not in value or key not in found
                         or found[key] != value[key])
            wanted, found = f"{name}: {which} {value.get(which)}", found.get(which)
        raise ModelError(f"checkpoint {str(path)!r} must be of the same {wanted}, not "
                         f"{shown(found)}; name another file to start anew")


def _fill(module, optimizer, tensors, header):
    steps, frozen = header["steps"], header["frozen"]
    if type(frozen) is not bool or not all(
            type(value) is int and 1 <= value < 2**31 for value in steps.values()):
        raise ValueError("steps must be counts, and frozen true or false")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(_like(tensors[f"now|{name}"], parameter)))
            if name in steps:
                moments = {what: _like(tensors[f"{what}|{name}"], parameter) for what in _MOMENTS}
                if (moments["exp_avg_sq"] < 0).any():
                    raise ValueError("mean squares of gradients must not be negative")
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(steps[name])),
                    **{what: torch.from_numpy(value).to(parameter.device)
                       for what, value in moments.items()}}
    for name, gauge in module.gauges.items():
        seen, start, running = header["gauges"][name]
        if type(seen) is not int or seen < 0 or not all(
                type(value) in (int, float) and 0 <= value < inf for value in (start, running)):
            raise ValueError("ranges must be counts and magnitudes")
        gauge.state = [seen, float(start), float(running)]
    if frozen:
        module.freeze()


def _like(array, parameter):
    """Return a copy of an array; ``ValueError`` unless a parameter can be it."""
    wanted = _numpy(parameter)
    if array.shape != wanted.shape or array.dtype != wanted.dtype:
        raise ValueError(f"a parameter must be {wanted.dtype} of shape {wanted.shape}, not "
                         f"{array.dtype} of {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("all its numbers must be finite")
    return array.copy()


def _numpy(tensor):
    return tensor.detach().cpu().numpy()
