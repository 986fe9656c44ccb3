"""What a section is made of: things that take room, and marks that take none.

Each item says how many bytes it takes at an address and then which ones. Sizes that depend on
addresses (branches, alignment, ``.fill``) are found by going over all items until nothing moves;
instructions only ever grow in this, so that it ends.
"""

from abc import ABC, abstractmethod

from emu.asm.encode import EncodingError, encode
from emu.asm.expr import ExpressionError, Name, Node, Number, Scope, Value, evaluate
from emu.asm.operands import Template
from emu.asm.source import Origin

MAX_BYTES = 1 << 28
"""Largest program, in bytes: a mistyped count must not eat the host's memory."""


class Item(ABC):
    """One piece of a section; ``origin`` is the statement that made it."""

    is_instruction = False

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.size = 0
        self.address = 0

    @abstractmethod
    def measure(self, scope: Scope) -> int:
        """Bytes that the item takes at ``scope.here``; may be a guess while labels still move."""

    @abstractmethod
    def emit(self, scope: Scope) -> bytes:
        """Exactly ``size`` bytes; raises ExpressionError or EncodingError."""

    @property
    def is_zero(self) -> bool:
        """True if the item may stand in a section without bits."""
        return False


class Instruction(Item):
    """An instruction that is no relative branch."""

    is_instruction = True

    def __init__(self, origin: Origin, template: Template) -> None:
        super().__init__(origin)
        self.template = template

    def measure(self, scope: Scope) -> int:
        """Size of the longest form needed so far."""
        if self.template.text is not None and self.size:
            return self.size
        try:
            return max(self.size, len(encode(self.template.render(scope), self.template.bits)))
        except (ExpressionError, EncodingError):
            # Labels may be far off in the first rounds. What is wrong in the end fails in emit.
            return self.size

    def emit(self, scope: Scope) -> bytes:
        """The machine code; an instruction that needed more room in a guess gets nops behind."""
        code = encode(self.template.render(scope), self.template.bits)
        return self.template.patch_rip(code, scope).ljust(self.size, b"\x90")


class Branch(Item):
    """A relative jump or call; begins short where it can, and becomes long when it must."""

    is_instruction = True

    def __init__(
        self, origin: Origin, short: bytes | None, near: bytes | None, target: Node, bits: int
    ) -> None:
        super().__init__(origin)
        self._short = short
        self._near = near
        self._target = target
        self._mask = (1 << bits) - 1
        self._bits = bits
        self._is_short = short is not None
        self.size = len(short) + 1 if short is not None else len(near or b"") + 4

    def _distance(self, scope: Scope) -> int:
        distance = evaluate(self._target, scope).value - scope.here - self.size
        half = 1 << (self._bits - 1)
        return ((distance + half) & self._mask) - half

    def measure(self, scope: Scope) -> int:
        """Size of the short form until the target is out of its reach."""
        if self._is_short and self._near is not None:
            try:
                reachable = -128 <= self._distance(scope) < 128
            except ExpressionError:
                return self.size
            if not reachable:
                self._is_short = False
                return len(self._near) + 4
        return self.size

    def emit(self, scope: Scope) -> bytes:
        """Opcode and displacement."""
        distance = self._distance(scope)
        opcode, width = (self._short, 1) if self._is_short else (self._near, 4)
        if opcode is None or not -(1 << (8 * width - 1)) <= distance < 1 << (8 * width - 1):
            reach = "-128 to 127 bytes" if width == 1 else "2 GiB"
            raise EncodingError(f"the target is out of reach ({reach}): {distance:+#x} bytes away")
        return opcode + distance.to_bytes(width, "little", signed=True)


class FarBranch(Item):
    """A 32-bit jump or call to another code segment: opcode, offset, selector."""

    is_instruction = True

    def __init__(self, origin: Origin, opcode: int, selector: Node, target: Node) -> None:
        super().__init__(origin)
        self._opcode = opcode
        self._selector = selector
        self._target = target
        self.size = 7

    def measure(self, scope: Scope) -> int:
        """Always 7."""
        return self.size

    def emit(self, scope: Scope) -> bytes:
        """The encoding (SDM volume 2, JMP ptr16:32 and CALL ptr16:32)."""
        offset = pack(evaluate(self._target, scope).value, 4)
        return bytes([self._opcode]) + offset + pack(evaluate(self._selector, scope).value, 2)


class Bytes(Item):
    """Constant bytes."""

    def __init__(self, origin: Origin, data: bytes) -> None:
        super().__init__(origin)
        self._data = data
        self.size = len(data)

    def measure(self, scope: Scope) -> int:
        """Length of the bytes."""
        return self.size

    def emit(self, scope: Scope) -> bytes:
        """The bytes."""
        return self._data

    @property
    def is_zero(self) -> bool:
        """True if all bytes are 0."""
        return not any(self._data)


def pack(value: int, width: int) -> bytes:
    """Little-endian bytes of a number; raises EncodingError if it does not fit ``width`` bytes."""
    if not -(1 << (8 * width - 1)) <= value < 1 << (8 * width):
        raise EncodingError(f"{value:#x} does not fit in {width} byte{'s' * (width > 1)}")
    return (value & ((1 << (8 * width)) - 1)).to_bytes(width, "little")


class Values(Item):
    """Numbers of one width that depend on addresses."""

    def __init__(self, origin: Origin, width: int, nodes: list[Node]) -> None:
        super().__init__(origin)
        self._width = width
        self._nodes = nodes
        self.size = width * len(nodes)

    def measure(self, scope: Scope) -> int:
        """Width times count."""
        return self.size

    def emit(self, scope: Scope) -> bytes:
        """The numbers, little-endian."""
        return b"".join(pack(evaluate(node, scope).value, self._width) for node in self._nodes)


class Fill(Item):
    """``count`` times a number of ``width`` bytes (up to 8)."""

    def __init__(self, origin: Origin, count: Node, width: int, value: Node) -> None:
        super().__init__(origin)
        self._count = count
        self._width = width
        self._value = value

    def measure(self, scope: Scope) -> int:
        """Count times width; 0 while the count cannot be known."""
        try:
            count = evaluate(self._count, scope).value
        except ExpressionError:
            return self.size
        return min(max(count, 0) * self._width, MAX_BYTES + 1)

    def emit(self, scope: Scope) -> bytes:
        """The repeated number; raises EncodingError for a negative count."""
        count = evaluate(self._count, scope).value
        if count < 0:
            raise EncodingError(f"the count is negative: {count}")
        # A value wider than its field is cut, so that -1 and 0xcccc fill bytes as one expects.
        mask = (1 << (8 * self._width)) - 1
        unit = (evaluate(self._value, scope).value & mask).to_bytes(self._width, "little")
        return unit * (self.size // self._width) if self._width else b""

    @property
    def is_zero(self) -> bool:
        """True if the number is the constant 0."""
        return self._value == Number(0)


# The recommended multi-byte forms (Intel SDM volume 2B, NOP): one instruction per length.
_NOPS = [
    b"",
    b"\x90",
    b"\x66\x90",
    b"\x0f\x1f\x00",
    b"\x0f\x1f\x40\x00",
    b"\x0f\x1f\x44\x00\x00",
    b"\x66\x0f\x1f\x44\x00\x00",
    b"\x0f\x1f\x80\x00\x00\x00\x00",
    b"\x0f\x1f\x84\x00\x00\x00\x00\x00",
    b"\x66\x0f\x1f\x84\x00\x00\x00\x00\x00",
]


class Align(Item):
    """Padding up to a multiple; ``fill`` is a byte, or None for nops."""

    def __init__(self, origin: Origin, multiple: int, fill: int | None, most: int | None) -> None:
        super().__init__(origin)
        self._multiple = multiple
        self._fill = fill
        self._most = most

    def measure(self, scope: Scope) -> int:
        """Distance to the next multiple, or 0 if that is over the maximum given."""
        padding = -scope.here % self._multiple
        return 0 if self._most is not None and padding > self._most else padding

    def emit(self, scope: Scope) -> bytes:
        """The padding."""
        if self._fill is not None:
            return bytes([self._fill]) * self.size
        longest = len(_NOPS) - 1
        return _NOPS[longest] * (self.size // longest) + _NOPS[self.size % longest]

    @property
    def is_zero(self) -> bool:
        """True if the padding is zeros."""
        return self._fill == 0


class Org(Item):
    """Zeros up to an address (if the expression holds a label) or offset in the section."""

    def __init__(self, origin: Origin, target: Node, section_start: str) -> None:
        super().__init__(origin)
        self._target = target
        self._section_start = section_start

    def _padding(self, scope: Scope) -> int:
        value, degree = evaluate(self._target, scope)
        start = 0 if degree else evaluate(Name(self._section_start), scope).value
        return start + value - scope.here

    def measure(self, scope: Scope) -> int:
        """Distance to the target; 0 if it is behind."""
        try:
            return min(max(self._padding(scope), 0), MAX_BYTES + 1)
        except ExpressionError:
            return self.size

    def emit(self, scope: Scope) -> bytes:
        """The padding; raises EncodingError if the target is behind."""
        if self._padding(scope) < 0:
            raise EncodingError(f".org goes back by {-self._padding(scope)} bytes")
        return bytes(self.size)

    @property
    def is_zero(self) -> bool:
        """Always: the padding is zeros."""
        return True


class Mark(Item):
    """Gives a symbol its value: an address (``node`` is ``.``) or any other expression."""

    def __init__(self, origin: Origin, name: str, node: Node) -> None:
        super().__init__(origin)
        self.name = name
        self.node = node

    @property
    def is_label(self) -> bool:
        """True if the symbol is the address at which the mark stands."""
        return self.node == Name(".")

    def measure(self, scope: Scope) -> int:
        """Nothing."""
        return 0

    def emit(self, scope: Scope) -> bytes:
        """Nothing; raises ExpressionError if the expression has no value."""
        evaluate(self.node, scope)
        return b""

    def value(self, scope: Scope) -> Value | None:
        """The symbol's value, or None while it cannot be known."""
        try:
            return evaluate(self.node, scope)
        except ExpressionError:
            return None

    @property
    def is_zero(self) -> bool:
        """Always: a mark takes no room."""
        return True
