"""What ``boot`` and ``debug`` take alike: which guests, with how much memory, modules and disks.

``guest_options`` adds the arguments to a command; it is then called with one ``GuestOptions``
instead. That knows the settings of the machine, the files that are read, and how to put the
domains into a session.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from emu.memory import MAX_BYTES
from hypervisor.blkback import MAX_DISKS
from hypervisor.builder import MIN_MEMORY
from hypervisor.cli.machine_options import machine_options
from hypervisor.cli.options import Size, read_module
from hypervisor.cli.session import Session
from hypervisor.cli.sources import Source, find_source
from hypervisor.disk import DiskError, DiskImage, Mode
from hypervisor.hypervisor import MAX_DOMAINS
from hypervisor.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.argument("guest", nargs=-1, required=True, metavar="GUEST..."),
    click.option(
        "--width",
        type=click.Choice(["64", "32"]),
        help="Bits of guests that are built here: sources and bundled ones ('share' with 32 is "
        "'share32').  [default: 64]",
    ),
    click.option(
        "--domains",
        type=click.IntRange(1, MAX_DOMAINS),
        default=1,
        show_default=True,
        help="How many domains of each GUEST.",
    ),
    click.option(
        "--memory",
        type=Size(MIN_MEMORY, MAX_BYTES),
        metavar="SIZE",
        help="Memory of each domain, its module included: a number of MiB, or with K, M, G.  "
        "[default: the guest's own, and as much more as its module needs]",
    ),
    click.option(
        "--module",
        multiple=True,
        metavar="FILE",
        help="Boot module. Of several, the first domain gets the first, and so on in turn.",
    ),
    click.option(
        "--disk",
        multiple=True,
        metavar="FILE[:ro|:rw]",
        help="A raw disk image: xvda, then xvdb and so on, in every domain. What a guest writes is "
        "kept in memory and lost, unless :rw (one domain only) has it go into FILE; :ro refuses "
        "it.",
    ),
    click.option("--cmdline", default="", metavar="TEXT", help="Command line of every guest."),
    click.option(
        "--groups",
        type=click.IntRange(1, MAX_DOMAINS),
        default=1,
        show_default=True,
        help="Sharing groups; domain n is in group n modulo this.",
    ),
    click.option("--zero-only", is_flag=True, help="Only pages full of zeros may be shared."),
    click.option("--opaque", is_flag=True, help="Sharing does not tell guests what others have."),
)


@dataclass(frozen=True, slots=True)
class GuestOptions:
    """The options as they were given, defaults filled in; one field for each."""

    guest: tuple[str, ...]
    width: str | None
    domains: int
    memory: int | None
    module: tuple[str, ...]
    disk: tuple[str, ...]
    cmdline: str
    groups: int
    zero_only: bool
    opaque: bool
    machine_memory: int
    seed: int
    slice_: int
    limit: int
    audit: bool
    trace: str | None
    trace_frames: bool
    json_: str | None
    log: tuple[str, ...]

    @property
    def several(self) -> bool:
        """True if there will be more than one domain."""
        return len(self.guest) * self.domains > 1

    @property
    def output_taken(self) -> bool:
        """True if stdout is for machines to read."""
        return "-" in (self.trace, self.json_)

    def settings(self) -> Settings:
        """The machine's settings."""
        return Settings(
            machine_memory=self.machine_memory,
            seed=self.seed,
            groups=self.groups,
            zero_only=self.zero_only,
            opaque=self.opaque,
            slice=self.slice_,
            audit=self.audit,
        )

    def load(self) -> "GuestFiles":
        """Read everything that is to be booted, before anything runs.

        Raises:
            ImageError, AssemblyError, CompileError: a guest cannot be had.
            click.BadParameter: a module cannot be read.
            DiskError: a disk cannot be used so.
        """
        width = None if self.width is None else int(self.width)
        sources = tuple(find_source(given, width) for given in self.guest)
        modules = tuple(read_module(path) for path in self.module)
        return GuestFiles(self, sources, modules, tuple(_disks(self.disk, self.several)))


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """What the options name, read."""

    options: GuestOptions
    sources: tuple[Source, ...]
    modules: tuple[bytes, ...]
    disks: tuple[tuple[str, Mode], ...]

    def inputs(self) -> list[tuple[str, str | Path]]:
        """(what it is, path) of the files, so that no output overwrites one."""
        found: list[tuple[str, str | Path]] = [("GUEST", source.path) for source in self.sources]
        found += [("--module", path) for path in self.options.module]
        return found + [("--disk", path) for path, _ in self.disks]

    def add_to(self, session: Session, *, interactive: bool) -> None:
        """Build all domains, in order; ``interactive`` joins a single one to the terminal.

        Raises:
            DiskError, DomainError, OutOfFrames: see ``Session.add``.
        """
        options = self.options
        number = 0
        for source in self.sources:
            for _ in range(options.domains):
                turn = number % len(self.modules) if self.modules else None
                session.add(
                    source,
                    options.memory,
                    module=None if turn is None else self.modules[turn],
                    module_name=None if turn is None else options.module[turn],
                    cmdline=options.cmdline,
                    disks=self.disks,
                    interactive=interactive and not options.several,
                )
                number += 1


def guest_options(function: F) -> F:
    """Add the options to a command, whose first argument becomes one ``GuestOptions``."""
    names = [item.name for item in fields(GuestOptions)]

    @wraps(function)
    def called(**given: Any) -> Any:
        options = GuestOptions(**{name: given.pop(name) for name in names})
        return function(options, **given)

    command: Any = machine_options(called)
    for option in reversed(_OPTIONS):
        command = option(command)
    decorated: F = command
    return decorated


def _disks(given: tuple[str, ...], several: bool) -> list[tuple[str, Mode]]:
    """What ``--disk`` names, each looked at once so that a bad one is refused before anything runs.

    Raises:
        DiskError: one cannot be used so.
    """
    disks = [DiskImage.parse(text) for text in given]
    if len(disks) > MAX_DISKS:
        raise DiskError(f"{len(disks)} disks; a domain can have {MAX_DISKS}")
    for path, mode in disks:
        if mode is Mode.WRITABLE and several:
            raise DiskError(f"disk {path}: only one domain can have it with :rw")
        DiskImage(path, mode).close()
    return disks
