"""The terminal view itself: panes, keys, and the thread in which commands run.

Every change comes from a command of the prompt's registry; after each, all panes are made anew from
the debugger's views. What a pane shows is text of the views, never interpreted as markup.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Key
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, OptionList, RichLog, Static
from textual.widgets.option_list import Option

from hypervisor.cli.prompt import repeatable
from hypervisor.cli.tui import KEYS, LEFT_FOR_PROMPT
from hypervisor.cli.tui.commandline import CommandLine
from hypervisor.cli.tui.framemap import FrameMap
from hypervisor.cli.tui.relay import Relay
from hypervisor.cli.tui.text import arrowed, changed, folded
from hypervisor.debug.commands import Context, Quit, execute, find
from hypervisor.debug.model import DebugError
from hypervisor.debug.views_cpu import code_view, registers_view, source_view
from hypervisor.debug.views_machine import event_text
from hypervisor.debug.views_paging import frame_text

MAX_EVENTS: Final = 300
"""Events that the list shows, the newest."""
MAX_LOG: Final = 5000
MAX_BEFORE: Final = 512
"""Bytes of code that are shown at most before the next instruction."""
SINGLE_KEYS: Final = {
    "c": "continue", "s": "step", "i": "stepi", "n": "next", "o": "nexti", "f": "finish",
    "r": "run", "w": "where", "C": "reverse-continue", "S": "reverse-step", "I": "reverse-stepi",
    "N": "reverse-next", "O": "reverse-nexti", "F": "reverse-finish",
}  # fmt: skip
LAYOUTS: Final = {
    "all": ("registers", "code", "walk", "frames", "events"),
    "asm": ("code",),
    "src": ("source",),
    "regs": ("registers", "code"),
    "paging": ("walk", "frames"),
}
"""Sets of panes by the name that ``layout`` takes."""
PANES: Final = ("registers", "code", "source", "walk", "frames", "events")
_UPPER: Final = frozenset({"registers", "code", "source", "walk"})


class Prefix(ModalScreen[str]):
    """C-x was pressed: the next key says what for."""

    def on_key(self, event: Key) -> None:
        """Any key ends it."""
        event.stop()
        self.dismiss(event.character if event.is_printable and event.character else event.key)


class Pane(VerticalScroll, can_focus=True):
    """A pane of text that scrolls."""

    def __init__(self, name: str, title: str) -> None:
        self.body = Static(id=f"{name}-text", markup=False)
        super().__init__(self.body, id=name)
        self.border_title = title
        self.text = ""

    def show(self, text: str, styled: Text | None = None) -> None:
        """Have this text; a line with an arrow is kept in the middle."""
        self.text = text
        self.body.update(styled if styled is not None else Text(text, no_wrap=True))
        for number, line in enumerate(text.splitlines()):
            if line.startswith("=>"):
                self.scroll_to(y=max(0, number - self.size.height // 2), animate=False)
                return


class DebugView(App[int]):
    """``failure``: what went wrong in a command and is no one's mistake but ours."""

    CSS_PATH = "view.tcss"
    TITLE = "cowbird"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", "Stop the guests", priority=True),
        Binding("ctrl+x", "prefix", "C-x", priority=True),
        Binding("ctrl+l", "redraw", "Draw anew", priority=True),
        Binding("f1", "keys", "Keys", priority=True),
    ]

    def __init__(self, context: Context, relay: Relay) -> None:
        super().__init__()
        self.context = context
        self.relay = relay
        self.failure: Exception | None = None
        self.busy = False
        self.single_keys = False
        self.layout_name = "all"
        self.walked = "$rip"
        """The expression whose walk is shown."""
        self.events_shown: list[int] = []
        """Positions of the events in the list."""
        self.main: Screen[None] = Screen()
        """Where the panes are, also while C-x waits for its second key on a screen above."""
        self._last = ""
        self._registers = ""

    def compose(self) -> ComposeResult:
        """Two rows of panes, the log, the command line, the status."""
        with Horizontal(id="upper"):
            yield Pane("registers", "registers")
            yield Pane("code", "code")
            yield Pane("source", "source")
            yield Pane("walk", "walk")
        with Horizontal(id="lower"):
            with Vertical(id="frames") as box:
                box.border_title = "frames"
                yield FrameMap(self.context.debugger.hv, "map")
                yield Static(id="legend", markup=False)
            options = OptionList(id="events", markup=False)
            options.border_title = "events"
            yield options
        log = RichLog(id="log", markup=False, highlight=False, wrap=True, max_lines=MAX_LOG)
        log.border_title = "commands"
        yield log
        with Horizontal(id="bottom"):
            yield Static(id="prompt", markup=False)
            yield CommandLine(self.context, "command")
        yield Static(id="status", markup=False)

    def on_mount(self) -> None:
        """Show everything as it is before the first command."""
        self.main = self.screen_stack[0]
        self.relay.holding = True
        self.set_interval(0.1, self.drain)
        self.set_layout(first_layout(self.size.width, self.size.height))
        self.write("'help' lists the commands, F1 the keys", "dim")
        self.look()
        self.main.query_one(CommandLine).focus()

    def on_unmount(self) -> None:
        """From now on lines are printed again."""
        self.relay.holding = False

    # -- commands --------------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """A command was typed; an empty line repeats a step."""
        line = event.value.strip()
        event.input.clear()
        if line:
            self.main.query_one(CommandLine).remember(line)
        self.submit(line or self._last)
        if not self.busy or line:
            self._last = repeatable(line or self._last)

    def submit(self, line: str) -> None:
        """Run a command: one of the view's own here, any other in a thread."""
        if not line:
            return
        if self.busy:
            self.write("a command is running; C-c stops it", "dim")
            return
        self.write(self.prompt_text() + line, "bold")
        if self._own(line):
            return
        self._follow_walk(line)
        self.busy = True
        self.show_status()
        self.run_worker(partial(self._work, line), thread=True, name="command")

    def _work(self, line: str) -> None:
        """In the thread: run it, and have the answer shown."""
        try:
            text, style = execute(self.context, line), ""
        except DebugError as error:
            text, style = str(error), "red"
        except Quit as end:
            self.call_from_thread(self.exit, end.code or 0)
            return
        except Exception as error:  # noqa: BLE001 - a bug: the command line tells of it
            self.failure = error
            self.call_from_thread(self.exit, 0)
            return
        self.call_from_thread(self._done, text, style)

    def _done(self, text: str, style: str) -> None:
        self.busy = False
        self.drain()
        if text:
            self.write(text, style)
        self.look()

    def _own(self, line: str) -> bool:
        """Commands about the view; True if it was one."""
        word, _, argument = line.partition(" ")
        argument = argument.strip()
        if word == "layout":
            names = list(LAYOUTS)
            if argument in ("next", "prev"):
                step = 1 if argument == "next" else -1
                argument = names[(names.index(self.layout_name) + step) % len(names)]
            if argument in LAYOUTS:
                self.set_layout(argument)
            else:
                self.write(f"layout which? {', '.join(names)}, next, prev", "red")
        elif word == "focus":
            shown = [*self._shown(), "command", "log"]
            wanted = {"cmd": "command", "asm": "code", "src": "source", "regs": "registers"}
            name = wanted.get(argument, argument)
            if name in shown:
                self._focus(name)
            else:
                self.write(f"focus which? {', '.join(shown)}", "red")
        elif word == "refresh" and not argument:
            self.action_redraw()
        else:
            return False
        return True

    def _follow_walk(self, line: str) -> None:
        """``walk ADDRESS`` also says what the pane walks from now on."""
        with contextlib.suppress(DebugError):
            item, arguments = find(line)
            if item.name == "walk":
                self.walked = arguments or "$rip"

    # -- what is shown ---------------------------------------------------------------------

    def look(self) -> None:
        """Make all panes anew."""
        self._show("registers", self._registers_text)
        self._show("code", self._code_text)
        self._show("source", self._source_text)
        self._show("walk", self._walk_text)
        self.main.query_one("#walk", Pane).border_title = f"walk {self.walked}"
        self.main.query_one(FrameMap).look()
        self._show_events()
        self.show_status()

    def _show(self, name: str, make: Callable[[], str]) -> None:
        try:
            text = make()
        except DebugError as error:
            text = str(error)
        styled = None
        if name == "registers":
            styled = changed(self._registers, text)
            self._registers = text
        elif name in ("code", "source"):
            styled = arrowed(text)
        self.main.query_one(f"#{name}", Pane).show(text, styled)

    def _registers_text(self) -> str:
        text = registers_view(self.context.space, self.context.registers)
        return folded(text, self.main.query_one("#registers", Pane).size.width, "  ")

    def _code_text(self) -> str:
        registers, space = self.context.registers, self.context.space
        rip = registers.rip
        near = space.domain.symbols.nearest(rip)
        before = near[1] if near is not None and near[1] <= MAX_BEFORE else 0
        # An instruction has a byte at least.
        count = before + 2 * self.main.query_one("#code", Pane).size.height + 1
        return code_view(space, registers, rip - before, count)[0]

    def _source_text(self) -> str:
        return source_view(self.context.space, self.context.registers.rip, 60)

    def _walk_text(self) -> str:
        text = execute(self.context, f"walk {self.walked}")
        return folded(text, self.main.query_one("#walk", Pane).size.width, " ")

    def _show_events(self) -> None:
        listing = self.main.query_one("#events", OptionList)
        found = list(self.context.events)
        recent = list(islice(found, max(0, len(found) - MAX_EVENTS), None))
        domains = self.context.debugger.hv.domains
        listing.clear_options()
        listing.add_options(
            Option(Text(event_text(event, domains).strip(), no_wrap=True)) for event in recent
        )
        self.events_shown = [event.position for event in recent]
        listing.border_title = f"events ({len(found):,})"
        if recent:
            listing.highlighted = len(recent) - 1

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter on an event: go to it."""
        self.submit(f"goto {self.events_shown[event.option_index]}")

    def on_frame_map_chosen(self, event: FrameMap.Chosen) -> None:
        """Say what the chosen frame is, and what the colours mean."""
        if self.busy:
            return
        frame_map = self.main.query_one(FrameMap)
        box = self.main.query_one("#frames", Vertical)
        hv = self.context.debugger.hv
        per = frame_map.per_cell
        scale = "each half character a frame" if per == 1 else f"{per} frames each"
        box.border_title = f"frames by {frame_map.mode}, {scale}"
        box.border_subtitle = f"{event.mfn:#x}: {frame_text(hv, event.mfn)}"
        legend = Text(no_wrap=False)
        for label, color, count in frame_map.kinds.legend():
            legend.append("■ ", style=color)
            legend.append(f"{label} {count:,}  ")
        self.main.query_one("#legend", Static).update(legend)

    def on_frame_map_asked(self, event: FrameMap.Asked) -> None:
        """Enter on a frame: all that is known of it."""
        self.submit(f"frame {event.mfn:#x}")

    def on_command_line_candidates(self, event: CommandLine.Candidates) -> None:
        """Tab, and several words fit."""
        self.write("  ".join(event.words[:200]), "dim")

    def write(self, text: str, style: str = "") -> None:
        """Lines for the log."""
        self.main.query_one("#log", RichLog).write(Text(text, style=style), expand=True)

    def drain(self) -> None:
        """What guests and traced events wrote meanwhile."""
        lines = self.relay.take()
        if lines:
            self.write("\n".join(lines), "cyan")

    def prompt_text(self) -> str:
        """What stands before the command line."""
        number = self.context.domain_id
        return "(cowbird) " if number is None else f"(cowbird d{number}) "

    def show_status(self) -> None:
        """The line at the bottom, and the prompt."""
        debugger = self.context.debugger
        words = [f"layout {self.layout_name}", "F1 keys"]
        if self.single_keys:
            words.insert(0, "SingleKey")
        if self.busy:
            words.insert(0, "running (C-c stops)")
        else:
            words.insert(
                0, f"position {debugger.position:,} of {debugger.start:,}..{debugger.end:,}"
            )
            stop = debugger.last_stop
            if stop is not None:
                words.insert(0, stop.reason.value)
        self.main.query_one("#status", Static).update("  |  ".join(words))
        self.main.query_one("#prompt", Static).update("(single key) " if self.single_keys
                                                 else self.prompt_text())  # fmt: skip
        self.main.query_one("#bottom").set_class(self.single_keys, "singlekey")

    # -- layout and focus ------------------------------------------------------------------

    def _shown(self) -> list[str]:
        return [name for name in PANES if name in LAYOUTS[self.layout_name]]

    def set_layout(self, name: str) -> None:
        """Show one of ``LAYOUTS``."""
        self.layout_name = name
        shown = LAYOUTS[name]
        for pane in PANES:
            self.main.query_one(f"#{pane}").set_class(pane not in shown, "hidden")
        self.main.query_one("#upper").set_class(not _UPPER & set(shown), "hidden")
        self.main.query_one("#lower").set_class(not set(shown) - _UPPER, "hidden")
        self.show_status()

    def _focus(self, name: str) -> None:
        target = {"frames": "map"}.get(name, name)
        self.main.query_one(f"#{target}").focus()

    def action_next_pane(self) -> None:
        """C-x o: the pane behind the one with the focus, the command line being the last."""
        names = [*self._shown(), "log", "command"]
        focused = self.focused.id if self.focused is not None else None
        current = "frames" if focused == "map" else focused
        at = names.index(current) if current in names else -1
        self._focus(names[(at + 1) % len(names)])

    # -- keys ------------------------------------------------------------------------------

    def action_prefix(self) -> None:
        """C-x."""
        self.push_screen(Prefix(), self._prefixed)

    def _prefixed(self, key: str | None) -> None:
        names = list(LAYOUTS)
        if key in ("o", "ctrl+o"):
            self.action_next_pane()
        elif key in ("1", "ctrl+1"):
            self.set_layout("all" if self.layout_name == "asm" else "asm")
        elif key in ("2", "ctrl+2"):
            self.set_layout(names[(names.index(self.layout_name) + 1) % len(names)])
        elif key in ("s", "ctrl+s"):
            self.set_single_keys(True)
        elif key in ("a", "A", "ctrl+a"):
            if self.busy:
                self.write("a command is running; C-c stops it", "dim")
            else:
                self.exit(LEFT_FOR_PROMPT)

    def set_single_keys(self, on: bool) -> None:
        """gdb's SingleKey mode: letters are commands."""
        self.single_keys = on
        if on:
            self._focus(next(iter(self._shown()), "log"))
        else:
            self._focus("command")
        self.show_status()

    def on_key(self, event: Key) -> None:
        """Single keys; any other character goes to the command line, as in gdb."""
        if isinstance(self.focused, Input) or not event.is_printable or not event.character:
            return
        if event.key in self.screen.active_bindings:
            return  # the pane's own
        event.stop()
        if self.single_keys and event.character == "q":
            self.set_single_keys(False)
        elif self.single_keys and event.character in SINGLE_KEYS:
            self.submit(SINGLE_KEYS[event.character])
        else:
            line = self.main.query_one(CommandLine)
            line.focus()
            line.insert_text_at_cursor(event.character)

    def action_interrupt(self) -> None:
        """C-c: stop the guests; with none running, drop what is typed."""
        if self.busy:
            self.context.debugger.interrupt()
        else:
            self.main.query_one(CommandLine).clear()

    def action_redraw(self) -> None:
        """C-l."""
        if not self.busy:
            self.look()
        self.refresh(layout=True)

    def action_keys(self) -> None:
        """F1."""
        self.write(KEYS)


def first_layout(width: int, height: int) -> str:
    """The layout that a terminal of so many columns and lines has room for."""
    if width >= 130 and height >= 32:
        return "all"
    return "regs" if width >= 100 else "asm"
