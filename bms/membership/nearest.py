"""Which nodes are nearest to something, by one of three measures. Plain functions over the nodes that are passed in.

    by_rtt     the round trip that network coordinates estimate, in seconds; None for a node whose coordinate is unknown
    by_xor     the XOR of NodeIds as a number (Kademlia's distance); exact, so an int
    by_space   the Euclidean distance to the position that a node says of itself in a tag, "x,y" or "x,y,z" and so on

All rank the nearest first and break ties by NodeId, so that nodes which know the same say the same. Who is left out,
such as this node itself or failed ones, is the caller's choice. Nobody is asked: before much depends on an estimated
round trip, the first few should be pinged.

Each is a sort. A greedy walk by Bellande steps from neighbour to neighbour ends at the same node where every node knows
those around it, but a node of this mesh knows all the others, and then the walk has nothing to find that the sort has
not. Tags come from peers: a position that cannot be read is none.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

from ..values import Node, NodeId
from .coordinates import Coordinate

__all__ = ["POSITION_TAG", "by_rtt", "by_space", "by_xor", "position_of"]

POSITION_TAG = "position"

_POSITION_CHARACTERS_MAX = 512


def by_rtt(
    target: Coordinate, nodes: Iterable[Node], coordinates: Mapping[NodeId, Coordinate], count: int = 3
) -> list[tuple[Node, float | None]]:
    """The `count` nodes with the shortest round trip from `target`, with the estimated seconds; unknown ones last."""
    found = []
    for node in nodes:
        coordinate = coordinates.get(node.node_id)
        found.append((node, None if coordinate is None else target.distance_s(coordinate)))
    return heapq.nsmallest(count, found, key=lambda one: (math.inf if one[1] is None else one[1], one[0].node_id))


def by_xor(target: NodeId, nodes: Iterable[Node], count: int = 3) -> list[tuple[Node, float]]:
    """The `count` nodes whose NodeIds are nearest to `target`, with the distance: an int below 2^256."""
    number = int(target, 16)
    found: list[tuple[Node, float]] = [(node, int(node.node_id, 16) ^ number) for node in nodes]
    return heapq.nsmallest(count, found, key=lambda one: one[1])


def by_space(
    target: Sequence[float], nodes: Iterable[Node], count: int = 3, *, tag: str = POSITION_TAG
) -> list[tuple[Node, float]]:
    """The `count` nodes nearest to a point, with the distance in the unit of their tags.

    Nodes without a position of as many dimensions are left out. Raises ValueError for a point that has no dimensions
    or a number that is not finite.
    """
    if not target or not all(map(math.isfinite, target)):
        raise ValueError("a point is one finite number or more")
    found = []
    for node in nodes:
        position = position_of(node, tag)
        if position is not None and len(position) == len(target):
            found.append((node, math.dist(target, position)))
    return heapq.nsmallest(count, found, key=lambda one: (one[1], one[0].node_id))


def position_of(node: Node, tag: str = POSITION_TAG) -> tuple[float, ...] | None:
    """The position that a node says it has; None where it says none, or nothing that can be read as finite numbers."""
    text = node.tags.get(tag, "")
    if len(text) > _POSITION_CHARACTERS_MAX:
        return None
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None
