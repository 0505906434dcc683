"""Security, over all inputs: parsers blame only the peer, nothing altered is believed, what is signed comes back."""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
import pytest
from blake3 import blake3
from hypothesis import assume, given
from hypothesis import strategies as st

from bms.errors import RemoteProtocolError
from bms.security import pem
from bms.security.authority import Authority
from bms.security.bundle import Bundle
from bms.security.certificates import check_leaf_untrusted, first_der, spki_sha256
from bms.security.keys import BoxKey, NodeKey
from bms.security.records import Admission, NodeRecord
from bms.security.trust import Trust

NOW = 1_790_000_000.0
NOW_MS = 1_790_000_000_000
ISSUER, ALICE = NodeKey.from_seed(b"i" * 32), NodeKey.from_seed(b"a" * 32)
MESH = b"m" * 32

_count = iter(range(1_000_000))
AUTHORITY = Authority.create(
    token_bytes=lambda size: hashlib.shake_256(f"property {next(_count)}".encode()).digest(size), now=NOW
)
LEAF = first_der(AUTHORITY.issue_identity(ALICE, BoxKey(b"b" * 32), now=NOW).cert_pem)
ADMISSION = AUTHORITY.issue_admission(ALICE.node_id, now_ms=NOW_MS)

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=12,
)
label = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=60)
uint = st.integers(0, 2**63 - 1)
scope = st.sampled_from(["*", "sp*", "topic:*"]) | st.builds(
    lambda kind, name, star: kind + name.replace("*", "") + star,
    st.sampled_from(["space:", "topic:"]),
    label,
    st.sampled_from(["", "*"]),
)
grants = st.lists(st.tuples(scope, uint), max_size=8)
host = st.text(st.sampled_from("abc.:0123-"), min_size=1, max_size=40)
addresses = st.lists(st.tuples(st.sampled_from([0, 1]), host, st.integers(0, 65_535)), max_size=32)


def a_record(**changed: Any) -> NodeRecord:
    wanted: dict[str, Any] = {
        "mesh_id": AUTHORITY.mesh_id,
        "boot": NOW_MS,
        "boot_id": bytes(16),
        "incarnation": 0,
        "name": "alice",
        "addresses": [(0, "192.0.2.1", 1)],
        "box_keys": [bytes(32)],
        "versions": (1, 1),
        "time": NOW_MS,
    }
    return NodeRecord.sign(ALICE, **wanted | changed)


RECORD = a_record()


# --- only the peer's error


@given(plain | st.tuples(st.binary(), st.binary()), plain)
def test_any_item_in_place_of_a_signed_object_raises_only_the_peers_error(item: Any, details: Any) -> None:
    trust = Trust(AUTHORITY.bundle)
    for parse in (
        lambda: Admission.parse_untrusted(item),
        lambda: NodeRecord.parse_untrusted(item, details),
        lambda: Bundle.parse_untrusted(item),
        lambda: AUTHORITY.bundle.follow_untrusted(item),
        lambda: trust.check_admission_untrusted(item),
        lambda: trust.check_card_untrusted(item),
        lambda: trust.check_card_untrusted([ADMISSION.signed, item, details]),
        lambda: trust.check_card_untrusted([item, RECORD.signed, RECORD.details]),
    ):
        with pytest.raises(RemoteProtocolError):
            parse()


def _replaced(body: bytes, place: int, value: Any) -> bytes:
    """A body with one field replaced, as its own signer could write it."""
    fields = cbor2.loads(body)
    fields[place % len(fields)] = value
    return cbor2.dumps(fields, canonical=True)


@given(st.integers(0, 20), plain)
def test_any_field_that_the_true_signer_writes_is_taken_as_it_is_or_is_the_peers_error(place: int, value: Any) -> None:
    body = _replaced(ADMISSION.body, place, value)
    issuer = AUTHORITY._issuer_key
    try:
        read = Admission.parse_untrusted([body, issuer.sign("bms-admission-v1", body)])
    except RemoteProtocolError:
        pass
    else:
        assert [type(read.serial), type(read.role)] == [int, str]
        assert all(type(rights) is int for _, rights in read.grants)
        listed = [list(grant) for grant in read.grants]
        assert cbor2.loads(body)[1:7] == [
            read.mesh_id, read.node_id.raw, read.issuer_id, read.serial, read.role, listed,
        ]  # fmt: skip
    body = _replaced(RECORD.body, place, value)
    try:
        NodeRecord.parse_untrusted([body, ALICE.sign("bms-node-v1", body)], RECORD.details)
    except RemoteProtocolError:
        pass


@given(st.integers(0, 20), plain)
def test_any_field_of_the_details_is_taken_as_it_is_or_is_the_peers_error(place: int, value: Any) -> None:
    details = _replaced(RECORD.details, place, value)
    body = _replaced(RECORD.body, 7, blake3(details, derive_key_context="bms details v1").digest())
    try:
        read = NodeRecord.parse_untrusted([body, ALICE.sign("bms-node-v1", body)], details)
    except RemoteProtocolError:
        return
    assert read.details == details
    assert len(read.name.encode()) <= 255
    assert sum(len(key.encode()) + len(text.encode()) for key, text in read.tags.items()) <= 2048


@given(st.binary(max_size=200))
def test_any_bytes_in_place_of_a_certificate_raise_only_the_peers_error(data: bytes) -> None:
    for parse in (lambda: check_leaf_untrusted(data, MESH), lambda: spki_sha256(data)):
        with pytest.raises(RemoteProtocolError) as caught:
            parse()
        assert caught.value.code == 2


# --- nothing altered is believed


def _altered(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


@given(st.integers(0, 10_000))
def test_no_bit_of_a_certificate_can_be_changed(bit: int) -> None:
    with pytest.raises(RemoteProtocolError):
        Trust(AUTHORITY.bundle).check_leaf_untrusted(_altered(LEAF, bit))


@given(st.integers(0, 30_000), st.booleans())
def test_no_bit_of_a_bundle_can_be_changed(bit: int, in_body: bool) -> None:
    body, signature = AUTHORITY.bundle.signed
    signed = [_altered(body, bit), signature] if in_body else [body, _altered(signature, bit)]
    with pytest.raises(RemoteProtocolError):
        Bundle.verify_untrusted(signed, AUTHORITY.mesh_id)


@given(st.integers(0, 30_000), st.integers(0, 4))
def test_no_bit_of_a_card_can_be_changed(bit: int, part: int) -> None:
    parts = [*ADMISSION.signed, *RECORD.signed, RECORD.details]
    trust = Trust(AUTHORITY.bundle)
    assert trust.check_card_untrusted([parts[:2], parts[2:4], parts[4]]) == (ADMISSION, RECORD)
    parts[part] = _altered(parts[part], bit)
    with pytest.raises(RemoteProtocolError):
        trust.check_card_untrusted([parts[:2], parts[2:4], parts[4]])


# --- what is signed comes back


@given(uint, label, grants)
def test_an_admission_comes_back_as_it_was_signed(serial: int, role: str, given_grants: list[tuple[str, int]]) -> None:
    made = Admission.sign(ISSUER, mesh_id=MESH, node_id=ALICE.node_id, serial=serial, role=role, grants=given_grants)
    read = Admission.parse_untrusted(made.signed)
    assert read == made
    assert (read.serial, read.role, read.grants) == (serial, role, tuple(given_grants))


@given(
    boot=uint,
    incarnation=st.integers(0, 2**48),
    state=st.sampled_from([0, 1]),
    time=uint,
    name=label,
    addresses=addresses,
    tags=st.dictionaries(label, label, max_size=4),
    box_keys=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=2),
)
def test_a_record_comes_back_as_it_was_signed(**fields: Any) -> None:
    made = a_record(**fields)
    read = NodeRecord.parse_untrusted(made.signed, made.details)
    assert read == made
    for name, value in fields.items():
        assert getattr(read, name) == (tuple(value) if isinstance(value, list) else value)


@given(st.lists(st.tuples(uint, st.integers(0, 2**48), st.sampled_from([0, 1]), uint), min_size=2, max_size=5))
def test_the_order_of_records_is_total_and_follows_boot_incarnation_and_left(
    listed: list[tuple[int, int, int, int]],
) -> None:
    records = [a_record(boot=b, incarnation=i, state=s, time=t) for b, i, s, t in listed]
    newest = max(records, key=lambda record: record.order)
    assert (newest.boot, newest.incarnation, newest.state) == max(entry[:3] for entry in listed)
    for one in records:
        for two in records:
            assert (one.order == two.order) == (one.body == two.body)


# --- grants


@given(grants, grants, label, st.integers(1, 31))
def test_a_further_grant_takes_nothing_away_and_no_grant_gives_nothing(
    some: list[tuple[str, int]], more: list[tuple[str, int]], name: str, right: int
) -> None:
    trust = Trust(AUTHORITY.bundle)

    def allows(given_grants: list[tuple[str, int]]) -> bool:
        admission = Admission.sign(ISSUER, mesh_id=MESH, node_id=ALICE.node_id, serial=1, grants=given_grants)
        return trust.allows(admission, f"space:{name}", right)

    assume(len(some) + len(more) <= 16)
    assert not allows([])
    assert allows([("*", right)])
    assert allows([*some, *more]) >= max(allows(some), allows(more))


# --- PEM


@given(st.lists(st.tuples(st.sampled_from(["A", "BMS ADMISSION", "PRIVATE KEY"]), st.binary(max_size=200)), max_size=4))
def test_pem_blocks_come_back(blocks: list[tuple[str, bytes]]) -> None:
    assert pem.load(b"".join(pem.dump(*block) for block in blocks)) == blocks


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_text_is_read_as_pem_or_is_a_value_error(noise: bytes, at: int) -> None:
    whole = pem.dump("A", b"content" * 9)
    for text in (noise, whole[:at] + noise + whole[at:]):
        try:
            pem.load(text)
        except ValueError:
            pass
