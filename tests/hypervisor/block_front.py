"""A block driver's end, driven from outside: what tests of the PV disk share."""

import struct

from emu.units import PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import EvtchnOp, EvtchnSend, Hypercall, to_bytes
from hypervisor.audit import audit
from hypervisor.disk import DiskImage, Mode
from tests.hypervisor.kernels import Caller, Lab

OKAY, ERROR, UNSUPPORTED = 0, -1, -2
SECTORS = 64


def contents(sector, count=1):
    """What the test's image holds."""
    return b"".join(struct.pack("<I", sector + i) * 128 for i in range(count))


RING_REF, DATA_REF = 8, 16
RING_PAGE, DATA_PAGE = 1, 2
"""Pages of the caller's scratch memory; three of data (the last is half the table's)."""
REQUEST = {"x86_64-abi": struct.Struct("<BBH4xQQ"), "x86_32-abi": struct.Struct("<BBHQQ")}
RESPONSE = {"x86_64-abi": struct.Struct("<QBxh4x"), "x86_32-abi": struct.Struct("<QBxh")}
ENTRY = {"x86_64-abi": 112, "x86_32-abi": 108}


class Front:
    """A block driver in a domain that runs nothing."""

    def __init__(self, path, mode=Mode.COPY, protocol="x86_64-abi", lab=None):
        self.lab = lab or Lab()
        self.hv = self.lab.hv
        self.guest = Caller(self.lab)
        self.domain = self.guest.domain
        self.protocol = protocol
        self.back = self.hv.disks.attach(self.domain, DiskImage(str(path), mode))
        self.port = 0
        self.prod = self.cons = 0
        for ref, page in ((RING_REF, RING_PAGE), (DATA_REF, DATA_PAGE)):
            self.grant(ref, self.mfn(page))

    def mfn(self, page, write=True):
        at = self.guest.scratch + page * PAGE_SIZE
        return self.hv.guest.translate(self.domain, at, write) >> PAGE_SHIFT

    def page(self, page):
        return self.hv.machine.memory.frame(self.mfn(page))

    def grant(self, ref, mfn, flags=1, domid=0):
        (table,) = self.hv.grants.table(self.domain).frames
        struct.pack_into("<HHI", self.hv.machine.memory.frame(table), 8 * ref, flags, domid, mfn)

    def flags(self, ref):
        (table,) = self.hv.grants.table(self.domain).frames
        return struct.unpack_from("<H", self.hv.machine.memory.frame(table), 8 * ref)[0]

    def store(self, name, value):
        self.hv.xenstore.write(f"{self.back.front}/{name}", str(value))

    @property
    def state(self):
        return int(self.hv.xenstore.read(f"{self.back.back}/state"))

    def said(self, name):
        return self.hv.xenstore.read(f"{self.back.back}/{name}").decode()

    @property
    def error(self):
        path = self.back.back.replace("/backend/", "/error/backend/") + "/error"
        found = self.hv.xenstore.read(path)
        return None if found is None else found.decode()

    def connect(self, ref=RING_REF, port=None):
        self.page(RING_PAGE)[:] = bytes(PAGE_SIZE)
        self.prod = self.cons = 0
        self.ring("rsp_event", 1)
        self.port = self.hv.events.alloc_unbound(self.domain, 0) if port is None else port
        self.store("ring-ref", ref)
        self.store("event-channel", self.port)
        self.store("protocol", self.protocol)
        self.store("state", 3)
        return self

    def ring(self, name, value=None):
        at = 4 * ("req_prod", "req_event", "rsp_prod", "rsp_event").index(name)
        if value is not None:
            struct.pack_into("<I", self.page(RING_PAGE), at, value & 0xFFFF_FFFF)
        return struct.unpack_from("<I", self.page(RING_PAGE), at)[0]

    def push(self, op, sector=0, segments=((DATA_REF, 0, 7),), count=None, label=77):
        """A request; segments are (ref, first, last), or numbers for a shared read."""
        raw = REQUEST[self.protocol].pack(
            op, len(segments) if count is None else count, 0, label, sector
        )
        raw += b"".join(
            struct.pack("<Q", part) if isinstance(part, int) else struct.pack("<IBBxx", *part)
            for part in segments
        )
        at = 64 + self.prod % 32 * ENTRY[self.protocol]
        self.page(RING_PAGE)[at : at + len(raw)] = raw
        self.prod += 1
        self.ring("req_prod", self.prod)

    def kick(self):
        at = self.guest.put(to_bytes(EvtchnSend(port=self.port)))
        assert self.guest.call(Hypercall.event_channel_op, EvtchnOp.send, at) == 0

    def responses(self):
        found = []
        while self.cons != self.ring("rsp_prod"):
            at = 64 + self.cons % 32 * ENTRY[self.protocol]
            found.append(RESPONSE[self.protocol].unpack_from(self.page(RING_PAGE), at))
            self.cons += 1
        return found

    def ask(self, op, sector=0, segments=((DATA_REF, 0, 7),), count=None):
        self.push(op, sector, segments, count)
        self.kick()
        ((label, operation, status),) = self.responses()
        assert (label, operation) == (77, op)
        assert audit(self.hv) == []
        return status
