"""Operands of instructions: from what an author writes to the normal text that is encoded.

Brackets hold a base, an index times 1, 2, 4 or 8, and an expression, in any order; a width
(``dword ptr``, or just ``dword``) and a segment may stand before them. ``[rip + label]`` reaches
the label. An address as an immediate is written ``offset label``; a bare label is refused, since
assemblers disagree about whether it is the address or what lies there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from emu.asm.encode import EncodingError, register_names
from emu.asm.expr import (
    Binary,
    ExpressionError,
    Name,
    Node,
    Number,
    Parser,
    Register,
    Scope,
    Unary,
    evaluate,
    readable,
    tokenize,
)

_WIDTHS = {"byte": 1, "word": 2, "dword": 4, "qword": 8}
_OTHER_WIDTHS = frozenset({"fword", "tbyte", "xmmword", "ymmword", "zmmword", "xword", "opaque"})
_FAR = 6
"""Width in bytes of a selector and a 32-bit offset in memory."""
_RIP_MARK = 0x5A3C7E19
"""The displacement that stands for the distance to a label, found again in the encoding."""

_REGISTER_WIDTH = re.compile(
    r"(?P<b8>[abcd][lh]|(?:si|di|bp|sp)l|r\d+b)$"
    r"|(?P<b16>[abcd]x|si|di|bp|sp|r\d+w)$"
    r"|(?P<b32>e(?:[abcd]x|si|di|bp|sp)|r\d+d)$"
    r"|(?P<b64>r(?:[abcd]x|si|di|bp|sp|\d+))$"
)
_REGISTERS_32 = frozenset(
    [f"e{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")]
    + [f"r{number}d" for number in range(8, 16)]
)
_WIDTH_OF_GROUP = {"b8": 1, "b16": 2, "b32": 4, "b64": 8}


@dataclass(frozen=True, slots=True)
class Immediate:
    """A number as an operand; ``width`` (bytes) is that of the operand it goes to, 0 if unknown."""

    node: Node
    width: int
    address_allowed: bool = True

    def render(self, scope: Scope) -> str:
        """Normal text; raises EncodingError if the value does not fit, or is a bare label."""
        value, degree = evaluate(self.node, scope)
        if degree and not self.address_allowed:
            name = readable(self.node.name) if isinstance(self.node, Name) else "this label"
            raise EncodingError(
                f"{name} alone is ambiguous: write 'offset {name}' for its address or "
                f"'[rip + {name}]' for what lies there"
            )
        if self.width and not -(1 << (8 * self.width - 1)) <= value < 1 << (8 * self.width):
            raise EncodingError(f"{_hex(value)} does not fit in {8 * self.width} bits")
        return _hex(value)


@dataclass(frozen=True, slots=True)
class Displacement:
    """The number inside brackets, with its sign; ``bits`` is the address width.

    ``full`` is set for ``movabs``, whose address has as many bits as a register.
    """

    node: Node
    bits: int
    full: bool = False

    def render(self, scope: Scope) -> str:
        """Normal text; raises EncodingError if no 32-bit displacement yields the address."""
        value = evaluate(self.node, scope).value
        if self.full:
            return _hex(value)
        if self.bits == 64:
            signed = value - (1 << 64) if value >= 1 << 63 else value
            if not -(1 << 31) <= signed < 1 << 31:
                raise EncodingError(
                    f"{_hex(value)} does not fit in a 32-bit displacement: use [rip + label] or "
                    "load the address with movabs"
                )
        else:
            if not -(1 << 31) <= value < 1 << 32:
                raise EncodingError(f"{_hex(value)} does not fit in 32 bits")
            signed = value - (1 << 32) if value >= 1 << 31 else value
        return f"-{-signed:#x}" if signed < 0 else f"+{signed:#x}"


Piece = str | Immediate | Displacement


@dataclass(frozen=True, slots=True)
class Operand:
    """A parsed operand: its text in pieces, and what the instruction as a whole must know.

    ``width`` is in bytes, 0 if the operand does not say.
    """

    pieces: tuple[Piece, ...]
    width: int = 0
    register: str = ""
    immediate: Immediate | None = None
    rip_target: Node | None = None
    """What ``[rip + ...]`` names; its text then holds a mark in place of the displacement."""


class OperandParser:
    """Parses operands for one width of code, with the constants known so far."""

    def __init__(self, bits: int, constants: Mapping[str, int], locals_: Mapping[str, int]) -> None:
        self._bits = bits
        self._constants = constants
        self._locals = locals_
        self._registers = register_names(bits)

    def parse(self, text: str, mnemonic: str) -> Operand:
        """One operand of ``mnemonic``; raises ExpressionError or EncodingError.

        A bare label is its address only for branches, which do not come here, and ``movabs``.
        """
        movabs = mnemonic == "movabs"
        lower = text.strip().lower()
        if lower in self._registers:
            match = _REGISTER_WIDTH.match(lower)
            width = _WIDTH_OF_GROUP[match.lastgroup] if match and match.lastgroup else 0
            return Operand((lower,), width, register=lower)
        parser = Parser(tokenize(text), self._constants, self._locals, self._registers)
        prefix, width = self._width(parser)
        if mnemonic in ("jmp", "call") and prefix.startswith("fword"):
            prefix, width = "", _FAR
        elif mnemonic in ("push", "pop") and not prefix and "[" in text:
            prefix = "qword ptr " if self._bits == 64 else "dword ptr "
        segment = self._segment(parser)
        if parser.peek() == "[":
            return self._memory(parser, prefix, width, segment, None, movabs)
        node = parser.expression()
        if parser.peek() == "[":
            return self._memory(parser, prefix, width, segment, node, movabs)
        parser.finish(node)
        if segment:
            return self._address(prefix, width, segment, node, movabs)
        if isinstance(node, Register):
            return Operand((prefix + node.name,), width, register=node.name)
        immediate = Immediate(node, width, parser.saw_offset or movabs)
        return Operand((immediate,), width, immediate=immediate)

    def _width(self, parser: Parser) -> tuple[str, int]:
        word = parser.peek().lower()
        if word not in _WIDTHS and word not in _OTHER_WIDTHS:
            return "", 0
        if len(parser.tokens) == parser.position + 1:
            return "", 0
        parser.take()
        if parser.peek().lower() == "ptr":
            parser.take()
        return f"{word} ptr ", _WIDTHS.get(word, 0)

    def _segment(self, parser: Parser) -> str:
        following = parser.tokens[parser.position + 1 : parser.position + 2]
        if following and following[0].text == ":":
            segment = parser.take().text.lower()
            parser.take()
            if segment not in ("cs", "ds", "es", "fs", "gs", "ss"):
                raise ExpressionError(f"{segment} is not a segment register")
            return f"{segment}:"
        return ""

    def _memory(
        self,
        parser: Parser,
        prefix: str,
        width: int,
        segment: str,
        outside: Node | None,
        full: bool,
    ) -> Operand:
        parser.expect("[")
        inner = parser.expression()
        if parser.peek() == ":" and isinstance(inner, Register) and not segment:
            # [gs:8] is another way to write gs:[8].
            segment = f"{inner.name}:"
            parser.take()
            inner = parser.expression()
        parser.expect("]")
        parser.finish(inner)
        if outside is not None:
            inner = Binary("+", outside, inner)
        return self._address(prefix, width, segment, inner, full)

    def _address(self, prefix: str, width: int, segment: str, inner: Node, full: bool) -> Operand:
        registers, rest = _split(_terms(inner))
        head = f"{prefix}{segment}["
        if any(name in ("rip", "eip") for name, _scale in registers):
            if len(registers) > 1 or registers[0][1] != 1:
                raise ExpressionError("rip goes with no other register and no scale")
            if self._bits != 64:
                raise ExpressionError("there is no rip in 32-bit code")
            if not isinstance(rest, Number):
                mark = Number(_RIP_MARK)
                pieces = (f"{head}{registers[0][0]}", Displacement(mark, self._bits), "]")
                return Operand(pieces, width, rip_target=rest)
        # Keystone takes the first for the base and drops a stack pointer in second place.
        registers.sort(key=lambda found: (found[1] != 1, found[0] not in ("rsp", "esp")))
        body = "+".join(name if scale == 1 else f"{name}*{scale}" for name, scale in registers)
        if not registers:
            # Without this index Keystone encodes most absolute addresses relative to rip.
            body = "riz*1" if self._bits == 64 and not full else ""
        if isinstance(rest, Number) and rest.value == 0 and registers:
            return Operand((f"{head}{body}]",), width)
        full = full and not registers
        bits = 32 if registers and registers[0][0] in _REGISTERS_32 else self._bits
        return Operand((head + body, Displacement(rest, bits, full), "]"), width)


def _terms(node: Node, sign: int = 1) -> list[tuple[int, Node]]:
    """The summands of an expression, each with its sign."""
    if isinstance(node, Binary) and node.operator in "+-":
        right = sign if node.operator == "+" else -sign
        return _terms(node.left, sign) + _terms(node.right, right)
    if isinstance(node, Unary) and node.operator in "+-":
        return _terms(node.operand, sign if node.operator == "+" else -sign)
    return [(sign, node)]


def _split(terms: list[tuple[int, Node]]) -> tuple[list[tuple[str, int]], Node]:
    """Registers with their scales, and the sum of everything else."""
    registers: list[tuple[str, int]] = []
    rest: Node = Number(0)
    for sign, term in terms:
        found = _scaled(term)
        if found is None:
            rest = _sum(rest, sign, term)
        elif sign < 0:
            raise ExpressionError(f"register {found[0]} cannot be subtracted")
        elif found[1] not in (1, 2, 4, 8):
            raise ExpressionError(f"{found[0]} can be scaled by 1, 2, 4 or 8, not {found[1]}")
        else:
            registers.append(found)
    if len(registers) > 2:
        raise ExpressionError("more than two registers in an address")
    return registers, rest


def _scaled(term: Node) -> tuple[str, int] | None:
    if isinstance(term, Register):
        return term.name, 1
    if isinstance(term, Binary) and term.operator == "*":
        for register, scale in ((term.left, term.right), (term.right, term.left)):
            if isinstance(register, Register) and isinstance(scale, Number):
                return register.name, scale.value
    return None


def _sum(left: Node, sign: int, right: Node) -> Node:
    node = Binary("+" if sign > 0 else "-", left, right)
    if isinstance(left, Number) and isinstance(right, Number):
        return Number(evaluate(node, Scope({})).value)
    return right if left == Number(0) and sign > 0 else node


def _hex(value: int) -> str:
    return f"-{-value:#x}" if value < 0 else f"{value:#x}"


@dataclass(frozen=True, slots=True)
class Template:
    """An instruction whose operands are parsed; ``text`` is set if it depends on no symbol."""

    pieces: tuple[Piece, ...]
    bits: int
    rip_target: Node | None
    text: str | None

    def render(self, scope: Scope) -> str:
        """Normal text with every symbol's value; raises ExpressionError or EncodingError."""
        if self.text is not None:
            return self.text
        return _join(self.pieces, scope)

    def patch_rip(self, code: bytes, scope: Scope) -> bytes:
        """``code`` with the mark replaced by the distance to the target."""
        if self.rip_target is None:
            return code
        mark = _RIP_MARK.to_bytes(4, "little")
        if code.count(mark) != 1:
            raise EncodingError("cannot tell the displacement from the immediate operand")
        target, degree = evaluate(self.rip_target, scope)
        # A name that turns out to be a plain number is a displacement, as a literal would be.
        distance = target - scope.here - len(code) if degree else target
        distance = (distance + (1 << 63)) % (1 << 64) - (1 << 63)
        if not -(1 << 31) <= distance < 1 << 31:
            raise EncodingError(f"{_hex(target)} is more than 2 GiB away from rip")
        return code.replace(mark, distance.to_bytes(4, "little", signed=True))


def _join(pieces: Sequence[Piece], scope: Scope) -> str:
    texts = [piece if isinstance(piece, str) else piece.render(scope) for piece in pieces]
    # Keystone takes no sign in front of a lone address.
    return "".join(texts).replace("[+", "[")


def make_template(mnemonic: str, operands: list[Operand], bits: int) -> Template:
    """Join a mnemonic and its operands; raises EncodingError for what cannot be meant."""
    if mnemonic == "movsx" and len(operands) == 2 and operands[1].width == 4:
        mnemonic = "movsxd"
    if mnemonic in ("jmp", "call") and operands and operands[0].width == _FAR:
        mnemonic = f"l{mnemonic}"
    pieces: list[Piece] = [mnemonic]
    rip_target: Node | None = None
    for index, operand in enumerate(operands):
        pieces.append(", " if index else " ")
        if operand.immediate is not None:
            pieces.append(_sized(mnemonic, operand.immediate, operands, bits))
        else:
            pieces.extend(operand.pieces)
        rip_target = operand.rip_target or rip_target
    constant = all(isinstance(piece, str) or isinstance(piece.node, Number) for piece in pieces)
    text = _join(pieces, Scope({})) if constant else None
    return Template(tuple(pieces), bits, rip_target, text)


_BYTE_IMMEDIATES = frozenset(
    {"shl", "shr", "sar", "sal", "rol", "ror", "rcl", "rcr", "shld", "shrd", "in", "out", "int"}
)


def _sized(mnemonic: str, immediate: Immediate, operands: list[Operand], bits: int) -> Immediate:
    """The immediate with the width that its value must fit, as far as it is known."""
    if mnemonic in _BYTE_IMMEDIATES:
        width = 1
    elif mnemonic == "push":
        width = bits // 8
    else:
        width = operands[0].width if len(operands) > 1 else 0
    return replace(immediate, width=immediate.width or width)
