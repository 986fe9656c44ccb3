"""Attacks by guest code that really runs: what the CPU's TLB and mode still allow after a call.

Each attack first uses the right that it means to keep (a store, so that a writable translation is
in the TLB), then makes the call that takes it away, then uses it again: the second use must fault.
"""

from emu.cpu import RAX, RBX
from emu.units import PAGE_SHIFT
from hypervisor.abi import Errno
from hypervisor.audit import audit
from tests.hypervisor.handmade import RW
from tests.hypervisor.tiny import SPARE, Tiny, handler

UPDATE = """
    mov rdi, {va}
    mov rsi, {entry}
    xor edx, edx
    mov eax, 14
    syscall
"""
STORE = "    mov rdi, SPARE\n    mov qword ptr [rdi], 7\n"


def answer(tiny: Tiny) -> int:
    """RAX as a signed number."""
    return tiny.words[RAX] - (1 << 64) * (tiny.words[RAX] >> 63)


def test_an_update_at_a_non_canonical_address_is_refused() -> None:
    """Its low bits name an entry; the flush would go to an address that no TLB entry has."""
    far = "SPARE + 0x0001000000000000"
    tiny = Tiny(handler(STORE + UPDATE.format(va=far, entry=0)))
    before = tiny.entry(SPARE)
    tiny.run()
    assert answer(tiny) == -Errno.EINVAL
    assert tiny.mfn(SPARE) == before >> PAGE_SHIFT & 0xFFFFFF
    assert tiny.entry(SPARE) & RW == RW
    assert audit(tiny.hv) == []


def test_an_unmapped_page_cannot_be_stored_to() -> None:
    tiny = Tiny(handler(STORE + UPDATE.format(va="SPARE", entry=0) + STORE))
    tiny.trap(14, "h")
    tiny.run()
    assert tiny.words[RBX] == 1, "the second store went through a stale translation"
