"""Sessions with the real gdb: what its users do, through faults, shares and domains."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from guests import ckit, library
from tests.emu.gdb_client import Client
from tests.needs import need
from tests.real_gdb import ROOT, Served, mark, part

POINTS = """\
// cowbird: description = for a debugger
// cowbird: environments = pv64
#include "cowbird.h"

struct point { int x, y; };
static struct point corner = { 1, 2 };
volatile int counter;

static __attribute__((noinline)) int add(struct point *p, int by)
{
    p->x += by;
    counter++;
    return p->x + p->y;
}

int main(void)
{
    int sum = 0;
    for (int i = 0; i < 5; i++)
        sum += add(&corner, i);
    ktap_plan(1);
    ok(sum == 35, "sum");
    return 0;
}
"""


def test_break_step_and_look(tmp_path: Path) -> None:
    with Served("share", address=f"unix:{tmp_path}/gdb") as served:
        out = served.gdb(
            mark("start"), "info registers rip cr0 cr3 efer eflags", "x/2i $pc",
            mark("break"), "break main", "continue", "bt",
            mark("step"), "stepi", "bt", "finish",
            mark("memory"), "x/4xb $pc", "print/x *(long*)$rsp", "x/4x 0x1000",
            mark("write"), "set var *(long*)&cow_copies = 77", "print *(long*)&cow_copies",
            "set var $rbx = 0x1234", "print/x $rbx", "set var $cr8 = 3", "monitor why",
            mark("run"), "delete", "continue",
        )  # fmt: skip
        code, output, _ = served.end()
    start = part(out, "start")
    assert re.search(r"rip +0xffffffff80000000 .*<_start>", start)
    assert re.search(r"cr0 +0x\w+ +\[ PE MP.* ET NE WP AM PG \]", start)
    assert re.search(r"cr3 +0x(\w+)000 +\[ MFN=\d+ \]", start)
    assert re.search(r"efer +0x\w+ +\[ SCE LME LMA NXE \]", start)
    assert "<_start>:\tcld" in start
    found = part(out, "break")
    assert "Breakpoint 1, main () at" in found
    assert "share.asm" in found  # source lines of an assembly guest
    step = part(out, "step")
    assert "find_pages ()" in step
    assert re.search(r"#1 +0x\w+ in main \(\)", step)
    assert "Run till exit" in step or "main () at" in step
    assert "Cannot access memory at address 0x1000" in part(out, "memory")
    write = part(out, "write")
    assert "= 77" in write
    assert "= 0x1234" in write
    assert "Could not write register" in write
    assert "cr8 cannot be set" in write
    assert "exited normally" in part(out, "run")
    assert code == 0
    assert "ok 4 contents after writing" in output or "not ok" in output


@pytest.mark.parametrize("width", [64, 32])
def test_into_and_out_of_a_copy_on_write_fault(width: int, tmp_path: Path) -> None:
    """The store, the bounce frame, the handler and its hypercalls, the IRET, the store again."""
    elf = tmp_path / "share.elf"
    elf.write_bytes(library.build_elf(library.find("share"), width))
    word, hypercall, iret = ("g", "syscall", "iretq") if width == 64 else ("w", "int ", "iret")
    step_to = (
        "python\nfor _ in range(2000):\n"
        "  if '{}' in gdb.execute('x/i $pc', to_string=True): break\n"
        "  gdb.execute('stepi', to_string=True)\nend"
    )
    script = tmp_path / "steps.gdb"
    script.write_text(
        "\n".join(
            [
                "monitor catch fault vector=14", "continue",
                mark("fault"), "x/i $pc", "set var $cr2_ = $cr2", f"x/8{word}x $sp",
                mark("store"), "reverse-stepi", "x/i $pc", "set var $store = $pc",
                'eval "monitor walk 0x%lx", $cr2_',
                mark("into"), "monitor delete", "stepi", "x/i $pc",
                mark("hypercall"), step_to.format(hypercall), "x/2i $pc", "stepi", "x/i $pc",
                mark("iret"), step_to.format(iret), "x/i $pc", "stepi", "print $pc == $store",
                'eval "monitor walk 0x%lx", $cr2_',
                mark("again"), "stepi", "print $pc > $store && $pc < $store + 16",
                mark("out"), "print $cr2_ == $cr2",
            ]
        )
    )  # fmt: skip
    with Served(str(elf)) as served:
        out = served.gdb(f"source {script}")
    assert "<trap_14>:" in part(out, "fault")
    store, into = part(out, "store"), part(out, "into")
    assert re.search(r"=> .*<write_some.*mov ", store)
    assert "shared by" in store
    assert "<trap_14>:" in into
    lines = re.findall(r"(0x\w+) <hypercall_page", part(out, "hypercall"))
    assert len(lines) == 3
    assert lines[1] == lines[2]  # a hypercall is one step
    iret_part = part(out, "iret")
    assert "= 1" in iret_part
    assert re.search(r"L1\[.* RW ", iret_part)
    assert "= 1" in part(out, "again")


@pytest.mark.parametrize("width", [64, 32])
def test_a_c_guest_by_its_dwarf(width: int, tmp_path: Path) -> None:
    need("gcc")
    source = tmp_path / "points.c"
    source.write_text(POINTS)
    elf = tmp_path / "points.elf"
    elf.write_bytes(ckit.build_elf(source, width=width))
    with Served(str(elf)) as served:
        out = served.gdb(
            mark("break"), "break add", "continue", "bt", "list", "print *p",
            mark("finish"), "finish",
            mark("watch"), "delete", "watch counter", "continue", "info watchpoints",
            mark("next"), "delete", "next", "next", "info source",
            mark("back"), "print counter",
        )  # fmt: skip
    found = part(out, "break")
    assert re.search(r"Breakpoint 1, add \(.*p=0x\w+ <corner>\) at .*points.c:11", found)
    assert re.search(r"#1 .* in main \(\) at .*points.c:20", found)
    assert "static struct point corner = { 1, 2 };" in found
    assert "{x = 1, y = 2}" in found
    assert "Value returned is $2 = 3" in part(out, "finish")
    watch = part(out, "watch")
    assert "Hardware watchpoint" in watch
    assert "Old value = 1\nNew value = 2\n" in watch
    assert "points.c:13" in watch
    assert "breakpoint already hit 1 time" in watch
    assert "Current source file is" in part(out, "next")


def test_what_the_readme_shows() -> None:
    text = (ROOT / "README.md").read_text()
    shown = text.partition("### With gdb")[2].partition("| to | do |")[0]
    commands = re.findall(r"^\(gdb\) (.*?)(?:  .*)?$", shown, re.M)
    assert len(commands) > 8
    with Served("share", "--domains", "2") as served:
        out = served.gdb(*commands[:-2], mark("last"), *commands[-2:], extended=True)
    # gdb numbers the two places of the breakpoint as it likes
    assert re.search(r'Thread 1\.1 "d1 share" hit Breakpoint 1\.[12], copy_on_write \(\) at ', out)
    assert "Old value = 0\nNew value = 1\n" in out
    assert "Old value = 1\nNew value = 0\n" in out
    assert "(share):" in part(out, "last")


def test_two_domains_at_once() -> None:
    with Served("share", "hello") as served:
        out = served.gdb(
            mark("list"), "info inferiors", "info threads",
            mark("one"), "break main", "continue",
            mark("two"), "inferior 2", "info registers rip", "print $cr0",
            "unset tdesc filename", "info registers cr0", "x/i $pc",
            mark("alone"), "continue",
            mark("frozen"), "inferior 1", "x/i $pc", "stepi", "info threads",
            mark("all"), "set schedule-multiple on", "delete", "continue", "inferior 1", "continue",
            extended=True,
        )  # fmt: skip
    listed = part(out, "list")
    assert re.search(r"1 +process 1 .*share.elf", listed)
    assert re.search(r"2 +process 2 .*hello.elf", listed)
    assert re.search(r'1.1 +Thread 1.1 "d1 share" \(running, kernel mode\)', listed)
    assert re.search(r'2.1 +Thread 2.1 "d2 hello" \(runnable, kernel mode\) _start', listed)
    assert 'Thread 1.1 "d1 share" hit Breakpoint 1' in part(out, "one")
    two = part(out, "two")
    assert re.search(r"rip .*<_start>", two)  # it did not move while only d1 ran
    assert re.search(r"cr0 .*\[ PE", two)
    alone = part(out, "alone")
    assert 'Thread 2.1 "d2 hello" hit Breakpoint 1' in alone
    frozen = part(out, "frozen")
    assert "<main>:\tcall" in frozen
    ends = part(out, "all")
    assert "[Inferior 1 (process 1) exited normally]" in ends
    assert "[Inferior 2 (process 2) exited normally]" in ends


def test_monitor_acts_on_the_selected_domain() -> None:
    with Served("share", "hello") as served:
        out = served.gdb(
            mark("help"), "monitor help",
            mark("one"), "info threads", "monitor info registers", "monitor domains",
            mark("two"), "inferior 2", "monitor domains",
            mark("mem"), "monitor info mem",
            mark("tlb"), "monitor info tlb",
            mark("bad"), "monitor nonsense", "monitor walk", "monitor frame 0xfffffffff",
            mark("why"), "set var *(char*)0 = 1", "monitor why",
            mark("moved"), "monitor stepi", "monitor set $rbx = 5",
            extended=True,
        )  # fmt: skip
    assert "reverse-continue" in part(out, "help")
    assert re.search(r"^RIP=ffffffff80000000 RFL=", part(out, "one"), re.M)
    assert re.search(r"^\* +d1", part(out, "one"), re.M)
    assert re.search(r"^\* +d2", part(out, "two"), re.M)
    mem = part(out, "mem").splitlines()
    assert all(re.fullmatch(r"\w{16}-\w{16} \w{16} [u-]r[w-]", line) for line in mem if line)
    assert re.search(r"^ffffffff80000000: \w{16} [-XGPDACTUW]{9}$", part(out, "tlb"), re.M)
    assert "no such command" in part(out, "bad")
    assert "nothing is mapped" in part(out, "why")
    assert "flush register-cache" in part(out, "moved")


def test_page_table_commands_made_for_qemu() -> None:
    """What gef and pwndbg do to walk tables: find QEMU, go physical, follow CR3, come back."""
    walk = [
        "maintenance packet Qqemu.sstepbits",
        "maintenance packet qOffsets",
        "maintenance packet qqemu.PhyMemMode",
        "maintenance packet Qqemu.PhyMemMode:1",
        "maintenance packet qqemu.PhyMemMode",
        "set var $va = (unsigned long)$pc",
        "set var $entry = (unsigned long)$cr3",
    ]
    for shift in (39, 30, 21, 12):
        walk += [
            f"set var $slot = ($entry & 0xfffffff000) + (($va >> {shift}) & 0x1ff) * 8",
            "set var $entry = *(unsigned long*)$slot",
        ]
    walk += [
        "x/2i ($entry & 0xfffffff000) + ($va & 0xfff)",
        "maintenance packet Qqemu.PhyMemMode:0",
        mark("virtual"),
        "x/2i $va",
    ]
    with Served("hello") as served:
        out = served.gdb("set var $x = 1", mark("walk"), *walk)
    found = part(out, "walk")
    assert "ENABLE=1" in found
    assert 'received: ""' in found
    physical = re.findall(r":\t(.*)", found)
    virtual = re.findall(r":\t(.*)", part(out, "virtual"))
    assert len(physical) == 2
    assert physical[0] == virtual[0] == "cld"


def test_ctrl_c_and_leaving(tmp_path: Path) -> None:
    spin = tmp_path / "spin.asm"
    spin.write_text('.include "lib/kernel.inc"\n.text\nmain:\n  inc rbx\n  jmp main\n')
    with Served(str(spin)) as served:
        out = served.gdb(
            # The signal arrives while gdb waits for the stop: the same as a person's Ctrl-C.
            "python import threading, os, signal",
            "python threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()",
            mark("run"), "continue",
            mark("stopped"), "print $rbx > 0", "x/i $pc",
            mark("detach"), "detach",
        )  # fmt: skip
        assert "received signal SIGINT" in part(out, "run")
        assert "$1 = 1" in part(out, "stopped")
        # It goes on without gdb; the next one stops it again.
        again = served.gdb(mark("again"), "x/i $pc", "kill")
        assert "main" in part(again, "again")
        code, _, _ = served.end()
    assert code == 0


def test_it_runs_before_gdb_comes_unless_told(tmp_path: Path) -> None:
    with Served("share", "hello", stopped=False) as served:
        code, output, _ = served.end()  # both end before anybody connects
    assert code == 0
    assert "d1 share | ok 4" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("state", ["waiting", "running", "for gdb"])
def test_signals_end_the_server(number: signal.Signals, state: str, tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    spin = tmp_path / "spin.asm"
    spin.write_text('.include "lib/kernel.inc"\n.text\nmain:\n  inc rbx\n  jmp main\n')
    with Served(str(spin), address=f"unix:{path}", stopped=state != "running") as served:
        client = Client(str(path)) if state == "for gdb" else None
        if client is not None:
            client.ask(b"?")
            client.send(b"c")
            client.raw(b"\x03")  # it runs when this is answered
            client.reply()
            client.send(b"c")
        os.kill(served.process.pid, number)
        code, _, errors = served.end()
        if client is not None:
            client.close()
    assert code == 128 + number
    assert "Traceback" not in errors
    assert not path.exists()


def test_addresses_that_gdb_cannot_be_served_at(tmp_path: Path) -> None:
    for address, what in (
        ("tcp:0.0.0.0:1234", "other computers"),
        ("stdio", "neither"),
        (f"unix:{tmp_path}/no/such/place", "No such file"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "hypervisor", "debug", "hello", "--gdb", address],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2, done
        assert what in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_what_cannot_be_written_is_refused() -> None:
    """A shared page, a page table: refused, with the reason; nobody sees a change."""
    with Served("share", "--domains", "2") as served:
        out = served.gdb(
            "break copy_on_write", "continue",
            mark("shared"), "set var $page = $cr2 & ~0xfff", "set var $old = *(long*)$page",
            "set var *(long*)$page = 99", "monitor why", "print *(long*)$page == $old",
            mark("unmapped"), "break *0x123450000", "continue",
            mark("alive"), "delete", "continue",
        )  # fmt: skip
        code, output, _ = served.end()
    shared = part(out, "shared")
    assert "Cannot access memory" in shared
    assert "shared frame" in shared
    assert "= 1" in shared
    unmapped = part(out, "unmapped")
    assert "Cannot insert breakpoint" in unmapped
    assert "exited normally" in part(out, "alive")
    assert code == 0
    assert "not ok" not in output


def test_a_crash_is_a_signal_where_it_was(tmp_path: Path) -> None:
    source = tmp_path / "panic.asm"
    source.write_text(
        '.include "lib/kernel.inc"\n.text\nmain:\n  xor edi, edi\n  mov rax, [rdi]\n  ret\n'
    )
    with Served(str(source), "hello") as served:
        out = served.gdb(
            mark("crash"), "continue", "info threads", "x/i $pc", "print $rsp > 0",
            mark("back"), "reverse-stepi", "x/i $pc", "continue",
            mark("end"), "continue", "info inferiors",
            mark("other"), "inferior 2", "continue",
            extended=True,
        )  # fmt: skip
        code, _, _ = served.end()
    crash = part(out, "crash")
    assert "received signal SIGSEGV" in crash
    assert "crashed: the guest says that it crashed" in crash
    assert "last exception: #PF" in crash
    assert '"d1 panic" (crashed in kernel mode)' in crash
    assert "<hypercall_page" in crash
    assert "received signal SIGSEGV" in part(out, "back")
    end = part(out, "end")
    assert "terminated with signal SIGSEGV" in end
    assert re.search(r"2 +process 2", end)
    assert "exited normally" in part(out, "other")
    assert code == 0


def test_stops_that_only_a_hypervisor_has() -> None:
    with Served("share") as served:
        out = served.gdb(
            "monitor catch merge",
            mark("merge"), "continue", "bt 1", "monitor shared", "info program",
            mark("fault"), "monitor delete", "monitor catch fault", "continue", "x/i $pc",
        )  # fmt: skip
    merge = part(out, "merge")
    assert re.search(r"catch \d+ \(merge\): .*status=1", merge)
    assert "received signal SIGTRAP" in merge
    assert "hypercall_page" in merge
    assert "fault" in part(out, "fault")


def test_a_32_bit_domain_beside_a_64_bit_one(tmp_path: Path) -> None:
    """One description for each: registers, code, faults and tables of either width."""
    elf = tmp_path / "share32.elf"
    elf.write_bytes(library.build_elf(library.find("share"), 32))
    with Served(str(elf), "share") as served:
        out = served.gdb(
            mark("narrow"), "info registers", "x/2i $pc", "show architecture",
            mark("wide"), "inferior 2", "info registers rip", "x/2i $pc",
            mark("back"), "inferior 1", "break copy_on_write", "continue", "bt 2",
            "monitor walk $cr2",
            mark("watch"), "watch *(int*)&cow_copies", "continue", "finish",
            mark("mem"), "monitor info mem", "monitor info registers",
            mark("other"), "delete", "break copy_on_write", "inferior 2", "continue", "print $cr2",
            "unset tdesc filename", "print/x $cr2",
            mark("end"), "delete", "set schedule-multiple on", "continue", "continue",
            extended=True,
        )  # fmt: skip
    narrow = part(out, "narrow")
    assert re.search(r"eip +0xc0000000 ", narrow)
    assert re.search(r"^cr0 +0x\w+ +\[ PE MP", narrow, re.M)
    assert re.search(r"^efer +0x\w+ +\[ SCE NXE \]", narrow, re.M)
    assert '(currently "i386")' in narrow
    assert "rip            0xffffffff80000000" in part(out, "wide")
    back = part(out, "back")
    assert "Breakpoint 1" in back
    assert "trap_common" in back
    assert "shared by" in back
    watch = part(out, "watch")
    assert "Hardware watchpoint" in watch
    assert "New value = 1" in watch
    mem = part(out, "mem")
    assert re.search(r"^00000000c0000000-\w+ \w+ [u-]r[w-]$", mem, re.M)
    assert re.search(r"^EAX=\w{8} EBX=\w{8}", mem, re.M)
    other = part(out, "other")
    assert 'Thread 2.1 "d2 share" hit Breakpoint' in other
    assert "exited normally" in part(out, "end")


def test_back_in_time(tmp_path: Path) -> None:
    need("gcc")
    source = tmp_path / "points.c"
    source.write_text(POINTS)
    with Served(str(source)) as served:
        out = served.gdb(
            "break add", "continue", "continue", "continue", "delete",
            mark("write"), "watch counter", "reverse-continue", "print counter", "x/i $pc",
            mark("before"), "reverse-continue", "print counter",
            mark("begin"), "reverse-continue", "x/i $pc", "reverse-stepi",
            mark("again"), "continue", "continue", "print counter",
            mark("step"), "delete", "set var $pc1 = $pc", "stepi", "reverse-stepi",
            "print $pc == $pc1",
            mark("finish"), "tbreak add", "continue", "bt 1", "stepi", "reverse-finish", "x/i $pc",
            mark("next"), "tbreak points.c:23", "continue", "reverse-next", "reverse-step",
            mark("goto"), "monitor goto start", "maintenance flush register-cache", "x/i $pc",
            mark("end"), "continue",
        )  # fmt: skip
        code, output, _ = served.end()
    write = part(out, "write")
    assert "Old value = 2\nNew value = 1\n" in write  # the write is undone, as gdb wants it
    assert re.search(r"=> .*mov +%\w+,.*<counter>", write)
    assert "Old value = 1\nNew value = 0\n" in part(out, "before")
    begin = part(out, "begin")
    assert begin.count("No more reverse-execution history.") == 2
    assert "<_start>:\tcld" in begin
    again = part(out, "again")
    assert "Old value = 0\nNew value = 1\n" in again
    assert "Old value = 1\nNew value = 2\n" in again
    assert "= 1" in part(out, "step").splitlines()[-1]
    finish = part(out, "finish")
    assert re.search(r"=> .*call .*<add>", finish)
    assert "reverse-execution" not in part(out, "next")
    assert "<_start>:\tcld" in part(out, "goto")
    assert "exited normally" in part(out, "end")
    assert code == 0
    assert "ok 1 - sum" in output
    assert "not ok" not in output


def test_back_through_a_copy_on_write_fault_to_who_shared_the_page() -> None:
    """The whole story: the faulting write, its handler, the copy; then back to the share."""
    walk = 'eval "monitor walk 0x%lx", $page'
    share = (
        "python import re; "
        "page = int(gdb.parse_and_eval('$page')); "
        "text = gdb.execute('monitor walk %#x' % page, to_string=True); "
        "frame = re.search(r'frame (0x[0-9a-f]+), 4 KiB', text)[1]; "
        "print('it is', frame); gdb.execute('monitor last-share ' + frame)"
    )
    with Served("share") as served:
        out = served.gdb(
            "break copy_on_write", "continue", "delete", "set var $page = $cr2 & ~0xfff",
            mark("copied"), "finish", walk,
            mark("fault"), "break copy_on_write", "reverse-continue", walk,
            mark("store"), "delete", "monitor catch fault vector=14", "reverse-continue",
            "reverse-stepi", "x/i $pc", walk,
            mark("who"), "monitor delete", share, "maintenance flush register-cache", "bt 1", walk,
            "reverse-stepi", walk,
            mark("on"), "break copy_on_write", "continue", "print ($cr2 & ~0xfff) == $page",
        )  # fmt: skip
    copied, fault = part(out, "copied"), part(out, "fault")
    writable = re.compile(r"L1\[.* RW ")
    assert writable.search(copied)
    assert not writable.search(fault)
    assert "shared by" in fault
    store = part(out, "store")
    assert "(fault vector=0xe)" in store
    assert re.search(r"=> .*mov +%rcx,\(%rdi,%rdx,1\)", store)
    assert "shared by" in store
    who = part(out, "who")
    assert "hypercall_page" in who
    shared = [int(count) for count in re.findall(r"shared by (\d+)", who)]
    assert shared[0] == shared[1] + 1  # the merge is undone an instruction earlier
    assert "= 1" in part(out, "on")
