"""Selectors, and the segment descriptors and gates that lie in a GDT, LDT or IDT.

Source: Intel SDM volume 3A, sections 3.4.2, 3.4.5, 3.5, 6.11, 6.14.1 and 7.2.3.

An 8-byte descriptor is a 64-bit word; the 16-byte ones of long mode are 128-bit words whose
low half lies at the lower address.
"""

from typing import Final

from emu.bits import Field, Layout, field, flag, split

_CODE_DATA_TYPES: Final = {
    number: kind + ("+accessed" if number & 1 else "")
    for base, kind in enumerate(
        (
            "data-ro",
            "data-rw",
            "data-ro-down",
            "data-rw-down",
            "code-x",
            "code-xr",
            "code-x-conforming",
            "code-xr-conforming",
        )
    )
    for number in (2 * base, 2 * base + 1)
}
_SYSTEM_TYPES: Final = {
    1: "tss16",
    2: "ldt",
    3: "tss16-busy",
    4: "call-gate16",
    5: "task-gate",
    6: "int-gate16",
    7: "trap-gate16",
    9: "tss",
    11: "tss-busy",
    12: "call-gate",
    14: "int-gate",
    15: "trap-gate",
}


def _access(names: dict[int, str]) -> tuple[Field, ...]:
    return (
        field("TYPE", 40, 4, "type", names=names, show_zero=True),
        flag("S", 44, "code or data; clear: system"),
        field("DPL", 45, 2, "descriptor privilege level", show_zero=True),
        flag("P", 47, "present"),
    )


_LIMIT: Final = split("LIMIT", ((0, 16), (48, 4)), "last offset, in units of G", show_zero=True)
_FLAGS: Final = (
    flag("AVL", 52, "free for software"),
    flag("L", 53, "64-bit code"),
    flag("DB", 54, "32-bit operands or stack"),
    flag("G", 55, "limit counts 4 KiB units"),
)
_BASE: Final = split("BASE", ((16, 24), (56, 8)), "first linear address", show_zero=True)

SELECTOR: Final = Layout(
    "segment selector",
    16,
    "Intel SDM 3A 3.4.2",
    (
        field("RPL", 0, 2, "requested privilege level", show_zero=True),
        flag("TI", 2, "LDT; clear: GDT"),
        field("INDEX", 3, 13, "descriptor number", show_zero=True),
    ),
)

SEGMENT: Final = Layout(
    "segment descriptor",
    64,
    "Intel SDM 3A 3.4.5 figure 3-8",
    (_LIMIT, _BASE, *_access(_CODE_DATA_TYPES), *_FLAGS),
)
"""Code and data (S set)."""

SYSTEM_SEGMENT: Final = Layout(
    "system segment descriptor",
    64,
    "Intel SDM 3A 3.5 and 7.2.2",
    (_LIMIT, _BASE, *_access(_SYSTEM_TYPES), *_FLAGS),
)
"""LDT and TSS outside long mode (S clear)."""

SYSTEM_SEGMENT64: Final = Layout(
    "64-bit system segment descriptor",
    128,
    "Intel SDM 3A 7.2.3 figure 7-4",
    (
        _LIMIT,
        split("BASE", ((16, 24), (56, 8), (64, 32)), "first linear address", show_zero=True),
        *_access(_SYSTEM_TYPES),
        flag("AVL", 52, "free for software"),
        flag("G", 55, "limit counts 4 KiB units"),
    ),
)
"""LDT and TSS of long mode."""

GATE: Final = Layout(
    "gate descriptor",
    64,
    "Intel SDM 3A 6.11 figure 6-2",
    (
        split("OFFSET", ((0, 16), (48, 16)), "handler", show_zero=True),
        field("SELECTOR", 16, 16, "handler's code segment", show_zero=True),
        field("COUNT", 32, 5, "parameters copied (call gates)"),
        *_access(_SYSTEM_TYPES),
    ),
)

GATE64: Final = Layout(
    "64-bit gate descriptor",
    128,
    "Intel SDM 3A 6.14.1 figure 6-8",
    (
        split("OFFSET", ((0, 16), (48, 16), (64, 32)), "handler", show_zero=True),
        field("SELECTOR", 16, 16, "handler's code segment", show_zero=True),
        field("IST", 32, 3, "stack of the interrupt stack table; 0: none"),
        *_access(_SYSTEM_TYPES),
    ),
)

SEGMENT_ACCESSED: Final = SEGMENT.field("TYPE").insert(1)
SEGMENT_RW: Final = SEGMENT.field("TYPE").insert(2)
"""Data: writable. Code: readable."""
SEGMENT_CONFORMING: Final = SEGMENT.field("TYPE").insert(4)
"""Of code."""
SEGMENT_CODE: Final = SEGMENT.field("TYPE").insert(8)
SEGMENT_S: Final = SEGMENT.mask("S")
SEGMENT_DPL: Final = SEGMENT.mask("DPL")
SEGMENT_P: Final = SEGMENT.mask("P")
SEGMENT_L: Final = SEGMENT.mask("L")
SEGMENT_DB: Final = SEGMENT.mask("DB")
SEGMENT_G: Final = SEGMENT.mask("G")
SEGMENT_ATTRIBUTES: Final = SEGMENT.mask("TYPE", "S", "DPL", "P", "AVL", "L", "DB", "G")
"""All but base and limit."""
