"""What an examination finds: one fact each, how it is to be taken, and what to do about it.

    ok        as it should be
    warning   works, or may work; somebody should look at it
    problem   something does not work, or will not

Facts only: nothing is mended here. What is said names the thing itself (the path, the port, the process), and what to
do is a command or a setting wherever there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from ..config import Config
from ..control import Status
from .defaults import Wishes

__all__ = ["OK", "PROBLEM", "WARNING", "Finding", "Patient"]

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@attrs.frozen
class Finding:
    """One fact. `advice` is empty where nothing is to be done."""

    check: str
    status: str
    what: str
    advice: str = ""


@attrs.frozen
class Patient:
    """What is examined: the node that is meant, running or not.

    `folder` is the node's (None: in memory), `home` that of all nodes. Where it runs, `status` and the rest are what it
    says itself; otherwise `config` is what `bms up` would start with, and `wishes` what it would try beside.
    """

    config: Config
    home: Path
    folder: Path | None
    wishes: Wishes = attrs.field(factory=Wishes)
    status: Status | None = None
    stats: dict[str, Any] = attrs.field(factory=dict)
    topology: dict[str, Any] = attrs.field(factory=dict)
    health: dict[str, Any] = attrs.field(factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether the node answers."""
        return self.status is not None
