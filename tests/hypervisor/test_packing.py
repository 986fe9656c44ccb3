"""What kernels come packed in: every packing gives the same kernel, a hostile one a clear line."""

import bz2
import contextlib
import gzip
import importlib
import lzma
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guests import library
from hypervisor import packing
from hypervisor.image import parse_image
from hypervisor.packing import BadImageError, unpack
from tests.needs import need_module

KERNEL = library.build_elf(library.find("hello"))


def lzma_alone(data):
    return lzma.compress(data, format=lzma.FORMAT_ALONE)


def zstd(data):
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    need_module(name)
    return importlib.import_module(name).compress(data)


def bzimage(payload, *, sectors=3, protocol=0x020F, offset=0x40, length=None, tail=b"\x12\0\0\0"):
    """A Linux bzImage: setup header, setup sectors, and the payload within protected-mode code."""
    setup = bytearray((max(sectors, 1) + 1 if sectors else 5) * 512)
    setup[0x1F1] = sectors
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    size = len(payload) + len(tail) if length is None else length
    struct.pack_into("<II", setup, 0x248, offset, size)
    return bytes(setup) + bytes(offset) + payload + tail + bytes(64)


PACKINGS = [gzip.compress, lzma.compress, lzma_alone, bz2.compress, zstd]


@pytest.mark.parametrize("pack", PACKINGS)
def test_every_packing_alone_and_as_a_payload(pack):
    assert unpack(pack(KERNEL))[0] == KERNEL
    whole = bzimage(pack(KERNEL))
    data, layers = unpack(whole)
    assert data == KERNEL
    assert layers[0] == "bzImage"
    assert len(layers) == 2
    assert parse_image(whole, "k").segments == parse_image(KERNEL, "k").segments


def test_a_payload_may_be_bare_and_setup_sectors_default_to_four():
    assert unpack(bzimage(KERNEL, tail=b"")) == (KERNEL, ("bzImage",))
    assert unpack(bzimage(KERNEL, sectors=0, tail=b"")) == (KERNEL, ("bzImage",))


@pytest.mark.parametrize("pack", PACKINGS)
def test_truncated(pack):
    packed = pack(KERNEL)
    for cut in (20, len(packed) // 2, len(packed) - 1):
        with pytest.raises(BadImageError):
            unpack(packed[:cut])


@pytest.mark.parametrize("pack", PACKINGS)
def test_bombs(pack, monkeypatch):
    monkeypatch.setattr(packing, "MAX_IMAGE_BYTES", 1 << 20)
    bomb = pack(bytes(8 << 20))
    for data in (bomb, bzimage(bomb)):
        with pytest.raises(BadImageError, match="larger than 1 MiB"):
            unpack(data)


def test_what_an_unpacker_may_ask_for_is_bounded():
    huge = b"\x5d" + struct.pack("<I", 0xFFFF0000) + struct.pack("<q", -1) + bytes(100)
    with pytest.raises(BadImageError, match="lzma"):
        unpack(huge)
    wide = b"\x28\xb5\x2f\xfd" + b"\0" + bytes([31 - 10 << 3]) + bytes(50)
    with pytest.raises(BadImageError, match="zstd"):
        unpack(wide)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bzimage(gzip.compress(KERNEL))[:0x240], "setup header is not complete"),
        (bzimage(gzip.compress(KERNEL))[:2000], "truncated bzImage"),
        (bzimage(b"", length=0), "truncated bzImage"),
        (bzimage(b"", offset=0xFFFF, length=0xFFFFFFFF), "truncated bzImage"),
        (bzimage(KERNEL, protocol=0x0207), "protocol 2.07"),
        (bzimage(b"what is this"), "of no known kind"),
        (bzimage(bzimage(KERNEL)), "of no known kind"),
        (bzimage(b"\x02\x21\x4c\x18" + bytes(50)), "lz4 files are not supported"),
        (b"\x89LZO\0\r\n\x1a\n" + bytes(50), "lzo files are not supported"),
        (b"BZh9" + bytes(50), "damaged bzip2"),
    ],
)
def test_hostile_files(data, says):
    with pytest.raises(BadImageError, match=says):
        unpack(data)


def test_layers_are_bounded():
    inner = gzip.compress(KERNEL, mtime=0)
    assert unpack(gzip.compress(inner)) == (inner, ("gzip",))


def test_zstd_without_a_library(monkeypatch):
    def fail(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(BadImageError, match="backports"):
        unpack(b"\x28\xb5\x2f\xfd" + bytes(50))


@settings(deadline=None)
@given(st.sampled_from(range(len(PACKINGS) - 1)), st.integers(0, 4000), st.binary(max_size=8))
def test_mutated_packings_unpack_or_are_refused(which, at, change):
    data = bytearray(bzimage(PACKINGS[which](KERNEL[:4000])))
    data[at : at + len(change)] = change
    with contextlib.suppress(BadImageError):
        unpack(bytes(data))
