"""The group of all commands, and how each of them ends.

Every error that a user can cause ends here as one line ``cowbird: error: what and where`` on
stderr and exit code 2. A traceback is never shown unless ``--log debug`` asks for it. The commands
own no mechanism: they read files, start a machine, and print.
"""

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final

import click

from emu.errors import CowbirdError
from hypervisor.cli import logs, signals
from hypervisor.cli.exitcodes import EXIT_CODES, USAGE, help_text
from hypervisor.results import Outcome

_COMMANDS: Final = {
    "boot": "boot",
    "compare": "compare",
    "debug": "debug",
    "demo": "demo",
    "guests": "guests",
    "info": "info",
    "asm": "asm",
    "test": "test",
    "new-guest": "new_guest",
    "replay": "replay",
    "report": "report",
    "trace": "trace",
}
"""Command -> its module here and its function in there; loaded when it is used."""


class _Group(click.Group):
    """A group whose errors are one line each, and whose commands are loaded when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the alphabet."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name."""
        name = _COMMANDS.get(cmd_name)
        if name is None:
            return None
        with signals.leaving_at_once():
            module = importlib.import_module(f"hypervisor.cli.{name}")
        command: click.Command = getattr(module, name)
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; leaves by ``SystemExit`` if ``standalone_mode``."""
        name = prog_name or "cowbird"
        completing = (complete_var or f"_{name.replace('-', '_')}_complete".upper()) in os.environ
        if completing or not standalone_mode:
            return super().main(args, name, complete_var, standalone_mode, **extra)
        given = sys.argv[1:] if args is None else list(args)
        try:
            # Not by click's own main: it makes a closed pipe exit code 1, and all ways of being
            # interrupted one.
            try:
                with self.make_context(name, given, **extra) as ctx:
                    status = self.invoke(ctx)
            except click.exceptions.Exit as end:
                status = end.exit_code
            sys.stdout.flush()
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx is not None else name
            _fail(f"{error.format_message()} (see '{command} --help')")
        except click.ClickException as error:
            _fail(error.format_message())
        except CowbirdError as error:
            _fail(str(error), "; ")
        except (click.Abort, EOFError, KeyboardInterrupt) as error:
            signals.leave(error)
        except BrokenPipeError:
            signals.drop_streams()
            sys.exit(signals.BROKEN_PIPE)
        except OSError as error:
            _fail(f"{error.filename or 'output'}: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001 - a bug of ours: one line, never a traceback
            logging.getLogger("cowbird").debug("%s", traceback.format_exc())
            hint = "see the log above" if logs.debugging() else "--log debug shows where"
            text = " ".join(f"{type(error).__name__}: {error}".split())
            click.echo(f"cowbird: error: a bug of cowbird: {text}; {hint}", err=True)
            sys.exit(EXIT_CODES[Outcome.HYPERVISOR_ERROR])
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, between: str = " ") -> None:
    """One line on stderr; ``between`` stands where the message had line ends."""
    lines = (" ".join(line.split()) for line in message.splitlines())
    one_line = between.join(line for line in lines if line)
    try:
        click.echo(f"cowbird: error: {one_line}", err=True)
    except BrokenPipeError:
        signals.drop_streams()
    sys.exit(USAGE)


def _version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    import importlib.metadata

    try:
        number = importlib.metadata.version("cowbird")
    except importlib.metadata.PackageNotFoundError:
        number = "(not installed: run from its sources)"
    click.echo(f"cowbird {number}")
    ctx.exit()


@click.group(
    cls=_Group, epilog=help_text(), context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """An x86 paging laboratory: real guest kernels share equal pages.

    'cowbird demo' shows it; 'cowbird boot share --domains 4' boots guests.
    """
