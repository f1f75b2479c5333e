"""`systola run` and `systola serve`: a model on a board, and a simulated board."""

import contextlib
import time
from collections import Counter
from pathlib import Path

import click

from systola.cli.board_link import (
    built_option,
    check_link,
    find_config,
    link_options,
    open_link,
    timeout_option,
)
from systola.cli.console import config_option, emit, given_options, json_option, progress
from systola.cli.memory_option import memory_option
from systola.cli.model_options import say_images

__all__ = ["program_name", "run", "serve"]


@click.command()
@link_options
@click.option("--model", "source", required=True, metavar="MODEL",
              help="`digits`, `fashion`, an integer model from `systola quantize`, or a "
                   "float checkpoint.")
@click.option("--images", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Test images to run.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="B",
              help="Images that one run computes: the program is sent once for all of them.")
@click.option("--resident", is_flag=True, help="Run the program from the board's memory, where it "
              "is written first if it is not there: then only inputs and results cross the link.")
@click.option("--name", metavar="NAME", help="Name of the resident program; default: that of the "
              "model and the batch.")
@click.option("--data", metavar="PATH", help="Images and labels, as `systola evaluate` takes them; "
              "default: those of digits or fashion.")
@built_option
@timeout_option
@json_option
@click.pass_context
def run(ctx, port, baud, registers, source, images, batch, resident, name, data, config, timeout,
        as_json):
    """Run a model on a board and compare its results with the integer model.

    The board tells which configuration it was built from; the model is compiled for that. Ends
    with exit code 1 if the board does not answer, refuses the program, or gives another result.
    """
    from systola.cli.cases import choose_case
    from systola.model.graph.integer_forward import forward
    from systola.sw_driver.compiler.compiler import batches, compile_network
    from systola.sw_driver.driver.driver import Accelerator

    check_link(ctx, port, registers)
    if registers and resident:
        raise click.UsageError("--resident needs --port: an accelerator behind --registers has no "
                               "memory for programs")
    if name is not None and not resident:
        raise click.UsageError("--name is that of a resident program: it needs --resident")
    if batch > images:
        raise click.UsageError(f"--batch must be at most the {images} of --images, not {batch}")
    with progress("opening the board") as update:
        transport = open_link(port, baud, registers, timeout)
        with contextlib.closing(transport):
            accelerator = Accelerator(transport, timeout=timeout)
            built = find_config(accelerator.config_hash, config)
            update(text="preparing the model")
            case = choose_case(source, is_random=False, random_weights=False, config=built,
                               attention=None, blocks=None, seed=None, images=images, data=data,
                               update=update)
            output = case.model.outputs[0]
            program = compile_network(case.model, case.config, images=batch)
            expected = forward(case.model, case.inputs, keep=[output])[output][:, 0]
            accelerator.load(program)
            chosen = batches(images, batch)
            inputs = [{key: values[part] if batch > 1 else values[part[0]]
                       for key, values in case.inputs.items()} for part in chosen]
            written = None
            if resident:
                name = name or program_name(source, batch)
                programs, written = _written(accelerator, name, program, update)
                runs = programs.run(name, program, inputs)
            else:
                runs = map(accelerator.run, inputs)
            start, logits, traffic = time.monotonic(), [], []
            for number, part in enumerate(chosen):
                update(part[0], images, f"image {part[0] + 1} of {images}")
                before = Counter(transport.traffic) if port else None
                found = next(runs)[output]
                if port:
                    traffic.append(dict(transport.traffic - before))
                    if number == 0:
                        first = time.monotonic() - start
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
        "seconds": round(seconds, 3), "images_per_second": round(images / seconds, 3),
        "cycles": counters["cycles"], "counters": counters, "batch": batch, "runs": len(chosen),
        "repeats": transport.channel.repeats if port else 0,
        **({"link_bytes": traffic, "first_run_seconds": round(first, 3)} if port else {}),
        **({"resident": {"name": name, "written": written}} if resident else {}),
    }
    if as_json:
        emit(report)
    else:
        _say(report, seconds, f"{'--port' if port else '--registers'} {report['port']}"
                              f"{f' --config {config}' if config else ''}")
    return 1 if report["mismatches"] else 0


def program_name(source, batch):
    """Return the name that a resident program of model `source` has if none is given."""
    stem = Path(source).stem[:24]
    return stem if batch == 1 else f"{stem}-{batch}"


def _written(accelerator, name, program, update):
    """Return the `ResidentPrograms` with `program` in it, and whether it had to be written."""
    from systola.sw_driver.driver.resident import ResidentPrograms

    programs = ResidentPrograms(accelerator)
    if programs.holds(name, program):
        return programs, False
    # Its checksum is compared, and again with every run: no need to read it again.
    programs.flash(name, program, readback=False, progress=lambda done, total: update(
        done, total, f"writing {name} to the board"))
    return programs, True


def _say(report, seconds, board):
    """Print what a run has shown, on the board that the options `board` find."""
    say_images(report["data"])
    images, batch = report["images"], report["batch"]
    click.echo(f"{images} images on {report['config']} at {report['port']}: {report['correct']} "
               f"classified correctly, {report['mismatches']} values differ from the integer "
               f"model")
    if "resident" in report:
        last = report["link_bytes"][-1]
        click.echo(f"{report['cycles']:,} cycles for a run of {batch} on the board; "
                   f"{report['images_per_second']:.2f} images a second from its program "
                   f"{report['resident']['name']!r}, "
                   f"{'written just now' if report['resident']['written'] else 'which was there'}")
        click.echo(f"bytes of the last run on the line: {last.get('inputs', 0):,} of inputs, "
                   f"{last.get('results', 0):,} of results, {last.get('control', 0):,} of "
                   f"commands; {report['repeats']} repetitions")
    else:
        click.echo(f"{report['cycles']:,} cycles for a run of {batch} on the board, "
                   f"{seconds / images:.2f} s an image with {report['bytes']:,} bytes to send a "
                   f"run; {report['repeats']} repetitions on the line")
    if report["mismatches"]:
        click.echo(f"which part of the board is wrong: systola selftest {board}")


@click.command()
@config_option
@click.option("--link", default="build/board", show_default=True, metavar="PATH",
              help="Where to put the serial port.")
@memory_option("Give the board a memory for resident programs")
@click.option("--memory-bytes", type=click.IntRange(min=2048), default=1 << 22, show_default=True,
              metavar="N", help="With --memory bram, its size.")
@click.pass_context
def serve(ctx, config, link, memory, memory_bytes):
    """Simulate a board; its serial port is a pseudo-terminal.

    UART, channel and accelerator are those that go onto boards, with fewer clock cycles a bit.
    `systola run --port build/board --model digits`, in another terminal, does what it does with a
    real one. Ends with Ctrl-C.
    """
    from systola.sim.runs.serve import serve_board

    if memory != "bram" and "memory_bytes" in given_options(ctx):
        raise click.UsageError("--memory-bytes is the size of block RAM: it needs --memory bram")
    Path(link).absolute().parent.mkdir(parents=True, exist_ok=True)
    with (progress("compiling the board") as update,
          serve_board(config, link, memory=memory, memory_bytes=memory_bytes) as alive):
        update(text=f"serving at {link}")
        click.echo(f"serial port: {link}")
        try:
            while alive():
                time.sleep(0.2)
        except KeyboardInterrupt:
            pass
    return 0
