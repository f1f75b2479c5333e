"""What commands share: JSON on stdout, tables, progress on stderr, common options."""

import contextlib
import json
import threading
from pathlib import Path

import click
from click.core import ParameterSource

__all__ = ["CONFIGURATION", "config_option", "emit", "engine_option", "engine_text",
           "given_options", "json_option", "picture_file", "progress", "table"]

CONFIGURATION = ("a preset (digits, small, tiny, arty_s7_50, arty_s7_50_mixed, "
                 "arty_s7_50_small, array_16x8, array_16x16, array_16x16_large, windows, "
                 "swin_tiny, texts, ulx3s_85f, ulx3s_85f_large) or a .toml or .json file of fields")
"""What a configuration may be; the names of the presets without what they are made with."""

json_option = click.option("--json", "as_json", is_flag=True,
                           help="Print one JSON object on stdout and nothing else.")

config_option = click.option(
    "--config", "config", default="digits", show_default=True, metavar="CONFIG",
    callback=lambda ctx, param, value: _config(value),
    help=f"Accelerator: {CONFIGURATION}.")

engine_option = click.option(
    "--engine", default="auto", show_default=True, metavar="auto|c|numpy",
    callback=lambda ctx, param, value: _engine(value),
    help="What computes the integer model: a kernel in C, compiled for this machine at its first "
         "use, or numpy; changes no result.")


def engine_text(report):
    """Return in words what `systola.model.kernel.engine.engine_report` says."""
    if report["engine"] == "numpy":
        return f"numpy{': ' if 'reason' in report else ''}{report.get('reason', '')}"
    left = len(report["numpy_nodes"])
    return (f"a kernel in C ({report['instructions']}, {report['compiler']})"
            + (f", {left} nodes by numpy" if left else ""))


def _engine(value):
    from systola.model.kernel.engine import check_engine

    check_engine(value)
    return value


def _config(value):
    from systola.hw.contract.config import AcceleratorConfig

    return AcceleratorConfig.load(value)


def given_options(ctx):
    """Return the options on the command line, ``{parameter: "--option"}``, defaults left out.

    For refusing by name what a command would ignore.
    """
    return {param.name: max(param.opts, key=len) for param in ctx.command.params
            if ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE}


def picture_file(name, value):
    """Return the option's path of a picture; refuse now what would only be refused after work."""
    from systola.report.diagram import FORMATS

    path = Path(value)
    if path.suffix not in FORMATS or not path.absolute().parent.is_dir():
        raise click.UsageError(f"{name} must be a file that ends in {' or '.join(FORMATS)}, in an "
                               f"existing folder, not {value!r}")
    return value


def emit(result):
    """Print `result` as the command's only output; numpy numbers and arrays are allowed."""
    click.echo(json.dumps(result, indent=2, default=lambda value: value.tolist()))


def table(title, columns, rows):
    """Print rows of text or numbers under `columns`, numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        number = any(isinstance(row[index], int | float) for row in rows)
        grid.add_column(name, justify="right" if number else "left", no_wrap=index == 0)
    for row in rows:
        grid.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    console = Console()
    # Into a file or pipe, lines are as long as they need to be.
    Console(width=None if console.is_terminal else 160, soft_wrap=False).print(grid)


@contextlib.contextmanager
def progress(text):
    """Show `text` with a running clock on stderr; yields ``update(done, total, text=None)``.

    Off a terminal, or without rich, one line for each text that lasts longer than two seconds.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
    except ModuleNotFoundError:  # a board's host does without
        console = None
    if console is None or not console.is_terminal:
        plain = _Plain(text)
        try:
            yield plain.update
        finally:
            plain.timer.cancel()
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30),
                  TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task(text, total=None)

        def update(done=None, total=None, text=None):
            changes = {"description": text} if text else {}
            bar.update(task, completed=done, total=total, **changes)

        yield update


class _Plain:
    """Progress into a file or pipe; what follows a colon in a text is too much there."""

    def __init__(self, text):
        self.text = None
        self.timer = threading.Timer(0, print)
        self.update(text=text)

    def update(self, done=None, total=None, text=None):
        text = text and text.partition(":")[0]
        if not text or text == self.text:
            return
        self.text = text
        self.timer.cancel()
        self.timer = threading.Timer(2, _say, [f"{text} ..."])
        self.timer.daemon = True
        self.timer.start()


def _say(text):
    with contextlib.suppress(OSError):  # nobody reads standard error
        click.echo(text, err=True)
