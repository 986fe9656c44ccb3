"""Recordings: what a run starts from and what came to it from outside, in one file.

The file is a magic line with the version of the format, a 128-bit hash of the rest, and the rest
compressed: a JSON document and, behind it, the blobs that it refers to (images, modules, disk
blocks, console input). Nothing in it is code, so that a recording may come from anybody.

A recording replays only where the same program runs: it names the version of cowbird and carries a
hash of its sources; if that differs the reader is told, and whether the run repeats shows at its
end, whose fingerprint is in the file.

How it fails: ``RecordingError`` in one line: no recording, another version, cut short, damaged.
"""

import json
import struct
import zlib
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

from xxhash import xxh3_128, xxh3_128_digest

from emu.engine import TESTED_VERSION
from emu.errors import CowbirdError
from hypervisor.console import Console
from hypervisor.debug.disks import Blocks, RecordedDisk
from hypervisor.debug.inputs import KINDS, Input
from hypervisor.debug.model import DebugError
from hypervisor.disk import Mode
from hypervisor.domain import Domain
from hypervisor.hypervisor import Hypervisor
from hypervisor.image import KernelImage, parse_image
from hypervisor.settings import Settings

FORMAT: Final = 1
_MAGIC: Final = b"cowbird recording "
_HEAD: Final = struct.Struct("<16sQ")
"""Hash and length of the compressed rest."""
_MAX_BYTES: Final = 1 << 32
_MAX_RAW: Final = 4 << 30
"""Bytes of the rest when it is not compressed: a small file must not fill the memory."""


class RecordingError(DebugError):
    """A file is no recording that can be replayed here."""


@cache
def program() -> tuple[str, str]:
    """The version of cowbird, and a hash of the sources that decide how a run goes."""
    try:
        name = version("cowbird")
    except PackageNotFoundError:
        name = "unknown"
    root = Path(__file__).resolve().parents[2]
    digest = xxh3_128(TESTED_VERSION.encode())
    for package in ("emu", "hypervisor"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).parts
            if parts[:2] in (("hypervisor", "cli"), ("hypervisor", "report"), ("emu", "gdb")):
                continue
            digest.update(path.read_bytes())
    return name, digest.hexdigest()


@dataclass(frozen=True, slots=True)
class DomainStart:
    """What one domain was built from. ``memory`` in bytes."""

    name: str
    image: KernelImage
    memory: int
    cmdline: str
    module: bytes | None
    privileged: bool
    disks: tuple[RecordedDisk, ...]


@dataclass(slots=True)
class Recording:
    """A run: where it starts, its inputs, and where it ends."""

    settings: Settings
    domains: tuple[DomainStart, ...]
    inputs: list[Input] = field(default_factory=list)
    end: int = 0
    state: str = ""
    """Fingerprint of the machine at the end."""
    checkpoints: dict[str, int] = field(default_factory=dict)
    other_sources: bool = False
    """It was made by a cowbird whose sources differ from these."""

    def build(self, hv: Hypervisor, start: DomainStart, console: Console) -> Domain:
        """Build one domain on a machine, as it was built then.

        Raises:
            DomainError, OutOfFrames: it cannot be built.
        """
        from hypervisor.builder import build_domain

        domain = build_domain(
            hv,
            start.image,
            memory=start.memory,
            name=start.name,
            cmdline=start.cmdline,
            module=start.module,
            console=console,
            privileged=start.privileged,
        )
        for disk in start.disks:
            hv.disks.attach(domain, disk)
        return domain


def starts_of(hv: Hypervisor) -> tuple[DomainStart, ...]:
    """What the domains of a machine were built from, their disks made recorded ones.

    Raises:
        DebugError: a disk writes into its file.
    """
    starts = []
    for domain in hv.domains.values():
        disks = []
        for backend in hv.disks.of(domain):
            image = backend.image
            if not isinstance(image, RecordedDisk):
                backend.image = image = RecordedDisk.over(image)
            disks.append(image)
        built = domain.built
        if built is not None:
            image_, memory, cmdline, module = built
            starts.append(
                DomainStart(
                    domain.name, image_, memory, cmdline, module, domain.privileged, tuple(disks)
                )
            )
    return tuple(starts)


# -- writing -------------------------------------------------------------------------------


class _Blobs:
    """Byte strings, each once; a reference is [offset, length]."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._known: dict[bytes, list[int]] = {}

    def add(self, data: bytes | None) -> list[int] | None:
        if data is None:
            return None
        key = xxh3_128_digest(data)
        if key not in self._known:
            self._known[key] = [len(self.data), len(data)]
            self.data += data
        return self._known[key]


def dump(recording: Recording) -> bytes:
    """A recording as the contents of a file."""
    blobs = _Blobs()
    name, sources = program()
    sources_of_blocks: list[Blocks] = []
    domains = []
    for start in recording.domains:
        disks = []
        for disk in start.disks:
            if disk.blocks not in sources_of_blocks:
                sources_of_blocks.append(disk.blocks)
            disks.append(
                {
                    "path": disk.path,
                    "mode": disk.mode.value,
                    "sectors": disk.sectors,
                    "identity": list(disk.identity),
                    "blocks": {str(n): blobs.add(b) for n, b in sorted(disk.blocks.kept.items())},
                }
            )
        domains.append(
            {
                "name": start.name,
                "image": blobs.add(start.image.elf),
                "image_name": start.image.name,
                "memory": start.memory,
                "cmdline": start.cmdline,
                "module": blobs.add(start.module),
                "privileged": start.privileged,
                "disks": disks,
            }
        )
    document = {
        "cowbird": name,
        "sources": sources,
        "settings": asdict(recording.settings),
        "domains": domains,
        "inputs": [
            {
                "position": given.position,
                "kind": given.kind,
                "domain": given.domain,
                "data": blobs.add(given.data),
                "name": given.name,
                "value": str(given.value),
                "ids": None if given.ids is None else list(given.ids),
            }
            for given in recording.inputs
        ],
        "end": recording.end,
        "state": recording.state,
        "checkpoints": recording.checkpoints,
    }
    text = json.dumps(document, sort_keys=True).encode()
    rest = zlib.compress(struct.pack("<I", len(text)) + text + bytes(blobs.data), 6)
    head = _HEAD.pack(xxh3_128_digest(rest), len(rest))
    return _MAGIC + f"{FORMAT}\n".encode() + head + rest


# -- reading -------------------------------------------------------------------------------


def load(path: str) -> Recording:
    """Read a recording from a file.

    Raises:
        RecordingError: it cannot be read, or is none that can be replayed here.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RecordingError(f"{path}: cannot be read: {why}") from error
    try:
        return parse(data)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from None


def parse(data: bytes) -> Recording:
    """A recording from the contents of a file.

    Raises:
        RecordingError: it is none, or none that can be replayed here.
    """
    line, newline, body = data.partition(b"\n")
    number = line.removeprefix(_MAGIC)
    if not data.startswith(_MAGIC[: len(data)]) or not data:
        raise RecordingError("not a recording of cowbird")
    if not newline or len(body) < _HEAD.size:
        raise RecordingError("the recording is cut short")
    if number != str(FORMAT).encode():
        shown = number[:20].decode("ascii", "replace")
        raise RecordingError(f"a recording of format {shown!r}; this cowbird reads format {FORMAT}")
    digest, length = _HEAD.unpack_from(body)
    rest = body[_HEAD.size :]
    if len(rest) < length:
        raise RecordingError(f"the recording is cut short: {len(rest):,} of {length:,} bytes")
    if len(rest) > length or xxh3_128_digest(rest) != digest:
        raise RecordingError("the recording is damaged")
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(rest, _MAX_RAW)
        if unpacker.unconsumed_tail:
            raise RecordingError("the recording is too large")
        (size,) = struct.unpack_from("<I", raw)
        document = json.loads(raw[4 : 4 + size])
        return _recording(document, raw[4 + size :])
    except CowbirdError as error:
        raise RecordingError(str(error)) from None
    except (
        zlib.error, struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError,
        OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise RecordingError(f"the recording makes no sense: {error}") from error


_T = TypeVar("_T", int, str)
_LEAST: Final = {"machine_memory": 1, "groups": 1, "hash_bits": 1, "slice": 1}
_MOST: Final = {"machine_memory": 1 << 46, "hash_bits": 64}


def _checked(value: Any, kind: type[_T]) -> _T:
    """A value that must be of this type, and of no other that passes for it."""
    if type(value) is not kind:
        raise RecordingError(f"the recording makes no sense: {value!r:.40} is no {kind.__name__}")
    return value


def _settings(given: dict[str, Any]) -> Settings:
    """Settings that a machine can have; how large a machine can be built shows when it is."""
    for setting in fields(Settings):
        name, value = setting.name, given[setting.name]
        least, most = _LEAST.get(name, 0), _MOST.get(name, (1 << 64) - 1)
        if type(value) is not setting.type or not least <= value <= most:
            raise RecordingError(f"the recording makes no sense: {name} {value!r:.40}")
    return Settings(**given)


def _recording(document: dict[str, Any], blobs: bytes) -> Recording:
    def blob(reference: list[int] | None) -> bytes | None:
        if reference is None:
            return None
        offset, length = reference
        if not 0 <= offset <= offset + length <= len(blobs):
            raise RecordingError("the recording refers to what is not in it")
        return blobs[offset : offset + length]

    name, sources = program()
    if document["cowbird"] != name:
        raise RecordingError(
            f"recorded by cowbird {document['cowbird']}, and this is {name}: a run may differ"
        )
    shared: dict[tuple[int, int], Blocks] = {}
    domains = []
    for given in document["domains"]:
        disks = []
        for disk in given["disks"]:
            one, two = disk["identity"]
            kept = {int(n): blob(b) or b"" for n, b in disk["blocks"].items()}
            blocks = shared.setdefault((one, two), Blocks(None))
            blocks.kept.update(kept)
            disks.append(
                RecordedDisk(
                    blocks, disk["path"], Mode(disk["mode"]), int(disk["sectors"]), (one, two)
                )
            )
        image = parse_image(blob(given["image"]) or b"", _checked(given["image_name"], str))
        domains.append(
            DomainStart(
                _checked(given["name"], str), image, _checked(given["memory"], int),
                _checked(given["cmdline"], str), blob(given["module"]),
                bool(given["privileged"]), tuple(disks),
            )
        )  # fmt: skip
    inputs = [
        Input(
            int(given["position"]), given["kind"], int(given["domain"]), blob(given["data"]) or b"",
            _checked(given["name"], str), int(given["value"]),
            None if given["ids"] is None else tuple(_checked(i, int) for i in given["ids"]),
        )
        for given in document["inputs"]
    ]  # fmt: skip
    end = int(document["end"])
    positions = [given.position for given in inputs]
    if any(given.kind not in KINDS for given in inputs) or positions != sorted(positions):
        raise RecordingError("the recording makes no sense: its inputs")
    if positions and positions[-1] > end:
        raise RecordingError("the recording makes no sense: its end")
    return Recording(
        _settings(document["settings"]), tuple(domains), inputs, end, document["state"],
        {str(n): int(p) for n, p in document["checkpoints"].items()},
        other_sources=document["sources"] != sources,
    )  # fmt: skip
