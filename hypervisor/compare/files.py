"""Boot modules of real files, which stand for a disk.

A module is a directory and blocks, a page each: a magic number, the number of blocks, and for each
block its identity (number of the file, number of the page in it), then the blocks. Domain *n* has
some files that all have and some that follow those of domain *n* - 1, so that neighbours overlap.
Files are source files of Python's standard library: real contents that are there wherever cowbird
runs. The same installation gives the same modules.

How it fails: ``CompareError`` if there are not enough files.
"""

import struct
import sysconfig
from functools import cache
from pathlib import Path
from typing import Final

from emu.units import PAGE_SIZE
from hypervisor.compare.errors import CompareError

MAGIC: Final = 0x0062_616C_6472_6962
FILES: Final = 40
"""Files that all modules are made of: the largest that are not too large."""
COMMON: Final = 6
OWN: Final = 6
STEP: Final = 3
_MOST_BYTES: Final = 96 << 10
_HEAD: Final = struct.Struct("<QQ")


@cache
def _files() -> tuple[bytes, ...]:
    """The files, the largest first, each padded to pages.

    Raises:
        CompareError: there are not enough.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    found: list[tuple[int, str, bytes]] = []
    for path in sorted(library.glob("*.py")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if 0 < len(data) <= _MOST_BYTES:
            found.append((-len(data), path.name, data))
    if len(found) < FILES:
        raise CompareError(f"{library}: {len(found)} Python files, the workloads need {FILES}")
    chosen = [data for _, _, data in sorted(found)[:FILES]]
    return tuple(data + bytes(-len(data) % PAGE_SIZE) for data in chosen)


@cache
def module_for(domain: int) -> bytes:
    """The module of the domain with this number, from 0.

    Raises:
        CompareError: there are not enough files.
    """
    files = _files()
    rest = range(COMMON, len(files))
    own = [rest[(domain * STEP + i) % len(rest)] for i in range(OWN)]
    ids: list[int] = []
    blocks: list[bytes] = []
    for number in (*range(COMMON), *own):
        data = files[number]
        ids += [(number + 1) << 32 | page for page in range(len(data) // PAGE_SIZE)]
        blocks.append(data)
    head = _HEAD.pack(MAGIC, len(ids)) + struct.pack(f"<{len(ids)}Q", *ids)
    return head + bytes(-len(head) % PAGE_SIZE) + b"".join(blocks)
