"""Grant tables: two guests do anything at all, with the audit after each step."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.paging import PTE_P
from emu.units import PAGE_SHIFT
from hypervisor.abi import GnttabOp, MmuExt
from hypervisor.errors import GuestFault
from hypervisor.paging import GRANT
from tests.hypervisor.grant_guests import (
    PERMIT,
    PTE,
    SELF,
    World,
)
from tests.hypervisor.handmade import RO, RW


class Chaos:
    """Two guests that do what they are told, however wrong it is."""

    def __init__(self):
        self.world = World()
        self.guests = (self.world.giver, self.world.taker)
        self.handles = 0

    def do(self, action, who, page, other, ref, flags):
        guest, peer = self.guests[who], self.guests[not who]
        if guest.domain.exit is not None:
            return
        getattr(self, action)(guest, peer, page, other, ref, flags)
        self.world.check()

    def grant(self, guest, peer, page, other, ref, flags):
        mine = guest.mfn(page)
        frame = (mine, mine, mine, guest.space.l1, peer.mfn(page))[other % 5]
        whom = (peer.id, peer.id, guest.id, peer.id, 0)[flags % 5]
        guest.entry_set(ref, flags if flags & 16 else PERMIT | flags & 4, whom, frame)

    def version(self, guest, _peer, page, other, ref, flags):
        guest.set_version(flags & 3)
        if guest.status_frames(1)[0] == 0 and other & 1:
            guest.update(21, guest.status_frames(1)[1][0] << PAGE_SHIFT | RW)

    def grant2(self, guest, peer, page, other, ref, flags):
        """An entry of version 2, or two of version 1."""
        frame = (guest.mfn(page), guest.mfn(page), guest.space.l1, ref)[other % 4]
        whom = (peer.id, peer.id, guest.id, 0)[flags % 4]
        kind = (PERMIT, PERMIT | 0x100, 3, flags | 0x100)[page % 4]
        guest.entry2_set(ref, kind, whom, frame, other * 100 if kind != 3 else peer.id, 64)

    def map(self, guest, peer, page, other, ref, flags):
        owner = guest if other == 3 and flags & 1 else peer
        address = guest.pte(page) if flags & PTE else None
        guest.map(owner, ref, page, flags, address)

    def unmap(self, guest, _peer, page, other, ref, flags):
        address = guest.pte(page) if flags & PTE else None
        guest.unmap(ref, page, guest.mfn(page) << PAGE_SHIFT if flags & 1 else 0, address)

    def replace(self, guest, _peer, page, other, ref, flags):
        guest.replace(ref, guest.va(page), guest.va(other) if flags & 1 else 0)

    def copy(self, guest, peer, page, other, ref, flags):
        source = (ref, peer.id, 0) if flags & 1 else (guest.mfn(page), SELF, 0)
        dest = (ref, peer.id, 64) if flags & 2 else (guest.mfn(other), SELF, 64)
        guest.copy(source, dest, 32, flags & 3)

    def swap(self, guest, _peer, page, other, ref, flags):
        guest.op(GnttabOp.swap_grant_ref, "<IIhxx", ref, page, 0)

    def share(self, guest, _peer, page, other, ref, flags):
        guest.share(page)

    def update(self, guest, peer, page, other, ref, flags):
        source = peer if flags & 1 else guest
        guest.update(page, source.mfn(other) << PAGE_SHIFT | (RW if flags & 2 else RO))

    def clear(self, guest, _peer, page, other, ref, flags):
        guest.update(page, guest.entry(page) & ~(GRANT if flags & 1 else PTE_P))

    def give_back(self, guest, _peer, page, other, ref, flags):
        guest.give_back(guest.mfn(page))

    def pin(self, guest, _peer, page, other, ref, flags):
        guest.mmuext(MmuExt.PIN_L1_TABLE, guest.mfn(page))

    def unpin(self, guest, _peer, page, other, ref, flags):
        guest.mmuext(MmuExt.UNPIN_TABLE, guest.mfn(page))

    def end(self, guest, _peer, page, other, ref, flags):
        if flags & 0x38 == 0x38:
            self.world.end(guest)


ACTIONS = sorted(name for name in vars(Chaos) if not name.startswith("_") and name != "do")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*ACTIONS, "grant", "grant2", "map", "map", "unmap", "copy"]),
            st.integers(0, 1),
            st.integers(0, 9),
            st.integers(0, 9),
            st.integers(0, 2),
            st.one_of(st.sampled_from([2, 2, 6, 3, 18, 0x3F]), st.integers(0, 31)),
        ),
        max_size=40,
    )
)
def test_nothing_breaks_the_invariants(steps):
    chaos = Chaos()
    for action, who, page, other, ref, flags in steps:
        with contextlib.suppress(GuestFault):
            chaos.do(action, who, page, other, ref, flags)
    chaos.world.finish()
