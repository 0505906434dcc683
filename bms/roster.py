"""What a running node can say about nodes: its list of them, who is near, and how they are connected. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from .errors import LocalProtocolError, NotFoundError
from .life import Life
from .membership.nearest import by_rtt, by_space, by_xor
from .neighbours import TopologyLink
from .security.records import TCP
from .values import Address, Node, NodeId, NodeState

__all__ = ["Suspicion", "Topology", "nearest", "others", "suspicions", "topology"]

METRICS = ("rtt", "xor", "space")


@attrs.frozen
class Suspicion:
    """`by` has said that it gets no answer from `node_id`, which has not taken that back yet."""

    node_id: NodeId
    by: NodeId


@attrs.frozen
class Topology:
    """The mesh as this node knows it: all nodes, and its own links."""

    nodes: tuple[Node, ...]
    links: tuple[TopologyLink, ...]


def others(life: Life, wall: float, node_timeout_s: float) -> list[Node]:
    """The members by id. Those that failed longer than `node_timeout_s` ago are left out."""
    now, found = trio.current_time(), []
    for node_id, member in sorted(life.view.members.items()):
        if member.state is NodeState.FAILED and now - member.since > node_timeout_s:
            continue
        link = life.pool.link(node_id)
        heard_at = now if link is not None else member.heard_at
        place = next((Address(host, port) for kind, host, port in member.record.addresses if kind == TCP), None)
        found.append(
            Node(
                node_id=node_id,
                name=member.record.name,
                address=place,
                state=member.state,
                tags=dict(member.record.tags),
                incarnation=member.record.incarnation,
                rtt_s=life.rtt_s(node_id),
                last_seen=None if heard_at is None else wall - (now - heard_at),
            )
        )
    return found


def nearest(
    life: Life, nodes: Sequence[Node], target: str | Node | Sequence[float], count: int, metric: str
) -> list[tuple[Node, float]]:
    """See `Mesh.find_nearest_nodes`; `nodes` are all that may be named, this one first."""
    if metric not in METRICS:
        raise LocalProtocolError(f"a metric is one of {', '.join(METRICS)}, not {metric!r}")
    if count < 0:
        raise LocalProtocolError("count is 0 or more")
    there = [node for node in nodes if node.state in (NodeState.ALIVE, NodeState.SUSPECT)]
    if metric == "space":
        if isinstance(target, (str, Node)):
            raise LocalProtocolError('with metric="space" the target is a point: a sequence of numbers')
        try:
            return by_space([float(x) for x in target], there, count)
        except (TypeError, ValueError) as error:
            raise LocalProtocolError(str(error)) from error
    if not isinstance(target, (str, Node)):
        raise LocalProtocolError(f"with metric={metric!r} the target is a node or its id")
    target_id = NodeId(target.node_id if isinstance(target, Node) else target)
    there = [node for node in there if node.node_id != target_id]
    return (
        by_xor(target_id, there, count) if metric == "xor" else _nearest_by_rtt(life, nodes[0], there, target_id, count)
    )


def _nearest_by_rtt(life: Life, me: Node, there: list[Node], target_id: NodeId, count: int) -> list[tuple[Node, float]]:
    positions = {**life.gossip.positions, me.node_id: life.gossip.coordinates.mine}
    if target_id not in positions:
        raise NotFoundError(f"no coordinate of node {target_id.short} is known here yet")
    ranked = by_rtt(positions[target_id], there, positions, max(count, 3))
    found = [(node, estimate) for node, estimate in ranked if estimate is not None]
    if target_id == me.node_id:  # of those that come out first, what was measured is better than what is estimated
        measured = ((node, life.rtt_s(node.node_id), estimate) for node, estimate in found)
        found = sorted(
            ((node, estimate if rtt_s is None else rtt_s) for node, rtt_s, estimate in measured),
            key=lambda one: (one[1], one[0].node_id),
        )
    return found[:count]


def topology(life: Life, nodes: Sequence[Node]) -> Topology:
    """See `Mesh.topology`."""
    return Topology(tuple(nodes), tuple(life.neighbours.mine()))


def suspicions(life: Life) -> list[Suspicion]:
    """Who accuses whom of those that are suspected now, as far as this node has heard, by id."""
    found = set()
    for node_id, accused in life.swim.accused.items():
        if accused.suspicion is not None:
            # Others' confirmations shorten a suspicion, and nothing but that asks for them elsewhere.
            found |= {(node_id, by) for by in (accused.claim.by, *accused.suspicion._confirmed)}
    return [Suspicion(node_id, by) for node_id, by in sorted(found)]
