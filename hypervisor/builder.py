"""The domain builder: from a kernel image to a domain that is ready for its first instruction.

What a guest finds at its start of day, all in one linear mapping of its memory that begins at the
image's VIRT_BASE (PFN 0):

    image | boot module | P2M list | start_info | XenStore page | console page |
    page tables (top first) | boot stack | at least 512 KiB of slack, up to the next 4 MiB boundary

A guest that gives INIT_P2M has its P2M list mapped there instead, and one that gives MOD_START_PFN
its module unmapped; the frames of both lie behind the stack. Page-table pages are mapped
read-only, everything else writable. RSI is the address of start_info, RSP the top of the stack,
events are masked. ``shared_info`` is passed as a machine address. A 32-bit guest finds the same in
its own width, with three levels of tables: an L2 table for the last GiB is always among them.

Invariants: a frame's MFN never equals its PFN, so that a guest that mixes them up is found out;
all references are taken by validating the tables like any guest's, so that the audit agrees;
nothing is allocated before everything is known to fit, so that a refusal leaves nothing behind.

How it fails: ``DomainError`` with one line that says what does not fit.

Source: xen.h (start_info and its comment on the memory layout), arch-x86/xen-x86_64.h; the
toolstack's rounding as real kernels know it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from emu.cpu import CS, DATA, DS, ES, FS, GS, R15, RAX, RIP, RSI, RSP, SS, Cpu
from emu.paging import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_US, RFLAGS_IF
from emu.units import ENTRIES, MFN, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, VA
from hypervisor.abi import (
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    HYPERVISOR_VIRT_START_PAE,
    L3_XEN_SLOT_PAE,
    MAX_GUEST_CMDLINE,
    XEN_LEGACY_MAX_VCPUS,
    Flat32,
    Flat64,
    Hypercall,
    Sif,
    StartInfo,
    VcpuInfo,
    VmAssist,
    Width,
    layout,
    size_of,
    to_bytes,
)
from hypervisor.console import Console
from hypervisor.descriptors import RING1_CS, RING1_DS, unpack_segment
from hypervisor.domain import Domain, State, frames_of
from hypervisor.errors import DomainError, HypervisorError
from hypervisor.hypercalls.version import FEATURES
from hypervisor.image import KernelImage
from hypervisor.sharedinfo import UPCALL_MASK
from hypervisor.symbols import Symbols
from hypervisor.toplevel import top_level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hypervisor.hypervisor import Hypervisor

    Column = NDArray[np.uint64]

MAGIC: Final[dict[Width, bytes]] = {64: b"xen-3.0-x86_64", 32: b"xen-3.0-x86_32p"}
MIN_MEMORY: Final = 64 << 10
"""Bytes: less cannot hold even the tables of an empty kernel."""
_SLACK: Final = 512 << 10
_ROUND: Final = 4 << 20
_PAGE: Final = PTE_P | PTE_RW | PTE_A
_TABLE: Final = PTE_P | PTE_RW | PTE_A | PTE_D | PTE_US
_CANONICAL: Final = (1 << 48) - 1
_STORE_REMOTE: Final = 0
"""Domain that may bind the XenStore and console ports: Xen's domain 0."""
_PFN: Final[dict[Width, str]] = {64: "<u8", 32: "<u4"}
"""An entry of the P2M list."""
_SHIFTS: Final[dict[Width, tuple[int, ...]]] = {64: (36, 27, 18, 9), 32: (27, 18, 9)}
"""By level, top first: what a linear page number is shifted by to give the region of a table."""

_HYPERCALL_ENTRY: Final = 32
_CALL: Final = b"\x51\x41\x53\xb8%b\x0f\x05\x41\x5b\x59\xc3"
"""push rcx; push r11; mov eax, number; syscall; pop r11; pop rcx; ret"""
_IRET: Final = b"\x51\x41\x53\x50\xb8%b\x0f\x05"
"""push rcx; push r11; push rax; mov eax, number; syscall: jumped to, it does not return."""


_CALL32: Final = b"\xb8%b\xcd\x82\xc3"
"""mov eax, number; int 0x82; ret"""
_IRET32: Final = b"\x50\xb8%b\xcd\x82"
"""push eax; mov eax, number; int 0x82: jumped to, it does not return."""


def _hypercall_page(call: bytes, iret: bytes) -> bytes:
    page = b""
    for number in range(PAGE_SIZE // _HYPERCALL_ENTRY):
        code = iret if number == Hypercall.iret else call
        page += (code % number.to_bytes(4, "little")).ljust(_HYPERCALL_ENTRY, b"\xcc")
    return page


HYPERCALL_PAGE: Final[dict[Width, bytes]] = {
    64: _hypercall_page(_CALL, _IRET),
    32: _hypercall_page(_CALL32, _IRET32),
}
"""The stubs by which guests make hypercalls, 32 bytes each, entry n for hypercall n."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies. PFNs; ``pages`` is the domain's memory in pages."""

    pages: int
    module: int
    module_pages: int
    p2m: int
    p2m_pages: int
    start_info: int
    store: int
    console: int
    tables: int
    table_pages: int
    stack: int
    mapped: int
    """Pages mapped from VIRT_BASE on."""
    regions: tuple[tuple[int, ...], ...]
    """By level, top first: the regions that the tables map, as linear page numbers shifted."""


def _pages(size: int) -> int:
    return -(-size // PAGE_SIZE)


def _mib(pages: int) -> str:
    return f"{pages * PAGE_SIZE / (1 << 20):.1f} MiB"


def plan(image: KernelImage, memory: int, module_size: int = 0) -> Layout:
    """Lay a domain of ``memory`` bytes out; ``module_size`` in bytes, 0 for none.

    Raises:
        DomainError: it does not fit, or overlaps.
    """
    pages = memory >> PAGE_SHIFT
    base = image.virt_base
    if base & PAGE_MASK:
        raise DomainError(f"{image.name}: VIRT_BASE {base:#x} is not page-aligned")
    image_pages = _pages(image.virt_end - base)
    if image_pages > pages:
        raise DomainError(
            f"{image.name}: the kernel needs {_mib(image_pages)}, the domain has {_mib(pages)}"
        )
    module_pages = _pages(module_size)
    p2m_pages = _pages(pages * image.width // 8)
    at = image_pages
    module = p2m = 0
    if not image.mod_start_pfn:
        module, at = at, at + module_pages
    if image.init_p2m is None:
        p2m, at = at, at + p2m_pages
    start_info, tables = at, at + 3
    outside = (p2m_pages if image.init_p2m is not None else 0) + (
        module_pages if image.mod_start_pfn else 0
    )

    room = _end_of_space(image) - base >> PAGE_SHIFT
    table_pages = 1
    while True:
        end = tables + table_pages + 1
        rounded = -(-(base + end * PAGE_SIZE + _SLACK) // _ROUND) * _ROUND - base
        mapped = min(rounded >> PAGE_SHIFT, pages, room)
        regions = _regions(image, mapped, p2m_pages)
        needed = sum(len(level) for level in regions)
        if needed <= table_pages:
            break
        table_pages = needed
    if end + outside > pages:
        what = "the kernel and its module need" if module_size else "the kernel needs"
        raise DomainError(
            f"{image.name}: {what} {_mib(end + outside)}, the domain has {_mib(pages)}"
        )
    if end > room:
        raise DomainError(f"{image.name}: no room above VIRT_BASE {base:#x} for {_mib(end)}")
    at = end
    if image.init_p2m is not None:
        p2m, at = at, at + p2m_pages
    if image.mod_start_pfn:
        module = at
    return Layout(
        pages=pages,
        module=module,
        module_pages=module_pages,
        p2m=p2m,
        p2m_pages=p2m_pages,
        start_info=start_info,
        store=start_info + 1,
        console=start_info + 2,
        tables=tables,
        table_pages=table_pages,
        stack=tables + table_pages,
        mapped=mapped,
        regions=regions,
    )


def _end_of_space(image: KernelImage) -> int:
    """The first address behind VIRT_BASE that cannot be mapped in one piece with it."""
    if image.width == 32:
        return HYPERVISOR_VIRT_START_PAE
    if image.virt_base < 1 << 47:
        return 1 << 47
    return HYPERVISOR_VIRT_START if image.virt_base < HYPERVISOR_VIRT_START else 1 << 64


def _regions(image: KernelImage, mapped: int, p2m_pages: int) -> tuple[tuple[int, ...], ...]:
    """The tables that are needed: by level, top first, what each maps."""
    ranges = [((image.virt_base & _CANONICAL) >> PAGE_SHIFT, mapped)]
    if image.init_p2m is not None:
        ranges.append((_p2m_range(image, image.init_p2m, mapped, p2m_pages), p2m_pages))
    levels = []
    top = _SHIFTS[image.width][0]
    for shift in _SHIFTS[image.width]:
        found: set[int] = set()
        for first, count in ranges:
            found.update(range(first >> shift, ((first + count - 1) >> shift) + 1))
        if shift == 18 and image.width == 32:
            found.add(L3_XEN_SLOT_PAE)
        levels.append(tuple(sorted(found)) if shift < top else (0,))
    return tuple(levels)


def _p2m_range(image: KernelImage, start: VA, mapped: int, p2m_pages: int) -> int:
    """Linear page number at which a guest that asks for it finds its P2M list."""
    end = start + p2m_pages * PAGE_SIZE
    split = start < 1 << 47 < end or end > 1 << 64
    if image.width == 32:
        split = end > HYPERVISOR_VIRT_START_PAE
    if split or (start < HYPERVISOR_VIRT_END and end > HYPERVISOR_VIRT_START):
        raise DomainError(f"{image.name}: INIT_P2M {start:#x} leaves no room for the P2M list")
    if start < image.virt_base + mapped * PAGE_SIZE and end > image.virt_base:
        raise DomainError(f"{image.name}: INIT_P2M {start:#x} overlaps the initial mapping")
    return (start & _CANONICAL) >> PAGE_SHIFT


def build_domain(
    hv: "Hypervisor",
    image: KernelImage,
    *,
    memory: int,
    name: str,
    cmdline: str = "",
    module: bytes | None = None,
    console: Console,
    privileged: bool = False,
) -> Domain:
    """Create a domain of ``memory`` bytes that will run ``image``; it is runnable at once.

    ``cmdline`` and ``module`` are passed to the guest as they are.

    Raises:
        DomainError: the image cannot run here, or something does not fit.
    """
    missing = sorted(f.name for f in image.required_features if f not in FEATURES)
    if missing:
        raise DomainError(f"{image.name}: requires {', '.join(missing)}, which is not offered")
    line = cmdline.encode()
    if len(line) >= MAX_GUEST_CMDLINE or 0 in line:
        raise DomainError(
            f"{name}: a command line of {len(line)} bytes; at most {MAX_GUEST_CMDLINE - 1}, no NUL"
        )
    if memory % PAGE_SIZE or memory < MIN_MEMORY:
        raise DomainError(f"{name}: memory of {memory} bytes is no multiple of 4 KiB from 64 KiB")
    where = plan(image, memory, len(module or b""))
    needed = where.pages + frames_of(image.width)
    if needed > hv.frames.free:
        raise DomainError(f"{name}: needs {needed:,} frames of 4 KiB, {hv.frames.free:,} are free")

    domain = hv.create_domain(name, where.pages, console, image.width)
    domain.symbols = Symbols(image.symbols, image.elf, image.constants)
    domain.privileged = privileged
    domain.built = (image, memory, cmdline, module)
    if image.extended_cr3:
        domain.vm_assist |= 1 << VmAssist.pae_extended_cr3
    mfns = _allocate(hv, domain, where.pages)
    _load(hv, image, mfns)
    if module:
        _place(hv, mfns, where.module * PAGE_SIZE, module)
    _place(hv, mfns, where.p2m * PAGE_SIZE, mfns.astype(_PFN[image.width]).tobytes())
    info = _start_info(hv, domain, image, where, mfns, line, module)
    _place(hv, mfns, where.start_info * PAGE_SIZE, to_bytes(info))
    _build_tables(hv, image, where, mfns)
    top = MFN(int(mfns[where.tables]))
    # The builder's pin and the base pointer: two genuine references, taken as a guest's would be.
    level = top_level(domain)
    if hv.paging.pin(top, level, domain) or hv.paging.get_table(top, level, domain):
        raise HypervisorError(f"{domain.label}: the builder's own tables do not validate")
    hv.paging.top.set_base(domain, top)
    store = MFN(info.store_mfn), info.store_evtchn
    hv.connect(domain, memory, store, (MFN(info.console.domU.mfn), info.console.domU.evtchn))
    shared_info = hv.machine.memory.frame(domain.shared_info)
    for vcpu in range(XEN_LEGACY_MAX_VCPUS):
        shared_info[vcpu * size_of(VcpuInfo) + UPCALL_MASK] = 1
    _boot_state(hv, domain, image, where)
    domain.state = State.RUNNABLE
    return domain


def _allocate(hv: "Hypervisor", domain: Domain, pages: int) -> "Column":
    """The domain's memory: MFN by PFN, never equal; P2M and M2P agree."""
    frames = hv.frames
    mfns = np.array(frames.allocate_many(pages, domain.id), dtype=np.uint64)
    domain.pages = pages
    pfns = np.arange(pages, dtype=np.uint64)
    for pfn in np.flatnonzero(mfns == pfns).tolist():
        other = (pfn + 1) % pages
        mfns[[pfn, other]] = mfns[[other, pfn]]
    frames.set_m2p_many(mfns, pfns)
    return mfns


def _place(hv: "Hypervisor", mfns: "Column", at: int, data: bytes) -> None:
    """Copy ``data`` to the pseudo-physical address ``at`` (bytes)."""
    if not data:
        return
    # Indexing with a column copies: the pages are changed as one block and put back.
    index = mfns[at >> PAGE_SHIFT : _pages(at + len(data))]
    block = hv.machine.memory.array[index]
    start = at & PAGE_MASK
    block.view(np.uint8).reshape(-1)[start : start + len(data)] = np.frombuffer(data, np.uint8)
    hv.machine.memory.array[index] = block
    for mfn in index.tolist():
        hv.machine.coherence.wrote(mfn)


def _load(hv: "Hypervisor", image: KernelImage, mfns: "Column") -> None:
    for segment in image.segments:
        _place(hv, mfns, segment.va - image.virt_base, segment.data)
    if image.hypercall_page is not None:
        page = HYPERCALL_PAGE[image.width]
        _place(hv, mfns, image.hypercall_page - image.virt_base, page)


def _start_info(
    hv: "Hypervisor",
    domain: Domain,
    image: KernelImage,
    where: Layout,
    mfns: "Column",
    line: bytes,
    module: bytes | None,
) -> StartInfo:
    def va(pfn: int) -> int:
        return image.virt_base + pfn * PAGE_SIZE

    info = layout(StartInfo, image.width)()
    magic = MAGIC[image.width]
    info.magic[: len(magic)] = list(magic)
    info.nr_pages = where.pages
    info.shared_info = domain.shared_info << PAGE_SHIFT
    info.flags = Sif.PRIVILEGED if domain.privileged else 0
    # As from a toolstack: ports left for domain 0, whose place ``hv.connect`` takes.
    info.store_mfn = int(mfns[where.store])
    info.store_evtchn = hv.events.alloc_unbound(domain, _STORE_REMOTE)
    info.console.domU.mfn = int(mfns[where.console])
    info.console.domU.evtchn = hv.events.alloc_unbound(domain, _STORE_REMOTE)
    info.pt_base = va(where.tables)
    info.nr_pt_frames = where.table_pages
    info.mfn_list = va(where.p2m)
    if image.init_p2m is not None:
        info.mfn_list = image.init_p2m
        info.first_p2m_pfn = where.p2m
        info.nr_p2m_frames = where.p2m_pages
    if module:
        info.mod_len = len(module)
        if image.mod_start_pfn:
            info.mod_start = where.module
            info.flags |= Sif.MOD_START_PFN
        else:
            info.mod_start = va(where.module)
    info.cmd_line[: len(line)] = list(line)
    return info


def _build_tables(hv: "Hypervisor", image: KernelImage, where: Layout, mfns: "Column") -> None:
    """Write the initial tables; nothing is counted yet, validation does that."""
    shift = np.uint64(PAGE_SHIFT)
    entries = (mfns << shift) | np.uint64(_PAGE)
    entries[where.tables : where.tables + where.table_pages] &= np.uint64(~PTE_RW & (1 << 64) - 1)
    first = (image.virt_base & _CANONICAL) >> PAGE_SHIFT
    pages = np.arange(first, first + where.mapped)
    values = entries[: where.mapped]
    if image.init_p2m is not None:
        first = (image.init_p2m & _CANONICAL) >> PAGE_SHIFT
        pages = np.concatenate((pages, np.arange(first, first + where.p2m_pages)))
        values = np.concatenate((values, entries[where.p2m : where.p2m + where.p2m_pages]))
    end = where.tables + sum(len(level) for level in where.regions)
    for level in reversed(where.regions):
        regions = np.array(level)
        table_mfns = mfns[end - len(level) : end]
        end -= len(level)
        block = np.zeros((len(level), ENTRIES), dtype=np.uint64)
        block[np.searchsorted(regions, pages >> 9), pages & 511] = values
        if level is where.regions[0] and image.width == 32:
            block[block != 0] = block[block != 0] & ~np.uint64(PTE_RW | PTE_US | PTE_A | PTE_D)
        hv.machine.memory.array[table_mfns] = block
        for mfn in table_mfns.tolist():
            hv.machine.coherence.wrote(mfn)
        pages = regions
        values = (table_mfns << shift) | np.uint64(_TABLE)


def load_flat32(cpu: Cpu) -> None:
    """The flat segments of a 32-bit guest's kernel in all registers: ring 1."""
    code = unpack_segment(Flat32.KERNEL_CS, RING1_CS)
    data = unpack_segment(Flat32.KERNEL_DS, RING1_DS)
    cpu.load_segment(CS, code.selector, code.attributes)
    for segment in (SS, DS, ES, FS, GS):
        cpu.load_segment(segment, data.selector, data.attributes)
    cpu.sync_mode()


def _boot_state(hv: "Hypervisor", domain: Domain, image: KernelImage, where: Layout) -> None:
    """The CPU at the guest's first instruction."""
    cpu = hv.machine.cpu
    domain.kernel_ss = Flat64.KERNEL_SS if image.width == 64 else Flat32.KERNEL_SS
    domain.kernel_sp = VA(image.virt_base + (where.stack + 1) * PAGE_SIZE)
    live = cpu.save()
    cpu.load(hv.idle_state)
    if image.width == 64:
        hv.machine.flat64(3, Flat64.KERNEL_CS, Flat64.KERNEL_SS)
        for segment in (DS, ES):
            cpu.load_segment(segment, Flat64.KERNEL_DS, DATA)
    else:
        load_flat32(cpu)
    for register in range(RAX, R15 + 1):
        cpu.words[register] = 0
    cpu.words[RIP] = image.entry
    cpu.words[RSI] = image.virt_base + where.start_info * PAGE_SIZE
    cpu.words[RSP] = domain.kernel_sp
    cpu.flags = RFLAGS_IF
    cpu.cr3 = domain.table << PAGE_SHIFT
    domain.saved = cpu.save()
    cpu.load(live)
