"""Views of one domain's CPU: registers with every bit named, code, source, the stack.

Nothing here is trusted: RIP and RSP may point anywhere, and what cannot be read is said to be so.
A backtrace is a guess where there are no frame pointers: words on the stack that point behind a
call, and frames that a trap left there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from emu.cpu import REGISTER_NAMES, SEGMENT_NAMES
from emu.debug.code import Names, annotate, instructions, listing, source_line, source_lines
from emu.debug.qemu import info_registers, segment_caches
from emu.disasm import disassemble
from emu.paging import CR0, CR3, CR4, EFER, RFLAGS
from emu.registers import Registers
from hypervisor.debug.space import Space
from hypervisor.domain import Domain, State

_CONTEXT: Final = 10
"""Lines of a source listing."""
_STACK_WORDS: Final = 4096
"""Words of the stack that a backtrace looks at."""
_MAX_FRAMES: Final = 64
_CODE_SELECTORS: Final = {64: {0xE033, 0xE030, 0xE023, 0xE020}, 32: {0xE019, 0xE02B}}
"""CS of Xen's flat segments, as a bounce frame has them (RPL cleared in kernel mode)."""
_FIXED_FLAG: Final = 2


def names_of(domain: Domain) -> Names:
    """How the domain's addresses are called."""
    return Names(domain.symbols.name, domain.symbols.lines)


def register_names(bits: int) -> list[str]:
    """General registers by their names in code of this width."""
    if bits == 64:
        return list(REGISTER_NAMES)
    return ["e" + name[1:] for name in REGISTER_NAMES[:8]]


def canonical_name(name: str) -> str:
    """``eax`` and ``pc`` and the like by the names of the 64-bit registers."""
    lower = name.lower().removeprefix("$")
    if lower in ("pc", "eip"):
        return "rip"
    if lower in ("sp", "fp"):
        return "rsp" if lower == "sp" else "rbp"
    if lower in ("eflags", "flags"):
        return "rflags"
    if "r" + lower[1:] in REGISTER_NAMES[:8] and lower.startswith("e"):
        return "r" + lower[1:]
    return lower


def registers_view(space: Space, registers: Registers) -> str:
    """All registers, control registers and flags decoded."""
    domain = space.domain
    digits = registers.bits // 4 if registers.bits in (32, 64) else 8
    mask = (1 << 4 * digits) - 1
    mode = "kernel" if domain.kernel_mode else "user"
    place = names_of(domain).place(registers.rip)
    lines = [f"{domain.label}  rip {place}  {mode} mode, {registers.bits}-bit code"]
    cells = [
        f"{name:>3} {registers.value(canonical_name(name)) & mask:0{digits}x}"
        for name in register_names(registers.bits)
    ]
    lines += ["  ".join(cells[i : i + 4]) for i in range(0, len(cells), 4)]
    lines.append(f"rflags {registers.rflags:#x}  {RFLAGS.describe(registers.rflags)}")
    selectors = zip(SEGMENT_NAMES, registers.selectors, strict=True)
    lines.append("  ".join(f"{name} {value:04x}" for name, value in selectors))
    lines.append(
        f"fs_base {registers.fs_base:#x}  gs_base {registers.gs_base:#x}"
        f"  k_gs_base {registers.k_gs_base:#x}"
    )
    lines += control_lines(space, registers)
    return "\n".join(lines)


def control_lines(space: Space, registers: Registers) -> list[str]:
    """CR0, CR2, CR3, CR4 and EFER, every bit named."""
    lines = [f"cr0 {registers.cr0:#x}  {CR0.describe(registers.cr0)}"]
    lines.append(f"cr2 {names_of(space.domain).place(registers.cr2)}")
    hidden = f"  (hidden; its own L3 table: {space.domain.l3:#x})" if space.hides_top else ""
    lines.append(f"cr3 {registers.cr3:#x}  {CR3.describe(registers.cr3)}{hidden}")
    lines.append(f"cr4 {registers.cr4:#x}  {CR4.describe(registers.cr4)}")
    lines.append(f"efer {registers.efer:#x}  {EFER.describe(registers.efer)}")
    return lines


def register_view(space: Space, registers: Registers, names: list[str]) -> str:
    """Some registers by name, a line for each.

    Raises:
        KeyError: there is none of that name.
    """
    lines = []
    described = {"rflags": RFLAGS, "cr0": CR0, "cr3": CR3, "cr4": CR4, "efer": EFER}
    for name in names:
        real = canonical_name(name)
        value = registers.value(real)
        if real in described:
            text = described[real].describe(value)
        elif real.startswith(("st", "xmm")) or real in SEGMENT_NAMES:
            text = ""
        else:
            called = space.symbol(value)
            text = f"<{called}>" if called else str(value)
        lines.append(f"{name.removeprefix('$'):<10} {value:#x}  {text}".rstrip())
    return "\n".join(lines)


def qemu_registers(space: Space, registers: Registers) -> str:
    """The registers as QEMU's monitor shows them, then the control registers decoded."""
    hv, domain = space.hv, space.domain
    running = hv.current is domain
    state = hv.machine.cpu.state if running else domain.saved or hv.idle_state
    halted = domain.state is not State.RUNNABLE
    lines = info_registers(registers, segment_caches(state), domain.debug_registers, halted)
    return "\n".join([*lines, *control_lines(space, registers)])


# --- code ----------------------------------------------------------------------------------


def next_instruction(space: Space, registers: Registers) -> str:
    """The instruction that comes next, with its source line: what every stop shows."""
    names = names_of(space.domain)
    found = instructions(space.read, registers.rip, 1, registers.bits)
    head = f"=> {names.place(registers.rip)}:"
    if not found:
        return f"{head}  not readable"
    source = names.source(registers.rip)
    return f"{head}  {annotate(found[0], names.symbol)}" + (f"  {source}" if source else "")


def function_view(space: Space, registers: Registers, address: int) -> str:
    """The code from the symbol at or below ``address`` up to the next symbol."""
    symbols = space.domain.symbols
    near = symbols.nearest(address)
    if near is None:
        return code_view(space, registers, address, _CONTEXT)[0]
    start = address - near[1]
    end = symbols.following(start)
    length = 1 << 12 if end is None else min(end - start, 1 << 12)
    return range_view(space, registers, start, max(start + length, address + 1))


def range_view(space: Space, registers: Registers, start: int, end: int) -> str:
    """The instructions that begin at ``start`` up to ``end`` (exclusive)."""
    code = space.read(start, min(end - start, 1 << 16))
    count = len(disassemble(code, start, registers.bits))
    return code_view(space, registers, start, max(count, 1))[0]


def code_view(space: Space, registers: Registers, address: int, count: int) -> tuple[str, int]:
    """``count`` instructions from ``address`` on, and the address behind them."""
    names = names_of(space.domain)
    return listing(space.read, address, count, registers.bits, names, pc=registers.rip)


def source_view(space: Space, address: int, around: int = _CONTEXT) -> str:
    """The source around the line of an address, an arrow at it."""
    found = space.domain.symbols.lines.lookup(address)
    if found is None:
        return f"no source line is known for {names_of(space.domain).place(address)}"
    return file_view(found[0], found[1], around, mark=found[1])


def file_view(file: str, line: int, around: int = _CONTEXT, mark: int | None = None) -> str:
    """``around`` lines of a file from half as many before ``line`` on."""
    if not source_lines(file):
        return f"{file}:{line}: the file is not there"
    first = max(1, line - around // 2)
    lines = [f"{Path(file).name}:"]
    last = min(first + around, len(source_lines(file)) + 1)
    for number in range(first, last):
        arrow = "=>" if number == mark else "  "
        lines.append(f"{arrow}{number:5}  {source_line(file, number)}".rstrip())
    return "\n".join(lines)


# --- stack ---------------------------------------------------------------------------------


def backtrace(space: Space, registers: Registers, limit: int = _MAX_FRAMES) -> str:
    """Where the domain is, and where it seems to have come from."""
    names = names_of(space.domain)
    lines = []
    for number, (address, how) in enumerate(_frames(space, registers)):
        if number >= limit:
            lines.append("...")
            break
        # Behind a call that never returns the next function begins: the call's own line counts.
        back = int(bool(number) and not how)
        line = names.line(address - back)
        near = space.domain.symbols.nearest(address - back)
        called = "" if near is None else f" <{near[0]}+{near[1] + back:#x}>"
        place = f"{address:#x}{called}" if back else names.place(address)
        text = f"#{number:<3}{place}" + (f"  at {line}" if line else "")
        lines.append(text + (f"  ({how})" if how else ""))
    return "\n".join(lines)


def _frames(space: Space, registers: Registers) -> Iterator[tuple[int, str]]:
    """(address, how it was found) of each frame, innermost first."""
    yield registers.rip, ""
    size = 8 if registers.bits == 64 else 4
    sp = registers.value("rsp") & ((1 << 8 * size) - 1)
    stack = space.read(sp, _STACK_WORDS * size)
    words = [
        int.from_bytes(stack[i : i + size], "little") for i in range(0, len(stack) - size + 1, size)
    ]
    for i, word in enumerate(words):
        following = words[i + 1 : i + 3]
        if (
            len(following) == 2
            and following[0] & 0xFFFF in _CODE_SELECTORS[8 * size]
            and following[1] & _FIXED_FLAG
            and following[1] >> 22 == 0
            and space.read(word, 1)
        ):
            from_user = following[0] & 3 == 3
            yield word, "interrupted here, in user mode" if from_user else "interrupted here"
            if from_user:
                return  # what lies above is of no frame: the kernel's stack begins here
        elif space.symbol(word) and _follows_call(space, registers.bits, word):
            yield word, ""


def _follows_call(space: Space, bits: int, address: int) -> bool:
    """True if the instruction before ``address`` is a call."""
    for length in (5, 2, 3, 6, 7):
        code = space.read(address - length, length)
        found = disassemble(code, address - length, bits, 1)
        if found and found[0].mnemonic == "call" and found[0].size == length:
            return True
    return False
