"""Which signed words about members are believed: the border through which packets reach the failure detector.

A word that is known already, byte for byte, costs a comparison; a new one its signature. A member's own word that comes
as a record alone is understood where its details are known; otherwise its card is wanted from whoever spoke of it. An
accusation counts if a member has signed it.

Each sender may have `_CHECKS_MAX` signatures checked at once and `_CHECKS_PER_S` more each second, for each of which it
may also have a list of `_LISTED_PER_CHECK` members read, or a packet of `_BYTES_PER_CHECK` decoded; what is beyond that
is dropped and counted, so that a member that floods others with words costs them a bounded part of their time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ..errors import RemoteProtocolError
from ..security.records import ALIVE, DEAD, REMOVED, SUSPECT, Accusation, Admission, NodeRecord, peek_record_untrusted
from ..security.trust import Trust
from ..values import NodeId
from .claims import Claim, Kind

__all__ = ["Believed", "accusation_claim", "own_claim"]

_CHECKS_MAX = 4096
_CHECKS_PER_S = 500
_LISTED_PER_CHECK = 32
_BYTES_PER_CHECK = 2048
_KINDS = {SUSPECT: Kind.SUSPECT, DEAD: Kind.DEAD, REMOVED: Kind.REMOVED}
_REMEMBERED_MAX = 8192
_HEAD_BYTES = 10


@attrs.define
class _Allowance:
    left: float
    at: float


def own_claim(admission: Admission, record: NodeRecord) -> Claim:
    """A member's own word, from its card."""
    kind = Kind.ALIVE if record.state == ALIVE else Kind.LEFT
    size = len(record.body) + len(record.signature) + _HEAD_BYTES
    return Claim(record.node_id, record.boot, record.incarnation, kind, record.node_id, size, (admission, record))


def accusation_claim(accusation: Accusation) -> Claim:
    """A member's word about another."""
    kind = _KINDS[accusation.kind]
    size = len(accusation.body) + len(accusation.signature) + _HEAD_BYTES
    return Claim(
        accusation.node_id, accusation.boot, accusation.incarnation, kind, accusation.accuser, size, accusation
    )


class Believed:
    """Reads what one sender at a time says, since `begin`. A `packets.Reader`.

    `wanted` collects members whose cards are to be fetched, `outdated` records of this node itself that are not its
    present one.
    """

    def __init__(self, me: NodeId, trust: Trust, known: Callable[[NodeId], Claim | None]) -> None:
        self.sender = me
        self.now = 0.0
        self.wanted: list[NodeId] = []
        self.outdated: list[NodeRecord] = []
        self.dropped = 0
        self._me = me
        self._trust = trust
        self._known = known
        self._accusations: dict[bytes, Claim] = {}
        self._allowances: dict[NodeId, _Allowance] = {}

    def begin(self, sender: NodeId, now: float) -> None:
        """What comes next is of this sender; nothing is left of the packet before, which may have been cut short."""
        self.sender, self.now = sender, now
        self.wanted, self.outdated, self.dropped = [], [], 0

    def may_read(self, size: int) -> bool:
        """Whether a packet of so many bytes is worth decoding: whatever it says, that costs."""
        return self._may_check(size / _BYTES_PER_CHECK)

    def word_untrusted(self, record: object) -> Claim | None:
        """See `packets.Reader`."""
        node_id, point, details_hash = peek_record_untrusted(record)
        known = self._known(node_id)
        if node_id == self._me:
            return None
        if known is None:
            if self._may_check():
                self.wanted.append(node_id)
            return None
        admission, held = known.wire
        if record == held.signed:
            return known
        if point < known.point or not self._may_check():
            return None
        if details_hash != held.details_hash:
            self.wanted.append(node_id)
            return None
        return own_claim(admission, self._record_untrusted(admission, record, held.details))

    def _record_untrusted(self, admission: Admission, record: object, details: bytes) -> NodeRecord:
        return self._trust.check_card_untrusted([admission.signed, record, details])[1]

    def card_untrusted(self, card: object) -> Claim | None:
        """See `packets.Reader`."""
        if not isinstance(card, list) or len(card) != 3:
            raise RemoteProtocolError("a card is not an array of admission, record and details")
        node_id, _, _ = peek_record_untrusted(card[1])
        known = self._known(node_id)
        if known is not None and card[1] == known.wire[1].signed and card[0] == known.wire[0].signed:
            return known
        if not self._may_check():
            return None
        admission, record = self._trust.check_card_untrusted(card)
        if record.node_id == self._me:
            self.outdated.append(record)
            return None
        return own_claim(admission, record)

    def accusation_untrusted(self, accusation: object) -> Claim | None:
        """See `packets.Reader`."""
        key = _signature_of(accusation)
        remembered = self._accusations.get(key)
        if remembered is not None and remembered.wire.signed == accusation:
            return remembered
        if not self._may_check():
            return None
        parsed = Accusation.parse_untrusted(accusation)
        if parsed.mesh_id != self._trust.bundle.mesh_id:
            raise RemoteProtocolError("accusation: it is of another mesh")
        if parsed.accuser != self._me and self._known(parsed.accuser) is None:
            return None  # perhaps a member that we have not heard of, perhaps none
        claim = accusation_claim(parsed)
        if len(self._accusations) >= _REMEMBERED_MAX:
            self._accusations.clear()
        self._accusations[key] = claim
        return claim

    def may_list(self, count: int) -> bool:
        """See `packets.Reader`."""
        return self._may_check(count / _LISTED_PER_CHECK)

    def _may_check(self, cost: float = 1.0) -> bool:
        allowance = self._allowances.get(self.sender)
        if allowance is None:
            allowance = self._allowances[self.sender] = _Allowance(_CHECKS_MAX, self.now)
        allowance.left = min(_CHECKS_MAX, allowance.left + (self.now - allowance.at) * _CHECKS_PER_S)
        allowance.at = self.now
        if allowance.left < cost:
            self.dropped += 1
            return False
        allowance.left -= cost
        return True

    def forget(self, node_id: NodeId) -> None:
        """Drop what was noted of a member that is gone."""
        self._allowances.pop(node_id, None)


def _signature_of(signed: Any) -> bytes:
    is_signed = isinstance(signed, list) and len(signed) == 2 and type(signed[1]) is bytes
    return signed[1] if is_signed else b""
