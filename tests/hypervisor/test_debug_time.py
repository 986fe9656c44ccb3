"""Going back and forth with the prompt's commands, and the story that the debugger is made for."""

import re

import pytest

from tests.hypervisor.debug_session import Shell


@pytest.fixture(params=[64, 32], ids=["pv64", "pv32"])
def share(request) -> Shell:  # type: ignore[no-untyped-def]
    return Shell("share", cmdline="patterns=8", width=request.param)


def number(pattern: str, text: str) -> int:
    """The number, decimal or hexadecimal, that a pattern's only group finds."""
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, text
    return int(match[1].replace(",", ""), 0)


def test_through_a_copy_on_write_fault_and_back_to_who_shared(share: Shell) -> None:
    """Stop at the fault, look at the entry, see the frame copied, go back to the share."""
    stop = share("tcatch cow", "continue")
    assert "cow_fault" in stop
    assert "<trap_14>" in stop
    share("checkpoint fault")
    page = share.value("$cr2") & ~0xFFF

    walk = share("walk $cr2 write")
    assert "is read-only (RW clear)" in walk
    assert "the page is shared: the guest is to copy it (AVL=0x1 marks it)" in walk
    old = number(r"frame (0x[0-9a-f]+): shared by", walk)
    count = number(r"^  references +(\d+)", share(f"frame {old}"))

    assert "<copy_page>" in share("tbreak copy_page", "continue")
    assert "copy_on_write" in share("finish")
    stop = share(f"catch pte {page:#x}", "continue")
    assert "old=" in stop
    share("delete")
    walk = share(f"walk {page:#x} write")
    new = number(r"^  frame (0x[0-9a-f]+):", walk)
    assert new != old
    text = share(f"frame {new}")
    assert "type            WRITABLE" in text
    assert f"at {page:#x}" in text

    said = share("diff fault .")
    assert re.search(rf"at {page:#x}: P (US )?A D .*AVL=0x1 .*-> P RW .*MFN={new:#x}", said)
    if count > 1:
        assert f"frame {old:#x}: type count {count} -> {count - 1}" in said
    else:
        assert f"frame {old:#x}: owner shared -> free" in said

    share("goto fault")
    stop = share(f"last-share {old}")
    assert f"mfn={old:#x}" in stop
    assert share.debugger.position < share.debugger.checkpoints["fault"]
    assert "make_ro_and_share" in share("events 1 hypercall")
    assert "share_pages" in share("bt") or "share_page" in share("bt")


def test_steps_undone_are_as_if_never_made(share: Shell) -> None:
    share("tbreak main", "continue")
    before = share("registers")
    start = share.debugger.position
    share("stepi 300")
    after = share("registers")
    share("reverse-stepi 300")
    assert share.debugger.position == start
    assert share("registers") == before
    share("goto +300")
    assert share("registers") == after
    share("reverse-stepi", "rsi 2")
    assert share.debugger.position == start + 297


def test_lines_backwards(share: Shell) -> None:
    lines = share.context.domain.symbols.lines

    def line() -> int:
        found = lines.lookup(share.value("$rip"))
        assert found is not None
        return found[1]

    share("tbreak main", "continue")
    places = [(line(), share.debugger.position)]
    for _ in range(3):
        share("next")
        places.append((line(), share.debugger.position))
    for before in reversed(places[:-1]):
        share("reverse-next")
        assert (line(), share.debugger.position) == before
    assert "find_pages" in share("step")
    assert "main" in share("reverse-finish")


def test_reverse_continue_to_breakpoints_and_to_the_start(share: Shell) -> None:
    share("break page_at", "continue", "continue", "continue")
    third = share.debugger.position
    stop = share("reverse-continue")
    assert stop.startswith("breakpoint 1, d1 share")
    second = share.debugger.position
    share("reverse-continue")
    assert share.debugger.position < second < third
    share("delete")
    assert "start of history" in share("reverse-continue")
    assert share.debugger.position == 0
    share("goto end")
    assert share.debugger.position == third
    assert "<_start>" in share("goto start")


def test_who_wrote_it(share: Shell) -> None:
    share("tbreak write_some", "continue")
    stop = share("last-write module_pages")
    assert "find_pages" in stop
    assert share.value("$rip") > share.value("find_pages")
    stop = share("goto end", "watch all_pages", "reverse-continue")
    assert "watchpoint" in stop
    assert "all_pages" in stop


def test_the_entry_that_made_it_so(share: Shell) -> None:
    share("tcatch cow", "continue")
    stop = share("last-change $cr2")
    assert "old=" in stop
    assert "make_ro_and_share" in share("events 1 hypercall")


def test_checkpoints_and_names_of_moments(share: Shell) -> None:
    share("stepi 10")
    assert share("checkpoint here") == "checkpoint here at position 10"
    assert share("stepi 5", "checkpoint") == "checkpoint c1 at position 15"
    assert share("info checkpoints") == f"{'here':<16} 10\n{'c1':<16} 15"
    assert "position 10 of 0..15 (here)" in share("goto here", "when")
    share("goto c1", "goto -5")
    assert share.debugger.position == 10
    share("delete checkpoint here")
    assert "no checkpoint 'here'" in share.refuses("delete checkpoint here")
    for wrong in ("goto", "goto nowhere", "goto 99999999", "goto -11", "checkpoint 1x",
                  "checkpoint end", "diff", "diff 1 2 3", "diff 0 99999999"):  # fmt: skip
        position = share.debugger.position
        assert share.refuses(wrong)
        assert share.debugger.position == position


def test_events_and_consoles_are_those_of_the_moment(share: Shell) -> None:
    share("tbreak write_some", "continue")
    events = share("events 10000")
    console = share("console")
    assert "contents after sharing" in console
    share("goto start")
    assert share("events 10000") == "no such event so far"
    assert "wrote nothing yet" in share("console")
    share("goto end")
    assert share("events 10000") == events
    assert share("console") == console


def test_a_write_in_the_past_is_a_new_future(share: Shell) -> None:
    share("tbreak write_some", "continue")
    end = share.debugger.position
    share("goto 5000", "set $rbx = 12345")
    assert share.debugger.end < end
    assert share("events 10000").count("\n") < 200
    share.refuses(f"goto {end}")
    share("reverse-stepi")
    assert share.debugger.position == 4999


def test_run_begins_again(share: Shell) -> None:
    share("break main", "continue")
    first = share.debugger.position
    share("stepi 50")
    assert "<main>" in share("run")
    assert share.debugger.position == first


def test_diff_of_equal_moments(share: Shell) -> None:
    share("stepi 100")
    assert share("diff 50 50").endswith("nothing is different")
    assert "rip" in share("diff 50 51")
    assert share.debugger.position == 100
