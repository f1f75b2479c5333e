"""The multiplier of an ECP5 with its registers: MULT18X18D."""

from amaranth import Cat, ClockSignal, Const, Instance, Signal, signed

__all__ = ["mult18x18d"]


def mult18x18d(a, b, *, enable_b):
    """Return ``(instance, product)`` of a multiplier whose registers are inside the slice.

    ``product[t+2] = a1[t+1] * b1[t+1]`` with ``a1[t+1] = a[t]``, and ``b1[t+1] = b[t]`` in cycles
    with `enable_b`, else unchanged. Nothing resets them.

    Parameters
    ----------
    a, b : Value
        Signed factors of up to 18 bits.
    enable_b : Value
        One bit.

    Returns
    -------
    Instance, Signal(signed(36))
    """
    if max(len(a), len(b)) > 18:
        raise ValueError(f"factors must have at most 18 bits, not {len(a)} and {len(b)}")
    product = Signal(signed(36))

    def pins(name, value, bits=18):
        return {f"i_{name}{k}": value[min(k, len(value) - 1)] for k in range(bits)}

    registers = {"INPUTA": "CE0", "INPUTB": "CE1", "OUTPUT": "CE0"}
    parameters = {f"p_REG_{name}_CLK": "CLK0" for name in registers}
    parameters |= {f"p_REG_{name}_CE": enable for name, enable in registers.items()}
    unused = Const(0, 4)
    instance = Instance(
        "MULT18X18D", **parameters, p_GSR="DISABLED", p_RESETMODE="SYNC",
        **pins("A", a), **pins("B", b), **pins("C", Const(0, 1)),
        i_SIGNEDA=Const(1, 1), i_SIGNEDB=Const(1, 1), i_SOURCEA=Const(0, 1), i_SOURCEB=Const(0, 1),
        **pins("CLK", Cat(ClockSignal(), unused[1:]), 4),
        **pins("CE", Cat(Const(1, 1), enable_b, unused[2:]), 4), **pins("RST", unused, 4),
        **{f"o_P{k}": product[k] for k in range(36)})
    return instance, product
