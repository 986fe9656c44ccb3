"""What a kernel finds at its start of day, and what the builder refuses."""

import dataclasses
import struct

import pytest

from emu.cpu import CS, DS, RIP, RSI, RSP, SS
from emu.paging import PTE_MFN_MASK, PTE_P, PTE_RW
from emu.units import MFN, PAGE_SHIFT, VA
from hypervisor.abi import SharedInfo, StartInfo, XenFeat, offset_of, read, size_of
from hypervisor.builder import HYPERCALL_PAGE, build_domain, plan
from hypervisor.console import Console
from hypervisor.errors import DomainError
from hypervisor.frames import PINNED
from hypervisor.hypercalls.version import FEATURES
from tests.hypervisor.kernels import SPIN, Lab, kernel

MIB = 1 << 20


def start_info(lab: Lab, domain, image, memory: int, module: int = 0) -> tuple[StartInfo, int]:
    where = plan(image, memory, module)
    at = image.virt_base + where.start_info * 4096
    lab.hv.switch_to(domain)
    assert lab.hv.machine.cpu.words[RSI] == at
    return read(StartInfo, lab.hv.guest.read(domain, at, size_of(StartInfo))), at


def text(field) -> bytes:
    return bytes(b & 0xFF for b in field).split(b"\0")[0]


def test_start_of_day() -> None:
    lab = Lab()
    hv = lab.hv
    image = kernel(SPIN)
    module = bytes(range(256)) * 33
    domain = lab.boot(image, memory=2 * MIB, cmdline="a=1 b", module=module)
    lab.check()
    info, _ = start_info(lab, domain, image, 2 * MIB, len(module))
    assert text(info.magic) == b"xen-3.0-x86_64"
    assert text(info.cmd_line) == b"a=1 b"
    assert info.nr_pages == 512
    assert info.flags == 0
    assert info.shared_info == domain.shared_info << PAGE_SHIFT
    assert hv.guest.read(domain, info.mod_start, info.mod_len) == module
    p2m = struct.unpack("<512Q", hv.guest.read(domain, info.mfn_list, 4096))
    assert sorted(p2m) == sorted(hv.frames.owned_by(domain.id).tolist())
    assert all(mfn != pfn for pfn, mfn in enumerate(p2m))
    assert all(hv.frames.m2p(MFN(mfn)) == pfn for pfn, mfn in enumerate(p2m))
    pt_pfn = (info.pt_base - image.virt_base) >> PAGE_SHIFT
    assert p2m[pt_pfn] == domain.table
    assert hv.frames.flags[domain.table] & PINNED
    assert info.store_mfn in p2m
    assert info.console.domU.mfn in p2m
    assert (info.store_evtchn, info.console.domU.evtchn) == (1, 2)
    # Each page of the initial mapping is where the P2M says; tables are read-only, the rest not.
    for pfn in range(512):
        found = hv.paging.find_l1(domain, image.virt_base + pfn * 4096)
        assert found is not None
        entry = hv.machine.memory.words[found[0] * 512 + found[1]]
        assert (entry & PTE_MFN_MASK) >> PAGE_SHIFT == p2m[pfn]
        is_table = pt_pfn <= pfn < pt_pfn + info.nr_pt_frames
        assert entry & (PTE_P | PTE_RW) == (PTE_P if is_table else PTE_P | PTE_RW)
    assert image.hypercall_page is not None
    assert hv.guest.read(domain, image.hypercall_page, 4096) == HYPERCALL_PAGE[64]
    shared = read(SharedInfo, hv.machine.memory.frame_bytes(domain.shared_info))
    assert all(v.evtchn_upcall_mask == 1 for v in shared.vcpu_info)


def test_cpu_at_the_first_instruction() -> None:
    lab = Lab()
    image = kernel(SPIN)
    domain = lab.boot(image)
    lab.hv.switch_to(domain)
    cpu = lab.hv.machine.cpu
    where = plan(image, MIB)
    assert cpu.words[RIP] == image.entry
    assert cpu.words[RSP] == image.virt_base + (where.stack + 1) * 4096 == domain.kernel_sp
    assert (cpu.selector(CS), cpu.selector(SS), cpu.selector(DS)) == (0xE033, 0xE02B, 0)
    assert cpu.cpl == 3
    assert cpu.flags == 0x202
    assert [cpu.words[i] for i in range(16) if i not in (RSP, RSI)] == [0] * 14


def test_building_leaves_a_running_domain_alone() -> None:
    lab = Lab()
    first = lab.boot("mov r12, 0x1234\n" + "1: jmp 1b\n")
    assert not lab.hv.run(1000)
    before = lab.hv.machine.cpu.save()
    lab.boot(SPIN)
    assert lab.hv.current is first
    assert lab.hv.machine.cpu.save() == before
    assert lab.hv.machine.cpu.words[12] == 0x1234


def test_boot_memory_is_usable_from_end_to_end() -> None:
    """The kernel writes every mapped page that is not a table, and reads its module."""
    lab = Lab()
    domain = lab.boot(
        f"""
        mov rbx, [rsi + {offset_of(StartInfo, "mod_start")}]
        cmp qword ptr [rbx], 0x11223344
        jne bad
        lea rax, [rsp - 8]
        mov qword ptr [rax], 1
        mov rax, [rsi + {offset_of(StartInfo, "pt_base")}]
        mov rcx, [rax]
        jmp poweroff
        bad: ud2
        """,
        module=struct.pack("<Q", 0x11223344),
    )
    assert lab.hv.run(10_000)
    assert lab.exits[domain.id].reason == "poweroff"
    lab.check_empty()


def test_initial_mapping_has_slack_and_ends_at_4_mib() -> None:
    image = kernel(SPIN)
    where = plan(image, 64 * MIB)
    assert where.mapped * 4096 % (4 * MIB) == 0
    assert where.mapped - where.stack - 1 >= 128
    small = plan(image, MIB)
    assert small.mapped == small.pages == 256


def test_p2m_at_an_address_of_its_own() -> None:
    lab = Lab()
    image = dataclasses.replace(kernel(SPIN), init_p2m=VA(0xFFFF_FF00_0000_0000))
    domain = lab.boot(image, memory=4 * MIB)
    lab.check()
    info, _ = start_info(lab, domain, image, 4 * MIB)
    assert info.mfn_list == image.init_p2m
    assert info.nr_p2m_frames == 2
    p2m = struct.unpack("<1024Q", lab.hv.guest.read(domain, info.mfn_list, 8192))
    assert all(lab.hv.frames.m2p(MFN(mfn)) == pfn for pfn, mfn in enumerate(p2m))
    found = lab.hv.paging.find_l1(domain, info.mfn_list)
    assert found is not None
    entry = lab.hv.machine.memory.words[found[0] * 512 + found[1]]
    assert (entry & PTE_MFN_MASK) >> PAGE_SHIFT == p2m[info.first_p2m_pfn]


def test_module_as_a_pfn() -> None:
    lab = Lab()
    image = dataclasses.replace(kernel(SPIN), mod_start_pfn=True)
    domain = lab.boot(image, module=b"module!")
    info, _ = start_info(lab, domain, image, MIB, 7)
    assert info.flags == 8
    assert lab.hv.guest.read(domain, image.virt_base + info.mod_start * 4096, 7) == b"module!"


@pytest.mark.parametrize("base", [0, 0x10_0000, 0xFFFF_8800_0000_0000])
def test_other_bases(base: int) -> None:
    lab = Lab()
    original = kernel(SPIN)
    delta = base - original.virt_base
    image = dataclasses.replace(
        original,
        virt_base=VA(base),
        virt_start=VA(base),
        virt_end=VA(original.virt_end + delta),
        entry=VA(original.entry + delta),
        hypercall_page=None,
        segments=tuple(dataclasses.replace(s, va=VA(s.va + delta)) for s in original.segments),
    )
    domain = lab.boot(image)
    lab.check()
    assert not lab.hv.run(100)
    assert domain.instructions == 100


def test_mfn_never_equals_pfn() -> None:
    """A domain so large that the allocator's order crosses its PFNs."""
    lab = Lab(memory=16 * MIB)
    domain = lab.boot(SPIN, memory=15 * MIB)
    owned = lab.hv.frames.owned_by(domain.id).tolist()
    assert len(owned) == 15 * 256
    assert all(lab.hv.frames.m2p(mfn) != mfn for mfn in owned)
    lab.check()


def refusal(lab: Lab, image, **options) -> str:
    arguments = {"memory": MIB, "name": "d", "console": Console(), **options}
    with pytest.raises(DomainError) as caught:
        build_domain(lab.hv, image, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    lab.check_empty()
    return message


def test_refusals_leave_nothing_behind() -> None:
    lab = Lab()
    image = kernel(SPIN)
    big = kernel(SPIN + ".bss\n.zero 0x200000\n.text\n")
    assert "kernel needs 2.0 MiB, the domain has 1.0" in refusal(lab, big)
    assert "kernel and its module need" in refusal(lab, image, module=bytes(MIB))
    larger = kernel(SPIN + ".bss\n.zero 0x4000\n.text\n")
    assert "the kernel needs" in refusal(lab, larger, memory=0x10000)
    assert "are free" in refusal(lab, image, memory=32 * MIB)
    assert "no multiple" in refusal(lab, image, memory=MIB + 1)
    assert "no multiple" in refusal(lab, image, memory=4096)
    assert "1024 bytes" in refusal(lab, image, cmdline="x" * 1024)
    assert "1024 bytes" in refusal(lab, image, cmdline="é" * 512)
    assert "NUL" in refusal(lab, image, cmdline="a\0b")
    missing = next(f for f in XenFeat if f not in FEATURES)
    needy = dataclasses.replace(image, required_features=frozenset({missing}))
    assert missing.name in refusal(lab, needy)
    inside = dataclasses.replace(image, init_p2m=VA(image.virt_base + 0x80000))
    assert "overlaps" in refusal(lab, inside)
    xen = dataclasses.replace(image, init_p2m=VA(0xFFFF_8000_0000_0000))
    assert "no room" in refusal(lab, xen)
    top = dataclasses.replace(
        image, virt_base=VA((1 << 47) - (64 << 10)), virt_end=VA((1 << 47) - 4096)
    )
    assert "no room" in refusal(lab, top)
    assert lab.hv.counters["domains_created"] == 0


def test_longest_command_line_is_accepted() -> None:
    lab = Lab()
    image = kernel(SPIN)
    domain = lab.boot(image, cmdline="x" * 1023)
    info, _ = start_info(lab, domain, image, MIB)
    assert text(info.cmd_line) == b"x" * 1023


def test_machine_used_up_domain_by_domain() -> None:
    lab = Lab(memory=8 * MIB)
    image = kernel(SPIN)
    for _ in range(7):
        lab.boot(image)
    with pytest.raises(DomainError, match="are free"):
        lab.boot(image)
    lab.check()
