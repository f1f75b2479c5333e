"""Options by which commands find a board, and what is at the other end."""

import click

from systola.cli.console import given_options

__all__ = ["baud_option", "built_option", "check_link", "find_config", "link_options", "open_link",
           "port_option", "timeout_option"]

port_option = click.option(
    "--port", metavar="PORT", help="Serial port of the board, or a URL that pyserial knows.")

baud_option = click.option(
    "--baud", type=click.IntRange(min=1), default=1_000_000, show_default=True, metavar="RATE",
    help="Bits per second.")

_registers_option = click.option(
    "--registers", metavar="DEVICE", help="Instead: registers of an accelerator of `systola "
    "generate --mapped` on this chip, /dev/uioN or /dev/mem@ADDRESS.")

built_option = click.option(
    "--config", "config", metavar="CONFIG", help="What the board was built from, if it is no "
    "preset: a .toml or .json file of fields.")

timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
    metavar="S", help="Seconds that a run may take on the board.")


def link_options(command):
    """Give a command the options ``--port``, ``--registers`` and ``--baud``."""
    return port_option(_registers_option(baud_option(command)))


def check_link(ctx, port, registers):
    """Refuse options that say no one link."""
    if (port is None) == (registers is None):
        raise click.UsageError("give either --port or --registers")
    if registers and "baud" in given_options(ctx):
        raise click.UsageError("--baud is the rate of a serial port: it needs --port and excludes "
                               "--registers")


def open_link(port, baud, registers, timeout=30.0):
    """Return the transport to a board at serial port `port`, or else to `registers`.

    `timeout` are the seconds that a run may take, in which nothing may move on the line.
    """
    if port:
        from systola.sw_driver.driver.port import SerialPort
        from systola.sw_driver.driver.uart import UartTransport

        return UartTransport(SerialPort(port, baud), stall=max(30.0, timeout))
    from systola.sw_driver.driver.mapped import MappedTransport

    path, at, address = registers.partition("@")
    try:
        base = int(address, 0) if at else 0
    except ValueError:
        raise click.UsageError(f"--registers must be a device, or DEVICE@ADDRESS, not "
                               f"{registers!r}") from None
    return MappedTransport.open(path, base)


def find_config(there, given):
    """Return the name of the configuration with the hash that is `there`."""
    from systola.hw.contract.config import PRESETS, AcceleratorConfig

    if given is not None:
        found = AcceleratorConfig.load(given)
        if found.hash != there:
            raise ValueError(f"config {given!r} has the hash {found.hash:#018x}, the hardware at "
                             f"the port has {there:#018x}")
        return given
    for name, preset in PRESETS.items():
        if preset.hash == there:
            return name
    raise ValueError(f"config must be given: the hardware at the port has the hash {there:#018x}, "
                     f"which no preset has")
