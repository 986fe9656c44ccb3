"""Expressions of the assembler: integers, labels and C's operators.

Numbers are decimal, ``0x1f`` or ``1fh``, ``0b101``, ``0o17`` and ``'a'``. A decimal number with a
leading zero is refused (it is octal for some assemblers and decimal for others) unless both
readings agree. Arithmetic is on 64 bits: a result outside -2**63 .. 2**64-1 wraps. Comparisons
yield 1 or 0.

A value carries how often an address is in it (``degree``): a label has 1, a label plus a number
has 1, the distance of two labels has 0. This tells ``[rip + label]`` (reach the label) from
``[rip + 8]`` (a displacement).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

MAX_TOKENS = 200
"""Longest expression: parsing and evaluation recurse, and must not exhaust Python's stack."""


class ExpressionError(ValueError):
    """An expression is malformed or cannot be evaluated; the text says why, without position."""


class Value(NamedTuple):
    """An evaluated expression."""

    value: int
    degree: int = 0


class Scope(NamedTuple):
    """What names mean at one place; ``here`` is the address of the statement."""

    symbols: Mapping[str, Value]
    here: int = 0


@dataclass(frozen=True, slots=True)
class Number:
    """A constant."""

    value: int


@dataclass(frozen=True, slots=True)
class Name:
    """A symbol, or ``.`` for the current address."""

    name: str


@dataclass(frozen=True, slots=True)
class Register:
    """A register; legal only inside brackets."""

    name: str


@dataclass(frozen=True, slots=True)
class Unary:
    """Operator before an operand."""

    operator: str
    operand: "Node"


@dataclass(frozen=True, slots=True)
class Binary:
    """Operator between two operands."""

    operator: str
    left: "Node"
    right: "Node"


Node = Number | Name | Register | Unary | Binary

_ESCAPES = {
    "n": 10,
    "t": 9,
    "r": 13,
    "0": 0,
    "a": 7,
    "b": 8,
    "f": 12,
    "v": 11,
    "e": 27,
    "\\": 92,
    "'": 39,
    '"': 34,
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<char>'(?:\\.|[^'\\])')"""
    r"|(?P<local>\d+[bf])(?![\w.$])"
    r"|(?P<number>\d[\w]*)"
    r"|(?P<name>[A-Za-z_.$][\w.$]*(?:\(\d\))?)"
    r"|(?P<op><<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!<>()\[\],:]))"
)


class Token(NamedTuple):
    """Kind (the groups of the pattern) and text of one token."""

    kind: str
    text: str


def tokenize(text: str) -> list[Token]:
    """Split ``text`` into tokens; raises ExpressionError for a character that begins none."""
    tokens: list[Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise ExpressionError(f"cannot read {text[position:].strip()!r}")
        tokens.append(Token(match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return tokens


def number_of(text: str) -> int:
    """Value of a number as written; raises ExpressionError if it is none or over 64 bits."""
    lower = text.lower().replace("_", "")
    try:
        if lower.startswith("0x"):
            value = int(lower[2:], 16)
        elif lower.endswith("h"):
            value = int(lower[:-1], 16)
        elif lower.startswith("0b"):
            value = int(lower[2:], 2)
        elif lower.startswith("0o"):
            value = int(lower[2:], 8)
        else:
            value = int(lower, 10)
            if lower[0] == "0" and value > 7:
                raise ExpressionError(
                    f"{text}: a leading zero is ambiguous, write 0o{lower.lstrip('0')} or "
                    f"{lower.lstrip('0')}"
                )
    except ExpressionError:
        raise
    except ValueError:
        raise ExpressionError(f"{text} is not a number") from None
    if value >= 1 << 64:
        raise ExpressionError(f"{text} does not fit in 64 bits")
    return value


def unescape(text: str) -> bytes:
    r"""Bytes of a quoted string or character, its quotes removed, with C's escapes.

    Octal (``\033``) and hexadecimal (``\x1b``, two digits) escapes are single bytes; other text
    is UTF-8. Raises ExpressionError for an unknown escape.
    """

    def replace(match: re.Match[bytes]) -> bytes:
        body = match[1].decode("latin-1")
        if body[0] == "x":
            return bytes([int(body[1:], 16)])
        if body[0] in "01234567":
            return bytes([int(body, 8) & 0xFF])
        if body not in _ESCAPES:
            raise ExpressionError(f"unknown escape \\{body}")
        return bytes([_ESCAPES[body]])

    pattern = rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)"
    return re.sub(pattern, replace, text.encode("utf-8"), flags=re.DOTALL)


def _wrap(value: int) -> int:
    if -(1 << 63) <= value < 1 << 64:
        return value
    return value & ((1 << 64) - 1)


def _divide(left: int, right: int) -> int:
    if right == 0:
        raise ExpressionError("division by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _shift(left: int, right: int) -> int:
    if not 0 <= right < 64:
        raise ExpressionError(f"shift by {right}: the count must be 0 to 63")
    return left << right


def _shift_right(left: int, right: int) -> int:
    if not 0 <= right < 64:
        raise ExpressionError(f"shift by {right}: the count must be 0 to 63")
    return left >> right


_BINARY: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "||": (1, lambda a, b: int(bool(a or b))),
    "&&": (2, lambda a, b: int(bool(a and b))),
    "|": (3, lambda a, b: a | b),
    "^": (4, lambda a, b: a ^ b),
    "&": (5, lambda a, b: a & b),
    "==": (6, lambda a, b: int(a == b)),
    "!=": (6, lambda a, b: int(a != b)),
    "<": (7, lambda a, b: int(a < b)),
    "<=": (7, lambda a, b: int(a <= b)),
    ">": (7, lambda a, b: int(a > b)),
    ">=": (7, lambda a, b: int(a >= b)),
    "<<": (8, _shift),
    ">>": (8, _shift_right),
    "+": (9, lambda a, b: a + b),
    "-": (9, lambda a, b: a - b),
    "*": (10, lambda a, b: a * b),
    "/": (10, _divide),
    "%": (10, lambda a, b: a - b * _divide(a, b)),
}


def evaluate(node: Node, scope: Scope) -> Value:
    """Value of an expression; raises ExpressionError (undefined symbol, division by zero)."""
    if isinstance(node, Number):
        return Value(node.value)
    if isinstance(node, Name):
        if node.name == ".":
            return Value(scope.here, 1)
        try:
            return scope.symbols[node.name]
        except KeyError:
            raise ExpressionError(f"undefined symbol {readable(node.name)}") from None
    if isinstance(node, Register):
        raise ExpressionError(f"register {node.name} in an expression")
    if isinstance(node, Unary):
        operand = evaluate(node.operand, scope)
        if node.operator == "-":
            return Value(_wrap(-operand.value), -operand.degree)
        if node.operator == "~":
            return Value(_wrap(~operand.value))
        if node.operator == "!":
            return Value(int(not operand.value))
        return operand
    left, right = evaluate(node.left, scope), evaluate(node.right, scope)
    degree = 0
    if node.operator == "+":
        degree = left.degree + right.degree
    elif node.operator == "-":
        degree = left.degree - right.degree
    return Value(_wrap(_BINARY[node.operator][1](left.value, right.value)), degree)


LOCAL_MARK = "\x01"
"""Separates the digits of a numeric label from its serial number in its internal name."""


def readable(name: str) -> str:
    """A symbol's name as the author wrote it."""
    return name.split(LOCAL_MARK)[0]


class Parser:
    """Recursive descent over tokens; folds constants at once.

    ``constants`` are the names that already have a value; ``locals_`` counts the numeric labels
    seen so far; ``registers`` are the names that no symbol may have.
    """

    def __init__(
        self,
        tokens: list[Token],
        constants: Mapping[str, int],
        locals_: Mapping[str, int],
        registers: frozenset[str] = frozenset(),
    ) -> None:
        if len(tokens) > MAX_TOKENS:
            raise ExpressionError(f"the expression has more than {MAX_TOKENS} parts")
        self.tokens = tokens
        self.position = 0
        self.saw_offset = False
        self._constants = constants
        self._locals = locals_
        self._registers = registers

    def peek(self) -> str:
        """Text of the next token, or an empty string at the end."""
        return self.tokens[self.position].text if self.position < len(self.tokens) else ""

    def take(self) -> Token:
        """The next token; raises ExpressionError at the end."""
        if self.position >= len(self.tokens):
            raise ExpressionError("the expression ends too early")
        token = self.tokens[self.position]
        self.position += 1
        return token

    def expect(self, text: str) -> None:
        """Take the token ``text``; raises ExpressionError if the next one is another."""
        if self.peek() != text:
            raise ExpressionError(f"expected {text!r} but found {self.peek() or 'the end'!r}")
        self.position += 1

    def finish(self, node: Node) -> Node:
        """Give ``node`` back if all tokens are used up; raises ExpressionError otherwise."""
        if self.position < len(self.tokens):
            raise ExpressionError(f"unexpected {self.peek()!r}")
        return node

    def expression(self, minimum: int = 1) -> Node:
        """One expression whose operators bind at least as tightly as ``minimum``."""
        left = self._operand()
        while True:
            operator = self.peek()
            entry = _BINARY.get(operator)
            if entry is None or entry[0] < minimum:
                return left
            self.position += 1
            right = self.expression(entry[0] + 1)
            left = _fold(Binary(operator, left, right))

    def _operand(self) -> Node:
        kind, text = self.take()
        if kind == "number":
            return Number(number_of(text))
        if kind == "char":
            return Number(int.from_bytes(unescape(text[1:-1]), "big"))
        if kind == "local":
            count = self._locals.get(text[:-1], 0)
            if text[-1] == "b" and count == 0:
                raise ExpressionError(f"there is no label {text[:-1]}: before this line")
            return Name(local_name(text[:-1], count if text[-1] == "b" else count + 1))
        if kind == "name":
            return self._name(text)
        if text == "(":
            inner = self.expression()
            self.expect(")")
            return inner
        if text in "+-~!":
            return _fold(Unary(text, self._operand()))
        raise ExpressionError(f"unexpected {text!r}")

    def _name(self, text: str) -> Node:
        lower = text.lower()
        if lower == "offset":
            self.saw_offset = True
            return self._operand()
        if lower in self._registers:
            return Register(lower)
        value = self._constants.get(text)
        return Name(text) if value is None else Number(value)


_NOWHERE = Scope({})


def _fold(node: Unary | Binary) -> Node:
    parts = (node.operand,) if isinstance(node, Unary) else (node.left, node.right)
    if all(isinstance(part, Number) for part in parts):
        return Number(evaluate(node, _NOWHERE).value)
    return node


def local_name(digits: str, serial: int) -> str:
    """Internal name of the ``serial``-th numeric label ``digits``, counted from 1."""
    return f"{digits}{LOCAL_MARK}{serial}"
