"""Who may ask: the name a request was sent to, the page it comes from, the token it carries.

    Host      an address, localhost, this machine's name, or one of `http.allowed_hosts`; otherwise 421. A page that has
              its own name point to this node (DNS rebinding) is refused by that: its requests carry its name, and an
              address in a Host is one that somebody typed. A target with an authority of its own counts in its place.
    Origin    where there is one it is this very server, or one of `http.allowed_origins`; otherwise 403. That holds
              for every method and for WebSockets. Cross-origin answers (CORS) go to `http.allowed_origins` alone.
    token     `Authorization: Bearer` (RFC 6750): 401 without a valid one, 403 where it lacks the scope.

Every answer about tokens is the same whatever was asked for, and comes before anything else of the request is looked
at. Nothing is read from cookies or queries, so that no page can make a browser send what it does not know.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import RefusedError
from ..security.tokens import Claims, allows
from .problems import ProblemError

if TYPE_CHECKING:
    from ..mesh import Mesh

__all__ = [
    "authenticate",
    "bearer",
    "check_host",
    "check_origin",
    "require",
    "split_host",
]

_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?\.?", re.ASCII)
_REALM = 'Bearer realm="bms"'
_DEFAULT_PORTS = {"http": 80, "https": 443}


def split_host(text: str) -> tuple[str, int | None] | None:
    """The name and port of a Host header or of the authority of an origin; None if it is neither name nor address.

    Names come in lower case without the dot of the root, addresses without brackets.
    """
    host, port = text.strip().lower(), ""
    if host.startswith("["):
        host, bracket, port = host[1:].partition("]")
        if not bracket or not _is_address(host, 6) or (port and not port.startswith(":")):
            return None
        port = port[1:]
    else:
        host, _, port = host.partition(":")
        if not _NAME.fullmatch(host):
            return None
        host = host.removesuffix(".")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return None
    return host, int(port) if port else None


def _is_address(host: str, version: int | None = None) -> bool:
    try:
        return version in (None, ipaddress.ip_address(host).version)
    except ValueError:
        return False


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return {"localhost", name, short, f"{short}.local"}


def check_host(mesh: Mesh, hosts: Iterable[str], authority: str | None = None) -> str:
    """Where a request was sent to, if this node is served under it; ProblemError 400 (no Host, or several), 421.

    That is the `authority` in its target, where there is one, and the Host otherwise.
    """
    given = set(hosts)
    if len(given) != 1:
        raise ProblemError(400, "a request names one Host")
    host = given.pop() if authority is None else authority
    found = split_host(host)
    if found is None:
        raise ProblemError(400, "the Host is neither a name nor an address")
    name = found[0]
    if _is_address(name) or name in _own_names() or name.endswith(".localhost"):
        return host
    if name in {allowed.lower().removesuffix(".") for allowed in mesh.config.http.allowed_hosts}:
        return host
    raise ProblemError(421, f"this node is not served as {name!r:.80}; http.allowed_hosts lists more names")


def check_origin(mesh: Mesh, origins: Iterable[str], host: str, *, tls: bool) -> str | None:
    """The foreign origin that a request comes from and that is allowed, None if it comes from this server or no page.

    `host` is the request's Host. ProblemError 403.
    """
    given = set(origins)
    if not given:
        return None
    if len(given) == 1:
        origin = given.pop()
        if origin in mesh.config.http.allowed_origins:
            return origin
        scheme, _, authority = origin.partition("://")
        if scheme == ("https" if tls else "http") and _place(authority, scheme) == _place(host, scheme) is not None:
            return None
    raise ProblemError(403, "requests from pages of other origins are refused; http.allowed_origins lists more")


def _place(authority: str, scheme: str) -> tuple[str, int] | None:
    found = split_host(authority)
    return None if found is None else (found[0], found[1] or _DEFAULT_PORTS[scheme])


def bearer(authorization: str) -> str | None:
    """The token in an Authorization header, if it has one."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def authenticate(mesh: Mesh, token: str | None) -> Claims:
    """What the holder of `token` may do. ProblemError 401, with what RFC 6750 (section 3) says goes along."""
    if token is None:
        raise ProblemError(401, "a bearer token is needed: `bms token` issues one", None, {"WWW-Authenticate": _REALM})
    try:
        return mesh.verify_token(token)
    except RefusedError as error:
        challenge = f'{_REALM}, error="invalid_token"'
        raise ProblemError(401, str(error), None, {"WWW-Authenticate": challenge}) from None


def require(claims: Claims, scope: str) -> None:
    """Go on if the token has the scope. ProblemError 403."""
    if not allows(claims.scopes, scope):
        challenge = f'{_REALM}, error="insufficient_scope", scope="{scope}"'
        detail = f"the token lacks the scope {scope}"
        raise ProblemError(403, detail, RefusedError, {"WWW-Authenticate": challenge})
