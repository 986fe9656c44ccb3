"""Machines with bundled guests, for tests of the debugger: the same again and again."""

from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import cache, partial
from random import Random
from struct import Struct
from types import FunctionType, MethodType
from typing import Any

from xxhash import xxh3_128_hexdigest

from guests import library
from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.debug.debugger import Debugger
from hypervisor.debug.disks import Blocks
from hypervisor.debug.graph import Registry
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
    stops: list[Stop] = []
    while not stops or stops[-1].reason not in (StopReason.FINISHED, StopReason.END_OF_RECORDING):
        stops.append(dbg.cont())
    return stops


def run_in_parts(
    hv: Hypervisor, positions: list[int], mark: Callable[[Hypervisor], str] = fingerprint
) -> dict[int, str]:
    """Run to each of these positions, ascending, and to the end (key -1): their marks."""
    hv.scheduler.settle()
    found = {}
    for position in positions:
        if position > hv.machine.position:
            hv.run(position - hv.machine.position)
        found[position] = mark(hv)
    while not hv.run():
        pass
    found[-1] = mark(hv)
    return found


def symbol(dbg: Debugger, domain: int, name: str) -> int:
    address = dbg.hv.domains[domain].symbols.address(name)
    assert address is not None, name
    return int(address)


def everything(hv: Hypervisor) -> str:
    """``fingerprint`` and ``knowledge`` as one."""
    return fingerprint(hv) + xxh3_128_hexdigest(knowledge(hv).encode())


def knowledge(hv: Hypervisor) -> str:
    """Everything that the hypervisor's objects hold, in an order that does not depend on them.

    Two machines at the same moment of the same run have the same, whatever was restored meanwhile.
    """
    registry = Registry(hv)
    seen: dict[int, int] = {}

    def walk(thing: Any) -> Any:
        kind = type(thing)
        if kind is bytes and len(thing) == len(hv.idle_state):
            return "cpu"  # it has an address of the host's in it; fingerprints compare registers
        if kind in (int, str, bytes, bool, float, type(None)):
            return thing
        if isinstance(thing, Enum | type):
            return str(thing)
        if kind is bytearray:
            return bytes(thing)
        if isinstance(thing, Blocks):
            return "blocks"  # what was read from a file so far
        if isinstance(thing, tuple):
            return [kind.__name__, *map(walk, thing)]
        if id(thing) in seen:
            return ("again", seen[id(thing)])
        if isinstance(thing, memoryview):
            return ("view", registry.offset_of(thing), thing.nbytes, thing.format)
        if isinstance(thing, MethodType):
            return ("method", thing.__name__, walk(thing.__self__))
        if isinstance(thing, FunctionType):
            return ("function", thing.__qualname__)
        if isinstance(thing, partial):
            return ("partial", walk(thing.func), [walk(part) for part in thing.args])
        if isinstance(thing, Struct):
            return ("struct", thing.format)
        seen[id(thing)] = len(seen)
        if isinstance(thing, Random):
            return ("random", thing.getstate())
        if isinstance(thing, dict):
            return [kind.__name__, *((walk(k), walk(v)) for k, v in thing.items())]
        if isinstance(thing, set | frozenset):
            return [kind.__name__, *sorted(map(repr, map(walk, thing)))]
        if isinstance(thing, list | deque):
            return [kind.__name__, *map(walk, thing)]
        number = registry.number(thing)
        if number is not None and number not in registry.roots:
            return ("fixed", kind.__name__)
        names = sorted(vars(thing)) if hasattr(thing, "__dict__") else sorted(kind.__slots__)
        held = [
            (name, walk(getattr(thing, name)))
            for name in names
            if number is None or registry.is_state(thing, name, getattr(thing, name))
        ]
        return [kind.__name__, *held]

    return repr(walk(hv))
