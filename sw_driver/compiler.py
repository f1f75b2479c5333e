"""Compile an integer Vision Transformer to a program image."""

from systola.hw.isa import INSTRUCTION_BYTES, Opcode, encode
from systola.sw_driver.checks import check_model
from systola.sw_driver.layout import CompileError, allocate_params, allocate_scratchpad
from systola.sw_driver.network import lower
from systola.sw_driver.predict import predict_cycles
from systola.sw_driver.program import InputSlot, OutputPart, OutputTensor, Program, decode_outputs
from systola.sw_driver.schedule import assign_tokens, prefetch_params

__all__ = ["CompileError", "compile_model", "compile_operations", "decode_outputs",
           "encode_stream"]

_PARAM_SHARE = 4  # of the parameter memory for one MATMUL, so that the next ones' fit beside it


def compile_model(model, config, *, trace=False):
    """Return the `Program` that runs `model` on an accelerator of `config`.

    Parameters
    ----------
    model : systola.model.integer.IntegerVit
        The quantized network.
    config : AcceleratorConfig
        The accelerator it shall run on.
    trace : bool
        Store every named tensor as soon as it is complete, not only the logits.

    Raises
    ------
    CompileError
        If a value of the model does not fit the configuration, or its tensors do not fit the
        scratchpad or the parameter memory.
    """
    build, ops = compile_operations(model, config, trace=trace)
    stream, offsets = encode_stream(ops, config)
    stores = [op for op in ops if op.opcode is Opcode.STORE]
    frame = {op: index for index, op in enumerate(stores)}
    return Program(
        config=config, stream=stream, instructions=len(ops) + 2, macs=build.macs,
        frames=tuple(op.fields["rows"] * op.fields["words"] for op in stores),
        inputs=tuple(InputSlot(name=name, offset=offsets[op], rows=rows, channels=channels,
                               words=op.fields["words"])
                     for name, op, rows, channels in build.inputs),
        outputs=tuple(_output(name, *output, frame) for name, output in build.outputs.items()),
        model=_describe(model),
        predicted=predict_cycles(ops, config, build.macs).to_dict())


def compile_operations(model, config, *, trace=False):
    """Return the `Lowering` and its operations in stream order, placed and with their tokens."""
    check_model(model, config)
    build = lower(model, config, trace=trace,
                  param_words=max(config.param_depth // _PARAM_SHARE, 1))
    for distance in 1, 0:
        ops = prefetch_params(build.ops, distance)
        try:
            allocate_params(ops, config)
            break
        except CompileError:
            if distance == 0:
                raise
    allocate_scratchpad(ops, config)
    assign_tokens(ops, config)
    return build, ops


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
        OutputPart(frame=frame[op], planes=tensor.planes, digit_bits=digit_bits, rows=tensor.rows,
                   words=tensor.words, lane=lane, columns=columns, head=head, row=row,
                   column=column)
        for op, tensor, digit_bits, lane, columns, head, row, column in parts))


def _describe(model):
    names = ("tokens", "channels", "heads", "hidden", "classes", "act_bits", "weight_bits",
             "attention_bits", "mult_bits", "gelu", "norm_start")
    return {**{name: getattr(model, name) for name in names}, "blocks": len(model.blocks),
            "meta": {key: value for key, value in model.meta.items()
                     if isinstance(value, (str, int, float))}}
