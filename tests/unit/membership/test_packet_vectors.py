"""The vectors in tests/vectors/packets.json: packets of the failure detector that every implementation reads alike.

    python tests/unit/membership/test_packet_vectors.py     writes the file anew; the format is fixed, so nothing should
                                                            change in it

Ed25519 leaves nothing to chance, so the whole file is made again here and compared.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import cbor2
import pytest

from bms.errors import RemoteProtocolError
from bms.membership.believed import accusation_claim, own_claim
from bms.membership.claims import (
    Ack,
    Claim,
    Delta,
    Digest,
    Get,
    Kind,
    Message,
    Nack,
    Ping,
    PingRequest,
    SyncAsk,
)  # fmt: skip
from bms.membership.coordinates import Coordinate
from bms.membership.members import Accused, Members
from bms.membership.packets import encode_packet, parse_packet_untrusted
from bms.membership.tuning import Tuning
from bms.security.keys import NodeKey
from bms.security.records import DEAD, LEFT, REMOVED, SUSPECT, Accusation, Admission, NodeRecord
from bms.values import NodeId

FILE = Path(__file__).parents[2] / "vectors" / "packets.json"
NOW = 1_790_000_000_000
MESH_ID = bytes(range(32))
KEY_A, KEY_B, ISSUER = (NodeKey(bytes([number]) * 32) for number in (0x11, 0x22, 0x33))
ABOUT = (
    "Byte strings are hexadecimal; Ed25519 keys come from the seeds (RFC 8032). `valid`: packets and the items that "
    "they say, as datagrams have them (`stream` false: own words as records alone) or links. `passed_over`: packets "
    "that say no more than `items`, whatever else is in them. `refused`: malformed packets; nothing in them counts. "
    "`fingerprints`: what a node holds of members, itself among them, and the fingerprint of that."
)
HERE = Coordinate((0.0125, -0.5, 0.0, 0.0, 0.25, 0.0, 0.0, 10.0), 0.00001, 1.5, -0.03125)


def admission_of(key: NodeKey) -> Admission:
    return Admission.sign(ISSUER, mesh_id=MESH_ID, node_id=key.node_id, serial=NOW)


def word_of(key: NodeKey, **changed: Any) -> Claim:
    wanted: dict[str, Any] = {
        "boot": NOW + 5, "boot_id": bytes(range(16)), "incarnation": 7, "name": "n", "time": NOW + 6,
        "addresses": [(0, "192.0.2.7", 7800), (1, "192.0.2.7", 7800)], "box_keys": [bytes(range(32))],
        "versions": (1, 1), "tags": {},
    }  # fmt: skip
    return own_claim(admission_of(key), NodeRecord.sign(key, mesh_id=MESH_ID, **wanted | changed))


def accusation_by(key: NodeKey, other: NodeKey, kind: int) -> Claim:
    return accusation_claim(
        Accusation.sign(key, mesh_id=MESH_ID, node_id=other.node_id, boot=NOW + 5, incarnation=7, kind=kind)
    )


class Shown:
    """Reads what is right in itself, and knows the details of the nodes above."""

    def word_untrusted(self, record: object) -> Claim | None:
        """See `packets.Reader`."""
        details = word_of(KEY_A).wire[1].details
        parsed = NodeRecord.parse_untrusted(record, details)
        return own_claim(admission_of(KEY_A if parsed.node_id == KEY_A.node_id else KEY_B), parsed)

    def card_untrusted(self, card: Any) -> Claim | None:
        """See `packets.Reader`."""
        return own_claim(Admission.parse_untrusted(card[0]), NodeRecord.parse_untrusted(card[1], card[2]))

    def accusation_untrusted(self, accusation: object) -> Claim | None:
        """See `packets.Reader`."""
        return accusation_claim(Accusation.parse_untrusted(accusation))

    def may_list(self, count: int) -> bool:
        """See `packets.Reader`."""
        return True


def said(claim: Claim) -> dict[str, Any]:
    named = {"node_id": str(claim.node_id), "boot": claim.boot, "incarnation": claim.incarnation}
    return {**named, "kind": int(claim.kind), "by": str(claim.by)}


def item(message: Message) -> dict[str, Any]:
    """A message as the file has it."""
    match message:
        case Claim():
            return {"item": "claim", **said(message)}
        case Ping() | Ack() | Nack():
            return {"item": type(message).__name__.lower(), "seq": message.seq}
        case PingRequest():
            return {
                "item": "ping-request", "seq": message.seq, "node_id": message.target,
                "budget_ms": round(message.budget_s * 1000),
            }  # fmt: skip
        case SyncAsk():
            return {"item": "ask", "fingerprint": message.fingerprint, "count": message.count}
        case Digest():
            return {"item": "digest", "ranks": [[node_id, *map(int, rank)] for node_id, rank in message.ranks.items()]}
        case Get():
            return {"item": "get", "node_ids": list(message.node_ids)}
        case Delta():
            pairs = [[said(own), None if dead is None else said(dead)] for own, dead in message.pairs]
            return {"item": "delta", "pairs": pairs}


def _valid() -> list[dict[str, Any]]:
    a, b = word_of(KEY_A), word_of(KEY_B, state=LEFT, incarnation=2**48)
    suspect, dead = accusation_by(KEY_B, KEY_A, SUSPECT), accusation_by(KEY_B, KEY_A, DEAD)
    ids = (KEY_A.node_id, KEY_B.node_id)
    samples: list[tuple[str, bool, list[Message]]] = [
        ("nothing", False, []),
        ("a ping", False, [Ping(0)]),
        ("a ping that tells the accused", False, [suspect, Ping(2**32)]),
        ("an ack in a datagram, with a coordinate and a word", False, [Ack(23), a]),
        ("an ack over a link, with an empty coordinate", True, [Ack(24)]),
        ("ask others", False, [PingRequest(255, KEY_B.node_id, 0.95)]),
        ("the longest budget", False, [PingRequest(256, KEY_B.node_id, 600.0)]),
        ("not heard of", False, [Nack(65535)]),
        ("a word and an accusation", False, [a, dead]),
        ("one that is to be forgotten", False, [accusation_by(KEY_A, KEY_B, REMOVED), Nack(1)]),
        ("cards, over a link", True, [a, b]),
        ("an ask", True, [SyncAsk(2**64 - 1, 3)]),
        ("a digest", True, [Digest({ids[0]: a.rank, ids[1]: (NOW + 5, 2**48, Kind.LEFT)})]),
        ("a get", True, [Get(ids)]),
        ("a delta", True, [Delta(((a, dead), (b, None)))]),
    ]
    return [
        {
            "meaning": meaning, "stream": stream, "items": [item(message) for message in messages],
            "coordinate": HERE.encode().hex() if any(isinstance(m, Ack) for m in messages) and not stream else "",
            "packet": encode_packet(messages, stream=stream, coordinate=b"" if stream else HERE.encode()).hex(),
        }
        for meaning, stream, messages in samples
    ]  # fmt: skip


def _passed_over() -> list[dict[str, Any]]:
    listed: list[tuple[str, list[Any], list[Message]]] = [
        ("an item of a number that is not known", [[11, "later"], [0, 7]], [Ping(7)]),
        ("fields after the known ones", [[0, 7, "later", None]], [Ping(7)]),
        ("a number that is not in its shortest form", [[0, 7]], [Ping(7)]),
    ]
    made: list[dict[str, Any]] = [
        {"why": why, "packet": cbor2.dumps(items), "items": [item(m) for m in known]} for why, items, known in listed
    ]
    made[-1]["packet"] = b"\x81\x82\x00\x18\x07"
    return [{**vector, "packet": vector["packet"].hex()} for vector in made]


def _refused() -> list[dict[str, Any]]:
    a = word_of(KEY_A)
    record, accusation = a.wire[1].signed, accusation_by(KEY_B, KEY_A, SUSPECT).wire
    itself = cbor2.dumps([1, MESH_ID, KEY_A.node_id.raw, KEY_A.node_id.raw, NOW + 5, 7, 1, {}], canonical=True)
    far = HERE.encode()[:-4] + b"\x7f\xc0\x00\x00"
    listed: list[tuple[str, Any]] = [
        ("no array", {}),
        ("an item that is no array", [0]),
        ("an item without a number", [[]]),
        ("an item with 17 fields", [[0, 7, *range(15)]]),
        ("a ping without a number", [[0]]),
        ("two questions in one packet", [[0, 7], [7, 1, 1]]),
        ("a negative number", [[0, -1]]),
        ("an ack without a coordinate", [[1, 7]]),
        ("a coordinate of 43 bytes", [[1, 7, HERE.encode()[:-1]]]),
        ("an adjustment that is no number", [[1, 7, far]]),
        ("a budget above ten minutes", [[2, 7, KEY_B.node_id.raw, 600_001]]),
        ("a node id of 31 bytes", [[2, 7, KEY_B.node_id.raw[:31], 100]]),
        ("an accusation with another signature", [[5, [accusation.body, bytes(64)]]]),
        ("an accusation of oneself", [[5, [itself, KEY_A.sign("bms-accusation-v1", itself)]]]),
        ("a word signed by another", [[4, [record[0], KEY_B.sign("bms-node-v1", record[0])]]]),
        ("a kind above 3 in a digest", [[8, [[KEY_A.node_id.raw, 1, 1, 4]]]]),
        ("a fingerprint of more than 64 bits", [[7, 2**64, 1]]),
        ("a delta whose pair has one half", [[10, [[[a.wire[0].signed, record, a.wire[1].details]]]]]),
    ]
    made = [{"why": why, "packet": cbor2.dumps(items, canonical=True).hex()} for why, items in listed]
    whole = encode_packet([Ping(7)], stream=False)
    made.append({"why": "bytes behind the packet", "packet": (whole + b"\x00").hex()})
    made.append({"why": "cut short", "packet": whole[:-1].hex()})
    return made


def fingerprint_of(me: Claim, others: list[tuple[Claim, Claim | None]]) -> int:
    members = Members(me, random.Random(0), Tuning())
    for own, dead in others:
        members.set(own, None if dead is None else Accused(dead, 0.0), 0.0)
    return members.fingerprint


def _fingerprints() -> list[dict[str, Any]]:
    a, b, left = word_of(KEY_A), word_of(KEY_B), word_of(KEY_B, state=LEFT, incarnation=2**48)
    dead = accusation_by(KEY_A, KEY_B, DEAD)
    listed: list[tuple[str, list[tuple[Claim, Claim | None]], list[Claim]]] = [
        ("a node alone", [], [a]),
        ("one that left", [(left, None)], [a, left]),
        ("one that is held for dead", [(b, dead)], [a, dead]),
    ]
    return [
        {
            "meaning": meaning, "ranks": [[str(claim.node_id), *map(int, claim.rank)] for claim in claims],
            "fingerprint": fingerprint_of(a, others),
        }
        for meaning, others, claims in listed
    ]  # fmt: skip


def render() -> dict[str, Any]:
    """The whole file."""
    seeds = {"a": 0x11, "b": 0x22, "issuer": 0x33}
    return {
        "about": ABOUT,
        "mesh_id": MESH_ID.hex(),
        "seeds": {name: (bytes([number]) * 32).hex() for name, number in seeds.items()},
        "details": word_of(KEY_A).wire[1].details.hex(),
        "valid": _valid(),
        "passed_over": _passed_over(),
        "refused": _refused(),
        "fingerprints": _fingerprints(),
    }


# --- the tests

_EMPTY: dict[str, Any] = {"valid": [], "passed_over": [], "refused": [], "fingerprints": []}
VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else _EMPTY


def read(packet: str) -> tuple[list[Message], bytes]:
    """A packet's messages and its coordinate, both as a node takes them."""
    messages, coordinate = parse_packet_untrusted(bytes.fromhex(packet), Shown())
    if coordinate:
        Coordinate.parse_untrusted(coordinate)
    return messages, coordinate


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["meaning"])
def test_a_valid_packet_says_its_items_and_is_encoded_so_again(vector: dict[str, Any]) -> None:
    messages, coordinate = read(vector["packet"])
    assert [item(message) for message in messages] == vector["items"]
    assert coordinate.hex() == vector["coordinate"]
    assert encode_packet(messages, stream=vector["stream"], coordinate=coordinate).hex() == vector["packet"]


@pytest.mark.parametrize("vector", VECTORS["passed_over"], ids=lambda vector: vector["why"])
def test_what_is_not_known_is_passed_over(vector: dict[str, Any]) -> None:
    assert [item(message) for message in read(vector["packet"])[0]] == vector["items"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["why"])
def test_a_malformed_packet_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        read(vector["packet"])


@pytest.mark.parametrize("vector", VECTORS["fingerprints"], ids=lambda vector: vector["meaning"])
def test_a_fingerprint_is_what_the_page_of_formats_says(vector: dict[str, Any]) -> None:
    mask, total = 2**64 - 1, 0
    for node_id, boot, incarnation, kind in vector["ranks"]:
        x = int.from_bytes(NodeId(node_id).raw[:8], "big") + boot * 0x9E3779B97F4A7C15
        x = (x + incarnation * 0xD1B54A32D192ED03 + kind * 0x8CB92BA72F3D8DD7) & mask
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        total = (total + (x ^ x >> 31)) & mask
    assert total == vector["fingerprint"]


def test_there_is_a_vector_of_every_item() -> None:
    numbers = {part[0] for vector in VECTORS["valid"] for part in cbor2.loads(bytes.fromhex(vector["packet"]))}
    assert numbers == set(range(11))


def test_the_file_is_what_is_made_today() -> None:
    assert json.loads(json.dumps(render())) == VECTORS


if __name__ == "__main__":
    FILE.write_text(json.dumps(render(), indent=1, ensure_ascii=False) + "\n", "utf-8")
