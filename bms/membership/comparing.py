"""How two nodes find out in what their views differ, so that what gossip has missed arrives all the same.

    ask       fingerprint and count        equal: nothing more is said
    digest    the rank of every member     unless the asker lacks nearly everything, which it is then sent at once
    get       of whom the other knows more
    delta     own words, with the accusations of those held for dead

Every `sync_interval_s` one other is asked over the link. After news another one is asked soon, and then after pauses
that double up to the usual one while nothing new comes: where many join at once, a view is rarely complete when it
first finds nothing new, and whoever lacks one of thousands should not wait for the whole interval.

What others can cause: all of this is answered over a link only as far as an allowance for each goes, twice this node's
view in each `sync_interval_s`; one who asks for more gets nothing. And however much news others make up, this node asks
early `_EARLY_BURST` times at once and then once in each `sync_interval_s`, beside the usual.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

from ..values import NodeId
from .claims import Claim, Delta, Digest, Effect, Get, Rank, Send, SyncAsk
from .members import Members
from .pacing import Pacing
from .timers import Timers

__all__ = ["Comparing"]

_AGAIN_S = 1.0
_EARLY_BURST = 12
_NOTHING: Rank = (0, 0, 0)
_ALLOWED_LEAST = 256
_RANKS_PER_PAIR = 8


class Comparing:
    """The comparisons of one node's view with others."""

    def __init__(self, members: Members, timers: Timers, chance: random.Random) -> None:
        self._members = members
        self._timers = timers
        self._chance = chance
        self._next_at = math.inf
        self._usual_at = math.inf
        """When somebody is asked whatever happens; before that it is early."""
        self._pause_s = math.inf
        self._early = Pacing(_EARLY_BURST)
        self._spent: dict[NodeId, tuple[float, float]] = {}

    def start(self, now: float) -> None:
        """Begin to ask, at a time of chance within the first interval."""
        self._usual_at = now + self._members.tuning.sync_interval_s * self._chance.random()
        self._at(self._usual_at)

    def soon(self, now: float) -> None:
        """Ask somebody soon: the last answer was news."""
        self._pause_s = _AGAIN_S
        self._at(now + self._pause_s * self._chance.uniform(0.5, 1.5))

    def _at(self, at: float) -> None:
        if at < self._next_at:
            self._next_at = at
            self._timers.at(at, self._ask_one)

    def _ask_one(self, now: float, effects: list[Effect]) -> None:
        if now < self._next_at:
            return  # another timer was faster
        self._next_at = math.inf
        interval_s = self._members.tuning.sync_interval_s
        if now < self._usual_at and not self._early.grants(None, now, interval_s):
            self._pause_s = math.inf
            self._at(self._usual_at)
            return
        self._usual_at = now + interval_s * self._chance.uniform(0.75, 1.25)
        self._pause_s *= 2
        self._at(min(self._usual_at, now + self._pause_s * self._chance.uniform(0.5, 1.5)))
        self._spent = {sender: spent for sender, spent in self._spent.items() if now - spent[0] < interval_s}
        effects.extend(map(self.ask, self._members.some(1, unaccused=True)))

    def ask(self, node_id: NodeId) -> Send:
        """Ask a node whether it knows the same."""
        ask = SyncAsk(self._members.fingerprint, len(self._members.known) + 1)
        return Send(node_id, [ask], stream=True)

    # ------------------------------------------------------------------ answers

    def asked(self, ask: SyncAsk, sender: NodeId, now: float, effects: list[Effect]) -> None:
        """Somebody asks."""
        members = self._members
        if ask.fingerprint == members.fingerprint:
            return
        if ask.count * 2 <= len(members.known):  # a newcomer: it lacks nearly everything
            self.give([*members.known, members.me.node_id], sender, now, effects)
        elif ask.count > 2 * len(members.known) + 2:
            self.soon(now)  # then it is this node that lacks nearly everything
        elif self._allow(sender, 1 + len(members.known) // _RANKS_PER_PAIR, now, whole=True):
            ranks = {node_id: members.rank(node_id) for node_id in members.known}
            ranks[members.me.node_id] = members.me.rank
            effects.append(Send(sender, [Digest(ranks)], stream=True))

    def compare(self, digest: Digest, sender: NodeId, now: float, effects: list[Effect]) -> None:
        """Get what the sender knows better, give what this node does."""
        members, ranks = self._members, digest.ranks
        if not self._allow(sender, 1 + len(ranks) // _RANKS_PER_PAIR, now, whole=True):
            return
        me = members.me.node_id
        wanted = tuple(node_id for node_id, rank in ranks.items() if rank > self._rank(node_id))
        if wanted:
            effects.append(Send(sender, [Get(wanted)], stream=True))
        ours = [node_id for node_id in (*members.known, me) if self._rank(node_id) > ranks.get(node_id, _NOTHING)]
        self.give(ours, sender, now, effects)

    def _rank(self, node_id: NodeId) -> Rank:
        """Of what this node knows, has forgotten, or says of itself."""
        members = self._members
        if node_id in members.known:
            return members.rank(node_id)
        if node_id == members.me.node_id:
            return members.me.rank
        return members.forgotten.get(node_id, (_NOTHING, 0.0))[0]

    def give(self, node_ids: Iterable[NodeId], sender: NodeId, now: float, effects: list[Effect]) -> None:
        """Send a node what is held of these, as far as its allowance goes."""
        members = self._members
        pairs: list[tuple[Claim, Claim | None]] = []
        for node_id in dict.fromkeys(node_ids):
            own, accused = members.known.get(node_id), members.accused.get(node_id)
            if node_id == members.me.node_id:
                pairs.append((members.me, None))
            elif own is not None:
                pairs.append((own, None if accused is None or accused.suspicion is not None else accused.claim))
        pairs = pairs[: self._allow(sender, len(pairs), now)]
        if pairs:
            effects.append(Send(sender, [Delta(tuple(pairs))], stream=True))

    def _allow(self, sender: NodeId, count: int, now: float, *, whole: bool = False) -> int:
        """How many of `count` pairs a node may have now; `whole`: all or none."""
        allowed = 2.0 * len(self._members.known) + _ALLOWED_LEAST
        at, spent = self._spent.get(sender, (now, 0.0))
        spent = max(0.0, spent - (now - at) * allowed / self._members.tuning.sync_interval_s)
        granted = max(0, min(count, int(allowed - spent)))
        if whole and granted < count:
            granted = 0
        self._spent[sender] = (now, spent + granted)
        return granted
