"""What a session answers, packet by packet, over a toy with processes."""

import re
import xml.dom.minidom
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.gdb.packets import MAX_BODY
from emu.gdb.registers import registers
from emu.gdb.registry import PACKETS
from emu.gdb.session import Ending
from emu.gdb.target import Cause, StopReport, ThreadId
from tests.emu.gdb_client import Talk
from tests.emu.gdb_fake import CODE, DATA, SHARED, Process, Toy


def hexed(text: str) -> str:
    return text.encode().hex()


@pytest.fixture
def toy() -> Toy:
    return Toy(Process(b"..w..w..<", name="one"), Process(b"ww....x", name="two & co"))


@pytest.fixture
def talk(toy: Toy) -> Talk:
    talk = Talk(toy)
    talk.document("features:read:target.xml")  # as gdb does when it connects
    return talk


# -- handshake


def test_features_are_those_that_somebody_answers(talk: Talk) -> None:
    offered = talk("qSupported:multiprocess+").split(";")
    for wanted in (
        "multiprocess+", "swbreak+", "hwbreak+", "exec-events+", "vContSupported+",
        "QStartNoAckMode+", "qXfer:features:read+", "qXfer:threads:read+", "ReverseStep+",
        "ReverseContinue+", f"PacketSize={MAX_BODY:x}",
    ):  # fmt: skip
        assert wanted in offered
    assert len(offered) == len(set(offered))
    assert all(kind.summary for kind in PACKETS.values())


def test_no_way_back_is_not_advertised() -> None:
    talk = Talk(Toy(Process(b".."), reversible=False))
    assert "Reverse" not in talk("qSupported:")
    assert talk("bs") == talk("bc") == ""


def test_what_nobody_answers_is_answered_empty(talk: Talk) -> None:
    for unknown in ("vMustReplyEmpty", "qTStatus", "qOffsets", "QNonsense:1", "vFile:unlink:2f",
                    "Y", "q", "v", "", "b", "bx", "qXfer:auxv:read::0,10", "\x80\xff"):  # fmt: skip
        assert talk(unknown) == "", unknown


def test_acknowledgements_end_when_asked(talk: Talk) -> None:
    assert talk("QStartNoAckMode") == "OK"
    assert not talk.wire.acknowledges


def test_small_questions(talk: Talk) -> None:
    assert talk("!") == "OK"
    assert talk("qAttached:1") == "1"
    assert talk("qC") == "QCp1.1"
    assert talk("?") == "T05thread:p1.1;"
    assert talk("qSymbol::") == "OK"
    assert talk("vCont?").startswith("vCont;c;C;s;S")


# -- threads


def test_every_process_is_listed_with_its_name(talk: Talk) -> None:
    document = talk.document("threads:read:").decode()
    threads = xml.dom.minidom.parseString(document).getElementsByTagName("thread")
    found = [(t.getAttribute("id"), t.getAttribute("name")) for t in threads]
    assert found == [("p1.1", "one"), ("p2.1", "two & co")]
    assert talk("qfThreadInfo") == "mp1.1,p2.1"
    assert talk("qsThreadInfo") == "l"
    assert bytes.fromhex(talk("qThreadExtraInfo,p2.1")) == b"two & co"


def test_selecting(talk: Talk) -> None:
    assert talk("Hgp2.1") == "OK"
    assert talk("qC") == "QCp2.1"
    assert talk("Hgp0.0") == "OK"  # any: it stays
    assert talk("qC") == "QCp2.1"
    assert talk("Hgp9.1") == "E03"
    assert talk("Tp2.1") == "OK"
    assert talk("Tp2.7") == "E03"
    for bad in ("Hgp1", "Hg", "Hgp", "Hg-2", "Hxp1.1", "Hgpp1.1", "Hgp1.1.1"):
        answer = talk(bad)
        assert answer == ("OK" if bad == "Hgp1" else "E16"), bad


def test_a_client_without_processes_sees_a_thread_for_each(toy: Toy) -> None:
    talk = Talk(toy, b"swbreak+")
    assert talk("qfThreadInfo") == "m1,2"
    assert talk("Hg2") == "OK"
    assert talk("g")[16 * 16 :].startswith(f"{CODE.to_bytes(8, 'little').hex()}")
    assert talk("?") == "T05thread:2;"


# -- registers


def test_registers_as_a_block_and_one_by_one(toy: Toy, talk: Talk) -> None:
    toy.processes[1].registers |= {"rax": 0x1122334455667788, "rflags": 0x246}
    block = talk("g")
    assert block.startswith("8877665544332211")
    every = registers(64)
    assert len(block) == sum(r.size for r in every) * 2
    number = next(i for i, r in enumerate(every) if r.name == "eflags")
    assert talk(f"p{number:x}") == "46020000"
    assert talk("p0") == block[:16]
    missing = next(i for i, r in enumerate(every) if r.name == "xmm3")
    assert talk(f"p{missing:x}") == "x" * 32
    assert talk(f"p{len(every):x}") == "E16"


def test_writing_registers(toy: Toy, talk: Talk) -> None:
    assert talk("P0=0100000000000000") == "OK"
    assert toy.processes[1].registers["rax"] == 1
    for bad in ("P0", "P0=", "P0=01", "P0=zz", "P=0100000000000000", "Pfff=00", "p", "pzz"):
        assert talk(bad) == "E16", bad
    block = talk("g").replace("x", "0")
    changed = "02" + block[2:]
    assert talk("G" + changed) == "OK"
    assert toy.processes[1].registers["rax"] == 2
    assert talk("G" + changed + "00") == "E16"
    assert talk("Gf") == "E16"


def test_a_refused_register_says_why(talk: Talk) -> None:
    number = next(i for i, r in enumerate(registers(64)) if r.name == "cr0")
    assert talk(f"P{number:x}=0000000000000000") == "E16"
    assert talk(f"qRcmd,{hexed('why')}") == "OK"
    assert "cr0 cannot be set" in talk.console


def test_each_process_has_the_layout_that_its_description_said() -> None:
    talk = Talk(Toy(Process(b"."), Process(b".", width=32)))
    wide = talk.document("features:read:target.xml")
    talk("Hgp2.1")
    narrow = talk.document("features:read:target.xml")
    assert b"i386:x86-64" in wide
    assert b"<architecture>i386</architecture>" in narrow
    assert len(talk("g")) == sum(r.size for r in registers(32)) * 2
    assert talk("p8") == "00000100"  # eip
    talk("Hgp1.1")
    assert len(talk("g")) == sum(r.size for r in registers(64)) * 2


def test_a_process_without_a_description_has_what_every_x86_has() -> None:
    talk = Talk(Toy(Process(b"."), Process(b".", width=32), Process(b".")))
    talk.document("features:read:target.xml")
    talk("Hgp2.1")
    assert len(talk("g")) == 308 * 2  # gdb's own idea of an i386 with SSE
    assert talk("p8") == "00000100"
    assert talk("p29").startswith("x")  # a number that only gdb knows
    assert talk("P29=00000000") == "E16"
    talk("Hgp3.1")
    assert len(talk("g")) == 552 * 2
    # As soon as gdb reads a description ("unset tdesc filename"), it is the full layout.
    talk.document("features:read:target.xml")
    assert len(talk("g")) == sum(r.size for r in registers(64)) * 2


@pytest.mark.parametrize("width", [32, 64])
def test_descriptions_are_well_formed_and_complete(width: int) -> None:
    talk = Talk(Toy(Process(b".", width=width)))
    parts = talk.document("features:read:target.xml", 100)
    assert parts == talk.document("features:read:target.xml")
    document = xml.dom.minidom.parseString(parts.decode())
    names = [r.getAttribute("name") for r in document.getElementsByTagName("reg")]
    assert names == [r.name for r in registers(width)]
    defined = {
        t.getAttribute("id") for tag in ("flags", "union", "vector")
        for t in document.getElementsByTagName(tag)
    }  # fmt: skip
    own = {"data_ptr", "code_ptr", "int", "int32", "int64", "i387_ext"}
    assert {r.getAttribute("type") for r in document.getElementsByTagName("reg")} <= defined | own
    cr0 = next(t for t in document.getElementsByTagName("flags") if "cr0" in t.getAttribute("id"))
    bits = {f.getAttribute("name"): f.getAttribute("start") for f in cr0.childNodes if f.attributes}
    assert bits["WP"] == "16"
    assert bits["PG"] == "31"


def test_descriptions_that_do_not_exist(talk: Talk) -> None:
    assert talk("qXfer:features:read:other.xml:0,100").startswith("E")
    whole = "qXfer:features:read:target.xml"
    for bad in (
        whole,
        "qXfer:features:write:target.xml:0,10",
        "qXfer",
        whole + ":0,zz",
        whole + ":0",
    ):
        assert talk(bad) == "E16", bad
    assert talk("qXfer:features:read:target.xml:ffffffff,10") == "l"


# -- memory


def test_memory(talk: Talk) -> None:
    assert talk(f"m{CODE:x},3") == b"..w".hex()
    assert talk(f"M{DATA:x},2:abcd") == "OK"
    assert talk(f"m{DATA:x},2") == "abcd"
    assert talk(f"X{DATA:x},0:") == "OK"
    assert talk(b"X%x,3:\x00:\xff" % DATA) == "OK"
    assert talk(f"m{DATA:x},3") == "003aff"
    assert talk("Hgp2.1") == "OK"
    assert talk(f"m{DATA:x},3") == "000000"


def test_memory_that_is_not_there(talk: Talk) -> None:
    assert talk("m0,4") == "E0e"
    assert talk("mffffffffffffffff,4") == "E0e"
    assert talk("M0,1:00") == "E0e"
    assert talk(f"M{SHARED:x},1:00") == "E16"
    assert len(talk("m1fffe,10")) == 4  # as far as it goes
    assert len(talk(f"m{CODE:x},ffffffffffffffff")) <= MAX_BODY
    assert talk(f"m{CODE:x},0") == ""


def test_memory_packets_that_are_malformed(toy: Toy, talk: Talk) -> None:
    before = bytes(toy.processes[1].memory)
    for bad in ("m", "m10000", "m10000,", "m,4", "m-1,4", "m0x10000,4", "m10000,4,4",
                "m11112222333344445,1", "M10000,1", "M10000,1:", "M10000,2:00", "M10000,1:0",
                "M10000,1:zz", "X10000,2:a", "X10000,1", "X10000:a", "M10000,-1:00"):  # fmt: skip
        assert talk(bad) == "E16", bad
    assert bytes(toy.processes[1].memory) == before


def test_a_checksum_of_memory_is_gdbs(talk: Talk) -> None:
    data = bytes(range(256)) * 4
    talk(b"X%x,%x:" % (DATA, len(data)) + data)
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    assert talk(f"qCRC:{DATA:x},{len(data):x}") == f"C{crc:x}"
    assert talk("qCRC:0,4") == "E0e"
    assert talk("qCRC:10000,ffffffffff") == "E16"
    assert zlib.crc32(data) != crc  # it is not the usual one


def test_physical_memory_mode(toy: Toy, talk: Talk) -> None:
    toy.machine.bytes[0x5000:0x5004] = b"phys"
    assert talk("qqemu.PhyMemMode") == "0"
    assert talk("Qqemu.PhyMemMode:1") == "OK"
    assert talk("qqemu.PhyMemMode") == "1"
    assert talk("m5000,4") == b"phys".hex()
    assert talk("M5000,1:00") == "OK"
    assert toy.machine.bytes[0x5000] == 0
    assert talk("mffffffffff,4") == "E0e"
    assert talk("Mffffffffff,1:00") == "E0e"
    for bad in ("Qqemu.PhyMemMode:2", "Qqemu.PhyMemMode", "Qqemu.PhyMemMode:"):
        assert talk(bad) == "E16"
    assert talk("Qqemu.PhyMemMode:0") == "OK"
    assert talk(f"m{CODE:x},1") == "2e"


def test_qemu_is_recognised(talk: Talk) -> None:
    assert "ENABLE=" in talk("Qqemu.sstepbits")
    assert "ENABLE=" in talk("qqemu.sstepbits")
    assert talk("qqemu.sstep") == "0x7"
    assert talk("Qqemu.sstep=5") == "OK"
    assert talk("qqemu.sstep") == "0x5"
    assert "PhyMemMode" in talk("qqemu.Supported")
    assert talk("Qqemu.sstep=zz") == "E16"


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
