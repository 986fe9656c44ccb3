"""Page tables of 32-bit guests: the rules of L3 tables, and what of the hypervisor they can see."""

import struct

import pytest

from emu.cpu import RAX, RBX, RCX
from emu.paging import PTE_A, PTE_NX, PTE_P, PTE_RW, PTE_US
from emu.trap import GP, PF
from emu.units import ENTRIES, MFN, PAGE_SHIFT, PAGE_SIZE, VA
from emu.walk import Access, walk
from hypervisor.abi import (
    HYPERVISOR_VIRT_START_PAE,
    L2_FIRST_XEN_SLOT_PAE,
    L4_FIRST_XEN_SLOT,
    DomId,
    Errno,
    Hypercall,
    MmuExt,
    VmAssist,
)
from hypervisor.audit import audit
from hypervisor.descriptors import GDT_BASE
from hypervisor.domain import Exit
from hypervisor.frames import PINNED, XEN_L2
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RO, RW, TABLE, Handmade
from tests.hypervisor.tiny import SPARE
from tests.hypervisor.tiny32 import Tiny32, handler

M2P = int(HYPERVISOR_VIRT_START_PAE)
L3_BITS = PTE_P | PTE_RW | PTE_US | PTE_A


@pytest.fixture
def guest() -> Handmade:
    return Handmade(Hypervisor(Settings(machine_memory=4 << 20)), 4, width=32)


def word(guest: Handmade, table: int, index: int) -> int:
    return guest.hv.machine.memory.words[table * ENTRIES + index]


def set_word(guest: Handmade, table: int, index: int, value: int) -> None:
    guest.hv.machine.memory.words[table * ENTRIES + index] = value


def update(guest: Handmade, table: int, index: int, value: int) -> int:
    """One entry by mmu_update."""
    guest.write(guest.scratch, struct.pack("<QQ", table << PAGE_SHIFT | index << 3, value))
    return guest.call(Hypercall.mmu_update, guest.scratch, 1, 0, DomId.SELF)


def tables(guest: Handmade) -> tuple[MFN, MFN]:
    """An L3 table and the L2 table in its slot 3, neither of them pinned."""
    l3, last = guest.take(2)
    set_word(guest, l3, 3, last << PAGE_SHIFT | PTE_P)
    return l3, last


# -- L3 tables -------------------------------------------------------------------------------


def test_entries_get_the_rights_that_long_mode_wants_and_lose_them(guest: Handmade) -> None:
    l3, last = tables(guest)
    set_word(guest, l3, 4, 0xDEAD_BEEF)  # behind its four entries: anything
    set_word(guest, l3, 511, PTE_P)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == 0
    assert word(guest, l3, 3) == last << PAGE_SHIFT | L3_BITS
    assert word(guest, l3, 4) == word(guest, l3, 511) == 0
    assert guest.hv.frames.flags[last] & XEN_L2
    assert audit(guest.hv) == []
    assert guest.mmuext(MmuExt.UNPIN_TABLE, l3) == 0
    assert word(guest, l3, 3) == last << PAGE_SHIFT | PTE_P
    assert not guest.hv.frames.flags[last] & XEN_L2
    assert audit(guest.hv) == []


def test_slot_3_must_be_present_and_is_never_changed(guest: Handmade) -> None:
    l3, last = tables(guest)
    set_word(guest, l3, 3, 0)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == -Errno.EINVAL
    set_word(guest, l3, 3, last << PAGE_SHIFT | PTE_P)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == 0
    for index in (3, 4, 511):
        for value in (0, last << PAGE_SHIFT | PTE_P):
            assert update(guest, l3, index, value) == -Errno.EINVAL
    assert update(guest, l3, 0, 0) == 0


@pytest.mark.parametrize("bit", [3, 4, 7, 8, 52, 62, 63])
def test_illegal_bits_of_l3_entries(guest: Handmade, bit: int) -> None:
    l3, last = tables(guest)
    set_word(guest, l3, 3, last << PAGE_SHIFT | PTE_P | 1 << bit)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == -Errno.EINVAL
    set_word(guest, l3, 3, last << PAGE_SHIFT | PTE_P)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == 0
    (l2,) = guest.take(1)
    assert update(guest, l3, 0, l2 << PAGE_SHIFT | PTE_P | 1 << bit) == -Errno.EINVAL
    assert audit(guest.hv) == []


def test_the_table_of_slot_3_is_in_no_other_place(guest: Handmade) -> None:
    l3, last = tables(guest)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == 0
    other, _ = tables(guest)
    set_word(guest, other, 3, last << PAGE_SHIFT | PTE_P)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, other) == -Errno.EINVAL  # in two L3 tables
    assert update(guest, l3, 0, last << PAGE_SHIFT | PTE_P) == -Errno.EINVAL  # in another slot
    assert guest.mmuext(MmuExt.PIN_L2_TABLE, last) == -Errno.EINVAL
    third = guest.take(1)[0]
    set_word(guest, third, 0, guest.space.l2 << PAGE_SHIFT | PTE_P)
    set_word(guest, third, 3, guest.space.l2 << PAGE_SHIFT | PTE_P)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, third) == -Errno.EINVAL  # an ordinary L2 table
    assert not guest.hv.frames.flags[guest.space.l2] & XEN_L2
    assert audit(guest.hv) == []


def test_a_pinned_l2_table_cannot_be_that_of_slot_3(guest: Handmade) -> None:
    l3, last = tables(guest)
    assert guest.mmuext(MmuExt.PIN_L2_TABLE, last) == 0
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == -Errno.EINVAL
    assert guest.mmuext(MmuExt.UNPIN_TABLE, last) == 0
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == 0


def test_a_table_mapped_in_itself_is_no_way_to_the_slots(guest: Handmade) -> None:
    """A linear mapping shows the tables read-only; at level 3 there is none."""
    l3, last = tables(guest)
    set_word(guest, last, 0, last << PAGE_SHIFT | PTE_P | PTE_US)
    set_word(guest, last, 1, last << PAGE_SHIFT | PTE_P | PTE_US | PTE_RW)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == -Errno.EINVAL
    set_word(guest, last, 1, 0)
    set_word(guest, l3, 0, l3 << PAGE_SHIFT | PTE_P)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == -Errno.EINVAL
    set_word(guest, l3, 0, 0)
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == 0
    assert audit(guest.hv) == []


def test_there_are_no_l4_tables(guest: Handmade) -> None:
    (frame,) = guest.take(1)
    assert guest.mmuext(MmuExt.PIN_L4_TABLE, frame) == 0  # Xen does nothing, and says so
    assert not guest.hv.frames.flags[frame] & PINNED
    assert guest.mmuext(MmuExt.NEW_BASEPTR, frame) == -Errno.EINVAL
    assert guest.mmuext(MmuExt.NEW_USER_BASEPTR, guest.space.l3) == -Errno.EINVAL
    for mfn in (guest.domain.table, guest.domain.window):
        for command in (MmuExt.PIN_L3_TABLE, MmuExt.PIN_L2_TABLE, MmuExt.NEW_BASEPTR):
            assert guest.mmuext(command, mfn) == -Errno.EINVAL
        assert update(guest, mfn, 1, 0) == -Errno.EINVAL
        assert guest.update(0, mfn << PAGE_SHIFT | RO) == -Errno.EBUSY
        assert guest.give_back(mfn) == 0


def test_l3_tables_lie_below_4_gib() -> None:
    hv = Hypervisor(Settings(machine_memory=(4 << 30) + (1 << 20)))
    hv.frames.allocate_many(hv.frames.free - (1 << 20) + 400, DomId.XEN, 0)
    guest = Handmade(hv, 2, width=32)
    l3, _ = tables(guest)
    assert l3 < 1 << 20
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == 0
    hv = Hypervisor(Settings(machine_memory=(4 << 30) + (1 << 20)))
    domain = hv.create_domain("high", 64, guest.domain.console, 32)
    high, last = hv.frames.allocate_many(2, domain.id)
    domain.pages += 2
    assert high >= 1 << 20
    hv.machine.memory.words[high * ENTRIES + 3] = last << PAGE_SHIFT | PTE_P
    assert hv.paging.pin(high, 3, domain) == -Errno.ERANGE
    domain.vm_assist |= 1 << VmAssist.pae_extended_cr3
    assert hv.paging.pin(high, 3, domain) == 0


def test_new_baseptr_moves_the_hidden_slot(guest: Handmade) -> None:
    entries = [guest.entry(i) for i in range(4)] + [0] * 507 + [guest.entry(511)]
    other = guest.new_space(entries)
    refs = guest.hv.frames.refs
    before = refs[guest.space.l3], refs[other.l3]
    assert guest.mmuext(MmuExt.NEW_BASEPTR, other.l3) == 0
    assert (refs[guest.space.l3], refs[other.l3]) == (before[0] - 1, before[1] + 1)
    assert word(guest, guest.domain.table, 0) == other.l3 << PAGE_SHIFT | L3_BITS
    assert audit(guest.hv) == []


# -- the hypervisor's slots ------------------------------------------------------------------


def test_the_slots_of_the_l2_table_are_the_hypervisors(guest: Handmade) -> None:
    last = guest.space.last
    for index in (L2_FIRST_XEN_SLOT_PAE, 511):
        for value in (0, guest.space.l1 << PAGE_SHIFT | TABLE):
            assert update(guest, last, index, value) == -Errno.EPERM
    assert update(guest, last, L2_FIRST_XEN_SLOT_PAE - 1, 0) == 0
    assert update(guest, guest.space.l2, L2_FIRST_XEN_SLOT_PAE, 0) == 0
    for va in (M2P, M2P - 4096, 0xFFFF_F000):
        for entry in (0, RW):
            assert guest.call(Hypercall.update_va_mapping, va, entry, 0) == -Errno.EINVAL
        assert guest.call(Hypercall.make_ro_and_share, va, 0, 0) == -Errno.EINVAL


def test_what_a_guest_left_in_the_slots_is_gone(guest: Handmade) -> None:
    l3, last = tables(guest)
    for index in range(L2_FIRST_XEN_SLOT_PAE, ENTRIES):
        set_word(guest, last, index, guest.space.l1 << PAGE_SHIFT | TABLE)
    before = guest.hv.frames.refs[guest.space.l1]
    assert guest.mmuext(MmuExt.PIN_L3_TABLE, l3) == 0
    assert guest.hv.frames.refs[guest.space.l1] == before
    assert audit(guest.hv) == []
    assert word(guest, last, 511) == 0


def test_all_that_is_mapped_of_the_hypervisor_is_the_m2p_read_only(guest: Handmade) -> None:
    """By the tables themselves: every 32-bit address that leads to no frame of the guest's."""
    hv, memory = guest.hv, guest.hv.machine.memory
    table = guest.domain.table
    low = [i for i in range(L4_FIRST_XEN_SLOT) if memory.words[table * ENTRIES + i]]
    assert low == [0]
    seen = set()
    l3 = memory.words[table * ENTRIES] >> PAGE_SHIFT & 0xF_FFFF
    for slot in range(ENTRIES):
        entry = memory.words[l3 * ENTRIES + slot]
        if not entry & PTE_P:
            continue
        assert slot < 4
        for va in range(slot << 30, slot + 1 << 30, 2 << 20):
            if walk(memory, table << PAGE_SHIFT, VA(va)).ma is None and va < M2P:
                continue
            for page in range(ENTRIES):
                at = VA(va + page * PAGE_SIZE)
                path = walk(memory, table << PAGE_SHIFT, at)
                if path.ma is None:
                    break
                mfn = path.ma >> PAGE_SHIFT
                if hv.frames.owner[mfn] == guest.domain.id:
                    continue
                seen.add(mfn)
                write = Access(write=True)
                assert walk(memory, table << PAGE_SHIFT, at, access=write).ma is None
    assert seen == set(hv.frames.m2p32_frames)


def test_hypercalls_take_no_address_in_the_hypervisors_range(guest: Handmade) -> None:
    assert guest.call(Hypercall.console_io, 0, 4, M2P) == -Errno.EFAULT
    assert guest.call(Hypercall.mmu_update, M2P, 1, 0, DomId.SELF) == -Errno.EFAULT
    assert guest.call(Hypercall.console_io, 0, 16, M2P - 8) == -Errno.EFAULT


# -- by code that runs -----------------------------------------------------------------------


def test_the_m2p_is_read_and_not_written() -> None:
    tiny = Tiny32(handler(f"mov eax, [{M2P:#x} + ebx * 4]\n f: mov dword ptr [{M2P:#x}], 1"))
    tiny.trap(PF, "h")
    mfn = tiny.mfn(SPARE)
    tiny.write(tiny.scratch, struct.pack("<QQ", mfn << PAGE_SHIFT | 1, 0x1234))
    assert tiny.call(Hypercall.mmu_update, tiny.scratch, 1, 0, DomId.SELF) == 0
    tiny.words[RBX] = mfn
    tiny.run()
    assert tiny.words[RAX] == 0x1234
    assert tiny.handled == 1
    assert tiny.frame(2) == (3, tiny.at("f"))
    assert tiny.cr2 == M2P
    assert audit(tiny.hv) == []


def test_ring_1_reaches_neither_the_window_nor_anything_above_4_gib() -> None:
    """The descriptor window is mapped for the supervisor, and a ring-1 kernel is one to the MMU."""
    low = GDT_BASE & 0xFFFF_FFFF
    tiny = Tiny32(handler(f"mov eax, [{low:#x}]"))
    tiny.trap(PF, "h")
    tiny.run()
    assert tiny.handled == 1
    assert tiny.cr2 == low
    text = "mov eax, -4\n mov ebx, [eax + SPARE + 4]\n mov ecx, SPARE + 4\n mov ecx, [ecx + eax]"
    tiny = Tiny32(handler(text))
    tiny.write(tiny.va(SPARE), b"abcd")
    tiny.run()
    assert tiny.words[RBX] == tiny.words[RCX] == int.from_bytes(b"abcd", "little")


def test_no_way_to_64_bit_mode() -> None:
    """A far jump to the other width's selectors; descriptors of 64-bit code are refused anyway."""
    for selector in (0xE033, 0xE031, 0xE008, 0xE010):
        tiny = Tiny32(handler(f"push {selector:#x}\n push offset done\n retf"))
        tiny.trap(GP, "h")
        tiny.run()
        assert tiny.cpu.bits == 32
        assert tiny.handled == 1


def test_destroying_gives_the_hidden_table_back() -> None:
    hv = Hypervisor(Settings(machine_memory=4 << 20))
    free = hv.frames.free
    guest = Handmade(hv, 4, width=32)
    hv.end(guest.domain, Exit("destroyed"))
    assert hv.frames.free == free
    assert audit(hv) == []


def test_nx_is_honoured_in_l2_and_l1_entries(guest: Handmade) -> None:
    assert guest.update(0, guest.mfn(0) << PAGE_SHIFT | RO | PTE_NX) == 0
    assert guest.entry(0) & PTE_NX


def test_the_m2p_is_the_kernels_alone() -> None:
    tiny = Tiny32(handler("nop", f"u: mov eax, [{M2P:#x}]\n jmp done"))
    tiny.trap(PF, "h")
    tiny.go_user("u")
    tiny.run()
    assert tiny.handled == 1
    assert tiny.frame(1) == (5,)
