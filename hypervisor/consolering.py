"""The PV console: a ring of input and a ring of output in a page of the domain's.

Output that the guest announces by an event goes to the domain's ``Console`` as ``console_io``'s
does. Input that somebody feeds to the console goes into the ring as far as there is room, with an
event; the rest follows as the guest reads and says so. All this begins with the guest's first
event: until then it may be one that reads by ``console_io``, and input is kept for that.

How it fails: indices that make no sense are not believed and nothing moves, as with Xen's console
daemon; a guest that sets them right again goes on. Nothing is kept here, so nothing can grow.

Source: io/console.h; xenconsoled for what lying indices do.
"""

from typing import TYPE_CHECKING, Final

from emu.units import MFN
from hypervisor.abi import XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface, offset_of
from hypervisor.bytering import ByteRing, RingLies
from hypervisor.domain import Domain

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_WORK: Final = 16


class ConsoleRing:
    """The other end of a domain's console ring in frame ``mfn``, told of events at ``port``."""

    def __init__(self, hv: "Hypervisor", domain: Domain, mfn: MFN, port: int) -> None:
        self._hv = hv
        self._mfn = mfn
        self._console = domain.console
        page = hv.machine.memory.frame(mfn)
        field = XenconsInterface
        self._in = ByteRing(
            page,
            data=offset_of(field, "in_"),
            size=XENCONS_IN_SIZE,
            cons=offset_of(field, "in_cons"),
            prod=offset_of(field, "in_prod"),
        )
        self._out = ByteRing(
            page,
            data=offset_of(field, "out"),
            size=XENCONS_OUT_SIZE,
            cons=offset_of(field, "out_cons"),
            prod=offset_of(field, "out_prod"),
        )
        self._link = hv.events.bind_service(domain, port)
        self._link.callback = self._heard
        self.used = False
        """True once the guest has sent an event: this is how it writes and reads."""

    def close(self) -> None:
        """The domain is going: its page is not touched any more."""
        self._console.on_input = None

    def _heard(self) -> None:
        self.used = True
        self._console.on_input = self.serve
        self.serve()

    def serve(self) -> None:
        """Take what the guest wrote, and give it what waits for it."""
        try:
            output = self._out.take(XENCONS_OUT_SIZE)
        except RingLies:
            output = b""
        if output:
            self._hv.spend(_WORK)
            self._console.write(output)
        given = self._give()
        if output or given:
            self._hv.machine.coherence.wrote(self._mfn)
            self._link.notify()

    def _give(self) -> bool:
        """Put input into the ring; True if some went."""
        if not self.used or not self._console.queued:
            return False
        try:
            room = self._in.room
            return room > 0 and self._in.put(self._console.read(room)) > 0
        except RingLies:
            return False

    @property
    def empty(self) -> bool:
        """True if the guest has read all its input (or its indices lie)."""
        try:
            return not self._console.queued and not self._in.waiting
        except RingLies:
            return True
