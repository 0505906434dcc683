"""What a failure looks like over HTTP: one table from the error tree to statuses, as RFC 9457 problem objects.

    error                     status
    ConfigError               422
    LocalProtocolError        400
    NotFoundError             404
    RefusedError              403 (of a token: 401, with WWW-Authenticate)
    VersionConflictError      412
    LimitError                413, or 429 where it is about too many at once
    UnreachableError, RemoteError, RemoteProtocolError   502
    ClosedError, QuorumError  503
    DeliveryError             504
    StoreError                507, damaged entries 500
    anything else             500, and says nothing of itself

A problem is `{"type", "title", "status", "detail", "error"}` and the error's facts; `error` is the class in
`bms.errors`, so that a client raises the same one. What the HTTP layer itself refuses (a wrong Host, a foreign Origin,
a method) is a `ProblemError`, which names its status. Nothing here reads a request or sends a byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from ..errors import (
    ClosedError,
    ConfigError,
    CorruptionError,
    DeliveryError,
    LimitError,
    LocalProtocolError,
    MeshError,
    NotFoundError,
    QuorumError,
    RefusedError,
    RemoteError,
    RemoteProtocolError,
    StoreError,
    UnreachableError,
    VersionConflictError,
)

__all__ = ["PROBLEM_TYPE", "STATUSES", "Problem", "ProblemError", "http_problem", "problem_of", "unexpected"]

PROBLEM_TYPE = "application/problem+json"

STATUSES: dict[type[MeshError], int] = {
    ConfigError: 422,
    LocalProtocolError: 400,
    NotFoundError: 404,
    RefusedError: 403,
    VersionConflictError: 412,
    LimitError: 413,
    DeliveryError: 504,
    UnreachableError: 502,
    RemoteError: 502,
    RemoteProtocolError: 502,
    ClosedError: 503,
    QuorumError: 503,
    CorruptionError: 500,
    StoreError: 507,
    MeshError: 500,
}
"""Each class of `bms.errors` that is raised, with its status; the nearest one in the tree counts."""

_FACTS: dict[type[MeshError], tuple[str, ...]] = {
    ConfigError: ("field", "why"),
    QuorumError: ("acked", "needed"),
    VersionConflictError: ("current",),
    RemoteError: ("kind", "text"),
    RemoteProtocolError: ("code",),
}
_RETRY_S = {429: "1", 503: "5"}

# What the layers below refuse with a bare status, as an error of ours.
_KINDS: dict[int, type[MeshError]] = {
    401: RefusedError,
    403: RefusedError,
    404: NotFoundError,
    408: LimitError,
    413: LimitError,
    414: LimitError,
    421: RefusedError,
    429: LimitError,
    431: LimitError,
    503: ClosedError,
    504: DeliveryError,
}


class ProblemError(MeshError):
    """A request that the HTTP layer refuses: with `status`, as an error of class `kind`, and these headers."""

    def __init__(
        self, status: int, detail: str, kind: type[MeshError] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.kind = kind or _KINDS.get(status, LocalProtocolError if status < 500 else MeshError)
        self.headers = dict(headers or {})
        super().__init__(detail)


class Problem(msgspec.Struct, frozen=True):
    """An answer that says what went wrong: its status, headers and body."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    def encode(self) -> bytes:
        """The body as JSON."""
        return msgspec.json.encode(self.body)


def _make(
    status: int, detail: str, error: str, facts: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None
) -> Problem:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body |= {"detail": _clean(detail), "error": error}
    for name, value in (facts or {}).items():
        body[name] = _clean(value) if isinstance(value, str) else value
    found = dict(headers or {})
    if status in _RETRY_S:
        found.setdefault("Retry-After", _RETRY_S[status])
    return Problem(status, body, found)


def _clean(text: str) -> str:
    """Text that UTF-8 can hold; file names and keys in it may hold what was no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def problem_of(error: MeshError, limit_status: int = 413) -> Problem:
    """The problem that `error` is; `limit_status` is what a LimitError means where it was raised."""
    if isinstance(error, ProblemError):
        return _make(error.status, str(error), error.kind.__name__, None, error.headers)
    kind = next(kind for kind in type(error).__mro__ if kind in STATUSES)
    status = limit_status if kind is LimitError else STATUSES[kind]
    facts = {name: getattr(error, name) for name in _FACTS.get(kind, ())}
    headers = {"ETag": f'"{facts["current"]}"'} if facts.get("current") else {}
    return _make(status, str(error), kind.__name__, facts, headers)


def http_problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
    """The problem of a request that was refused with a bare status, by the router or the body's reader."""
    return problem_of(ProblemError(status, detail, None, headers))


def unexpected() -> Problem:
    """The problem of a bug of ours. What it was stands in the log, and not here."""
    return _make(500, "an unexpected error; the node's log says more", MeshError.__name__)
