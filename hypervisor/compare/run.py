"""Cells in parallel: processes of this machine, or the workers of a dask scheduler.

Every cell has a process of its own (``guests.runner.pool``): one that dies, or runs out of memory,
costs its own cell, whose outcome is then ``lost``. Results come as they are finished.

How it fails: ``CompareError`` if there is no such scheduler, or dask is not installed.
"""

import re
import resource
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from emu.errors import CowbirdError
from guests.runner.pool import Task, default_jobs, run_all
from guests.runner.verdict import Verdict
from hypervisor.compare.cell import CELL_SCHEMA, Cell, run_cell, warm_up
from hypervisor.compare.errors import CompareError
from hypervisor.compare.extras import optional

Result = dict[str, Any]
Work = Callable[[Cell], Result]

LOST: Final = "lost"
TIMEOUT: Final = 1800.0
"""Seconds of host time for one cell, after which its process is ended: a last resort."""
_CONNECT: Final = "15s"
_REACH: Final = 5.0
"""Seconds."""
_ADDRESS: Final = re.compile(r"(?:tcp|tls)://(?:\[([^]]+)\]|([^:/\[\]]+)):(\d{1,5})/?")


def lost(cell: Cell, reason: str) -> Result:
    """The result of a cell whose process did not come to its end."""
    return {
        "schema": CELL_SCHEMA,
        "cell": cell.as_json(),
        "name": cell.name,
        "outcome": LOST,
        "reason": reason,
    }


def guarded(work: Work, cell: Cell, memory: int | None = None) -> Result:
    """Run a cell; what goes wrong in it is its result. ``memory``: bytes its process may have."""
    if memory is not None:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        return work(cell)
    except MemoryError:
        return lost(cell, "out of memory")
    except CowbirdError as error:
        return lost(cell, " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 - a bug of ours: it costs this cell, and is told
        return lost(cell, f"a bug of cowbird: {type(error).__name__}: {error}")


def run_local(
    cells: Sequence[Cell],
    jobs: int = 0,
    *,
    work: Work = run_cell,
    memory: int | None = None,
    timeout: float = TIMEOUT,
) -> Generator[tuple[Cell, Result], None, None]:
    """Run cells in ``jobs`` processes at a time (0: one for each CPU). Closing it ends them all."""

    def gone(cell: Cell, verdict: Verdict, reason: str, seconds: float) -> Result:
        return lost(cell, f"{reason} ({verdict.value})" if verdict is Verdict.TIMEOUT else reason)

    if work is run_cell:
        warm_up(cells)
    tasks = [
        Task(partial(guarded, work, cell, memory), partial(gone, cell), timeout) for cell in cells
    ]
    finished = run_all(tasks, jobs or default_jobs())
    try:
        for index, result in finished:
            yield cells[index], result
    finally:
        finished.close()


def _reach(scheduler: str) -> None:
    """See that somebody listens there: dask's own attempt goes on for long, and prints.

    Raises:
        CompareError: it is no address of a scheduler, or nobody does.
    """
    found = _ADDRESS.fullmatch(scheduler)
    if found is None or int(found[3]) > 0xFFFF:
        raise CompareError(
            f"--scheduler {scheduler}: no address of a dask scheduler (tcp://HOST:PORT)"
        )
    try:
        socket.create_connection((found[1] or found[2], int(found[3])), _REACH).close()
    except (OSError, UnicodeError) as error:
        raise CompareError(f"no dask scheduler at {scheduler}: {error}") from None


def run_on(
    scheduler: str, cells: Sequence[Cell], *, work: Work = run_cell
) -> Generator[tuple[Cell, Result], None, None]:
    """Run cells on the workers of the dask scheduler at this address.

    Raises:
        CompareError: dask.distributed is not installed, or nobody answers there.
    """
    distributed = optional("distributed", "--scheduler", "sweep")
    _reach(scheduler)
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT)
    except (OSError, ValueError, TimeoutError) as error:
        raise CompareError(f"no dask scheduler at {scheduler}: {error}") from None
    try:
        futures = {
            client.submit(guarded, work, cell, key=cell.name, pure=False, retries=1): cell
            for cell in cells
        }
        for future in distributed.as_completed(futures):
            cell = futures[future]
            if future.status == "finished":
                yield cell, future.result()
            else:
                yield cell, lost(cell, f"its worker died: {future.exception()}")
    finally:
        client.close()
