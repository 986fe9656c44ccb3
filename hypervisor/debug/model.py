"""What a debugger and its front ends say to each other: stops, why they came, and errors.

Plain values. A *position* is the machine's (instructions started); a stop at position p comes
before the instruction that will be number p + 1 has started, with everything that its forerunner
caused done.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from emu.errors import CowbirdError

WatchKind = Literal["write", "read", "access"]


class DebugError(CowbirdError):
    """Something asked of the debugger cannot be done; one line for the person who asked."""


class StopReason(Enum):
    """Why the machine stands still."""

    BREAKPOINT = "breakpoint"
    HWBREAK = "hardware breakpoint"
    WATCH = "watchpoint"
    RWATCH = "read watchpoint"
    AWATCH = "access watchpoint"
    STEP = "step"
    CATCH = "catch"
    INTERRUPT = "interrupt"
    START_OF_HISTORY = "start of history"
    END_OF_RECORDING = "end of the recording"
    EXITED = "exited"
    CRASHED = "crashed"
    FINISHED = "nothing can run any more"
    LIMIT = "limit"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: ``kind`` as in the trace, ``details`` by name."""

    kind: str
    domain: int | None
    position: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stop:
    """Where and why the machine stopped.

    ``number``: of the breakpoint, watchpoint or catch. ``address``: linear address of the watched
    bytes that were accessed; ``old`` and ``new`` their values. ``event``: what a catch caught.
    ``text``: of an error.
    """

    reason: StopReason
    domain: int | None
    position: int
    number: int | None = None
    address: int | None = None
    event: Event | None = None
    old: bytes | None = None
    new: bytes | None = None
    text: str = ""


@dataclass(slots=True)
class Breakpoint:
    """Stop before the instruction at linear address ``va`` of one domain."""

    number: int
    domain: int
    va: int
    hardware: bool = False
    temporary: bool = False
    condition: str | None = None
    enabled: bool = True
    ignore: int = 0
    """How many further hits are passed over."""
    hits: int = 0


@dataclass(slots=True)
class Watchpoint:
    """Stop behind the instruction that accessed ``length`` bytes at ``va`` of one domain."""

    number: int
    domain: int
    va: int
    length: int
    kind: WatchKind
    condition: str | None = None
    enabled: bool = True
    ignore: int = 0
    hits: int = 0


CATCH_KINDS = (
    "fault", "hypercall", "pte", "frame", "share", "merge", "cow", "free", "create", "crash",
    "exit", "counter",
)  # fmt: skip


@dataclass(slots=True)
class Catch:
    """Stop at the end of the trap in which something happened. None means any.

    ``fault``: ``vector``, ``error``, ``address`` (any byte of its page), ``avl`` (bits of the entry
    that maps it). ``hypercall``: ``name``, ``args`` (position -> value), ``result``. ``pte``:
    ``address``, the machine address of an entry. ``frame``: ``mfn``; its type, owner or counts
    change. ``share`` (entered or merged), ``merge``, ``cow``, ``free``: ``mfn``. ``counter``:
    ``counter`` by name, of ``domain`` or of the machine; it changes, or reaches ``value``.
    ``condition``: an expression over the event's details, ``domain``, ``position`` and ``kind``.
    """

    kind: str
    domain: int | None = None
    vector: int | None = None
    error: int | None = None
    address: int | None = None
    avl: int | None = None
    name: str | None = None
    args: dict[int, int] = field(default_factory=dict)
    result: int | None = None
    mfn: int | None = None
    counter: str | None = None
    value: int | None = None
    condition: str | None = None
    temporary: bool = False
    number: int = 0
    enabled: bool = True
    ignore: int = 0
    hits: int = 0


AnyStop = Breakpoint | Watchpoint | Catch
