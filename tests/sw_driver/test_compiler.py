import dataclasses
import itertools

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.contract.isa import Engine, Flag, Opcode
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.networks.integer_forward import forward, forward_blocks, tensor_names
from systola.model.networks.integer_vit import Dyadic
from systola.model.operators.deferred import exp_table
from systola.model.operators.shiftgelu import gelu_table
from systola.sim.machine.machine import DeadlockError, Machine, ProgramFault
from systola.sw_driver.compiler import payloads
from systola.sw_driver.compiler.compiler import (
    CompileError,
    compile_model,
    compile_operations,
    encode_stream,
)
from systola.sw_driver.compiler.costs import COSTS
from systola.sw_driver.compiler.layout import (
    ParamBlock,
    Tensor,
    allocate_blocks,
    allocate_scratchpad,
)
from systola.sw_driver.compiler.operation import Operation
from systola.sw_driver.compiler.predict import predict_cycles
from systola.sw_driver.compiler.schedule import assign_tokens, prefetch_params
from systola.sw_driver.program.image import decode_outputs

DIGITS = {"channels": 64, "heads": 4, "blocks": 4, "hidden": 256, "classes": 10, "tokens": 17,
          "patch_dim": 4}
SMALL = {"channels": 12, "heads": 2, "blocks": 1, "hidden": 18, "classes": 5, "tokens": 7,
         "patch_dim": 5}
TINY = AcceleratorConfig(rows=6, cols=4, lanes=2, token_depth=8, banks=2, bank_depth=512,
                         weight_fifo=8, stream_fifo=8, queue_depth=4, param_depth=64, max_row=64)

# Sizes that divide nothing, more rows than the accumulators hold, padded heads, split layers.
CASES = {
    "odd": ({}, {}),
    "chunks": ({"tokens": 11}, {"token_depth": 4}),
    "one column": ({"heads": 3}, {"rows": 3, "cols": 1, "lanes": 1}),
    "four heads, one word each": ({"heads": 4, "blocks": 2}, {"rows": 3, "cols": 3, "lanes": 3}),
    "one head of two words": ({"heads": 1, "channels": 10}, {"rows": 9, "cols": 6, "lanes": 3}),
    "few parameters": ({}, {"param_depth": 16, "rows": 4, "cols": 2, "lanes": 1}),
    "wide bus": ({"blocks": 0}, {"rows": 128, "cols": 96, "lanes": 32}),
    "2 bits": ({"weight_bits": 2, "act_bits": 2}, {"weight_bits": 2, "act_bits": 2}),
    "3 by 5 bits": ({"weight_bits": 3, "act_bits": 5}, {"weight_bits": 5, "act_bits": 6}),
    "deferred": ({"attention": "deferred"}, {"attention": "deferred"}),
    "deferred, chunks": ({"attention": "deferred", "tokens": 13, "heads": 3, "blocks": 2},
                         {"attention": "deferred", "token_depth": 4, "mult_bits": 24}),
    "many units": ({"tokens": 17, "heads": 2, "blocks": 2, "channels": 20},
                   {"token_depth": 4, "bank_depth": 256, "rows": 5, "cols": 5, "lanes": 5}),
    "16-bit multipliers": ({"code_mult_bits": 16}, {"code_mult_bits": 16}),
    "packed": ({"gelu": "table"}, {"gelu": "table", "pe_style": "dsp_packed", "max_row": 12}),
    "8-bit attention": ({"attention_bits": 8}, {"attention_bits": 8}),
    "8-bit attention, two digits": ({"attention_bits": 8, "act_bits": 7},
                                    {"attention_bits": 8, "act_bits": 7}),
    "table": ({"gelu": "table", "blocks": 2}, {"gelu": "table", "rows": 5, "cols": 5, "lanes": 5}),
    "leading one": ({"norm_start": "leading_one"}, {"norm_start": "leading_one"}),
    "full multiplier": ({"mult_bits": 31, "classes": 1}, {"mult_bits": 31}),
    "two tokens": ({"tokens": 2}, {"token_depth": 2, "queue_depth": 2}),
    "one bank": ({}, {"banks": 1, "bank_depth": 1024}),
}


def build(sizes=(), fields=(), seed=1):
    rng = np.random.default_rng(seed)
    model = random_vit(rng, **{**SMALL, **dict(sizes)})
    config = dataclasses.replace(TINY, **dict(fields))
    return model, config, random_codes(rng, model)[0]


def run(program, codes, seed=None):
    machine = Machine(program.config, seed)
    return decode_outputs(program, machine.run(program.fill({"patches": codes})))


def differing(outputs, expected):
    return [name for name, value in outputs.items() if not np.array_equal(value, expected[name])]


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_equals_the_model_under_any_schedule(name):
    model, config, codes = build(*CASES[name])
    expected, program = forward(model, codes), compile_model(model, config, trace=True)
    for seed in range(6):
        outputs = run(program, codes, seed)
        assert list(outputs) == tensor_names(model)
        assert differing(outputs, expected) == []


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("name", ["odd", "chunks", "deferred, chunks", "many units", "packed"])
def test_blocks_alone(name, trace):
    model, config, _ = build(*CASES[name])
    x = np.random.default_rng(3).integers(-2**15, 2**15, (model.tokens, model.channels))
    expected = forward_blocks(model, x)
    program = compile_model(model, config, trace=trace, blocks_only=True)
    for seed in range(4):
        frames = Machine(config, seed).run(program.fill({"embed": x}))
        outputs = decode_outputs(program, frames)
        assert list(outputs) == (list(expected) if trace else [list(expected)[-1]])
        assert differing(outputs, expected) == []


def test_single_blocks_need_a_block():
    with pytest.raises(CompileError, match=r"^blocks_only needs a model with at least one block$"):
        compile_model(*build({"blocks": 0})[:2], blocks_only=True)


@pytest.mark.parametrize("seed", range(12))
def test_random_sizes(seed):
    rng = np.random.default_rng(seed)
    heads, lanes = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    act_bits = int(rng.integers(2, 9))
    bits = {"act_bits": act_bits, "weight_bits": int(rng.integers(2, 9)),
            "attention_bits": int(rng.choice([8, 16])), "gelu": str(rng.choice(["exact", "table"]))}
    rows = lanes * int(rng.integers(2, 5))
    config = {**bits, "weight_bits": 8, "rows": rows, "lanes": lanes,
              "cols": lanes * int(rng.integers(1, rows // lanes + 1)),
              "token_depth": int(rng.choice([2, 4, 16])), "bank_depth": 1024}
    sizes = {**bits, "heads": heads, "channels": heads * int(rng.integers(2, 7)),
             "hidden": int(rng.integers(2, 30)), "tokens": int(rng.integers(2, 14)),
             "patch_dim": int(rng.integers(1, 9)), "classes": int(rng.integers(1, 9))}
    model, config, codes = build(sizes, config, seed)
    program = compile_model(model, config, trace=True)
    for schedule in range(3):
        assert differing(run(program, codes, schedule), forward(model, codes)) == []


@pytest.mark.parametrize("preset", ["digits", "small"])
def test_digits_model(preset):
    model = random_vit(np.random.default_rng(0), **DIGITS, **PRESETS[preset].model_settings)
    codes = random_codes(np.random.default_rng(1), model)[0]
    for trace in False, True:
        program = compile_model(model, PRESETS[preset], trace=trace)
        outputs = run(program, codes, 0)
        assert len(outputs) == (43 if trace else 1)
        assert differing(outputs, forward(model, codes)) == []
    assert program.macs == 4 * 16 * 64 + 640 + 4 * 17 * (4 * 64**2 + 2 * 17 * 64 + 2 * 64 * 256)


def test_stream_is_the_same_for_the_same_model():
    programs = [compile_model(*build()[:2]) for _ in range(2)]
    assert programs[0].stream == programs[1].stream


def dropped_tokens(ops):
    """Yield (waiting, giving) operation of every dependency, with it removed from `ops`."""
    waits = [(op, other) for op in ops for other in Engine if op.wait >> other & 1]
    for op, other in waits:
        giver = op
        if other != op.engine:
            position = [o for o in ops if o.engine == op.engine and o.wait >> other & 1].index(op)
            giver = [o for o in ops if o.engine == other and o.signal >> op.engine & 1][position]
            giver.signal ^= 1 << op.engine
        op.wait ^= 1 << other
        yield op, giver
        op.wait ^= 1 << other
        if giver is not op:
            giver.signal ^= 1 << op.engine


def test_every_missing_token_is_found():
    """Without any one of its dependencies some schedule gives a wrong result."""
    model, config, codes = build({"heads": 1, "tokens": 5, "channels": 6, "hidden": 5},
                                 {"param_depth": 16, "weight_fifo": 64, "bank_depth": 128})
    expected, program = forward(model, codes), compile_model(model, config)
    _, ops = compile_operations(model, config)
    missed, total = [], 0
    for waiter, giver in dropped_tokens(ops):
        total += 1
        broken = dataclasses.replace(program, stream=encode_stream(ops, config)[0])
        assert broken.stream != program.stream
        if not any(differing(run(broken, codes, seed), expected) for seed in range(60)):
            missed.append((waiter.opcode, giver.opcode, waiter.params is giver.loads))
    assert total > 20
    # Parameters also stand before weights that the MATMUL before must have taken, and a MATMUL's
    # own weights come behind what FETCH reads: no other order exists, so nothing can go wrong
    # without these tokens.
    assert set(missed) <= {(Opcode.MATMUL, Opcode.LOAD_PARAMS, True),
                           (Opcode.MATMUL, Opcode.FETCH, False)}
    assert len(missed) <= 4


def chained_matmuls(after):
    """Return two MATMULs with their weights, the second on the first's result; it loads params."""
    tensors = [Tensor(f"t{k}", 2, 1, base=2 * k) for k in range(3)]
    block = ParamBlock("p", 1, base=0)
    multiply = [Operation(Opcode.MATMUL, "", reads={"act_": tensors[k].view()},
                          writes={"out_": tensors[k + 1].view()},
                          params=block if k else None) for k in range(2)]
    weights = [Operation(Opcode.LOAD_WEIGHTS, "") for _ in range(2)]
    params = Operation(Opcode.LOAD_PARAMS, "", loads=block, after=[multiply[0]] if after else [])
    return [multiply[0], weights[0], params, multiply[1], weights[1]]


def test_result_of_a_matmul_is_waited_for_by_the_next_or_by_its_parameters():
    for after in False, True:
        ops = chained_matmuls(after)
        assign_tokens(ops, TINY)
        _, _, params, second, _ = ops
        assert second.wait == 1 << Engine.LOAD | (not after) << Engine.MATRIX
        assert params.wait == after << Engine.MATRIX
        assert ops[0].signal == after << Engine.LOAD


def test_parameters_that_wait_leave_a_matmul_in_between():
    ops = chained_matmuls(True)
    assert prefetch_params(ops, 1) == ops
    ops = chained_matmuls(False)
    assert prefetch_params(ops, 1) == [ops[k] for k in (2, 0, 1, 3, 4)]


def test_unmatched_token_is_found():
    model, config, codes = build()
    program = compile_model(model, config)
    _, ops = compile_operations(model, config)
    op = next(op for op in ops if op.name == "logits" and op.engine is Engine.MATRIX)
    op.signal |= 1 << Engine.VECTOR
    broken = dataclasses.replace(program, stream=encode_stream(ops, config)[0])
    with pytest.raises(ProgramFault, match=r"^tokens left over \(from, to\): \[.*1.*\]$"):
        run(broken, codes)


def test_wait_without_a_signal_deadlocks():
    model, config, codes = build()
    program = compile_model(model, config)
    _, ops = compile_operations(model, config)
    op = next(op for op in ops if op.opcode is Opcode.SHIFTMAX)
    op.wait |= 1 << Engine.LOAD
    with pytest.raises(DeadlockError, match=r"^no engine can move; .*VECTOR at \d+"):
        run(dataclasses.replace(program, stream=encode_stream(ops, config)[0]), codes)


def test_feeders_follow_their_matmul():
    _, ops = compile_operations(*build(*CASES["chunks"])[:2], trace=True)
    for before, op in itertools.pairwise(ops):
        assert (before.opcode is Opcode.MATMUL) == op.feeds


def test_parameters_are_loaded_one_operation_ahead():
    _, ops = compile_operations(*build()[:2])
    first = next(index for index, op in enumerate(ops) if op.opcode is Opcode.LAYERNORM)
    assert any(op.loads is not None and op.loads is not ops[first].params
               for op in ops[:first] if op.name == "blocks.0.qkv")


def live_together(spans):
    """Yield all pairs of items that one operation or more needs at the same time."""
    for (one, a), (other, b) in itertools.combinations(spans.items(), 2):
        if a[0] <= b[1] and b[0] <= a[1]:
            yield one, other


@pytest.mark.parametrize("seed", range(20))
def test_what_lives_together_does_not_overlap(seed):
    """Chains of operations in memories so small that everything freed is used again at once."""
    rng = np.random.default_rng(seed)
    config = dataclasses.replace(TINY, banks=int(rng.choice([1, 2, 4])), bank_depth=16,
                                 param_depth=16)
    tensors = [Tensor(f"t{k}", 1, int(rng.integers(1, 9))) for k in range(12)]
    blocks = [ParamBlock(f"p{k}", int(rng.integers(1, 7))) for k in range(12)]
    ops, spans = [], {}
    for k in range(11):
        ops.append(Operation(Opcode.LOAD_PARAMS, "", loads=blocks[k]))
        ops.append(Operation(Opcode.MATMUL, "", reads={"act_": tensors[k].view()},
                             writes={"out_": tensors[k + 1].view()},
                             params=blocks[max(k - int(rng.integers(2)), 0)]))
        for item in tensors[k], tensors[k + 1], blocks[k], ops[-1].params:
            spans.setdefault(item, [len(ops) - 1 - (item is blocks[k]), 0])[1] = len(ops) - 1
    done = 0
    for kind in Tensor, ParamBlock:
        try:
            if kind is Tensor:
                allocate_scratchpad(ops, config)
            else:
                allocate_blocks(ops, kind, "param_depth", 16)
        except CompileError:
            continue
        done += 1
        for one, other in live_together({k: v for k, v in spans.items() if isinstance(k, kind)}):
            places = [set((item.view() if kind is Tensor else item).addresses().tolist())
                      for item in (one, other)]
            assert not places[0] & places[1]
            assert max(places[0]) < (config.scratchpad_words if kind is Tensor else 16)
    assert done


def test_projection_weights_follow_the_padded_context():
    model, config, _ = build({"heads": 3, "channels": 9}, {"rows": 4, "cols": 2, "lanes": 2})
    _, ops = compile_operations(model, config)
    index = next(i for i, op in enumerate(ops) if op.name == "blocks.0.attn_out"
                 and op.opcode is Opcode.MATMUL)
    assert ops[index].fields["act_words"] == 3
    tile = ops[index + 1].data[:2].reshape(2, -1).view(np.int8)
    weight = model.blocks[0].proj.weight
    assert tile.tolist() == [[*weight[0, :3], 0], [*weight[1, :3], 0]]


def test_context_of_heads_lies_side_by_side_where_groups_of_lanes_allow():
    model, config, _ = build({"heads": 3, "channels": 18}, {"rows": 8, "cols": 4, "lanes": 2})
    _, ops = compile_operations(model, config)
    out = [(op.writes["out_"].word, op.fields["out_group"], op.fields["words"],
            op.fields["lanes_last"]) for op in ops
           if op.opcode is Opcode.MATMUL and ".context." in op.name]
    assert out == [(0, 0, 1, 6), (0, 3, 2, 4), (1, 2, 2, 2)]
    words = {op.fields["act_words"] for op in ops
             if op.opcode is Opcode.MATMUL and op.name == "blocks.0.attn_out"}
    assert words == {3}


def test_fetch_of_v_is_transposed_and_of_k_is_not():
    _, ops = compile_operations(*build()[:2])
    flags = {op.name.split(".")[2]: op.fields["flags"] for op in ops if op.opcode is Opcode.FETCH}
    assert flags == {"scores": 0, "context": Flag.TRANSPOSE}


def test_gelu_table_equals_the_model():
    rng = np.random.default_rng(0)
    for x0 in -1, -7, -20, -99, -300, -4095:
        mult, shift = int(rng.integers(-2**24, 2**24)), int(rng.integers(24, 36))
        for bits, case_shift in (8, shift), (2, shift), (8, 0), (5, 1):
            case = (1 if case_shift < 2 else mult), case_shift, bits
            assert payloads.gelu_table(x0, *case).tolist() == gelu_table(x0, *case).tolist()


def test_exponential_table_equals_the_model():
    for x0 in -1, -7, -20, -99, -300, -4095:
        assert payloads.exp_table(x0).tolist() == exp_table(x0).tolist()


MISFITS = [
    ({}, {"attention_bits": 8}, r"attention_bits must be 16 as in the model, not 8"),
    ({}, {"gelu": "table"}, r"gelu must be 'exact' as in the model, not 'table'"),
    ({}, {"norm_start": "leading_one"}, r"norm_start must be 'published' .*, not 'leading_one'"),
    ({}, {"weight_bits": 7}, r"weight_bits must be at least 8 as in the model, not 7"),
    ({}, {"act_bits": 7}, r"act_bits must be at least 8 as in the model, not 7"),
    ({}, {"mult_bits": 23}, r"mult_bits must be at least 24 as in the model, not 23"),
    ({}, {"max_row": 17}, r"max_row must be at least 18, the hidden channels, not 17"),
    ({}, {"max_row": 11}, r"max_row must be at least 12, the channels, not 11"),
    ({}, {"acc_bits": 20}, r"acc_bits must be at least 23, the worst case of .*context, not 20"),
    ({}, {"x0_bits": 1}, r"blocks\.0\.softmax_x0 must be from -1 to -1 \(x0_bits\), not -\d+"),
    ({}, {"bank_depth": 16}, r"scratchpad must have at least \d+ words for .*, not 32 \(.*\)"),
    ({}, {"param_depth": 4}, r"param_depth must be larger than 4 words: .* needs \d+ beside .*"),
]


@pytest.mark.parametrize(("sizes", "fields", "message"), MISFITS)
def test_misfit_names_the_values(sizes, fields, message):
    model, config, _ = build(sizes, fields)
    with pytest.raises(CompileError, match=f"^{message}$"):
        compile_model(model, config)


def test_keys_and_values_must_fit_the_stationary_side():
    model, config, _ = build({"weight_bits": 4}, {"weight_bits": 4})
    compile_model(model, config)
    block = model.blocks[0]
    wide = dataclasses.replace(block, qkv=dataclasses.replace(block.qkv, out_bits=8))
    with pytest.raises(CompileError,
                       match=r"^weight_bits must be at least 8, the bits of K and V, not 4$"):
        compile_model(dataclasses.replace(model, blocks=(wide,)), config)


@pytest.mark.parametrize(("changes", "message"), [
    ({"heads": 5}, r"heads must divide the 12 channels, not 5"),
    ({"cls_row": np.full(12, 40000)}, r"cls_row must be from -32768 to 32767, not 40000"),
    ({"position": np.zeros((6, 11))}, r"position must have shape \(6, 12\), not \(6, 11\)"),
    ({"position_residual": Dyadic(mult=np.int64(1 << 25), shift=np.int64(3))},
     r"position_residual multipliers must be below 2\*\*24 \(mult_bits\), not 33554432"),
    ({"position_residual": Dyadic(mult=np.int64(1), shift=np.int64(64))},
     r"position_residual shifts must be from 0 to 63, not 64"),
    ({"position_residual": Dyadic(mult=np.int64(-15 << 10), shift=np.int64(10))},
     r"position_residual must rescale 16 bits to less than 491520, not to 491520"),
    ({"mult_bits": 25}, r"mult_bits must be at least 25 as in the model, not 24"),
])
def test_bad_model_is_refused(changes, message):
    model, config, _ = build()
    with pytest.raises(CompileError, match=f"^{message}$"):
        compile_model(dataclasses.replace(model, **changes), config)


@pytest.mark.parametrize(("changes", "message"), [
    ({"out_bits": 17}, r"patch out_bits must be from 9 to 16, not 17"),
    ({"out_bits": 8}, r"patch out_bits must be from 9 to 16, not 8"),
    ({"weight": np.full((12, 5), 128)}, r"patch weight must be from -128 to 127, not 128"),
    ({"bias": np.full(12, 1 << 31)}, r"patch bias must be from -2147483648 to 2147483647, .*"),
    ({"bias": np.zeros(11)}, r"patch bias must have shape \(12,\), not \(11,\)"),
    ({"bias": np.full(12, (1 << 31) - 1)}, r"acc_bits must be at least 33, .* of patch, not 32"),
])
def test_bad_layer_is_refused(changes, message):
    model, config, _ = build()
    layer = dataclasses.replace(model.patch, **changes)
    with pytest.raises(CompileError, match=f"^{message}$"):
        compile_model(dataclasses.replace(model, patch=layer), config)


def predicted(sizes=(), fields=(), **costs):
    model, config, _ = build(sizes, fields)
    lowering, ops = compile_operations(model, config)
    line = predict_cycles(ops, config, lowering.macs, costs=dataclasses.replace(COSTS, **costs))
    return line, ops, config, lowering


def test_prediction_is_above_every_bound():
    for sizes, fields in CASES.values():
        line, ops, config, lowering = predicted(sizes, fields)
        data = sum(op.beats for op in ops)
        header = -(-64 // config.bus_bytes)
        assert line.stream_beats == data + header * (len(ops) + 2)
        passes = sum(op.fields["rows"] * op.fields["digits"] * len(weights.data) // config.cols
                     for op, weights in itertools.pairwise(ops)
                     if op.opcode is Opcode.MATMUL and weights.data is not None)
        assert line.cycles >= max(line.stream_beats, passes, *line.busy.values())
        assert line.busy[Engine.MATRIX] >= passes
        assert line.utilisation == lowering.macs / (config.rows * config.cols * line.cycles) < 1


def test_prediction_is_in_the_program():
    model, config, _ = build()
    line, *_ = predicted()
    program = compile_model(model, config)
    assert program.predicted == program.predicted | line.to_dict()
    assert line.to_dict()["matrix_busy"] == line.busy[Engine.MATRIX]


def test_deeper_queues_and_fifos_cost_nothing():
    slow = {"queue_depth": 2, "weight_fifo": 2, "stream_fifo": 4}
    cycles = [predicted(fields=slow)[0].cycles]
    for name in slow:
        slow |= {name: 64}
        cycles.append(predicted(fields=slow)[0].cycles)
    assert cycles[0] >= cycles[1] > cycles[2] > cycles[3]


def test_every_cost_counts():
    # Wide results, residuals, a starved FIFO, transposed fetches: every delay is on some path.
    cases = [CASES["odd"], ({"blocks": 2, "hidden": 40}, {"weight_fifo": 2, "stream_fifo": 4,
                                               "queue_depth": 2}),
             ({"gelu": "table"}, {"gelu": "table"}), CASES["deferred"],
             ({"classes": 60}, {"param_depth": 16, "stream_fifo": 64})]
    useless = set()
    for field in dataclasses.fields(COSTS):
        changes = {field.name: getattr(COSTS, field.name) + 200}
        differences = [predicted(*case, **changes)[0].cycles - predicted(*case)[0].cycles
                       for case in cases]
        if field.name == "run_ahead":  # the only one that is a head start
            assert max(differences) <= 0
        else:
            assert min(differences) >= 0
            useless |= {field.name} if max(differences) == 0 else set()
    # What would need a fence waits for parameters instead; no network here has a mean over rows.
    assert useless == {"fence", "mean"}
