"""Admissions and node records: their bounds, one by one, and that nobody can speak for another."""

from __future__ import annotations

import itertools
from typing import Any

import cbor2
import pytest
from blake3 import blake3

from bms.errors import LocalProtocolError, RemoteProtocolError
from bms.security.keys import NodeKey
from bms.security.records import LEFT, MEMBER_GRANTS, Admission, NodeRecord
from bms.values import NodeId

ISSUER, ALICE, MALLORY = (NodeKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
MESH = b"m" * 32
SERIAL = 1_790_000_000_000


def admission_body(**changed: Any) -> list[Any]:
    fields = {
        "format": 1,
        "mesh_id": MESH,
        "node_id": ALICE.node_id.raw,
        "issuer_id": ISSUER.node_id.raw,
        "serial": SERIAL,
        "role": "member",
        "grants": [["*", 15]],
        "extra": {},
    }
    assert set(changed) <= set(fields)
    return list((fields | changed).values())


def details_of(**changed: Any) -> list[Any]:
    fields = {
        "format": 1,
        "name": "alice",
        "addresses": [[0, "192.0.2.1", 7800]],
        "tags": {"role": "camera"},
        "box_keys": [b"b" * 32],
        "versions": [1, 1],
        "extra": {},
    }
    assert set(changed) <= set(fields)
    return list((fields | changed).values())


def record_body(details: bytes, **changed: Any) -> list[Any]:
    fields = {
        "format": 1,
        "mesh_id": MESH,
        "node_id": ALICE.node_id.raw,
        "boot": SERIAL,
        "boot_id": b"i" * 16,
        "incarnation": 0,
        "state": 0,
        "details_hash": blake3(details, derive_key_context="bms details v1").digest(),
        "time": SERIAL,
        "extra": {},
    }
    assert set(changed) <= set(fields)
    return list((fields | changed).values())


def sign(key: NodeKey, domain: str, body: Any) -> list[bytes]:
    encoded = body if isinstance(body, bytes) else cbor2.dumps(body, canonical=True)
    return [encoded, key.sign(domain, encoded)]


def parse_admission(key: NodeKey = ISSUER, domain: str = "bms-admission-v1", **changed: Any) -> Admission:
    return Admission.parse_untrusted(sign(key, domain, admission_body(**changed)))


def parse_record(key: NodeKey = ALICE, domain: str = "bms-node-v1", **changed: Any) -> NodeRecord:
    details = cbor2.dumps(details_of(), canonical=True)
    return NodeRecord.parse_untrusted(sign(key, domain, record_body(details, **changed)), details)


def parse_details(**changed: Any) -> NodeRecord:
    details = cbor2.dumps(details_of(**changed), canonical=True)
    return NodeRecord.parse_untrusted(sign(ALICE, "bms-node-v1", record_body(details)), details)


# --- admissions


def test_an_admission_says_what_it_was_given() -> None:
    grants = [("space:maps", 3), ("topic:log*", 1)]
    made = Admission.sign(ISSUER, mesh_id=MESH, node_id=ALICE.node_id, serial=SERIAL, role="sensor", grants=grants)
    read = Admission.parse_untrusted(made.signed)
    assert read == made
    assert (read.mesh_id, read.node_id, read.issuer_id) == (MESH, ALICE.node_id, ISSUER.node_id.raw)
    assert (read.serial, read.role, read.grants) == (SERIAL, "sensor", tuple(grants))
    assert cbor2.loads(read.body) == admission_body(role="sensor", grants=[list(grant) for grant in grants])


def test_an_ordinary_member_may_do_everything_but_administer() -> None:
    made = Admission.sign(ISSUER, mesh_id=MESH, node_id=ALICE.node_id, serial=SERIAL)
    assert (made.role, made.grants) == ("member", (("*", 15),))
    assert made.grants == MEMBER_GRANTS


def test_an_admission_signed_by_another_than_it_names_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="not its issuer's") as caught:
        parse_admission(MALLORY)
    assert caught.value.code == 2


def test_an_admission_signed_in_another_domain_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="not its issuer's"):
        parse_admission(domain="bms-node-v1")


def test_an_altered_admission_is_refused() -> None:
    _, signature = sign(ISSUER, "bms-admission-v1", admission_body())
    altered = cbor2.dumps(admission_body(grants=[["*", 31]]), canonical=True)
    with pytest.raises(RemoteProtocolError, match="not its issuer's"):
        Admission.parse_untrusted([altered, signature])


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("a longer number", b"\x88\x18\x01" + cbor2.dumps(admission_body(), canonical=True)[2:]),
        ("an indefinite array", b"\x9f" + cbor2.dumps(admission_body(), canonical=True)[1:] + b"\xff"),
        ("a trailing byte", cbor2.dumps(admission_body(), canonical=True) + b"\x00"),
        ("a map", cbor2.dumps({"a": 1})),
        ("nothing", b""),
    ],
)
def test_an_admission_in_another_encoding_is_refused_although_it_is_signed(what: str, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Admission.parse_untrusted(sign(ISSUER, "bms-admission-v1", body))


WRONG_ADMISSIONS: list[tuple[str, object]] = [
    ("format", 0),
    ("format", 2),
    ("format", True),
    ("format", 1.0),
    ("mesh_id", bytes(31)),
    ("mesh_id", "m" * 32),
    ("node_id", bytes(33)),
    ("issuer_id", b""),
    ("serial", True),
    ("serial", -1),
    ("serial", 2**63),
    ("serial", 1.0),
    ("serial", None),
    ("role", b"member"),
    ("role", "r" * 256),
    ("role", "é" * 128),
    ("grants", None),
    ("grants", {}),
    ("grants", [["*", 1]] * 65),
    ("grants", [["*"]]),
    ("grants", [["*", 1, 1]]),
    ("grants", ["*"]),
    ("grants", [["*", True]]),
    ("grants", [["*", -1]]),
    ("grants", [[b"*", 1]]),
    ("grants", [["space:" + "s" * 295, 1]]),
    ("grants", [["", 1]]),
    ("grants", [["spac", 1]]),
    ("grants", [["file:x", 1]]),
    ("grants", [["file:*", 1]]),
    ("grants", [["**", 1]]),
    ("grants", [["space:a*b", 1]]),
    ("grants", [["space:*a*", 1]]),
    ("grants", [["space:a\n", 1]]),
    ("extra", []),
    ("extra", {0: 1}),
    ("extra", {63: None}),
    ("extra", {"x": 1}),
    ("extra", {-1: 1}),
]


@pytest.mark.parametrize(("field", "value"), WRONG_ADMISSIONS)
def test_a_field_of_an_admission_out_of_bounds_is_refused(field: str, value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_admission(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("serial", 2**63 - 1),
        ("role", "é" * 127),
        ("role", ""),
        ("grants", []),
        ("grants", [["*", 0]] * 64),
        ("grants", [["space:" + "s" * 294, 15]]),
        ("grants", [["sp*", 1], ["topic:", 1], ["space:*", 1], ["topic:a", 1]]),
        ("extra", {64: "later", 2**64 - 1: {}}),
    ],
)
def test_a_field_of_an_admission_at_its_bound_is_taken(field: str, value: Any) -> None:
    assert parse_admission(**{field: value}).signed


def test_rights_that_are_not_known_yet_are_taken_and_ignored() -> None:
    assert parse_admission(grants=[["*", 2**40 + 1]]).grants == (("*", 2**40 + 1),)


def test_an_admission_above_4_kib_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="4096"):
        parse_admission(extra={64: bytes(4096)})


@pytest.mark.parametrize("count", [7, 9])
def test_an_admission_with_a_field_less_or_more_is_refused(count: int) -> None:
    body = [*admission_body(), 0][:count]
    with pytest.raises(RemoteProtocolError):
        Admission.parse_untrusted(sign(ISSUER, "bms-admission-v1", body))


@pytest.mark.parametrize(
    "changed", [{"serial": -1}, {"serial": True}, {"grants": [("nowhere", 1)]}, {"role": "\ud800"}]
)
def test_one_signs_no_admission_that_readers_would_refuse(changed: dict[str, Any]) -> None:
    wanted: dict[str, Any] = {"mesh_id": MESH, "node_id": ALICE.node_id, "serial": SERIAL}
    with pytest.raises(LocalProtocolError):
        Admission.sign(ISSUER, **wanted | changed)


# --- node records


def test_a_record_says_what_it_was_given() -> None:
    made = NodeRecord.sign(
        ALICE,
        mesh_id=MESH,
        boot=7,
        boot_id=b"i" * 16,
        incarnation=2,
        name="Älice",
        addresses=[(0, "::1", 1), (1, "host.example", 65_535)],
        box_keys=[b"n" * 32, b"o" * 32],
        versions=(1, 3),
        time=9,
        state=LEFT,
        tags={"zone": "b"},
    )
    read = NodeRecord.parse_untrusted(made.signed, made.details)
    assert read == made
    assert (read.node_id, read.boot, read.boot_id, read.incarnation) == (ALICE.node_id, 7, b"i" * 16, 2)
    assert (read.state, read.name, read.tags, read.time) == (1, "Älice", {"zone": "b"}, 9)
    assert read.addresses == ((0, "::1", 1), (1, "host.example", 65_535))
    assert (read.box_keys, read.versions) == ((b"n" * 32, b"o" * 32), (1, 3))


def test_a_record_fits_into_a_datagram_many_times() -> None:
    made = parse_details(name="n" * 255, tags={"t": "x" * 2000})
    assert len(made.body) + len(made.signature) <= 250


def test_a_record_signed_by_another_node_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="not its node's") as caught:
        parse_record(MALLORY)
    assert caught.value.code == 2


def test_nobody_raises_another_nodes_incarnation() -> None:
    details = cbor2.dumps(details_of(), canonical=True)
    _, signature = sign(ALICE, "bms-node-v1", record_body(details))
    raised = cbor2.dumps(record_body(details, incarnation=1), canonical=True)
    with pytest.raises(RemoteProtocolError, match="not its node's"):
        NodeRecord.parse_untrusted([raised, signature], details)


def test_a_record_signed_in_another_domain_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="not its node's"):
        parse_record(domain="bms-admission-v1")


def test_details_of_another_record_are_refused() -> None:
    details, other = (cbor2.dumps(details_of(name=name), canonical=True) for name in ("alice", "mallory"))
    with pytest.raises(RemoteProtocolError, match="not its details"):
        NodeRecord.parse_untrusted(sign(ALICE, "bms-node-v1", record_body(details)), other)


def test_details_in_another_encoding_are_refused_although_the_record_names_their_hash() -> None:
    details = cbor2.dumps(details_of(), canonical=True)
    longer = details[:1] + b"\x18\x01" + details[2:]
    with pytest.raises(RemoteProtocolError, match="deterministic"):
        NodeRecord.parse_untrusted(sign(ALICE, "bms-node-v1", record_body(longer)), longer)


@pytest.mark.parametrize("details", [None, 1, "text", [], b"", b"x" * 5000])
def test_what_are_no_details_is_refused(details: object) -> None:
    signed = sign(ALICE, "bms-node-v1", record_body(b""))
    with pytest.raises(RemoteProtocolError):
        NodeRecord.parse_untrusted(signed, details)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("format", True),
        ("mesh_id", bytes(31)),
        ("node_id", bytes(31)),
        ("boot", True),
        ("boot", -1),
        ("boot", 2**63),
        ("boot_id", bytes(15)),
        ("boot_id", "i" * 16),
        ("incarnation", True),
        ("incarnation", 2**48 + 1),
        ("incarnation", -1),
        ("state", True),
        ("state", 2),
        ("details_hash", None),
        ("time", 0.5),
        ("time", False),
        ("extra", {1: 1}),
        ("extra", None),
    ],
)
def test_a_field_of_a_record_out_of_bounds_is_refused(field: str, value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_record(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("name", 1),
        ("name", b"alice"),
        ("name", "n" * 256),
        ("name", "é" * 128),
        ("name", "a\x00b"),
        ("name", "a\x1b[31m"),
        ("name", "a\x85"),
        ("addresses", {}),
        ("addresses", [[0, "h", 1]] * 33),
        ("addresses", [[0, "h"]]),
        ("addresses", [[True, "h", 1]]),
        ("addresses", [[0, "h", True]]),
        ("addresses", [[0, "h", 65_536]]),
        ("addresses", [[0, "h", -1]]),
        ("addresses", [[0, "", 1]]),
        ("addresses", [[0, "a b", 1]]),
        ("addresses", [[0, "a\nb", 1]]),
        ("addresses", [[0, b"h", 1]]),
        ("addresses", [[0, "h" * 256, 1]]),
        ("addresses", [[9, "a b", 1]]),
        ("tags", []),
        ("tags", {str(number): "" for number in range(65)}),
        ("tags", {"a": "x" * 2048}),
        ("tags", {"a": "é" * 1024}),
        ("tags", {"a": 1}),
        ("tags", {"a": "x\n"}),
        ("tags", {"a\x7f": "x"}),
        ("tags", {1: "x"}),
        ("box_keys", []),
        ("box_keys", [bytes(32)] * 3),
        ("box_keys", [bytes(31)]),
        ("versions", [1]),
        ("versions", [2, 1]),
        ("versions", [True, 1]),
        ("versions", [1, 2**63]),
        ("extra", {63: 1}),
        ("extra", {64: bytes(4096)}),
    ],
)
def test_a_field_of_the_details_out_of_bounds_is_refused(field: str, value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_details(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "é" * 127),
        ("addresses", []),
        ("addresses", [[0, "h" * 64, 65_535]] * 32),
        ("tags", {}),
        ("tags", {str(number): "" for number in range(64)}),
        ("tags", {"a": "x" * 2047}),
        ("box_keys", [bytes(32)] * 2),
        ("extra", {64: 1}),
    ],
)
def test_a_field_of_the_details_at_its_bound_is_taken(field: str, value: Any) -> None:
    assert parse_details(**{field: value}).details


def test_an_incarnation_may_be_as_large_as_2_to_the_48() -> None:
    assert parse_record(incarnation=2**48).incarnation == 2**48


def test_addresses_of_kinds_that_are_not_known_yet_are_left_out() -> None:
    read = parse_details(addresses=[[7, "later", 1], [1, "h", 2]])
    assert read.addresses == ((1, "h", 2),)


def test_records_are_ordered_by_boot_then_incarnation_then_left_then_hash() -> None:
    rising = [
        parse_record(boot=1, incarnation=9, state=1),
        parse_record(boot=2, incarnation=0),
        parse_record(boot=2, incarnation=1),
        parse_record(boot=2, incarnation=1, state=1),
    ]
    assert all(older.order < newer.order for older, newer in itertools.pairwise(rising))
    one, two = parse_record(time=1), parse_record(time=2)
    assert (one.order > two.order) == (blake3(one.body).digest() > blake3(two.body).digest())
    assert one.order != two.order


def test_one_signs_no_record_that_readers_would_refuse() -> None:
    wanted: dict[str, Any] = {
        "mesh_id": MESH,
        "boot": 1,
        "boot_id": bytes(16),
        "incarnation": 0,
        "name": "n",
        "addresses": [],
        "box_keys": [bytes(32)],
        "versions": (1, 1),
        "time": 1,
    }
    assert NodeRecord.sign(ALICE, **wanted).node_id == ALICE.node_id
    wrong: list[dict[str, Any]] = [{"tags": {"a": "b\n"}}, {"box_keys": []}, {"boot": True}, {"name": "\ud800"}]
    for changed in [*wrong, {"versions": (2, 1)}]:
        with pytest.raises(LocalProtocolError):
            NodeRecord.sign(ALICE, **wanted | changed)


def test_a_node_id_that_no_key_has_verifies_nothing() -> None:
    nobody = NodeId("00" * 32)
    with pytest.raises(RemoteProtocolError):
        parse_record(node_id=nobody.raw)
