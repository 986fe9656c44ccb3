"""QEMU's dialect: what page-table commands of gef and pwndbg look for, and ``monitor``.

Those tools take a target for QEMU if ``qqemu.sstepbits`` (with either letter) has ``ENABLE=`` in
its answer and ``qOffsets`` is answered empty, which it is by nobody answering it. Then they switch
memory packets to machine addresses with ``Qqemu.PhyMemMode:1``, and parse QEMU's texts of ``monitor
info registers``, ``info mem`` and ``info tlb``. Every other ``monitor`` line is the target's own.

Source: QEMU docs/system/gdb.rst; the layout of ``info registers`` follows its
target/i386/cpu-dump.c, that of the others is in ``emu.debug.qemu``.
"""

from collections.abc import Callable, Iterator
from typing import Final

from emu.debug.qemu import info_mem, info_tlb
from emu.gdb.args import ESRCH, PacketError, hex_bytes, number
from emu.gdb.registry import packet
from emu.gdb.session import Ending, Session
from emu.gdb.target import TargetEnds, TargetError, ThreadId
from emu.paging import RFLAGS, PagingMode
from emu.walk import Controls, TableMemory

_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs")
_ROWS64: Final = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)
_ROWS32: Final = (("rax", "rbx", "rcx", "rdx"), ("rsi", "rdi", "rbp", "rsp"))


@packet("qqemu.sstepbits")
def step_bits(_session: Session, _rest: bytes) -> bytes:
    """QEMU's names of what a single step may leave out."""
    return b"ENABLE=1,NOIRQ=2,NOTIMER=4"


@packet("Qqemu.sstepbits")
def step_bits_again(_session: Session, _rest: bytes) -> bytes:
    """The same with the letter that gef and pwndbg use."""
    return b"ENABLE=1,NOIRQ=2,NOTIMER=4"


@packet("qqemu.sstep")
def step_mode(session: Session, _rest: bytes) -> bytes:
    """What a single step leaves out; here a step is always an instruction of the guest."""
    return b"0x%x" % session.single_step_bits


@packet("Qqemu.sstep")
def set_step_mode(session: Session, rest: bytes) -> bytes:
    """Taken and given back; virtual time makes it pointless here."""
    session.single_step_bits = number(rest.lstrip(b":=").removeprefix(b"0x"), "mask") & 7
    return b"OK"


@packet("qqemu.Supported")
def qemu_supported(_session: Session, _rest: bytes) -> bytes:
    """Which packets of QEMU's own are known."""
    return b"sstepbits;sstep;PhyMemMode"


@packet("qqemu.PhyMemMode")
def physical_mode(session: Session, _rest: bytes) -> bytes:
    """Whether memory packets mean machine addresses."""
    return b"%d" % session.physical


@packet("Qqemu.PhyMemMode")
def set_physical_mode(session: Session, rest: bytes) -> bytes:
    """Have memory packets mean machine addresses, or virtual ones again."""
    if rest not in (b":0", b":1"):
        raise PacketError(f"PhyMemMode{rest[:20]!r} is neither :0 nor :1")
    session.physical = rest == b":1"
    return b"OK"


# -- monitor -------------------------------------------------------------------------------------


@packet("qRcmd")
def monitor(session: Session, rest: bytes) -> bytes:
    """A line for the monitor; the answer is shown on the client's console."""
    try:
        line = hex_bytes(rest.removeprefix(b",")).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise PacketError("the line is no UTF-8") from error
    ours = _TEXTS.get(" ".join(line.split()))
    if ours is not None:
        text = ours(session)
    else:
        text = _targets_own(session, line)
    if text:
        session.say(text if text.endswith("\n") else text + "\n")
    return b"OK"


def _targets_own(session: Session, line: str) -> str:
    if not line:
        line = "help"
    before = session.target.epoch()
    thread = session.looked_at()
    process = 0 if thread is None else thread.process
    with session.link.watching():
        try:
            text = session.target.monitor(process, line)
        except TargetError as error:
            text = f"error: {error}"
        except TargetEnds:
            session.ending = Ending.KILLED
            return ""
    if session.target.epoch() != before:
        if text and not text.endswith("\n"):
            text += "\n"
        text += "(what gdb shows is from before: maintenance flush register-cache)"
    return text


def _why(session: Session) -> str:
    """Why the last packet was refused; gdb itself shows only a number."""
    return session.refusal


def _selected(session: Session) -> ThreadId:
    thread = session.looked_at()
    if thread is None:
        raise PacketError("nothing is left", ESRCH)
    return thread


def _info_registers(session: Session) -> str:
    thread = _selected(session)
    values = session.target.registers(thread)
    wide = session.real_width(thread) == 64
    digits = 16 if wide else 8

    def word(name: str) -> int:
        return values.get(name, 0) & ((1 << 4 * digits) - 1)

    lines = []
    for row in _ROWS64 if wide else _ROWS32:
        names = [(name if wide else "e" + name[1:]).upper() for name in row]
        lines.append(
            " ".join(f"{n:<3}={word(r):0{digits}x}" for n, r in zip(names, row, strict=True))
        )
    flags = word("rflags")
    short = "".join(
        letter if RFLAGS.get(flags, name) else "-"
        for letter, name in zip("DOSZAPC", ("DF", "OF", "SF", "ZF", "AF", "PF", "CF"), strict=True)
    )
    pc, eflags = ("RIP", "RFL") if wide else ("EIP", "EFL")
    level = word("cs") & 3
    lines.append(
        f"{pc}={word('rip'):0{digits}x} {eflags}={flags:08x} [{short}]"
        f" CPL={level} II=0 A20=1 SMM=0 HLT=0"
    )
    for name in _SEGMENTS:
        base = word(f"{name}_base")
        lines.append(f"{name.upper()} ={word(name):04x} {base:0{digits}x} ffffffff 00000000")
    lines.append(
        f"CR0={word('cr0'):08x} CR2={word('cr2'):0{digits}x} "
        f"CR3={word('cr3'):0{digits}x} CR4={word('cr4'):08x}"
    )
    lines.append(f"EFER={values.get('efer', 0):016x}")
    control = f"FCW={word('fctrl'):04x} FSW={word('fstat'):04x} FTW={word('ftag'):02x}"
    lines.append(f"{control} MXCSR={word('mxcsr'):08x}")
    return "\n".join(lines)


def _tables(session: Session, lines: Callable[[TableMemory, int, Controls], Iterator[str]]) -> str:
    space = session.target.address_space(_selected(session))
    if space.controls.mode is PagingMode.OFF:
        return "PG disabled"
    return "\n".join(lines(space.memory, space.cr3, space.controls))


def _info_mem(session: Session) -> str:
    """Ranges of equal rights: first address, address behind the last, size, ``urw``."""
    return _tables(session, info_mem)


def _info_tlb(session: Session) -> str:
    """Every mapping: virtual address, machine address, flags of its entry."""
    return _tables(session, info_tlb)


_TEXTS: Final[dict[str, Callable[[Session], str]]] = {
    "info registers": _info_registers,
    "info mem": _info_mem,
    "info tlb": _info_tlb,
    "why": _why,
}
