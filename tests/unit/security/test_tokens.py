"""Tokens by themselves: their shape, what scopes allow, and what is kept of one."""

from __future__ import annotations

import hashlib
import itertools
import secrets

import pytest

from bms.errors import LocalProtocolError, RefusedError
from bms.security.tokens import (
    SCOPES,
    TTL_MAX_S,
    TTL_S,
    StoredToken,
    allows,
    beyond,
    check_scopes,
    check_ttl,
    make_code,
    make_token,
    token_id_of,
)

NOW = 1_790_000_000.0


def made(*scopes: str, ttl_s: float = 60.0, name: str = "") -> tuple[str, StoredToken]:
    return make_token(scopes or ("*",), ttl_s, name, now=NOW, token_bytes=secrets.token_bytes)


def test_a_token_has_its_id_and_256_random_bits() -> None:
    token, stored = made()
    prefix, token_id, secret = token.split("_", 2)
    assert (prefix, token_id, len(token_id), len(secret)) == ("bms", stored.claims.token_id, 16, 43)
    assert token_id_of(token) == token_id
    drawn: list[int] = []

    def token_bytes(size: int) -> bytes:
        drawn.append(size)
        return bytes(size)

    make_token(("*",), 1.0, "", now=NOW, token_bytes=token_bytes)
    assert drawn == [8, 32]


def test_what_is_kept_of_a_token_is_its_hash_alone() -> None:
    token, stored = made(name="backup")
    assert stored.digest == hashlib.sha256(token.encode()).digest()
    secret = token[-43:]
    assert secret not in repr(stored)
    assert stored.digest.hex() not in repr(stored)


def test_a_token_is_good_until_its_end_and_not_at_it() -> None:
    token, stored = made("data:read", ttl_s=60)
    claims = stored.check(token, NOW + 59.9)
    assert (claims.issued_at, claims.expires_at, claims.scopes) == (NOW, NOW + 60, ("data:read",))
    with pytest.raises(RefusedError, match="expired"):
        stored.check(token, NOW + 60)


def child(of: StoredToken, *scopes: str, ttl_s: float | None = None) -> StoredToken:
    return make_token(scopes, ttl_s, "", now=NOW + 10, token_bytes=secrets.token_bytes, issuer=of.claims)[1]


def test_a_child_is_allowed_no_more_than_its_issuer_and_ends_no_later() -> None:
    _, parent = made("tokens:write", "data:*", ttl_s=60)
    for ttl_s, end in ((None, NOW + 60), (50, NOW + 60), (5, NOW + 15)):
        claims = child(parent, "data:read", ttl_s=ttl_s).claims
        assert (claims.expires_at, claims.issuer) == (end, parent.claims.token_id)
    with pytest.raises(RefusedError, match="would end 10 s after"):
        child(parent, "data:read", ttl_s=60)
    for more in ("*", "*:read", "nodes:read"):
        with pytest.raises(RefusedError, match=r"allowed more than the one that asks: .*nodes:read"):
            child(parent, "data:read", more)
    _, lasting = made(ttl_s=TTL_MAX_S)
    assert child(lasting, "*").claims.expires_at == NOW + 10 + TTL_S
    assert lasting.claims.issuer is None


def test_another_spelling_of_the_same_bits_is_another_token() -> None:
    token, stored = made()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for last in alphabet.replace(token[-1], ""):  # 256 bits leave four spellings of the last character
        with pytest.raises(RefusedError, match="not valid"):
            stored.check(token[:-1] + last, NOW)


def test_a_wrong_secret_is_not_told_that_the_token_has_expired() -> None:
    token, stored = made()
    with pytest.raises(RefusedError, match="not valid"):
        stored.check(made()[0], NOW + 1000)
    assert stored.check(token, NOW)


@pytest.mark.parametrize(
    "text",
    [
        *("", "bms", "bms_", "bms__", "Bearer", "bms_0123456789abcdef", "bms_0123456789abcdef_"),
        "bms_0123456789ABCDEF_" + "a" * 43,
        "bms_0123456789abcdef_" + "a" * 42,
        "bms_0123456789abcdef_" + "a" * 44,
        "bms_0123456789abcdef_" + "a" * 43 + "\n",
        " bms_0123456789abcdef_" + "a" * 43,
        "bms_0123456789abcdef_" + "=" * 43,
        "bms_٠١٢٣٤٥٦٧٨٩abcdef_" + "a" * 43,
        "x" * 1_000_000,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_what_has_not_the_shape_of_a_token_has_no_id(text: str) -> None:
    assert token_id_of(text) is None


def test_a_code_is_no_token() -> None:
    assert token_id_of(make_code(secrets.token_bytes)) is None


def test_a_scope_allows_itself_and_nothing_else() -> None:
    for held, needed in itertools.product(SCOPES, SCOPES):
        assert allows([held], needed) == (held == needed)
    assert not allows([], "data:read")


def test_a_star_stands_for_a_subject_an_action_or_everything() -> None:
    assert [scope for scope in SCOPES if allows(["data:*"], scope)] == ["data:read", "data:write"]
    reading = [scope for scope in SCOPES if allows(["*:read"], scope)]
    assert reading == [scope for scope in SCOPES if scope.endswith(":read")]
    assert all(allows(["*"], scope) for scope in SCOPES)
    assert not allows(["dat:*", "data", "data:", ":read", "*:", "**"], "data:read")


def test_what_would_go_beyond_ones_own_scopes_is_named() -> None:
    assert beyond(["*"], ["*", "tokens:write"]) == []
    assert beyond(["data:*", "tokens:write"], ["data:read", "data:*"]) == []
    assert beyond(["data:read", "tokens:write"], ["data:*"]) == ["data:write"]
    assert beyond(["*:read"], ["*"]) == [scope for scope in SCOPES if not scope.endswith(":read")]


def test_scopes_are_taken_in_order_once_each_with_stars() -> None:
    given = ["nodes:read", "data:*", "nodes:read", "*:read", "*"]
    assert check_scopes(given) == ("nodes:read", "data:*", "*:read", "*")
    assert check_scopes(SCOPES) == tuple(SCOPES)


@pytest.mark.parametrize(
    ("scope", "hint"),
    [
        ("data:raed", "did you mean 'data:read'"),
        ("Nodes:write", "did you mean 'nodes:write'"),
        ("token:*", "did you mean 'tokens:"),
        ("", "there are status:read"),
        ("x" * 100_000, "there are status:read"),
    ],
    ids=lambda text: text[:20],
)
def test_an_unknown_scope_is_named_with_the_nearest_known_one(scope: str, hint: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^there is no scope .*" + hint) as caught:
        check_scopes(["data:read", scope])
    assert len(str(caught.value)) < 600


def test_a_token_for_nothing_and_one_text_in_place_of_a_list_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="at least one"):
        check_scopes([])
    with pytest.raises(LocalProtocolError, match="list of texts"):
        check_scopes("data:read")


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), TTL_MAX_S + 1])
def test_a_time_that_cannot_be_is_refused(ttl_s: float) -> None:
    with pytest.raises(LocalProtocolError, match="ttl_s"):
        check_ttl(ttl_s)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 65, "é" * 33])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(LocalProtocolError, match="the name of a token"):
        made(name=name)


def test_every_scope_says_what_it_allows() -> None:
    assert all(meaning for meaning in SCOPES.values())
    assert all(scope.partition(":")[2] in ("read", "write", "take") for scope in SCOPES)
