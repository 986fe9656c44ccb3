"""General queries and settings: the handshake, lists of threads, and documents (``qXfer``).

``qXfer:threads`` names every process; that is what makes gdb create an inferior for each by
itself. ``qXfer:exec-file`` and ``vFile`` together give gdb the program of each process, symbols
and all, without anybody passing a file to it.
"""

from collections.abc import Callable
from typing import Final
from xml.sax.saxutils import escape as xml_escape
from xml.sax.saxutils import quoteattr

from emu.gdb.args import ESRCH, PacketError, number, thread_id, two_numbers
from emu.gdb.description import description
from emu.gdb.files import path_of
from emu.gdb.packets import MAX_BODY, escape
from emu.gdb.registry import features, packet
from emu.gdb.session import Session

_NAME_LIMIT: Final = 64


@packet("qSupported", feature="multiprocess+;exec-events+")
def supported(session: Session, rest: bytes) -> bytes:
    """What each side understands."""
    offered = rest.removeprefix(b":").decode("latin-1").split(";")
    session.client = frozenset(item[:-1] for item in offered if item.endswith("+"))
    ours = [f"PacketSize={MAX_BODY:x}", *features(reversible=session.target.reversible)]
    return ";".join(ours).encode("ascii")


@packet("QStartNoAckMode", feature="QStartNoAckMode+")
def no_acks(session: Session, _rest: bytes) -> bytes:
    """No more acknowledgements: the connection is reliable."""
    session.link.stop_acknowledging()
    return b"OK"


@packet("qAttached")
def attached(_session: Session, _rest: bytes) -> bytes:
    """Processes were there before the client: when it quits they go on."""
    return b"1"


@packet("qC")
def current(session: Session, _rest: bytes) -> bytes:
    """The selected thread."""
    return b"QC" + session.name(session.selected()).encode("ascii")


@packet("qSymbol")
def symbols(_session: Session, _rest: bytes) -> bytes:
    """The client offers to look symbols up; none is wanted."""
    return b"OK"


@packet("qfThreadInfo")
def first_threads(session: Session, _rest: bytes) -> bytes:
    """All thread ids."""
    names = [session.name(item.id) for item in session.threads()]
    return b"m" + ",".join(names).encode("ascii") if names else b"l"


@packet("qsThreadInfo")
def more_threads(_session: Session, _rest: bytes) -> bytes:
    """The rest of the thread ids: the first answer had them all."""
    return b"l"


@packet("qThreadExtraInfo")
def thread_text(session: Session, rest: bytes) -> bytes:
    """A word or two about a thread."""
    wanted = session.resolve(thread_id(rest.removeprefix(b",")))
    text = next(f"{t.name} {t.state}".strip() for t in session.threads() if t.id == wanted)
    return (text or "?").encode("utf-8", "replace").hex().encode("ascii")


# -- documents -----------------------------------------------------------------------------------

Document = Callable[[Session, bytes], bytes]


def _target_xml(session: Session, annex: bytes) -> bytes:
    """The registers of the selected thread's process; this is where its layout is fixed."""
    if annex != b"target.xml":
        raise PacketError(f"there is no description {annex[:40]!r}", 0)
    thread = session.selected()
    session.widths[thread.process] = session.real_width(thread)
    return description(session.widths[thread.process])


def _threads_xml(session: Session, _annex: bytes) -> bytes:
    """Every thread with its name, and what it waits for."""
    lines = ["<?xml version='1.0'?>", "<threads>"]
    for item in session.threads():
        name = quoteattr(_printable(item.name)[:_NAME_LIMIT])
        text = xml_escape(_printable(item.state))
        lines.append(f'<thread id="{session.name(item.id)}" core="0" name={name}>{text}</thread>')
    return "\n".join([*lines, "</threads>\n"]).encode("utf-8")


def _exec_file(session: Session, annex: bytes) -> bytes:
    """Path of a process's program, which ``vFile`` opens."""
    process = number(annex, "process") if annex else session.selected().process
    if all(item.id.process != process for item in session.threads()):
        raise PacketError(f"there is no process {process}", ESRCH)
    program = session.target.executable(process)
    if program is None:
        raise PacketError(f"the program of process {process} is not at hand", 0)
    return path_of(process, program).encode("utf-8")


_DOCUMENTS: Final[dict[bytes, Document]] = {
    b"features": _target_xml,
    b"threads": _threads_xml,
    b"exec-file": _exec_file,
}


@packet("qXfer", feature=";".join(f"qXfer:{name.decode()}:read+" for name in _DOCUMENTS))
def transfer(session: Session, rest: bytes) -> bytes:
    """Part of a document."""
    fields = rest.removeprefix(b":").split(b":")
    if len(fields) != 4 or fields[1] != b"read":
        raise PacketError(f"qXfer{rest[:40]!r}")
    document = _DOCUMENTS.get(fields[0])
    if document is None:
        return b""
    offset, length = two_numbers(fields[3])
    if fields[0] == b"threads" and not offset:
        session.selection.listed(session.general, [item.id for item in session.threads()])
    whole = document(session, fields[2])
    # Every byte may have to be escaped.
    part = whole[offset : offset + min(length, MAX_BODY // 2 - 8)]
    more = offset + len(part) < len(whole)
    return (b"m" if more else b"l") + escape(part)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
