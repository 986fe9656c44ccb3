"""A domain: a guest with one vCPU, its frames, its tables and what it asked the hypervisor for.

Plain state; what may be done with it is in the module of each idea (paging, sharing, traps,
events, scheduler). Everything that a guest put in here is checked where it is used.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from emu import Trap
from emu.units import MA, MFN, VA
from hypervisor.abi import Width
from hypervisor.symbols import Symbols

if TYPE_CHECKING:
    from hypervisor.console import Console
    from hypervisor.image import KernelImage

_NULL = VA(0)
_NOWHERE = MA(0)
NO_FRAME = MFN(0)
"""Frame 0 is the hypervisor's, so that it can stand for "none"."""


def frames_of(width: Width) -> int:
    """Frames that a domain takes beyond its memory: shared_info, its window, a hidden L4."""
    return 5 if width == 32 else 4


class State(Enum):
    """Where a domain is in its life."""

    RUNNABLE = "runnable"
    BLOCKED = "blocked"
    PAUSED = "paused"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a domain ended.

    ``reason``: ``poweroff``, ``reboot``, ``suspend``, ``crash``, ``watchdog``, ``soft_reset``
    (SHUTDOWN_*), ``destroyed`` or ``limit``. ``code``: what the guest reported, 0 for success.
    ``report``: the crash report, empty if there was no crash.
    """

    reason: str
    code: int = 0
    report: str = ""


@dataclass(frozen=True, slots=True)
class TrapEntry:
    """One entry of the guest's virtual IDT (Xen's ``trap_info``)."""

    cs: int
    address: VA
    dpl: int
    masks_events: bool


@dataclass(frozen=True, slots=True)
class Callback:
    """An entry point that the guest registered with ``callback_op``; ``cs`` is a 32-bit one's."""

    address: VA
    masks_events: bool = False
    cs: int = 0


Happening = tuple[int, str, int | None]
"""One hypercall in the ring of recent events: position, name, and what it answered (None if the
guest went on elsewhere). A bare tuple: one is made for every hypercall. A trap is in the ring as
itself."""


@dataclass
class Domain:
    """One domain. Frames are MFNs, addresses bytes, times nanoseconds of virtual time."""

    id: int
    name: str
    max_pages: int
    console: "Console"
    privileged: bool = False
    targets: frozenset[int] = frozenset()
    """Domains whose memory it manages: it may name their frames and tables in memory calls, as a
    privileged domain may everybody's (Xen's ``target``, which there is one domain)."""
    group: int = 0
    """Sharing group: frames are merged only within one."""
    width: Width = 64
    """Bits of the guest's ``unsigned long``: 64, or 32 for a PAE guest."""

    # memory
    pages: int = 0
    """Frames that it owns: all but shared_info, also those given back that it still maps."""
    shared: dict[MFN, int] = field(default_factory=dict)
    """Shared frames that its tables map: how many entries each."""
    shared_mappings: int = 0
    """Sum of ``shared``."""
    entered_alive: int = 0
    """Shared frames that it entered and that somebody maps: at most ``max_pages``."""
    peak_shared_mappings: int = 0
    entered: int = 0
    merged: int = 0
    cow_faults: int = 0
    """Its shares that were new, its shares that merged, its writes to shared frames."""
    hypercalls: int = 0
    page_faults: int = 0
    table: MFN = NO_FRAME
    """The L4 table of the kernel (NEW_BASEPTR). Of a 32-bit guest it is the hypervisor's own, and
    hidden from the guest: its slot 0 leads to the guest's L3 table, ``l3``."""
    user_table: MFN = NO_FRAME
    """The L4 table of user mode (NEW_USER_BASEPTR); a 32-bit guest has one for both modes."""
    l3: MFN = NO_FRAME
    """A 32-bit guest's L3 table (NEW_BASEPTR)."""
    shared_info: MFN = NO_FRAME
    vcpu_info: MA = _NOWHERE
    """Where its vCPU's part of ``shared_info`` is: there, or where it registered one."""
    vcpu_info_frame: MFN = NO_FRAME
    """The frame of one that it registered, which holds a writable reference on it."""
    service_frames: tuple[MFN, ...] = ()
    """Frames that parts of the hypervisor store into for the guest (its XenStore and console
    rings): each holds a writable reference, so that it never becomes a page table."""
    window: MFN = NO_FRAME
    """L3 table of its per-domain slot (GDT and LDT window), then its L2 and L1."""
    window_l2: MFN = NO_FRAME
    window_l1: MFN = NO_FRAME

    # CPU
    state: State = State.PAUSED
    exit: Exit | None = None
    saved: bytes = b""
    """CPU state while another domain runs."""
    kernel_mode: bool = True
    """Which mode it is in. A 32-bit guest changes its ring without asking: for it this is right
    whenever guest code does not run, from the trap that left it on."""
    trap_table: dict[int, TrapEntry] = field(default_factory=dict)
    event_callback: Callback | None = None
    failsafe_callback: Callback | None = None
    syscall_callback: Callback | None = None
    syscall32_callback: Callback | None = None
    """Registered and kept; the emulated CPU has no SYSCALL in compatibility mode."""
    sysenter_callback: Callback | None = None
    kernel_ss: int = 0
    kernel_sp: VA = _NULL
    gdt_frames: tuple[MFN, ...] = ()
    gdt_entries: int = 0
    ldt_base: VA = _NULL
    ldt_entries: int = 0
    ldt_frames: dict[int, MFN] = field(default_factory=dict)
    """Pages of its LDT that are in the window, by number: those that were used."""
    iopl: int = 0
    """Virtual I/O privilege level, 0..3."""
    cr0_ts: bool = False
    debug_registers: list[int] = field(default_factory=lambda: [0] * 8)
    vm_assist: int = 0
    tsc_aux: int = 0
    """MSR of RDTSCP."""
    machine_check_status: int = 0
    """IA32_MCG_STATUS: kept, and nothing more."""

    # events and time
    timer_deadline: int | None = None
    polling: tuple[int, ...] = ()
    """Ports whose arrival wakes the domain from SCHEDOP_poll."""
    instructions: int = 0
    """Guest instructions that it has started."""
    clock_reads: int = 0
    waits: int = 0
    """How often it read the TSC, and how often it yielded, blocked or polled: what a guest does
    that waits."""

    # evidence
    tally: Counter[str] = field(default_factory=Counter)
    """Rarer things that are counted, by name."""
    built: "tuple[KernelImage, int, str, bytes | None] | None" = None
    """What it was built from, for who wants to build it again: image, bytes of memory, command
    line, module."""
    symbols: Symbols = field(default_factory=Symbols)
    """Names of its kernel's addresses."""
    last_exception: Trap | None = None
    """The last exception or ``int`` that it took."""
    recent: deque[Happening | Trap] = field(default_factory=lambda: deque(maxlen=16))

    def __hash__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def counters(self) -> Counter[str]:
        """All its counts by name: those above and ``tally``."""
        hot = {
            "hypercalls": self.hypercalls,
            "page_faults": self.page_faults,
            "entered": self.entered,
            "merged": self.merged,
            "cow_faults": self.cow_faults,
            "share_calls": self.entered
            + self.merged
            + self.tally["share_refused"]
            + self.tally["again"],
        }
        return Counter({name: n for name, n in (hot | self.tally).items() if n})

    @property
    def base_tables(self) -> list[MFN]:
        """The guest's own tables that its base pointers hold references on."""
        held = (self.l3,) if self.width == 32 else (self.table, self.user_table)
        return [mfn for mfn in held if mfn != NO_FRAME]

    @property
    def label(self) -> str:
        """``d3 share`` and the like, for messages."""
        return f"d{self.id} {self.name}"
