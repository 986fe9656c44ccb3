"""Formats against values written out by hand from the manual."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu import paging
from emu.descriptors import GATE64, SEGMENT, SELECTOR, SYSTEM_SEGMENT64
from emu.paging import (
    CR0,
    CR4,
    DR6,
    DR7,
    EFER,
    LARGE_L2E,
    PF_ERROR,
    PTE,
    PTE_NX,
    PTE_P,
    PTE_PSE,
    PTE_RW,
    RFLAGS,
    SELECTOR_ERROR,
    PagingMode,
    canonical,
    describe_entry,
    is_leaf,
    layout_of,
    make_pte,
    pte_mfn,
    reserved_mask,
    table_index,
    va_from_indices,
)
from emu.units import MFN, is_canonical


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PTE_P", 1 << 0),
        ("PTE_RW", 1 << 1),
        ("PTE_US", 1 << 2),
        ("PTE_PWT", 1 << 3),
        ("PTE_PCD", 1 << 4),
        ("PTE_A", 1 << 5),
        ("PTE_D", 1 << 6),
        ("PTE_PAT", 1 << 7),
        ("PTE_PSE", 1 << 7),
        ("PTE_G", 1 << 8),
        ("PTE_AVL", 0xE00),
        ("PTE_PAT_LARGE", 1 << 12),
        ("PTE_MFN_MASK", 0x0000_00FF_FFFF_F000),
        ("PTE_NX", 1 << 63),
        ("CR0_WP", 1 << 16),
        ("CR0_PG", 1 << 31),
        ("CR4_PAE", 1 << 5),
        ("CR4_SMEP", 1 << 20),
        ("CR4_SMAP", 1 << 21),
        ("EFER_LMA", 1 << 10),
        ("EFER_NXE", 1 << 11),
        ("RFLAGS_TF", 1 << 8),
        ("RFLAGS_IF", 1 << 9),
        ("RFLAGS_IOPL", 3 << 12),
        ("RFLAGS_NT", 1 << 14),
        ("RFLAGS_AC", 1 << 18),
        ("PF_P", 1),
        ("PF_W", 2),
        ("PF_U", 4),
        ("PF_RSVD", 8),
        ("PF_I", 16),
        ("PF_PK", 32),
    ],
)
def test_masks(name: str, value: int) -> None:
    assert getattr(paging, name) == value


def test_entries_describe_themselves() -> None:
    assert PTE.describe(0x1234467) == "P RW US A D AVL=0x2 MFN=0x1234"
    assert PTE.describe(1 << 63 | 1 << 40 | 1) == "P MFN=0x0 NX reserved=0x10000000000"
    assert describe_entry(0, 1) == "not present"
    assert describe_entry(0xBEE0, 1) == "not present (software value 0xbee0)"
    assert describe_entry(0x40_10E7, 2) == "P RW US A D PSE PAT MFN=0x400"
    assert describe_entry(0x40_2067, 2).endswith("MFN=0x402")
    assert describe_entry(0x20_2081, 2) == "P PSE MFN=0x200 reserved=0x2000"
    assert describe_entry(0x1087, 4) == "P RW US MFN=0x1 reserved=0x80"
    assert describe_entry(0x1003, 3, PagingMode.PAE) == "P MFN=0x1 reserved=0x2"


def test_large_frames_are_frame_numbers() -> None:
    assert LARGE_L2E.get(0x60_0087, "MFN") == 0x600
    assert LARGE_L2E.encode(P=1, PSE=1, MFN=0x600) == 0x60_0081
    with pytest.raises(ValueError, match="MFN"):
        LARGE_L2E.encode(MFN=0x601)


@pytest.mark.parametrize(
    ("entry", "level", "mode", "nxe", "mask"),
    [
        (PTE_P, 1, PagingMode.LEVELS4, True, 0x000F_FF00_0000_0000),
        (PTE_P, 1, PagingMode.LEVELS4, False, 0x800F_FF00_0000_0000),
        (PTE_P, 2, PagingMode.LEVELS4, True, 0x000F_FF00_0000_0080),
        (PTE_P | PTE_PSE, 2, PagingMode.LEVELS4, True, 0x000F_FF00_001F_E000),
        (PTE_P | PTE_PSE, 3, PagingMode.LEVELS4, True, 0x000F_FF00_3FFF_E000),
        (PTE_P, 4, PagingMode.LEVELS4, True, 0x000F_FF00_0000_0080),
        (PTE_P, 5, PagingMode.LEVELS5, True, 0x000F_FF00_0000_0080),
        (PTE_P, 1, PagingMode.PAE, True, 0x7FFF_FF00_0000_0000),
        (PTE_P, 1, PagingMode.PAE, False, 0xFFFF_FF00_0000_0000),
        (PTE_P, 3, PagingMode.PAE, True, 0xFFFF_FF00_0000_01E6),
    ],
)
def test_reserved_bits(entry: int, level: int, mode: PagingMode, nxe: bool, mask: int) -> None:
    assert reserved_mask(entry, level, mode, nxe=nxe) == mask


def test_leaves() -> None:
    assert is_leaf(PTE_P, 1)
    assert [is_leaf(PTE_P | PTE_PSE, level) for level in (2, 3, 4, 5)] == [True, True, False, False]
    assert not is_leaf(PTE_P, 2)
    assert not is_leaf(PTE_P | PTE_PSE, 3, PagingMode.PAE)
    assert layout_of(PTE_P | PTE_PSE, 2) is LARGE_L2E


def test_make_pte() -> None:
    entry = make_pte(MFN(0x1234), PTE_P | PTE_RW | PTE_NX)
    assert entry == 0x8000_0000_0123_4003
    assert pte_mfn(entry) == 0x1234
    for mfn, flags in ((1 << 28, 0), (-1, 0), (1, 0x1000)):
        with pytest.raises(ValueError, match="is not an entry"):
            make_pte(MFN(mfn), flags)


def test_indices_of_an_address() -> None:
    va = 0xFFFF_8000_4020_1ABC
    assert [table_index(va, level) for level in (4, 3, 2, 1)] == [256, 1, 1, 1]
    assert va_from_indices([256, 1, 1, 1], 0xABC) == va
    assert va_from_indices([3, 511, 511], 0xFFF) == 0xFFFF_FFFF
    assert va_from_indices([256, 0, 0, 0, 0]) == 0xFF00_0000_0000_0000


@given(st.lists(st.integers(0, 511), min_size=4, max_size=5), st.integers(0, 4095))
def test_indices_round_trip(indices: list[int], offset: int) -> None:
    va = va_from_indices(indices, offset)
    assert [table_index(va, level) for level in range(len(indices), 0, -1)] == indices
    assert va & 0xFFF == offset
    assert canonical(va, 48 if len(indices) == 4 else 57) == va
    assert len(indices) == 5 or is_canonical(va)


@pytest.mark.parametrize("bad", [[1, 2], [0] * 6, [512, 0, 0, 0], [0, 0, 0, -1], [4, 0, 0]])
def test_wrong_indices_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="ind"):
        va_from_indices(bad)


def test_registers_describe_themselves() -> None:
    assert CR0.describe(0x8001_0033) == "PE MP ET NE WP PG"
    assert CR4.describe(0x0010_06A0) == "PAE PGE OSFXSR OSXMMEXCPT SMEP"
    assert EFER.describe(0xD01) == "SCE LME LMA NXE"
    assert RFLAGS.describe(0x3246) == "PF ZF IF IOPL=0x3"
    assert RFLAGS.describe(0) == "missing=0x2"
    assert PF_ERROR.describe(0x15) == "P U I"
    assert SELECTOR_ERROR.describe(14 * 8 + 2) == "IDT INDEX=0xe"
    assert DR6.describe(0xFFFF_4FF0) == "BS"
    assert DR7.describe(0x000D_0402) == "G0 RW0=write LEN0=4"


def test_descriptors() -> None:
    assert (
        SEGMENT.encode(LIMIT=0xFFFFF, TYPE=11, S=1, DPL=3, P=1, L=1, G=1) == 0x00AF_FB00_0000_FFFF
    )
    assert SEGMENT.get(0x12CF_9334_5678_FFFF, "BASE") == 0x1234_5678
    assert SYSTEM_SEGMENT64.encode(BASE=0xFFFF_8000_1234_5678, LIMIT=0x67, TYPE=9, P=1) == (
        0xFFFF_8000 << 64 | 0x1200_8934_5678_0067
    )
    gate = GATE64.encode(OFFSET=0xFFFF_8000_1234_5678, SELECTOR=0x10, IST=1, TYPE=14, P=1)
    assert gate == 0xFFFF_8000 << 64 | 0x1234_8E01_0010_5678
    assert SELECTOR.describe(0xE033) == "RPL=0x3 INDEX=0x1c06"
