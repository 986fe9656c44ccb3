"""The text level: includes, macros, repetition and conditions, before anything is assembled.

``Expander.statements`` yields the statements that remain, one at a time, and the assembler deals
with each before the next is asked for; so a condition sees the constants defined above it.

A macro's parameters are ``name``, ``name=default``, ``name:req`` or (last) ``name:vararg``; its
body writes ``\\name`` for them, ``\\@`` for a number that is new in every call and ``\\()`` to end
a name. Arguments are separated by commas outside quotes and brackets, and may be given by name
(``name=value``).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from emu.asm.source import Line, Origin, SourceFile, find_file, load_source

MAX_DEPTH = 64
MAX_LINES = 200_000

_LABEL = re.compile(r"\s*([A-Za-z_.$][\w.$]*|\d+)\s*:(?!:)")
_ASSIGN = re.compile(r"\s*([A-Za-z_.$][\w.$]*)\s*=(?!=)(.*)")
_WORD = re.compile(r"\s*([^\s\"'\[(]+)\s*(.*)")
_SUBSTITUTE = re.compile(r"\\(?:(@)|\(\)|([A-Za-z_]\w*))")
_SYMBOL = re.compile(r"[A-Za-z_.$][\w.$]*\Z")


class Statement(NamedTuple):
    """One statement: labels in front, then an operation (empty if there is none) and the rest."""

    origin: Origin
    labels: tuple[str, ...]
    operation: str
    arguments: str


def split_arguments(text: str) -> list[str]:
    """Split at the commas outside quotes and brackets; no text gives no arguments."""
    if not text.strip():
        return []
    parts: list[str] = []
    depth, quote, start, position = 0, "", 0, 0
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\":
                position += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif char == "," and depth <= 0:
            parts.append(text[start:position].strip())
            start = position + 1
        position += 1
    parts.append(text[start:].strip())
    return parts


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    default: str
    required: bool
    rest: bool


@dataclass(frozen=True, slots=True)
class _Macro:
    name: str
    parameters: tuple[_Parameter, ...]
    body: tuple[Line, ...]


@dataclass(slots=True)
class _Frame:
    """Lines being read, and the conditions that were open when they began."""

    lines: tuple[Line, ...]
    conditions: int
    path: Path | None
    depth: int
    position: int = 0


@dataclass(slots=True)
class _Condition:
    origin: Origin
    active: bool
    taken: bool
    enclosing: bool
    else_seen: bool = False


_CONDITIONS = frozenset({".if", ".ifdef", ".ifndef", ".ifb", ".ifnb", ".ifc", ".ifnc"})


class Expander:
    """Expands one source.

    ``evaluate`` gives the value of an expression that must be known at once (it reports its own
    errors); ``is_defined`` says whether a symbol has been defined above.
    """

    def __init__(
        self,
        source: SourceFile,
        include_dirs: tuple[Path, ...],
        evaluate: Callable[[str, Origin], int],
        is_defined: Callable[[str], bool],
    ) -> None:
        self._include_dirs = include_dirs
        self._evaluate = evaluate
        self._is_defined = is_defined
        self._macros: dict[str, _Macro] = {}
        self._frames = [_Frame(source.lines, 0, source.path, 0)]
        self._conditions: list[_Condition] = []
        self._calls = 0
        self._lines = 0

    def statements(self) -> Iterator[Statement]:
        """What is left to assemble; raises AssemblyError."""
        while self._frames:
            line = self._next()
            if line is None:
                continue
            if not line.text or line.text.isspace():
                continue
            statement = parse(line)
            operation = statement.operation.lower()
            if operation in _CONDITIONS or operation in (".else", ".elseif", ".endif"):
                if statement.labels and self._active:
                    yield statement._replace(operation="", arguments="")
                self._condition(operation, statement)
                continue
            if not self._active:
                # Bodies are skipped like any other text: their conditions nest properly.
                continue
            handler = self._HANDLERS.get(operation)
            if handler is None and statement.operation not in self._macros:
                yield statement
                continue
            if statement.labels:
                yield statement._replace(operation="", arguments="")
            if handler is not None:
                handler(self, statement)
            else:
                self._call(self._macros[statement.operation], statement)

    @property
    def _active(self) -> bool:
        return not self._conditions or self._conditions[-1].active

    def _next(self) -> Line | None:
        frame = self._frames[-1]
        if frame.position == len(frame.lines):
            if len(self._conditions) > frame.conditions:
                raise self._conditions[-1].origin.error("this condition has no .endif")
            self._frames.pop()
            return None
        line = frame.lines[frame.position]
        frame.position += 1
        self._lines += 1
        if self._lines > MAX_LINES:
            raise line.origin.error(f"the source expands to more than {MAX_LINES} lines")
        return line

    def _push(self, lines: tuple[Line, ...], path: Path | None, origin: Origin) -> None:
        depth = self._frames[-1].depth + 1
        if depth > MAX_DEPTH:
            raise origin.error(f"macros or includes nest more than {MAX_DEPTH} deep")
        self._frames.append(_Frame(lines, len(self._conditions), path, depth))

    def _body(
        self, begin: tuple[str, ...], end: str, origin: Origin, name: str
    ) -> tuple[Line, ...]:
        """The lines up to the matching ``end``, which must be in the same file or body."""
        frame = self._frames[-1]
        start, depth = frame.position, 1
        while frame.position < len(frame.lines):
            operation = parse(frame.lines[frame.position]).operation.lower()
            frame.position += 1
            if operation in begin:
                depth += 1
            elif operation == end or (end == ".endm" and operation == ".endmacro"):
                depth -= 1
                if depth == 0:
                    return frame.lines[start : frame.position - 1]
        raise origin.error(f"{name} has no {end}")

    def _condition(self, operation: str, statement: Statement) -> None:
        origin = statement.origin
        if operation in _CONDITIONS:
            enclosing = self._active
            value = enclosing and self._test(operation, statement.arguments, origin)
            self._conditions.append(_Condition(origin, value, value, enclosing))
            return
        if len(self._conditions) <= self._frames[-1].conditions:
            raise origin.error(f"{operation} without .if")
        condition = self._conditions[-1]
        if operation == ".endif":
            self._conditions.pop()
        elif condition.else_seen:
            raise origin.error(f"{operation} after .else")
        elif operation == ".else":
            condition.else_seen = True
            condition.active = condition.enclosing and not condition.taken
        else:
            condition.active = False
            if condition.enclosing and not condition.taken:
                condition.active = condition.taken = bool(
                    self._evaluate(statement.arguments, origin)
                )

    def _test(self, operation: str, arguments: str, origin: Origin) -> bool:
        if operation == ".if":
            return self._evaluate(arguments, origin) != 0
        if operation in (".ifb", ".ifnb"):
            return (not arguments.strip()) == (operation == ".ifb")
        if operation in (".ifc", ".ifnc"):
            parts = split_arguments(arguments)
            if len(parts) != 2:
                raise origin.error(f"{operation} takes two texts")
            return (parts[0] == parts[1]) == (operation == ".ifc")
        name = arguments.strip()
        if not _SYMBOL.match(name):
            raise origin.error(f"{operation} takes a symbol")
        return self._is_defined(name) == (operation == ".ifdef")

    def _include(self, statement: Statement) -> None:
        origin = statement.origin
        match = re.fullmatch(r'"([^"]+)"\s*', statement.arguments)
        if match is None:
            raise origin.error('.include takes a file name in quotes: .include "file"')
        path = find_file(match[1], self._frames[-1].path, self._include_dirs, origin)
        resolved = path.resolve()
        if any(f.path is not None and f.path.resolve() == resolved for f in self._frames):
            raise origin.error(f"include loop: {path} is already being read")
        self._push(load_source(path, origin).lines, path, origin)

    def _define(self, statement: Statement) -> None:
        origin = statement.origin
        words = statement.arguments.split(None, 1)
        name = words[0].rstrip(",") if words else ""
        if not _SYMBOL.match(name):
            raise origin.error(".macro takes a name")
        body = self._body((".macro",), ".endm", origin, f".macro {name}")
        text = words[1] if len(words) > 1 else ""
        parts = split_arguments(text)
        if len(parts) == 1 and not re.search(r"[=:\"']", text):
            parts = text.split()
        parameters = tuple(self._parameter(part, origin) for part in parts)
        names = [parameter.name for parameter in parameters]
        if len(set(names)) != len(names):
            raise origin.error(f"macro {name} has two parameters of the same name")
        if any(parameter.rest for parameter in parameters[:-1]):
            raise origin.error("only the last parameter of a macro can be :vararg")
        self._macros[name] = _Macro(name, parameters, body)

    def _parameter(self, text: str, origin: Origin) -> _Parameter:
        match = re.fullmatch(r"([A-Za-z_]\w*)(?::(req|vararg))?(?:\s*=\s*(.*))?", text)
        if match is None:
            raise origin.error(f"cannot read the macro parameter {text!r}")
        return _Parameter(match[1], match[3] or "", match[2] == "req", match[2] == "vararg")

    def _call(self, macro: _Macro, statement: Statement) -> None:
        origin = statement.origin
        arguments = split_arguments(statement.arguments)
        values = {parameter.name: "" for parameter in macro.parameters}
        position = 0
        for number, argument in enumerate(arguments):
            named = _ASSIGN.match(argument)
            if named is not None and named[1] in values:
                values[named[1]] = named[2].strip()
                continue
            if position >= len(macro.parameters):
                raise origin.error(
                    f"macro {macro.name} takes {len(macro.parameters)} arguments, "
                    f"not {len(arguments)}"
                )
            if macro.parameters[position].rest:
                values[macro.parameters[position].name] = ", ".join(arguments[number:])
                break
            values[macro.parameters[position].name] = argument
            position += 1
        for parameter in macro.parameters:
            if not values[parameter.name]:
                if parameter.required:
                    raise origin.error(f"macro {macro.name} needs its argument {parameter.name}")
                values[parameter.name] = parameter.default
        self._calls += 1
        self._push(
            tuple(
                Line(
                    _substitute(line.text, values, self._calls),
                    origin._replace(
                        context=(
                            *origin.context,
                            f"in macro {macro.name}, {line.origin.file}:{line.origin.line}",
                        )
                    ),
                )
                for line in macro.body
            ),
            self._frames[-1].path,
            origin,
        )

    def _repeat(self, statement: Statement) -> None:
        origin = statement.origin
        body = self._body((".rept", ".irp"), ".endr", origin, ".rept")
        count = self._evaluate(statement.arguments, origin)
        if count < 0:
            raise origin.error(f".rept with a negative count: {count}")
        if count * len(body) > MAX_LINES:
            raise origin.error(f"the source expands to more than {MAX_LINES} lines")
        self._push(body * count, self._frames[-1].path, origin)

    def _repeat_for(self, statement: Statement) -> None:
        origin = statement.origin
        body = self._body((".rept", ".irp"), ".endr", origin, ".irp")
        arguments = split_arguments(statement.arguments)
        if not arguments or not re.fullmatch(r"[A-Za-z_]\w*", arguments[0]):
            raise origin.error(".irp takes a name and its values: .irp name, a, b")
        lines = tuple(
            Line(_substitute(line.text, {arguments[0]: value}, None), line.origin)
            for value in arguments[1:]
            for line in body
        )
        self._push(lines, self._frames[-1].path, origin)

    def _unmatched(self, statement: Statement) -> None:
        raise statement.origin.error(f"{statement.operation} without its beginning")

    def _error(self, statement: Statement) -> None:
        raise statement.origin.error(statement.arguments.strip().strip('"') or ".error")

    _HANDLERS: dict[str, Callable[["Expander", Statement], None]] = {  # noqa: RUF012
        ".include": _include,
        ".macro": _define,
        ".rept": _repeat,
        ".irp": _repeat_for,
        ".endm": _unmatched,
        ".endmacro": _unmatched,
        ".endr": _unmatched,
        ".error": _error,
        ".err": _error,
    }


def parse(line: Line) -> Statement:
    """Split a line into labels, operation and arguments; ``a = b`` becomes ``.set a, b``."""
    text = line.text
    labels: list[str] = []
    while match := _LABEL.match(text):
        labels.append(match[1])
        text = text[match.end() :]
    if assign := _ASSIGN.match(text):
        return Statement(line.origin, tuple(labels), ".set", f"{assign[1]}, {assign[2]}")
    word = _WORD.match(text)
    if word is None:
        return Statement(line.origin, tuple(labels), "", text.strip())
    return Statement(line.origin, tuple(labels), word[1], word[2].rstrip())


def _substitute(text: str, values: dict[str, str], number: int | None) -> str:
    if "\\" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[0] if number is None else str(number)
        if match[2] is None:
            return "" if number is not None else match[0]
        return values.get(match[2], match[0])

    return _SUBSTITUTE.sub(replace, text)
