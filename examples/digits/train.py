"""Train the digits example: a small Vision Transformer on scikit-learn's 8x8 scans.

Run from the source tree after ``pip install -e ".[train]"``: ``python examples/digits/train.py``.
It takes about ten minutes on one core and writes ``digits.safetensors`` beside this file. The test
split is read once, after the last epoch, to print the accuracy; everything else, the choice of the
settings below included, used the training images only (`--validate` trains on four fifths of them
and reports on the rest).
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from systola.model.data.digits import load_images, split_indices

CHANNELS, HEADS, BLOCKS, HIDDEN, PATCH, SIDE, CLASSES = 64, 4, 4, 256, 2, 8, 10
MEAN = STD = 0.5
EPS = 1e-6
GELU_LIMIT = 4.0
"""Exact ShiftGELU loses accuracy for token rows with an input above about 6.5 (I-ViT): inputs above
this limit are penalised in training."""


class Attention(nn.Module):
    """Multi-head self-attention with one qkv layer."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.proj = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        count, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(count, tokens, CHANNELS))


class Mlp(nn.Module):
    """Two linear layers around GELU; keeps the excess of the GELU inputs for the penalty."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(CHANNELS, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, CHANNELS)

    def forward(self, x):
        x = self.fc1(x)
        self.excess = F.relu(x - GELU_LIMIT).square().mean()
        return self.fc2(F.gelu(x))


class Block(nn.Module):
    """Pre-norm encoder block with stochastic depth."""

    def __init__(self, drop):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(CHANNELS, eps=EPS) for _ in range(2))
        self.attn, self.mlp, self.drop = Attention(), Mlp(), drop

    def skip(self, y):
        if not self.training or not self.drop:
            return y
        keep = 1 - self.drop
        return y * (torch.rand(len(y), 1, 1) < keep) / keep

    def forward(self, x):
        x = x + self.skip(self.attn(self.norm1(x)))
        return x + self.skip(self.mlp(self.norm2(x)))


class Vit(nn.Module):
    """Vision Transformer with the parameter names of timm and DeiT."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, CHANNELS, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.randn(1, 1, CHANNELS) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, CHANNELS) * 0.02)
        self.blocks = nn.ModuleList(Block(0.1 * i / (BLOCKS - 1)) for i in range(BLOCKS))
        self.norm = nn.LayerNorm(CHANNELS, eps=EPS)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, images):
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def augment(images, generator):
    """Rotate, scale, shear and shift each (1, 8, 8) scan a little, change contrast, add noise."""
    count = len(images)
    draw = torch.rand(6, count, generator=generator) * 2 - 1
    angle, scale, shear = draw[0] * 0.22, 1 + 0.12 * draw[1], 0.15 * draw[2]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack([torch.stack([cos, -sin + shear, draw[3] * 0.22], dim=1),
                         torch.stack([sin, cos, draw[4] * 0.22], dim=1)], dim=1)
    grid = F.affine_grid(theta, (count, 1, SIDE, SIDE), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False) * (1 + 0.1 * draw[5, :, None, None,
                                                                            None])
    noise = 0.03 * torch.randn(images.shape, generator=generator)
    return (moved + noise).clamp(0, 1)


def normalise(images):
    """Return 0..1 images as the network's input, -1..1."""
    return (images - MEAN) / STD


def train(model, images, labels, *, epochs, batch=64, rate=1.5e-3, seed=0):
    """Train with AdamW, warm-up and cosine decay, and label smoothing."""
    generator = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05},
                                   {"params": plain, "weight_decay": 0.0}], lr=rate)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(
        (step + 1) / (0.05 * steps), 0.5 * (1 + math.cos(math.pi * step / steps))))
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for index in torch.randperm(len(images), generator=generator).split(batch):
            if len(index) < batch:
                continue
            logits = model(normalise(augment(images[index], generator)))
            excess = sum(block.mlp.excess for block in model.blocks)
            loss = F.cross_entropy(logits, labels[index], label_smoothing=0.1) + excess
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}/{epochs}: loss {total * batch / len(images):.3f}", flush=True)


@torch.no_grad()
def report(name, model, images, labels):
    """Print the top-1 accuracy and the largest GELU input over `images`."""
    model.eval()
    peak = []
    hooks = [block.mlp.fc1.register_forward_hook(lambda *call: peak.append(call[2].max().item()))
             for block in model.blocks]
    right = (model(normalise(images)).argmax(1) == labels).float().mean().item()
    for hook in hooks:
        hook.remove()
    print(f"{name}: top-1 {right:.4f} of {len(images)}, largest GELU input {max(peak):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate", action="store_true",
                        help="train on 4/5 of the training images, report on the rest")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    images, labels = (torch.from_numpy(array) for array in load_images("train"))
    images, held = images[:, None], "train"
    model = Vit()
    if args.validate:
        part = {name: split_indices(labels.numpy(), name, salt="validation")
                for name in ("train", "test")}
        train(model, images[part["train"]], labels[part["train"]],
              epochs=args.epochs, seed=args.seed)
        report("validation", model, images[part["test"]], labels[part["test"]])
        return
    train(model, images, labels, epochs=args.epochs, seed=args.seed)
    report(held, model, images, labels)
    test = [torch.from_numpy(array) for array in load_images("test")]
    report("test", model, test[0][:, None], test[1])
    save_file({name: value.contiguous() for name, value in model.state_dict().items()},
              Path(__file__).with_name("digits.safetensors"),
              metadata={"format": "pt", "heads": str(HEADS), "image_size": str(SIDE),
                        "mean": str(MEAN), "std": str(STD), "eps": str(EPS),
                        "source": "examples/digits/train.py", "seed": str(args.seed),
                        "numpy": np.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
