"""What every test gets without asking: its own BMS_HOME and a Hypothesis profile. Verbs for tests are in helpers.py.

On a build machine (CI is set) Hypothesis draws the same examples each time, so that a failure there is a failure here;
on a contributor's machine it explores. Neither has a deadline an example: two busy cores are no reason to fail.
"""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

__all__ = ["bms_home"]

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
