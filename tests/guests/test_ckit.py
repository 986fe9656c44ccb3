"""The C kit: its headers against Xen's own, gcc behind ``ckit``, programs on both hypervisors."""

import re
import stat
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from guests import ckit
from guests.runner import run_cowbird, run_xen
from guests.runner.collect import load_program
from guests.runner.verdict import Verdict
from hypervisor.image import parse_image
from tests.needs import missing, need

PROGRAMS = Path(__file__).parent / "programs_c"
XEN_HEADERS = """\
#include <stddef.h>
#include <stdint.h>
#define __XEN_TOOLS__
#define __XEN_INTERFACE_VERSION__ 0x00040e00
#include <xen/xen.h>
#include <xen/callback.h>
#include <xen/elfnote.h>
#include <xen/errno.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/grant_table.h>
#include <xen/memory.h>
#include <xen/nmi.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>
"""
MAIN = "int main(void) { return 0; }\n"


@pytest.fixture(autouse=True)
def _compiler(tmp_path, monkeypatch):
    need("gcc")
    monkeypatch.setenv(ckit.CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """``build_elf`` with a cache for this file's tests, where the kit is compiled once."""
    cache = tmp_path_factory.mktemp("kit")

    def build(path, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ckit.CACHE_VARIABLE, str(cache))
            return ckit.build_elf(path, **options)

    build.cache = cache
    return build


# -- the ABI ------------------------------------------------------------------------------------


def gcc(source, *flags, width=64):
    command = ["gcc", f"-m{width}", "-ffreestanding", "-std=gnu11", "-x", "c", *flags, "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ours(header):
    return (ckit.KIT / "include" / header).read_text()


def strip(die):
    """The type behind typedefs and qualifiers; None for ``void``."""
    while die is not None and die.tag in {
        "DW_TAG_typedef",
        "DW_TAG_const_type",
        "DW_TAG_volatile_type",
    }:
        die = die.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in die.attributes else None
    return die


def size_of(die):
    die = strip(die)
    if die.tag != "DW_TAG_array_type":
        return die.attributes["DW_AT_byte_size"].value
    count = 1
    for bound in die.iter_children():
        last = bound.attributes.get("DW_AT_upper_bound")
        count *= last.value + 1 if last else 0
    return count * size_of(die.get_DIE_from_attribute("DW_AT_type"))


def members(die, path="", base=0):
    """Member -> (offset, size) in bytes, inner structures and unions included."""
    found = {}
    for child in die.iter_children():
        if child.tag != "DW_TAG_member":
            continue
        offset = child.attributes.get("DW_AT_data_member_location")
        at = base + (offset.value if offset else 0)
        inner = strip(child.get_DIE_from_attribute("DW_AT_type"))
        if "DW_AT_name" in child.attributes:
            name = path + child.attributes["DW_AT_name"].value.decode()
            found[name] = (at, size_of(inner))
            prefix = f"{name}."
        else:
            prefix = path
        if inner.tag in {"DW_TAG_structure_type", "DW_TAG_union_type"}:
            found |= members(inner, prefix, at)
    return found


def structures(source, target, width=64):
    """Name -> (size, members) of every structure of ``source``, from gcc's debug information."""
    flags = ("-g", "-fno-eliminate-unused-debug-types", "-c", "-o", str(target))
    gcc(source, *flags, width=width)
    found = {}
    with target.open("rb") as stream:
        for unit in ELFFile(stream).get_dwarf_info().iter_CUs():
            for die in unit.iter_DIEs():
                named = "DW_AT_name" in die.attributes and "DW_AT_byte_size" in die.attributes
                if die.tag == "DW_TAG_structure_type" and named:
                    name = die.attributes["DW_AT_name"].value.decode()
                    found[name] = (size_of(die), members(die))
    return found


def wrong_structures(kit, xen):
    for name, (size, fields) in kit.items():
        if name not in xen:
            yield f"struct {name}: Xen has none"
            continue
        real_size, real = xen[name]
        if size != real_size:
            yield f"struct {name}: {size} bytes, Xen's has {real_size}"
        for field, place in fields.items():
            if real.get(field) != place:
                yield f"struct {name}.{field}: {place}, Xen's {real.get(field)} (offset, size)"
        top = {field.partition(".")[0] for field in real}
        yield from (f"struct {name}: lacks {field}" for field in sorted(top - set(fields)))


@pytest.mark.parametrize("width", [64, 32])
def test_structures_are_xens(width, tmp_path):
    need("/usr/include/xen/xen.h")
    whole = ours("xen.h").replace('#include "xen-numbers.h"', ours("xen-numbers.h"))
    kit = structures(whole, tmp_path / "kit.o", width)
    xen = structures(XEN_HEADERS, tmp_path / "xen.o", width)
    assert len(kit) > 50
    assert sum(len(fields) for _, fields in kit.values()) > 200
    assert not list(wrong_structures(kit, xen))


def test_a_wrong_structure_is_noticed(tmp_path):
    xen = structures("struct s { int a; long b; struct { char c; } d; };", tmp_path / "xen.o")
    kit = structures("struct s { int a, b; };\nstruct t { int a; };", tmp_path / "kit.o")
    assert list(wrong_structures(kit, xen)) == [
        "struct s: 8 bytes, Xen's has 24",
        "struct s.b: (4, 4), Xen's (8, 8) (offset, size)",
        "struct s: lacks d",
        "struct t: Xen has none",
    ]


@pytest.mark.parametrize("width", [64, 32])
def test_constants_are_xens(width, tmp_path):
    need("/usr/include/xen/xen.h")
    predefined = set(gcc("", "-dM", "-E", width=width).splitlines())
    lines = set(gcc(ours("xen-numbers.h"), "-dM", "-E", width=width).splitlines()) - predefined
    macros = {}
    for line in lines:
        match = re.fullmatch(r"#define (\w+) (\S+)", line)
        if match:
            macros[match[1]] = int(match[2].strip("()"), 0)
        else:
            assert line == "#define COWBIRD_XEN_NUMBERS_H ", line
    assert len(macros) > 400
    body = ",\n".join(f"(unsigned long long)({name})" for name in macros)
    target = tmp_path / "values.o"
    source = f"{XEN_HEADERS}const unsigned long long values[] = {{\n{body}\n}};\n"
    gcc(source, "-c", "-o", str(target), width=width)
    with target.open("rb") as stream:
        data = ELFFile(stream).get_section_by_name(".rodata").data()
    real = [int.from_bytes(data[i : i + 8], "little") for i in range(0, 8 * len(macros), 8)]
    wrong = [
        f"{name} is {value:#x}, Xen's {theirs:#x}"
        for (name, value), theirs in zip(macros.items(), real, strict=True)
        if value % 2**64 != theirs
    ]
    assert not wrong


# -- programs -----------------------------------------------------------------------------------


def program(path):
    loaded = load_program(path)
    assert not loaded.error
    return loaded


def transcript(result):
    return "\n".join([result.reason, *(domain.console for domain in result.domains)])


@pytest.mark.parametrize("environment", ["pv64", "pv32"])
@pytest.mark.parametrize("path", sorted(PROGRAMS.glob("*.c")), ids=lambda path: path.stem)
def test_programs_here(path, environment, built, monkeypatch):
    monkeypatch.setenv(ckit.CACHE_VARIABLE, str(built.cache))
    result = run_cowbird.run_program(program(path), environment=environment)
    assert result.good, transcript(result)


# How a panic on the real Xen is judged is the runner's business; sharing is ours alone.
@pytest.mark.parametrize("name", ["bails", "library", "paging", "user"])
def test_programs_on_the_real_xen(name, built, monkeypatch):
    monkeypatch.setenv(ckit.CACHE_VARIABLE, str(built.cache))
    try:
        oracle = run_xen.find_oracle()
    except run_xen.OracleMissing as error:
        missing(str(error))
    result = run_xen.run_program(program(PROGRAMS / f"{name}.c"), oracle)
    assert result.good, transcript(result)


def test_a_panic_says_what_and_where(built, monkeypatch):
    monkeypatch.setenv(ckit.CACHE_VARIABLE, str(built.cache))
    result = run_cowbird.run_program(program(PROGRAMS / "panic.c"))
    assert result.verdict is Verdict.CRASH
    assert re.search(
        r"panic: #PF \(vector 14\) with error code 0x2 at 0xffffffff8\w+, cr2 0x1234, kernel mode",
        transcript(result),
    )


def test_failures_show_what_was_got_and_wanted(built, monkeypatch):
    monkeypatch.setenv(ckit.CACHE_VARIABLE, str(built.cache))
    text = transcript(run_cowbird.run_program(program(PROGRAMS / "bails.c")))
    assert "# bails.c:8: 6 * 7\n# got 0x2a (42), wanted 0x36 (54)" in text
    assert "# got -EINVAL, wanted 0" in text
    assert "# got #PF (vector 14) with error code 0x0 at" in text
    assert "# byte 2 of 3 is 0x63, wanted 0x64" in text
    assert "not ok 5 - main() returned 3\n1..5\n" in text


@pytest.mark.parametrize("environment", ["pv64", "pv32"])
def test_the_template_passes(environment, tmp_path, built, monkeypatch):
    monkeypatch.setenv(ckit.CACHE_VARIABLE, str(built.cache))
    path = tmp_path / "mine.c"
    path.write_text(f"// cowbird: environments = {environment}\n{ckit.TEMPLATE}")
    result = run_cowbird.run_program(program(path), environment=environment)
    assert result.verdict is Verdict.PASS, transcript(result)


@pytest.mark.parametrize("width", [64, 32])
def test_one_line_for_the_shell(width, tmp_path):
    source, output = tmp_path / "my test.c", tmp_path / "my test.elf"
    source.write_text(f'#include "cowbird.h"\n{MAIN}')
    line = ckit.one_line(str(source), str(output), width=width)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    image = parse_image(output.read_bytes(), "my test.elf")
    assert image.notes["LOADER"] == "generic"
    assert image.hypercall_page is not None
    head = (ckit.KIT / "include" / "cowbird.h").read_text()
    assert image.width == width
    assert f"//   {ckit.one_line('mytest.c', 'mytest.elf', 'KIT', width)}\n" in head


def test_the_image_is_for_gdb_too(built, tmp_path):
    path = tmp_path / "guest.c"
    path.write_text(MAIN)
    (tmp_path / "guest.elf").write_bytes(built(path))
    with (tmp_path / "guest.elf").open("rb") as stream:
        elf = ELFFile(stream)
        assert elf.has_dwarf_info()
        assert elf.get_section_by_name(".symtab").get_symbol_by_name("main")
        for segment in elf.iter_segments("PT_LOAD"):
            assert segment["p_flags"] & 3 != 3, "writable and executable"


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int main(void)\n{ return x; }\n", r"^bad\.c:2:\d+: error: .*undeclared"),
        ('#include "nothing.h"\n', r"^bad\.c:1:\d+: fatal error: nothing\.h: No such file"),
        ("void f(void);\nint main(void)\n{\nf(); }\n", r"^bad\.c:4: undefined reference to `f'"),
        ("#error no 32-bit kit yet\n", r"^bad\.c:1:\d+: error: #error no 32-bit kit yet"),
        ("int f(void) { return 0; }\n", r"undefined reference to `main'"),
    ],
)
def test_the_compilers_own_words(text, message, built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.c").write_text(text)
    with pytest.raises(ckit.CompileError) as caught:
        built(Path("bad.c"))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert str(tmp_path) not in str(caught.value).replace(str(built.cache), "")


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(ckit.CompileError, match=r"no\.c: cannot be read: No such file"):
        ckit.build_elf(tmp_path / "no.c")
    with pytest.raises(ckit.CompileError, match="cannot be read"):
        ckit.build_elf(tmp_path)


def fake_compiler(tmp_path, script):
    path = tmp_path / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_no_compiler(tmp_path, monkeypatch):
    path = tmp_path / "guest.c"
    path.write_text(MAIN)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ckit.CompileError, match="no C compiler for 64-bit x86: install gcc"):
        ckit.build_elf(path)
    monkeypatch.setenv(ckit.COMPILER_VARIABLE, "nowhere-gcc")
    with pytest.raises(ckit.CompileError, match="COWBIRD_CC names nowhere-gcc"):
        ckit.build_elf(path)
    other = fake_compiler(tmp_path, "echo aarch64-linux-gnu")
    monkeypatch.setenv(ckit.COMPILER_VARIABLE, other)
    with pytest.raises(ckit.CompileError, match="makes code for aarch64-linux-gnu"):
        ckit.build_elf(path)


def test_a_compiler_that_hangs_or_fails_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "guest.c"
    path.write_text(MAIN)
    asks = 'test "$1" = -dumpmachine && echo x86_64-linux-gnu && exit 0'
    monkeypatch.setenv(ckit.COMPILER_VARIABLE, fake_compiler(tmp_path, f"{asks}\nexit 1"))
    with pytest.raises(ckit.CompileError, match="the kit does not compile"):
        ckit.build_elf(path)
    hangs = f"{asks}\nwhile :; do :; done"
    (tmp_path / "b").mkdir()
    monkeypatch.setenv(ckit.COMPILER_VARIABLE, fake_compiler(tmp_path / "b", hangs))
    monkeypatch.setattr(ckit, "TIMEOUT", 0.5)
    with pytest.raises(ckit.CompileError, match=r"the compiler took more than 0\.5 s"):
        ckit.build_elf(path)


# -- the cache ----------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """The commands that ``ckit`` runs."""
    made = []
    run = subprocess.run

    def counted(command, **options):
        made.append(command)
        return run(command, **options)

    monkeypatch.setattr(ckit.subprocess, "run", counted)
    return made


def test_what_is_unchanged_is_not_compiled_again(built, tmp_path, calls):
    path = tmp_path / "guest.c"
    optional = "#ifdef OTHER\nint other = OTHER;\n#endif\n"
    path.write_text('#include "number.h"\nint number = NUMBER;\n' + optional + MAIN)
    (tmp_path / "number.h").write_text("#define NUMBER 1\n")
    first = built(path)
    calls.clear()
    assert built(path) == first
    assert not calls
    (tmp_path / "number.h").write_text("#define NUMBER 2\n")
    second = built(path)
    assert second != first
    assert len(calls) == 1
    assert built(path, defines={"OTHER": "3"}) != second
    assert built(path) == second
    assert len(calls) == 2
    (tmp_path / "number.h").unlink()
    with pytest.raises(ckit.CompileError, match="No such file"):
        built(path)


def test_a_damaged_entry_is_compiled_again(built, tmp_path):
    path = tmp_path / "guest.c"
    path.write_text(MAIN + "// damaged\n")
    before = set(built.cache.glob("*.guest"))
    elf = built(path)
    (entry,) = set(built.cache.glob("*.guest")) - before
    for damage in (entry.read_bytes()[:-1], b"", b"cowbird C guest 1\n[[", entry.read_bytes()[9:]):
        entry.write_bytes(damage)
        assert built(path) == elf


def test_the_cache_never_decides_what_comes_out(built, tmp_path, monkeypatch):
    path = tmp_path / "guest.c"
    path.write_text(MAIN)
    elf = built(path)
    monkeypatch.setenv(ckit.CACHE_VARIABLE, "")
    assert ckit.build_elf(path) == elf
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(ckit.CACHE_VARIABLE, str(tmp_path / "file" / "below"))
    assert ckit.build_elf(path) == elf


def test_the_cache_does_not_grow_for_ever(built, tmp_path, monkeypatch):
    monkeypatch.setattr(ckit, "MAX_ENTRIES", 4)
    path = tmp_path / "guest.c"
    for number in range(6):
        path.write_text(f"int number = {number};\n{MAIN}")
        built(path)
    assert len(list(built.cache.glob("*.guest"))) <= 4
