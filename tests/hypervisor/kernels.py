"""Small kernels for tests: assembled from a few lines, built by the real builder, run for real.

``Lab`` is a machine; ``boot`` builds a domain. ``Caller`` stands in a domain's shoes: it makes
hypercalls with arguments in the domain's own memory, without running any of its code.
"""

import struct

from emu.asm import assemble
from emu.units import PAGE_SIZE
from guests.library import VIRT_BASE, to_elf
from hypervisor.abi import DomId, Hypercall, Record, to_bytes
from hypervisor.audit import audit
from hypervisor.builder import build_domain, plan
from hypervisor.console import Console
from hypervisor.domain import Domain, Exit
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import KernelImage, parse_image
from hypervisor.settings import Settings

PRELUDE = """
.macro call number, a1, a2, a3
    .ifnb \\a1
    mov rdi, \\a1
    .endif
    .ifnb \\a2
    mov rsi, \\a2
    .endif
    .ifnb \\a3
    mov rdx, \\a3
    .endif
    mov eax, \\number
    syscall
.endm
.text
.global _start
_start:
"""
TAIL = """
poweroff:
    mov dword ptr [rip + scratch], 0
    lea rsi, [rip + scratch]
    call 29, 2
    ud2
.align 4096
hypercall_page: .zero 4096
.data
scratch: .zero 16384
"""
SPIN = "jmp _start\n"


def kernel(text: str, name: str = "test") -> KernelImage:
    """A kernel that runs ``text`` and, if it falls through, powers off."""
    program = assemble(PRELUDE + text + TAIL, name=name, base=VIRT_BASE)
    return parse_image(to_elf(program), name)


class Lab:
    """A machine and how its domains ended."""

    def __init__(self, memory: int = 16 << 20, slice_: int = 50_000) -> None:
        self.hv = Hypervisor(Settings(machine_memory=memory, slice=slice_))
        self.free = self.hv.frames.free
        self.exits: dict[int, Exit] = {}
        self.hv.listen(self._note)

    def _note(self, kind: str, domain: Domain | None, _details: object) -> None:
        if kind == "exit" and domain is not None and domain.exit is not None:
            self.exits[domain.id] = domain.exit

    def boot(
        self,
        text: str | KernelImage,
        *,
        memory: int = 1 << 20,
        cmdline: str = "",
        module: bytes | None = None,
        privileged: bool = False,
    ) -> Domain:
        image = kernel(text) if isinstance(text, str) else text
        return build_domain(
            self.hv,
            image,
            memory=memory,
            name="test",
            cmdline=cmdline,
            module=module,
            console=Console(),
            privileged=privileged,
        )

    def check(self) -> None:
        """The audit is clean."""
        assert audit(self.hv) == []

    def check_empty(self) -> None:
        """All domains are gone and left nothing behind."""
        assert not self.hv.domains
        assert self.hv.frames.free == self.free
        self.check()


class Caller:
    """Hypercalls on behalf of a domain that was booted with ``SPIN``."""

    def __init__(self, lab: Lab, *, privileged: bool = False, memory: int = 1 << 20) -> None:
        self.lab, self.hv = lab, lab.hv
        self.image = kernel(SPIN)
        self.domain = lab.boot(self.image, privileged=privileged, memory=memory)
        self.scratch = self.image.symbols["scratch"]
        where = plan(self.image, memory)
        self.tables = self.image.virt_base + where.tables * PAGE_SIZE
        """Where its page tables begin: readable, not writable."""

    def call(self, number: Hypercall, *arguments: int) -> int | None:
        """The result of a hypercall with register arguments."""
        self.hv.switch_to(self.domain)
        return self.hv.dispatch.invoke(self.domain, number, [*arguments, *[0] * 6][:6])

    def put(self, data: bytes, offset: int = 0) -> int:
        """Store bytes in the domain's memory; returns their address."""
        self.hv.switch_to(self.domain)
        self.hv.guest.write(self.domain, self.scratch + offset, data)
        return self.scratch + offset

    def get(self, size: int, offset: int = 0) -> bytes:
        """What is there now."""
        self.hv.switch_to(self.domain)
        return self.hv.guest.read(self.domain, self.scratch + offset, size)

    def op(self, number: Hypercall, command: int, record: Record) -> int | None:
        """A hypercall of a command and a structure, which is updated with what came back."""
        at = self.put(to_bytes(record))
        answer = self.call(number, command, at)
        new = type(record).from_buffer_copy(self.get(len(to_bytes(record))))
        for name, *_ in record._fields_:
            setattr(record, name, getattr(new, name))
        return answer

    def take_events(self) -> None:
        """Clear all pending bits, as a guest's handler does."""
        shared_info = self.hv.machine.memory.frame(self.domain.shared_info)
        shared_info[0] = 0
        shared_info[8:16] = bytes(8)
        shared_info[2048:2560] = bytes(512)

    def numbers(self, count: int, offset: int = 4096) -> list[int]:
        """``count`` 64-bit numbers from memory."""
        return list(struct.unpack(f"<{count}Q", self.get(8 * count, offset)))

    def put_numbers(self, *values: int, offset: int = 4096) -> int:
        """Store 64-bit numbers."""
        return self.put(struct.pack(f"<{len(values)}Q", *values), offset)


SELF = int(DomId.SELF)
