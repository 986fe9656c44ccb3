"""Assembler for guest sources: Intel syntax, GNU-like directives, 64- and 32-bit code.

Python does layout, symbols, expressions, macros and errors; Keystone encodes single instructions
(see ``encode.py`` for what it gets wrong). Beyond x86's own mnemonics a source may use:

======================================== =====================================================
``.text .rodata .data .bss``             sections, laid out in this order, page by page
``.section NAME``                        the same, for these names
``.align .balign .p2align``              padding: nops in ``.text``, zeros elsewhere
``.byte .word .long .quad``              numbers of 1, 2, 4, 8 bytes (``.short .int`` and others)
``.ascii .asciz .string``                text with C's escapes
``.space .skip .zero .fill .org``        room
``NAME = expr``, ``.equ .set``           symbols; those with plain numbers can be set again
``.global``                              marks a symbol for the ELF file's symbol table
``.comm .lcomm``                         room in ``.bss``
``.include .incbin``                     other files
``.macro .endm .rept .irp .endr``        text
``.if .elseif .else .endif``             conditions; also ``.ifdef .ifndef .ifb .ifnb .ifc .ifnc``
``.error``                               stops with a message
``.code32 .code64``                      width of the code that follows
======================================== =====================================================

One source can serve both widths: ``xax xbx xcx xdx xsi xdi xbp xsp`` are the 64- or the 32-bit
register of that name, as the code is; ``xword ptr`` and ``.xword`` are as wide as these; and
``[xip + label]`` is ``[rip + label]``, or plain ``[label]`` in 32-bit code. ``BITS`` (64 or 32)
and ``WSIZE`` (8 or 4 bytes) are constants that conditions can ask for; they say what width the
source is assembled for, whatever ``.code32`` and ``.code64`` do.

An address as a number is ``offset label``; ``movabs reg, label`` takes it bare. ``1:`` with
``1b`` and ``1f`` are numeric labels. ``expr.py`` describes expressions, ``expand.py`` macros.

All errors are ``AssemblyError`` with the text ``file:line: message``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from emu.asm.program import LineEntry, LineTable, Program, Section, SectionFlags
from emu.asm.source import Origin, load_source, read_source

__all__ = [
    "LineEntry",
    "LineTable",
    "Program",
    "Section",
    "SectionFlags",
    "assemble",
    "assemble_bytes",
]

_NO_DEFINES: Mapping[str, int] = {}


def assemble(
    source: Path | str,
    *,
    name: str = "<source>",
    base: int,
    bits: int = 64,
    include_dirs: Sequence[Path] = (),
    defines: Mapping[str, int] = _NO_DEFINES,
) -> Program:
    """Assemble a file (a ``Path``) or a text (a ``str``), linked at the address ``base``.

    ``name`` is what errors and the line table call a text; ``bits`` (32 or 64) is the width of
    code until ``.code32`` or ``.code64``. An included file is looked for beside the file that
    includes it, then in ``include_dirs``. ``defines`` are constants that exist from the start.

    Raises AssemblyError.
    """
    if bits not in (32, 64):
        raise Origin(name, 0).error(f"there is no {bits}-bit code here: 32 or 64")
    if not 0 <= base < 1 << bits:
        raise Origin(name, 0).error(f"base {base:#x} is not a {bits}-bit address")
    # Loaded here: a run whose kernels are ELF files needs no assembler, and starting takes longest.
    from emu.asm.assembler import Assembler

    loaded = load_source(source) if isinstance(source, Path) else read_source(source, name)
    return Assembler(loaded, base, bits, include_dirs, defines).run()


def assemble_bytes(text: str, base: int = 0, bits: int = 64) -> bytes:
    """Machine code of a short text at ``base``; raises AssemblyError."""
    return assemble(text, base=base, bits=bits).image
