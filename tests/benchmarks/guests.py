"""The same work as the floors, done by real domains through the whole hypervisor."""

import time

import numpy as np

from emu.asm import assemble
from emu.elf import Note, write_elf
from emu.paging import PTE_P, PTE_RW, PTE_US
from emu.units import ENTRIES, MFN, PAGE_SHIFT
from guests.library import VIRT_BASE, build_elf, find
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import parse_image
from hypervisor.settings import Settings
from tests.hypervisor.handmade import Handmade

_LOOP = """
.text
_start:
    mov ebx, COUNT
again:
    mov eax, 17
    xor edi, edi
    syscall
    dec ebx
    jnz again
    mov eax, 29
    mov edi, 2
    lea rsi, [rip + reason]
    syscall
.data
reason: .long 0
"""


def null_hypercall(n: int) -> float:
    """Seconds for ``n`` xen_version(XENVER_version) calls by a guest kernel."""
    program = assemble(_LOOP, base=VIRT_BASE, defines={"COUNT": n})
    notes = [
        Note("Xen", 5, b"xen-3.0\0"),
        Note("Xen", 8, b"generic\0"),
        Note("Xen", 3, VIRT_BASE.to_bytes(8, "little")),
        Note("Xen", 1, program.entry.to_bytes(8, "little")),
    ]
    image = parse_image(write_elf(program, notes=notes, virt_base=VIRT_BASE), "loop")
    hv = Hypervisor(Settings(machine_memory=16 << 20, slice=1 << 40))
    build_domain(hv, image, memory=1 << 20, name="loop", console=Console())
    start = time.perf_counter()
    hv.run()
    seconds = time.perf_counter() - start
    assert hv.counters["crashes"] == 0
    return seconds


def storm(pages: int, *, domains: int = 2) -> tuple[float, int]:
    """Seconds that ``storm`` spends in copy-on-write cycles, and how many cycles there were.

    The time of a run that shares and writes, less that of a run that shares only.
    """

    def run(cmdline: str) -> tuple[float, int]:
        image = parse_image(build_elf(find("storm")), "storm")
        hv = Hypervisor(Settings(machine_memory=256 << 20))
        for _ in range(domains):
            build_domain(
                hv, image, memory=(pages * 3 + 512) << PAGE_SHIFT, name="storm",
                cmdline=cmdline, console=Console(),
            )  # fmt: skip
        start = time.perf_counter()
        hv.run()
        return time.perf_counter() - start, hv.sharing.counters["cow_faults"]

    return run(f"pages={pages}")


class Sharer:
    """A domain whose L1 tables hold ``pages`` private pages, to be shared in batches."""

    def __init__(self, pages: int, machine_memory: int) -> None:
        tables = (pages + ENTRIES - 1) // ENTRIES
        self.hv = Hypervisor(Settings(machine_memory=machine_memory))
        self.guest = Handmade(self.hv, 4, max_pages=pages + tables + 64)
        frames, memory = self.hv.frames, self.hv.machine.memory
        self.pages = np.array(self.guest.take(pages))
        self.tables = self.guest.take(tables)
        for i, table in enumerate(self.tables):
            part = self.pages[i * ENTRIES : (i + 1) * ENTRIES].astype(np.uint64)
            entries = part << np.uint64(PAGE_SHIFT) | np.uint64(PTE_P | PTE_RW | PTE_US)
            memory.array[table][: len(part)] = entries
            assert self.hv.paging.pin(table, 1, self.guest.domain) == 0
        assert frames.exists(int(self.pages[0]))

    def fill(self, contents: "np.ndarray[tuple[int, ...], np.dtype[np.uint64]]") -> None:
        """Give page i the first word ``contents[i]``, zeros behind it."""
        self.hv.machine.memory.array[self.pages, 0] = contents

    def share(self, first: int, count: int) -> float:
        """Seconds to share ``count`` pages from ``first`` on, in batches of one L1 table."""
        share, domain = self.hv.sharing.share, self.guest.domain
        start = time.perf_counter()
        for page in range(first, first + count):
            share(domain, MFN(self.tables[page // ENTRIES]), page % ENTRIES, 0x200)
        return time.perf_counter() - start
