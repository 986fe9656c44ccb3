"""The hypervisor: what there is once per machine, wired together, and the life of domains.

Mechanisms live in their own modules; this one creates them, creates and destroys domains, switches
the CPU between them, and is what a hypercall gets as ``hv``. Data flows one way: a trap comes in
from the machine, ``dispatch`` or ``traps`` handles it on behalf of ``current``, and ``leave`` is
the one way back into guest code.
"""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

from emu import Machine
from emu.paging import PTE_A, PTE_NX, PTE_P, PTE_RW, PTE_US
from emu.units import ENTRIES, MA, MFN, PAGE_SHIFT
from hypervisor.abi import L2_FIRST_XEN_SLOT_PAE, L4_M2P_SLOT, DomId, Width
from hypervisor.blkback import Disks
from hypervisor.console import Console
from hypervisor.consolering import ConsoleRing
from hypervisor.crash import crash_report
from hypervisor.dispatch import Dispatcher
from hypervisor.domain import NO_FRAME, Domain, Exit, State, frames_of
from hypervisor.errors import DomainError, HypervisorError
from hypervisor.events import Events
from hypervisor.frames import ALLOCATED, XEN_HEAP, FrameTable, PageType
from hypervisor.grants import Grants
from hypervisor.guestmem import GuestMemory
from hypervisor.hwbreak import HardwareBreakpoints
from hypervisor.paging import Paging
from hypervisor.scheduler import Scheduler
from hypervisor.settings import Settings
from hypervisor.sharing import Sharing
from hypervisor.traps import Traps
from hypervisor.xenstore import XenStore

MAX_DOMAINS: Final = 0x7FF0 - 1
WORK_LIMIT: Final = 1 << 16
"""Units of work, of about a microsecond, after which a slice ends whatever else it could run."""
_RUNNABLE: Final = State.RUNNABLE
_TABLE: Final = PTE_P | PTE_RW | PTE_US | PTE_A
_READ_ONLY: Final = PTE_P | PTE_US | PTE_A | PTE_NX

_FPU_START: Final = {"fctrl": 0x37F, "ftag": 0xFFFF, "mxcsr": 0x1F80}
"""All exceptions masked and the x87 stack empty (Xen: FCW_DEFAULT, MXCSR_DEFAULT)."""

Listener = Callable[[str, Domain | None, dict[str, Any]], None]
"""Called with what happened, to whom, and its details, at the machine's current position."""


class Hypervisor:
    """One machine with its domains.

    ``current`` is the domain whose state is in the CPU. ``counters`` are the machine's; each
    domain has its own.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.machine = Machine(self.settings.machine_memory)
        self.frames = FrameTable(self.machine)
        if self.settings.opaque:
            self.frames.scatter = Random(self.settings.seed)
        self.paging = Paging(self.machine, self.frames)
        self.sharing = Sharing(self.machine, self.frames, self.paging, self.settings.sharing())
        self.guest = GuestMemory(self.machine)
        self.domains: dict[int, Domain] = {}
        """Domains that were created and not destroyed, by id, in order of creation."""
        self.counters: Counter[str] = Counter()
        self.listeners: list[Listener] = []
        self.on_end: Callable[[Domain], None] | None = None
        """Told of every domain that ends, before anything of it is given back; for a debugger."""
        self.paging.domains = self.domains
        self.paging.top.slots = {L4_M2P_SLOT: self._map_m2p()}
        self.paging.top.slots_pae = self._map_m2p_pae()
        self.events = Events(self)
        self.grants = Grants(self)
        self.traps = Traps(self)
        self.breakpoints = HardwareBreakpoints(self)
        self.scheduler = Scheduler(self)
        self.dispatch = Dispatcher(self)
        self.xenstore = XenStore(self)
        self.disks = Disks(self)
        self._console_rings: dict[int, ConsoleRing] = {}
        self._next_id = 1
        for register, value in _FPU_START.items():
            self.machine.cpu.write_fpu(register, value)
        self.idle_state = self.machine.cpu.save()
        """The CPU of a domain that never ran: what the builder starts from."""
        self.idle = Domain(DomId.IDLE, "idle", 0, Console(), saved=self.idle_state)
        """Stands for no domain, as Xen's idle domain does."""
        self.current = self.idle
        """The domain whose state is in the CPU."""
        self.work = 0
        """Units of work that one instruction started, in this slice."""
        self.machine.on_syscall = self.dispatch.on_syscall
        self.machine.on_trap = self.traps.on_trap
        self.machine.on_tsc = self.scheduler.tsc
        self.machine.on_tsc_aux = lambda: self.current.tsc_aux
        self.machine.on_cpuid = self.traps.cpuid

    def _map_m2p(self) -> int:
        """Read-only tables for the M2P; returns the L4 entry that maps them in every domain."""
        frames, words = self.frames, self.machine.memory.words
        l3, l2 = frames.hypervisor_frame(), frames.hypervisor_frame()
        words[l3 * ENTRIES] = l2 << PAGE_SHIFT | _TABLE
        for i, entry in enumerate(self._map_read_only(frames.m2p_frames)):
            words[l2 * ENTRIES + i] = entry
        return l3 << PAGE_SHIFT | _TABLE

    def _map_m2p_pae(self) -> dict[int, int]:
        """The same for 32-bit guests: L2 entries by slot, of as much as they have room for.

        Their kernels are the supervisor to the MMU; their users are not to read it.
        """
        room = (ENTRIES - L2_FIRST_XEN_SLOT_PAE) * ENTRIES
        entries = self._map_read_only(self.frames.m2p32_frames[:room])
        return {L2_FIRST_XEN_SLOT_PAE + i: entry & ~PTE_US for i, entry in enumerate(entries)}

    def _map_read_only(self, mfns: tuple[MFN, ...]) -> list[int]:
        """L1 tables that map frames in a row, read-only: their L2 entries."""
        frames, words = self.frames, self.machine.memory.words
        entries = []
        for first in range(0, len(mfns), ENTRIES):
            l1 = frames.hypervisor_frame()
            entries.append(l1 << PAGE_SHIFT | _TABLE)
            for i, mfn in enumerate(mfns[first : first + ENTRIES]):
                words[l1 * ENTRIES + i] = mfn << PAGE_SHIFT | _READ_ONLY
        return entries

    # -- what traps use --------------------------------------------------------------------

    def leave(self, domain: Domain) -> None:
        """The end of every trap: events are delivered, or the CPU is given up."""
        if domain.state is not _RUNNABLE:
            self.machine.stop()
        elif self.events.deliverable(domain):
            self.traps.deliver_upcall(domain)

    def spend(self, units: int) -> None:
        """Count work that a single instruction of the guest's asked for.

        A slice is measured in instructions, and a hypercall that takes a batch is one. Without
        this a domain that makes nothing but large ones would keep the others from the CPU.
        """
        self.work += units
        if self.work > WORK_LIMIT:
            self.machine.stop()

    def emit(self, kind: str, domain: Domain | None, **details: Any) -> None:
        """Tell the listeners that something happened."""
        for listener in self.listeners:
            listener(kind, domain, details)

    def listen(self, listener: Listener) -> None:
        """Have ``listener`` told of everything that happens from now on."""
        self.listeners.append(listener)
        self.sharing.notify = self.emit

    def unlisten(self, listener: Listener) -> None:
        """Tell ``listener`` of nothing any more."""
        self.listeners.remove(listener)
        if not self.listeners:
            self.sharing.notify = None

    def load_address_space(self, domain: Domain) -> None:
        """Point CR3 at the domain's kernel or user table, whichever mode it is in."""
        table = domain.table if domain.kernel_mode else domain.user_table
        self.machine.cpu.cr3 = table << PAGE_SHIFT
        self.machine.coherence.flush()

    # -- switching -------------------------------------------------------------------------

    def switch_to(self, domain: Domain) -> None:
        """Put a domain's state into the CPU."""
        if self.current is domain:
            return
        if self.current is not self.idle:
            self.current.saved = self.machine.cpu.save()
        self.machine.cpu.load(domain.saved or self.idle_state)
        self.current = domain
        self.load_address_space(domain)
        self.counters["switches"] += 1

    # -- life and death --------------------------------------------------------------------

    def create_domain(
        self, name: str, max_pages: int, console: Console, width: Width = 64
    ) -> Domain:
        """An empty, paused domain with a shared_info page and a descriptor window.

        One of 32 bits has an L4 table too, which it never sees.

        Raises:
            OutOfFrames: machine memory is used up.
            DomainError: there are no more domain ids.
        """
        if self._next_id > MAX_DOMAINS:
            raise DomainError(f"no domain ids left after {MAX_DOMAINS}")
        shared_info, l3, l2, l1, *l4 = self.frames.allocate_many(frames_of(width), DomId.XEN, 0)
        domain = Domain(self._next_id, name, max_pages, console, width=width)
        self._next_id += 1
        domain.group = domain.id % max(1, self.settings.groups)
        words = self.machine.memory.words
        words[l3 * ENTRIES] = l2 << PAGE_SHIFT | _TABLE
        words[l2 * ENTRIES] = l1 << PAGE_SHIFT | _TABLE
        domain.window, domain.window_l2, domain.window_l1 = l3, l2, l1
        for mfn in l4:
            self.paging.top.hide(mfn, domain)
        domain.shared_info = shared_info
        domain.vcpu_info = MA(shared_info << PAGE_SHIFT)
        self.frames.owner[shared_info] = domain.id
        self.frames.flags[shared_info] = XEN_HEAP
        # The hypervisor stores into it by machine address, so it must never be a page table or a
        # descriptor page: a reference of the hypervisor's own keeps it writable, as in Xen.
        self.frames.type[shared_info] = PageType.WRITABLE
        self.frames.type_count[shared_info] = self.frames.refs[shared_info] = 1
        self.domains[domain.id] = domain
        self.traps.init_window(domain)
        self.events.init_domain(domain)
        self.counters["domains_created"] += 1
        self.emit("create", domain, name=name)
        return domain

    def connect(
        self, domain: Domain, memory: int, store: tuple[MFN, int], console: tuple[MFN, int]
    ) -> None:
        """Join a domain of ``memory`` bytes to XenStore and to its console.

        ``store`` and ``console``: the frame of each ring, and the port left for domain 0.

        Raises:
            HypervisorError: one of the frames is in use as something else.
        """
        for mfn, _ in (store, console):
            self.frames.refs[mfn] += 1
            if self.paging.get_type(mfn, PageType.WRITABLE, domain):
                raise HypervisorError(f"{domain.label}: ring frame {mfn:#x} is in use")
        domain.service_frames = (store[0], console[0])
        self.xenstore.introduce(domain, *store)
        self.xenstore.describe(domain, memory, store, console)
        self._console_rings[domain.id] = ConsoleRing(self, domain, *console)

    def console_ring(self, domain: Domain) -> ConsoleRing | None:
        """The other end of a domain's console ring, if it has one."""
        return self._console_rings.get(domain.id)

    def end(self, domain: Domain, how: Exit) -> None:
        """A domain is over: it never runs again, and its frames are given back."""
        if domain.exit is not None:
            return
        ring = self._console_rings.get(domain.id)
        if ring is not None:
            ring.serve()  # what it wrote last, whether or not it said so
        domain.exit = how
        domain.state = State.DEAD
        if self.on_end is not None:
            self.on_end(domain)
        self.emit("exit", domain, reason=how.reason, code=how.code)
        if self.current is domain:
            # Its state is still in the CPU, in the middle of a trap: the scheduler reaps it.
            self.machine.stop()
        else:
            self._destroy(domain)

    def reap(self) -> None:
        """Destroy the current domain if it has ended; for the scheduler, outside of any trap."""
        domain = self.current
        if domain.exit is not None:
            self.machine.cpu.load(self.idle_state)
            self.machine.coherence.flush()
            self.current = self.idle
            self._destroy(domain)

    def crash(self, domain: Domain, why: str) -> None:
        """End a domain that cannot go on, with a report of where it was."""
        report = crash_report(self, domain, why)
        self.counters["crashes"] += 1
        self.end(domain, Exit("crash", 1, report))

    def _destroy(self, domain: Domain) -> None:
        """Give back every reference and every frame of a domain."""
        frames, paging = self.frames, self.paging
        self.sharing.dropping = "teardown"
        domain.saved = b""
        ring = self._console_rings.pop(domain.id, None)
        if ring is not None:
            ring.close()
        self.disks.release(domain)
        self.xenstore.release(domain)
        self.events.close_all(domain)
        self.grants.release_mappings(domain)
        self.traps.drop_descriptors(domain)
        tables = domain.base_tables
        hidden = [domain.table] if domain.width == 32 else []
        domain.table = domain.user_table = domain.l3 = NO_FRAME
        for table in (*hidden, *tables):
            if table in hidden:
                frames.release(table)
            else:
                paging.put_table(table, domain)
        if domain.vcpu_info_frame != NO_FRAME:
            paging.put_table(domain.vcpu_info_frame, domain)
            domain.vcpu_info_frame = NO_FRAME
        for mfn in domain.service_frames:
            paging.put_table(mfn, domain)
        domain.service_frames = ()
        owned = frames.owned_by(domain.id).tolist()
        # Pinned frames that it gave back but still holds by their pins are among these.
        for mfn in frames.pinned_by(domain.id).tolist():
            paging.unpin(mfn, domain)
        for mfn in owned:
            frames.flags[mfn] &= ~ALLOCATED
            if frames.refs[mfn] == 0:
                paging.free(MFN(mfn))
        self.grants.drop_table(domain)
        frames.flags[domain.shared_info] = 0
        domain.pages += 1  # it never counted, and now goes like those that do
        paging.put_table(domain.shared_info, domain)
        for mfn in (domain.window, domain.window_l2, domain.window_l1):
            frames.release(mfn)
        self.sharing.dropping = "update"
        # What is left now, a privileged domain maps: it goes when that lets go of it.
        left = int((frames.owner_column == domain.id).sum())
        if domain.shared or domain.pages != left:
            raise HypervisorError(
                f"{domain.label} left {domain.pages} pages and {len(domain.shared)} shared frames"
            )
        del self.domains[domain.id]
        self.counters["domains_destroyed"] += 1
        self.emit("destroy", domain)

    def run(self, limit: int | None = None) -> bool:
        """Run all domains until none can run; ``limit`` bounds guest instructions in all.

        Returns False if the limit was reached first.
        """
        return self.scheduler.run(limit)
