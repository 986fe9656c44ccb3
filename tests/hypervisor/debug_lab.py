"""Machines with bundled guests, for tests of the debugger: the same again and again."""

from functools import cache

from guests import library
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import Stop, StopReason
from hypervisor.debug.snapshot import fingerprint
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import KernelImage, parse_image
from hypervisor.settings import Settings

MIB = 1 << 20
SMALL = {
    "share": "pages=24 patterns=8",
    "fork": "",
    "churn": "pages=16 steps=60",
    "storm": "pages=16 steps=60",
    "text": "",
    "hello": "",
}


@cache
def image(name: str, width: int) -> KernelImage:
    return parse_image(library.build_elf(library.find(name), width=width), name)


def machine(*guests: str, opaque: bool = False) -> Hypervisor:
    """A machine with these guests about to start. ``share/32`` has that width."""
    hv = Hypervisor(Settings(machine_memory=48 * MIB, seed=7, slice=5000, opaque=opaque))
    for guest in guests:
        name, _, bits = guest.partition("/")
        build_domain(
            hv,
            image(name, int(bits or 64)),
            memory=4 * MIB,
            name=name,
            cmdline=SMALL[name],
            console=Console(),
        )
    return hv


def debugger(*guests: str, record: bool = True) -> Debugger:
    return Debugger(machine(*guests), record)


def finish(dbg: Debugger) -> list[Stop]:
    """Run to where nothing can run any more; the stops on the way."""
    stops = []
    while not stops or stops[-1].reason not in (StopReason.FINISHED, StopReason.END_OF_RECORDING):
        stops.append(dbg.cont())
    return stops


def run_in_parts(hv: Hypervisor, positions: list[int]) -> dict[int, str]:
    """Run to each of these positions, ascending, and to the end (key -1): fingerprints there."""
    hv.scheduler.settle()
    found = {}
    for position in positions:
        if position > hv.machine.position:
            hv.run(position - hv.machine.position)
        found[position] = fingerprint(hv)
    while not hv.run():
        pass
    found[-1] = fingerprint(hv)
    return found


def symbol(dbg: Debugger, domain: int, name: str) -> int:
    address = dbg.hv.domains[domain].symbols.address(name)
    assert address is not None, name
    return int(address)
