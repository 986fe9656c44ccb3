"""Stops of the debugger: where they come, that they change nothing, and what is refused."""

import struct

import pytest

from emu.units import PAGE_SHIFT, VA
from hypervisor.audit import audit
from hypervisor.debug.catches import leaf_entry
from hypervisor.debug.conditions import Condition
from hypervisor.debug.model import Catch, DebugError, StopReason
from hypervisor.debug.snapshot import fingerprint
from hypervisor.domain import Callback
from tests.hypervisor.debug_lab import debugger, finish, machine, run_in_parts, symbol


def test_a_breakpoint_stops_before_its_instruction_each_time() -> None:
    dbg = debugger("share", record=False)
    va = symbol(dbg, 1, "share_page")
    code = dbg.read(1, va, 16)
    number = dbg.add_breakpoint(1, va)
    assert dbg.read(1, va, 16) == code
    for hits in range(1, 6):
        stop = dbg.cont()
        assert (stop.reason, stop.number, stop.domain) == (StopReason.BREAKPOINT, number, 1)
        assert dbg.registers(1).rip == va
        assert dbg.stops[number].hits == hits
        assert dbg.position == dbg.hv.domains[1].instructions
    assert dbg.step(1).position == stop.position + 1


def test_breakpoints_belong_to_one_domain() -> None:
    dbg = debugger("share", "share", record=False)
    dbg.add_breakpoint(2, symbol(dbg, 2, "share_page"))
    assert {stop.domain for stop in (dbg.cont(), dbg.cont(), dbg.cont())} == {2}


def test_temporary_ignored_and_disabled() -> None:
    dbg = debugger("share", record=False)
    va = symbol(dbg, 1, "share_page")
    first = dbg.add_breakpoint(1, va, temporary=True)
    assert dbg.cont().number == first
    assert first not in dbg.stops
    second = dbg.add_breakpoint(1, va, hardware=True)
    dbg.stops[second].ignore = 2
    stop = dbg.cont()
    assert stop.reason is StopReason.HWBREAK
    assert dbg.stops[second].hits == 3
    dbg.stops[second].enabled = False
    dbg.refresh_stops()
    assert dbg.cont().reason is StopReason.EXITED


def test_stops_change_nothing() -> None:
    """A run with stops of all kinds, stopped at and stepped from, is the run without."""
    plain = run_in_parts(machine("share", "fork"), [])
    dbg = debugger("share", "fork", record=False)
    dbg.add_breakpoint(1, symbol(dbg, 1, "share_page"))
    dbg.add_breakpoint(2, symbol(dbg, 2, "map_page"), condition="rsp & 0xff0 == 0x7f0")
    dbg.add_breakpoint(1, symbol(dbg, 1, "main"), temporary=True)
    dbg.cont()
    dbg.add_watchpoint(1, dbg.registers(1).value("rsp") - 8, 8, "access")
    dbg.add_catch(Catch("cow"))
    dbg.add_catch(Catch("frame", mfn=dbg.hv.domains[1].table))
    dbg.add_catch(Catch("counter", domain=1, counter="merged"))
    reasons = set()
    for _ in range(400):
        stop = dbg.cont()
        reasons.add(stop.reason)
        if stop.reason is StopReason.FINISHED:
            break
        for domain in list(dbg.hv.domains):
            if dbg.hv.domains[domain].exit is None and dbg.position % 7 == domain:
                dbg.step(domain, 3)
    for number in list(dbg.stops):
        dbg.remove(number)
    finish(dbg)
    assert {StopReason.BREAKPOINT, StopReason.AWATCH, StopReason.CATCH} <= reasons
    assert fingerprint(dbg.hv) == plain[-1]


def test_a_step_over_a_hypercall_is_one_and_a_fault_ends_in_the_handler() -> None:
    dbg = debugger("share", record=False)
    number = dbg.add_catch(Catch("hypercall"))
    stop = dbg.cont()
    assert stop.event is not None
    assert stop.event.kind == "hypercall"
    dbg.remove(number)
    number = dbg.add_catch(Catch("fault", vector=14, error=3))
    stop = dbg.cont()
    assert stop.event is not None
    details = stop.event.details
    assert details["error"] & 2
    assert details["avl"]
    assert dbg.hv.domains[1].symbols.name(dbg.registers(1).rip).startswith("trap_")
    assert details["rip"] != dbg.registers(1).rip


def test_catches_by_filter() -> None:
    dbg = debugger("share", record=False)
    dbg.add_catch(Catch("hypercall", name="update_va_mapping", args={2: 2}, result=0))
    stop = dbg.cont()
    assert stop.event is not None
    assert stop.event.details["name"] == "update_va_mapping"
    assert stop.event.details["arguments"][2] == 2
    dbg.remove(stop.number or 0)
    dbg.add_catch(Catch("merge", condition="d['mfn'] > 0 and domain == 1 and position > 100"))
    stop = dbg.cont()
    assert stop.event is not None
    assert stop.event.details["status"] == 1
    dbg.remove(stop.number or 0)
    mfn = stop.event.details["mfn"]
    free = dbg.add_catch(Catch("free", mfn=mfn))
    frame = dbg.add_catch(Catch("frame", mfn=mfn))
    assert dbg.cont().reason is StopReason.EXITED  # nothing of it is given back yet
    stop = dbg.cont()
    assert stop.event is not None
    assert (stop.number, stop.event.details["count"]) == (free, 0)
    assert dbg.hv.frames.owner[mfn] != stop.domain
    dbg.remove(free)
    dbg.remove(frame)


def test_a_change_of_an_entry_and_of_a_counter() -> None:
    dbg = debugger("share", record=False)
    number = dbg.add_catch(Catch("cow"))
    stop = dbg.cont()
    assert stop.event is not None
    dbg.remove(number)
    found = leaf_entry(dbg.hv, dbg.hv.domains[1], stop.event.details["va"])
    assert found is not None
    dbg.add_catch(Catch("pte", address=int(found[0])))
    stop = dbg.cont()
    assert stop.event is not None
    old, new = stop.event.details["old"], stop.event.details["new"]
    assert new == dbg.hv.machine.memory.read_u64(found[0]) & ~0x60
    assert old >> PAGE_SHIFT != new >> PAGE_SHIFT
    dbg.remove(stop.number or 0)
    dbg.add_catch(Catch("counter", domain=1, counter="cow_faults", value=2))
    dbg.cont()
    assert dbg.hv.domains[1].counters["cow_faults"] == 2


def test_a_watchpoint_tells_who_and_what() -> None:
    dbg = debugger("share", record=False)
    sp = dbg.registers(1).value("rsp")
    for name in ("main",):
        dbg.add_breakpoint(1, symbol(dbg, 1, name), temporary=True)
    dbg.cont()
    sp = dbg.registers(1).value("rsp")
    number = dbg.add_watchpoint(1, sp - 8, 8, "write")
    stop = dbg.cont()
    assert (stop.reason, stop.number) == (StopReason.WATCH, number)
    assert stop.new == dbg.read(1, sp - 8, 8)
    assert stop.address is not None
    assert sp - 8 <= stop.address < sp
    dbg.remove(number)
    value = struct.unpack("<Q", stop.new or b"")[0]
    dbg.add_watchpoint(1, sp - 8, 8, "write", condition=f"new != {value}")
    stop = dbg.cont()
    assert stop.new != value.to_bytes(8, "little")
    for number in list(dbg.stops):
        dbg.remove(number)
    dbg.add_watchpoint(1, sp - 8, 8, "read")
    stop = dbg.cont()
    assert stop.reason is StopReason.RWATCH


def test_a_watchpoint_follows_a_page_that_is_copied() -> None:
    dbg = debugger("share", record=False)
    number = dbg.add_catch(Catch("cow"))
    stop = dbg.cont()
    assert stop.event is not None
    dbg.remove(number)
    va = stop.event.details["va"] & ~7
    before = dbg.state.translate(dbg.hv.domains[1], va)
    dbg.add_watchpoint(1, va, 8, "write")
    stop = dbg.cont()
    assert stop.reason is StopReason.WATCH
    assert dbg.state.translate(dbg.hv.domains[1], va) != before
    assert dbg.read(1, va, 8) == stop.new != stop.old


def test_what_the_hypervisor_stores_is_seen() -> None:
    """The bounce frame of a fault, on the stack of the guest."""
    dbg = debugger("share", record=False)
    number = dbg.add_catch(Catch("cow"))
    dbg.cont()
    sp = dbg.registers(1).value("rsp")
    dbg.cont()
    assert dbg.registers(1).value("rsp") == sp  # the same place again
    dbg.remove(number)
    dbg.add_watchpoint(1, sp, 64, "write")
    number = dbg.add_catch(Catch("cow"))
    stop = dbg.cont()
    while stop.reason is StopReason.WATCH:
        if dbg.registers(1).value("rsp") == sp:
            break
        stop = dbg.cont()
    assert stop.reason in (StopReason.WATCH, StopReason.CATCH)


def test_only_some_domains_run() -> None:
    dbg = debugger("share", "fork", record=False)
    stop = dbg.cont(only=frozenset({2}))
    assert (stop.reason, stop.domain) == (StopReason.EXITED, 2)
    assert dbg.hv.domains[1].instructions == 0
    stop = dbg.cont()
    assert (stop.reason, stop.domain) == (StopReason.EXITED, 1)
    assert dbg.cont(only=frozenset({7})).reason is StopReason.FINISHED


def test_registers_and_memory_of_a_domain_that_does_not_run() -> None:
    dbg = debugger("share", "fork", record=False)
    dbg.cont(limit=23_000)
    before = fingerprint(dbg.hv)
    for number in (1, 2):
        registers = dbg.registers(number)
        assert registers.bits == 64
        assert registers.cr3 == dbg.state.table(dbg.hv.domains[number]) << PAGE_SHIFT
        assert len(dbg.read(number, registers.rip, 4)) == 4
    assert dbg.read(1, 0, 16) == b""
    assert dbg.read(1, dbg.registers(1).rip & ~0xFFF | 0xFF0, 64)
    assert dbg.read_physical(dbg.hv.machine.memory.size - 4, 100) == dbg.read_physical(
        dbg.hv.machine.memory.size - 4, 4
    )
    assert dbg.read_physical(1 << 60, 4) == b""
    other = 2 if dbg.current == 1 else 1
    dbg.set_register(other, "r14", 77)
    dbg.set_register(other, "xmm3", 1 << 100)
    assert dbg.registers(other).value("r14") == 77
    assert dbg.registers(other).value("xmm3") == 1 << 100
    assert fingerprint(dbg.hv) != before


def test_writes_go_to_the_domains_own_memory_only() -> None:
    dbg = debugger("share", record=False)
    number = dbg.add_catch(Catch("cow"))
    stop = dbg.cont()
    assert stop.event is not None
    dbg.remove(number)
    before = fingerprint(dbg.hv)
    va = stop.event.details["va"]
    with pytest.raises(DebugError, match="shared frame"):
        dbg.write(1, va, b"x")
    table = dbg.hv.domains[1].table
    with pytest.raises(DebugError, match="nothing is mapped"):
        dbg.write(1, 0x10, b"x")
    with pytest.raises(DebugError, match="nothing is mapped"):
        dbg.write(1, 0x8000_0000_0000, b"x")
    mapped = [
        at
        for at in range(0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_8040_0000, 4096)
        if (found := leaf_entry(dbg.hv, dbg.hv.domains[1], at))
        and found[1] >> 12 & 0xFFFFF == table
    ]
    for at in mapped:
        with pytest.raises(DebugError, match="a checked L4 page"):
            dbg.write(1, at, b"x")
    assert fingerprint(dbg.hv) == before
    sp = dbg.registers(1).value("rsp")
    dbg.write(1, sp - 4100, b"hello")
    assert dbg.read(1, sp - 4100, 5) == b"hello"
    assert audit(dbg.hv) == []


def test_what_is_refused() -> None:
    dbg = debugger("share", record=False)
    for wrong in (
        lambda: dbg.add_breakpoint(9, 0),
        lambda: dbg.add_breakpoint(1, 0, condition="import os"),
        lambda: dbg.add_watchpoint(1, 0, 0, "write"),
        lambda: dbg.add_watchpoint(1, 0, 1 << 40, "write"),
        lambda: dbg.add_watchpoint(1, 0, 8, "scribble"),  # type: ignore[arg-type]
        lambda: dbg.add_catch(Catch("nonsense")),
        lambda: dbg.add_catch(Catch("pte")),
        lambda: dbg.remove(99),
        lambda: dbg.registers(3),
        lambda: dbg.set_register(1, "cs", 3),
        lambda: dbg.set_register(1, "xmm16", 3),
        lambda: dbg.read(1, 0, 1 << 40),
        lambda: dbg.step(5),
    ):
        with pytest.raises(DebugError) as error:
            wrong()
        assert "\n" not in str(error.value)
    dbg.add_breakpoint(1, 0x1234)  # where nothing is mapped: it is never reached
    assert dbg.cont().reason is StopReason.EXITED


def test_a_condition_without_a_value_stops_and_says_so() -> None:
    dbg = debugger("share", record=False)
    dbg.add_breakpoint(1, symbol(dbg, 1, "share_page"), condition="u64(0) == 3")
    stop = dbg.cont()
    assert stop.reason is StopReason.BREAKPOINT
    assert "nothing is mapped" in stop.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "x = 1",
        "(lambda: 1)()",
        "[a for a in b]",
        "().__class__",
        "2 ** 100000",
        "d.pop()",
        "f(x=1)",
        "'a' * 10**9",
        "1 << 10**9",
        "(" * 500 + ")" * 500,
        "1/0",
        "nothing",
        "'%1000000000d' % 1",
        "x" * 5000,
    ],
)
def test_bad_conditions(text: str) -> None:
    with pytest.raises(DebugError):
        Condition(text).value({"d": {}, "a": 1})


def test_good_conditions() -> None:
    names = {"a": 5, "d": {"name": "share", "arguments": [1, 2]}, "u8": lambda va: va & 0xFF}
    assert Condition("a == 5 and d['name'] in ('share', 'drop')").holds(names)
    assert Condition("d['arguments'][1] == 2 or nothing").holds(names)
    assert not Condition("not (0 < a <= 5)").holds(names)
    assert Condition("u8(0x1234) == 0x34 if a else 0").holds(names)
    assert Condition("min(a, 3) + len(d) << 2 & ~1 | a % 3 == 22").value(names) is not None


def test_interrupt_and_limit() -> None:
    dbg = debugger("share", record=False)
    dbg.interrupt()
    assert dbg.cont().reason is StopReason.INTERRUPT
    assert dbg.position == 0
    stop = dbg.cont(limit=1000)
    assert (stop.reason, stop.position) == (StopReason.LIMIT, 1000)


def test_a_crash_can_be_looked_at() -> None:
    dbg = debugger("share", record=False)
    dbg.cont(limit=5000)
    dbg.set_register(1, "rip", 0x123456)
    dbg.set_register(1, "rsp", 0)
    stop = dbg.cont()
    assert stop.reason is StopReason.CRASHED
    assert "double fault" in stop.text or "handler" in stop.text
    assert dbg.registers(1).cr2 == 0x123456
    assert dbg.cont().reason is StopReason.FINISHED


def test_a_crash_before_the_first_instruction_of_a_slice_can_be_looked_at() -> None:
    """The upcall that a slice begins with cannot be entered."""
    dbg = debugger("share", "share", record=False)
    hv = dbg.hv
    dbg.cont(limit=12_000)
    domain = hv.domains[2 if dbg.current == 1 else 1]
    domain.event_callback = Callback(VA(0))
    shared = hv.machine.memory.frame(domain.shared_info)
    shared[0], shared[1] = 1, 0  # evtchn_upcall_pending, evtchn_upcall_mask
    stop = dbg.cont()
    assert (stop.reason, stop.domain) == (StopReason.CRASHED, domain.id)
    assert dbg.registers(domain.id).rip
    before = hv.frames.free
    stop = dbg.cont()
    assert stop.domain != domain.id
    assert domain.id not in hv.domains
    assert hv.frames.free > before
