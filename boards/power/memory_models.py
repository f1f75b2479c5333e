"""Verilog models of the block RAM of 7 series, for simulating mapped netlists.

Yosys knows the ports of RAMB18E1 and RAMB36E1, and nothing of what they do. The models here do what
Xilinx' UG473 says of the modes that Yosys uses (`check_memories` refuses the others): two ports of
widths of their own or one writing and one reading port, byte enables, the three write modes, output
latches with reset and initial values. What the guide leaves undefined, a read of bits that the
other port writes in the same cycle unless that port is READ_FIRST, comes out inverted, so that a
design that uses it is found out.
"""

import re

__all__ = ["MEMORIES", "check_memories", "memory_models"]

MEMORIES = {"RAMB18E1": 2048, "RAMB36E1": 4096}
"""Kinds of block RAM, and the bytes (of 9 bits) in each."""

_WIDTHS = 0, 1, 2, 4, 9, 18, 36, 72
_MODES = "READ_FIRST", "WRITE_FIRST", "NO_CHANGE"
_FIXED = {"DOA_REG": "0", "DOB_REG": "0", "EN_ECC_READ": "FALSE", "EN_ECC_WRITE": "FALSE",
          "INIT_FILE": "NONE", "RAM_EXTENSION_A": "NONE", "RAM_EXTENSION_B": "NONE"}
_IGNORED = *_FIXED, "RDADDR_COLLISION_HWCONFIG", "SIM_COLLISION_CHECK", "SIM_DEVICE"
_INVERTIBLE = ("CLKARDCLK", "CLKBWRCLK", "ENARDEN", "ENBWREN", "RSTRAMARSTRAM", "RSTRAMB",
               "RSTREGARSTREG", "RSTREGB")
_CLOCKS = {"A": "CLKARDCLK", "B": "CLKBWRCLK"}

_CORE = """
/*verilator tracing_off*/
module systola_block_ram #(
  parameter BYTES = 2048, parameter [8*BYTES-1:0] INIT = 0, parameter [BYTES-1:0] INITP = 0,
  parameter RA = 0, parameter WA = 0, parameter RB = 0, parameter WB = 0,
  parameter MODE_A = "WRITE_FIRST", parameter MODE_B = "WRITE_FIRST",
  parameter [71:0] START_A = 0, parameter [71:0] START_B = 0,
  parameter [71:0] RESET_A = 0, parameter [71:0] RESET_B = 0
) (
  input clk_a, input clk_b, input en_a, input en_b, input rst_a, input rst_b,
  input [14:0] addr_a, input [14:0] addr_b, input [71:0] di_a, input [71:0] di_b,
  input [7:0] we_a, input [7:0] we_b, output reg [71:0] do_a, output reg [71:0] do_b
);
  // Bytes of 9 bits, the parity on top; addresses count bits, as the pins do.
  reg [8:0] memory [0:BYTES-1];
  integer k;
  initial begin
    do_a = START_A;
    do_b = START_B;
    for (k = 0; k < BYTES; k = k + 1) memory[k] = 0;
  end
  generate if (INIT != 0 || INITP != 0) begin : filled
    integer j;
    initial for (j = 0; j < BYTES; j = j + 1) memory[j] = {INITP[j], INIT[8*j +: 8]};
  end endgenerate

  // The first byte of a word of `width` bits.
  function [11:0] first(input integer width, input [14:0] addr);
    integer bytes;
    begin
      bytes = width < 18 ? 1 : width / 9;
      first = addr[14:3] & (BYTES - 1) & ~(bytes - 1);
    end
  endfunction

  // Which bits of byte `at` a port writes.
  function [8:0] mask(input integer width, input en, input [7:0] we, input [14:0] addr,
                      input [11:0] at);
    reg [11:0] lane;
    begin
      lane = at - first(width, addr);
      mask = 0;
      if (en && width != 0 && at >= first(width, addr) && lane < (width < 18 ? 1 : width / 9)
          && we[lane[2:0]])
        mask = width >= 9 ? 9'h1ff : ((1 << width) - 1) << (addr[2:0] & ~(width - 1));
    end
  endfunction

  // What it writes there.
  function [8:0] fresh(input integer width, input [71:0] di, input [14:0] addr, input [11:0] at);
    reg [11:0] lane;
    begin
      lane = at - first(width, addr);
      fresh = width >= 9 ? di[9*lane[2:0] +: 9] : di[8:0] << (addr[2:0] & ~(width - 1));
    end
  endfunction
PORTS
endmodule
"""

_PORT = """
  always @(posedge clk_{p}) if (en_{p}) begin : port_{p}
    integer i;
    reg [11:0] at;
    reg [8:0] bits, own, other;
    reg [71:0] word;
    word = 0;
    if (R{P} != 0) begin
      for (i = 0; i < (R{P} < 18 ? 1 : R{P} / 9); i = i + 1) begin
        at = first(R{P}, addr_{p}) + i;
        own = mask(W{P}, en_{p}, we_{p}, addr_{p}, at);
        other = mask(W{Q}, en_{q}, we_{q}, addr_{q}, at);
        bits = memory[at];
        if (MODE_{Q} != "READ_FIRST") bits = bits ^ other;
        if (MODE_{P} == "WRITE_FIRST") bits = bits & ~own | fresh(W{P}, di_{p}, addr_{p}, at) & own;
        word[9*i +: 9] = bits;
      end
      if (R{P} < 9) word = word >> (addr_{p}[2:0] & ~(R{P} - 1)) & ((1 << R{P}) - 1);
      if (rst_{p}) do_{p} <= RESET_{P};
      else if (MODE_{P} != "NO_CHANGE" || W{P} == 0 || we_{p} == 0) do_{p} <= word;
    end
    if (W{P} != 0)
      for (i = 0; i < (W{P} < 18 ? 1 : W{P} / 9); i = i + 1) begin
        at = first(W{P}, addr_{p}) + i;
        own = mask(W{P}, en_{p}, we_{p}, addr_{p}, at);
        if (own != 0)
          memory[at] <= memory[at] & ~own | fresh(W{P}, di_{p}, addr_{p}, at) & own;
      end
  end
"""

_KIND = """
module KIND #(
  parameter READ_WIDTH_A = 0, parameter READ_WIDTH_B = 0,
  parameter WRITE_WIDTH_A = 0, parameter WRITE_WIDTH_B = 0,
  parameter WRITE_MODE_A = "WRITE_FIRST", parameter WRITE_MODE_B = "WRITE_FIRST",
  parameter RAM_MODE = "TDP", INITS,
  parameter [TOP:0] INIT_A = 0, parameter [TOP:0] INIT_B = 0,
  parameter [TOP:0] SRVAL_A = 0, parameter [TOP:0] SRVAL_B = 0,
  // With only one value, see `check_memories`, or without a meaning here.
  IGNORED
) (
  input CLKARDCLK, input CLKBWRCLK, input ENARDEN, input ENBWREN,
  input REGCEAREGCE, input REGCEB, input RSTRAMARSTRAM, input RSTRAMB,
  input RSTREGARSTREG, input RSTREGB,
  input [ADDRESS:0] ADDRARDADDR, input [ADDRESS:0] ADDRBWRADDR,
  input [DATA:0] DIADI, input [DATA:0] DIBDI, input [PARITY:0] DIPADIP, input [PARITY:0] DIPBDIP,
  input [PARITY:0] WEA, input [WRITE:0] WEBWE,
  output [DATA:0] DOADO, output [DATA:0] DOBDO, output [PARITY:0] DOPADOP, output [PARITY:0] DOPBDOP
);
  localparam SIMPLE = RAM_MODE == "SDP";
  localparam WIDE = SIMPLE && READ_WIDTH_A > TOP + 1;
  localparam LATCH_A = WIDE ? TOP + 1 : READ_WIDTH_A;
  // Data and, on top, parity to bytes of 9 bits, and back.
  function [35:0] woven(input [35:0] value, input integer width);
    integer i;
    begin
      woven = width < 9 ? value & ((1 << width) - 1) : 0;
      for (i = 0; i < width / 9; i = i + 1)
        woven[9*i +: 9] = {value[8 * (width / 9) + i], value[8*i +: 8]};
    end
  endfunction
  function [TOP:0] split(input [35:0] bytes);
    integer i;
    begin
      split = 0;
      for (i = 0; i <= PARITY; i = i + 1) begin
        split[8*i +: 8] = bytes[9*i +: 8];
        split[DATA + 1 + i] = bytes[9*i + 8];
      end
    end
  endfunction
  wire [35:0] low = woven({DIPADIP, DIADI}, TOP + 1), high = woven({DIPBDIP, DIBDI}, TOP + 1);
  wire [71:0] do_a, do_b;
  wire [35:0] upper = SIMPLE ? do_a >> (TOP + 1) : do_b[35:0];
  assign {DOPADOP, DOADO} = split(do_a[35:0]);
  assign {DOPBDOP, DOBDO} = split(upper);
  systola_block_ram #(
    .BYTES(BYTES_), .INIT({DATA_INIT}), .INITP({PARITY_INIT}),
    .RA(READ_WIDTH_A), .WA(SIMPLE ? 0 : WRITE_WIDTH_A),
    .RB(SIMPLE ? 0 : READ_WIDTH_B), .WB(WRITE_WIDTH_B),
    .MODE_A(WRITE_MODE_A), .MODE_B(WRITE_MODE_B),
    .START_A(woven(INIT_A, LATCH_A)
             | (WIDE ? {36'd0, woven(INIT_B, LATCH_A)} << (TOP + 1) : 72'd0)),
    .START_B(woven(INIT_B, READ_WIDTH_B)),
    .RESET_A(woven(SRVAL_A, LATCH_A)
             | (WIDE ? {36'd0, woven(SRVAL_B, LATCH_A)} << (TOP + 1) : 72'd0)),
    .RESET_B(woven(SRVAL_B, READ_WIDTH_B))
  ) ram(
    .clk_a(CLKARDCLK), .clk_b(CLKBWRCLK), .en_a(ENARDEN), .en_b(ENBWREN),
    .rst_a(RSTRAMARSTRAM), .rst_b(RSTRAMB),
    .addr_a({1'd0, ADDRARDADDR[BITS:0]}), .addr_b({1'd0, ADDRBWRADDR[BITS:0]}),
    .di_a({36'd0, low}),
    .di_b(SIMPLE && WRITE_WIDTH_B > TOP + 1 ? {36'd0, low} | {36'd0, high} << (TOP + 1)
                                            : {36'd0, high}),
    .we_a({4'd0, WEA}), .we_b({4'd0, WEBWE}), .do_a(do_a), .do_b(do_b));
endmodule
"""


def memory_models():
    """Return the Verilog of all kinds in `MEMORIES`, for `gates.gate_text`."""
    core = _CORE.replace("PORTS", "".join(
        _PORT.format(p=p, q=q, P=p.upper(), Q=q.upper()) for p, q in ("ab", "ba")))
    return core + "".join(_kind(name, size) for name, size in MEMORIES.items()) + (
        "/*verilator tracing_on*/\n")


def check_memories(netlist):
    """Raise ``ValueError`` for a block RAM in a mode that the models do not have.

    The message names the cell and the parameter. Two ports in use must have one clock.
    """
    for cell in netlist.cells:
        if cell.kind not in MEMORIES:
            continue
        expected = {name: (value,) for name, value in _FIXED.items()}
        expected |= {f"WRITE_MODE_{port}": _MODES for port in "AB"} | {"RAM_MODE": ("TDP", "SDP")}
        for name, value in cell.parameters.items():
            if name.endswith("_INVERTED") or name in {"DOA_REG", "DOB_REG"}:
                _require(cell, name, _number(value), (0,))
            elif re.fullmatch("(READ|WRITE)_WIDTH_[AB]", name):
                simple = cell.parameters.get("RAM_MODE", "TDP").strip() == "SDP"
                widest = (36 if simple else 18) * MEMORIES[cell.kind] // 2048
                _require(cell, name, _number(value), [n for n in _WIDTHS if n <= widest])
            elif name in expected:
                _require(cell, name, value.strip(), expected[name])
        clocks = {cell.inputs.get(pin) for port, pin in _CLOCKS.items()
                  if any(_number(cell.parameters.get(f"{way}_WIDTH_{port}", "0"))
                         for way in ("READ", "WRITE"))}
        if len(clocks) > 1:
            raise ValueError(f"{cell.kind} {cell.name} must have one clock, not "
                             f"{len(clocks)} different ones")


def _require(cell, name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} of {cell.kind} {cell.name} must be "
                         f"{' or '.join(map(str, choices))}, not {value!r}")


def _number(value):
    """Return a parameter's binary digits as a number; digits that are unknown count as 0."""
    return int(re.sub("[^01]", "0", value) or "0", 2)


def _kind(name, size):
    """Return the Verilog of one kind: its pins and parameters around the common core."""
    parity, scale = size // 1024, size // 2048  # bytes a port, 18 kbit halves

    def words(prefix, count):
        return [f"{prefix}_{index:02X}" for index in range(count)]

    data, extra = words("INIT", 8 * size // 256), words("INITP", size // 256)
    replaced = {
        "KIND": name, "INITS": ", ".join(f"parameter [255:0] {item} = 0" for item in data + extra),
        "IGNORED": ", ".join(f"parameter {item} = 0" for item in _IGNORED + tuple(
            f"IS_{pin}_INVERTED" for pin in _INVERTIBLE)),
        "DATA_INIT": ", ".join(reversed(data)), "PARITY_INIT": ", ".join(reversed(extra)),
        "TOP": str(9 * parity - 1), "DATA": str(8 * parity - 1), "PARITY": str(parity - 1),
        "WRITE": str(2 * parity - 1), "ADDRESS": str(13 if scale == 1 else 15),
        "BITS": str(12 + scale), "BYTES_": str(size)}
    return re.sub(rf"\b({'|'.join(replaced)})\b", lambda match: replaced[match[1]], _KIND)
