"""Reference page of the serial link, made from the data and the docstrings that define it."""

import inspect

from systola.hw.contract import frame, link

__all__ = ["link_page"]

_PREFACE = """# Serial link

Made by `make docs` from `hw/contract/frame.py` and `hw/contract/link.py`, which are the definition
for both ends; do not edit.

```
 host                            line                   device
 sw_driver/                                             hw/host/
 driver/channel.py <------ frames of bytes ------> uart.py, deframer.py, framer.py
        |                    that get lost              |
        |                    or damaged                 v
        |                                          channel.py --- new session: reset ---.
        v                                               |                               v
 commands and replies <---- two streams that ----> bridge.py <-- AXI4-Lite, --> accelerator
 of contract/link.py        lose nothing                         AXI4-Stream
```

A byte on the line is a start bit, 8 bits of data from the lowest on, no parity and a stop bit. A
board's rate is its `baud` in `boards/`. `hw/linked.py` is the whole device: a board adds clock,
reset and pins to it.
"""


def _prose(thing):
    """Return a docstring without its first line, as Markdown."""
    return inspect.getdoc(thing).partition("\n\n")[2].replace("``", "`").strip()


def _fields(fields):
    lines, offset = ["| byte | bytes | field | meaning |", "|---|---|---|---|"], 0
    for name, size, doc in fields:
        lines.append(f"| {offset} | {size} | `{name}` | {doc} |")
        offset += size
    return lines


def _codes(kind):
    """Return the members of an enumeration, and what its docstring tells of them."""
    codes = ", ".join(f"{member.name} 0x{member:02x}" for member in kind)
    return f"{codes}.\n\n{_prose(kind)}"


def link_page():
    """Return docs/LINK.md."""
    constants = (
        ("FLAG", f"0x{frame.FLAG:02x}"), ("ESCAPE", f"0x{frame.ESCAPE:02x}"),
        ("FLIP", f"0x{frame.FLIP:02x}"), ("most bytes of payload", frame.LENGTH_MAX),
        ("buffer of a board, bytes each way", frame.BUFFER), ("version", frame.VERSION))
    following = link.FOLLOWING | dict.fromkeys((link.Reply.BEAT, link.Reply.LAST), "`bus_bytes`")
    lines = [
        _PREFACE, "## Frames\n", _prose(frame), "\n| constant | value |\n|---|---|",
        *(f"| {name} | {value} |" for name, value in constants),
        "\n### Header\n", *_fields(frame.HEADER), "\n### Kinds\n", _codes(frame.Kind),
        "\n### Payload of INFO\n", *_fields(frame.INFO),
        "\n## Commands\n", inspect.getdoc(link).replace("``", "`"),
        "\n### To the device\n", _codes(link.Command),
        "\n### From the device\n", _codes(link.Reply),
        "\n| first byte | bytes after it |\n|---|---|",
        *(f"| {reply.name} | {count} |" for reply, count in following.items()),
        "\n### Status of a reply\n", _codes(link.Status)]
    return "\n".join(lines) + "\n"
