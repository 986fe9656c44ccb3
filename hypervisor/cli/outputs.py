"""Files that a command writes: never an input, and under their name only when there is something.

A file is written beside its place, under a hidden name, and takes its own name by ``publish``; so
a usage error, or the end of the process, leaves what was there before as it was. Devices, pipes
and files in a folder where nothing can be made are written in place.

Refused before anything is opened: a file that the command also reads, under whatever name; a
source (by its suffix) that is there already, read or not; and two outputs in one file.

How it fails: ``click.BadParameter`` before the run, ``click.ClickException`` in it; both name the
file as the user did.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import click

from hypervisor.cli.options import reason_of

_SOURCES: Final = frozenset({".asm", ".s", ".inc", ".c", ".h"})
"""Suffixes of files that people write by hand."""
_LONGEST: Final = 100
"""Characters of its name that the hidden file bears."""


def refuse_inputs(
    outputs: Iterable[tuple[str, str | None]], inputs: Iterable[tuple[str, str | Path]]
) -> None:
    """Make sure that no output is an input; both are (what it is, path), ``-`` and None are none.

    Raises:
        click.BadParameter: one is, or it is a source, or two outputs are one file.
    """
    wanted = [(option, path) for option, path in outputs if path is not None and path != "-"]
    known = list(inputs)
    for number, (option, path) in enumerate(wanted):
        for what, other in known:
            if _same(path, other):
                raise click.BadParameter(
                    f"{path} is an input too ({what} {other}) and would be lost", param_hint=option
                )
        if Path(path).suffix.lower() in _SOURCES and Path(path).is_file():
            raise click.BadParameter(f"{path} is a source and would be lost", param_hint=option)
        for before, other in wanted[:number]:
            if _same(path, other) and not _special(path):
                raise click.BadParameter(f"{before} and {option} name the same file: {path}")


def _same(one: str | Path, other: str | Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one is not there; ValueError: a NUL in the name
        pass
    try:
        return os.path.realpath(one) == os.path.realpath(other)
    except (OSError, ValueError):
        return False


def _special(path: str) -> bool:
    """True for what is there and no regular file: a device, a pipe."""
    return os.path.exists(path) and not os.path.isfile(path)


class OutputFile:
    """One file to write to, opened now so that what cannot be written is told before a run.

    Raises:
        click.BadParameter: it cannot be written.
    """

    def __init__(self, path: str, option: str, binary: bool = False) -> None:
        self.path = path
        self._hidden: str | None = None
        self._wrote = False
        how: dict[str, Any] = {} if binary else {"encoding": "utf-8", "newline": "\n"}
        kind = "b" if binary else ""
        try:
            self._final = os.path.realpath(path)
            if os.path.isdir(self._final):
                raise IsADirectoryError(0, "Is a directory")
            if not _special(path):
                if os.path.exists(self._final) and not os.access(self._final, os.W_OK):
                    raise PermissionError(0, "Permission denied")
                folder, name = os.path.split(self._final)
                hidden = os.path.join(folder, f".{name[:_LONGEST]}.{os.getpid()}.part")
                with contextlib.suppress(PermissionError):
                    self._stream: IO[Any] = open(hidden, f"w{kind}", **how)  # noqa: SIM115
                    self._hidden = hidden
            if self._hidden is None:
                self._stream = open(path, f"w{kind}", **how)  # noqa: SIM115
        except (OSError, ValueError) as error:
            raise click.BadParameter(
                f"cannot write {path}: {reason_of(error)}", param_hint=option
            ) from error

    def write(self, data: Any) -> None:
        """Write text (bytes if binary). Raises click.ClickException."""
        self._wrote = True
        try:
            self._stream.write(data)
        except OSError as error:
            raise self._failed(error) from error

    def publish(self) -> None:
        """From now on it bears its name. Raises click.ClickException."""
        if self._hidden is None:
            return
        try:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(self._hidden, os.stat(self._final).st_mode & 0o7777)
            os.replace(self._hidden, self._final)
        except OSError as error:
            raise self._failed(error) from error
        self._hidden = None

    def close(self) -> None:
        """No more is written; what was never published is gone. Raises click.ClickException."""
        try:
            self._stream.close()
        except OSError as error:
            raise self._failed(error) from error
        finally:
            if self._hidden is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._hidden)

    def finish(self, data: Any) -> None:
        """Write all of it, close and publish. Raises click.ClickException."""
        self.write(data)
        try:
            self._stream.flush()
        except OSError as error:
            raise self._failed(error) from error
        self.publish()
        self.close()

    def _failed(self, error: OSError) -> click.ClickException:
        return click.ClickException(f"cannot write {self.path}: {reason_of(error)}")


def open_all(wanted: Sequence[tuple[str, str | None]]) -> list[OutputFile | None]:
    """Text files for (option, path); None for no path and for ``-``. All or none is opened."""
    opened: list[OutputFile | None] = []
    try:
        for option, path in wanted:
            opened.append(None if path is None or path == "-" else OutputFile(path, option))
    except click.BadParameter:
        close_all(opened)
        raise
    return opened


def close_all(files: Iterable[OutputFile | None]) -> None:
    """Close those that are there, all of them. Raises the first failure."""
    with contextlib.ExitStack() as stack:
        for file in files:
            if file is not None:
                stack.callback(file.close)
