"""Expressions that a person types: numbers, symbols, registers, memory, C's operators.

``main+0x20``, ``$rsp - 8``, ``*(u32 *)($rdi + 4)``, ``*shared_info & 0xff``, ``.`` for the
instruction pointer. Numbers are written as in the assembler (``0x1f``, ``1fh``, ``0b101``); the
result is 64 bits, unsigned. A plain ``*`` reads a word of the code's width.

The grammar is the assembler's (``emu.asm.expr``); what differs is that every name has its value at
once. Fails with ``ExpressionError`` only, and in words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from emu.asm.expr import (
    ExpressionError,
    Node,
    Number,
    Parser,
    Scope,
    evaluate,
    number_of,
    tokenize,
    unescape,
)

TYPES: Final = {
    **dict.fromkeys(("u8", "s8", "char", "byte", "uint8_t"), 1),
    **dict.fromkeys(("u16", "s16", "short", "word", "uint16_t"), 2),
    **dict.fromkeys(("u32", "s32", "int", "dword", "uint32_t"), 4),
    **dict.fromkeys(("u64", "s64", "qword", "giant", "uint64_t"), 8),
}
"""Names of what ``*(NAME *)ADDRESS`` reads, and its bytes; ``long`` is the width of the code."""
_M64: Final = (1 << 64) - 1
_NOWHERE: Final = Scope({})


@dataclass(frozen=True, slots=True)
class Names:
    """What names mean.

    ``register``: the value of one by its name without ``$``, None if there is none such.
    ``symbol``: an address by its name, None if unknown. ``read``: bytes at a linear address, fewer
    if they are not mapped. ``bits``: width of the code, 32 or 64.
    """

    register: Callable[[str], int | None]
    symbol: Callable[[str], int | None]
    read: Callable[[int, int], bytes]
    bits: int = 64


def value_of(text: str, names: Names) -> int:
    """The value of an expression, 0 <= value < 2**64.

    Raises:
        ExpressionError: it is malformed, a name is unknown, or memory that it reads is not mapped.
    """
    if not text.strip():
        raise ExpressionError("an expression is missing")
    parser = _Immediate(text, names)
    return _value(parser.finish(parser.expression()))


def _value(node: Node) -> int:
    return evaluate(node, _NOWHERE).value & _M64


class _Immediate(Parser):
    """The assembler's parser, with names that have values and an operator ``*``."""

    def __init__(self, text: str, names: Names) -> None:
        super().__init__(tokenize(text), {}, {})
        self._names = names

    def _operand(self) -> Node:
        if self.peek() == "*":
            self.take()
            size = self._cast() or self._names.bits // 8
            return Number(self._load(_value(self._operand()), size))
        if self.position < len(self.tokens):
            kind, text = self.tokens[self.position]
            if kind == "local":  # 1f and 1b are labels to the assembler
                self.take()
                return Number(number_of(text))
            if kind == "char":
                self.take()
                return Number(int.from_bytes(unescape(text[1:-1]), "big"))
        return super()._operand()

    def _cast(self) -> int:
        """Bytes named by ``(TYPE *)``, which is taken; 0 if there is none."""
        texts = [token.text for token in self.tokens[self.position : self.position + 5]]
        if len(texts) < 4 or texts[0] != "(":
            return 0
        words = texts[1:3] if texts[1] == "unsigned" else texts[1:2]
        rest = texts[1 + len(words) : 3 + len(words)]
        size = self._names.bits // 8 if words[-1] == "long" else TYPES.get(words[-1], 0)
        if rest != ["*", ")"] or not size:
            return 0
        self.position += len(words) + 3
        return size

    def _load(self, address: int, size: int) -> int:
        data = self._names.read(address, size)
        if len(data) < size:
            raise ExpressionError(f"cannot read {size} bytes at {address:#x}")
        return int.from_bytes(data, "little")

    def _name(self, text: str) -> Node:
        if text.startswith("$"):
            name = text[1:].lower()
            value = self._names.register("rip" if name == "pc" else name)
            if value is None:
                raise ExpressionError(f"there is no register {text}")
        elif text == ".":
            value = self._names.register("rip") or 0
        else:
            value = self._names.symbol(text)
            if value is None:
                raise ExpressionError(f"no symbol {text!r}")
        return Number(value)
