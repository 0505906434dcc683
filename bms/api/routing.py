"""How a route is said, and what happens to a request before and after its view: the same for all of them.

A route is one record: method, path, scope, what it takes and gives. The application, the OpenAPI document, the
reference page's test and the token tests all read the same records, so none can be forgotten in one of them.

    admitted   token, then scope (both before anything else is looked at), in `app`
    read       Content-Encoding refused, query, body within its bound, conditions
    done       the view, within the route's deadline: 504 after it

`<key:key>` stands for a key: the gate writes it into the path as hexadecimal digits, so that the router sees neither
its slashes nor its dots, and it reaches the view as bytes. Absent: streams and WebSockets, which `events` adds.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import trio
from quart import Response, g, request

from ..control.answers import plain
from ..errors import DeliveryError, RemoteProtocolError
from ..security.tokens import Claims
from .bodies import (
    JSON_BYTES_MAX,
    Condition,
    convert_untrusted,
    parse_condition_untrusted,
    parse_json_untrusted,
    parse_query_untrusted,
)
from .problems import ProblemError

if TYPE_CHECKING:
    from ..mesh import Mesh
    from .context import Context

__all__ = ["ANY_TOKEN", "JSON", "PUBLIC", "RAW", "Call", "Media", "Route", "Routes", "json_response", "serve"]

JSON = "application/json"
RAW = "application/octet-stream"
PUBLIC = None
"""The scope of a route that needs no token."""
ANY_TOKEN = ""
"""The scope of a route that any valid token opens."""

DEADLINE_S = 30.0

_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


@attrs.frozen
class Media:
    """A body that is not of a type here: its media type, other ones that it may have, the headers that say more."""

    type: str = RAW
    headers: Mapping[str, str] = attrs.field(factory=dict)
    """Name and meaning."""
    others: tuple[str, ...] = ()


@attrs.frozen(eq=False)
class Call:
    """One request, read: whose it is, what it asks. `query` and `body` are of the route's types."""

    context: Context
    claims: Claims | None
    path: Mapping[str, Any]
    query: Any
    body: Any
    condition: Condition

    @property
    def mesh(self) -> Mesh:
        """The node that is asked."""
        return self.context.mesh


View = Callable[[Call], Awaitable[Response]]


@attrs.frozen(eq=False)
class Route:
    """One method of one path. `path` is Werkzeug's, with `<name>` and `<key:key>`."""

    method: str
    path: str
    view: View
    tag: str
    scope: str | None
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | Media | None = None
    body_is_optional: bool = False
    body_bytes_max: int | None = JSON_BYTES_MAX
    """None: as large as `http.body_bytes_max`."""
    conditions: bool = False
    answers: Mapping[int, type[msgspec.Struct] | Media | None] = attrs.field(factory=dict)
    errors: tuple[int, ...] = ()
    """Statuses that this route may refuse with, beside those of all routes of its kind."""
    deadline_s: float = DEADLINE_S
    limit_status: int = 413

    @property
    def name(self) -> str:
        """What it is called in logs, counters and the OpenAPI document."""
        return getattr(self.view, "__name__", self.path)

    @property
    def operation(self) -> str:
        """As documents write it: "GET /api/v1/data/{space}/{key}"."""
        return self.method + " " + _PARAMETER.sub(r"{\1}", self.path)


class Routes:
    """The routes of one subject; `add` is a decorator of views."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.all: list[Route] = []

    def add(self, method: str, path: str, *, scope: str | None, **fields: Any) -> Callable[[View], View]:
        """Say that this view answers `method` at `path`; `fields` are those of `Route`."""

        def remember(view: View) -> View:
            self.all.append(Route(method, path, view, self.tag, scope, **fields))
            return view

        return remember


# ---------------------------------------------------------------------- answering


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value of the API as JSON, as `bms … -o json` prints it. Numbers that are not finite are null."""
    shown = msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else plain(value)
    try:
        data = msgspec.json.encode(shown)
    except UnicodeEncodeError:  # a file name or a log line with bytes that are no UTF-8
        data = msgspec.json.encode(_encodable(shown))
    return Response(data, status=status, headers=dict(headers or {}), content_type=JSON)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(name): _encodable(item) for name, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


# ---------------------------------------------------------------------- reading


def _query(route: Route) -> Any:
    found = parse_query_untrusted(request.query_string)
    if route.query is not None:
        query = convert_untrusted(found, route.query, strict=False)
        if any(getattr(query, name) is None for name in found):
            raise RemoteProtocolError("null is no value of a parameter: leave it out")
        return query
    if found:
        raise RemoteProtocolError(f"there is no parameter {min(found)!r:.80}")
    return None


async def _read(limit: int) -> bytes:
    """The body, as long as it is within `limit`; what is beyond is not waited for."""
    problem = ProblemError(413, f"the body has more than {limit} bytes")
    if (request.content_length or 0) > limit:
        raise problem
    parts, size = [], 0
    async for part in request.body:
        size += len(part)
        if size > limit:
            raise problem
        parts.append(part)
    return b"".join(parts)


def _check_coding() -> None:
    if any(coding.strip().lower() != "identity" for coding in request.headers.getlist("Content-Encoding")):
        raise ProblemError(415, "bodies are sent without Content-Encoding", None, {"Accept-Encoding": "identity"})


async def _body(context: Context, route: Route) -> Any:
    _check_coding()
    if route.body is None:
        return None
    limit = context.mesh.config.http.body_bytes_max
    if route.body_bytes_max is not None:
        limit = min(limit, route.body_bytes_max)
    if isinstance(route.body, Media):
        return await _read(limit)
    is_utf8 = request.mimetype_params.get("charset", "utf-8").lower() == "utf-8"
    has_none = route.body_is_optional and not request.content_length and not request.mimetype
    if not (request.is_json and is_utf8) and not has_none:
        raise ProblemError(415, f"the body is {JSON}, as UTF-8", None, {"Accept": JSON})
    data = await _read(limit)
    if route.body_is_optional and not data:
        return route.body()
    return convert_untrusted(parse_json_untrusted(data), route.body)


def _condition() -> Condition:
    headers = request.headers
    match, none_match = (
        ", ".join(headers.getlist(name)) if name in headers else None for name in ("If-Match", "If-None-Match")
    )
    return parse_condition_untrusted(match, none_match)


# ---------------------------------------------------------------------- serving


def serve(context: Context, route: Route) -> Callable[..., Awaitable[Response]]:
    """The view of a route as Quart calls it."""

    async def view(**path: Any) -> Response:
        try:
            query, body = _query(route), await _body(context, route)
            condition = _condition() if route.conditions else Condition()
        except RemoteProtocolError as error:
            raise ProblemError(400, str(error)) from None
        call = Call(context, g.get("claims"), path, query, body, condition)
        with trio.move_on_after(route.deadline_s), call.mesh.span("bms.http", method=route.method, route=route.path):
            return await route.view(call)
        text = f"it was not done within {route.deadline_s:g} s; whether it will be is unknown"
        raise ProblemError(504, text, DeliveryError)

    view.__name__ = route.name
    view.__doc__ = route.view.__doc__
    return view
