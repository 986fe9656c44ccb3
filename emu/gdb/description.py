"""Target descriptions: the XML by which gdb learns the registers, their types and their bits.

The types of flag registers are made from the one declaration of each in ``emu.paging``, so that
``info registers cr0`` names exactly the bits that the walker and the hypervisor use.

Source: the gdb manual, appendix "Target Descriptions".
"""

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import Final
from xml.sax.saxutils import quoteattr

from emu.bits import Layout
from emu.gdb.registers import SSE, Register, registers
from emu.paging import CR0, CR3, CR4, EFER, RFLAGS

_ARCHITECTURES: Final = {64: "i386:x86-64", 32: "i386"}
_SYSTEM_FLAGS: Final = {"cr0": CR0, "cr3": CR3, "cr4": CR4, "efer": EFER}
_MXCSR: Final = (
    "IE", "DE", "ZE", "OE", "UE", "PE", "DAZ", "IM", "DM", "ZM", "OM", "UM", "PM", "", "", "FZ",
)  # fmt: skip
_VECTORS: Final = (
    ("v4_float", "ieee_single", 4),
    ("v2_double", "ieee_double", 2),
    ("v16_int8", "int8", 16),
    ("v8_int16", "int16", 8),
    ("v4_int32", "int32", 4),
    ("v2_int64", "int64", 2),
)


@cache
def description(width: int) -> bytes:
    """The document ``target.xml`` of a 32-bit or 64-bit process."""
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
        '<target version="1.0">',
        f"<architecture>{_ARCHITECTURES[width]}</architecture>",
    ]
    for feature, members in groupby(registers(width), lambda register: register.feature):
        lines.append(f"<feature name={quoteattr(feature)}>")
        listed = list(members)
        lines += _types(feature, listed)
        lines += [_register(register) for register in listed]
        lines.append("</feature>")
    lines.append("</target>\n")
    return "\n".join(lines).encode("ascii")


def _register(register: Register) -> str:
    group = f" group={quoteattr(register.group)}" if register.group else ""
    return f'<reg name="{register.name}" bitsize="{register.bits}" type="{register.type}"{group}/>'


def _types(feature: str, members: list[Register]) -> Iterator[str]:
    """The types that the registers of a feature need beyond gdb's own."""
    if feature == SSE:
        for name, element, count in _VECTORS:
            yield f'<vector id="{name}" type="{element}" count="{count}"/>'
        yield '<union id="vec128">'
        yield from (f'<field name="{name}" type="{name}"/>' for name, _, _ in _VECTORS)
        yield '<field name="uint128" type="uint128"/>'
        yield "</union>"
        yield '<flags id="i386_mxcsr" size="4">'
        yield from (_field(name, bit, 1) for bit, name in enumerate(_MXCSR) if name)
        yield "</flags>"
        return
    for register in members:
        if register.type == "i386_eflags":
            # As gdb prints it without a description: only single bits, IOPL would always show.
            yield from _flags(register, RFLAGS, wide=False)
        elif register.name in _SYSTEM_FLAGS:
            yield from _flags(register, _SYSTEM_FLAGS[register.name], wide=True)


def _flags(register: Register, layout: Layout, *, wide: bool) -> Iterator[str]:
    """A flags type of as many bits as the register has, from the declaration of its layout."""
    yield f'<flags id="{register.type}" size="{register.size}">'
    for item in layout.fields:
        for part in item.parts:
            width = min(part.width, register.bits - part.low)
            if width > 0 and (wide or part.width == 1):
                yield _field(item.name, part.low, width)
    yield "</flags>"


def _field(name: str, low: int, width: int) -> str:
    kind = "" if width == 1 else ' type="uint64"'
    return f'<field name="{name}" start="{low}" end="{low + width - 1}"{kind}/>'
