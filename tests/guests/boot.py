"""Boots bundled guests for tests: a machine, its domains, and what they printed."""

from dataclasses import dataclass

from guests.library import build_elf, bundled
from hypervisor.audit import audit
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.domain import Domain
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import parse_image
from hypervisor.settings import Settings

LIMIT = 2_000_000_000
"""Guest instructions after which a test gives up."""


@dataclass
class Guest:
    """A domain with its console."""

    domain: Domain
    console: Console

    @property
    def lines(self) -> list[str]:
        return self.console.lines

    @property
    def verdicts(self) -> list[str]:
        return [line for line in self.lines if line.startswith(("ok ", "not ok "))]

    @property
    def reason(self) -> str | None:
        return self.domain.exit.reason if self.domain.exit else None

    def number(self, before: str) -> int:
        """The number that follows ``before`` on the console."""
        text = "\n".join(self.lines)
        assert before in text, text
        rest = text.split(before, 1)[1]
        return int(rest[: len(rest) - len(rest.lstrip("0123456789"))])


class Lab:
    """A machine that bundled guests are booted on."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.hv = Hypervisor(settings or Settings())
        self.free = self.hv.frames.free
        self.guests: list[Guest] = []

    def boot(
        self, name: str, cmdline: str = "", module: bytes | None = None, memory: int = 0
    ) -> Guest:
        known = bundled(name)
        assert known is not None
        console = Console()
        domain = build_domain(
            self.hv,
            parse_image(build_elf(known.path, known.width), name),
            memory=memory or known.memory,
            name=f"{name}{len(self.guests)}",
            cmdline=cmdline,
            module=module,
            console=console,
        )
        guest = Guest(domain, console)
        self.guests.append(guest)
        return guest

    def run(self, audit_every: int = 0) -> None:
        """Run to the end, with an audit after every so many instructions, and one at the end."""
        if audit_every:
            while not self.hv.run(audit_every):
                assert audit(self.hv) == []
        else:
            assert self.hv.run(LIMIT)
        assert audit(self.hv) == []

    def check(self) -> None:
        """Every guest said what it planned to say, found no fault, and left nothing behind."""
        for guest in self.guests:
            text = "\n".join(guest.lines)
            assert guest.reason == "poweroff", text
            assert guest.lines[0] == "KTAP version 1"
            planned = int(guest.lines[1].removeprefix("1.."))
            assert len(guest.verdicts) == planned, text
            for number, verdict in enumerate(guest.verdicts, 1):
                assert verdict.startswith(f"ok {number} "), text
                assert "SKIP" not in verdict, text
        assert self.hv.frames.free == self.free
        assert self.hv.frames.shared == 0
        assert self.hv.sharing.mappings == 0
