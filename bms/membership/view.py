"""What is known of each member besides whether it is there, and when to dial whom. A plain machine.

The failure detector (`swim`) decides who is there; this keeps the members' cards and one link to each:

    not linked, and alive or suspect    dialed at once, then again after 1, 2, 4 … s, at most `redial_interval_max_s`
    failed                              the same; so a healed partition joins by itself
    left                                not dialed; a record of a newer boot is another matter

News about where a member is, or that it is back, begin its pauses anew: `_EAGER_MAX` times, and once more in each
`redial_interval_max_s`. So one that says so all the time, with anybody's address, does not have everybody dial there.

Dials take time, and one member can list sixteen addresses that never answer: so many are under way at once as whoever
dials has room for, and of those that are due the one that waits for longest is next.

To avoid both sides dialing at once the lower NodeId dials first and the higher one waits a moment.
"""

from __future__ import annotations

import heapq
import random

import attrs

from ..security.records import Admission, NodeRecord
from ..values import NodeId, NodeState

__all__ = ["Member", "View"]

_POLITE_S = 0.5
_EAGER_MAX = 4.0


@attrs.define
class Member:
    """What is known of another node. Times are of the machine's clock; `state` is the failure detector's word,
    `host` where its last link led.
    """

    admission: Admission
    record: NodeRecord
    state: NodeState
    since: float
    linked: bool = False
    host: str = ""
    heard_at: float | None = None
    next_dial: float | None = None
    dial_wait_s: float = 0.0
    dialing: bool = False
    eager: float = _EAGER_MAX
    eager_at: float = 0.0


class View:
    """All members but this node."""

    def __init__(
        self, me: NodeId, *, redial_interval_s: float, redial_interval_max_s: float, chance: random.Random
    ) -> None:
        self.members: dict[NodeId, Member] = {}
        self.me = me
        self._redial_interval_s = redial_interval_s
        self._redial_interval_max_s = redial_interval_max_s
        self._chance = chance
        self._due: list[tuple[float, NodeId]] = []
        """When to look at whom; more than one time of a member may be here, and only its `next_dial` counts."""

    # ------------------------------------------------------------------ events

    def learn(self, admission: Admission, record: NodeRecord, state: NodeState, now: float) -> None:
        """Keep a verified card that is newer than what there was, with the state that follows from it."""
        member = self.members.get(record.node_id)
        if member is None:
            member = self.members[record.node_id] = Member(admission, record, state, now)
            if state is not NodeState.LEFT:
                self._dial_soon(member, now)
            return
        is_news = record.boot > member.record.boot or record.addresses != member.record.addresses
        member.admission, member.record = admission, record
        self.turned(record.node_id, state, now)
        if is_news and not member.linked and member.state is not NodeState.LEFT:
            self._dial_anew(member, now)

    def turned(self, node_id: NodeId, state: NodeState, now: float) -> None:
        """The failure detector sees a member in another state."""
        member = self.members[node_id]
        if member.state is state:
            return
        was, member.state, member.since = member.state, state, now
        if state is NodeState.LEFT:
            member.next_dial = None
        elif state is NodeState.ALIVE and was is not NodeState.SUSPECT and not member.linked:
            self._dial_anew(member, now)

    def link_up(self, node_id: NodeId, now: float) -> None:
        """A link to a member is up."""
        member = self.members[node_id]
        member.linked = True
        member.dialing = False
        member.next_dial = None
        member.dial_wait_s = 0.0
        member.heard_at = now

    def link_down(self, node_id: NodeId, now: float) -> None:
        """The last link to a member has ended: dial it at once."""
        member = self.members.get(node_id)
        if member is None:
            return
        member.linked = False
        member.heard_at = now
        if member.state is not NodeState.LEFT:
            self._dial_at(member, now)

    def heard(self, node_id: NodeId, now: float) -> None:
        """A member has said something."""
        member = self.members.get(node_id)
        if member is not None:
            member.heard_at = now

    def dialed(self, node_id: NodeId, now: float) -> None:
        """Dialing a member has failed."""
        member = self.members.get(node_id)
        if member is None or member.linked:
            return
        member.dialing = False
        if member.state is NodeState.LEFT:
            return
        wait_s = member.dial_wait_s = min(
            self._redial_interval_max_s, max(self._redial_interval_s, member.dial_wait_s * 2)
        )
        self._dial_at(member, now + wait_s * self._chance.uniform(0.75, 1.25))

    def no_dials(self) -> None:
        """Whoever dials has started anew: no dial is under way."""
        for member in self.members.values():
            if member.dialing:
                member.dialing = False
                if member.next_dial is not None:
                    self._dial_at(member, member.next_dial)

    def retime(self, *, redial_interval_s: float, redial_interval_max_s: float) -> None:
        """Go by other times from the next failed dial on."""
        self._redial_interval_s = redial_interval_s
        self._redial_interval_max_s = redial_interval_max_s

    def forget(self, node_id: NodeId) -> None:
        """Drop all that is known of a node."""
        self.members.pop(node_id, None)

    # ------------------------------------------------------------------ time

    def tick(self, now: float, room: int) -> list[NodeId]:
        """Whom to dial now, those first that wait for longest, at most `room`; each is being dialed until `dialed` or
        `link_up`.
        """
        found: list[NodeId] = []
        while len(found) < room and self._due and self._due[0][0] <= now:
            at, node_id = heapq.heappop(self._due)
            member = self.members.get(node_id)
            if member is None or member.next_dial != at or member.linked or member.dialing:
                continue
            member.dialing = True
            found.append(node_id)
        return found

    def deadline(self) -> float | None:
        """When `tick` is due next, or None."""
        return self._due[0][0] if self._due else None

    # ------------------------------------------------------------------ inside

    def _dial_anew(self, member: Member, now: float) -> None:
        gained = (now - member.eager_at) / self._redial_interval_max_s
        member.eager, member.eager_at = min(_EAGER_MAX, member.eager + gained), now
        if member.eager >= 1:
            member.eager -= 1
            self._dial_soon(member, now)
        elif member.next_dial is None:  # it had left
            self._dial_at(member, now + max(self._redial_interval_s, member.dial_wait_s))

    def _dial_soon(self, member: Member, now: float) -> None:
        wait_s = 0.0 if self.me < member.record.node_id else _POLITE_S * self._chance.uniform(0.5, 1.0)
        member.dial_wait_s = 0.0
        self._dial_at(member, now + wait_s)

    def _dial_at(self, member: Member, time: float) -> None:
        member.next_dial = time
        if not member.dialing:
            heapq.heappush(self._due, (time, member.record.node_id))
