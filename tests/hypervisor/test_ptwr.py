"""Direct writes to L1 tables: what is emulated does exactly what the CPU does to plain memory."""

import random

import pytest

from emu.asm import assemble_bytes
from emu.cpu import DS, FS, RAX, RBX, RCX, RDI, RDX, RSI, RSP, SS
from emu.disasm import disassemble
from emu.paging import RFLAGS, RFLAGS_TF
from emu.trap import DB, PF
from emu.units import ENTRIES, PAGE_SHIFT
from hypervisor.abi import VmAssist
from hypervisor.audit import audit
from hypervisor.stores import compute, decode
from tests.hypervisor.handmade import RO, RW
from tests.hypervisor.tiny import DATA, SPARE, Tiny

WORD = 256
"""Index of the word that is written; the entries there map nothing."""
INSTRUCTIONS = [
    *("mov [rdi], rcx", "mov [rdi], ecx", "mov [rdi + 6], cx", "mov [rdi + 3], ch"),
    *("mov qword ptr [rdi], -2", "mov dword ptr [rdi + 4], 0x12345678", "mov word ptr [rdi], 4"),
    *("mov byte ptr [rdi + 1], 5", "xchg [rdi], rcx", "xchg [rdi + 4], ecx", "xchg [rdi + 2], ah"),
    *("lock cmpxchg [rdi], rcx", "cmpxchg [rdi + 4], ecx", "cmpxchg [rdi + 1], dl"),
    *("lock xadd [rdi], rcx", "xadd [rdi + 2], cx", "lock and [rdi], rcx", "or [rdi], ecx"),
    *("add [rdi], rcx", "adc [rdi + 4], ecx", "sub [rdi + 2], cx", "sbb [rdi], rcx"),
    *("xor [rdi], rdx", "sub byte ptr [rdi + 7], 0x81", "adc dword ptr [rdi], -3"),
    *("inc word ptr [rdi + 6]", "dec dword ptr [rdi + 4]", "not word ptr [rdi + 2]"),
    "neg qword ptr [rdi]",
    *("bts qword ptr [rdi], 63", "lock btr dword ptr [rdi], 5", "btc word ptr [rdi], 9"),
    *("movnti [rdi], rcx", "stosq", "rep stosd", "std\n stosw", "movsq", "stosb"),
    "movsx rcx, cl\n or rcx, 1\n bts [rdi], rcx",
    "mov r9, -8\n mov [rdi + r9 * 8 + 64], rcx",
    "lea r13, [rdi - 0x12345678]\n mov [r13 + 0x12345678], rdx",
    "mov r12d, edi\n mov [r12d], rcx",
    *("shl qword ptr [rdi], 1", "sal dword ptr [rdi + 4], cl", "shr qword ptr [rdi], cl"),
    *("sar qword ptr [rdi], 17", "sar byte ptr [rdi + 7], 3", "shl word ptr [rdi + 2], 5"),
    *("rol qword ptr [rdi], cl", "ror dword ptr [rdi], 9", "rol byte ptr [rdi + 5], 1"),
    *("shr dword ptr [rdi], 1", "ror qword ptr [rdi], 1"),
    *("shld [rdi], rdx, 13", "shrd [rdi], rdx, cl", "shld [rdi + 4], edx, cl"),
    *("shrd [rdi], dx, 5", "movbe [rdi], rcx", "movbe [rdi + 4], edx", "movbe [rdi + 2], cx"),
    *("lock cmpxchg8b [rdi]", "cmpxchg8b [rdi]"),
    *("pop qword ptr [rdi]", "pop word ptr [rdi + 2]", "seto [rdi]", "setbe [rdi + 3]"),
    *("setl [rdi + 1]", "setnle [rdi + 7]", "setnp [rdi + 5]", "sets [rdi + 4]"),
]  # fmt: skip
ARITHMETIC = RFLAGS.mask("CF", "PF", "AF", "ZF", "SF", "OF")
UNDEFINED = (
    {name: RFLAGS.mask("AF") for name in ("and", "or", "xor")}
    | {name: ARITHMETIC & ~RFLAGS.mask("CF", "ZF") for name in ("bts", "btr", "btc")}
    | {
        name: RFLAGS.mask("AF", "OF")
        for name in ("shl", "sal", "shr", "sar", "rol", "ror", "rcl", "rcr", "shld", "shrd")
    }
)
BODY = "\n mov rbx, 9\n jmp done\nh: mov rbx, 1\n jmp done\nstep: mov rbx, 2\n jmp done"


def started(text: str, assist: bool = True) -> Tiny:
    """A domain about to run ``text``, its L1 table mapped read-only as the spare page."""
    tiny = Tiny(text + BODY)
    tiny.trap(PF, "h")
    tiny.update(SPARE, tiny.space.l1 << PAGE_SHIFT | RO)
    if assist:
        tiny.domain.vm_assist = 1 << VmAssist.writable_pagetables
    return tiny


def name_of(text: str) -> str:
    """The instruction in the last line, without LOCK; ``rep`` for one that is repeated."""
    words = text.rpartition("\n")[2].split()
    return words[1] if words[0] == "lock" else words[0]


def results(tiny: Tiny, page: int, seed: int, text: str) -> tuple[list[int], list[int], int, bytes]:
    """Run on the word in ``page``: registers, pointers relative to it, flags, memory around."""
    name = name_of(text)
    rng = random.Random(seed)
    words = tiny.words
    target = tiny.va(page) + 8 * WORD
    table = tiny.space.l1 if page == SPARE else tiny.mfn(DATA)
    at = table * ENTRIES + WORD - 8
    for i in range(16):
        tiny.hv.machine.memory.words[at + i] = rng.getrandbits(63) * 2
    words[RAX], words[RCX], words[RDX] = (rng.getrandbits(63) * 2 for _ in range(3))
    if rng.random() < 0.5:
        words[RAX] = tiny.hv.machine.memory.words[at + 8]
        if name == "cmpxchg8b":
            words[RDX] = words[RAX] >> 32
    if name == "rep":
        words[RAX] &= ~1 & (1 << 64) - 1
        words[RCX] = 3
    tiny.cpu.flags = rng.getrandbits(12) & ARITHMETIC | 0x202
    words[RDI], words[RSI] = target, tiny.va(DATA)
    stack = words[RSP]
    tiny.run(40)
    memory = tiny.hv.machine.memory.bytes[at * 8 : (at + 16) * 8].tobytes()
    moved = [words[RDI] - target, words[RSI] - tiny.va(DATA), words[RSP] - stack]
    registers = [words[RAX], words[RCX], words[RDX], words[RBX]]
    undefined = UNDEFINED.get(name, 0)
    if text.endswith(", 1"):
        undefined &= ~RFLAGS.mask("OF")
    flags = tiny.cpu.flags & ARITHMETIC & ~undefined
    return registers, moved, flags, memory


@pytest.mark.parametrize("text", INSTRUCTIONS)
def test_the_same_as_on_plain_memory(text: str) -> None:
    carried = 0
    for seed in range(6):
        plain, table = started(text), started(text)
        plain_result = results(plain, DATA, seed, text)
        result = results(table, SPARE, seed, text)
        assert not table.crashed
        if result[0][3] == 1:
            # Refused: the result would have been a present entry that is not the domain's to have.
            assert any(plain_result[3][i] & 1 for i in range(0, 128, 8))
            assert plain_result[0][3] == 9
            continue
        carried += 1
        assert result == plain_result
        assert table.domain.tally["table_writes"] == (3 if name_of(text) == "rep" else 1)
        assert not audit(table.hv)
    assert carried


@pytest.mark.parametrize("name", ["rcl", "rcr"])
@pytest.mark.parametrize(("register", "size"), [("rax", 8), ("eax", 4), ("ax", 2), ("al", 1)])
def test_rotating_through_carry_as_registers_do(name: str, register: str, size: int) -> None:
    """Unicorn's own RCL and RCR of memory take no carry in; those of registers are right."""
    rng = random.Random(size)
    for count in range(8 * size):
        tiny = Tiny(f"{name} {register}, cl")
        old, carry = rng.getrandbits(8 * size), rng.getrandbits(1)
        tiny.words[RAX], tiny.words[RCX] = old, count
        tiny.cpu.flags = 0x202 | carry
        tiny.run(2)
        undefined = RFLAGS.mask("OF") if count != 1 else 0
        new, flags = compute(name, old, count, size, 0x202 | carry)
        assert new == tiny.words[RAX]
        assert flags & ~undefined == tiny.cpu.flags & ~undefined


def test_an_entry_is_checked_and_counted() -> None:
    tiny = started("mov [rdi], rcx")
    refs = tiny.hv.frames.refs
    mfn = tiny.mfn(DATA)
    before = refs[mfn]
    tiny.words[RDI] = tiny.va(SPARE) + 8 * WORD
    tiny.words[RCX] = mfn << PAGE_SHIFT | RW
    tiny.run(20)
    assert tiny.words[RBX] == 9
    assert refs[mfn] == before + 1
    assert tiny.read(tiny.va(WORD), 8) == tiny.read(tiny.va(DATA), 8)
    assert not audit(tiny.hv)


@pytest.mark.parametrize("entry", [0x7FFF_FFFF_F000 | RW, 0xFFF << 40 | RW, RW, 1 << 62 | RO])
def test_what_is_refused_is_the_fault_that_it_was(entry: int) -> None:
    tiny = started("mov [rdi], rcx")
    tiny.words[RDI] = tiny.va(SPARE) + 8 * WORD
    tiny.words[RCX] = entry
    tiny.run(20)
    assert tiny.words[RBX] == 1
    assert tiny.frame()[2] == 3  # W and P
    assert tiny.frame()[3] == tiny.va(0)
    assert tiny.cr2 == tiny.va(SPARE) + 8 * WORD
    assert tiny.entry(WORD) == 0
    assert not audit(tiny.hv)


def test_a_writable_mapping_of_the_table_itself_is_refused() -> None:
    tiny = started("mov [rdi], rcx")
    tiny.words[RDI] = tiny.va(SPARE) + 8 * SPARE
    tiny.words[RCX] = tiny.space.l1 << PAGE_SHIFT | RW
    tiny.run(20)
    assert tiny.words[RBX] == 1
    assert not audit(tiny.hv)


@pytest.mark.parametrize(
    "text",
    [
        *("mov [rdi + 1], cx", "mov [rdi + 4], rcx", "movups [rdi], xmm0"),
        *("mov [rdi], ss", "fstp qword ptr [rdi]", "lock cmpxchg16b [rdi]", "movq [rdi], mm0"),
        *("movlps [rdi], xmm0", "fnstcw [rdi]", "stmxcsr [rdi]", "pop word ptr [rdi + 1]"),
    ],
)  # fmt: skip
def test_other_stores_fault(text: str) -> None:
    tiny = started(text)
    tiny.words[RDI] = tiny.va(SPARE) + 8 * WORD
    tiny.words[RAX] = tiny.words[RDX] = 0
    tiny.run(20)
    assert tiny.words[RBX] == 1
    assert tiny.entry(WORD) == 0


def test_it_needs_the_assist_or_privilege() -> None:
    for privileged, outcome in ((False, 1), (True, 9)):
        tiny = started("mov [rdi], rcx", assist=False)
        tiny.domain.privileged = privileged
        tiny.words[RDI] = tiny.va(SPARE) + 8 * WORD
        tiny.words[RCX] = 0
        tiny.run(20)
        assert tiny.words[RBX] == outcome


def test_a_store_that_begins_on_the_page_before_faults() -> None:
    tiny = started("mov [rdi], rcx")
    tiny.words[RDI] = tiny.va(SPARE) - 4
    tiny.words[RCX] = 0
    before = tiny.entry(0)
    tiny.run(20)
    assert tiny.words[RBX] == 1
    assert tiny.entry(0) == before


def test_a_frame_of_another_domain_is_refused_even_to_the_privileged() -> None:
    tiny = started("mov [rdi], rcx", assist=False)
    tiny.domain.privileged = True
    other = tiny.hv.create_domain("other", 8, tiny.domain.console)
    tiny.words[RDI] = tiny.va(SPARE) + 8 * WORD
    tiny.words[RCX] = other.shared_info << PAGE_SHIFT | RO
    tiny.run(20)
    assert tiny.words[RBX] == 1


def test_a_single_step_ends_behind_it() -> None:
    tiny = started("mov [rdi], rcx")
    tiny.trap(DB, "step")
    tiny.words[RDI] = tiny.va(SPARE) + 8 * WORD
    tiny.words[RCX] = 0x1230
    tiny.cpu.flags |= RFLAGS_TF
    tiny.run(20)
    assert tiny.words[RBX] == 2
    assert tiny.entry(WORD) == 0x1230
    assert tiny.frame()[2] == tiny.va(0) + 3


def test_decode_knows_lengths_as_the_disassembler_does() -> None:
    for text in INSTRUCTIONS:
        for line in text.split("\n"):
            code = assemble_bytes(line)
            store = decode(code + bytes(15))
            if store is not None:
                assert store.length == disassemble(code, 0)[0].size == len(code)
            for cut in range(len(code)):
                assert decode(code[:cut]) is None


def test_decode_of_32_bit_code() -> None:
    for text, size, segment in (
        ("mov [ebx + ecx * 4 + 8], eax", 4, DS),
        ("mov [ebp + 8], al", 1, SS),
        ("lock cmpxchg8b [esi]", 8, DS),
        ("mov fs:[eax], ecx", 4, FS),
        ("mov dword ptr [0x12345678], 7", 4, DS),
        ("pop dword ptr [esp + 4]", 4, SS),
        ("xchg [edi], edx", 4, DS),
        ("stosd", 4, DS),
    ):
        code = assemble_bytes(text, bits=32)
        store = decode(code + bytes(15), 32)
        assert store is not None, text
        assert (store.length, store.size, store.segment) == (len(code), size, segment), text
        assert store.address_mask == 0xFFFF_FFFF
    assert decode(b"\x67\x89\x07", 32) is None, "a 16-bit address"
    assert decode(b"\x48\x89\x07", 32) is None, "DEC EAX, and not REX.W"


def test_decode_of_anything_never_fails_and_never_reads_beyond() -> None:
    rng = random.Random(5)
    for _ in range(20000):
        code = rng.randbytes(16)
        for bits in (64, 32):
            store = decode(code, bits)
            if store is not None:
                decoded = disassemble(code, 0, bits, count=1)[0]
                assert decoded.is_bad or decoded.size == store.length, decoded
