"""Commands about the prompt itself."""

from pathlib import Path
from typing import Final

from hypervisor.debug.commands import COMMANDS, GROUPS, Context, Quit, command, execute, find
from hypervisor.debug.model import DebugError

MAX_SCRIPT: Final = 1 << 20
"""Bytes of a file of commands."""
MAX_DEPTH: Final = 16
"""Files of commands that call each other."""


@command("help", "[COMMAND | TEXT]", aliases=("h", "?"), group="prompt", completes="command")
def help_(context: Context, arguments: str) -> str:
    """List the commands, or say what one does; any other word is looked for in all of them."""
    if not arguments:
        return _overview()
    try:
        item, rest = find(arguments)
    except DebugError:
        return _apropos(arguments)
    if rest:
        return _apropos(arguments)
    lines = [item.usage()]
    if item.aliases:
        lines.append(f"also: {', '.join(item.aliases)}")
    lines.append(item.summary)
    if item.details:
        lines += ["", item.details]
    return "\n".join(lines)


def _overview() -> str:
    lines = []
    for group, title in GROUPS.items():
        lines.append(f"{title}:")
        for item in COMMANDS.values():
            if item.group == group:
                names = item.name
                if item.aliases:
                    names += f" ({', '.join(item.aliases)})"
                lines.append(f"  {names:<44} {item.summary}")
    lines.append("Any unambiguous beginning of a name will do; 'help COMMAND' says more.")
    return "\n".join(lines)


def _apropos(text: str) -> str:
    found = [
        f"  {item.usage():<44} {item.summary}"
        for item in COMMANDS.values()
        if text.lower() in f"{item.name} {item.summary} {item.details}".lower()
    ]
    return "\n".join(found) or f"no command has to do with {text!r}"


@command("quit", "[CODE]", aliases=("q", "exit"), group="prompt")
def quit_(context: Context, arguments: str) -> str:
    """End. The exit code is CODE, or 0, or 1 if a command of a script failed."""
    raise Quit(context.value(arguments) & 0xFF if arguments else None)


@command("echo", "TEXT", group="prompt")
def echo(_context: Context, arguments: str) -> str:
    """Print text."""
    return arguments


@command("source", "FILE", group="prompt", moves=True, completes="file")
def source(context: Context, arguments: str) -> str:
    """Run the commands in a file; the first that fails ends it."""
    lines = script_lines(arguments)
    if context.depth >= MAX_DEPTH:
        raise DebugError(f"{arguments}: files of commands call each other {MAX_DEPTH} deep")
    context.depth += 1
    texts = []
    try:
        for number, line in lines:
            try:
                texts.append(execute(context, line))
            except DebugError as error:
                if any(texts):
                    context.tell("\n".join(text for text in texts if text))
                raise DebugError(f"{arguments}:{number}: {error}") from error
    finally:
        context.depth -= 1
    return "\n".join(text for text in texts if text)


def script_lines(path: str) -> list[tuple[int, str]]:
    """The commands in a file, with their line numbers.

    Raises:
        DebugError: it cannot be read, or is no text.
    """
    try:
        if not Path(path).is_file():
            raise DebugError(
                f"{path}: {'not a regular file' if Path(path).exists() else 'no such file'}"
            )
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_SCRIPT + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DebugError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_SCRIPT:
        raise DebugError(f"{path}: larger than {MAX_SCRIPT >> 10} KiB")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DebugError(f"{path}: not text in UTF-8") from error
    numbered = enumerate((line.strip() for line in text.splitlines()), 1)
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]
