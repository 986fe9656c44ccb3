"""What a frame is, as a colour: by owner, by type, by how often it is shared.

``classify`` gives every frame of the machine the number of its class. Where a cell of the map
stands for several frames it takes the highest class among them, so that the rarer and more telling
ones (shared frames, upper page tables) come last.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from hypervisor.abi import DomId
from hypervisor.frames import FREE, PageType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hypervisor.hypervisor import Hypervisor

MODES: Final = ("owner", "type", "sharing")
BEYOND: Final = 0
"""The class of what is no frame."""
_DOMAINS: Final = (
    "#4c8ed9", "#5fbf8f", "#a678d8", "#d9688f", "#49b3c4", "#8fae4a", "#7f8fe8", "#c976c9",
    "#3fa37a", "#d98372", "#6aa3b8", "#a0a0d0",
)  # fmt: skip
_SHARED: Final = ("shared", "#f2b01e")
_FREE: Final = ("free", "#2a313b")
_XEN: Final = ("hypervisor", "#6b7685")
_MOST_DOMAINS: Final = 200


@dataclass(frozen=True, slots=True)
class Classes:
    """``number[mfn]`` is the frame's class; ``label`` and ``color`` (``#rrggbb``) are by class."""

    number: "NDArray[np.uint8]"
    label: tuple[str, ...]
    color: tuple[str, ...]

    def legend(self) -> list[tuple[str, str, int]]:
        """(label, colour, number of frames) of the classes that there are."""
        counts = np.bincount(self.number, minlength=len(self.label)).tolist()
        return [
            (label, color, count)
            for label, color, count in zip(self.label, self.color, counts, strict=True)
            if count
        ]


def classify(hv: "Hypervisor", mode: str) -> Classes:
    """All frames by one of ``MODES``."""
    return {"owner": _by_owner, "type": _by_type, "sharing": _by_sharing}[mode](hv)


def _made(number: "NDArray[np.uint8]", *classes: tuple[str, str]) -> Classes:
    label, color = zip(("beyond", "#000000"), *classes, strict=True)
    return Classes(number, label, color)


def _by_owner(hv: "Hypervisor") -> Classes:
    domains = list(hv.domains.values())
    shown = domains[:_MOST_DOMAINS]
    of_owner = np.full(1 << 16, 3, dtype=np.uint8)
    of_owner[FREE], of_owner[DomId.XEN] = 1, 2
    for place, domain in enumerate(shown):
        of_owner[domain.id] = 4 + place
    of_owner[DomId.COW] = 4 + len(shown)
    named = [(d.label, _DOMAINS[(d.id - 1) % len(_DOMAINS)]) for d in shown]
    return _made(
        of_owner[hv.frames.owner_column], _FREE, _XEN, ("others", "#8a8f98"), *named, _SHARED
    )


def _by_type(hv: "Hypervisor") -> Classes:
    frames = hv.frames
    of_type = np.full(256, 3, dtype=np.uint8)
    for place, kind in enumerate(
        (PageType.NONE, PageType.WRITABLE, PageType.SEG_DESC, PageType.L1, PageType.L2,
         PageType.L3, PageType.L4, PageType.SHARED)
    ):  # fmt: skip
        of_type[kind] = 3 + place
    number = of_type[frames.type_column]
    number[frames.type_count_column == 0] = 3
    number[frames.owner_column == DomId.XEN] = 2
    number[frames.owner_column == FREE] = 1
    return _made(
        number, _FREE, _XEN, ("no type", "#9aa3ae"), ("writable", "#4f7fb0"),
        ("descriptors", "#3b8f8f"), ("L1", "#8b7bd8"), ("L2", "#ad72cc"), ("L3", "#cf6db8"),
        ("L4", "#ea6b98"), _SHARED,
    )  # fmt: skip


def _by_sharing(hv: "Hypervisor") -> Classes:
    frames = hv.frames
    number = np.full(frames.total, 2, dtype=np.uint8)
    number[frames.owner_column == FREE] = 1
    shared = np.flatnonzero(frames.owner_column == DomId.COW)
    bounds = np.array([1, 2, 4, 8, 16])
    number[shared] = 3 + np.searchsorted(bounds, frames.refs_column[shared])
    return _made(
        number, _FREE, ("not shared", "#4a5461"), ("mapped once", "#8c7434"), ("2", "#c99a2e"),
        ("3-4", "#f2b01e"), ("5-8", "#f28a3c"), ("9-16", "#f0655a"), ("17+", "#ff9ac0"),
    )  # fmt: skip
