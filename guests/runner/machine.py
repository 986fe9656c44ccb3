"""A machine with domains for tests: built in one call, run, and then looked into.

``boot`` is what the pytest fixture of that name calls, and what the runner uses for every program::

    run = boot("hello", domains=2, memory=8 << 20, cmdline="seed=1")
    assert run.console(1).startswith("KTAP")
    assert run.domain(2).exit.reason == "poweroff"
    assert run.audit() == []

Domains are counted from 1, as their ids are. Everything is deterministic; ``run.hv`` is the whole
hypervisor for what has no shortcut here.

How it fails: what cannot be built is ``BuildError``, ``ImageError``, ``DomainError`` or
``OutOfFrames``; what a guest does wrong is in its ``exit`` and never raised.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emu.units import PAGE_SHIFT, PAGE_SIZE, VA
from emu.walk import Access, Walk, walk
from guests.runner.build import BuildError, build, read_file
from guests.runner.consoles import JudgedConsole
from guests.runner.manifest import DEFAULT_LIMIT, DEFAULT_MACHINE, DEFAULT_MEMORY
from guests.runner.verdict import ConsoleParser, Ending, Judgement, worst
from hypervisor.audit import audit
from hypervisor.builder import build_domain
from hypervisor.domain import NO_FRAME, Domain, State
from hypervisor.errors import DomainError
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import KernelImage, parse_image
from hypervisor.settings import Settings

_ROOM: Final = 4 << 20
_MACHINE_ROOM: Final = 16 << 20
"""Bytes of machine memory beyond its domains', for the hypervisor and for sharing."""
_PAGE_FAULT: Final = 14
_REPORTED: Final = frozenset({"crash", "watchdog"})
_ASKED: Final = "(SCHEDOP_shutdown)"
"""The end of a crash report's first line if the guest itself asked for it (``shutdown``)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One domain to be built; ``memory`` in bytes, None for what suits the image."""

    name: str
    image: KernelImage
    memory: int | None = None
    cmdline: str = ""
    module: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of memory that it gets."""
        if self.memory is not None:
            return self.memory
        span = self.image.virt_end - self.image.virt_base + len(self.module or b"")
        return max(DEFAULT_MEMORY, -(-span // PAGE_SIZE) * PAGE_SIZE + _ROOM)


class Run:
    """A machine and its domains."""

    def __init__(self, plans: Sequence[Plan], settings: Settings | None = None) -> None:
        if settings is None:
            wanted = sum(plan.size for plan in plans) + _MACHINE_ROOM
            settings = Settings(machine_memory=max(DEFAULT_MACHINE, wanted))
        self.hv = Hypervisor(settings)
        self.domains: list[Domain] = []
        """In order of creation; they stay here after their end."""
        self.finished = False
        """True once no domain can run any more."""
        self.last_faults: dict[int, str] = {}
        """Domain id -> walk of the last faulting address, after ``watch_faults``."""
        self._consoles: list[JudgedConsole] = []
        for plan in plans:
            self.add(plan)

    def add(self, plan: Plan) -> Domain:
        """Build one more domain. Raises DomainError or OutOfFrames."""
        console = JudgedConsole()
        domain = build_domain(
            self.hv,
            plan.image,
            memory=plan.size,
            name=plan.name,
            cmdline=plan.cmdline,
            module=plan.module,
            console=console,
        )
        self.domains.append(domain)
        self._consoles.append(console)
        return domain

    def run(self, limit: int = DEFAULT_LIMIT) -> bool:
        """Run all domains for at most ``limit`` instructions; False if the limit ended it."""
        self.finished = self.hv.run(limit)
        return self.finished

    # -- looking ---------------------------------------------------------------------------

    def _index(self, number: int) -> int:
        if not 1 <= number <= len(self.domains):
            raise DomainError(f"no domain {number}: there are {len(self.domains)}")
        return number - 1

    def domain(self, number: int = 1) -> Domain:
        """A domain, counted from 1. Raises DomainError if there is no such one."""
        return self.domains[self._index(number)]

    def console(self, number: int = 1) -> str:
        """What a domain printed."""
        return self._consoles[self._index(number)].shown()

    def parser(self, number: int = 1) -> ConsoleParser:
        """The checks that a domain printed."""
        return self._consoles[self._index(number)].parser

    def dropped(self, number: int = 1) -> int:
        """Bytes of a domain's console that were not kept."""
        return self._consoles[self._index(number)].dropped

    def report(self, number: int = 1) -> str:
        """A domain's crash report; empty if it did not crash."""
        exit_ = self.domain(number).exit
        return exit_.report if exit_ is not None else ""

    @property
    def counters(self) -> Counter[str]:
        """The machine's counters, those of sharing included."""
        return self.hv.counters + self.hv.sharing.counters

    def audit(self) -> list[str]:
        """What is wrong with the hypervisor's invariants; nothing if all is well."""
        return [str(violation) for violation in audit(self.hv)]

    def walk(self, va: int, number: int = 1, access: Access = Access(user=True)) -> Walk:  # noqa: B008
        """The walk of an address in a domain's kernel tables.

        Raises:
            DomainError: it has no tables (any more).
        """
        domain = self.domain(number)
        if domain.table == NO_FRAME:
            raise DomainError(f"{domain.label} has no page tables: it has ended")
        return walk(self.hv.machine.memory, domain.table << PAGE_SHIFT, VA(va), access=access)

    def read(self, va: int, size: int, number: int = 1) -> bytes:
        """Bytes of a domain's memory by linear address.

        Raises:
            DomainError: part of it is not mapped, or the domain has ended.
        """
        found = b""
        while len(found) < size:
            at = va + len(found)
            part = min(size - len(found), PAGE_SIZE - at % PAGE_SIZE)
            path = self.walk(at, number)
            if path.ma is None:
                raise DomainError(f"{self.domain(number).label}: {path.fault}")
            found += self.hv.machine.memory.read(path.ma, part)
        return found

    # -- the verdict -----------------------------------------------------------------------

    def ending(self, number: int = 1) -> tuple[Ending, str]:
        """How a domain ended, and a crash's first line."""
        domain = self.domain(number)
        exit_ = domain.exit
        if exit_ is None:
            running = domain.state is State.RUNNABLE or not self.finished
            return (Ending.LIMIT if running else Ending.STUCK), ""
        first = exit_.report.partition("\n")[0]
        if first and not first.endswith(_ASKED):
            return Ending.CRASHED, first
        if exit_.reason in _REPORTED:
            return Ending.REPORTED, ""
        return Ending.CLEAN, ""

    def judge(self, number: int = 1) -> Judgement:
        """The verdict of one domain."""
        console = self._consoles[self._index(number)]
        console.close()
        return console.parser.judge(*self.ending(number))

    @property
    def verdict(self) -> Judgement:
        """The worst verdict of all domains."""
        every = [self.judge(n) for n in range(1, len(self.domains) + 1)]
        verdict = worst(judgement.verdict for judgement in every)
        return next((j for j in every if j.verdict is verdict), Judgement(verdict))

    def watch_faults(self) -> None:
        """From now on, keep the walk of every domain's last page fault (slow)."""
        self.hv.listen(self._happened)

    def _happened(self, kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        if kind != "trap" or domain is None or details.get("vector") != _PAGE_FAULT:
            return
        table = domain.table if domain.kernel_mode else domain.user_table
        if table == NO_FRAME:
            return
        cpu = self.hv.machine.cpu
        error = int(details.get("error", 0))
        fetch = bool(error & 16)
        access = Access(write=bool(error & 2) and not fetch, user=True, fetch=fetch)
        path = walk(self.hv.machine.memory, table << PAGE_SHIFT, VA(cpu.cr2), access=access)
        at = f"#PF error {error:#x} at rip {details.get('rip', 0):#x}, position "
        self.last_faults[domain.id] = f"{at}{self.hv.machine.position}\n{path.explain()}"


# -- boot ---------------------------------------------------------------------------------------


def load_kernel(source: Path | str, width: int | None = None) -> tuple[str, KernelImage]:
    """Name and image of a bundled guest (by name), a source or an image file (by path), or of
    assembly given as text (with a newline in it); what is built here is built for ``width`` bits.

    Raises:
        BuildError, AssemblyError, ImageError: it cannot be made, read or booted.
    """
    from guests import library

    if isinstance(source, str) and "\n" in source:
        from emu.asm import assemble

        bits = width or 64
        program = assemble(
            source,
            name="<text>",
            base=library.virt_base(bits),
            bits=bits,
            include_dirs=(library.DIRECTORY,),
        )
        return "text", parse_image(library.to_elf(program), "<text>")
    path = Path(source)
    bundled = library.bundled(source, width) if isinstance(source, str) else None
    if bundled is not None:
        image = parse_image(build(bundled.path, bundled.width), bundled.name)
        return bundled.name, image
    if not path.exists():
        names = ", ".join(guest.name for guest in library.BUNDLED)
        raise BuildError(f"{source}: no such file, and no bundled guest of that name ({names})")
    return path.stem, parse_image(build(path, width or 64), str(source))


def boot(
    source: Path | str | Sequence[Path | str],
    *,
    domains: int | None = None,
    memory: int | None = None,
    machine_memory: int | None = None,
    cmdline: str | Sequence[str] = "",
    module: bytes | Path | None = None,
    width: int | Sequence[int] | None = None,
    limit: int = DEFAULT_LIMIT,
    start: bool = True,
    **settings: Any,
) -> Run:
    """Boot guests on a machine of their own and run them to their end.

    ``source``: what ``load_kernel`` takes; a sequence gives every domain its own. ``domains``:
    how many (one for each source by default; of several sources in turn). ``memory``: bytes of
    each domain. ``cmdline``: one for all or one for each. ``module``: its bytes, or a file.
    ``width``: 32 or 64 bits for sources and bundled guests, one for all or one for each source.
    ``limit``: instructions; ``start=False`` only builds. ``settings`` are those of
    ``hypervisor.settings.Settings`` (``seed``, ``groups``, ``opaque``, ``slice``, ``audit``...).

    Raises:
        BuildError, AssemblyError, ImageError, DomainError, OutOfFrames: it cannot be built.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    if not sources:
        raise DomainError("no guest to boot")
    widths = list(width) if isinstance(width, Sequence) else [width]
    kernels = [load_kernel(one, widths[i % len(widths)]) for i, one in enumerate(sources)]
    number = len(kernels) if domains is None else domains
    lines = [cmdline] if isinstance(cmdline, str) else list(cmdline) or [""]
    data = read_file(module) if isinstance(module, Path) else module
    plans = []
    for i in range(number):
        name, image = kernels[i % len(kernels)]
        plans.append(Plan(name, image, memory, lines[i % len(lines)], data))
    if machine_memory is None:
        wanted = sum(plan.size for plan in plans) + _MACHINE_ROOM
        machine_memory = max(DEFAULT_MACHINE, wanted)
    run = Run(plans, Settings(machine_memory=machine_memory, **settings))
    if start:
        run.run(limit)
    return run
