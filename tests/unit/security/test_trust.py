"""Trust: whose word counts in a mesh, and what a member may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bms.errors import RefusedError, RemoteProtocolError
from bms.security.authority import Authority
from bms.security.bundle import Bundle, State
from bms.security.certificates import build_leaf, node_uri
from bms.security.keys import NodeKey, make_tls_key
from bms.security.records import Admission, NodeRecord
from bms.security.trust import ADMIN, DELETE, READ, WATCH, WRITE, Trust

RandomFrom = Callable[[str], Callable[[int], bytes]]
Admit = Callable[[Authority, str], Any]
NOW = 1_790_000_000.0
NOW_MS = 1_790_000_000_000
TEN_YEARS_MS = 315_576_000_000


@pytest.fixture
def other(random_from: RandomFrom) -> Authority:
    """The authority of another mesh."""
    return Authority.create(token_bytes=random_from("other mesh"), now=NOW)


@pytest.fixture
def trust_after(authority: Authority) -> Callable[..., Trust]:
    """Trust in the bundle that follows, with the issuer in another state."""

    def after(state: State, until: int | None = None) -> Trust:
        first = authority.bundle
        root_key = authority._root_key
        assert root_key is not None
        issuers = [(issuer.issuer_id, issuer.certificate_der, state, until) for issuer in first.issuers]
        second = Bundle.sign(
            root_key,
            mesh_id=first.mesh_id,
            number=2,
            previous=first.sha256,
            issued_at=NOW_MS + 1,
            roots=[(root.certificate_der, root.state) for root in first.roots],
            issuers=issuers,
        )
        return Trust(first.follow_untrusted(second.signed))

    return after


def refused(trust: Trust, card: object, why: str | None, code: int = 2) -> None:
    with pytest.raises(RemoteProtocolError, match=why) as caught:
        trust.check_card_untrusted(card)
    assert caught.value.code == code


# --- admissions


def test_an_admission_by_the_issuer_counts(trust: Trust, member: Any) -> None:
    assert trust.check_admission_untrusted(member.admission.signed) == member.admission


def test_an_admission_to_another_mesh_does_not_count(trust: Trust, other: Authority, admit: Admit) -> None:
    with pytest.raises(RemoteProtocolError, match="another mesh") as caught:
        trust.check_admission_untrusted(admit(other, "alice").admission.signed)
    assert caught.value.code == 2


def test_an_admission_by_an_unknown_issuer_does_not_count(trust: Trust, member: Any) -> None:
    mallory = NodeKey.from_seed(b"m" * 32)
    forged = Admission.sign(mallory, mesh_id=trust.bundle.mesh_id, node_id=mallory.node_id, serial=NOW_MS)
    with pytest.raises(RemoteProtocolError, match="does not count"):
        trust.check_admission_untrusted(forged.signed)
    by_member = Admission.sign(member.node_key, mesh_id=trust.bundle.mesh_id, node_id=mallory.node_id, serial=NOW_MS)
    with pytest.raises(RemoteProtocolError, match="does not count"):
        trust.check_admission_untrusted(by_member.signed)


def test_an_altered_admission_is_refused_also_after_the_true_one_is_remembered(trust: Trust, member: Any) -> None:
    body, signature = member.admission.signed
    trust.check_admission_untrusted([body, signature])
    with pytest.raises(RemoteProtocolError):
        trust.check_admission_untrusted([body[:-1] + bytes([body[-1] ^ 1]), signature])
    with pytest.raises(RemoteProtocolError):
        trust.check_admission_untrusted([body, bytes(64)])
    with pytest.raises(RemoteProtocolError):  # the same bytes, divided elsewhere
        trust.check_admission_untrusted([body + signature[:1], signature[1:]])


def test_admissions_by_a_retired_issuer_count_and_by_a_revoked_one_do_not(
    trust_after: Callable[..., Trust], member: Any
) -> None:
    signed = member.admission.signed
    assert trust_after(State.RETIRED).check_admission_untrusted(signed) == member.admission
    with pytest.raises(RemoteProtocolError, match="does not count"):
        trust_after(State.REVOKED).check_admission_untrusted(signed)


def test_of_an_issuer_that_ended_only_admissions_up_to_its_last_serial_count(
    trust_after: Callable[..., Trust], authority: Authority, member: Any
) -> None:
    trust = trust_after(State.RETIRED, until=member.admission.serial)
    assert trust.check_admission_untrusted(member.admission.signed)
    late = authority.issue_admission(member.node_key.node_id, now_ms=member.admission.serial + 1)
    with pytest.raises(RemoteProtocolError, match="later than"):
        trust.check_admission_untrusted(late.signed)


def test_what_is_remembered_is_bounded(trust: Trust, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bms.security.trust._REMEMBERED_MAX", 3)
    for number in range(10):
        node_id = NodeKey.from_seed(bytes([number]) * 32).node_id
        trust.check_admission_untrusted(authority.issue_admission(node_id, now_ms=NOW_MS).signed)
    assert len(trust._verified) <= 3


# --- cards


def test_a_card_makes_a_member_believable(trust: Trust, member: Any) -> None:
    assert trust.check_card_untrusted(member.card) == (member.admission, member.record)


def test_a_card_with_another_nodes_admission_is_refused(trust: Trust, authority: Authority, admit: Admit) -> None:
    alice, bob = admit(authority, "alice"), admit(authority, "bob")
    refused(trust, [alice.admission.signed, *bob.card[1:]], "different nodes")


def test_a_record_for_another_mesh_is_refused(trust: Trust, other: Authority, member: Any, admit: Admit) -> None:
    elsewhere = admit(other, "alice")  # the same keys
    assert elsewhere.node_key.node_id == member.node_key.node_id
    refused(trust, [member.card[0], *elsewhere.card[1:]], "another mesh")


def test_a_boot_may_lie_10_years_after_the_admission_and_no_more(trust: Trust, member: Any) -> None:
    def card(boot: int) -> list[object]:
        record = NodeRecord.sign(
            member.node_key,
            mesh_id=trust.bundle.mesh_id,
            boot=boot,
            boot_id=bytes(16),
            incarnation=0,
            name="",
            addresses=[],
            box_keys=[bytes(32)],
            versions=(1, 1),
            time=0,
        )
        return [member.admission.signed, record.signed, record.details]

    most = member.admission.serial + TEN_YEARS_MS
    assert trust.check_card_untrusted(card(most))[1].boot == most
    refused(trust, card(most + 1), "10 years", code=1)


@pytest.mark.parametrize("card", [None, 1, b"", [], [[]], [[], [], []], [1, 2, 3], [[b"", b""], [b"", b""], b""], {}])
def test_what_is_no_card_is_refused(trust: Trust, card: object) -> None:
    refused(trust, card, None, code=1)


def test_a_card_without_details_is_refused(trust: Trust, member: Any) -> None:
    refused(trust, member.card[:2], "a card is not", code=1)


def test_the_highest_admission_known_is_in_force_whichever_a_node_shows(
    trust: Trust, authority: Authority, member: Any
) -> None:
    node_id = member.node_key.node_id
    assert trust.in_force(node_id) is None
    trust.check_card_untrusted(member.card)
    less = authority.issue_admission(
        node_id, now_ms=NOW_MS, grants=[("topic:news", READ)], last_serial=member.admission.serial
    )
    trust.check_admission_untrusted(less.signed)
    assert trust.in_force(node_id) == less
    assert trust.check_card_untrusted(member.card)[0] == less
    assert trust.check_admission_untrusted(member.admission.signed) == member.admission


# --- certificates


def leaf_of(authority: Authority, key: NodeKey) -> bytes:
    tls_key = make_tls_key(lambda size: b"t" * size)
    return authority.issue_certificate(key.node_id, tls_key.public_key(), now=NOW)


def test_a_certificate_by_the_issuer_is_valid(trust: Trust, authority: Authority, member: Any) -> None:
    info = trust.validate_certificate(leaf_of(authority, member.node_key), NOW)
    assert info.node_id == member.node_key.node_id
    assert info.mesh_id == authority.mesh_id.hex()


def test_a_certificate_of_another_mesh_is_refused(trust: Trust, other: Authority, member: Any) -> None:
    with pytest.raises(RefusedError, match="another mesh"):
        trust.validate_certificate(leaf_of(other, member.node_key), NOW)


def test_a_certificate_by_a_revoked_issuer_is_refused_though_its_chain_is_whole(
    trust_after: Callable[..., Trust], authority: Authority, member: Any
) -> None:
    leaf = leaf_of(authority, member.node_key)
    assert trust_after(State.RETIRED).validate_certificate(leaf, NOW)
    with pytest.raises(RefusedError, match="issuer that does not count"):
        trust_after(State.REVOKED).validate_certificate(leaf, NOW)


def test_a_certificate_that_names_this_mesh_but_is_signed_elsewhere_is_refused(
    trust: Trust, other: Authority, member: Any
) -> None:
    uri = node_uri(trust.bundle.mesh_id, member.node_key.node_id)
    key, issuer = make_tls_key(lambda size: b"t" * size), other.bundle.issuers[0].certificate_der
    leaf = build_leaf(key.public_key(), uri, issuer, other._certifying_key, now=NOW, days=1, random=b"r" * 20)
    with pytest.raises(RemoteProtocolError, match="does not count") as caught:
        trust.check_leaf_untrusted(leaf)
    assert caught.value.code == 2


@pytest.mark.parametrize(("days", "why"), [(91, "expired"), (-2, "not valid yet")])
def test_a_certificate_out_of_its_time_is_refused(
    trust: Trust, authority: Authority, member: Any, days: int, why: str
) -> None:
    with pytest.raises(RefusedError, match=why):
        trust.validate_certificate(leaf_of(authority, member.node_key), NOW + days * 86_400)


# --- grants


@pytest.fixture
def allowed(trust: Trust, authority: Authority) -> Callable[..., bool]:
    def check(grants: list[tuple[str, int]], scope: str, right: int) -> bool:
        admission = authority.issue_admission(NodeKey.from_seed(b"g" * 32).node_id, now_ms=NOW_MS, grants=grants)
        return trust.allows(admission, scope, right)

    return check


def test_what_no_grant_allows_is_refused(allowed: Callable[..., bool]) -> None:
    assert not allowed([], "space:default", READ)
    assert not allowed([("space:other", 31)], "space:default", READ)
    assert not allowed([("space:default", WRITE)], "space:default", READ)


def test_a_grant_without_a_star_is_for_exactly_its_scope(allowed: Callable[..., bool]) -> None:
    assert allowed([("space:map", READ)], "space:map", READ)
    assert not allowed([("space:map", READ)], "space:maps", READ)
    assert not allowed([("space:map", READ)], "space:ma", READ)
    assert not allowed([("space:map", READ)], "topic:map", READ)


def test_a_grant_with_a_star_is_for_all_that_begins_so(allowed: Callable[..., bool]) -> None:
    assert allowed([("space:map*", READ)], "space:map", READ)
    assert allowed([("space:map*", READ)], "space:maps", READ)
    assert not allowed([("space:map*", READ)], "space:ma", READ)
    assert not allowed([("space:*", READ)], "topic:x", READ)
    assert allowed([("*", READ)], "topic:", READ)


@pytest.mark.parametrize("right", [READ, WRITE, DELETE, WATCH])
def test_an_ordinary_member_has_every_right_but_admin(trust: Trust, member: Any, right: int) -> None:
    assert trust.allows(member.admission, "space:default", right)
    assert not trust.allows(member.admission, "space:default", ADMIN)
    assert not trust.allows(member.admission, "space:default", right | ADMIN)


def test_grants_add_up(allowed: Callable[..., bool]) -> None:
    grants = [("space:a*", READ), ("space:ab", WRITE)]
    assert allowed(grants, "space:ab", READ | WRITE)
    assert not allowed(grants, "space:ac", READ | WRITE)


def test_unknown_rights_allow_nothing_that_is_known(allowed: Callable[..., bool]) -> None:
    assert not allowed([("*", 1 << 40)], "space:default", READ)
