"""The hypervisor's own state as bytes, to be put back into the same objects.

The hypervisor is a graph of Python objects over machine memory. Everything in it is captured by
``pickle`` except three kinds of things:

*Fixed* objects are only referred to: machine memory and its views, the frame table's columns (whose
contents are captured as memory is), the engine, and whatever belongs to a front end.

*Roots* are objects that others outside hold: the hypervisor and its parts, domains, consoles. They
keep their identity: their attributes are captured, and put back in place.

*Wiring* is how parts tell front ends of things (listeners, sinks): it is as it is now, not as it
was then.

All other objects (channels, grants, nodes of XenStore...) are made anew when state is put back,
with their references among each other as they were.

How it fails: an object that cannot be captured (an open file, a closure over state) is a
``HypervisorError`` when the first snapshot is taken, never state that is silently forgotten.
"""

import io
import pickle
import struct
from array import array
from collections.abc import Iterator
from types import FunctionType
from typing import Any, ClassVar, Final

import numpy as np

from hypervisor.console import Console
from hypervisor.debug.disks import RecordedDisk
from hypervisor.domain import Domain
from hypervisor.errors import HypervisorError
from hypervisor.hypervisor import Hypervisor
from hypervisor.symbols import Symbols

_WIRING: Final = frozenset({"listeners", "on_end", "on_slice", "notify", "built"})
"""Attributes that are not state."""
_CONSOLE: Final = frozenset({"written", "dropped", "_partial", "on_input", "_input", "_waiting"})
"""The state of a console; the rest is its front end's (``hypervisor.debug.consoles``)."""
_LONG: Final = 4096
"""A list of more integers than this is captured in blocks, like memory."""
_PLAIN: Final = (int, str, bytes, type(None), bool, float)
_OUTSIDE: Final = ("hypervisor.cli", "hypervisor.debug", "hypervisor.report", "emu.", "tests")


def _is_fixed_kind(thing: object) -> bool:
    """Objects that are never captured: of the emulator (but plain values), or of a front end."""
    kind = type(thing)
    module = kind.__module__
    if module.startswith("emu."):
        return hasattr(thing, "__dict__") and not isinstance(thing, tuple)
    return module.startswith(_OUTSIDE) and not isinstance(thing, RecordedDisk)


class Registry:
    """Objects with identity, by number. One for each hypervisor that is debugged."""

    active: ClassVar["Registry"]
    """The one whose state is being put back."""

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv
        self._things: list[Any] = []
        self._numbers: dict[int, int] = {}
        self.roots: dict[int, Any] = {}
        """Roots by number."""
        self._fixed: set[int] = set()
        self._memory = np.frombuffer(hv.machine.memory.bytes, dtype=np.uint8)
        self._base = int(self._memory.__array_interface__["data"][0])
        for thing in self._fixed_things():
            self.fix(thing)
        self.discover()

    def _fixed_things(self) -> Iterator[object]:
        hv = self._hv
        machine, frames = hv.machine, hv.frames
        yield from (machine, machine.memory, machine.cpu, machine.coherence, machine.stops)
        yield from (machine.memory.bytes, machine.memory.words, machine.memory.array)
        yield from (machine.cpu.words, machine.cpu.halves, machine.cpu.state)
        yield from (frames.owner, frames.type, frames.type_count, frames.refs, frames.flags)
        yield frames.linear
        yield from (value for value in vars(frames).values() if isinstance(value, np.ndarray))
        yield from (value for value in vars(frames).values() if isinstance(value, memoryview))
        yield hv.settings

    def fix(self, thing: object) -> int:
        """Refer to ``thing`` instead of capturing it; its number."""
        number = self._add(thing)
        self._fixed.add(id(thing))
        return number

    def _add(self, thing: object) -> int:
        number = self._numbers.get(id(thing))
        if number is None:
            number = self._numbers[id(thing)] = len(self._things)
            self._things.append(thing)  # kept, so that its id stays its own
        return number

    def number(self, thing: object) -> int | None:
        """The number of a fixed object or root."""
        return self._numbers.get(id(thing))

    def thing(self, number: int) -> Any:
        """The object of a number."""
        return self._things[number]

    def discover(self) -> None:
        """Find new roots: parts of the hypervisor, domains, consoles."""
        hv = self._hv
        waiting: list[object] = [hv, hv.idle, *hv.domains.values()]
        if self.roots:
            waiting = [d for d in waiting if isinstance(d, Domain) and self.number(d) is None]
        while waiting:
            thing = waiting.pop()
            if id(thing) in self._numbers:
                continue
            self.roots[self._add(thing)] = thing
            for value in vars(thing).values():
                if self._is_part(value):
                    waiting.append(value)

    @staticmethod
    def _is_part(value: object) -> bool:
        kind = type(value)
        return (
            kind.__module__.startswith("hypervisor.")
            and hasattr(value, "__dict__")
            and not isinstance(value, Symbols)
            and not getattr(kind, "__dataclass_params__", None)
            and not isinstance(value, FunctionType | type)
            and not hasattr(kind, "__members__")
        ) or isinstance(value, Domain | Console)

    def is_state(self, root: object, name: str, value: object) -> bool:
        """Whether an attribute of a root is captured."""
        if isinstance(root, Console):
            return name in _CONSOLE
        return name not in _WIRING and id(value) not in self._fixed

    # -- views of memory -------------------------------------------------------------------

    def offset_of(self, view: "memoryview | np.ndarray[Any, Any]") -> int | None:
        """Where in machine memory a view begins, None if it is not one of machine memory."""
        at = int(np.asarray(view).__array_interface__["data"][0]) - self._base
        return at if 0 <= at < len(self._memory) else None

    def view(self, offset: int, length: int, kind: str) -> memoryview:
        """A view of machine memory."""
        part = self._hv.machine.memory.bytes[offset : offset + length]
        return part.cast("Q") if kind == "Q" else part.cast("I") if kind == "I" else part


def _thing(number: int) -> Any:
    return Registry.active.thing(number)


def _view(offset: int, length: int, kind: str) -> memoryview:
    return Registry.active.view(offset, length, kind)


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, registry: Registry) -> None:
        super().__init__(stream, protocol=5)
        self._registry = registry

    def reducer_override(self, obj: Any) -> Any:
        registry = self._registry
        number = registry.number(obj)
        if number is not None:
            return _thing, (number,)
        if isinstance(obj, type):
            return NotImplemented
        if isinstance(obj, struct.Struct):
            return struct.Struct, (obj.format,)
        if isinstance(obj, memoryview):
            offset = registry.offset_of(obj)
            if offset is None or obj.format not in ("B", "Q", "I"):
                raise HypervisorError("a view of something else than machine memory is state")
            return _view, (offset, obj.nbytes, obj.format)
        if isinstance(obj, FunctionType):
            if "<" in obj.__qualname__:
                self._check_closure(obj)
                return _thing, (registry.fix(obj),)
            return NotImplemented
        if isinstance(obj, Symbols) or _is_fixed_kind(obj):
            return _thing, (registry.fix(obj),)
        return NotImplemented

    def _check_closure(self, function: FunctionType) -> None:
        """A closure is kept as it is, so what it closes over must not change."""
        for cell in function.__closure__ or ():
            value = cell.cell_contents
            if not isinstance(value, _PLAIN) and self._registry.number(value) is None:
                raise HypervisorError(f"{function.__qualname__} closes over {type(value).__name__}")


class Graph:
    """Captures and puts back the state of all roots."""

    def __init__(self, hv: Hypervisor) -> None:
        self.registry = Registry(hv)

    def capture(self) -> tuple[bytes, dict[tuple[int, str], bytes]]:
        """The state, and the long lists of integers in it: (root, attribute) -> 64-bit words."""
        registry = self.registry
        registry.discover()
        long: dict[tuple[int, str], bytes] = {}
        states: dict[int, dict[str, Any]] = {}
        for number, root in registry.roots.items():
            state: dict[str, Any] = {}
            for name, value in vars(root).items():
                if not registry.is_state(root, name, value):
                    continue
                if type(value) is list and len(value) > _LONG and type(value[0]) is int:
                    long[number, name] = array("q", value).tobytes()
                else:
                    state[name] = value
            states[number] = state
        stream = io.BytesIO()
        try:
            _Pickler(stream, registry).dump(states)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise HypervisorError(f"a snapshot cannot be taken: {error}") from error
        return stream.getvalue(), long

    def restore(self, state: bytes, long: dict[tuple[int, str], bytes]) -> None:
        """Put the state back into the roots."""
        registry = Registry.active = self.registry
        states: dict[int, dict[str, Any]] = pickle.loads(state)
        for (number, name), data in long.items():
            words = array("q")
            words.frombytes(data)
            states[number][name] = words.tolist()
        for number, values in states.items():
            root = registry.roots[number]
            attributes = vars(root)
            kept = {
                name: value
                for name, value in attributes.items()
                if not registry.is_state(root, name, value)
            }
            attributes.clear()
            attributes.update(kept)
            attributes.update(values)
