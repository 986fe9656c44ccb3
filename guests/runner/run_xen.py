"""The oracle: the same image booted by the real Xen, as its first domain, under QEMU.

Debian's ``xen-hypervisor`` package has the hypervisor and ``qemu-system-x86`` the machine; no
hardware virtualisation is needed. The serial line is read while it comes, and QEMU is stopped as
soon as the guest has ended, or shortly after its verdict if it idles on.

What is different there: the guest is privileged, is alone, and has no console ring and no store.
Its memory is what its manifest asks for (``dom0_mem``), its module and command line are the same.
Host time is the only bound on a guest, so a verdict TIMEOUT may come from a slow host.

How it fails: ``OracleMissing`` if QEMU or Xen is not installed. What Xen or QEMU does wrong (Xen's
own crash, a guest that Xen refuses) is ERROR with the line that says so.

Source: xen-command-line.pandoc (console, dom0_mem, noreboot, bootscrub), xen/common/shutdown.c for
the lines that tell how the first domain ended, QEMU's multiboot loader for ``-initrd "FILE ARGS"``.
"""

import gzip
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

from emu.errors import CowbirdError
from guests.runner.build import build
from guests.runner.collect import TestProgram
from guests.runner.consoles import JudgedConsole
from guests.runner.result import XEN, DomainResult, Result
from guests.runner.run_cowbird import folder_of, load_module, repeat_command, save_evidence
from guests.runner.verdict import Ending, Judgement, Verdict

QEMU: Final = "qemu-system-x86_64"
DEFAULT_TIMEOUT: Final = 30.0
"""Seconds of host time for one program."""
_GRACE: Final = 0.5
"""Seconds that a guest may go on after its verdict before QEMU is stopped."""
_MACHINE_MIB: Final = 192
"""MiB of the emulated computer beyond the guest's memory."""
_LEAST_GUEST: Final = 8
"""MiB that Xen needs to build a first domain at all."""
_IMAGE: Final = re.compile(r"xen-4\.\d+[\w.-]*\.gz\Z")
_OPTIONS: Final = "console=com1 loglvl=warning guest_loglvl=all noreboot bootscrub=0"
_SERIAL_LIMIT: Final = 8 << 20
"""Bytes of the serial line that are read before a flood is cut off."""
_STARTED: Final = re.compile(r"\(XEN\) (?:Freed \d+kB init memory|\*\*\* Serial input to DOM0)")
_PREFIX: Final = "(XEN) "
_BOOT_REFUSED: Final = re.compile(
    r"Panic on CPU \d|Xen BUG at|FATAL TRAP|FATAL PAGE FAULT|Xen call trace|"
    r"Could not (?:construct|set up) (?:dom0|DOM0)|Error \d+ initiali[sz]ing|CONFIG_PV32 missing"
)
_ENDINGS: Final = (
    (re.compile(r"Hardware Dom0 crashed"), Ending.REPORTED),
    (re.compile(r"Hardware Dom0 shutdown: watchdog"), Ending.REPORTED),
    (re.compile(r"Hardware Dom0 (?:halted|shutdown)"), Ending.CLEAN),
    (re.compile(r"Hardware domain 0 did unsupported soft reset"), Ending.CLEAN),
)
_GUEST_CRASH: Final = re.compile(
    r"domain_crash called from|Domain 0 \(vcpu#\d+\) crashed|domain_crash_sync called from|"
    r"Unhandled \w.* from (?:Dom0|d0)|d0v\d+ Unhandled|Triple fault"
)


class OracleMissing(CowbirdError):
    """The real Xen cannot be run here: the text says what to install."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """Where the real Xen is: the unpacked hypervisor, QEMU, and Xen's name for a person."""

    xen: Path
    qemu: Path
    version: str


def find_oracle() -> Oracle:
    """The Xen and the QEMU of this computer; ``COWBIRD_XEN`` may name another hypervisor image.

    Raises:
        OracleMissing: one of them is not here.
    """
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise OracleMissing(
            f"--on xen needs {QEMU}, which is not here (Debian: apt install qemu-system-x86)"
        )
    named = os.environ.get("COWBIRD_XEN")
    if named:
        image = Path(named)
        if not image.is_file():
            raise OracleMissing(f"--on xen: COWBIRD_XEN={named}: no such file")
    else:
        boot = Path("/boot")
        images = sorted(p for p in _listed(boot) if _IMAGE.fullmatch(p.name))
        if not images:
            raise OracleMissing(
                "--on xen needs Xen's image in /boot, which has none "
                "(Debian: apt install xen-hypervisor-4.17-amd64; or set COWBIRD_XEN)"
            )
        image = images[-1]
    return Oracle(_unpacked(image), Path(qemu), image.name.removesuffix(".gz"))


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _unpacked(image: Path) -> Path:
    """QEMU wants the ELF file: unpack it once, into the user's cache."""
    try:
        with image.open("rb") as stream:
            if stream.read(2) != b"\x1f\x8b":
                return image
        about = image.stat()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cowbird"
        target = cache / f"{image.name.removesuffix('.gz')}-{about.st_size}-{about.st_mtime_ns}"
        if not target.is_file():
            data = gzip.decompress(image.read_bytes())
            cache.mkdir(parents=True, exist_ok=True)
            # Several processes may do this at once: only a whole file gets the name.
            with tempfile.NamedTemporaryFile(dir=cache, delete=False) as part:
                part.write(data)
            Path(part.name).replace(target)
    except (OSError, EOFError, zlib.error) as error:
        raise OracleMissing(f"--on xen: {image} cannot be unpacked: {error}") from error
    return target


# -- the serial line ----------------------------------------------------------------------------


@dataclass
class Serial:
    """What comes over the serial line, taken apart: Xen's messages and the guest's console.

    ``ending`` is set once Xen has said how the guest ended; ``broken`` is the line by which Xen
    itself gave up.
    """

    console: JudgedConsole = field(default_factory=JudgedConsole)
    messages: list[str] = field(default_factory=list)
    started: bool = False
    ending: Ending | None = None
    broken: str = ""
    crash: str = ""
    """Xen's line about the guest's crash."""
    _rest: bytes = b""

    def write(self, data: bytes) -> None:
        """Take bytes as they come."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line + b"\n")
        while len(rest) > 1 << 16:
            self._line(rest[: 1 << 16])
            rest = rest[1 << 16 :]
        self._rest = rest

    def close(self) -> None:
        """The line is dead: take what is left."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        self.console.close()

    def _line(self, line: bytes) -> None:
        # Xen may speak in the middle of a guest's line: its message is cut out.
        guest, marker, message = line.partition(_PREFIX.encode())
        if marker:
            self._message(_PREFIX + message.decode("utf-8", "replace").rstrip("\r\n"))
        if guest and self.started and self.ending is None:
            self.console.write(guest)

    def _message(self, text: str) -> None:
        if len(self.messages) < 2000:
            self.messages.append(text)
        if _STARTED.match(text):
            self.started = True
        if not self.broken and _BOOT_REFUSED.search(text):
            self.broken = text.removeprefix(_PREFIX).strip("* ")
        if not self.crash and _GUEST_CRASH.search(text):
            self.crash = text.removeprefix(_PREFIX)
        for pattern, ending in _ENDINGS:
            if self.ending is None and pattern.search(text):
                self.ending = ending

    def report(self) -> str:
        """Xen's messages about a crash of the guest: from the first of them on."""
        first = next((i for i, m in enumerate(self.messages) if _GUEST_CRASH.search(m)), None)
        return "" if first is None else "\n".join(self.messages[first : first + 100])

    def judge(self, timed_out: bool, after_verdict: bool) -> tuple[Judgement, Ending]:
        """The verdict; ``timed_out``: host time was up, ``after_verdict``: we stopped it."""
        if self.broken and self.ending is None and not self.crash:
            return Judgement(Verdict.ERROR, f"Xen: {self.broken}"), Ending.CRASHED
        ending = self.ending
        if self.crash:
            ending = Ending.CRASHED
        elif ending is None and after_verdict:
            ending = Ending.CUT
        elif ending is None and timed_out:
            if not self.started:
                last = self.messages[-1] if self.messages else "nothing was heard of Xen"
                return Judgement(Verdict.ERROR, f"Xen did not come up: {last}"), Ending.LIMIT
            ending = Ending.LIMIT
        elif ending is None:
            return Judgement(Verdict.ERROR, "QEMU ended before the guest did"), Ending.CRASHED
        return self.console.parser.judge(ending, self.crash), ending


# -- running ------------------------------------------------------------------------------------


def command_line(
    oracle: Oracle, image: str, memory: int, cmdline: str, module: str | None
) -> list[str]:
    """QEMU's arguments; ``image`` and ``module`` are file names, ``memory`` is in bytes."""
    guest = max(_LEAST_GUEST, memory >> 20)
    initrd = f"{image} {cmdline}".rstrip().replace(",", ",,")
    if module is not None:
        initrd += f",{module}"
    return [
        str(oracle.qemu),
        # QEMU 7.2 reads the stack of iret and lret as the supervisor, which SMAP forbids; PV guests
        # have no SMAP of their own to miss.
        *("-cpu", "max,vendor=GenuineIntel,-svm,-smap"),
        *("-m", str(_MACHINE_MIB + guest)),
        *("-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"),
        *("-nodefaults", "-net", "none"),
        *("-kernel", str(oracle.xen)),
        *("-append", f"{_OPTIONS} dom0_mem={guest}M,max:{guest}M"),
        *("-initrd", initrd),
    ]


def watch(
    arguments: list[str],
    folder: Path,
    timeout: float,
    serial: Serial,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[bool, bool, str]:
    """Run QEMU until the guest's end, ``_GRACE`` after its verdict, or for ``timeout`` seconds.

    Returns (timed out, stopped after the verdict, what QEMU said on stderr).

    Raises:
        OracleMissing: QEMU cannot be started.
    """
    try:
        qemu = subprocess.Popen(
            arguments,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise OracleMissing(f"--on xen: {arguments[0]}: {error.strerror or error}") from error
    try:
        out = qemu.stdout
        assert out is not None
        outcome = _read(out, serial, clock() + timeout, clock)
    finally:
        qemu.kill()
        _, errors = qemu.communicate()
    serial.close()
    return *outcome, errors.decode("utf-8", "replace").strip()


def _read(
    out: IO[bytes], serial: Serial, deadline: float, clock: Callable[[], float]
) -> tuple[bool, bool]:
    taken = 0
    verdict_at: float | None = None
    while True:
        now = clock()
        until = deadline if verdict_at is None else min(deadline, verdict_at + _GRACE)
        if now >= until:
            return verdict_at is None, verdict_at is not None
        ready, _, _ = select.select([out], [], [], until - now)
        if not ready:
            continue
        data = os.read(out.fileno(), 1 << 16)
        if not data:
            return False, False
        taken += len(data)
        serial.write(data)
        if serial.ending is not None or (serial.broken and not serial.started):
            return False, False
        if taken > _SERIAL_LIMIT:
            return True, False
        if verdict_at is None and serial.console.parser.complete:
            verdict_at = clock()


def run_program(
    program: TestProgram,
    oracle: Oracle,
    timeout: float = DEFAULT_TIMEOUT,
    artifacts: Path | None = None,
) -> Result:
    """Run one program on the real Xen; SKIP, with the reason, for one that cannot run there."""
    start = time.perf_counter()
    manifest = program.manifest
    result = Result(
        program.id,
        str(program.path),
        program.group,
        XEN,
        Verdict.ERROR,
        manifest.expected,
        description=manifest.description,
        repeat=repeat_command(program, XEN, None, None if timeout == DEFAULT_TIMEOUT else timeout),
        environment=XEN,
    )
    if program.error:
        return replace(result, reason=program.error)
    if manifest.not_on_xen:
        return replace(result, verdict=Verdict.SKIP, reason=f"not on xen: {manifest.not_on_xen}")
    spec = manifest.domains[0]
    cmdline = manifest.cmdline if spec.cmdline is None else spec.cmdline
    path = program.path if spec.kernel is None else program.path.parent / spec.kernel
    serial = Serial()
    try:
        image, module = build(path), load_module(program, spec)
        with tempfile.TemporaryDirectory(prefix="cowbird-") as name:
            folder = Path(name)
            (folder / "guest").write_bytes(image)
            if module is not None:
                (folder / "module").write_bytes(module)
            arguments = command_line(
                oracle,
                "guest",
                spec.memory or manifest.memory,
                cmdline,
                None if module is None else "module",
            )
            timed_out, after, errors = watch(arguments, folder, timeout, serial)
    except (CowbirdError, OSError) as error:
        return replace(result, reason=str(error), seconds=time.perf_counter() - start)
    judged, ending = serial.judge(timed_out, after)
    reason = judged.reason
    if judged.verdict is Verdict.ERROR and errors and not serial.started:
        reason = f"{reason}; QEMU: {errors.splitlines()[-1]}"
    domain = DomainResult(
        spec.name,
        judged.verdict,
        reason,
        ending.value,
        tuple(serial.console.parser.checks),
        serial.console.shown(),
        serial.console.dropped,
        serial.report(),
    )
    result = replace(
        result,
        verdict=judged.verdict,
        reason=reason,
        domains=(domain,),
        seconds=time.perf_counter() - start,
    )
    if not result.good and artifacts is not None:
        result = _evidence(result, artifacts, serial, path.name, image)
    return result


def _evidence(result: Result, artifacts: Path, serial: Serial, name: str, image: bytes) -> Result:
    folder = folder_of(artifacts, result) / XEN
    try:
        save_evidence(folder, result, {name: image})
        text = "\n".join(serial.messages) + "\n"
        (folder / "xen.txt").write_text(text, encoding="utf-8")
    except OSError as error:
        reason = f"{result.reason} (no evidence: {error.filename or folder}: {error.strerror})"
        return replace(result, reason=reason)
    return replace(result, artifacts=str(folder))
