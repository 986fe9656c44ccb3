"""Commands that go back and forth in time, and compare moments."""

import re

from hypervisor.debug import moments
from hypervisor.debug.commands import Context, command
from hypervisor.debug.commands_data import typed_place
from hypervisor.debug.commands_paging import frame_number
from hypervisor.debug.commands_running import by_line_back, repeated, times
from hypervisor.debug.commands_stops import entry_address
from hypervisor.debug.model import DebugError
from hypervisor.debug.stop_text import reached
from hypervisor.debug.stopset import MAX_WATCHED


def position_of(context: Context, text: str) -> int:
    """A position: a checkpoint's name, ``start``, ``end``, ``.`` (now), ``+N``, ``-N``, a number.

    Raises:
        DebugError: it is none of these.
    """
    debugger = context.debugger
    text = text.strip()
    if text in debugger.checkpoints:
        return debugger.checkpoints[text]
    if text in ("start", "end"):
        return debugger.start if text == "start" else debugger.end
    if text == ".":
        return debugger.position
    if text[:1] in ("+", "-"):
        offset = context.value(text[1:])
        return debugger.position + (offset if text[0] == "+" else -offset)
    return context.value(re.sub(r"(?<=\d),(?=\d{3})", "", text))


@command("reverse-stepi", "[N]", aliases=("rsi",), group="time", moves=True)
def reverse_stepi(context: Context, arguments: str) -> str:
    """Undo one instruction of the selected domain, or N."""
    count = times(context, arguments)
    return reached(context, context.debugger.reverse_step(context.domain.id, count))


@command("reverse-step", "[N]", aliases=("rs",), group="time", moves=True)
def reverse_step(context: Context, arguments: str) -> str:
    """Go back to the line of source before, into calls; one instruction where none is known."""
    return repeated(
        context, arguments, lambda _: by_line_back(context, context.debugger.reverse_step)
    )


@command("reverse-nexti", "[N]", aliases=("rni",), group="time", moves=True)
def reverse_nexti(context: Context, arguments: str) -> str:
    """Undo one instruction, and if it was a return all of what was called."""
    return repeated(context, arguments, context.debugger.reverse_next)


@command("reverse-next", "[N]", aliases=("rn",), group="time", moves=True)
def reverse_next(context: Context, arguments: str) -> str:
    """Go back to the line of source before, over calls."""
    return repeated(
        context, arguments, lambda _: by_line_back(context, context.debugger.reverse_next)
    )


@command("reverse-continue", aliases=("rc",), group="time", moves=True)
def reverse_continue(context: Context, _arguments: str) -> str:
    """Go back to the last stop before now, or to the start."""
    return reached(context, context.debugger.reverse_cont(context.only))


@command("reverse-finish", aliases=("rfin",), group="time", moves=True)
def reverse_finish(context: Context, _arguments: str) -> str:
    """Go back to the call of the function that the selected domain is in."""
    return reached(context, context.debugger.reverse_finish(context.domain.id))


@command("when", group="time")
def when(context: Context, _arguments: str) -> str:
    """Say which moment it is: the position counts the instructions that the machine started."""
    debugger = context.debugger
    text = f"position {debugger.position:,} of {debugger.start:,}..{debugger.end:,}"
    names = [name for name, at in debugger.checkpoints.items() if at == debugger.position]
    return text + (f" ({', '.join(names)})" if names else "")


@command("goto", "POSITION | NAME | start | end | +N | -N", aliases=("travel", "restart"),
         group="time", moves=True, completes="checkpoint")  # fmt: skip
def goto(context: Context, arguments: str) -> str:
    """Go to a position, a checkpoint, the start or the end of what was recorded."""
    if not arguments:
        raise DebugError("goto where? (a position, a checkpoint's name, start, end, +N, -N)")
    return reached(context, context.debugger.goto(position_of(context, arguments)))


@command("run", aliases=("r",), group="time", moves=True)
def run(context: Context, _arguments: str) -> str:
    """Go to the start and let everything run from there."""
    context.debugger.goto(context.debugger.start)
    return reached(context, context.cont())


@command("checkpoint", "[NAME]", aliases=("save-position",), group="time")
def checkpoint(context: Context, arguments: str) -> str:
    """Give the present position a name, for goto and diff; a number if there is no name."""
    points = context.debugger.checkpoints
    name = arguments.strip()
    if not name:
        number = 1
        while f"c{number}" in points:
            number += 1
        name = f"c{number}"
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", name) or name in ("start", "end"):
        raise DebugError(f"{name!r} is no name for a checkpoint (letters, digits, . _ -)")
    points[name] = context.debugger.position
    return f"checkpoint {name} at position {context.debugger.position:,}"


@command("info checkpoints", group="time")
def info_checkpoints(context: Context, _arguments: str) -> str:
    """List the checkpoints."""
    points = sorted(context.debugger.checkpoints.items(), key=lambda item: (item[1], item[0]))
    return "\n".join(f"{name:<16} {at:,}" for name, at in points) or "no checkpoint"


@command("delete checkpoint", "NAME", group="time", completes="checkpoint")
def delete_checkpoint(context: Context, arguments: str) -> str:
    """Forget a checkpoint."""
    if context.debugger.checkpoints.pop(arguments.strip(), None) is None:
        raise DebugError(f"there is no checkpoint {arguments.strip()!r}")
    return ""


@command("last-write", "EXPRESSION[,BYTES]", group="time", moves=True, completes="expression")
def last_write(context: Context, arguments: str) -> str:
    """Go to right behind the last instruction that wrote to memory of the selected domain."""
    text, comma, length = arguments.partition(",")
    address, size = typed_place(context, text)
    size = context.value(length) if comma else size or context.word
    if not 1 <= size <= MAX_WATCHED:
        raise DebugError(f"{size} bytes: between 1 and {MAX_WATCHED:,}")
    return reached(context, context.debugger.last_write(context.domain.id, address, size))


@command("last-change", "ADDRESS | m:ADDRESS", group="time", moves=True, completes="expression")
def last_change(context: Context, arguments: str) -> str:
    """Go to the moment that made a page-table entry what it is.

    ADDRESS is one that the entry maps; m:ADDRESS is the entry's own machine address.
    """
    return reached(context, context.debugger.last_change(entry_address(context, arguments)))


@command("last-share", "MFN | ADDRESS", group="time", moves=True, completes="expression")
def last_share(context: Context, arguments: str) -> str:
    """Go to the moment at which a frame was last entered or merged into, and see who did it."""
    return reached(context, context.debugger.last_share(frame_number(context, arguments)))


@command("diff", "POSITION [POSITION]", group="time", completes="checkpoint")
def diff(context: Context, arguments: str) -> str:
    """Compare two moments, or one with now: registers, page-table entries, frames.

    Positions as for goto. It goes there to look and comes back.
    """
    words = arguments.split()
    if not 1 <= len(words) <= 2:
        raise DebugError("diff which moments? (positions or checkpoints, one or two)")
    debugger = context.debugger
    now = debugger.position
    wanted = [position_of(context, word) for word in words]
    if len(wanted) == 1:
        wanted.append(now)
    taken = []
    try:
        for position in wanted:
            if debugger.position != position:
                debugger.goto(position)
            registers = {n: debugger.registers(n) for n in debugger.hv.domains}
            taken.append(moments.take(debugger.hv, registers))
        return moments.difference(debugger.hv, *taken)
    finally:
        if debugger.position != now:
            debugger.goto(now)


@command("save", "FILE", group="time", completes="file")
def save(context: Context, arguments: str) -> str:
    """Write a recording of everything up to now, for 'cowbird replay FILE' on any machine."""
    if not arguments:
        raise DebugError("save to which file?")
    context.debugger.save(arguments)
    return f"saved to {arguments}"
