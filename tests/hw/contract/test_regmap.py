"""The register map is consistent: no overlap, nothing outside the address space."""

import pytest

from systola.hw.contract.regmap import ADDRESS_BITS, COUNTERS, REGISTERS


def test_offsets_are_aligned_distinct_and_inside():
    offsets = [register.offset for register in REGISTERS.values()]
    assert len(set(offsets)) == len(offsets)
    assert all(offset % 4 == 0 and offset + 4 <= 1 << ADDRESS_BITS for offset in offsets)


def test_fields_do_not_overlap_and_fit():
    for register in REGISTERS.values():
        used = 0
        for field in register.fields:
            assert field.access in {"ro", "rw", "w1"}
            assert not used & field.mask
            assert field.mask < 1 << 32
            used |= field.mask


def test_field_access():
    cause = REGISTERS["ERROR"].field("cause")
    assert cause.get(0xABCD) == 0xCD
    with pytest.raises(KeyError):
        REGISTERS["ERROR"].field("absent")


def test_only_control_is_writable_and_every_counter_has_a_register():
    assert [name for name, register in REGISTERS.items() if register.writable] == ["CONTROL"]
    assert all(name in REGISTERS for name, _ in COUNTERS)
