"""Two domains that grant to each other, and the audit of their machine, for the tests of grants."""

import struct

from emu.units import PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import DomId, Errno, GntMap, GnttabOp, Gtf, Hypercall
from hypervisor.audit import audit
from hypervisor.domain import Exit
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import RW, Handmade

SELF = int(DomId.SELF)
HOST, READONLY = int(GntMap.host_map), int(GntMap.readonly)
DEVICE, PTE = int(GntMap.device_map), int(GntMap.contains_pte)
PERMIT = int(Gtf.permit_access)
BITS = int(Gtf.reading | Gtf.writing)
TABLE_PAGE = 20
"""Where a ``Guest`` maps its grant table."""
STATUS_PAGE = 21
"""Where it maps its status words, once it uses version 2."""
EINVAL, EFAULT, ENOSYS = (-int(e) for e in (Errno.EINVAL, Errno.EFAULT, Errno.ENOSYS))
WILD = 0x7000_0000_0000


class Guest(Handmade):
    """A domain with its grant table mapped at ``TABLE_PAGE``."""

    def __init__(self, hv):
        super().__init__(hv, 8)
        status, frames = self.setup(1)
        assert status == 0
        assert self.update(TABLE_PAGE, frames[0] << PAGE_SHIFT | RW) == 0

    @property
    def id(self):
        return self.domain.id

    def op(self, command, layout, *values, at=0x200):
        """A call with one request; (result, what came back)."""
        raw = struct.pack(layout, *values)
        self.write(self.scratch + at, raw)
        answer = self.call(Hypercall.grant_table_op, command, self.scratch + at, 1)
        return answer, struct.unpack(layout, self.read(self.scratch + at, len(raw)))

    def setup(self, count, domid=SELF, where=None):
        lists = self.scratch + 0x400 if where is None else where
        answer, back = self.op(GnttabOp.setup_table, "<HxxIhxxxxxxQ", domid, count, 99, lists)
        assert answer == 0
        if where is not None or back[2] or count > 64:
            return back[2], []
        return 0, list(struct.unpack(f"<{count}Q", self.read(lists, 8 * count)))

    def grant(self, ref, page, user, flags=PERMIT):
        """Entry ``ref`` grants what is mapped at ``page``."""
        self.entry_set(ref, flags, user.id, self.mfn(page))

    def entry_set(self, ref, flags, domid, frame):
        self.write(self.va(TABLE_PAGE) + 8 * ref, struct.pack("<HHI", flags, domid, frame))

    def flags(self, ref):
        return struct.unpack("<H", self.read(self.va(TABLE_PAGE) + 8 * ref, 2))[0]

    def map(self, owner, ref, page, flags=HOST, address=None):
        """(status, handle, bus address)"""
        where = self.va(page) if address is None else address
        domid = owner if isinstance(owner, int) else owner.id
        answer, back = self.op(
            GnttabOp.map_grant_ref, "<QIIHhIQ", where, flags, ref, domid, 99, 0, 0
        )
        assert answer == 0
        return back[4], back[5], back[6]

    def mapped(self, owner, ref, page, flags=HOST, address=None):
        status, handle, _ = self.map(owner, ref, page, flags, address)
        assert status == 0
        return handle

    def unmap(self, handle, page, bus=0, address=None):
        where = self.va(page) if address is None else address
        answer, back = self.op(GnttabOp.unmap_grant_ref, "<QQIhxx", where, bus, handle, 99)
        assert answer == 0
        return back[3]

    def replace(self, handle, page, new):
        answer, back = self.op(GnttabOp.unmap_and_replace, "<QQIhxx", page, new, handle, 99)
        assert answer == 0
        return back[3]

    def copy(self, source, dest, length=8, flags=0):
        """``source`` and ``dest``: (ref or frame, domid, offset)"""
        answer, back = self.op(
            GnttabOp.copy, "<QHHxxxxQHHxxxxHHhxx", *source, *dest, length, flags, 99
        )
        assert answer == 0
        return back[8]

    # -- version 2 ------------------------------------------------------------------------------

    def set_version(self, version):
        return self.op(GnttabOp.set_version, "<I", version)

    def status_frames(self, count, domid=SELF, where=None):
        """(status, frames)"""
        lists = self.scratch + 0x400 if where is None else where
        answer, back = self.op(GnttabOp.get_status_frames, "<IHhQ", count, domid, 99, lists)
        assert answer == 0
        if where is not None or back[2]:
            return back[2], []
        return 0, list(struct.unpack(f"<{count}Q", self.read(lists, 8 * count)))

    def use_version_2(self):
        """Switch, and map the status words at ``STATUS_PAGE``."""
        assert self.set_version(2) == (0, (2,))
        status, frames = self.status_frames(1)
        assert status == 0
        assert self.update(STATUS_PAGE, frames[0] << PAGE_SHIFT | RW) == 0

    def entry2_set(self, ref, flags, domid, frame, start=0, length=0):
        raw = struct.pack("<HHHHQ", flags, domid, start, length, frame)
        self.write(self.va(TABLE_PAGE) + 16 * ref, raw)

    def grant2(self, ref, page, user, flags=PERMIT, start=0, length=0):
        self.entry2_set(ref, flags, user.id, self.mfn(page), start, length)

    def pass_on(self, ref, user, owner, owner_ref, flags=0):
        """Entry ``ref`` passes to ``user`` what ``owner`` granted by its entry ``owner_ref``."""
        self.entry2_set(ref, int(Gtf.transitive) | flags, user.id, owner_ref, owner.id)

    def status(self, ref):
        return struct.unpack("<H", self.read(self.va(STATUS_PAGE) + 2 * ref, 2))[0]

    # -- whatever else ---------------------------------------------------------------------------

    def pte(self, page):
        """Machine address of the entry that maps a page."""
        return self.space.l1 * PAGE_SIZE + 8 * page


class World:
    """A giver and a taker on one machine."""

    def __init__(self):
        self.hv = Hypervisor(Settings(machine_memory=8 << 20))
        self.free = self.hv.frames.free
        self.giver, self.taker = Guest(self.hv), Guest(self.hv)

    def check(self):
        assert audit(self.hv) == []

    def finish(self):
        """Every frame comes back, whatever state the two are in."""
        self.check()
        for guest in (self.taker, self.giver):
            if guest.domain.exit is None:
                self.end(guest)
        assert self.hv.frames.free == self.free

    def end(self, guest):
        self.hv.end(guest.domain, Exit("destroyed"))
        self.check()
