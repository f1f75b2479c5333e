"""`systola selftest`."""

import contextlib
import time

import click

from systola.cli.board_link import built_option, check_link, find_config, link_options, open_link
from systola.cli.console import emit, json_option, progress

__all__ = ["selftest"]


@click.command()
@link_options
@built_option
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0,
              show_default=True, metavar="S", help="Seconds that one part may take on the board.")
@json_option
@click.pass_context
def selftest(ctx, port, baud, registers, config, timeout, as_json):
    """Test a board part by part, and name what is wrong.

    Short programs with known answers exercise the memories, the array, the requantizer and the
    units of the VECTOR engine; what differs from the answers tells the bank, lane and bit of a
    memory, or the row and columns of a cell. The board tells which configuration it was built from.
    Ends with exit code 1 if something is wrong, or the board does not answer.
    """
    from systola.hw.contract.config import AcceleratorConfig
    from systola.sw_driver.driver.driver import Accelerator
    from systola.sw_driver.selftest.self_test import SelfTest

    check_link(ctx, port, registers)
    with progress("opening the board") as update:
        transport = open_link(port, baud, registers)
        with contextlib.closing(transport):
            accelerator = Accelerator(transport, timeout=timeout)
            built = find_config(accelerator.config_hash, config)
            update(text="preparing the programs")
            test = SelfTest(AcceleratorConfig.load(built))
            start = time.monotonic()
            parts = test.run(accelerator, progress=update)
            seconds = time.monotonic() - start
    report = {
        "port": port or registers, "config": built,
        "passed": all(part.outcome in {"passed", "untested"} for part in parts),
        "parts": [{"part": part.part, "outcome": part.outcome, "note": part.note,
                   "findings": [{"text": one.text, "where": one.where, "certain": one.certain}
                                for one in part.findings]} for part in parts],
        "bytes_in": test.bytes_in, "bytes_out": test.bytes_out, "seconds": round(seconds, 3),
        "repeats": transport.channel.repeats if port else 0,
    }
    if as_json:
        emit(report)
    else:
        _show(report)
    return 0 if report["passed"] else 1


def _show(report):
    click.echo(f"{report['config']} at {report['port']}:")
    for part in report["parts"]:
        note = f" ({part['note']})" if part["note"] else ""
        click.echo(f"  {part['part']:<22} {part['outcome']}{note}")
        for one in part["findings"]:
            click.echo(f"    {one['text']}")
    verdict = "all parts pass" if report["passed"] else "something is wrong"
    click.echo(f"{verdict}: {report['seconds']:.1f} s, {report['bytes_in']:,} bytes out and "
               f"{report['bytes_out']:,} back; {report['repeats']} repetitions on the line")
