"""The declared ABI against Xen's own headers, compiled by gcc at both widths.

A generated C file holds one array of 64-bit constants: sizes, offsets and values of everything
that ``hypervisor.abi`` declares. It is compiled, never run, and the array is read out of the
object file; so the 32-bit half needs neither a 32-bit libc nor a 32-bit kernel.
"""

import ctypes
import re
import subprocess
from enum import IntEnum, IntFlag

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from hypervisor import abi
from hypervisor.abi.numbers import PREFIX, xen_name
from hypervisor.abi.record import ORIGIN, Record, RecordUnion
from tests.needs import missing, need

HEADERS = [
    "xen",
    "callback",
    "elfnote",
    "errno",
    "event_channel",
    "features",
    "grant_table",
    "memory",
    "nmi",
    "physdev",
    "sched",
    "vcpu",
    "version",
    "io/console",
    "io/xs_wire",
]

PRELUDE = """\
#include <stddef.h>
#include <stdint.h>
#ifndef __XEN_TOOLS__
#define __XEN_INTERFACE_VERSION__ 0x00040e00
#endif
"""

LAYOUT_BOTH = [
    "FIRST_RESERVED_GDT_PAGE",
    "FIRST_RESERVED_GDT_BYTE",
    "FIRST_RESERVED_GDT_ENTRY",
    "XEN_LEGACY_MAX_VCPUS",
    "MAX_GUEST_CMDLINE",
    "NR_VIRQS",
    "XEN_EXTRAVERSION_LEN",
    "XEN_CAPABILITIES_INFO_LEN",
    "XEN_CHANGESET_INFO_LEN",
    "XENFEAT_NR_SUBMAPS",
    "XEN_RUNSTATE_UPDATE",
    "GNTTAB_NR_RESERVED_ENTRIES",
    "GNTTAB_RESERVED_CONSOLE",
    "GNTTAB_RESERVED_XENSTORE",
    "XENSTORE_RING_SIZE",
    "XENSTORE_PAYLOAD_MAX",
]
LAYOUT_64 = [
    "HYPERVISOR_VIRT_START",
    "HYPERVISOR_VIRT_END",
    "MACH2PHYS_VIRT_START",
    "MACH2PHYS_VIRT_END",
    "MACH2PHYS_NR_ENTRIES",
    "EVTCHN_2L_NR_CHANNELS",
]
LAYOUT_32 = {
    "HYPERVISOR_VIRT_START_PAE": "HYPERVISOR_VIRT_START_PAE",
    "MACH2PHYS_VIRT_START_PAE": "MACH2PHYS_VIRT_START_PAE",
    "MACH2PHYS_VIRT_END_PAE": "MACH2PHYS_VIRT_END_PAE",
    "EVTCHN_2L_NR_CHANNELS_PAE": "EVTCHN_2L_NR_CHANNELS",
}

OURS = {abi.Hypercall.make_ro_and_share: "arch_6", abi.Hypercall.make_ro_and_share_batch: "arch_7"}

OPERATION_FAMILIES = [
    abi.Hypercall,
    abi.MmuExt,
    abi.SchedOp,
    abi.EvtchnOp,
    abi.EvtchnStat,
    abi.VcpuOp,
    abi.XenVer,
    abi.XenFeat,
    abi.GnttabOp,
    abi.GntSt,
    abi.Virq,
    abi.VmAssist,
    abi.CallbackType,
    abi.ConsoleIo,
    abi.Uvmf,
]
NOT_MEMBERS = {"arch_6", "arch_7", "NR_SUBMAPS", "VIRT_START", "VIRT_END", "error_msgs"}


def run_gcc(source, width, *flags):
    need("/usr/include/xen/xen.h")
    command = [need("gcc"), f"-m{width}", "-ffreestanding", "-std=gnu11", "-x", "c", *flags, "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "sorry, unimplemented" in done.stderr:
        missing(f"this gcc cannot compile with -m{width}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def compile_values(expressions, width, tmp_path, *flags):
    """Values of C constant expressions, as unsigned 64-bit numbers, without running anything."""
    includes = "".join(f"#include <xen/{header}.h>\n" for header in HEADERS)
    body = ",\n".join(f"(unsigned long long)({expression})" for expression in expressions)
    source = f"{PRELUDE}{includes}const unsigned long long abi_values[] = {{\n{body}\n}};\n"
    target = tmp_path / f"abi{width}.o"
    run_gcc(source, width, *flags, "-c", "-o", str(target))
    with target.open("rb") as stream:
        elf = ELFFile(stream)
        assert elf.elfclass == width
        (symbol,) = elf.get_section_by_name(".symtab").get_symbol_by_name("abi_values")
        section = elf.get_section(symbol["st_shndx"])
        start = symbol["st_value"]
        data = section.data()[start : start + symbol["st_size"]]
    values = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
    assert len(values) == len(expressions)
    return values


def compare(expected, width, tmp_path, *flags):
    """Fail with every C expression whose value is not the one in ``expected``."""
    values = compile_values(list(expected), width, tmp_path, *flags)
    wrong = [
        f"{expression}: declared {declared:#x}, gcc -m{width} says {real:#x}"
        for (expression, declared), real in zip(expected.items(), values, strict=True)
        if declared % 2**64 != real
    ]
    assert not wrong, "\n".join(wrong)


def c_field(name):
    return name[:-1] if name.endswith("_") else name


def layout_of(ctype, path=""):
    """C member -> (offset, size) in bytes for every field, those of inner structures included."""
    found = {}
    for name, field_type in ctype._fields_:
        member = f"{path}{c_field(name)}"
        descriptor = getattr(ctype, name)
        found[member] = (descriptor.offset, descriptor.size)
        if issubclass(field_type, Record | RecordUnion):
            for inner, (offset, size) in layout_of(field_type, f"{member}.").items():
                found[inner] = (descriptor.offset + offset, size)
    return found


def declared_at(width):
    for cls, origin in ORIGIN.items():
        other = "x86_32.h" if width == 64 else "x86_64.h"
        if origin.c_name and origin.header != "cowbird" and not origin.header.endswith(other):
            yield origin.c_name, abi.layout(cls, width)


@pytest.mark.parametrize("width", [64, 32])
def test_structures_have_the_compilers_sizes_and_offsets(width, tmp_path):
    expected = {}
    for c_name, cls in declared_at(width):
        tag = f"{'union' if issubclass(cls, RecordUnion) else 'struct'} {c_name}"
        expected[f"sizeof({tag})"] = ctypes.sizeof(cls)
        for member, (offset, size) in layout_of(cls).items():
            expected[f"offsetof({tag}, {member})"] = offset
            expected[f"sizeof((({tag} *)0)->{member})"] = size
    assert len(expected) > 300
    compare(expected, width, tmp_path)


@pytest.mark.parametrize("width", [64, 32])
def test_structures_declare_every_byte_that_is_not_alignment(width):
    for c_name, cls in declared_at(width):
        if issubclass(cls, RecordUnion):
            continue
        end = 0
        for name, field_type in cls._fields_:
            start = getattr(cls, name).offset
            gap = start - end
            assert 0 <= gap < min(ctypes.alignment(field_type), width // 8) or gap == 0, (
                f"{c_name}: {gap} undeclared bytes before {name}"
            )
            end = start + getattr(cls, name).size
        assert ctypes.sizeof(cls) - end < max(ctypes.alignment(cls), 1), c_name


@pytest.mark.parametrize("width", [64, 32])
def test_enumerations_have_the_headers_values(width, tmp_path):
    expected = {}
    for family in PREFIX:
        for name, member in family.__members__.items():
            if family is abi.SegBase and width == 32:
                continue
            if family is abi.Vgcf and name == "in_syscall" and width == 32:
                continue
            expected[xen_name(family, OURS.get(member, name))] = int(member)
    for name, member in abi.Errno.__members__.items():
        expected[f"XEN_{name}"] = int(member)
    for name, member in abi.ElfNote.__members__.items():
        expected[f"XEN_ELFNOTE_{name}"] = int(member)
    for name, member in (abi.Flat64 if width == 64 else abi.Flat32).__members__.items():
        expected[f"FLAT_{name}"] = int(member)
    for name, member in abi.Pvclock.__members__.items():
        expected[f"XEN_PVCLOCK_{name}"] = int(member)
    # The headers show some memory_op commands to the toolstack only.
    compare(expected, width, tmp_path, "-D__XEN_TOOLS__")


@pytest.mark.parametrize("width", [64, 32])
def test_fixed_places_have_the_headers_values(width, tmp_path):
    expected = {name: getattr(abi, name) for name in LAYOUT_BOTH}
    if width == 64:
        expected |= {name: getattr(abi, name) for name in LAYOUT_64}
    else:
        expected |= {c_name: getattr(abi, name) for name, c_name in LAYOUT_32.items()}
        expected |= {
            f"(unsigned)xen_pfn_to_cr3({mfn:#x})": abi.pae_cr3(mfn)
            for mfn in (1, 0xFFFFF, 0x123456)
        }
    expected["sizeof(xen_commandline_t)"] = abi.XEN_COMMANDLINE_LEN
    expected["sizeof(((struct xencons_interface *)0)->in)"] = abi.XENCONS_IN_SIZE
    expected["sizeof(((struct xencons_interface *)0)->out)"] = abi.XENCONS_OUT_SIZE
    compare(expected, width, tmp_path)


@pytest.mark.parametrize("family", OPERATION_FAMILIES, ids=lambda family: family.__name__)
def test_no_operation_of_the_headers_is_missing(family):
    includes = "".join(f"#include <xen/{header}.h>\n" for header in HEADERS)
    macros = re.findall(r"^#define (\w+)[ \n]", run_gcc(PRELUDE + includes, 64, "-dM", "-E"), re.M)
    prefix = PREFIX[family]
    real = {name.removeprefix(prefix) for name in macros if name.startswith(prefix)}
    assert real, f"no {prefix}* in the headers"
    declared = {xen_name(family, name).removeprefix(prefix) for name in family.__members__}
    assert real - declared - NOT_MEMBERS == set()


def test_a_wrong_declaration_is_noticed(tmp_path):
    with pytest.raises(AssertionError, match=r"sizeof\(struct mmu_update\): declared 0x11"):
        compare({"sizeof(struct mmu_update)": 17}, 64, tmp_path)


def test_share_req_is_as_designed():
    assert abi.size_of(abi.ShareReq) == 16
    assert [abi.offset_of(abi.ShareReq, name) for name in ("ptr", "status", "pad")] == [0, 8, 12]
    assert abi.Hypercall.make_ro_and_share == 54
    assert abi.Hypercall.make_ro_and_share_batch == 55


def test_xen_keeps_l4_slots_256_to_271():
    assert (abi.L4_FIRST_XEN_SLOT, abi.L4_LAST_XEN_SLOT, abi.L4_M2P_SLOT) == (256, 271, 256)


@pytest.mark.parametrize(
    ("result", "width", "text"),
    [
        (-22, 64, "-EINVAL"),
        (2**64 - 14, 64, "-EFAULT"),
        (2**32 - 38, 32, "-ENOSYS"),
        (0, 64, "0"),
        (7, 64, "7"),
        (2**32 - 38, 64, str(2**32 - 38)),
        (-4000, 64, "-4000"),
        (-(2**63), 64, str(-(2**63))),
    ],
)
def test_results_are_named(result, width, text):
    assert abi.result_name(result, width) == text


@given(st.sampled_from([f for f in PREFIX if issubclass(f, IntEnum)]), st.integers(-5, 2**64))
def test_any_number_a_guest_passes_has_a_name(family, number):
    name = abi.name_of(family, number)
    known = any(member == number for member in family)
    assert name.endswith(f"({number})") != known


def test_names_of_keyword_members_lose_their_underscore():
    assert abi.name_of(abi.SchedOp, 0) == "yield"
    assert xen_name(abi.VmAssist, "_4gb_segments") == "VMASST_TYPE_4gb_segments"


def test_flag_families_are_flags():
    assert all(issubclass(family, IntEnum | IntFlag) for family in PREFIX)
    assert abi.Uvmf.INVLPG | abi.Uvmf.ALL == 6


@given(st.data())
def test_read_is_the_inverse_of_to_bytes(data):
    cls = data.draw(st.sampled_from(list(ORIGIN)))
    cls = abi.layout(cls, data.draw(st.sampled_from([32, 64])))
    size = abi.size_of(cls)
    raw = data.draw(st.binary(min_size=size + 3, max_size=size + 3))
    assert abi.to_bytes(abi.read(cls, raw, 3)) == raw[3:]
    with pytest.raises(ValueError, match="Buffer size too small"):
        abi.read(cls, raw, 4)


def test_reading_copies():
    memory = bytearray(16)
    request = abi.read(abi.MmuUpdateReq, memory)
    memory[0] = 0xFF
    assert request.ptr == 0
    request.ptr = 0x1234567
    assert memory[1] == 0


def test_fields_differ_between_the_widths_where_xen_says_so():
    assert "wc_sec_hi" in abi.field_names(abi.SharedInfo)
    assert "wc_sec_hi" not in abi.field_names(abi.layout(abi.SharedInfo, 32))
    assert "fs_base" not in abi.field_names(abi.layout(abi.VcpuGuestContext, 32))
    callback = abi.layout(abi.CallbackRegister, 32)()
    callback.address.cs = 0xE019
    assert abi.to_bytes(callback)[4:8] == b"\x19\xe0\0\0"
