"""The generated reference pages are current, and complete."""

from pathlib import Path

from systola.hw.contract.frame import HEADER, INFO, Kind
from systola.hw.contract.isa import FORMATS
from systola.hw.contract.link import Command, Reply, Status
from systola.hw.contract.link_page import link_page
from systola.hw.contract.pages import isa_page
from systola.hw.contract.regmap import REGISTERS

DOCS = Path(__file__).parents[3] / "docs"


def test_isa_page_is_current():
    assert (DOCS / "ISA.md").read_text() == isa_page(), "run: make docs"


def test_isa_page_names_every_operation_field_and_register():
    page = isa_page()
    for opcode, form in FORMATS.items():
        assert f"### {opcode.name}\n" in page
        assert all(f"`{field.name}`" in page for field in form.fields)
    assert all(f"`{name}`" in page for name in REGISTERS)


def test_link_page_is_current():
    assert (DOCS / "LINK.md").read_text() == link_page(), "run: make docs"


def test_link_page_names_every_field_and_explains_every_code():
    page = link_page()
    assert all(f"| `{name}` | {doc} |" in page for name, _, doc in HEADER + INFO)
    for member in (*Kind, *Command, *Reply, *Status):
        assert f"{member.name} 0x{member:02x}" in page
        assert page.count(member.name) > 1
