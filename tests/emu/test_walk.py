"""The walk and the enumeration of mappings over a fake memory; the real MMU has its own file."""

import pytest

from emu.mappings import fold, iter_mappings
from emu.paging import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_SMAP,
    EFER_LMA,
    EFER_NXE,
    PTE_A,
    PTE_D,
    PTE_NX,
    PTE_P,
    PTE_PSE,
    PTE_RW,
    PTE_US,
    RFLAGS_AC,
    PagingMode,
    va_from_indices,
)
from emu.units import MA, VA
from emu.walk import (
    FETCH,
    READ,
    USER_FETCH,
    USER_READ,
    USER_WRITE,
    WRITE,
    Access,
    Controls,
    FaultReason,
    walk,
)

ALL = PTE_P | PTE_RW | PTE_US
CR3 = 1 << 12


class FakeMemory:
    """64 frames, of which only what was written is not zero."""

    frames = 64

    def __init__(self) -> None:
        self.words: dict[int, int] = {}
        self.reads = 0

    def read_u64(self, address: MA) -> int:
        assert address >> 12 < self.frames, "read outside memory"
        assert address % 8 == 0
        self.reads += 1
        return self.words.get(address, 0)

    def put(self, frame: int, index: int, entry: int) -> None:
        self.words[frame * 4096 + index * 8] = entry


@pytest.fixture
def memory() -> FakeMemory:
    """Frames 1 to 4 are the tables L4 to L1 of address 0; the page is frame 5."""
    memory = FakeMemory()
    for frame in (1, 2, 3, 4):
        memory.put(frame, 0, (frame + 1) << 12 | ALL)
    return memory


def test_a_walk_keeps_its_path(memory: FakeMemory) -> None:
    result = walk(memory, CR3, VA(0x123), access=USER_WRITE)
    assert result.fault is None
    assert (result.ma, result.mfn, result.page_size) == (0x5123, 5, 4096)
    assert [(step.level, step.table, step.index) for step in result.steps] == [
        (4, 1, 0),
        (3, 2, 0),
        (2, 3, 0),
        (1, 4, 0),
    ]
    assert result.leaf == result.steps[-1]
    assert result.sets_accessed == (0x1000, 0x2000, 0x3000, 0x4000)
    assert result.sets_dirty == 0x4000
    assert str(result.rights) == "rwx user"
    assert walk(memory, CR3, VA(0x123), access=USER_READ).sets_dirty is None


def test_bits_already_set_are_not_set_again(memory: FakeMemory) -> None:
    for frame in (1, 2, 3):
        memory.put(frame, 0, (frame + 1) << 12 | ALL | PTE_A)
    memory.put(4, 0, 5 << 12 | ALL | PTE_A | PTE_D)
    result = walk(memory, CR3, VA(0), access=WRITE)
    assert (result.sets_accessed, result.sets_dirty) == ((), None)
    assert walk(memory, CR3, VA(0), access=READ).sets_dirty is None


def test_explain_names_every_bit_and_the_reason(memory: FakeMemory) -> None:
    memory.put(3, 0, 4 << 12 | PTE_P | PTE_US | PTE_A)
    text = walk(memory, CR3, VA(8), access=USER_WRITE).explain()
    assert text.splitlines() == [
        "walk of 0x0000000000000008 (user write; LEVELS4, CR3 0x1000)",
        "  L4[0x000] at 0x1000 (frame 0x1) = 0x0000000000002007  P RW US MFN=0x2",
        "  L3[0x000] at 0x2000 (frame 0x2) = 0x0000000000003007  P RW US MFN=0x3",
        "  L2[0x000] at 0x3000 (frame 0x3) = 0x0000000000004025  P US A MFN=0x4",
        "  L1[0x000] at 0x4000 (frame 0x4) = 0x0000000000005007  P RW US MFN=0x5",
        "  => #PF error 0x7 (P W U): L2 entry 0x0 of frame 0x3 is read-only (RW clear)",
    ]
    good = walk(memory, CR3, VA(8)).explain().splitlines()[-1]
    assert good == "  => machine address 0x5008, frame 0x5, 4 KiB page, r-x user"


@pytest.mark.parametrize(
    ("access", "flags", "controls", "reason", "code"),
    [
        (READ, 0, Controls(), FaultReason.NOT_PRESENT, 0x0),
        (USER_FETCH, 0, Controls(), FaultReason.NOT_PRESENT, 0x14),
        (USER_FETCH, 0, Controls(nxe=False), FaultReason.NOT_PRESENT, 0x4),
        (FETCH, 0, Controls(nxe=False, smep=True), FaultReason.NOT_PRESENT, 0x10),
        (USER_READ, PTE_P, Controls(), FaultReason.SUPERVISOR, 0x5),
        (USER_WRITE, PTE_P | PTE_US, Controls(wp=False), FaultReason.READ_ONLY, 0x7),
        (WRITE, PTE_P, Controls(), FaultReason.READ_ONLY, 0x3),
        (FETCH, PTE_P | PTE_NX, Controls(), FaultReason.NO_EXECUTE, 0x11),
        (READ, PTE_P | PTE_NX, Controls(nxe=False), FaultReason.RESERVED, 0x9),
        (USER_READ, ALL | 1 << 45, Controls(), FaultReason.RESERVED, 0xD),
        (FETCH, ALL, Controls(smep=True), FaultReason.SMEP, 0x11),
        (READ, ALL, Controls(smap=True), FaultReason.SMAP, 0x1),
        (READ, ALL | 3 << 59, Controls(pke=True, pkru=1 << 6), FaultReason.PROTECTION_KEY, 0x21),
        (WRITE, ALL | 3 << 59, Controls(pke=True, pkru=2 << 6), FaultReason.PROTECTION_KEY, 0x23),
        (USER_WRITE, PTE_P | PTE_US, Controls(pke=True, pkru=1), FaultReason.READ_ONLY, 0x27),
    ],
)
def test_reasons_and_error_codes(
    memory: FakeMemory,
    access: Access,
    flags: int,
    controls: Controls,
    reason: FaultReason,
    code: int,
) -> None:
    memory.put(4, 0, 5 << 12 | flags)
    fault = walk(memory, CR3, VA(0), access=access, controls=controls).fault
    assert fault is not None
    assert (fault.reason, fault.error_code, fault.vector, fault.level) == (reason, code, 14, 1)
    assert "L1 entry 0x0 of frame 0x4" in fault.sentence


@pytest.mark.parametrize(
    ("access", "flags", "controls"),
    [
        (WRITE, PTE_P, Controls(wp=False)),
        (READ, ALL, Controls(smap=True, ac=True)),
        (FETCH, PTE_P, Controls(smep=True, smap=True)),
        (WRITE, ALL | 3 << 59, Controls(wp=False, pke=True, pkru=2 << 6)),
        (READ, PTE_P, Controls(pke=True, pkru=1)),
        (FETCH, ALL, Controls(pke=True, pkru=1)),
    ],
)
def test_what_is_allowed(
    memory: FakeMemory, access: Access, flags: int, controls: Controls
) -> None:
    memory.put(4, 0, 5 << 12 | flags)
    assert walk(memory, CR3, VA(0), access=access, controls=controls).ma == 0x5000


def test_a_denied_access_marks_only_the_upper_levels(memory: FakeMemory) -> None:
    memory.put(4, 0, 5 << 12 | PTE_P)
    result = walk(memory, CR3, VA(0), access=WRITE)
    assert result.sets_accessed == (0x1000, 0x2000, 0x3000)
    assert result.sets_dirty is None
    assert result.page_size == 4096


def test_a_table_outside_memory_reads_as_zero(memory: FakeMemory) -> None:
    memory.put(2, 0, 64 << 12 | ALL)
    fault = walk(memory, CR3, VA(0)).fault
    assert fault is not None
    assert (fault.reason, fault.level) == (FaultReason.NOT_PRESENT, 2)
    assert "outside memory" in fault.sentence
    assert walk(memory, 99 << 12, VA(0)).fault is not None


@pytest.mark.parametrize(
    ("va", "mode"),
    [
        (1 << 47, PagingMode.LEVELS4),
        (0xFFFF_7FFF_FFFF_FFFF, PagingMode.LEVELS4),
        (1 << 56, PagingMode.LEVELS5),
        (1 << 32, PagingMode.PAE),
        (-1, PagingMode.LEVELS4),
    ],
)
def test_non_canonical_is_its_own_reason(memory: FakeMemory, va: int, mode: PagingMode) -> None:
    result = walk(memory, CR3, VA(va), access=USER_WRITE, controls=Controls(mode=mode))
    assert result.fault is not None
    assert (result.fault.reason, result.fault.vector) == (FaultReason.NON_CANONICAL, 13)
    assert (result.fault.error_code, result.fault.level, result.steps) == (0, 0, ())
    assert "#GP" in result.explain()


def test_large_pages(memory: FakeMemory) -> None:
    memory.put(3, 1, 2 << 21 | 1 << 12 | ALL | PTE_PSE)  # PAT is not part of the address
    result = walk(memory, CR3, VA(0x2A_BCDE))
    assert (result.ma, result.page_size) == (0x4A_BCDE, 2 << 20)
    memory.put(2, 1, 1 << 30 | ALL | PTE_PSE)
    result = walk(memory, CR3, VA(0x4012_3456))
    assert (result.ma, result.page_size) == (0x4012_3456, 1 << 30)
    assert "1 GiB page" in result.explain()
    memory.put(1, 1, ALL | PTE_PSE | 2 << 12)
    fault = walk(memory, CR3, va_from_indices([1, 0, 0, 0])).fault
    assert fault is not None
    assert (fault.reason, fault.level) == (FaultReason.RESERVED, 4)


def test_pae(memory: FakeMemory) -> None:
    top = 0x6020
    memory.words[top + 3 * 8] = 3 << 12 | PTE_P
    controls = Controls(mode=PagingMode.PAE)
    result = walk(memory, top | 8, VA(0xC000_0042), access=USER_WRITE, controls=controls)
    assert result.ma == 0x5042
    assert result.sets_accessed == (0x3000, 0x4000)
    memory.words[top + 3 * 8] |= PTE_RW
    fault = walk(memory, top, VA(0xC000_0042), controls=controls).fault
    assert fault is not None
    assert (fault.reason, fault.vector, fault.level) == (FaultReason.RESERVED, 13, 3)


def test_a_linear_mapping_walks_to_the_tables_and_marks_each_entry_once(
    memory: FakeMemory,
) -> None:
    memory.put(1, 510, 1 << 12 | ALL)
    result = walk(memory, CR3, va_from_indices([510, 510, 510, 510]), access=WRITE)
    assert result.ma == 0x1000
    assert result.sets_accessed == (0x1000 + 510 * 8,)
    assert result.sets_dirty == 0x1000 + 510 * 8


def test_no_paging(memory: FakeMemory) -> None:
    result = walk(memory, 0, VA(0x1234), controls=Controls(mode=PagingMode.OFF))
    assert (result.ma, result.steps) == (0x1234, ())
    assert "no paging" in result.explain()


def test_controls_from_registers() -> None:
    paged = CR0_PE | CR0_PG
    long = EFER_LMA | EFER_NXE
    assert Controls.from_registers(CR0_PE, 0, 0).mode is PagingMode.OFF
    assert Controls.from_registers(paged | CR0_WP, CR4_PAE, long) == Controls()
    assert Controls.from_registers(paged, CR4_PAE | CR4_LA57, long).mode is PagingMode.LEVELS5
    assert Controls.from_registers(paged, CR4_PAE, EFER_NXE).mode is PagingMode.PAE
    smap = Controls.from_registers(paged, CR4_PAE | CR4_SMAP, EFER_LMA, RFLAGS_AC)
    assert (smap.smap, smap.ac, smap.nxe, smap.wp) == (True, True, False, False)
    with pytest.raises(ValueError, match="without PAE"):
        Controls.from_registers(paged, 0, 0)


def test_an_access_is_not_both_write_and_fetch() -> None:
    with pytest.raises(ValueError, match="not both"):
        Access(write=True, fetch=True)


# --- Enumeration ---------------------------------------------------------------------------


def test_mappings_in_order_with_the_rights_of_all_levels(memory: FakeMemory) -> None:
    memory.put(4, 1, 6 << 12 | PTE_P | PTE_NX)
    memory.put(3, 1, 1 << 21 | ALL | PTE_PSE)
    memory.put(1, 511, 2 << 12 | PTE_P | PTE_RW)
    found = [
        (item.va, item.level, item.mfn, str(item.rights)) for item in iter_mappings(memory, CR3)
    ]
    low = [(0, 1, 5, "rwx user"), (0x1000, 1, 6, "r-- supervisor"), (0x20_0000, 2, 512, "rwx user")]
    high = 0xFFFF_FF80_0000_0000
    assert found[:3] == low
    assert [item[0] for item in found[3:]] == [high, high + 0x1000, high + 0x20_0000]
    assert [item[3] for item in found[3:]] == ["rwx supervisor", "r-- supervisor", "rwx supervisor"]


def test_every_mapping_agrees_with_the_walk(memory: FakeMemory) -> None:
    memory.put(1, 300, 1 << 12 | ALL)  # a linear mapping
    memory.put(4, 9, 7 << 12 | PTE_P | PTE_RW)
    found = list(iter_mappings(memory, CR3))
    assert len(found) == 2 + 4  # leaves, and the four tables through slot 300
    for item in found:
        result = walk(memory, CR3, item.va)
        assert result.leaf is not None
        assert (result.mfn, result.rights, result.leaf.address) == (
            item.mfn,
            item.rights,
            item.address,
        )
    assert [item.mfn for item in iter_mappings(memory, CR3, skip_slots={300})] == [5, 7]


@pytest.mark.parametrize(
    ("start", "end", "pages"),
    [
        (0x1000, 0x3000, [1, 2]),
        (0x1FFF, 0x2000, [1]),
        (0x1FFF, 0x2001, [1, 2]),
        (0x5000, 1 << 64, []),
    ],
)
def test_a_range_restricts_the_search(
    memory: FakeMemory, start: int, end: int, pages: list[int]
) -> None:
    for page in range(5):
        memory.put(4, page, 5 << 12 | ALL)
    found = iter_mappings(memory, CR3, start=start, end=end)
    assert [item.va >> 12 for item in found] == pages


def test_a_malformed_entry_is_shown_and_not_followed(memory: FakeMemory) -> None:
    memory.put(3, 0, 4 << 12 | ALL | 1 << 45)
    (item,) = iter_mappings(memory, CR3)
    assert (item.level, item.reserved, item.size) == (2, 1 << 45, 2 << 20)


def test_limit_and_tables_outside_memory(memory: FakeMemory) -> None:
    for page in range(5):
        memory.put(4, page, 5 << 12 | ALL)
    memory.put(3, 1, 64 << 12 | ALL)
    assert len(list(iter_mappings(memory, CR3))) == 5
    assert len(list(iter_mappings(memory, CR3, limit=3))) == 3
    assert list(iter_mappings(memory, 99 << 12)) == []


def test_a_tree_of_nothing_but_self_references_ends_soon() -> None:
    memory = FakeMemory()
    for slot in range(512):
        for frame in (1, 2, 3):
            memory.put(frame, slot, (frame + 1) << 12 | ALL)
    assert list(iter_mappings(memory, CR3)) == []
    assert memory.reads <= 4 * 512


def test_pae_mappings(memory: FakeMemory) -> None:
    memory.words[0x6020 + 3 * 8] = 3 << 12 | PTE_P
    (item,) = iter_mappings(memory, 0x6020, controls=Controls(mode=PagingMode.PAE))
    assert (item.va, item.mfn, str(item.rights)) == (0xC000_0000, 5, "rwx user")


def test_fold(memory: FakeMemory) -> None:
    for page, (mfn, flags) in enumerate(
        [(5, ALL), (6, ALL), (9, ALL), (10, PTE_P), (11, PTE_P), (0, 0), (12, PTE_P)]
    ):
        memory.put(4, page, mfn << 12 | flags)
    exact = fold(iter_mappings(memory, CR3))
    assert [(item.va, item.mfn, item.pages) for item in exact] == [
        (0, 5, 2),
        (0x2000, 9, 1),
        (0x3000, 10, 2),
        (0x6000, 12, 1),
    ]
    loose = fold(iter_mappings(memory, CR3), contiguous=False)
    assert [(item.va, item.size) for item in loose] == [
        (0, 0x3000),
        (0x3000, 0x2000),
        (0x6000, 0x1000),
    ]
    assert list(fold([])) == []
