"""Text of the debugger's views, made to fit a pane, with what matters standing out."""

import re
from collections.abc import Iterator
from typing import Final

from rich.text import Text

_CHANGED: Final = "bold yellow"


def folded(text: str, width: int, between: str) -> str:
    """Lines that are too long in several, broken only at ``between``.

    At a space what goes on stands further right; at more than one the parts are cells of a table.
    """
    lines = []
    further = "    " if between == " " else ""
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        cells = line.strip().split(between)
        now = indent + cells[0]
        for cell in cells[1:]:
            if len(now) + len(between) + len(cell) <= width:
                now += between + cell
            else:
                lines.append(now)
                now = (indent + further if further else "") + cell
        lines.append(now)
    return "\n".join(lines)


def changed(before: str, now: str) -> Text:
    """Text in which the words that were others before stand out."""
    text = Text(now, no_wrap=True)
    old = before.splitlines()
    for (start, line), was in zip(_lines(now), old, strict=False):
        words = list(re.finditer(r"\S+", line))
        others = re.findall(r"\S+", was)
        if len(words) == len(others):
            for word, other in zip(words, others, strict=True):
                if word[0] != other:
                    text.stylize(_CHANGED, start + word.start(), start + word.end())
        elif line != was:
            text.stylize(_CHANGED, start, start + len(line))
    return text


def arrowed(text: str) -> Text:
    """Text in which the line with the arrow stands out."""
    styled = Text(text, no_wrap=True)
    for start, line in _lines(text):
        if line.startswith("=>"):
            styled.stylize("bold reverse", start, start + len(line))
    return styled


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(where it begins, line) of each line."""
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, line.rstrip("\n")
        start += len(line)
