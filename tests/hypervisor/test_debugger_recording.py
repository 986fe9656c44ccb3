"""Recordings: the same run elsewhere, with what was typed, written and read; and bad files."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from xxhash import xxh3_128_digest

from hypervisor.builder import build_domain
from hypervisor.console import Console
from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import DebugError, StopReason
from hypervisor.debug.recording import RecordingError, dump, load, parse
from hypervisor.debug.snapshot import fingerprint
from hypervisor.disk import BLOCK, DiskImage, Mode
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import parse_image
from hypervisor.settings import Settings
from tests.hypervisor.debug_lab import debugger, everything, finish, machine
from tests.needs import need

GRUB = "/usr/lib/grub-xen/grub-x86_64-xen.bin"
PROMPT = "grub> "


def cowbird(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "hypervisor", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Debugger]:
    path = tmp_path_factory.mktemp("recording") / "run.rec"
    dbg = debugger("share", "fork")
    dbg.cont(limit=20_000)
    sp = dbg.registers(1).value("rsp")
    dbg.write(1, sp - 2000, b"a debugger was here")
    dbg.set_register(2, "r13", 0x1313)
    dbg.checkpoint("written")
    dbg.cont(only=frozenset({2}), limit=9_000)
    finish(dbg)
    dbg.save(str(path))
    return path, dbg


def test_a_recording_is_the_same_run(recorded: tuple[Path, Debugger]) -> None:
    path, first = recorded
    dbg = Debugger.open(str(path))
    assert dbg.position == 0
    assert (dbg.end, dbg.checkpoints) == (first.end, {"written": 20_000})
    for position in (20_000, 29_000, 5_000, first.end // 2):
        dbg.goto(position)
        first.goto(position)
        assert fingerprint(dbg.hv) == fingerprint(first.hv), position
    stops = finish(dbg)
    assert stops[-1].reason is StopReason.END_OF_RECORDING
    assert dbg.cont().reason is StopReason.END_OF_RECORDING
    finish(first)
    assert dbg.end_state() == first.end_state()
    again = path.with_suffix(".again")
    dbg.save(str(again))
    assert load(str(again)).state == load(str(path)).state
    assert again.read_bytes() == path.read_bytes()


def test_a_recording_can_be_left(recorded: tuple[Path, Debugger]) -> None:
    dbg = Debugger.open(str(recorded[0]))
    dbg.goto(21_000)
    dbg.set_register(1, "r15", 5)
    assert dbg.end == 21_000
    assert finish(dbg)[-1].reason is StopReason.FINISHED


def test_replay_checks(recorded: tuple[Path, Debugger]) -> None:
    path, dbg = recorded
    done = cowbird("replay", path, "--check")
    assert done.returncode == 0, done.stderr
    assert f"{dbg.end:,} instructions, the end is as recorded" in done.stdout
    recording = load(str(path))
    recording.state = "0" * 32
    other = path.with_suffix(".other")
    other.write_bytes(dump(recording))
    done = cowbird("replay", other, "--check")
    assert done.returncode == 1
    assert "does not repeat" in done.stderr
    done = cowbird("replay", path, "-c", "goto written", "-c", "when")
    assert done.returncode == 0, done.stderr
    assert "20,000" in done.stdout


def test_bad_files(recorded: tuple[Path, Debugger], tmp_path: Path) -> None:
    data = recorded[0].read_bytes()
    for length in (0, 3, 18, 20, 30, 44, 100, len(data) - 1):
        with pytest.raises(RecordingError, match=r"cut short|not a recording"):
            parse(data[:length])
    for at in range(0, len(data), len(data) // 60):
        bad = bytearray(data)
        bad[at] ^= 1 << at % 8
        with pytest.raises(RecordingError):
            parse(bytes(bad))
    with pytest.raises(RecordingError, match="format"):
        parse(data.replace(b"cowbird recording 1", b"cowbird recording 7", 1))
    with pytest.raises(RecordingError, match="damaged"):
        parse(data + b"x")
    for name, contents in (("cut", data[:2000]), ("text", b"hello\n" * 10)):
        path = tmp_path / name
        path.write_bytes(contents)
        done = cowbird("replay", path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"cowbird: error: {path}: ")
        assert done.stderr.count("\n") == 1
    assert cowbird("replay", tmp_path / "none").returncode == 2


def test_what_makes_no_sense_inside(recorded: tuple[Path, Debugger]) -> None:
    recording = load(str(recorded[0]))
    recording.inputs = recording.inputs[::-1]
    with pytest.raises(RecordingError, match="inputs"):
        parse(dump(recording))
    recording = load(str(recorded[0]))
    recording.end = 5
    with pytest.raises(RecordingError, match="end"):
        parse(dump(recording))


ODD_VALUES = [
    (("settings", "groups"), None), (("settings", "slice"), -1), (("settings", "hash_bits"), 65),
    (("settings", "machine_memory"), 1 << 70), (("settings", "audit"), 1), (("settings",), []),
    (("domains", 0, "cmdline"), 1), (("domains", 0, "name"), []), (("domains", 0, "memory"), None),
    (("domains", 0, "disks"), [{"blocks": 1, "identity": [1, 2]}]), (("domains",), [None]),
    (("domains", 0, "module"), [1 << 70, 1]), (("inputs", 0, "name"), 3), (("end",), None),
    (("checkpoints",), 7), (("inputs", 0, "ids"), ["x"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), ODD_VALUES, ids=lambda v: str(v))
def test_values_of_another_kind(
    recorded: tuple[Path, Debugger], path: tuple[str | int, ...], value: object
) -> None:
    """The hash is right, so that somebody made it so: one line all the same."""
    line, _, body = recorded[0].read_bytes().partition(b"\n")
    raw = zlib.decompress(body[24:])
    (size,) = struct.unpack_from("<I", raw)
    document = json.loads(raw[4 : 4 + size])
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    text = json.dumps(document).encode()
    rest = zlib.compress(struct.pack("<I", len(text)) + text + raw[4 + size :])
    head = struct.pack("<16sQ", xxh3_128_digest(rest), len(rest))
    with pytest.raises(RecordingError, match=r"makes no sense|not in it"):
        parse(line + b"\n" + head + rest)


def test_a_run_that_was_not_followed_cannot_be_saved(tmp_path: Path) -> None:
    hv = machine("share")
    hv.run(1000)
    dbg = Debugger(hv)
    dbg.cont(limit=1000)
    with pytest.raises(DebugError, match="from its beginning"):
        dbg.save(str(tmp_path / "x"))
    with pytest.raises(DebugError, match="cannot be written"):
        debugger("share").save(str(tmp_path / "no" / "x"))


def grub(disk: Path) -> Debugger:
    hv = Hypervisor(Settings(machine_memory=64 << 20))
    image = parse_image(Path(need(GRUB)).read_bytes(), "grub")
    domain = build_domain(hv, image, memory=32 << 20, name="grub", console=Console())
    hv.disks.attach(domain, DiskImage(str(disk)))
    return Debugger(hv)


def test_what_is_typed_and_read_comes_again(tmp_path: Path) -> None:
    """PV-GRUB: keys come by the console ring, and it reads the disk for a file system."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(range(256)) * (64 * BLOCK // 256))
    dbg = grub(disk)
    console = dbg.hv.domains[1].console

    def until_prompt() -> None:
        while not console.partial.endswith(PROMPT):
            assert dbg.cont(limit=200_000).reason is StopReason.LIMIT, console.text()

    until_prompt()
    marks = []
    for line in ("echo hello", "ls", "ls (xen/xvda)"):
        dbg.feed(1, line.encode() + b"\r")
        dbg.cont(limit=200_000)
        until_prompt()
        marks.append((dbg.position, everything(dbg.hv), console.text()))
        dbg.cont(limit=777)  # standing at a position is behind what is typed there
    assert "hello" in console.lines
    path = tmp_path / "grub.rec"
    dbg.save(str(path))
    for position, mark, text in (marks[1], marks[0], marks[2]):
        dbg.goto(position)
        assert everything(dbg.hv) == mark
        assert console.text() == text
    disk.unlink()
    again = Debugger.open(str(path))
    for position, mark, text in marks:
        again.goto(position)
        assert again.hv.domains[1].console.text() == text
        assert everything(again.hv) == mark


def test_a_disk_that_is_written_to_cannot_be_debugged(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * BLOCK))
    hv = machine("hello")
    hv.disks.attach(hv.domains[1], DiskImage(str(disk), Mode.WRITABLE))
    with pytest.raises(DebugError, match="could not be taken back"):
        Debugger(hv)
