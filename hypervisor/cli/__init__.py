"""``cowbird``: the command line. One module per command, ``app`` for all; ``main`` is the entry.

``main`` imports nothing but this file's few lines before it can be interrupted decently: the rest
takes a while to load.
"""

from typing import Any

__all__ = ["cli", "main"]


def main() -> None:
    """The entry point of ``cowbird`` and ``python -m hypervisor``."""
    try:
        from hypervisor.cli import signals

        signals.set_up()
        with signals.leaving_at_once():
            from hypervisor.cli.app import cli
        cli(prog_name="cowbird")
    except KeyboardInterrupt as error:
        from hypervisor.cli import signals

        signals.leave(error)


def __getattr__(name: str) -> Any:
    """``cli``, the group of all commands, loaded when somebody asks for it."""
    if name != "cli":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hypervisor.cli import app

    return app.cli
