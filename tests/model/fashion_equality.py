"""Training on Fashion-MNIST computes what runs: `python tests/model/fashion_equality.py`.

Of every variant of operators, bits and weights, after steps of training: the logits of the module
with gradients, those without, and those that the models of the operators in numpy make of the saved
and reloaded file must be equal, all ten of each image. The images come with the project.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from systola.model.allocation.node_precisions import take_turns
from systola.model.data.images import encode, float_inputs, open_images
from systola.model.evaluation.accuracy import open_float
from systola.model.graph.graph_file import load_network, save_network
from systola.model.graph.integer_forward import forward
from systola.model.quantization.quantize import quantize
from systola.model.training.trained_network import TrainedNetwork

ROOT = Path(__file__).parents[2]
SUBSET = ROOT / "examples/fashion/subset"
BATCH, STEPS = 16, 2
CALIBRATION = 64


def fashion_images(floats):
    """Return all images that come with the project, test images first, and their labels."""
    sets = [open_images(SUBSET, split, graph=floats) for split in ("test", "train")]
    return (np.concatenate([images[:] for images in sets]),
            np.concatenate([images.labels for images in sets]))


def fashion_network(floats, images, **settings):
    """Return the integer network of some settings, as `tests.model.test_real_network` has them."""
    if settings.pop("masked", False):
        from tests.model.test_real_network import with_mask

        floats = with_mask(floats)
    if "allocated" in settings:
        settings["choices"] = take_turns(floats, settings.pop("allocated"))
    return quantize(floats, float_inputs(floats, images[-CALIBRATION:]),
                    **{"method": "minmax", **settings})


def compared(network, images, labels, folder):
    """Return of how many images all logits are equal, and how many logits training has changed."""
    module = TrainedNetwork(network)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    codes = encode(network, images)
    for step in range(STEPS):
        part = slice(-(step + 1) * BATCH - 1, -step * BATCH - 1)
        loss = torch.nn.functional.cross_entropy(
            module({name: value[part] for name, value in codes.items()})[:, 0],
            torch.from_numpy(labels[part]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_network(module.integer(), Path(folder) / "trained.safetensors")
    saved, equal, changed = load_network(Path(folder) / "trained.safetensors"), 0, 0
    scale = np.float32(saved.scales["logits"])
    for start in range(0, len(images), BATCH):
        part = {name: value[start:start + BATCH] for name, value in codes.items()}
        with_gradients = module(part).detach().numpy()
        with torch.no_grad():
            without = module(part).numpy()
        exact = forward(saved, part, keep=["logits"])["logits"]
        wanted = exact.astype(np.float32) * scale
        equal += int(((with_gradients == wanted) & (without == wanted)).all(axis=(1, 2)).sum())
        changed += int((exact != forward(network, part, keep=["logits"])["logits"]).sum()
                       if not start else 0)
    return equal, changed


def main():
    from tests.model.test_real_network import VARIANTS, ident

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--only", default="", help="variants whose name has this")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    floats, wrong = open_float("fashion"), 0
    images, labels = (array[:chosen.images] for array in fashion_images(floats))
    for settings in VARIANTS:
        if chosen.only not in ident(settings):
            continue
        start = time.monotonic()
        network = fashion_network(floats, images, **settings)
        with tempfile.TemporaryDirectory() as folder:
            equal, changed = compared(network, images, labels, folder)
        wrong += equal < len(images) or not changed
        name = ", ".join(f"{what} {value}" for what, value in settings.items())
        print(f"{name}: {equal} of {len(images)} images equal in every logit, "
              f"{changed} logits of the first {BATCH} changed by training; "
              f"{time.monotonic() - start:.0f} s", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
