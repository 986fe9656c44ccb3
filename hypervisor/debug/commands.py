"""The one registry of commands: the prompt, gdb's ``monitor`` and the terminal view all use it.

A command is a function of a ``Context`` and of what was typed behind its name; it returns text and
prints nothing. It declares name, aliases, arguments and help once, from which help and completion
are made. Names and abbreviations are gdb's where gdb has the command; any beginning of a name that
only one command has will do. The commands themselves are in the modules ``commands_*``.

``execute`` is the way in. Everything a person can do wrong ends as ``DebugError``, one line.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from emu.asm.expr import ExpressionError
from emu.cpu import REGISTER_NAMES
from emu.debug.examine import Format, FormatError
from emu.debug.expressions import Names, value_of
from emu.errors import CowbirdError
from emu.registers import Registers
from hypervisor.debug.eventlog import EventLog
from hypervisor.debug.model import DebugError, Event, Stop
from hypervisor.debug.space import Space
from hypervisor.debug.views_cpu import canonical_name
from hypervisor.debug.views_machine import event_text
from hypervisor.domain import Domain

if TYPE_CHECKING:
    from hypervisor.debug.debugger import Debugger
    from hypervisor.debug.moments import Moment

Function = Callable[["Context", str], str]

GROUPS: Final = {
    "running": "running, stepping, breakpoints",
    "time": "going back and forth in time",
    "data": "registers, memory, code",
    "paging": "page tables, frames, sharing",
    "machine": "domains and events",
    "prompt": "the prompt itself",
}
_NAME: Final = re.compile(r"[a-z][\w-]*", re.IGNORECASE)
_WORDS: Final = {"i": "info", "inf": "info"}
"""Short for the first of two words, where several commands begin so."""


class Quit(Exception):
    """``quit``: the front end ends. ``code``: its exit code, None if the guests decide."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__()
        self.code = code


@dataclass(frozen=True, slots=True)
class Command:
    """One command. ``name`` may be two words (``info registers``)."""

    name: str
    function: Function
    arguments: str
    summary: str
    details: str
    aliases: tuple[str, ...]
    group: str
    moves: bool
    """It can change registers, memory or the position: who keeps copies must forget them."""
    completes: str
    """What its arguments are, for completion: a key of ``Context.candidates``, or nothing."""

    def usage(self) -> str:
        """Name and arguments."""
        return f"{self.name} {self.arguments}".rstrip()


COMMANDS: Final[dict[str, Command]] = {}
"""All commands by name, in the order in which help shows them."""
ALIASES: Final[dict[str, Command]] = {}


def command(
    name: str,
    arguments: str = "",
    *,
    aliases: Iterable[str] = (),
    group: str,
    moves: bool = False,
    completes: str = "",
) -> Callable[[Function], Function]:
    """Register a function; its docstring is the help: a summary, an empty line, details.

    An argument that begins with ``/`` follows the name without a space.
    """

    def register(function: Function) -> Function:
        doc = "\n".join(line.strip() for line in (function.__doc__ or "").strip().splitlines())
        summary, _, details = doc.partition("\n")
        item = Command(
            name, function, arguments, summary, details.strip(), tuple(aliases), group, moves,
            completes,
        )  # fmt: skip
        for key in (name, *item.aliases):
            if key in COMMANDS or key in ALIASES or group not in GROUPS:
                raise ValueError(f"command {key} is there twice, or in no group")
        COMMANDS[name] = item
        ALIASES.update(dict.fromkeys(item.aliases, item))
        return function

    return register


def load() -> None:
    """Have all commands registered; once is enough."""
    from hypervisor.debug import (  # noqa: F401 - they register themselves
        commands_data,
        commands_machine,
        commands_paging,
        commands_running,
        commands_shell,
        commands_stops,
        commands_time,
    )


@dataclass(slots=True)
class Context:
    """What a front end keeps between commands: the debugger, the selected domain, and habits.

    ``tell`` is given text that comes while a command runs (traced events, guests' consoles).
    ``events``: what happened since the log was made; several front ends can share one.
    """

    debugger: "Debugger"
    events: EventLog
    domain_id: int | None = None
    tell: Callable[[str], None] = lambda text: None
    only: frozenset[int] | None = None
    """Domains that may run; None: all."""
    limit: int = 0
    """Instructions after which ``continue`` and its like give up, 0 for no limit."""
    format: Format = field(default_factory=Format)
    next_address: int | None = None
    """Where ``x`` and ``list`` without an argument go on."""
    next_space: str = ""
    listed: tuple[str, int] | None = None
    displays: dict[int, tuple[str, str]] = field(default_factory=dict)
    moments: "dict[int, Moment]" = field(default_factory=dict)
    traced: frozenset[str] | None = None
    """Kinds of events to tell of as they happen (none: all); None: not at all."""
    depth: int = 0
    """Files of commands that are being run."""

    @classmethod
    def of(cls, debugger: "Debugger", tell: Callable[[str], None] | None = None) -> "Context":
        """A context with a log of its own; make it before the machine runs."""
        context = cls(debugger, EventLog(debugger))
        if tell is not None:
            context.tell = tell
        context.events.on_event = context.traced_event
        return context

    def traced_event(self, event: Event) -> None:
        """Tell of an event if it is one of those that ``trace on`` named."""
        if self.traced is not None and (not self.traced or event.kind in self.traced):
            self.tell(event_text(event, self.debugger.hv.domains))

    def cont(self) -> Stop:
        """Let the domains run that may, until something stops the machine."""
        return self.debugger.cont(self.only, self.limit or None)

    # -- the selected domain ---------------------------------------------------------------

    @property
    def domain(self) -> Domain:
        """The selected domain.

        Raises:
            DebugError: there is none, or it is gone.
        """
        domains = self.debugger.hv.domains
        if self.domain_id is None and domains:
            self.domain_id = next(iter(domains))
        if self.domain_id is None or self.domain_id not in domains:
            gone = "" if self.domain_id is None else f"domain {self.domain_id} is gone"
            left = ", ".join(f"d{number}" for number in domains) or "none"
            raise DebugError(f"{gone or 'no domain'} (left: {left}; 'domain N' selects one)")
        return domains[self.domain_id]

    @property
    def space(self) -> Space:
        """The selected domain's address space."""
        return Space(self.debugger.hv, self.domain)

    @property
    def registers(self) -> Registers:
        """The selected domain's registers."""
        return self.debugger.registers(self.domain.id)

    @property
    def machine_space(self) -> Space:
        """For looking at machine memory, which needs no domain."""
        hv = self.debugger.hv
        return Space(hv, hv.domains.get(self.domain_id or 0, hv.idle))

    @property
    def word(self) -> int:
        """Bytes of a word of the selected domain."""
        return self.domain.width // 8

    def symbol(self, address: int) -> str:
        """``main+0x4`` in the selected domain, or nothing."""
        domain = self.debugger.hv.domains.get(self.domain_id or 0)
        return "" if domain is None else domain.symbols.name(address)

    @staticmethod
    def is_register(name: str) -> bool:
        """True if a condition takes this name as a register."""
        return canonical_name(name) in REGISTER_NAMES

    # -- arguments -------------------------------------------------------------------------

    def names(self) -> Names:
        """What names mean in expressions about the selected domain.

        An expression of numbers alone needs no domain.
        """

        def register(name: str) -> int | None:
            try:
                return self.registers.value(canonical_name(name))
            except KeyError:
                return None

        def symbol(name: str) -> int | None:
            return self.domain.symbols.address(name)

        def read(address: int, length: int) -> bytes:
            return self.space.read(address, length)

        width = 64
        if self.domain_id in self.debugger.hv.domains:
            width = self.domain.width
        return Names(register, symbol, read, width)

    def value(self, text: str) -> int:
        """The value of an expression.

        Raises:
            DebugError: it has none.
        """
        try:
            return value_of(text, self.names())
        except ExpressionError as error:
            raise DebugError(f"{text.strip() or 'nothing'}: {error}") from error

    def address(self, text: str, default: int | None = None) -> int:
        """An address: an expression, or ``*expression`` as gdb writes it, or ``file:line``.

        Raises:
            DebugError: it means nothing, or nothing was typed and there is no default.
        """
        text = text.strip()
        if not text:
            if default is None:
                raise DebugError("an address is missing")
            return default
        file, colon, line = text.rpartition(":")
        if colon and line.isdigit():
            found = self.domain.symbols.lines.address_of(file, int(line))
            if found is None:
                raise DebugError(f"{text}: no code comes from that line")
            return found
        if text.startswith("*"):
            text = text[1:]
        return self.value(text)

    def candidates(self, kind: str) -> list[str]:
        """What an argument of this kind can be, for completion."""
        from hypervisor.debug.completion import candidates

        return candidates(self, kind)


# --- finding and running -------------------------------------------------------------------


def find(line: str) -> tuple[Command, str]:
    """The command that a line begins with, and its arguments.

    Raises:
        DebugError: there is none, or several begin so.
    """
    load()
    line = line.strip()
    match = _NAME.match(line)
    if match is None or line[match.end() : match.end() + 1] not in ("", " ", "\t", "/"):
        raise DebugError(f"{line.split()[0] if line else 'nothing'}: no such command (see 'help')")
    known = {**ALIASES, **COMMANDS}
    word = _WORDS.get(match[0], match[0])
    first = _pick(word, {name.split()[0] for name in known}, known)
    rest = line[match.end() :].strip()
    seconds = {name.partition(" ")[2] for name in known if name.startswith(first + " ")}
    second = _NAME.match(rest) if seconds else None
    if second is not None:
        try:
            name = f"{first} {_pick(second[0], seconds, known, first)}"
        except DebugError:
            if first not in known:
                raise
        else:
            return known[name], rest[second.end() :].strip()
    if first not in known:
        raise DebugError(f"{first} what? {', '.join(sorted(seconds))}")
    return known[first], rest


def _pick(word: str, words: set[str], known: Mapping[str, Command], before: str = "") -> str:
    """The one of ``words`` that ``word`` abbreviates; ``before``: the word that they follow."""
    if word in words:
        return word
    found = sorted(name for name in words if name.startswith(word))
    # Two names of one command are no choice.
    full = {f"{before} {name}".strip() for name in found}
    if found and len({known[name].name if name in known else name for name in full}) == 1:
        return found[0]
    what = f"{before} {word}".strip()
    if not found:
        raise DebugError(f"{what}: no such command (see 'help')")
    raise DebugError(f"{what}: which one? {', '.join(found)}")


def execute(context: Context, line: str) -> str:
    """Run one line; the text to show, without a newline at its end.

    Raises:
        DebugError: whatever is wrong with it, in one line.
        Quit: it was ``quit``.
    """
    line = line.strip()
    if not line or line.startswith("#"):
        return ""
    item, arguments = find(line)
    try:
        return item.function(context, arguments)
    except (ExpressionError, FormatError) as error:
        raise DebugError(f"{item.name}: {error}") from error
    except DebugError:
        raise
    except CowbirdError as error:
        raise DebugError(f"{item.name}: {error}") from error
    except BrokenPipeError:
        raise  # nobody reads the guests' consoles any more
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise DebugError(f"{item.name}: {where}{error.strerror or error}") from error
