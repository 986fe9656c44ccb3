"""The folder of an experiment: what it is, and the cells that are finished.

``experiment.json`` says which cells, and a fingerprint of the guests and files that they run over;
``cells/NAME.json`` is one finished cell. A cell is written beside its place and renamed, so that
what is there is whole. Cells that were lost (their process died) are not kept: they run again.

How it fails: ``CompareError`` if the folder holds anything but this experiment.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from guests import library
from hypervisor.compare.cell import CELL_SCHEMA, Cell
from hypervisor.compare.errors import CompareError
from hypervisor.compare.files import module_for
from hypervisor.compare.workloads import WORKLOADS

SCHEMA: Final = "cowbird.compare/1"
_EXPERIMENT: Final = "experiment.json"
_CELLS: Final = "cells"

_SOURCES: Final = (
    ("guests/lab", "*.*"),
    ("guests/lib", "*.inc"),
    ("emu", "**/*.py"),
    ("hypervisor", "*.py"),
    ("hypervisor/hypercalls", "*.py"),
    ("hypervisor/compare", "*.py"),
)
"""What runs a cell: folders beside ``guests``, and which of their files."""


def fingerprint(cells: Iterable[Cell]) -> str:
    """What results depend on besides the cells: cowbird's own sources, and the files that guests
    read.
    """
    digest = hashlib.sha256()
    for folder, pattern in _SOURCES:
        for path in sorted((library.DIRECTORY.parent / folder).glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    readers = [cell.domains for cell in cells if WORKLOADS[cell.workload].module]
    for number in range(max(readers, default=0)):
        digest.update(module_for(number))
    return digest.hexdigest()[:16]


class Store:
    """A folder that holds one experiment.

    Raises:
        CompareError: it holds something else, or finished cells and ``resume`` was not asked for.
        OSError: it cannot be made or written.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell], *, resume: bool) -> None:
        self.folder = folder
        about = {
            "schema": SCHEMA,
            "cells": [cell.as_json() for cell in cells],
            "fingerprint": fingerprint(cells),
        }
        about = json.loads(json.dumps(about))  # tuples are lists there
        known = folder / _EXPERIMENT
        if known.exists():
            self._compare(about, known, resume)
        elif folder.exists():
            if not folder.is_dir():
                raise CompareError(f"{folder} is no folder")
            if any(folder.iterdir()):
                raise CompareError(f"{folder} is not empty, and holds no experiment")
        (folder / _CELLS).mkdir(parents=True, exist_ok=True)
        if not known.exists():
            _write(known, encode(about))

    def _compare(self, about: dict[str, Any], known: Path, resume: bool) -> None:
        try:
            there = json.loads(known.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise CompareError(f"{known} cannot be read as an experiment") from None
        if not isinstance(there, dict) or there.get("schema") != SCHEMA:
            raise CompareError(f"{known} is of another version of cowbird")
        if there.get("cells") != about["cells"]:
            raise CompareError(f"{self.folder} holds another experiment: other cells than these")
        if there.get("fingerprint") != about["fingerprint"]:
            raise CompareError(
                f"{self.folder} holds an experiment of another version of cowbird, or over "
                "other files"
            )
        number = len(list((self.folder / _CELLS).glob("*.json")))
        if number and not resume:
            raise CompareError(
                f"{self.folder} holds this experiment already, with {number} finished cells: "
                "--resume goes on with it, --out names another folder"
            )

    def load(self, cell: Cell) -> dict[str, Any] | None:
        """A finished cell; None if it is not there, or not whole."""
        try:
            loaded = json.loads(self._path(cell).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        good = isinstance(loaded, dict) and loaded.get("schema") == CELL_SCHEMA
        return loaded if good and loaded.get("cell") == cell.as_json() else None

    def keep(self, cell: Cell, result: dict[str, Any]) -> None:
        """Write a finished cell. Raises OSError."""
        _write(self._path(cell), encode(result))

    def write(self, name: str, text: str) -> None:
        """Write a file of the experiment as a whole: a table, a figure, the report."""
        _write(self.folder / name, text)

    def _path(self, cell: Cell) -> Path:
        return self.folder / _CELLS / f"{cell.name}.json"


def _write(path: Path, text: str) -> None:
    hidden = path.with_name(f".{path.name}.part")
    hidden.write_text(text, encoding="utf-8", newline="\n")
    os.replace(hidden, path)


def encode(data: Any) -> str:
    """JSON with sorted keys, the same bytes for the same data."""
    return json.dumps(data, sort_keys=True, indent=1) + "\n"
