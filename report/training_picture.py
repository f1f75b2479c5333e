"""Picture of trainings: accuracy over epochs, from what `systola finetune --json` printed."""

from itertools import pairwise
from pathlib import Path

from systola.files.bounded import parse_json, read_file, shown
from systola.files.tensors import ModelError
from systola.report.diagram import INK, MUTED, Line, Text, save

__all__ = ["MARK", "draw_training", "read_training", "training_shapes"]

MARK = 3.4
"""Side of the square that marks an epoch."""

_CURVES = (("validation_top1", "#1a7f4b", "images held back, after the epoch"),
           ("top1", "#2684c9", "training images, as they went by"))
"""Entries of an epoch's record, their colours, and what they are called."""

_WIDTH, _HEIGHT, _LEFT, _TOP, _BELOW, _RIGHT = 250, 150, 44, 34, 52, 14
_STEPS = 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2
_MOST_LINES = 6
_MOST_BYTES = 2**24
_MOST_EPOCHS = 2**12


def read_training(path):
    """Return the history of a training from a file that `systola finetune --json` printed.

    Raises
    ------
    ModelError
        If it is another file.
    """
    wanted = f"record {str(path)!r} must be what `systola finetune --json` printed"
    try:
        content = parse_json(read_file(path, _MOST_BYTES))
    except OSError as error:
        raise ModelError(f"{wanted}: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{wanted}: {error}") from None
    history = content.get("history") if isinstance(content, dict) else None
    if not isinstance(history, list) or not 1 < len(history) <= _MOST_EPOCHS:
        raise ModelError(f"{wanted}, with a history of 1 to {_MOST_EPOCHS - 1} epochs")
    for epoch, record in enumerate(history):
        shares = [record.get(name, 0) for name, _, _ in _CURVES] if isinstance(
            record, dict) else [None]
        if not all(type(share) in (int, float) and 0 <= share <= 1 for share in shares) or (
                record.get("epoch") != epoch):
            raise ModelError(f"{wanted}, with accuracies from 0 to 1 of every epoch, not "
                             f"{shown(record)}")
    return history


def training_shapes(trainings):
    """Return the shapes of a picture, and its size.

    Parameters
    ----------
    trainings : dict of str to list of dict
        Histories by title, one panel each.
    """
    shapes, panel = [], _LEFT + _WIDTH + _RIGHT
    size = panel * len(trainings), _TOP + _HEIGHT + _BELOW
    for place, (title, history) in enumerate(trainings.items()):
        shapes += _panel(panel * place + _LEFT, title, history)
    x, y = _LEFT, size[1] - 12
    for _, color, name in _CURVES:
        shapes += [Line(points=((x, y), (x + 18, y)), color=color, line=1.6, head=False),
                   Text(x=x + 24, y=y, text=name, align="left")]
        x += 40 + 4.2 * len(name)
    return shapes, size


def draw_training(trainings, path):
    """Write the picture to an ``.svg`` or ``.png`` file."""
    save(*training_shapes(trainings), Path(path))


def _panel(left, title, history):
    """Yield the shapes of one training; the frame's left edge is at `left`."""
    bottom, last = _TOP + _HEIGHT, len(history) - 1
    seen = [record[name] for record in history for name, _, _ in _CURVES if name in record]
    low, high = min(seen, default=0), max(seen, default=1)
    step = next((step for step in _STEPS if (high - low) / step <= _MOST_LINES - 1), _STEPS[-1])
    first, end = int(low / step), int(-(-high // step))
    end = max(end, first + 1)

    def point(epoch, share):
        return (round(left + _WIDTH * epoch / last, 2),
                round(bottom - _HEIGHT * (share / step - first) / (end - first), 2))

    yield Text(x=left, y=_TOP - 16, text=title, size=9, bold=True, align="left")
    for line in range(first, end + 1):
        _, y = point(0, line * step)
        yield Line(points=((left, y), (left + _WIDTH, y)), color="#e3e7ed", line=0.7, head=False,
                   layer=1)
        yield Text(x=left - 5, y=y, text=f"{line * step:.3f}".removesuffix("0"), color=MUTED,
                   align="right")
    for epoch in range(0, last + 1, -(-last // 12)):
        yield Text(x=point(epoch, 0)[0], y=bottom + 11, text=str(epoch), color=MUTED)
    yield Text(x=left + _WIDTH / 2, y=bottom + 23, text="epochs; 0 is post-training quantization",
               color=INK)
    for name, color, _ in _CURVES:
        points = [point(record["epoch"], record[name]) for record in history if name in record]
        for ends in pairwise(points):
            yield Line(points=ends, color=color, line=1.4, head=False, layer=3)
        for x, y in points:
            yield Line(points=((x - MARK / 2, y), (x + MARK / 2, y)), color=color, line=MARK,
                       head=False, layer=4)
