"""What the dispatcher refuses: bit-exact model of the checks of ``hw/control/dispatcher.py``."""

from systola.hw.contract.isa import Error, Flag, Opcode, decode, formats

__all__ = ["check_instruction", "check_word", "columns", "fetch_words", "mean_planes", "outputs",
           "param_words", "weight_words"]

_REGIONS = {
    Opcode.LOAD: (("", None),), Opcode.FETCH: (("", None),), Opcode.STORE: (("", None),),
    Opcode.SHIFTMAX: (("src_", 1), ("dst_", "digits")),
    Opcode.SHIFTGELU: (("src_", 1), ("dst_", 1)),
    Opcode.LAYERNORM: (("src_", 2), ("dst_", 1)),
}
_COUNTS = ("rows", "words", "act_words", "digits", "count")
_VECTOR = Opcode.SHIFTMAX, Opcode.SHIFTGELU, Opcode.LAYERNORM, Opcode.MEAN


def columns(fields, config):
    """Return the lanes of a row of a region, from the first of its first word on."""
    return (fields["words"] - 1) * config.rows + fields["lanes_last"]


def outputs(fields, config):
    """Return N, the channels that a MATMUL writes; they begin in group `out_group`."""
    return max(columns(fields, config) - fields["out_group"] * config.lanes, 0)


def weight_words(fields, config):
    """Return the weight FIFO words that a MATMUL takes: those of whole tiles, at least one."""
    tiles = max(-(-outputs(fields, config) // config.cols), 1)
    return tiles * fields["act_words"] * config.cols


def fetch_words(fields, config):
    """Return the weight FIFO words that a FETCH gives."""
    tall, wide = fields["rows"], columns(fields, config)
    if fields["flags"] & Flag.TRANSPOSE:
        tall, wide = wide, tall
    return -(-tall // config.cols) * config.cols * -(-wide // config.rows)


def mean_planes(fields):
    """Return the planes of a MEAN's rows, and those of the row that it writes."""
    return 1 + fields["wide"], 1 + (fields["out_bits"] > 8)


def param_words(opcode, fields, config):
    """Return the parameter words that must be there for an operation.

    Of a MATMUL with an `out_group`, those of a row without it, which it would not need.
    """
    if opcode is Opcode.SHIFTGELU or (
            opcode is Opcode.MATMUL and fields["flags"] & Flag.BROADCAST):
        return 1
    return -(-columns(fields, config) // config.lanes)


def check_word(word, index, config):
    """Return ``(error, decoded)`` of the 64 bytes of the instruction at `index`, see `decode`."""
    try:
        decoded = decode(word)
    except ValueError:
        return Error.BAD_OPCODE, None
    opcode, _, _, fields = decoded
    if opcode not in formats(config) or (opcode is Opcode.BEGIN) != (index == 0):
        return Error.BAD_OPCODE, decoded
    return check_instruction(opcode, fields, config), decoded


def check_instruction(opcode, fields, config):
    """Return the `Error` of an instruction, ``Error.NONE`` if it may run."""
    if opcode is Opcode.BEGIN:
        return Error.NONE if fields["config_hash"] == config.hash else Error.CONFIG_HASH
    if any(fields.get(name) == 0 for name in _COUNTS):
        return Error.ZERO_COUNT
    for check in _fields, _regions, _params, _factors, _rows, _beats:
        error = check(opcode, fields, config)
        if error:
            return error
    return Error.NONE


def _fields(opcode, fields, config):
    limits = {"lanes_last": (1, config.rows), "x0": (1, (1 << config.x0_bits) - 1),
              "out_bits": (2, 16 if opcode in (Opcode.MATMUL, Opcode.MEAN) else 8),
              "wide": (0, 1), "mult": (1, (1 << min(config.mult_bits, config.code_mult_bits)) - 1),
              "shift": (0, 63), "res_shift": (0, 63),
              "digits": (1, config.attention_digits), "table": (0, 1),
              "out_group": (0, config.rows // config.lanes - 1)}
    if opcode is Opcode.MATMUL:
        limits["flags"] = (0, 31 if config.factor_depth else 15)
    bad = any(name in fields and not low <= fields[name] <= high
              for name, (low, high) in limits.items())
    return Error.FIELD_RANGE if bad else Error.NONE


def _regions(opcode, fields, config):
    regions = [(prefix, config.attention_digits if planes == "digits" else planes, fields["words"])
               for prefix, planes in _REGIONS.get(opcode, ())]
    if opcode is Opcode.MATMUL:
        regions = [("act_", fields["digits"], fields["act_words"]),
                   ("out_", 1 + (fields["out_bits"] > 8), fields["words"])]
        if fields["flags"] & Flag.RESIDUAL:
            regions.append(("res_", 2, fields["words"]))
    if opcode is Opcode.MEAN:
        regions = [(prefix, planes, fields["words"]) for prefix, planes in zip(
            ("src_", "dst_"), mean_planes(fields), strict=True)]
    for prefix, planes, words in regions:
        rows = 1 if (opcode, prefix) == (Opcode.MEAN, "dst_") else fields["rows"]
        last = fields[f"{prefix}base"] + (rows - 1) * fields[f"{prefix}stride"] + words - 1
        if planes is not None:
            last += (planes - 1) * fields[f"{prefix}plane"]
        if last >= config.scratchpad_words:
            return Error.SCRATCHPAD_RANGE
    return Error.NONE


def _params(opcode, fields, config):
    if opcode is Opcode.LOAD_PARAMS:
        end = fields["base"] + fields["count"]
    elif "param_base" in fields:
        end = fields["param_base"] + param_words(opcode, fields, config)
    else:
        return Error.NONE
    return Error.PARAM_RANGE if end > config.param_depth else Error.NONE


def _factors(opcode, fields, config):
    used = opcode is Opcode.SHIFTMAX or (
        opcode is Opcode.MATMUL and fields["flags"] & Flag.ROW_SCALE)
    if used and config.factor_depth:
        if fields["factor_base"] + fields["rows"] > config.factor_depth:
            return Error.FACTOR_RANGE
    return Error.NONE


def _rows(opcode, fields, config):
    if opcode is Opcode.MATMUL and fields["rows"] > config.token_depth:
        return Error.TOKEN_RANGE
    if opcode in _VECTOR and columns(fields, config) > config.max_row:
        return Error.ROW_RANGE
    return Error.NONE


def _beats(opcode, fields, config):
    expected = {
        Opcode.LOAD: lambda: fields["rows"] * fields["words"],
        Opcode.LOAD_PARAMS: lambda: fields["count"] * config.param_beats,
        Opcode.LOAD_TABLE: lambda: -(-256 // config.rows),
    }.get(opcode)
    if opcode is Opcode.LOAD_WEIGHTS:
        wrong = fields["beats"] == 0
    else:
        wrong = expected is not None and fields["beats"] != expected()
    return Error.BEAT_COUNT if wrong else Error.NONE
