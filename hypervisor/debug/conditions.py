"""Conditions: Python expressions that a person writes, evaluated without Python's ``eval``.

Allowed: names, numbers, strings, True/False/None, tuples, lists, subscripts, arithmetic, bit
operations, comparisons (``in`` too), ``and or not``, ``x if c else y``, and calls of the functions
that are offered by name. No attributes, no imports, no definitions: an expression can say nothing
but a value, and its work is bounded (large powers and shifts are refused).

How it fails: ``DebugError``, when it is compiled or when it is evaluated.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from hypervisor.debug.model import DebugError

_MAX_TEXT: Final = 4096
_MAX_BITS: Final = 4096
_BINARY: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "abs": abs,
    "len": len,
    "min": min,
    "max": max,
    "int": int,
}


class Condition:
    """A compiled expression.

    Raises:
        DebugError: it is no expression, or uses what is not allowed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _MAX_TEXT:
            raise DebugError(f"a condition of {len(text)} characters is too long")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = getattr(error, "msg", None) or str(error)
            raise DebugError(f"condition {text!r}: {why}") from error
        _check(self._tree, text)

    def value(self, names: Mapping[str, Any]) -> Any:
        """What it is, with these names (functions among them).

        Raises:
            DebugError: it has no value (a name is missing, a division by zero...).
        """
        try:
            return _evaluate(self._tree, names)
        except DebugError as error:
            raise DebugError(f"condition {self.text!r}: {error}") from None
        except KeyError as error:
            raise DebugError(f"condition {self.text!r}: there is no {error}") from None
        except (ArithmeticError, TypeError, ValueError, IndexError, RecursionError) as error:
            raise DebugError(f"condition {self.text!r}: {error}") from None

    def holds(self, names: Mapping[str, Any]) -> bool:
        """Its truth.

        Raises:
            DebugError: it has no value.
        """
        return bool(self.value(names))


_ALLOWED: Final = (
    ast.Name, ast.Constant, ast.Tuple, ast.List, ast.Subscript, ast.BinOp, ast.UnaryOp, ast.BoolOp,
    ast.Compare, ast.IfExp, ast.Call, ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def _check(tree: ast.expr, text: str) -> None:
    for node in ast.walk(tree):
        allowed = isinstance(node, _ALLOWED)
        if isinstance(node, ast.BinOp):
            allowed = type(node.op) in _BINARY
        elif isinstance(node, ast.Call):
            allowed = isinstance(node.func, ast.Name) and not node.keywords
        elif isinstance(node, ast.operator):
            allowed = type(node) in _BINARY
        if not allowed:
            raise DebugError(f"condition {text!r}: {type(node).__name__} is not allowed")


def _evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id] if node.id in names else FUNCTIONS[node.id]
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, names), _evaluate(node.right, names)
        if isinstance(node.op, ast.LShift) and isinstance(right, int) and right > _MAX_BITS:
            raise DebugError("a shift is too large")
        if isinstance(node.op, ast.Mult) and not (_is_number(left) and _is_number(right)):
            raise DebugError("only numbers can be multiplied")
        if isinstance(node.op, ast.Mod) and not (_is_number(left) and _is_number(right)):
            raise DebugError("only numbers have a remainder")
        return _BINARY[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)](_evaluate(node.operand, names))
    if isinstance(node, ast.BoolOp):
        result: Any = None
        for part in node.values:
            result = _evaluate(part, names)
            if bool(result) is isinstance(node.op, ast.Or):
                return result
        return result
    if isinstance(node, ast.Compare):
        left = _evaluate(node.left, names)
        for op, part in zip(node.ops, node.comparators, strict=True):
            right = _evaluate(part, names)
            if not _COMPARE[type(op)](left, right):
                return False
            left = right
        return True
    if isinstance(node, ast.IfExp):
        return _evaluate(node.body if _evaluate(node.test, names) else node.orelse, names)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_evaluate(part, names) for part in node.elts)
    if isinstance(node, ast.Subscript):
        return _evaluate(node.value, names)[_evaluate(node.slice, names)]
    if isinstance(node, ast.Call):
        function = _evaluate(node.func, names)
        if not callable(function):
            raise DebugError("only functions can be called")
        return function(*(_evaluate(part, names) for part in node.args))
    raise DebugError(f"{type(node).__name__} is not allowed")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
