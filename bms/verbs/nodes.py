"""The verbs about nodes: who is there, who is near, what they are called. Reads come from this node's view.

Writes go to all by gossip; what each has heard of them by when is in docs/concepts/membership.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from .. import roster
from ..data.replication import LastSync, SyncReport
from ..errors import LocalProtocolError, NotFoundError
from ..membership.watching import NodeWatch
from ..neighbours import TopologyLink
from ..roster import Suspicion, Topology
from ..values import Address, Node, NodeId, NodeState
from .core import Core

__all__ = ["NodeVerbs"]


class NodeVerbs(Core):
    """See the module."""

    def nodes(self, state: str | None = None, offset: int = 0, limit: int | None = None) -> list[Node]:
        """The members as this node sees them, itself first, then by id. Long-failed ones are left out.

        `state` keeps "alive", "suspect", "failed" or "left" alone; `offset` and `limit` take a page.
        """
        if state is not None and state not in set(NodeState):
            raise LocalProtocolError(f"a state is one of {', '.join(NodeState)}, not {state!r}")
        if offset < 0 or (limit is not None and limit < 0):
            raise LocalProtocolError("offset and limit are 0 or more")
        found = [node for node in self._all_nodes() if state is None or node.state == state]
        return found[offset : None if limit is None else offset + limit]

    def node(self, node_id: str) -> Node:
        """One member; NotFoundError if this node knows none of that id."""
        for node in self._all_nodes():
            if node.node_id == node_id:
                return node
        raise NotFoundError(f"no node {node_id!r} is known here")

    def is_connected(self, node_id: str) -> bool:
        """Whether a link to that node is up (always for this node itself, while it runs)."""
        if self._life is None:
            return False
        return node_id == self.node_id or self._life.pool.link(NodeId(node_id)) is not None

    async def register_node(self, address: str | Address) -> Node:
        """Connect to whoever lives at `address` and return it; the rest of the mesh is learned from it.

        Raises UnreachableError, RefusedError (one side did not accept the other's identity), RemoteProtocolError.
        """
        link = await self._running().register(Address.of(address))
        return self.node(link.node_id)

    async def update_node(self, /, **tags: str | None) -> Node:
        """Set tags of this node, None to take one away, and tell all; what it looks like now back.

        Tags are kept until `shutdown`. LocalProtocolError beyond 64 tags or 2 KiB in all; nothing has changed then.
        """
        merged = {**self._tags, **tags}
        kept = {tag: value for tag, value in merged.items() if value is not None}
        self._running().retag(kept)
        self._tags = kept
        return self._all_nodes()[0]

    async def remove_node(self, node_id: str | Node) -> None:
        """Have all nodes forget one that failed or left. One that is there after all comes back by itself.

        Raises NotFoundError (no such node), LocalProtocolError (it is not gone: stop it first).
        """
        await trio.lowlevel.checkpoint()
        gone = self._known(node_id)
        life = self._running()
        if gone == self.node_id or life.swim.is_present(gone):
            raise LocalProtocolError(f"node {gone.short} is there: only one that failed or left can be removed")
        life.gossip.remove(gone)

    def watch_nodes(self) -> AbstractAsyncContextManager[NodeWatch]:
        """An async context manager giving an async iterator of `NodeEvent`, and `Missed` where it was too slow.

        Live from the moment it is entered; ends when the mesh stops.
        """
        return self._running().gossip.watches.watch()

    async def find_nearest_nodes(
        self, target: str | Node | Sequence[float] | None = None, count: int = 3, metric: str = "rtt"
    ) -> list[tuple[Node, float]]:
        """The `count` live nodes nearest to `target`, with the distance, nearest first; the target is not among them.

        `metric` "rtt": the round trip from that node (this one: None) in seconds, by network coordinates, so that
        nobody is asked (docs/concepts/coordinates.md); nodes whose coordinate is not known yet are left out. "xor": the
        XOR of the NodeIds as a number. "space": the distance from a point to the positions in the nodes' tags
        (`position="x,y,z"`).

        Raises NotFoundError for a node whose coordinate is not known here, LocalProtocolError for a target that does
        not fit the metric.
        """
        await trio.lowlevel.checkpoint()
        chosen = self.node_id if target is None else target
        return roster.nearest(self._running(), self._all_nodes(), chosen, count, metric)

    def topology(self) -> Topology:
        """The nodes, and the links of this one with round trip, loss and age, as they are now."""
        return roster.topology(self._running(), self._all_nodes())

    async def links_of_linked(self) -> dict[NodeId, list[TopologyLink]]:
        """The links that the linked nodes say they have, by node; at most 64 are asked, for at most 2 s."""
        return await self._running().neighbours.ask()

    def suspicions(self) -> list[Suspicion]:
        """Which members are suspected, and by whom, as far as this node has heard."""
        return roster.suspicions(self._running())

    @property
    def last_sync(self) -> float | None:
        """When this node has last been reconciled with another in this life, Unix seconds."""
        at = None if self._life is None else self._life.replication.synced_at
        return None if at is None else self._world.wall_time() - (trio.current_time() - at)

    def last_syncs(self) -> tuple[LastSync, ...]:
        """How the last reconciliation with each linked peer went; those that had none yet are left out."""
        life, now = self._running(), self._world.wall_time() - trio.current_time()
        return tuple(LastSync(now + at, outcome) for at, outcome in life.replication.last_syncs())

    async def sync_with_peers(self, peers: Iterable[str] | None = None) -> SyncReport:
        """Reconcile the store with `peers` (all linked ones: None) now; per peer what it took.

        Raises NotFoundError for a peer that is not linked, LocalProtocolError when replication is off.
        """
        life = self._running()
        if not self._config.enable_replication:
            raise LocalProtocolError("enable_replication is off")
        chosen = None if peers is None else [self._known(peer) for peer in peers]
        with self.span("bms.sync", peers=None if chosen is None else len(chosen)):
            return await life.replication.sync(chosen)
