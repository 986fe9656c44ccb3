"""An experiment as lists of values, and the cells that they come to.

A grid is given by options or by a file (TOML, JSON or YAML, by its suffix) whose keys are the names
below, each with one value or a list. Everything is checked before the first cell runs.

How it fails: ``CompareError`` with one line that names the value, and what there is.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from hypervisor.compare.cell import Cell
from hypervisor.compare.errors import CompareError
from hypervisor.compare.extras import optional
from hypervisor.compare.systems import SYSTEMS, System
from hypervisor.compare.workloads import WORKLOADS

MAX_CELLS: Final = 100_000
MAX_DOMAINS: Final = 64
DEFAULT_DOMAINS: Final = (2, 4, 8)
_RANGES: Final = {
    "domains": (1, MAX_DOMAINS),
    "seeds": (0, 1 << 32),
    "sleep": (10_000, 10_000_000_000),
    "scan_pages": (1, 1 << 20),
    "groups": (1, MAX_DOMAINS),
}
"""Least and greatest of each list of numbers; ``sleep`` in ns."""
_NAMES: Final = {"systems": tuple(SYSTEMS), "workloads": tuple(WORKLOADS)}
_FLAGS: Final = ("zero_only", "opaque")


@dataclass(frozen=True, slots=True)
class Grid:
    """Lists of values; the cells are all combinations.

    ``pages``: of each domain, none for the workloads' own numbers. The other names are those of
    ``Cell``.
    """

    systems: tuple[str, ...] = tuple(SYSTEMS)
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    domains: tuple[int, ...] = DEFAULT_DOMAINS
    seeds: tuple[int, ...] = (1,)
    pages: tuple[int, ...] = ()
    sleep: tuple[int, ...] = (2_000_000,)
    scan_pages: tuple[int, ...] = (64,)
    groups: tuple[int, ...] = (1,)
    zero_only: tuple[bool, ...] = (False,)
    opaque: tuple[bool, ...] = (False,)

    def cells(self) -> list[Cell]:
        """All cells, in the order of the tables: by workload, number of domains, system."""
        sizes: tuple[int | None, ...] = self.pages or (None,)
        lists = (self.sleep, self.scan_pages, self.groups)
        return [
            Cell(system, workload, domains, seed, pages, *numbers, zero_only, opaque)
            for workload, domains, system in product(self.workloads, self.domains, self.systems)
            for seed, pages in product(self.seeds, sizes)
            for numbers in product(*lists)
            for zero_only, opaque in product(self.zero_only, self.opaque)
        ]

    def as_json(self) -> dict[str, Any]:
        """Its lists."""
        return asdict(self)


def make_grid(values: Mapping[str, Any], where: str = "") -> Grid:
    """A grid of lists, or single values, by name. ``where``: what messages begin with.

    Raises:
        CompareError: a name or a value is none, or there are too many cells.
    """
    at = f"{where}: " if where else ""
    known = tuple(Grid.__dataclass_fields__)
    checked: dict[str, tuple[Any, ...]] = {}
    for key, given in values.items():
        if key not in known:
            raise CompareError(f"{at}unknown key {key!r}; there are {', '.join(known)}")
        listed = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if not listed and key != "pages":
            raise CompareError(f"{at}{key}: an empty list")
        checked[key] = _distinct(tuple(_value(at, key, value) for value in listed), at, key)
    grid = Grid(**checked)
    for workload in (WORKLOADS[name] for name in grid.workloads):
        for pages in grid.pages:
            least, most = workload.least_pages, workload.most_pages
            if not least <= pages <= most:
                raise CompareError(
                    f"{at}pages: {pages}; the workload {workload.name} takes {least} to {most}"
                )
    for system in (SYSTEMS[name] for name in grid.systems):
        _fits(grid, system, at)
    number = 1
    for key in known:
        number *= len(getattr(grid, key)) or 1
    if number > MAX_CELLS:
        raise CompareError(f"{at}{number:,} cells; at most {MAX_CELLS:,}")
    return grid


def _fits(grid: Grid, system: System, at: str) -> None:
    """See that the system has room for the grid.

    Raises:
        CompareError: it has not.
    """
    domains = max(grid.domains)
    if domains > system.most_domains:
        raise CompareError(
            f"{at}domains: {domains}; the system {system.name} takes up to {system.most_domains}"
        )
    if system.most_pages is None:
        return
    for workload in (WORKLOADS[name] for name in grid.workloads):
        pages = max(grid.pages or (workload.pages,))
        if domains * pages * workload.copies > system.most_pages:
            most = system.most_pages // workload.copies
            raise CompareError(
                f"{at}pages: {domains} domains of {pages} pages; the system {system.name} with "
                f"the workload {workload.name} takes up to {most} in all"
            )


def _value(at: str, key: str, value: Any) -> Any:
    names = _NAMES.get(key)
    if names is not None:
        if not isinstance(value, str) or value not in names:
            raise CompareError(f"{at}{key}: no {key[:-1]} {value!r}; there are {', '.join(names)}")
        return value
    if key in _FLAGS:
        if not isinstance(value, bool):
            raise CompareError(f"{at}{key}: {value!r} is neither true nor false")
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise CompareError(f"{at}{key}: {value!r} is no whole number")
    least, most = _RANGES.get(key, (1, 4096))
    if not least <= value <= most:
        raise CompareError(f"{at}{key}: {value}; it must be from {least} to {most}")
    return value


def _distinct(values: tuple[Any, ...], at: str, key: str) -> tuple[Any, ...]:
    seen = set()
    for value in values:
        if value in seen:
            raise CompareError(f"{at}{key}: {value} is there twice")
        seen.add(value)
    return values


def read_grid(path: Path) -> dict[str, Any]:
    """What a sweep file says; ``make_grid`` checks it.

    Raises:
        CompareError: it cannot be read, or is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CompareError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise CompareError(f"{path}: {error.strerror or error}") from None
    suffix = path.suffix.lower()
    try:
        if suffix == ".toml":
            loaded: Any = tomllib.loads(text)
        elif suffix == ".json":
            loaded = json.loads(text)
        elif suffix in (".yaml", ".yml"):
            loaded = _yaml(text, path)
        else:
            raise CompareError(f"{path}: a sweep file is .toml, .json or .yaml")
    except (ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise CompareError(f"{path}: {line}") from None
    if not isinstance(loaded, dict):
        raise CompareError(f"{path}: a sweep file has names with lists; there is a {_kind(loaded)}")
    return {str(key): value for key, value in loaded.items()}


def _yaml(text: str, path: Path) -> Any:
    yaml = optional("yaml", f"{path}: YAML", "compare")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _kind(value: object) -> str:
    return "list" if isinstance(value, Sequence) and not isinstance(value, str) else "single value"
