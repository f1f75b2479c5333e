"""`systola quantize` and `systola evaluate`."""

from pathlib import Path

import click

from systola.cli.console import config_option, emit, json_option, progress, table
from systola.hw.contract.config import MODEL_SETTINGS, AcceleratorConfig

__all__ = ["evaluate", "quantize"]

_MODEL = click.option("--model", "source", required=True, metavar="MODEL",
                      help="`digits`, or a checkpoint file (.safetensors or .npz, timm names).")
_DATA = click.option("--data", metavar="FILE",
                     help="Images and labels (.npz or .safetensors with `images` in 0..1 or uint8, "
                          "and `labels`); the digits bring their own.")
_HEADS = click.option("--heads", type=int, metavar="N",
                      help="Attention heads, when the checkpoint does not say.")


def _settings(command):
    for option in reversed([
            click.option("--weight-bits", type=int, metavar="2..8", help="Bits of weights."),
            click.option("--act-bits", type=int, metavar="2..8", help="Bits of activations."),
            click.option("--attention", metavar="exact|deferred",
                         help="Softmax normalised before A.V, or 8-bit exponentials after it."),
            click.option("--attention-bits", type=int, metavar="8|16",
                         help="Bits of the attention probabilities, if exact."),
            click.option("--mult-bits", type=int, metavar="8..31",
                         help="Bits of the rescaling multipliers."),
            click.option("--code-mult-bits", type=int, metavar="8..31",
                         help="The same, of results of at most 8 bits."),
            click.option("--gelu", metavar="exact|table", help="Form of ShiftGELU."),
            click.option("--norm-start", metavar="published|leading_one",
                         help="Start of the I-LayerNorm square root.")]):
        command = option(command)
    return command


def _writable(value):
    """Refuse now what would only be refused after the work."""
    path = Path(value)
    if path.suffix != ".safetensors":
        raise click.UsageError(f"output must end in .safetensors, not {value!r}")
    if not path.parent.is_dir():
        raise click.UsageError(f"output {value!r} cannot be written: there is no folder "
                               f"{str(path.parent)!r}")
    return value


def _chosen(options):
    """Return the settings that were given; refuses what the others would make meaningless."""
    chosen = {name: options[name] for name in MODEL_SETTINGS if options[name] is not None}
    if chosen.get("attention") == "deferred" and "attention_bits" in chosen:
        raise click.UsageError("--attention-bits is for --attention exact: deferred attention has "
                               "exponentials of 8 bits")
    if "code_mult_bits" in chosen:
        code, most = chosen["code_mult_bits"], chosen.get("mult_bits", AcceleratorConfig.mult_bits)
        if code > most:
            raise click.UsageError(f"code_mult_bits must be at most mult_bits ({most}), not {code}")
    return chosen


def _check_source(source, doing):
    """Refuse an integer model where a float checkpoint is wanted."""
    from systola.model.graph.graph_file import is_integer_network

    if source != "digits" and Path(source).suffix == ".safetensors" and is_integer_network(source):
        raise click.UsageError(
            f"--model {source!r} is an integer model already, and {doing}; systola simulate "
            f"--model {source} runs it")


@click.command()
@_MODEL
@click.option("-o", "--output", required=True, metavar="FILE",
              callback=lambda ctx, param, value: _writable(value),
              help="Integer model to write (.safetensors).")
@_DATA
@_HEADS
@config_option
@_settings
@json_option
def quantize(source, output, data, heads, config, as_json, **options):
    """Turn a float checkpoint into an integer model for the accelerator of --config.

    Single options change what that accelerator would have: then it needs one of its own.

    Ranges are taken from training images only. The file goes into `systola simulate --model FILE`
    and `systola evaluate --model CHECKPOINT --quantized FILE`.
    """
    from systola.model.evaluation.accuracy import open_network
    from systola.model.graph.graph_file import save_network

    settings = {**config.model_settings, **_chosen(options)}
    _check_source(source, "quantize makes one of a float checkpoint")
    with progress("calibrating and quantizing") as update:
        network = open_network(source, data=data, heads=heads, progress=update, **settings)
        save_network(network, output)
    result = {"file": output, **network.summary(), **settings}
    if as_json:
        return emit(result)
    nodes = ", ".join(f"{count} {kind}" for kind, count in result["nodes"].items())
    click.echo(f"{output}: {settings['weight_bits']}-bit weights, {settings['act_bits']}-bit "
               f"activations; nodes: {nodes}")


@click.command()
@_MODEL
@click.option("--quantized", metavar="FILE", help="Integer model to use, from `systola quantize`; "
              "without it the checkpoint is quantized now.")
@_DATA
@_HEADS
@_settings
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, metavar="B",
              help="Images computed at a time; changes no result.")
@click.option("--options", "measure", is_flag=True,
              help="Also measure what every arithmetic option costs (a minute or more).")
@click.option("--attention-error", is_flag=True,
              help="Also measure the attention operators on random scores of 197 tokens.")
@json_option
def evaluate(source, quantized, data, heads, batch, measure, attention_error, as_json,
             **options):
    """Compare float and integer accuracy on the test images."""
    from systola.model.data.images import load_data
    from systola.model.evaluation import accuracy
    from systola.model.evaluation import attention_error as attention
    from systola.model.graph.graph_file import is_integer_network

    settings = _chosen(options)
    _check_source(source, "evaluate compares one with the float checkpoint it was made from: "
                          f"systola evaluate --model CHECKPOINT --quantized {source}")
    if quantized and (quantized == "digits" or not is_integer_network(quantized)):
        raise click.UsageError(f"--quantized must be an integer model from `systola quantize`, not "
                               f"{quantized!r}: a float checkpoint goes to --model")
    with progress("quantizing") as update:
        vit = accuracy.open_float(source, heads=heads)
        model = accuracy.open_network(quantized or source, data=data, heads=heads, progress=update,
                                      **settings)
        images, labels = load_data(data or "digits", "test")
        update(0, len(labels), "evaluating")
        result = accuracy.evaluate(vit, model, images, labels, batch=batch, progress=update)
        if measure:
            update(0, None, "measuring the options")
            result["options"] = accuracy.measure_options(source, data=data, calibration=data,
                                                         heads=heads, progress=update)
        if attention_error:
            update(0, None, "measuring the attention operators")
            result["attention_error"] = attention.attention_error()
    if as_json:
        return emit(result)
    click.echo(f"{result['images']} test images: float top-1 {result['float_top1']:.4f}, "
               f"integer top-1 {result['int_top1']:.4f}, equal predictions "
               f"{result['agreement']:.4f}")
    if measure:
        table("Against full width; RMS errors of the logits in % of their RMS:",
              ["option", "integer top-1", "logits different", "largest", "equal predictions",
               "error to float", "to full width"],
              [(name, round(row["int_top1"], 4), round(row["logits_different"], 5),
                row["largest_difference"], round(row["agreement"], 4),
                round(100 * row["error_float"], 2), round(100 * row["error_full"], 2))
               for name, row in result["options"].items()])
    if attention_error:
        table("RMS error of A.V against float softmax, relative, on random 8-bit scores of 197 "
              "keys:", ["operator", *(f"std {value:g}" for value in attention.DEVIATIONS)],
              [(name, *(round(entry["operator"], 4) for entry in entries))
               for name, entries in result["attention_error"].items()])
