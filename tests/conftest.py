"""What every test gets without asking: its own BMS_HOME and a Hypothesis profile. Verbs for tests are in helpers.py.

On a build machine (CI is set) Hypothesis draws the same examples each time, so that a failure there is a failure here;
on a contributor's machine it explores. Neither has a deadline an example: two busy cores are no reason to fail.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

__all__ = ["bms_home", "small_disk"]

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def bms_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BMS_HOME of this test's own, so that none can see or damage the user's nodes; the folder is not made yet.

    Every other `BMS_` variable is taken away. The name is short, since a Unix socket's path has at most 107 bytes.
    """
    for name in os.environ:
        if name.startswith("BMS_"):
            monkeypatch.delenv(name)
    home = tmp_path / "h"
    monkeypatch.setenv("BMS_HOME", str(home))
    return home


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # also where a failed test left files open
