"""Options that give every linear node bits of its own, and checks of them."""

import click

from systola.model.allocation.measures import MEASURES

__all__ = ["allocate_options", "allocator", "given_limits", "measure_option",
           "precisions_option", "say_allocation"]


def _limits(values):
    """Return ``{cost: Limit}`` of texts ``cost=limit``."""
    from systola.model.allocation.allocate import Limit

    found = {}
    for value in values:
        name, equals, limit = value.partition("=")
        if not equals:
            raise click.UsageError(f"--allocate must be COST=LIMIT, like bytes=0.5, not {value!r}")
        if name in found:
            raise click.UsageError(f"--allocate must limit {name[:40]!r} once")
        found[name] = Limit.parse(name, limit)
    return found


def _precisions(value):
    from systola.model.allocation.node_precisions import Precision

    return value and [Precision.parse(part) for part in value.split(",")]


precisions_option = click.option(
    "--precisions", metavar="WxA,WxA", callback=lambda ctx, param, value: _precisions(value),
    help="Bits of weights x bits of activations that nodes choose from, the most first.  [8x8,4x8,"
         "4x4, as the accelerator has them]")

measure_option = click.option(
    "--measure", type=click.Choice(MEASURES), help="Loss of a node: how much the logits change if "
    "it alone has fewer bits, or curvature of the loss times squared rounding of weights.  "
    "[logits]")

_OPTIONS = (
    click.option("--allocate", "limits", multiple=True, metavar="COST=LIMIT",
                 callback=lambda ctx, param, value: _limits(value),
                 help="Give every linear node bits of its own, so that a COST (bytes, bops, "
                      "cycles, energy) is at most LIMIT: a share from 0, fewest bits everywhere, "
                      "to 1, most bits, or a number. Can be given for several costs."),
    precisions_option,
    measure_option,
    click.option("--energies", metavar="FILE", help="What `systola report pe --json` printed, for "
                 "--allocate energy=LIMIT."))


def allocate_options(command):
    """Add the options of allocation."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_limits(options):
    """Take the options of allocation out of a command's; returns limits and what they need."""
    limits = options.pop("limits")
    needs = {name: options.pop(name) for name in ("precisions", "measure", "energies")}
    if not limits:
        for name, value in needs.items():
            if value:
                raise click.UsageError(f"--{name} is for --allocate COST=LIMIT")
    elif ("energy" in limits) != bool(needs["energies"]):
        raise click.UsageError("--allocate energy=LIMIT needs --energies FILE, and the other way "
                               "round")
    return limits, {name: value for name, value in needs.items() if value}


def allocator(graph, images, config, *, energies=None, **settings):
    """Return an `Allocator` whose cycles are those of an accelerator of `config`."""
    from systola.model.data.images import float_inputs
    from systola.model.evaluation.allocated import Allocator
    from systola.sw_driver.compiler.compiler import compile_operations

    return Allocator(
        graph, float_inputs(graph, images), energies=energies and _energies(
            energies, config.pe_style),
        predict=lambda network: compile_operations(network, config)[2].cycles, **settings)


_MOST_BYTES = 1 << 24


def _energies(path, style):
    """Return pJ of a linear layer's product by bits, of a report of processing elements."""
    from systola.files.bounded import parse_json, read_file

    try:
        rows = parse_json(read_file(path, _MOST_BYTES).decode())["rows"]
        return {int(row["bits"]): float(row["energy_pj_per_mac"]) for row in rows
                if (row["operation"], row["style"]) == ("linear", style)}
    except (KeyError, TypeError, ValueError) as error:
        raise click.UsageError(f"--energies must be what `systola report pe --json` printed, not "
                               f"{path!r}: {error}") from None


def say_allocation(about, nodes):
    """Print what was allocated: `about` of an `Allocator`, and each node's precision by name."""
    counts = {}
    for precision in nodes.values():
        counts[precision] = counts.get(precision, 0) + 1
    shown = ", ".join(f"{counts[precision]} of {precision}" for precision in about["precisions"]
                      if precision in counts)
    click.echo(f"linear nodes by bits of weights x activations: {shown}")
    for name, row in about["limits"].items():
        what = "bytes, weights packed" if name == "bytes" else name
        click.echo(f"{what}: {row['cost']:,} of at most {row['limit']:,} (the same bits "
                   f"everywhere: {row['least']:,} to {row['most']:,})")
    unit = " of the logits' variance" if about["measure"] == "logits" else ""
    click.echo(f"loss: {about['loss']:.3g}{unit}, by {about['images']} calibration images")
