"""Training of an integer network on images: what is trained is what runs."""

import dataclasses
import time
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from systola.files.tensors import ModelError
from systola.model.training.trained_network import TrainedNetwork
from systola.model.training.training_settings import TrainingSettings
from systola.model.training.training_state import (
    TrainingState,
    identity,
    load_state,
    save_state,
)

__all__ = ["FineTuned", "check_device", "finetune"]

_PART = 512
_MOST_BYTES = 2**31
"""Most bytes of input codes that are kept in memory; more are made anew for every batch."""


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """What training has made.

    Parameters
    ----------
    network : Graph
        The integer network; its ``meta`` says under ``training`` how it came about.
    history : list of dict
        A record of every epoch: ``epoch``, ``seconds``; of the training images, as they went by,
        ``loss`` and ``top1``; of those held back ``validation_loss`` and ``validation_top1``. Epoch
        0 is the network that training started from.
    epoch : int
        That of `network`.
    """

    network: object
    history: list
    epoch: int


def finetune(network, inputs, labels, settings=None, *, teacher=None, views=None, checkpoint=None,
             engine="auto", threads=None, device=None, progress=None, report=None):
    """Train an integer network, and return the best one that training came by.

    Parameters
    ----------
    network : Graph
        The integer network, of one row of logits.
    inputs : dict of str to int array or MappedRows
        Codes of the training images, (B, rows, channels) by name of the input.
    labels : int array (B,)
        Their classes.
    settings : TrainingSettings, optional
        Defaults are the publication's.
    teacher : array (B, classes), optional
        Logits of the float network for the same images; needed for distillation. With `views`,
        only those of images held back are read.
    views : callable, optional
        What images to train on are in an epoch, if settings have them mirrored or moved:
        ``views(epoch, indices)`` returns their codes, as `inputs`, and the float network's logits
        for them, or None without distillation.
    checkpoint : str or Path, optional
        File (``.safetensors``) that training goes on from if it exists, and that is written after
        every epoch.
    engine, threads
        As of `systola.model.kernel.engine.forward`; no result depends on them.
    device : str, optional
        Where PyTorch computes gradients; by default a GPU if it has one.
    progress : callable, optional
        Called as ``progress(steps done, steps in total)``.
    report : callable, optional
        Called with the record of every epoch.

    Returns
    -------
    FineTuned

    Raises
    ------
    ModelError
        If images, labels and network do not fit together, a checkpoint is of another training, or
        the loss is not finite any more.
    """
    settings = settings or TrainingSettings()
    training = _Training(network, inputs, labels, settings, teacher, views, engine, threads,
                         device)
    return training.run(checkpoint, progress, report)


def check_device(name):
    """Return the device that PyTorch calls so, or by default a GPU if it has one.

    Raises
    ------
    ModelError
        If there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(f"device must be one that PyTorch has and that knows float64 (cpu, cuda), "
                         f"not {name!r}: {str(error).splitlines()[0][:80]}") from None
    return device


class _Training:
    """The module, the optimizer, and the images."""

    def __init__(self, network, inputs, labels, settings, teacher, views, engine, threads, device):
        self.network, self.settings, self.views = network, settings, views
        if (settings.mirror or settings.shift > 0) != (views is not None):
            raise ModelError("views must be given where settings mirror or shift images, and only "
                             "there: codes alone are not images")
        self.labels = _checked_labels(network, labels)
        count = len(self.labels)
        for name, codes in inputs.items():
            if len(codes) != count:
                raise ModelError(f"input {name!r} must be of {count} images as the labels, not "
                                 f"{len(codes)}")
        self.teacher = _checked_teacher(teacher, settings, count, network)
        self.train, self.held_back = _split(count, settings.validation)
        self.inputs = {name: _held(codes, network.by_name[name].bits)
                       for name, codes in inputs.items()}
        self.device = check_device(device)
        self.module = TrainedNetwork(network, scales=settings.scales, engine=engine,
                                     threads=threads).to(self.device)
        kinds = self.module.kinds()
        groups = [{"params": kinds["matrices"], "weight_decay": settings.decay, "share": 1.0},
                  {"params": kinds["vectors"], "share": 1.0},
                  {"params": kinds["scales"], "share": settings.scale_rate}]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]],
                                           lr=settings.rate, weight_decay=0.0)
        self.batches = -(-len(self.train) // settings.batch)
        self.state = TrainingState()

    def run(self, checkpoint, progress, report):
        """Train to the end, and return `FineTuned`."""
        about = {"network": identity(self.network), "images": len(self.labels),
                 "settings": dataclasses.asdict(self.settings)}
        if checkpoint is not None and Path(checkpoint).exists():
            self.state = load_state(checkpoint, self.module, self.optimizer, about)
        if not self.state.history:
            self._record(self._start(), report)
        while self.state.epoch < self.settings.epochs and not self._is_enough():
            record = self._epoch(progress)
            self.state.epoch += 1
            self._record({"epoch": self.state.epoch, **record}, report)
            if checkpoint is not None:
                save_state(checkpoint, self.module, self.optimizer, self.state, about)
        return self._result()

    def _start(self):
        """Return the record of the network before the first step."""
        return {"epoch": 0, "seconds": 0.0, **self._validated()}

    def _record(self, record, report):
        """Take in an epoch's record, and keep its parameters if it is the best."""
        self.state.history.append(record)
        if self._best() == record["epoch"]:
            self.state.best = {name: parameter.detach().cpu().clone()
                               for name, parameter in self.module.named_parameters()}
        if report:
            report(record)

    def _best(self):
        """Return the best epoch: by the images held back, or without such the last."""
        history = self.state.history
        if not len(self.held_back):
            return history[-1]["epoch"]
        return max(history, key=lambda record: (
            record["validation_top1"], -record["validation_loss"]))["epoch"]

    def _is_enough(self):
        patience = self.settings.patience
        return patience is not None and self.state.epoch - self._best() >= patience

    def _result(self):
        best = self._best()
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(self.state.best[name])
        made = self.module.integer()
        about = {**dataclasses.asdict(self.settings), "images": len(self.train),
                 "held_back": len(self.held_back), "epoch": best,
                 "epochs_done": self.state.epoch}
        return FineTuned(network=dataclasses.replace(made, meta={**made.meta, "training": about}),
                         history=self.state.history, epoch=best)

    # --- Steps ---

    def _epoch(self, progress):
        """Train on every image once, and return the record."""
        settings, epoch, start = self.settings, self.state.epoch, time.monotonic()
        if settings.freeze is not None and epoch >= settings.freeze:
            self.module.freeze()
        order = self.train[np.random.default_rng([settings.seed, epoch]).permutation(
            len(self.train))]
        self.module.train()
        loss, right = 0.0, 0
        for batch in range(self.batches):
            chosen = order[batch * settings.batch:(batch + 1) * settings.batch]
            step = epoch * self.batches + batch
            self._set_rate(step)
            part, hits = self._step(chosen)
            loss, right = loss + part * len(chosen), right + hits
            if progress:
                progress(step + 1, settings.epochs * self.batches)
        return {"loss": loss / len(order), "top1": right / len(order),
                "seconds": round(time.monotonic() - start, 1), **self._validated()}

    def _set_rate(self, step):
        """Set the rates of a step: half a cosine from the first to the least."""
        settings = self.settings
        way = step / max(settings.epochs * self.batches - 1, 1)
        rate = settings.least_rate + (settings.rate - settings.least_rate) * (
            1 + cos(pi * way)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]

    def _step(self, chosen):
        """Train on some images; return the loss, and how many predictions are right."""
        codes, wanted = self._viewed(chosen)
        logits = self.module(codes)[:, 0]
        loss = self._loss(logits, chosen, wanted)
        if not torch.isfinite(loss):
            raise ModelError(f"loss must stay finite, not {loss.item()} in epoch "
                             f"{self.state.epoch + 1}; a smaller rate keeps it so")
        self.optimizer.zero_grad()
        loss.backward()
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        self.optimizer.step()
        return loss.item(), int(np.sum(_predicted(logits) == self.labels[chosen]))

    def _viewed(self, chosen):
        """Return codes of images to train on, and the float network's logits, or None."""
        if self.views is None:
            return self._codes(chosen), self._wanted(chosen)
        return self.views(self.state.epoch, chosen)

    def _wanted(self, chosen):
        return None if self.teacher is None else self.teacher[chosen]

    def _loss(self, logits, chosen, wanted):
        """Return what labels and the float network's logits say of logits (B, classes)."""
        settings = self.settings
        truth = torch.from_numpy(self.labels[chosen]).to(self.device)
        loss = (1 - settings.distill) * functional.cross_entropy(
            logits, truth, label_smoothing=settings.smoothing)
        if settings.distill:
            heat = settings.temperature
            wanted = torch.from_numpy(wanted).to(self.device)
            loss = loss + settings.distill * heat**2 * functional.kl_div(
                functional.log_softmax(logits / heat, dim=1),
                functional.log_softmax(wanted / heat, dim=1), reduction="batchmean",
                log_target=True)
        return loss

    @torch.no_grad()
    def _validated(self):
        """Return loss and accuracy on the images held back, if there are any."""
        if not len(self.held_back):
            return {}
        self.module.eval()
        loss, right = 0.0, 0
        for start in range(0, len(self.held_back), self.settings.batch):
            chosen = self.held_back[start:start + self.settings.batch]
            logits = self.module(self._codes(chosen))[:, 0]
            loss += float(self._loss(logits, chosen, self._wanted(chosen))) * len(chosen)
            right += int(np.sum(_predicted(logits) == self.labels[chosen]))
        return {"validation_loss": loss / len(self.held_back),
                "validation_top1": right / len(self.held_back)}

    def _codes(self, chosen):
        return {name: np.asarray(codes[chosen]) for name, codes in self.inputs.items()}


def _predicted(logits):
    """Return the classes of logits, int array: of equal ones the first, as everywhere."""
    return logits.detach().cpu().numpy().argmax(axis=1)


def _checked_labels(network, labels):
    """Return labels as int64; `ModelError` unless they are classes of a network's logits."""
    rows, classes = network.tensors[network.outputs[0]].shape[-2:]
    if rows != 1 or len(network.outputs) != 1:
        raise ModelError(f"network must have one row of logits to be trained by labels, not "
                         f"{rows} rows of {classes} ({', '.join(network.outputs)})")
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) < 2:
        raise ModelError(f"labels must be integers of at least 2 images, not {labels.dtype} of "
                         f"shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ModelError(f"labels must be from 0 to {classes - 1}, the classes of the network, not "
                         f"{int(labels.min())} to {int(labels.max())}")
    return labels.astype(np.int64)


def _checked_teacher(teacher, settings, count, network):
    """Return logits to learn from, float32, or None where nothing is learnt from them."""
    if not settings.distill:
        return None
    wanted = count, network.tensors[network.outputs[0]].channels
    if teacher is None or np.shape(teacher) != wanted:
        there = "none" if teacher is None else f"of shape {np.shape(teacher)}"
        raise ModelError(f"teacher must be logits of shape {wanted} for a distill of "
                         f"{settings.distill:g}, not {there}; a distill of 0 needs none")
    return np.asarray(teacher, np.float32)


def _split(count, share):
    """Return the indices of images to train on, and of those held back, evenly spaced."""
    held = np.zeros(count, bool)
    number = min(max(round(count * share), 1), count - 1) if share else 0
    held[((np.arange(number) + 0.5) * count / max(number, 1)).astype(int)] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _held(codes, bits):
    """Return codes in memory in the fewest bytes there are, or as they are if they are too many."""
    dtype = np.int8 if bits <= 8 else np.int16
    first = np.asarray(codes[:1])
    if len(codes) * first.size * np.dtype(dtype).itemsize > _MOST_BYTES:
        return codes
    held = np.empty((len(codes), *first.shape[1:]), dtype)
    for start in range(0, len(codes), _PART):
        held[start:start + _PART] = codes[start:start + _PART]
    return held
