"""The terminal view: its panes show what the machine is, its keys do what gdb's do."""

import asyncio
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from contextlib import asynccontextmanager
from fcntl import ioctl
from functools import wraps
from pathlib import Path

from click.testing import CliRunner

from hypervisor.abi import DomId
from hypervisor.cli import cli, tui
from hypervisor.cli.session import Session
from hypervisor.cli.sources import find_source
from hypervisor.cli.tui.classes import classify
from hypervisor.cli.tui.relay import Relay
from hypervisor.debug.commands import Context, execute
from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import StopReason
from hypervisor.debug.views_cpu import registers_view
from hypervisor.frames import FREE
from hypervisor.settings import Settings
from tests.hypervisor import cli_guests

ROOT = Path(__file__).resolve().parents[2]
SPIN = ".text\n.global _start\n_start:\n again: inc rax\n jmp again\n"


class View:
    """A view under test: a person at its keys."""

    def __init__(self, app, pilot):
        self.app = app
        self.pilot = pilot

    async def press(self, *keys):
        await self.pilot.press(*keys)
        await self.rest()

    async def rest(self):
        await self.pilot.pause()
        await self.app.workers.wait_for_complete()
        await self.pilot.pause()

    async def type(self, line):
        command = self.app.query_one("#command")
        command.focus()
        command.value = line
        await self.press("enter")

    def text(self, name):
        return self.app.query_one(f"#{name}").text

    def log(self):
        return "\n".join(line.text for line in self.app.query_one("#log").lines)

    def shown(self):
        return [
            name
            for name in ("registers", "code", "source", "walk", "frames", "events")
            if not self.app.query_one(f"#{name}").has_class("hidden")
        ]


@asynccontextmanager
async def view(*guests, size=(160, 50)):
    from hypervisor.cli.tui.app import DebugView

    relay = Relay()
    session = Session(Settings(machine_memory=64 << 20), 0, relay)
    for guest in guests:
        session.add(find_source(str(guest)), None)
    context = Context.of(Debugger(session.hv), relay.say)
    app = DebugView(context, relay)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield View(app, pilot)


def scenario(function):
    """Run an async test without a plugin."""

    @wraps(function)
    def test(**fixtures):
        asyncio.run(function(**fixtures))

    return test


def squeezed(text):
    return re.findall(r"\S+", text)


@scenario
async def test_all_panes_are_those_of_the_debugger_after_every_command():
    async with view("fork", "fork") as at:
        debugger, context = at.app.context.debugger, at.app.context
        for line in ("catch cow", "continue", "stepi", "reverse-stepi", "stepi 7"):
            await at.type(line)
            wanted = registers_view(context.space, context.registers)
            assert squeezed(at.text("registers")) == squeezed(wanted)
            rip = context.registers.rip
            (arrow,) = (one for one in at.text("code").splitlines() if one.startswith("=>"))
            assert f"{rip:#x}" in arrow
            assert squeezed(at.text("walk")) == squeezed(execute(context, "walk $rip"))
            assert f"position {debugger.position:,}" in str(at.app.query_one("#status").content)
        assert debugger.last_stop.reason is StopReason.STEP
        assert "cow_fault" in at.log()
        assert "d1 fork | KTAP version 1" in at.log()
        listing = at.app.query_one("#events")
        assert "trap" in str(listing.get_option_at_index(listing.option_count - 1).prompt)
        await at.type("walk $cr2 write")
        assert "the page is shared" in " ".join(squeezed(at.text("walk")))
        await at.type("stepi")
        assert at.text("walk").startswith("walk of 0x")
        assert "write" in at.text("walk").splitlines()[0]


@scenario
async def test_the_map_of_frames():
    async with view("fork", "churn") as at:
        await at.type("catch cow")
        await at.type("continue")
        frame_map = at.app.query_one("#map")
        frames = at.app.context.debugger.hv.frames
        owners = frames.owner_column
        kinds = {label: count for label, _, count in frame_map.kinds.legend()}
        assert kinds["free"] == (owners == FREE).sum()
        assert kinds["hypervisor"] == (owners == DomId.XEN).sum()
        assert kinds["d1 fork"] == (owners == 1).sum()
        assert kinds["d2 churn"] == (owners == 2).sum()
        assert kinds["shared"] == (owners == DomId.COW).sum() > 0
        legend = str(at.app.query_one("#legend").content)
        assert f"d1 fork {kinds['d1 fork']:,}" in legend
        assert set(frame_map.shown.tolist()) >= set((owners != FREE).nonzero()[0].tolist())
        frame_map.focus()
        for _ in range(12):
            await at.press("plus")
        assert frame_map.per_cell == 1
        shared = int((owners == DomId.COW).nonzero()[0][0])
        frame_map.choose(shared)
        await at.rest()
        place = frame_map.place - frame_map.first
        column, row = place % frame_map.columns, place // frame_map.columns
        assert frame_map.color_at(column, row) == "#ffffff"
        await at.press("right")
        assert frame_map.color_at(column, row) == "#f2b01e"
        assert at.app.query_one("#frames").border_subtitle.startswith(f"{frame_map.chosen:#x}: ")
        await at.press("left", "enter")
        assert f"frame {shared:#x}" in at.log()
        assert "shared" in at.log()
        await at.press("m")
        assert frame_map.mode == "type"
        kinds = {label: count for label, _, count in frame_map.kinds.legend()}
        in_use = frames.type_count_column > 0
        mine = (owners != FREE) & (owners != DomId.XEN) & in_use
        for label, number in (("L1", 1), ("L4", 4), ("writable", 6), ("shared", 7)):
            assert kinds[label] == (mine & (frames.type_column == number)).sum()
        await at.press("m")
        kinds = {label: count for label, _, count in frame_map.kinds.legend()}
        twice = (owners == DomId.COW) & (frames.refs_column == 2)
        assert kinds.get("2", 0) == twice.sum()
        await at.press("a")
        assert len(frame_map.shown) == frames.total
        await at.press("up", "down", "left")
        await at.press("minus")


@scenario
async def test_keys_of_gdb():
    async with view("fork", "fork") as at:
        everything = ["registers", "code", "walk", "frames", "events"]
        assert at.shown() == everything
        seen = []
        for _ in range(7):
            await at.press("ctrl+x", "o")
            seen.append(at.app.focused.id)
        assert seen == ["registers", "code", "walk", "map", "events", "log", "command"]
        await at.press("ctrl+x", "1")
        assert at.shown() == ["code"]
        await at.press("ctrl+x", "1")
        assert at.shown() == everything
        await at.press("ctrl+x", "2")
        assert at.app.layout_name == "asm"
        for name, panes in (("paging", ["walk", "frames"]), ("src", ["source"]), ("all", None)):
            await at.type(f"layout {name}")
            assert at.shown() == (panes or everything)
        await at.type("layout next")
        await at.type("layout prev")
        await at.type("layout nonsense")
        assert "layout which?" in at.log()
        await at.type("focus asm")
        assert at.app.focused.id == "code"
        # Another character goes to the command line.
        await at.press("w", "h", "e", "n", "enter")
        assert "position 0 of 0..0" in at.log()
        await at.press("ctrl+x", "s")
        position = at.app.context.debugger.position
        for key, steps in (("i", 1), ("i", 2), ("I", 1), ("o", 2), ("O", 1)):
            await at.press(key)
            assert at.app.context.debugger.position == position + steps
        await at.press("w")
        assert "#0" in at.log()
        await at.press("q")
        assert at.app.focused.id == "command"
        assert not at.app.single_keys
        await at.press("f1")
        assert "single keys" in at.log()


@scenario
async def test_the_command_line_remembers_completes_and_repeats():
    async with view("fork") as at:
        line = at.app.query_one("#command")
        await at.type("stepi 3")
        await at.press("enter")
        assert at.app.context.debugger.position == 6
        await at.type("when")
        await at.press("up", "up")
        assert line.value == "stepi 3"
        await at.press("ctrl+n")
        assert line.value == "when"
        await at.press("down")
        assert line.value == ""
        await at.press(*"reverse", "minus", *"co", "tab")
        assert line.value == "reverse-continue "
        await at.press("ctrl+c")
        assert line.value == ""
        await at.press("i", "n", "f", "o", "space", "tab", "tab")
        assert "registers" in at.log()
        await at.press("ctrl+c")
        await at.type("nonsense")
        assert "no such command" in at.log()
        await at.type("goto 2")
        assert at.app.context.debugger.position == 2
        # What comes while C-x waits for its second key is shown all the same.
        await at.pilot.press("ctrl+x")
        at.app.relay.say("meanwhile")
        at.app.submit("stepi")
        await at.rest()
        at.app.drain()
        await at.press("1")
        assert "meanwhile" in at.log()
        assert at.shown() == ["code"]
        await at.type("x [bold]")
        assert "x [bold]" in at.log()


@scenario
async def test_enter_on_an_event_goes_there():
    async with view("fork") as at:
        await at.type("catch cow")
        await at.type("continue")
        listing = at.app.query_one("#events")
        wanted = at.app.events_shown[10]
        listing.focus()
        listing.highlighted = 10
        await at.press("enter")
        assert at.app.context.debugger.position == wanted


@scenario
async def test_running_guests_are_stopped_by_ctrl_c(tmp_path):
    async with view(cli_guests.write(tmp_path, "spin.asm", SPIN)) as at:
        await at.pilot.press(*"continue", "enter")
        await at.pilot.pause(0.2)
        assert at.app.busy
        assert "running" in str(at.app.query_one("#status").content)
        await at.pilot.press(*"when", "enter")
        await at.pilot.press("ctrl+x", "a")
        await at.pilot.pause()
        assert at.app.is_running
        assert "a command is running" in at.log()
        await at.press("ctrl+c")
        assert not at.app.busy
        assert at.app.context.debugger.last_stop.reason is StopReason.INTERRUPT
        assert at.app.context.debugger.position > 0


@scenario
async def test_the_end_of_all_guests_and_of_the_session():
    async with view("hello") as at:
        await at.type("continue")
        await at.type("continue")
        assert not at.app.context.debugger.hv.domains
        assert "no domain" in at.text("registers")
        await at.type("stepi")
        await at.press("ctrl+l")
        await at.type("quit 3")
        assert not at.app.is_running
        assert at.app.return_value == 3


@scenario
async def test_a_bug_is_handed_to_the_command_line(monkeypatch):
    async with view("hello") as at:
        monkeypatch.setattr(at.app.context.debugger, "step", lambda *_: 1 // 0)
        await at.type("stepi")
        assert isinstance(at.app.failure, ZeroDivisionError)
        assert not at.app.is_running


@scenario
async def test_small_terminals():
    for size, layout in (((20, 6), "asm"), ((110, 30), "regs"), ((300, 100), "all")):
        async with view("fork", size=size) as at:
            assert at.app.layout_name == layout
            await at.type("layout all")
            await at.type("stepi")
            assert at.app.context.debugger.position == 1
            at.app.query_one("#map").focus()
            await at.press("right", "down", "plus", "minus")


def test_classes_cover_every_frame():
    relay = Relay()
    session = Session(Settings(machine_memory=64 << 20), 0, relay)
    session.add(find_source("share"), None)
    for mode in ("owner", "type", "sharing"):
        kinds = classify(session.hv, mode)
        assert sum(count for _, _, count in kinds.legend()) == session.hv.frames.total


def test_the_relay_keeps_lines_while_it_holds():
    relay = Relay()
    relay.holding = True
    relay.say("one\ntwo")
    relay.raw(b"three\xff")
    relay.tell("four")
    assert relay.take() == ["one", "two", "three\ufffd", "four"]
    for number in range(10_005):
        relay.say(str(number))
    lines = relay.take()
    assert lines[0] == "(5 lines are not shown)"
    assert lines[-1] == "10004"
    assert relay.take() == []


# --- the command ---------------------------------------------------------------------------


def refused(*arguments):
    result = CliRunner().invoke(cli, ["debug", *arguments])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    return line


def test_without_textual_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(tui, "available", lambda: False)
    assert "pip install 'cowbird[tui]'" in refused("hello", "--tui")


def test_without_a_terminal_and_with_gdb():
    assert "no terminal" in refused("hello", "--tui")
    assert "gdb" in refused("hello", "--tui", "-s")


def test_in_a_real_terminal(tmp_path):
    spin = cli_guests.write(tmp_path, "spin.asm", SPIN)
    process, master = pty.fork()
    if process == 0:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        environment["COWBIRD_HISTORY"] = ""
        arguments = [sys.executable, "-m", "hypervisor", "debug", "--tui", str(spin)]
        os.execvpe(sys.executable, arguments, environment)
    ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 140, 0, 0))
    screen = b""

    def until(wanted):
        nonlocal screen
        end = time.monotonic() + 60
        while wanted not in screen:
            assert time.monotonic() < end, screen[-3000:]
            if select.select([master], [], [], 1)[0]:
                screen += os.read(master, 1 << 16)
        screen = b""

    try:
        until(b"commands")
        os.write(master, b"continue\r")
        until(b"running (C-c stops)")
        os.write(master, b"\x03")
        until(b"interrupt")
        os.write(master, b"\x18a")
        until(b"\x1b[?1049l")  # the other screen is left
        until(b"(cowbird d1)")
        os.write(master, b"quit 7\r")
        until(b"quit 7")
        _, status = os.waitpid(process, 0)
        process = 0
        assert os.waitstatus_to_exitcode(status) == 7
    finally:
        if process:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        os.close(master)
