"""What stands between the application and each request: rate, size and time of what comes, time of what goes.

    rate    one token a request or WebSocket (`limits.Rates`); without one 429 with Retry-After, and the end of the
            connection for an address that is barred
    number  `UNDER_WAY_OF_ONE_MAX` requests and streams of one address at once, and a few where there are more than
            `UNDER_WAY_MAX` in all: 429. Each may have 200 KiB of its answer waiting for a client that does not take
            it, and a connection of HTTP/2 has many of them
    size    a body that is declared or turns out longer than `http.body_bytes_max`: 413. One that turns out so has been
            read in vain, which costs as much CPU as 50 requests, and its address a share of its tokens
    pieces  of a body cost about 30 us each, however small: where they are many and small, an address has
            `_PIECES_A_TOKEN` for each request that it may send, in a bucket beside that of requests. Beyond that they
            wait, as long as the body may take
    time    a body that takes longer than `http.body_timeout_s`, and a second more for each 16 KiB of it: 408
    answer  sent in pieces of 64 KiB; a client that does not take one within `http.send_timeout_s` loses its connection.
            HTTP/2 lets a client refuse to take any while its socket reads on, so the socket's own bound is not enough

A refusal is problem+json (RFC 9457). The application then sees a client that has gone, and what it sends goes nowhere.
Each request is counted by scheme, method and status (`http.requests`), with the time until its answer began, since an
answer may be a stream without end (`http.request_s`).
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol

import trio

from ..config import HttpConfig
from ..counters import Counters
from ..limits import Rates
from .stream import PIECE_BYTES

__all__ = ["UNDER_WAY_MAX", "UNDER_WAY_OF_ONE_MAX", "Client", "Guard"]

log = logging.getLogger("bms.api")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

UNDER_WAY_OF_ONE_MAX, UNDER_WAY_MAX = 256, 1024
_UNDER_WAY_ALWAYS = 4  # of an address that asks for little while others ask for much
_BODY_BYTES_PER_S = 16 * 1024
_PIECES_A_TOKEN = 32
_PIECE_BYTES = 1024  # one for each so many bytes is free
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Client(Protocol):
    """Whose request it is."""

    address: str
    peer: tuple[str, int]
    is_tls: bool
    client_certificate: bytes | None

    def cut(self, why: str) -> None:
        """End its connection now."""
        ...


class Guard:
    """An ASGI application around another; one for all connections."""

    def __init__(self, app: Any, settings: Callable[[], HttpConfig], rates: Rates, counters: Counters) -> None:
        self._app = app
        self._settings = settings
        self._rates = rates
        self._piece_rates = Rates(lambda: settings().requests_per_s)
        self._counters = counters
        self._under_way: Counter[str] = Counter()

    async def __call__(self, client: Client, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket of `client`."""
        scope["extensions"]["bms"] = {
            "tls": client.is_tls,
            "client_certificate": client.client_certificate,
            "peer": client.peer,
        }
        visit = _Visit(client, scope, receive, send, self._settings(), self._piece_rates, self._counters)
        now = trio.current_time()
        wait_s = self._rates.take(client.address, now)
        limit = UNDER_WAY_OF_ONE_MAX if self._under_way.total() < UNDER_WAY_MAX else _UNDER_WAY_ALWAYS
        if self._under_way[client.address] >= limit:
            wait_s = wait_s or 1.0
        self._under_way[client.address] += 1
        try:
            if wait_s is not None:
                self._counters.add("http.refused_rate")
                seconds = math.ceil(wait_s)
                detail = f"too many requests of one address; again in {seconds} s"
                await visit.refuse(429, detail, [(b"retry-after", b"%d" % seconds)])
                if self._rates.is_barred(client.address, now):  # not even refusals are for free
                    client.cut("goes on asking")
            elif not await visit.is_too_large():
                await self._app(scope, visit.receive, visit.send)
        finally:
            self._under_way[client.address] -= 1
            if not self._under_way[client.address]:
                del self._under_way[client.address]
            visit.finish()
            if visit.is_overlong:
                self._rates.charge(client.address, trio.current_time())


class _Visit:
    """One request, or one WebSocket."""

    def __init__(
        self, client: Client, scope: Any, receive: Receive, send: Send, settings: HttpConfig, pieces: Rates,
        counters: Counters,
    ) -> None:  # fmt: skip
        self._client = client
        self._scope = scope
        self._receive = receive
        self._send = send
        self._settings = settings
        self._piece_rates = pieces
        self._counters = counters
        self._started = trio.current_time()
        self._is_websocket = scope["type"] == "websocket"
        self._body_bytes = self._pieces = self._pieces_paid = 0
        self._is_complete = self._is_websocket
        self._status = 0
        self._began: float | None = None
        self._is_refused = False
        self.is_overlong = False
        """Whether a body has been read that turned out too long."""

    async def is_too_large(self) -> bool:
        """Whether the request declares a body that is too long; it has been refused then."""
        declared = [value for name, value in self._scope["headers"] if name == b"content-length"]
        if not any(not value.isdigit() or int(value[:20]) > self._settings.body_bytes_max for value in declared):
            return False
        await self._refuse_size()
        return True

    async def receive(self) -> Any:
        """ASGI's `receive`."""
        if self._is_complete:
            return await self._receive()
        allowed_s = self._settings.body_timeout_s + self._body_bytes / _BODY_BYTES_PER_S
        message: Any = None
        with trio.CancelScope(deadline=self._started + allowed_s) as scope:
            message = await self._receive()
            if message["type"] == "http.request":
                self._body_bytes += len(message.get("body", b""))
                await self._pay_for_piece()
        if scope.cancelled_caught:
            self._counters.add("http.slow_bodies")
            await self.refuse(408, f"the body has not come within {allowed_s:.0f} s")
        elif message["type"] == "http.request":
            self._is_complete = not message.get("more_body", False)
            if self._body_bytes > self._settings.body_bytes_max:
                self.is_overlong = True
                await self._refuse_size()
            else:
                return message
        self._is_complete = True
        return {"type": "http.disconnect"}

    async def _pay_for_piece(self) -> None:
        self._pieces += 1
        while self._pieces - self._body_bytes // _PIECE_BYTES >= self._pieces_paid + _PIECES_A_TOKEN:
            while not self._piece_rates.spend(self._client.address, trio.current_time()):  # noqa: ASYNC110 - time's event
                await trio.sleep(1 / self._settings.requests_per_s)
            self._pieces_paid += _PIECES_A_TOKEN

    async def send(self, message: Any) -> None:
        """ASGI's `send`."""
        await trio.lowlevel.checkpoint()
        if self._is_refused:
            return
        kind = message["type"]
        if kind == "http.response.start":
            self._began = trio.current_time()
            self._status = int(message["status"])
        elif kind == "websocket.accept":
            self._status = 101
        body = message.get("body") if kind == "http.response.body" else None
        if body and len(body) > PIECE_BYTES:
            view = memoryview(body)
            for start in range(0, len(body), PIECE_BYTES):
                is_last = start + PIECE_BYTES >= len(body)
                piece = {**message, "body": bytes(view[start : start + PIECE_BYTES])}
                await self._bounded(piece if is_last else {**piece, "more_body": True}, 1)
        else:
            size = len(message.get("text") or message.get("bytes") or b"")
            await self._bounded(message, 1 + size // PIECE_BYTES)

    async def refuse(self, status: int, detail: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Answer with a problem in the application's place; the client is cut where an answer has begun already."""
        if self._is_refused:
            return
        self._is_refused = True
        if self._status:
            self._client.cut(detail)
            return
        self._status = status
        title = HTTPStatus(status).phrase
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "error": "LimitError"}
        body = json.dumps(problem).encode()
        fields = [
            (b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"), *(headers or []),
        ]  # fmt: skip
        if status != 429 and self._scope.get("http_version", "1.1") < "2":
            fields.append((b"connection", b"close"))  # what is left of the body is not read
        prefix = "websocket.http.response" if self._is_websocket else "http.response"
        await self._bounded({"type": f"{prefix}.start", "status": status, "headers": fields}, 1)
        await self._bounded({"type": f"{prefix}.body", "body": body, "more_body": False}, 1)

    def finish(self) -> None:
        """Count it."""
        method = self._scope.get("method", "WEBSOCKET")
        seconds = (self._began or trio.current_time()) - self._started
        self._counters.count(
            "http.requests", self._scope["scheme"], method if method in _METHODS or self._is_websocket else "OTHER",
            str(self._status or "cut"),
        )  # fmt: skip
        if not self._is_websocket:
            self._counters.observe("http.request_s", seconds)
            if seconds >= self._counters.slow_s:
                # The route and not the path, where a key may stand: statistics are shown to who may read no data.
                route = self._scope["extensions"]["bms"].get("route", f"{method} none")
                self._counters.slow("http.request", seconds, {"route": route, "status": self._status})
        log.debug("%s %s %s: %s in %.1f ms", self._client.peer[0], method, self._scope["path"][:200], self._status,
                  1000 * seconds)  # fmt: skip

    async def _refuse_size(self) -> None:
        self._counters.add("http.refused_size")
        await self.refuse(413, f"a body has at most {self._settings.body_bytes_max} bytes (http.body_bytes_max)")

    async def _bounded(self, message: Any, pieces: int) -> None:
        with trio.move_on_after(self._settings.send_timeout_s * pieces) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            self._is_refused = True
            self._counters.add("http.slow_readers")
            self._client.cut("does not read its answer")
