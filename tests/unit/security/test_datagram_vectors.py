"""The vectors in tests/vectors/datagrams.json: packets that every implementation opens, or drops for the same reason.

    python tests/unit/security/test_datagram_vectors.py     writes the file anew; the format is fixed, so nothing should
                                                            change in it

X25519, HKDF and AES-GCM leave nothing to chance, so the whole file is made again here and compared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bms.security.keys import BoxKey, NodeKey
from bms.security.pairwise import COUNTER_MAX, Drop, End, derive_key, open_untrusted, read_header_untrusted, seal

FILE = Path(__file__).parents[2] / "vectors" / "datagrams.json"
MESH_ID = bytes(range(32))
NODE_A, NODE_B = (NodeKey(bytes([number]) * 32).node_id.raw for number in (0x11, 0x22))
BOX_A, BOX_B, BOX_B_OLD = (BoxKey(bytes([number]) * 32) for number in (0x44, 0x55, 0x66))
BOOT_A, BOOT_B = bytes(range(0x40, 0x50)), bytes(range(0x60, 0x70))
ABOUT = (
    "Byte strings are hexadecimal. `valid`: the key of the direction from sender to receiver, and packets under it "
    "with what they carry; `box_seed` is the X25519 secret of each end. `dropped`: packets for the receiver of the "
    "first key, which knows the sender's record and has taken nothing yet, and the reason; what is `unauthentic` opens "
    "under no key."
)


def _end(node_id: bytes, boot_id: bytes, box: BoxKey) -> dict[str, str]:
    seed = box.private_key().private_bytes_raw()
    return {
        "node_id": node_id.hex(), "boot_id": boot_id.hex(), "box_seed": seed.hex(), "box_key": box.public.hex(),
    }  # fmt: skip


def _direction(sender: dict[str, str], receiver: dict[str, str], sent: list[tuple[int, bytes]]) -> dict[str, Any]:
    key, start = key_of(sender, receiver, "sender"), end_of(sender)
    packets = [
        {"counter": counter, "payload": payload.hex(), "packet": seal(key, start, counter, payload).hex()}
        for counter, payload in sent
    ]
    return {"mesh_id": MESH_ID.hex(), "sender": sender, "receiver": receiver, "key": key.hex(), "packets": packets}


def end_of(end: dict[str, str]) -> End:
    return End(*(bytes.fromhex(end[name]) for name in ("node_id", "boot_id", "box_key")))


def key_of(sender: dict[str, str], receiver: dict[str, str], side: str) -> bytes:
    own = BoxKey(bytes.fromhex({"sender": sender, "receiver": receiver}[side]["box_seed"]))
    return derive_key(MESH_ID, own, end_of(sender), end_of(receiver))


def _dropped(key: bytes, sender: End) -> list[dict[str, str]]:
    good = seal(key, sender, 7, b"payload")
    other_boot = sender._replace(boot_id=bytes(16))
    listed = [
        ("short", "no room for a tag", good[:64]),
        ("oversized", "1,201 bytes", good + bytes(1201 - len(good))),
        ("version", "version 2", b"\x02" + good[1:]),
        ("counter", "counter 0", good[:41] + bytes(8) + good[49:]),
        ("counter", "counter 2^48 + 1", good[:41] + (COUNTER_MAX + 1).to_bytes(8, "big") + good[49:]),
        ("unknown_sender", "a sender that is no member", good[:1] + bytes(32) + good[33:]),
        ("wrong_boot", "another boot", seal(key, other_boot, 7, b"payload")),
        ("own", "back to its sender, with the receiver as sender", good[:1] + NODE_B + BOOT_B[:8] + good[41:]),
        ("unauthentic", "another counter than it was sealed with", good[:48] + b"\x08" + good[49:]),
        ("unauthentic", "a bit of the payload", good[:50] + bytes([good[50] ^ 1]) + good[51:]),
        ("unauthentic", "a bit of the tag", good[:-1] + bytes([good[-1] ^ 0x80])),
        ("unauthentic", "the last byte is missing", good[:-1]),
    ]
    return [{"reason": reason, "why": why, "packet": packet.hex()} for reason, why, packet in listed]


def render() -> dict[str, Any]:
    """The whole file."""
    a, b = _end(NODE_A, BOOT_A, BOX_A), _end(NODE_B, BOOT_B, BOX_B)
    b_old = _end(NODE_B, BOOT_B, BOX_B_OLD)
    sent = [(1, b""), (2, b"payload"), (COUNTER_MAX, bytes(1135))]
    valid = [
        _direction(a, b, sent),
        _direction(b, a, [(1, b"payload")]),
        _direction(a, b_old, [(3, b"to the key of before")]),
    ]
    return {"about": ABOUT, "valid": valid, "dropped": _dropped(bytes.fromhex(valid[0]["key"]), end_of(a))}


# --- the tests

VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {"valid": [], "dropped": []}


def why_dropped(packet: bytes, key: bytes) -> str | None:
    """What a receiver says that knows node A's record, and has taken nothing."""
    header = read_header_untrusted(packet)
    if isinstance(header, Drop):
        return header.value
    if header.sender not in (NODE_A, NODE_B):
        return "unknown_sender"
    if header.boot != (BOOT_A if header.sender == NODE_A else BOOT_B)[:8]:
        return "wrong_boot"
    if header.sender == NODE_B:
        return "own"
    return "unauthentic" if open_untrusted(key, header.counter, packet) is None else None


@pytest.mark.parametrize("direction", VECTORS["valid"], ids=lambda direction: direction["key"][:8])
def test_both_ends_derive_the_key_and_open_what_was_sealed(direction: dict[str, Any]) -> None:
    sender, receiver, key = direction["sender"], direction["receiver"], bytes.fromhex(direction["key"])
    assert key_of(sender, receiver, "sender") == key_of(sender, receiver, "receiver") == key
    for vector in direction["packets"]:
        packet, payload = bytes.fromhex(vector["packet"]), bytes.fromhex(vector["payload"])
        assert seal(key, end_of(sender), vector["counter"], payload) == packet
        assert open_untrusted(key, vector["counter"], packet) == payload


@pytest.mark.parametrize("vector", VECTORS["dropped"], ids=lambda vector: vector["why"])
def test_a_dropped_vector_is_dropped_for_the_reason_given(vector: dict[str, str]) -> None:
    assert why_dropped(bytes.fromhex(vector["packet"]), bytes.fromhex(VECTORS["valid"][0]["key"])) == vector["reason"]


def test_there_are_vectors_of_every_reason_that_one_packet_can_give() -> None:
    reasons = {vector["reason"] for vector in VECTORS["dropped"]}
    assert reasons == {drop.value for drop in Drop} - {"replayed", "weak_key"}


def test_the_file_is_what_is_made_today() -> None:
    assert json.loads(json.dumps(render())) == VECTORS


if __name__ == "__main__":
    FILE.write_text(json.dumps(render(), indent=1, ensure_ascii=False) + "\n", "utf-8")
