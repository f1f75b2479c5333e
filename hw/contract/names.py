"""Names of accelerators: what may stand in front of Verilog modules and C macros."""

import re

from systola.files.bounded import shown

__all__ = ["LONGEST", "check_name"]

LONGEST = 64
"""Most characters of a name; files and macros are called by it and a little more."""

_VERILOG = """
accept_on alias always always_comb always_ff always_latch and assert assign assume automatic
before begin bind bins binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle
checker class clocking cmos config const constraint context continue cover covergroup coverpoint
cross deassign default defparam design disable dist do edge else end endcase endchecker endclass
endclocking endconfig endfunction endgenerate endgroup endinterface endmodule endpackage
endprimitive endprogram endproperty endsequence endspecify endtable endtask enum event eventually
expect export extends extern final first_match for force foreach forever fork forkjoin function
generate genvar global highz0 highz1 if iff ifnone ignore_bins illegal_bins implements implies
import incdir include initial inout input inside instance int integer interconnect interface
intersect join join_any join_none large let liblist library local localparam logic longint
macromodule matches medium modport module nand negedge nettype new nexttime nmos nor
noshowcancelled not notif0 notif1 null or output package packed parameter pmos posedge primitive
priority program property protected pull0 pull1 pulldown pullup pulsestyle_ondetect
pulsestyle_onevent pure rand randc randcase randsequence rcmos real realtime ref reg reject_on
release repeat restrict return rnmos rpmos rtran rtranif0 rtranif1 s_always s_eventually
s_nexttime s_until s_until_with scalared sequence shortint shortreal showcancelled signed small
soft solve specify specparam static string strong strong0 strong1 struct super supply0 supply1
sync_accept_on sync_reject_on table tagged task this throughout time timeprecision timeunit tran
tranif0 tranif1 tri tri0 tri1 triand trior trireg type typedef union unique unique0 unsigned until
until_with untyped use uwire var vectored virtual void wait wait_order wand weak weak0 weak1 while
wildcard wire with within wor xnor xor
"""

_C = """
alignas alignof and and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor bool
break case catch char char8_t char16_t char32_t class co_await co_return co_yield compl concept
const const_cast consteval constexpr constinit continue decltype default delete do double
dynamic_cast else enum explicit export extern false float for friend goto if inline int long
mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
register reinterpret_cast requires restrict return short signed sizeof static static_assert
static_cast struct switch synchronized template this thread_local throw true try typedef typeid
typename typeof typeof_unqual union unsigned using virtual void volatile wchar_t while xor xor_eq
"""

_KEYWORDS = {word: language for words, language in ((_C, "C or C++"), (_VERILOG, "Verilog"))
             for word in words.split()}


_PORT = re.compile("clk|rst|irq|[sm]_axi[ls]_[a-z]+")
"""Names of ports, which Verilator cannot tell from those of the module."""


def check_name(name):
    """Raise ``ValueError`` unless `name` may be that of an accelerator.

    It has to be an identifier in Verilog and C and a keyword in neither; those of SystemVerilog and
    C++ count, since tools read the files as such. Names that begin with an underscore belong to the
    C compiler, and those of the ports to the ports.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name, re.ASCII) or len(name) > LONGEST:
        raise ValueError(f"name must be letters a to z, digits and underscores, a letter first, "
                         f"at most {LONGEST} in all, not {shown(name)}")
    kind = ("a keyword of " + _KEYWORDS[name] if name in _KEYWORDS else
            "one of the ports" if _PORT.fullmatch(name) else None)
    if kind:
        raise ValueError(f"name must not be {kind}, as {name!r} is; {name + '_0'!r} is none")
