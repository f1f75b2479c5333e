"""Small files as openXC7's tools read and write them: part, frames, bitstream, device."""

import json
import struct

PART = "xc7s50csga324-1"
IDCODE = 0x0362F093
ORDER = [0x00000000, 0x00000001, 0x00000080, None, None, 0x00400000, None, None,
         0x00800000, 0x00800001, None, None]
"""Addresses of the frames of `part_json`, in the order of a bitstream."""


def part_json():
    """Return a part of three columns of logic and one of block RAM."""
    def bus(*counts):
        return {"configuration_columns": {str(k): {"frame_count": n}
                                          for k, n in enumerate(counts)}}

    return {"idcode": IDCODE, "global_clock_regions": {
        "top": {"rows": {"0": {"configuration_buses": {
            "BLOCK_RAM": bus(2), "CLB_IO_CLK": bus(2, 1)}}}},
        "bottom": {"rows": {"0": {"configuration_buses": {"CLB_IO_CLK": bus(1)}}}}}}


def frames_text(frames):
    """Return frames by address as fasm2frames writes them."""
    return "".join(f"{address:#010x} {','.join(f'{word:#010x}' for word in words)}\n"
                   for address, words in frames.items())


def bit_file(frames, part=PART, idcode=IDCODE, order=ORDER):
    """Return the ``.bit`` file of frames by address."""
    words = [word for address in order for word in frames.get(address, [0] * 101)]
    body = b"\xff" * 16 + b"\xaa\x99\x55\x66" + struct.pack(
        f">{6 + len(words) + 3}I", 0x20000000, 0x30018001, idcode, 0x30004000,
        0x50000000 | len(words), *words, 0x30008001, 0xD, 0x20000000, 0x20000000)
    fields = {b"a": b"design", b"b": part.encode(), b"c": b"2026/11/30", b"d": b"02:30:00"}
    header = struct.pack(">H", 9) + b"\x0f\xf0" * 4 + b"\0\0\1"
    for key, text in fields.items():
        header += key + struct.pack(">H", len(text) + 1) + text + b"\0"
    return header + b"e" + struct.pack(">I", len(body)) + body


def wired_device(module, folder, name="xc7s50"):
    """Write a device into `folder` in which a netlist's block RAMs are wired without a pip.

    There is a tile for each RAMB18E1, and one that drives every net at a pin of its own. Returns
    the site of each block RAM by name.
    """
    rams = sorted(cell for cell, entry in module["cells"].items() if entry["type"] == "RAMB18E1")
    grid = {"CLBLL_L_X0Y0": {"type": "CLBLL_L", "grid_x": 0, "grid_y": 0,
                             "sites": {"SLICE_X0Y0": "SLICEL"}}}
    nets, joints, pins, sites = {}, [], {}, {}
    for x, cell in enumerate(rams, 1):
        sites[cell] = f"RAMB18_X{x}Y0"
        grid[f"BRAM_L_X{x}Y0"] = {"type": "BRAM_L", "grid_x": x, "grid_y": 0,
                                  "sites": {sites[cell]: "RAMB18E1"}}
        entry, pairs = module["cells"][cell], []
        for pin, bits in entry["connections"].items():
            doubled = pin == "WEA" or (pin == "WEBWE" and "36" in str(int(
                entry["parameters"].get("WRITE_WIDTH_B", "0"), 2)))
            for place, bit in enumerate(bits):
                index = str(place) if len(bits) > 1 else ""
                own = ([f"{pin}{2 * place + k}" for k in (0, 1)] if doubled else [pin + index])
                out = entry["port_directions"][pin] == "output"
                for wire in own:
                    pins[wire] = out
                    if isinstance(bit, int) and not out:
                        pairs.append([f"BRAM_RAMB18_{wire}", nets.setdefault(bit, f"NET{bit}")])
        joints.append({"tile_types": ["BRAM_L", "CLBLL_L"], "grid_deltas": [-x, 0],
                       "wire_pairs": pairs})
    files = {
        f"{name}/tilegrid.json": grid, f"{name}/tileconn.json": joints,
        "tile_type_BRAM_L.json": {"pips": {}, "sites": [{
            "prefix": "RAMB18", "type": "RAMB18E1", "x_coord": 0, "y_coord": 0,
            "site_pins": {pin: {"wire": f"BRAM_RAMB18_{pin}"} for pin in pins}}]},
        "site_type_RAMB18E1.json": {"site_pins": {
            pin: {"direction": "OUT" if out else "IN"} for pin, out in pins.items()}},
        "tile_type_CLBLL_L.json": {"pips": {}, "sites": [{
            "prefix": "SLICE", "type": "SLICEL", "x_coord": 0, "y_coord": 0,
            "site_pins": {wire: {"wire": wire} for wire in nets.values()}}]},
        "site_type_SLICEL.json": {"site_pins": {
            wire: {"direction": "OUT"} for wire in nets.values()}}}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(content))
    return sites
