"""`systola generate` and `systola synth`."""

import click

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
@json_option
def synth(config, family, as_json):
    """Synthesize with Yosys for a Xilinx FPGA and list what every module needs.

    LUT, flip-flops (FF), carry chains (CARRY), DSP slices and block RAM by module. No place and
    route, so no timing.
    """
    from systola.boards.synth import synthesize

    with progress("synthesizing (minutes for a large array)") as update:
        result = synthesize(config, family=family,
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
