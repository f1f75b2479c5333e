"""`systola quantize`."""

from pathlib import Path

import click

from systola.cli.allocate_options import (
    allocate_options,
    allocator,
    given_limits,
    say_allocation,
)
from systola.cli.console import config_option, emit, json_option, progress
from systola.cli.model_options import (
    check_output,
    check_source,
    chosen_settings,
    data_option,
    facts_options,
    given_facts,
    model_option,
    say_assumed,
    say_images,
    settings_options,
)

__all__ = ["quantize"]


def _writable(value):
    """Refuse now what would only be refused after the work."""
    path = Path(value)
    if path.suffix != ".safetensors":
        raise click.UsageError(f"output must end in .safetensors, not {value!r}")
    if not path.parent.is_dir():
        raise click.UsageError(f"output {value!r} cannot be written: there is no folder "
                               f"{str(path.parent)!r}")
    return value


@click.command()
@model_option
@click.option("-o", "--output", required=True, metavar="FILE",
              callback=lambda ctx, param, value: _writable(value),
              help="Integer model to write (.safetensors).")
@data_option
@facts_options
@config_option
@settings_options
@allocate_options
@click.option("--nodes", is_flag=True, help="Report noise, saturation and cost of every node.")
@json_option
def quantize(source, output, data, config, nodes, as_json, **options):
    """Turn a float checkpoint into an integer model for the accelerator of --config.

    Single options change what that accelerator would have: then it needs one of its own.

    With --allocate, every linear node has bits of its own: those of least loss within the limits,
    by integer programming (docs/MODELS.md). Bytes are of weights packed at their bits; streams and
    files of today hold a byte for each, whatever its bits.

    With --codebook, the weights of each layer are at most 16 values of 8 bits, for which codes of 4
    bits stand.

    Ranges are taken from training images only. The file goes into `systola simulate --model FILE`
    and `systola evaluate --model CHECKPOINT --quantized FILE`.
    """
    from systola.model.data.images import image_facts
    from systola.model.evaluation import accuracy
    from systola.model.graph.graph_file import save_network
    from systola.model.quantization.methods import BEST

    facts, (limits, needs) = given_facts(options), given_limits(options)
    settings = {**config.model_settings, "method": BEST, **chosen_settings(options)}
    if limits and "codebook" in settings:
        raise click.UsageError("--codebook is for weights of 8 bits everywhere, without --allocate")
    check_source(source, "quantize makes one of a float checkpoint")
    check_output(output, model=source, data=data)
    with progress("calibrating and quantizing") as update:
        hints = image_facts(data) if data else None
        vit = accuracy.open_float(source, hints=hints, **facts)
        images = accuracy.calibration_images(source, vit, data)
        found = {"nodes": {}} if nodes else {}
        if limits:
            allocation = allocator(vit, images, config, progress=update, **needs, **settings)
            chosen = allocation.allocate(limits)
            update(0, None, "quantizing")
            network = accuracy.of_source(allocation.network(chosen, progress=update, **found),
                                         source)
        else:
            network = accuracy.quantized(source, vit, images, progress=update, **found, **settings)
        save_network(network, output)
    result = {"file": output, **network.summary(), **settings, "calibration": images.about(),
              "assumed": network.meta.get("assumed", []),
              "left_out_epsilon": network.meta.get("left_out_epsilon", {}),
              "quantization": network.meta["quantization"],
              **({"allocation": chosen.precisions(allocation.nodes)} if limits else {}),
              **({"node_report": found["nodes"]} if nodes else {})}
    if as_json:
        return emit(result)
    say_assumed(network)
    say_images(result["calibration"])
    kinds = ", ".join(f"{count} {kind}" for kind, count in result["nodes"].items())
    bits = "bits by node" if limits else (f"{settings['weight_bits']}-bit weights, "
                                          f"{settings['act_bits']}-bit activations")
    codebook = f" ({settings['codebook']} codebooks)" if "codebook" in settings else ""
    click.echo(f"{output}: {bits}{codebook}; nodes: {kinds}")
    click.echo(f"ranges: {images.name}, {len(images)} of {len(images.source)}")
    if limits:
        say_allocation(network.meta["quantization"]["allocated"], result["allocation"])
    for name, node in found.get("nodes", {}).items():
        click.echo(f"{name:<28} {node['kind']:<10} {node['bits']:>2} bits  {node['snr_db']:6.1f} "
                   f"dB  {node['saturated']:8.4%} saturated  {node['agreement']:.4f} agree if "
                   f"alone")
