"""The report's page in a real browser: what it shows is what an independent count finds."""

import json
import time
from collections import Counter

import pytest
from click.testing import CliRunner

from guests import library
from hypervisor.abi import DomId
from hypervisor.cli import cli
from hypervisor.frames import FREE, VALIDATED
from tests.hypervisor.browser import Browser


def cowbird(*arguments):
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


class Counted:
    """The same run, counted from the trace without any of the page's code."""

    def __init__(self, path, moment=None):
        header, *lines = (json.loads(line) for line in path.read_text().splitlines())
        self.lines = lines
        self.seen = lines[:moment]
        count = Counter(line["event"] for line in self.seen)
        statuses = Counter(line["status"] for line in self.seen if line["event"] == "share")
        self.entered, self.merged = statuses[0], statuses[1]
        self.copies = count["cow_fault"]
        before = [None, *self.seen[:-1]] if self.seen else []
        # A copy-on-write fault's own trap is the event right behind it.
        self.faults = sum(
            line["event"] == "trap" and not (last and last["event"] == "cow_fault")
            for last, line in zip(before, self.seen, strict=True)
        )
        self.frames = dict.fromkeys(range(header.get("frames", 0)), (FREE, 0, 0, 0, 0))
        self.tables = {}
        for line in self.seen:
            for first, length, *row in line.get("frames", ()):
                for mfn in range(first, first + length):
                    self.frames[mfn] = tuple(row)
                    if not row[2] & VALIDATED:
                        self.tables.pop(mfn, None)
            for table, first, length, entry, step in line.get("entries", ()):
                for i in range(length):
                    self.tables.setdefault(table, {})[first + i] = entry + i * step
        self.owners = Counter(row[0] for row in self.frames.values())
        counts = [row[4] for row in self.frames.values() if row[0] == DomId.COW]
        # A drop to 0 is told while the frame is still there.
        self.shared, self.mappings = sum(count > 0 for count in counts), sum(counts)

    def mapped_by(self, mfn):
        """[table, index] of the L1 entries that map a frame."""
        return [
            (table, index)
            for table, entries in self.tables.items()
            for index, entry in entries.items()
            if entry & 1 and entry >> 12 & (1 << 28) - 1 == mfn and self.frames[table][1] == 1
        ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """A run of several kinds of guests, of both widths: its trace and its page."""
    folder = tmp_path_factory.mktemp("fork")
    trace, page, narrow = folder / "t.jsonl", folder / "t.html", folder / "fork32.elf"
    narrow.write_bytes(library.build_elf(library.find("fork"), 32))
    cowbird("boot", "fork", "churn", narrow, "--trace", trace, "--trace-frames")
    cowbird("report", trace, "-o", page)
    return trace, page


@pytest.fixture
def shown(browser, fork):
    """The page of ``fork``, open; nothing may go wrong in it and nothing leave it."""
    browser.requests.clear()
    browser.errors.clear()
    browser.open(fork[1])
    yield browser
    assert browser.errors == []
    assert all(url.startswith(("file:", "data:", "about:")) for url in browser.requests)


def number(browser, name):
    return int(browser.text(f"#now-{name}").split()[0].replace(",", ""))


def to(browser, moment):
    """Move the slider as a person does, by its value."""
    browser.run(
        f"""(() => {{ const slider = document.getElementById("slider");
            slider.value = {moment};
            slider.dispatchEvent(new Event("input")); }})()"""
    )
    browser.settle()


def legend(browser):
    """Label -> count."""
    return browser.run(
        """Object.fromEntries([...document.querySelectorAll("#legend button")].map(
            (button) => [button.dataset.label, Number(button.dataset.count)]))"""
    )


def test_numbers_at_any_moment_are_those_of_an_independent_count(shown, fork):
    total = len(Counted(fork[0]).lines)
    assert shown.run("Number(document.getElementById('slider').max)") == total
    for moment in (total, 0, 3, total // 3, total // 2, 2 * total // 3, total - 1):
        to(shown, moment)
        counted = Counted(fork[0], moment)
        assert number(shown, "moment") == moment
        for name in ("entered", "merged", "copies", "faults", "shared", "mappings"):
            assert number(shown, name) == getattr(counted, name), (moment, name)
        assert number(shown, "saved") == counted.mappings - counted.shared
        if moment:
            assert number(shown, "position") == counted.seen[-1]["position"]
        colours = legend(shown)
        assert colours.get("shared", 0) == counted.owners[DomId.COW]
        assert colours.get("hypervisor", 0) == counted.owners[DomId.XEN]
        assert colours.get("d1 fork", 0) == counted.owners[1]
        assert colours.get("d2 churn", 0) == counted.owners[2]


def test_every_frame_and_table_is_the_traces_own(shown, fork):
    """All state, not only what is summed up on the page."""
    total = len(Counted(fork[0]).lines)
    for moment in (total // 2, total // 5, total - 2):
        to(shown, moment)
        counted = Counted(fork[0], moment)
        words = shown.run("[...cowbird.run.word]")
        refs = shown.run("[...cowbird.run.refs]")
        types = shown.run("[...cowbird.run.types]")
        for mfn, (owner, kind, flags, type_count, references) in counted.frames.items():
            assert words[mfn] == owner | kind << 16 | flags << 24
            assert (types[mfn], refs[mfn]) == (type_count, references)


def test_a_click_on_a_frame_shows_its_mappings_and_its_history(shown, fork):
    lines = Counted(fork[0]).lines
    moment = next(i for i, e in enumerate(lines) if e["event"] == "map_again" and e["count"] > 1)
    again, mfn = moment, lines[moment]["mfn"]
    # The entry is stored when the hypercall is over.
    moment += [e["event"] for e in lines[moment:]].index("hypercall") + 1
    to(shown, moment)
    counted = Counted(fork[0], moment)
    shown.run("document.getElementById('map').scrollIntoView({ block: 'center' })")
    place = shown.run(f"cowbird.map.where({mfn})")
    shown.click(place["x"], place["y"])
    text = shown.text("#frame")
    assert f"Frame {mfn:#x}" in text
    assert "shared by the machine" in text
    entries = counted.mapped_by(mfn)
    assert len(entries) == counted.frames[mfn][4] > 1
    assert f"Mapped by {len(entries)} entries" in text
    rows = shown.run("""[...document.querySelectorAll("#mappings tbody tr")].map(
        (row) => [...row.cells].map((cell) => cell.innerText))""")
    assert len(rows) == len(entries)
    for domain, address, rights, entry in rows:
        table, index = int(entry.split()[0], 16), int(entry.split("[")[1].rstrip("]"))
        assert (table, index) in entries
        assert domain.startswith(f"d{counted.frames[table][0]} ")
        assert rights.startswith("read-only")
        assert all(int(one, 16) >> 12 & 511 == index for one in address.split())
    shares = [i for i, e in enumerate(lines) if e["event"] == "share" and e["mfn"] == mfn]
    history = shown.run("""[...document.querySelectorAll("#history [data-event]")].map(
        (link) => Number(link.dataset.event))""")
    assert set(shares) <= set(history)
    assert again in history
    # From the history to another moment.
    shown.click_on(f'#history [data-event="{shares[0]}"]')
    assert number(shown, "moment") == shares[0] + 1
    assert f"#{shares[0]:,}" in shown.text("#event")


def test_a_click_on_an_event_shows_its_frame_and_where_that_is_mapped(shown, fork):
    lines = Counted(fork[0]).lines
    shares = [i for i, e in enumerate(lines) if e["event"] == "share"]
    wanted = shares[len(shares) // 2]
    to(shown, wanted + 5)
    shown.click_on(f"#event-{wanted}")
    assert number(shown, "moment") == wanted + 1
    mfn = lines[wanted]["mfn"]
    assert f"Frame {mfn:#x}" in shown.text("#frame")
    assert f"#{wanted:,}" in shown.text("#event")
    call = next(e for e in lines[wanted:] if e["event"] == "hypercall")
    if call["name"] == "make_ro_and_share":
        assert f"{call['arguments'][0]:#x}" in shown.text("#event")
    entry = [lines[wanted]["table"], lines[wanted]["index"]]
    shown.run(f"cowbird.goTo({wanted + 2})")
    shown.settle()
    found = shown.run(f"cowbird.run.mappingsOf({mfn}).map((m) => [m.table, m.index])")
    assert entry in found


def test_addresses_of_mappings_are_where_the_guest_writes(shown, fork):
    """A copy-on-write fault names an address: the map must find the frame there before it."""
    lines = Counted(fork[0]).lines
    faults = [i for i, e in enumerate(lines) if e["event"] == "cow_fault"]
    narrow = [i for i in faults if lines[i]["domain"] == 3]
    assert narrow
    for i in (faults[0], faults[len(faults) // 2], faults[-1], narrow[0], narrow[-1]):
        to(shown, i)
        found = shown.run(f"cowbird.run.mappingsOf({lines[i]['mfn']}).flatMap((m) => m.addresses)")
        assert f"{lines[i]['va'] & ~0xFFF:#x}" in found


def test_keyboard(shown, fork):
    total = len(Counted(fork[0]).lines)
    to(shown, 100)
    shown.press("ArrowRight", "#slider")
    assert number(shown, "moment") == 101
    shown.press("End")
    assert number(shown, "moment") == total
    to(shown, 50)
    shown.press("ArrowDown", "#events")
    assert number(shown, "moment") == 51
    shown.press("ArrowUp")
    shown.press("ArrowUp")
    assert number(shown, "moment") == 49
    assert shown.run("document.querySelector('#events [aria-selected=true]').id") == "event-48"
    shown.press("ArrowRight", "#map")
    shown.press("ArrowRight")
    shown.press("ArrowDown")
    chosen = shown.run("cowbird.map.place(cowbird.frame)")
    assert chosen == 1 + shown.run("cowbird.map.columns")
    assert shown.text("#map-hint").startswith("0x")


def test_a_click_on_the_chart_goes_to_that_moment(shown, fork):
    lines = Counted(fork[0]).lines
    moment = len(lines) // 2
    shown.run("document.getElementById('savings').scrollIntoView({ block: 'center' })")
    box = shown.run(
        """(({ left, top }) => [left, top])(
            document.getElementById("savings").getBoundingClientRect())"""
    )
    shown.click(box[0] + shown.run(f"cowbird.charts.x({moment})"), box[1] + 50)
    there = number(shown, "moment")
    assert abs(lines[there - 1]["position"] - lines[moment - 1]["position"]) < (
        lines[-1]["position"] / 300
    )


def test_filters_and_legend(shown, fork):
    counted = Counted(fork[0])
    kinds = Counter(line["event"] for line in counted.lines)
    shown.click_on('#kinds [data-kind="hypercall"]')
    assert (
        int(shown.text("#event-count").replace(",", ""))
        == sum(kinds.values()) - (kinds["hypercall"])
    )
    shown.run("""(() => { const select = document.getElementById("only-domain");
        select.value = "2"; select.dispatchEvent(new Event("change")); })()""")
    mine = sum(e["domain"] == 2 and e["event"] != "hypercall" for e in counted.lines)
    assert int(shown.text("#event-count").replace(",", "")) == mine
    shown.click_on("#by-type")
    types = Counter(row[1] for row in counted.frames.values() if row[0] not in (FREE, DomId.XEN))
    assert legend(shown).get("writable", 0) == types[6]
    to(shown, len(counted.lines) // 2)
    half = Counted(fork[0], len(counted.lines) // 2)
    types = Counter(row[1] for row in half.frames.values() if row[0] not in (FREE, DomId.XEN))
    assert legend(shown)["L1 table"] == types[1]
    assert legend(shown)["writable"] == types[6]
    shown.click_on("#by-sharing")
    singles = sum(r[0] == DomId.COW and r[4] == 1 for r in half.frames.values())
    assert legend(shown).get("1 mapping", 0) == singles
    shown.click_on("#theme")
    assert shown.run("document.documentElement.dataset.theme") in ("dark", "light")


def test_a_trace_without_frames_still_shows_what_is_shared(browser, tmp_path):
    trace, page = tmp_path / "t.jsonl", tmp_path / "t.html"
    cowbird("boot", "churn", "--trace", trace)
    cowbird("report", trace, "-o", page)
    browser.open(page)
    assert "without --trace-frames" in browser.text("#notes")
    counted = Counted(trace)
    middle = len(counted.lines) // 2
    to(browser, middle)
    drops = [e for e in counted.lines[:middle] if e["event"] == "drop"]
    half = Counted(trace, middle)
    freed = sum(e["count"] == 0 for e in drops)
    assert number(browser, "shared") == half.entered - freed
    assert legend(browser)["shared"] == half.entered - freed


def hostile(path):
    """A trace whose names try to be markup, with 65,536 frames and 100,000 events."""
    name = "</script><img src=http://127.0.0.1:9/x onerror=document.title='bad'>\u202e\ud800"
    with path.open("w") as out:
        out.write(json.dumps({"trace": "cowbird", "version": 1, "frames": 65536}) + "\n")

        def write(seq, event, **details):
            line = {"position": seq * 100, "seq": seq, "domain": 1, "event": event, **details}
            out.write(json.dumps(line) + "\n")

        everything = [[0, 65536, 1, 6, 4, 1, 1]]
        write(0, "create", name=name, frames=everything)
        write(1, "hypercall", name=name, result=-38, arguments=[2**64 - 1])
        write(2, name[:40], something={"deep": [[[]]]}, large=10**400, real=1.5)
        for seq in range(3, 100_000):
            mfn = seq * 7919 % 65536
            row = [mfn, 1, DomId.COW, 7, 0, 1, seq % 50 + 1]
            write(seq, "share", status=0, mfn=mfn, old=mfn, key=seq, frames=[row])


def test_names_are_text_and_large_runs_do_not_freeze(browser, tmp_path):
    trace, page = tmp_path / "large.jsonl", tmp_path / "large.html"
    hostile(trace)
    cowbird("report", trace, "-o", page)
    browser.requests.clear()
    browser.errors.clear()
    began = time.monotonic()
    browser.open(page)
    opened = time.monotonic() - began
    assert "onerror" in browser.text("#only-domain")
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.title") != "bad"
    assert browser.run("cowbird.map.shown.length") == 65536
    assert number(browser, "entered") == 99_997
    slow = 0.0
    for moment in (0, 100_000, 1, 50_000, 3):
        began = time.monotonic()
        to(browser, moment)
        slow = max(slow, time.monotonic() - began)
        assert number(browser, "moment") == moment
    assert "0xffffffffffffffff" in browser.run("JSON.stringify(cowbird.run.details(1))")
    assert browser.errors == []
    assert all(url.startswith(("file:", "data:", "about:")) for url in browser.requests)
    assert opened < 30  # a bound against freezing, not a measurement
    assert slow < 5
