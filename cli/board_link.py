"""What `systola run` and `flash` share: options of a board's link, and how it is opened."""

import click

__all__ = ["baud_option", "board_config_option", "find_config", "open_link", "port_option",
           "timeout_option"]

port_option = click.option(
    "--port", metavar="PORT", help="Serial port of the board, or a URL that pyserial knows.")

baud_option = click.option(
    "--baud", type=click.IntRange(min=1), default=1_000_000, show_default=True, metavar="RATE",
    help="Bits per second.")

board_config_option = click.option(
    "--config", "config", metavar="CONFIG", help="What the board was built from, if it is no "
    "preset: a .toml or .json file of fields.")

timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
    metavar="S", help="Seconds that a run may take on the board.")


def open_link(port, baud, registers, timeout):
    """Return a transport over a serial port, or over registers of this chip."""
    if port is None:
        return _mapped(registers)
    from systola.sw_driver.driver.port import SerialPort
    from systola.sw_driver.driver.uart import UartTransport

    # An accelerator that computes moves nothing over the line.
    return UartTransport(SerialPort(port, baud), stall=max(30.0, timeout))


def _mapped(registers):
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
