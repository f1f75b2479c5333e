"""Train the fashion example: a Vision Transformer on Fashion-MNIST's 28x28 photographs.

Run from the source tree after ``pip install -e ".[train]"``: ``python examples/fashion/train.py``,
with the IDX files of Fashion-MNIST where Debian's package ``dataset-fashion-mnist`` puts them, or
with ``--data FOLDER``. It takes about an hour on two cores and writes ``model.safetensors``,
``config.json`` and ``preprocessor_config.json`` beside this file, in the layout and with the names
of Hugging Face's ``ViTForImageClassification``, and the first images of both splits into
``subset``. The test images are read once, after the last epoch, to print the accuracy;
`--validate` holds back a sixth of the training images instead and reports on those.
"""

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

CHANNELS, HEADS, BLOCKS, HIDDEN, PATCH, SIDE = 96, 3, 6, 384, 4, 28
MEAN, STD = 0.2860, 0.3530
EPS = 1e-6
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
           "Bag", "Ankle boot")
DATA = Path("/usr/share/datasets/fashion-mnist")
SUBSET = {"train": 512, "t10k": 500}
"""Images of each split that come with the project."""


def read_idx(path):
    """Return the array of a gzipped IDX file of bytes."""
    raw = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(raw, ">u4", raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes).copy()


def load(folder, name):
    """Return the images of a split, float32 (B, 1, 28, 28) in 0..1, and its labels."""
    images, labels = (read_idx(folder / f"{name}-{part}-ubyte.gz")
                      for part in ("images-idx3", "labels-idx1"))
    return torch.from_numpy(images)[:, None].float() / 255, torch.from_numpy(labels).long()


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of Hugging Face."""

    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(CHANNELS, CHANNELS)
                                        for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(CHANNELS, CHANNELS)})

    def forward(self, x):
        count, tokens, _ = x.shape
        q, k, v = (layer(x).reshape(count, tokens, HEADS, -1).transpose(1, 2)
                   for layer in self.attention.values())
        y = F.scaled_dot_product_attention(q, k, v)
        return self.output["dense"](y.transpose(1, 2).reshape(count, tokens, CHANNELS))


class Layer(nn.Module):
    """Pre-norm encoder block with stochastic depth."""

    def __init__(self, drop):
        super().__init__()
        self.attention = Attention()
        self.layernorm_before = nn.LayerNorm(CHANNELS, eps=EPS)
        self.layernorm_after = nn.LayerNorm(CHANNELS, eps=EPS)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(CHANNELS, HIDDEN)})
        self.output = nn.ModuleDict({"dense": nn.Linear(HIDDEN, CHANNELS)})
        self.drop = drop

    def skip(self, y):
        if not self.training or not self.drop:
            return y
        return y * (torch.rand(len(y), 1, 1) >= self.drop) / (1 - self.drop)

    def forward(self, x):
        x = x + self.skip(self.attention(self.layernorm_before(x)))
        hidden = F.gelu(self.intermediate["dense"](self.layernorm_after(x)))
        return x + self.skip(self.output["dense"](hidden))


class Embeddings(nn.Module):
    """Patches, a class token and positions."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, CHANNELS) * 0.02)
        self.position_embeddings = nn.Parameter(
            torch.randn(1, (SIDE // PATCH) ** 2 + 1, CHANNELS) * 0.02)
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(1, CHANNELS, PATCH, PATCH)})

    def forward(self, images):
        x = self.patch_embeddings["projection"](images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.position_embeddings


class Encoder(nn.Module):
    """Embeddings, blocks and the last norm."""

    def __init__(self, drop):
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(
            Layer(drop * i / (BLOCKS - 1)) for i in range(BLOCKS))})
        self.layernorm = nn.LayerNorm(CHANNELS, eps=EPS)

    def forward(self, images):
        x = self.embeddings(images)
        for layer in self.encoder["layer"]:
            x = layer(x)
        return self.layernorm(x)


class Vit(nn.Module):
    """Vision Transformer with the parameter names of `ViTForImageClassification`."""

    def __init__(self, drop=0.05):
        super().__init__()
        self.vit = Encoder(drop)
        self.classifier = nn.Linear(CHANNELS, len(CLASSES))

    def forward(self, images):
        return self.classifier(self.vit((images - MEAN) / STD)[:, 0])


def augment(images, generator):
    """Mirror half of the images, and move each by up to two pixels."""
    count = len(images)
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    dy, dx = torch.randint(5, (2, count, 1), generator=generator)
    rows, columns = torch.arange(SIDE) + dy, torch.arange(SIDE) + dx
    padded = F.pad(images, (2, 2, 2, 2))[:, 0]
    image = torch.arange(count)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]][:, None]


def optimizers(model, rate, decay):
    """Return Muon for the matrices of the blocks and AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer." in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    adam = [{"params": [p for p in others if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0}]
    return (torch.optim.Muon(matrices, lr=rate, weight_decay=decay,
                             adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(adam, lr=rate))


def train(model, images, labels, *, epochs, keep=None, batch=128, rate=2e-3, decay=0.05, seed=0):
    """Train with warm-up, cosine decay and label smoothing; `keep` continues an earlier run."""
    generator = torch.Generator().manual_seed(seed)
    both = optimizers(model, rate, decay)
    per_epoch = len(images) // batch
    steps, first = epochs * per_epoch, 0
    if keep and keep.exists():
        state = torch.load(keep, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(both, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        generator.set_state(state["generator"])
        first = state["epochs"]
    for epoch in range(first, epochs):
        model.train()
        total, start = 0.0, time.time()
        order = torch.randperm(len(images), generator=generator)[:per_epoch * batch]
        for step, index in enumerate(order.split(batch), epoch * per_epoch):
            loss = F.cross_entropy(model(augment(images[index], generator)), labels[index],
                                   label_smoothing=0.1)
            for optimizer in both:
                for group in optimizer.param_groups:
                    group["lr"] = rate * min((step + 1) / (0.05 * steps),
                                             0.5 * (1 + math.cos(math.pi * step / steps)))
                optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in both:
                optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / per_epoch:.4f}, "
              f"{time.time() - start:.0f} s", flush=True)
        if keep:
            torch.save({"model": model.state_dict(), "epochs": epoch + 1,
                        "optimizers": [optimizer.state_dict() for optimizer in both],
                        "generator": generator.get_state()}, keep)


@torch.no_grad()
def report(name, model, images, labels):
    """Print the top-1 accuracy over `images`."""
    model.eval()
    right = sum((model(part).argmax(1) == truth).sum().item()
                for part, truth in zip(images.split(500), labels.split(500), strict=True))
    print(f"{name}: top-1 {right / len(images):.4f} of {len(images)}", flush=True)


def save(model, folder, facts):
    """Write checkpoint and configurations as on a model hub; the weights as float16."""
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()},
              folder / "model.safetensors", metadata={"format": "pt", **facts})
    names = dict(enumerate(CLASSES))
    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit",
              "hidden_size": CHANNELS, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS,
              "intermediate_size": HIDDEN, "hidden_act": "gelu", "layer_norm_eps": EPS,
              "image_size": SIDE, "patch_size": PATCH, "num_channels": 1, "qkv_bias": True,
              "id2label": names, "label2id": {name: index for index, name in names.items()}}
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": True,
                 "size": {"height": SIDE, "width": SIDE}, "resample": 2, "do_rescale": True,
                 "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [MEAN],
                 "image_std": [STD]}
    for name, data in (("config.json", config), ("preprocessor_config.json", processor)):
        (folder / name).write_text(json.dumps(data, indent=2) + "\n")


def save_subset(data, folder):
    """Write the first images of both splits as IDX files of the same names."""
    folder.mkdir(exist_ok=True)
    for split, count in SUBSET.items():
        for part in "images-idx3", "labels-idx1":
            name = f"{split}-{part}-ubyte.gz"
            values = read_idx(data / name)[:count]
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (folder / name).write_bytes(gzip.compress(header + values.tobytes(), 9, mtime=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the four IDX files")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="file that an interrupted run continues from")
    parser.add_argument("--validate", action="store_true",
                        help="train on 5/6 of the training images, report on the rest")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    images, labels = load(args.data, "train")
    model = Vit()
    if args.validate:
        train(model, images[:50000], labels[:50000], epochs=args.epochs, keep=args.keep,
              seed=args.seed)
        report("validation", model, images[50000:], labels[50000:])
        return
    train(model, images, labels, epochs=args.epochs, keep=args.keep, seed=args.seed)
    report("train", model, images, labels)
    report("test", model, *load(args.data, "t10k"))
    save(model, Path(__file__).parent,
         {"source": "examples/fashion/train.py", "seed": str(args.seed),
          "epochs": str(args.epochs), "torch": torch.__version__})
    save_subset(args.data, Path(__file__).parent / "subset")


if __name__ == "__main__":
    main()
