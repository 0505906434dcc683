"""Writes the message vectors: one JSON file for each message type, from the samples below.

    python tests/vectors/make.py

A vector is an object {"name", "meaning", "hex", "fields"}. `hex` is the payload of the frame, in the deterministic
encoding. `fields` are the message's fields in order; byte strings are written as {"bytes": hex}, so that nothing else
in them needs a convention. Numbers may be as large as 2^64-1: read them with a JSON parser that keeps integers.

Samples reach the edges of their fields on purpose: every width of an integer's head, empty and full strings, null,
text outside ASCII. A sample that is changed changes its file; files that exist are what other implementations test
against, so change the protocol's version with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from bms.wire import messages as m

__all__ = ["FOLDER", "SAMPLES", "name_of", "render", "to_json"]

FOLDER = Path(__file__).parent / "messages"

_HASHES = [bytes(range(32)), bytes(32)]
_SIGNED = [b"\x81\x01", b"\x5a" * 64]
_CARD = [_SIGNED, [b"\x81\x01", b"\xa5" * 64], b"\x82\x01\x61n"]
_WHOLE_BATCH = [_SIGNED, [[0, b"first", []], [1, b"second", []]]]
_PART_OF_BATCH = [_SIGNED, [[63, b"x" * 24, [*_HASHES, b"\xff" * 32]]]]
_NOW = 1_790_000_000_000

SAMPLES: list[tuple[m.AnyMessage | m.LocalMessage, str]] = [
    (
        m.Hello([1, 1], b"\x11" * 32, b"\x22" * 32, _CARD, 2**20, _NOW, 0),
        "Version 1 only, frames of 1 MiB, control lane.",
    ),
    (m.Proof(bytes(range(64))), "A signature of 64 bytes."),
    (m.Welcome(1, ["2001:db8::1", 65535]), "The dialing side is seen at [2001:db8::1]:65535; null if it is not known."),
    (m.Close(m.CloseCode.NO_COMMON_VERSION, "you speak 3 to 4, this node 1 to 2"), "A code and a reason for people."),
    (m.Ok(23), "The largest number that fits into one byte is 23."),
    (m.Error(24, "KeyError", "‘größe’ is missing"), "24 takes two bytes; text is UTF-8."),
    (m.Packet(bytes.fromhex("8282000782034109")), "A ping and something else in one packet."),
    (m.Push(2**64 - 1, 0, 2**32, [_WHOLE_BATCH, _PART_OF_BATCH], [_SIGNED]), "A whole batch and a part of one."),
    (m.Sync(255, 2**63, 65535, bytes(range(16))), "The epoch uses all 64 bits."),
    (m.SyncState(256, 0, 65536, b"\xff" * 16), "Answers with the same fields."),
    (m.IdsGet(65535, 1, 2**32 - 1, 1000), "At most 1,000 ids behind position 4,294,967,295."),
    (m.Ids(65536, 1, _HASHES, 2**32, False), "Two ids; there are more."),
    (m.EntriesGet(2**32 - 1, _HASHES), "Two entries, by id."),
    (m.Entries(2**32, 2, [_PART_OF_BATCH], []), "Answers the first two ids asked; one of them is gone."),
    (m.ChunksGet(2**63 - 1, []), "An empty list, and the largest id."),
    (m.Chunks(5, [b"", None, b"c" * 256]), "An empty chunk, one that is not here, one with a length of two bytes."),
    (m.Note(7, _NOW, 1, "wetter/zürich", b"-3", _NOW), "A topic outside ASCII; the body is bytes."),
    (m.Request(8, _NOW, 2, "a" * 255, b""), "The longest topic; an empty body."),
    (m.Response(8, b"\x00" * 23), "A body of 23 bytes."),
    (m.Broadcast(3, "", b"\x00" * 24, 0), "An empty topic, a body of 24 bytes, time 0."),
    (m.Ping(9, _NOW), "With the sender's clock."),
    (m.Pong(9, _NOW + 1), "With the answering clock."),
    (m.Command(1, "nodes", {"state": "alive", "limit": None}), "Only on the control socket. Keys: shorter first."),
    (m.Result(1, [1.5, -1, True, {"b": b"", "aa": 100000.0}]), "Only on the control socket. Floats: shortest form."),
    (m.Item(2, "line"), "Only on the control socket."),
    (m.Failure(3, "QuorumError", "1 of 2", {"acked": 1, "needed": 2}), "Only on the control socket."),
]


def name_of(message: object) -> str:
    """The rule's name in wire.cddl: IdsGet is `ids-get`."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in type(message).__name__).lstrip("-")


def to_json(value: Any) -> Any:
    """A field's value as JSON can say it."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [to_json(part) for part in value]
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    return value


def render(message: m.AnyMessage | m.LocalMessage, meaning: str) -> str:
    """The text of one vector's file."""
    fields = {field.name: to_json(getattr(message, field.name)) for field in attrs.fields(type(message))}
    vector = {
        "name": name_of(message),
        "meaning": meaning,
        "hex": m.encode_message(message).hex(),
        "fields": fields,
    }
    return json.dumps(vector, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(exist_ok=True)
    for message, meaning in SAMPLES:
        (FOLDER / f"{name_of(message)}.json").write_text(render(message, meaning), encoding="utf-8")


if __name__ == "__main__":
    main()
