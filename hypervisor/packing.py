"""What a guest kernel's file may be packed in: gzip, xz, lzma, bzip2, zstd, a Linux bzImage.

``unpack`` peels at most two layers, because no tool makes more: a bzImage, whose setup header says
where its payload lies, and one packing. Everything is bounded: a file is never unpacked to more
than ``MAX_IMAGE_BYTES``, and the memory that an unpacker may want besides is limited where the file
chooses it. Anything wrong raises ``BadImageError`` (``image`` adds the file's name) and nothing
else. Trailing bytes behind the packed data are ignored: Linux stores the unpacked size there.

zstd needs Python 3.14 or the package ``backports.zstd`` (``pip install 'cowbird[zstd]'``).

Source: Linux Documentation/arch/x86/boot.rst (the setup header); RFC 1952, 8878; the xz and
lzma file formats. LZ4 and LZO, which bzImages may use too, are named and refused.
"""

import bz2
import importlib
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

MAX_IMAGE_BYTES: Final = 256 << 20
"""Largest file, packed or unpacked, that is read."""
MAX_XZ_MEMORY: Final = 256 << 20
"""Most bytes that unpacking xz or lzma may use besides."""
_ZSTD_WINDOW_LOG: Final = 27
"""Largest window of zstd, as its logarithm: 128 MiB, what the kernel's own unpacker takes."""


class BadImageError(Exception):
    """What is wrong with a file, without the file's name."""


ELF_MAGIC: Final = b"\x7fELF"


def _drain(unpacker: Any, data: bytes, kind: str, errors: tuple[type[Exception], ...]) -> bytes:
    """Unpack at most one byte more than may be, so that the caller sees that there is more."""
    try:
        unpacked: bytes = unpacker.decompress(data, MAX_IMAGE_BYTES + 1)
    except errors as error:
        raise BadImageError(f"damaged {kind} file ({error})") from error
    if len(unpacked) <= MAX_IMAGE_BYTES and not unpacker.eof:
        raise BadImageError(f"truncated {kind} file")
    return unpacked


def _gunzip(data: bytes) -> bytes:
    return _drain(zlib.decompressobj(wbits=31), data, "gzip", (zlib.error,))


def _unxz(data: bytes) -> bytes:
    # The dictionary is the file's choice, up to 4 GiB; what compresses kernels needs 64 MiB.
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)
    return _drain(unpacker, data, "xz", (lzma.LZMAError,))


def _unlzma(data: bytes) -> bytes:
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=MAX_XZ_MEMORY)
    return _drain(unpacker, data, "lzma", (lzma.LZMAError,))


def _bunzip2(data: bytes) -> bytes:
    return _drain(bz2.BZ2Decompressor(), data, "bzip2", (OSError,))


def _zstd_library() -> Any | None:
    """The module with zstd, which few Pythons have yet."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _unzstd(data: bytes) -> bytes:
    zstd = _zstd_library()
    if zstd is None:
        raise BadImageError(
            "packed by zstd, which needs Python 3.14 or 'pip install backports.zstd';"
            " or unpack it first"
        )
    limits = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return _drain(zstd.ZstdDecompressor(options=limits), data, "zstd", (zstd.ZstdError,))


# (magic, what it is, how to unpack it or None)
_PACKINGS: Final[list[tuple[bytes, str, Callable[[bytes], bytes] | None]]] = [
    (b"\x1f\x8b", "gzip", _gunzip),
    (b"\xfd7zXZ\0", "xz", _unxz),
    (b"\x5d\0\0", "lzma", _unlzma),
    (b"BZh", "bzip2", _bunzip2),
    (b"\x28\xb5\x2f\xfd", "zstd", _unzstd),
    (b"\x02\x21\x4c\x18", "lz4", None),
    (b"\x04\x22\x4d\x18", "lz4", None),
    (b"\x89LZO\0\r\n\x1a\n", "lzo", None),
]

_SETUP: Final = 0x1F1
"""Offset of the setup header; its first byte is the number of setup sectors."""
_HEADER: Final = 0x202
_PAYLOAD: Final = struct.Struct("<II")
_PAYLOAD_AT: Final = 0x248
_FIRST_WITH_PAYLOAD: Final = 0x0208
"""Boot protocol that says where the payload is (Linux 2.6.26)."""
_SECTOR: Final = 512


def _bzimage_payload(data: bytes) -> bytes:
    """The compressed kernel in a bzImage."""
    if len(data) < _PAYLOAD_AT + _PAYLOAD.size:
        raise BadImageError("truncated bzImage: its setup header is not complete")
    (protocol,) = struct.unpack_from("<H", data, _HEADER + 4)
    if protocol < _FIRST_WITH_PAYLOAD:
        raise BadImageError(
            f"a bzImage of boot protocol {protocol >> 8}.{protocol & 0xFF:02}, which does not say"
            " where its payload is (2.08 does)"
        )
    offset, length = _PAYLOAD.unpack_from(data, _PAYLOAD_AT)
    start = ((data[_SETUP] or 4) + 1) * _SECTOR + offset
    if length == 0 or start + length > len(data):
        raise BadImageError(
            f"truncated bzImage: its payload ends at {start + length:#x}, the file at"
            f" {len(data):#x}"
        )
    return data[start : start + length]


def unpack(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The ELF file within ``data``, and the layers that were around it, outermost first.

    What is returned need not be an ELF file: whoever reads it finds that out.

    Raises:
        BadImageError: damaged, too large, or packed by what is not supported.
    """
    layers: list[str] = []
    _check_size(data)
    if data.startswith(b"HdrS", _HEADER) and not data.startswith(ELF_MAGIC):
        data = _bzimage_payload(data)
        layers.append("bzImage")
    for magic, kind, unpacker in _PACKINGS:
        if data.startswith(magic):
            if unpacker is None:
                raise BadImageError(f"{kind} files are not supported; unpack it first")
            data = unpacker(data)
            layers.append(kind)
            break
    else:
        if layers and not data.startswith(ELF_MAGIC):
            raise BadImageError("a bzImage whose payload is of no known kind")
    _check_size(data)
    return data, tuple(layers)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_IMAGE_BYTES:
        raise BadImageError(f"larger than {MAX_IMAGE_BYTES >> 20} MiB")
