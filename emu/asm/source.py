"""Source text: positions, comments, and where an ``.include`` finds its file.

A statement ends at the end of its line. Comments are ``#``, ``;`` and ``//`` to the end of the
line and ``/* */`` over any number of lines; inside quotes they are text.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from emu.errors import AssemblyError


class Origin(NamedTuple):
    """Where a statement comes from; inside a macro, the line of the outermost call."""

    file: str
    line: int
    context: tuple[str, ...] = ()
    """The macros that were being expanded, outermost first."""

    def error(self, message: str) -> AssemblyError:
        """The error to raise for this position."""
        shown = self.context
        if len(shown) > 4:
            shown = (*shown[:2], "...", shown[-1])
        suffix = f" ({', '.join(shown)})" if shown else ""
        return AssemblyError(f"{self.file}:{self.line}: {message}{suffix}")


class Line(NamedTuple):
    """One line of source without its comments."""

    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The lines of one file, and the directory that its includes are relative to."""

    name: str
    path: Path | None
    lines: tuple[Line, ...]


_SKIPPED = re.compile(
    r"""(?P<quoted>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])')"""
    r"""|(?P<block>/\*.*?(?:\*/|\Z))|(?P<line>(?://|[#;])[^\n]*)""",
    re.DOTALL,
)


def read_source(text: str, name: str, path: Path | None = None) -> SourceFile:
    """Split ``text`` into lines without comments, numbered from 1.

    Raises AssemblyError for a block comment that never ends.
    """

    def replace(match: re.Match[str]) -> str:
        if match["quoted"] is not None:
            return match[0]
        if match["block"] is not None:
            if len(match[0]) < 4 or not match[0].endswith("*/"):
                line = text.count("\n", 0, match.start()) + 1
                raise Origin(name, line).error("this /* comment never ends")
            # Newlines stay, so that the numbers of the following lines stay right.
            return " " + "\n" * match[0].count("\n")
        return ""

    text = text.replace("\r\n", "\n")
    stripped = _SKIPPED.sub(replace, text)
    lines = tuple(
        Line(line, Origin(name, number)) for number, line in enumerate(stripped.split("\n"), 1)
    )
    return SourceFile(name, path, lines)


def load_source(path: Path, origin: Origin | None = None) -> SourceFile:
    """Read a file; a failure is reported at ``origin``, the line that asked for it."""
    asker = origin or Origin(str(path), 0)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise asker.error(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise asker.error(f"cannot read {path}: {error.strerror or error}") from None
    return read_source(text, str(path), path)


def find_file(
    name: str, including: Path | None, include_dirs: tuple[Path, ...], origin: Origin
) -> Path:
    """Path of an included file: beside the including file, then in each include directory.

    Raises AssemblyError, at ``origin``, if it is in none of them.
    """
    places = ([including.parent] if including is not None else []) + list(include_dirs)
    for place in places:
        candidate = place / name
        try:
            if candidate.is_file():
                return candidate
        except OSError:
            # A directory that may not be searched, or a name too long: not there.
            continue
    looked = ", ".join(str(place) for place in places) or "nowhere: no include directory is given"
    raise origin.error(f'cannot find "{name}" (looked in {looked})')
