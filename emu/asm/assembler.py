"""From statements to items: instructions, directives and symbols of one source.

One pass over the statements puts items into sections; ``layout.py`` then gives them addresses.
Sections are laid out in the order ``.text .rodata .data .bss``; the first that holds anything
begins at the base, each later one at the next page.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from emu.asm.encode import EncodingError, branch_forms, register_names
from emu.asm.expand import Expander, Statement, split_arguments
from emu.asm.expr import (
    ExpressionError,
    Name,
    Node,
    Number,
    Parser,
    Register,
    local_name,
    readable,
    tokenize,
    unescape,
)
from emu.asm.items import (
    Align,
    Branch,
    Bytes,
    FarBranch,
    Fill,
    Instruction,
    Item,
    Mark,
    Org,
    Values,
    pack,
)
from emu.asm.layout import SECTION_START, SECTIONS, Unit, link, names_in
from emu.asm.operands import OperandParser, make_template
from emu.asm.program import Program
from emu.asm.source import Origin, SourceFile, find_file

_PREFIXES = frozenset({"rep", "repe", "repz", "repne", "repnz", "lock"})
_MNEMONIC = re.compile(r"[a-z][a-z0-9]*\Z")
_SYMBOL = re.compile(r"[A-Za-z_.$][\w.$]*\Z")
_WIDTH_OF = {
    ".byte": 1,
    ".short": 2,
    ".word": 2,
    ".hword": 2,
    ".2byte": 2,
    ".long": 4,
    ".int": 4,
    ".4byte": 4,
    ".quad": 8,
    ".8byte": 8,
}
_NATIVE = re.compile(
    r"(?<![\w.$])(?:(xip)\b\s*(\+?)\s*|x(ax|bx|cx|dx|si|di|bp|sp)\b|(xword)\b)", re.IGNORECASE
)
_IGNORED = frozenset({".extern", ".type", ".size", ".file", ".ident", ".intel_syntax"})


def _given(bits: int) -> dict[str, int]:
    """Constants that every source has."""
    return {"BITS": bits, "WSIZE": bits // 8}


class Assembler:
    """Assembles one source, once."""

    def __init__(
        self,
        source: SourceFile,
        base: int,
        bits: int,
        include_dirs: Sequence[Path],
        defines: Mapping[str, int],
    ) -> None:
        self._width = self._bits = bits
        self._given = frozenset(defines)
        self._include_dirs = tuple(include_dirs)
        self._source = source
        self._defined: dict[str, Origin] = {}
        self._locals: dict[str, int] = {}
        self._globals: dict[str, Origin] = {}
        self._unit = Unit(base, bits=bits)
        self._constants = self._unit.constants
        self._constants.update(_given(bits) | dict(defines))
        self._section = ".text"
        self._registers = register_names(bits)
        for name in defines:
            if (
                not _SYMBOL.match(name)
                or name.lower() in self._registers
                or _NATIVE.fullmatch(name)
            ):
                raise Origin(source.name, 0).error(f"{name!r} cannot be defined: not a symbol")

    def run(self) -> Program:
        """The program; raises AssemblyError at the first statement that is wrong."""
        expander = Expander(self._source, self._include_dirs, self._evaluate_now, self._is_defined)
        for statement in expander.statements():
            try:
                self._statement(statement)
            except (ExpressionError, EncodingError) as error:
                raise statement.origin.error(str(error)) from None
        for name, origin in self._globals.items():
            if name not in self._defined and name not in self._constants:
                raise origin.error(f"undefined symbol {name} (named in .global)")
        for name, value in _given(self._bits).items():
            # Folded wherever they were used; the program's own names are what a debugger wants.
            if self._constants.get(name) == value and name not in self._given:
                del self._constants[name]
        self._unit.global_names = frozenset(self._globals)
        return link(self._unit)

    # Statements

    def _statement(self, statement: Statement) -> None:
        origin = statement.origin
        for label in statement.labels:
            self._label(label, origin)
        operation = statement.operation.lower()
        if not operation:
            if statement.arguments:
                raise origin.error(f"cannot read {statement.arguments!r}")
            return
        if operation.startswith("."):
            self._directive(operation, statement)
        else:
            self._instruction(operation, statement)

    def _add(self, item: Item) -> None:
        if self._section == ".bss" and not item.is_zero:
            raise item.origin.error(".bss holds only zeros: use .zero, .align or labels")
        self._unit.items[self._section].append(item)

    def _label(self, label: str, origin: Origin) -> None:
        if label.isdigit():
            self._locals[label] = self._locals.get(label, 0) + 1
            label = local_name(label, self._locals[label])
        else:
            self._define(label, origin)
        self._add(Mark(origin, label, Name(".")))

    def _define(self, name: str, origin: Origin) -> None:
        """Claim a name for a label or an expression that must wait for addresses."""
        if not _SYMBOL.match(name) or name == ".":
            raise origin.error(f"{name!r} cannot be a symbol")
        if name.lower() in self._registers or _NATIVE.fullmatch(name):
            raise origin.error(f"{name} is a register and cannot be a symbol")
        before = self._defined.get(name)
        if before is not None:
            raise origin.error(f"{name} is already defined at {before.file}:{before.line}")
        if name in self._constants:
            raise origin.error(f"{name} is already defined as a constant")
        self._defined[name] = origin

    def _is_defined(self, name: str) -> bool:
        return name in self._constants or name in self._defined

    def _expression(self, text: str) -> Node:
        parser = Parser(tokenize(text), self._constants, self._locals, self._registers)
        return parser.finish(parser.expression())

    def _constant(self, text: str, origin: Origin) -> int:
        node = self._expression(text)
        if isinstance(node, Number):
            return node.value
        for name in names_in(node):
            if name == "." or self._is_defined(name):
                raise origin.error(
                    f"{text.strip()} must be a constant: {readable(name)} is an address"
                )
            raise origin.error(f"undefined symbol {readable(name)} (it must be known here)")
        raise origin.error(f"{text.strip()} is not a constant")

    def _evaluate_now(self, text: str, origin: Origin) -> int:
        try:
            return self._constant(text, origin)
        except ExpressionError as error:
            raise origin.error(str(error)) from None

    def _instruction(self, operation: str, statement: Statement) -> None:
        origin, rest = statement.origin, statement.arguments
        prefix = ""
        while operation in _PREFIXES and rest:
            prefix += operation + " "
            operation, _, rest = rest.partition(" ")
            operation = operation.lower()
        if not _MNEMONIC.match(operation):
            raise origin.error(f"cannot read {statement.operation!r}")
        arguments = split_arguments(self._with_width(rest))
        if any(not argument for argument in arguments):
            raise origin.error(f"an operand of {operation} is missing")
        if self._far_branch(operation, rest, origin):
            return
        forms = branch_forms(operation, self._width)
        if forms is not None and len(arguments) == 1 and self._branch(forms, arguments[0], origin):
            if prefix:
                raise origin.error(f"{operation} takes no prefix")
            return
        parser = OperandParser(self._width, self._constants, self._locals)
        operands = [parser.parse(argument, operation) for argument in arguments]
        template = make_template(prefix + operation, operands, self._width)
        self._add(Instruction(origin, template))

    def _with_width(self, operands: str) -> str:
        """Operands whose names for any width are those of the width of the code here."""
        wide = self._width == 64

        def name(match: re.Match[str]) -> str:
            pointer, plus, register, _ = match.groups()
            if pointer:
                # 32-bit code has no addresses relative to eip, and needs none.
                return f"rip {plus} " if wide else "" if plus else "eip"
            if register:
                return ("r" if wide else "e") + register
            return "qword" if wide else "dword"

        return _NATIVE.sub(name, operands) if "x" in operands.lower() else operands

    def _far_branch(self, operation: str, rest: str, origin: Origin) -> bool:
        """Add ``jmp selector:offset``; False if the instruction is no such thing."""
        opcode = {"jmp": 0xEA, "ljmp": 0xEA, "call": 0x9A, "lcall": 0x9A}.get(operation)
        selector, colon, target = rest.partition(":")
        if opcode is None or not colon or "[" in rest:
            return False
        if self._width != 32:
            raise origin.error("a far branch to a number exists only in 32-bit code")
        parts = self._expression(selector), self._expression(target)
        self._add(FarBranch(origin, opcode, *parts))
        return True

    def _branch(
        self, forms: tuple[bytes | None, bytes | None], argument: str, origin: Origin
    ) -> bool:
        """Add a relative branch; False if the operand is a register or in memory."""
        short, near = forms
        if "[" in argument or argument.lower() in self._registers:
            return False
        word, _, rest = argument.partition(" ")
        if word.lower() == "short" and rest:
            if short is None:
                raise origin.error("there is no short form")
            near, argument = None, rest
        elif word.lower() == "near" and rest:
            short, argument = None, rest.removeprefix("ptr ")
        node = self._expression(argument)
        if isinstance(node, Register):
            return False
        self._add(Branch(origin, short, near, node, self._width))
        return True

    # Directives

    def _directive(self, operation: str, statement: Statement) -> None:
        width = self._width // 8 if operation == ".xword" else _WIDTH_OF.get(operation)
        if width is not None:
            self._values(width, statement)
            return
        if operation in SECTIONS:
            self._section = operation
            return
        if operation in _IGNORED:
            return
        handler = _DIRECTIVES.get(operation)
        if handler is None:
            raise statement.origin.error(f"unknown directive {operation}")
        handler(self, statement)

    def _values(self, width: int, statement: Statement) -> None:
        nodes = [self._expression(text) for text in split_arguments(statement.arguments)]
        if not nodes:
            raise statement.origin.error(f"{statement.operation} takes numbers")
        if all(isinstance(node, Number) for node in nodes):
            data = b"".join(pack(n.value, width) for n in nodes if isinstance(n, Number))
            self._add(Bytes(statement.origin, data))
        else:
            self._add(Values(statement.origin, width, nodes))

    def _text(self, statement: Statement) -> None:
        ending = b"" if statement.operation.lower() == ".ascii" else b"\0"
        arguments = split_arguments(statement.arguments)
        data = bytearray()
        for argument in arguments:
            # Neighbouring strings join, as in C; each comma ends one.
            parts = re.fullmatch(r'(?:"(?:\\.|[^"\\])*"\s*)+', argument)
            if parts is None:
                raise statement.origin.error(
                    f"{argument or 'nothing'} is not a string in double quotes"
                )
            for part in re.findall(r'"((?:\\.|[^"\\])*)"', argument):
                data += unescape(part)
            data += ending
        if not arguments:
            raise statement.origin.error(f"{statement.operation} takes strings")
        self._add(Bytes(statement.origin, bytes(data)))

    def _arguments(self, statement: Statement, least: int, most: int) -> list[str]:
        arguments = split_arguments(statement.arguments)
        if not least <= len(arguments) <= most:
            count = str(least) if least == most else f"{least} to {most}"
            raise statement.origin.error(f"{statement.operation} takes {count} arguments")
        return arguments

    def _align(self, statement: Statement) -> None:
        origin = statement.origin
        arguments = self._arguments(statement, 1, 3)
        multiple = self._constant(arguments[0], origin)
        if statement.operation.lower() == ".p2align":
            if not 0 <= multiple <= 21:
                raise origin.error(f".p2align {multiple}: the power must be 0 to 21")
            multiple = 1 << multiple
        if multiple <= 0 or multiple & (multiple - 1) or multiple > 1 << 21:
            raise origin.error(f"alignment {multiple} is not a power of two up to 2 MiB")
        fill = None if self._section == ".text" else 0
        if len(arguments) > 1 and arguments[1]:
            fill = self._constant(arguments[1], origin) & 0xFF
        most = self._constant(arguments[2], origin) if len(arguments) > 2 else None
        self._add(Align(origin, multiple, fill, most))

    def _space(self, statement: Statement) -> None:
        arguments = self._arguments(statement, 1, 2)
        value = self._expression(arguments[1]) if len(arguments) > 1 else Number(0)
        self._add(Fill(statement.origin, self._expression(arguments[0]), 1, value))

    def _fill(self, statement: Statement) -> None:
        arguments = self._arguments(statement, 1, 3)
        width = self._constant(arguments[1], statement.origin) if len(arguments) > 1 else 1
        if not 0 <= width <= 8:
            raise statement.origin.error(
                f".fill with numbers of {width} bytes: 0 to 8 are possible"
            )
        value = self._expression(arguments[2]) if len(arguments) > 2 else Number(0)
        self._add(Fill(statement.origin, self._expression(arguments[0]), width, value))

    def _org(self, statement: Statement) -> None:
        target = self._expression(self._arguments(statement, 1, 1)[0])
        self._add(Org(statement.origin, target, SECTION_START + self._section))

    def _set(self, statement: Statement) -> None:
        origin = statement.origin
        arguments = split_arguments(statement.arguments)
        if len(arguments) != 2 or not arguments[1]:
            raise origin.error("a symbol takes one value: NAME = expression")
        name, node = arguments[0], self._expression(arguments[1])
        if not isinstance(node, Number):
            self._define(name, origin)
            self._add(Mark(origin, name, node))
            return
        if name in self._constants and statement.operation.lower() != ".equiv":
            self._constants[name] = node.value
            return
        self._define(name, origin)
        del self._defined[name]
        self._constants[name] = node.value

    def _global(self, statement: Statement) -> None:
        for name in split_arguments(statement.arguments):
            if not _SYMBOL.match(name):
                raise statement.origin.error(f"{name!r} cannot be a symbol")
            self._globals.setdefault(name, statement.origin)

    def _select_section(self, statement: Statement) -> None:
        name = split_arguments(statement.arguments)[:1]
        if not name or name[0] not in SECTIONS:
            known = ", ".join(SECTIONS)
            raise statement.origin.error(f"unknown section {''.join(name)}: there are {known}")
        self._section = name[0]

    def _common(self, statement: Statement) -> None:
        origin = statement.origin
        arguments = self._arguments(statement, 2, 3)
        section, self._section = self._section, ".bss"
        alignment = self._constant(arguments[2], origin) if len(arguments) > 2 else 8
        if alignment <= 0 or alignment & (alignment - 1):
            raise origin.error(f"alignment {alignment} is not a power of two")
        self._add(Align(origin, alignment, 0, None))
        self._label(arguments[0], origin)
        self._add(Fill(origin, self._expression(arguments[1]), 1, Number(0)))
        self._section = section

    def _incbin(self, statement: Statement) -> None:
        origin = statement.origin
        arguments = self._arguments(statement, 1, 3)
        match = re.fullmatch(r'"([^"]+)"', arguments[0])
        if match is None:
            raise origin.error('.incbin takes a file name in quotes: .incbin "file"')
        skip = self._constant(arguments[1], origin) if len(arguments) > 1 else 0
        including = Path(origin.file) if self._source.path is not None else None
        path = find_file(match[1], including, self._include_dirs, origin)
        try:
            data = path.read_bytes()[skip:]
        except OSError as error:
            raise origin.error(f"cannot read {path}: {error.strerror or error}") from None
        if len(arguments) > 2:
            data = data[: self._constant(arguments[2], origin)]
        self._add(Bytes(origin, data))

    def _code(self, statement: Statement) -> None:
        self._width = int(statement.operation[-2:])
        self._registers = register_names(self._width)


_DIRECTIVES: dict[str, Callable[[Assembler, Statement], None]] = {
    ".ascii": Assembler._text,
    ".asciz": Assembler._text,
    ".string": Assembler._text,
    ".align": Assembler._align,
    ".balign": Assembler._align,
    ".p2align": Assembler._align,
    ".space": Assembler._space,
    ".skip": Assembler._space,
    ".zero": Assembler._space,
    ".fill": Assembler._fill,
    ".org": Assembler._org,
    ".equ": Assembler._set,
    ".set": Assembler._set,
    ".equiv": Assembler._set,
    ".global": Assembler._global,
    ".globl": Assembler._global,
    ".section": Assembler._select_section,
    ".comm": Assembler._common,
    ".lcomm": Assembler._common,
    ".incbin": Assembler._incbin,
    ".code32": Assembler._code,
    ".code64": Assembler._code,
}
