"""#SS where the engine says #GP: an address that is not canonical, in the stack segment.

Long mode has no segment limits, but an access through SS to an address that is not canonical is
#SS(0), not #GP(0). The engine makes no difference (nor does QEMU). So a #GP(0) that no privileged
instruction explains is looked at once more: the instruction's stack access (PUSH, POP, CALL, RET,
ENTER, LEAVE, IRET...) or its memory operand with base RSP or RBP, without FS or GS.

Not known: a base that is left out with RBP as index of scale 1, which disassembly does not tell
from RBP as base.

Source: Intel SDM volume 1, 3.3.7.1 and 3.7.4 (default segments); volume 2 (exceptions in 64-bit
mode).
"""

import re
from typing import Final

from emu.cpu import RBP, REGISTER_NAMES, RSP, Cpu
from emu.disasm import disassemble
from emu.units import is_canonical

_M64: Final = (1 << 64) - 1
_PUSHES: Final = frozenset({"push", "pushf", "pushfq", "call", "enter"})
_POPS: Final = frozenset({"pop", "popf", "popfq", "ret", "retf", "retfq", "iret", "iretd", "iretq"})
_NO_ACCESS: Final = frozenset({"lea", "nop"})
_SIZES: Final = {
    "byte": 1, "word": 2, "dword": 4, "fword": 6, "qword": 8, "xword": 10, "xmmword": 16,
}  # fmt: skip
_OPERAND: Final = re.compile(r"(?:(\w+) ptr )?(?:(\w\w):)?\[([^]]+)\]")
_TERM: Final = re.compile(r"([+-]?)\s*(?:(\w+)\*(\d)|(\w+))\s*")


def is_stack_fault(cpu: Cpu, code: bytes, rip: int) -> bool:
    """True if ``code`` at ``rip``, which raised #GP(0), ought to have raised #SS(0).

    ``code``: up to 15 bytes; none where RIP is not canonical itself.
    """
    if cpu.bits != 64 or not code:
        return False
    instruction = disassemble(code, rip, count=1)[0]
    name = instruction.mnemonic.split()[-1]
    if instruction.is_bad or name in _NO_ACCESS:
        return False
    explicit = _operand(cpu, instruction.operands)
    width = 2 if 0x66 in instruction.bytes[:-1] and name not in ("call", "ret") else 8
    stack = cpu.words[RSP]
    if name in _POPS or name == "leave":
        return _outside(cpu.words[RBP] if name == "leave" else stack, width) or explicit is True
    if explicit is not None:
        return explicit
    return name in _PUSHES and _outside(stack - width, width)


def _operand(cpu: Cpu, operands: str) -> bool | None:
    """For a memory operand that is not canonical whether it is SS's; None where there is none."""
    found = _OPERAND.search(operands)
    if found is None:
        return None
    size, segment, inside = found.groups()
    where = 0
    base = ""
    for sign, index, scale, plain in _TERM.findall(inside):
        name = index or plain
        if name in REGISTER_NAMES:
            value = cpu.register(name) * int(scale or 1)
            base = base or (plain or "none")
        elif name[0].isdigit():
            value = int(name, 0)
        else:
            return None  # RIP, or an address of 32 bits: canonical
        where += -value if sign == "-" else value
    if not _outside(where, _SIZES.get(size, 1)):
        return None
    return base in ("rsp", "rbp") and segment not in ("fs", "gs")


def _outside(where: int, size: int) -> bool:
    return not (is_canonical(where & _M64) and is_canonical((where + size - 1) & _M64))
