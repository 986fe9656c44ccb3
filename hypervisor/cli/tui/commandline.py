"""The line at the bottom where commands are typed: history, completion, repetition."""

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from hypervisor.debug.commands import Context
from hypervisor.debug.completion import complete


class CommandLine(Input):
    """An input that remembers, and completes by the debugger's own registry."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,ctrl+p", "older", "Older", show=False),
        Binding("down,ctrl+n", "newer", "Newer", show=False),
        Binding("tab", "complete", "Complete", show=False),
    ]

    class Candidates(Message):
        """Several words fit."""

        def __init__(self, words: list[str]) -> None:
            super().__init__()
            self.words = words

    def __init__(self, context: Context, name: str) -> None:
        super().__init__(id=name, select_on_focus=False)
        self._debugged = context
        self.lines: list[str] = []
        """What was typed, the oldest first."""
        self._at = 0

    def remember(self, line: str) -> None:
        """A line was run: it is the newest of the history."""
        if line and self.lines[-1:] != [line]:
            self.lines.append(line)
        self._at = len(self.lines)

    def action_older(self) -> None:
        """The command before."""
        self._show(self._at - 1)

    def action_newer(self) -> None:
        """The command after; behind the newest an empty line."""
        self._show(self._at + 1)

    def _show(self, at: int) -> None:
        self._at = max(0, min(at, len(self.lines)))
        self.value = self.lines[self._at] if self._at < len(self.lines) else ""
        self.cursor_position = len(self.value)

    def action_complete(self) -> None:
        """Complete the word before the cursor as far as it is sure."""
        typed, rest = self.value[: self.cursor_position], self.value[self.cursor_position :]
        words = complete(self._debugged, typed)
        if not words:
            return
        head, space, _ = typed.rpartition(" ")
        common = words[0]
        for word in words[1:]:
            while not word.startswith(common):
                common = common[:-1]
        completed = head + space + (common if len(words) > 1 else words[0] + " ")
        if len(words) > 1 and completed == typed:
            self.post_message(self.Candidates(words))
        self.value = completed + rest.lstrip()
        self.cursor_position = len(completed)
