"""Attacks by guest code that really runs: what the CPU's TLB and mode still allow after a call.

Each attack first uses the right that it means to keep (a store, so that a writable translation is
in the TLB), then makes the call that takes it away, then uses it again: the second use must fault.
"""

import random
import sys

import pytest

from emu import Trap
from emu.coherence import Coherence
from emu.cpu import RAX, RBX, RDI, RIP
from emu.cpustate import OFF_LDT, OFF_TR
from emu.paging import RFLAGS_IOPL, RFLAGS_VM
from emu.units import ENTRIES, MA, PAGE_SHIFT, PAGE_SIZE, VA
from emu.walk import Access, walk
from hypervisor.abi import Errno, Width
from hypervisor.audit import audit
from hypervisor.builder import load_flat32
from hypervisor.domain import Exit
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import BASE, RO, RW
from tests.hypervisor.hostile import Hostile
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


def test_virtual_8086_mode_is_left_for_good() -> None:
    """IRETD with VM set gets there from CPL 3 in this engine, with IOPL 3; the next trap ends it.

    The selectors chosen are those of the flat segments, which must be loaded all the same.
    """
    tiny = Tiny("""
    sub rsp, 64
    mov dword ptr [rsp], 0x800
    mov dword ptr [rsp+4], 0xe033
    mov dword ptr [rsp+8], 0x23202
    mov dword ptr [rsp+12], 0x400
    mov dword ptr [rsp+16], 0xe02b
    mov qword ptr [rsp+20], 0
    mov qword ptr [rsp+28], 0
    .byte 0xcf
h:  mov rbx, 1
""")
    domain = tiny.domain
    l2, l1, code, stack = tiny.take(4)
    words = tiny.hv.machine.memory.words
    words[l2 * ENTRIES] = l1 << PAGE_SHIFT | RW
    words[l1 * ENTRIES + 0xE0] = code << PAGE_SHIFT | RW
    words[l1 * ENTRIES + 0x0] = stack << PAGE_SHIFT | RW
    assert tiny.hv.paging.update_entry(tiny.space.l3, 0, l2 << PAGE_SHIFT | RW, domain) == 0
    tiny.write(0xE0330 + 0x800, bytes.fromhex("90900f0b"))  # nop; nop; ud2
    for vector in range(20):
        tiny.trap(vector, "h")
    domain.kernel_mode = False
    domain.user_table = domain.table
    tiny.hv.paging.get_table(domain.table, 4, domain)
    tiny.run()
    assert tiny.words[RBX] == 1, tiny.crashed
    assert tiny.cpu.bits == 64
    assert tiny.cpu.cpl == 3
    assert tiny.cpu.flags & (RFLAGS_VM | RFLAGS_IOPL) == 0


def test_there_is_no_local_descriptor_table_and_no_task_state() -> None:
    """With the limits of a CPU's reset they would lie at linear address 0, the guest's own."""
    tiny = Tiny(handler("push 0x0f\n lea rax, [rip+done]\n push rax\n .byte 0x48, 0xcb"))
    tiny.trap(13, "h")
    tiny.run()
    assert tiny.words[RBX] == 1
    assert tiny.cpu.cpl == 3
    for register in (OFF_LDT, OFF_TR):
        assert tiny.cpu.halves[register + 16 >> 2] == 0


# -- the TLB against the tables ----------------------------------------------------------------

CODE_AT = 500
STORE_CODE = {64: bytes.fromhex("488907"), 32: bytes.fromhex("890790")}  # mov [xdi], xax
LOAD_CODE = {64: bytes.fromhex("488b1f"), 32: bytes.fromhex("8b1f90")}  # mov xbx, [xdi]


class Probe:
    """Stores and loads of a hostile domain, by the CPU, compared with a walk of its tables.

    What one probe leaves in the TLB is there when the next comes, after whatever the domain did in
    between: a translation that outlived its rights lets a store through that the walk denies, or
    sends it to another frame.
    """

    def __init__(self, hv: Hypervisor, rng: random.Random, width: Width) -> None:
        self.hv, self.rng = hv, rng
        self.hostile = Hostile(hv, rng, 60, width)
        self.size = width // 8
        guest = self.hostile.guest
        (frame,) = guest.take(1)
        self.code = STORE_CODE[width] + LOAD_CODE[width]
        hv.machine.memory.frame(frame)[: len(self.code)] = self.code
        assert guest.update(CODE_AT, frame << PAGE_SHIFT | RO) == 0
        self.frame = frame
        self.value = 0
        self.places = [guest.va(page) for page in (*range(14), 511)]
        for size in (1 << 21, 1 << 30, 1 << 39):
            if width == 32 and BASE + 2 * size >= 1 << 32:
                break
            self.places += [VA(BASE + size * n + PAGE_SIZE * p) for n in (1, 2) for p in (0, 1, 2)]

    def usable(self) -> bool:
        """True while the probe's code is where it was."""
        domain = self.hostile.domain
        alive = domain.exit is None and domain.kernel_mode and self.hv.current is domain
        found = self.walk(VA(BASE + CODE_AT * PAGE_SIZE), False)
        if not alive or found is None or found >> PAGE_SHIFT != self.frame:
            return False
        return self.hv.machine.memory.read(MA(found), 6) == self.code

    def walk(self, va: VA, write: bool) -> int | None:
        table = self.hostile.domain.table
        access = Access(user=self.size == 8, write=write)
        return walk(self.hv.machine.memory, table << PAGE_SHIFT, va, access=access).ma

    def run(self, code: int, va: VA) -> bool:
        """One instruction of the probe's code; True if it did not fault."""
        machine = self.hv.machine
        trapped: list[Trap] = []

        def note(trap: Trap) -> None:
            trapped.append(trap)
            machine.stop()

        words = machine.cpu.words
        words[RIP] = BASE + CODE_AT * PAGE_SIZE + code
        words[RDI], words[RAX] = va, self.value
        machine.on_trap = note
        machine.run(1)
        machine.on_trap = self.hv.traps.on_trap
        return not trapped

    def check(self) -> None:
        memory, size = self.hv.machine.memory, self.size
        for va in self.places:
            self.value += 1
            found = self.walk(va, True)
            if found is not None and found >> PAGE_SHIFT == self.frame:
                continue  # the probe must not change its own code
            assert self.run(0, va) == (found is not None), f"store {va:#x}: {self.hostile.log}"
            if found is not None:
                stored = int.from_bytes(memory.read(MA(found), size), "little")
                assert stored == self.value, f"{va:#x}: {self.hostile.log}"
                continue
            found = self.walk(va, False)
            assert self.run(3, va) == (found is not None), f"load {va:#x}: {self.hostile.log}"
            if found is not None:
                read = self.hv.machine.cpu.words[RBX]
                there = int.from_bytes(memory.read(MA(found), size), "little")
                assert read == there, f"{va:#x}: {self.hostile.log}"


def probe_tlb(seed: int, steps: int, width: Width = 64) -> None:
    """One hostile domain at a time, probed after each of its actions."""
    rng = random.Random(seed)
    hv = Hypervisor(Settings(machine_memory=1 << 20, seed=seed, opaque=rng.random() < 0.3))
    probe: Probe | None = None
    for _ in range(steps):
        if probe is None or not probe.usable():
            for domain in list(hv.domains.values()):
                hv.end(domain, Exit("destroyed"))
            hv.reap()
            probe = Probe(hv, rng, width)
            hv.switch_to(probe.hostile.domain)
            if width == 32:
                load_flat32(hv.machine.cpu)
        probe.hostile.step()
        if probe.usable():
            probe.check()


@pytest.mark.parametrize("width", [64, 32])
@pytest.mark.parametrize("seed", range(4))
def test_no_translation_outlives_its_rights(seed: int, width: Width) -> None:
    probe_tlb(seed, 400, width)


@pytest.mark.parametrize("width", [64, 32])
def test_the_probe_finds_a_missing_flush(monkeypatch: pytest.MonkeyPatch, width: Width) -> None:
    """Without flushes of single pages it fails, so that it would see one that is forgotten."""
    monkeypatch.setattr(Coherence, "flush_page", lambda self, va: None)
    with pytest.raises(AssertionError, match="0x"):
        probe_tlb(0, 1000, width)


if __name__ == "__main__":
    for n in range(int(sys.argv[1]), 1 << 30):
        probe_tlb(n, int(sys.argv[2]), 64 if n % 2 else 32)
        print("seed", n, "survived", flush=True)
