"""Authority bundles: number 1, the chain that follows it, and those who would slip themselves into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from bms.errors import LocalProtocolError, RemoteProtocolError
from bms.security.authority import Authority
from bms.security.bundle import DOMAIN, Bundle, State
from bms.security.certificates import build_issuer, build_root, key_sha256
from bms.security.keys import NodeKey, make_tls_key

RandomFrom = Callable[[str], Callable[[int], bytes]]
NOW = 1_790_000_000.0
FIELDS = ["format", "mesh_id", "number", "previous", "issued_at", "roots", "issuers", "signer", "extra"]


@attrs.frozen
class Party:
    """A root and one issuer under it, as a mesh has, or as an enemy would make for himself."""

    root_key: ec.EllipticCurvePrivateKey
    root: bytes
    issuer_id: bytes
    issuer: bytes

    @property
    def root_id(self) -> bytes:
        return key_sha256(self.root_key.public_key())

    def body(self, **changed: Any) -> list[Any]:
        """The fields of its bundle 1, with some of them changed."""
        fields = {
            "format": 1,
            "mesh_id": self.root_id,
            "number": 1,
            "previous": bytes(32),
            "issued_at": int(NOW * 1000),
            "roots": [[self.root, 1]],
            "issuers": [[self.issuer_id, self.issuer, 1, None]],
            "signer": self.root_id,
            "extra": {},
        }
        assert set(changed) <= set(fields)
        return list((fields | changed).values())

    def sign(self, body: Any) -> list[bytes]:
        """Sign whatever it is, with the root's key."""
        encoded = body if isinstance(body, bytes) else cbor2.dumps(body, canonical=True)
        signature = self.root_key.sign(DOMAIN.encode() + b"\x00" + encoded, ec.ECDSA(hashes.SHA256()))
        return [encoded, signature]

    def bundle(self, **changed: Any) -> list[bytes]:
        return self.sign(self.body(**changed))


@pytest.fixture
def party_of(random_from: RandomFrom) -> Callable[[str], Party]:
    def make(seed: str) -> Party:
        token_bytes = random_from(seed)
        root_key, issuer_key = make_tls_key(token_bytes), make_tls_key(token_bytes)
        issuer_id = NodeKey.generate(token_bytes).node_id.raw
        root = build_root(root_key, now=NOW, random=token_bytes(20))
        public = issuer_key.public_key()
        issuer = build_issuer(public, issuer_id, root, root_key, now=NOW, random=token_bytes(20))
        return Party(root_key, root, issuer_id, issuer)

    return make


@pytest.fixture
def mesh(party_of: Callable[[str], Party]) -> Party:
    return party_of("mesh")


@pytest.fixture
def enemy(party_of: Callable[[str], Party]) -> Party:
    return party_of("enemy")


def refused(signed: object, mesh_id: bytes, why: str | None, code: int = 2) -> None:
    with pytest.raises(RemoteProtocolError, match=why) as caught:
        Bundle.verify_untrusted(signed, mesh_id)
    assert caught.value.code == code


# --- number 1


def test_a_founded_mesh_has_a_bundle_1_that_whoever_knows_the_mesh_id_believes(authority: Authority) -> None:
    bundle = Bundle.verify_untrusted(authority.bundle.signed, authority.mesh_id)
    assert bundle == authority.bundle
    assert (bundle.number, bundle.previous) == (1, bytes(32))
    assert bundle.signer == bundle.mesh_id == bundle.roots[0].key_sha256
    assert [issuer.state for issuer in bundle.issuers] == [State.ACTIVE]


def test_the_parties_of_these_tests_make_bundles_that_are_taken(mesh: Party) -> None:
    assert Bundle.verify_untrusted(mesh.bundle(), mesh.root_id).issuer(mesh.issuer_id) is not None


def test_a_bundle_of_another_mesh_is_refused(mesh: Party, enemy: Party) -> None:
    refused(enemy.bundle(), mesh.root_id, "another mesh")


def test_another_root_in_first_place_is_refused(mesh: Party, enemy: Party) -> None:
    roots = [[enemy.root, 1], [mesh.root, 1]]
    refused(mesh.bundle(roots=roots), mesh.root_id, "begin with the root that the mesh id names")


def test_an_enemys_bundle_that_claims_the_mesh_id_is_refused(mesh: Party, enemy: Party) -> None:
    issuers = [[enemy.issuer_id, enemy.issuer, 1, None]]
    both = [[mesh.root, 1], [enemy.root, 1]]
    claimed = enemy.bundle(mesh_id=mesh.root_id, roots=both, issuers=issuers)
    refused(claimed, mesh.root_id, "begin with the root that the mesh id names")
    claimed = enemy.bundle(mesh_id=mesh.root_id, roots=both, issuers=issuers, signer=mesh.root_id)
    refused(claimed, mesh.root_id, "signature is wrong")


def test_an_unknown_signer_is_refused(mesh: Party, enemy: Party) -> None:
    refused(mesh.bundle(signer=enemy.root_id, number=2, previous=b"p" * 32), mesh.root_id, "signer is not among")


def test_an_altered_body_is_refused(mesh: Party) -> None:
    body, signature = mesh.bundle()
    other = mesh.bundle(issued_at=int(NOW * 1000) + 1)[0]
    refused([other, signature], mesh.root_id, "signature is wrong")
    refused([body, signature[:-1]], mesh.root_id, "signature is wrong")
    refused([body, b""], mesh.root_id, "signature is wrong")


def test_a_signature_of_another_domain_is_refused(mesh: Party) -> None:
    body = mesh.bundle()[0]
    signature = mesh.root_key.sign(b"bms-other-v1\x00" + body, ec.ECDSA(hashes.SHA256()))
    refused([body, signature], mesh.root_id, "signature is wrong")


def test_a_first_root_that_is_not_active_is_refused(mesh: Party) -> None:
    for state in (0, 2, 3):
        refused(mesh.bundle(roots=[[mesh.root, state]]), mesh.root_id, "not active")


def test_an_issuer_of_no_root_in_the_bundle_is_refused(mesh: Party, enemy: Party) -> None:
    refused(mesh.bundle(issuers=[[enemy.issuer_id, enemy.issuer, 1, None]]), mesh.root_id, "none of its roots")


def test_an_issuer_or_root_that_stands_twice_is_refused(mesh: Party, enemy: Party) -> None:
    twice = [[mesh.issuer_id, mesh.issuer, 1, None], [mesh.issuer_id, mesh.issuer, 3, None]]
    refused(mesh.bundle(issuers=twice), mesh.root_id, "twice")
    twice[1][0] = enemy.issuer_id  # one certificate under two ids
    refused(mesh.bundle(issuers=twice), mesh.root_id, "twice")
    refused(mesh.bundle(roots=[[mesh.root, 1], [mesh.root, 3]]), mesh.root_id, "twice")


def test_a_root_where_an_issuer_should_be_is_refused(mesh: Party) -> None:
    refused(mesh.bundle(issuers=[[mesh.issuer_id, mesh.root, 1, None]]), mesh.root_id, "pathLen is 0")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("format", True),
        ("mesh_id", b"short"),
        ("number", True),
        ("number", -1),
        ("number", 2**63),
        ("previous", bytes(31)),
        ("issued_at", 1.5),
        ("issued_at", None),
        ("roots", []),
        ("roots", {}),
        ("roots", [[b"x"]]),
        ("roots", [[b"x", 1, 1]]),
        ("roots", [["x", 1]]),
        ("issuers", None),
        ("issuers", [[bytes(32), b"x", 1]]),
        ("issuers", [["x", b"x", 1, None]]),
        ("issuers", [[bytes(32), b"x", 0, None]]),
        ("issuers", [[bytes(32), b"x", 4, None]]),
        ("issuers", [[bytes(32), b"x", True, None]]),
        ("signer", "text"),
        ("extra", None),
        ("extra", []),
        ("extra", {63: 0}),
        ("extra", {"a": 0}),
    ],
)
def test_a_field_of_another_shape_is_a_protocol_error(mesh: Party, field: str, value: object) -> None:
    refused(mesh.bundle(**{field: value}), mesh.root_id, None, code=1)


@pytest.mark.parametrize("until", [True, -1, 2**63, "x", b"x"])
def test_until_is_a_number_or_null(mesh: Party, until: object) -> None:
    refused(mesh.bundle(issuers=[[mesh.issuer_id, mesh.issuer, 1, until]]), mesh.root_id, "until", code=1)


def test_extra_fields_from_64_up_are_ignored_and_stay_signed(mesh: Party) -> None:
    signed = mesh.bundle(extra={64: ["later"], 70: {}})
    assert Bundle.verify_untrusted(signed, mesh.root_id).signed == signed


def test_a_missing_and_a_further_field_are_refused(mesh: Party) -> None:
    refused(mesh.sign(mesh.body()[:-1]), mesh.root_id, "fields", code=1)
    refused(mesh.sign([*mesh.body(), 0]), mesh.root_id, "fields", code=1)


def test_another_encoding_of_the_same_body_is_refused(mesh: Party) -> None:
    body = mesh.bundle()[0]
    assert body[1] == 1
    longer = body[:1] + b"\x18\x01" + body[2:]  # the format number in two bytes
    refused(mesh.sign(longer), mesh.root_id, "deterministic", code=1)


@pytest.mark.parametrize("signed", [None, 1, b"", [], [b"x"], [b"x", b"y", b"z"], ["x", "y"], [b"x", None], {}])
def test_what_is_no_signed_object_is_refused(signed: object) -> None:
    refused(signed, bytes(32), "bundle", code=1)


def test_a_bundle_above_64_kib_is_refused(mesh: Party) -> None:
    refused(mesh.bundle(extra={64: bytes(65_536)}), mesh.root_id, "more than 65536", code=1)


def test_number_and_previous_must_agree(mesh: Party) -> None:
    refused(mesh.bundle(number=0), mesh.root_id, "do not agree")
    refused(mesh.bundle(number=2), mesh.root_id, "do not agree")
    refused(mesh.bundle(previous=b"p" * 32), mesh.root_id, "do not agree")


def test_one_builds_only_what_readers_take(mesh: Party) -> None:
    with pytest.raises(LocalProtocolError, match="do not agree"):
        Bundle.sign(
            mesh.root_key,
            mesh_id=mesh.root_id,
            number=0,
            previous=bytes(32),
            issued_at=0,
            roots=[(mesh.root, State.ACTIVE)],
            issuers=[],
        )


# --- the chain


@pytest.fixture
def first(mesh: Party) -> Bundle:
    return Bundle.verify_untrusted(mesh.bundle(), mesh.root_id)


def second_of(first: Bundle, mesh: Party, **changed: Any) -> list[Any]:
    return mesh.body(**({"number": 2, "previous": first.sha256} | changed))


def test_a_second_bundle_follows_the_first(first: Bundle, mesh: Party) -> None:
    signed = mesh.sign(second_of(first, mesh, issuers=[[mesh.issuer_id, mesh.issuer, 3, None]]))
    second = first.follow_untrusted(signed)
    issuer = second.issuer(mesh.issuer_id)
    assert issuer is not None
    assert issuer.state is State.REVOKED
    assert not issuer.counts


def test_a_later_bundle_is_not_taken_in_place_of_the_first(first: Bundle, mesh: Party) -> None:
    refused(mesh.sign(second_of(first, mesh)), mesh.root_id, "does not follow")


@pytest.mark.parametrize("changed", [{"number": 3}, {"previous": b"x" * 32}])
def test_what_skips_a_bundle_or_follows_another_is_refused(first: Bundle, mesh: Party, changed: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match="does not follow"):
        first.follow_untrusted(mesh.sign(second_of(first, mesh, **changed)))


def test_the_same_bundle_does_not_follow_itself(first: Bundle) -> None:
    with pytest.raises(RemoteProtocolError, match="does not follow"):
        first.follow_untrusted(first.signed)


def test_a_second_bundle_by_a_root_that_only_it_names_is_refused(first: Bundle, mesh: Party, enemy: Party) -> None:
    roots = [[mesh.root, 1], [enemy.root, 1]]
    body = second_of(first, mesh, roots=roots, signer=enemy.root_id)
    with pytest.raises(RemoteProtocolError, match="not an active root"):
        first.follow_untrusted(enemy.sign(body))


def test_a_second_bundle_that_names_the_signer_but_is_signed_by_another_is_refused(
    first: Bundle, mesh: Party, enemy: Party
) -> None:
    with pytest.raises(RemoteProtocolError, match="signature is wrong"):
        first.follow_untrusted(enemy.sign(second_of(first, mesh)))


def test_a_second_bundle_of_another_mesh_is_refused(first: Bundle, mesh: Party, enemy: Party) -> None:
    with pytest.raises(RemoteProtocolError, match="another mesh"):
        first.follow_untrusted(mesh.sign(second_of(first, mesh, mesh_id=enemy.root_id)))


def test_the_root_may_change_hands_and_only_active_roots_sign_on(first: Bundle, mesh: Party, enemy: Party) -> None:
    heir = enemy  # nothing but a key of its own makes it an enemy
    roots = [[mesh.root, 2], [heir.root, 1]]
    second = first.follow_untrusted(mesh.sign(second_of(first, mesh, roots=roots)))
    third = {"number": 3, "previous": second.sha256, "roots": roots}
    with pytest.raises(RemoteProtocolError, match="not an active root"):
        second.follow_untrusted(mesh.bundle(**third))
    taken = second.follow_untrusted(heir.sign(mesh.body(**third, signer=heir.root_id)))
    assert taken.number == 3
    assert taken.mesh_id == mesh.root_id


def test_what_was_revoked_does_not_come_back(first: Bundle, mesh: Party, enemy: Party) -> None:
    roots = [[mesh.root, 1], [enemy.root, 3]]
    issuers = [[mesh.issuer_id, mesh.issuer, 3, None]]
    second = first.follow_untrusted(mesh.sign(second_of(first, mesh, roots=roots, issuers=issuers)))
    third = {"number": 3, "previous": second.sha256, "roots": roots, "issuers": issuers}
    assert second.follow_untrusted(mesh.bundle(**third)).number == 3
    for state in (1, 2):
        back = [[mesh.issuer_id, mesh.issuer, state, None]]
        with pytest.raises(RemoteProtocolError, match="revoked issuer"):
            second.follow_untrusted(mesh.bundle(**third | {"issuers": back}))
        with pytest.raises(RemoteProtocolError, match="revoked root"):
            second.follow_untrusted(mesh.bundle(**third | {"roots": [[mesh.root, 1], [enemy.root, state]]}))
