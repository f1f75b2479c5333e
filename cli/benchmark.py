"""`systola benchmark`."""

import os

import click

from systola.cli.console import (
    emit,
    engine_option,
    engine_text,
    json_option,
    progress,
    table,
)

__all__ = ["benchmark"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def benchmark():
    """Measure how fast this machine computes."""


def _numbers(ctx, param, value):
    parts = value.split(",")
    if not all(part.isdecimal() and 1 <= int(part[:5]) <= 1024 for part in parts):
        raise click.UsageError(f"--{param.name} must be numbers from 1 to 1024 between commas, not "
                               f"{value!r}")
    return tuple(map(int, parts))


@benchmark.command("model")
@click.option("--model", "name", type=click.Choice(["deit_tiny", "deit_small", "vit_base"]),
              default="deit_tiny", show_default=True, help="Network, with random weights.")
@click.option("--blocks", type=click.IntRange(min=1), metavar="N",
              help="Encoder blocks [default: those of the network].")
@click.option("--batches", default="1,8,32", show_default=True, metavar="B,...",
              callback=_numbers, help="Images at once.")
@click.option("--threads", default="1,2", show_default=True, metavar="T,...", callback=_numbers,
              help="Threads that compute them.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, metavar="N",
              help="Measurements of each, of which the best counts.")
@engine_option
@json_option
def model(name, blocks, batches, threads, rounds, engine, as_json):
    """Images per processor second of the integer model, beside others on the same weights.

    The others are the definition in numpy, float PyTorch, and ONNX Runtime in float and int8, where
    they are installed. Ratios are those of one run: all take turns.
    """
    # Threads that wait by computing nothing would count as computing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from systola.model.benchmark.speed import RUNNERS, speed_report

    with progress("making the networks") as update:
        report = speed_report(name, blocks=blocks, batches=batches, threads=threads,
                              rounds=rounds, engine=engine, progress=update)
    if as_json:
        return emit(report)
    rates, ratios = report["images_per_processor_second"], report["ratios"]
    cases = list(rates["systola"])
    table(f"{name}, images per processor second (batch x threads):",
          ["", *cases, "systola is so many times as fast"],
          [(RUNNERS[runner], *(f"{rate[case]:.1f}" if case in rate else "" for case in cases),
            " ".join(f"{ratio:.2f}" for ratio in ratios.get(runner, {}).values()))
           for runner, rate in rates.items()])
    click.echo(f"integers computed by {engine_text(report['engine'])}")
    for runner, reason in report["left_out"].items():
        click.echo(f"without {RUNNERS[runner]}: {reason}")
    memory = ", ".join(f"{value:.1f} at batch {batch}"
                       for batch, value in report["memory_mbyte"].items())
    click.echo(f"peak memory in Mbyte: {memory}")
    return None
