"""The application: every route under one set of rules. `make_app(context)` is what the servers run.

A request goes through, in this order:

    gate      Host (421), Origin (403), CORS preflights; the path, as its parts came over the wire (404); streams of
              events go their own way (`followers`). Headers of every answer are added here on its way out.
    router    Quart's; what it finds or not is looked at after
    token     401, scope 403: also for paths and methods that do not exist below /api, so that those tell nothing
    route     404, 405 with Allow; then as its record says (`routing`)

Every failure is a problem (`problems`). What is unexpected is logged with its traceback and counted, and the answer
says nothing of it. Answers of the API are never stored (`Cache-Control: no-store`), and no page can frame, guess the
type of, or be sent on from anything that comes from here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import quart.wrappers.base
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from ..errors import MeshError, RemoteProtocolError
from .auth import authenticate, bearer, check_host, check_origin, require
from .bodies import split_path_untrusted, unquote_untrusted
from .followers import WEBSOCKET_PATH, Followers
from .openapi import install
from .problems import PROBLEM_TYPE, Problem, ProblemError, http_problem, problem_of, unexpected
from .routes import ROUTES
from .routing import ANY_TOKEN, Route, serve

if TYPE_CHECKING:
    from .context import Context

__all__ = ["Application", "make_app"]

log = logging.getLogger("bms.api")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_ClientGoneError: type[Exception] = getattr(quart.wrappers.base, "ClientDisconnectedError", ConnectionAbortedError)
"""What Quart raises from version 0.23 on, where it wants something of a client that has gone."""

_DATA = b"/api/v1/data/"
_PARTS_MAX = 16
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ALLOWED_HEADERS = "Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID"
_SHOWN_HEADERS = "ETag, Bms-Version, Bms-Author, Location, Retry-After, WWW-Authenticate, Allow"
_POLICY = "default-src 'none'; frame-ancestors 'none'"


class _KeyConverter(BaseConverter):
    """A key, which the gate has written into the path as hexadecimal digits."""

    regex = "(?:[0-9a-f]{2})+"

    def to_python(self, value: str) -> bytes:
        """The key."""
        return bytes.fromhex(value)


class Application:
    """The ASGI application of one node."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.quart = _make_quart(context)
        self._followers = Followers(context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] == "lifespan":
            await self.quart(scope, receive, send)  # type: ignore[arg-type]
            return
        headers = _Headers(scope)
        inner = {**scope, "root_path": "", "bms.route": "none"}
        added = {**_SECURITY, "bms.count": self._count(inner)}
        body = _Body(scope, headers, receive)
        answer = _with_headers(send, added, body)
        try:
            self._admit(scope, headers, added)
            if _is_preflight(scope, headers, added):
                await _preflight(answer)
                return
            inner["path"] = _routable(scope)
        except MeshError as error:
            await _refuse(scope, receive, answer, problem_of(error))
            return
        if self._followers.takes(inner):
            inner["bms.route"] = f"GET {inner['path']}"
            await self._followers(inner, receive, answer)
        elif scope["type"] == "websocket":
            await _refuse(scope, receive, answer, http_problem(404, "no WebSocket is served there"))
        else:
            try:
                await self.quart(inner, body.receive, answer)  # type: ignore[arg-type]
            except* _ClientGoneError:
                log.debug("%s: the client has gone before its answer", inner["bms.route"])

    def _admit(self, scope: Scope, headers: _Headers, added: dict[str, Any]) -> None:
        """Host and Origin. ProblemError."""
        mesh = self.context.mesh
        host = check_host(mesh, headers.all("host"), _target(scope)[0])
        tls = _of_guard(scope).get("tls", scope["scheme"] in ("https", "wss"))
        foreign = check_origin(mesh, headers.all("origin"), host, tls=tls)
        if mesh.config.http.allowed_origins:
            added["vary"] = "Origin"
        if foreign is not None:
            added["access-control-allow-origin"] = foreign
            added["access-control-expose-headers"] = _SHOWN_HEADERS

    def _count(self, scope: Scope) -> Callable[[int], None]:
        def count(status: int) -> None:
            self.context.mesh.counters.count("http.routes", scope["bms.route"], str(status))

        return count


def make_app(context: Context) -> Application:
    """The application that serves the node of `context`."""
    return Application(context)


# ---------------------------------------------------------------------- the gate


_SECURITY: dict[str, Any] = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""Put on every answer, unless the route says something else."""


def _of_guard(scope: Any) -> dict[str, Any]:
    """What the guard of the connection and this application tell each other of a request."""
    found: dict[str, Any] = scope.get("extensions", {}).get("bms", {})
    return found


class _Headers:
    """The headers of a scope by lower-case name."""

    def __init__(self, scope: Scope) -> None:
        self._found: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self._found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return self._found.get(name, [])


def _target(scope: Scope) -> tuple[str | None, bytes]:
    """The authority in what was asked for, where it has one, and the path.

    A request as proxies get it must be understood, and then its Host counts for nothing (RFC 9112, section 3.2.2).
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    scheme, _, rest = raw.partition(b"://")
    if scheme.lower() not in (b"http", b"https"):
        return None, raw
    authority, _, path = rest.partition(b"/")
    return authority.decode("latin-1"), b"/" + path


def _routable(scope: Scope) -> str:
    """The path for the router: its parts decoded, a key as hexadecimal digits. ProblemError."""
    _, raw = _target(scope)
    if not raw.startswith(b"/"):
        raise ProblemError(400, "a path begins with a slash")
    try:
        tail, slash = "", b""
        if raw.startswith(_DATA):
            space, slash, key = raw[len(_DATA) :].partition(b"/")
            raw, tail = _DATA + space, unquote_untrusted(key).hex()
        parts = split_path_untrusted(raw)
    except RemoteProtocolError as error:
        raise ProblemError(400, str(error)) from None
    if len(parts) > _PARTS_MAX or (parts != [""] and "" in parts) or (not tail and slash):
        raise ProblemError(404, "there is nothing at this path")
    return "/".join(("", *parts, tail) if tail else ("", *parts))


def _is_preflight(scope: Scope, headers: _Headers, added: Mapping[str, Any]) -> bool:
    asks = scope.get("method") == "OPTIONS" and headers.all("access-control-request-method")
    return bool(asks) and "access-control-allow-origin" in added


async def _preflight(send: Send) -> None:
    headers = {
        "access-control-allow-methods": ", ".join(_METHODS),
        "access-control-allow-headers": _ALLOWED_HEADERS,
        "access-control-max-age": "600",
    }
    await send({"type": "http.response.start", "status": 204, "headers": _encoded(headers.items())})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]


class _Body:
    """What comes of a request's body: whether all of it has come when the answer begins."""

    def __init__(self, scope: Scope, headers: _Headers, receive: Receive) -> None:
        has_body = headers.all("transfer-encoding") or headers.all("content-length") not in ([], ["0"])
        self._is_late = bool(has_body) and scope["type"] == "http" and scope.get("http_version", "1.1") < "2"
        self._receive = receive

    async def receive(self) -> Any:
        """ASGI's `receive`."""
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._is_late = False
        return message

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this answer (HTTP/1): the rest of the body is not read."""
        return self._is_late


def _with_headers(send: Send, added: dict[str, Any], body: _Body) -> Send:
    async def answer(message: Any) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            given = list(message["headers"])
            names = {name.lower() for name, _ in given}
            more = {name: value for name, value in added.items() if isinstance(value, str)}
            given += [pair for pair in _encoded(more.items()) if pair[0] not in names]
            message = {**message, "headers": given}
            if body.closes:
                given.append((b"connection", b"close"))
            added["bms.count"](message["status"])
        await send(message)

    return answer


async def _refuse(scope: Scope, receive: Receive, send: Send, problem: Problem) -> None:
    """Answer with a problem before anything else happened."""
    prefix = ""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket."
    body = problem.encode()
    headers = {"content-type": PROBLEM_TYPE, "content-length": str(len(body)), **problem.headers}
    await send({"type": f"{prefix}http.response.start", "status": problem.status, "headers": _encoded(headers.items())})
    await send({"type": f"{prefix}http.response.body", "body": body, "more_body": False})


# ---------------------------------------------------------------------- behind the gate


class _Table:
    """The routes by the name of their endpoint."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = {route.operation: route for route in routes}
        self._methods: dict[str, set[str]] = {}
        for route in self.routes.values():
            found = self._methods.setdefault(route.path, {"OPTIONS"})
            found |= {route.method, "HEAD"} if route.method == "GET" else {route.method}

    def allowed(self, route: Route) -> str:
        """What is answered at the path of a route."""
        return ", ".join(sorted(self._methods[route.path]))


def _make_quart(context: Context) -> QuartTrio:
    app = QuartTrio("bms", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = None  # the routes bound what they read, the servers what comes
    app.config["BODY_TIMEOUT"] = app.config["RESPONSE_TIMEOUT"] = None  # the servers' too
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.url_map.converters["key"] = _KeyConverter
    table = app.extensions["bms"] = _Table(ROUTES)
    for endpoint, route in table.routes.items():
        app.add_url_rule(route.path, endpoint, serve(context, route), methods=[route.method])
    install(app)
    app.before_request(_admitting(context, table))
    app.register_error_handler(HTTPException, _http_failure)
    app.register_error_handler(MeshError, _failure)
    app.register_error_handler(_ClientGoneError, _gone)
    app.register_error_handler(Exception, _unexpected(context))
    return app


def _admitting(context: Context, table: _Table) -> Callable[[], Awaitable[Response | None]]:
    async def admit() -> Response | None:
        """The token, before anything else of the request counts."""
        route = table.routes.get(request.endpoint or "")
        g.route = route
        token = bearer(request.headers.get("Authorization", ""))
        if route is None:
            if request.path.startswith("/api/v1/"):
                authenticate(context.mesh, token)
            if request.path == WEBSOCKET_PATH and request.method == "GET":
                raise ProblemError(426, "this path serves a WebSocket", None, {"Upgrade": "websocket"})
            if request.path == WEBSOCKET_PATH:
                raise ProblemError(405, f"{request.method:.80} is not answered here", None, {"Allow": "GET"})
            return None
        request.scope["bms.route"] = route.operation  # type: ignore[typeddict-unknown-key]
        _of_guard(request.scope)["route"] = route.operation
        if route.scope is not None:
            g.claims = authenticate(context.mesh, token)
            if route.scope != ANY_TOKEN:
                require(g.claims, route.scope)
        elif token is not None and route.name == "get_ready":
            g.claims = authenticate(context.mesh, token)
        if request.method == "OPTIONS":
            return Response(b"", status=204, headers={"Allow": table.allowed(route)})
        return None

    return admit


def _shown(problem: Problem) -> Response:
    return Response(problem.encode(), status=problem.status, headers=problem.headers, content_type=PROBLEM_TYPE)


async def _http_failure(error: HTTPException) -> Response:
    """What the router or a body's reader refuses."""
    status = error.code or 500
    if status >= 500:
        return _shown(unexpected())
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    if status == 404:
        return _shown(http_problem(404, "there is nothing at this path"))
    if status == 405:
        return _shown(http_problem(405, f"{request.method:.80} is not answered here", headers))
    return _shown(http_problem(status, error.description or error.name, headers))


async def _failure(error: MeshError) -> Response:
    route: Route | None = g.get("route")
    problem = problem_of(error, 413 if route is None else route.limit_status)
    if problem.status >= 500 and not isinstance(error, ProblemError):
        log.info("%s: %s: %s", request.scope.get("bms.route"), type(error).__name__, error)
    return _shown(problem)


async def _gone(error: Exception) -> Response:
    """Nobody hears of it."""
    return Response(b"", status=400)


def _unexpected(context: Context) -> Callable[[Exception], Awaitable[Response]]:
    async def fail(error: Exception) -> Response:
        """A bug of ours costs this request."""
        log.error("%s failed", request.scope.get("bms.route"), exc_info=error)
        context.mesh.counters.add("http.crashes")
        return _shown(unexpected())

    return fail
