"""The crash report: where a domain was when it could not go on, for a person to read.

It is made while the domain's state is in the CPU, and reads whatever that state is without trusting
any of it: RIP, RSP and CR2 may point anywhere, tables may hold anything. What cannot be read is
said to be unreadable; the report never fails and never writes guest memory, A bits included.

A 32-bit guest's registers and stack are shown in its width, and its page tables as it knows them:
three levels, without the hidden L4.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from emu import Trap
from emu.cpu import REGISTER_NAMES, RSP, SEGMENT_NAMES
from emu.disasm import disassemble
from emu.paging import PF_ERROR, RFLAGS, PagingMode
from emu.trap import PF
from emu.units import MA, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, VA
from emu.walk import Access, Controls, Walk, walk
from hypervisor.abi import result_name
from hypervisor.domain import NO_FRAME, Domain, Happening
from hypervisor.toplevel import cr3_of

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_CODE_BYTES: Final = 32
_INSTRUCTIONS: Final = 4
_STACK_WORDS: Final = 8
_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1
_PAE: Final = Controls(mode=PagingMode.PAE)


def crash_report(hv: "Hypervisor", domain: Domain, why: str) -> str:
    """Several lines of text: reason, registers, code, stack, the walk of CR2, what came last."""
    lines = [f"{domain.label} crashed: {why}", f"at position {hv.machine.position}"]
    if hv.current is domain:
        lines += _registers(hv, domain)
        lines += _code(hv, domain, hv.machine.cpu.rip)
        lines += _stack(hv, domain)
        lines += _last_exception(hv, domain)
        lines += ["cr2:", *("  " + line for line in _walk_cr2(hv, domain).splitlines())]
    else:
        lines.append("it was not running: no registers")
    lines.append("last traps and hypercalls, newest last:")
    lines += [f"  {_recent(domain, item)}" for item in domain.recent] or ["  none"]
    return "\n".join(lines)


def _registers(hv: "Hypervisor", domain: Domain) -> list[str]:
    cpu = hv.machine.cpu
    mode = "kernel" if domain.kernel_mode else "user"
    name = domain.symbols.name(cpu.rip)
    where = f" <{name}>" if name else ""
    flags = cpu.flags
    if domain.width == 64:
        lines = [f"rip {cpu.rip:#018x}{where}  {mode} mode, {cpu.bits}-bit code"]
        names = [f"{name:>3} {cpu.register(name):016x}" for name in REGISTER_NAMES]
    else:
        lines = [f"eip {cpu.rip:#010x}{where}  {mode} mode, ring {cpu.cpl}, {cpu.bits}-bit code"]
        shown = ((name, cpu.register(name) & _M32) for name in REGISTER_NAMES[:8])
        names = [f"e{name[1:]} {value:08x}" for name, value in shown]
    lines += ["  ".join(names[i : i + 4]) for i in range(0, len(names), 4)]
    lines.append(f"rflags {flags:#x} ({RFLAGS.describe(flags)})")
    lines.append(
        "  ".join(f"{name} {cpu.selector(i):04x}" for i, name in enumerate(SEGMENT_NAMES))
        + f"  fs base {cpu.segment_base(4):#x}  gs base {cpu.segment_base(5):#x}"
        + f"  other gs base {cpu.kernel_gs_base:#x}"
    )
    control = f"cr0 {cpu.cr0:#x}  cr2 {cpu.cr2:#x}  cr3 {cpu.cr3:#x}  cr4 {cpu.cr4:#x}"
    if domain.width == 64:
        tables = f"kernel table {domain.table:#x}  user table {domain.user_table:#x}"
        stack = f"kernel stack {domain.kernel_sp:#x}"
    else:
        tables = f"L3 table {domain.l3:#x} (hidden L4 table {domain.table:#x})"
        stack = f"kernel stack {domain.kernel_ss:04x}:{domain.kernel_sp:#x}"
    lines.append(f"{control}  {tables}  {stack}")
    return lines


def _walk(hv: "Hypervisor", domain: Domain, va: int, access: Access) -> Walk | None:
    table = domain.table if domain.kernel_mode else domain.user_table
    if domain.width == 64:
        va &= _M64
    else:
        # Ring 1 is the supervisor to the MMU, and has pages of its own.
        va, access = va & _M32, replace(access, user=not domain.kernel_mode)
    if table == NO_FRAME:
        return None
    return walk(hv.machine.memory, table << PAGE_SHIFT, VA(va), access=access)


def _read(hv: "Hypervisor", domain: Domain, va: int, length: int) -> bytes:
    """Up to ``length`` bytes at ``va``; what is not mapped or not memory ends it."""
    memory = hv.machine.memory
    found = b""
    while len(found) < length:
        at = (va + len(found)) & _M64
        path = _walk(hv, domain, at, Access(user=True))
        part = min(length - len(found), PAGE_SIZE - (at & PAGE_MASK))
        if path is None or path.ma is None or not memory.holds(path.ma, part):
            break
        found += memory.read(MA(path.ma), part)
    return found


def _place(domain: Domain, address: int) -> str:
    """An address with its symbol, if it has one."""
    name = domain.symbols.name(address)
    return f"{address:#x} <{name}>" if name else f"{address:#x}"


def _code(hv: "Hypervisor", domain: Domain, rip: VA) -> list[str]:
    code = _read(hv, domain, rip, _CODE_BYTES)
    if not code:
        return [f"code at {_place(domain, rip)}: not readable"]
    found = disassemble(code, rip, hv.machine.cpu.bits, _INSTRUCTIONS)
    head = f"code at {_place(domain, rip)}:"
    return [head, *(f"  {instruction}" for instruction in found)]


def _last_exception(hv: "Hypervisor", domain: Domain) -> list[str]:
    """Where the trouble began: a kernel that gives up by itself is far from there by now."""
    trap = domain.last_exception
    if trap is None or trap.rip == hv.machine.cpu.rip:
        return []
    what = f"last exception: {trap}"
    if trap.vector == PF:
        what += f" ({PF_ERROR.describe(trap.error_code)})"
    return [what, *_code(hv, domain, trap.rip)]


def _stack(hv: "Hypervisor", domain: Domain) -> list[str]:
    size = domain.width // 8
    sp = hv.machine.cpu.words[RSP] & (_M64 if size == 8 else _M32)
    raw = _read(hv, domain, sp, size * _STACK_WORDS)
    starts = range(0, len(raw) - size + 1, size)
    words = [int.from_bytes(raw[i : i + size], "little") for i in starts]
    if not words:
        return [f"stack at {sp:#x}: not readable"]
    return [f"stack at {sp:#x}:", "  " + " ".join(f"{word:0{2 * size}x}" for word in words)]


def _walk_cr2(hv: "Hypervisor", domain: Domain) -> str:
    write = bool(hv.machine.cpu.error_code & 2)
    path = _walk(hv, domain, hv.machine.cpu.cr2, Access(user=True, write=write))
    if path is None:
        return "no page table"
    if domain.width == 32:
        path = replace(path, cr3=cr3_of(domain), steps=path.steps[1:], controls=_PAE)
    return path.explain()


def _recent(domain: Domain, item: Happening | Trap) -> str:
    if isinstance(item, Trap):
        name = domain.symbols.name(item.rip)
        return f"[{item.position}] {item}" + (f" <{name}>" if name else "")
    position, what, result = item
    text = f"[{position}] {what}"
    return text if result is None else f"{text} -> {result_name(result)}"
