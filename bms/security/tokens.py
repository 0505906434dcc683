"""Tokens of the HTTP interface: what they look like, what they allow, what a node remembers of one.

    token    bms_<id: 16 hexadecimal digits>_<secret: 43 characters of base64url, 256 random bits>
    code     bmsc_<secret: 43 characters>            a login code: good once, for a token
    scope    one of SCOPES; "data:*" (all of a subject); "*:read" (reading everything); "*" (everything)

- A token is opaque: all that is known of it stands beside its SHA-256 in the store of the node that issued it, and it
  is good there alone. Whoever reads the store learns no token. 256 random bits need no slow hash.
- The id is no secret: it names the token in listings, logs and `revoke`.
- `allows` is the one rule of what a scope lets through; every route and stream asks it.
- A token that was asked for with another one is its child: allowed no more (`beyond` says by what it would be), good no
  longer, and ended with it. Otherwise whoever has stolen a token could keep what it allows by making another in time.

Compared in constant time. Bearer tokens are those of RFC 6750; that they are opaque, and so can be ended at once, is
the difference to RFC 7519. Deliberately absent: signatures, tokens that another node accepts, refresh.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import hmac
import math
import re
from collections.abc import Callable, Iterable

import attrs

from ..errors import LocalProtocolError, RefusedError
from .signed import built, label_untrusted

__all__ = [
    "EVERYTHING",
    "KNOWN",
    "NAME_BYTES_MAX",
    "SCOPES",
    "TTL_MAX_S",
    "TTL_S",
    "Claims",
    "StoredToken",
    "allows",
    "beyond",
    "check_child",
    "check_scopes",
    "check_ttl",
    "digest",
    "make_code",
    "make_token",
    "token_id_of",
]

SCOPES: dict[str, str] = {
    "status:read": "statistics with the names of linked nodes and where others were sought, health, metrics, reports",
    "nodes:read": "the nodes, the topology, their events",
    "nodes:write": "connect to nodes, have nodes forgotten, set this node's tags",
    "data:read": "keys, values, their events",
    "data:write": "write and delete values, reconcile now",
    "messages:read": "messages that pass to this node's program, shown as they pass",
    "messages:take": "take messages in the program's place: then they are delivered, and gone",
    "messages:write": "send and broadcast messages",
    "config:read": "the settings",
    "config:write": "change settings while the node runs",
    "logs:read": "the node's recent log",
    "tokens:read": "list tokens, without their secrets",
    "tokens:write": "issue tokens that are allowed no more, and revoke tokens",
}
"""Each scope with what it allows."""

EVERYTHING = ("*",)
NAME_BYTES_MAX = 64
TTL_S, TTL_MAX_S = 30 * 86_400.0, 3650 * 86_400.0

_ACTIONS = sorted({scope.partition(":")[2] for scope in SCOPES})
_SUBJECTS = list(dict.fromkeys(scope.partition(":")[0] for scope in SCOPES))
KNOWN = [*SCOPES, *(f"{subject}:*" for subject in _SUBJECTS), *(f"*:{action}" for action in _ACTIONS), "*"]
"""All that a scope may be."""

_TOKEN = re.compile(r"bms_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", re.ASCII)
_ID_BYTES, _SECRET_BYTES = 8, 32


@attrs.frozen
class Claims:
    """What a token says of its holder. Times are Unix seconds; `issuer` is the id of the token it is a child of."""

    token_id: str
    name: str
    scopes: tuple[str, ...]
    issued_at: float
    expires_at: float
    issuer: str | None = None


@attrs.frozen
class StoredToken:
    """What a node keeps of a token: its claims, and the SHA-256 of its text."""

    claims: Claims
    digest: bytes = attrs.field(repr=False)

    def check(self, token: str, now: float) -> Claims:
        """The claims, if `token` is this one and `now` is before its end; RefusedError."""
        if not hmac.compare_digest(digest(token), self.digest):
            raise RefusedError("the token is not valid at this node")
        if now >= self.claims.expires_at:
            raise RefusedError("the token has expired")
        return self.claims


def allows(scopes: Iterable[str], needed: str) -> bool:
    """Whether one of `scopes` lets through what needs the scope `needed`."""
    subject, _, action = needed.partition(":")
    return not {"*", needed, f"{subject}:*", f"*:{action}"}.isdisjoint(scopes)


def beyond(scopes: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Those of SCOPES that `wanted` allows and `scopes` does not."""
    held, asked = list(scopes), list(wanted)
    return [scope for scope in SCOPES if allows(asked, scope) and not allows(held, scope)]


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """`scopes` in order and once each; LocalProtocolError names what is unknown, and the nearest known one."""
    if isinstance(scopes, str):
        raise LocalProtocolError("scopes are a list of texts, not one text")
    given = tuple(dict.fromkeys(scopes))
    if not given:
        raise LocalProtocolError("a token needs at least one scope")
    for scope in given:
        if scope not in KNOWN:
            near = difflib.get_close_matches(str(scope), KNOWN, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KNOWN)}"
            raise LocalProtocolError(f"there is no scope {scope!r:.80}; {hint}")
    return given


def check_ttl(ttl_s: float) -> float:
    """`ttl_s`, if it is above 0 and at most `TTL_MAX_S`; LocalProtocolError."""
    if not (math.isfinite(ttl_s) and 0 < ttl_s <= TTL_MAX_S):
        raise LocalProtocolError(f"ttl_s is above 0 and at most {TTL_MAX_S:.0f} s (ten years), not {ttl_s!r}")
    return float(ttl_s)


def check_child(issuer: Claims, scopes: Iterable[str], expires_at: float) -> None:
    """Go on if `issuer` has these scopes and lasts that long; RefusedError."""
    more = beyond(issuer.scopes, scopes)
    if more:
        raise RefusedError(f"the token would be allowed more than the one that asks: {', '.join(more)}")
    if expires_at > issuer.expires_at:
        late_s = expires_at - issuer.expires_at
        raise RefusedError(f"the token would end {late_s:.0f} s after the one that asks: less ttl_s, or none, will do")


def make_token(
    scopes: Iterable[str],
    ttl_s: float | None,
    name: str,
    *,
    now: float,
    token_bytes: Callable[[int], bytes],
    issuer: Claims | None = None,
) -> tuple[str, StoredToken]:
    """A new token, and what is kept of it; `issuer`: of which it is a child.

    Without `ttl_s` it is good for `TTL_S`, or as long as its issuer. LocalProtocolError for a scope, time or name that
    cannot be, RefusedError for one that the issuer has not.
    """
    with built():
        label_untrusted(name, "the name of a token", NAME_BYTES_MAX)
    scopes, expires_at = check_scopes(scopes), now + check_ttl(TTL_S if ttl_s is None else ttl_s)
    if issuer is not None:
        if ttl_s is None:
            expires_at = min(expires_at, issuer.expires_at)
        check_child(issuer, scopes, expires_at)
    token_id = token_bytes(_ID_BYTES).hex()
    token = f"bms_{token_id}_{_secret(token_bytes)}"
    claims = Claims(token_id, name, scopes, now, expires_at, None if issuer is None else issuer.token_id)
    return token, StoredToken(claims, digest(token))


def make_code(token_bytes: Callable[[int], bytes]) -> str:
    """A new login code."""
    return f"bmsc_{_secret(token_bytes)}"


def token_id_of(token: str) -> str | None:
    """The id in a text that has the shape of a token; None if it has not."""
    found = _TOKEN.fullmatch(token)
    return None if found is None else found[1]


def digest(text: str) -> bytes:
    """The SHA-256 of a token or a code, as it is kept."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _secret(token_bytes: Callable[[int], bytes]) -> str:
    return base64.urlsafe_b64encode(token_bytes(_SECRET_BYTES)).rstrip(b"=").decode("ascii")
