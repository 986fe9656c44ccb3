"""Packets that make the target run, that stop it, and that end it.

``vCont`` gives each thread the leftmost action that fits it; a process with no action stays as it
is while others run, which is how one domain is stepped with the others frozen. Going back
(``bs``, ``bc``) moves the history of everything.

Breakpoints belong to a process: ``Z`` packets name none, gdb selects one first with ``Hg``.
"""

from typing import Final

from emu.gdb.args import (
    ESRCH,
    Action,
    PacketError,
    ThreadArg,
    actions,
    hex_bytes,
    number,
    thread_id,
)
from emu.gdb.registry import packet
from emu.gdb.session import Ending, Session
from emu.gdb.target import Cause, Resume, StopKind, StopReport, ThreadId

_MAX_WATCH: Final = 4096
"""Bytes of one watchpoint."""


def _go(session: Session, how: Resume) -> bytes:
    with session.link.watching():
        report = session.target.resume(how)
    return session.stopped(report)


def _plan(session: Session, wanted: list[Action]) -> Resume:
    """What each thread does, from the actions in their order."""
    running: set[int] = set()
    stepping: dict[ThreadId, Action] = {}
    threads = session.threads()
    for thread in threads:
        for action in wanted:
            if session.matches(action.target, thread.id):
                running.add(thread.id.process)
                if action.kind != "c":
                    stepping[thread.id] = action
                break
    if not running:
        raise PacketError("no such thread to resume")
    running |= session.detached  # those run whenever anything does
    everything = running >= {item.id.process for item in session.target.threads()}
    only = None if everything else frozenset(running)
    if not stepping:
        return Resume(only)
    chosen = session.general if session.general in stepping else next(iter(stepping))
    return Resume(only, chosen, stepping[chosen].range)


@packet("vCont?", feature="vContSupported+")
def resume_actions(_session: Session, _rest: bytes) -> bytes:
    """Which actions ``vCont`` knows."""
    return b"vCont;c;C;s;S;r"


@packet("vCont")
def resume(session: Session, rest: bytes) -> bytes:
    """Run: an action for each thread."""
    return _go(session, _plan(session, actions(rest.removeprefix(b";"))))


def _legacy(session: Session, kind: str, address: bytes) -> bytes:
    """``c``, ``s`` and the like: the threads chosen by ``Hc``, from another address if given."""
    if address:
        session.target.set_register(session.selected(), "rip", number(address, "address"))
    if kind == "s":
        # Only the thread that is meant does a step; who else may run is not said here.
        thread = session.resolve(session.control or ThreadArg(None, 0))
        return _go(session, Resume(frozenset({thread.process}), thread))
    control = session.control or ThreadArg(None, -1)
    if control.thread == 0 and control.process in (None, 0):
        control = ThreadArg(None, -1)
    return _go(session, _plan(session, [Action(kind, control)]))


@packet("c")
def continue_(session: Session, rest: bytes) -> bytes:
    """Run."""
    return _legacy(session, "c", rest)


@packet("s")
def step(session: Session, rest: bytes) -> bytes:
    """One instruction."""
    return _legacy(session, "s", rest)


@packet("C")
def continue_signal(session: Session, rest: bytes) -> bytes:
    """Run with a signal, which guests do not have: it is dropped."""
    signal, _, address = rest.partition(b";")
    number(signal, "signal")
    return _legacy(session, "c", address)


@packet("S")
def step_signal(session: Session, rest: bytes) -> bytes:
    """One instruction with a signal, which is dropped."""
    signal, _, address = rest.partition(b";")
    number(signal, "signal")
    return _legacy(session, "s", address)


@packet("bs", feature="ReverseStep+", reverse=True)
def step_back(session: Session, _rest: bytes) -> bytes:
    """One instruction back."""
    thread = session.resolve(session.control or ThreadArg(None, 0))
    return _go(session, Resume(stepping=thread, backward=True))


@packet("bc", feature="ReverseContinue+", reverse=True)
def continue_back(session: Session, _rest: bytes) -> bytes:
    """Back to the breakpoint before, or to the start of history."""
    return _go(session, Resume(backward=True))


@packet("?")
def why_stopped(session: Session, _rest: bytes) -> bytes:
    """Why the target stopped last."""
    if session.last is None:
        return session.stopped(StopReport(Cause.STEP, session.general))
    return session.last


# -- breakpoints ---------------------------------------------------------------------------------


def _stop(session: Session, rest: bytes) -> tuple[int, StopKind, int, int]:
    fields = rest.partition(b";")[0].split(b",")
    if len(fields) != 3:
        raise PacketError(f"{rest[:40]!r} is not type, address and length")
    numbers = [number(text) for text in fields]
    if numbers[0] > StopKind.ACCESS.value:
        raise PacketError(f"no breakpoints of type {numbers[0]}")
    kind = StopKind(numbers[0])
    if kind in (StopKind.SOFTWARE, StopKind.HARDWARE):
        numbers[2] = 1
    elif not 1 <= numbers[2] <= _MAX_WATCH:
        raise PacketError(f"a watchpoint of {numbers[2]} bytes; 1 to {_MAX_WATCH} can be had")
    return session.selected().process, kind, numbers[1], numbers[2]


@packet("Z", feature="swbreak+;hwbreak+")
def insert_stop(session: Session, rest: bytes) -> bytes:
    """Set a breakpoint or watchpoint; once more does nothing."""
    stop = _stop(session, rest)
    if stop not in session.stops:
        session.stops[stop] = session.target.insert(*stop)
    return b"OK"


@packet("z")
def remove_stop(session: Session, rest: bytes) -> bytes:
    """Take a breakpoint away; one that is not there is gone already."""
    session.remove_stop(_stop(session, rest))
    return b"OK"


# -- attaching and ending ------------------------------------------------------------------------


@packet("!")
def extended(session: Session, _rest: bytes) -> bytes:
    """Extended mode: the connection outlives the processes."""
    session.extended = True
    return b"OK"


@packet("vAttach")
def attach(session: Session, rest: bytes) -> bytes:
    """Show a process that was let go, or that the client did not know."""
    process = number(rest.removeprefix(b";"), "process")
    there = [item.id for item in session.target.threads() if item.id.process == process]
    if not there:
        raise PacketError(f"there is no process {process}", ESRCH)
    session.detached.discard(process)
    session.general = there[0]
    return session.stopped(StopReport(Cause.STEP, there[0]))


@packet("D")
def detach(session: Session, rest: bytes) -> bytes:
    """Let one process go, or everything."""
    if not rest:
        session.ending = Ending.DETACHED
        return b"OK"
    process = number(rest.removeprefix(b";"), "process")
    if all(item.id.process != process for item in session.threads()):
        raise PacketError(f"there is no process {process}", ESRCH)
    for stop in [stop for stop in session.stops if stop[0] == process]:
        session.remove_stop(stop)
    session.detached.add(process)
    if session.general is not None and session.general.process == process:
        session.general = None
    if not session.threads() and not session.extended:
        session.ending = Ending.DETACHED
    return b"OK"


@packet("k")
def kill(session: Session, _rest: bytes) -> None:
    """The end of everything; there is no reply."""
    session.ending = Ending.KILLED


@packet("vKill")
def kill_process(session: Session, rest: bytes) -> bytes:
    """The end of one process."""
    process = number(rest.removeprefix(b";"), "process")
    if all(item.id.process != process for item in session.threads()):
        raise PacketError(f"there is no process {process}", ESRCH)
    session.target.kill(process)
    for stop in [stop for stop in session.stops if stop[0] == process]:
        session.remove_stop(stop)
    if session.general is not None and session.general.process == process:
        session.general = None
    if not session.threads() and not session.extended:
        session.ending = Ending.KILLED
    return b"OK"


@packet("H")
def select(session: Session, rest: bytes) -> bytes:
    """Choose the thread for what follows: ``g`` for data, ``c`` for running."""
    argument = thread_id(rest[1:])
    if rest[:1] == b"g":
        session.general = session.resolve(argument)
    elif rest[:1] == b"c":
        if argument.thread > 0:
            session.resolve(argument)
        session.control = argument
    else:
        raise PacketError(f"H{rest[:1]!r}")
    return b"OK"


@packet("T")
def is_alive(session: Session, rest: bytes) -> bytes:
    """Whether a thread is still there."""
    session.selection.named(session.resolve(thread_id(rest)))
    return b"OK"


@packet("vCtrlC")
def interrupt(_session: Session, _rest: bytes) -> bytes:
    """Ctrl-C as a packet: everything is stopped when it is read."""
    return b"OK"


@packet("vRun")
def run(session: Session, rest: bytes) -> bytes:
    """Start a program: there are only those that the machine was started with."""
    hex_bytes(rest.removeprefix(b";").partition(b";")[0])
    raise session.unsupported("starting a program")
