"""Small 32-bit kernels for tests, as ``kernels`` has 64-bit ones."""

from emu.asm import assemble
from guests.library import VIRT_BASE_32, to_elf
from hypervisor.image import KernelImage, parse_image

MACROS32 = """
.macro hyper number, a1, a2, a3, a4
    .ifnb \\a1
    mov ebx, \\a1
    .endif
    .ifnb \\a2
    mov ecx, \\a2
    .endif
    .ifnb \\a3
    mov edx, \\a3
    .endif
    .ifnb \\a4
    mov esi, \\a4
    .endif
    mov eax, \\number
    int 0x82
.endm
"""
PRELUDE32 = """
.text
.global _start
_start:
"""
TAIL32 = """
poweroff:
    mov dword ptr [scratch], 0
    hyper 29, 2, offset scratch
    ud2
.align 4096
hypercall_page: .zero 4096
.data
scratch: .zero 16384
"""
SPIN32 = "jmp _start\n"


def kernel32(text: str, name: str = "test32") -> KernelImage:
    """A 32-bit kernel that runs ``text`` and, if it falls through, powers off."""
    program = assemble(MACROS32 + PRELUDE32 + text + TAIL32, name=name, base=VIRT_BASE_32, bits=32)
    return parse_image(to_elf(program), name)
