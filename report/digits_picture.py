"""Pictures of results: digits, predictions and attention maps."""

from pathlib import Path

import matplotlib.figure
import numpy as np

__all__ = ["classification_figure", "draw_classification"]

_INK = "#1f2a44"
_RIGHT, _WRONG = "#1a7f4b", "#b3261e"


def _class_attention(attention):
    """Return the class token's attention to the patches, mean over heads, as a square map."""
    row = np.asarray(attention, dtype=np.float64)[:, 0, 1:].mean(axis=0)
    side = round(len(row) ** 0.5)
    return row.reshape(side, side)


def classification_figure(*, images, labels, predictions, accelerator, reference, title):
    """Return a figure: each scan with its prediction, and where the class token looks.

    Parameters
    ----------
    images : array (n, height, width)
        Scans.
    labels, predictions : sequence of int
        True class and the accelerator's class.
    accelerator, reference : sequence of array (heads, T, T)
        Attention probabilities of one block, from the accelerator and from the float network.
    title : str
        Line above the picture.
    """
    count = len(images)
    figure = matplotlib.figure.Figure(figsize=(1.35 * count + 1.3, 4.9), dpi=150,
                                      layout="constrained")
    figure.suptitle(title, color=_INK, fontsize=11)
    axes = figure.subplots(3, count, squeeze=False)
    for k in range(count):
        maps = [_class_attention(accelerator[k]), _class_attention(reference[k])]
        top = max(float(m.max()) for m in maps)
        axes[0, k].imshow(images[k], cmap="gray_r", interpolation="nearest")
        color = _RIGHT if predictions[k] == labels[k] else _WRONG
        axes[0, k].set_title(f"{predictions[k]}  (true {labels[k]})", color=color, fontsize=9)
        height, width = np.shape(images[k])
        for row, attention in zip((1, 2), maps, strict=True):
            # The scan stays visible below the map, so that one sees what is looked at.
            axes[row, k].imshow(images[k], cmap="gray_r", interpolation="nearest", alpha=0.35,
                                extent=(0, width, height, 0))
            shown = axes[row, k].imshow(attention, cmap="magma", vmin=0, vmax=top, alpha=0.75,
                                        interpolation="nearest", extent=(0, width, height, 0))
        for axis in axes[:, k]:
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_color("#c8ccd4")
    for row, text in enumerate(("scan,\nprediction", "attention,\naccelerator",
                                "attention,\nfloat network")):
        axes[row, 0].set_ylabel(text, color=_INK, fontsize=9)
    bar = figure.colorbar(shown, ax=axes[1:, :], fraction=0.02, pad=0.01, ticks=[0, top])
    bar.ax.set_yticklabels(["0", "max"], fontsize=8)
    return figure


def draw_classification(path, **content):
    """Write the `classification_figure` of `content` as the PNG `path`."""
    classification_figure(**content).savefig(Path(path))
