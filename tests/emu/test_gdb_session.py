"""What a session answers, packet by packet, over a toy with processes."""

import xml.dom.minidom
import zlib

import pytest

from emu.gdb.packets import MAX_BODY
from emu.gdb.registers import registers
from emu.gdb.registry import PACKETS
from tests.emu.gdb_client import Talk, hexed
from tests.emu.gdb_fake import CODE, DATA, SHARED, Process, Toy

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
