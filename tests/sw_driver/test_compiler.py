import dataclasses
import itertools
import re

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS, PUBLISHED, AcceleratorConfig
from systola.hw.contract.isa import Engine, Flag, Opcode
from systola.hw.contract.numbers import LEVELS
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import GraphError, Scores, Softmax
from systola.model.operators.deferred import exp_table
from systola.model.operators.log2_exponentials import nearest_codes
from systola.sim.machine.machine import DeadlockError, Machine, ProgramFault
from systola.sw_driver.compiler.attention import EXPONENTIALS
from systola.sw_driver.compiler.compiler import (
    CompileError,
    compile_network,
    compile_operations,
    encode_stream,
)
from systola.sw_driver.compiler.contention import port_use
from systola.sw_driver.compiler.costs import COSTS
from systola.sw_driver.compiler.layout import (
    ParamBlock,
    Tensor,
    allocate_blocks,
    allocate_scratchpad,
)
from systola.sw_driver.compiler.mlp import GELU
from systola.sw_driver.compiler.operation import Operation
from systola.sw_driver.compiler.predict import predict_cycles
from systola.sw_driver.compiler.schedule import assign_tokens, prefetch_params
from systola.sw_driver.program.image import Program, decode_outputs
from tests.settings import ACCURATE

DIGITS = {"channels": 64, "heads": 4, "blocks": 4, "hidden": 256, "classes": 10, "tokens": 17,
          "patch_dim": 4}
SMALL = {"channels": 12, "heads": 2, "blocks": 1, "hidden": 18, "classes": 5, "tokens": 7,
         "patch_dim": 5}
TINY = AcceleratorConfig(rows=6, cols=4, lanes=2, token_depth=8, banks=2, bank_depth=512,
                         weight_fifo=8, stream_fifo=8, queue_depth=4, param_depth=64, max_row=64,
                         **PUBLISHED)

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
    "log2": ({"attention": "half_16"}, {"attention": "half_16"}),
    "log2, chunks": ({"attention": "sqrt2_16", "tokens": 13, "heads": 3, "blocks": 2},
                     {"attention": "sqrt2_16", "token_depth": 4, "mult_bits": 24}),
    "log2, odd words": ({"attention": "single_16", "tokens": 13},
                        {"attention": "single_16", "rows": 3, "cols": 2, "lanes": 1}),
    "normalised": ({"attention": "normalised"}, {"attention": "normalised"}),
    "normalised, chunks": (
        {"attention": "normalised", "tokens": 13, "heads": 3, "blocks": 2, "act_bits": 5},
        {"attention": "normalised", "token_depth": 4, "mult_bits": 24, "act_bits": 5}),
    "many units": ({"tokens": 17, "heads": 2, "blocks": 2, "channels": 20},
                   {"token_depth": 4, "bank_depth": 256, "rows": 5, "cols": 5, "lanes": 5}),
    "16-bit multipliers": ({"code_mult_bits": 16}, {"code_mult_bits": 16}),
    "packed": ({"gelu": "table"}, {"gelu": "table", "pe_style": "dsp_packed", "max_row": 12}),
    "8-bit attention": ({"attention_bits": 8}, {"attention_bits": 8}),
    "8-bit attention, two digits": ({"attention_bits": 8, "act_bits": 7},
                                    {"attention_bits": 8, "act_bits": 7}),
    "table": ({"gelu": "table", "blocks": 2}, {"gelu": "table", "rows": 5, "cols": 5, "lanes": 5}),
    "leading one": ({"norm": "leading_one"}, {"norm": "leading_one"}),
    "normalised norm": ({"norm": "normalised"}, {"norm": "normalised"}),
    "compared norm": ({"norm": "compared", "act_bits": 4}, {"norm": "compared", "act_bits": 4}),
    "compared norm, chunks, fewer bits": (
        {"norm": "compared", "act_bits": 2, "tokens": 11, "blocks": 2},
        {"norm": "compared", "act_bits": 3, "token_depth": 4}),
    "accurate": (ACCURATE, ACCURATE),
    "full multiplier": ({"mult_bits": 31, "classes": 1}, {"mult_bits": 31}),
    "two tokens": ({"tokens": 2}, {"token_depth": 2, "queue_depth": 2}),
    "one bank": ({}, {"banks": 1, "bank_depth": 1024}),
}


def build(sizes=(), fields=(), seed=1, images=1):
    """Return a random network, an accelerator, and its input for so many images."""
    rng = np.random.default_rng(seed)
    model = random_vit(rng, **{**SMALL, **PUBLISHED, **dict(sizes)})
    config = dataclasses.replace(TINY, **dict(fields))
    depth = 256 << images  # residual streams, keys and values of all images are there at once
    if config.banks * config.bank_depth < depth:
        config = dataclasses.replace(config, bank_depth=depth // config.banks)
    codes = random_codes(rng, model, images)
    return model, config, codes if images > 1 else {"patches": codes["patches"][0]}


def run(program, inputs, seed=None):
    machine = Machine(program.config, seed)
    return decode_outputs(program, machine.run(program.fill(inputs)))


def differing(outputs, expected):
    return [name for name, value in outputs.items() if not np.array_equal(value, expected[name])]


def stored(expected):
    """Return the tensors a trace of a whole network has: rows that nothing moves have no own."""
    return [name for name in expected if name not in ("patch_embed", "pooled")]


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_every_tensor_equals_the_model_under_any_schedule(name, images):
    model, config, codes = build(*CASES[name], images=images)
    expected = forward(model, codes)
    program = compile_network(model, config, trace=True, images=images)
    for seed in range(6 if images == 1 else 2):
        outputs = run(program, codes, seed)
        assert list(outputs) == stored(expected)
        assert differing(outputs, expected) == []


@pytest.mark.parametrize("name", CASES)
def test_programs_are_read_back_from_their_files(name, tmp_path):
    model, config, codes = build(*CASES[name])
    program = compile_network(model, config, trace=True)
    program.write(tmp_path / "p.bin")
    loaded = Program.read(tmp_path / "p.bin")
    assert (loaded.outputs, loaded.inputs, loaded.frames) == (program.outputs, program.inputs,
                                                              program.frames)
    assert differing(run(loaded, codes), forward(model, codes)) == []


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("name", ["odd", "chunks", "deferred, chunks", "log2, chunks", "many units",
                                  "packed"])
def test_blocks_alone(name, trace, images):
    model, config, _ = build(*CASES[name], images=images)
    blocks = encoder_blocks(model, len(model.of(Scores)))
    shape = blocks.tensors["embed"].shape
    x = np.random.default_rng(3).integers(-2**15, 2**15, shape if images == 1 else (images, *shape))
    expected = forward(blocks, {"embed": x})
    program = compile_network(blocks, config, trace=trace, images=images)
    for seed in range(4):
        outputs = run(program, {"embed": x}, seed)
        assert list(outputs) == (list(expected) if trace else [list(expected)[-1]])
        assert differing(outputs, expected) == []


def test_blocks_alone_need_a_block():
    with pytest.raises(GraphError, match=r"^blocks must be from 1 to 0, the encoder blocks there "
                                         r"are, not 1$"):
        encoder_blocks(build({"blocks": 0})[0], 1)


@pytest.mark.parametrize("images", [0, -1, 4097, 2.0, True, None])
def test_images_must_be_a_number(images):
    message = f"images must be an integer from 1 to 4096, not {images!r}"
    with pytest.raises(CompileError, match=f"^{re.escape(message)}$"):
        compile_network(*build()[:2], images=images)


def test_weights_are_streamed_for_chunks_of_rows_and_not_for_images():
    def weights(images):
        model, config, _ = build({}, {"token_depth": 32, "bank_depth": 2048})
        ops = compile_operations(model.repeated(images), config)[1]
        return [sum(op.beats for op in ops if op.opcode is Opcode.LOAD_WEIGHTS and op.name == name)
                for name in ("blocks.0.fc1", "blocks.0.out", "logits")]

    one, three = weights(1), weights(3)
    assert one[0] <= three[0] < 3 * one[0]
    assert one[1] <= three[1] < 3 * one[1]
    assert three[2] == one[2] > 0


@pytest.mark.parametrize("seed", range(12))
def test_random_sizes(seed):
    rng = np.random.default_rng(seed)
    heads, lanes = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    act_bits = int(rng.integers(2, 9))
    bits = {"act_bits": act_bits, "weight_bits": int(rng.integers(2, 9)),
            "attention_bits": int(rng.choice([8, 16])),
            "gelu": str(rng.choice(["published", "table"]))}
    if bits["attention_bits"] == 16 and seed % 2:
        bits |= {"attention": "normalised", "norm": "normalised"}
    rows = lanes * int(rng.integers(2, 5))
    config = {**bits, "weight_bits": 8, "rows": rows, "lanes": lanes,
              "cols": lanes * int(rng.integers(1, rows // lanes + 1)),
              "token_depth": int(rng.choice([2, 4, 16])), "bank_depth": 1024}
    sizes = {**bits, "heads": heads, "channels": heads * int(rng.integers(2, 7)),
             "hidden": int(rng.integers(2, 30)), "tokens": int(rng.integers(2, 14)),
             "patch_dim": int(rng.integers(1, 9)), "classes": int(rng.integers(1, 9))}
    images = int(rng.integers(1, 4))
    model, config, codes = build(sizes, config, seed, images)
    program, expected = compile_network(model, config, trace=True, images=images), forward(
        model, codes)
    for schedule in range(3):
        outputs = run(program, codes, schedule)
        assert list(outputs) == stored(expected)
        assert differing(outputs, expected) == []


@pytest.mark.parametrize("preset", ["digits", "small"])
def test_digits_model(preset):
    model = random_vit(np.random.default_rng(0), **DIGITS, **PRESETS[preset].model_settings)
    codes = {"patches": random_codes(np.random.default_rng(1), model)["patches"][0]}
    for trace in False, True:
        program = compile_network(model, PRESETS[preset], trace=trace)
        outputs = run(program, codes, 0)
        assert len(outputs) == (43 if trace else 1)
        assert differing(outputs, forward(model, codes)) == []
    assert program.macs == 4 * 16 * 64 + 640 + 4 * 17 * (4 * 64**2 + 2 * 17 * 64 + 2 * 64 * 256)


def test_stream_is_the_same_for_the_same_model():
    programs = [compile_network(*build()[:2]) for _ in range(2)]
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
    expected, program = forward(model, codes), compile_network(model, config)
    ops = compile_operations(model, config)[1]
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
    program = compile_network(model, config)
    ops = compile_operations(model, config)[1]
    op = next(op for op in ops if op.name == "logits" and op.engine is Engine.MATRIX)
    op.signal |= 1 << Engine.VECTOR
    broken = dataclasses.replace(program, stream=encode_stream(ops, config)[0])
    with pytest.raises(ProgramFault, match=r"^tokens left over \(from, to\): \[.*1.*\]$"):
        run(broken, codes)


def test_wait_without_a_signal_deadlocks():
    model, config, codes = build()
    program = compile_network(model, config)
    ops = compile_operations(model, config)[1]
    op = next(op for op in ops if op.opcode is Opcode.SHIFTMAX)
    op.wait |= 1 << Engine.LOAD
    with pytest.raises(DeadlockError, match=r"^no engine can move; .*VECTOR at \d+"):
        run(dataclasses.replace(program, stream=encode_stream(ops, config)[0]), codes)


@pytest.mark.parametrize("name", ["table", "deferred, chunks"])
def test_tables_are_those_of_the_network(name):
    model, config, _ = build(*CASES[name])
    tables = [model.by_name[name].table for name in ("blocks.0.gelu", "blocks.1.gelu")] \
        if name == "table" else [exp_table(-node.unit) for node in model.of(Softmax)]
    loads = [op for op in compile_operations(model, config)[1] if op.opcode is Opcode.LOAD_TABLE]
    assert [op.table_write for op in loads] == [GELU if name == "table" else EXPONENTIALS] * 2
    for op, table in zip(loads, tables, strict=True):
        lanes = op.data[:, :config.rows].view(np.int8).reshape(-1)
        assert lanes[:256].astype(int).tolist() == [(x + 128) % 256 - 128 for x in table.tolist()]
        assert not lanes[256:].any()


@pytest.mark.parametrize("scheme", LEVELS)
def test_tables_of_log2_attention_have_codes(scheme):
    model, config, _ = build({"attention": scheme}, {"attention": scheme})
    (load,) = [op for op in compile_operations(model, config)[1]
               if op.opcode is Opcode.LOAD_TABLE and op.table_write == EXPONENTIALS]
    codes = load.data[:, :config.rows].reshape(-1)[:256]
    assert codes.tolist() == nearest_codes(-model.of(Softmax)[0].unit, scheme).tolist()
    assert codes.max() == len(LEVELS[scheme]) - 1


def test_log2_attention_takes_half_the_words():
    """Of rows of an even number of words; and the network needs less memory, whole."""
    words, least = {}, {}
    for attention in "deferred", "half_16":
        model, config, _ = build(
            {"attention": attention, "tokens": 36, "heads": 1, "channels": 6, "hidden": 6},
            {"attention": attention, "token_depth": 64, "bank_depth": 1024})
        words[attention] = compile_network(model, config).predicted["scratchpad"]
        ops = compile_operations(model, config)[1]
        with pytest.raises(CompileError, match=r"^scratchpad must have at least") as refused:
            allocate_scratchpad(ops, dataclasses.replace(config, banks=1, bank_depth=16))
        least[attention] = int(str(refused.value).split()[5])
    assert words["half_16"]["attention"] * 2 == words["deferred"]["attention"]
    assert least["half_16"] < least["deferred"]
    assert least == {name: found["peak"] for name, found in words.items()}


@pytest.mark.parametrize("seed", range(10))
def test_what_lies_over_another_meets_nothing_else(seed):
    """Chains of scores and attention: the attention is at their start."""
    rng = np.random.default_rng(seed)
    ops, spans = [], {}
    for _ in range(12):
        words = int(rng.integers(2, 9))
        scores, other = Tensor("scores", 1, words), Tensor("other", 1, int(rng.integers(1, 9)))
        attention = Tensor("attention", 1, -(-words // 2), over=scores)
        for reads, writes in (other, scores), (scores, attention), (attention, other):
            for item in reads, writes:
                spans.setdefault(item, [len(ops), 0])[1] = len(ops)
            ops.append(chained(reads, writes))
    for banks in 4, 1:
        used, peak = allocate_scratchpad(ops, dataclasses.replace(TINY, banks=banks,
                                                                  bank_depth=16))
        for one, other in live_together(spans):
            if one in (other.over, other) or other is one.over:
                assert one.base == other.base
                continue
            assert not set(one.view().addresses().tolist()) & set(
                other.view().addresses().tolist())
        assert used == max(item.base + item.size for item in spans) >= peak


@pytest.mark.parametrize("name", ["log2", "log2, odd words", "deferred", "normalised"])
def test_the_predictor_counts_the_words_that_softmax_writes(name):
    model, config, _ = build(*CASES[name])
    found = [(sum(port_use(op, op.resolved(), config).writes.values()),
              len(op.writes["dst_"].addresses()))
             for op in compile_operations(model, config)[1] if op.opcode is Opcode.SHIFTMAX]
    assert found
    assert all(counted == written for counted, written in found)


def chained(reads, writes):
    return Operation(Opcode.MATMUL, "", reads={"act_": reads.view()},
                     writes={"out_": writes.view()})


@pytest.mark.parametrize(("depth", "base"), [(32, 12), (16, 6)])
def test_the_rest_is_used_only_if_there_is_no_room(depth, base):
    scores, beside = Tensor("scores", 1, 12), Tensor("beside", 1, 10)
    attention, first = Tensor("attention", 1, 6, over=scores), Tensor("first", 1, 1)
    ops = [chained(first, scores), chained(scores, attention), chained(attention, beside)]
    allocate_scratchpad(ops, dataclasses.replace(TINY, banks=1, bank_depth=depth))
    assert (scores.base, attention.base, beside.base) == (0, 0, base)


def test_feeders_follow_their_matmul():
    ops = compile_operations(*build(*CASES["chunks"])[:2], trace=True)[1]
    for before, op in itertools.pairwise(ops):
        assert (before.opcode is Opcode.MATMUL) == op.feeds


def test_parameters_are_loaded_one_operation_ahead():
    ops = compile_operations(*build()[:2])[1]
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
    ops = compile_operations(model, config)[1]
    index = next(i for i, op in enumerate(ops) if op.name == "blocks.0.attn_out"
                 and op.opcode is Opcode.MATMUL)
    assert ops[index].fields["act_words"] == 3
    tile = ops[index + 1].data[:2].reshape(2, -1).view(np.int8)
    weight = model.by_name["blocks.0.attn_out"].weight
    assert tile.tolist() == [[*weight[0, :3], 0], [*weight[1, :3], 0]]


def test_context_of_heads_lies_side_by_side_where_groups_of_lanes_allow():
    model, config, _ = build({"heads": 3, "channels": 18}, {"rows": 8, "cols": 4, "lanes": 2})
    ops = compile_operations(model, config)[1]
    out = [(op.writes["out_"].word, op.fields["out_group"], op.fields["words"],
            op.fields["lanes_last"]) for op in ops
           if op.opcode is Opcode.MATMUL and ".context." in op.name]
    assert out == [(0, 0, 1, 6), (0, 3, 2, 4), (1, 2, 2, 2)]
    words = {op.fields["act_words"] for op in ops
             if op.opcode is Opcode.MATMUL and op.name == "blocks.0.attn_out"}
    assert words == {3}


def test_fetch_of_v_is_transposed_and_of_k_is_not():
    ops = compile_operations(*build()[:2])[1]
    flags = {op.name.split(".")[2]: op.fields["flags"] for op in ops if op.opcode is Opcode.FETCH}
    assert flags == {"scores": 0, "context": Flag.TRANSPOSE}


def predicted(sizes=(), fields=()):
    model, config, _ = build(sizes, fields)
    lowering, ops, *_ = compile_operations(model, config)
    return predict_cycles(ops, config, lowering.macs), ops, config, lowering


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
    program = compile_network(model, config)
    assert program.predicted == program.predicted | line.to_dict()
    assert line.to_dict()["matrix_busy"] == line.busy[Engine.MATRIX]


def test_deeper_queues_and_fifos_cost_nothing():
    slow = {"queue_depth": 2, "weight_fifo": 2, "stream_fifo": 4}
    cycles = [predicted(fields=slow)[0].cycles]
    for name in slow:
        slow |= {name: 64}
        cycles.append(predicted(fields=slow)[0].cycles)
    assert cycles[0] >= cycles[1] > cycles[2] > cycles[3]


@pytest.mark.slow
def test_every_cost_counts():
    # Wide results, residuals, a starved FIFO, transposed fetches: every delay is on some path.
    cases = [CASES["odd"], ({"blocks": 2, "hidden": 40}, {"weight_fifo": 2, "stream_fifo": 4,
                                               "queue_depth": 2}),
             ({"gelu": "table"}, {"gelu": "table"}), CASES["deferred"], CASES["normalised"],
             CASES["normalised norm"], CASES["compared norm"],
             ({"classes": 60}, {"param_depth": 16, "stream_fifo": 64})]
    useless, cases = set(), [predicted(*case) for case in cases]
    for field in dataclasses.fields(COSTS):
        costs = dataclasses.replace(COSTS, **{field.name: getattr(COSTS, field.name) + 200})
        differences = [predict_cycles(ops, config, lowering.macs, costs=costs).cycles - line.cycles
                       for line, ops, config, lowering in cases]
        if field.name == "run_ahead":  # the only one that is a head start
            assert max(differences) <= 0
        else:
            assert min(differences) >= 0
            useless |= {field.name} if max(differences) == 0 else set()
    # What would need a fence waits for parameters instead; no network here has a mean over rows, or
    # moves any.
    assert useless == {"copy_done", "fence", "mean"}
