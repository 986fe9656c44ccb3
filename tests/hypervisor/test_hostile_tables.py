"""Two ways round direct paging: an alias of a whole L1 table, and mmu_update of a GDT's page."""

import struct

import pytest

from emu.cpu import RBX
from emu.trap import PF
from emu.units import ENTRIES, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import DomId, Errno, Hypercall
from tests.hypervisor.handmade import RW, TABLE
from tests.hypervisor.tiny import CODE32, SPARE, Tiny, handler

ALIAS = ENTRIES * PAGE_SIZE
"""Bytes between an address and its alias: the same L1 table in the next slot of the L2."""
STORE = "mov rax, SPARE + {alias}\nmov byte ptr [rax], 1\n"
CALL = "mov rdi, SPARE\nmov esi, {second}\nxor edx, edx\nmov eax, {number}\nsyscall\n"


@pytest.mark.parametrize(
    ("number", "second"),
    [(Hypercall.update_va_mapping, 0), (Hypercall.make_ro_and_share, 0x200)],
)
def test_no_alias_of_the_table_keeps_what_was_taken(number: Hypercall, second: int) -> None:
    store = STORE.format(alias=ALIAS)
    tiny = Tiny(handler(store + CALL.format(number=int(number), second=second) + store))
    space, paging = tiny.space, tiny.hv.paging
    assert paging.update_entry(space.l2, 1, space.l1 << PAGE_SHIFT | TABLE, tiny.domain) == 0
    assert tiny.entry(SPARE) & RW == RW
    tiny.trap(PF, "h")
    tiny.run()
    assert tiny.words[RBX] == 1, "the second store went through the alias's translation"


def test_a_descriptor_is_not_stored_by_mmu_update() -> None:
    """It would go past the check that each descriptor in use has passed."""
    tiny = Tiny("")
    assert tiny.gdt(CODE32) == 0
    at = tiny.mfn(SPARE) << PAGE_SHIFT | 8
    before = tiny.hv.machine.memory.words[at >> 3]
    tiny.write(tiny.scratch, struct.pack("<QQ", at, CODE32 & ~(3 << 45)))
    answer = tiny.call(Hypercall.mmu_update, tiny.scratch, 1, 0, DomId.SELF)
    assert answer == -Errno.EINVAL
    assert tiny.hv.machine.memory.words[at >> 3] == before
