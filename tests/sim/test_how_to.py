"""The how-to page's program and its test are run as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "test-your-program.md"


def blocks() -> dict[str, str]:
    """The page's blocks by what stands behind their language."""
    found = re.findall(r"^```python (\S+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return dict(found)


def test_the_program_of_the_page_passes_its_test(tmp_path: Path) -> None:
    for name, text in blocks().items():
        if name.startswith("file="):
            (tmp_path / name.removeprefix("file=")).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_the_program_without_pytest_runs(tmp_path: Path) -> None:
    exec(compile(blocks()["run"], str(PAGE), "exec", dont_inherit=True), {"__name__": "page"})


def test_the_history_of_the_page_is_judged_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks()["run=linearizable"], str(PAGE), "exec", dont_inherit=True), {"__name__": "page"})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("no order explains these 4 operations")
    assert all(f"    {line}" in PAGE.read_text(encoding="utf-8").splitlines() for line in printed)
