"""Entries, batches, blobs and fingerprints: what readers take, and what they blame."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from bms.data import blob, fingerprint
from bms.data.batch import (
    SIZE_MAX,
    Frontier,
    audit_path,
    check_signature_untrusted,
    parse_head_untrusted,
    path_root_untrusted,
    sign_head,
    tree_levels,
    tree_root,
)  # fmt: skip
from bms.data.entry import Entry, make_entry, parse_entry_untrusted, slot
from bms.errors import RemoteProtocolError
from bms.security.keys import NodeKey
from bms.wire.codec import decode_body_untrusted, encode_fields

MESH = bytes(range(32))
KEY = NodeKey.from_seed(bytes(32))
IDS = [bytes([i]) * 32 for i in range(SIZE_MAX)]


def entry(value: bytes | blob.BlobReference | None = b"value", **changes: Any) -> Entry:
    fields: dict[str, Any] = {"hlc": 1 << 20, "author": KEY.node_id.raw, "epoch": 2**64 - 1, "counter": 1}
    return make_entry(MESH, b"key", value, **{**fields, **changes})


@pytest.mark.parametrize(
    "made",
    [entry(), entry(b""), entry(None), entry(expiry=5), entry(blob.BlobReference(4097, bytes(32))), entry(b"x" * 4096)],
    ids=["value", "empty", "tombstone", "expires", "blob", "longest"],
)
def test_an_entry_reads_back_as_it_was_made(made: Entry) -> None:
    assert parse_entry_untrusted(made.body) == made


def field(place: int, value: Any) -> Callable[[list[Any]], None]:
    def change(fields: list[Any]) -> None:
        fields[place] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        field(1, b"short"), field(2, b""), field(2, b"k" * 1025), field(2, "text"), field(4, -1), field(4, True),
        field(4, 1),
        field(4, 3), field(4, 5), field(5, b"x" * 4097), field(5, None), field(5, "text"), field(6, -1), field(6, 1.0),
        field(7, b""), field(9, 0), field(9, 2**63), field(10, 5), field(11, {}), field(12, []), field(12, None),
        lambda fields: fields.append(1), lambda fields: fields.pop(), lambda fields: fields.clear(),
    ],
)  # fmt: skip
def test_an_entry_that_no_node_would_write_is_the_senders_fault(change: Callable[[list[Any]], None]) -> None:
    fields = decode_body_untrusted(entry().body)
    change(fields)
    with pytest.raises(RemoteProtocolError):
        parse_entry_untrusted(encode_fields(fields))


@pytest.mark.parametrize("change", [field(0, 2), field(3, 1), field(4, 8), field(11, [[]])])
def test_an_entry_of_a_newer_version_is_left_out_without_blame(change: Callable[[list[Any]], None]) -> None:
    fields = decode_body_untrusted(entry().body)
    change(fields)
    assert parse_entry_untrusted(encode_fields(fields)) is None


@pytest.mark.parametrize(
    "field_", [[0, 4096, bytes(32)], [0, 5000, b""], [0, "5", bytes(32)], [0, 5000], [0, 2**63, bytes(32)]]
)
def test_a_blob_reference_out_of_range_is_the_senders_fault(field_: list[Any]) -> None:
    fields = decode_body_untrusted(entry(blob.BlobReference(5000, bytes(32))).body)
    fields[5] = field_
    with pytest.raises(RemoteProtocolError):
        parse_entry_untrusted(encode_fields(fields))


def test_a_blob_layout_of_a_newer_version_is_left_out_without_blame() -> None:
    fields = decode_body_untrusted(entry(blob.BlobReference(5000, bytes(32))).body)
    fields[5] = [1, 5000, bytes(32)]
    assert parse_entry_untrusted(encode_fields(fields)) is None


def test_another_encoding_of_an_entry_is_refused() -> None:
    body = entry(hlc=5).body
    place = body.index(KEY.node_id.raw) - 3  # the hlc's single byte, before the author's head
    assert body[place] == 5
    with pytest.raises(RemoteProtocolError):
        parse_entry_untrusted(body[:place] + b"\x18\x05" + body[place + 1 :])


def test_an_oversized_entry_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(RemoteProtocolError, match="16384"):
        parse_entry_untrusted(bytes(16 * 1024 + 1))


def test_slots_are_spread_over_all_1024() -> None:
    slots = {slot(MESH, b"%d" % i) for i in range(20_000)}
    assert slots == set(range(1024))


# --- batches


def test_trees_split_at_the_largest_power_of_two_below_their_size() -> None:
    """RFC 6962 §2.1 defines the tree top down; it is built bottom up."""
    from blake3 import blake3

    def by_definition(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return blake3(b"\x00" + leaves[0]).digest()
        k = 1 << (len(leaves) - 1).bit_length() - 1
        return blake3(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()

    for size in range(1, SIZE_MAX + 1):
        assert tree_root(IDS[:size]) == by_definition(IDS[:size])


def test_every_leaf_of_every_size_has_a_path_to_the_root_and_to_no_other() -> None:
    for size in range(1, SIZE_MAX + 1):
        levels = tree_levels(IDS[:size])
        for index in range(size):
            path = audit_path(levels, index)
            assert path_root_untrusted(IDS[index], index, size, path) == levels[-1][0]
            assert path_root_untrusted(b"x" * 32, index, size, path) != levels[-1][0]
            with pytest.raises(RemoteProtocolError, match="long"):
                path_root_untrusted(IDS[index], index, size, [*path, bytes(32)])
            if path:
                with pytest.raises(RemoteProtocolError, match="short"):
                    path_root_untrusted(IDS[index], index, size, path[:-1])


def test_the_frontier_has_the_root_of_the_whole_history() -> None:
    from blake3 import blake3

    bodies = [b"head %d" % i for i in range(100)]
    frontier = Frontier()
    assert frontier.root == bytes(32)
    for count, body in enumerate(bodies, 1):
        frontier = frontier.add(body)
        assert frontier.count == count
        assert frontier.root == tree_root([blake3(b).digest() for b in bodies[:count]])
        assert len(frontier.roots) == count.bit_count()


def head(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "mesh_id": MESH,
        "serial": 7,
        "epoch": 2**64 - 1,
        "frontier": Frontier(),
        "ids": IDS[:3],
        "first": 1,
    }
    return sign_head(KEY, **{**fields, **changes})


def test_a_head_reads_back_and_its_signature_holds() -> None:
    made = head(frontier=Frontier().add(b"x"))
    read = parse_head_untrusted(made.signed, MESH)
    assert read == made
    assert read is not None
    assert (read.number, read.size, read.first) == (2, 3, 1)
    check_signature_untrusted(read)


def test_a_head_signed_by_another_key_is_refused() -> None:
    made = head()
    fields = decode_body_untrusted(made.body)
    fields[2] = bytes(31) + b"\x01"
    forged = parse_head_untrusted([encode_fields(fields), made.signature], MESH)
    assert forged is not None
    with pytest.raises(RemoteProtocolError, match="signed"):
        check_signature_untrusted(forged)


@pytest.mark.parametrize(
    "change",
    [
        field(1, bytes(32)), field(2, b""), field(3, -1), field(3, 2**63), field(5, 0), field(6, None), field(8, 0),
        field(8, 65),
        field(8, True), field(9, 0), field(10, 0), lambda fields: fields.append(0), lambda fields: fields.clear(),
    ],
)  # fmt: skip
def test_a_head_out_of_range_is_the_senders_fault(change: Callable[[list[Any]], None]) -> None:
    fields = decode_body_untrusted(head().body)
    change(fields)
    with pytest.raises(RemoteProtocolError):
        parse_head_untrusted([encode_fields(fields), bytes(64)], MESH)


def test_a_head_of_a_newer_version_is_left_out_without_blame() -> None:
    fields = decode_body_untrusted(head().body)
    assert parse_head_untrusted([encode_fields([2, *fields[1:]]), bytes(64)], MESH) is None


# --- blobs


@pytest.mark.parametrize("size", [4097, 262_143, 262_144, 262_145, 3 * 262_144, 3 * 262_144 + 1])
def test_a_blob_comes_back_from_its_pieces(size: int) -> None:
    value = bytes(i * 7 % 251 for i in range(997)) * (size // 997 + 1)
    value = value[:size]
    reference, pieces = blob.split(value)
    held = {piece.hash: piece for piece in pieces}
    for piece in pieces:
        assert blob.kind_of_untrusted(piece.hash, piece.data) == piece.kind
    walk = blob.walk_untrusted(
        reference, lambda h: held[h].data if h in held else None, lambda h: len(held[h].data) if h in held else None
    )
    assert not walk.missing
    assert b"".join(held[hash_].data for hash_ in walk.chunks) == value
    assert reference.size == size


def test_the_shape_follows_from_the_size() -> None:
    assert blob.shape(4097) == [1]
    assert blob.shape(262_145) == [2, 1]
    assert blob.shape(1024 * 262_144) == [1024, 1]
    assert blob.shape(1024 * 262_144 + 1) == [1025, 2, 1]


def test_a_tree_of_three_levels_is_walked_and_what_is_missing_is_told_manifests_first() -> None:
    """1,025 equal chunks: one chunk, two nodes below the root."""
    chunk = bytes(262_144)
    value = chunk * 1025
    reference, pieces = blob.split(value)
    assert [piece.kind for piece in pieces] == [blob.CHUNK, blob.MANIFEST, blob.MANIFEST, blob.MANIFEST]
    held = {piece.hash: piece.data for piece in pieces}
    walk = blob.walk_untrusted(reference, held.get, lambda h: len(held[h]))
    assert (len(walk.manifests), len(walk.chunks), walk.missing) == (3, 1025, [])
    assert blob.walk_untrusted(reference, lambda h: None, lambda h: None).missing == [reference.root]
    del held[pieces[2].hash]
    partly = blob.walk_untrusted(reference, held.get, lambda h: None)
    assert partly.missing[0] == pieces[2].hash
    assert len(partly.missing) == 1 + 1024


def test_a_reference_that_does_not_fit_its_tree_is_found_out() -> None:
    reference, pieces = blob.split(bytes(300_000))
    held = {piece.hash: piece.data for piece in pieces}
    for size in (299_999, 300_001, 262_144, 600_000):
        wrong = blob.BlobReference(size, reference.root)
        with pytest.raises(RemoteProtocolError):
            blob.walk_untrusted(wrong, held.get, lambda h: len(held[h]))


def test_a_chunk_that_is_not_what_its_hash_says_is_the_senders_fault() -> None:
    with pytest.raises(RemoteProtocolError):
        blob.kind_of_untrusted(blob.chunk_hash(b"a"), b"b")
    with pytest.raises(RemoteProtocolError):
        blob.kind_of_untrusted(blob.chunk_hash(b""), b"")


# --- fingerprints


def test_lanes_are_added_and_subtracted_each_by_itself() -> None:
    def lanes(total: int) -> tuple[int, ...]:
        return struct.unpack("<1024H", fingerprint.sum_to_bytes(total))

    left = right = fingerprint.EMPTY
    for id_ in IDS:
        left, right = (
            fingerprint.add(left, fingerprint.expand(id_)),
            fingerprint.subtract(right, fingerprint.expand(id_)),
        )
    assert lanes(left) == tuple(-lane % 65536 for lane in lanes(right))
    assert lanes(fingerprint.add(left, right)) == (0,) * 1024
    assert lanes(left) == tuple(
        sum(column) % 65536 for column in zip(*(lanes(fingerprint.expand(i)) for i in IDS), strict=True)
    )


def test_the_order_does_not_matter_and_an_id_leaves_by_subtraction() -> None:
    forwards = backwards = fingerprint.EMPTY
    for id_ in IDS:
        forwards = fingerprint.add(forwards, fingerprint.expand(id_))
    for id_ in reversed(IDS):
        backwards = fingerprint.add(backwards, fingerprint.expand(id_))
    assert fingerprint.digest(forwards) == fingerprint.digest(backwards)
    for id_ in IDS:
        forwards = fingerprint.subtract(forwards, fingerprint.expand(id_))
    assert forwards == fingerprint.EMPTY
    assert fingerprint.sum_from_bytes(fingerprint.sum_to_bytes(backwards)) == backwards
