"""The bundled guests, run: what they print, what the machine counted, what they leave behind."""

import argparse
from pathlib import Path

import pytest

from emu.units import PAGE_SIZE
from guests.library import BUNDLED
from hypervisor.abi import DomId
from hypervisor.settings import Settings
from tests.guests.boot import Lab

MODULE = Path(argparse.__file__).read_bytes()
MASK = (1 << 64) - 1


def pattern(number: int) -> bytes:
    """Contents ``number`` of lib/random.inc."""
    if number == 0:
        return bytes(PAGE_SIZE)
    step = 0x14057B7EF767814F
    value = number * step & MASK
    page = bytearray()
    for _ in range(PAGE_SIZE // 8):
        page += value.to_bytes(8, "little")
        value = (value * 0x5851F42D4C957F2D + step) & MASK
    return bytes(page)


def share_pages(patterns: int, module: bytes = b"") -> list[bytes]:
    """The pages that ``share`` shares, as its first comment describes them."""
    padded = module + bytes(-len(module) % PAGE_SIZE)
    pages = [padded[at : at + PAGE_SIZE] for at in range(0, len(padded), PAGE_SIZE)]
    for i in range(patterns):
        number = 0 if i % 4 == 0 else i // 4 % 3 + 1 if i % 4 == 1 else i
        pages.append(pattern(number if number <= 3 else number + 1000))
    return pages


@pytest.mark.parametrize("name", [guest.name for guest in BUNDLED])
def test_alone(name):
    lab = Lab()
    lab.boot(name)
    lab.run()
    lab.check()


@pytest.mark.parametrize("name", [guest.name for guest in BUNDLED])
def test_four_side_by_side_with_audits(name):
    lab = Lab(Settings(slice=5_000))
    for _ in range(4):
        lab.boot(name)
    lab.run(audit_every=200_000)
    lab.check()
    if not name.startswith("hello"):
        assert lab.hv.sharing.peak_saved > 0


def test_all_together():
    lab = Lab(Settings(slice=3_000))
    for guest in BUNDLED:
        lab.boot(guest.name, module=MODULE if guest.source == "share" else None)
    lab.run(audit_every=1_000_000)
    lab.check()


def test_widths_share_with_each_other_what_one_width_would():
    saved = []
    for names in (["share"] * 8, ["share32"] * 8, ["share", "share32"] * 4):
        lab = Lab()
        for name in names:
            lab.boot(name, module=MODULE, cmdline="patterns=16 write=0")
        lab.run()
        lab.check()
        saved.append(lab.hv.sharing.peak_saved)
    assert saved[0] == saved[1] == saved[2] > 8 * 16


def test_hello_of_32_bits_says_so():
    lab = Lab()
    guest = lab.boot("hello32", memory=1 << 20)
    lab.run()
    assert "# hello from a xen-3.0-x86_32p domain of 256 pages" in guest.lines


def test_hello_says_who_it_is():
    lab = Lab()
    guest = lab.boot("hello", cmdline="a=1  b", memory=1 << 20)
    lab.run()
    assert "# hello from a xen-3.0-x86_64 domain of 256 pages" in guest.lines
    assert "# command line: a=1  b" in guest.lines
    assert any(line.startswith("# Xen 4.17") for line in guest.lines)


@pytest.mark.parametrize("mode", ["single", "batch"])
def test_share_answers_as_an_independent_count_says(mode):
    pages = share_pages(50, MODULE)
    lab = Lab()
    guest = lab.boot("share", f"patterns=50 write=0 mode={mode}", MODULE)
    lab.run()
    lab.check()
    distinct = len(set(pages))
    assert guest.number("entered ") == distinct
    assert guest.number("merged ") == len(pages) - distinct
    assert lab.hv.sharing.peak_saved == len(pages) - distinct
    assert guest.domain.counters["cow_faults"] == 0


def test_share_in_two_domains_saves_what_both_have():
    lab = Lab(Settings(slice=2_000))
    other = MODULE[PAGE_SIZE:] + b"more"
    lab.boot("share", "patterns=8 write=0", MODULE)
    lab.boot("share", "patterns=16 write=0", other)
    lab.run()
    lab.check()
    pages = share_pages(8, MODULE) + share_pages(16, other)
    assert lab.hv.sharing.peak_saved == len(pages) - len(set(pages))


def test_share_writes_what_it_is_asked_to():
    lab = Lab()
    guest = lab.boot("share", "patterns=0x20 write=5 verbose")
    lab.run()
    lab.check()
    assert "# wrote 5 pages, copied 5" in guest.lines
    assert sum(line.startswith("# wrote page ") for line in guest.lines) == 5
    assert lab.hv.sharing.counters["cow_faults"] == 5


@pytest.mark.parametrize("settings", [Settings(zero_only=True), Settings(opaque=True)])
@pytest.mark.parametrize("name", ["share", "fork", "text", "storm", "churn"])
def test_policies_are_no_failure(name, settings):
    lab = Lab(settings)
    lab.boot(name)
    lab.boot(name)
    lab.run()
    lab.check()


def test_groups_do_not_meet():
    lab = Lab(Settings(groups=2, slice=5_000))
    lab.boot("storm", "pages=32")
    lab.boot("storm", "pages=32")
    lab.run()
    lab.check()
    assert lab.hv.sharing.counters["merged"] == 0


@pytest.mark.parametrize(("procs", "pages"), [(1, 4), (2, 1), (3, 9), (8, 64), (8, 256)])
def test_fork_copies_what_is_written(procs, pages):
    lab = Lab()
    guest = lab.boot("fork", f"procs={procs} pages={pages}", memory=8 << 20)
    lab.run()
    lab.check()
    if procs == 1:
        assert lab.hv.sharing.counters["calls"] == 0
        return
    written = sum((pages + 1 - me % 2) // 2 for me in range(procs))
    stacks = procs
    assert guest.number("copied on write: ") == written + stacks
    assert lab.hv.sharing.counters["entered"] == pages + 1
    assert lab.hv.sharing.counters["mapped_again"] == (pages + 1) * (procs - 1)


def test_fork_with_too_many_processes_is_bounded():
    lab = Lab()
    guest = lab.boot("fork", "procs=99 pages=2")
    lab.run()
    lab.check()
    assert guest.number("# processes: ") == 8


def test_text_is_there_once():
    lab = Lab(Settings(slice=2_000))
    guests = [lab.boot("text") for _ in range(10)]
    lab.run()
    lab.check()
    pages = guests[0].number("# pages of code and constants: ")
    assert pages > 16
    assert lab.hv.sharing.counters["entered"] == pages
    assert lab.hv.sharing.peak_saved == 9 * pages


def test_storm_copies_every_page_in_every_domain():
    lab = Lab(Settings(slice=5_000))
    for _ in range(3):
        lab.boot("storm", "pages=40 rounds=3")
    lab.run()
    lab.check()
    assert lab.hv.sharing.counters["cow_faults"] == 3 * 3 * 40
    assert lab.hv.sharing.counters["dropped:update"] == 3 * 3 * 40


@pytest.mark.parametrize("seed", range(1, 9))
def test_churn(seed):
    lab = Lab(Settings(slice=4_000))
    lab.boot("churn", f"seed={seed} steps=600 pages=24")
    lab.boot("churn", f"seed={seed + 100} steps=600 pages=24")
    lab.run(audit_every=100_000)
    lab.check()
    counters = lab.hv.sharing.counters
    for kind in ("entered", "merged", "again", "mapped_again", "cow_faults", "dropped:update"):
        assert counters[kind] > 0, kind


def test_runs_repeat():
    def run() -> object:
        lab = Lab(Settings(slice=1_234))
        for guest in BUNDLED:
            lab.boot(guest.name)
        lab.run()
        return [guest.lines for guest in lab.guests], lab.hv.sharing.counters, lab.hv.counters

    assert run() == run()


@pytest.mark.parametrize(
    ("name", "cmdline"), [("storm", "pages=64"), ("churn", ""), ("share", "write=60"), ("fork", "")]
)
def test_out_of_machine_memory_in_a_copy_is_said_once(name, cmdline):
    lab = Lab()
    guest = lab.boot(name, cmdline)
    hv = lab.hv
    hv.sharing.count_fault = take_all(lab)
    assert hv.run(50_000_000)
    bad = [line for line in guest.lines if line.startswith("not ok ")]
    assert len(bad) == 1, guest.lines
    assert "out of memory" in bad[0]
    assert guest.lines[-1] == bad[0]
    assert guest.reason == "poweroff"


def take_all(lab: Lab):
    """At each copy-on-write fault, take every free frame away."""
    count = lab.hv.sharing.count_fault

    def counting(domain):
        count(domain)
        lab.hv.frames.allocate_many(lab.hv.frames.free, DomId.XEN, 0)

    return counting


@pytest.mark.parametrize("name", ["share", "storm", "churn"])
def test_changed_contents_are_noticed(name):
    lab = Lab()
    guest = lab.boot(name, "pages=16 patterns=16 steps=200")
    lab.hv.listen(corrupt(lab))
    lab.run()
    assert any(line.startswith("not ok ") and "contents" in line for line in guest.lines)
    assert guest.reason == "poweroff"


def corrupt(lab: Lab):
    """Change one byte of the fifth frame that is entered, behind everybody's back."""
    entered = []

    def listener(kind, _domain, details):
        if kind == "share" and details["status"] == 0:
            entered.append(details["mfn"])
            if len(entered) == 5:
                frame = lab.hv.machine.memory.frame(details["mfn"])
                frame[1000] ^= 1

    return listener


@pytest.mark.parametrize(
    ("name", "cmdline", "why"),
    [
        ("share", "patterns=100000", "the domain is too small"),
        ("share", "patterns=0", "nothing to share"),
        ("storm", "pages=100000", "the domain is too small"),
        ("storm", "pages=0", "nothing to do"),
        ("churn", "pages=0", "nothing to do"),
    ],
)
def test_what_cannot_be_is_said(name, cmdline, why):
    lab = Lab()
    guest = lab.boot(name, cmdline)
    lab.run()
    assert guest.lines[-1].startswith("not ok ")
    assert why in guest.lines[-1]
    assert guest.reason == "poweroff"
