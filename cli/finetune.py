"""`systola finetune`."""

from pathlib import Path

import click

from systola.cli.console import emit, engine_option, json_option, progress
from systola.cli.model_options import (
    check_output,
    check_source,
    data_option,
    facts_options,
    given_facts,
    model_option,
    say_assumed,
    say_images,
)

__all__ = ["finetune"]

_SETTINGS = (
    click.option("--epochs", type=int, metavar="N", help="Passes over the training images.  [90]"),
    click.option("--batch", type=int, metavar="B", help="Images of a step.  [128]"),
    click.option("--rate", type=float, metavar="R", help="Learning rate of AdamW at the start; "
                 "with few bits 1e-4 and more.  [1e-6]"),
    click.option("--least-rate", type=float, metavar="R", help="At the end, by a half cosine.  "
                 "[5e-7]"),
    click.option("--decay", type=float, metavar="D", help="Weight decay of matrices.  [1e-4]"),
    click.option("--scale-rate", type=float, metavar="F", help="Times the rate, for logarithms of "
                 "scales.  [1]"),
    click.option("--smoothing", type=float, metavar="S", help="Of labels.  [0.1]"),
    click.option("--distill", type=float, metavar="0..1", help="Share of the loss that compares "
                 "with the float network's logits.  [0.5]"),
    click.option("--temperature", type=float, metavar="T", help="Of both in that.  [1]"),
    click.option("--clip", type=float, metavar="C", help="Most that the norm of all gradients may "
                 "be; 0 for no limit.  [1]"),
    click.option("--scales", metavar="learned|tracked|fixed", help="Scales get gradients, follow "
                 "running ranges, or stay.  [learned]"),
    click.option("--freeze", type=int, metavar="N", help="Epochs after which scales stay."),
    click.option("--validation", type=float, metavar="0..0.5", help="Share of the training images "
                 "that is held back to choose the best epoch; 0 keeps the last.  [0.1]"),
    click.option("--patience", type=int, metavar="N", help="Epochs without a better one after "
                 "which training ends."),
    click.option("--mirror", is_flag=True, help="Mirror images left for right, half of them in "
                 "every epoch."),
    click.option("--shift", type=int, metavar="PIXELS", help="Move images by up to so many pixels "
                 "in each direction, anew in every epoch.  [0]"),
    click.option("--seed", type=int, metavar="S", help="Of the order of images, and of what is "
                 "done to them.  [0]"),
)


def _settings_options(command):
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


def _model_file(name, value):
    """Refuse now what would only be refused after the work."""
    path = Path(value)
    if path.suffix != ".safetensors" or not path.absolute().parent.is_dir():
        raise click.UsageError(f"{name} must be a .safetensors file in an existing folder, not "
                               f"{value!r}")
    return value


@click.command()
@model_option
@click.option("--quantized", required=True, metavar="FILE",
              help="Integer model to start from, from `systola quantize`.")
@click.option("-o", "--output", required=True, metavar="FILE",
              callback=lambda ctx, param, value: _model_file("output", value),
              help="Integer model to write (.safetensors).")
@data_option
@click.option("--images", type=click.IntRange(min=2), metavar="N",
              help="At most so many of the training images, evenly spaced.")
@facts_options
@_settings_options
@click.option("--checkpoint", metavar="FILE",
              callback=lambda ctx, param, value: value and _model_file("--checkpoint", value),
              help="Written after every epoch (.safetensors); training goes on from it if it "
                   "exists.")
@click.option("--device", metavar="DEVICE", help="Where PyTorch computes gradients, as it names "
              "them: cpu, cuda.  [a GPU if there is one]")
@engine_option
@json_option
def finetune(source, quantized, output, data, images, checkpoint, device, engine, as_json,
             **options):
    """Train an integer model on labelled images, as what it computes.

    The forward pass is the integer network bit for bit; gradients are those of real arithmetic.
    The float checkpoint of --model, which the integer model was made from, is the teacher. Only
    training images are read: `systola evaluate --model MODEL --quantized FILE` scores the result.

    Needs PyTorch: docs/TRAINING.md.
    """
    from systola.model.evaluation import accuracy
    from systola.model.evaluation.comparison import check_pair, open_reference
    from systola.model.evaluation.training_views import training_views
    from systola.model.graph.graph_file import load_network, save_network
    from systola.model.training.training_settings import TrainingSettings

    facts = given_facts(options)
    settings = TrainingSettings(**{name: value for name, value in options.items()
                                   if value is not None})
    _check_files(source, quantized, output, data, checkpoint)
    from systola.model.training.finetune import check_device  # PyTorch, if all else is right
    from systola.model.training.finetune import finetune as train

    check_device(device)
    with progress("reading images") as update:
        vit, network = open_reference(source, data=data, **facts), load_network(quantized)
        check_pair(vit, network, quantized)
        chosen = _training_images(source, network, data, images)
        codes, teacher = _codes(network, chosen), None
        if settings.distill:
            update(0, len(chosen), "computing the float model's logits")
            teacher = accuracy.float_logits(vit, chosen, progress=update)
        views = training_views(network, vit, chosen, settings)
        update(0, None, "training")
        result = train(network, codes, chosen.labels, settings, teacher=teacher, views=views,
                       checkpoint=checkpoint, engine=engine, device=device, progress=update,
                       report=lambda record: click.echo(_line(record, settings), err=True))
        save_network(result.network, output)
    about = {"file": output, "quantized": quantized, "data": chosen.about(),
             "history": result.history, "training": result.network.meta["training"]}
    if as_json:
        return emit(about)
    say_assumed(vit)
    say_images(about["data"])
    click.echo(f"{output}: epoch {result.epoch} of {result.history[-1]['epoch']}; trained on "
               f"{about['training']['images']} images of {chosen.name}, "
               f"{about['training']['held_back']} held back")


def _training_images(source, network, data, most):
    """Return labelled training images, at most so many."""
    from systola.model.data.images import open_images

    images = open_images(data or source, "train", graph=network)
    return images if most is None else images.thinned(most)


def _codes(network, images):
    from systola.model.data.images import encode

    return encode(network, images)


def _line(record, settings):
    """Return an epoch's record in words."""
    text = f"epoch {record['epoch']}/{settings.epochs}:"
    if "loss" in record:
        text += f" loss {record['loss']:.4f}, top-1 {record['top1']:.4f};"
    if "validation_loss" in record:
        text += (f" held back: loss {record['validation_loss']:.4f}, top-1 "
                 f"{record['validation_top1']:.4f};")
    return f"{text} {record['seconds']:.0f} s"


def _check_files(source, quantized, output, data, checkpoint):
    """Refuse a float model where an integer one is wanted, and files that would be overwritten."""
    from systola.model.data.examples import is_example
    from systola.model.graph.graph_file import is_integer_network

    check_source(source, "finetune takes the float checkpoint that it was made from: systola "
                         f"finetune --model CHECKPOINT --quantized {source}")
    if (is_example(quantized) or Path(quantized).suffix != ".safetensors"
            or not Path(quantized).is_file() or not is_integer_network(quantized)):
        raise click.UsageError(f"--quantized must be an integer model from `systola quantize`, not "
                               f"{quantized!r}: a float checkpoint goes to --model")
    check_output(output, model=source, data=data, quantized=quantized)
    if data is None and not is_example(source):
        raise click.UsageError(f"--data must name a file or folder of labelled training images for "
                               f"--model {source!r}")
    if checkpoint:
        check_output(checkpoint, model=source, data=data, quantized=quantized)
        if Path(checkpoint).absolute() == Path(output).absolute():
            raise click.UsageError(f"--checkpoint must be another file than the output, not "
                                   f"{checkpoint!r}")
