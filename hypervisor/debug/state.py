"""Registers and memory of any domain, running or not, without a side effect on the guest.

Reading sets no accessed or dirty bit, raises no fault and is told to nobody. Rights are ignored, as
a debugger's are: what is mapped can be read. Writing goes to the frame behind the address, unless
that frame is not the domain's alone: then it is refused, so that nothing leaks into another domain
and no shared frame stops hashing to its key.

How it fails: ``DebugError`` in one line; the guest never notices.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from emu.paging import PTE_MFN_MASK, PTE_P, PTE_PSE
from emu.registers import SETTABLE, Registers, read_registers, write_register
from emu.units import ENTRIES, MA, MFN, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PFN, is_canonical
from hypervisor.abi import DomId
from hypervisor.debug.model import DebugError
from hypervisor.domain import NO_FRAME, Domain
from hypervisor.frames import INVALID_M2P, XEN_HEAP, PageType
from hypervisor.hypervisor import Hypervisor

_M64 = (1 << 64) - 1
MAX_READ = 64 << 20
"""Bytes of one read: a front end's mistake must not eat the host's memory."""


class DomainState:
    """Access to the state of domains that are not in the middle of a trap."""

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv
        self._memory = hv.machine.memory

    def domain(self, number: int) -> Domain:
        """A domain that lives.

        Raises:
            DebugError: there is none of that id, or none any more.
        """
        domain = self._hv.domains.get(number)
        if domain is None:
            raise DebugError(f"there is no domain {number}")
        return domain

    # -- registers -------------------------------------------------------------------------

    @contextmanager
    def _in_cpu(self, domain: Domain, *, keep: bool) -> Iterator[None]:
        """Have a domain's state in the CPU for a moment; ``keep`` what is changed."""
        hv = self._hv
        if hv.current is domain:
            yield
            return
        cpu = hv.machine.cpu
        live = cpu.save()
        cpu.load(domain.saved or hv.idle_state)
        try:
            yield
            if keep:
                domain.saved = cpu.save()
        finally:
            cpu.load(live)

    def table(self, domain: Domain) -> MFN:
        """The top-level table of the mode that a domain is in; ``NO_FRAME`` if it has none."""
        return domain.table if domain.kernel_mode else domain.user_table

    def registers(self, number: int) -> Registers:
        """All registers of a domain.

        Raises:
            DebugError: there is no such domain.
        """
        domain = self.domain(number)
        if self._hv.current is not domain:
            with self._in_cpu(domain, keep=False):
                # CR3 is set when it is switched in.
                self._hv.machine.cpu.cr3 = self.table(domain) << PAGE_SHIFT
                return read_registers(self._hv.machine.cpu)
        return read_registers(self._hv.machine.cpu)

    def check_settable(self, number: int, name: str) -> None:
        """Refuse what ``set_register`` would.

        Raises:
            DebugError: no such domain, no such register, or one that a debugger may not set.
        """
        self.domain(number)
        digits = name.removeprefix("xmm").removeprefix("st")
        if name in SETTABLE:
            return
        if digits == name or not digits.isdigit() or int(digits) >= (16 if name[0] == "x" else 8):
            raise DebugError(f"register {name} cannot be set")

    def set_register(self, number: int, name: str, value: int) -> None:
        """Write a register (``emu.registers.SETTABLE``).

        Raises:
            DebugError: no such domain, no such register, or one that a debugger may not set.
        """
        domain = self.domain(number)
        with self._in_cpu(domain, keep=True):
            try:
                write_register(self._hv.machine.cpu, name, value)
            except KeyError:
                raise DebugError(f"register {name} cannot be set") from None

    # -- addresses -------------------------------------------------------------------------

    def translate(self, domain: Domain, va: int) -> MA | None:
        """Machine address behind a linear one in the domain's address space of now, or None."""
        table = self.table(domain)
        if table == NO_FRAME or not is_canonical(va):
            return None
        memory = self._memory
        at = table << PAGE_SHIFT
        for shift in (39, 30, 21, 12):
            entry = memory.read_u64(MA(at + (va >> shift & ENTRIES - 1) * 8))
            if not entry & PTE_P:
                return None
            at = entry & PTE_MFN_MASK
            if shift in (30, 21) and entry & PTE_PSE:
                mask = (1 << shift) - 1
                at = at & ~mask | va & mask & ~PAGE_MASK
                break
        address = MA(at | va & PAGE_MASK)
        return address if memory.holds(address) else None

    def _pages(self, domain: Domain, va: int, length: int) -> Iterator[tuple[MA | None, int]]:
        while length > 0:
            va &= _M64
            part = min(length, PAGE_SIZE - (va & PAGE_MASK))
            yield self.translate(domain, va), part
            va += part
            length -= part

    # -- memory ----------------------------------------------------------------------------

    def read(self, number: int, va: int, length: int) -> bytes:
        """Bytes from a linear address; fewer where the mapping ends.

        Raises:
            DebugError: there is no such domain, or too much is asked for.
        """
        domain = self.domain(number)
        if not 0 <= length <= MAX_READ:
            raise DebugError(f"{length} bytes are too much for one read (at most {MAX_READ})")
        parts = []
        for at, part in self._pages(domain, va, length):
            if at is None:
                break
            parts.append(bytes(self._memory.bytes[at : at + part]))
        return b"".join(parts)

    def read_physical(self, ma: int, length: int) -> bytes:
        """Bytes from a machine address; fewer at the end of machine memory."""
        if ma < 0 or length < 0 or ma >= self._memory.size:
            return b""
        length = min(length, MAX_READ, self._memory.size - ma)
        return bytes(self._memory.bytes[ma : ma + length])

    def machine_frame(self, domain: Domain, pfn: int) -> MFN | None:
        """The frame that the M2P calls PFN ``pfn`` of a domain; None if there is none.

        The M2P is the guest's own claim; of several frames the first one counts.
        """
        for mfn in self._hv.frames.owned_by(domain.id).tolist():
            if self._hv.frames.m2p(MFN(mfn)) == pfn != INVALID_M2P:
                return MFN(mfn)
        return None

    def read_pseudo(self, number: int, pa: int, length: int) -> bytes:
        """Bytes from a pseudo-physical address of a domain; fewer where a frame is missing.

        Raises:
            DebugError: there is no such domain.
        """
        domain = self.domain(number)
        parts = []
        length = min(length, MAX_READ)
        while length > 0:
            part = min(length, PAGE_SIZE - (pa & PAGE_MASK))
            mfn = self.machine_frame(domain, PFN(pa >> PAGE_SHIFT))
            if mfn is None:
                break
            at = (mfn << PAGE_SHIFT) + (pa & PAGE_MASK)
            parts.append(bytes(self._memory.bytes[at : at + part]))
            pa += part
            length -= part
        return b"".join(parts)

    def places_to_write(self, number: int, va: int, data: bytes) -> list[tuple[MA, bytes]]:
        """Where a debugger's write goes, in pieces of at most a page.

        Raises:
            DebugError: no such domain, not mapped, or not the domain's alone to change.
        """
        domain = self.domain(number)
        places = []
        done = 0
        for at, part in self._pages(domain, va, len(data)):
            where = (va + done) & _M64
            if at is None:
                raise DebugError(f"nothing is mapped at {where:#x} in domain {number}")
            self._check_frame(domain, MFN(at >> PAGE_SHIFT), where)
            places.append((at, data[done : done + part]))
            done += part
        return places

    def _check_frame(self, domain: Domain, mfn: MFN, va: int) -> None:
        frames = self._hv.frames
        owner = frames.owner[mfn]
        if owner == DomId.COW:
            raise DebugError(
                f"{va:#x} is in shared frame {mfn:#x}, which {frames.refs[mfn]} entries map: "
                "a debugger does not write to it"
            )
        if owner != domain.id:
            raise DebugError(f"{va:#x} is in frame {mfn:#x}, which is not domain {domain.id}'s")
        kind = frames.type[mfn] if frames.type_count[mfn] else PageType.NONE
        if kind not in (PageType.NONE, PageType.WRITABLE) and not frames.flags[mfn] & XEN_HEAP:
            raise DebugError(
                f"{va:#x} is in frame {mfn:#x}, a checked {PageType(kind).name} page: "
                "only the hypervisor changes it"
            )

    def store(self, ma: int, data: bytes) -> None:
        """Write bytes into machine memory, as ``places_to_write`` found them."""
        self._memory.bytes[ma : ma + len(data)] = data
        for mfn in range(ma >> PAGE_SHIFT, (ma + len(data) - 1 >> PAGE_SHIFT) + 1):
            self._hv.machine.coherence.wrote(MFN(mfn))
