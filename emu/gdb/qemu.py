"""QEMU's dialect: what page-table commands of gef and pwndbg look for, and ``monitor``.

Those tools take a target for QEMU if ``qqemu.sstepbits`` (with either letter) has ``ENABLE=`` in
its answer and ``qOffsets`` is answered empty, which it is by nobody answering it. Then they switch
memory packets to machine addresses with ``Qqemu.PhyMemMode:1``, and parse QEMU's texts of ``monitor
info registers``, ``info mem`` and ``info tlb``, which ``emu.debug.qemu`` makes. Every ``monitor``
line is the target's own, but one: ``why`` says why the last packet was refused.

Source: QEMU docs/system/gdb.rst.
"""

from typing import Final

from emu.gdb.args import PacketError, hex_bytes, number
from emu.gdb.registry import packet
from emu.gdb.session import Ending, Session
from emu.gdb.target import TargetEnds, TargetError

WHY: Final = "why"


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
    # gdb itself shows only a number when something is refused.
    text = session.refusal if line == WHY else _targets_own(session, line or "help")
    if text:
        session.say(text if text.endswith("\n") else text + "\n")
    return b"OK"


def _targets_own(session: Session, line: str) -> str:
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
