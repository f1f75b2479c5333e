"""`systola demo`: the whole chain on real digits."""

import json
import time
from pathlib import Path

import click

from systola.cli.console import config_option, emit, json_option, progress

__all__ = ["demo"]


@click.command()
@click.option("-o", "--output", default="build/demo", show_default=True, metavar="DIR",
              help="Folder for everything the demo makes.")
@click.option("--images", type=click.IntRange(min=1, max=64), default=8, show_default=True,
              metavar="N", help="Test images to run on the simulated accelerator.")
@config_option
@json_option
def demo(output, images, config, as_json):
    """Run the whole chain on real digits and draw the result.

    Quantizes the digits model, measures its accuracy, generates the accelerator, runs test images
    on its simulated Verilog, compares every intermediate tensor, synthesizes, and writes
    summary.md, summary.json and demo.png. Ends with exit code 1 on any mismatch.
    """
    chain = _Chain(Path(output), images, config)
    with progress("starting") as update:
        for text, step in chain.steps():
            if not as_json:
                update(0, None, text)
            start = time.perf_counter()
            step(update)
            chain.summary["seconds"][text] = round(time.perf_counter() - start, 1)
    chain.write()
    if as_json:
        emit(chain.summary)
    else:
        click.echo(chain.text())
        click.echo(f"written to {output}: summary.md, summary.json, demo.png, verilog/")
    return 1 if chain.summary["simulate"]["mismatches"] else 0


class _Chain:
    """The steps of the demo, and what they found."""

    def __init__(self, folder, images, config):
        self.folder, self.count, self.config = folder, images, config
        self.summary = {"config": config.to_dict(), "seconds": {}}
        folder.mkdir(parents=True, exist_ok=True)

    def steps(self):
        """Return the steps, each with what it is called."""
        return [("quantizing", self.quantize), ("evaluating", self.evaluate),
                ("generating Verilog", self.generate), ("simulating", self.simulate),
                ("synthesizing", self.synthesize), ("drawing", self.draw)]

    def quantize(self, update):
        from systola.model.data.images import load_data
        from systola.model.evaluation.accuracy import open_float, open_network
        from systola.model.graph.graph_file import save_network

        self.vit = open_float("digits")
        self.model = open_network("digits", **self.config.model_settings)
        save_network(self.model, self.folder / "digits.safetensors")
        self.images, self.labels = load_data("digits", "test")

    def evaluate(self, update):
        from systola.model.evaluation.accuracy import evaluate

        self.summary["evaluate"] = evaluate(self.vit, self.model, self.images, self.labels)

    def generate(self, update):
        from systola.hw.generate import generate

        self.summary["generate"] = generate(self.config, self.folder / "verilog")

    def simulate(self, update):
        from systola.model.data.images import encode
        from systola.sim.runs.simulate import simulate

        self.result = simulate(self.model, self.config,
                               encode(self.model, self.images[:self.count]), progress=update)
        labels = self.labels[:self.count]
        self.predictions = self.result.logits.argmax(axis=1)
        self.summary["simulate"] = {
            **self.result.report(), "labels": labels.tolist(),
            "predictions": self.predictions.tolist(),
            "correct": int((self.predictions == labels).sum())}

    def synthesize(self, update):
        from systola.boards.synthesis.synth import synthesize

        result = synthesize(self.config, progress=lambda text: update(text=f"synthesizing: {text}"))
        self.summary["synth"] = result.to_dict()

    def draw(self, update):
        from systola.model.data.images import float_inputs
        from systola.model.graph.float_forward import float_forward
        from systola.model.graph.nodes import Softmax
        from systola.report.digits_picture import draw_classification

        name, float_attention = self.model.of(Softmax)[-1].name, {}
        float_forward(self.vit, float_inputs(self.vit, self.images[:self.count]),
                      lambda tensor, value: float_attention.setdefault(tensor, value))
        sums = [tensors[name].sum(axis=-1, keepdims=True) for tensors in self.result.tensors]
        draw_classification(
            self.folder / "demo.png", images=self.images[:self.count],
            labels=self.labels[:self.count], predictions=self.predictions,
            accelerator=[tensors[name] / total for tensors, total in
                         zip(self.result.tensors, sums, strict=True)],
            reference=list(float_attention[name]),
            title=f"Digits on the simulated {self.config.rows} x {self.config.cols} accelerator")

    def write(self):
        """Write the summary, the JSON last: where it is, everything is complete."""
        text = json.dumps(self.summary, indent=2, default=lambda value: value.tolist())
        (self.folder / "summary.md").write_text(f"# systola demo\n\n{self.text()}\n")
        part = self.folder / ".summary.json"
        part.write_text(text + "\n")
        part.replace(self.folder / "summary.json")

    def text(self):
        """Return the summary for a reader, as Markdown."""
        run, accuracy = self.summary["simulate"], self.summary["evaluate"]
        size = ", ".join(f"{value:,} {name.upper()}" for name, value in
                         self.summary["synth"]["total"].items())
        rows = [
            ("Top-1, float", f"{accuracy['float_top1']:.4f} of {accuracy['images']} test images"),
            ("Top-1, integers only", f"{accuracy['int_top1']:.4f}"),
            ("Equal predictions", f"{accuracy['agreement']:.4f}"),
            ("Images on the simulated RTL", f"{run['images']}, {run['correct']} correct"),
            ("Tensors compared", (f"{run['tensors_compared']} with "
                                  f"{run['elements_compared']:,} elements")),
            ("Mismatches", f"{run['mismatches']}"),
            ("Array", f"{self.config.rows} x {self.config.cols}"),
            ("Cycles an image", f"{run['cycles']:,} (predicted {run['cycles_predicted']:,})"),
            ("Array utilisation", f"{run['utilisation']:.1%}"),
            ("Size, 7-series", size),
            ("Time", f"{sum(self.summary['seconds'].values()):.0f} s"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join([f"| {'':{width}} | |", f"|{'-' * (width + 2)}|---|",
                          *(f"| {name:{width}} | {value} |" for name, value in rows)])
