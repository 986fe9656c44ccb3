"""Views of the machine and its domains: domains, counters, events, audit, console.

Text of what there is now. Events are given as they were told; values are shown as logs show them.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from emu.paging import PF_ERROR, describe_entry
from hypervisor.abi import result_name
from hypervisor.audit import audit
from hypervisor.debug.model import Event
from hypervisor.debug.views_paging import table_text
from hypervisor.domain import Domain
from hypervisor.results import machine_counters

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_RESULTS: Final = frozenset({"result", "status", "errno"})
_DECIMAL: Final = frozenset(
    {"count", "pages", "vector", "code", "port", "level", "index", "number", "refs", "nr"}
)
_PF: Final = 14


def domains_view(hv: "Hypervisor", rips: Mapping[int, int], selected: int | None = None) -> str:
    """One line for each domain; ``rips``: where each is; ``selected`` gets a star."""
    if not hv.domains:
        return "no domain is left"
    head = ("", "id", "name", "bits", "state", "mode", "frames", "shared", "instructions", "next")
    rows: list[tuple[str, ...]] = [head]
    for domain in hv.domains.values():
        rip = rips.get(domain.id)
        name = "" if rip is None else domain.symbols.name(rip)
        place = "" if rip is None else f"{rip:#x}" + (f" <{name}>" if name else "")
        rows.append(
            (
                "*" if domain.id == selected else "",
                f"d{domain.id}",
                domain.name,
                str(domain.width),
                _state(hv, domain),
                "kernel" if domain.kernel_mode else "user",
                f"{domain.pages:,}",
                f"{domain.shared_mappings:,}",
                f"{domain.instructions:,}",
                place,
            )
        )
    return "\n".join(table_text(rows, right=(6, 7, 8)))


def _state(hv: "Hypervisor", domain: Domain) -> str:
    if domain.exit is not None:
        return f"ended ({domain.exit.reason})"
    return domain.state.value + (", current" if hv.current is domain else "")


def counters_view(hv: "Hypervisor", domain: Domain | None, pattern: str = "") -> str:
    """Counters of a domain, or of the machine (None), whose names contain ``pattern``."""
    counts = machine_counters(hv) if domain is None else dict(domain.counters)
    if domain is not None:
        counts["instructions"] = domain.instructions
    found = sorted((name, number) for name, number in counts.items() if pattern in name)
    if not found:
        return f"no counter with {pattern!r} in its name" if pattern else "nothing was counted yet"
    rows: list[tuple[str, ...]] = [(name, f"{number:,}") for name, number in found]
    return "\n".join(table_text(rows, right=(1,)))


def event_text(event: Event, symbols: Mapping[int, Domain]) -> str:
    """One event as a line: position, whom it concerns, what, details."""
    domain = None if event.domain is None else symbols.get(event.domain)
    who = "machine" if event.domain is None else f"d{event.domain}"
    words = [f"{event.position:>12,}  {who:<7}  {event.kind:<10}"]
    for key, value in event.details.items():
        words.append(f"{key}={_shown(event, key, value, domain)}")
    return " ".join(words).rstrip()


def _shown(event: Event, key: str, value: Any, domain: Domain | None) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_shown(event, "", item, None) for item in value) + "]"
    if not isinstance(value, int) or isinstance(value, bool):
        return str(value)
    if key in _RESULTS:
        return result_name(value)
    if event.kind == "pte" and key in ("old", "new"):
        return f"{value:#x}({describe_entry(value, 1)})"
    if key == "error" and event.details.get("vector") == _PF:
        return f"{value:#x}({PF_ERROR.describe(value)})"
    if key == "rip" and domain is not None and domain.symbols.name(value):
        return f"{value:#x}<{domain.symbols.name(value)}>"
    return str(value) if key in _DECIMAL or 0 <= value < 10 else f"{value:#x}"


def events_view(
    events: Iterable[Event], hv: "Hypervisor", kinds: frozenset[str], domain: int | None, last: int
) -> str:
    """The ``last`` events of these kinds (none: all) and of this domain (None: all)."""
    found = [
        event
        for event in events
        if (not kinds or event.kind in kinds) and (domain is None or event.domain == domain)
    ]
    if not found:
        return "no such event so far"
    return "\n".join(event_text(event, hv.domains) for event in found[-last:])


def audit_view(hv: "Hypervisor") -> str:
    """What the audit of all references, contents and counts finds."""
    violations = audit(hv)
    if not violations:
        return "no violation: all references, contents and counts agree"
    return "\n".join(str(violation) for violation in violations)


def console_view(domain: Domain, last: int) -> str:
    """The last lines that a domain wrote."""
    lines = domain.console.text().splitlines()
    return "\n".join(lines[-last:]) if lines else f"{domain.label} wrote nothing yet"
