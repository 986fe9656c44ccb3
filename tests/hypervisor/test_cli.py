"""The command line: every way to end has its code and its line, and bad input is one line."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from guests import library
from hypervisor.cli.exitcodes import EXIT_CODES, MEANINGS, help_text
from hypervisor.results import Outcome
from tests.hypervisor import cli_guests
from tests.hypervisor.cli_runs import ROOT, command, is_one_error, run
from tests.needs import need

# -- every way to end --------------------------------------------------------------------------


def test_a_guest_that_ends_well(source):
    result = run("boot", source(cli_guests.says("all is well")))
    assert result.exit_code == 0, result.output
    assert result.stdout == "all is well\n"
    assert result.stderr == ""


def test_a_guest_that_says_not_ok(source):
    result = run("boot", source(cli_guests.says("not ok 1 contents")))
    assert result.exit_code == 1


def test_a_guest_that_does_less_than_it_planned(source):
    result = run("boot", source(cli_guests.says("1..2\\nok 1 half of it")))
    assert result.exit_code == 1
    assert result.stderr == "cowbird: d1 guest: 1 of 2 planned checks reported\n"


def test_a_guest_that_shuts_down_as_crashed(source):
    result = run("boot", source(cli_guests.says("oh", reason=3)))
    assert result.exit_code == 3
    assert "SCHEDOP_shutdown" in result.stderr
    result = run("boot", source(cli_guests.says("oh", reason=4)))  # SHUTDOWN_watchdog
    assert result.exit_code == 1


@pytest.mark.parametrize("text", [cli_guests.CRASH, cli_guests.JUMPS_AWAY])
def test_a_guest_that_crashes(source, text):
    result = run("boot", source(text))
    assert result.exit_code == 3
    assert "d1 guest crashed" in result.stderr
    assert "Traceback" not in result.output


def test_a_guest_that_loops(source):
    result = run("boot", source(cli_guests.LOOP), "--limit", 100_000)
    assert result.exit_code == 4
    assert "limit of 100,000 instructions" in result.stderr
    assert "d1 guest" in result.stderr


def test_a_guest_that_waits_for_ever(source):
    result = run("boot", source(cli_guests.BLOCKS))
    assert result.exit_code == 6
    assert "nothing can run any more" in result.stderr


def test_a_broken_hypervisor_is_one_line(source, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("hypervisor.hypervisor.Hypervisor.leave", broken)
    result = run("boot", source(cli_guests.says("x")))
    assert result.exit_code == 5
    assert "a bug of the hypervisor, not of a guest: ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.output
    result = run("boot", source(cli_guests.says("x")), "--log", "debug")
    assert result.exit_code == 5
    assert "Traceback" in result.stderr


def test_a_violation_is_told(source, monkeypatch):
    monkeypatch.setattr("hypervisor.cli.session.audit", lambda hv: ["frame 7 is odd"])
    result = run("boot", source(cli_guests.says("x")), "--json", "-")
    assert result.exit_code == 5
    assert "frame 7 is odd" in result.stderr
    assert json.loads(result.stdout)["audit"]["violations"] == ["frame 7 is odd"]


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_interrupt(source, tmp_path, number, code, word):
    out = tmp_path / "r.json"
    arguments = ["boot", source(cli_guests.SAYS_AND_LOOPS), "--json", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "hypervisor", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"go\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors.startswith(f"cowbird: {word} after ".encode())
    result = json.loads(out.read_text())
    assert (result["outcome"], result["exit_code"]) == ("interrupted", code)


_SIGNAL_AT_IMPORT = """
import os, sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Finder())
from hypervisor.cli import main
sys.argv = ["cowbird", "boot", "hello"]
main()
"""


@pytest.mark.parametrize("module", ["click", "numpy", "hypervisor.cli.boot", "emu.asm"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_loaded(module, number):
    code = _SIGNAL_AT_IMPORT.format(module=module, number=int(number))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 128 + number
    assert done.stderr in ("cowbird: interrupted\n", "cowbird: terminated\n")
    assert done.stdout == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams(closed):
    done = subprocess.run(
        f"exec {sys.executable} -m hypervisor boot hello --json - {closed}",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "bug" not in done.stderr
    if ">&-" not in closed.split():
        assert json.loads(done.stdout)["exit_code"] == 0


def test_the_worst_of_several_decides(source):
    crashing = source(cli_guests.CRASH, "crashing.asm")
    failing = source(cli_guests.says("not ok 1"), "failing.asm")
    well = source(cli_guests.says("ok 1"), "well.asm")
    loop = source(cli_guests.LOOP, "loop.asm")
    assert run("boot", well, crashing, failing).exit_code == 3
    assert run("boot", well, failing, loop, "--limit", 500_000).exit_code == 1
    assert run("boot", loop, well, "--limit", 500_000).exit_code == 4


def test_others_finish_while_one_crashes(source, tmp_path):
    crashing = source(cli_guests.CRASH, "crashing.asm")
    well = source(cli_guests.says("ok 1 done"), "well.asm")
    out = tmp_path / "r.json"
    result = run("boot", well, crashing, well, "hello", "--json", out)
    assert result.exit_code == 3
    assert "d1 well | ok 1 done" in result.stdout
    assert "d3 well | ok 1 done" in result.stdout
    domains = json.loads(out.read_text())["domains"]
    reasons = [d["exit"]["reason"] for d in domains]
    assert reasons == ["poweroff", "crash", "poweroff", "poweroff"]


def test_every_code_is_in_the_help():
    text = help_text()
    for code, _ in MEANINGS:
        assert f"{code:>3}  " in text
    assert {*EXIT_CODES.values(), 2, 141, 143} == {code for code, _ in MEANINGS}
    assert set(EXIT_CODES) == set(Outcome)
    shown = run("boot", "--help").stdout
    assert "Exit codes" in shown
    assert "the instruction limit was reached" in shown


# -- bad input ---------------------------------------------------------------------------------


def test_no_such_guest():
    is_one_error(run("boot", "nothing-here"), "nothing-here", "no such file")


def test_usage_errors():
    is_one_error(run("boot"), "GUEST")
    is_one_error(run("boot", "hello", "--nonsense"), "--nonsense")
    is_one_error(run("boot", "hello", "--domains", "0"), "--domains")
    is_one_error(run("boot", "hello", "--seed", "-1"), "--seed")
    is_one_error(run("boot", "hello", "--slice", "0"), "--slice")
    is_one_error(run("boot", "hello", "--log", "loudly"), "loudly", "debug")
    is_one_error(run("nothing"), "nothing")


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ("0", "between"),
        ("-1", ""),
        ("12Q", "not a size"),
        ("", "not a size"),
        ("5000", "more"),
        ("3K", "between"),
        ("4097K", "multiple of 4K"),
        ("99999999999999999999T", "between"),
    ],
)
def test_nonsense_memory(size, why):
    result = run("boot", "hello", f"--memory={size}")
    if why == "more":  # 5000 MiB: more than the machine has
        is_one_error(result, "hello")
    else:
        is_one_error(result, "--memory", why)


@pytest.mark.parametrize("size", ["0", "100K", "65G", "1000000T", "x"])
def test_nonsense_machine_memory(size):
    is_one_error(run("boot", "hello", "--machine-memory", size), "--machine-memory")


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        (b"", "empty"),
        (b"\x7fELF", ""),
        (b"garbage" * 1000, ""),
        (gzip.compress(b"not an image"), ""),
        (gzip.compress(b"x" * 100_000)[:-20], "gzip"),
    ],
    ids=("empty", "head", "garbage", "packed", "cut"),
)
def test_bad_images(tmp_path, contents, why):
    image = tmp_path / "image"
    image.write_bytes(contents)
    is_one_error(run("boot", image), str(image), why)


def test_a_truncated_image(tmp_path):
    whole = library.build_elf(library.find("hello"))
    image = tmp_path / "hello.elf"
    image.write_bytes(whole[: len(whole) // 4])
    is_one_error(run("boot", image), str(image))


def test_a_32_bit_image(tmp_path):
    whole = bytearray(library.build_elf(library.find("hello")))
    whole[4] = 1
    image = tmp_path / "hello32.elf"
    image.write_bytes(whole)
    is_one_error(run("boot", image), str(image))


def test_a_program_that_is_no_kernel():
    is_one_error(run("boot", Path(sys.executable).resolve()), "not a Xen PV kernel")


def test_a_directory_is_no_guest(tmp_path):
    is_one_error(run("boot", tmp_path), str(tmp_path), "not a regular file")


def test_a_kernel_larger_than_its_domain(source):
    big = cli_guests.says("x") + ".bss\nroom: .zero 0x400000\n"
    is_one_error(run("boot", source(big), "--memory", "2M"), "2")


def test_a_domain_larger_than_the_machine():
    is_one_error(run("boot", "hello", "--memory", "64M", "--machine-memory", "32M"), "hello")


def test_more_domains_than_fit():
    result = run("boot", "hello", "--domains", 40, "--machine-memory", "16M")
    is_one_error(result, "domain 1")


def test_a_missing_module(tmp_path):
    is_one_error(run("boot", "hello", "--module", tmp_path / "no"), "--module", "no such file")
    is_one_error(run("boot", "hello", "--module", tmp_path), "not a regular file")


def test_a_module_that_does_not_fit(tmp_path):
    module = tmp_path / "module"
    module.write_bytes(bytes(2 << 20))
    is_one_error(run("boot", "hello", "--module", module, "--memory", "1M"), "hello")


def test_a_syntax_error_names_its_line(source):
    path = source(".text\n_start:\n    bogus eax\n")
    is_one_error(run("boot", path), f"{path}:3: ")
    is_one_error(run("asm", path, "-o", "/dev/null"), f"{path}:3: ")


@pytest.mark.parametrize("option", ["--trace", "--json"])
def test_unwritable_outputs(tmp_path, option):
    wanted = tmp_path / "nowhere" / "file"
    is_one_error(run("boot", "hello", option, wanted), option, str(wanted))


@pytest.mark.parametrize("option", ["--json", "--trace"])
def test_a_full_disk(option):
    result = command("boot", "share", option, "/dev/full")
    assert result.returncode == 2
    assert b"cannot write /dev/full: No space left on device" in result.stderr
    assert b"Traceback" not in result.stderr


def test_one_file_for_two_outputs(tmp_path):
    both = tmp_path / "both"
    is_one_error(run("boot", "hello", "--json", both, "--trace", both), "same file")


@pytest.mark.parametrize(
    "arguments", ["boot hello --domains 3", "boot hello", "--help", "boot --help", "guests", "demo"]
)
def test_a_reader_that_goes_away(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "hypervisor", *arguments.split()],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == b""


# -- outputs never destroy inputs --------------------------------------------------------------


def test_an_output_that_is_an_input_is_refused(source, tmp_path):
    text = cli_guests.says("x")
    path = source(text)
    image, module = tmp_path / "k.elf", tmp_path / "m"
    assert run("asm", path, "-o", image).exit_code == 0
    built = image.read_bytes()
    module.write_bytes(b"module")
    link = tmp_path / "link"
    link.symlink_to(image)
    is_one_error(run("asm", path, "-o", path), "-o", "input", path)
    is_one_error(run("asm", path, "-o", f"{tmp_path}/./guest.asm"), "-o", "input")
    is_one_error(run("boot", path, "--json", path), "--json", "input")
    is_one_error(run("boot", image, "--trace", image), "--trace", "input")
    is_one_error(run("boot", image, "--trace", link), "--trace", "input")
    is_one_error(run("boot", image, "--module", module, "--trace", module), "--module")
    other = source(text, "other.asm")
    is_one_error(run("boot", image, "--json", other), "is a source")
    is_one_error(run("test", path, "--junit", other), "--junit", "is a source")
    is_one_error(run("test", path, "--json", path), "--json", "input")
    is_one_error(run("boot", image, "--json", module, "--trace", f"{tmp_path}/./m"), "same file")
    assert image.read_bytes() == built
    assert module.read_bytes() == b"module"
    assert Path(path).read_text() == Path(other).read_text() == text


def test_a_usage_error_leaves_outputs_as_they_were(source, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    old = folder / "old.json"
    old.write_text("old")
    for result in (folder / "new.json", old):
        is_one_error(run("boot", "hello", "--memory", "5000", "--json", result), "hello")
    is_one_error(run("boot", "hello", "--memory", "5000", "--trace", folder / "t"), "hello")
    assert [p.name for p in folder.iterdir()] == ["old.json"]
    assert old.read_text() == "old"
    old.chmod(0o640)
    (folder / "link").symlink_to(old)
    path = source(cli_guests.says("x"))
    assert run("boot", path, "--json", folder / "link").exit_code == 0
    assert json.loads(old.read_text())["exit_code"] == 0
    assert old.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in folder.iterdir()) == ["link", "old.json"]


def test_a_c_source_is_compiled(tmp_path):
    need("gcc")
    path = tmp_path / "k.c"
    path.write_text('#include "cowbird.h"\nint main(void) { ktap_plan(0); return 0; }\n')
    result = run("boot", path)
    assert result.exit_code == 0, result.output
    assert "1..0" in result.stdout
    assert run("info", path).exit_code == 0
    path.write_text("int main(void)\n{\n    return undeclared;\n}\n")
    is_one_error(run("boot", path), f"{path}:3:", "undeclared")
    is_one_error(run("asm", path, "-o", tmp_path / "o"), "is C")


def test_what_cannot_be_assembled_is_called_by_its_name(source, tmp_path):
    image = tmp_path / "k.elf"
    run("asm", source(cli_guests.says("x")), "-o", image)
    is_one_error(run("asm", image, "-o", tmp_path / "o"), "ELF image already")
    is_one_error(run("boot", ""), "empty")
    assert not (tmp_path / "o").exists()
