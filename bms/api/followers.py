"""Who follows the events of a node over HTTP: a WebSocket, or server-sent events (the HTML standard's) as the plain
alternative. Both are ASGI applications of their own, beside Quart: what it makes of a WebSocket whose client goes, a
cancellation or an exception, differs between its versions.

    GET /api/v1/events          WebSocket, subprotocol "bms.events.v1": one JSON object a text frame
    GET /api/v1/events/stream   text/event-stream: the same objects, with `id` (the cursor) and `event` (the type)

    ?types=node,data,…   what is wanted; without it all of node, data, message, health that the token may read
    ?prefix=             data events of keys that begin with it
    ?topics=a,b          messages on these topics
    ?take=true           take them: meanwhile this node counts as their subscriber, what was held for them comes first,
                         and senders hear that they are delivered. No reading, so it has a scope of its own
    ?since=<cursor>      go on behind it (SSE: also the header Last-Event-ID); without it from now on

The token is in the Authorization header, or the second subprotocol offered, "bms.token.<token>": a page cannot set
headers of a WebSocket. It is looked at again before events are sent and every `CHECK_S`.

First comes "hello" with the cursor where the stream begins; then "missed" if something between `since` and there is
gone; then events as they come. "stats" comes once a second to those who ask; it has no cursor. "bookmark" is a cursor
by itself: all up to it was looked at and is of no interest here, so that a client that comes back asks for little. It
comes after `KEEP_ALIVE_S` without anything else, so that a client that hears nothing knows that the connection is dead.

The end has a code and a reason, in the closing frame or as a last event "end":

    1001   the node stops, or the server moves
    1008   the token has ended; it does not allow what is asked for; the client has sent something
    1013   too many streams are open (SSE: 503)

What is wrong with the request itself (no token, a bad query) is answered by a status and a problem; Host and Origin
have been looked at by the gate of `app`, before it comes here.
A client is a position in the ring and at most `EVENTS_A_TURN` events that are being sent: one that does not read waits
in its connection's `send`, which `connection` bounds. Clients send nothing but pings, pongs and the end.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import trio

from ..control.answers import plain
from ..control.verbs import version
from ..errors import LocalProtocolError, MeshError, RefusedError, RemoteProtocolError
from ..monitor.events import Backlog, Event, parse_cursor
from ..security.tokens import Claims, allows
from .auth import authenticate
from .bodies import parse_query_untrusted
from .events import Bell
from .problems import PROBLEM_TYPE, Problem, ProblemError, problem_of

if TYPE_CHECKING:
    from .context import Context

__all__ = ["SCOPES_OF_TYPES", "STREAM_PATH", "SUBPROTOCOL", "WEBSOCKET_PATH", "Followers"]

WEBSOCKET_PATH = "/api/v1/events"
STREAM_PATH = "/api/v1/events/stream"
SUBPROTOCOL = "bms.events.v1"

SCOPES_OF_TYPES = {
    "node": "nodes:read",
    "data": "data:read",
    "message": "messages:read",
    "health": "status:read",
    "log": "logs:read",
    "stats": "status:read",
}
"""What a token needs for each type."""
TAKE_SCOPE = "messages:take"
"""What it needs for taking messages away from the program, which no scope that reads may."""

CHECK_S = 1.0
KEEP_ALIVE_S = 15.0
EVENTS_A_TURN = 64
STREAMS_MAX = 1000
HEARD_MAX = 1024
"""So much of a message is waited for, before a client that sends one is shown the door."""
TOPICS_MAX = 64

_USUAL = ("node", "data", "message", "health")
_IN_SUBPROTOCOL = "bms.token."
_CLOSE_S = 5.0
_REASON_BYTES_MAX = 123  # RFC 6455, section 5.5

GOING_AWAY, POLICY, TRY_LATER = 1001, 1008, 1013

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class _Ending(NamedTuple):
    """Why a stream is ended by this side."""

    code: int
    reason: str


class _Frame(NamedTuple):
    """One object to be sent."""

    type: str
    cursor: str | None
    text: str


@attrs.frozen
class _Wanted:
    """What a client asks for."""

    types: tuple[str, ...]
    prefix: bytes
    topics: tuple[str, ...] | None
    takes: bool
    since: str | None

    def fits(self, event: Event) -> bool:
        """Whether an event of a wanted kind is wanted."""
        if event.type == "data" and self.prefix:
            return _key(event).startswith(self.prefix)
        if event.type == "message" and self.topics is not None:
            return event.fields["topic"] in self.topics and not (self.takes and event.fields.get("held"))
        return True


def _key(event: Event) -> bytes:
    key = event.fields["key"]
    return base64.b64decode(event.fields["key_base64"]) if key is None else key.encode()


@attrs.frozen
class _Visitor:
    """Whoever has asked for a stream: their token, what it allows, what they want."""

    token: str = attrs.field(repr=False)
    claims: Claims
    wanted: _Wanted

    def not_allowed(self) -> str | None:
        """The scope that the token lacks for what is wanted."""
        needed = [SCOPES_OF_TYPES[type_] for type_ in self.wanted.types]
        if self.wanted.takes:
            needed.append(TAKE_SCOPE)
        return next((scope for scope in needed if not allows(self.claims.scopes, scope)), None)


class Followers:
    """The two applications. One for each application that is served; it may serve any number of connections."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.open = 0
        """Streams that are open now."""
        self._stats: tuple[float, str] = (float("-inf"), "")

    def takes(self, scope: Scope) -> bool:
        """Whether a request is for one of the two."""
        return (scope["type"], scope["path"]) in (("websocket", WEBSOCKET_PATH), ("http", STREAM_PATH))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one that `takes`."""
        await (self._websocket if scope["type"] == "websocket" else self._stream)(scope, receive, send)

    # ---------------------------------------------------------------- WebSocket

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            visitor = self._admit(scope)
            offered = scope.get("subprotocols") or []
            if offered and SUBPROTOCOL not in offered:
                raise ProblemError(400, f"the subprotocol is {SUBPROTOCOL}")
        except MeshError as error:
            await _refuse(scope, send, problem_of(error))
            return
        subprotocol = SUBPROTOCOL if offered else None
        accept: dict[str, Any] = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": []}
        await send({**accept, "bms.message_bytes_max": HEARD_MAX})

        async def put(frames: Sequence[_Frame]) -> None:
            for frame in frames:
                await send({"type": "websocket.send", "text": frame.text, "bytes": None})

        async def listen() -> _Ending | None:
            if (await receive())["type"] == "websocket.disconnect":
                return None
            return _Ending(POLICY, "nothing is sent to this node here")

        ending = await self._serve(visitor, put, listen)
        if ending is not None:
            reason = ending.reason.encode()[:_REASON_BYTES_MAX].decode("utf-8", "ignore")
            with trio.move_on_after(_CLOSE_S):
                await send({"type": "websocket.close", "code": ending.code, "reason": reason})

    # ---------------------------------------------------------------- server-sent events

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "GET":
                raise ProblemError(405, "only GET is answered here", None, {"Allow": "GET"})
            visitor = self._admit(scope)
            if self.open >= STREAMS_MAX:
                raise ProblemError(503, "too many streams are open")
            if lacking := visitor.not_allowed():
                raise ProblemError(403, f"the token lacks the scope {lacking}", RefusedError)
        except MeshError as error:
            await _answer(send, problem_of(error))
            return
        headers = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
        await send(_start(200, headers))

        async def put(frames: Sequence[_Frame]) -> None:
            body = "".join(_as_server_sent(frame) for frame in frames).encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass  # what a GET's body holds

        ending = await self._serve(visitor, put, listen)
        if ending is not None:
            with trio.move_on_after(_CLOSE_S):
                await put([_frame("end", None, code=ending.code, reason=ending.reason)])
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    # ---------------------------------------------------------------- both

    def _admit(self, scope: Scope) -> _Visitor:
        """Who asks, and for what. ProblemError, or another that says what is wrong with the request."""
        headers = _headers(scope)
        token = _token(headers, scope.get("subprotocols") or [])
        claims = authenticate(self.context.mesh, token)
        assert token is not None
        try:
            asked = parse_query_untrusted(scope["query_string"])
        except RemoteProtocolError as error:
            raise ProblemError(400, str(error)) from None
        if scope["type"] == "http" and (last := headers.get("last-event-id", [""])[-1]):
            asked["since"] = last  # of a client that comes back to the same address
        return _Visitor(token, claims, _wanted(asked, claims))

    async def _serve(
        self,
        visitor: _Visitor,
        put: Callable[[Sequence[_Frame]], Awaitable[None]],
        listen: Callable[[], Awaitable[_Ending | None]],
    ) -> _Ending | None:
        """Follow for one client until one of the sides ends it; None if the client did."""
        if self.open >= STREAMS_MAX:
            return _Ending(TRY_LATER, "too many streams are open")
        if lacking := visitor.not_allowed():
            return _Ending(POLICY, f"the token lacks the scope {lacking}")
        ending: list[_Ending | None] = []
        self.open += 1
        try:
            async with trio.open_nursery() as nursery:

                async def until(end: Callable[[], Awaitable[_Ending | None]]) -> None:
                    ending.append(await end())
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until, listen)
                nursery.start_soon(until, lambda: self._follow(visitor, put))
        finally:
            self.open -= 1
        return ending[0]

    async def _follow(self, visitor: _Visitor, put: Callable[[Sequence[_Frame]], Awaitable[None]]) -> _Ending:
        events, wanted = self.context.events, visitor.wanted
        with ExitStack() as ends:
            begin = events.cursor if wanted.since is None else wanted.since
            try:
                for topic in (wanted.topics or ()) if wanted.takes else ():
                    ends.enter_context(self.context.mesh.attend_topic(topic))
            except MeshError as error:
                return _Ending(POLICY, str(error))
            bell = Bell()
            ends.callback(events.on_publish(bell.ring))
            turn = _Turn(wanted, begin, trio.current_time())
            await put([self._hello(wanted, events.after(begin, limit=0).begin)])
            while True:
                if ending := self._ending(visitor):
                    return ending
                backlog = events.after(turn.cursor, turn.kinds, limit=EVENTS_A_TURN)
                frames = turn.take(backlog, trio.current_time())
                if turn.wants_stats(trio.current_time()):
                    frames.append(_Frame("stats", None, self._stats_text()))
                if frames or turn.is_silent(trio.current_time()):
                    await put(frames or [turn.bookmark()])
                elif backlog.is_all:
                    with trio.move_on_after(turn.patience(trio.current_time())):
                        await bell.wait()
                else:
                    await trio.lowlevel.checkpoint()

    def _ending(self, visitor: _Visitor) -> _Ending | None:
        if self.context.closing.is_set():
            return _Ending(GOING_AWAY, self.context.reason or "the server stops")
        try:
            self.context.mesh.verify_token(visitor.token)
        except MeshError as error:
            return _Ending(POLICY, str(error))
        return None

    def _hello(self, wanted: _Wanted, cursor: str) -> _Frame:
        mesh = self.context.mesh
        said = {"node_id": mesh.node_id, "name": mesh.config.node_name, "version": version(), "types": wanted.types}
        return _frame("hello", cursor, **said)

    def _stats_text(self) -> str:
        """Statistics as they are now; made once for all who ask within the same moment."""
        made, _ = self._stats
        if trio.current_time() - made >= CHECK_S / 2:
            mesh = self.context.mesh
            frame = _frame("stats", None, time=mesh.now(), **plain(mesh.collect_stats()))
            self._stats = (trio.current_time(), frame.text)
        return self._stats[1]


class _Turn:
    """Where one client stands, and what it was sent when."""

    def __init__(self, wanted: _Wanted, cursor: str, now: float) -> None:
        self.wanted = wanted
        self.kinds = frozenset(wanted.types) - {"stats"}
        self.cursor = cursor
        self._sent_at = now
        self._stats_at = now if "stats" in wanted.types else float("inf")

    def take(self, backlog: Backlog, now: float) -> list[_Frame]:
        """What is to be sent of it."""
        frames = []
        if backlog.missed != 0:
            frames.append(_frame("missed", backlog.begin, count=backlog.missed))
        frames += [_Frame(event.type, event.cursor, event.text) for event in backlog.events if self.wanted.fits(event)]
        self.cursor = backlog.cursor
        if frames:
            self._sent_at = now
        return frames

    def wants_stats(self, now: float) -> bool:
        """Whether a second has gone since the last."""
        if now < self._stats_at:
            return False
        self._stats_at = now + CHECK_S
        return True

    def patience(self, now: float) -> float:
        """How long to wait at most, in seconds."""
        return max(0.0, min(CHECK_S, self._stats_at - now))

    def is_silent(self, now: float) -> bool:
        """Whether it is time to say something; it is said then."""
        if now - self._sent_at < KEEP_ALIVE_S:
            return False
        self._sent_at = now
        return True

    def bookmark(self) -> _Frame:
        """How far this client has come."""
        return _frame("bookmark", self.cursor)


# -------------------------------------------------------------------- requests


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _token(headers: dict[str, list[str]], offered: Sequence[str]) -> str | None:
    for value in headers.get("authorization", [])[:1]:
        scheme, _, token = value.partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None
    return next((one.removeprefix(_IN_SUBPROTOCOL) for one in offered if one.startswith(_IN_SUBPROTOCOL)), None)


def _wanted(asked: dict[str, str], claims: Claims) -> _Wanted:
    unknown = set(asked) - {"types", "prefix", "topics", "take", "since"}
    if unknown:
        raise ProblemError(400, f"there is no parameter {min(unknown)!r:.80}")
    types = tuple(dict.fromkeys(asked.get("types", "").split(","))) if asked.get("types") else ()
    for type_ in types:
        if type_ not in SCOPES_OF_TYPES:
            raise ProblemError(400, f"types are {', '.join(SCOPES_OF_TYPES)}, not {type_!r:.80}")
    if not types:
        types = tuple(type_ for type_ in _USUAL if allows(claims.scopes, SCOPES_OF_TYPES[type_])) or _USUAL
    topics = tuple(dict.fromkeys(asked["topics"].split(","))) if "topics" in asked else None
    if topics is not None and (len(topics) > TOPICS_MAX or "message" not in types):
        raise ProblemError(400, f"topics are at most {TOPICS_MAX}, and go with the type message")
    if asked.get("take", "false") not in ("true", "false") or (topics is None and "take" in asked):
        raise ProblemError(400, "take is true or false, and goes with topics")
    since = asked.get("since") or None
    if since is not None:
        try:
            parse_cursor(since)
        except LocalProtocolError as error:
            raise ProblemError(400, str(error)) from None
    prefix = asked.get("prefix", "").encode("utf-8", "surrogateescape")
    return _Wanted(types, prefix, topics, asked.get("take") == "true", since)


# -------------------------------------------------------------------- answers


def _frame(type_: str, cursor: str | None, **fields: Any) -> _Frame:
    whole = {"type": type_, **({} if cursor is None else {"cursor": cursor}), **fields}
    return _Frame(type_, cursor, json.dumps(whole, separators=(",", ":")))


def _as_server_sent(frame: _Frame) -> str:
    place = "" if frame.cursor is None else f"id: {frame.cursor}\n"
    return f"{place}event: {frame.type}\ndata: {frame.text}\n\n"


def _start(status: int, headers: dict[str, str], kind: str = "http.response.start") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
    }


async def _answer(send: Send, problem: Problem, prefix: str = "") -> None:
    body = problem.encode()
    headers = {"content-type": PROBLEM_TYPE, "content-length": str(len(body)), **problem.headers}
    await send(_start(problem.status, headers, f"{prefix}http.response.start"))
    await send({"type": f"{prefix}http.response.body", "body": body, "more_body": False})


async def _refuse(scope: Scope, send: Send, problem: Problem) -> None:
    """Answer a WebSocket's request with a status."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await _answer(send, problem, "websocket.")
    else:
        await send({"type": "websocket.close", "code": POLICY})
