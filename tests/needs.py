"""What a test needs from outside: absent, it skips; absent where CI is set, it fails.

A skipped comparison looks like a passed one, so the machine that guards the project may not
lack the tools.
"""

import importlib
import os
import shutil
from pathlib import Path

import pytest


def need(tool: str) -> str:
    """Path of the program ``tool``, or of the file or directory if ``tool`` is an absolute path.

    Skips the test if there is no such thing, and fails it if the environment has ``CI`` set.
    """
    if tool.startswith("/"):
        found = tool if Path(tool).exists() else None
    else:
        found = shutil.which(tool)
    if found is None:
        missing(f"needs {tool}, which is not here")
    assert found is not None
    return found


def missing(reason: str) -> None:
    """Skip with ``reason``, or fail with it where ``CI`` is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need_module(name: str) -> None:
    """As ``need``, for a Python module of one of the optional extras."""
    try:
        importlib.import_module(name)
    except ImportError:
        missing(f"needs the Python package {name}, which is not installed")
