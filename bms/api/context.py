"""What the parts of the HTTP interface share during one life of a node: the mesh, the end, the events, the log.

One `Context` is made when HTTP is switched on and serves the http and the https server alike. Invariants: `closing` is
set once and never cleared, and `reason` says why before it is set, so that whoever wakes up can tell its client.
Nothing here acts: the servers set it, routes and event streams read it. Absent: requests and connections, which are
`connection`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from ..mesh import Mesh
    from ..monitor.events import EventLog
    from ..monitor.logs import RecentLogs

__all__ = ["Context"]


@attrs.define(eq=False)
class Context:
    """One for each life of a node in which HTTP is on."""

    mesh: Mesh
    events: EventLog
    logs: RecentLogs
    was_fed: bool = False
    """Whether what happens was put into `events` before: if that begins anew, something may have been missed."""
    closing: trio.Event = attrs.field(factory=trio.Event)
    """Set when the servers drain: WebSockets and event streams say why and end."""
    reason: str = ""
    """Why they drain: "the node stops", "the server moves"; set before `closing`."""

    def close(self, reason: str) -> None:
        """Ask everything that lasts to end, and say why. Only the first reason counts."""
        if not self.closing.is_set():
            self.reason = reason
            self.closing.set()
