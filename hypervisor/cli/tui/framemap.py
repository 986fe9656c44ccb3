"""The map of frames: every half of a character is a frame, or as many as must share it.

The colours say what the frames are (``classes``). Frames that were free whenever the map looked are
left out until asked for: a machine has many. One frame is chosen, by the arrow keys or the mouse;
Enter asks for it.
"""

from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from hypervisor.cli.tui.classes import MODES, Classes, classify
from hypervisor.frames import FREE

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_CHOSEN: Final = "#ffffff"


class FrameMap(Widget, can_focus=True):
    """The frames of a machine by MFN, row by row. Places are numbers in ``shown``."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1, 0)", "Frame", show=False),
        Binding("right", "move(1, 0)", "Frame", show=False),
        Binding("up", "move(0, -1)", "Frame", show=False),
        Binding("down", "move(0, 1)", "Frame", show=False),
        Binding("plus,equals_sign", "zoom(1)", "Zoom in", show=False),
        Binding("minus", "zoom(-1)", "Zoom out", show=False),
        Binding("m", "mode", "Colours", show=False),
        Binding("a", "everything", "All frames", show=False),
        Binding("enter", "ask", "Show the frame", show=False),
    ]

    class Chosen(Message):
        """Another frame is chosen, or what is known of it changed."""

        def __init__(self, mfn: int) -> None:
            super().__init__()
            self.mfn = mfn

    class Asked(Message):
        """The person wants to see a frame."""

        def __init__(self, mfn: int) -> None:
            super().__init__()
            self.mfn = mfn

    def __init__(self, hv: "Hypervisor", name: str) -> None:
        super().__init__(id=name)
        self._hv = hv
        self.mode = MODES[0]
        self.chosen = 0
        self.zoom = 0
        """How often the number of frames of a cell was halved."""
        self.first = 0
        """Place of the first frame that is in sight."""
        self.all = False
        """Also what was always free."""
        self._used = np.zeros(hv.frames.total, dtype=bool)
        self.shown = np.arange(hv.frames.total)
        """MFNs of the frames that have a place, ascending."""
        self.kinds: Classes = classify(hv, self.mode)
        self._cells: list[list[int]] = []
        self._styles: dict[tuple[str, str], Style] = {}

    # -- what is where ---------------------------------------------------------------------

    @property
    def columns(self) -> int:
        """Cells of a row."""
        return max(1, self.size.width)

    @property
    def rows(self) -> int:
        """Rows of cells: two in a line."""
        return max(2, 2 * self.size.height)

    @property
    def per_cell(self) -> int:
        """Frames that share a cell."""
        room = self.columns * self.rows
        fit = -(-len(self.shown) // room)
        return max(1, fit >> self.zoom)

    def look(self) -> None:
        """Take in what the frames are now, and draw them."""
        self.kinds = classify(self._hv, self.mode)
        self._used |= self._hv.frames.owner_column != FREE
        self.shown = np.arange(len(self._used)) if self.all else np.flatnonzero(self._used)
        self._arrange()

    @property
    def place(self) -> int:
        """The place of the chosen frame; of one that has none, of the next."""
        return min(int(np.searchsorted(self.shown, self.chosen)), len(self.shown) - 1)

    def _arrange(self) -> None:
        total, per, columns, rows = len(self.shown), self.per_cell, self.columns, self.rows
        row_of_chosen = self.place // per // columns
        top = self.first // per // columns
        if not top <= row_of_chosen < top + rows:
            top = row_of_chosen - rows // 2
        whole = -(-total // (per * columns))
        top = max(0, min(top, whole - rows))
        self.first = top * columns * per
        padded = np.zeros(columns * rows * per, dtype=np.uint8)
        part = self.kinds.number[self.shown[self.first : self.first + len(padded)]]
        padded[: len(part)] = part
        self._cells = padded.reshape(rows, columns, per).max(axis=2).tolist()
        self.refresh()
        self.post_message(self.Chosen(self.chosen))

    def choose(self, mfn: int) -> None:
        """Choose a frame; one that the machine does not have is the nearest that it has."""
        self.chosen = max(0, min(mfn, self._hv.frames.total - 1))
        if not self.all and not self._used[self.chosen]:
            self.all = True
            self.look()
        else:
            self._arrange()

    def color_at(self, column: int, row: int) -> str:
        """The colour of a cell as it is drawn; rows are halves of lines."""
        at = self.first + (row * self.columns + column) * self.per_cell
        if at <= self.place < at + self.per_cell:
            return _CHOSEN
        return self.kinds.color[self._cells[row][column]]

    # -- drawing ---------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """A line: upper halves in the colour of the text, lower halves in that behind it."""
        if 2 * y + 1 >= len(self._cells):
            return Strip.blank(self.size.width)
        segments = []
        for column in range(min(self.columns, len(self._cells[0]))):
            pair = self.color_at(column, 2 * y), self.color_at(column, 2 * y + 1)
            style = self._styles.get(pair)
            if style is None:
                style = self._styles[pair] = Style(color=pair[0], bgcolor=pair[1])
            segments.append(Segment("▀", style))
        return Strip(segments)

    def on_resize(self) -> None:
        """Another size: other cells."""
        self._arrange()

    # -- choosing --------------------------------------------------------------------------

    def action_move(self, columns: int, rows: int) -> None:
        """The cell beside the chosen one."""
        self._choose_place(self.place + (columns + rows * self.columns) * self.per_cell)

    def _choose_place(self, place: int) -> None:
        self.choose(int(self.shown[max(0, min(place, len(self.shown) - 1))]))

    def action_zoom(self, step: int) -> None:
        """Fewer frames to a cell, or more."""
        if step < 0 or self.per_cell > 1:
            self.zoom = max(0, self.zoom + step)
        self._arrange()

    def action_mode(self) -> None:
        """The next way to colour."""
        self.mode = MODES[(MODES.index(self.mode) + 1) % len(MODES)]
        self.look()

    def action_everything(self) -> None:
        """Also the frames that were always free, or not."""
        self.all = not self.all
        self.look()

    def action_ask(self) -> None:
        """Show the chosen frame."""
        self.post_message(self.Asked(self.chosen))

    def on_click(self, event: events.Click) -> None:
        """Choose what is under the mouse: the first frame of the upper cell; twice shows it."""
        at = self.first + (2 * event.y * self.columns + event.x) * self.per_cell
        if at < len(self.shown):
            self._choose_place(at)
        if event.chain > 1:
            self.action_ask()
