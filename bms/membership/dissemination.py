"""Claims on their way to everybody, a few with each packet (SWIM, section 4.1).

One claim a member waits here, the latest. Those that were sent least often go first, of those the newest; one that
does not fit is passed over for one that does. After `limit` packets a claim has reached everybody with high
probability and goes.
"""

from __future__ import annotations

import itertools

from ..values import NodeId
from .claims import Claim

__all__ = ["Dissemination"]

_LOOKED_AT_MAX = 16
_CLAIM_BYTES_MIN = 64


class Dissemination:
    """The queue of one node."""

    __slots__ = ("_place", "_tiers")

    def __init__(self) -> None:
        self._tiers: list[dict[NodeId, Claim]] = [{}]
        """By how often they were sent; in each in the order they came."""
        self._place: dict[NodeId, int] = {}

    def __len__(self) -> int:
        return len(self._place)

    def put(self, claim: Claim) -> None:
        """Tell everybody this, and no longer what was said of that member before."""
        self.drop(claim.node_id)
        self._tiers[0][claim.node_id] = claim
        self._place[claim.node_id] = 0

    def drop(self, node_id: NodeId) -> None:
        """Say nothing more about a member."""
        place = self._place.pop(node_id, None)
        if place is not None:
            del self._tiers[place][node_id]

    def take(self, room: int, limit: int, to: NodeId) -> list[Claim]:
        """Claims for one packet to a node, of at most `room` bytes together; they count as sent."""
        taken: list[Claim] = []
        for tier in self._tiers:
            for claim in itertools.islice(reversed(tier.values()), _LOOKED_AT_MAX):
                if room < _CLAIM_BYTES_MIN:
                    break
                if claim.size <= room and (claim.node_id != to or claim.by != to):
                    taken.append(claim)
                    room -= claim.size
        for claim in taken:
            self._sent(claim, limit)
        return taken

    def _sent(self, claim: Claim, limit: int) -> None:
        place = self._place[claim.node_id]
        del self._tiers[place][claim.node_id]
        if place + 1 >= limit:
            del self._place[claim.node_id]
            return
        if place + 1 == len(self._tiers):
            self._tiers.append({})
        self._tiers[place + 1][claim.node_id] = claim
        self._place[claim.node_id] = place + 1
