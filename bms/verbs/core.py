"""What the verbs of a node stand on: its state between and during its lives, and how each finds what it needs.

`Mesh` is this, the verbs of the other modules here, and its own life. Everything is made by `Mesh.__init__`; nothing
here changes it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from .. import roster
from ..clock import SteadyTime
from ..config import Config
from ..counters import Counters
from ..data.entries import Entries
from ..errors import ClosedError, NotFoundError
from ..life import Life
from ..messaging.courier import RequestServer
from ..messaging.topics import Topics
from ..monitor.journal import Journal
from ..monitor.tracing import NO_SPAN, Tracer
from ..security.identity import Identity
from ..security.trust import Trust
from ..store.database import Database
from ..values import Node, NodeId, NodeState
from ..world import World

__all__ = ["Core"]


class Core:
    """The state that the verbs share."""

    counters: Counters
    _config: Config
    _world: World
    _time: SteadyTime
    _database: Database
    _identity: Identity
    _trust: Trust
    _entries: Entries
    _topics: Topics
    _servers: dict[str, RequestServer]
    _tags: dict[str, str]
    _journal: Journal
    _tracer: Tracer | None
    _life: Life | None
    _is_closed: bool

    @property
    def node_id(self) -> NodeId:
        """This node's id: its public key."""
        return self._identity.node_id

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    def now(self) -> float:
        """The time by this node's clock, Unix seconds."""
        return self._world.wall_time()

    def _behind_s(self) -> float:
        """How far the mesh's clock is ahead of what this machine's shows."""
        return self._entries.clock.offset_ms / 1000 - self._time.ahead_s

    def _running(self) -> Life:
        if self._life is None:
            raise ClosedError("the mesh is not running")
        return self._life

    def span(self, name: str, **facts: str | int | float | None) -> AbstractContextManager[Any]:
        """A span of OpenTelemetry around a `with` block, where `log.traces` is on; otherwise nothing."""
        return NO_SPAN if self._tracer is None else self._tracer.span(name, **facts)

    def _known(self, node: str | Node) -> NodeId:
        node_id = NodeId(node.node_id if isinstance(node, Node) else node)
        if node_id != self.node_id and node_id not in self._running().view.members:
            raise NotFoundError(f"no node {node_id.short} is known here")
        return node_id

    def _all_nodes(self) -> list[Node]:
        life = self._life
        me = Node(
            node_id=self.node_id,
            name=self._config.node_name,
            address=next(iter(life.addresses()), None) if life is not None else None,
            state=NodeState.ALIVE if life is not None else NodeState.LEFT,
            tags=dict(self._tags),
            incarnation=life.record.incarnation if life is not None else 0,
            rtt_s=0.0 if life is not None else None,
            last_seen=self._world.wall_time(),
        )
        if life is None:
            return [me]
        return [me, *roster.others(life, self._world.wall_time(), self._config.node_timeout)]
