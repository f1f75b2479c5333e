"""`systola generate` and `systola synth`."""

import click

from systola.cli.console import config_option, emit, given_options, json_option, progress, table

__all__ = ["generate", "synth"]


@click.command()
@config_option
@click.option("-o", "--output", required=True, metavar="DIR",
              help="Folder for NAME.v, NAME_regs.h, NAME.core and manifest.json.")
@click.option("--name", default="systola", show_default=True, metavar="NAME", help="What the "
              "modules, the C macros and the files are called; accelerators of different names go "
              "into one design.")
@click.option("--mapped", is_flag=True, help="Both streams in registers, for a processor without a "
              "DMA engine.")
@click.option("--player", is_flag=True, help="Programs and inputs are read from the system's "
              "memory over AXI4; only results are a stream.")
@json_option
def generate(config, output, name, mapped, player, as_json):
    """Write the accelerator's Verilog, C header, FuseSoC description and manifest.

    The Verilog is self-contained: top module NAME, AXI4-Lite registers, AXI4-Stream in and out
    (with --mapped, AXI4-Lite alone; with --player, AXI4 in). docs/SOC.md says how to wire it. The
    driver refuses hardware whose configuration hash is not the program's.
    """
    from systola.hw.generate import generate as write

    if mapped and player:
        raise click.UsageError("--mapped and --player are two ways to feed an accelerator: give "
                               "one of them")
    top = "mapped" if mapped else "player" if player else "streams"
    with progress("generating Verilog"):
        manifest = write(config, output, top=top, name=name)
    if as_json:
        return emit({"directory": output, **manifest})
    for file, content in manifest["files"].items():
        click.echo(f"{output}/{file}: {content['bytes']:,} bytes")
    click.echo(f"configuration hash {manifest['config_hash']}")


@click.command()
@config_option
@click.option("--family", type=click.Choice(["xc7", "xcup"]), default="xc7", show_default=True,
              help="Xilinx 7 series or UltraScale+.")
@click.option("--array", is_flag=True, help="Only a systolic array, of the options that follow.")
@click.option("--weight-bits", type=int, metavar="N", help="Bits of a weight, 2 to 8.  [8]")
@click.option("--act-bits", type=int, metavar="N", help="Bits of an activation, 2 to 8.  [8]")
@click.option("--rows", type=int, metavar="N", help="Rows of the array.  [24]")
@click.option("--cols", type=int, metavar="N", help="Columns of the array.  [8]")
@click.option("--style", type=click.Choice(["dsp", "dsp_packed", "lut"]),
              help="Processing elements.  [dsp_packed]")
@click.option("--max-tokens", type=int, metavar="N",
              help="Most vectors that a packed array may take in a cycle.  [4]")
@click.option("--depth", is_flag=True, help="Find the deepest logic between registers.")
@click.option("--board", metavar="BOARD", help="Go on to a bitstream for arty_s7_50 or ulx3s_85f; "
              "--config is then its preset by default.")
@click.option("-o", "--output", metavar="DIR",
              help="With --board: folder for bitstream and logs.  [build/synth/BOARD]")
@click.option("--seeds", type=int, metavar="N", help="With --board: number of placements.  [3]")
@click.option("--freq", type=float, metavar="MHZ",
              help="With --board: frequency of its PLL.  [the board's]")
@click.option("--baud", type=click.IntRange(min=1), metavar="RATE",
              help="With --board: bits per second of its serial link.  [the board's]")
@click.option("--memory", type=click.Choice(["bram", "dram"]), help="With --board: a memory for "
              "resident programs; bram: the FPGA's own block RAM, dram: the memory beside it "
              "(extra `dram`).")
@click.option("--memory-bytes", type=click.IntRange(min=2048), metavar="N",
              help="With --memory bram: its size.  [65536]")
@click.option("--router", metavar="ROUTER",
              help="With --board: router1 or router2 of nextpnr.  [nextpnr's own default]")
@click.option("--minutes", type=float, metavar="N",
              help="With --board: most minutes that one run of a tool may take.  [120]")
@json_option
@click.pass_context
def synth(ctx, config, family, array, depth, board, output, seeds, freq, baud, memory,
          memory_bytes, router, minutes, as_json, **shape):
    """Synthesize with Yosys for a Xilinx FPGA and list what every module needs.

    LUT, flip-flops (FF), carry chains (CARRY), DSP slices and block RAM by module; of the systolic
    array, also by multiply-accumulate per cycle. No place and route, so no timing.

    With --board, the accelerator gets clock, reset, LEDs and a serial link, and is placed, routed
    and packed into a bitstream, that of the fastest placement.
    """
    from systola.boards.synthesis.synth import array_of, synthesize

    chosen = given_options(ctx)
    foreign = ({"family", "array", "depth", *shape} if board is not None
               else {"output", "seeds", "freq", "baud", "memory", "memory_bytes", "router",
                     "minutes"})
    for name, option in chosen.items():
        if name in foreign:
            raise click.UsageError(f"{option} needs --board" if board is None
                                   else f"{option} and --board exclude each other")
    if memory != "bram" and memory_bytes is not None:
        raise click.UsageError("--memory-bytes is the size of block RAM: it needs --memory bram")
    if board is not None:
        return _synth_board(board, config if "config" in chosen else None, as_json, output=output,
                            mhz=freq, baud=baud,
                            memory=memory, memory_bytes=memory_bytes or 65536,
                            seeds=3 if seeds is None else seeds, router=router,
                            minutes=120 if minutes is None else minutes)
    given = {name: value for name, value in shape.items() if value is not None}
    if array and "config" in chosen:
        raise click.UsageError("--array and --config exclude each other")
    if given and not array:
        raise click.UsageError(f"{chosen[next(iter(given))]} needs --array")
    if given.get("max_tokens", 0) > 0 and given.get("style", "dsp_packed") != "dsp_packed":
        raise click.UsageError(f"--max-tokens needs --style dsp_packed: a cell of style "
                               f"{given['style']} takes one vector in a cycle")
    design = array_of(**given) if array else config
    with progress("synthesizing (minutes for a large array)") as update:
        result = synthesize(design, "array" if array else "systola", family=family, depth=depth,
                            progress=lambda text: update(text=f"synthesizing: {text}"))
    result = result.to_dict()
    if as_json:
        return emit(result)
    show(result)


def _synth_board(board, config, as_json, **options):
    from systola.boards.build import build_board

    with progress("synthesizing (minutes for a large array)") as update:
        result = build_board(board, config, **options,
                             progress=lambda text: update(text=text)).to_dict()
    if as_json:
        return emit(result)
    show_board(result)


def show_board(result):
    """Print what a board's design needs of the FPGA, its frequency and its bitstream."""
    if "modules" in result:
        show(result)
    total, available = result["total"], result["available"]
    click.echo(f"{result['board']}, {result['part']}:")
    table("", ["", "used", "of", "%"],
          [(name, count, available.get(name, ""),
            f"{100 * count / available[name]:.1f}" if name in available else "")
           for name, count in total.items()])
    if "control_sets" in result:
        most = result["fan_out"][0] if result["fan_out"] else {"net": "none", "pins": 0}
        click.echo(f"flip-flops of {result['control_sets']} control sets (clock, enable, reset), "
                   f"{result['lut_ff_pairs']} of them with a LUT of their own; the widest net, "
                   f"{most['net']}, has {most['pins']} pins")
    if "carry_luts" in result:
        luts = result["carry_luts"]
        click.echo(f"LUTs of carry chains: {luts['kept']} beside them, {luts['apart']} apart; "
                   f"{luts['passed_on'] + luts['copied']} were added for that, which the table has "
                   "not")
    if result["fmax_mhz"]:
        low, high = result["fmax_mhz_range"]
        click.echo(f"{result['fmax_mhz_median']} MHz (median of {len(result['fmax_mhz'])} "
                   f"placements; {low} to {high}); the PLL makes {result['clock_mhz']:g} MHz"
                   + ("" if result["bitstream_meets_clock"] else ", which is too fast"))
    if result["routed_mhz"]:
        click.echo(f"{min(result['routed_mhz'].values())} to {max(result['routed_mhz'].values())} "
                   "MHz with the paths through DSP slices and block RAM; the bitstream's slowest:")
        table("", ["from", "to", "ns", "of nets", "MHz", "at", "to"],
              [(path["start_kind"], path["end_kind"], path["ns"], path["net_ns"], path["mhz"],
                path["start"], path["end"]) for path in result["routed_paths"][:5]])
    for seed, reason in result["failed_seeds"].items():
        click.echo(f"seed {seed} failed: {reason}")
    if "timing_note" in result and not result["routed_mhz"]:
        click.echo(f"note: {result['timing_note']}; estimates of the others:")
        table("", ["from", "to", "ns", "ns, low to high", "MHz", "at"],
              [(path["start_kind"], path["end_kind"], path["ns"],
                f"{path['ns_low']:g} to {path['ns_high']:g}", path["mhz"], path["start"])
               for path in result["timing_estimate"]])
    if result["bitstream"]:
        click.echo(f"{result['bitstream']}: bitstream of seed {result['bitstream_seed']}")
    for preset, routed in result["presets"].items():
        click.echo(f"preset {preset}: placed and routed by {routed['tool']} in {routed['minutes']} "
                   f"minutes, {', '.join(map(str, routed['fmax_mhz']))} MHz")
    for name in result["missing"]:
        click.echo(f"no bitstream, not found: {name}")
    if result["missing"]:
        click.echo(f"openXC7 describes these tools and databases: {result['documentation']}")


def show(result):
    """Print a size table: each module with what is inside it, once for all equal instances."""
    columns = list(result["total"])
    rows = [(name, module["instances"], *(module[column] for column in columns))
            for name, module in result["modules"].items()]
    table("", ["module (and what is in it)", "instances", *columns], rows)
    if "macs" in result:
        dsp, narrow = result["macs_per_dsp"], result.get("narrow_macs_per_dsp")
        click.echo(f"systolic array: {result['macs']} multiply-accumulates a cycle, each "
                   f"{result['lut_per_mac']:.2f} LUT and {result['ff_per_mac']:.2f} FF"
                   + (f"; {dsp:g} per DSP slice" if dsp else "")
                   + (f", {narrow:g} in the second precision" if narrow else ""))
    if "depth" in result:
        depth = result["depth"]
        click.echo(f"deepest path between registers: {depth['levels']} LUT levels and "
                   f"{depth['carry']} carry chains")
        table("", ["from", "to", "levels", "carry"],
              [(path["start"], path["end"], path["levels"], path["carry"])
               for path in depth["worst"]])
