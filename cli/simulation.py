"""`systola simulate` and `systola conform`."""

import dataclasses

import click

from systola.cli.report import emit, json_option, progress, table

__all__ = ["conform", "simulate"]

_SIMULATOR = click.option("--simulator", type=click.Choice(["verilator", "icarus"]),
                          default="verilator", show_default=True, help="Verilog simulator.")


@click.command()
@click.argument("folder", metavar="DIR")
@click.option("--rtl", is_flag=True, help="Compute with the simulated Verilog of the units instead "
              "of the integer models (compiles them first).")
@_SIMULATOR
@json_option
def conform(folder, rtl, simulator, as_json):
    """Compare the integer arithmetic with golden vectors of the published implementations.

    DIR holds .npz files laid out like tests/golden, of any shapes and scales. Judged arrays must
    be equal, element by element; the published float32 runs are shown for comparison only. Ends
    with exit code 1 if a judged array differs.
    """
    from systola.sim.conform import passed

    rows = _conform_rtl(folder, simulator) if rtl else _conform_models(folder)
    ok = passed(rows)
    if as_json:
        emit({"passed": ok, "engine": "rtl" if rtl else "models",
              "rows": [{**dataclasses.asdict(row), "failed": row.failed} for row in rows]})
    else:
        _show(rows)
    return 0 if ok else 1


def _conform_models(folder):
    from systola.sim.conform import conform as compare

    with progress("comparing") as update:
        return compare(folder, progress=lambda done, total, name: update(done, total, name))


def _conform_rtl(folder, simulator):
    from systola.sim.conform import conform as compare
    from systola.sim.rtl import RtlEngine

    with progress("simulating") as update, RtlEngine(simulator=simulator,
                                                     progress=update) as engine:
        return compare(folder, engine,
                       progress=lambda done, total, name: update(done, total, f"simulating {name}"))


def _show(rows):
    def line(row):
        exact = "" if row.exact is None else f"{row.exact:.2f}" if row.exact < 100 else "100"
        largest = "" if row.largest is None else f"{row.largest:g}"
        return (row.file, row.operator, row.array, "FAILED" if row.failed else row.status,
                row.elements, exact, largest, row.note)

    table("", ["file", "operator", "array", "status", "elements", "exact %", "largest", "note"],
          [line(row) for row in rows])
    judged = [row for row in rows if row.status in {"judged", "by arithmetic"}]
    failed = sum(row.failed for row in rows)
    click.echo(f"\n{len(judged)} judged arrays with {sum(row.elements for row in judged):,} "
               f"elements: {f'{failed} FAILED' if failed else 'all equal'}")
