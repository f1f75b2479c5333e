"""`systola report`: area, activity, energy and power of processing elements."""

from pathlib import Path

import click

from systola.cli.cluster_options import chosen_cluster, cluster_options
from systola.cli.console import config_option, emit, given_options, json_option, progress, table
from systola.cli.report_allocations import allocations
from systola.cli.report_power import power
from systola.cli.report_training import training

__all__ = ["report"]


class _Widths(click.ParamType):
    """Numbers with commas in between."""

    name = "bits"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"--bits must be numbers from 2 to 8 with commas between, not {value!r}")


_WIDTHS = click.option("--bits", "widths", type=_Widths(), default=(2, 3, 4, 8), metavar="N,N",
                       help="Bits of weights and activations.  [2,3,4,8]")
_FREQ = click.option("--freq", "mhz", type=float, default=100, show_default=True, metavar="MHZ",
                     help="Clock for the power.")
_DATA = click.option("--data", default="digits", show_default=True, metavar="DATA",
                     help="digits, the model on test scans; deit, a random DeiT-Tiny block; "
                          "constant, which is refused.")


@click.group(invoke_without_command=True)
@click.option("--html", "as_html", is_flag=True, help="Everything below on one page, with the "
              "roofline, the timeline, accuracy and attention maps of the digits.")
@click.option("-o", "--output", metavar="FILE", help="The page, an .html file.")
@config_option
@click.option("--images", type=click.IntRange(min=1, max=64), default=8, show_default=True,
              metavar="N", help="Test scans to simulate for the page.")
@_WIDTHS
@_FREQ
@_DATA
@click.pass_context
def report(ctx, as_html, output, config, images, widths, mhz, data):
    """Measure and compare what accelerators are made of.

    With --html, one page that loads nothing from elsewhere; it takes many minutes the first time.
    Commands of their own measure parts of it.
    """
    if ctx.invoked_subcommand is not None:
        if as_html or output:
            raise click.UsageError(f"--html and -o are without {ctx.invoked_subcommand}")
        for option in given_options(ctx).values():
            raise click.UsageError(f"{option} before {ctx.invoked_subcommand} is for --html; the "
                                   f"options of {ctx.invoked_subcommand} stand behind it")
        return
    if not as_html:
        raise click.UsageError("report needs --html -o FILE, or a command: "
                               f"{', '.join(report.commands)}")
    path = Path(output or "")
    if path.suffix != ".html" or not path.absolute().parent.is_dir():
        raise click.UsageError(f"output must be an .html file in an existing folder, "
                               f"not {output!r}")
    from systola.report.page import collect, write_page

    with progress("opening the model") as update:
        content = collect(config, images=images, bits=widths, mhz=mhz, data=data, progress=update)
    write_page(path, content)
    click.echo(f"written to {output}")


@report.command()
@config_option
@json_option
def area(config, as_json):
    """Size of every unit of an accelerator, and of a processing element.

    Yosys for 7 series, before place and route. Modules that are equal count where they occur
    first.
    """
    from systola.boards.synthesis.sizes import unit_sizes
    from systola.boards.synthesis.synth import synthesize

    with progress("synthesizing") as update:
        result = synthesize(config, progress=lambda text: update(text=f"synthesizing: {text}"))
    data = result.to_dict()
    units = unit_sizes(data["modules"], result.top)
    if as_json:
        return emit({"units": dict(units), "total": data["total"], **result.array})
    columns = ("lut", "ff", "carry", "dsp", "bram36")
    table(f"{config.rows} x {config.cols}, {config.pe_style}", ["unit", *map(str.upper, columns)],
          [(name, *(size[column] for column in columns)) for name, size in units]
          + [("total", *(data["total"][column] for column in columns))])
    click.echo(f"a multiply-accumulate of the array: {result.array['lut_per_mac']:.2f} LUT, "
               f"{result.array['ff_per_mac']:.2f} FF")


@report.command()
@_WIDTHS
@_FREQ
@click.option("--rows", type=int, default=8, show_default=True, metavar="N",
              help="Rows of the arrays.")
@click.option("--cols", type=int, default=4, show_default=True, metavar="N",
              help="Columns of the arrays.")
@_DATA
@cluster_options
@json_option
def pe(widths, mhz, rows, cols, data, workers, scheduler, as_json):
    """Compare low-bit processing elements with dequantizing first.

    Linear, Q.K^T and A.V at each width (arrays with codes at their edge at 8 bits, for one of
    these): area, toggles a cycle, energy per multiply-accumulate and power, from simulating the
    mapped netlists of whole arrays on real operands. dequant_first scales operands to 16-bit fixed
    point before it multiplies. Energies are estimates; intervals hold 95 % of what the coefficients
    may be (docs/POWER.md). Takes minutes the first time; mapped and compiled arrays are kept in
    build/sim.
    """
    from systola.boards.power.pe_report import pe_report

    with progress("preparing arrays") as update, chosen_cluster(workers, scheduler) as cluster:
        result = pe_report(widths=widths, mhz=mhz, rows=rows, cols=cols, data=data,
                           cluster=cluster, progress=update)
    if as_json:
        return emit(result)
    show(result)


def show(result):
    """Print the rows, low-bit ones above the baseline of their width, and what is to be said."""
    lines = []
    for row in result["rows"]:
        ratio = (_interval(row["ratio"], row["ratio_low"], row["ratio_high"])
                 if "ratio" in row else "")
        inner = (_interval(*(row[f"ratio_without_scalers{end}"] for end in ("", "_low", "_high")))
                 if "ratio" in row else "")
        like = (f"{row['against']['ratio']:.2f} of {row['against']['style']}"
                if "against" in row else "")
        energy = _interval(row["energy_pj_per_mac"], row["energy_low"], row["energy_high"])
        lines.append((row["operation"], row["bits"], row["style"], row["multiplier"], row["macs"],
                      *(f"{row[name]:.1f}" for name in ("lut", "ff", "dsp", "toggles_per_cycle")),
                      energy, f"{row['power_uw_per_pe']:.0f}", ratio, inner, like))
    table(f"processing elements at {result['freq_mhz']:g} MHz: estimates",
          ["operation", "bits", "style", "multiplier", "MACs", "LUT", "FF", "DSP", "toggles",
           "pJ per MAC", "uW", "of dequant_first", "without its scalers", "of another"], lines)
    for row in result["rows"]:
        for part in row, row.get("against", {}):
            if "explanation" in part:
                click.echo(f"{row['operation']}, {row['bits']} bits, {row['style']}: "
                           f"{part['explanation']}")
    click.echo(result["note"])


def _interval(value, low, high):
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


report.add_command(allocations)
report.add_command(power)
report.add_command(training)
