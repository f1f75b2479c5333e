"""`systola run` and `systola serve`: a model on a board, and a simulated board."""

import contextlib
import time
from pathlib import Path

import click

from systola.cli.board_link import (
    built_option,
    check_link,
    find_config,
    link_options,
    open_link,
)
from systola.cli.console import config_option, emit, json_option, progress
from systola.cli.model_options import say_images

__all__ = ["run", "serve"]


@click.command()
@link_options
@click.option("--model", "source", required=True, metavar="MODEL",
              help="`digits`, `fashion`, an integer model from `systola quantize`, or a "
                   "float checkpoint.")
@click.option("--images", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Test images to run.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="B",
              help="Images that one run computes: the program is sent once for all of them.")
@click.option("--data", metavar="PATH", help="Images and labels, as `systola evaluate` takes them; "
              "default: those of digits or fashion.")
@built_option
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0,
              show_default=True, metavar="S", help="Seconds that an image may take on the board.")
@json_option
@click.pass_context
def run(ctx, port, baud, registers, source, images, batch, data, config, timeout, as_json):
    """Run a model on a board and compare its results with the integer model.

    The board tells which configuration it was built from; the model is compiled for that. Ends
    with exit code 1 if the board does not answer, refuses the program, or gives another result.
    """
    from systola.cli.cases import choose_case
    from systola.model.graph.integer_forward import forward
    from systola.sw_driver.compiler.compiler import batches, compile_network
    from systola.sw_driver.driver.driver import Accelerator

    check_link(ctx, port, registers)
    if batch > images:
        raise click.UsageError(f"--batch must be at most the {images} of --images, not {batch}")
    with progress("opening the board") as update:
        transport = open_link(port, baud, registers)
        with contextlib.closing(transport):
            accelerator = Accelerator(transport, timeout=timeout)
            built = find_config(accelerator.config_hash, config)
            update(text="preparing the model")
            case = choose_case(source, is_random=False, random_weights=False, config=built,
                               attention=None, blocks=None, seed=None, images=images, data=data,
                               update=update)
            name = case.model.outputs[0]
            program = compile_network(case.model, case.config, images=batch)
            expected = forward(case.model, case.inputs, keep=[name])[name][:, 0]
            accelerator.load(program)
            start, logits, runs = time.monotonic(), [], batches(images, batch)
            for chosen in runs:
                update(chosen[0], images, f"image {chosen[0] + 1} of {images}")
                found = accelerator.run({
                    input_name: values[chosen] if batch > 1 else values[chosen[0]]
                    for input_name, values in case.inputs.items()})[name]
                # What only fills the last run repeats its last image.
                logits += list(found.reshape(batch, -1)[:images - len(logits)])
            seconds = time.monotonic() - start
            counters = accelerator.counters()
    report = {
        **case.about, "port": port or registers, "config": built, "images": images,
        "mismatches": sum(int((got != want).sum())
                          for got, want in zip(logits, expected, strict=True)),
        "predictions": [int(row.argmax()) for row in logits], "labels": case.labels.tolist(),
        "correct": sum(int(row.argmax() == label)
                       for row, label in zip(logits, case.labels, strict=True)),
        "logits": [row.tolist() for row in logits], "bytes": len(program.stream),
        "seconds": round(seconds, 3), "cycles": counters["cycles"], "counters": counters,
        "batch": batch, "runs": len(runs),
        "repeats": transport.channel.repeats if port else 0,
    }
    if as_json:
        emit(report)
    else:
        say_images(report["data"])
        click.echo(f"{images} images on {built} at {report['port']}: {report['correct']} "
                   f"classified correctly, {report['mismatches']} values differ from the integer "
                   f"model")
        click.echo(f"{report['cycles']:,} cycles for a run of {batch} on the board, "
                   f"{seconds / images:.2f} s an image with {report['bytes']:,} bytes to send a "
                   f"run; {report['repeats']} repetitions on the line")
        if report["mismatches"]:
            click.echo(f"which part of the board is wrong: systola selftest "
                       f"{f'--port {port}' if port else f'--registers {registers}'}"
                       f"{f' --config {config}' if config else ''}")
    return 1 if report["mismatches"] else 0


@click.command()
@config_option
@click.option("--link", default="build/board", show_default=True, metavar="PATH",
              help="Where to put the serial port.")
def serve(config, link):
    """Simulate a board; its serial port is a pseudo-terminal.

    UART, channel and accelerator are those that go onto boards, with fewer clock cycles a bit.
    `systola run --port build/board --model digits`, in another terminal, does what it does with a
    real one. Ends with Ctrl-C.
    """
    from systola.sim.runs.serve import serve_board

    Path(link).absolute().parent.mkdir(parents=True, exist_ok=True)
    with progress("compiling the board") as update, serve_board(config, link) as alive:
        update(text=f"serving at {link}")
        click.echo(f"serial port: {link}")
        try:
            while alive():
                time.sleep(0.2)
        except KeyboardInterrupt:
            pass
    return 0
