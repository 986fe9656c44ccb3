"""``cowbird info``: facts on stdout, and the refusal that ``boot`` would give as its one line."""

import gzip
from pathlib import Path

import pytest
from click.testing import CliRunner

from guests import library
from hypervisor.cli import cli
from tests.hypervisor import cli_guests
from tests.hypervisor.test_image import BASE, elf, note, notes, segment
from tests.hypervisor.test_packing import KERNEL, bzimage
from tests.needs import need

GRUB = Path("/usr/lib/grub-xen/grub-x86_64-xen.bin")


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("cowbird: error: ")
    for part in parts:
        assert part in lines[0]
    assert "refused" not in result.stdout


@pytest.fixture
def file(tmp_path):
    def write(data, name="kernel"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_a_bundled_guest():
    result = run("info", "hello")
    assert result.exit_code == 0, result.output
    for text in (
        "ELF64, 64-bit",
        "XEN_VERSION     xen-3.0",
        "entry     0xffffffff80000000",
        "P2M list",
        "boot stack",
        "symbols",
        "refused   nothing",
    ):
        assert text in result.stdout


def test_every_bundled_guest():
    for guest in library.BUNDLED:
        assert run("info", guest.name).exit_code == 0


def test_a_source(tmp_path):
    path = cli_guests.write(tmp_path, "says.asm", cli_guests.says("x"))
    assert "refused   nothing" in run("info", path).stdout


def test_packed_kernels(file):
    assert "bytes: bzImage, gzip" in run("info", file(bzimage(gzip.compress(KERNEL)))).stdout


def test_memory():
    assert "in 64M (16384 pages)" in run("info", "hello", "--memory", "64M").stdout
    refused(run("info", "hello", "--memory", "64K"), "hello")


def test_contradictory_notes(file):
    blob = notes() + note(1, BASE + 0x100020)
    result = run("info", file(elf([segment()], notes_blob=blob)))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("contradicted further on") == 1
    assert f"entry     {BASE + 0x100020:#x}" in result.stdout
    refused(run("info", file(elf([segment()], notes_blob=notes(ENTRY=BASE)))), "entry", "outside")
    both = notes(VIRT_BASE=None, PADDR_OFFSET=0)
    refused(run("info", file(elf([segment()], notes_blob=both))), "PADDR_OFFSET")


def test_features(file):
    blob = notes(FEATURES="writable_page_tables|!auto_translated_physmap")
    result = run("info", file(elf([segment()], notes_blob=blob)))
    assert "required: auto_translated_physmap (not offered here)" in result.stdout
    refused(result, "requires auto_translated_physmap")


def test_hostile_text_stays_on_its_line(file):
    blob = notes(GUEST_VERSION="a\nrefused   nothing\x1b[2J" + "x" * 5000)
    result = run("info", file(elf([segment()], notes_blob=blob)))
    assert result.exit_code == 0, result.output
    line = next(line for line in result.stdout.splitlines() if "GUEST_VERSION" in line)
    assert "\\nrefused" in line
    assert "\x1b" not in result.stdout
    assert len(line) < 300


def test_what_is_no_kernel(file, tmp_path):
    refused(run("info", tmp_path / "none"), "no such file")
    refused(run("info", tmp_path), "not a regular file")
    refused(run("info", file(b"")), "empty file")
    refused(run("info", file(b"garbage" * 200)), "neither an ELF file nor a packed one")
    refused(run("info", file(bzimage(gzip.compress(KERNEL))[:3000])), "truncated")
    wide = bytearray(KERNEL)
    wide[4] = 1
    refused(run("info", file(bytes(wide))))


def test_pv_grub():
    need(str(GRUB))
    result = run("info", GRUB)
    assert result.exit_code == 0
    assert "GUEST_OS     GRUB" in result.stdout
    small = run("info", GRUB.with_name("grub-i386-xen.bin"))
    assert "ELF32, 32-bit" in small.stdout
    assert "GUEST_OS     GRUB" in small.stdout
    assert small.exit_code == 0
    assert "PAE; extended CR3 is known" in small.stdout
