"""Page tables as a folded tree: what an address space maps, and through which tables.

Leaf entries that follow each other with the same bits become one line; the tables above are lines
of their own, indented by level, each shown once. Bits are named by the one declaration in
``emu.paging``. A and D of a folded run are shown in capitals if all of its entries have them and in
small letters if some do.

Folding needs no more memory than one path. What is shown is bounded (``limit`` lines), since a
hostile guest's tables can map more than anybody can read; the last line then says where to go on.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from emu.mappings import Mapping, iter_mappings
from emu.paging import PTE_A, PTE_D, PTE_MFN_MASK, describe_entry
from emu.units import PAGE_SHIFT
from emu.walk import PV_CONTROLS, Controls, Step, TableMemory, walk

DEFAULT_LIMIT: Final = 500
_VARYING: Final = PTE_MFN_MASK | PTE_A | PTE_D

Note = Callable[[Mapping], str]
"""What else there is to say about a leaf; leaves with different notes are not folded."""


@dataclass(slots=True)
class _Run:
    """Leaves that are shown as one line."""

    first: Mapping
    last: Mapping
    note: str
    step: int = 0
    """What is added to the frame number from one entry to the next, if that is always the same."""
    regular: bool = True
    entries: int = 1
    accessed: int = 0
    dirty: int = 0

    def __post_init__(self) -> None:
        self._count(self.first)

    def _count(self, item: Mapping) -> None:
        self.accessed += bool(item.entry & PTE_A)
        self.dirty += bool(item.entry & PTE_D)

    def takes(self, item: Mapping, note: str) -> bool:
        """True if ``item`` goes on where the run ends."""
        last = self.last
        return (
            item.va == last.va + last.size
            and item.level == last.level
            and item.address == last.address + 8
            and item.entry & ~_VARYING == last.entry & ~_VARYING
            and item.rights == last.rights
            and note == self.note
        )

    def add(self, item: Mapping) -> None:
        """Make the run longer by one."""
        step = item.mfn - self.last.mfn
        if self.entries == 1:
            self.step = step
        elif step != self.step:
            self.regular = False
        self.last = item
        self.entries += 1
        self._count(item)

    def text(self) -> str:
        """The run as one line."""
        first, last = self.first, self.last
        low = (first.address >> 3) & 511
        slots = f"{low:03x}" if self.entries == 1 else f"{low:03x}..{low + self.entries - 1:03x}"
        span = f"{first.va:#x}..{last.va + last.size - 1:#x}"
        if self.entries == 1:
            frames = f"frame {first.mfn:#x}"
        elif self.regular and abs(self.step) == first.size >> PAGE_SHIFT:
            frames = f"frames {first.mfn:#x}..{last.mfn:#x}"
        elif self.regular and self.step == 0:
            frames = f"frame {first.mfn:#x} each"
        else:
            frames = f"frames {first.mfn:#x}, ... {last.mfn:#x}"
        words = [f"L{first.level}[{slots}]", span, str(first.rights), frames, self._bits()]
        if first.reserved:
            words.append(f"RESERVED {first.reserved:#x}: every access faults")
        if self.note:
            words.append(self.note)
        return "  ".join(words)

    def _bits(self) -> str:
        words = describe_entry(self.first.entry & ~(PTE_A | PTE_D), self.first.level).split()
        words = [word for word in words if not word.startswith("MFN=")]
        for name, number in (("a", self.accessed), ("d", self.dirty)):
            if number:
                words.append(name.upper() if number == self.entries else name)
        return " ".join(words)


def tree_lines(
    memory: TableMemory,
    cr3: int,
    *,
    controls: Controls = PV_CONTROLS,
    start: int = 0,
    end: int = 1 << 64,
    skip_slots: Collection[int] = (),
    select: Callable[[Mapping], bool] = lambda item: True,
    note: Note = lambda item: "",
    limit: int = DEFAULT_LIMIT,
) -> Iterator[str]:
    """The tree below ``cr3``, of leaves in ``start <= va < end`` that ``select`` takes.

    Raises:
        ValueError: paging is off.
    """
    shown: tuple[Step, ...] = ()
    top = controls.mode.value
    lines = count(1)
    yield f"{controls.mode.name}, CR3 {cr3:#x}"
    for run in _runs(memory, cr3, controls, start, end, skip_slots, select, note):
        path = walk(memory, cr3, run.first.va, controls=controls).steps[: top - run.first.level]
        new = [step for step in path if step not in shown]
        for step in new:
            yield f"{'  ' * (top - step.level)}{_table_text(step)}"
        shown = path
        yield f"{'  ' * (top - run.first.level)}{run.text()}"
        if next(lines) >= limit:
            yield f"... there may be more behind {run.last.va + run.last.size - 1:#x}"
            return


def _table_text(step: Step) -> str:
    words = [word for word in step.description.split() if not word.startswith("MFN=")]
    frame = (step.entry & PTE_MFN_MASK) >> PAGE_SHIFT
    return f"L{step.level}[{step.index:03x}]  table {frame:#x}  {' '.join(words)}"


def _runs(
    memory: TableMemory,
    cr3: int,
    controls: Controls,
    start: int,
    end: int,
    skip_slots: Collection[int],
    select: Callable[[Mapping], bool],
    note: Note,
) -> Iterator[_Run]:
    run: _Run | None = None
    for item in iter_mappings(
        memory, cr3, controls=controls, start=start, end=end, skip_slots=skip_slots
    ):
        if not select(item):
            continue
        said = note(item)
        if run is not None and run.takes(item, said):
            run.add(item)
            continue
        if run is not None:
            yield run
        run = _Run(item, item, said)
    if run is not None:
        yield run
