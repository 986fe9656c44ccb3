"""Running the command line for tests: inside this process, or as a real one."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from hypervisor.cli import cli

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, **more):
    return CliRunner().invoke(cli, [str(a) for a in arguments], **more)


def command(*arguments, cwd=None, **more):
    """A real process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "60"}
    return subprocess.run(
        [sys.executable, "-m", "hypervisor", *map(str, arguments)],
        capture_output=True,
        cwd=cwd,
        env=environment,
        timeout=100,
        check=False,
        **{"stdin": subprocess.DEVNULL, **more} if "input" not in more else more,
    )


def is_one_error(result, *parts):
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("cowbird: error: ")
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in result.output
