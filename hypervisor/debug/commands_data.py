"""Commands that look at one domain's CPU and memory, and the few that change it."""

import re
from dataclasses import replace
from typing import Final

from emu.debug.examine import (
    FORMATS,
    SIZES,
    Format,
    Read,
    examine,
    parse_format,
    unreadable,
    value_text,
)
from emu.debug.expressions import TYPES
from hypervisor.debug import views_cpu
from hypervisor.debug.commands import Context, command
from hypervisor.debug.model import DebugError

_SPACED: Final = re.compile(r"^([pmv]):(.*)$", re.DOTALL)
_CAST: Final = re.compile(
    r"^(?:\*\s*\(\s*([\w ]+?)\s*\*\s*\)|\{\s*([\w ]+?)\s*\})\s*(.*)$", re.DOTALL
)


def slash(text: str) -> tuple[str, str]:
    """(what stands behind a leading slash, the rest); the first is empty if there is no slash."""
    if not text.startswith("/"):
        return "", text
    wanted, _, rest = text[1:].partition(" ")
    return wanted, rest.strip()


def typed_place(context: Context, text: str) -> tuple[int, int | None]:
    """(address, bytes) of what ``text`` names: ``*(u32 *)A``, ``{u32}A``, ``*A`` or ``A``.

    Bytes are None if it does not say.

    Raises:
        DebugError: it has no address, or the type is unknown.
    """
    text = text.strip()
    match = _CAST.match(text)
    if match is not None:
        name = (match[1] or match[2]).removeprefix("unsigned ").strip()
        size = context.word if name == "long" else TYPES.get(name)
        if size is None:
            raise DebugError(f"{name}: no such type; there are {', '.join(TYPES)}, long")
        return context.value(match[3]), size
    if text.startswith("*"):
        return context.value(text[1:]), context.word
    return context.value(text), None


@command("registers", "[NAME...]", aliases=("regs",), group="data", completes="register")
def registers(context: Context, arguments: str) -> str:
    """Show the selected domain's registers, control registers and flags bit by bit.

    With names only these: 'registers rip cr3 xmm0'.
    """
    if not arguments:
        return views_cpu.registers_view(context.space, context.registers)
    try:
        return views_cpu.register_view(context.space, context.registers, arguments.split())
    except KeyError as error:
        raise DebugError(f"there is no register {error.args[0]}") from error


@command("info registers", "[NAME...]", group="data", completes="register")
def info_registers(context: Context, arguments: str) -> str:
    """The registers as QEMU's monitor prints them, which gdb extensions parse.

    'registers' is easier to read. With names: only these.
    """
    if arguments:
        return registers(context, arguments)
    return views_cpu.qemu_registers(context.space, context.registers)


@command("print", "[/FMT] EXPRESSION", aliases=("p", "inspect", "output"), group="data",
         completes="expression")  # fmt: skip
def print_(context: Context, arguments: str) -> str:
    """Show the value of an expression: numbers, symbols, $registers, *memory, C's operators.

    '*ADDRESS' reads a word, '*(u8 *)ADDRESS' a byte (u8 u16 u32 u64, char short int long).
    FMT is one of x d u o t c a; without it hex, decimal and the symbol are shown.
    """
    wanted, text = slash(arguments)
    value = context.value(text)
    if not wanted:
        signed = value - (1 << 64) if value >> 63 else value
        symbol = context.symbol(value)
        return f"{value:#x}  {signed}" + (f"  <{symbol}>" if symbol else "")
    chosen = parse_format(wanted, Format(size=8))
    if chosen.letter in "si":
        raise DebugError(f"/{chosen.letter} is for memory: use x")
    return value_text(value, chosen.letter, chosen.size, context.symbol)


@command("x", "[/NFU] [p:|m:]ADDRESS", group="data", completes="expression")
def x(context: Context, arguments: str) -> str:
    """Show memory at a virtual, pseudo-physical (p:) or machine (m:) address.

    N is how many, F one of x d u o t c a s i (instructions), U the size: b h w g (1 2 4 8 bytes).
    Without an address it goes on where it ended. Looking sets no accessed bit and never faults.
    """
    wanted, text = slash(arguments)
    previous = context.format
    chosen = parse_format(wanted, previous) if wanted else replace(previous, count=1)
    place = _SPACED.match(text)
    kind, text = (place[1], place[2]) if place is not None else ("v", text)
    if text.strip():
        context.next_space = kind
        address = context.address(text)
    elif context.next_address is not None:
        kind, address = context.next_space, context.next_address
    else:
        raise DebugError("an address is missing")
    context.format = replace(chosen, count=1)
    shown = _examine(context, kind, address, chosen)
    if shown == unreadable(address):  # nothing at all: of a range that is there in part it is shown
        raise DebugError(shown)
    return shown


def _examine(context: Context, kind: str, address: int, chosen: Format) -> str:
    read: Read
    if kind == "m":
        read = context.machine_space.read_machine
    elif kind == "p":
        read = context.space.read_pseudo
    else:
        read = context.space.read
    name = context.symbol if kind == "v" else _nameless
    if chosen.letter == "i":
        if kind != "v":
            raise DebugError("instructions are shown at virtual addresses only")
        text, end = views_cpu.code_view(context.space, context.registers, address, chosen.count)
    else:
        text, end = examine(read, address, chosen, name)
    context.next_address = end
    return text


def _nameless(_address: int) -> str:
    return ""


@command("disassemble", "[ADDRESS | START,END | START,+BYTES]", aliases=("disas",), group="data",
         completes="symbol")  # fmt: skip
def disassemble(context: Context, arguments: str) -> str:
    """Disassemble the function at the next instruction, or the one at ADDRESS, or a range.

    Targets are named, and where the line table knows it each line has its source line.
    """
    _, text = slash(arguments)
    space, now = context.space, context.registers
    if "," not in text:
        return views_cpu.function_view(space, now, context.address(text, now.rip))
    first, _, last = text.partition(",")
    start = context.address(first)
    last = last.strip()
    end = start + context.value(last[1:]) if last.startswith("+") else context.value(last)
    if end <= start:
        raise DebugError(f"{text}: the range ends before it begins")
    return views_cpu.range_view(space, now, start, end)


@command("list", "[LOCATION]", aliases=("l",), group="data", completes="symbol")
def list_(context: Context, arguments: str) -> str:
    """Show the source around the next instruction, a symbol, an address or file:line.

    Without an argument it goes on where it ended.
    """
    if not arguments:
        if context.listed is not None:
            file, line = context.listed
            context.listed = (file, line + 10)
            return views_cpu.file_view(file, line + 5)
        address = context.registers.rip
    else:
        address = context.address(arguments)
    found = context.domain.symbols.lines.lookup(address)
    if found is not None:
        context.listed = (found[0], found[1] + 5)
    return views_cpu.source_view(context.space, address)


@command("backtrace", "[N]", aliases=("bt", "where"), group="data")
def backtrace(context: Context, arguments: str) -> str:
    """Show where the domain is and, by what its stack holds, where it seems to have come from.

    Return addresses are recognised by the call before them, trap frames by their selectors.
    """
    limit = context.value(arguments) if arguments else 64
    return views_cpu.backtrace(context.space, context.registers, min(limit, 1000))


@command("info symbol", "ADDRESS", group="data", completes="expression")
def info_symbol(context: Context, arguments: str) -> str:
    """Say which symbol an address belongs to, and which source line."""
    address = context.address(arguments)
    names = views_cpu.names_of(context.domain)
    source = names.source(address)
    called = names.symbol(address) or "no symbol"
    return f"{address:#x} is {called}" + (f", {source}" if source else "")


@command("info address", "SYMBOL", group="data", completes="symbol")
def info_address(context: Context, arguments: str) -> str:
    """Say where a symbol is."""
    found = context.domain.symbols.address(arguments)
    if found is None:
        raise DebugError(f"no symbol {arguments!r}")
    return f"{arguments} is at {found:#x}"


@command("info line", "[LOCATION]", group="data", completes="symbol")
def info_line(context: Context, arguments: str) -> str:
    """Say which source line the code at a location comes from."""
    address = context.address(arguments, context.registers.rip)
    names = views_cpu.names_of(context.domain)
    return f"{names.place(address)}: {names.source(address) or 'no line is known'}"


@command("info symbols", "[TEXT]", aliases=("info functions", "info variables"), group="data")
def info_symbols(context: Context, arguments: str) -> str:
    """List the symbols whose names contain TEXT, with their addresses."""
    symbols = context.domain.symbols
    found = [name for name in symbols.names() if arguments in name]
    if not found:
        return f"no symbol with {arguments!r} in its name"
    lines = [f"{symbols.address(name) or 0:#018x}  {name}" for name in found[:1000]]
    if len(found) > len(lines):
        lines.append(f"... and {len(found) - len(lines):,} more")
    return "\n".join(lines)


@command("set", "$REGISTER = VALUE | *(TYPE *)ADDRESS = VALUE", group="data", moves=True,
         completes="expression")  # fmt: skip
def set_(context: Context, arguments: str) -> str:
    """Write a register or memory of the selected domain: an input, from which a new future begins.

    'set *A = V' writes a word, '*(u8 *)A' a byte, 'set SYMBOL = V' a word at the symbol. A shared
    page, another domain's and a page table are refused: a debugger never leaks into others.
    """
    arguments = arguments.removeprefix("var ").strip()
    target, equals, text = arguments.partition("=")
    if not equals or text.startswith("="):
        raise DebugError("set what? ('set $rax = 1', 'set *(u32 *)ADDRESS = 1')")
    target, value = target.strip(), context.value(text)
    if target.startswith("$"):
        name = views_cpu.canonical_name(target)
        context.debugger.set_register(context.domain.id, name, value)
        return ""
    address, size = typed_place(context, target)
    size = size or context.word
    data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    context.debugger.write(context.domain.id, address, data)
    return ""


@command("display", "[/FMT EXPRESSION]", group="data", completes="expression")
def display(context: Context, arguments: str) -> str:
    """Show an expression after each stop; with /FMT of a size or i or s: memory, as x does.

    Without arguments show all now. 'undisplay N' ends one.
    """
    if not arguments:
        return displays_text(context)
    wanted, text = slash(arguments)
    if not text:
        raise DebugError("an expression is missing")
    number = max(context.displays, default=0) + 1
    shown = _display(context, wanted, text)
    context.displays[number] = (wanted, text)
    return f"{number}: {text} = {shown}"


def _display(context: Context, wanted: str, text: str) -> str:
    if not wanted:
        return print_(context, text)
    chosen = parse_format(wanted, Format())
    if chosen.letter in "si" or set(wanted) & set(SIZES) or chosen.count > 1:
        keep = context.next_address, context.format
        shown = _examine(context, "v", context.address(text), chosen)
        context.next_address, context.format = keep
        return "\n" + shown
    return print_(context, f"/{wanted} {text}")


def displays_text(context: Context) -> str:
    """All that is displayed after each stop."""
    lines = []
    for number, (wanted, text) in context.displays.items():
        try:
            shown = _display(context, wanted, text)
        except DebugError as error:
            shown = str(error)
        lines.append(f"{number}: {text} = {shown}")
    return "\n".join(lines)


@command("undisplay", "[N...]", group="data")
def undisplay(context: Context, arguments: str) -> str:
    """End the display of some expressions, or of all."""
    for word in arguments.split():
        if not word.isdigit() or int(word) not in context.displays:
            raise DebugError(f"there is no display {word}")
    numbers = [int(word) for word in arguments.split()] or list(context.displays)
    for number in numbers:
        context.displays.pop(number, None)
    return ""


@command("info display", group="data")
def info_display(context: Context, _arguments: str) -> str:
    """List what is shown after each stop."""
    lines = [
        f"{number}: {'/' + wanted + ' ' if wanted else ''}{text}"
        for number, (wanted, text) in context.displays.items()
    ]
    return "\n".join(lines) or f"nothing (formats: {FORMATS})"
