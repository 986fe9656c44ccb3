"""A guest's LDT: pages of its own memory that enter the window when they are used."""

import struct

import pytest

from emu.cpu import CS, RBX
from emu.trap import GP, PF
from emu.units import PAGE_SHIFT
from hypervisor.abi import DomId, Errno, Hypercall, MmuExt, SegBase
from hypervisor.audit import audit
from hypervisor.domain import Exit
from tests.hypervisor.handmade import RO, RW, Handmade
from tests.hypervisor.tiny import CODE32, DATA64, SPARE, Tiny

BODY = "\n mov rbx, 9\n jmp done\nh: mov rbx, 1\n jmp done\npf: mov rbx, 2\n jmp done"
BASED = 0x12CF_F234_5678_FFFF


def local(text: str, *descriptors: int, entries: int = 512, fit: bool = True) -> Tiny:
    """A domain about to run ``text``, its spare page an LDT of ``descriptors`` after none."""
    tiny = Tiny(text + BODY, user_space=True)
    tiny.trap(GP, "h")
    tiny.trap(PF, "pf")
    tiny.write(tiny.va(SPARE), struct.pack(f"<{len(descriptors) + 1}Q", 0, *descriptors))
    if fit:
        tiny.update(SPARE, tiny.mfn(SPARE) << PAGE_SHIFT | RO)
        assert tiny.hv.paging.update_entry(tiny.user.l1, SPARE, 0, tiny.domain) == 0
    assert set_ldt(tiny, tiny.va(SPARE), entries) == 0
    return tiny


def set_ldt(tiny: Tiny, base: int, entries: int) -> int:
    tiny.write(tiny.scratch, struct.pack("<I4xQQ", MmuExt.SET_LDT, base, entries))
    return tiny.call(Hypercall.mmuext_op, tiny.scratch, 1, 0, DomId.SELF)


def load(index: int, register: str = "es") -> str:
    return f"mov eax, {index << 3 | 4}\n mov {register}, ax"


def test_a_load_brings_the_page_in_and_the_audit_counts_it() -> None:
    tiny = local(load(1), DATA64)
    assert not tiny.domain.ldt_frames
    tiny.run(20)
    assert tiny.words[RBX] == 9
    assert tiny.domain.ldt_frames == {0: tiny.mfn(SPARE)}
    assert not audit(tiny.hv)
    assert tiny.update(SPARE, tiny.mfn(SPARE) << PAGE_SHIFT | RW) == -Errno.EBUSY
    assert set_ldt(tiny, 0, 0) == 0
    assert tiny.update(SPARE, tiny.mfn(SPARE) << PAGE_SHIFT | RW) == 0
    assert not audit(tiny.hv)


@pytest.mark.parametrize(("index", "outcome"), [(1, 2), (513, 1), (600, 1)])
def test_a_page_that_is_not_fit_is_a_fault_in_the_guests_memory(index: int, outcome: int) -> None:
    tiny = local(load(index), DATA64, fit=False)
    tiny.run(20)
    assert tiny.words[RBX] == outcome
    if outcome == 2:
        assert tiny.cr2 == tiny.va(SPARE) + 8
        assert tiny.frame()[2] == 0
    else:
        assert tiny.frame()[2] == index << 3 | 4
    assert not tiny.domain.ldt_frames
    assert not audit(tiny.hv)


def test_an_ldt_that_leaves_canonical_memory() -> None:
    tiny = local(load(513), DATA64)
    assert set_ldt(tiny, 0x7FFF_FFFF_F000, 1024) == 0
    tiny.run(20)
    assert tiny.words[RBX] == 1
    assert tiny.frame()[2] == 513 << 3 | 4


@pytest.mark.parametrize(
    ("base", "entries"),
    [(0x1008, 1), (0x1000, 8193), (1 << 47, 1), (0xFFFF_8000_0000_0000, 1), (0x1000, 1 << 31)],
)
def test_refused(base: int, entries: int) -> None:
    tiny = local("nop", DATA64)
    assert set_ldt(tiny, base, entries) == -Errno.EINVAL
    assert tiny.domain.ldt_base == tiny.va(SPARE)


def test_iret_to_a_segment_of_the_ldt() -> None:
    tiny = local("nop", CODE32, DATA64)
    assert tiny.iret(rip=tiny.at("done"), cs=0xF, rsp=0, ss=0x17, how=0) is None
    assert tiny.cpu.selector(CS) == 0xF
    assert tiny.cpu.bits == 32
    assert not audit(tiny.hv)


def test_the_users_gs_through_the_ldt() -> None:
    tiny = local("nop", BASED)
    assert tiny.call(Hypercall.set_segment_base, SegBase.GS_USER_SEL, 0xF) == 0
    assert tiny.cpu.kernel_gs_base == 0x1234_5678
    assert set_ldt(tiny, 0, 0) == 0
    assert tiny.call(Hypercall.set_segment_base, SegBase.GS_USER_SEL, 0xF) == 0
    assert tiny.cpu.kernel_gs_base == 0


def test_a_domain_that_dies_with_an_ldt() -> None:
    tiny = local(load(1), DATA64)
    tiny.run(20)
    assert tiny.domain.ldt_frames
    free = tiny.hv.frames.free
    tiny.hv.end(tiny.domain, Exit("destroyed"))
    tiny.hv.reap()
    assert tiny.hv.frames.free > free
    assert not audit(tiny.hv)
    assert not tiny.hv.machine.cpu.selector(CS) & 4


def test_each_domain_has_its_own() -> None:
    tiny = local(load(1) + "\n sldt eax", DATA64)
    other = Handmade(tiny.hv, 2)
    tiny.hv.switch_to(other.domain)
    assert not other.domain.ldt_entries
    tiny.hv.switch_to(tiny.domain)
    tiny.run(20)
    assert tiny.words[RBX] == 9
    assert not audit(tiny.hv)
