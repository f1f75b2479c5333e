"""`systola simulate` and `systola conform`."""

import dataclasses
from pathlib import Path

import click

from systola.cli.cluster_options import chosen_cluster, cluster_options
from systola.cli.console import (
    CONFIGURATION,
    emit,
    given_options,
    json_option,
    progress,
    table,
)
from systola.cli.memory_option import memory_option
from systola.cli.model_options import say_images
from systola.hw.contract.config import ATTENTIONS

__all__ = ["conform", "simulate"]

_SIMULATOR = click.option("--simulator", type=click.Choice(["verilator", "icarus"]),
                          default="verilator", show_default=True, help="Verilog simulator.")


@click.command()
@click.argument("folder", metavar="DIR")
@click.option("--rtl", is_flag=True, help="Compute with the simulated Verilog of the units instead "
              "of the integer models (compiles them first).")
@_SIMULATOR
@json_option
@click.pass_context
def conform(ctx, folder, rtl, simulator, as_json):
    """Compare the integer arithmetic with golden vectors of the published implementations.

    DIR holds .npz files laid out like tests/golden, of any shapes and scales. Judged arrays must
    be equal, element by element, or where the publication rounds in float32 as near as the row's
    note says; the published float32 runs are shown for comparison only. Ends with exit code 1 if a
    judged array differs.
    """
    from systola.sim.conform.conform import passed

    if "simulator" in given_options(ctx) and not rtl:
        raise click.UsageError("--simulator needs --rtl: the integer models run without one")
    rows = _conform_rtl(folder, simulator) if rtl else _conform_models(folder)
    ok = passed(rows)
    if as_json:
        emit({"passed": ok, "engine": "rtl" if rtl else "models",
              "rows": [{**dataclasses.asdict(row), "failed": row.failed} for row in rows]})
    else:
        _show(rows)
    return 0 if ok else 1


def _conform_models(folder):
    from systola.sim.conform.conform import conform as compare

    with progress("comparing") as update:
        return compare(folder, progress=lambda done, total, name: update(done, total, name))


def _conform_rtl(folder, simulator):
    from systola.sim.conform.conform import conform as compare
    from systola.sim.conform.rtl_engine import RtlEngine

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
    bounded = [row for row in rows if row.status == "judged to a bound"]
    failed = sum(row.failed for row in rows)
    near = f", {len(bounded)} within a bound" if bounded else ""
    click.echo(f"\n{len(judged) + len(bounded)} judged arrays with "
               f"{sum(row.elements for row in judged + bounded):,} elements: "
               f"{f'{failed} FAILED' if failed else f'all equal{near}'}")


def _precisions(value):
    from systola.model.allocation.node_precisions import Precision

    try:
        return [Precision.parse(part) for part in value.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--linear-bits: {error}") from None


def _html(value):
    """Refuse now what would only be refused after the work."""
    path = Path(value)
    if path.suffix != ".html" or not path.absolute().parent.is_dir():
        raise click.UsageError(f"timeline must be an .html file in an existing folder, "
                               f"not {value!r}")
    return value


@click.command()
@click.option("--model", "source", metavar="MODEL", help="`digits`; `fashion`; deit_tiny, "
              "deit_small, vit_base, swin_tiny, text_causal or text_padded with "
              "--random-weights; an integer model from `systola quantize`, or a float checkpoint, "
              "a file or a folder.")
@click.option("--random", "is_random", is_flag=True,
              help="A random small network on a random small accelerator instead.")
@click.option("--random-weights", is_flag=True, help="Random weights of realistic magnitude, for "
              "models of which no checkpoint is shipped.")
@click.option("--linear-bits", metavar="WxA[,WxA...]", callback=lambda ctx, param, value: value and
              _precisions(value), help="With --random-weights, bits of the weights and operands of "
              "linear layers, in turn: `8x8,4x4` makes every second one 4 bits.")
@click.option("--seed", type=int, metavar="N", help="Which random ones [default: 0].")
@click.option("--blocks", type=click.IntRange(min=1), metavar="N", help="Only the first N encoder "
              "blocks, without patch embedding and head.")
@click.option("--images", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Test images to run.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="B",
              help="Images that one run of the program computes: it is sent once for all of them.")
@click.option("--data", metavar="PATH", help="Images and labels, as `systola evaluate` takes them; "
              "default: those of digits or fashion.")
@click.option("--config", metavar="CONFIG", help=f"Accelerator: {CONFIGURATION} [default: digits; "
              "with --random-weights, or for a file, the first preset that holds MODEL].")
@click.option("--attention", metavar="|".join(ATTENTIONS),
              help="Replaces the configuration's form of attention.")
@click.option("--stalls", type=int, metavar="SEED",
              help="Stall both streams at random; cycle figures then mean nothing.")
@click.option("--trace/--no-trace", default=True, show_default=True,
              help="Also run a program that stores every intermediate tensor, and compare them.")
@click.option("--pieces", is_flag=True, help="Run a network whose tensors do not fit the memory "
              "in pieces, layers and rows of them; what lies between goes out and in over the "
              "streams.")
@click.option("--timeline", metavar="FILE", callback=lambda ctx, param, value: value and
              _html(value), help="Write a picture (.html) of what the engines did.")
@memory_option("Play the program from a memory beside the accelerator")
@_SIMULATOR
@cluster_options
@json_option
def simulate(batch, stalls, trace, pieces, timeline, memory, simulator, workers, scheduler, as_json,
             **choice):
    """Run a network on the simulated Verilog and compare every tensor with the integer model.

    The accelerator of --config is generated, compiled (kept for the next time), loaded over its AXI
    ports by the driver and run batch by batch, which --workers share. Utilisation counts the
    multiply-accumulates of the model, each once, from the first load of weights to the last result.
    Ends with exit code 1 on any difference.
    """
    from systola.cli.cases import choose_case
    from systola.sim.runs.simulate import simulate as run
    from systola.sw_driver.compiler.layout import CompileError

    if timeline and stalls is not None:
        raise click.UsageError("--timeline needs a run without --stalls")
    if pieces and (batch > 1 or stalls is not None or timeline):
        raise click.UsageError("--pieces runs one image after the other, without --batch, --stalls "
                               "and --timeline")
    if pieces and (workers or scheduler):
        raise click.UsageError("--workers and --scheduler share whole runs, without --pieces")
    if memory and (pieces or stalls is not None):
        raise click.UsageError("--memory plays whole programs, without --pieces and --stalls")
    if batch > choice["images"]:
        raise click.UsageError(f"--batch must be at most the {choice['images']} of --images, "
                               f"not {batch}")
    with progress("preparing the model") as update, chosen_cluster(workers, scheduler) as cluster:
        case = choose_case(**choice, update=update)
        if pieces:
            return _run_pieces(case, trace, simulator, update, as_json)
        try:
            result = run(case.model, case.config, case.inputs, batch=batch, trace=trace,
                         seed=stalls, simulator=simulator, progress=update,
                         memory=memory, cluster=cluster,
                         optimize="-O0" if choice["is_random"] else "-Os")
        except CompileError as error:
            if "scratchpad" not in str(error):
                raise
            raise CompileError(f"{error}; or --pieces, with tensors out and in over the streams",
                               **error.needs) from None
    config = case.config
    report = {**case.about, "rows": config.rows, "cols": config.cols,
              "attention": config.attention, **result.report()}
    if case.labels is not None:
        report["labels"] = case.labels.tolist()
        report["correct"] = int((result.logits.argmax(axis=1) == case.labels).sum())
    if timeline:
        _write_page(timeline, report, result.timeline)
    if as_json:
        emit(report)
    else:
        say_images(report.get("data"))
        _show_simulation(report)
    return 1 if result.mismatches else 0


def _run_pieces(case, trace, simulator, update, as_json):
    from systola.sim.runs.piecewise import simulate_pieces

    result = simulate_pieces(case.model, case.config, case.inputs, trace=trace,
                             simulator=simulator, progress=update)
    report = {**case.about, "rows": case.config.rows, "cols": case.config.cols,
              "attention": case.config.attention, **result.report()}
    if as_json:
        emit(report)
    else:
        _show_pieces(report)
    return 1 if result.mismatches else 0


def _show_pieces(report):
    """Print the figures of a network in pieces."""
    click.echo(f"{report['images']} images in {len(report['pieces'])} pieces on a "
               f"{report['rows']} x {report['cols']} array: {report['tensors_compared']} tensors "
               f"with {report['elements_compared']:,} elements compared, "
               f"{report['mismatches']:,} mismatches")
    for name, count in report["differing"].items():
        click.echo(f"  {name}: {count:,} differ")
    click.echo(f"{report['cycles']:,} cycles for an image (predicted "
               f"{report['cycles_predicted']:,}), array utilisation {report['utilisation']:.1%}; "
               f"{report['bytes_per_cycle']} bytes a cycle over the streams")
    table("\nPieces:", ["from", "to", "rows", "runs", "cycles", "its bytes in", "its bytes out",
                        "all bytes in"],
          [(row["source"], row["target"], row["rows"], row["runs"], f"{row['cycles']:,}",
            f"{row['rows_in']:,}", f"{row['rows_out']:,}", f"{row['bytes_in']:,}")
           for row in report["pieces"]])


def _write_page(path, report, timeline):
    from systola.report.timeline_page import timeline_page

    title = f"{report['model']} on {report['rows']} x {report['cols']}"
    Path(path).write_text(timeline_page(timeline, title, report), encoding="utf-8")


def _show_simulation(report):
    """Print the figures for a reader."""
    if "config" in report:
        click.echo(f"accelerator: {report['config']}")
    click.echo(f"{report['images']} images on a {report['rows']} x {report['cols']} array: "
               f"{report['tensors_compared']} tensors with {report['elements_compared']:,} "
               f"elements compared, {report['mismatches']:,} mismatches")
    for name, count in report["differing"].items():
        click.echo(f"  {name}: {count:,} differ")
    if "correct" in report:
        click.echo(f"{report['correct']} of {report['images']} classified correctly")
    run = "image" if report["batch"] == 1 else f"run of {report['batch']} images"
    click.echo(f"{report['cycles']:,} cycles for a {run} "
               f"(predicted {report['cycles_predicted']:,}), "
               f"simulated at {report['cycles_per_second']:,.0f} cycles/s")
    first, last = report["window"]
    beyond = "" if report["overhead"] is None else (
        f", {report['overhead']:.2%} beyond the {report['passes']:,} cycles of the tiles' passes")
    click.echo(f"array utilisation {report['utilisation']:.1%} of {last - first:,} cycles from "
               f"the first weights to the last result{beyond}")
    if memory := report["scratchpad"]:
        click.echo(f"scratchpad words: {memory['peak']:,} at once, {memory['attention']:,} of "
                   f"attention in all")
    if memory := report["memory"]:
        click.echo(f"{memory['program']:,} bytes of program from {memory['name']}: "
                   f"{memory['needed']:.2f} bytes a cycle needed, {memory['given']:.2f} there, "
                   f"{memory['used']:.2f} used")
    if "array_idle" in report:
        _show_idle(report["array_idle"], last - first)
    layers = [row for row in report["bandwidth"] or ()
              if not row["name"].startswith("blocks.") or row["name"].startswith("blocks.0.")]
    if layers:  # the other blocks' are the same
        table("\nWeights from the stream:", ["layer", "bytes", "cycles", "bytes a cycle", "as"],
              [(row["name"], row["weight_bytes"], row["cycles"], f"{row['bytes_per_cycle']:.2f}",
                row["form"]) for row in layers])


def _show_idle(idle, cycles):
    from systola.sim.runs.timeline import CAUSES

    table("\nThe array stood still, waiting for:", ["", "cycles", "share"],
          [(text, idle[cause], f"{idle[cause] / cycles:.2%}") for cause, text in CAUSES.items()])
