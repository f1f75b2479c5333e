"""`systola simulate` and `systola conform`."""

import dataclasses

import click

from systola.cli.network import SETTINGS
from systola.cli.report import config_option, emit, json_option, progress, table

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


@click.command()
@click.option("--model", "source", metavar="MODEL", help="`digits`, or a file: an integer model "
              "from `systola quantize`, or a float checkpoint.")
@click.option("--random", "is_random", is_flag=True,
              help="A random small network on a random small accelerator instead.")
@click.option("--seed", type=int, metavar="N", help="Which random one [default: 0].")
@click.option("--images", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Test images to run.")
@click.option("--data", metavar="FILE", help="Images and labels (.npz or .safetensors); default: "
              "the digits.")
@config_option
@click.option("--stalls", type=int, metavar="SEED",
              help="Stall both streams at random; cycle figures then mean nothing.")
@click.option("--trace/--no-trace", default=True, show_default=True,
              help="Also run a program that stores every intermediate tensor, and compare them.")
@_SIMULATOR
@json_option
def simulate(source, is_random, seed, images, data, config, stalls, trace, simulator, as_json):
    """Run a network on the simulated Verilog and compare every tensor with the integer model.

    The accelerator of --config is generated, compiled (kept for the next time), loaded over its AXI
    ports by the driver and run image by image. Ends with exit code 1 on any difference.
    """
    from systola.sim.simulate import simulate as run

    if seed is not None and not is_random:
        raise click.UsageError("--seed chooses a random case and needs --random")
    if is_random == (source is not None):
        raise click.UsageError("give either --model or --random")
    with progress("preparing the model") as update:
        if is_random:
            model, config, codes, labels = _random_case(seed or 0, images)
        else:
            model, codes, labels = _model_case(source, config, images, data, update)
        result = run(model, config, codes, trace=trace, seed=stalls, simulator=simulator,
                     optimize="-O0" if is_random else "-O1", progress=update)
    report = {"model": source or "random", **({"seed": seed or 0} if is_random else {}),
              "rows": config.rows, "cols": config.cols, **result.report()}
    if labels is not None:
        report["labels"] = labels.tolist()
        report["correct"] = int((result.logits.argmax(axis=1) == labels).sum())
    if as_json:
        emit(report)
    else:
        _show_simulation(report)
    return 1 if result.mismatches else 0


def _random_case(seed, images):
    from systola.sim.randomize import random_case

    return (*random_case(seed, images=images), None)


def _model_case(source, config, count, data, update):
    """Return model, codes and labels; a float checkpoint is quantized as `config` wants it."""
    from systola.model.evaluate import open_model
    from systola.model.files import is_integer_model
    from systola.model.images import encode, load_data

    settings = {} if source != "digits" and is_integer_model(source) else {
        name: getattr(config, name) for name in SETTINGS}
    model = open_model(source, data=data, progress=update, **settings)
    images, labels = load_data(data or "digits", "test")
    if count > len(images):
        raise click.UsageError(f"--images must be at most {len(images)}, the test images there "
                               f"are, not {count}")
    return model, encode(model, images[:count]), labels[:count]


def _show_simulation(report):
    """Print the figures for a reader."""
    click.echo(f"{report['images']} images on a {report['rows']} x {report['cols']} array: "
               f"{report['tensors_compared']} tensors with {report['elements_compared']:,} "
               f"elements compared, {report['mismatches']:,} mismatches")
    for name, count in report["differing"].items():
        click.echo(f"  {name}: {count:,} differ")
    if "correct" in report:
        click.echo(f"{report['correct']} of {report['images']} classified correctly")
    click.echo(f"{report['cycles']:,} cycles an image (predicted {report['cycles_predicted']:,}), "
               f"array utilisation {report['utilisation']:.1%}, simulated at "
               f"{report['cycles_per_second']:,.0f} cycles/s")
