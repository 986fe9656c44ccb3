"""Random 32-bit code, in ring 1 and in ring 3: the hypervisor survives, and keeps its rings.

Programs are pieces that a hostile kernel would try (selectors of all kinds loaded, far jumps and
returns, frames for IRET, hypercalls with anything, privileged and port instructions) among random
bytes. Whatever happens, it happens to the domain: it goes on, takes its faults or crashes.

``python -m tests.hypervisor.test_hostile_code32 SEED PROGRAMS`` runs it for longer.
"""

import random
import sys

import pytest

from emu.cpu import RIP
from emu.units import VA
from hypervisor.audit import audit
from hypervisor.domain import Callback, State, TrapEntry
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.tiny32 import CS1, CS3, SS1, SS3, Tiny32

SELECTORS = (
    0, 1, 3, 7, 0x8, 0x9, 0xB, 0x10, 0x11, 0x13, 0x18, 0x23, 0x33, 0xE008, 0xE010, CS1, SS1, CS3,
    SS3, CS1 & ~3, SS1 & ~3, 0xE033, 0xE02B, 0xE031, 0xE050, 0xFFF8, 0xFFFF,
)  # fmt: skip
VALUES = (
    0, 1, 0xFF, 0x1000, 0x4000_0000, 0x4000_1000, 0x4000_2FF0, 0x4000_4FFC, 0x4100_0000,
    0xF57F_FFFC, 0xF580_0000, 0xF67F_FFFF, 0xFFFF_FFFC, 0x0001_0000, 0x8000_0000,
)  # fmt: skip
DESCRIPTORS = (
    0x00CF_BB00_0000_FFFF, 0x00CF_B300_0000_FFFF, 0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF,
    0x008F_B300_0000_FFFF, 0x004F_F700_0000_0000, 0x40CF_B300_0000_FFFF, 0x00CF_9E00_0000_FFFF,
    0x0000_BB00_0000_FFFF, 0x4000_EC02_E019_0010, 0x4000_AC00_0008_0020, 0x4000_6C00_E019_0000,
)  # fmt: skip


def word(rng: random.Random) -> int:
    return rng.choice(VALUES) if rng.random() < 0.8 else rng.getrandbits(32)


def piece(rng: random.Random, code: int) -> str:
    """A few instructions; ``code`` is where the program begins."""
    selector, value = rng.choice(SELECTORS), word(rng)
    target = code + rng.randrange(256) if rng.random() < 0.7 else value
    flags = rng.choice((0x202, 0x2, 0x302, 0x23202, 0x3202, 0x4202, 0x10202, 0x40202))
    register = rng.choice(("ds", "es", "fs", "gs", "ss"))
    return rng.choice(
        (
            f"mov eax, {selector:#x}\n mov {register}, eax",
            f"push {selector:#x}\n push {target:#x}\n retf",
            f"push {rng.choice(SELECTORS):#x}\n push {value:#x}\n push {flags:#x}\n"
            f"push {selector:#x}\n push {target:#x}\n iretd",
            f"push {rng.choice(SELECTORS):#x}\n push {value:#x}\n push {flags:#x}\n"
            f"push {selector:#x}\n push {target:#x}\n push 0\n mov eax, 23\n int 0x82",
            f"mov eax, {rng.randrange(60)}\n mov ebx, {value:#x}\n mov ecx, {word(rng):#x}\n"
            f"mov edx, {word(rng):#x}\n mov esi, {word(rng):#x}\n int 0x82",
            f"push {flags:#x}\n popfd",
            f".byte {rng.choice((0x9A, 0xEA)):#x}\n .long {value:#x}\n .word {selector:#x}",
            f"mov eax, {value:#x}\n .byte 0xff, {rng.choice((0x18, 0x28, 0x58, 0x1C)):#x}, 0x24",
            f"int {rng.choice((3, 4, 6, 13, 14, 0x80, 0x81, 0x82, 0xFF)):#x}",
            rng.choice(
                ("syscall", "sysenter", "hlt", "cli", "sti", "clts", "wbinvd", "ud2", "int3")
            ),
            rng.choice(("in al, dx", "out dx, eax", "rep insb", "rep outsd", "rdtsc", "rdmsr")),
            f"mov eax, {value:#x}\n mov cr{rng.choice((0, 2, 3, 4))}, eax",
            f"mov eax, {value:#x}\n mov dr{rng.choice((0, 6, 7))}, eax",
            f"mov esp, {value:#x}",
            f"mov eax, {value:#x}\n mov dword ptr [eax], {word(rng):#x}",
            f"mov eax, {value:#x}\n jmp eax",
            f"lldt ax\n ltr ax\n mov eax, {value:#x}\n lgdt [eax]",
            f"mov ecx, {rng.choice((3, 0x1000, 0xFFFF_FFFF)):#x}\n mov edi, {value:#x}\n rep stosd",
            ".byte " + ", ".join(str(rng.randrange(256)) for _ in range(rng.randrange(1, 6))),
        )
    )


def program(hv: Hypervisor, rng: random.Random) -> None:
    """One domain, one program; every trap goes into the program again, in one ring or another."""
    code = 0x4000_0000
    text = "start:\n" + "\n".join(piece(rng, code) for _ in range(rng.randrange(4, 24)))
    tiny = Tiny32(text, hv)
    domain = tiny.domain
    if rng.random() < 0.7:
        assert tiny.gdt(*rng.choices(DESCRIPTORS, k=6)) == 0
    for vector in (*range(20), 0x80, 0x81, 0xFF):
        if rng.random() < 0.9:
            cs = CS1 if rng.random() < 0.8 else rng.choice(SELECTORS)
            where = VA(code + rng.randrange(200))
            domain.trap_table[vector] = TrapEntry(cs, where, rng.randrange(4), rng.random() < 0.3)
    domain.event_callback = Callback(VA(code + rng.randrange(64)), False, CS1)
    if rng.random() < 0.1:
        domain.kernel_ss = rng.choice(SELECTORS)
    if rng.random() < 0.4:
        tiny.go_user("start")
    domain.iopl = rng.choice((0, 0, 1, 3))
    for _ in range(12):
        hv.run(60)
        if domain.state is State.BLOCKED:
            hv.scheduler.wake(domain)
        if domain.exit is not None:
            break
        assert hv.current is domain
        assert tiny.cpu.cpl in (1, 2, 3), text
        assert tiny.cpu.bits in (16, 32), text
        assert tiny.words[RIP] < 1 << 32, text
    assert audit(hv) == [], text
    if domain.exit is None:
        hv.crash(domain, "the program is over")
    hv.reap()
    assert not hv.domains


def attack(seed: int, programs: int) -> None:
    rng = random.Random(seed)
    hv = Hypervisor(Settings(machine_memory=4 << 20, slice=1000))
    free = hv.frames.free
    for _ in range(programs):
        program(hv, rng)
    assert hv.frames.free == free


@pytest.mark.parametrize("seed", range(4))
def test_random_code(seed: int) -> None:
    attack(seed, 25)


if __name__ == "__main__":
    for n in range(int(sys.argv[1]), 1 << 30):
        attack(n, int(sys.argv[2]))
        print("seed", n, "survived", flush=True)
