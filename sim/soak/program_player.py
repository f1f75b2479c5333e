"""Verilog that plays many programs to the accelerator and watches it; Python sleeps meanwhile.

The module ``soak`` takes one program after the other from ``programs.bin`` while ``go`` is high: it
starts the accelerator over AXI4-Lite, plays the beats, takes the results, both with random stalls,
and waits for the interrupt. After an error it sends the rest and another start, which must change
nothing, then reads the registers and resets. What came of each program goes to ``records.bin``, the
results of all of them to ``results.bin``. It uses the bus alone, but for the accesses to memories
that simulations show (`shapes.access_layout`): those are compared with the depths.
"""

from systola.hw.accelerator import Accelerator
from systola.hw.contract.regmap import REGISTERS
from systola.hw.control.watchdog import patience
from systola.hw.generate import TOP
from systola.hw.parts import shapes
from systola.sim.verilog.runner import build_text, cached_verilog
from systola.sim.verilog.ticker import ticker

__all__ = ["HEADER", "OUTCOMES", "PROGRAMS_FILE", "RECORD", "RECORDS_FILE", "RESULTS_FILE",
           "build_soak", "result_bytes"]

PROGRAMS_FILE, RECORDS_FILE, RESULTS_FILE = "programs.bin", "records.bin", "results.bin"

HEADER = "beats", "seed", "stall_in", "stall_out", "budget", "spare"
"""Big-endian words before the beats of a program: how many; of the stalls their seed and how many
of 256 cycles each stream has; cycles after which a program that still works is reset."""

RECORD = ("outcome", "status", "cause", "index", "word", "cycles", "taken", "results", "beyond",
          "first_beyond", "silence", "broken")
"""Little-endian words about each program: ``beyond`` accesses beyond a memory (the first: number
of the port and address), ``silence`` the most cycles without an event, ``broken`` rules of the
result stream."""

OUTCOMES = "done", "error", "truncated", "hang", "working"
"""The last three end by a reset: beats are wanted and none are left; nothing happens any more; the
budget is used up."""

_TEMPLATE = """
module soak(tick, rst, go, finished);
  input tick, rst, go;
  output reg finished;
  localparam REST = 0, NEXT = 1, WRITE = 2, PLAY = 3, READ = 4, ENDED = 5, DISCARD = 6, SKIP = 7,
             AGAIN = 8, REPORT = 9, ANSWER = 10;
  reg [3:0] state, after;
  reg [{header_top}:0] header;
  reg [{top}:0] beat, next;
  reg valid, held, again;
  reg [{held_top}:0] was;
  reg [2:0] what;
  reg [31:0] left, cycles, taken, results, beyond, first_beyond, quiet, silence, broken, noise;
  reg [31:0] values [0:3];
  reg [1:0] which;
  reg awvalid, wvalid, arvalid;
  reg [7:0] command;
  integer source, records, sink, got;
  wire awready, wready, bvalid, arready, rvalid, irq, tready, result_valid, result_last;
  wire [31:0] rdata;
  wire [{top}:0] swapped, result;  // $fread puts the first byte on top
  wire [{access_top}:0] accesses;
  genvar k;
  generate for (k = 0; k < {width}; k = k + 1) begin : lane
    assign swapped[8*k +: 8] = beat[8*({width}-1-k) +: 8];
  end endgenerate
  wire [31:0] stall_in = header[{stall_in} +: 32], stall_out = header[{stall_out} +: 32];
  wire playing = state == PLAY | state == DISCARD;
  wire result_ready = playing & noise[7:0] >= stall_out;
  wire starved = tready & ~valid & left == 0;
  wire moves = valid & tready | result_valid & result_ready{any_access};
  wire [7:0] araddr = which == 0 ? {status} : which == 1 ? {cause} : which == 2 ? {index} : {word};
  {accelerator} accelerator(.clk(clk), .rst(rst), .irq(irq),
    .s_axil_awaddr(8'd{control}), .s_axil_awprot(3'd0), .s_axil_awvalid(awvalid),
    .s_axil_awready(awready), .s_axil_wdata({{24'd0, command}}), .s_axil_wstrb(4'd15),
    .s_axil_wvalid(wvalid), .s_axil_wready(wready), .s_axil_bvalid(bvalid), .s_axil_bready(1'b1),
    .s_axil_araddr(araddr), .s_axil_arprot(3'd0), .s_axil_arvalid(arvalid),
    .s_axil_arready(arready), .s_axil_rdata(rdata), .s_axil_rvalid(rvalid), .s_axil_rready(1'b1),
    .s_axis_tdata(swapped), .s_axis_tvalid(valid), .s_axis_tlast(1'b0), .s_axis_tready(tready),
    .m_axis_tdata(result), .m_axis_tvalid(result_valid), .m_axis_tlast(result_last),
    .m_axis_tready(result_ready), .accesses(accesses));

  task send_command(input [7:0] value, input [3:0] then);
    begin command <= value; awvalid <= 1; wvalid <= 1; after <= then; state <= WRITE; end
  endtask
  task fetch_beat;  // the next one, if there is one and the stalls permit
    if (~valid | tready) begin
      valid <= 0;
      if (left != 0 & noise[15:8] >= stall_in) begin
        got = $fread(next, source);
        beat <= next;
        left <= left - 1;
        valid <= 1;
      end
    end
  endtask
  task stop(input [2:0] outcome);
    begin what <= outcome; state <= SKIP; end
  endtask

{ticker}
  initial begin
    state = REST; valid = 0; held = 0; awvalid = 0; wvalid = 0; arvalid = 0; finished = 0;
    noise = 1;
  end
  always @(posedge clk) begin
    noise <= {{noise[30:0], noise[31] ^ noise[21] ^ noise[1] ^ noise[0]}};
    held <= playing & result_valid & ~result_ready;
    was <= {{result_last, result}};
    if (held & playing & ~(result_valid & was == {{result_last, result}})) broken <= broken + 1;
    if (playing) begin
      cycles <= cycles + 1;
      taken <= taken + (valid & tready);
      quiet <= moves ? 0 : quiet + 1;
      if (quiet > silence) silence <= quiet;
      if (result_valid & result_ready) begin
        results <= results + 1;
        $fwrite(sink, "%u%u", {{{{({result_bits}-8*{width}){{1'b0}}}}, result}},
                {{31'd0, result_last}});
      end{check_accesses}
    end
    case (state)
      REST: begin
        if (~go) finished <= 0;
        if (go & ~finished) begin
          source = $fopen("{programs}", "rb");
          records = $fopen("{records}", "wb");
          sink = $fopen("{results}", "wb");
          state <= NEXT;
        end
      end
      NEXT: begin
        got = $fread(header, source);
        if (got != {header_bytes}) begin
          $fclose(source); $fclose(records); $fclose(sink);
          finished <= 1;
          state <= REST;
        end else begin
          left <= header[{beats} +: 32];
          noise <= header[{seed} +: 32];
          cycles <= 0; taken <= 0; results <= 0; beyond <= 0; first_beyond <= 0; quiet <= 0;
          silence <= 0; broken <= 0; which <= 0; again <= 0;
          send_command({start}, PLAY);
        end
      end
      WRITE: begin
        if (awready) awvalid <= 0;
        if (wready) wvalid <= 0;
        if (bvalid) state <= after;
      end
      PLAY: begin
        fetch_beat;
        if (irq) begin state <= READ; after <= ENDED; end
        else if (starved & quiet > {starved_limit}) stop(2);
        else if (~starved & quiet > {hang_limit}) stop(3);
        else if (cycles > header[{budget} +: 32]) stop(4);
      end
      READ: begin
        arvalid <= ~arvalid | ~arready;
        if (arready) state <= ANSWER;
      end
      ANSWER: if (rvalid) begin
        if (again & rdata != values[which]) broken <= broken + 1;
        values[which] <= rdata;
        which <= which + 1;
        state <= which == 3 ? after : READ;
      end
      ENDED: if (values[0][2]) begin
        what <= 1;
        quiet <= 0;
        state <= DISCARD;
      end else stop(0);
      DISCARD: begin  // the rest, and a start that is to be ignored
        fetch_beat;
        if (~valid & left == 0) begin again <= 1; send_command({start}, AGAIN); end
        else if (quiet > {hang_limit}) stop(3);
      end
      AGAIN: begin state <= READ; after <= REPORT; end
      SKIP: begin
        valid <= 0;
        if (left == 0) begin
          state <= what == 0 ? REPORT : READ;
          after <= REPORT;
        end else begin
          got = $fread(next, source);
          left <= left - 1;
        end
      end
      REPORT: begin
        $fwrite(records, "%u%u%u%u%u%u%u%u%u%u%u%u", {{29'd0, what}}, values[0], values[1],
                values[2], values[3], cycles, taken, results, beyond, first_beyond, silence,
                broken);
        if (what == 0) state <= NEXT; else send_command({reset}, NEXT);
      end
    endcase
  end
endmodule
"""


def build_soak(config, *, optimize="-Os", make=None, key="soak"):
    """Compile the accelerator of `config` inside ``soak``.

    `make` may return another component than the accelerator, for instance a broken one; `key` is
    then its name.
    """
    make = make or (lambda: Accelerator(config, trace=True))
    path = cached_verilog(make, name=TOP, key=[config.to_dict(), key])
    return build_text(path.read_text() + _verilog(config), top="soak", optimize=optimize)


def result_bytes(config):
    """Return the bytes of a beat in ``results.bin``: whole 32-bit words, and one that is `last`."""
    return -(-config.bus_bytes // 4) * 4 + 4


def _verilog(config):
    width, layout = config.bus_bytes, shapes.access_layout(config)
    depths = {"r": config.scratchpad_words, "w": config.scratchpad_words,
              "p": config.param_depth, "f": config.factor_depth}
    checks, active = [], []
    for number, (name, field) in enumerate(layout):
        valid = f"accesses[{field.offset}]"
        addr = f"accesses[{field.offset + 1} +: 16]"
        active.append(valid)
        checks.append(f"""
      if ({valid} & {addr} >= 17'd{depths[name[0]]}) begin
        beyond <= beyond + 1;
        if (beyond == 0) first_beyond <= {{16'd{number}, {addr}}};
      end""")
    fields = {name: 32 * (len(HEADER) - 1 - k) for k, name in enumerate(HEADER)}
    control = REGISTERS["CONTROL"]
    start, irq, reset = (control.field(name).mask for name in ("start", "irq_enable", "reset"))
    registers = {"status": "STATUS", "cause": "ERROR", "index": "ERROR_INDEX",
                 "word": "ERROR_WORD"}
    return _TEMPLATE.format(
        **fields, **{name: f"8'd{REGISTERS[register].offset}"
                     for name, register in registers.items()},
        accelerator=TOP, ticker=ticker("tick", "clk"), width=width, top=8 * width - 1,
        held_top=8 * width, header_top=32 * len(HEADER) - 1, header_bytes=4 * len(HEADER),
        access_top=layout.size - 1, any_access="".join(f" | {valid}" for valid in active),
        check_accesses="".join(checks), result_bits=8 * (result_bytes(config) - 4),
        control=control.offset, start=start | irq, reset=reset, programs=PROGRAMS_FILE,
        records=RECORDS_FILE, results=RESULTS_FILE, starved_limit=patience(config) // 4,
        hang_limit=2 * patience(config))
