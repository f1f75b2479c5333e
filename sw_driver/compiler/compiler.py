"""Compile an integer network to a program image."""

from collections import Counter

import numpy as np

from systola.hw.contract.isa import INSTRUCTION_BYTES, Opcode, encode
from systola.model.graph.nodes import Scores
from systola.sw_driver.compiler.fits import check_network
from systola.sw_driver.compiler.layout import (
    CompileError,
    FactorBlock,
    ParamBlock,
    allocate_blocks,
    allocate_scratchpad,
)
from systola.sw_driver.compiler.network import lower
from systola.sw_driver.compiler.plan import plans
from systola.sw_driver.compiler.predict import predict_cycles
from systola.sw_driver.compiler.schedule import assign_tokens, prefetch_params
from systola.sw_driver.program.image import InputSlot, OutputPart, OutputTensor, Program
from systola.sw_driver.program.slots import MOST_IMAGES, is_count

__all__ = ["CompileError", "batches", "check_fit", "compile_network", "compile_operations",
           "describe_slots", "encode_stream"]

_PARAM_SHARE = 8  # of the parameter memory for one MATMUL, so that the next ones' fit beside it


def compile_network(graph, config, *, trace=False, images=1, supply=None):
    """Return the `Program` that runs `graph` on an accelerator of `config`.

    Activations stay in the scratchpad: what does not fit in the smallest chunks is refused with
    the words it would need, nothing is spilled.

    Parameters
    ----------
    graph : systola.model.graph.graph.Graph
        The integer network, for one image.
    config : AcceleratorConfig
        The accelerator it shall run on.
    trace : bool
        Store every computed tensor as soon as it is complete, not only the results.
    images : int
        Images that one run takes. Weights are streamed once for each chunk or group of rows, not
        for each image.
    supply : systola.sw_driver.compiler.array_times.Supply, optional
        The memory that the program is played from, if it is slower than a beat a cycle: of chunks
        of several sizes those are taken that are fastest with it.

    Raises
    ------
    CompileError
        If a node or a value does not fit the configuration, or its tensors do not fit the
        scratchpad or the parameter memory.
    """
    if not is_count(images, MOST_IMAGES, low=1):
        raise CompileError(f"images must be an integer from 1 to {MOST_IMAGES}, not {images!r}")
    build, ops, predicted = compile_operations(graph.repeated(images), config, trace=trace,
                                               supply=supply)
    stream, offsets = encode_stream(ops, config)
    return Program(
        config=config, stream=stream, instructions=len(ops) + 2, macs=build.macs, work=build.work,
        images=images,
        **describe_slots(build, ops, offsets),
        model=_describe(graph), names=tuple(op.name for op in ops),
        predicted={**predicted.to_dict(), "passes": build.passes, "scratchpad": {
            "peak": build.peak, "used": build.used,
            "attention": sum(len(op.writes["dst_"].addresses()) for op in ops
                             if op.opcode is Opcode.SHIFTMAX)}})


def batches(images, size):
    """Return the images of every run of `size`: what only fills the last run is the last image."""
    return [[min(index, images - 1) for index in range(start, start + size)]
            for start in range(0, images, size)]


def compile_operations(graph, config, *, trace=False, supply=None):
    """Return the `Lowering`, its operations in stream order, placed and with tokens, and cycles.

    Of the ways to compute several short sequences, and of several sizes of chunks if the stream is
    slow, the one with the fewest cycles, a `predict.Prediction`.
    """
    check_network(graph, config)
    options = {"trace": trace, "param_words": max(config.param_depth // _PARAM_SHARE, 1)}
    found, refusals = [], []
    done = set()
    for candidates in plans(graph, config, fewer=supply is not None):
        try:
            plan = _fitting_plan(graph, config, options, candidates)
            if plan in done:
                continue
            done.add(plan)
            build = lower(graph, config, plan, **options)
            ops = _placed(build, config)
            found.append((build, ops, predict_cycles(ops, config, build.work, supply=supply)))
        except CompileError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return min(found, key=lambda case: case[2].cycles)


def check_fit(graph, config, *, whole=True, trace=False):
    """Raise `CompileError` unless an accelerator of `config` can run `graph`.

    Nothing is predicted, so that it takes less time than `compile_operations`; much less if blocks
    that repeat others need not be looked at: what is not `whole` may still be refused. With `trace`
    every tensor is stored, for which some live longer.
    """
    check_network(graph, config)
    graph = graph if whole else _shortened(graph)
    options = {"trace": trace, "param_words": max(config.param_depth // _PARAM_SHARE, 1)}
    refusals = []
    for candidates in plans(graph, config):
        try:
            plan = _fitting_plan(graph, config, options, candidates)
            _placed(lower(graph, config, plan, **options), config)
            return
        except CompileError as error:
            refusals.append(error)
    raise refusals[0]


def _placed(build, config):
    """Give the operations of `build` addresses and tokens; returns them in stream order."""
    for distance in 1, 0:
        ops = prefetch_params(build.ops, distance)
        try:
            allocate_blocks(ops, ParamBlock, "param_depth", config.param_depth)
            break
        except CompileError:
            if distance == 0:
                raise
    allocate_blocks(ops, FactorBlock, "token_depth", config.factor_depth)
    build.used, build.peak = allocate_scratchpad(ops, config)
    assign_tokens(ops, config)
    return ops


def _fitting_plan(graph, config, options, candidates):
    """Return the first of the plans `candidates` with which what differs between nodes fits."""
    short = _shortened(graph)

    def refusal(plan):
        try:
            build = lower(short, config, plan, **options)
            allocate_blocks(build.ops, FactorBlock, "token_depth", config.factor_depth)
            allocate_scratchpad(build.ops, config)
        except CompileError as error:
            return error
        return None

    for index, plan in enumerate(candidates):
        error = refusal(plan)
        if error is None:
            return plan
        if index == 0:  # the smallest chunks need the least: is there hope?
            error = refusal(candidates[-1])
            if error is not None:
                raise error
    raise error


def _shortened(graph):
    """Return the part of `graph` that shows what memory it needs.

    A network that repeats an encoder block needs as much in the second one as in those behind it.
    """
    def key(node):
        source = graph.by_name[node.query]
        return (graph.tensors[node.name].shape, node.head_dim, len(node.sequences),
                np.shape(getattr(source, "weight", ())))

    attentions, seen = graph.of(Scores), Counter()
    for index, node in enumerate(attentions):
        if all(seen[key(other)] >= 2 for other in attentions[index:]):
            stream = graph.by_name[graph.by_name[node.query].inputs[0]].inputs
            if len(stream) != 1 or not graph.by_name[stream[0]].inputs:
                return graph  # the blocks do not follow each other
            return graph.between([other.name for other in graph.inputs], stream)
        seen[key(node)] += 1
    return graph


def encode_stream(ops, config):
    """Return the stream, and for every operation the offset of its data in it."""
    def padded(instruction):
        return instruction.ljust(-(-INSTRUCTION_BYTES // config.bus_bytes) * config.bus_bytes,
                                 b"\0")

    pieces, offsets = [padded(encode(Opcode.BEGIN, config_hash=config.hash))], {}
    position = len(pieces[0])
    for op in ops:
        pieces.append(padded(op.encoded()))
        position += len(pieces[-1])
        offsets[op] = position
        if op.data is not None:
            pieces.append(op.data.tobytes())
            position += len(pieces[-1])
    return b"".join((*pieces, padded(encode(Opcode.END)))), offsets


def describe_slots(build, ops, offsets):
    """Return the frames, inputs and outputs of a `Program` of `ops`, which `build` made."""
    stores = [op for op in ops if op.opcode is Opcode.STORE]
    frame = {op: index for index, op in enumerate(stores)}
    return {
        "frames": tuple(op.fields["rows"] * op.fields["words"] for op in stores),
        "inputs": tuple(
            InputSlot(name=part.name, offset=offsets[part.op], row=part.row, rows=part.rows,
                      channels=part.channels, planes=part.planes,
                      words=part.op.fields["words"] // part.planes) for part in build.inputs),
        "outputs": tuple(
            OutputTensor(name=name, shape=shape, parts=tuple(
                OutputPart(frame=frame[part.op], planes=part.view.planes, rows=part.view.rows,
                           words=part.view.words, digit_bits=part.digit_bits,
                           **vars(part.place)) for part in parts))
            for name, (shape, parts) in build.outputs.items())}


def _describe(graph):
    return {**graph.summary(),
            "meta": {key: value for key, value in graph.meta.items()
                     if isinstance(value, str | int | float)}}
