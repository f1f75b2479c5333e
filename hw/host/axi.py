"""AXI4-Lite and AXI4-Stream as signatures, and as the flat ports that a top module has."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.regmap import ADDRESS_BITS

__all__ = ["OKAY", "SLVERR", "Lite", "Stream", "bundle", "connect_flat", "ports"]

OKAY, SLVERR = 0, 2
"""Responses."""


class Lite(wiring.Signature):
    """AXI4-Lite with 32 data bits, as its manager has it."""

    def __init__(self, address_bits=ADDRESS_BITS):
        super().__init__({
            "awaddr": Out(address_bits), "awprot": Out(3), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(32), "wstrb": Out(4), "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
            "araddr": Out(address_bits), "arprot": Out(3), "arvalid": Out(1), "arready": In(1),
            "rdata": In(32), "rresp": In(2), "rvalid": In(1), "rready": Out(1)})


class Stream(wiring.Signature):
    """AXI4-Stream with beats of `size` bytes, as its sender has it."""

    def __init__(self, size):
        super().__init__({"tdata": Out(8 * size), "tvalid": Out(1), "tready": In(1),
                          "tlast": Out(1)})


def ports(**interfaces):
    """Return the members of interfaces (``name=In(Lite())``) by their names as flat ports."""
    return {f"{name}_{part}": inner for name, member in interfaces.items()
            for part, inner in member.signature.members.items()}


def bundle(component, name, signature):
    """Return an interface of `signature` that is made of flat ports of `component`."""
    interface = signature.create()
    for part in signature.members:
        setattr(interface, part, getattr(component, f"{name}_{part}"))
    return interface


def connect_flat(m, unit, accelerator):
    """Connect a unit with ``m_axil``, ``m_axis`` and ``s_axis`` to the accelerator's flat ports."""
    for own, port in ("m_axil", "s_axil"), ("m_axis", "s_axis"), ("s_axis", "m_axis"):
        interface = getattr(unit, own)
        wiring.connect(m, interface, bundle(accelerator, port, interface.signature.flip()))
