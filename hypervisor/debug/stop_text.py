"""How a stop is told to a person: why, where, which instruction comes next."""

from typing import TYPE_CHECKING, Final

from hypervisor.debug.commands_data import displays_text
from hypervisor.debug.model import Breakpoint, Catch, Stop, StopReason, Watchpoint
from hypervisor.debug.views_cpu import names_of, next_instruction
from hypervisor.debug.views_machine import event_text
from hypervisor.domain import State

if TYPE_CHECKING:
    from hypervisor.debug.commands import Context

_NUMBERED: Final = {
    StopReason.BREAKPOINT: "breakpoint",
    StopReason.HWBREAK: "hardware breakpoint",
    StopReason.WATCH: "watchpoint",
    StopReason.RWATCH: "read watchpoint",
    StopReason.AWATCH: "access watchpoint",
    StopReason.CATCH: "catch",
}


def reached(context: "Context", stop: Stop) -> str:
    """The text of a stop; selects the domain that it is about, and shows what is displayed."""
    hv = context.debugger.hv
    lines = []
    if stop.domain is not None and stop.domain in hv.domains:
        if context.domain_id not in (None, stop.domain):
            lines.append(f"[now in domain {stop.domain}, {hv.domains[stop.domain].name}]")
        if context.domain_id != stop.domain:
            context.listed = None
        context.domain_id = stop.domain
    elif context.domain_id not in hv.domains:
        context.domain_id = next(iter(hv.domains), None)
    lines += stop_lines(context, stop)
    shown = context.domain_id
    if shown in hv.domains:
        registers = context.registers
        context.listed = None
        lines.append(next_instruction(context.space, registers))
    if context.displays:
        lines.append(displays_text(context))
    return "\n".join(lines)


def stop_lines(context: "Context", stop: Stop) -> list[str]:
    """Why and where, without the instruction."""
    hv = context.debugger.hv
    domain = None if stop.domain is None else hv.domains.get(stop.domain)
    who = domain.label if domain is not None else "machine"
    if domain is None and stop.domain is not None:
        who = f"d{stop.domain}"
    why = _NUMBERED.get(stop.reason, stop.reason.value)
    if stop.number is not None and stop.reason in _NUMBERED:
        why += f" {stop.number}"
    head = f"{why}, {who}, position {stop.position:,}"
    if stop.reason is StopReason.STEP:
        head = f"{who}, position {stop.position:,}"
    elif stop.reason is StopReason.LIMIT:
        head = f"the limit of {context.limit:,} instructions, position {stop.position:,}"
    elif stop.reason is StopReason.EXITED:
        head = f"{who} ended{f' ({stop.text})' if stop.text else ''}, position {stop.position:,}"
    elif stop.reason is StopReason.CRASHED:
        head = f"{who} crashed, position {stop.position:,}"
    lines = [head]
    if stop.reason is StopReason.FINISHED:
        waiting = [d.label for d in hv.domains.values() if d.state is State.BLOCKED]
        if waiting:
            lines.append(
                f"  {', '.join(waiting)} waiting for events; 'console send' types something"
            )
    if stop.event is not None:
        lines.append("  " + event_text(stop.event, hv.domains).strip())
    if stop.address is not None:
        place = hex(stop.address) if domain is None else names_of(domain).place(stop.address)
        lines.append(_watched(stop, place))
    if stop.text and stop.reason in _NUMBERED:
        lines.append(f"  {stop.text}")  # a condition that has no value
    elif stop.text and stop.reason in (StopReason.CRASHED, StopReason.ERROR):
        lines += stop.text.rstrip().splitlines()
    return lines


def _watched(stop: Stop, place: str) -> str:
    text = f"  {place}"
    if stop.old is not None and stop.new is not None:
        old, new = (int.from_bytes(value, "little") for value in (stop.old, stop.new))
        text += f": {old:#x} -> {new:#x}" if stop.old != stop.new else f": {new:#x}"
    return text


def stop_row(context: "Context", item: Breakpoint | Watchpoint | Catch) -> tuple[str, ...]:
    """One row of ``info breakpoints``."""
    hv = context.debugger.hv
    domain = None if item.domain is None else hv.domains.get(item.domain)
    if isinstance(item, Catch):
        kind = "tcatch" if item.temporary else "catch"
        what = catch_text(item)
    else:
        place = f"{item.va:#x}" if domain is None else names_of(domain).place(item.va)
        if isinstance(item, Watchpoint):
            kind = {"write": "watch", "read": "rwatch", "access": "awatch"}[item.kind]
            what = f"{item.length} bytes at {place}"
        else:
            kind = "hbreak" if item.hardware else "break"
            kind = f"t{kind}" if item.temporary else kind
            line = "" if domain is None else names_of(domain).line(item.va)
            what = place + (f" at {line}" if line else "")
    if item.condition:
        what += f" if {item.condition}"
    if item.ignore:
        what += f" (ignored {item.ignore:,} times more)"
    whose = "any" if item.domain is None else f"d{item.domain}"
    enabled = "yes" if item.enabled else "no"
    return str(item.number), kind, enabled, whose, f"{item.hits:,}", what


def catch_text(item: Catch) -> str:
    """What a catch catches."""
    words = [item.kind]
    if item.name is not None:
        words.append(item.name)
    if item.counter is not None:
        words.append(item.counter)
    for name in ("vector", "error", "address", "avl", "mfn"):
        value = getattr(item, name)
        if value is not None:
            words.append(f"{name}={value:#x}" if value > 9 else f"{name}={value}")
    for name in ("result", "value"):
        value = getattr(item, name)
        if value is not None:
            words.append(f"{name}={value}")
    words += [f"arg{at}={value:#x}" for at, value in item.args.items()]
    return " ".join(words)
