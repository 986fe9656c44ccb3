"""A domain's console: what it wrote, as lines of text, and what somebody types for it.

A guest's output is untrusted bytes. It is decoded as UTF-8 with replacement, and every control
character except newline and tab becomes a visible escape (``\\x1b``), so that no guest can steer
the terminal of whoever watches. A carriage return before or right behind a newline is dropped,
since kernels end lines either way.

Memory is bounded: beyond ``limit`` bytes output is counted and dropped, and one line says so. Only
complete lines go to the sink; ``flush`` ends an unfinished one.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

DEFAULT_LIMIT: Final = 4 << 20
"""Bytes of output that are kept."""
MAX_LINE: Final = 4096
"""Bytes after which a line is ended though the guest did not end it."""
MAX_INPUT: Final = 64 << 10
"""Bytes of input that wait at most."""

Sink = Callable[[str], None]


def _visible(text: str) -> str:
    """``text`` with control characters, C1 and line separators included, spelled out."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def _decoded(line: bytes) -> str:
    """A line as text; where it begins a carriage return has nothing to return from."""
    return _visible(line.removeprefix(b"\r").decode("utf-8", "replace"))


class Console:
    """Output and input of one domain.

    ``sink`` is called once for every complete line, without its newline. ``limit`` is in bytes.
    ``lines`` are the complete lines so far; ``written`` and ``dropped`` count bytes.
    """

    def __init__(self, sink: Sink | None = None, limit: int = DEFAULT_LIMIT) -> None:
        self.lines: list[str] = []
        self.written = 0
        self.dropped = 0
        self._sink = sink
        self._limit = limit
        self._partial = bytearray()
        self.on_input: Callable[[], None] | None = None
        """Called after input was fed: whoever brings it to the guest."""
        self._input: deque[bytes] = deque()
        self._waiting = 0

    # -- output ----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Take output of the guest."""
        room = self._limit - self.written
        if len(data) > room:
            first = self.dropped == 0
            self.dropped += len(data) - room
            data = data[:room]
            self._take(data)
            if first:
                self.flush()
                self._emit(f"[console output beyond {self._limit} bytes is dropped]")
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        self.written += len(data)
        partial = self._partial
        partial += data
        if b"\n" not in data and len(partial) < MAX_LINE:
            return
        *complete, rest = bytes(partial).split(b"\n")
        for line in complete:
            self._line(line)
        while len(rest) >= MAX_LINE:
            self._line(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._partial = bytearray(rest)

    def _line(self, line: bytes) -> None:
        self._emit(_decoded(line.removesuffix(b"\r")))

    def _emit(self, line: str) -> None:
        self.lines.append(line)
        if self._sink is not None:
            self._sink(line)

    def flush(self) -> None:
        """End an unfinished line; at the end of a domain, or before waiting for input."""
        if self._partial:
            line, self._partial = bytes(self._partial), bytearray()
            self._line(line)

    @property
    def partial(self) -> str:
        """The unfinished line, such as a prompt."""
        return _decoded(bytes(self._partial))

    def text(self) -> str:
        """All output so far, an unfinished line included."""
        tail = self.partial
        return "".join(f"{line}\n" for line in self.lines) + tail

    # -- input -----------------------------------------------------------------------------

    def feed(self, data: bytes) -> int:
        """Queue input for the guest; returns the bytes taken, fewer if the queue is full."""
        data = data[: MAX_INPUT - self._waiting]
        if data:
            self._input.append(data)
            self._waiting += len(data)
            if self.on_input is not None:
                self.on_input()
        return len(data)

    def read(self, count: int) -> bytes:
        """Take up to ``count`` bytes of waiting input; empty if there is none."""
        parts = []
        while count > 0 and self._input:
            part = self._input.popleft()
            if len(part) > count:
                self._input.appendleft(part[count:])
                part = part[:count]
            parts.append(part)
            count -= len(part)
        data = b"".join(parts)
        self._waiting -= len(data)
        return data

    @property
    def waiting(self) -> int:
        """Bytes of input that the guest has not read; asked by a guest that wants some."""
        return self._waiting

    @property
    def queued(self) -> int:
        """Bytes of input that nobody has taken yet."""
        return self._waiting
