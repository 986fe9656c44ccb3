"""Reading traces back: what is good is taken exactly, what is not is one line that names it."""

import base64
import gzip
import json
import random
import re

import pytest
from click.testing import CliRunner

from hypervisor.cli import cli
from hypervisor.report import TraceError, TraceReader, reading
from hypervisor.report import document as documents
from hypervisor.report.document import Document

HEADER = '{"trace":"cowbird","version":1}\n'
FRAMED = '{"trace":"cowbird","version":1,"frames":512}\n'


def line(seq, event="destroy", position=0, domain=1, **details):
    return {"position": position, "seq": seq, "domain": domain, "event": event, **details}


def text(*lines, header=HEADER):
    return header + "".join(json.dumps(one) + "\n" for one in lines)


GOOD = text(
    line(0, "create", name="a"),
    line(1, "share", 10, status=0, mfn=5, old=5, key=2**64 + 3, table=9, index=511),
    line(2, "drop", 20, mfn=5, count=0, why="update"),
)


def report(tmp_path, content, *more):
    trace, page = tmp_path / "t.jsonl", tmp_path / "p.html"
    trace.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = CliRunner().invoke(cli, ["report", str(trace), "-o", str(page), *more])
    return result, page


def is_refused(tmp_path, content, *parts):
    for command in (["report", "-o"], ["trace", "--perfetto", "-o"]):
        trace, out = tmp_path / "t.jsonl", tmp_path / "out"
        trace.write_bytes(content if isinstance(content, bytes) else content.encode())
        result = CliRunner().invoke(cli, [*command, str(out), str(trace)])
        assert result.exit_code == 2, result.output
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith(f"cowbird: error: {trace}")
        for part in parts:
            assert part in lines[0], lines[0]
        assert not out.exists()
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def data_of(page):
    """The document that is packed in a page."""
    found = re.search(r'id="data">\n(.*?)\n</script>', page.read_text(), re.DOTALL)
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def test_a_good_trace(tmp_path):
    result, page = report(tmp_path, GOOD)
    assert (result.exit_code, result.output) == (0, "")
    data = data_of(page)
    assert data["source"] == "t.jsonl"
    assert data["events"]["position"] == [0, 10, 10]
    assert data["events"]["domain"] == [1, 1, 1]
    share = data["shapes"][data["events"]["shape"][1]]
    values = dict(zip(share[1:], data["events"]["values"][1], strict=True))
    assert values["key"] == "0x10000000000000003"
    assert values["index"] == 511
    assert data["changes"]["frames"]["rows"][:7] == [5, 1, 0x7FF3, 7, 0, 1, 1]
    again, _ = report(tmp_path, GOOD)
    assert again.exit_code == 0


def test_the_page_is_complete_and_repeats(tmp_path):
    _, page = report(tmp_path, GOOD)
    first = page.read_bytes()
    assert not re.search(rb"""(src|href)=["'](?!data:)""", first)
    assert b"{script}" not in first
    assert b"{style}" not in first
    report(tmp_path, GOOD)
    assert page.read_bytes() == first


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["empty"]),
        ("\n", ["line 1", "not a trace"]),
        ("hello\n", ["line 1", "not a trace"]),
        (b"\x7fELF\x02\x01\x01\x00" * 99, ["line 1", "not a trace"]),
        ('{"trace":"cow', ["line 1", "not a trace"]),
        ('{"trace":"cowbird","version":2}\n', ["line 1", "version 2", "reads 1"]),
        ('{"trace":"cowbird"}\n', ["line 1", "version unknown"]),
        ('{"trace":"cowbird","version":true}\n', ["line 1", "version"]),
        ('{"trace":"cowbird","version":1,"frames":0.5}\n', ["line 1", "'frames'"]),
        ('{"trace":"cowbird","version":1,"frames":1e99}\n', ["line 1", "'frames'"]),
        ('{"trace":"cowbird","version":1,"frames":99999999999}\n', ["line 1", "'frames'"]),
        (HEADER + "what\n", ["line 2", "not JSON"]),
        (GOOD + "what\n" + GOOD, ["line 5", "not JSON"]),
        (HEADER.encode() + b"\xff\xfe\n", ["line 2", "not JSON"]),
        (HEADER.encode() + b"\0" * 4096 + b"\n", ["line 2", "not JSON"]),
        (HEADER + "[" * 200_000 + "\n", ["line 2", "not JSON"]),
        (HEADER + "9" * 5000 + "\n", ["line 2", "not JSON"]),
        (HEADER + "NaN\n", ["line 2", "NaN"]),
        (HEADER + "[]\n", ["line 2", "no JSON object"]),
        (HEADER + HEADER, ["line 2", "'position'"]),
        (text(line(1)), ["line 2", "seq is 1, not 0"]),
        (text(line(0, position=5), line(1, position=4)), ["line 3", "position 4 comes after 5"]),
        (text(line(0, position=-1)), ["line 2", "'position'"]),
        (text(line(0, position=2**60)), ["line 2", "'position'"]),
        (text(line(0, position=10**4000)), ["line 2", "'position' is enormous"]),
        (text(line(0, position="1")), ["line 2", "'position'"]),
        (text(line(0, position=True)), ["line 2", "'position'"]),
        (text(line(0, 7)), ["line 2", "'event'"]),
        (text(line(0, "x" * 1000)), ["line 2", "'event'"]),
        (text(line(0, domain="d1")), ["line 2", "'domain'"]),
        (text(line(0, domain=None)), ["line 2", "no domain"]),
        (text(line(0, "create")), ["line 2", "'name' of the create"]),
        (text(line(0, "create", name=3)), ["line 2", "'name'"]),
        (text(line(0, "create", name="a"), line(1, "create", name="b")), ["line 3", "twice"]),
        (text(line(0, "share", status=0, mfn=1, old=1)), ["line 2", "'key' of the share"]),
        (text(line(0, "share", status=2, mfn=1, old=1, key=1)), ["line 2", "'status'"]),
        (text(line(0, "drop", mfn=-1, count=1, why="update")), ["line 2", "'mfn' is -1"]),
        (text(line(0, "drop", mfn=2**40, count=1, why="update")), ["line 2", "'mfn'"]),
        (text(line(0, "drop", mfn=1, count=2**40, why="update")), ["line 2", "'count'"]),
        (
            text(line(0, "drop", mfn=512, count=1, why="update"), header=FRAMED),
            ["line 2", "'mfn' is 512, not within 0 and 511"],
        ),
        (text(line(0, frames=3), header=FRAMED), ["line 2", "'frames' is no list"]),
        (text(line(0, frames=[3]), header=FRAMED), ["line 2", "row of 'frames'"]),
        (text(line(0, frames=[[0, 1, 1, 1, 1, 1]]), header=FRAMED), ["row of 'frames'"]),
        (text(line(0, frames=[[0, 513, 1, 1, 1, 1, 1]]), header=FRAMED), ["row of 'frames'"]),
        (text(line(0, frames=[[0, 0, 1, 1, 1, 1, 1]]), header=FRAMED), ["row of 'frames'"]),
        (text(line(0, frames=[[-1, 1, 1, 1, 1, 1, 1]]), header=FRAMED), ["row of 'frames'"]),
        (text(line(0, frames=[[0, 1, 1, 1, 1, 1, 2**32]]), header=FRAMED), ["row of 'frames'"]),
        (text(line(0, frames=[[0, 1, 1.5, 1, 1, 1, 1]]), header=FRAMED), ["row of 'frames'"]),
        (text(line(0, entries=[[0, 511, 2, 1, 0]]), header=FRAMED), ["row of 'entries'"]),
        (text(line(0, entries=[[512, 0, 1, 1, 0]]), header=FRAMED), ["row of 'entries'"]),
        (text(line(0, entries=[[0, 0, 2, 1, -4096]]), header=FRAMED), ["row of 'entries'"]),
        (text(line(0, entries=[[0, 0, 1, 2**64, 0]]), header=FRAMED), ["row of 'entries'"]),
    ],
)
def test_bad_traces_are_one_line(tmp_path, content, parts):
    is_refused(tmp_path, content, *parts)


def test_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE", 4096)
    is_refused(tmp_path, HEADER + "x" * 5000, "line 2", "longer than")
    monkeypatch.setattr(reading, "MAX_CHANGES", 1000)
    rows = [[0, 512, 1, 1, 1, 1, 1]]
    content = text(line(0, frames=rows), line(1, frames=rows), header=FRAMED)
    is_refused(tmp_path, content, "line 3", "more than 1,000 changes")
    monkeypatch.setattr(documents, "MAX_EVENTS", 2)
    result, page = report(tmp_path, GOOD)
    assert result.exit_code == 2
    assert f"{tmp_path / 't.jsonl'}, line 4: more than 2 events" in result.stderr
    assert "--first" in result.stderr
    assert not page.exists()
    result, page = report(tmp_path, GOOD, "--first", "2")
    assert result.exit_code == 0
    assert len(data_of(page)["events"]["shape"]) == 2
    assert "first 2 events" in " ".join(data_of(page)["notes"])


def test_a_trace_cut_anywhere_is_shown_as_far_as_it_goes(tmp_path):
    content = GOOD.encode()
    header = len(HEADER)
    for end in range(header, len(content) + 1):
        trace = tmp_path / "t.jsonl"
        trace.write_bytes(content[:end])
        with TraceReader(str(trace)) as reader:
            data = Document(reader).data
        whole = content[:end].count(b"\n") - 1
        rest = content[:end].rpartition(b"\n")[2]
        complete = rest.endswith(b"}") and end < len(content) and content[end : end + 1] == b"\n"
        assert len(data["events"]["shape"]) == whole + complete
        cut = any("cut short" in note for note in data["notes"])
        assert cut == bool(rest and not complete)
        if cut:
            assert f"line {whole + 2}" in " ".join(data["notes"])


def test_random_damage_never_ends_in_a_traceback(tmp_path):
    framed = text(
        line(0, "create", name="a", frames=[[0, 9, 1, 6, 4, 1, 1]]),
        line(1, "share", status=1, mfn=5, old=6, key=1, table=3, index=5),
        line(2, "hypercall", name="x", result=None, arguments=[1, 2]),
        line(3, "trap", vector=14, error=None, rip=1, entries=[[3, 0, 9, 4097, 4096]]),
        header=FRAMED,
    ).encode()
    damage = [b"", b"-", b"9", b"null", b'"', b"[", b"}", b"1e9", b"true", b",", b"\n", b"\\u0000"]
    random_ = random.Random(1)
    trace = tmp_path / "t.jsonl"
    good = 0
    for _ in range(3000):
        damaged = bytearray(framed)
        for _ in range(random_.randrange(1, 4)):
            at = random_.randrange(len(HEADER), len(damaged))
            damaged[at : at + random_.randrange(3)] = random_.choice(damage)
        trace.write_bytes(damaged)
        try:
            with TraceReader(str(trace)) as reader:
                json.dumps(Document(reader).data)
            good += 1
        except TraceError as error:
            assert str(error).startswith(f"{trace}, line ")  # noqa: PT017
    assert 0 < good < 3000


def test_the_input_is_never_overwritten(tmp_path):
    trace = tmp_path / "t.jsonl"
    trace.write_text(GOOD)
    link = tmp_path / "link"
    link.symlink_to(trace)
    for command in (["report"], ["trace", "--perfetto"]):
        for name in (trace, link, f"{tmp_path}/./t.jsonl"):
            result = CliRunner().invoke(cli, [*command, str(trace), "-o", str(name)])
            assert result.exit_code == 2
            assert "is an input too" in result.stderr
        missing = CliRunner().invoke(
            cli, [*command, str(tmp_path / "no"), "-o", str(tmp_path / "x")]
        )
        assert missing.exit_code == 2
        assert missing.stderr.startswith(f"cowbird: error: {tmp_path / 'no'}: No such file")
        folder = CliRunner().invoke(cli, [*command, str(tmp_path), "-o", str(tmp_path / "x")])
        assert folder.exit_code == 2
        assert len(folder.stderr.splitlines()) == 1
    assert trace.read_text() == GOOD
    result = CliRunner().invoke(cli, ["report", str(trace)])
    assert result.exit_code == 2


def test_domains_that_are_left_are_named(tmp_path):
    _, page = report(tmp_path, GOOD)
    assert any("d1 a" in note for note in data_of(page)["notes"])
    ended = GOOD + json.dumps(line(3, "exit", 30, reason="poweroff", code=0)) + "\n"
    ended += json.dumps(line(4, "destroy", 30)) + "\n"
    _, page = report(tmp_path, ended)
    assert not any("d1 a" in note for note in data_of(page)["notes"])
    assert data_of(page)["domains"] == [[1, "a", 0, 3, 4, "poweroff, code 0"]]


def test_to_a_pipe(tmp_path):
    (tmp_path / "t.jsonl").write_text(GOOD)
    result = CliRunner().invoke(cli, ["report", str(tmp_path / "t.jsonl"), "-o", "-"])
    assert result.exit_code == 0
    assert result.stdout.startswith("<!DOCTYPE html>")
