"""Verilog around the accelerator that plays a program from a file, so that Python can sleep.

The module ``host`` has the ports of the accelerator and drives its streams itself while ``play``
is high: beats come from ``stream.bin``, results go to ``result.bin``, and every change of the
trace port to ``trace.bin``, all in the folder the simulation runs in. While ``play`` is low the
streams are the module's ports, for benches that stall them.

While ``fast`` is high the clock runs inside, many cycles for one of ``clk``; benches that look at
ports in every cycle leave it low. The reset goes through a register: as a port it would have a
simulator evaluate half of the accelerator at every change of any port.
"""

from amaranth import Shape
from amaranth.lib.wiring import In, Out

from systola.hw.contract.regmap import TRACE
from systola.hw.host import axi
from systola.sim.verilog.ticker import ticker

__all__ = ["HOST", "LAST_BYTES", "RESULT_FILE", "STREAM_FILE", "TRACE_BITS", "TRACE_FILE",
           "host_verilog", "record_bytes"]

HOST = "host"
"""Name of the module."""

STREAM_FILE, RESULT_FILE, TRACE_FILE = "stream.bin", "result.bin", "trace.bin"

LAST_BYTES = 4
"""Bytes at the end of a record in ``result.bin``: whether the beat was a frame's last."""

TRACE_BITS = sum(bits for _, bits, _ in TRACE)
"""Bits of the trace port: the upper bits of a record in ``trace.bin``, above the cycle."""

_TEMPLATE = """
module {host}({ports});
{declarations}
  // A record in the trace: what the engines do from this cycle on (32 bits), the cycle (32 bits).
  wire [{trace_top}:0] trace;
  reg [{trace_top}:0] last;
  reg [31:0] now;
  reg played, valid;
  reg [{top}:0] beat, next;
  integer source, sink, log, got;
  wire [{top}:0] swapped;  // $fread puts the first byte on top
  genvar k;
  generate for (k = 0; k < {width}; k = k + 1) begin : lane
    assign swapped[8*k +: 8] = beat[8*({width}-1-k) +: 8];
  end endgenerate
  wire taken;
  reg reset;
  assign s_axis_tready = taken & ~play;
{ticker}
  {accelerator} accelerator(.clk(clock), .rst(reset), {connections},
    .s_axis_tdata(play ? swapped : s_axis_tdata), .s_axis_tvalid(play ? valid : s_axis_tvalid),
    .s_axis_tlast(s_axis_tlast), .s_axis_tready(taken),
    .m_axis_tready(play | m_axis_tready), .trace(trace));
  initial begin
    played = 0; valid = 0; beat = 0; now = 0; last = 0; frames = 0; cycles = 0; reset = 1; sent = 0;
    source = 0; sink = 0; log = 0;
  end
  always @(posedge clock) begin
    reset <= rst;
    cycles <= cycles + 1;
    played <= play;
    now <= trace[0] ? now + 1 : 0;
    last <= trace;
    if (play & ~played) begin
      source = $fopen("{stream_file}", "rb");
      sink = $fopen("{result_file}", "wb");
      log = $fopen("{trace_file}", "wb");
      valid <= 0;
      sent <= 0;
    end else if (play) begin
      if (valid & taken) sent <= sent + 1;
      if (~valid | taken) begin
        got = $fread(next, source);
        beat <= next;
        valid <= got == {width};
      end
      if (m_axis_tvalid) begin
        $fwrite(sink, "%u%u", m_axis_tdata, {{31'd0, m_axis_tlast}});
        if (m_axis_tlast) begin
          $fflush(sink);
          frames <= frames + 1;
        end
      end
      if (trace != last) $fwrite(log, "%u%u", now, {{{{(32-{trace_bits}){{1'b0}}}}, trace}});
    end else if (played) begin
      valid <= 0;
      $fclose(source);
      $fclose(sink);
      $fclose(log);
    end
  end
endmodule
"""


def host_verilog(config, accelerator, *, inputs=None):
    """Return the Verilog of ``host`` around the module `accelerator` of `config`.

    `inputs` are bits by name of inputs that it has besides an accelerator's. Besides all these
    ports and the inputs ``play`` and ``fast``, ``host`` has the outputs ``frames``, the result
    frames so far, which are complete in ``result.bin``, ``sent``, the beats that were taken since
    ``play`` rose, and ``cycles``.
    """
    ports = _ports(config) | {name: ("input", bits) for name, bits in (inputs or {}).items()}
    own = {"play": ("input", 1), "fast": ("input", 1), "frames": ("output reg", 32),
           "sent": ("output reg", 32), "cycles": ("output reg", 64)}
    declarations = "\n".join(
        f"  {kind} {f'[{bits - 1}:0] ' if bits > 1 else ''}{name};"
        for name, (kind, bits) in (ports | own).items())
    special = {"clk", "rst", "s_axis_tdata", "s_axis_tvalid", "s_axis_tlast", "s_axis_tready",
               "m_axis_tready"}
    connections = ", ".join(f".{name}({name})" for name in ports if name not in special)
    width = config.bus_bytes
    return _TEMPLATE.format(
        host=HOST, ports=", ".join(ports | own), declarations=declarations, accelerator=accelerator,
        connections=connections, ticker=ticker("clk", "clock", fast="fast"), width=width,
        top=8 * width - 1, trace_top=TRACE_BITS - 1, trace_bits=TRACE_BITS,
        stream_file=STREAM_FILE, result_file=RESULT_FILE, trace_file=TRACE_FILE)


def record_bytes(width):
    """Return the bytes of a beat in ``result.bin``: whole 32-bit words, then `last`."""
    return -(-width // 4) * 4 + LAST_BYTES


def _ports(config):
    """Return the accelerator's ports but ``trace``: whether in or out, and bits, by name."""
    stream = axi.Stream(config.bus_bytes)
    members = axi.ports(s_axil=In(axi.Lite()), s_axis=In(stream), m_axis=Out(stream))
    return {"clk": ("input", 1), "rst": ("input", 1)} | {
        name: ("input" if member.flow is In else "output", Shape.cast(member.shape).width)
        for name, member in members.items()} | {"irq": ("output", 1)}
