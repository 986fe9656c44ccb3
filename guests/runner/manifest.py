"""What a test program says about itself: the manifest at its head.

In a source, the lines ``; cowbird: key = value`` (assembly; ``#`` and ``//`` do as well) or
``// cowbird: key = value`` (C; also inside ``/* */``) among the comments at the top of the file,
before anything else; ``:`` may stand for ``=``. Beside a ready ELF file, the same keys in a TOML
file called ``NAME.toml`` (for ``NAME.elf`` or ``NAME``) or ``NAME.elf.toml``.

================ ============================================================================
description      one line
environments     where it can run: ``pv64``, ``pv32``, ``xen`` (the real Xen); default ``pv64, xen``
oracle           ``yes``, or ``no: reason`` for a program that the real Xen cannot run
difference       why the real Xen's verdict may differ; makes a difference "documented"
expected         the verdict it must come to; default PASS
domains          how many (1 to 64), or their names: ``domains = writer, reader``
memory           of each domain, as ``8M``; default 8M
machine-memory   of the machine; default 64M
cmdline module   the command line; a file beside the program
kernel           (only per domain) another source or image beside the program
limit            guest instructions in all, as ``5M`` or ``100_000``; default 20M
width            (only per domain) 32 or 64 bits, whatever the environment
groups zero-only opaque hash-bits seed slice    settings of the machine
================ ============================================================================

A source is built anew for each environment that it names: for 64 bits in ``pv64`` and ``xen``, for
32 (with PAE page tables) in ``pv32``.

``memory``, ``cmdline``, ``module``, ``kernel`` and ``width`` may be given for one domain alone:
``cmdline.reader = ...``, or by number, from 1, where domains have no names. The group that a
program belongs to is the folder that it is in.

How it fails: whatever is wrong is ``ManifestError``, whose text is ``file:line: message``.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from emu.errors import CowbirdError
from guests.runner.counts import count
from guests.runner.verdict import Verdict

ENVIRONMENTS: Final = {
    "pv64": "64-bit PV guest of this hypervisor",
    "pv32": "32-bit PV guest (PAE) of this hypervisor",
    "xen": "64-bit PV guest, first domain of the real Xen",
}
"""The closed set. Debian's Xen is built without 32-bit PV guests, so there is no fourth."""
DEFAULT_ENVIRONMENTS: Final = ("pv64", "xen")
WIDTHS: Final = {"pv64": 64, "pv32": 32}
"""Bits of a guest in the environments of this hypervisor."""
NO_PV32: Final = "Debian's Xen has no 32-bit PV guests (CONFIG_PV32)"
MAX_DOMAINS: Final = 64
DEFAULT_LIMIT: Final = 20_000_000
DEFAULT_MEMORY: Final = 8 << 20
DEFAULT_MACHINE: Final = 64 << 20
_HEAD_BYTES: Final = 1 << 16
"""Bytes of a source that are searched for its head."""
_SIZE: Final = re.compile(r"(\d{1,15})\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z][\w-]{0,31}")
_LINE: Final = re.compile(r"\s*(?:;+|#+|//+|/?\*+)\s*cowbird:\s?(.*?)\s*(?:\*/\s*)?", re.DOTALL)
_COMMENT: Final = re.compile(r"\s*(?:;|#|//|$)")
_YES: Final = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_NOT_NAMED: Final = "its environments do not name xen"


class ManifestError(CowbirdError):
    """A manifest is wrong; the text is ``file:line: message``."""


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """One domain of a program. ``memory`` in bytes; None and "" mean what the program says."""

    name: str
    memory: int | None = None
    cmdline: str | None = None
    module: str | None = None
    kernel: str | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a program says about itself; sizes in bytes, ``limit`` and ``slice`` in instructions."""

    description: str = ""
    environments: tuple[str, ...] = DEFAULT_ENVIRONMENTS
    not_on_xen: str = ""
    """Why the real Xen cannot run it; empty if it can."""
    difference: str = ""
    expected: Verdict = Verdict.PASS
    domains: tuple[DomainSpec, ...] = (DomainSpec("1"),)
    memory: int = DEFAULT_MEMORY
    machine_memory: int = DEFAULT_MACHINE
    cmdline: str = ""
    module: str | None = None
    limit: int = DEFAULT_LIMIT
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of ``hypervisor.settings.Settings`` that are not the defaults."""


# -- reading ------------------------------------------------------------------------------------


def read_head(path: Path) -> list[tuple[int, str]]:
    """The manifest lines of a source as (line number, text behind ``cowbird:``); often none.

    Raises:
        ManifestError: the file cannot be read, or a manifest line stands below the head.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise ManifestError(f"{path}:0: cannot be read: {error.strerror or error}") from error
    if "cowbird:" not in text:
        return []
    found: list[tuple[int, str]] = []
    head, in_block = True, False
    for number, line in enumerate(text.split("\n"), 1):
        in_block, comment = _comment_state(line, in_block)
        head = head and comment
        match = _LINE.fullmatch(line.rstrip("\r"))
        if match is None:
            continue
        if not head:
            if found:
                message = "a manifest line below the head of the file"
                raise ManifestError(f"{path}:{number}: {message}")
            continue  # a text that happens to look like one
        found.append((number, match[1]))
    return found


def _comment_state(line: str, in_block: bool) -> tuple[bool, bool]:
    """(inside a block comment after this line, nothing but comment on it)."""
    rest = line.strip()
    if in_block:
        _, end, rest = rest.partition("*/")
        if not end:
            return True, True
    while rest.strip().startswith("/*"):
        _, end, rest = rest.strip()[2:].partition("*/")
        if not end:
            return True, True
    return False, bool(_COMMENT.match(rest))


def has_manifest(path: Path) -> bool:
    """True if a source says that it is a test program; False if it cannot be read."""
    try:
        return bool(read_head(path))
    except ManifestError:
        # A line in the wrong place is a manifest too; the error is told when it is run.
        return path.is_file()


def read_source(path: Path) -> Manifest:
    """The manifest at the head of a source; all defaults if there is none.

    Raises:
        ManifestError: anything in it is wrong.
    """
    entries = []
    for number, text in read_head(path):
        where = f"{path}:{number}"
        match = re.match(r"([A-Za-z][\w.-]*)\s*[=:]\s*(.*)", text, re.DOTALL)
        if match is None:
            raise ManifestError(f"{where}: not of the form 'cowbird: key = value': {text!r}")
        entries.append((where, match[1], match[2].strip()))
    return _make(entries, str(path))


def sidecars(path: Path) -> tuple[Path, ...]:
    """Where the manifest of a ready image may be, in order of preference."""
    beside = path.with_name(path.name + ".toml")
    return (beside, path.with_suffix(".toml")) if path.suffix == ".elf" else (beside,)


def find_sidecar(path: Path) -> Path | None:
    """The manifest file of a ready image, None if it has none."""
    return next((beside for beside in sidecars(path) if beside.is_file()), None)


def read_sidecar(path: Path) -> Manifest:
    """A manifest in TOML.

    Raises:
        ManifestError: it cannot be read, or anything in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise ManifestError(f"{path}:0: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}:0: not UTF-8: {error.reason}") from error
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"line (\d+)", str(error))
        raise ManifestError(f"{path}:{match[1] if match else 0}: {error}") from error
    lines = text.split("\n")

    def where(key: str) -> str:
        pattern = re.compile(rf"\s*[\"']?{re.escape(key)}\b")
        at = next((n for n, line in enumerate(lines, 1) if pattern.match(line)), 0)
        return f"{path}:{at}"

    entries = []
    for key, value in table.items():
        if isinstance(value, dict):
            entries += [(where(key), f"{key}.{sub}", _toml_text(v)) for sub, v in value.items()]
        else:
            entries.append((where(key), key, _toml_text(value)))
    return _make(entries, str(path))


def _toml_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


# -- values -------------------------------------------------------------------------------------


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size, as 8M is")
    size = int(match[1]) << {"": 20, "K": 10, "M": 20, "G": 30}[match[2].upper()]
    if size % 4096 or not size:
        raise ValueError(f"{text!r} is not a multiple of 4K")
    return size


def _number(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            number = int(text, 0)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
        if not least <= number <= most:
            raise ValueError(f"{text!r} is not between {least} and {most}")
        return number

    return convert


def _flag(text: str) -> bool:
    if text.lower() not in _YES:
        raise ValueError(f"{text!r} is neither yes nor no")
    return _YES[text.lower()]


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", text) if word]


def _environments(text: str) -> tuple[str, ...]:
    words = _words(text)
    for word in words:
        if word not in ENVIRONMENTS:
            raise ValueError(f"unknown environment {word!r}: there are {', '.join(ENVIRONMENTS)}")
    if not words:
        raise ValueError(f"no environment is named: there are {', '.join(ENVIRONMENTS)}")
    return tuple(name for name in ENVIRONMENTS if name in words)


def _oracle(text: str) -> str:
    """Why not; empty for yes."""
    word, _, reason = re.sub(r"[:,;-]", " ", text, count=1).partition(" ")
    if word.lower() == "yes" and not reason.strip():
        return ""
    if word.lower() == "no" and reason.strip():
        return reason.strip()
    if word.lower() == "no":
        raise ValueError("'no' needs a reason: oracle = no: why the real Xen cannot run it")
    raise ValueError(f"{text!r} is neither 'yes' nor 'no: reason'")


def _verdict(text: str) -> Verdict:
    try:
        return Verdict(text.upper())
    except ValueError:
        known = ", ".join(v.value for v in Verdict)
        raise ValueError(f"unknown verdict {text!r}: there are {known}") from None


def _domains(text: str) -> tuple[DomainSpec, ...]:
    words = _words(text)
    if len(words) == 1 and words[0].isdecimal():
        number = _number(1, MAX_DOMAINS)(words[0])
        return tuple(DomainSpec(str(i)) for i in range(1, number + 1))
    if not words:
        raise ValueError("neither a number of domains nor their names")
    for word in words:
        if not _NAME.fullmatch(word):
            raise ValueError(f"{word!r} is not a domain's name: a letter, then letters and digits")
    if len(set(words)) < len(words):
        raise ValueError("two domains have the same name")
    if len(words) > MAX_DOMAINS:
        raise ValueError(f"{len(words)} domains: at most {MAX_DOMAINS}")
    return tuple(DomainSpec(word) for word in words)


def _text(text: str) -> str:
    return text


def _file(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a file name is missing")
    return text


def _width(text: str) -> int:
    if text not in ("32", "64"):
        raise ValueError(f"{text!r} is neither 32 nor 64")
    return int(text)


_PLAIN: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "description": ("description", _text),
    "environments": ("environments", _environments),
    "oracle": ("not_on_xen", _oracle),
    "difference": ("difference", _text),
    "expected": ("expected", _verdict),
    "domains": ("domains", _domains),
    "memory": ("memory", _size),
    "machine-memory": ("machine_memory", _size),
    "cmdline": ("cmdline", _text),
    "module": ("module", _file),
    "limit": ("limit", count),
}
"""Key -> field of the manifest and what reads the value."""
_SETTINGS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "groups": ("groups", _number(1, 1 << 16)),
    "zero-only": ("zero_only", _flag),
    "opaque": ("opaque", _flag),
    "hash-bits": ("hash_bits", _number(0, 64)),
    "seed": ("seed", _number(0, (1 << 64) - 1)),
    "slice": ("slice", _number(1, 1 << 40)),
}
"""Key -> setting of the machine."""
_PER_DOMAIN: Final[dict[str, Callable[[str], Any]]] = {
    "memory": _size,
    "cmdline": _text,
    "module": _file,
    "kernel": _file,
    "width": _width,
}
KEYS: Final = (*_PLAIN, *_SETTINGS)


def _make(entries: Iterable[tuple[str, str, str]], name: str) -> Manifest:
    """A manifest from (where, key, value)."""
    values: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    own: list[tuple[str, str, str, Any]] = []
    seen: dict[str, str] = {}
    for where, written, text in entries:
        key = written.lower().replace("_", "-")
        base, dot, _ = key.partition(".")
        if key in seen:
            raise ManifestError(f"{where}: {written} was already given in line {seen[key]}")
        seen[key] = where.rpartition(":")[2]
        try:
            if dot and base in _PER_DOMAIN:
                own.append((where, base, written.partition(".")[2], _PER_DOMAIN[base](text)))
            elif key in _PLAIN:
                target, convert = _PLAIN[key]
                values[target] = convert(text)
            elif key in _SETTINGS:
                target, convert = _SETTINGS[key]
                settings[target] = convert(text)
            elif dot or base in ("kernel", "width"):
                known = ", ".join(f"{k}.DOMAIN" for k in _PER_DOMAIN)
                raise ManifestError(f"{where}: unknown key {written!r}: per domain, {known}")
            else:
                raise ManifestError(f"{where}: unknown key {written!r}: there are {_list(KEYS)}")
        except ValueError as error:
            raise ManifestError(f"{where}: {written}: {error}") from None
    manifest = Manifest(**values, settings=settings)
    manifest = _with_domains(manifest, own)
    return _with_oracle(manifest, "oracle" in seen, "environments" in seen, name)


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)


def _with_domains(manifest: Manifest, own: list[tuple[str, str, str, Any]]) -> Manifest:
    domains = {domain.name: domain for domain in manifest.domains}
    for where, key, name, value in own:
        if name not in domains:
            message = f"{key}.{name}: no domain {name!r}: there are {_list(domains)}"
            raise ManifestError(f"{where}: {message}")
        domains[name] = replace(domains[name], **{key: value})
    return replace(manifest, domains=tuple(domains.values()))


def _with_oracle(manifest: Manifest, oracle: bool, environments: bool, name: str) -> Manifest:
    """Bring ``environments`` and ``oracle`` together, and add what follows from the rest."""
    named = "xen" in manifest.environments
    reason = manifest.not_on_xen
    if oracle and environments and named != (not reason):
        raise ManifestError(f"{name}:0: environments and oracle contradict each other")
    if not reason and not named:
        reason = NO_PV32 if manifest.environments == ("pv32",) else _NOT_NAMED
    if not reason and any(domain.width == 32 for domain in manifest.domains):
        reason = NO_PV32
    if not reason and len(manifest.domains) > 1:
        reason = f"needs {len(manifest.domains)} domains, and is the only one there"
    kept = tuple(e for e in manifest.environments if e != "xen" or not reason)
    return replace(manifest, environments=kept, not_on_xen=reason)


def as_json(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    """The fields that differ from the defaults, as JSON values."""
    default = Manifest()
    for item in fields(Manifest):
        value = getattr(manifest, item.name)
        if value == getattr(default, item.name):
            continue
        if isinstance(value, Verdict):
            value = value.value
        elif item.name == "domains":
            value = [d.name for d in manifest.domains]
        yield item.name, list(value) if isinstance(value, tuple) else value
