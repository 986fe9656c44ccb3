"""Commands that set and clear breakpoints, watchpoints and catches."""

import re
from typing import Final

from emu.paging import PF_ERROR
from hypervisor.abi import Hypercall
from hypervisor.debug.commands import Context, command
from hypervisor.debug.commands_data import typed_place
from hypervisor.debug.commands_machine import domain_number
from hypervisor.debug.commands_paging import frame_number
from hypervisor.debug.model import CATCH_KINDS, AnyStop, Catch, DebugError, WatchKind
from hypervisor.debug.stop_text import catch_text, stop_row
from hypervisor.debug.views_cpu import canonical_name, names_of
from hypervisor.debug.views_paging import table_text
from hypervisor.hypercalls.registry import TABLES

_IF: Final = re.compile(r"(?:^|\s)if\s+(.*)$", re.DOTALL)
_DOMAIN: Final = re.compile(r"(?:^|\s)(?:domain|thread)[ =]\s*(\S+)$")
_REGISTER: Final = re.compile(r"\$(\w+)")
_WORD: Final = re.compile(r"\b[A-Za-z_.][\w.]*\b")
_VECTORS: Final = {
    "DE": 0, "DB": 1, "NMI": 2, "BP": 3, "OF": 4, "BR": 5, "UD": 6, "NM": 7, "DF": 8, "TS": 10,
    "NP": 11, "SS": 12, "GP": 13, "PF": 14, "MF": 16, "AC": 17, "MC": 18, "XM": 19,
}  # fmt: skip
_KEPT: Final = frozenset(("if", "else", "and", "or", "not", "in", "is", "True", "False", "None"))


def condition_of(context: Context, text: str) -> str | None:
    """A condition as the debugger takes it: ``$rax`` is ``rax``, symbols are numbers."""
    text = text.strip()
    if not text:
        return None
    text = _REGISTER.sub(lambda match: canonical_name(match[1]), text)

    def symbol(match: re.Match[str]) -> str:
        name = match[0]
        if name in _KEPT or context.domain_id not in context.debugger.hv.domains:
            return name
        found = context.domain.symbols.address(name)
        is_register = name in ("rip", "rflags") or context.is_register(name)
        return name if found is None or is_register else hex(found)

    return _WORD.sub(symbol, text)


def _split(context: Context, text: str) -> tuple[str, list[int], str | None]:
    """(place, domains, condition) of ``PLACE [domain N|all] [if CONDITION]``."""
    match = _IF.search(text)
    condition = None
    if match is not None:
        condition = condition_of(context, match[1])
        text = text[: match.start()]
    domains = [context.domain.id]
    match = _DOMAIN.search(text)
    if match is not None:
        text = text[: match.start()]
        domains = (
            list(context.debugger.hv.domains)
            if match[1] == "all"
            else [domain_number(context, match[1])]
        )
    return text.strip(), domains, condition


def _break(context: Context, arguments: str, *, hardware: bool, temporary: bool) -> str:
    place, domains, condition = _split(context, arguments)
    lines = []
    selected = context.domain_id
    for number in domains:
        context.domain_id = number
        try:
            address = context.address(place, context.registers.rip)
            made = context.debugger.add_breakpoint(
                number, address, hardware=hardware, temporary=temporary, condition=condition
            )
        finally:
            context.domain_id = selected
        domain = context.debugger.hv.domains[number]
        line = names_of(domain).line(address)
        mapped = (
            "" if context.debugger.read(number, address, 1) else ", where nothing is mapped now"
        )
        kind = "hardware breakpoint" if hardware else "breakpoint"
        lines.append(
            f"{'temporary ' if temporary else ''}{kind} {made} in d{number} at "
            f"{names_of(domain).place(address)}{', ' + line if line else ''}{mapped}"
        )
    return "\n".join(lines)


@command("break", "[LOCATION] [domain N|all] [if CONDITION]", aliases=("b", "br"), group="running",
         completes="symbol")  # fmt: skip
def break_(context: Context, arguments: str) -> str:
    """Stop before the instruction at a symbol, *ADDRESS or file:line of the selected domain.

    A breakpoint is never in guest memory: no guest can see it, and a page that has one can be
    shared. CONDITION is a Python expression over registers: 'if rdi == 3 and rsp > 0x1000'.
    """
    return _break(context, arguments, hardware=False, temporary=False)


@command("tbreak", "[LOCATION] [domain N|all] [if CONDITION]", aliases=("tb", "tbr"),
         group="running", completes="symbol")  # fmt: skip
def tbreak(context: Context, arguments: str) -> str:
    """Like break, but the breakpoint goes when it is hit."""
    return _break(context, arguments, hardware=False, temporary=True)


@command("hbreak", "[LOCATION] [domain N|all] [if CONDITION]", aliases=("hb",), group="running",
         completes="symbol")  # fmt: skip
def hbreak(context: Context, arguments: str) -> str:
    """Like break: there is no difference here, and no limit to their number."""
    return _break(context, arguments, hardware=True, temporary=False)


@command("thbreak", "[LOCATION] [domain N|all] [if CONDITION]", aliases=("thb",), group="running",
         completes="symbol")  # fmt: skip
def thbreak(context: Context, arguments: str) -> str:
    """Like hbreak, but it goes when it is hit."""
    return _break(context, arguments, hardware=True, temporary=True)


def _watch(context: Context, arguments: str, kind: WatchKind) -> str:
    place, domains, condition = _split(context, arguments)
    place = place.removeprefix("-location ").removeprefix("-l ")
    text, comma, length = place.partition(",")
    address, size = typed_place(context, text)
    size = context.value(length) if comma else size or context.word
    lines = []
    for number in domains:
        made = context.debugger.add_watchpoint(number, address, size, kind, condition)
        where = names_of(context.debugger.hv.domains[number]).place(address)
        lines.append(f"{kind} watchpoint {made} in d{number}: {size} bytes at {where}")
    return "\n".join(lines)


@command("watch", "EXPRESSION[,BYTES] [domain N] [if CONDITION]", group="running",
         completes="expression")  # fmt: skip
def watch(context: Context, arguments: str) -> str:
    """Stop behind the instruction that writes to memory: 'watch symbol', 'watch *(u8 *)A'.

    The place follows its page when that is copied or moved. The guest sees nothing of it.
    """
    return _watch(context, arguments, "write")


@command("rwatch", "EXPRESSION[,BYTES] [domain N] [if CONDITION]", group="running",
         completes="expression")  # fmt: skip
def rwatch(context: Context, arguments: str) -> str:
    """Stop behind the instruction that reads memory."""
    return _watch(context, arguments, "read")


@command("awatch", "EXPRESSION[,BYTES] [domain N] [if CONDITION]", group="running",
         completes="expression")  # fmt: skip
def awatch(context: Context, arguments: str) -> str:
    """Stop behind the instruction that reads or writes memory."""
    return _watch(context, arguments, "access")


# --- catches -------------------------------------------------------------------------------


@command("catch", "KIND [WHAT] [NAME=VALUE...] [domain N] [if CONDITION]", group="running",
         completes="catch")  # fmt: skip
def catch(context: Context, arguments: str) -> str:
    """Stop at the end of the trap in which something happens.

    KIND, and what narrows it:
    fault [PF|VECTOR] [error=7|P+W] [address=A] [avl=BITS]   a fault or trap that the guest gets
    hypercall [NAME] [arg0=V...] [result=V]                  a hypercall, once it is done
    pte ADDRESS      any change of the entry that maps ADDRESS (m:ADDRESS: the entry itself)
    frame MFN        any change of a frame's type, owner or count
    share [MFN] | merge [MFN] | cow [MFN] | free [MFN]       sharing
    create | crash | exit                                    of a domain
    counter NAME [value=V]   it changes, or reaches V; of the machine unless 'domain N' is said
    CONDITION is a Python expression over the event's details (see 'events'), domain, position.
    """
    return _catch(context, arguments, temporary=False)


@command("tcatch", "KIND [WHAT] [NAME=VALUE...] [domain N] [if CONDITION]", group="running",
         completes="catch")  # fmt: skip
def tcatch(context: Context, arguments: str) -> str:
    """Like catch, but only once."""
    return _catch(context, arguments, temporary=True)


def _catch(context: Context, arguments: str, *, temporary: bool) -> str:
    text = arguments.strip()
    condition = None
    match = _IF.search(text)
    if match is not None:
        # Names are the event's details: no symbol takes their place.
        condition = _REGISTER.sub(r"\1", match[1]).strip()
        text = text[: match.start()]
    domain = None
    match = _DOMAIN.search(text)
    if match is not None:
        text = text[: match.start()]
        if match[1] not in ("any", "all"):
            domain = int(match[1].removeprefix("d")) if match[1].strip("d").isdigit() else None
            domain = domain_number(context, match[1]) if domain is None else domain
    words = text.split()
    if not words:
        raise DebugError(f"catch what? {', '.join(CATCH_KINDS)}")
    item = Catch(words[0], domain=domain, condition=condition, temporary=temporary)
    places = []
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals and not value:
            raise DebugError(f"{word}: a value is missing")
        if equals:
            _filter(context, item, name, value)
        else:
            places.append(word)
    if places:
        _object(context, item, " ".join(places))
    item.number = context.debugger.add_catch(item)
    told = f"catch {item.number}: {catch_text(item)}" + (f" if {condition}" if condition else "")
    return told + _doubt(context, item)


def _doubt(context: Context, item: Catch) -> str:
    """What makes it likely that a name was mistyped."""
    hv = context.debugger.hv
    if item.kind == "hypercall" and item.name and not item.name[-1].isdigit():
        known = {entry.name for table in TABLES.values() for entry in table.values()}
        if item.name not in known.union(Hypercall.__members__):
            return f" (no hypercall is called {item.name})"
    if item.kind == "counter" and item.counter and item.counter != "instructions":
        counts = [hv.counters, hv.sharing.counters, *(d.counters for d in hv.domains.values())]
        if not any(item.counter in count for count in counts):
            return f" (nothing was counted as {item.counter} so far)"
    return ""


def _filter(context: Context, item: Catch, name: str, value: str) -> None:
    if name == "vector":
        item.vector = _vector(context, value)
    elif name == "error":
        item.error = _error(context, value)
    elif name == "avl":
        bits = context.value(value)
        item.avl = bits << 9 if bits < 8 else bits
    elif re.fullmatch(r"arg\d", name):
        item.args[int(name[3:])] = context.value(value)
    elif name == "result":
        item.result = _signed(context.value(value))
    elif name in ("address", "mfn", "value"):
        setattr(item, name, context.value(value))
    elif name == "name":
        item.name = value
    else:
        raise DebugError(f"{name}: no such filter (see 'help catch')")


def _object(context: Context, item: Catch, text: str) -> None:
    """What stands behind the kind without a name."""
    if item.kind == "fault":
        item.vector = _vector(context, text)
    elif item.kind == "hypercall":
        item.name = text
    elif item.kind == "counter":
        item.counter = text
    elif item.kind == "pte":
        item.address = entry_address(context, text)
    elif item.kind in ("frame", "share", "merge", "cow", "free"):
        item.mfn = frame_number(context, text)
    else:
        raise DebugError(f"{text}: catch {item.kind} takes no such thing (see 'help catch')")


def entry_address(context: Context, text: str) -> int:
    """Machine address of an L1 entry: ``m:ADDRESS``, or that of the entry which maps an address.

    Raises:
        DebugError: nothing is mapped there down to that level.
    """
    if text.startswith("m:"):
        address = context.value(text[2:])
        if address % 8 or address >= len(context.debugger.hv.machine.memory.bytes):
            raise DebugError(f"{text}: no entry of a page table can be there")
        return address
    path = context.space.walk(context.address(text))
    if not path.steps or path.steps[-1].level != 1:
        raise DebugError(f"{text}: no L1 table covers this address")
    return path.steps[-1].address


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _vector(context: Context, text: str) -> int:
    name = text.removeprefix("#").upper()
    return _VECTORS[name] if name in _VECTORS else context.value(text)


def _error(context: Context, text: str) -> int:
    """An error code: a number, or a page fault's bits by name (``P+W``)."""
    names = text.upper().split("+")
    known = {item.name for item in PF_ERROR.fields}
    return PF_ERROR.mask(*names) if set(names) <= known else context.value(text)


# --- the set -------------------------------------------------------------------------------


def _chosen(context: Context, text: str) -> list[AnyStop]:
    """The stops with these numbers; all if there is none."""
    stops = context.debugger.stops
    found = []
    for word in text.replace(",", " ").split():
        low, dash, high = word.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise DebugError(f"{word}: a number (see 'info breakpoints')")
        wanted = range(int(low), int(high) + 1) if dash else [int(low)]
        for number in wanted:
            if number not in stops:
                raise DebugError(f"there is no breakpoint, watchpoint or catch {number}")
            found.append(stops[number])
    return found or list(stops.values())


def _one(context: Context, word: str) -> AnyStop:
    """The stop of that number."""
    if not word.isdigit():
        raise DebugError(f"{word or 'nothing'}: a number (see 'info breakpoints')")
    return _chosen(context, word)[0]


@command("delete", "[N...]", aliases=("d", "del"), group="running")
def delete(context: Context, arguments: str) -> str:
    """Delete breakpoints, watchpoints and catches by number, or all."""
    for item in _chosen(context, arguments.removeprefix("breakpoints").strip()):
        context.debugger.remove(item.number)
    return ""


@command("enable", "[N...]", aliases=("en",), group="running")
def enable(context: Context, arguments: str) -> str:
    """Make stops work again, by number, or all."""
    return _enable(context, arguments, on=True)


@command("disable", "[N...]", aliases=("dis",), group="running")
def disable(context: Context, arguments: str) -> str:
    """Keep stops, but pass them over, by number, or all."""
    return _enable(context, arguments, on=False)


def _enable(context: Context, arguments: str, *, on: bool) -> str:
    for item in _chosen(context, arguments):
        item.enabled = on
    context.debugger.refresh_stops()
    return ""


@command("condition", "N [CONDITION]", aliases=("cond",), group="running")
def condition(context: Context, arguments: str) -> str:
    """Let a stop count only if a Python expression holds; without one always."""
    word, _, text = arguments.partition(" ")
    if not word:
        raise DebugError("condition of which number?")
    item = _one(context, word)
    before = item.condition
    item.condition = text.strip() if isinstance(item, Catch) else condition_of(context, text)
    item.condition = item.condition or None
    try:
        context.debugger.refresh_stops()
    except DebugError:
        item.condition = before
        context.debugger.refresh_stops()
        raise
    return ""


@command("ignore", "N COUNT", group="running")
def ignore(context: Context, arguments: str) -> str:
    """Pass a stop over the next COUNT times."""
    word, _, count = arguments.partition(" ")
    if not word:
        raise DebugError("ignore which number?")
    item = _one(context, word)
    item.ignore = context.value(count)
    return f"{item.number} is passed over the next {item.ignore:,} times"


@command("info breakpoints", aliases=("info watchpoints", "info catches"), group="running")
def info_breakpoints(context: Context, _arguments: str) -> str:
    """List what stops the machine, and how often each did."""
    items = list(context.debugger.stops.values())
    if not items:
        return "nothing is set"
    rows: list[tuple[str, ...]] = [("", "kind", "on", "domain", "hits", "what")]
    rows += [stop_row(context, item) for item in items]
    return "\n".join(table_text(rows, right=(0, 4)))
