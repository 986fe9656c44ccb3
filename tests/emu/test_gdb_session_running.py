"""What a session answers to what runs and stops processes, packet by packet, over a toy."""

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.gdb.packets import MAX_BODY
from emu.gdb.registry import PACKETS
from emu.gdb.session import Ending
from emu.gdb.target import Cause, StopReport, ThreadId
from tests.emu.gdb_client import Talk, hexed
from tests.emu.gdb_fake import CODE, DATA, Process, Toy

# -- running


def test_a_step_is_one_instruction_of_one_process(toy: Toy, talk: Talk) -> None:
    assert talk("vCont;s:p2.1;c:p2.-1") == "T05thread:p2.1;"
    assert toy.processes[2].registers["rip"] == CODE + 1
    assert toy.processes[1].registers["rip"] == CODE
    assert talk("qC") == "QCp2.1"
    assert talk("Hcp1.1") == "OK"
    assert talk("s") == "T05thread:p1.1;"
    assert toy.processes[1].registers["rip"] == CODE + 1
    assert talk("S05") == "T05thread:p1.1;"
    assert talk(f"s{CODE + 4:x}") == "T05thread:p1.1;"
    assert toy.processes[1].registers["rip"] == CODE + 5


def test_only_the_named_process_runs(toy: Toy, talk: Talk) -> None:
    talk("Hgp1.1")
    assert talk(f"Z0,{CODE + 4:x},1") == "OK"
    assert talk("vCont;c:p1.-1") == "T05swbreak:;thread:p1.1;"
    assert toy.processes[1].registers["rip"] == CODE + 4
    assert toy.processes[2].registers["rip"] == CODE
    assert toy.resumed[-1].running == {1}


def test_all_run_when_all_are_named(toy: Toy, talk: Talk) -> None:
    assert talk("vCont;c") == "W03;process:2"
    assert toy.resumed[-1].running is None
    assert toy.processes[1].registers["rip"] != CODE
    assert talk("qfThreadInfo") == "mp1.1"


def test_a_range_is_stepped_through_in_one_go(toy: Toy, talk: Talk) -> None:
    assert talk(f"vCont;r{CODE:x},{CODE + 5:x}:p1.1") == "T05thread:p1.1;"
    assert toy.processes[1].registers["rip"] == CODE + 5


def test_resume_packets_that_are_malformed(toy: Toy, talk: Talk) -> None:
    for bad in ("vCont", "vCont;", "vCont;q", "vCont;c:", "vCont;c:zz", "vCont;C", "vCont;Czz",
                "vCont;r:p1.1", "vCont;r1:p1.1", "vCont;t:p1.1", "vCont;c:p7.1", "vCont;s:p1.5",
                "C", "S", "Czz", "szz", "cnowhere", "vCont;cc"):  # fmt: skip
        assert talk(bad) == "E16", bad
    assert toy.resumed == []


def test_breakpoints_belong_to_the_selected_process(toy: Toy, talk: Talk) -> None:
    talk("Hgp2.1")
    assert talk(f"Z1,{CODE + 3:x},1") == "OK"
    assert talk(f"Z1,{CODE + 3:x},1") == "OK"
    assert len(toy.stops) == 1
    assert talk("vCont;c") == "T05hwbreak:;thread:p2.1;"
    assert talk(f"z1,{CODE + 3:x},1") == "OK"
    assert talk(f"z1,{CODE + 3:x},1") == "OK"
    assert toy.stops == {}


def test_a_watchpoint_names_the_address(toy: Toy, talk: Talk) -> None:
    assert talk(f"Z2,{DATA:x},4") == "OK"
    assert talk("vCont;c:p1.-1") == f"T05watch:{DATA:x};thread:p1.1;"
    assert toy.processes[1].memory[DATA - CODE] == 1


def test_breakpoints_that_cannot_be(toy: Toy, talk: Talk) -> None:
    assert talk("Z0,0,1") == "E0e"
    for bad in ("Z", "Z0", "Z0,10000", "Z5,10000,1", "Z0,zz,1", "Z2,10000,0", "Z2,10000,ffffffff",
                "Z0,10000,1,1", "z9,1,1", "z0"):  # fmt: skip
        assert talk(bad) == "E16", bad
    assert toy.stops == {}


def test_a_client_that_knows_no_swbreak_is_not_told() -> None:
    talk = Talk(Toy(Process(b"....")), b"multiprocess+")
    talk(f"Z0,{CODE + 1:x},1")
    assert talk("vCont;c") == "T05thread:p1.1;"


def test_a_process_that_becomes_another_is_described_again() -> None:
    talk = Talk(Toy(Process(b"."), Process(b".")))
    talk.document("features:read:target.xml")
    report = StopReport(Cause.EXEC, ThreadId(1))
    path = b"/cowbird/1/toy.elf".hex()
    assert talk.session.stopped(report).decode() == f"T05exec:{path};thread:p1.1;"
    assert talk.session.widths == {}
    plain = Talk(Toy(Process(b".")), b"multiprocess+")
    assert plain.session.stopped(report) == b"T05thread:p1.1;"


def test_back_in_time(toy: Toy, talk: Talk) -> None:
    for _ in range(4):
        talk("vCont;s:p1.1")
    assert talk("Hcp1.1") == "OK"
    assert talk("bs") == "T05thread:p1.1;"
    assert toy.processes[1].registers["rip"] == CODE + 3
    assert talk(f"Z0,{CODE + 1:x},1") == "OK"
    assert talk("bc") == "T05swbreak:;thread:p1.1;"
    assert toy.processes[1].registers["rip"] == CODE + 1
    assert talk("bs") == "T05thread:p1.1;"
    assert talk("bc") == "T05replaylog:begin;thread:p1.1;"
    assert talk("bs") == "T05replaylog:begin;thread:p1.1;"


def test_ends_of_processes(toy: Toy, talk: Talk) -> None:
    talk("Hgp2.1")
    talk(f"Z0,{CODE + 60:x},1")
    assert talk("vCont;c:p2.-1") == "W03;process:2"
    assert toy.stops == {}
    assert talk("g") == "E03"
    assert talk("m10000,1") == "E03"
    assert talk("Z0,10000,1") == "E03"
    assert talk("P0=0000000000000000") == "E03"
    assert talk("vCont;c:p2.-1") == "E16"
    assert talk("Hgp1.1") == "OK"
    assert talk(f"m{CODE:x},1") == "2e"


def test_a_crash_is_a_signal_that_ends(toy: Toy) -> None:
    talk = Talk(Toy(Process(b".!")))
    assert talk("vCont;c") == "X0b;process:1"
    assert talk("?") == "X0b;process:1"
    for packet in ("g", "m10000,1", "vCont;c", "c", "s", "bs", "qC", "Hgp1.1"):
        assert talk(packet).startswith("E"), packet


def test_nothing_can_run(toy: Toy) -> None:
    talk = Talk(Toy(Process(b".s")))
    assert talk("vCont;c") == "T00thread:p1.1;"
    assert talk.console == "nothing can run\n"


def test_detach_kill_and_attach(toy: Toy, talk: Talk) -> None:
    talk("!")
    talk("Hgp2.1")
    talk(f"Z0,{CODE + 1:x},1")
    assert talk("D;2") == "OK"
    assert toy.stops == {}
    assert talk("qfThreadInfo") == "mp1.1"
    assert talk("D;2") == "E03"
    assert talk("vAttach;2") == "T05thread:p2.1;"
    assert talk("qfThreadInfo") == "mp1.1,p2.1"
    assert talk("vAttach;7") == "E03"
    assert talk("vAttach;x") == "E16"
    assert talk("vKill;2") == "OK"
    assert toy.killed == [2]
    assert talk("vKill;2") == "E03"
    assert talk.session.ending is None
    assert talk("D") == "OK"
    assert talk.session.ending is Ending.DETACHED


def test_a_detached_process_runs_when_others_do(toy: Toy, talk: Talk) -> None:
    talk("!")
    talk("D;2")
    talk(f"Z0,{CODE + 8:x},1")
    talk("vCont;c:p1.-1")
    assert toy.resumed[-1].running is None


def test_the_last_process_to_be_let_go_ends_a_plain_session(talk: Talk) -> None:
    assert talk("D;1") == "OK"
    assert talk.session.ending is None
    assert talk("D;2") == "OK"
    assert talk.session.ending is Ending.DETACHED


def test_k_has_no_reply(talk: Talk) -> None:
    assert talk("k") == "(none)"
    assert talk.session.ending is Ending.KILLED


# -- monitor and files


def selected(talk: Talk) -> str:
    talk.console = ""
    talk(f"qRcmd,{hexed('x')}")
    return talk.console.strip()


def show(talk: Talk) -> None:
    """gdb prints the frame of the thread that ``Hg`` named (all of them are at ``CODE``)."""
    for _ in range(2):
        talk(f"m{CODE:x},1")


def test_monitor_follows_what_gdb_shows_and_not_what_it_does(talk: Talk) -> None:
    talk("?")
    talk("qXfer:threads:read::0,1000")
    show(talk)
    talk("Hgp2.1")
    talk("qSymbol::")
    assert selected(talk) == "x on 1"
    show(talk)  # inferior 2
    assert selected(talk) == "x on 2"
    talk("Hgp1.1")
    talk("m18000,40")
    talk(f"Z0,{CODE + 1:x},1")
    assert selected(talk) == "x on 2"
    talk("vCont;c:p1.-1")
    talk("qXfer:threads:read::0,1000")
    talk("Hgp2.1")
    assert selected(talk) == "x on 1"


def test_listing_threads_selects_none(talk: Talk) -> None:
    talk("?")
    talk("qXfer:threads:read::0,1000")  # what follows every stop
    show(talk)
    for _ in range(3):
        talk("Hgp1.1")
        talk("qXfer:threads:read::0,1000")
        show(talk)
        talk("Hgp2.1")
        show(talk)
        assert selected(talk) == "x on 1"
    show(talk)  # inferior 2, which is what Hg says already
    assert selected(talk) == "x on 2"
    talk("Hgp1.1")
    show(talk)
    assert selected(talk) == "x on 1"


def test_monitor_is_the_targets_on_the_selected_process(talk: Talk) -> None:
    talk("Tp2.1")  # "thread 2.1"
    assert talk(f"qRcmd,{hexed('walk 0x1000')}") == "OK"
    assert talk.console == "walk 0x1000 on 2\n"
    talk(f"qRcmd,{hexed('fail')}")
    assert talk.console.endswith("error: that cannot be done\n")
    talk("qRcmd,")
    assert talk.console.endswith("help on 2\n")
    for bad in ("qRcmd", "qRcmd,f"):
        assert talk(bad) in ("OK", "E16")
    assert talk("qRcmd,ff") == "E16"
    assert talk("qRcmd,zz") == "E16"


def test_long_answers_come_in_parts(talk: Talk) -> None:
    assert talk(f"qRcmd,{hexed('long')}") == "OK"
    assert talk.console == "x" * 100_000 + "\n"
    assert all(len(body) <= MAX_BODY for body in talk.wire.sent)


def test_what_moves_the_target_says_that_gdb_does_not_know(talk: Talk) -> None:
    talk(f"qRcmd,{hexed('jump')}")
    assert "flush register-cache" in talk.console


def test_the_program_of_a_process_can_be_read_and_nothing_else(talk: Talk) -> None:
    path = talk.document("exec-file:read:1").decode()
    assert path == "/cowbird/1/toy.elf"
    assert talk("qXfer:exec-file:read:2:0,100").startswith("E")
    assert talk("qXfer:exec-file:read:9:0,100").startswith("E")
    assert talk("vFile:setfs:0") == "F0"
    assert talk(f"vFile:open:{hexed(path)},0,0") == "F3"
    stat = talk("vFile:fstat:3")
    assert stat.startswith("F40;")
    expected = b"\x7fELF }#$* and so on" * 3000
    data = b""
    while True:
        talk.session.handle(f"vFile:pread:3,4000,{len(data):x}".encode())
        head, _, raw = talk.wire.sent[-1].partition(b";")
        if head == b"F0":
            break
        from emu.gdb.packets import unescape

        part = unescape(raw)
        assert part is not None
        assert len(part) == int(head[1:], 16)
        data += part
    assert data == expected
    assert talk("vFile:close:3") == "F0"
    assert talk("vFile:close:3") == "F-1,9"
    assert talk("vFile:pread:3,10,0") == "F-1,9"
    assert talk(f"vFile:open:{hexed('/etc/passwd')},0,0") == "F-1,2"
    assert talk(f"vFile:open:{hexed('/cowbird/1/../../etc/passwd')},0,0") == "F-1,2"
    assert talk(f"vFile:open:{hexed(path)},1,0") == "F-1,1e"
    for bad in ("vFile:open", "vFile:open:zz,0,0", "vFile:pread:3", "vFile:fstat:", "vFile:close"):
        assert talk(bad) == "E16", bad
    for _ in range(20):
        last = talk(f"vFile:open:{hexed(path)},0,0")
    assert last == "F-1,18"


# -- anything at all

_NAMES = sorted(PACKETS)
_ARGUMENTS = st.one_of(
    st.binary(max_size=30),
    st.text("0123456789abcdef,;:=p.-", max_size=30).map(str.encode),
    st.sampled_from([b"10000,4", b",p1.1", b";c:p1.-1", b";1", b":0,ff", b"0,10000,1", b"gp2.1"]),
)
_REPLY = re.compile(rb"|OK|E[0-9a-f]{2}|[0-9a-fx]*|[TWXFCOQ].*|[ml].*|vCont.*|.*=.*|sstep.*", re.S)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(_NAMES), _ARGUMENTS), max_size=12))
def test_any_packets_in_any_order(packets: list[tuple[str, bytes]]) -> None:
    toy = Toy(Process(b"..w.s"), Process(b"w.x", width=32))
    talk = Talk(toy)
    for name, arguments in packets:
        talk.session.handle(name.encode() + arguments)
    for body in talk.wire.sent:
        assert len(body) <= MAX_BODY
        assert _REPLY.fullmatch(body), body
    talk.session.close()
    assert toy.stops == {}
