"""`systola report`: area, activity, energy and power of processing elements."""

import click

from systola.cli.report import emit, json_option, progress, table

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


@click.group()
def report():
    """Measure and compare what accelerators are made of."""


@report.command()
@click.option("--bits", "widths", type=_Widths(), default=(2, 3, 4, 8), metavar="N,N",
              help="Bits of weights and activations.  [2,3,4,8]")
@click.option("--freq", "mhz", type=float, default=100, show_default=True, metavar="MHZ",
              help="Clock for the power.")
@click.option("--rows", type=int, default=8, show_default=True, metavar="N",
              help="Rows of the arrays.")
@click.option("--cols", type=int, default=4, show_default=True, metavar="N",
              help="Columns of the arrays.")
@click.option("--data", default="digits", show_default=True, metavar="DATA",
              help="digits, the model on test scans; deit, a random DeiT-Tiny block; constant, "
                   "which is refused.")
@json_option
def pe(widths, mhz, rows, cols, data, as_json):
    """Compare low-bit processing elements with dequantizing first.

    Linear, Q.K^T and A.V at each width: area, toggles a cycle, energy per multiply-accumulate and
    power, from simulating the mapped netlists of whole arrays on real operands. dequant_first
    scales operands to 16-bit fixed point before it multiplies. Energies are estimates; intervals
    hold 95 % of what the coefficients may be (docs/POWER.md). Takes minutes the first time;
    mapped and compiled arrays are kept in build/sim.
    """
    from systola.boards.pe_report import pe_report

    with progress("preparing arrays") as update:
        result = pe_report(widths=widths, mhz=mhz, rows=rows, cols=cols, data=data,
                           progress=update)
    if as_json:
        return emit(result)
    show(result)


def show(result):
    """Print the rows, low-bit ones above the baseline of their width, and what is to be said."""
    lines = []
    for row in result["rows"]:
        ratio = (_interval(row["ratio"], row["ratio_low"], row["ratio_high"])
                 if "ratio" in row else "")
        like = (f"{row['against']['ratio']:.2f} of {row['against']['style']}"
                if "against" in row else "")
        energy = _interval(row["energy_pj_per_mac"], row["energy_low"], row["energy_high"])
        lines.append((row["operation"], row["bits"], row["style"], row["multiplier"], row["macs"],
                      *(f"{row[name]:.1f}" for name in ("lut", "ff", "dsp", "toggles_per_cycle")),
                      energy, f"{row['power_uw_per_pe']:.0f}", ratio, like))
    table(f"processing elements at {result['freq_mhz']:g} MHz: estimates",
          ["operation", "bits", "style", "multiplier", "MACs", "LUT", "FF", "DSP", "toggles",
           "pJ per MAC", "uW", "of dequant_first", "of another"], lines)
    for row in result["rows"]:
        if "explanation" in row:
            click.echo(f"{row['operation']}, {row['bits']} bits, {row['style']}: "
                       f"{row['explanation']}")
    click.echo(result["note"])


def _interval(value, low, high):
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
