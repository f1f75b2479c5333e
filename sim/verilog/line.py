"""Verilog around a board's top that is the far end of its UART: bits, moved by Python in bulk.

The module ``line`` sends symbols (10 bits: start bit, byte, stop bit, first bit lowest) that Python
hands over up to `BATCH` at a time, and collects the bytes that the board sends in a ring of
as many, so that Python is awake once in thousands of cycles. Symbols need not be well-formed.
"""

from systola.sim.verilog.ticker import ticker

__all__ = ["BATCH", "LINE", "QUEUE", "START", "STOP", "line_verilog", "symbol"]

LINE = "line"
"""Name of the module."""

BATCH = 64
"""Symbols, and bytes, that change hands at once."""

QUEUE = 256
"""Symbols that wait for the line."""

START, STOP = 0x000, 0x200
"""Bits of a symbol around its byte, which is in bits 1 to 8."""


def symbol(byte, *, stop=True):
    """Return the symbol of a byte, or one without its stop bit."""
    return START | byte << 1 | (STOP if stop else 0)


_TEMPLATE = """
module {line}({fault_port}tick, rst, symbols, count, push, waiting, heard, bytes, broken, status);
{fault_input}  input tick, rst, push;
{ticker}
  input [{symbols_top}:0] symbols;
  input [15:0] count;
  output reg [15:0] waiting, heard;
  output reg [{bytes_top}:0] bytes;
  output reg broken;
  output [31:0] status;
  reg tx;
  wire rx;
  {board} board(.clk(clk), .rst(rst), .rx(tx), .tx(rx), .status(status){fault_wire});

  reg [9:0] queue [0:{queue_top}];
  reg [15:0] first;
  reg [9:0] shift;
  reg [15:0] pause, wait_bit;
  reg [3:0] left, bits;
  reg [7:0] received;
  reg pushed;
  integer k;
  wire load = pause == 0 && left == 0 && waiting != 0;
  initial begin
    waiting = 0; first = 0; left = 0; pause = 0; shift = 0; pushed = 0; tx = 1;
    heard = 0; bits = 0; wait_bit = 0; received = 0; bytes = 0; broken = 0;
  end
  always @(posedge clk) begin
    // A change of push appends the lowest count symbols.
    pushed <= push;
    if (push != pushed)
      for (k = 0; k < {batch}; k = k + 1)
        if (k < count) queue[(first + waiting + k) % {queue}] <= symbols[10*k +: 10];
    waiting <= waiting + (push != pushed ? count : 0) - (load ? 1 : 0);
    if (pause != 0) pause <= pause - 1;
    else if (left != 0) begin
      tx <= shift[0];
      shift <= shift >> 1;
      left <= left - 1;
      pause <= {divisor} - 1;
    end else if (load) begin
      tx <= queue[first][0];
      shift <= queue[first] >> 1;
      left <= 9;
      pause <= {divisor} - 1;
      first <= (first + 1) % {queue};
    end else tx <= 1;

    if (bits == 0) begin
      if (~rx) begin
        bits <= 10;
        wait_bit <= {divisor} / 2 - 1;
      end
    end else if (wait_bit != 0) wait_bit <= wait_bit - 1;
    else begin
      bits <= bits == 10 && rx ? 0 : bits - 1;
      wait_bit <= {divisor} - 1;
      if (bits == 1) begin
        bytes[8*(heard % {batch}) +: 8] <= received;
        heard <= heard + 1;
        if (~rx) broken <= 1;
      end else received <= {{rx, received[7:1]}};
    end
  end
endmodule
"""


def line_verilog(board, divisor, *, fault_bits=0):
    """Return the Verilog of ``line`` around module `board`, at `divisor` cycles a bit.

    With `fault_bits`, a port ``fault`` of so many bits goes on to that of the board.
    """
    fault = {"fault_port": "fault, ", "fault_wire": ", .fault(fault)",
             "fault_input": f"  input [{fault_bits - 1}:0] fault;\n"} if fault_bits else (
                 dict.fromkeys(("fault_port", "fault_wire", "fault_input"), ""))
    return _TEMPLATE.format(line=LINE, ticker=ticker("tick", "clk"), board=board, divisor=divisor,
                            batch=BATCH, queue=QUEUE, queue_top=QUEUE - 1,
                            symbols_top=10 * BATCH - 1, bytes_top=8 * BATCH - 1, **fault)
