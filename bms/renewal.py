"""Takes up a new certificate while the node runs: one that was put in place of the old files, or one that is renewed.

A subsystem that looks once a minute: have the identity's files changed, or are two thirds of the certificate's life
over? Then `reload` reads them, which renews the certificate where the mesh's authority is at hand, and puts it in force
for new links. What is refused (broken files, another node's) is logged once for each state of the files; the old
identity stays. A renewal that was not possible is tried again every `_AGAIN_S`.

Files are compared by what stat(2) says of them. An identity in memory has none, and is only renewed: by the authority
that is in memory with it, or in `dev_mode` by that of this machine. Absent: inotify, and renewal over the network.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from .errors import MeshError

__all__ = ["Renewal"]

log = logging.getLogger("bms.security")

LOOK_S = 60.0
_AGAIN_S = 3600.0

Stamp = tuple[tuple[int, int, int] | None, ...]


def _stamp(paths: Sequence[Path]) -> Stamp:
    def one(path: Path) -> tuple[int, int, int] | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    return tuple(one(path) for path in paths)


class Renewal:
    """The subsystem. `paths` names the identity's files, `renew_at` says when its certificate is to be renewed."""

    name = "identity"

    def __init__(
        self,
        *,
        paths: Callable[[], Sequence[Path]],
        renew_at: Callable[[], float],
        wall_time: Callable[[], float],
        reload: Callable[[], Awaitable[object]],
    ) -> None:
        self._paths = paths
        self._renew_at = renew_at
        self._wall_time = wall_time
        self._reload = reload
        self._seen = _stamp(paths())
        self._not_before = float("-inf")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Reload the identity if there is a reason to."""
        stamp, now = _stamp(self._paths()), self._wall_time()
        is_due = now >= self._renew_at() and trio.current_time() >= self._not_before
        if stamp == self._seen and not is_due:
            return
        if is_due:
            self._not_before = trio.current_time() + _AGAIN_S
        try:
            await self._reload()
        except MeshError as error:
            log.error("the identity's files are not taken up, the old ones stay in force: %s", error)
        self._seen = _stamp(self._paths())
