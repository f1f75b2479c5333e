"""`systola demo`: real digits from checkpoint to simulated and synthesized accelerator."""

import json
import time
from pathlib import Path

import click
import numpy as np

from systola.cli.report import config_option, emit, json_option, progress

__all__ = ["demo"]

_SUMMARY = """# systola demo

{images} scans of handwritten digits from the test split, on the simulated Verilog of preset or file
configuration `{rows}` x `{cols}`, {weight_bits}-bit weights and {act_bits}-bit activations.

![digits, predictions, attention](demo.png)

| figure | value |
|---|---|
| top-1, float network | {float_top1:.4f} |
| top-1, integer model | {int_top1:.4f} |
| same prediction in both | {agreement:.4f} |
| tensors compared with the integer model | {tensors_compared} |
| values compared | {elements_compared} |
| values that differ | {mismatches} |
| cycles per image | {cycles} |
| cycles predicted by the compiler | {cycles_predicted} |
| useful multiply-accumulates of the array | {utilisation:.1%} |
| simulated cycles per second | {cycles_per_second:.0f} |
| LUT, FF, CARRY4 | {lut}, {ff}, {carry} |
| DSP48E1, RAMB36 | {dsp}, {bram36} |
| seconds, all steps | {seconds:.0f} |
"""


def _model(config, update):
    from systola.model import evaluate as accuracy
    from systola.model.images import load_data

    fields = ("weight_bits", "act_bits", "attention_bits", "mult_bits", "gelu", "norm_start")
    vit = accuracy.open_float("digits")
    model = accuracy.open_model("digits", progress=update,
                                **{name: getattr(config, name) for name in fields})
    images, labels = load_data("digits", "test")
    return vit, model, images, labels, accuracy.evaluate(vit, model, images, labels,
                                                         progress=update)


def _float_attention(vit, images):
    """Return the float network's attention of the last block, (images, heads, T, T)."""
    from systola.model.evaluate import float_patches
    from systola.model.float_vit import forward

    found = {}

    def hook(name, array):
        if name.endswith(".attention"):
            found["last"] = np.array(array)

    forward(vit, float_patches(vit, images), hook)
    return found["last"]


def _picture(path, vit, config, images, labels, result):
    from systola.cli.picture import draw_classification

    predicted = result.logits.argmax(axis=1)
    attention = [[value for name, value in tensors.items() if name.endswith(".attention")][-1]
                 for tensors in result.tensors]
    right = int(np.sum(predicted == labels))
    draw_classification(
        path, images=images, labels=labels, predictions=predicted,
        accelerator=[codes / 2.0 ** (config.attention_bits - 1) for codes in attention],
        reference=_float_attention(vit, images),
        title=f"{len(images)} test scans on the simulated accelerator, {config.rows} x "
              f"{config.cols} array: {right} of {len(images)} right, {result.mismatches} of "
              f"{result.elements_compared:,} stored values differ from the integer model")


@click.command()
@click.option("-o", "--output", default="build/demo", show_default=True, metavar="DIR",
              help="Folder for the results.")
@click.option("--images", "count", default=8, show_default=True, metavar="N",
              type=click.IntRange(1, 64), help="Test images to simulate.")
@config_option
@json_option
def demo(output, count, config, as_json):
    """Run the whole chain on real digits: quantize, generate, simulate, synthesize, draw.

    Writes the integer model, the Verilog, demo.png, summary.md and summary.json. Ends with exit
    code 1 if the simulated accelerator differs from the integer model in any stored value.
    """
    from systola.boards.synth import synthesize
    from systola.hw.generate import generate
    from systola.model.files import save_model
    from systola.model.images import encode
    from systola.sim.simulate import simulate

    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"output {output!r} must be a folder, not a file")
    start = time.perf_counter()
    with progress("quantizing") as update:
        vit, model, images, labels, accuracy = _model(config, update)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, folder / "digits.safetensors")
        update(0, None, "generating Verilog")
        manifest = generate(config, folder / "verilog")
        images, labels = images[:count], labels[:count]
        result = simulate(model, config, encode(model, images), progress=update)
        update(0, None, "drawing")
        _picture(folder / "demo.png", vit, config, images, labels, result)
        update(0, None, "synthesizing (minutes)")
        size = synthesize(config, progress=lambda text: update(text=f"synthesizing: {text}"))
    report = {**result.report(), "accuracy": accuracy, "config": config.to_dict(),
              "config_hash": manifest["config_hash"], "predictions": result.logits.argmax(axis=1),
              "labels": labels, "synthesis": size.to_dict(),
              "total_seconds": time.perf_counter() - start}
    text = json.dumps(report, indent=2, default=lambda value: value.tolist())
    (folder / "summary.json").write_text(text + "\n")
    summary = _SUMMARY.format(**{**config.to_dict(), **result.report(), **accuracy,
                                 **size.to_dict()["total"], "images": count,
                                 "seconds": report["total_seconds"]})
    (folder / "summary.md").write_text(summary)
    if as_json:
        emit(report)
    else:
        click.echo(summary)
        click.echo(f"Written to {folder}: demo.png, summary.md, summary.json, verilog/")
    return 1 if result.mismatches else 0
