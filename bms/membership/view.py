"""The view of the mesh that one node has: every member's card, and whether it is there. A plain machine.

Events come in as methods with the time (`now`, monotonic seconds); what is to be done comes out as effects, in order;
`deadline()` says when `tick` is due. Failure detection is by links: a mesh keeps one link between each two nodes, so a
link that ends is the evidence.

    state     entered when                                         then
    suspect   a card was learned, not linked yet; a link ended     dialed at once, and again after 1, 2, 4 … s
    alive     a link is up
    failed    dialing was refused by the node's own host(s);       dialed less and less often for `forget_s`, so that
              or nothing for `suspicion_timeout_s`                 a healed partition joins by itself
    left      its own record says so                               not dialed; a record of a newer boot revives it

Records are ordered by (boot, incarnation), "left" winning a tie (SWIM §4.2: only the subject raises its incarnation).
An older record never replaces a newer one, whatever the link says. To avoid both sides dialing at once the lower NodeId
dials first and the higher one waits a moment.

Absent: probing through others and suspicion by gossip (SWIM with Lifeguard), which take this machine's place with the
same effects.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import attrs

from ..security.records import LEFT, Admission, NodeRecord
from ..values import NodeId, NodeState

__all__ = ["Changed", "Dial", "Effect", "Member", "Spread", "View"]

_POLITE_S = 0.5


@attrs.frozen
class Dial:
    """Open a link to this member."""

    node_id: NodeId


@attrs.frozen
class Changed:
    """`what` is "joined", "suspected", "failed", "left" or "updated"."""

    node_id: NodeId
    what: str


@attrs.frozen
class Spread:
    """Tell every linked node about this member, except the one it was learned from."""

    node_id: NodeId
    learned_from: NodeId | None


Effect = Dial | Changed | Spread


@attrs.define
class Member:
    """What is known of another node. Times are of the machine's clock."""

    admission: Admission
    record: NodeRecord
    state: NodeState
    since: float
    linked: bool = False
    heard_at: float | None = None
    next_dial: float | None = None
    dial_wait_s: float = 0.0
    dialing: bool = False

    @property
    def card(self) -> list[object]:
        """Admission, record and details as they travel."""
        return [self.admission.signed, self.record.signed, self.record.details]


class View:
    """All members but this node. See the module's table."""

    def __init__(
        self,
        me: NodeId,
        *,
        suspicion_timeout_s: float,
        redial_interval_s: float,
        redial_interval_max_s: float,
        forget_s: float,
        chance: random.Random,
    ) -> None:
        self.members: dict[NodeId, Member] = {}
        self.me = me
        self._suspicion_timeout_s = suspicion_timeout_s
        self._redial_interval_s = redial_interval_s
        self._redial_interval_max_s = redial_interval_max_s
        self._forget_s = forget_s
        self._chance = chance

    # ------------------------------------------------------------------ events

    def learn(
        self, admission: Admission, record: NodeRecord, now: float, learned_from: NodeId | None = None
    ) -> list[Effect]:
        """Take note of a verified card. Older ones change nothing."""
        node_id = record.node_id
        if node_id == self.me:
            return []
        member = self.members.get(node_id)
        if member is None:
            state = NodeState.LEFT if record.state == LEFT else NodeState.SUSPECT
            member = self.members[node_id] = Member(admission, record, state, now)
            if state is NodeState.SUSPECT:
                self._dial_soon(member, now)
            return [Spread(node_id, learned_from)]
        if admission.serial > member.admission.serial:
            member.admission = admission
        if record.order <= member.record.order:
            return []
        was, member.record = member.record, record
        effects: list[Effect] = [Spread(node_id, learned_from)]
        if record.state == LEFT:
            effects += self._become(member, NodeState.LEFT, now)
            member.next_dial = None
        elif not member.linked and (member.state is NodeState.LEFT or record.boot > was.boot):
            effects += self._become(member, NodeState.SUSPECT, now)
            member.since = now
            self._dial_soon(member, now)
        else:
            effects += self._become(member, NodeState.ALIVE, now) if member.state is NodeState.LEFT else []
            effects.append(Changed(node_id, "updated"))
            if not member.linked:
                self._dial_soon(member, now)
        return effects

    def link_up(self, admission: Admission, record: NodeRecord, now: float) -> list[Effect]:
        """A link to a member is up; its card came with hello."""
        effects = self.learn(admission, record, now)
        member = self.members[record.node_id]
        member.linked = True
        member.dialing = False
        member.next_dial = None
        member.dial_wait_s = 0.0
        member.heard_at = now
        if member.record.state == LEFT:
            return effects  # it is on its way out
        return effects + self._become(member, NodeState.ALIVE, now)

    def link_down(self, node_id: NodeId, now: float) -> list[Effect]:
        """The last link to a member has ended: probe at once by dialing it."""
        member = self.members.get(node_id)
        if member is None:
            return []
        member.linked = False
        member.heard_at = now
        if member.state is NodeState.LEFT:
            return []
        effects = self._become(member, NodeState.SUSPECT, now)
        member.next_dial = now
        return effects + self._due(now)

    def dialed(self, node_id: NodeId, now: float, *, refused: bool) -> list[Effect]:
        """Dialing a member has failed; `refused` says that its own host had no listener there."""
        member = self.members.get(node_id)
        if member is None or member.linked:
            return []
        member.dialing = False
        if member.state is NodeState.LEFT:
            return []
        wait_s = member.dial_wait_s = min(
            self._redial_interval_max_s, max(self._redial_interval_s, member.dial_wait_s * 2)
        )
        member.next_dial = now + wait_s * self._chance.uniform(0.75, 1.25)
        overdue = now >= member.since + self._suspicion_timeout_s
        if member.state is NodeState.SUSPECT and (overdue or (refused and member.heard_at is not None)):
            return self._become(member, NodeState.FAILED, now)
        return []

    def no_dials(self) -> None:
        """Whoever dials has started anew: no dial is under way."""
        for member in self.members.values():
            member.dialing = False

    def retime(self, *, suspicion_timeout_s: float, redial_interval_s: float, redial_interval_max_s: float) -> None:
        """Go by other times from now on; call `tick` afterwards, since something may be due."""
        self._suspicion_timeout_s = suspicion_timeout_s
        self._redial_interval_s = redial_interval_s
        self._redial_interval_max_s = redial_interval_max_s

    def forget(self, node_id: NodeId) -> None:
        """Drop all that is known of a node."""
        self.members.pop(node_id, None)

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> list[Effect]:
        """What is due: dials, suspicions that ran out, members to forget."""
        effects: list[Effect] = []
        for node_id, member in list(self.members.items()):
            if member.linked:
                continue
            # The sums are those of `deadline`: a difference may round to just below, and then nothing would be due.
            if member.state is NodeState.SUSPECT:
                if now >= member.since + self._suspicion_timeout_s:
                    effects += self._become(member, NodeState.FAILED, now)
            elif now >= member.since + self._forget_s:
                self.forget(node_id)
        return effects + self._due(now)

    def deadline(self) -> float | None:
        """When `tick` is due next, or None."""
        return min(self._deadlines(), default=None)

    def _deadlines(self) -> Iterator[float]:
        for member in self.members.values():
            if member.linked:
                continue
            if member.next_dial is not None and not member.dialing:
                yield member.next_dial
            if member.state is NodeState.SUSPECT:
                yield member.since + self._suspicion_timeout_s
            else:
                yield member.since + self._forget_s

    # ------------------------------------------------------------------ reading

    def present(self) -> int:
        """How many others are there, or may be."""
        return sum(member.state in (NodeState.ALIVE, NodeState.SUSPECT) for member in self.members.values())

    def cards(self) -> list[list[object]]:
        """Cards worth telling a newcomer: members who are there, or who said that they left."""
        return [member.card for member in self.members.values() if member.state is not NodeState.FAILED]

    # ------------------------------------------------------------------ inside

    def _become(self, member: Member, state: NodeState, now: float) -> list[Effect]:
        if member.state is state:
            return []
        member.state, member.since = state, now
        what = {
            NodeState.ALIVE: "joined",
            NodeState.SUSPECT: "suspected",
            NodeState.FAILED: "failed",
            NodeState.LEFT: "left",
        }[state]
        return [Changed(member.record.node_id, what)]

    def _dial_soon(self, member: Member, now: float) -> None:
        wait_s = 0.0 if self.me < member.record.node_id else _POLITE_S * self._chance.uniform(0.5, 1.0)
        member.dial_wait_s = 0.0
        member.next_dial = now + wait_s

    def _due(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for node_id, member in self.members.items():
            if member.next_dial is not None and member.next_dial <= now and not (member.linked or member.dialing):
                member.dialing = True
                effects.append(Dial(node_id))
        return effects
