"""A trace as one HTML page that needs nothing else: no network, no other file, no library.

The page's parts are files of ``page/`` that people can read; here they are put together. The data
(``hypervisor.report.document``) goes in packed by gzip and as base64, so that nothing in a trace,
whatever a guest calls itself, can end the element that it is in; the page unpacks it by itself.
"""

import base64
import gzip
import json
from importlib import resources
from typing import Final

from hypervisor.report.document import Document
from hypervisor.report.reading import TraceReader

_SCRIPTS: Final = ("model.js", "details.js", "map.js", "charts.js", "events.js", "main.js")
_COLUMNS: Final = 120


def render(reader: TraceReader, first: int | None = None) -> str:
    """The page of a trace; ``first`` bounds the number of events.

    Raises:
        TraceError: the trace is bad, or has too many events.
        OSError: it cannot be read.
    """
    data = json.dumps(Document(reader, first).data, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(data.encode("ascii"), 6, mtime=0)).decode("ascii")
    lines = (packed[at : at + _COLUMNS] for at in range(0, len(packed), _COLUMNS))
    strict = '"use strict";\n'
    script = strict + "\n".join(_part(name).removeprefix(strict) for name in _SCRIPTS)
    page = _part("page.html")
    for name, text in (
        ("style", _part("page.css")),
        ("script", script),
        ("data", "\n".join(lines)),
    ):
        page = page.replace(f"{{{name}}}\n", text.rstrip("\n") + "\n", 1)
    return page


def _part(name: str) -> str:
    return resources.files("hypervisor.report").joinpath("page", name).read_text("utf-8")
