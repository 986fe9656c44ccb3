"""The PV disk's other end: the block protocol over a granted ring, and its handshake in XenStore.

The hypervisor takes the place of domain 0's backend: /local/domain/0/backend/vbd/<id>/<device>.
A guest's driver publishes ring-ref and event-channel below its own device node and changes its
state; the backend follows. Requests are dealt with completely in the hypercall by which the guest
sends the event, so nothing is ever under way between two of them.

Everything in the ring is a claim. A request that makes no sense (segments, sectors, grants) gets
an error response and transfers nothing; a producer index that cannot be stops the backend: it
closes, with the reason in XenStore, and the guest may begin again. At most one ring of requests
is dealt with for one event, each of at most 11 pages.

Offered: read, write, flush. Not offered, and answered so: barriers, discard, indirect segments,
persistent grants, rings of several pages.

Beyond the standard there is ``READ_SHARED`` (``feature-share-by-reference`` in the backend's node,
unless the machine shares zero pages only): the guest gets whole blocks mapped read-only, as shared
frames, instead of copied. In the place of each segment of the request stands a 64-bit number: the
linear address of a page in the kernel's address space, whose L1 table exists, and in its lower bits
what is set in the entry besides (U/S and AVL). What was mapped there before goes. The sector is one
of eight; a guest that gets an error maps nothing that it did not before, except where memory ran
out in the middle. See ``blockshare``.

Source: io/blkif.h, io/ring.h, io/xenbus.h; libxl's entries and permissions of a vbd.
"""

import struct
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from emu.units import MFN, PAGE_SHIFT, PAGE_SIZE
from hypervisor.abi import EvtchnStat
from hypervisor.blockshare import BlockSharing
from hypervisor.disk import BLOCK, SECTOR, CopyBudget, DiskError, DiskImage, Mode
from hypervisor.domain import Domain
from hypervisor.events import ServiceLink
from hypervisor.xenstore import Perm

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

XVDA: Final = 202 << 8
"""Device number of xvda; the next disk's is 16 more."""
MAX_DISKS: Final = 16
MAX_SEGMENTS: Final = 11
FEATURE_SHARED: Final = "feature-share-by-reference"
_BACKEND: Final = 0
_MAY_READ: Final = 1
_SECTORS_PER_PAGE: Final = PAGE_SIZE // SECTOR
_INDEX: Final = struct.Struct("<I")
_REQ_PROD, _REQ_EVENT, _RSP_PROD, _RSP_EVENT = 0, 4, 8, 12
_RING: Final = 64
"""Offset of the ring behind its indices."""
_RING_ENTRIES: Final = 32
_SEGMENT: Final = struct.Struct("<IBB2x")
_TARGET: Final = struct.Struct("<Q")
if _TARGET.size != _SEGMENT.size:
    raise TypeError("the target of a shared read does not fit into a segment")
_M32: Final = 0xFFFF_FFFF
_VDISK_READONLY: Final = 4
_WORK_PER_REQUEST: Final = 8
_WORK_PER_SEGMENT: Final = 4

_OKAY: Final = 0
_ERROR: Final = -1
_UNSUPPORTED: Final = -2


class Op(IntEnum):
    """Operations of a request (BLKIF_OP_*)."""

    READ = 0
    WRITE = 1
    WRITE_BARRIER = 2
    FLUSH_DISKCACHE = 3
    DISCARD = 5
    INDIRECT = 6
    READ_SHARED = 64


class XenbusState(IntEnum):
    """Where an end of the connection is (io/xenbus.h)."""

    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6


def home_of(domid: int) -> str:
    """A domain's place in XenStore."""
    return f"/local/domain/{domid}"


class _Layout:
    """How a guest of one width lays a request and a response out."""

    def __init__(self, request: str, response: str) -> None:
        self.request = struct.Struct(request)
        self.response = struct.Struct(response)
        used = self.request.size + MAX_SEGMENTS * _SEGMENT.size
        self.size = used


_LAYOUTS: Final = {
    "x86_64-abi": _Layout("<BBH4xQQ", "<QBxh4x"),
    "x86_32-abi": _Layout("<BBHQQ", "<QBxh"),
}


class _Broken(Exception):
    """The guest's end makes no sense; its text goes to XenStore."""


class BlockBackend:
    """One disk of one domain. ``name``: xvda and so on."""

    def __init__(self, hv: "Hypervisor", domain: Domain, image: DiskImage, number: int) -> None:
        self._hv = hv
        self._domain = domain
        self.image = image
        self.name = f"xvd{chr(ord('a') + number)}"
        device = XVDA + 16 * number
        self.front = f"{home_of(domain.id)}/device/vbd/{device}"
        self.back = f"{home_of(_BACKEND)}/backend/vbd/{domain.id}/{device}"
        self._error = f"{home_of(_BACKEND)}/error/backend/vbd/{domain.id}/{device}/error"
        self._state = XenbusState.INITIALISING
        self._key = 0
        self._link: ServiceLink | None = None
        self._layout = _LAYOUTS["x86_64-abi"]
        self._requests = self._responses = 0
        self._offers_shared = not hv.settings.zero_only
        self._describe(device)
        self._watch = hv.xenstore.watch(f"{self.front}/state", self._changed)

    # -- XenStore --------------------------------------------------------------------------

    def _describe(self, device: int) -> None:
        store, number = self._hv.xenstore, self._domain.id
        front = (Perm(number, 0), Perm(_BACKEND, _MAY_READ))
        back = (Perm(_BACKEND, 0), Perm(number, _MAY_READ))
        readonly = self.image.mode is Mode.READ_ONLY
        for root, perms, entries in (
            (
                self.back,
                back,
                {
                    "frontend": self.front,
                    "frontend-id": number,
                    "online": 1,
                    "removable": 0,
                    "bootable": 1,
                    "dev": self.name,
                    "type": "phy",
                    "mode": "r" if readonly else "w",
                    "device-type": "disk",
                    "feature-flush-cache": 1,
                    "feature-barrier": 0,
                    "feature-persistent": 0,
                    FEATURE_SHARED: int(self._offers_shared),
                    "state": int(XenbusState.INITIALISING),
                },
            ),
            (
                self.front,
                front,
                {
                    "backend": self.back,
                    "backend-id": _BACKEND,
                    "virtual-device": device,
                    "device-type": "disk",
                    "state": int(XenbusState.INITIALISING),
                },
            ),
        ):
            store.write(root, "", perms)
            for name, value in entries.items():
                store.write(f"{root}/{name}", str(value), perms)

    def _go(self, state: XenbusState) -> None:
        if self._state is not state:
            self._state = state
            self._hv.xenstore.write(f"{self.back}/state", str(int(state)))

    def _number(self, name: str) -> int:
        """A number that the guest published.

        Raises:
            _Broken: there is none.
        """
        text = self._hv.xenstore.read(f"{self.front}/{name}")
        if text is None or not text.isdigit() or len(text) > 10:
            raise _Broken(f"{name} is missing or no number")
        return int(text)

    def _changed(self, _path: str) -> None:
        """The guest's end changed its state."""
        if self._domain.exit is not None:
            return
        text = self._hv.xenstore.read(f"{self.front}/state")
        if text in (b"1", b"2"):
            if self._state in (XenbusState.INITIALISING, XenbusState.CLOSED):
                self._go(XenbusState.INIT_WAIT)
        elif text in (b"3", b"4"):
            if self._link is None and self._state is not XenbusState.CLOSED:
                self._connect()
        elif text in (b"5", b"6") and self._state is not XenbusState.CLOSED:
            self._disconnect()
            self._go(XenbusState.CLOSED)

    def _connect(self) -> None:
        try:
            self._attach()
        except _Broken as why:
            self._stop(str(why))
            return
        store = self._hv.xenstore
        store.rm(self._error)
        readonly = self.image.mode is Mode.READ_ONLY
        for name, value in (
            ("sectors", self.image.sectors),
            ("info", _VDISK_READONLY if readonly else 0),
            ("sector-size", SECTOR),
            ("physical-sector-size", SECTOR),
        ):
            store.write(
                f"{self.back}/{name}", str(value), (Perm(0, 0), Perm(self._domain.id, _MAY_READ))
            )
        self._go(XenbusState.CONNECTED)
        self.serve()

    def _attach(self) -> None:
        """Take the ring and the event channel.

        Raises:
            _Broken: one of them is not there.
        """
        hv, domain = self._hv, self._domain
        ref, port = self._number("ring-ref"), self._number("event-channel")
        said = hv.xenstore.read(f"{self.front}/protocol")
        protocol = f"x86_{domain.width}-abi" if said is None else said.decode("ascii", "replace")
        layout = _LAYOUTS.get(protocol)
        if layout is None:
            raise _Broken("unknown protocol")
        channel = hv.events.channel(domain, port)
        if channel is None or channel.state is not EvtchnStat.unbound or channel.remote != _BACKEND:
            raise _Broken(f"event-channel {port} is not left for domain 0")
        status, key = hv.grants.hold_page(domain, ref, _BACKEND, readonly=False)
        if status:
            raise _Broken(f"ring-ref {ref} is not granted to domain 0 (status {status})")
        self._key, self._layout = key, layout
        self._link = hv.events.bind_service(domain, port)
        self._link.callback = self.serve
        # As blkback: a ring that is taken over goes on where its responses end.
        self._requests = self._responses = self._load(_RSP_PROD)

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
            self._hv.grants.release(self._key)

    def _stop(self, why: str) -> None:
        """Give up on this guest's end until it begins again."""
        self._disconnect()
        self._hv.xenstore.write(self._error, f"{self.name}: {why}")
        self._go(XenbusState.CLOSED)
        self._domain.tally["disk_stopped"] += 1

    def release(self) -> None:
        """The domain is going."""
        self._disconnect()
        store = self._hv.xenstore
        store.unwatch(self._watch)
        store.rm(self.back)
        store.rm(self._error)
        self.image.close()

    # -- the ring --------------------------------------------------------------------------

    def _base(self) -> int:
        return self._hv.grants.held(self._key) << PAGE_SHIFT

    def _load(self, offset: int) -> int:
        (value,) = _INDEX.unpack_from(self._hv.machine.memory.bytes, self._base() + offset)
        return int(value)

    def serve(self) -> None:
        """Deal with all requests that are in the ring now, and tell the guest if it asked."""
        if self._link is None:
            return
        hv, data, base = self._hv, self._hv.machine.memory.bytes, self._base()
        produced = self._load(_REQ_PROD)
        waiting = (produced - self._requests) & _M32
        if waiting > _RING_ENTRIES:
            self._stop("the ring's producer index makes no sense")
            return
        layout, before = self._layout, self._responses
        for _ in range(waiting):
            at = base + _RING + self._requests % _RING_ENTRIES * layout.size
            raw = bytes(data[at : at + layout.size])
            self._requests = (self._requests + 1) & _M32
            operation, _, _, label, _ = layout.request.unpack_from(raw)
            status = self._request(raw)
            at = base + _RING + self._responses % _RING_ENTRIES * layout.size
            layout.response.pack_into(data, at, label, operation, status)
            self._responses = (self._responses + 1) & _M32
        _INDEX.pack_into(data, base + _RSP_PROD, self._responses)
        _INDEX.pack_into(data, base + _REQ_EVENT, (self._requests + 1) & _M32)
        hv.machine.coherence.wrote(MFN(base >> PAGE_SHIFT))
        wanted = self._load(_RSP_EVENT)
        if (self._responses - wanted) & _M32 < (self._responses - before) & _M32:
            self._link.notify()

    def _request(self, raw: bytes) -> int:
        """Do what one request asks for; its status."""
        operation, count, _, _, sector = self._layout.request.unpack_from(raw)
        self._hv.spend(_WORK_PER_REQUEST + _WORK_PER_SEGMENT * min(count, MAX_SEGMENTS))
        tally = self._domain.tally
        if operation == Op.FLUSH_DISKCACHE:
            try:
                self.image.flush()
            except DiskError:
                return _ERROR
            return _OKAY if count == 0 else self._transfer(raw, True, count, sector)
        if operation == Op.READ_SHARED and self._offers_shared:
            status = self._read_shared(raw, count, sector)
            tally["disk_errors" if status else "disk_shared_reads"] += 1
            return status
        if operation in (Op.WRITE_BARRIER, Op.DISCARD, Op.INDIRECT, Op.READ_SHARED):
            return _UNSUPPORTED
        if operation not in (Op.READ, Op.WRITE):
            return _ERROR
        writes = operation == Op.WRITE
        status = self._transfer(raw, writes, count, sector)
        tally["disk_errors" if status else "disk_writes" if writes else "disk_reads"] += 1
        return status

    def _transfer(self, raw: bytes, writes: bool, count: int, sector: int) -> int:
        if not 1 <= count <= MAX_SEGMENTS:
            return _ERROR
        start = self._layout.request.size
        segments = list(_SEGMENT.iter_unpack(raw[start : start + count * _SEGMENT.size]))
        total = 0
        for _, first, last in segments:
            if not first <= last < _SECTORS_PER_PAGE:
                return _ERROR
            total += last - first + 1
        if sector + total > self.image.sectors:
            return _ERROR
        if writes and self.image.mode is Mode.READ_ONLY:
            return _ERROR
        grants, keys = self._hv.grants, list[int]()
        try:
            for ref, _, _ in segments:
                status, key = grants.hold_page(self._domain, ref, _BACKEND, readonly=writes)
                if status:
                    return _ERROR
                keys.append(key)
            return self._move(segments, keys, writes, sector * SECTOR)
        finally:
            for key in keys:
                grants.release(key)

    def _move(self, segments: list[tuple[int, ...]], keys: list[int], writes: bool, at: int) -> int:
        """Copy between the disk from byte ``at`` on and the guest's pages."""
        memory, coherence = self._hv.machine.memory.bytes, self._hv.machine.coherence
        try:
            for (_, first, last), key in zip(segments, keys, strict=True):
                mfn = self._hv.grants.held(key)
                start = (mfn << PAGE_SHIFT) + first * SECTOR
                length = (last - first + 1) * SECTOR
                if writes:
                    self.image.write(at, bytes(memory[start : start + length]))
                    if self.image.mode is Mode.WRITABLE:
                        for block in range(at // BLOCK, (at + length - 1) // BLOCK + 1):
                            self._hv.disks.blocks.forget((self.image.identity, block))
                else:
                    memory[start : start + length] = self.image.read(at, length)
                    coherence.wrote(mfn)
                at += length
        except DiskError:
            return _ERROR
        return _OKAY

    def _read_shared(self, raw: bytes, count: int, sector: int) -> int:
        """Map blocks from ``sector`` on; checked as a whole before anything is mapped."""
        per_block = BLOCK // SECTOR
        if not 1 <= count <= MAX_SEGMENTS or sector % per_block:
            return _ERROR
        if sector + count * per_block > self.image.sectors:
            return _ERROR
        start, domain, blocks = self._layout.request.size, self._domain, self._hv.disks.blocks
        part = raw[start : start + count * _TARGET.size]
        targets = [target for (target,) in _TARGET.iter_unpack(part)]
        if not all(blocks.check(domain, target) for target in targets):
            return _ERROR
        first = sector // per_block
        try:
            for number, target in enumerate(targets, first):
                pristine = self.image.is_pristine(number)
                block = (self.image.identity, number) if pristine else None
                if blocks.map(domain, target, block, partial(self._block, number)):
                    return _ERROR
        except DiskError:
            return _ERROR
        return _OKAY

    def _block(self, number: int) -> bytes:
        return self.image.read(number * BLOCK, BLOCK)


class Disks:
    """All domains' disks."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self.blocks = BlockSharing(hv)
        self.budget = CopyBudget()
        self._disks: dict[int, list[BlockBackend]] = {}

    def attach(self, domain: Domain, image: DiskImage) -> BlockBackend:
        """Give a domain that is in XenStore a further disk, which is closed when the domain ends.

        Raises:
            DiskError: it has as many as there can be.
        """
        mine = self._disks.setdefault(domain.id, [])
        if len(mine) >= MAX_DISKS:
            raise DiskError(f"disk {image.path}: a domain can have {MAX_DISKS} disks")
        image.budget = self.budget
        backend = BlockBackend(self._hv, domain, image, len(mine))
        mine.append(backend)
        return backend

    def of(self, domain: Domain) -> tuple[BlockBackend, ...]:
        """A domain's disks, xvda first."""
        return tuple(self._disks.get(domain.id, ()))

    def release(self, domain: Domain) -> None:
        """A domain is destroyed."""
        for backend in self._disks.pop(domain.id, []):
            backend.release()
