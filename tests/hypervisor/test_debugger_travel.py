"""Time travel: any position of a run is what it was, however it is reached."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.audit import audit
from hypervisor.debug.catches import leaf_entry
from hypervisor.debug.debugger import Debugger
from hypervisor.debug.model import Catch, DebugError, StopReason
from hypervisor.debug.snapshot import fingerprint
from hypervisor.hypervisor import Hypervisor
from tests.hypervisor.debug_lab import debugger, everything, finish, machine, run_in_parts, symbol
from tests.hypervisor.kernels import Lab

MIXES = [("share", "fork"), ("churn", "storm"), ("share/32", "fork"), ("fork/32", "text")]


def length(*guests: str) -> int:
    hv = machine(*guests)
    hv.run()
    return hv.machine.position


@pytest.mark.parametrize("guests", MIXES)
def test_a_run_does_not_depend_on_how_it_is_cut(guests: tuple[str, ...]) -> None:
    end = length(*guests)
    rng = random.Random(str(guests))
    few = run_in_parts(machine(*guests), [])
    cuts = sorted(rng.sample(range(1, end), 40))
    near = [at + i for at in cuts[:8] for i in range(6)]
    many = run_in_parts(machine(*guests), sorted({*cuts, *near}))
    assert many[-1] == few[-1]


@pytest.mark.parametrize("guests", MIXES)
def test_every_position_is_what_it_was(guests: tuple[str, ...]) -> None:
    end = length(*guests)
    rng = random.Random(str(guests))
    positions = sorted(rng.sample(range(1, end), 16))
    first = run_in_parts(machine(*guests), positions, everything)
    dbg = debugger(*guests)
    finish(dbg)
    assert everything(dbg.hv) == first[-1]
    for position in rng.sample(positions, len(positions)):
        dbg.goto(position)
        assert everything(dbg.hv) == first[position], position
        assert audit(dbg.hv) == []
    finish(dbg)
    assert everything(dbg.hv) == first[-1]


SLEEPER = """
    xor r12, r12
    mov r13, {step}
again:
    rdtsc
    shl rdx, 32
    or rax, rdx
    add rax, r13
    mov [rip + scratch + 16], rax
    lea rbx, [rip + scratch]
    call 29, 3, rbx
    mov rcx, r12
    and rcx, 511
    mov [rbx + rcx * 8 + 1024], rax
    add r13, 1777
    inc r12
    cmp r12, 150
    jb again
"""


def test_time_that_is_slept_away_goes_by_again() -> None:
    """Guests that poll with a timeout: slices end early, and the clock jumps."""

    def sleepers() -> Hypervisor:
        lab = Lab()
        for step in (20_000, 33_333, 1_000_000):
            lab.boot(SLEEPER.format(step=step))
        lab.boot("mov ecx, 300000\nspin: loop spin\n")
        return lab.hv

    hv = sleepers()
    hv.run()
    end = hv.machine.position
    positions = sorted(random.Random(3).sample(range(1, end), 30))
    first = run_in_parts(sleepers(), positions)
    assert run_in_parts(sleepers(), [])[-1] == first[-1]
    dbg = Debugger(sleepers())
    finish(dbg)
    assert dbg.hv.scheduler.skipped > 1_000_000
    for position in random.Random(4).sample(positions, len(positions)):
        dbg.goto(position)
        assert fingerprint(dbg.hv) == first[position]
    finish(dbg)
    assert fingerprint(dbg.hv) == first[-1]


def test_frames_in_random_order_come_in_the_same_order() -> None:
    positions = [20_000, 50_000, 90_000]
    first = run_in_parts(machine("share", "churn", opaque=True), positions)
    dbg = Debugger(machine("share", "churn", opaque=True))
    finish(dbg)
    for position in (90_000, 20_000, 50_000):
        dbg.goto(position)
        assert fingerprint(dbg.hv) == first[position]
    finish(dbg)
    assert fingerprint(dbg.hv) == first[-1]


def test_snapshots_at_every_chunk_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypervisor.debug.timeline._INTERVAL", 0.0)
    monkeypatch.setattr("hypervisor.debug.timeline._COSTS", 0)
    monkeypatch.setattr("hypervisor.debug.timeline._MOST_CHUNK", 20_000)
    monkeypatch.setattr("hypervisor.debug.timeline.MAX_SNAPSHOTS", 12)
    end = length("share", "fork")
    positions = sorted(random.Random(1).sample(range(1, end), 10))
    first = run_in_parts(machine("share", "fork"), positions)
    dbg = debugger("share", "fork")
    finish(dbg)
    assert fingerprint(dbg.hv) == first[-1]
    assert 4 <= len(dbg.timeline.snapshots) <= 12
    for position in reversed(positions):
        dbg.goto(position)
        assert fingerprint(dbg.hv) == first[position]


def test_snapshots_where_stops_were_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken in the middle of slices, at breakpoints, behind watched stores, and at ends."""
    monkeypatch.setattr("hypervisor.debug.timeline._INTERVAL", 0.0)
    monkeypatch.setattr("hypervisor.debug.timeline._COSTS", 0)
    guests = ("share", "fork/32", "text")
    end = length(*guests)
    positions = sorted(random.Random(2).sample(range(1, end), 12))
    first = run_in_parts(machine(*guests), positions)
    dbg = debugger(*guests)
    dbg.add_breakpoint(1, symbol(dbg, 1, "share_page"))
    dbg.add_breakpoint(2, symbol(dbg, 2, "map_page"))
    dbg.add_watchpoint(1, dbg.registers(1).value("rsp") - 8, 8, "write")
    dbg.add_catch(Catch("fault"))
    dbg.add_catch(Catch("counter", counter="switches"))
    for _ in range(2000):
        if dbg.cont().reason is StopReason.FINISHED:
            break
    assert len(dbg.timeline.snapshots) > 50
    for number in list(dbg.stops):
        dbg.remove(number)
    finish(dbg)
    assert fingerprint(dbg.hv) == first[-1]
    for position in reversed(positions):
        dbg.goto(position)
        assert fingerprint(dbg.hv) == first[position], position


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_stepping_back_and_forth(data: st.DataObject) -> None:
    dbg = debugger("share", "fork")
    dbg.cont(limit=60_000)
    position = data.draw(st.integers(1_000, 59_000))
    domain = data.draw(st.sampled_from((1, 2)))
    count = data.draw(st.integers(1, 30))
    dbg.goto(position)
    dbg.step(domain)
    before, there = fingerprint(dbg.hv), dbg.position
    stop = dbg.step(domain, count)
    assert stop.reason is StopReason.STEP
    stop = dbg.reverse_step(domain, count)
    # Where others ran in between, stepping back ends where the domain's turn begins.
    assert stop.reason is StopReason.STEP
    assert dbg.position >= there
    if dbg.position == there:
        assert fingerprint(dbg.hv) == before
    dbg.goto(there)
    assert fingerprint(dbg.hv) == before


def test_reverse_step_undoes_one_instruction() -> None:
    dbg = debugger("share")
    dbg.cont(limit=20_000)
    rips = []
    for _ in range(50):
        rips.append(dbg.registers(1).rip)
        dbg.step(1)
    for rip in reversed(rips):
        assert dbg.reverse_step(1).reason is StopReason.STEP
        assert dbg.registers(1).rip == rip
    assert dbg.position == 20_000


def test_the_start_of_history() -> None:
    dbg = debugger("share")
    dbg.step(1, 10)
    assert dbg.reverse_step(1, 11).reason is StopReason.START_OF_HISTORY
    assert dbg.position == 0
    assert dbg.reverse_step(1).reason is StopReason.START_OF_HISTORY
    assert dbg.reverse_cont().reason is StopReason.START_OF_HISTORY
    with pytest.raises(DebugError, match="not in history"):
        dbg.goto(11)
    with pytest.raises(DebugError, match="not in history"):
        dbg.goto(-1)


def test_without_recording_there_is_no_way_back() -> None:
    dbg = debugger("share", record=False)
    dbg.step(1, 100)
    for back in (lambda: dbg.reverse_step(1), lambda: dbg.goto(5), dbg.reverse_cont):
        with pytest.raises(DebugError, match="not recorded"):
            back()
    assert dbg.position == 100


def test_reverse_continue_finds_each_hit_in_turn() -> None:
    dbg = debugger("share")
    number = dbg.add_breakpoint(1, symbol(dbg, 1, "share_page"))
    hits = []
    while (stop := dbg.cont()).reason is StopReason.BREAKPOINT:
        hits.append(stop.position)
    assert len(hits) >= 8
    dbg.refresh_stops()
    for position in reversed(hits):
        stop = dbg.reverse_cont()
        assert (stop.reason, stop.position, stop.number) == (
            StopReason.BREAKPOINT, position, number,
        )  # fmt: skip
        assert dbg.registers(1).rip == symbol(dbg, 1, "share_page")
    assert dbg.reverse_cont().reason is StopReason.START_OF_HISTORY


def test_reverse_continue_to_catches_and_watches() -> None:
    dbg = debugger("share")
    dbg.add_catch(Catch("cow"))
    forward = []
    while (stop := dbg.cont()).reason is StopReason.CATCH:
        forward.append((stop.position, stop.event))
    assert forward
    backward = []
    while (stop := dbg.reverse_cont()).reason is StopReason.CATCH:
        backward.append((stop.position, stop.event))
    assert backward[::-1] == forward


def test_the_last_write() -> None:
    dbg = debugger("share")
    number = dbg.add_catch(Catch("cow"))
    for _ in range(3):
        dbg.cont()
    dbg.remove(number)
    sp = dbg.registers(1).value("rsp")
    value = dbg.read(1, sp, 8)
    here = dbg.position
    stop = dbg.last_write(1, sp, 8)
    assert stop.reason is StopReason.WATCH
    assert stop.number is None
    assert stop.new == value
    assert stop.position <= here
    assert dbg.read(1, sp, 8) == value
    if stop.old != stop.new:
        dbg.reverse_step(1)
        assert dbg.read(1, sp, 8) == stop.old
    assert dbg.last_write(1, 0x1000, 8).reason is StopReason.START_OF_HISTORY


def test_the_last_change_of_an_entry_and_the_last_share() -> None:
    dbg = debugger("share")
    number = dbg.add_catch(Catch("cow"))
    caught = dbg.cont()
    assert caught.event is not None
    dbg.remove(number)
    mfn = caught.event.details["mfn"]
    stop = dbg.last_share(mfn)
    assert stop.reason is StopReason.CATCH
    assert stop.event is not None
    assert stop.event.details["mfn"] == mfn
    shared_at = stop.position
    dbg.goto(caught.position)
    found = leaf_entry(dbg.hv, dbg.hv.domains[1], caught.event.details["va"])
    assert found is not None
    changed = dbg.last_change(int(found[0]))
    assert changed.event is not None
    assert changed.event.details["new"] >> 12 & 0xFFFFFFF == mfn
    assert changed.position >= shared_at
    dbg.reverse_step(1)
    assert dbg.hv.machine.memory.read_u64(found[0]) != found[1]


def test_calls_backwards() -> None:
    dbg = debugger("share")
    number = dbg.add_breakpoint(1, symbol(dbg, 1, "share_page"))
    for _ in range(4):
        dbg.cont()
    dbg.remove(number)
    entry = dbg.position
    dbg.finish(1)
    returned = dbg.registers(1).rip
    assert dbg.reverse_next(1).reason is StopReason.STEP
    call = dbg.registers(1).rip
    assert call < returned <= call + 7
    assert dbg.position < entry
    assert dbg.next_(1).reason is StopReason.STEP
    assert dbg.registers(1).rip == returned
    dbg.goto(entry)
    dbg.step(1)
    assert dbg.reverse_finish(1).reason is StopReason.STEP
    assert dbg.registers(1).rip == call
    dbg.goto(3)
    assert dbg.reverse_finish(1).reason is StopReason.START_OF_HISTORY


def test_a_write_in_the_past_begins_a_new_future() -> None:
    cut: list[int] = []
    dbg = debugger("share", "fork")
    dbg.on_cut.append(cut.append)
    dbg.checkpoint("early")
    finish(dbg)
    dbg.checkpoint("late")
    end = dbg.end
    dbg.goto(30_000)
    domain = dbg.current
    assert domain is not None
    dbg.set_register(domain, "r15", 0x1234)
    assert cut == [30_000]
    assert dbg.end == 30_000
    assert list(dbg.checkpoints) == ["early"]
    dbg.step(domain, 3)
    dbg.goto(29_000)
    dbg.goto(30_000)
    assert dbg.registers(domain).value("r15") == 0x1234
    finish(dbg)
    assert dbg.end > 30_000
    assert dbg.end <= end + 100_000


def test_consoles_are_shown_once_and_right_in_the_past() -> None:
    hv = machine("share", "fork")
    shown: list[str] = []
    for domain in hv.domains.values():
        vars(domain.console)["_sink"] = shown.append
    dbg = Debugger(hv)
    console = hv.domains[1].console
    finish(dbg)
    once = list(shown)
    lines = list(console.lines)
    assert lines
    dbg.goto(dbg.end // 2)
    assert console.lines == lines[: len(console.lines)]
    dbg.goto(100)
    assert console.lines == []
    finish(dbg)
    assert console.lines == lines
    assert shown == once


def test_an_interrupt_ends_a_search_where_it_began() -> None:
    dbg = debugger("share")
    finish(dbg)
    dbg.goto(40_000)
    before = fingerprint(dbg.hv)
    dbg.interrupt()
    assert dbg.reverse_cont().reason is StopReason.INTERRUPT
    assert dbg.position == 40_000
    assert fingerprint(dbg.hv) == before
