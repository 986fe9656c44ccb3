"""The whole suite on the real Xen and here: verdicts agree, or the difference is documented."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.needs import need

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(900)
def test_the_suite_agrees_with_the_real_xen(tmp_path: Path) -> None:
    for tool in ("gcc", "qemu-system-x86_64", "/boot/xen-4.17-amd64.gz"):
        need(tool)
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "hypervisor", "test", "tests/programs", "--on", "both", "-j2"]
    command += ["--json", str(result), "--artifacts", str(tmp_path / "evidence")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    programs = json.loads(result.read_text())["programs"]
    verdicts = Counter(program["comparison"] for program in programs)
    assert verdicts["agree"] >= 90, verdicts
    documented = [p for p in programs if p["comparison"] == "documented"]
    assert all(program["difference_reason"] for program in documented)
