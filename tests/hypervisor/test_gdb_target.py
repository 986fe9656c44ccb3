"""Domains as gdb's processes, packet by packet: no gdb, but a real hypervisor behind it."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.gdb.registers import registers
from emu.gdb.registry import PACKETS
from emu.gdb.session import Ending
from emu.gdb.target import Cause, Resume, ThreadId
from hypervisor.audit import audit
from hypervisor.debug.commands import execute
from hypervisor.debug.gdbtarget import GdbTarget
from tests.emu.gdb_client import Talk
from tests.hypervisor.debug_session import Shell, unchanged

START = 0xFFFF_FFFF_8000_0000


class Gdb(Talk):
    """gdb connected to a hypervisor with these guests."""

    def __init__(self, *guests: str) -> None:
        self.shell = Shell(*guests)
        context = self.shell.context

        def command(line: str, domain: int) -> str:
            context.domain_id = domain or None
            return execute(context, line)

        self.domains = GdbTarget(self.shell.debugger, command)
        super().__init__(self.domains)
        self.document("features:read:target.xml")

    def register(self, name: str) -> int:
        number = next(i for i, r in enumerate(registers(64)) if r.name == name)
        return int.from_bytes(bytes.fromhex(self(f"p{number:x}")), "little")

    def monitor(self, line: str) -> str:
        self.console = ""
        assert self(f"qRcmd,{line.encode().hex()}") == "OK"
        return self.console

    def symbol(self, name: str) -> int:
        return self.shell.value(name)


@pytest.fixture
def gdb() -> Gdb:
    return Gdb("share", "hello")


def test_looking_changes_nothing(gdb: Gdb) -> None:
    same = unchanged(gdb.shell)
    for packet in ("?", "g", "p10", f"m{START:x},4000", "m0,100", f"m{START - 8:x},10", "qC",
                   "qfThreadInfo", "Hgp2.1", "g", f"m{START:x},8", f"Z0,{START + 8:x},1",
                   f"Z2,{START + 0x5000:x},8", f"z0,{START + 8:x},1", "Qqemu.PhyMemMode:1",
                   "m1000,1000", "mfffffff0,100", "Qqemu.PhyMemMode:0"):  # fmt: skip
        gdb(packet)
    for line in ("info registers", "info mem", "info tlb", "domains", "pt", "nonsense"):
        gdb.monitor(line)
    assert same()


def test_a_breakpoint_is_not_in_the_memory_that_anybody_reads(gdb: Gdb) -> None:
    main = gdb.symbol("main")
    before = gdb(f"m{main:x},8")
    assert gdb(f"Z0,{main:x},1") == "OK"
    assert gdb("vCont;c:p1.-1") == "T05swbreak:;thread:p1.1;"
    assert gdb.register("rip") == main
    assert gdb(f"m{main:x},8") == before


def test_registers_of_domains_that_do_not_run(gdb: Gdb) -> None:
    gdb("vCont;s:p1.1")
    assert gdb.register("rip") == START + 1
    gdb("Hgp2.1")
    gdb.document("features:read:target.xml")
    assert gdb.register("rip") == START
    assert gdb.register("cr3") == gdb.shell.hv.domains[2].table << 12
    assert gdb(f"P10={(START + 1).to_bytes(8, 'little').hex()}") == "OK"
    assert gdb.register("rip") == START + 1
    gdb("Hgp1.1")
    assert gdb.register("rip") == START + 1


def test_writes_go_to_the_domain_alone_or_nowhere(gdb: Gdb) -> None:
    data = gdb.symbol("cow_copies")
    assert gdb(f"M{data:x},2:abcd") == "OK"
    assert gdb(f"m{data:x},2") == "abcd"
    table = gdb.shell.hv.domains[1].table << 12
    gdb("Qqemu.PhyMemMode:1")
    assert gdb(f"M{table:x},8:{'00' * 8}") == "E0e"
    gdb("Qqemu.PhyMemMode:0")
    gdb(f"Z0,{gdb.symbol('copy_on_write'):x},1")
    gdb("vCont;c:p1.-1")
    page = gdb.register("cr2") & ~0xFFF
    same = unchanged(gdb.shell)
    assert gdb(f"M{page:x},1:00") == "E0e"
    # Half of it would be the domain's own.
    assert gdb(f"X{page - 8:x},10:" + "x" * 16) == "E0e"
    assert "shared frame" in gdb.monitor("why")
    assert same()
    assert audit(gdb.shell.hv) == []


def test_addresses_at_the_ends_of_the_address_space(gdb: Gdb) -> None:
    for address in (0, 0x7FFF_FFFF_FFFF, 0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF, (1 << 64) - 1):
        assert gdb(f"m{address:x},ffffffff") == "E0e"
        assert gdb(f"M{address:x},1:00") == "E0e"
        assert gdb(f"Z0,{address:x},1") == "E0e"
        assert gdb(f"Z2,{address:x},8") == "E0e"
    assert not gdb.shell.debugger.stops


def test_a_frozen_domain_stays_where_it_is(gdb: Gdb) -> None:
    gdb("Hgp2.1")
    before = gdb("g")
    gdb("Hgp1.1")
    assert gdb("vCont;c:p1.-1") == "W00;process:1"
    gdb("Hgp2.1")
    assert gdb("g") == before
    assert gdb("vCont;c:p2.-1") == "W00;process:2"
    assert gdb("?") == "W00;process:2"
    assert gdb("qfThreadInfo") == "l"


def test_an_end_that_is_caught_can_be_looked_at_and_left(gdb: Gdb) -> None:
    gdb.monitor("catch exit")
    assert gdb("vCont;c:p2.-1") == "T05thread:p2.1;"
    assert "(exit)" in gdb.console
    assert gdb("qfThreadInfo") == "mp1.1,p2.1"
    rip = gdb.register("rip")
    assert rip > START
    gdb("Hcp2.1")
    assert gdb("bs") == "T05thread:p2.1;"
    assert gdb.shell.hv.domains[2].exit is None
    assert gdb("vCont;s:p2.1") in ("T05thread:p2.1;", "W00;process:2")
    if gdb("?").startswith("T"):
        assert gdb("vCont;c:p2.-1") == "W00;process:2"
    assert gdb("qfThreadInfo") == "mp1.1"
    assert gdb("Hgp1.1") == "OK"
    assert gdb("vCont;c") == "T05thread:p1.1;"
    assert gdb("vCont;c") == "W00;process:1"


def test_a_domain_that_was_killed_never_runs_again(gdb: Gdb) -> None:
    gdb("!")
    gdb("vCont;s:p2.1")
    assert gdb("vKill;1") == "OK"
    assert gdb("qfThreadInfo") == "mp2.1"
    before = gdb.shell.hv.domains[1].instructions
    assert gdb("vCont;c") == "W00;process:2"
    assert gdb.shell.hv.domains[1].instructions == before


def test_monitor_quit_ends_the_session(gdb: Gdb) -> None:
    gdb.monitor("quit")
    assert gdb.session.ending is Ending.KILLED


def test_monitor_says_when_gdb_is_behind(gdb: Gdb) -> None:
    assert "flush" not in gdb.monitor("when")
    assert "flush" in gdb.monitor("stepi")
    assert "flush" in gdb.monitor("goto start")
    assert "flush" in gdb.monitor("set $rbx = 7")


def test_back_and_forth_is_the_same(gdb: Gdb) -> None:
    for _ in range(30):
        assert gdb("vCont;s:p1.1") == "T05thread:p1.1;"
    there = gdb("g")
    gdb("Hcp1.1")
    for _ in range(10):
        assert gdb("bs") == "T05thread:p1.1;"
    for _ in range(10):
        gdb("vCont;s:p1.1")
    assert gdb("g") == there
    assert gdb("bc") == "T05replaylog:begin;thread:p1.1;"
    assert gdb.register("rip") == START


def test_an_interrupt_that_comes_late_is_forgotten(gdb: Gdb) -> None:
    gdb.domains.interrupt()
    report = gdb.domains.resume(Resume())
    assert report.cause is Cause.EXITED


def test_a_range_is_stepped_through(gdb: Gdb) -> None:
    end = gdb.symbol("main")
    assert gdb(f"vCont;r{START:x},{START + 0x13:x}:p1.1") == "T05thread:p1.1;"
    assert gdb.register("rip") >= START + 0x13
    gdb(f"Z0,{end:x},1")
    assert gdb(f"vCont;r{START:x},{START + 0x100000:x}:p1.1") == "T05swbreak:;thread:p1.1;"
    assert gdb.register("rip") == end


def test_the_programs_are_the_images(gdb: Gdb) -> None:
    found = gdb.domains.executable(2)
    assert found is not None
    assert found.name == "hello.elf"
    assert found.data == gdb.shell.hv.domains[2].symbols.elf
    assert gdb.document("exec-file:read:2") == b"/cowbird/2/hello.elf"


def test_threads_are_named_and_say_what_they_do(gdb: Gdb) -> None:
    first, second = gdb.domains.threads()
    assert (first.id, first.name, first.state) == (ThreadId(1), "d1 share", "running, kernel mode")
    assert (second.id, second.name) == (ThreadId(2), "d2 hello")


_ARGUMENTS = st.one_of(
    st.binary(max_size=20),
    st.text("0123456789abcdef,;:=p.-", max_size=20).map(str.encode),
    st.sampled_from(
        [b"ffffffff80000000,8", b",p1.1", b";c:p1.-1", b";s:p2.1", b";2", b":0,ff", b"gp2.1",
         b"0,ffffffff80000010,1", b"2,ffffffff80005000,8", b"ffffffff80005000,1:00", b":1",
         b"0=ffffffffffffffff", b"10=0000000000000000", b"cp1.1", b";c", b""]
    ),
)  # fmt: skip
_MONITOR = st.sampled_from(
    ["when", "stepi", "goto start", "goto end", "catch fault", "delete", "reverse-stepi",
     "info mem", "set $rip = 0", "walk 0", "continue", "frame 1", "checkpoint a", "goto a"]
).map(lambda line: ("qRcmd", b"," + line.encode().hex().encode()))  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.tuples(st.sampled_from(sorted(PACKETS)), _ARGUMENTS), _MONITOR)))
def test_any_packets_leave_the_hypervisor_whole(packets: list[tuple[str, bytes]]) -> None:
    gdb = Gdb("hello", "hello")
    for name, arguments in packets:
        gdb.session.handle(name.encode() + arguments)
    gdb.session.close()
    assert audit(gdb.shell.hv) == []
