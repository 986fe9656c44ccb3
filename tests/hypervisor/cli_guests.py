"""Small kernels that end in every way there is, for the tests of the command line."""

from pathlib import Path

_HEAD = """
.text
.global _start
_start:
"""

_PRINT = """
    lea rdx, [rip + text]
    mov esi, offset text_end - text
    xor edi, edi                # CONSOLEIO_write
    mov eax, 18                 # console_io
    syscall
"""

_TEXT = """
.rodata
text: .ascii "{text}\\n"
text_end:
"""

_SHUTDOWN = """
    lea rsi, [rip + reason]
    mov edi, 2                  # SCHEDOP_shutdown
    mov eax, 29                 # sched_op
    syscall
.data
reason: .long {reason}
"""


def says(text: str, reason: int = 0) -> str:
    """Prints a line and shuts down for ``reason`` (0 poweroff, 3 crash)."""
    return _HEAD + _PRINT + _SHUTDOWN.format(reason=reason) + _TEXT.format(text=text)


HYPERCALL = _HEAD + "    mov eax, {number}\n    syscall\n"
"""Makes a hypercall; what follows ``_start:`` of another guest goes on."""

SAYS_AND_LOOPS = _HEAD + _PRINT + "1: jmp 1b\n" + _TEXT.format(text="go")

CRASH = _HEAD + "    mov rax, [0x1234]\n"
"""Reads address 0x1234 and has no handler for the fault."""

JUMPS_AWAY = _HEAD + "    mov rax, 0x7000dead0000\n    jmp rax\n"

LOOP = _HEAD + "1: jmp 1b\n"

BLOCKS = _HEAD + "    mov edi, 1\n    mov eax, 29\n    syscall\n1: ud2\n"
"""SCHEDOP_block, for an event that never comes."""

ECHO = (
    _HEAD
    + """
1:  lea rdx, [rip + buffer]
    mov esi, 16
    mov edi, 1                  # CONSOLEIO_read
    mov eax, 18
    syscall
    test eax, eax
    jle 2f
    mov esi, eax
    lea rdx, [rip + buffer]
    xor edi, edi
    mov eax, 18
    syscall
    jmp 1b
2:
"""
    + _SHUTDOWN.format(reason=0)
    + ".bss\nbuffer: .zero 16\n"
)
"""Prints what it reads until there is no more."""


def write(directory: Path, name: str, source: str) -> str:
    """The source as a file ``name``; its path."""
    path = directory / name
    path.write_text(source)
    return str(path)
