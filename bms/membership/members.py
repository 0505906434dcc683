"""What one node holds of all members, and the choice among them. No time, no messages: `swim` decides, this remembers.

Of each member there is its own latest word (`known`) and, if somebody's accusation at that point of its life or a later
one is in force, the accusation (`accused`). Members that are gone (dead, left) stay until they are forgotten, and of
forgotten ones the rank of what was held, so that nothing older brings them back.

`fingerprint` is the sum of a 64-bit mix of each member's rank, this node's own included: equal views have equal
sums, and a change costs two mixes. Suspicions are not in it, since they come and go on every node by themselves.

The round of probes is shuffled as it is gone through: the next one is drawn from the rest (SWIM, section 4.3). So a
newcomer, which is put at the end, gets its place by chance.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from ..values import NodeId, NodeState
from .claims import Claim, Kind, Rank
from .suspicion import Suspicion
from .tuning import Tuning

__all__ = ["Accused", "Members"]

_MASK = (1 << 64) - 1


class Accused:
    """A member whose latest word is an accusation, since when; `suspicion` is None once it is held for dead."""

    __slots__ = ("claim", "since", "suspicion", "told_at")

    def __init__(self, claim: Claim, since: float, suspicion: Suspicion | None = None) -> None:
        self.claim = claim
        self.since = since
        self.suspicion = suspicion
        self.told_at = float("-inf")


class Members:
    """The view of one node, whose own word is `me`. Also where all parts of the machine find the `tuning` in force."""

    def __init__(self, me: Claim, chance: random.Random, tuning: Tuning) -> None:
        self.tuning = tuning
        self.known: dict[NodeId, Claim] = {}
        self.accused: dict[NodeId, Accused] = {}
        self.gone: dict[NodeId, float] = {}
        """Since when those that are known are dead or left."""
        self.forgotten: dict[NodeId, tuple[Rank, float]] = {}
        self.present = 0
        self.fingerprint = _mix(me)
        self._me = me
        self._chance = chance
        self._ring: list[NodeId] = []
        self._place = 0

    # ------------------------------------------------------------------ what is held

    @property
    def me(self) -> Claim:
        """This node's own word."""
        return self._me

    @me.setter
    def me(self, claim: Claim) -> None:
        self.fingerprint = (self.fingerprint - _mix(self._me) + _mix(claim)) & _MASK
        self._me = claim

    def state(self, node_id: NodeId) -> NodeState | None:
        """How a member is seen; None if it is not known."""
        own = self.known.get(node_id)
        if own is None:
            return None
        if own.kind is Kind.LEFT:
            return NodeState.LEFT
        accused = self.accused.get(node_id)
        if accused is None:
            return NodeState.ALIVE
        return NodeState.FAILED if accused.suspicion is None else NodeState.SUSPECT

    def is_present(self, node_id: NodeId) -> bool:
        """Whether a member is alive, or may be."""
        return node_id in self.known and node_id not in self.gone

    def rank(self, node_id: NodeId) -> Rank:
        """Of what is held of a member, as it is compared with others."""
        return _rank(self.known[node_id], self.accused.get(node_id))

    def accusation(self, node_id: NodeId) -> Claim | None:
        """What a member has not answered yet of what is said of it."""
        accused = self.accused.get(node_id)
        return None if accused is None or self.known[node_id].point > accused.claim.point else accused.claim

    def set(self, own: Claim, accused: Accused | None, now: float) -> None:
        """Hold this of a member: the one place where a view changes."""
        node_id = own.node_id
        before = self.known.get(node_id)
        was_present = self.is_present(node_id)
        if before is not None:
            self.fingerprint -= _mix(before, self.accused.get(node_id))
        self.known[node_id] = own
        if accused is None:
            self.accused.pop(node_id, None)
        else:
            self.accused[node_id] = accused
        self.fingerprint = (self.fingerprint + _mix(own, accused)) & _MASK
        if own.kind is Kind.LEFT or (accused is not None and accused.suspicion is None):
            self.gone.setdefault(node_id, now)
            self.present -= was_present
        elif not was_present:
            self.gone.pop(node_id, None)
            self.present += 1
            if before is None or node_id not in self._ring:
                self._ring.append(node_id)

    def meet(self, words: Mapping[NodeId, Claim], fingerprint: int | None = None) -> None:
        """Hold all of these for alive, in a view that has nobody yet. `fingerprint`, if it is known, is of them all."""
        self.known.update(words)
        self.known.pop(self._me.node_id, None)
        self._ring = list(self.known)
        self.present = len(self._ring)
        self.fingerprint = self.recomputed_fingerprint() if fingerprint is None else fingerprint

    def drop(self, node_id: NodeId, until: float) -> None:
        """Forget a member but for its rank."""
        own, accused = self.known.pop(node_id), self.accused.pop(node_id, None)
        self.fingerprint = (self.fingerprint - _mix(own, accused)) & _MASK
        self.forgotten[node_id] = (max(own.rank, own.rank if accused is None else accused.claim.rank), until)
        self.present -= self.gone.pop(node_id, None) is None
        if node_id in self._ring:  # or it would be there twice when it comes back
            place = self._ring.index(node_id)
            del self._ring[place]
            self._place -= place < self._place

    def recomputed_fingerprint(self) -> int:
        """The fingerprint from what is held, as it must always be."""
        parts = (_mix(own, self.accused.get(node_id)) for node_id, own in self.known.items())
        return (_mix(self._me) + sum(parts)) & _MASK

    # ------------------------------------------------------------------ who is next

    def next_target(self) -> NodeId | None:
        """The next in a round of all that may be there."""
        for _ in range(2):
            ring = self._ring
            while self._place < len(ring):
                here = self._place
                drawn = here + int(self._chance.random() * (len(ring) - here))
                ring[here], ring[drawn] = ring[drawn], ring[here]
                self._place += 1
                if ring[here] not in self.gone and ring[here] in self.known:
                    return ring[here]
            self._tidy()
            self._place = 0
        return None

    def some(self, count: int, but: NodeId | None = None, *, unaccused: bool = False) -> list[NodeId]:
        """Members of chance that may be there, not `but`; all of them if there are no more."""
        if len(self._ring) > 2 * self.present + 8:
            self._tidy()
        ring = self._ring
        if len(ring) > 8 * count:
            found: dict[NodeId, None] = {}
            for _ in range(6 * count):
                node_id = ring[int(self._chance.random() * len(ring))]
                if self._fits(node_id, but, unaccused):
                    found[node_id] = None
                    if len(found) == count:
                        return list(found)
        fit = [node_id for node_id in ring if self._fits(node_id, but, unaccused)]
        return fit if len(fit) <= count else self._chance.sample(fit, count)

    def _fits(self, node_id: NodeId, but: NodeId | None, unaccused: bool) -> bool:
        if node_id == but or node_id in self.gone or (unaccused and node_id in self.accused):
            return False
        return node_id in self.known

    def _tidy(self) -> None:
        """Take those that are gone out of the round, whose first `_place` have had their turn."""
        done = [node_id for node_id in self._ring[: self._place] if self.is_present(node_id)]
        rest = [node_id for node_id in self._ring[self._place :] if self.is_present(node_id)]
        self._ring, self._place = done + rest, len(done)


def _rank(own: Claim, accused: Accused | None) -> Rank:
    return own.rank if accused is None or accused.suspicion is not None else max(own.rank, accused.claim.rank)


def _mix(own: Claim, accused: Accused | None = None) -> int:
    """A member's part in the fingerprint: 64 bits of what is held of it (the finalizer of SplitMix64)."""
    boot, incarnation, kind = _rank(own, accused)
    mixed = (
        int(own.node_id[:16], 16)
        + boot * 0x9E3779B97F4A7C15
        + incarnation * 0xD1B54A32D192ED03
        + kind * 0x8CB92BA72F3D8DD7
    )
    mixed &= _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
