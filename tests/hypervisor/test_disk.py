"""Raw disk images: how they are opened, what writes change, what is refused."""

import os

import pytest

from hypervisor import disk
from hypervisor.disk import SECTOR, DiskError, DiskImage, Mode
from tests.hypervisor.block_front import SECTORS, contents


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "disk.img"
    file.write_bytes(contents(0, SECTORS))
    return file


def test_a_copy_never_changes_the_file(path):
    before = path.read_bytes()
    with DiskImage(str(path)) as image:
        assert image.sectors == SECTORS
        image.write(4000, b"x" * 300)
        assert image.read(3990, 320) == before[3990:4000] + b"x" * 300 + before[4300:4310]
        assert image.kept == 2 * disk.BLOCK
        assert image.read(0, 512) == before[:512]
        image.flush()
    assert path.read_bytes() == before


def test_the_last_block_may_be_short(tmp_path):
    file = tmp_path / "odd.img"
    file.write_bytes(contents(0, 9))
    with DiskImage(str(file)) as image:
        image.write(8 * SECTOR, b"end")
        assert image.read(8 * SECTOR, SECTOR)[:3] == b"end"
        with pytest.raises(DiskError, match="beyond its end"):
            image.write(9 * SECTOR, b"x")
        with pytest.raises(DiskError, match="beyond its end"):
            image.read(8 * SECTOR, SECTOR + 1)


def test_modes(path):
    with DiskImage(str(path), Mode.READ_ONLY) as image, pytest.raises(DiskError, match="read-only"):
        image.write(0, b"x")
    with DiskImage(str(path), Mode.WRITABLE) as image:
        image.write(7, b"written")
        image.flush()
        assert image.kept == 0
    assert path.read_bytes()[7:14] == b"written"


def test_what_is_kept_is_bounded(path, monkeypatch):
    monkeypatch.setattr(disk, "MAX_COPY_BYTES", 2 * disk.BLOCK)
    with DiskImage(str(path)) as image:
        for block in range(2):
            image.write(block * disk.BLOCK, b"x")
        with pytest.raises(DiskError, match="written already"):
            image.write(2 * disk.BLOCK, b"x")
        image.write(5, b"y")


def test_a_file_that_shrinks(path):
    with DiskImage(str(path)) as image:
        os.truncate(path, 1000)
        with pytest.raises(DiskError, match="shorter than it was"):
            image.read(512, 1024)


def test_bad_images(tmp_path, path):
    for name, data, says in (
        ("empty", b"", "less than one sector"),
        ("short", b"x" * 511, "less than one sector"),
        ("odd", b"x" * 1000, "no whole number of sectors"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DiskError, match=says):
            DiskImage(str(tmp_path / name))
    with pytest.raises(DiskError, match="No such file"):
        DiskImage(str(tmp_path / "none"))
    with pytest.raises(DiskError, match="not a regular file"):
        DiskImage(str(tmp_path))
    with pytest.raises(DiskError, match="null byte"):
        DiskImage("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DiskError, match="not a regular file"):
        DiskImage(str(tmp_path / "pipe"))
    if os.geteuid() != 0:
        path.chmod(0o400)
        with pytest.raises(DiskError, match="opened for writing"):
            DiskImage(str(path), Mode.WRITABLE)


def test_names():
    assert DiskImage.parse("a.img") == ("a.img", Mode.COPY)
    assert DiskImage.parse("a.img:ro") == ("a.img", Mode.READ_ONLY)
    assert DiskImage.parse("a:b:rw") == ("a:b", Mode.WRITABLE)
    assert DiskImage.parse(":rw") == (":rw", Mode.COPY)
    assert DiskImage.parse("a:cow") == ("a:cow", Mode.COPY)
