"""Grids: what they come to, and what is refused with one line."""

from pathlib import Path

import pytest

from hypervisor.compare.errors import CompareError
from hypervisor.compare.grid import Grid, make_grid, read_grid
from hypervisor.compare.systems import SYSTEMS
from hypervisor.compare.workloads import WORKLOADS
from tests.needs import need_module


def test_the_default_is_every_system_over_every_workload() -> None:
    cells = Grid().cells()
    assert len(cells) == len(SYSTEMS) * len(WORKLOADS) * 3
    assert len({cell.name for cell in cells}) == len(cells)


def test_cells_are_all_combinations_in_the_order_of_the_tables() -> None:
    grid = make_grid(
        {
            "systems": ["none", "share"],
            "workloads": "zero",
            "domains": [2, 4],
            "seeds": [1, 2],
            "opaque": [False, True],
        }
    )
    names = [cell.name for cell in grid.cells()]
    assert names[:4] == [
        "none-zero-2d-s1",
        "none-zero-2d-s1-opaque",
        "none-zero-2d-s2",
        "none-zero-2d-s2-opaque",
    ]
    assert names[4] == "share-zero-2d-s1"
    assert len(names) == len(set(names)) == 16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"systems": ["nome"]}, "systems: no system 'nome'; there are none, reference"),
        ({"workloads": "zeros"}, "workloads: no workload 'zeros'; there are boot, fork"),
        ({"domain": 2}, "unknown key 'domain'; there are systems, workloads"),
        ({"domains": 0}, "domains: 0; it must be from 1 to 64"),
        ({"domains": 65}, "domains: 65; it must be from 1 to 64"),
        ({"domains": [2, "x"]}, "domains: 'x' is no whole number"),
        ({"domains": True}, "domains: True is no whole number"),
        ({"seeds": [1, 1]}, "seeds: 1 is there twice"),
        ({"seeds": 1.5}, "seeds: 1.5 is no whole number"),
        ({"seeds": []}, "seeds: an empty list"),
        ({"pages": 0}, "pages: 0; it must be from 1 to 4096"),
        ({"pages": 16}, "pages: 16; the workload short takes 80 to 4096"),
        ({"workloads": "fork", "pages": 512}, "pages: 512; the workload fork takes 1 to 256"),
        ({"domains": 17}, "domains: 17; the system manager takes up to 16"),
        (
            {"workloads": "zero", "pages": 1024},
            "pages: 8 domains of 1024 pages; the system pager with the workload zero takes up to",
        ),
        ({"opaque": 1}, "opaque: 1 is neither true nor false"),
        ({"systems": [["none"]]}, "systems: no system"),
        ({"seeds": list(range(100_000))}, "cells; at most 100,000"),
    ],
)
def test_what_there_is_not_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(CompareError) as caught:
        make_grid(values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'systems = ["none", "share"]\ndomains = 2\n'),
        ("a.json", '{"systems": ["none", "share"], "domains": 2}'),
        ("a.yaml", "systems: [none, share]\ndomains: 2\n"),
        ("a.yml", "systems:\n- none\n- share\ndomains: 2\n"),
    ],
)
def test_a_sweep_file_says_the_same_in_every_format(tmp_path: Path, name: str, text: str) -> None:
    if name.endswith("ml") and not name.endswith("toml"):
        need_module("yaml")
    path = tmp_path / name
    path.write_text(text)
    grid = make_grid(read_grid(path))
    assert grid.systems == ("none", "share")
    assert grid.domains == (2,)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "systems = [", "a.toml: "),
        ("a.json", "{", "a.json: "),
        ("a.json", "[1]", "a.json: a sweep file has names with lists; there is a list"),
        ("a.json", "[" * 100_000, "a.json: "),
        ("a.txt", "", "a.txt: a sweep file is .toml, .json or .yaml"),
    ],
)
def test_a_bad_sweep_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(CompareError) as caught:
        read_grid(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="No such file"):
        read_grid(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CompareError, match="not UTF-8"):
        read_grid(tmp_path / "b.toml")
