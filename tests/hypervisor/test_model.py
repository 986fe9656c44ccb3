"""Random sequences of sharing, writing, mapping, forking and destroying against a plain model.

Domains are of both widths, which makes no difference to the model. It keeps what each mapping
should read and how often each content is shared; it knows nothing of frames. After every step
every page is read back, the counts are compared and the audit must be clean; at the end all domains
die and every frame must be free again.
"""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from emu.paging import PTE_AVL
from emu.units import PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import Errno, Width
from hypervisor.audit import audit
from hypervisor.domain import Exit
from hypervisor.errors import GuestFault
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RO, RW, Handmade, Space

PAGES = 6
CONTENTS = [bytes(PAGE_SIZE)] + [bytes([i]) * PAGE_SIZE for i in (1, 2, 3)]
COW = 0x200
NEVER_MAPPED = PAGES + 3


@dataclass
class Modelled:
    """A domain as the model sees it: per address space and page, its content and if it is shared.

    An absent page is ``None``. ``spaces[0]`` is the one that runs; the others are fork's children.
    """

    guest: Handmade
    spaces: list[tuple[Space, list[tuple[int, bool] | None]]] = field(default_factory=list)

    @property
    def pages(self) -> list[tuple[int, bool] | None]:
        return self.spaces[0][1]


class SharingModel(RuleBasedStateMachine):
    """See the module's head."""

    def __init__(self) -> None:
        super().__init__()
        self.domains: list[Modelled] = []

    @initialize(
        groups=st.integers(1, 2),
        zero_only=st.sampled_from([False, False, False, True]),
        opaque=st.booleans(),
        hash_bits=st.sampled_from([64, 64, 0, 1]),
    )
    def start(self, groups: int, zero_only: bool, opaque: bool, hash_bits: int) -> None:
        self.machine_settings = Settings(
            machine_memory=4 << 20,
            groups=groups,
            zero_only=zero_only,
            opaque=opaque,
            hash_bits=hash_bits,
            seed=7,
        )
        self.hv = Hypervisor(self.machine_settings)
        self.free_at_start = self.hv.frames.free
        self.create(64)
        self.create(32)

    # -- what guests do --------------------------------------------------------------------

    @precondition(lambda self: len(self.domains) < 4)
    @rule(width=st.sampled_from([64, 32]))
    def create(self, width: Width) -> None:
        guest = Handmade(self.hv, PAGES, width=width)
        contents = [i % len(CONTENTS) for i in range(PAGES)]
        for i, content in enumerate(contents):
            guest.write(guest.va(i), CONTENTS[content])
        self.domains.append(Modelled(guest, [(guest.space, [(c, False) for c in contents])]))

    @rule(d=st.integers(0, 3), page=st.integers(0, PAGES - 1), content=st.integers(0, 3))
    def write(self, d: int, page: int, content: int) -> None:
        """Store; on a read-only page copy first, as a guest's #PF handler does."""
        domain = self.pick(d)
        guest, old = domain.guest, domain.pages[page]
        if old is None:
            return
        try:
            guest.write(guest.va(page), CONTENTS[content])
        except GuestFault:
            assert old[1], "a private page refused a store"
            assert guest.entry(page) & PTE_AVL == COW, "the AVL bit marks copy-on-write"
            fresh = guest.get_frame()
            assert fresh is not None
            self.hv.machine.memory.frame(fresh)[:] = guest.contents(page)
            assert guest.update(page, fresh << PAGE_SHIFT | RW) == 0
            guest.write(guest.va(page), CONTENTS[content])
        else:
            assert not old[1], "a shared page took a store"
        domain.pages[page] = (content, False)

    @rule(d=st.integers(0, 3), page=st.integers(0, PAGES - 1))
    def share(self, d: int, page: int) -> None:
        domain = self.pick(d)
        guest, old = domain.guest, domain.pages[page]
        before = self.shared_contents(guest)
        answer = guest.share(page, COW)
        if old is None:
            assert answer == -Errno.EINVAL
        elif old[1]:
            assert answer == (0 if self.machine_settings.opaque else 1)
        elif self.machine_settings.zero_only and old[0] != 0:
            assert answer == -Errno.EPERM
        else:
            merged = old[0] in before
            assert answer == (1 if merged and not self.machine_settings.opaque else 0)
            domain.pages[page] = (old[0], True)

    @rule(d=st.integers(0, 3))
    def share_everything(self, d: int) -> None:
        for page in range(PAGES):
            self.share(d, page)

    @rule(d=st.integers(0, 3), page=st.integers(0, PAGES - 1))
    def unmap(self, d: int, page: int) -> None:
        domain = self.pick(d)
        guest, old = domain.guest, domain.pages[page]
        mfn = guest.mfn(page)
        assert guest.update(page, 0) == 0
        if old is not None and not old[1]:
            assert guest.give_back(mfn) == 1
        domain.pages[page] = None

    @rule(d=st.integers(0, 3), page=st.integers(0, PAGES - 1))
    def map_fresh(self, d: int, page: int) -> None:
        domain = self.pick(d)
        guest = domain.guest
        if domain.pages[page] is not None:
            return
        fresh = guest.get_frame()
        assert fresh is not None
        assert guest.update(page, fresh << PAGE_SHIFT | RW) == 0
        domain.pages[page] = (0, False)

    @rule(d=st.integers(0, 3), page=st.integers(0, PAGES - 1), where=st.integers(0, PAGES - 1))
    def alias(self, d: int, page: int, where: int) -> None:
        """A second read-only mapping of a shared frame; never a writable one."""
        domain = self.pick(d)
        guest, old = domain.guest, domain.pages[page]
        if old is None or not old[1] or domain.pages[where] is not None:
            return
        mfn = guest.mfn(page)
        assert guest.update(where, mfn << PAGE_SHIFT | RW) == -Errno.EBUSY
        assert guest.update(where, mfn << PAGE_SHIFT | RO | COW) == 0
        domain.pages[where] = old

    @rule(d=st.integers(0, 3), other=st.integers(0, 3))
    def guess(self, d: int, other: int) -> None:
        """A domain maps what only another maps, shared or not: refused, and nothing changes."""
        thief, victim = self.pick(d), self.pick(other)
        if thief is victim:
            return
        for page, there in enumerate(victim.pages):
            mfn = victim.guest.mfn(page)
            if there is not None and mfn not in thief.guest.domain.shared:
                for flags in (RO, RW):
                    assert thief.guest.update(NEVER_MAPPED, mfn << PAGE_SHIFT | flags) == (
                        -Errno.EBUSY
                    )

    @rule(d=st.integers(0, 3))
    def fork(self, d: int) -> None:
        """A child address space maps all shared pages a second time, read-only."""
        domain = self.pick(d)
        if len(domain.spaces) > 2:
            return
        guest = domain.guest
        entries = [
            guest.entry(i) if p is not None and p[1] else 0 for i, p in enumerate(domain.pages)
        ]
        entries = [e & ~(0x100 | 1 << 52) for e in entries]
        child = guest.new_space(entries)
        pages = [p if p is not None and p[1] else None for p in domain.pages]
        domain.spaces.append((child, pages))

    @rule(d=st.integers(0, 3))
    def child_exits(self, d: int) -> None:
        domain = self.pick(d)
        if len(domain.spaces) > 1:
            space, _ = domain.spaces.pop()
            domain.guest.drop_space(space)

    @rule(d=st.integers(0, 3), page=st.integers(0, PAGES - 1))
    def child_unmaps_by_mmu_update(self, d: int, page: int) -> None:
        domain = self.pick(d)
        if len(domain.spaces) > 1:
            space, pages = domain.spaces[-1]
            assert self.hv.paging.update_entry(space.l1, page, 0, domain.guest.domain) == 0
            pages[page] = None

    @precondition(lambda self: len(self.domains) > 1)
    @rule(d=st.integers(0, 3))
    def destroy(self, d: int) -> None:
        domain = self.pick(d)
        self.domains.remove(domain)
        self.hv.end(domain.guest.domain, Exit("destroyed"))

    # -- what must hold --------------------------------------------------------------------

    def pick(self, d: int) -> Modelled:
        return self.domains[d % len(self.domains)]

    def shared_contents(self, guest: Handmade) -> set[int]:
        """Contents that the guest's sharing group has in the content table."""
        return {
            content
            for domain in self.domains
            if domain.guest.domain.group == guest.domain.group
            for _, pages in domain.spaces
            for content, shared in filter(None, pages)
            if shared
        }

    @invariant()
    def contents_are_what_was_written(self) -> None:
        for domain in self.domains:
            for space, pages in domain.spaces:
                for i, page in enumerate(pages):
                    if page is not None:
                        assert domain.guest.contents(i, space) == CONTENTS[page[0]]

    @invariant()
    def counts_are_the_models(self) -> None:
        counts = Counter(
            (domain.guest.domain.group, content)
            for domain in self.domains
            for _, pages in domain.spaces
            for content, shared in filter(None, pages)
            if shared
        )
        sharing = self.hv.sharing
        assert sharing.mappings == counts.total()
        assert self.hv.frames.shared == len(counts)
        assert sharing.saved == counts.total() - len(counts)
        domains = [domain.guest.domain for domain in self.domains]
        assert abs(sum(map(sharing.saved_by, domains)) - sharing.saved) < 1e-6
        for domain in domains:
            assert domain.peak_shared_mappings >= domain.shared_mappings
            assert sum(sharing.histogram_of(domain).values()) == len(domain.shared)
        assert sharing.histogram() == dict(sorted(Counter(counts.values()).items()))

    @invariant()
    def the_audit_is_clean(self) -> None:
        assert audit(self.hv) == []

    def teardown(self) -> None:
        for domain in self.domains:
            self.hv.end(domain.guest.domain, Exit("destroyed"))
        if self.domains:
            assert self.hv.frames.free == self.free_at_start
            assert audit(self.hv) == []
            assert self.hv.sharing.counters["freed"] > 0 or self.hv.frames.shared == 0


TestSharingModel = SharingModel.TestCase
TestSharingModel.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
