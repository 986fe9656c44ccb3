"""The exit codes of ``cowbird``: one for each way to end. Help and README are made from here.

Where several are true of a run, the first of ``Outcome``'s order decides: interrupted, hypervisor
error, crashed, failed, limit, stuck, ok. Bad usage ends a command before there is a run.
"""

from typing import Final

from hypervisor.results import Outcome

USAGE: Final = 2
"""Bad usage, a file that cannot be read or is not a guest, or more memory than there is."""

EXIT_CODES: Final = {
    Outcome.OK: 0,
    Outcome.FAILED: 1,
    Outcome.CRASHED: 3,
    Outcome.LIMIT: 4,
    Outcome.HYPERVISOR_ERROR: 5,
    Outcome.STUCK: 6,
    Outcome.INTERRUPTED: 130,
}

MEANINGS: Final = (
    (0, "all well: every guest ended by itself and none reported failure"),
    (1, "a guest reported failure: a 'not ok' line, or fewer 'ok' lines than it planned"),
    (2, "bad usage, or a file or a memory size that cannot be used"),
    (3, "a guest crashed, or says that it did (the report is on stderr)"),
    (4, "the instruction limit was reached"),
    (5, "the audit found violations, or the hypervisor failed: a bug of cowbird"),
    (6, "stuck: guests wait for events that nothing can send any more"),
    (130, "interrupted by Ctrl-C"),
    (141, "nobody reads the output any more"),
    (143, "ended by SIGTERM (129: by SIGHUP)"),
)
"""Every code in words. If several are true, this order decides: 141, 143, 130, 5, 3, 1, 4, 6, 0."""


def help_text() -> str:
    """The exit codes as a block for ``--help``."""
    lines = [f"  {code:>3}  {meaning}" for code, meaning in MEANINGS]
    return "\b\nExit codes (if several apply: 141, 143, 130, 5, 3, 1, 4, 6, 0):\n" + "\n".join(
        lines
    )
