"""Commands that let the machine run. Each answers with where and why it stopped."""

from collections.abc import Callable
from typing import Final

from hypervisor.debug.commands import Context, command
from hypervisor.debug.model import DebugError, Stop, StopReason
from hypervisor.debug.stop_text import reached

MAX_STEPS: Final = 100_000
"""Instructions that one line of source may take, for ``step`` and ``next``."""


def times(context: Context, arguments: str) -> int:
    """How often: an expression, 1 if there is none.

    Raises:
        DebugError: less than once, or no expression.
    """
    count = context.value(arguments) if arguments else 1
    if not 1 <= count < 1 << 63:
        raise DebugError(f"{arguments}: a count of at least 1")
    return count


def repeated(context: Context, arguments: str, once: Callable[[int], Stop]) -> str:
    """Do one thing several times, unless something else stops the machine."""
    left = times(context, arguments)
    stop = once(context.domain.id)
    while left > 1 and stop.reason is StopReason.STEP:
        left -= 1
        stop = once(context.domain.id)
    return reached(context, stop)


def by_line(context: Context, once: Callable[[int], Stop]) -> Stop:
    """Single steps until another line of source begins; one step where no line is known."""
    domain = context.domain
    lines = domain.symbols.lines
    first = lines.lookup(context.registers.rip)
    for _ in range(MAX_STEPS):
        stop = once(domain.id)
        if stop.reason is not StopReason.STEP or first is None or domain.exit is not None:
            return stop
        now = lines.lookup(context.debugger.registers(domain.id).rip)
        if now is not None and now != first:
            return stop
    return stop


def by_line_back(context: Context, once: Callable[[int], Stop]) -> Stop:
    """Single steps back to where a line of source before this one begins.

    As in gdb: from the middle of a line, that is the line's own beginning.
    """
    domain = context.domain
    lines = domain.symbols.lines

    def line() -> tuple[str, int] | None:
        return lines.lookup(context.debugger.registers(domain.id).rip)

    here = line()
    stop = once(domain.id)
    reached_line = line()
    if stop.reason is not StopReason.STEP or reached_line is None or here is None:
        return stop
    for _ in range(MAX_STEPS):
        before = stop
        stop = once(domain.id)
        if stop.reason is not StopReason.STEP:
            return stop
        if line() != reached_line:
            # One too far: this is the end of the line before.
            return context.debugger.goto(before.position)
    return stop


@command("continue", "[N]", aliases=("c", "fg"), group="running", moves=True)
def continue_(context: Context, arguments: str) -> str:
    """Run until something stops the machine: a breakpoint, a catch, the end, Ctrl-C.

    With N the stop that it stands at is passed over N-1 times.
    """
    stop = context.cont()
    for _ in range(times(context, arguments) - 1):
        if stop.number is None:
            break
        stop = context.cont()
    return reached(context, stop)


@command("stepi", "[N]", aliases=("si",), group="running", moves=True)
def stepi(context: Context, arguments: str) -> str:
    """Run one instruction of the selected domain, or N.

    A hypercall is one step; a fault ends at the first instruction of the handler. Other domains
    run meanwhile when it is their turn.
    """
    count = times(context, arguments)
    return reached(context, context.debugger.step(context.domain.id, count))


@command("step", "[N]", aliases=("s",), group="running", moves=True)
def step(context: Context, arguments: str) -> str:
    """Run to another line of source, into calls; one instruction where no line is known.

    In assembly a line is an instruction, or all that a macro makes.
    """
    return repeated(context, arguments, lambda domain: by_line(context, context.debugger.step))


@command("nexti", "[N]", aliases=("ni",), group="running", moves=True)
def nexti(context: Context, arguments: str) -> str:
    """Run one instruction, and all of what it calls."""
    return repeated(context, arguments, context.debugger.next_)


@command("next", "[N]", aliases=("n",), group="running", moves=True)
def next_(context: Context, arguments: str) -> str:
    """Run to another line of source, over calls."""
    return repeated(context, arguments, lambda domain: by_line(context, context.debugger.next_))


@command("finish", aliases=("fin",), group="running", moves=True)
def finish(context: Context, _arguments: str) -> str:
    """Run until the function that the selected domain is in returns, or its trap handler does."""
    return reached(context, context.debugger.finish(context.domain.id))


@command("until", "LOCATION", aliases=("u", "advance"), group="running", moves=True,
         completes="symbol")  # fmt: skip
def until(context: Context, arguments: str) -> str:
    """Run until the selected domain comes to a location, or something else stops the machine."""
    address = context.address(arguments)
    debugger = context.debugger
    number = debugger.add_breakpoint(context.domain.id, address, temporary=True)
    try:
        stop = context.cont()
    finally:
        if number in debugger.stops:
            debugger.remove(number)
    if stop.number == number:
        stop = Stop(StopReason.STEP, stop.domain, stop.position)
    return reached(context, stop)
