"""Completion: what can stand at the end of a line that somebody is typing.

Made from the registry (names, what each command's arguments are) and from the selected domain
(symbols, registers). Never runs anything.
"""

from typing import Final

from emu.cpu import REGISTER_NAMES, SEGMENT_NAMES
from emu.registers import BASES, CONTROLS
from hypervisor.debug.commands import ALIASES, COMMANDS, Context, find, load
from hypervisor.debug.model import CATCH_KINDS, DebugError

_REGISTERS: Final = (*REGISTER_NAMES, "rip", "rflags", *SEGMENT_NAMES, *BASES, *CONTROLS)
_FILTERS: Final = (
    "writable", "readonly", "user", "supervisor", "executable", "nx", "shared", "avl", "all",
)  # fmt: skip
_EVENTS: Final = (
    "create", "exit", "destroy", "share", "again", "refuse", "map_again", "drop", "hypercall",
    "trap", "cow_fault", "upcall",
)  # fmt: skip
MAX_CANDIDATES: Final = 500


def candidates(context: Context, kind: str) -> list[str]:
    """What an argument of this kind can be."""
    if kind == "command":
        return [*COMMANDS, *ALIASES]
    if kind == "register":
        return list(_REGISTERS)
    if kind == "domain":
        return [str(number) for number in context.debugger.hv.domains]
    if kind == "checkpoint":
        return [*context.debugger.checkpoints, "start", "end"]
    if kind == "catch":
        return list(CATCH_KINDS)
    if kind == "event":
        return list(_EVENTS)
    if kind == "filter":
        return [*_FILTERS, *_symbols(context)]
    if kind in ("symbol", "expression"):
        return [*_symbols(context), *(f"${name}" for name in _REGISTERS)]
    return []


def _symbols(context: Context) -> list[str]:
    domain = context.debugger.hv.domains.get(context.domain_id or 0)
    return [] if domain is None else domain.symbols.names()


def complete(context: Context, line: str) -> list[str]:
    """The words that can replace the last one of ``line``; the last is empty behind a space."""
    load()
    head, _, word = line.rpartition(" ")
    stripped = head.strip()
    if not stripped:
        firsts = {name.split()[0] for name in (*COMMANDS, *ALIASES)}
        return sorted(name for name in firsts if name.startswith(word))
    seconds = sorted(
        name.partition(" ")[2]
        for name in (*COMMANDS, *ALIASES)
        if name.startswith(stripped + " ")
        or (stripped in ("i", "inf") and name.startswith("info "))
    )
    found = [name for name in seconds if name.startswith(word)]
    try:
        item, _ = find(stripped)
    except DebugError:
        return found
    if stripped in ("i", "inf", "info") or (seconds and item.name != stripped):
        return found
    # An operator or a bracket begins a new word: main+ru -> main+run.
    start = max((word.rfind(mark) for mark in "+-*(&|:"), default=-1) + 1
    before, part = word[:start], word[start:]
    names = [name for name in candidates(context, item.completes) if name.startswith(part)]
    return found + [before + name for name in sorted(set(names))[:MAX_CANDIDATES]]
