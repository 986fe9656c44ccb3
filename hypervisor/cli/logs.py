"""``--log``: what happens on the machine as lines of Python's ``logging``, on stderr.

Every event that the hypervisor tells its listeners goes to the logger of its concern, under
``cowbird``: ``domain`` (created, ended), ``share``, ``hypercall``, ``fault`` and whatever other
kinds there are. ``--log`` takes a level, for all of them, or the name of one, to see everything of
it. Domains coming and going are ``info``, everything else is ``debug``.
"""

import logging
from typing import Any, Final

import click

from emu.paging import PF_ERROR
from hypervisor.abi import Errno
from hypervisor.domain import Domain
from hypervisor.hypervisor import Hypervisor

LEVELS: Final = ("debug", "info", "warning", "error")
CONCERNS: Final = ("domain", "share", "hypercall", "fault", "event", "other")
_CONCERN_OF: Final = {
    "create": "domain",
    "exit": "domain",
    "destroy": "domain",
    "share": "share",
    "refuse": "share",
    "map_again": "share",
    "drop": "share",
    "hypercall": "hypercall",
    "fault": "fault",
    "trap": "fault",
    "cow_fault": "fault",
    "upcall": "event",
}


_HEX: Final = frozenset({"va", "address", "rip", "mfn", "old", "new", "entry", "avl", "key"})
_PAGE_FAULT: Final = 14
_SMALL: Final = 10
"""Numbers below this look the same in both notations."""


def set_up(wanted: tuple[str, ...]) -> None:
    """Make ``cowbird.*`` loggers speak as asked.

    Raises:
        click.BadParameter: neither a level nor a name.
    """
    root = logging.getLogger("cowbird")
    root.setLevel(logging.WARNING)
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    root.addHandler(handler)
    for concern in CONCERNS:
        logging.getLogger(f"cowbird.{concern}").setLevel(logging.NOTSET)
    for word in wanted:
        if word.lower() in LEVELS:
            root.setLevel(word.upper())
        elif word.lower() in CONCERNS:
            logging.getLogger(f"cowbird.{word.lower()}").setLevel(logging.DEBUG)
        else:
            raise click.BadParameter(
                f"{word!r} is neither a level ({', '.join(LEVELS)}) nor a name"
                f" ({', '.join(CONCERNS)})",
                param_hint="--log",
            )


def debugging() -> bool:
    """True if ``--log debug`` was given."""
    return logging.getLogger("cowbird").isEnabledFor(logging.DEBUG)


def follow(hv: Hypervisor) -> None:
    """Log what happens on a machine, if anybody wants to see it."""
    loggers = {concern: logging.getLogger(f"cowbird.{concern}") for concern in CONCERNS}
    if not any(logger.isEnabledFor(logging.INFO) for logger in loggers.values()):
        return

    def happened(kind: str, domain: Domain | None, details: dict[str, Any]) -> None:
        concern = _CONCERN_OF.get(kind, "other")
        level = logging.INFO if concern == "domain" else logging.DEBUG
        logger = loggers[concern]
        if logger.isEnabledFor(level):
            who = "machine" if domain is None else domain.label
            shown = " ".join(f"{key}={_shown(kind, key, details)}" for key in details)
            logger.log(level, "%d %s %s %s", hv.machine.position, who, kind, shown)

    hv.listen(happened)


def _shown(kind: str, key: str, details: dict[str, Any]) -> str:
    """A value for people: addresses and frames in hex, results and error codes by name."""
    value = details[key]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_hex, value))}]"
    if not isinstance(value, int) or isinstance(value, bool):
        return str(value)
    if key in ("result", "status", "errno"):
        return _result(value)
    if key == "error" and kind == "trap":
        names = PF_ERROR.describe(value) if details.get("vector") == _PAGE_FAULT else ""
        return f"{_hex(value)}({names})" if names else _hex(value)
    return _hex(value) if key in _HEX else str(value)


def _hex(value: object) -> str:
    return hex(value) if isinstance(value, int) and not 0 <= value < _SMALL else str(value)


def _result(value: int) -> str:
    try:
        return f"-{Errno(-value).name}" if value < 0 else str(value)
    except ValueError:
        return str(value)
