"""The same work as the floors, done by real domains through the whole hypervisor.

Times are CPU seconds of this process (``time.process_time``).
"""

import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emu.paging import PTE_P, PTE_RW, PTE_US
from emu.units import ENTRIES, PAGE_SHIFT
from guests.library import assemble_guest, to_elf
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.hypercalls.share import share_all
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import KernelImage, parse_image
from hypervisor.settings import Settings
from tests.hypervisor.handmade import Handmade

_HERE: Final = Path(__file__).parent
_KERNEL_BYTES: Final = 1 << 20


def _image(name: str) -> KernelImage:
    return parse_image(to_elf(assemble_guest(_HERE / f"{name}.asm")), name)


def _run(image: KernelImage, cmdline: str, memory: int) -> tuple[float, Hypervisor]:
    hv = Hypervisor(Settings(machine_memory=memory + (32 << 20), slice=1 << 40))
    domain = build_domain(
        hv, image, memory=memory, name=image.name, cmdline=cmdline, console=Console()
    )
    start = time.process_time()
    hv.run()
    seconds = time.process_time() - start
    assert domain.exit is not None
    assert domain.exit.reason == "poweroff"
    return seconds, hv


def null_hypercall(n: int) -> float:
    """Seconds for ``n`` calls of xen_version(XENVER_version) by a guest kernel."""
    image = _image("null")
    calls, _ = _run(image, f"calls={n}", _KERNEL_BYTES)
    none, _ = _run(image, "calls=0", _KERNEL_BYTES)
    return calls - none


def copy_on_write(n: int) -> float:
    """Seconds for ``n`` cycles: write fault, handler, frame, copy, install, return."""
    image = _image("cow")
    memory = _KERNEL_BYTES + (n << PAGE_SHIFT)
    written, hv = _run(image, f"pages={n} write", memory)
    only_shared, _ = _run(image, f"pages={n}", memory)
    assert hv.sharing.cow_faults == n
    return written - only_shared


class Sharer:
    """A domain whose own L1 tables hold ``pages`` private pages, each with its own first word."""

    def __init__(self, pages: int, machine_memory: int) -> None:
        tables = (pages + ENTRIES - 1) // ENTRIES
        self.hv = Hypervisor(Settings(machine_memory=machine_memory))
        self.guest = Handmade(self.hv, 4, max_pages=pages + tables + 64)
        memory = self.hv.machine.memory
        self._pages = np.array(self.guest.take(pages))
        self._tables = self.guest.take(tables)
        for i, table in enumerate(self._tables):
            part = self._pages[i * ENTRIES : (i + 1) * ENTRIES].astype(np.uint64)
            entries = part << np.uint64(PAGE_SHIFT) | np.uint64(PTE_P | PTE_RW | PTE_US)
            memory.array[table][: len(part)] = entries
            assert self.hv.paging.pin(table, 1, self.guest.domain) == 0

    def fill(self, contents: NDArray[np.uint64]) -> None:
        """Page i gets the first word ``contents[i]``, zeros behind it."""
        self.hv.machine.memory.array[self._pages, 0] = contents

    def share(self, first: int, count: int) -> float:
        """Seconds to share ``count`` pages from page ``first`` on, as the batch call does it."""
        domain = self.guest.domain
        pointers = [
            (self._tables[page // ENTRIES] << PAGE_SHIFT) + page % ENTRIES * 8
            for page in range(first, first + count)
        ]
        start = time.process_time()
        for i in range(0, count, 256):
            share_all(self.hv, domain, pointers[i : i + 256], 0x200)
            self.hv.machine.coherence.flush()
            self.hv.machine.coherence.settle()
        return time.process_time() - start

    def table_size(self) -> int:
        """Frames in the content table."""
        return self.hv.frames.shared
