"""Property: the software walk says what the real MMU does, for random tables and accesses.

Compared: fault or not, vector, error code, CR2, the word reached, the A and D bits afterwards.

The harness is raw Unicorn, one access at a time and no hypervisor. Its machine is 8 MiB at 0 and
8 MiB at 1 GiB, so that every page size has several bases inside memory. Tables and code are
below 2 MiB; every other 8-byte word is data and holds ``mov eax, <its number>; jmp`` to the
next, so that a read, and a fetch too, says which word was reached.

Where Unicorn departs from the SDM, the walk follows the SDM and ``DISCREPANCIES`` says so, with
a test per row that fails when upstream mends it.
"""

import ctypes
import struct
from dataclasses import dataclass

import numpy as np
import pytest
import unicorn
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from unicorn import x86_const as x86

from emu.descriptors import SEGMENT
from emu.paging import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    PAE_L3E,
    PTE,
    PTE_A,
    PTE_AVL,
    PTE_D,
    PTE_G,
    PTE_HIGH_IGNORED,
    PTE_NX,
    PTE_P,
    PTE_PAT_LARGE,
    PTE_PKEY,
    PTE_PSE,
    PTE_RW,
    PTE_US,
    RFLAGS_AC,
    RFLAGS_FIXED,
    PagingMode,
    va_from_indices,
)
from emu.units import MA, VA
from emu.walk import Access, Controls, FaultReason, Walk, walk

DISCREPANCIES = {
    "1 GiB leaf of a denied access": (
        "Unicorn sets A in a 1 GiB leaf before it judges rights and bits 13..29; for the other "
        "sizes, and as the SDM has it (4.8: when the entry is used in a translation), a denied "
        "access leaves the leaf alone"
    ),
    "fetch ahead": (
        "Unicorn translates a whole block before it runs, so straight-line code that leads into "
        "a page that cannot be fetched faults at the block's start, with CR2 in the next page; "
        "the SDM has the instructions before it complete first"
    ),
    "PAE L3 reserved bits": (
        "the SDM checks the four entries when CR3 is loaded (#GP); Unicorn reads them at each "
        "access, raises #PF with RSVD for bits 40..63 and ignores bits 1, 2 and 5..8"
    ),
}

PTE_HIGH_RESERVED = PTE.reserved
REGION = 8 << 20
HIGH = 1 << 30
DATA = 2 << 20
IA32_EFER = 0xC000_0080

# Frames below DATA. Tables of the address under test, by level; then the harness's own.
PAE_TOP = 0x15020  # the four-entry table need only be 32-byte aligned
TABLES = {1: 0x10, 2: 0x11, 3: 0x12, 4: 0x13, 5: 0x14}
HOME_L4, HOME_L3, HOME_L2, HOME_L1, CODE, GDT, STACK = range(0x20, 0x27)
HOME = 0xFFFF_FF80_0000_0000  # slot 511 of the L4 table, and of the L5 table above it
PAE_HOME = 0xC000_0000  # slot 3 of the L3 table
KERNEL_CODE, USER_CODE, GDT_PAGE, STACK_PAGE = range(0, 0x4000, 0x1000)  # from home
LOAD, STORE, IRET, WRPKRU, LOAD_SS = range(0, 40, 8)
WORD_CODE = 0x9001_EB00_0000_00B8
MARK = 0x5A5A_1234_5678_A5A5

# Load, store, return to CPL 3, write PKRU, load SS: by bitness, each padded to eight bytes.
PROGRAM = {
    64: (b"\x48\x8b\x18", b"\x48\x89\x18", b"\x48\xcf", b"\x0f\x01\xef", b"\x8e\xd0"),
    32: (b"\x8b\x18", b"\x89\x18", b"\xcf", b"\x0f\x01\xef", b"\x8e\xd0"),
}

# Unicorn warns of 64-bit names in 32-bit mode.
REGISTERS = {
    64: (x86.UC_X86_REG_RAX, x86.UC_X86_REG_RBX, x86.UC_X86_REG_RSP),
    32: (x86.UC_X86_REG_EAX, x86.UC_X86_REG_EBX, x86.UC_X86_REG_ESP),
}

# Offsets of fields in the blob of uc_context_save, Unicorn 2.1.4.
BLOB_HEADER, BLOB_ERROR_CODE = 40, 5384


@dataclass
class Outcome:
    vector: int | None
    error_code: int
    cr2: int
    word: int | None  # what a read or a fetch found


class Cpu:
    """One engine of a given model with its memory; in 32-bit mode it pages by PAE."""

    def __init__(self, model: int, bits: int = 64) -> None:
        self.bits = bits
        self.home = HOME if bits == 64 else PAE_HOME
        self.rax, self.rbx, self.rsp = REGISTERS[bits]
        self.low = np.zeros(REGION // 8, dtype=np.uint64)
        self.high = np.zeros(REGION // 8, dtype=np.uint64)
        for words, base in ((self.low, 0), (self.high, HIGH)):
            numbers = np.arange(REGION // 8, dtype=np.uint64) + np.uint64(base // 8)
            words[:] = numbers << np.uint64(8) | np.uint64(WORD_CODE)
        self.low[: DATA // 8] = 0
        self.frames = (HIGH + REGION) >> 12
        mode = unicorn.UC_MODE_64 if bits == 64 else unicorn.UC_MODE_32
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        self.uc.ctl_set_cpu_model(model)
        for words, base in ((self.low, 0), (self.high, HIGH)):
            self.uc.mem_map_ptr(base, REGION, unicorn.UC_PROT_ALL, words.ctypes.data)
        self.vectors: list[int] = []
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        self._build_home()
        self.uc.reg_write(x86.UC_X86_REG_GDTR, (0, self.home + GDT_PAGE, 0x27, 0))
        self.base = self.uc.context_save()

    def _on_interrupt(self, uc: unicorn.Uc, vector: int, _data: object) -> None:
        self.vectors.append(vector)
        uc.emu_stop()

    def _build_home(self) -> None:
        table = PTE_P | PTE_RW | PTE_US | PTE_A
        self.write_u64(TABLES[4] * 4096 + 511 * 8, HOME_L3 << 12 | table)
        self.write_u64(HOME_L4 * 4096 + 511 * 8, HOME_L3 << 12 | table)
        self.write_u64(TABLES[5] * 4096 + 511 * 8, HOME_L4 << 12 | table)
        self.write_u64(HOME_L3 * 4096, HOME_L2 << 12 | table)
        self.write_u64(PAE_TOP + 3 * 8, HOME_L2 << 12 | PTE_P)
        self.write_u64(HOME_L2 * 4096, HOME_L1 << 12 | table)
        # The code has a supervisor's and a user's address, because of SMEP.
        leaf = PTE_P | PTE_RW | PTE_A | PTE_D
        for slot, entry in enumerate(
            (CODE << 12 | leaf, CODE << 12 | leaf | PTE_US, GDT << 12 | leaf, STACK << 12 | leaf)
        ):
            self.write_u64(HOME_L1 * 4096 + slot * 8, entry)
        for slot, instruction in enumerate(PROGRAM[self.bits]):
            word = int.from_bytes(instruction.ljust(8, b"\x90"), "little")
            self.write_u64(CODE * 4096 + slot * 8, word)
        long = self.bits == 64
        code = SEGMENT.encode(LIMIT=0xFFFFF, TYPE=11, S=1, P=1, L=long, DB=not long, G=1)
        data = SEGMENT.encode(LIMIT=0xFFFFF, TYPE=3, S=1, P=1, DB=1, G=1)
        dpl3 = SEGMENT.mask("DPL")
        for slot, descriptor in enumerate((0, code, data, code | dpl3, data | dpl3)):
            self.write_u64(GDT * 4096 + slot * 8, descriptor)
        frame = (self.home + USER_CODE, 0x1B, RFLAGS_FIXED, self.home + STACK_PAGE, 0x23)
        image = struct.pack("<5Q" if long else "<5Ix", *frame).ljust(40, b"\0")
        for slot in range(5):
            (word,) = struct.unpack_from("<Q", image, slot * 8)
            self.write_u64(STACK * 4096 + 0xF00 + slot * 8, word)

    def _place(self, address: int) -> tuple[np.ndarray, int] | None:
        if address < REGION:
            return self.low, address >> 3
        if HIGH <= address < HIGH + REGION:
            return self.high, (address - HIGH) >> 3
        return None

    def read_u64(self, address: MA) -> int:
        place = self._place(address)
        return 0 if place is None else int(place[0][place[1]])

    def write_u64(self, address: int, value: int) -> None:
        place = self._place(address)
        assert place is not None
        place[0][place[1]] = value

    def _step(self, address: int) -> None:
        self.vectors.clear()
        self.uc.emu_start(address, 0, count=1)

    def run(self, cr3: int, va: int, access: Access, controls: Controls) -> Outcome:
        """Do one access and say what happened. The caller restores what a store overwrote."""
        uc = self.uc
        uc.context_restore(self.base)
        cr4 = CR4_PAE | CR4_PKE * controls.pke
        efer = EFER_LME | EFER_LMA if self.bits == 64 else 0
        uc.reg_write(x86.UC_X86_REG_CR3, TABLES[4] << 12 if self.bits == 64 else PAE_TOP)
        uc.reg_write(x86.UC_X86_REG_CR4, cr4)
        uc.msr_write(IA32_EFER, efer)
        cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG
        uc.reg_write(x86.UC_X86_REG_CR0, cr0)
        if controls.pke:
            uc.reg_write(self.rax, controls.pkru)
            self._step(self.home + KERNEL_CODE + WRPKRU)
            assert not self.vectors
        if access.user:
            # Until SS is loaded, the engine takes a 32-bit stack for a 16-bit one.
            uc.reg_write(self.rax, 0x10)
            self._step(self.home + KERNEL_CODE + LOAD_SS)
            uc.reg_write(self.rsp, self.home + STACK_PAGE + 0xF00)
            self._step(self.home + KERNEL_CODE + IRET)
            assert not self.vectors
            assert uc.reg_read(x86.UC_X86_REG_CS) == 0x1B

        cr4 |= CR4_SMEP * controls.smep | CR4_SMAP * controls.smap
        cr4 |= CR4_LA57 * (controls.mode is PagingMode.LEVELS5)
        uc.msr_write(IA32_EFER, efer | EFER_NXE * controls.nxe)
        uc.reg_write(x86.UC_X86_REG_CR0, cr0 | CR0_WP * controls.wp)
        uc.reg_write(x86.UC_X86_REG_CR4, cr4)
        assert uc.reg_read(x86.UC_X86_REG_CR4) == cr4, "this model lacks a feature under test"
        uc.reg_write(x86.UC_X86_REG_CR3, cr3)
        uc.reg_write(x86.UC_X86_REG_EFLAGS, RFLAGS_FIXED | RFLAGS_AC * controls.ac)
        uc.reg_write(self.rax, va)
        uc.reg_write(self.rbx, MARK & (1 << self.bits) - 1)
        home = self.home + (USER_CODE if access.user else KERNEL_CODE)
        if access.fetch:
            self._step(va)
        else:
            self._step(home + (STORE if access.write else LOAD))

        saved = uc.context_save()
        blob = ctypes.string_at(saved.context, saved.size)
        (error_code,) = struct.unpack_from("<i", blob, BLOB_HEADER + BLOB_ERROR_CODE)
        assert len(self.vectors) < 2
        word = None
        if not self.vectors and access.fetch:
            word = uc.reg_read(self.rax) << 8 | WORD_CODE
        elif not self.vectors and not access.write:
            word = uc.reg_read(self.rbx)
        return Outcome(
            vector=self.vectors[0] if self.vectors else None,
            error_code=error_code,
            cr2=uc.reg_read(x86.UC_X86_REG_CR2),
            word=word,
        )


@dataclass(frozen=True)
class Case:
    va: VA
    access: Access
    controls: Controls
    entries: tuple[int, ...]  # along the path of va, top table first


MODELS = {
    "Haswell": x86.UC_CPU_X86_HASWELL,  # no SMAP, no protection keys, no 5-level paging
    "Broadwell": x86.UC_CPU_X86_BROADWELL,
    "Icelake-Server": x86.UC_CPU_X86_ICELAKE_SERVER,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def cpu(model: str) -> Cpu:
    return Cpu(MODELS[model])


# --- Random cases --------------------------------------------------------------------------

LIKELY = st.sampled_from([True, True, True, True, True, True, True, False])
RARELY = LIKELY.map(lambda value: not value)
LOW_FRAMES = st.integers(DATA >> 12, (REGION >> 12) - 1)
LEAF_FRAMES = {
    1: LOW_FRAMES | LOW_FRAMES.map(lambda frame: frame + (HIGH >> 12)),
    2: st.sampled_from([base + slot * 512 for base in (0, HIGH >> 12) for slot in (1, 2, 3)]),
    3: st.sampled_from([0, HIGH >> 12]),
}
# Frames of no memory: between the regions, above them, and the last that 40 bits can name.
NO_FRAMES = st.sampled_from([REGION >> 12, (HIGH + REGION) >> 12, (1 << 28) - 1])
NOISE = st.integers(0, (1 << 64) - 1)


@st.composite
def entries_at(draw: st.DrawFn, level: int) -> int:
    large = level in (2, 3) and draw(st.integers(0, 3)) == 0
    noise = draw(NOISE)
    entry = noise & (PTE_A | PTE_D | PTE_G | PTE_AVL | PTE_PKEY | PTE.mask("IGN"))
    for bit in (PTE_P, PTE_RW, PTE_US):
        entry |= bit * draw(LIKELY)
    entry |= PTE_NX * draw(RARELY)
    if level == 1:
        entry |= noise & PTE.mask("PAT")
        entry |= draw(LEAF_FRAMES[1]) << 12
    elif large:
        entry |= PTE_PSE | noise & PTE_PAT_LARGE | draw(LEAF_FRAMES[level]) << 12
        if draw(RARELY):
            entry |= 1 << draw(st.integers(13, 20 if level == 2 else 29))
    elif draw(RARELY) and draw(RARELY):
        entry |= draw(NO_FRAMES) << 12
    else:
        entry |= TABLES[level - 1] << 12
    if level >= 4 and draw(RARELY) and draw(RARELY):
        entry |= PTE_PSE
    if draw(RARELY) and draw(RARELY):
        entry |= 1 << draw(st.integers(40, 51))
    return entry


@st.composite
def pae_entries_at(draw: st.DrawFn, level: int) -> int:
    if level < 3:
        entry = draw(entries_at(level)) & ~PTE_HIGH_IGNORED
        return entry | (1 << draw(st.integers(52, 62)) if draw(RARELY) else 0)
    entry = draw(NOISE) & (PAE_L3E.mask("PWT", "PCD", "AVL")) | TABLES[2] << 12
    return entry | PTE_P * draw(LIKELY)


@st.composite
def cases(draw: st.DrawFn, model: str, bits: int = 64) -> Case:
    new = model == "Icelake-Server" and bits == 64
    mode = PagingMode.LEVELS5 if new and draw(st.booleans()) else PagingMode.LEVELS4
    if bits == 32:
        mode = PagingMode.PAE
    kind = draw(st.sampled_from(["read", "write", "fetch"]))
    access = Access(write=kind == "write", fetch=kind == "fetch", user=draw(st.booleans()))
    controls = Controls(
        mode=mode,
        wp=draw(st.booleans()),
        nxe=draw(LIKELY),
        smep=draw(st.booleans()),
        smap=model != "Haswell" and draw(st.booleans()),
        ac=draw(st.booleans()),
        pke=new and draw(st.booleans()),
        pkru=draw(st.integers(0, (1 << 32) - 1)),
    )
    # Slot 511 of the top table is the harness's. L2 slots 1..3 keep a 1 GiB page inside memory.
    indices = [draw(st.integers(0, 2 if bits == 32 else 510))]
    if mode is PagingMode.LEVELS5:  # whose L4 table is the top one of the 4-level cases
        indices += [draw(st.integers(0, 510))]
    if mode is not PagingMode.PAE:
        indices += [draw(st.integers(0, 511))]
    indices += [draw(st.integers(1, 3)), draw(st.integers(0, 511))]
    va = va_from_indices(indices, 8 * draw(st.integers(0, 511)))
    if bits == 64 and draw(st.integers(0, 30)) == 0:
        va = VA(va ^ 1 << draw(st.integers(mode.va_bits, 63)))
    make = entries_at if bits == 64 else pae_entries_at
    entries = tuple(draw(make(level)) for level in range(mode.value, 0, -1))
    return Case(va, access, controls, entries)


def top_of(mode: PagingMode) -> int:
    return PAE_TOP if mode is PagingMode.PAE else TABLES[mode.value] << 12


def addresses(case: Case) -> list[MA]:
    """Machine address of the entry at each level, as if every entry led to the next table."""
    top = case.controls.mode.value
    tables = {level: frame << 12 for level, frame in TABLES.items()}
    tables[top] = top_of(case.controls.mode)
    return [
        MA(tables[level] + (case.va >> 12 + 9 * (level - 1) & 511) * 8)
        for level in range(top, 0, -1)
    ]


def accessed_by_quirk(expected: Walk) -> list[MA]:
    """Row "1 GiB leaf of a denied access": entries in which only Unicorn sets A."""
    step = expected.steps[-1] if expected.steps else None
    if expected.fault is None or step is None or step.level != 3 or step.mode is PagingMode.PAE:
        return []
    early = PTE_HIGH_RESERVED if expected.controls.nxe else PTE_HIGH_RESERVED | PTE_NX
    large = step.entry & PTE_P and step.entry & PTE_PSE and not step.entry & early
    return [step.address] if large else []


def check(cpu: Cpu, case: Case) -> Walk:
    """Run one case both ways and compare."""
    places = addresses(case)
    cr3 = top_of(case.controls.mode)
    before = dict(zip(places, case.entries, strict=True))
    assert len(before) == len(case.entries)
    for place, entry in before.items():
        cpu.write_u64(place, entry)
    expected = walk(cpu, cr3, case.va, access=case.access, controls=case.controls)
    assert (expected.ma is None) != (expected.fault is None)
    assert {place: cpu.read_u64(place) for place in places} == before, "the walk wrote"
    target = expected.ma
    content = None if target is None else cpu.read_u64(target)
    try:
        outcome = cpu.run(cr3, case.va, case.access, case.controls)
        after = {place: cpu.read_u64(place) for place in places}
        story = expected.explain()
        if expected.fault is None:
            assert outcome.vector is None, story
            assert target is not None
            assert content is not None
            width = (1 << cpu.bits) - 1
            if case.access.write:
                assert cpu.read_u64(target) & width == MARK & width, story
            elif case.access.fetch:
                assert outcome.word == content, story
            else:
                assert outcome.word == content & width, story
        else:
            assert outcome.vector == expected.fault.vector, story
            assert outcome.error_code == expected.fault.error_code, story
            if outcome.vector == 14:
                assert outcome.cr2 == case.va, story
        for place in (*expected.sets_accessed, *accessed_by_quirk(expected)):
            before[place] |= PTE_A
        if expected.sets_dirty is not None:
            before[expected.sets_dirty] |= PTE_D
        assert after == before, story
    finally:
        for place in places:
            cpu.write_u64(place, 0)
        if target is not None and content is not None:
            cpu.write_u64(target, content)
    return expected


SETTINGS = settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def note_kind(expected: Walk) -> None:
    event(expected.fault.reason.name if expected.fault else f"{expected.page_size} bytes")


@SETTINGS
@given(data=st.data())
def test_walk_agrees_with_the_mmu(cpu: Cpu, model: str, data: st.DataObject) -> None:
    note_kind(check(cpu, data.draw(cases(model))))


@pytest.fixture(scope="module")
def pae_cpu() -> Cpu:
    return Cpu(MODELS["Broadwell"], bits=32)


@SETTINGS
@given(data=st.data())
def test_walk_agrees_with_the_mmu_under_pae(pae_cpu: Cpu, data: st.DataObject) -> None:
    note_kind(check(pae_cpu, data.draw(cases("Broadwell", bits=32))))


# --- One test per row of DISCREPANCIES: it fails when upstream mends it ---------------------

FLAGS = PTE_P | PTE_RW | PTE_US


def set_up(cpu: Cpu, case: Case) -> tuple[list[MA], Walk]:
    places = addresses(case)
    for place, entry in zip(places, case.entries, strict=True):
        cpu.write_u64(place, entry)
    cr3 = top_of(case.controls.mode)
    return places, walk(cpu, cr3, case.va, access=case.access, controls=case.controls)


def test_discrepancy_accessed_bit_of_a_denied_1g_leaf() -> None:
    cpu = Cpu(MODELS["Haswell"])
    for large, quirk in ((True, True), (False, False)):
        l3 = FLAGS & ~PTE_RW | PTE_PSE if large else FLAGS | TABLES[2] << 12
        l2 = FLAGS & ~PTE_RW | PTE_PSE | 0x200 << 12
        case = Case(
            VA(0x20_0000), Access(write=True), Controls(), (FLAGS | TABLES[3] << 12, l3, l2, 0)
        )
        places, expected = set_up(cpu, case)
        leaf = places[1 if large else 2]
        assert expected.fault is not None
        assert leaf not in expected.sets_accessed
        outcome = cpu.run(TABLES[4] << 12, case.va, case.access, case.controls)
        assert outcome.vector == 14
        assert bool(cpu.read_u64(leaf) & PTE_A) is quirk


def test_discrepancy_fetch_ahead() -> None:
    cpu = Cpu(MODELS["Haswell"])
    cpu.low[(DATA + 0xF00) // 8 : (DATA + 0x1000) // 8] = 0x9090_9090_9090_9090
    tables = tuple(FLAGS | TABLES[level] << 12 for level in (3, 2, 1))
    case = Case(VA(0x20_0FF0), Access(fetch=True), Controls(), (*tables, FLAGS | DATA))
    _, expected = set_up(cpu, case)
    assert expected.fault is None
    outcome = cpu.run(TABLES[4] << 12, case.va, case.access, case.controls)
    assert (outcome.vector, outcome.cr2) == (14, 0x20_1000)
    assert cpu.uc.reg_read(x86.UC_X86_REG_RIP) == case.va


@pytest.mark.parametrize(("bit", "vector"), [(1, None), (5, None), (40, 14), (52, 14), (63, 14)])
def test_discrepancy_pae_l3_reserved_bits(pae_cpu: Cpu, bit: int, vector: int | None) -> None:
    entries = (PTE_P | 1 << bit | TABLES[2] << 12, FLAGS | TABLES[1] << 12, FLAGS | DATA)
    controls = Controls(mode=PagingMode.PAE)
    case = Case(VA(0x20_0000), Access(), controls, entries)
    _, expected = set_up(pae_cpu, case)
    assert expected.fault is not None
    assert (expected.fault.reason, expected.fault.vector) == (FaultReason.RESERVED, 13)
    assert pae_cpu.run(PAE_TOP, case.va, case.access, controls).vector == vector
