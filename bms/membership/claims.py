"""What nodes tell each other about members, and what the failure detector asks of whoever drives it. Plain values.

A **claim** says how it is with one member at one point of its life, (boot, incarnation). The member itself says that
it is alive or has left; another one, the accuser, that it is suspect or dead. Claims about one member are ordered by
(boot, incarnation, kind), so of a member's own words and of accusations at one incarnation the later kind counts (SWIM,
section 4.2): alive < suspect < dead < left. Only the member raises its incarnation, so only it takes an accusation
back.

`size` is the bytes that something takes in a packet; `wire` is what travels, which this room does not look into.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

import attrs

from ..values import NodeId

__all__ = [
    "Ack",
    "Changed",
    "Claim",
    "Delta",
    "Digest",
    "Effect",
    "Get",
    "Kind",
    "Measured",
    "Message",
    "Nack",
    "Ping",
    "PingRequest",
    "Question",
    "Rank",
    "Refuted",
    "Send",
    "SyncAsk",
    "Want",
]

Rank = tuple[int, int, int]
"""(boot, incarnation, kind) of the greatest claim that a node holds about a member; suspicions do not count."""


class Kind(enum.IntEnum):
    """What a claim says, in the order in which one at the same incarnation outdoes the other."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3
    REMOVED = 4


@attrs.frozen(eq=False)
class Claim:
    """A word about `node_id`, by itself (`ALIVE`, `LEFT`) or by another member (`SUSPECT`, `DEAD`, `REMOVED`)."""

    node_id: NodeId
    boot: int
    incarnation: int
    kind: Kind
    by: NodeId
    size: int
    wire: Any = attrs.field(default=None, repr=False)

    @property
    def point(self) -> tuple[int, int]:
        """At which point of the member's life."""
        return self.boot, self.incarnation

    @property
    def rank(self) -> Rank:
        """The claim's place in the order."""
        return self.boot, self.incarnation, self.kind


# ---------------------------------------------------------------------- messages between nodes


@attrs.frozen(eq=False)
class Ping:
    """Are you there? Sealed for one node or sent over its link, so it can reach no other."""

    seq: int
    size: ClassVar[int] = 12


@attrs.frozen(eq=False)
class Ack:
    """Yes, or: the node that you asked me to ping is. It has room for a coordinate."""

    seq: int
    size: ClassVar[int] = 72


@attrs.frozen(eq=False)
class PingRequest:
    """Ping `target` for me; what comes later than `budget_s` from now is too late."""

    seq: int
    target: NodeId
    budget_s: float
    size: ClassVar[int] = 56


@attrs.frozen(eq=False)
class Nack:
    """The node that you asked me to ping has not answered, but I am here."""

    seq: int
    size: ClassVar[int] = 12


@attrs.frozen(eq=False)
class SyncAsk:
    """Do we know the same? `fingerprint` is over the ranks of all `count` members that the sender knows, itself too."""

    fingerprint: int
    count: int
    size: ClassVar[int] = 20


@attrs.frozen(eq=False)
class Digest:
    """What the sender holds of each member."""

    ranks: dict[NodeId, Rank]

    @property
    def size(self) -> int:
        """A digest has at most 56 bytes a member."""
        return 8 + 56 * len(self.ranks)


@attrs.frozen(eq=False)
class Get:
    """Send me what you have of these."""

    node_ids: tuple[NodeId, ...]

    @property
    def size(self) -> int:
        """34 bytes an id."""
        return 8 + 34 * len(self.node_ids)


@attrs.frozen(eq=False)
class Delta:
    """A member's own word and, if it is held for dead, whose word that is."""

    pairs: tuple[tuple[Claim, Claim | None], ...]

    @property
    def size(self) -> int:
        """The claims'."""
        return 8 + sum(own.size + (0 if accusation is None else accusation.size) for own, accusation in self.pairs)


Question = Ping | Ack | PingRequest | Nack | SyncAsk | Digest | Get | Delta
"""What is no claim: a question or the answer to one."""
Message = Claim | Question


# ---------------------------------------------------------------------- what is to be done


@attrs.frozen(eq=False)
class Send:
    """Send these to a node: in one datagram, or, with `stream`, over the link to it if there is one."""

    to: NodeId
    messages: list[Message]
    stream: bool = False


@attrs.frozen
class Changed:
    """`what` is "joined", "suspected", "failed", "left", "updated" or "forgotten"; `by` whose word it is."""

    node_id: NodeId
    what: str
    by: NodeId | None = None


@attrs.frozen
class Want:
    """`sender` speaks of a member that is not known at that point of its life: get its card there."""

    node_id: NodeId
    sender: NodeId


@attrs.frozen
class Measured:
    """A round trip to a node took so long."""

    node_id: NodeId
    rtt_s: float


@attrs.frozen
class Refuted:
    """This node has taken back what `by` said of it."""

    by: NodeId
    kind: Kind


Effect = Send | Changed | Want | Measured | Refuted
