"""What failure detectors tell each other, as bytes: one encoding for datagrams and for links.

    packet = [* item]
    ping [0, seq]              ack [1, seq, coordinate]      ping-request [2, seq, node id, budget ms]     nack [3, seq]
    word [4, record]           accusation [5, accusation]    card [6, card]
    ask [7, fingerprint, count]        digest [8, [* [node id, boot, incarnation, kind]]]        get [9, [* node id]]
    delta [10, [* [card, accusation / null]]]

In datagrams a member's own word travels as its record alone, over links as its card. Words, accusations and cards are
as many as fit; of what asks or answers a packet has one, or one packet would be answered by hundreds, wherever its
sender says that it is. Items of other numbers are passed over, fields after the known ones ignored. Everything here
only has the right shape; who may have said it is for the `Reader` to find out, which the owner passes in.

Format: docs/reference/formats.md "Packets".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import RemoteProtocolError
from ..security.signed import array_untrusted, bytes_untrusted, uint_untrusted
from ..values import NodeId
from ..wire.codec import check_items_untrusted, decode_untrusted, encode
from .claims import Ack, Claim, Delta, Digest, Get, Kind, Message, Nack, Ping, PingRequest, SyncAsk

__all__ = ["Reader", "encode_packet", "parse_packet_untrusted"]

ITEMS_MAX = 4096
RANKS_MAX = 65_536
COORDINATE_BYTES_MAX = 64
_BYTES_PER_ITEM = 6
"""An item takes more on average in any packet: in a digest, whose entries are the shortest, 7.6 bytes at least."""
_FINGERPRINT_MAX = (1 << 64) - 1
_BUDGET_MS_MAX = 600_000


class Reader(Protocol):
    """Turns signed objects into claims: None for what is of no use here; RemoteProtocolError for what is forged."""

    def word_untrusted(self, record: object) -> Claim | None:
        """A member's own word, its record alone."""
        ...

    def card_untrusted(self, card: object) -> Claim | None:
        """A member's own word, with all that belongs to it."""
        ...

    def accusation_untrusted(self, accusation: object) -> Claim | None:
        """A word of one member about another."""
        ...

    def may_list(self, count: int) -> bool:
        """Whether a list of so many members is worth reading."""
        ...


def encode_packet(messages: Sequence[Message], *, stream: bool, coordinate: bytes = b"") -> bytes:
    """The bytes of these messages; acks carry this node's coordinate. Every claim's `wire` is there."""
    return encode([_item(message, stream, coordinate) for message in messages])


def _item(message: Message, stream: bool, coordinate: bytes) -> list[Any]:
    match message:
        case Claim():
            return _claim(message, stream)
        case Ping():
            return [0, message.seq]
        case Ack():
            return [1, message.seq, coordinate]
        case PingRequest():
            return [2, message.seq, message.target.raw, min(_BUDGET_MS_MAX, max(0, int(message.budget_s * 1000)))]
        case Nack():
            return [3, message.seq]
        case SyncAsk():
            return [7, message.fingerprint, message.count]
        case Digest():
            return [8, [[node_id.raw, *rank] for node_id, rank in message.ranks.items()]]
        case Get():
            return [9, [node_id.raw for node_id in message.node_ids]]
        case Delta():
            return [10, [[_card(own), None if said is None else said.wire.signed] for own, said in message.pairs]]


def _claim(claim: Claim, stream: bool) -> list[Any]:
    if claim.kind in (Kind.SUSPECT, Kind.DEAD, Kind.REMOVED):
        return [5, claim.wire.signed]
    return [6, _card(claim)] if stream else [4, claim.wire[1].signed]


def _card(own: Claim) -> list[Any]:
    admission, record = own.wire
    return [admission.signed, record.signed, record.details]


def parse_packet_untrusted(payload: bytes, reader: Reader) -> tuple[list[Message], bytes]:
    """The messages of a packet, and the coordinate of an ack in it; RemoteProtocolError for anything malformed."""
    messages: list[Message] = []
    coordinate = b""
    is_asked = False
    check_items_untrusted(payload, _BYTES_PER_ITEM)
    for item in array_untrusted(decode_untrusted(payload), "packet", 0, ITEMS_MAX):
        fields = array_untrusted(item, "packet item", 1, 16)
        number = uint_untrusted(fields[0], "packet item number")
        if number not in _PARSERS:
            continue
        least, parse = _PARSERS[number]
        if len(fields) <= least:
            raise RemoteProtocolError(f"a packet item of number {number} has {least + 1} fields")
        if number not in _CLAIMS:
            if is_asked:
                raise RemoteProtocolError("a packet asks or answers more than once")
            is_asked = True
        message = parse(fields, reader)
        if message is not None:
            messages.append(message)
        if number == 1:
            coordinate = fields[2]
            if type(coordinate) is not bytes or len(coordinate) > COORDINATE_BYTES_MAX:
                raise RemoteProtocolError("an ack's coordinate is not a short byte string")
    return messages, coordinate


def _seq_untrusted(fields: list[Any]) -> int:
    return uint_untrusted(fields[1], "sequence number")


def _node_id_untrusted(value: object) -> NodeId:
    return NodeId.of(bytes_untrusted(value, "node id"))


def _ping_request_untrusted(fields: list[Any], reader: Reader) -> Message:
    budget_ms = uint_untrusted(fields[3], "budget", _BUDGET_MS_MAX)
    return PingRequest(_seq_untrusted(fields), _node_id_untrusted(fields[2]), budget_ms / 1000)


def _ask_untrusted(fields: list[Any], reader: Reader) -> Message:
    return SyncAsk(uint_untrusted(fields[1], "fingerprint", _FINGERPRINT_MAX), uint_untrusted(fields[2], "count"))


def _digest_untrusted(fields: list[Any], reader: Reader) -> Message | None:
    entries = array_untrusted(fields[1], "digest", 0, RANKS_MAX)
    if not reader.may_list(len(entries)):
        return None
    ranks = {}
    for entry in entries:
        node_id, boot, incarnation, kind = array_untrusted(entry, "digest entry", 4, 4)
        ranks[_node_id_untrusted(node_id)] = (
            uint_untrusted(boot, "boot"),
            uint_untrusted(incarnation, "incarnation"),
            uint_untrusted(kind, "kind", Kind.LEFT),
        )
    return Digest(ranks)


def _get_untrusted(fields: list[Any], reader: Reader) -> Message | None:
    values = array_untrusted(fields[1], "node ids", 0, RANKS_MAX)
    return Get(tuple(map(_node_id_untrusted, values))) if reader.may_list(len(values)) else None


def _delta_untrusted(fields: list[Any], reader: Reader) -> Message:
    pairs = []
    for pair in array_untrusted(fields[1], "delta", 0, ITEMS_MAX):
        card, accusation = array_untrusted(pair, "delta entry", 2, 2)
        own = reader.card_untrusted(card)
        if own is not None:
            pairs.append((own, None if accusation is None else reader.accusation_untrusted(accusation)))
    return Delta(tuple(pairs))


_PARSERS: dict[int, tuple[int, Any]] = {
    0: (1, lambda fields, reader: Ping(_seq_untrusted(fields))),
    1: (2, lambda fields, reader: Ack(_seq_untrusted(fields))),
    2: (3, _ping_request_untrusted),
    3: (1, lambda fields, reader: Nack(_seq_untrusted(fields))),
    4: (1, lambda fields, reader: reader.word_untrusted(fields[1])),
    5: (1, lambda fields, reader: reader.accusation_untrusted(fields[1])),
    6: (1, lambda fields, reader: reader.card_untrusted(fields[1])),
    7: (2, _ask_untrusted),
    8: (1, _digest_untrusted),
    9: (1, _get_untrusted),
    10: (1, _delta_untrusted),
}
"""The fields after the number that an item has at least, and how it is read."""
_CLAIMS = (4, 5, 6)
