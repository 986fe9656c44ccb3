"""The cache of assembled guests never decides what comes out."""

from pathlib import Path

import pytest

from guests.runner import elfcache

made: list[Path] = []


def assemble(path: Path) -> bytes:
    made.append(path)
    return b"image of " + path.read_bytes() + b"%d" % len(made)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made.clear()
    monkeypatch.setenv("COWBIRD_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_kept_until_anything_changes(place: Path) -> None:
    source, include, data = place / "a.asm", place / "b.inc", place / "c.bin"
    source.write_text('.include "b.inc"\n.include "lib/kernel.inc"\n')
    include.write_text('.INCBIN "c.bin"\n')
    data.write_bytes(b"1")
    first = elfcache.build(source, assemble)
    assert elfcache.build(source, assemble) == first
    assert len(made) == 1
    data.write_bytes(b"2")
    assert elfcache.build(source, assemble) != first
    include.write_text('.INCBIN "c.bin"\n; more\n')
    elfcache.build(source, assemble)
    assert len(made) == 3
    (place / "lib").mkdir()  # a file that now comes before the bundled one
    (place / "lib" / "kernel.inc").write_text("; mine\n")
    elfcache.build(source, assemble)
    assert len(made) == 4


def test_a_broken_entry_is_made_anew(place: Path) -> None:
    source = place / "a.asm"
    source.write_text("main: ret\n")
    first = elfcache.build(source, assemble)
    (stored,) = (place / "cache" / "asm").glob("*.elf")
    stored.write_bytes(stored.read_bytes()[:-1])
    assert elfcache.build(source, assemble) != first
    assert len(made) == 2


@pytest.mark.parametrize(
    "text",
    [
        '.macro m\n.include "b.inc"\n.endm\n',
        ".include b.inc\n",
        '.include "missing.inc"\n',
    ],
)
def test_what_cannot_be_told_is_not_kept(place: Path, text: str) -> None:
    source = place / "a.asm"
    (place / "b.inc").write_text("")
    source.write_text(text)
    elfcache.build(source, assemble)
    elfcache.build(source, assemble)
    assert len(made) == 2


def test_without_a_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place / "a.asm"
    source.write_text("main: ret\n")
    for directory in ("", str(source)):
        monkeypatch.setenv("COWBIRD_CACHE", directory)
        elfcache.build(source, assemble)
    assert len(made) == 2
