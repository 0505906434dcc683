"""What every test gets without asking: its own BMS_HOME, a Hypothesis profile, and a look at it if it hangs.

Verbs for tests are in helpers.py.

On a build machine (CI is set) Hypothesis draws the same examples each time, so that a failure there is a failure here;
on a contributor's machine it explores. Neither has a deadline an example: two busy cores are no reason to fail.
"""

from __future__ import annotations

import os
import signal
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio

__all__ = ["bms_home", "small_disk", "watched"]

HANGS_AFTER_S = 300
_terminal = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep standard error, which tests do not see."""
    config.stash[_terminal] = os.dup(2)


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


def tasks_below(task: trio.lowlevel.Task, depth: int = 0) -> Iterator[str]:
    """Each task and where it waits, innermost frames last."""
    frames = [f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in _frames(task)]
    yield "    " * depth + task.name + "".join("\n" + "    " * depth + "  " + frame for frame in frames[-6:])
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from tasks_below(child, depth + 1)


def _frames(task: trio.lowlevel.Task) -> Iterator[tuple[Any, int]]:
    return traceback.walk_stack(None) if task.coro.cr_running else task.iter_await_frames()


@pytest.fixture(autouse=True)
def watched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Say what the Trio tasks of a test wait for when it has taken long; the run ends later (pyproject.toml)."""

    def look(*_: object) -> None:
        root = trio.lowlevel.current_root_task() if trio.lowlevel.in_trio_run() else None
        lines = tasks_below(root) if root is not None else ["(not in trio.run)"]
        text = "\n".join(["", f"{request.node.nodeid} hangs:", *lines, ""])
        os.write(request.config.stash[_terminal], text.encode())

    before = signal.signal(signal.SIGALRM, look)
    signal.alarm(HANGS_AFTER_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
