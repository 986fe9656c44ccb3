"""From a hypercall to the function that answers, and back: the hottest path of the hypervisor.

A guest kernel's SYSCALL is a hypercall: number in RAX, arguments in RDI, RSI, RDX, R10, R8, R9,
result in RAX; RCX and R11 are RIP and RFLAGS, as the instruction itself would leave them. A user
process's SYSCALL goes to the callback that its kernel registered (``hypervisor.traps``).

A 32-bit guest's is ``int 0x82``: number in EAX, arguments in EBX, ECX, EDX, ESI, EDI, EBP, result
in EAX.

``multicall`` is here too, because it is dispatch: each entry is one hypercall.

Source: xen.h (multicall_entry), arch-x86/xen-x86_64.h and xen-x86_32.h (registers of a hypercall).
"""

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from emu.cpu import R8, R9, R10, R11, RAX, RBP, RBX, RCX, RDI, RDX, RIP, RSI
from emu.trap import UD
from hypervisor.abi import Errno, Hypercall, Width
from hypervisor.domain import Domain
from hypervisor.errors import GuestFault, Preempted
from hypervisor.hypercalls import HYPERCALLS, TABLES
from hypervisor.hypercalls.registry import hypercall

if TYPE_CHECKING:
    from hypervisor.hypervisor import Hypervisor

_M64: Final = 0xFFFF_FFFF_FFFF_FFFF
_M32: Final = 0xFFFF_FFFF
_ARGUMENTS: Final = (RDI, RSI, RDX, R10, R8, R9)
_ARGUMENTS32: Final = (RBX, RCX, RDX, RSI, RDI, RBP)
_REGISTERS: Final = tuple(_ARGUMENTS[:count] for count in range(7))
_ENOSYS: Final = -int(Errno.ENOSYS)
_EFAULT: Final = -int(Errno.EFAULT)
_CALL_LENGTH: Final = 2
"""Bytes of SYSCALL and of ``int 0x82``."""
_WORK_PER_ENTRY: Final = 4
WORK_PER_MULTICALL: Final = 1 << 15
"""Units (``Hypervisor.spend``) after which a multicall goes on in the next slice."""
MAX_MULTICALL: Final = 1 << 16
"""Entries of one multicall; beyond it the caller gets -E2BIG (bounded work for one call)."""


class _Multicall(NamedTuple):
    """How ``multicall_entry`` lies in memory: number, result, six arguments."""

    entry: struct.Struct
    word: struct.Struct
    arguments: struct.Struct
    mask: int


_MULTICALLS: Final[dict[Width, _Multicall]] = {
    64: _Multicall(struct.Struct("<8Q"), struct.Struct("<Q"), struct.Struct("<6Q"), _M64),
    32: _Multicall(struct.Struct("<8I"), struct.Struct("<I"), struct.Struct("<6I"), _M32),
}


class Dispatcher:
    """Answers SYSCALL and ``int 0x82``; ``hv.current`` is who asked."""

    def __init__(self, hv: "Hypervisor") -> None:
        self._hv = hv
        self._cpu = hv.machine.cpu
        self._words = hv.machine.cpu.words

    def on_syscall(self) -> None:
        """The machine's ``on_syscall``; RIP is already behind the instruction."""
        hv = self._hv
        domain = hv.current
        words = self._words
        if domain.width == 32:
            self._no_syscall(domain)
            return
        words[RCX] = words[RIP]
        words[R11] = self._cpu.flags
        if not domain.kernel_mode:
            hv.traps.syscall_from_user(domain)
            return
        entry = HYPERCALLS.get(words[RAX])
        registers = _REGISTERS[6 if entry is None else entry.arguments]
        try:
            result = self.invoke(domain, words[RAX], [words[register] for register in registers])
        except Preempted as again:
            self._again(again.arguments)
            result = None
        if result is not None:
            words[RAX] = result & _M64
        hv.leave(domain)

    def on_int82(self, domain: Domain) -> None:
        """A 32-bit kernel's ``int 0x82``; EIP is behind it."""
        words = self._words
        number = words[RAX] & _M32
        arguments = [words[register] & _M32 for register in _ARGUMENTS32]
        try:
            result = self.invoke(domain, number, arguments)
        except Preempted as again:
            self._again(again.arguments, _ARGUMENTS32, _M32)
            result = None
        if result is not None:
            words[RAX] = result & _M32
        self._hv.leave(domain)

    def _no_syscall(self, domain: Domain) -> None:
        """SYSCALL in compatibility mode is #UD, as on Intel's CPUs."""
        words = self._words
        words[RIP] = (words[RIP] - _CALL_LENGTH) & _M32
        self._hv.traps.entry32.note_mode(domain)
        self._hv.traps.exception(domain, UD, None)
        if domain.exit is None:
            self._hv.leave(domain)

    def _again(
        self,
        arguments: tuple[int, ...],
        registers: tuple[int, ...] = _ARGUMENTS,
        mask: int = _M64,
    ) -> None:
        """The guest makes the same hypercall again, with these arguments, in its next slice."""
        words = self._words
        for register, value in zip(registers, arguments, strict=False):
            words[register] = value & mask
        words[RIP] = (words[RIP] - _CALL_LENGTH) & mask
        self._hv.machine.stop()

    def invoke(self, domain: Domain, number: int, arguments: list[int]) -> int | None:
        """Run one hypercall of ``domain``, with at least as many arguments as it takes; count it.

        Returns what goes into RAX, or None if the guest goes on elsewhere.

        Raises:
            Preempted: it is not finished, and is to be made again.
        """
        hv = self._hv
        domain.hypercalls += 1
        entry = TABLES[domain.width].get(number)
        result: int | None
        if entry is None:
            name, result = _unanswered(number), _ENOSYS
        else:
            name = entry.name
            try:
                result = entry.function(hv, domain, *arguments[: entry.arguments])
            except GuestFault:
                result = _EFAULT
        domain.recent.append((hv.machine.position, name, result))
        if hv.listeners:
            taken = arguments if entry is None else arguments[: entry.arguments]
            hv.emit("hypercall", domain, name=name, result=result, arguments=taken)
        return result


def _unanswered(number: int) -> str:
    """The name of a hypercall that is not there: Xen's, if it has one."""
    try:
        return Hypercall(number).name
    except ValueError:
        return f"hypercall {number}"


@hypercall(Hypercall.multicall, 2)
def multicall(hv: "Hypervisor", domain: Domain, calls: int, count: int) -> int | None:
    """Run ``count`` hypercalls whose numbers, arguments and results lie in memory.

    Stops, and is done, when an entry leaves the caller elsewhere (``iret``) or ends the domain.
    A nested multicall answers -EINVAL. What takes long is gone on with later: of the entry in hand
    the arguments are changed in memory, as Xen does it, and of the whole those in registers.
    """
    count &= 0xFFFF_FFFF
    if count > MAX_MULTICALL:
        return -int(Errno.E2BIG)
    before = hv.work
    entry, word, six, mask = _MULTICALLS[domain.width]
    size = entry.size
    for i in range(count):
        if hv.work - before > WORK_PER_MULTICALL:
            raise Preempted(calls + i * size, count - i)
        at = calls + i * size
        number, _, *arguments = entry.unpack(hv.guest.read(domain, at, size))
        if number == Hypercall.multicall:
            result: int | None = -int(Errno.EINVAL)
        else:
            try:
                result = hv.dispatch.invoke(domain, number, arguments)
            except Preempted as again:
                changed = [*again.arguments, *arguments[len(again.arguments) :]]
                raw = six.pack(*(value & mask for value in changed))
                hv.guest.write(domain, at + 2 * word.size, raw)
                raise Preempted(calls + i * size, count - i) from None
        hv.spend(_WORK_PER_ENTRY)
        if result is None:
            return None
        hv.guest.write(domain, at + word.size, word.pack(result & mask))
        if domain.exit is not None or not domain.kernel_mode:
            break
    return 0
