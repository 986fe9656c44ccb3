"""The crash report: where a domain was when it could not go on, for a person to read.

It is made while the domain's state is in the CPU, and reads whatever that state is without trusting
any of it: RIP, RSP and CR2 may point anywhere, tables may hold anything. What cannot be read is
said to be unreadable; the report never fails and never writes guest memory, A bits included.
"""

from typing import TYPE_CHECKING, Final

from emu import Trap
from emu.cpu import REGISTER_NAMES, RSP, SEGMENT_NAMES
from emu.disasm import disassemble
from emu.paging import PF_ERROR, RFLAGS
from emu.trap import PF
from emu.units import MA, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, VA
from emu.walk import Access, Walk, walk
from hypervisor.abi import result_name
from hypervisor.domain import NO_FRAME, Domain, Happening

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_CODE_BYTES: Final = 32
_INSTRUCTIONS: Final = 4
_STACK_WORDS: Final = 8
_M64: Final = (1 << 64) - 1


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
    lines = [f"rip {cpu.rip:#018x}{where}  {mode} mode, {cpu.bits}-bit code"]
    names = [f"{name:>3} {cpu.register(name):016x}" for name in REGISTER_NAMES]
    lines += ["  ".join(names[i : i + 4]) for i in range(0, len(names), 4)]
    flags = cpu.flags
    lines.append(f"rflags {flags:#x} ({RFLAGS.describe(flags)})")
    lines.append(
        "  ".join(f"{name} {cpu.selector(i):04x}" for i, name in enumerate(SEGMENT_NAMES))
        + f"  fs base {cpu.segment_base(4):#x}  gs base {cpu.segment_base(5):#x}"
        + f"  other gs base {cpu.kernel_gs_base:#x}"
    )
    lines.append(
        f"cr0 {cpu.cr0:#x}  cr2 {cpu.cr2:#x}  cr3 {cpu.cr3:#x}  cr4 {cpu.cr4:#x}"
        f"  kernel table {domain.table:#x}  user table {domain.user_table:#x}"
        f"  kernel stack {domain.kernel_sp:#x}"
    )
    return lines


def _walk(hv: "Hypervisor", domain: Domain, va: int, access: Access) -> Walk | None:
    table = domain.table if domain.kernel_mode else domain.user_table
    if table == NO_FRAME:
        return None
    return walk(hv.machine.memory, table << PAGE_SHIFT, VA(va & _M64), access=access)


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
    sp = hv.machine.cpu.words[RSP]
    raw = _read(hv, domain, sp, 8 * _STACK_WORDS)
    words = [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw) - 7, 8)]
    if not words:
        return [f"stack at {sp:#x}: not readable"]
    return [f"stack at {sp:#x}:", "  " + " ".join(f"{word:016x}" for word in words)]


def _walk_cr2(hv: "Hypervisor", domain: Domain) -> str:
    write = bool(hv.machine.cpu.error_code & 2)
    path = _walk(hv, domain, hv.machine.cpu.cr2, Access(user=True, write=write))
    return "no page table" if path is None else path.explain()


def _recent(domain: Domain, item: Happening | Trap) -> str:
    if isinstance(item, Trap):
        name = domain.symbols.name(item.rip)
        return f"[{item.position}] {item}" + (f" <{name}>" if name else "")
    position, what, result = item
    text = f"[{position}] {what}"
    return text if result is None else f"{text} -> {result_name(result)}"
