"""`systola report training`."""

from pathlib import Path

import click

from systola.cli.console import picture_file

__all__ = ["training"]


@click.command()
@click.argument("records", metavar="FILE...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="FILE",
              callback=lambda ctx, param, value: picture_file("output", value),
              help="Picture to draw (.svg or .png).")
def training(records, output):
    """Draw accuracy over the epochs of trainings.

    Each FILE is what `systola finetune --json` printed, and gets a panel with its name.
    """
    from systola.report.training_picture import draw_training, read_training

    draw_training({Path(record).stem: read_training(record) for record in records}, output)
    click.echo(f"{output}: accuracy over epochs")
