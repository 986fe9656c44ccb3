"""A guest that says anything: random hypercalls with plausible and impossible arguments.

Every number that a guest may pass as an address, a frame, a count or a structure's field is drawn
from what could do harm: its own frames of every kind, its neighbours', the hypervisor's, free and
shared ones, values at the edges, and pointers into what the call itself changes. The caller checks
the audit after each step.
"""

import contextlib
import random
import struct
from collections.abc import Callable

from emu.paging import PTE_P, PTE_RW, PTE_US
from emu.units import ENTRIES, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import (
    CallbackOp,
    DomId,
    EvtchnOp,
    Hypercall,
    MmuExt,
    SchedOp,
    VcpuOp,
    Width,
    XenMem,
    XenVer,
)
from hypervisor.domain import State
from hypervisor.errors import GuestFault, Preempted
from hypervisor.frames import PageType
from hypervisor.hypercalls import TABLES
from hypervisor.hypervisor import Hypervisor
from tests.hypervisor.handmade import BASE, EXTENDED, RESERVATION, Handmade, arguments_of

PAGES = 12
EDGES = (
    0, 1, 2, 7, 8, 0xFFF, 0x1000, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 47,
    (1 << 47) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 8, (1 << 64) - 4096,
    0xFFFF_8000_0000_0000, 0xFFFF_8200_0000_0000, 0xFFFF_8800_0000_0000, 0xFFFF_7FFF_FFFF_F000,
    0x0001_0000_4000_0000,
)  # fmt: skip
COUNTS = (0, 1, 1, 2, 3, 5, 17, 1 << 16, (1 << 16) + 1, 1 << 20, 1 << 31, (1 << 32) - 1)
CALLS = {
    width: sorted(number for number in table if number != Hypercall.iret)
    for width, table in TABLES.items()
}
MFN_KINDS = 9
TABLE_SLOTS = {64: (0, 1, 2, 256, 260, 300, 511), 32: (0, 1, 2, 3, 3, 4, 300, 427, 428, 511)}
"""Slots of a table that it fills: those that matter at each width."""
GOES_ON = 3
"""How often a preempted call is made again; a guest may also never do so."""


class Hostile:
    """Draws and makes the hypercalls of one domain; ``log`` says what the last one was."""

    def __init__(
        self, hv: Hypervisor, rng: random.Random, max_pages: int = 64, width: Width = 64
    ) -> None:
        self.hv = hv
        self.rng = rng
        self.width = width
        self.word = "Q" if width == 64 else "I"
        self.calls = CALLS[width]
        self.mask = (1 << width) - 1
        self.guest = Handmade(hv, PAGES, max_pages, width)
        self.domain = self.guest.domain
        self.log: tuple[object, ...] = ()
        self._steps: list[tuple[int, Callable[[], None]]] = [
            (6, self._any),
            (14, self._update_va),
            (12, self._mmu_update),
            (14, self._mmuext),
            (12, self._share),
            (8, self._share_batch),
            (8, self._memory),
            (2, self._exchange),
            (4, self._multicall),
            (2, self._set_gdt),
            (3, self._descriptor),
            (8, self._fill),
            (3, self._event),
            (2, self._sched),
            (2, self._small),
            (10, self._make_table),
            (8, self._repair),
        ]

    def step(self) -> None:
        """One random action of the guest."""
        weights = [weight for weight, _ in self._steps]
        (chosen,) = self.rng.choices(self._steps, weights)
        if self.domain.state is State.BLOCKED:
            self.hv.scheduler.wake(self.domain)
        self.hv.switch_to(self.domain)
        chosen[1]()

    # -- what it may say -------------------------------------------------------------------

    def mfn(self) -> int:
        """A frame number of any kind."""
        rng, frames = self.rng, self.hv.frames
        space = self.guest.space
        kind = rng.randrange(MFN_KINDS)
        if kind <= 2:
            mine = frames.owned_by(self.domain.id)
            return int(rng.choice(mine)) if len(mine) else 0
        if kind == 3:
            return rng.choice((*space.tables, self.domain.table, self.domain.l3))
        if kind == 4:
            return rng.choice(
                (self.domain.shared_info, self.domain.window, self.domain.window_l1, 0, 1)
            )
        if kind == 5:
            return rng.choice(list(self.hv.sharing.keyed()) or [0])
        if kind == 6:
            return rng.randrange(frames.total)
        if kind == 7:
            return rng.choice((frames.total - 1, frames.total, (1 << 28) - 1, 1 << 40))
        return self.guest.mfn(rng.randrange(PAGES))

    def entry(self) -> int:
        """A page-table entry, most of them with legal bits."""
        rng = self.rng
        if rng.random() < 0.1:
            return 0
        flags = rng.choice((PTE_P, PTE_P | PTE_US)) | rng.choice((0, PTE_RW, PTE_RW))
        flags |= rng.choice((0, 0, 0x200, 0x60, 0x100, 1 << 52, 1 << 63, 0xE00))
        if rng.random() < 0.05:
            flags |= 1 << rng.randrange(64)
        return (self.mfn() << PAGE_SHIFT | flags) & ((1 << 64) - 1)

    def va(self) -> int:
        """A linear address, mapped or not."""
        rng = self.rng
        kind = rng.randrange(10)
        if kind == 0:
            return rng.choice(EDGES)
        if kind == 1:
            return BASE + rng.randrange(ENTRIES) * PAGE_SIZE
        if kind == 2:
            return self.guest.scratch + rng.choice((0, 8, PAGE_SIZE - 4, PAGE_SIZE - 8))
        inside = rng.choice((0, 0, 0, 8, 64, PAGE_SIZE - 4, PAGE_SIZE - 16, 4))
        return BASE + rng.randrange(PAGES + 2) * PAGE_SIZE + inside

    def number(self) -> int:
        """Any argument."""
        kind = self.rng.randrange(5)
        if kind == 0:
            return self.rng.choice(EDGES)
        if kind == 1:
            return self.rng.choice(COUNTS)
        if kind == 2:
            return self.va()
        if kind == 3:
            return self.mfn()
        return self.rng.randrange(64)

    def domid(self) -> int:
        others = [*self.hv.domains, 0, 0x7FFF]
        return self.rng.choice([DomId.SELF] * 6 + [self.domain.id, *others, DomId.COW, DomId.XEN])

    def pointer(self) -> int:
        """The machine address of some entry, now and then with low bits."""
        low = self.rng.choice((0, 0, 0, 0, 1, 2, 3, 4, 7))
        index = self.rng.choice((0, 1, 256, 260, 510, 511, self.rng.randrange(16)))
        return (self.mfn() << PAGE_SHIFT | index << 3 | low) & ((1 << 64) - 1)

    def put(self, data: bytes) -> int:
        """Store ``data`` somewhere of the guest's own and say where; anywhere if it cannot be."""
        at = self.va()
        try:
            self.guest.write(at, data)
        except GuestFault:
            at = self.guest.scratch
            try:
                self.guest.write(at, data)
            except GuestFault:
                at = self.va()
        return at

    def pack(self, count: int, *values: int) -> bytes:
        """``count`` words of the guest's width."""
        return struct.pack(f"<{count}{self.word}", *(value & self.mask for value in values))

    def call(self, number: int, *arguments: int) -> int | None:
        self.log = (number, *(hex(a & ((1 << 64) - 1)) for a in arguments))
        if self.domain.exit is not None:
            return None
        padded = arguments_of(self.width, number, arguments)
        for _ in range(GOES_ON):
            try:
                return self.hv.dispatch.invoke(self.domain, number, padded)
            except Preempted as more:
                padded = [*more.arguments, *padded[len(more.arguments) :]]
        return None

    # -- what it does ----------------------------------------------------------------------

    def _any(self) -> None:
        self.call(self.rng.choice(self.calls), *(self.number() for _ in range(6)))

    def _update_va(self) -> None:
        flags = self.rng.choice((0, 0, 1, 2, 3, self.number()))
        if self.rng.random() < 0.1:
            call = Hypercall.update_va_mapping_otherdomain
            self.call(call, self.va(), self.entry(), flags, self.domid())
        else:
            self.call(Hypercall.update_va_mapping, self.va(), self.entry(), flags)

    def _table_entry(self) -> tuple[int, int]:
        """An update that makes sense: an entry of one level for a table of the next."""
        rng, frames = self.rng, self.hv.frames
        mine = [int(m) for m in frames.owned_by(self.domain.id)]
        tables = [m for m in mine if frames.type_count[m] and frames.type[m] <= PageType.L4]
        if not tables:
            return self.pointer(), self.entry()
        table = rng.choice(tables)
        level = frames.type[table]
        same = [m for m in tables if frames.type[m] in (level, level - 1)]
        target = rng.choice(same or mine) if rng.random() < 0.7 else rng.choice(mine)
        rights = rng.choice((PTE_P, PTE_P | PTE_RW | PTE_US)) if rng.random() < 0.8 else 0
        return table << PAGE_SHIFT | rng.randrange(16) << 3, target << PAGE_SHIFT | rights

    def _requests(self) -> tuple[bytes, int]:
        count = self.rng.choice((1, 1, 2, 3, 8))
        raw = b""
        for _ in range(count):
            if self.rng.random() < 0.6:
                raw += struct.pack("<QQ", *self._table_entry())
            else:
                raw += struct.pack("<QQ", self.pointer(), self.entry())
        return raw, count

    def _mmu_update(self) -> None:
        raw, count = self._requests()
        at = self.put(raw)
        count = count if self.rng.random() < 0.9 else self.rng.choice(COUNTS)
        done = self.rng.choice((0, 0, self.va()))
        domid = DomId.SELF if self.rng.random() < 0.8 else self.number()
        self.call(Hypercall.mmu_update, at, count, done, domid)

    def _mmuext(self) -> None:
        rng = self.rng
        count = rng.choice((1, 1, 1, 2, 3))
        raw = b""
        for _ in range(count):
            common = rng.choice((*range(5), *range(5), MmuExt.NEW_BASEPTR, MmuExt.UNPIN_TABLE))
            command = common if rng.random() < 0.8 else rng.choice([*MmuExt, 99])
            raw += self._extended(command, self.mfn(), self.number())
        at = self.put(raw)
        count = count if rng.random() < 0.95 else rng.choice(COUNTS)
        self.call(Hypercall.mmuext_op, at, count, rng.choice((0, 0, self.va())), self.domid())

    def _extended(self, command: int, first: int, second: int) -> bytes:
        return struct.pack(EXTENDED[self.width], command, first & self.mask, second & self.mask)

    def _reservation(self, at: int, count: int, order: int, flags: int, domid: int) -> bytes:
        mask = self.mask
        return struct.pack(RESERVATION[self.width], at & mask, count & mask, order, flags, domid)

    def _share(self) -> None:
        rng = self.rng
        va = self.guest.va(rng.randrange(PAGES + 2)) if rng.random() < 0.8 else self.va()
        avl = rng.choice((0, 0x200, 0x400, 0xE00, 0x200, self.number()))
        self.call(Hypercall.make_ro_and_share, va, avl, rng.choice((0, 0, 1, 2, self.number())))

    def _share_batch(self) -> None:
        rng = self.rng
        count = rng.choice((1, 2, 5, 12))
        raw = b""
        for i in range(count):
            inside = self.guest.space.l1 << PAGE_SHIFT | rng.randrange(PAGES + 2) << 3
            pointer = inside if rng.random() < 0.8 else self.pointer()
            raw += struct.pack("<QiI", pointer, i, i)
        at = self.put(raw)
        done = rng.choice((self.va(), at, self.guest.scratch + 2048))
        count = count if rng.random() < 0.9 else rng.choice(COUNTS)
        self.call(Hypercall.make_ro_and_share_batch, at, count, done, rng.choice((0, 0x200, 1)))

    def _memory(self) -> None:
        rng = self.rng
        count = rng.choice((1, 1, 2, 4))
        numbers = self.put(self.pack(count, *(self.mfn() for _ in range(count))))
        order = rng.choice((0, 0, 0, 0, 1, 2, 9, 10, (1 << 32) - 1))
        if rng.random() < 0.05:
            count = rng.choice((1 << 26, 1 << 31, (1 << 64) - 1))
        flags = rng.choice((0, 0, 0, 13, 64, 1 << 16, (1 << 32) - 1))
        raw = self._reservation(numbers, count, order, flags, self.domid())
        command = rng.choice(
            (XenMem.increase_reservation, XenMem.decrease_reservation, XenMem.populate_physmap)
        )
        start = rng.choice((0, 0, 0, 1, 1 << 20)) << 6
        self.call(Hypercall.memory_op, command | start, self.put(raw))

    def _exchange(self) -> None:
        rng = self.rng
        orders = rng.choice(((0, 0), (0, 1), (1, 0), (0, 9), (2, 0), (63, 0), (0, 64)))
        lists = [self.put(self.pack(4, *(self.mfn() for _ in range(4)))) for _ in orders]
        parts = [
            self._reservation(at, rng.choice((0, 1, 2, 4, 1 << 31)), order, 0, DomId.SELF)
            for at, order in zip(lists, orders, strict=True)
        ]
        raw = b"".join(parts) + self.pack(1, rng.choice((0, 0, 1, (1 << 64) - 1)))
        self.call(Hypercall.memory_op, XenMem.exchange, self.put(raw))

    def _multicall(self) -> None:
        rng = self.rng
        count = rng.choice((1, 2, 4))
        raw = b""
        for _ in range(count):
            choice = rng.randrange(4)
            if choice == 0:
                call = (Hypercall.update_va_mapping, 0, self.va(), self.entry(), 0, 0, 0, 0)
            elif choice == 1:
                call = (Hypercall.make_ro_and_share, 0, self.va() & -4096, 0x200, 0, 0, 0, 0)
            elif choice == 2:
                call = (Hypercall.mmu_update, 0, self.va(), 1, 0, DomId.SELF, 0, 0)
            else:
                call = (rng.choice(self.calls), 0, *(self.number() for _ in range(4)), 0, 0)
            number, _, *arguments = call
            raw += self.pack(8, number, 0, *arguments_of(self.width, number, tuple(arguments)))
        at = self.put(raw)
        count = count if rng.random() < 0.95 else rng.choice(COUNTS)
        self.call(Hypercall.multicall, at, count)

    def _set_gdt(self) -> None:
        count = self.rng.choice((0, 1, 2, 14))
        at = self.put(self.pack(count, *(self.mfn() for _ in range(count))))
        entries = self.rng.choice((count * 512, 1, 0, 7168, 7169, (1 << 32) - 1))
        self.call(Hypercall.set_gdt, at, entries)

    def _descriptor(self) -> None:
        kinds = (
            0,
            0x00CF_9A00_0000_FFFF,
            0x00AF_9B00_0000_FFFF,
            0x0000_8900_0000_0067,
            0x0000_EC00_E019_0000,
            self.number(),
        )
        descriptor = self.rng.choice((*kinds, self.rng.getrandbits(64)))
        self.call(Hypercall.update_descriptor, self.pointer(), descriptor)

    def _fill(self) -> None:
        """Store into a page: contents to share, or what could be a page table."""
        rng = self.rng
        at = self.guest.va(rng.randrange(PAGES + 2))
        kind = rng.randrange(4)
        if kind == 0:
            data = bytes([rng.randrange(4)]) * PAGE_SIZE
        elif kind == 1:
            data = struct.pack("<4Q", *(self.entry() for _ in range(4))).ljust(PAGE_SIZE, b"\0")
        elif kind == 2:
            data = bytes(PAGE_SIZE)
        else:
            data = struct.pack("<Q", self._table_entry()[1]).ljust(PAGE_SIZE, b"\0")
        self.log = ("store", hex(at))
        with contextlib.suppress(GuestFault):
            self.guest.write(at, data)

    def _idle_frame(self) -> int | None:
        """A frame of its own that is of no type now; a new one if it may have more."""
        frames = self.hv.frames
        mine = [int(m) for m in frames.owned_by(self.domain.id) if not frames.type_count[m]]
        if mine and self.rng.random() < 0.6:
            return self.rng.choice(mine)
        if self.domain.pages < self.domain.max_pages and frames.free:
            return self.guest.take(1)[0]
        return None

    def _make_table(self) -> None:
        """Fill a frame with what a table might hold, itself perhaps, and pin or use it.

        The store is one that the guest could make through a mapping that it then drops.
        """
        rng, frames = self.rng, self.hv.frames
        frame = self._idle_frame()
        if frame is None:
            return
        level = rng.randrange(1, 5)
        words = [0] * ENTRIES
        mine = [int(m) for m in frames.owned_by(self.domain.id)]
        fitting = [m for m in mine if frames.type_count[m] and frames.type[m] in (level, level - 1)]
        for _ in range(rng.randrange(6)):
            target = rng.choice([*(fitting or mine), *([frame] if rng.random() < 0.3 else [])])
            if level == 1 and rng.random() < 0.6:
                target = rng.choice(list(self.domain.shared) or mine)
            rights = rng.choice((PTE_P, PTE_P | PTE_RW | PTE_US, PTE_P | PTE_US | 0x100))
            words[rng.choice(TABLE_SLOTS[self.width])] = target << PAGE_SHIFT | rights
        if rng.random() < 0.1:
            words[rng.randrange(ENTRIES)] = self.entry()
        self.hv.machine.memory.array[frame] = words
        command = level - 1 if rng.random() < 0.9 else rng.randrange(4)
        if level == self.guest.space.level and rng.random() < 0.3:
            command = rng.choice((MmuExt.NEW_USER_BASEPTR, MmuExt.NEW_BASEPTR))
        at = self.put(self._extended(command, frame, 0))
        self.call(Hypercall.mmuext_op, at, 1, 0, DomId.SELF)

    def _repair(self) -> None:
        """Map a writable page again, so that there is something to attack with."""
        frame = self._idle_frame()
        where = self.rng.choice((self.guest.scratch, self.guest.va(self.rng.randrange(PAGES))))
        if frame is not None:
            self.call(Hypercall.update_va_mapping, where, frame << PAGE_SHIFT | 7, 2)

    def _event(self) -> None:
        raw = struct.pack("<6I", *(self.rng.choice((*range(6), 0x7FF0, 1 << 31)) for _ in range(6)))
        self.call(Hypercall.event_channel_op, self.rng.choice([*EvtchnOp, 99]), self.put(raw))

    def _sched(self) -> None:
        rng = self.rng
        harmless = [op for op in SchedOp if op != SchedOp.shutdown]
        command = SchedOp.shutdown if rng.random() < 0.02 else rng.choice(harmless)
        raw = self.pack(1, self.va())
        raw += struct.pack("<IIQ", rng.choice(COUNTS), 0, rng.choice(EDGES))
        self.call(Hypercall.sched_op, command, self.put(raw))

    def _small(self) -> None:
        rng = self.rng
        at = self.put(struct.pack("<6Q", *(self.number() for _ in range(6))))
        choice = rng.randrange(6)
        if choice == 0:
            self.call(Hypercall.xen_version, rng.choice([*XenVer, 99]), at)
        elif choice == 1:
            commands = [op for op in VcpuOp if op != VcpuOp.down]
            self.call(Hypercall.vcpu_op, rng.choice(commands), rng.choice((0, 0, 0, 1)), at)
        elif choice == 2:
            self.call(Hypercall.callback_op, rng.choice([*CallbackOp, 9]), at)
        elif choice == 3:
            self.call(Hypercall.console_io, rng.choice((0, 1, 2)), rng.choice((1, 5, 4097)), at)
        elif choice == 4:
            self.call(Hypercall.set_trap_table, at)
        else:
            self.call(Hypercall.memory_op, rng.choice([*XenMem, 99]), at)
