"""The debugger's commands on real guests: what they show, where they stop, what they refuse."""

import contextlib
import re

import pytest

from hypervisor.debug.commands import ALIASES, COMMANDS, GROUPS, Quit, find, load
from hypervisor.debug.completion import complete
from hypervisor.debug.model import DebugError
from tests.hypervisor.debug_session import Shell, unchanged

load()


@pytest.fixture
def share() -> Shell:
    return Shell("share", cmdline="patterns=8")


@pytest.fixture
def at_cow(share: Shell) -> Shell:
    """Stopped where the first write to a shared page has faulted."""
    share("tcatch cow", "continue")
    return share


# --- the registry --------------------------------------------------------------------------


def test_every_command_has_help_and_a_group() -> None:
    shell = Shell("hello")
    overview = shell("help")
    for name, item in COMMANDS.items():
        assert item.group in GROUPS
        assert item.summary.endswith(".")
        assert name in overview
        assert shell(f"help {name}").startswith(item.usage())
    assert "walk" in shell("help translate")
    assert "no command" in shell("help nothing-of-the-kind")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("c", "continue"), ("s", "step"), ("si", "stepi"), ("n", "next"), ("ni", "nexti"),
        ("b", "break"), ("tb", "tbreak"), ("hb", "hbreak"), ("d", "delete"), ("p", "print"),
        ("i b", "info breakpoints"), ("i r", "info registers"), ("info reg", "info registers"),
        ("bt", "backtrace"), ("disas", "disassemble"), ("l", "list"), ("h", "help"),
        ("q", "quit"), ("rs", "reverse-step"), ("rsi", "reverse-stepi"), ("rc", "reverse-continue"),
        ("rn", "reverse-next"), ("rni", "reverse-nexti"), ("reverse-f", "reverse-finish"),
        ("fin", "finish"), ("u", "until"), ("info inferiors", "domains"), ("x/4gx", "x"),
        ("p/x 1", "print"), ("wat", "watch"), ("disab", "disable"), ("delete", "delete"),
        ("delete 1", "delete"), ("delete checkpoint a", "delete checkpoint"), ("info sh", "shared"),
        ("cont", "continue"), ("conti", "continue"),
    ],
)  # fmt: skip
def test_gdbs_names_and_abbreviations(typed: str, name: str) -> None:
    assert find(typed)[0].name == name


def test_arguments_are_what_follows() -> None:
    assert find("x/4gx $rsp")[1] == "/4gx $rsp"
    assert find("  break  main if rax == 1 ")[1] == "main if rax == 1"
    assert find("info symbol main")[1] == "main"
    assert find("delete 1 2")[1] == "1 2"


@pytest.mark.parametrize("typed", ["", "foo", "info", "info foo", "x4", "9", "re", "$rax", "\x00"])
def test_what_is_no_command_is_said_to_be_none(typed: str) -> None:
    with pytest.raises(DebugError, match=r"no such command|which one|what\?"):
        find(typed)


def test_completion() -> None:
    shell = Shell("share")
    context = shell.context
    shell("domain 1")
    assert "continue" in complete(context, "con")
    assert "registers" in complete(context, "info ")
    assert complete(context, "i regi") == ["registers"]
    assert complete(context, "break fill_pat") == ["fill_patterns"]
    assert complete(context, "x/4gx main+fill_pat") == ["main+fill_patterns"]
    assert "$rsp" in complete(context, "p $rs")
    assert "fault" in complete(context, "catch f")
    assert "writable" in complete(context, "pt wri")
    assert complete(context, "zzz ") == []
    assert "1" in complete(context, "domain ")
    assert set(ALIASES) & set(complete(context, "b"))


# --- running -------------------------------------------------------------------------------


def test_break_step_and_finish(share: Shell) -> None:
    said = share("break main")
    assert said.startswith("breakpoint 1 in d1 at ")
    assert "<main>, share.asm:" in said
    stop = share("continue")
    assert stop.splitlines()[0].startswith("breakpoint 1, d1 share, position ")
    assert "=> " in stop
    assert "<main>:" in stop
    assert "share.asm:" in stop
    here = share.value("$rip")
    assert "<find_pages>" in share("stepi")
    assert "main+0x" in share("finish")
    assert share.value("$rip") > here
    before = share.debugger.position
    share("si 5")
    assert share.debugger.position == before + 5
    assert "breakpoint 1" not in share("delete 1", "info breakpoints")


def test_next_goes_over_a_macro_and_its_calls(share: Shell) -> None:
    share("tbreak main", "continue")
    first = share.context.domain.symbols.lines.lookup(share.value("$rip"))
    share("next")
    second = share.context.domain.symbols.lines.lookup(share.value("$rip"))
    assert first is not None
    assert second is not None
    assert (second[0], second[1]) == (first[0], first[1] + 1)
    share("next")
    third = share.context.domain.symbols.lines.lookup(share.value("$rip"))
    assert third is not None
    assert third[1] == second[1] + 1, "a macro is one line"


def test_conditions_counts_and_switches(share: Shell) -> None:
    share("break page_at if rdi == 3", "continue")
    assert share.value("$rdi") == 3
    assert "1" in share("info breakpoints").splitlines()[1].split()
    share("disable 1")
    assert "no" in share("info breakpoints").splitlines()[1].split()
    share("enable", "condition 1", "ignore 1 2")
    position = share.debugger.position
    share("continue")
    assert share.debugger.position > position
    share("delete")
    assert share("info breakpoints") == "nothing is set"


def test_a_condition_without_a_value_stops_and_says_so(share: Shell) -> None:
    share("break main if 1/0")
    assert "division by zero" in share("continue")
    share("delete", "catch share if mnf == 1")
    assert "there is no 'mnf'" in share("continue")


def test_names_that_nothing_has_are_doubted(share: Shell) -> None:
    assert "no hypercall is called mmu_updat" in share("catch hypercall mmu_updat")
    assert "counted as mergd so far" in share("catch counter mergd")
    for good in ("hypercall make_ro_and_share", "hypercall iret", "counter instructions"):
        assert "(" not in share(f"catch {good}")
    for bad in ("catch pte m:0xffffffffff8", "catch pte m:3", "last-change m:0xffffffffff8"):
        with pytest.raises(DebugError, match="no entry"):
            share(bad)
    with pytest.raises(DebugError, match="cannot read memory at 0x0"):
        share("x/4gx 0")


def test_stops_are_the_selected_domains() -> None:
    shell = Shell("hello", "share", machine=64 << 20)
    shell("domain 2", "break main")
    stop = shell("only 2", "continue")
    assert "d2 share" in stop
    assert shell.context.domain_id == 2
    assert "d1 hello ended" in shell("only all", "continue")
    assert shell.context.domain_id == 1
    said = shell("domain 1", "break main domain all")
    assert len(said.splitlines()) == 2
    assert "there is no domain 7" in shell.refuses("domain 7")
    assert shell("only d2") == "only d2 may run"
    assert shell("only all") == "all domains run"


def test_the_end_of_a_domain_and_of_all() -> None:
    shell = Shell("hello")
    assert "d1 hello ended (poweroff)" in shell("continue").splitlines()[0]
    assert "nothing can run any more" in shell("continue", "continue")
    assert shell("domains") == "no domain is left"
    assert "no domain" in shell.refuses("registers")
    assert "no domain" in shell.refuses("stepi")
    assert "no violation" in shell("audit")


def test_until(share: Shell) -> None:
    assert "<fill_patterns>" in share("until fill_patterns")
    assert not share.debugger.stops


# --- data ----------------------------------------------------------------------------------


def test_looking_changes_nothing(at_cow: Shell) -> None:
    same = unchanged(at_cow)
    for line in (
        "registers", "info registers", "domains", "walk $cr2 write", "walk 0 write user", "pt",
        "pt shared", "frame $cr2", "shared", "info mem", "info tlb", "counters", "counters domain",
        "events", "audit", "bt", "disas", "list", "x/64gx $rsp", "x/s $rsp", "x/8i $rip",
        "x/2gx p:0", "x/2gx m:0x1000", "x/4gx 0x123456789", "console", "when", "help", "p *$rsp",
        "info symbols", "p2m 0", "x/4gx 0x8000000000000000", "walk 0x8000000000000000",
    ):  # fmt: skip
        with contextlib.suppress(DebugError):  # memory that is not there
            at_cow(line)
        assert same(), line


def test_memory_by_three_kinds_of_address(at_cow: Shell) -> None:
    at_cow("p $rsp")
    walked = at_cow("walk $rsp")
    found = re.search(r"machine address (0x[0-9a-f]+)", walked)
    assert found is not None
    machine = int(found[1], 16)
    virtual = at_cow("x/2gx $rsp").partition(":\t")[2]
    assert at_cow(f"x/2gx m:{machine:#x}").partition(":\t")[2] == virtual
    space = at_cow.context.space
    pfn = space.pfn_of(machine >> 12)
    assert pfn is not None
    assert at_cow(f"x/2gx p:{(pfn << 12) + (machine & 0xFFF):#x}").partition(":\t")[2] == virtual
    assert f"frame {machine >> 12:#x}" in at_cow(f"p2m {pfn:#x}")


def test_x_goes_on_where_it_ended(share: Shell) -> None:
    share("tbreak main", "continue")
    first = share("x/2i main")
    second = share("x")
    assert first.splitlines()[0] != second
    assert "<main" in second
    assert share("x/2gx main").split(":")[0] != share("x/2gx").split(":")[0]


def test_registers_are_decoded(at_cow: Shell) -> None:
    text = at_cow("registers")
    assert "trap_14" in text
    for word in ("cr0 ", "PG", "WP", "cr2 ", "cr3 ", "MFN=", "cr4 ", "PAE", "efer ", "NXE", "IF"):
        assert word in text
    assert at_cow("registers rip cr0").count("\n") == 1
    assert "no register foo" in at_cow.refuses("registers foo")
    qemu = at_cow("info registers")
    assert re.search(r"^RAX=[0-9a-f]{16} RBX=[0-9a-f]{16} RCX", qemu, re.MULTILINE)
    assert re.search(r"^CR0=[0-9a-f]{8} CR2=[0-9a-f]{16} CR3=[0-9a-f]{16} CR4=", qemu, re.MULTILINE)
    assert re.search(r"^CS =e033 0{16} ffffffff 00a.fb00 DPL=3 CS64 \[-RA\]$", qemu, re.MULTILINE)
    assert re.search(r"^GDT=     [0-9a-f]{16} [0-9a-f]{8}$", qemu, re.MULTILINE)


def test_set_is_seen_by_the_guest(share: Shell) -> None:
    share("tbreak main", "continue")
    share("set $rbx = main + 1")
    assert share.value("$rbx - main") == 1
    share("set *(u32 *)$rsp = 0x12345678", "set $eax = 7")
    assert share.value("*(u32 *)$rsp") == 0x12345678
    assert share.value("$rax") == 7
    assert "cannot be set" in share.refuses("set $cs = 3")
    assert "nothing is mapped" in share.refuses("set *0x123456 = 3")


def test_a_shared_page_is_not_written_to(at_cow: Shell) -> None:
    same = unchanged(at_cow)
    assert "shared frame" in at_cow.refuses("set *(u8 *)$cr2 = 1")
    table = re.search(r"L1\[.*\(frame (0x[0-9a-f]+)\)", at_cow("walk $cr2"))
    assert table is not None
    assert same()


def test_a_backtrace_goes_through_the_trap(at_cow: Shell) -> None:
    lines = at_cow("bt").splitlines()
    assert "<trap_14>" in lines[0]
    assert "interrupted here" in lines[1]
    assert "write_some" in lines[1]
    assert any("<main+" in line for line in lines)


def test_displays_come_after_each_stop(share: Shell) -> None:
    share("tbreak main", "continue")
    assert share("display $rip").startswith("1: $rip = 0x")
    share("display/i $pc", "display/x $rsp")
    stop = share("stepi")
    assert "1: $rip" in stop
    assert "2: $pc" in stop
    share("undisplay 1")
    assert "1: $rip" not in share("stepi")
    assert "there is no display 9" in share.refuses("undisplay 9")


# --- paging --------------------------------------------------------------------------------


def test_walk_says_where_and_why(at_cow: Shell) -> None:
    text = at_cow("walk $cr2 write")
    assert "#PF error 0x7 (P W U): L1 entry" in text
    assert "is read-only (RW clear)" in text
    assert "AVL=0x1 marks it" in text
    assert len(re.findall(r"^  L[1-4]\[", text, re.MULTILINE)) == 4
    assert "not present" in at_cow("walk 0x1000")
    assert "machine address" in at_cow("walk $rip fetch user")
    assert "an address is missing" in at_cow.refuses("walk")


def test_frames_name_every_mapping(at_cow: Shell) -> None:
    shared = at_cow("shared")
    first = shared.splitlines()[1].split()
    text = at_cow(f"frame {first[0]}")
    assert "owner           shared" in text
    assert f"references      {first[1]}" in text
    assert len(re.findall(r"^    L1\[", text, re.MULTILINE)) == int(first[1])
    table = at_cow("frame $cr3>>12")
    assert "L4" in table
    assert "kernel's top table" in table
    assert "this machine has frames" not in table
    assert "no frame has this number" in at_cow.refuses("frame 0x2000")


def test_trees_have_filters(at_cow: Shell) -> None:
    assert "shared" in at_cow("pt shared avl=1 readonly")
    assert at_cow("pt shared writable").endswith("nothing is mapped so")
    assert len(at_cow("pt $rsp").splitlines()) == 5
    assert "L4[100]" in at_cow("pt all")
    assert "L4[100]" not in at_cow("pt")
    assert "range has two ends" in at_cow.refuses("pt 1 2 3")


def test_events_and_counters(at_cow: Shell) -> None:
    assert "cow_fault" in at_cow("events 3")
    assert "share " in at_cow("events 5 share")
    assert at_cow("events nothing") == "no such event so far"
    assert re.search(r"^cow_faults +1$", at_cow("counters domain cow"), re.MULTILINE)
    assert re.search(r"^entered +\d+$", at_cow("counters machine entered"), re.MULTILINE)


def test_tracing(share: Shell) -> None:
    share("trace on share", "tcatch cow", "continue")
    assert share.told
    assert all(" share " in line for line in share.told)
    count = len(share.told)
    share("trace off", "continue")
    assert len(share.told) == count


def test_catches_say_what_happened(share: Shell) -> None:
    assert share("catch hypercall update_va_mapping") == "catch 1: hypercall update_va_mapping"
    stop = share("continue")
    assert "name=update_va_mapping" in stop
    share("delete", "tcatch fault PF error=P+W")
    stop = share("continue")
    assert "error=0x3(P W)" in stop
    page = share.value("$cr2")
    share(f"catch pte {page:#x}")
    stop = share("continue")
    assert "pte" in stop
    assert "old=" in stop
    assert share.context.space.walk(page).rights.write  # the handler installed its copy
    for wrong in ("catch", "catch nothing", "catch fault foo=1", "catch counter", "catch frame",
                  "catch create 5", "catch fault vector=", "catch share if ]"):  # fmt: skip
        assert share.refuses(wrong)


def test_watchpoints(share: Shell) -> None:
    share("tbreak main", "continue")
    said = share("watch cow_copies")
    assert "8 bytes at" in said
    stop = share("continue")
    assert "0x0 -> 0x1" in stop
    assert "1 bytes at" in share("delete", "watch *(u8 *)$rsp")
    assert "no such type" in share.refuses("watch *(u9 *)$rsp")


# --- scripts -------------------------------------------------------------------------------


def test_files_of_commands(share: Shell, tmp_path) -> None:  # type: ignore[no-untyped-def]
    script = tmp_path / "a.cmd"
    script.write_text("# look\necho one\n\necho two\n")
    assert share(f"source {script}") == "one\ntwo"
    script.write_text("echo one\nfoo\necho two\n")
    assert share.refuses(f"source {script}").startswith(f"{script}:2: foo: no such command")
    script.write_text(f"source {script}\n")
    assert "16 deep" in share.refuses(f"source {script}")
    assert "no such file" in share.refuses("source /nonexistent")
    script.write_bytes(b"\xff\xfe")
    assert "not text" in share.refuses(f"source {script}")


def test_quit(share: Shell) -> None:
    with pytest.raises(Quit) as end:
        share("quit 3")
    assert end.value.code == 3


# --- stops that never come, and those that narrow -------------------------------------------


def test_a_breakpoint_where_nothing_is(share: Shell) -> None:
    assert share("break *0x123456").endswith("where nothing is mapped now")
    assert share("break *0x8000000000000000").endswith("where nothing is mapped now")
    assert "ended" in share("continue")


def test_catches_by_address_result_and_counter(share: Shell) -> None:
    share("tcatch hypercall make_ro_and_share arg1=0x200 result=1", "continue")
    assert "result=1" in share("events 1 hypercall")
    share("tcatch fault PF avl=1 if error & 2", "continue")
    page = share.value("$cr2")
    share(f"tcatch fault PF address={page + 0x4000:#x}", "continue")  # every fourth is written
    assert share.value("$cr2") >> 12 == (page >> 12) + 4
    position = share.debugger.position
    share("goto 0", "tcatch counter merged value=2", "continue")
    assert share.debugger.position < position
    assert re.search(r"^merged +2$", share("counters machine merged"), re.MULTILINE)


def test_nothing_that_is_typed_is_a_bug() -> None:
    """Every command with odd arguments: an answer or one line, never anything else."""
    shell = Shell("hello")
    odd = ("", "0", "-1", "99999999999999999999", "$rip", "nowhere", "x y z", "= =", "/", "/x",
           "/99i 0", "m:0", "p:-1", "m:0xffffffffffff", "*", "if", "1 if", "domain", "a domain 9",
           "\x00", "é", "'", "(" * 300, "0x8000000000000000", "-5 7", ",", "0,0", "main,-1",
           "all", "on", "off", "send", "send \\x", "1-", "1-9999999", "file:1", ":1")  # fmt: skip
    for name in COMMANDS:
        if name in ("continue", "finish", "quit", "run", "save", "reverse-continue", "source"):
            continue
        for text in odd:
            if name in ("stepi", "nexti", "step", "next") and text == "$rip":
                continue
            said = ""
            try:
                shell(f"{name} {text}" if not text.startswith("/") else f"{name}{text}")
            except DebugError as error:
                said = str(error)
            assert "\n" not in said


def test_a_fault_of_user_mode() -> None:
    shell = Shell("fork", machine=64 << 20)
    shell("tcatch cow", "continue")
    assert "<trap_14>" in shell("registers").splitlines()[0]
    assert "interrupted here" in shell("bt").splitlines()[1]
    mapped = shell("frame $cr2")
    assert "user)" in mapped
    assert "not in use" in mapped
    shell("reverse-stepi")
    assert "user mode" in shell("registers").splitlines()[0]
    assert not shell.context.domain.kernel_mode
    assert "machine address" in shell("walk $rip fetch")
