"""`systola flash`: the programs in a board's memory."""

import contextlib

import click

from systola.cli.board_link import (
    baud_option,
    built_option,
    find_config,
    open_link,
    port_option,
    timeout_option,
)
from systola.cli.console import emit, given_options, json_option, progress, table
from systola.cli.run import program_name

__all__ = ["flash"]


@click.command()
@port_option
@baud_option
@click.option("--model", "source", metavar="MODEL", help="Write its program: `digits`, `fashion`, "
              "an integer model from `systola quantize`, or a float checkpoint.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="B",
              help="Images that one run of the program computes.")
@click.option("--name", metavar="NAME", help="What to call it; default: as the model, with the "
              "batch.")
@click.option("--readback/--no-readback", default=True, show_default=True,
              help="Read the program again, byte by byte, beside comparing its checksum.")
@click.option("--remove", metavar="NAME", help="Instead: take this program off the board.")
@built_option
@timeout_option
@json_option
@click.pass_context
def flash(ctx, port, baud, source, batch, name, readback, remove, config, timeout, as_json):
    """Write a model's program into a board's memory, for `systola run --resident`.

    Without --model and --remove, lists the programs that are there. The memory loses them with
    its power. Ends with exit code 1 if the board does not answer or its memory does not keep what
    is written.
    """
    from systola.sw_driver.driver.driver import Accelerator
    from systola.sw_driver.driver.resident import ResidentPrograms

    if port is None:
        raise click.UsageError("--port is missing")
    if source and remove:
        raise click.UsageError("give either --model or --remove")
    unused = [option for key, option in given_options(ctx).items()
              if key in {"batch", "name", "readback"} and not source]
    if unused:
        raise click.UsageError(f"{unused[0]} is about a program to write: it needs --model")
    written = None
    with progress("opening the board") as update:
        transport = open_link(port, baud, None, timeout)
        with contextlib.closing(transport):
            accelerator = Accelerator(transport, timeout=timeout)
            built = find_config(accelerator.config_hash, config)
            programs = ResidentPrograms(accelerator)
            if remove:
                programs.remove(remove)
            if source:
                program = _compiled(source, built, batch, update)
                name = name or program_name(source, batch)
                written = programs.flash(name, program, readback=readback,
                                         progress=lambda done, total: update(
                                             done, total, f"writing {name}"))
    directory, beat = programs.directory, programs.bus_bytes
    report = {
        "port": port, "config": built, "memory_bytes": directory.size * beat,
        "programs": [{"name": entry.name, "address": entry.address, "bytes": entry.beats * beat,
                      "crc32": f"{entry.crc:08x}"} for entry in directory.programs],
        "found_directory": programs.found,
        "written": written and {"name": written.name, "bytes": written.beats * beat,
                                "readback": readback},
    }
    if as_json:
        emit(report)
        return 0
    if written:
        click.echo(f"{report['written']['bytes']:,} bytes written as {written.name!r}, and "
                   f"{'read back' if readback else 'compared by checksum'}")
    title = f"resident programs on {built} at {port}, {report['memory_bytes']:,} bytes of memory"
    table(title, ["program", "first beat", "bytes", "CRC-32"],
          [[entry["name"], entry["address"], f"{entry['bytes']:,}", entry["crc32"]]
           for entry in report["programs"]])
    return 0


def _compiled(source, built, batch, update):
    """Return the program of a model for the configuration of the board."""
    from systola.cli.cases import choose_case
    from systola.sw_driver.compiler.compiler import compile_network

    update(text="preparing the model")
    case = choose_case(source, is_random=False, random_weights=False, config=built, attention=None,
                       blocks=None, seed=None, images=1, data=None, update=update)
    return compile_network(case.model, case.config, images=batch)
