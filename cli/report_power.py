"""`systola report power`: power of a whole accelerator, by unit, while it runs a network."""

import click

from systola.cli.console import emit, json_option, progress, table

__all__ = ["power"]


@click.command()
@click.option("--config", default="digits", show_default=True, metavar="CONFIG",
              help="Accelerator: a preset or a .toml or .json file of fields, as for simulate.")
@click.option("--model", "source", default="digits", show_default=True, metavar="MODEL",
              help="`digits`, or a file: an integer model or a float checkpoint.")
@click.option("--images", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Test images to run.")
@click.option("--freq", "mhz", type=float, default=100, show_default=True, metavar="MHZ",
              help="Clock for the power.")
@json_option
def power(config, source, images, mhz, as_json):
    """Power of an accelerator, by unit, while its mapped netlist runs a network.

    Synthesizes the accelerator for 7 series and simulates the netlist with models of its
    primitives, driven pin by pin as `systola simulate` drives the Verilog. Results must be those of
    the integer model, and all pins those of the Verilog in every cycle; ends with exit code 1
    otherwise. Figures are estimates before place and route; intervals hold 95 % of what the
    coefficients may be (docs/POWER.md). Netlists and compiled simulations are kept in build/sim.
    """
    from systola.boards.power.accelerator_power import accelerator_power, check_frequency
    from systola.cli.cases import choose_case

    check_frequency(mhz)
    with progress("preparing the model") as update:
        case = choose_case(source, is_random=False, random_weights=False, config=config,
                           attention=None, blocks=None, seed=None, images=images, data=None,
                           update=update)
        result = {**case.about, **accelerator_power(case.model, case.config, case.inputs, mhz=mhz,
                                                    progress=update)}
    if as_json:
        emit(result)
    else:
        _show(result)
    return 1 if result["mismatches"] or result["pin_mismatches"] else 0


def _show(result):
    """Print the units, what is common to them, and what was compared."""
    whole = result["total"]
    rows = [(unit["name"], unit["lut"], unit["ff"], unit["dsp"], f"{unit['bram36']:g}",
             f"{unit['toggles_per_cycle']:.1f}", _interval(unit, "mw"))
            for unit in [*result["units"], {"name": "total with static", **whole}]]
    table(f"{result['rows']} x {result['cols']} accelerator at {result['freq_mhz']:g} MHz: "
          f"estimates", ["unit", "LUT", "FF", "DSP", "BRAM36", "toggles a cycle", "mW"], rows)
    click.echo(f"static {_interval(result, 'static_mw')} mW; clock "
               f"{_interval(result, 'clock_mw')} mW, a part of the units'")
    click.echo(f"{_interval(result, 'energy_uj_per_image')} uJ an image, "
               f"{_interval(result, 'energy_pj_per_mac')} pJ a multiply-accumulate of the model")
    click.echo(f"{result['images']} images in {result['cycles']:,} cycles: "
               f"{result['mismatches']:,} of {result['elements_compared']:,} stored elements and "
               f"pins in {result['pin_mismatches']:,} places differ")
    if result["first_difference"]:
        click.echo("first difference: {pin} in cycle {cycle}".format(**result["first_difference"]))
    click.echo(result["note"])


def _interval(figures, name):
    return f"{figures[name]:.3g} ({figures[f'{name}_low']:.3g} to {figures[f'{name}_high']:.3g})"
