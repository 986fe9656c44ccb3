"""Consoles whose output is judged while it comes, however much it is.

The verdict must not depend on how much of a console is kept, so that the parser sees every line,
also beyond the part that is stored: the first ``KEPT`` bytes and the last ``TAIL`` lines.
"""

from collections import deque
from typing import Final

from guests.runner.verdict import ConsoleParser
from hypervisor.console import Console

KEPT: Final = 256 << 10
"""Bytes of a console that are kept from its beginning."""
TAIL: Final = 50
"""Last lines that are kept of a console that printed more."""
MAX_LINE: Final = 4096


class Lines:
    """Cuts a stream of bytes into lines for a parser; a line is at most ``MAX_LINE`` bytes."""

    def __init__(self, parser: ConsoleParser) -> None:
        self.parser = parser
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Take some output."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(rest) >= MAX_LINE:
            self._line(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest = rest

    def close(self) -> None:
        """End an unfinished line."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def _line(self, line: bytes) -> None:
        text = line[:MAX_LINE].removesuffix(b"\r").decode("utf-8", "replace")
        self.tail.append(text)
        self.parser.feed(text)


class JudgedConsole(Console):
    """A domain's console with its parser."""

    def __init__(self) -> None:
        super().__init__(limit=KEPT)
        self.parser = ConsoleParser()
        self._lines = Lines(self.parser)

    def write(self, data: bytes) -> None:
        """Take output of the guest: all of it is judged, the beginning is kept."""
        super().write(data)
        self._lines.write(data)

    def close(self) -> None:
        """The domain is over: judge a line that it did not end."""
        self.flush()
        self._lines.close()

    def shown(self) -> str:
        """What is kept, as text; of a flood the beginning and the last lines."""
        text = self.text()
        if not self.dropped:
            return text
        clean = Console(limit=TAIL * (MAX_LINE + 1))
        clean.write("".join(f"{line}\n" for line in self._lines.tail).encode())
        return f"{text}[the last {len(self._lines.tail)} lines]\n{clean.text()}"
