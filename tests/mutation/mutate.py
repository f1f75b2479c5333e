"""Single faults of hardware descriptions, planted in the text of an Amaranth module.

A fault replaces one expression or statement. What cannot change hardware, or is an error's text,
stays as it is: docstrings, f-strings, names, checks of arguments (an ``if`` that only raises),
defaults, decorators, and everything outside functions.
"""

import ast
import hashlib
from typing import NamedTuple

__all__ = ["Fault", "describes_hardware", "faults", "planted", "sample"]

_BINARY = {ast.Add: ("arithmetic", ast.Sub), ast.Sub: ("arithmetic", ast.Add),
           ast.Mult: ("arithmetic", ast.Add), ast.LShift: ("shift", ast.RShift),
           ast.RShift: ("shift", ast.LShift), ast.BitAnd: ("logic", ast.BitOr),
           ast.BitOr: ("logic", ast.BitAnd), ast.BitXor: ("logic", ast.BitOr)}
_COMPARE = {ast.Eq: ("equality", ast.NotEq), ast.NotEq: ("equality", ast.Eq),
            ast.Lt: ("order", ast.LtE), ast.LtE: ("order", ast.Lt),
            ast.Gt: ("order", ast.GtE), ast.GtE: ("order", ast.Gt)}
_SIZES = {"Signal", "signed", "unsigned", "Const", "In", "Out", "ArrayLayout", "StructLayout"}
"""Calls whose numbers are sizes: one more is no fault, so theirs become one less."""
_UNMUTATED = {"name", "reset_less", "src_loc_at"}
"""Keyword arguments that simulated hardware does not depend on."""


class Fault(NamedTuple):
    """One replacement in a file: bytes `start` to `end` of its text become `text`."""

    file: str
    line: int
    kind: str
    original: str
    mutated: str
    start: int
    end: int
    text: str


def describes_hardware(source):
    """Tell whether a module imports what Amaranth builds hardware of."""
    return any(isinstance(node, ast.ImportFrom) and node.module in ("amaranth", "amaranth.lib")
               for node in ast.parse(source).body)


def planted(source, fault):
    """Return `source` with the fault; no line moves."""
    data = source.encode()
    return (data[:fault.start] + fault.text.encode() + data[fault.end:]).decode()


def faults(file, source):
    """Return all faults of a module in the order of their places."""
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    found = []
    for node, kind, text in _replacements(ast.parse(source)):
        start = lines[node.lineno - 1] + node.col_offset
        end = lines[node.end_lineno - 1] + node.end_col_offset
        breaks = "\n" * (node.end_lineno - node.lineno)
        atom = isinstance(node, ast.stmt) or text.isalnum() or text == "[]"
        text = text + breaks if atom else f"({text}{breaks})"
        fault = Fault(file, node.lineno, kind, "", "", start, end, text)
        both = [" ".join(" ".join(text.splitlines()[node.lineno - 1:node.end_lineno]).split())
                for text in (source, planted(source, fault))]
        found.append(fault._replace(original=both[0], mutated=both[1]))
    return sorted(found, key=lambda fault: (fault.start, fault.end, fault.text))


def sample(candidates, count, seed):
    """Return at most `count` faults: one of every file, then of all kinds in turn.

    A fault's rank depends on the seed and on its own line only, so that an edit elsewhere does not
    deal all faults anew.
    """
    seen, ranked = {}, []
    for fault in candidates:
        key = f"{seed}|{fault.file}|{fault.kind}|{fault.original}|{fault.mutated}"
        seen[key] = seen.get(key, 0) + 1
        ranked.append((hashlib.sha256(f"{key}|{seen[key]}".encode()).digest(), fault))
    ranked = [fault for _, fault in sorted(ranked)]
    chosen = list({fault.file: fault for fault in reversed(ranked)}.values())
    kinds = {}
    for fault in ranked:
        if fault not in chosen:
            kinds.setdefault(fault.kind, []).append(fault)
    while len(chosen) < count and any(kinds.values()):
        chosen += [kinds[kind].pop(0) for kind in sorted(kinds) if kinds[kind]]
    return sorted(chosen[:max(count, len({fault.file for fault in ranked}))])


def _replacements(tree):
    """Yield ``(node, kind, new text)`` of every fault below a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _replacements(node)
        elif isinstance(node, ast.FunctionDef) and node.name != "__repr__":
            for statement in node.body:
                yield from _below(statement, sized=False)


def _below(node, sized):
    """Yield the faults of `node` and of all parts of it that are hardware."""
    if _checks(node) or isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return
    if isinstance(node, ast.keyword):
        if node.arg in _UNMUTATED:
            return
        sized = sized or (node.arg or "").endswith(("width", "bits", "depth"))
    if isinstance(node, ast.FunctionDef):
        parts = node.body
    else:
        parts = ast.iter_child_nodes(node)
        yield from _at(node, sized)
    if isinstance(node, ast.Call):
        sized = sized or _called(node) in _SIZES
    for part in parts:
        if not (isinstance(node, ast.Slice) and isinstance(part, ast.Constant)):
            yield from _below(part, sized)


def _checks(node):
    """Tell whether a statement does nothing but check arguments."""
    match node:
        case ast.Raise() | ast.Assert():
            return True
        case ast.Expr(value=ast.Call() as call):
            return (_called(call) or "").startswith("check")
        case ast.If() | ast.For():
            return all(_checks(part) for part in (*node.body, *node.orelse))
    return False


def _at(node, sized):
    """Yield the faults of this very node."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            if not any(isinstance(side, (ast.Dict, ast.JoinedStr)) or (
                    isinstance(side, ast.Constant) and isinstance(side.value, str))
                    for side in (left, right)):
                kind, new = _BINARY[type(op)]
                yield node, kind, ast.unparse(ast.BinOp(left, new(), right))
        case ast.Compare(left=left, ops=[op], comparators=others) if type(op) in _COMPARE:
            kind, new = _COMPARE[type(op)]
            yield node, kind, ast.unparse(ast.Compare(left, [new()], others))
        case ast.UnaryOp(op=ast.Invert() | ast.Not() | ast.USub(), operand=operand) \
                if not isinstance(operand, ast.Constant):
            yield node, "inversion", ast.unparse(operand)
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            yield node, "constant", str(value - 1 if sized and value else 1 - value
                                        if value in (0, 1) else value + 1)
        case ast.Subscript(value=value, slice=ast.Slice(lower=lower, upper=upper, step=None)) \
                if upper or lower:
            one = ast.Constant(1)
            moved = (ast.Slice(lower, ast.BinOp(upper, ast.Sub(), one)) if upper
                     else ast.Slice(ast.BinOp(lower, ast.Add(), one)))
            yield node, "slice", ast.unparse(ast.Subscript(value, moved))
        case ast.Call(func=ast.Attribute(attr="If" | "Elif"), args=[condition]):
            negated = ast.Compare(condition, [ast.Eq()], [ast.Constant(0)])
            yield condition, "condition", ast.unparse(negated)
        case ast.Call(func=ast.Attribute(attr="eq"), args=[_]):
            yield node, "assignment", "[]"
        case ast.Call(args=[condition, yes, no]) if _called(node) == "Mux":
            swapped = ast.Call(node.func, [condition, no, yes], node.keywords)
            yield node, "multiplexer", ast.unparse(swapped)
        case ast.Expr(value=ast.Call() as call) if _called(call) == "connect":
            yield node, "connection", "pass"
        case ast.Assign(targets=[ast.Attribute(attr="next")]):
            yield node, "state", "pass"


def _called(call):
    """Return the last name of what is called, such as ``connect`` of ``wiring.connect``."""
    return getattr(call.func, "id", getattr(call.func, "attr", None))
