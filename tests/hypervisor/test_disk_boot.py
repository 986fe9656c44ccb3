"""``--disk`` on the command line, and PV-GRUB, a kernel nobody here wrote, booting from a disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from guests import library
from hypervisor.cli import cli
from tests.needs import need

ROOT = Path(__file__).resolve().parents[2]
GRUB = {
    64: "/usr/lib/grub-xen/grub-x86_64-xen.bin",
    32: "/usr/lib/grub-xen/grub-i386-xen.bin",
}


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def is_one_error(result, *parts):
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("cowbird: error: ")
    for part in parts:
        assert part in line


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(64 << 10))
    return path


def test_any_guest_may_have_disks(image):
    before = image.stat().st_mtime_ns
    assert run("boot", "hello", "--disk", image, "--disk", f"{image}:ro").exit_code == 0
    assert run("boot", "hello", "--disk", image, "--domains", 3).exit_code == 0
    assert run("boot", "hello", "--disk", f"{image}:rw").exit_code == 0
    assert image.stat().st_mtime_ns == before


def test_the_result_names_them(image, tmp_path):
    out = tmp_path / "run.json"
    run("boot", "hello", "--disk", image, "--disk", f"{image}:ro", "--json", out)
    (domain,) = json.loads(out.read_text())["domains"]
    assert domain["disks"] == [f"{image}:cow", f"{image}:ro"]


def test_disks_that_cannot_be(image, tmp_path):
    is_one_error(run("boot", "hello", "--disk", tmp_path / "none"), "none", "No such file")
    is_one_error(run("boot", "hello", "--disk", tmp_path), "not a regular file")
    image.write_bytes(b"x" * 100)
    is_one_error(run("boot", "hello", "--disk", image), "100 bytes")
    image.write_bytes(bytes(512))
    is_one_error(run("boot", "hello", "--domains", 2, "--disk", f"{image}:rw"), "only one domain")
    is_one_error(run("boot", "hello", *["--disk", image] * 17), "17 disks", "can have 16")


@pytest.fixture
def ext2(tmp_path):
    """An ext2 file system with a guest and a menu that boots it at once."""
    mke2fs = need("/usr/sbin/mke2fs")
    root = tmp_path / "root"
    (root / "boot" / "grub").mkdir(parents=True)
    for width in GRUB:
        elf = library.build_elf(library.find("hello"), width)
        (root / "boot" / f"hello{width}.elf").write_bytes(elf)
    (root / "boot" / "grub" / "grub.cfg").write_text(
        "set timeout=0\nmenuentry hello {\n"
        " if [ $grub_cpu = i386 ]; then set width=32; else set width=64; fi\n"
        " linux /boot/hello${width}.elf came from a disk\n boot\n}\n"
    )
    path = tmp_path / "ext2.img"
    subprocess.run([mke2fs, "-q", "-t", "ext2", "-d", root, path, "4096"], check=True)
    return path


@pytest.mark.parametrize(("width", "mode"), [(64, ""), (64, ":ro"), (32, "")])
def test_pv_grub_boots_a_guest_from_ext2(ext2, width, mode):
    grub = need(GRUB[width])
    before = ext2.read_bytes()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hypervisor", "boot", grub, "--memory", "64M"),
            *("--disk", f"{ext2}{mode}", "--limit", "3000000000"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# command line: came from a disk" in done.stdout
    assert "ok 1 hello" in done.stdout
    assert ext2.read_bytes() == before
