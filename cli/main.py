"""The `systola` command: its groups, and how every error becomes one line."""

import importlib
import os
import signal
import sys
import threading

import click

from systola.cli.output import OutputError, PipeClosedError, guarded_output, silence

__all__ = ["cli", "main"]

_COMMANDS = {
    "demo": ("systola.cli.demo", "Run the whole chain on real digits and draw the result."),
    "quantize": ("systola.cli.quantize", "Turn a float checkpoint into an integer model."),
    "finetune": ("systola.cli.finetune", "Train an integer model as what it computes."),
    "evaluate": ("systola.cli.evaluate", "Compare float and integer accuracy on the test images."),
    "ablate": ("systola.cli.ablate", "Replace each operator alone: accuracy, error, cost."),
    "explore": ("systola.cli.explore", "Search a design space for the best accelerators."),
    "benchmark": ("systola.cli.benchmark", "Measure the speed of the integer model."),
    "inspect": ("systola.cli.inspect", "Show a network's graph: a table, data, or a picture."),
    "generate": ("systola.cli.synth", "Write Verilog, C header, FuseSoC file and manifest."),
    "synth": ("systola.cli.synth", "Synthesize and list LUT, FF, CARRY, DSP, BRAM by module."),
    "timing": ("systola.cli.timing", "Place and route on an ECP5 for the clock frequency."),
    "report": ("systola.cli.report", "Area, energy and power; everything on one page."),
    "simulate": ("systola.cli.simulate", "Run a model on simulated Verilog, and compare."),
    "predict": ("systola.cli.predict", "Compare predicted cycles with simulated ones."),
    "conform": ("systola.cli.simulate", "Compare with published golden vectors."),
    "run": ("systola.cli.run", "Run a model on a board, over its serial port."),
    "flash": ("systola.cli.flash", "Write a program into a board's memory, list or remove them."),
    "selftest": ("systola.cli.selftest", "Test a board part by part, and name what is wrong."),
    "serve": ("systola.cli.run", "Simulate a board, serial port included."),
    "soak": ("systola.cli.soak", "Hostile programs and line faults against simulated hardware."),
}


class _Lazy(click.Group):
    """Imports a command's module when the command is used, so that help is instant."""

    def list_commands(self, ctx):
        return list(_COMMANDS)

    def get_command(self, ctx, name):
        if name not in _COMMANDS:
            return None
        return getattr(importlib.import_module(_COMMANDS[name][0]), name)

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"],
                                          "max_content_width": 100})
@click.version_option(package_name="systola")
def cli():
    """Integer-only Vision Transformers on a generated FPGA accelerator.

    \b
    A first tour:
      systola demo                         everything below, in one go
      systola evaluate --model digits      what quantization costs in accuracy
      systola simulate --model digits      the model on the simulated Verilog
      systola generate -o build/digits     that Verilog
      systola synth                        and its size on an FPGA

    Every command explains itself with --help. What is compiled is kept in build/sim of the
    current folder, or where SYSTOLA_CACHE says. Exit codes: 0 success, 1 a comparison or a
    simulation failed, 2 wrong input.
    """


_SIGPIPE = 128 + 13
"""Exit code of a program that ends because nobody reads its output, whatever it is called."""

_POSIX = "fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"
"""Modules of Python that only POSIX systems have."""


def main(args=None):
    """Run the command line and return the exit code.

    Wrong input, or a package that is not installed, ends with one line on stderr and code 2. With
    ``SYSTOLA_DEBUG`` set, the traceback comes instead.
    """
    _end_tools_with_this()
    try:
        with guarded_output():
            return _run(args)
    except click.exceptions.Abort:
        return _complain("interrupted", 130)
    except click.ClickException as error:
        return _complain(error.format_message(), 2)
    except PipeClosedError:
        silence(sys.stdout)
        return _SIGPIPE
    except OutputError as error:
        silence(sys.stdout)
        return _complain(str(error), 2)
    except (ValueError, OSError, MemoryError, ImportError) as error:
        if os.environ.get("SYSTOLA_DEBUG"):
            raise
        return _complain(_text(error), 2)
    except RuntimeError as error:
        if os.environ.get("SYSTOLA_DEBUG"):
            raise
        return _complain(str(error), 1, lines=True)


def _end_tools_with_this():
    """Have Ctrl-C and SIGTERM end synthesis, place and route as well, and leave nothing behind."""
    if threading.current_thread() is not threading.main_thread():
        return

    def end(number, frame):
        tools = sys.modules.get("systola.boards.synthesis.watch")
        if tools:
            tools.end_all()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in signal.SIGINT, signal.SIGTERM:
        if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
            signal.signal(number, end)


def _run(args):
    try:
        return cli.main(args, prog_name="systola", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        return 0


def _text(error):
    if isinstance(error, MemoryError):
        what = f" ({error})" if str(error) else ""
        return (f"out of memory{what}: use fewer images, a smaller network or accelerator, or a "
                f"machine with more")
    if isinstance(error, ImportError) and error.name in _POSIX:
        return f"{error}: this part of systola needs a POSIX system (Linux, or WSL on Windows)"
    if isinstance(error, ImportError):
        from systola.cli.missing import missing

        return missing(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename!r}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _complain(text, code, *, lines=False):
    """Print an error in one line, or as it is, and return `code`."""
    try:
        print(f"systola: {text if lines else ' '.join(text.split())}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads standard error, and its end must not change the exit code
        silence(sys.stderr)
    return code
