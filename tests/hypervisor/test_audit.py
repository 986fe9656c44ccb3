"""The audit itself: one wrong thing at a time, put where only a bug could put it, and found.

Every other test trusts an empty list; here each class of violation is made by hand. What is broken
is the record or the table entry directly, past everything that would refuse it.
"""

import pytest

from emu.paging import PTE_MFN_MASK, PTE_RW
from emu.units import ENTRIES, MFN, PAGE_SHIFT
from hypervisor.abi import DomId
from hypervisor.audit import MAX_REPORTED, audit
from hypervisor.frames import ALLOCATED, FREE, PINNED, PageType
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RO, RW, TABLE, Handmade

PAGES = 4
SHARED, PRIVATE, READ_ONLY, LAST = range(PAGES)


class Two:
    """Two domains that share page 0 (equal contents), on a machine with two sharing groups.

    The first also has a page of its own and one that it maps read-only.
    """

    def __init__(self, groups: int = 1) -> None:
        self.hv = Hypervisor(Settings(machine_memory=4 << 20, groups=groups))
        self.one, self.two = (Handmade(self.hv, PAGES) for _ in range(2))
        for guest in (self.one, self.two):
            guest.write(guest.va(SHARED), b"equal")
            assert guest.share(SHARED) >= 0
        assert self.one.update(READ_ONLY, self.one.mfn(READ_ONLY) << PAGE_SHIFT | RO) == 0
        self.frames = self.hv.frames
        assert audit(self.hv) == []

    def store(self, table: MFN, index: int, entry: int) -> None:
        self.hv.machine.memory.words[table * ENTRIES + index] = entry

    def found(self) -> set[int]:
        """Numbers of the invariants that are said to be broken."""
        return {violation.invariant for violation in audit(self.hv)}

    def said(self) -> str:
        return "\n".join(map(str, audit(self.hv)))


@pytest.fixture
def two():
    return Two()


# -- 1: references -----------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["refs", "type_count"])
@pytest.mark.parametrize("by", [-1, 1])
def test_a_count_that_is_off_by_one(two, column, by):
    mfn = two.one.mfn(PRIVATE)
    getattr(two.frames, column)[mfn] += by
    assert two.found() == {1}
    assert f"frame {mfn:#x} (d1, WRITABLE)" in two.said()


def test_an_entry_that_holds_no_reference(two):
    two.store(two.one.space.l1, LAST + 1, two.one.mfn(READ_ONLY) << PAGE_SHIFT | RO)
    assert two.found() == {1}


def test_an_entry_that_went_without_giving_its_reference_back(two):
    two.store(two.one.space.l1, PRIVATE, 0)
    assert two.found() == {1}


def test_an_upper_entry_that_went_without_giving_its_reference_back(two):
    two.store(two.one.space.l2, 0, 0)
    assert 1 in two.found()


def test_a_frame_that_the_machine_does_not_have(two):
    two.store(two.one.space.l1, LAST + 1, two.frames.total << PAGE_SHIFT | RO)
    assert two.found() == {1}
    assert "does not exist" in two.said()


def test_a_pin_without_its_references(two):
    two.frames.flags[two.one.space.l4] &= ~PINNED
    assert two.found() == {1}


def test_a_base_pointer_without_its_references(two):
    two.one.domain.user_table = two.one.space.l4
    assert two.found() == {1}


# -- 2: writable entries -----------------------------------------------------------------------


def test_a_shared_frame_mapped_writable(two):
    two.store(two.one.space.l1, SHARED, two.one.entry(SHARED) | PTE_RW)
    assert 2 in two.found()
    assert "(shared, SHARED)" in two.said()


@pytest.mark.parametrize("what", ["table", "foreign", "xen", "free"])
def test_a_frame_mapped_writable_that_must_not_be(two, what):
    mfn = {
        "table": two.one.space.l2,
        "foreign": two.two.mfn(PRIVATE),
        "xen": two.one.domain.window,
        "free": int(two.frames.owner.index(FREE)),
    }[what]
    two.store(two.one.space.l1, LAST + 1, mfn << PAGE_SHIFT | RW)
    # References that agree do not make it right.
    two.frames.refs[mfn] += 1
    two.frames.type_count[mfn] += 1
    assert 2 in two.found()


def test_a_privileged_domain_may_map_another_ones_frame(two):
    mfn = two.two.mfn(PRIVATE)
    two.store(two.one.space.l1, LAST + 1, mfn << PAGE_SHIFT | RW)
    two.frames.refs[mfn] += 1
    two.frames.type_count[mfn] += 1
    two.one.domain.privileged = True
    assert audit(two.hv) == []


@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_writable_linear_mapping(two, level):
    """Through it the entries of the level below are mapped as pages: tables, writable."""
    space = two.one.space
    table = {2: space.l2, 3: space.l3, 4: space.l4}[level]
    two.store(table, 511, table << PAGE_SHIFT | RO)
    assert audit(two.hv) == []
    two.store(table, 511, table << PAGE_SHIFT | TABLE)
    assert two.found() == {2}
    assert "its own level" in two.said()


# -- 3: contents -------------------------------------------------------------------------------


def test_contents_that_changed_behind_the_table(two):
    two.hv.machine.memory.frame(two.one.mfn(SHARED))[0] ^= 1
    assert two.found() == {3}
    assert "does not hash to its key" in two.said()


def test_two_shared_frames_with_equal_contents(two):
    one = two.one
    one.write(one.va(PRIVATE), b"other")
    assert one.share(PRIVATE) == 0
    two.hv.machine.memory.frame(one.mfn(PRIVATE))[:5] = b"equal"
    assert "equal contents" in two.said()


def test_equal_contents_of_two_groups_are_no_violation():
    two = Two(groups=2)
    assert two.one.mfn(SHARED) != two.two.mfn(SHARED)
    assert audit(two.hv) == []


def test_a_shared_frame_that_is_not_in_the_content_table(two):
    mfn = two.one.mfn(PRIVATE)
    two.frames.owner[mfn] = DomId.COW
    assert 3 in two.found()
    assert "shared but not keyed" in two.said()


# -- 4: sharing counts -------------------------------------------------------------------------


def test_a_sharing_count_that_is_off(two):
    mfn = two.one.mfn(SHARED)
    two.frames.refs[mfn] += 1
    assert 4 in two.found()
    assert f"shared frame {mfn:#x} counts 3, 2 map it" in two.said()


def test_a_shared_frame_that_nobody_maps(two):
    mfn = two.one.mfn(SHARED)
    for guest in (two.one, two.two):
        two.store(guest.space.l1, SHARED, 0)
    assert f"shared frame {mfn:#x} is mapped by nobody" in two.said()


@pytest.mark.parametrize("record", ["shared", "shared_mappings"])
def test_a_domains_own_record_that_is_off(two, record):
    domain = two.two.domain
    if record == "shared":
        domain.shared[two.two.mfn(SHARED)] += 1
    else:
        domain.shared_mappings += 1
    assert two.found() == {4}
    assert "d2 handmade: its record" in two.said()


def test_the_machines_counts_that_are_off(two):
    two.hv.sharing.mappings += 1
    two.frames.shared += 1
    said = two.said()
    assert "3 shared mappings counted, 2 exist" in said
    assert "2 shared frames counted, 1 keyed" in said


def test_a_shared_frame_of_another_group():
    two = Two(groups=2)
    foreign, own = two.one.mfn(SHARED), two.two.mfn(SHARED)
    two.store(
        two.two.space.l1, SHARED, two.two.entry(SHARED) & ~PTE_MFN_MASK | foreign << PAGE_SHIFT
    )
    two.two.domain.shared = {foreign: 1}
    for column in (two.frames.refs, two.frames.type_count):
        column[foreign] += 1
        column[own] -= 1
    assert "of another sharing group" in two.said()


# -- 5: whose every frame is -------------------------------------------------------------------


def test_a_page_count_that_is_off(two):
    two.one.domain.pages += 1
    assert two.found() == {5}
    assert "d1 handmade counts" in two.said()


def test_a_frame_that_is_lost(two):
    """Nobody's, but not on the free list; or a domain's, but nothing refers to it any more."""
    mfn = two.frames.allocate(two.one.domain.id)
    two.one.domain.pages += 1
    assert audit(two.hv) == []
    two.frames.flags[mfn] &= ~ALLOCATED
    assert "keeps 1 frames that nothing refers to" in two.said()
    two.frames.owner[mfn] = FREE
    two.one.domain.pages -= 1
    assert "on the free list" in two.said()


def test_a_frame_that_is_free_twice(two):
    mfn = two.frames.allocate(two.one.domain.id)
    two.frames.release(mfn)
    two.frames.release(mfn)
    assert two.found() == {5}


def test_a_frame_of_a_domain_that_is_gone(two):
    two.frames.owner[two.one.mfn(PRIVATE)] = 77
    assert "belong to d77, which does not exist" in two.said()


def test_a_free_frame_with_what_its_owner_left(two):
    mfn = two.frames.owner.index(FREE)
    two.frames.flags[mfn] = ALLOCATED
    assert two.found() == {5}
    two.frames.flags[mfn] = 0
    two.frames.set_m2p(MFN(mfn), 3)
    assert two.found() == {5}
    assert "has a PFN" in two.said()


def test_a_shared_frame_that_kept_its_pfn(two):
    two.frames.set_m2p(two.one.mfn(SHARED), 3)
    assert two.found() == {5}


# -- the report --------------------------------------------------------------------------------


def test_many_of_a_kind_are_counted(two):
    free = [mfn for mfn in range(two.frames.total) if two.frames.owner[mfn] == FREE]
    for mfn in free[: MAX_REPORTED + 5]:
        two.frames.refs[mfn] = 1
    reports = [str(violation) for violation in audit(two.hv) if violation.invariant == 1]
    assert len(reports) == MAX_REPORTED + 1
    assert reports[-1].endswith("... and 5 more of this kind")


def test_types_are_named(two):
    assert two.frames.type[two.one.mfn(SHARED)] == PageType.SHARED
    two.frames.refs[two.one.mfn(SHARED)] += 1
    assert str(audit(two.hv)[0]).startswith("invariant 1: frame ")
