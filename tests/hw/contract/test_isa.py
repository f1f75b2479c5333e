"""Which operations and fields an accelerator has."""

import dataclasses

from systola.hw.contract.config import PRESETS
from systola.hw.contract.isa import FORMATS, Opcode, formats


def test_only_compared_norms_read_a_share():
    """It is behind what others read, so that their instructions and queues are what they were."""
    fields = FORMATS[Opcode.LAYERNORM].fields
    assert fields[-1].name == "share"
    config = PRESETS["tiny"]
    assert formats(config)[Opcode.LAYERNORM].fields == fields[:-1]
    compared = dataclasses.replace(config, act_bits=4, norm="compared")
    assert formats(compared)[Opcode.LAYERNORM].fields == fields
    assert (config.largest_norm_bits, compared.largest_norm_bits) == (8, 4)


def test_fields_for_some_accelerators_are_the_last_ones():
    for form in FORMATS.values():
        some = [field.only is not None for field in form.fields]
        assert some == sorted(some)
