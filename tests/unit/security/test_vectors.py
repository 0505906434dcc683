"""The vectors in tests/vectors/security.json: fixed bytes that every implementation reads, or refuses, alike.

    python tests/unit/security/test_vectors.py      writes the file anew; the formats are fixed, so it should not change

Everything comes from the seeds in the file. Ed25519 signatures are deterministic and are made again here; bundle and
certificate are signed with ECDSA, and are read as they stand. `about` in the file explains its fields.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from bms.errors import RemoteProtocolError
from bms.security import keys, pem
from bms.security.authority import Authority
from bms.security.bundle import Bundle
from bms.security.certificates import check_leaf_untrusted, spki_sha256
from bms.security.records import DEAD, SUSPECT, Accusation, Admission, NodeRecord

FILE = Path(__file__).parents[2] / "vectors" / "security.json"
NOW = 1_790_000_000
NODE_SEED, OTHER_SEED, ISSUER_SEED = (bytes([number]) * 32 for number in (0x11, 0x22, 0x33))
ABOUT = (
    "Byte strings are hexadecimal. A signed object is [body, signature]; a record has its details beside it. Objects "
    "in `valid` are taken and mean `fields`; those in `refused` are refused for the reason given, although every "
    "signature that is not itself the reason is right. Ed25519 keys come from the seeds (RFC 8032)."
)


def _hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [_hex(part) for part in value]
    return value


def _fields(item: Any, names: str) -> dict[str, Any]:
    return {name: _hex(getattr(item, name)) for name in names.split()}


def admission_fields(admission: Admission) -> dict[str, Any]:
    return _fields(admission, "mesh_id node_id issuer_id serial role grants")


def record_fields(record: NodeRecord) -> dict[str, Any]:
    names = "mesh_id node_id boot boot_id incarnation state details_hash time name addresses tags box_keys versions"
    return _fields(record, names)


def accusation_fields(accusation: Accusation) -> dict[str, Any]:
    return _fields(accusation, "mesh_id accuser node_id boot incarnation kind")


def bundle_fields(bundle: Bundle) -> dict[str, Any]:
    named = _fields(bundle, "mesh_id number previous issued_at signer")
    named["roots"] = [[_hex(root.key_sha256), int(root.state)] for root in bundle.roots]
    named["issuers"] = [[_hex(issuer.issuer_id), int(issuer.state), issuer.until] for issuer in bundle.issuers]
    return named


def make_admission(mesh_id: bytes, **changed: Any) -> Admission:
    wanted: dict[str, Any] = {"node_id": keys.NodeKey(NODE_SEED).node_id, "serial": NOW * 1000} | changed
    return Admission.sign(keys.NodeKey(ISSUER_SEED), mesh_id=mesh_id, **wanted)


def make_record(mesh_id: bytes, **changed: Any) -> NodeRecord:
    wanted: dict[str, Any] = {
        "boot": NOW * 1000 + 5,
        "boot_id": bytes(range(16)),
        "incarnation": 7,
        "name": "höhe-3",
        "addresses": [(0, "192.0.2.7", 7800), (1, "2001:db8::7", 7800)],
        "box_keys": [bytes(range(32))],
        "versions": (1, 1),
        "time": NOW * 1000 + 6,
        "tags": {"zone": "b", "role": "camera"},
    }
    return NodeRecord.sign(keys.NodeKey(NODE_SEED), mesh_id=mesh_id, **wanted | changed)


def make_accusation(mesh_id: bytes, **changed: Any) -> Accusation:
    wanted: dict[str, Any] = {
        "node_id": keys.NodeKey(OTHER_SEED).node_id, "boot": NOW * 1000 + 5, "incarnation": 7, "kind": SUSPECT,
    }  # fmt: skip
    return Accusation.sign(keys.NodeKey(NODE_SEED), mesh_id=mesh_id, **wanted | changed)


def _again(domain: str, seed: bytes, body: bytes) -> list[str]:
    """A body of any kind, signed."""
    return [body.hex(), keys.NodeKey(seed).sign(domain, body).hex()]


def _refused(mesh_id: bytes, bundle: Bundle) -> list[dict[str, Any]]:
    admission, record = make_admission(mesh_id), make_record(mesh_id)
    fields = cbor2.loads(admission.body)
    longer = admission.body[:1] + b"\x18\x01" + admission.body[2:]
    listed = [
        ("format 1 in two bytes", longer),
        ("a serial that is true", cbor2.dumps([*fields[:4], True, *fields[5:]], canonical=True)),
        ("no extra", cbor2.dumps(fields[:7], canonical=True)),
        ("an extra field below 64", cbor2.dumps([*fields[:7], {63: 0}], canonical=True)),
        ("a grant for neither space nor topic", cbor2.dumps([*fields[:6], [["file:*", 1]], {}], canonical=True)),
    ]
    found: list[dict[str, Any]] = [
        {"kind": "admission", "why": why, "signed": _again("bms-admission-v1", ISSUER_SEED, body)}
        for why, body in listed
    ]
    by_other = _again("bms-admission-v1", OTHER_SEED, admission.body)
    found.append({"kind": "admission", "why": "signed by another key than it names", "signed": by_other})
    in_other = _again("bms-node-v1", ISSUER_SEED, admission.body)
    found.append({"kind": "admission", "why": "signed in another domain", "signed": in_other})
    by_other = _again("bms-node-v1", OTHER_SEED, record.body)
    details = record.details.hex()
    found.append({"kind": "record", "why": "signed by another node", "signed": by_other, "details": details})
    other = make_record(mesh_id, name="other").details.hex()
    found.append({"kind": "record", "why": "other details", "signed": _hex(record.signed), "details": other})
    far = cbor2.dumps([*cbor2.loads(record.body)[:5], 2**48 + 1, *cbor2.loads(record.body)[6:]], canonical=True)
    signed = _again("bms-node-v1", NODE_SEED, far)
    found.append({"kind": "record", "why": "an incarnation above 2^48", "signed": signed, "details": details})
    found += _refused_accusations(make_accusation(mesh_id))
    altered = bundle.body.replace((NOW * 1000).to_bytes(8, "big"), (NOW * 1000 + 1).to_bytes(8, "big"))
    found.append({"kind": "bundle", "why": "altered", "signed": [altered.hex(), bundle.signature.hex()]})
    return found


def _refused_accusations(accusation: Accusation) -> list[dict[str, Any]]:
    fields = cbor2.loads(accusation.body)
    listed = [
        ("of the accuser itself", [*fields[:3], fields[2], *fields[4:]]),
        ("a kind of 4", [*fields[:6], 4, {}]),
        ("an accusation at an incarnation above 2^48", [*fields[:5], 2**48 + 1, *fields[6:]]),
        ("an accusation of 513 bytes", [*fields[:7], {64: bytes(513 - len(accusation.body) - 5)}]),
    ]
    made = [(why, NODE_SEED, cbor2.dumps(changed, canonical=True)) for why, changed in listed]
    made.append(("an accusation signed by another than it names", OTHER_SEED, accusation.body))
    return [
        {"kind": "accusation", "why": why, "signed": _again("bms-accusation-v1", seed, body)}
        for why, seed, body in made
    ]


def render() -> dict[str, Any]:
    """The whole file."""
    count = 0

    def token_bytes(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"bms security vectors {count}".encode()).digest(size)

    authority = Authority.create(token_bytes=token_bytes, now=NOW)
    mesh_id, bundle = authority.mesh_id, authority.bundle
    node_key = keys.NodeKey(NODE_SEED)
    public = keys.make_tls_key(token_bytes).public_key()
    leaf = pem.load(authority.issue_certificate(node_key.node_id, public, now=NOW))[0][1]
    admissions = [
        make_admission(mesh_id),
        make_admission(mesh_id, role="sensor", grants=[("space:map*", 9), ("topic:alarm", 1)]),
        make_admission(mesh_id, grants=[], serial=2**63 - 1),
    ]
    left = make_record(mesh_id, state=1, addresses=[], tags={}, name="", box_keys=[bytes(32), b"\xff" * 32])
    seeds = {"node": NODE_SEED, "other": OTHER_SEED, "issuer": ISSUER_SEED}
    valid: list[dict[str, Any]] = [{"kind": "bundle", "signed": _hex(bundle.signed), "fields": bundle_fields(bundle)}]
    valid += [{"kind": "admission", "signed": _hex(a.signed), "fields": admission_fields(a)} for a in admissions]
    valid += [
        {"kind": "record", "signed": _hex(r.signed), "details": r.details.hex(), "fields": record_fields(r)}
        for r in (make_record(mesh_id), left)
    ]
    accusations = [make_accusation(mesh_id), make_accusation(mesh_id, kind=DEAD, incarnation=2**48)]
    valid += [{"kind": "accusation", "signed": _hex(a.signed), "fields": accusation_fields(a)} for a in accusations]
    named = {"mesh_id": mesh_id.hex(), "node_id": node_key.node_id, "spki_sha256": spki_sha256(leaf).hex()}
    valid.append({"kind": "certificate", "der": leaf.hex(), "fields": named})
    return {
        "about": ABOUT,
        "mesh_id": mesh_id.hex(),
        "seeds": {name: {"seed": seed.hex(), "public": keys.NodeKey(seed).node_id} for name, seed in seeds.items()},
        "valid": valid,
        "refused": _refused(mesh_id, bundle),
    }


# --- the tests

VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {"valid": [], "refused": []}


def read(vector: dict[str, Any]) -> dict[str, Any]:
    """Parse a vector; the fields that it means. Raises RemoteProtocolError."""
    mesh_id = bytes.fromhex(VECTORS["mesh_id"])
    if vector["kind"] == "certificate":
        der = bytes.fromhex(vector["der"])
        node_id = check_leaf_untrusted(der, mesh_id)
        return {"mesh_id": mesh_id.hex(), "node_id": node_id, "spki_sha256": spki_sha256(der).hex()}
    signed = [bytes.fromhex(part) for part in vector["signed"]]
    if vector["kind"] == "admission":
        return admission_fields(Admission.parse_untrusted(signed))
    if vector["kind"] == "record":
        return record_fields(NodeRecord.parse_untrusted(signed, bytes.fromhex(vector["details"])))
    if vector["kind"] == "accusation":
        return accusation_fields(Accusation.parse_untrusted(signed))
    return bundle_fields(Bundle.verify_untrusted(signed, mesh_id))


def test_there_are_vectors_of_every_kind() -> None:
    signed = {"bundle", "admission", "record", "accusation"}
    assert {vector["kind"] for vector in VECTORS["valid"]} == signed | {"certificate"}
    assert {vector["kind"] for vector in VECTORS["refused"]} == signed


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["kind"])
def test_a_valid_vector_means_what_it_says(vector: dict[str, Any]) -> None:
    assert read(vector) == vector["fields"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["why"])
def test_a_refused_vector_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        read(vector)


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["kind"])
def test_another_library_verifies_the_ed25519_signatures(vector: dict[str, Any]) -> None:
    domains = {
        "admission": ("bms-admission-v1", "issuer_id"), "record": ("bms-node-v1", "node_id"),
        "accusation": ("bms-accusation-v1", "accuser"),
    }  # fmt: skip
    if vector["kind"] in domains:
        domain, signer = domains[vector["kind"]]
        body, signature = (bytes.fromhex(part) for part in vector["signed"])
        public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(vector["fields"][signer]))
        public.verify(signature, domain.encode() + b"\x00" + body)


def test_the_seeds_make_the_same_bytes_today() -> None:
    def ed25519_ones(vectors: dict[str, Any]) -> list[Any]:
        both = [*vectors["valid"], *vectors["refused"]]
        return [vector for vector in both if vector["kind"] in ("admission", "record", "accusation")]

    made = json.loads(json.dumps(render()))
    assert made["mesh_id"] == VECTORS["mesh_id"]
    assert made["seeds"] == VECTORS["seeds"]
    assert ed25519_ones(made) == ed25519_ones(VECTORS)


if __name__ == "__main__":
    FILE.write_text(json.dumps(render(), indent=1, ensure_ascii=False) + "\n", "utf-8")
