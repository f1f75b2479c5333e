"""Options that quantizing and evaluating commands share, and checks of them."""

from pathlib import Path

import click

from systola.hw.contract.config import MODEL_SETTINGS, AcceleratorConfig
from systola.hw.contract.numbers import LEVELS
from systola.model.quantization.methods import BEST, CODEBOOKS, METHODS

__all__ = ["check_data", "check_output", "check_source", "chosen_settings", "data_option",
           "facts_options", "given_facts", "model_option", "say_assumed", "say_images",
           "settings_options"]

model_option = click.option("--model", "source", required=True, metavar="MODEL",
                      help="`digits`, `fashion`, or a checkpoint: a folder or file of timm or "
                           "Hugging Face.")
data_option = click.option("--data", metavar="PATH",
                     help="Images and labels: a folder of pictures, IDX or Parquet files, or .npz "
                          "or .safetensors with `images` in 0..1 or uint8, and `labels` "
                          "(docs/MODELS.md); digits and fashion bring their own.")

_FACTS = (
    click.option("--heads", type=int, metavar="N",
                 help="Attention heads, where the checkpoint does not say."),
    click.option("--mean", metavar="M[,M,M]",
                 help="Mean of images in 0..1, one number or one a plane, likewise."),
    click.option("--std", metavar="S[,S,S]", help="Their standard deviation, likewise."),
    click.option("--eps", type=float, metavar="E", help="Epsilon of the layer norms, likewise."),
    click.option("--activation", metavar="gelu|gelu_tanh|quick_gelu", help="Likewise."),
    click.option("--image-size", metavar="N or HxW",
                 callback=lambda ctx, param, value: value and _size(value),
                 help="Pixels; position embeddings of another size are resampled."))


def facts_options(command):
    """Add the options by which a user says what no file of a checkpoint does."""
    for option in reversed(_FACTS):
        command = option(command)
    return command


def given_facts(options):
    """Take the values of `facts_options` out of a command's options, and return them."""
    return {param: options.pop(param)
            for param in ("heads", "mean", "std", "eps", "activation", "image_size")}


def say_assumed(graph):
    """Print on stderr what was assumed of a checkpoint, and what was left out of it."""
    for sentence in graph.meta.get("assumed", []):
        click.echo(f"assumed {sentence}", err=True)
    notes = graph.meta.get("notes")
    if "quantizers" in graph.meta and isinstance(notes, list):  # of which not everything is used
        for sentence in notes:
            click.echo(str(sentence), err=True)
    for name, effect in graph.meta.get("left_out_epsilon", {}).items():
        click.echo(f"node {name}: the epsilon of its layer norm is left out, which makes rows up "
                   f"to {100 * effect:.1f} % larger", err=True)
    for name in graph.meta.get("quantization", {}).get("coarse", []):
        click.echo(f"node {name}: its numbers are smaller than the least scale of codes holds",
                   err=True)


def say_images(*sets):
    """Print on stderr what was assumed and converted of sets of images, and None of no set."""
    for about in sets:
        for sentence in about["remarks"] if about else ():
            click.echo(f"{about['source']}: {sentence}", err=True)


def _size(value):
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 1 <= int(side[:6]) < 2**16
                                 for side in sides):
        raise click.UsageError(f"--image-size must be N or HxW pixels, not {value!r}")
    return [int(side) for side in sides * (3 - len(sides))][:2]


def settings_options(command):
    """Add the options of quantization."""
    for option in reversed([
            click.option("--weight-bits", type=int, metavar="2..8", help="Bits of weights."),
            click.option("--act-bits", type=int, metavar="2..8", help="Bits of activations."),
            click.option("--attention", metavar="FORM",
                         help=f"`published`: softmax as published; `normalised` or `deferred`: "
                              f"exponentials of 16 or 8 bits that are divided by their sum after "
                              f"A.V; {', '.join(f'`{name}`' for name in LEVELS)}: the latter in "
                              f"log2 codes of 4 bits."),
            click.option("--attention-bits", type=int, metavar="8|16",
                         help="Bits of the attention probabilities, as published."),
            click.option("--mult-bits", type=int, metavar="8..31",
                         help="Bits of the rescaling multipliers."),
            click.option("--code-mult-bits", type=int, metavar="8..31",
                         help="The same, of results of at most 8 bits."),
            click.option("--gelu", metavar="published|table", help="Form of ShiftGELU."),
            click.option("--method", type=click.Choice(list(METHODS)),
                         help=f"Recipe of quantization, {BEST} unless given (ablate: minmax): "
                              f"docs/MODELS.md."),
            click.option("--codebook", type=click.Choice(list(CODEBOOKS)),
                         help="Weights of 8 bits that 4-bit codes stand for, by a table of 16 "
                              "values for each layer: docs/MODELS.md."),
            click.option("--norm", metavar="published|leading_one|normalised|compared",
                         help="I-LayerNorm with that start of its root, or one accurate for all "
                              "rows, with epsilon; `compared`: codes of up to 4 bits by comparison "
                              "of squares, gains and biases in the layers behind.")]):
        command = option(command)
    return command


def chosen_settings(options):
    """Return the settings that were given; refuses what the others would make meaningless."""
    chosen = {name: options[name] for name in (*MODEL_SETTINGS, "method", "codebook")
              if options[name] is not None}
    if chosen.get("attention", AcceleratorConfig.attention) != "published" and (
            "attention_bits" in chosen):
        raise click.UsageError("--attention-bits is for --attention published; normalised "
                               "attention has exponentials of 16 bits, the others of 8 or less")
    if "code_mult_bits" in chosen:
        code, most = chosen["code_mult_bits"], chosen.get("mult_bits", AcceleratorConfig.mult_bits)
        if code > most:
            raise click.UsageError(f"code_mult_bits must be at most mult_bits ({most}), not {code}")
    return chosen


def check_source(source, doing):
    """Refuse an integer model where a float checkpoint is wanted."""
    from systola.model.data.examples import is_example
    from systola.model.graph.graph_file import is_integer_network

    if (not is_example(source) and Path(source).suffix == ".safetensors"
            and is_integer_network(source)):
        raise click.UsageError(
            f"--model {source!r} is an integer model already, and {doing}; systola simulate "
            f"--model {source} runs it")


def check_data(source, data, calibration, needed=True):
    """Refuse a checkpoint without images to score, or to take ranges from if they are `needed`."""
    from systola.model.data.examples import is_example
    from systola.model.data.images import has_training

    if is_example(source):
        return
    if data is None:
        raise click.UsageError(f"--data must name a file or folder of labelled test images for "
                               f"--model {source!r}")
    if calibration is None and needed and not has_training(data):
        raise click.UsageError("--calibration must name a file or folder of training images, "
                               "from which ranges are taken; those of --data would flatter the "
                               "result")


def check_output(output, **inputs):
    """Refuse to overwrite what is read."""
    for name, path in inputs.items():
        if path and Path(path).exists() and Path(output).exists() and (
                Path(path).samefile(output) or Path(path) in Path(output).absolute().parents):
            raise click.UsageError(f"output must be another file than --{name}, not {output!r}")
