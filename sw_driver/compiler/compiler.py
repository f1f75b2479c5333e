"""Compile an integer Vision Transformer to a program image."""

import dataclasses

from systola.hw.contract.config import MODEL_SETTINGS
from systola.hw.contract.isa import INSTRUCTION_BYTES, Opcode, encode
from systola.sw_driver.compiler.fits import check_model
from systola.sw_driver.compiler.layout import (
    CompileError,
    FactorBlock,
    ParamBlock,
    allocate_blocks,
    allocate_scratchpad,
)
from systola.sw_driver.compiler.plan import plans
from systola.sw_driver.compiler.predict import predict_cycles
from systola.sw_driver.compiler.schedule import assign_tokens, prefetch_params
from systola.sw_driver.compiler.vit import lower
from systola.sw_driver.program.image import (
    InputSlot,
    OutputPart,
    OutputTensor,
    Program,
    decode_outputs,
)

__all__ = ["CompileError", "compile_model", "compile_operations", "decode_outputs",
           "encode_stream"]

_PARAM_SHARE = 8  # of the parameter memory for one MATMUL, so that the next ones' fit beside it


def compile_model(model, config, *, trace=False, blocks_only=False):
    """Return the `Program` that runs `model` on an accelerator of `config`.

    Activations stay in the scratchpad: what does not fit in the smallest chunks is refused with
    the words it would need, nothing is spilled.

    Parameters
    ----------
    model : systola.model.networks.integer_vit.IntegerVit
        The quantized network.
    config : AcceleratorConfig
        The accelerator it shall run on.
    trace : bool
        Store every named tensor as soon as it is complete, not only the results.
    blocks_only : bool
        Only the encoder blocks: input ``embed``, the 16-bit residual stream, and result
        ``blocks.<last>.out``, instead of ``patches`` and ``logits``.

    Raises
    ------
    CompileError
        If a value of the model does not fit the configuration, or its tensors do not fit the
        scratchpad or the parameter memory.
    """
    build, ops = compile_operations(model, config, trace=trace, blocks_only=blocks_only)
    stream, offsets = encode_stream(ops, config)
    stores = [op for op in ops if op.opcode is Opcode.STORE]
    frame = {op: index for index, op in enumerate(stores)}
    return Program(
        config=config, stream=stream, instructions=len(ops) + 2, macs=build.macs,
        frames=tuple(op.fields["rows"] * op.fields["words"] for op in stores),
        inputs=tuple(InputSlot(name=name, offset=offsets[op], row=row, rows=rows,
                               channels=channels, planes=planes,
                               words=op.fields["words"] // planes)
                     for name, op, row, rows, channels, planes in build.inputs),
        outputs=tuple(_output(name, *output, frame) for name, output in build.outputs.items()),
        model=_describe(model), names=tuple(op.name for op in ops),
        predicted={**predict_cycles(ops, config, build.macs).to_dict(), "passes": build.passes,
                   "scratchpad_peak": build.peak, "scratchpad_used": build.used})


def compile_operations(model, config, *, trace=False, blocks_only=False):
    """Return the `Lowering` and its operations in stream order, placed and with their tokens."""
    check_model(model, config)
    if blocks_only and not model.blocks:
        raise CompileError("blocks_only needs a model with at least one block")
    options = {"trace": trace, "blocks_only": blocks_only,
               "param_words": max(config.param_depth // _PARAM_SHARE, 1)}
    plan = _fitting_plan(model, config, options)
    build = lower(model, config, plan, **options)
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
    return build, ops


def _fitting_plan(model, config, options):
    """Return the first plan with which the first two blocks fit; all others are as the second."""
    short = dataclasses.replace(model, blocks=model.blocks[:2])

    def refusal(plan):
        build = lower(short, config, plan, **options)
        try:
            allocate_blocks(build.ops, FactorBlock, "token_depth", config.factor_depth)
            allocate_scratchpad(build.ops, config)
        except CompileError as error:
            return error
        return None

    candidates = list(plans(model, config))
    for index, plan in enumerate(candidates):
        error = refusal(plan)
        if error is None:
            return plan
        if index == 0:  # the smallest chunks need the least: is there hope?
            error = refusal(candidates[-1])
            if error is not None:
                raise error
    raise error


def encode_stream(ops, config):
    """Return the stream, and for every operation the offset of its data in it."""
    def padded(instruction):
        return instruction.ljust(-(-INSTRUCTION_BYTES // config.bus_bytes) * config.bus_bytes,
                                 b"\0")

    pieces, offsets, position = [padded(encode(Opcode.BEGIN, config_hash=config.hash))], {}, 0
    position = len(pieces[0])
    for op in ops:
        pieces.append(padded(op.encoded()))
        position += len(pieces[-1])
        offsets[op] = position
        if op.data is not None:
            pieces.append(op.data.tobytes())
            position += len(pieces[-1])
    return b"".join((*pieces, padded(encode(Opcode.END)))), offsets


def _output(name, shape, parts, frame):
    return OutputTensor(name=name, shape=tuple(shape), parts=tuple(
        OutputPart(frame=frame[op], planes=view.planes, digit_bits=digit_bits, rows=view.rows,
                   words=view.words, lane=lane, columns=columns, head=head, row=row,
                   column=column)
        for op, view, digit_bits, lane, columns, head, row, column in parts))


def _describe(model):
    names = ("tokens", "channels", "heads", "hidden", "classes", *MODEL_SETTINGS)
    return {**{name: getattr(model, name) for name in names}, "blocks": len(model.blocks),
            "meta": {key: value for key, value in model.meta.items()
                     if isinstance(value, (str, int, float))}}
