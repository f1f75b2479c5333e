"""`systola generate` and `systola synth`."""

import click
from click.core import ParameterSource

from systola.cli.report import config_option, emit, json_option, progress, table

__all__ = ["generate", "synth"]


@click.command()
@config_option
@click.option("-o", "--output", required=True, metavar="DIR",
              help="Folder for systola.v, systola_regs.h and manifest.json.")
@json_option
def generate(config, output, as_json):
    """Write the accelerator's Verilog, manifest and C header.

    The Verilog is self-contained: top module `systola`, AXI4-Lite registers, AXI4-Stream in and
    out. The driver refuses hardware whose configuration hash is not the program's.
    """
    from systola.hw.generate import generate as write

    with progress("generating Verilog"):
        manifest = write(config, output)
    if as_json:
        return emit({"directory": output, **manifest})
    for name, file in manifest["files"].items():
        click.echo(f"{output}/{name}: {file['bytes']:,} bytes")
    click.echo(f"configuration hash {manifest['config_hash']}")


@click.command()
@config_option
@click.option("--family", type=click.Choice(["xc7", "xcup"]), default="xc7", show_default=True,
              help="Xilinx 7 series or UltraScale+.")
@click.option("--array", is_flag=True, help="Only a systolic array, of the options that follow.")
@click.option("--weight-bits", type=int, metavar="N", help="Bits of a weight, 2 to 8.  [8]")
@click.option("--act-bits", type=int, metavar="N", help="Bits of an activation, 2 to 8.  [8]")
@click.option("--rows", type=int, metavar="N", help="Rows of the array.  [24]")
@click.option("--cols", type=int, metavar="N", help="Columns of the array.  [8]")
@click.option("--style", type=click.Choice(["dsp", "dsp_packed", "lut"]),
              help="Processing elements.  [dsp_packed]")
@click.option("--max-tokens", type=int, metavar="N",
              help="Most vectors that a packed array may take in a cycle.  [4]")
@click.option("--depth", is_flag=True, help="Find the deepest logic between registers.")
@json_option
@click.pass_context
def synth(ctx, config, family, array, depth, as_json, **shape):
    """Synthesize with Yosys for a Xilinx FPGA and list what every module needs.

    LUT, flip-flops (FF), carry chains (CARRY), DSP slices and block RAM by module; of the systolic
    array, also by multiply-accumulate per cycle. No place and route, so no timing.
    """
    from systola.boards.synth import array_of, synthesize

    given = {name: value for name, value in shape.items() if value is not None}
    if array and ctx.get_parameter_source("config") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--array and --config exclude each other")
    if given and not array:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} needs --array")
    design = array_of(**given) if array else config
    with progress("synthesizing (minutes for a large array)") as update:
        result = synthesize(design, "array" if array else "systola", family=family, depth=depth,
                            progress=lambda text: update(text=f"synthesizing: {text}"))
    result = result.to_dict()
    if as_json:
        return emit(result)
    show(result)


def show(result):
    """Print a size table: each module with what is inside it, once for all equal instances."""
    columns = list(result["total"])
    rows = [(name, module["instances"], *(module[column] for column in columns))
            for name, module in result["modules"].items()]
    table("", ["module (and what is in it)", "instances", *columns], rows)
    if "macs" in result:
        dsp = result["macs_per_dsp"]
        click.echo(f"systolic array: {result['macs']} multiply-accumulates a cycle, each "
                   f"{result['lut_per_mac']:.2f} LUT and {result['ff_per_mac']:.2f} FF"
                   + (f"; {dsp:g} per DSP slice" if dsp else ""))
    if "depth" in result:
        depth = result["depth"]
        click.echo(f"deepest path between registers: {depth['levels']} LUT levels and "
                   f"{depth['carry']} carry chains")
        table("", ["from", "to", "levels", "carry"],
              [(path["start"], path["end"], path["levels"], path["carry"])
               for path in depth["worst"]])
