"""The bundled guests as files: found, described, assembled, and accepted as images."""

from pathlib import Path

import pytest

from emu.errors import AssemblyError, ImageError
from guests.library import (
    BUNDLED,
    DIRECTORY,
    VIRT_BASE,
    assemble_guest,
    build_elf,
    bundled,
    describe,
    find,
    virt_base,
)
from hypervisor.image import parse_image

NAMES = [guest.name for guest in BUNDLED]


def test_every_source_is_listed():
    sources = {path.stem for path in DIRECTORY.glob("*.asm")} - {"lab"}
    assert {guest.source for guest in BUNDLED} == sources
    assert set(NAMES) == sources | {f"{name}32" for name in sources}


@pytest.mark.parametrize("guest", BUNDLED, ids=NAMES)
def test_image(guest):
    program = assemble_guest(guest.path, width=guest.width)
    image = parse_image(build_elf(guest.path, guest.width), guest.name)
    assert image.width == guest.width
    assert image.virt_base == image.virt_start == virt_base(guest.width)
    assert image.entry == program.symbols["_start"] == image.symbols["_start"]
    assert image.hypercall_page == program.symbols["hypercall_page"]
    assert image.notes["LOADER"] == "generic"
    assert image.notes["GUEST_OS"] == "cowbird"


@pytest.mark.parametrize("guest", BUNDLED, ids=NAMES)
def test_description_is_one_sentence(guest):
    assert guest.path == find(guest.name)
    assert 10 < len(guest.description) < 100
    assert guest.description.endswith(".")
    assert not guest.description.startswith(";")


@pytest.mark.parametrize("name", NAMES)
def test_sources_stay_readable(name):
    assert len(find(name).read_text().splitlines()) < 400
    for path in (DIRECTORY / "lib").glob("*.inc"):
        assert path.read_text().startswith("; ")
        assert len(path.read_text().splitlines()) < 420


def test_a_name_with_a_width():
    assert bundled("share").width == 64
    assert bundled("share", 32) == bundled("share32") == bundled("share32", 32)
    assert bundled("share", 64).name == "share"
    assert bundled("share32", 64) is None
    assert bundled("nosuch", 32) is None


def test_unknown_name():
    with pytest.raises(ImageError, match="nosuch: no such bundled guest; there are hello, "):
        find("nosuch")


def test_own_source_includes_the_library(tmp_path: Path):
    path = tmp_path / "mine.asm"
    path.write_text('; Mine.\n.include "lib/kernel.inc"\n.text\nmain: ret\n')
    assert describe(path) == "Mine."
    assert parse_image(build_elf(path), "mine").symbols["main"] > VIRT_BASE


def test_built_again_when_it_changes(tmp_path: Path):
    path = tmp_path / "mine.asm"
    path.write_text("_start: nop\n")
    first = build_elf(path)
    path.write_text("_start: hlt\n")
    assert build_elf(path) != first


def test_without_comment_or_hypercall_page(tmp_path: Path):
    path = tmp_path / "bare.asm"
    path.write_text("_start: jmp _start\n")
    assert describe(path) == ""
    assert parse_image(build_elf(path), "bare").hypercall_page is None


def test_error_names_the_line(tmp_path: Path):
    path = tmp_path / "bad.asm"
    path.write_text("_start:\n    mov rax, nowhere\n")
    with pytest.raises(AssemblyError, match=r"bad\.asm:2: "):
        build_elf(path)
