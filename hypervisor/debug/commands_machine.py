"""Commands about the machine and its domains."""

import re

from hypervisor.debug import views_machine
from hypervisor.debug.commands import Context, command
from hypervisor.debug.model import DebugError


def domain_number(context: Context, text: str) -> int:
    """The id of a living domain: ``2`` or ``d2``, or its name if only one has it.

    Raises:
        DebugError: there is none such.
    """
    domains = context.debugger.hv.domains
    text = text.strip()
    match = re.fullmatch(r"d?(\d+)(?:\.\d+)?", text)
    if match is not None:
        number = int(match[1])
        if number in domains:
            return number
        raise DebugError(f"there is no domain {number}")
    named = [domain.id for domain in domains.values() if domain.name == text]
    if len(named) == 1:
        return named[0]
    raise DebugError(f"{text or 'nothing'}: {'several domains have' if named else 'no domain has'}"
                     " this name")  # fmt: skip


@command("domains", aliases=("info domains", "info inferiors", "info threads"), group="machine")
def domains(context: Context, _arguments: str) -> str:
    """List the domains: state, mode, frames, where each is. A star marks the selected one."""
    debugger = context.debugger
    rips = {number: debugger.registers(number).rip for number in debugger.hv.domains}
    return views_machine.domains_view(debugger.hv, rips, context.domain_id)


@command("domain", "[N]", aliases=("inferior", "thread"), group="machine", completes="domain")
def domain(context: Context, arguments: str) -> str:
    """Select the domain that other commands are about; without a number say which it is."""
    if arguments:
        context.domain_id = domain_number(context, arguments)
        context.listed = None
    return f"domain {context.domain.id} ({context.domain.name})"


@command("only", "[all | N...]", group="machine", completes="domain")
def only(context: Context, arguments: str) -> str:
    """Let only these domains run when the machine goes on; 'only all': every one again.

    The others are frozen: they keep their state and their turn.
    """
    words = arguments.replace(",", " ").split()
    if words == ["all"]:
        context.only = None
    elif words:
        context.only = frozenset(domain_number(context, word) for word in words)
    if context.only is None:
        return "all domains run"
    return "only " + ", ".join(f"d{number}" for number in sorted(context.only)) + " may run"


@command("events", "[N] [KIND...] [domain=N]", aliases=("info events",), group="machine",
         completes="event")  # fmt: skip
def events(context: Context, arguments: str) -> str:
    """Show the last N (20) events up to now, of some kinds, of one domain."""
    last, kinds, number = 20, set(), None
    for word in arguments.split():
        name, equals, value = word.partition("=")
        if name == "domain" and equals:
            number = domain_number(context, value)
        elif word.isdigit():
            last = int(word)
        else:
            kinds.add(word)
    return views_machine.events_view(
        context.events, context.debugger.hv, frozenset(kinds), number, last
    )


@command("counters", "[machine | domain] [TEXT]", aliases=("info counters",), group="machine")
def counters(context: Context, arguments: str) -> str:
    """Show the machine's counters, or the selected domain's, whose names contain TEXT."""
    words = arguments.split()
    mine = words[:1] == ["domain"]
    if words[:1] in (["domain"], ["machine"]):
        words = words[1:]
    chosen = context.domain if mine else None
    return views_machine.counters_view(context.debugger.hv, chosen, " ".join(words))


@command("audit", group="machine")
def audit(context: Context, _arguments: str) -> str:
    """Count all references again and check every invariant."""
    return views_machine.audit_view(context.debugger.hv)


@command("console", "[N] | send TEXT", group="machine", moves=True)
def console(context: Context, arguments: str) -> str:
    r"""Show the last N (20) lines that the selected domain wrote, or type something for it.

    'send' adds a newline unless TEXT ends in \c; \n \t \xNN \\ are understood. What is sent is an
    input: it is recorded, and at a position in the past it begins a new future.
    """
    word, _, text = arguments.partition(" ")
    if word == "send":
        context.debugger.feed(context.domain.id, _typed(text))
        return ""
    if arguments and not arguments.isdigit():
        raise DebugError("console [N], or console send TEXT")
    return views_machine.console_view(context.domain, int(arguments or "20"))


def _typed(text: str) -> bytes:
    """What ``console send`` sends."""
    known = {"n": b"\n", "t": b"\t", "r": b"\r", "\\": b"\\", "e": b"\x1b"}
    ends = not text.endswith("\\c")
    if not ends:
        text = text[:-2]

    def replaced(match: re.Match[bytes]) -> bytes:
        body = match[1].decode("latin-1")
        if body.startswith("x") and len(body) == 3:
            return bytes([int(body[1:], 16)])
        return known.get(body, match[0])

    data = re.sub(
        rb"\\(x[0-9a-fA-F]{2}|.)", replaced, text.encode(errors="replace"), flags=re.DOTALL
    )
    return data + b"\n" if ends else data


@command("trace", "on [KIND...] | off", group="machine", completes="event")
def trace(context: Context, arguments: str) -> str:
    """Show events of these kinds (all) as they happen, while the machine runs forward."""
    words = arguments.split()
    if words[:1] == ["on"]:
        context.traced = frozenset(words[1:])
    elif words == ["off"]:
        context.traced = None
    elif words:
        raise DebugError("trace on [KIND...], or trace off")
    if context.traced is None:
        return "tracing is off"
    return f"tracing {', '.join(sorted(context.traced)) or 'every event'}"
