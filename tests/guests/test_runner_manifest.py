"""Manifests: what is read, and that everything else is one line with file and line."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guests.runner.collect import CollectError, collect, load_program, select, selector
from guests.runner.manifest import KEYS, ManifestError, has_manifest, read_sidecar, read_source
from guests.runner.verdict import Verdict


def source(tmp_path: Path, text: str, name: str = "a.asm") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def refusal(path: Path) -> str:
    """Why a manifest is refused; empty if it is not."""
    try:
        read_source(path)
    except ManifestError as error:
        return str(error)
    return ""


def test_every_key(tmp_path: Path) -> None:
    path = source(
        tmp_path,
        """\
; a title
; cowbird: description = two of them: one writes
;cowbird: environments = pv64
; cowbird: domains = writer, reader
; cowbird: memory = 4M
; cowbird: memory.reader = 2048K
; cowbird: machine-memory: 128M
; cowbird: cmdline = a=1 b
; cowbird: cmdline.reader = c=2
; cowbird: module = data.bin
; cowbird: kernel.reader = other.asm
; cowbird: width.reader = 64
; cowbird: limit = 5_000_000
; cowbird: groups = 2
; cowbird: zero_only = yes
; cowbird: opaque = no
; cowbird: hash-bits = 4
; cowbird: seed = 0x10
; cowbird: slice = 100
; cowbird: expected = crash
; cowbird: difference = QEMU pushes another error code

.text
main: ret
""",
    )
    manifest = read_source(path)
    assert manifest.description == "two of them: one writes"
    assert manifest.environments == ("pv64",)
    assert [d.name for d in manifest.domains] == ["writer", "reader"]
    assert manifest.domains[1].memory == 2 << 20
    assert manifest.domains[1].cmdline == "c=2"
    assert manifest.domains[1].kernel == "other.asm"
    assert manifest.domains[0].cmdline is None
    assert (manifest.memory, manifest.machine_memory) == (4 << 20, 128 << 20)
    assert (manifest.cmdline, manifest.module, manifest.limit) == ("a=1 b", "data.bin", 5_000_000)
    assert manifest.expected is Verdict.CRASH
    assert manifest.not_on_xen
    assert manifest.settings == {
        "groups": 2, "zero_only": True, "opaque": False, "hash_bits": 4, "seed": 16, "slice": 100,
    }  # fmt: skip


def test_c_heads(tmp_path: Path) -> None:
    line = source(tmp_path, "// cowbird: memory = 1M\n#include <x.h>\nint main;\n", "a.c")
    block = source(tmp_path, "/* A test.\n * cowbird: memory = 1M\n */\nint main;\n", "b.c")
    one = source(tmp_path, "/* cowbird: memory = 1M */\nint main;\n", "c.c")
    for path in (line, block, one):
        assert read_source(path).memory == 1 << 20, path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("frobnicate = 1", "unknown key 'frobnicate'"),
        ("environments = pv64, vax", "unknown environment 'vax'"),
        ("environments =", "no environment"),
        ("memory = lots", "not a size"),
        ("memory = 1K", "multiple of 4K"),
        ("domains = 0", "not between 1 and"),
        ("domains = a, a", "same name"),
        ("domains = 1, 2", "not a domain's name"),
        ("limit = 0", "not between"),
        ("limit = soon", "not a number of instructions"),
        ("expected = OK", "unknown verdict"),
        ("oracle = no", "needs a reason"),
        ("oracle = maybe", "neither"),
        ("opaque = perhaps", "neither yes nor no"),
        ("hash-bits = 65", "not between"),
        ("module =", "file name is missing"),
        ("cmdline.7 = x", "no domain '7'"),
        ("seed.1 = 3", "unknown key"),
        ("kernel = x", "unknown key"),
        ("nothing", "not of the form"),
    ],
)
def test_wrong_lines(tmp_path: Path, line: str, message: str) -> None:
    path = source(tmp_path, f"; title\n; cowbird: {line}\n.text\n")
    with pytest.raises(ManifestError) as caught:
        read_source(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:2: ")
    assert message in text
    assert "\n" not in text


def test_twice_below_the_head_and_contradiction(tmp_path: Path) -> None:
    twice = source(tmp_path, "; cowbird: seed = 1\n; cowbird: seed = 2\n")
    with pytest.raises(ManifestError, match=r":2: seed was already given in line 1"):
        read_source(twice)
    below = source(tmp_path, "; cowbird: seed = 1\n.text\n; cowbird: slice = 2\n")
    with pytest.raises(ManifestError, match=r":3: a manifest line below the head"):
        read_source(below)
    assert has_manifest(below)
    both = source(tmp_path, "; cowbird: environments = pv64, xen\n; cowbird: oracle = no: why\n")
    with pytest.raises(ManifestError, match="contradict"):
        read_source(both)


def test_oracle(tmp_path: Path) -> None:
    assert read_source(source(tmp_path, "; cowbird: seed = 1\n")).not_on_xen == ""
    no = read_source(source(tmp_path, "; cowbird: oracle = no: needs the new calls\n"))
    assert no.not_on_xen == "needs the new calls"
    assert no.environments == ("pv64",)
    assert "2 domains" in read_source(source(tmp_path, "; cowbird: domains = 2\n")).not_on_xen


def test_sidecar(tmp_path: Path) -> None:
    (tmp_path / "k.elf").write_bytes(b"\x7fELF")
    side = source(
        tmp_path,
        'description = "ready"\ndomains = ["a", "b"]\nopaque = true\nlimit = 1000\n'
        '[cmdline]\nb = "x=1"\n',
        "k.toml",
    )
    manifest = read_sidecar(side)
    assert manifest.settings == {"opaque": True}
    assert manifest.domains[1].cmdline == "x=1"
    program = load_program(tmp_path / "k.elf")
    assert program.manifest.description == "ready"
    wrong = source(tmp_path, "seed = 1\nfoo = 3\n", "w.toml")
    with pytest.raises(ManifestError, match=r"w.toml:2: unknown key 'foo'"):
        read_sidecar(wrong)
    broken = source(tmp_path, "seed = 1\nfoo = = 3\n", "w.toml")
    with pytest.raises(ManifestError, match=r"w.toml:2: "):
        read_sidecar(broken)


@given(st.text(max_size=400), st.sampled_from(["", "; cowbird: ", "// cowbird: seed = "]))
def test_any_head_is_a_manifest_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str, before: str
) -> None:
    path = tmp_path_factory.mktemp("m") / "x.asm"
    path.write_bytes((before + text).encode("utf-8", "surrogatepass"))
    message = refusal(path)
    assert not message or re.match(re.escape(str(path)) + r":\d+: ", message)


@given(st.sampled_from(KEYS), st.text(max_size=40))
def test_any_value_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: str
) -> None:
    path = tmp_path_factory.mktemp("m") / "x.asm"
    line = f"; cowbird: {key} = {value}"
    path.write_bytes(line.encode("utf-8", "surrogatepass"))
    message = refusal(path)
    assert not message or message.startswith(f"{path}:")


# -- collecting ---------------------------------------------------------------------------------


def test_collecting(tmp_path: Path) -> None:
    head = "; cowbird: seed = 1\n"
    for name in ("tlb/a.asm", "tlb/b.asm", "lib/c.asm", ".hidden/d.asm", "x.asm", "kit/k.asm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(head)
    (tmp_path / "plain.asm").write_text("; nothing\n")
    (tmp_path / "x.c").write_text("// cowbird: bogus\n")
    programs = collect([tmp_path, tmp_path / "tlb" / "a.asm"])
    top = tmp_path.name
    assert [p.id for p in programs] == ["tlb/a", "tlb/b", f"{top}/x.asm", f"{top}/x.c"]
    assert "not of the form" in programs[3].error
    assert [p.name for p in collect([tmp_path / "plain.asm"])] == ["plain"]
    with pytest.raises(CollectError, match="no such file"):
        collect([tmp_path / "missing"])


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ("tlb", ["tlb/a", "tlb/nx"]),
        ("TLB and not nx", ["tlb/a"]),
        ("nx or (wp and not b)", ["tlb/nx", "wp/c"]),
        ("not not a", ["tlb/a"]),
        ("", ["tlb/a", "tlb/nx", "wp/b", "wp/c"]),
    ],
)
def test_k(tmp_path: Path, expression: str, ids: list[str]) -> None:
    for name in ("tlb/a", "tlb/nx", "wp/b", "wp/c"):
        path = tmp_path / f"{name}.asm"
        path.parent.mkdir(exist_ok=True)
        path.write_text("; cowbird: seed = 1\n")
    assert [p.id for p in select(collect([tmp_path]), expression)] == ids


@given(st.lists(st.sampled_from(["and", "or", "not", "(", ")", "a", "tlb"]), max_size=12))
def test_any_expression_is_read_or_refused(words: list[str]) -> None:
    message = ""
    try:
        selector(" ".join(words))("tlb/a")
    except CollectError as error:
        message = str(error)
    assert not message or message.startswith("-k")


def test_widths(tmp_path: Path) -> None:
    both = read_source(source(tmp_path, "; cowbird: environments = pv32, xen, pv64\n"))
    assert both.environments == ("pv64", "pv32", "xen")
    assert not both.not_on_xen
    narrow = read_source(source(tmp_path, "; cowbird: environments = pv32\n"))
    assert narrow.environments == ("pv32",)
    assert "CONFIG_PV32" in narrow.not_on_xen
    mixed = read_source(source(tmp_path, "; cowbird: domains = a, b\n; cowbird: width.b = 32\n"))
    assert [domain.width for domain in mixed.domains] == [None, 32]
    assert mixed.not_on_xen
    for text in ("width.b = 16", "width = 32", "width.c = 32", "environments = pv16"):
        bad = source(tmp_path, f"; cowbird: domains = a, b\n; cowbird: {text}\n")
        assert re.match(rf"{bad}:2: ", refusal(bad)), text
