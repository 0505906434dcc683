"""One connection of a client: what it may hold, for how long, and how it ends, whatever it sends.

It stands where Hypercorn has its `TCPServer`: bytes go to a protocol (`protocols`), each request runs the application
in a task of its own, and what is to be sent goes through one writer task. So a task that is cancelled while it waits to
send leaves the stream intact; nothing here is shielded; and the nursery of the connection ends within a moment of being
cancelled, whatever client or application do.

    phase       ends when                                   at the latest after
    handshake   TLS is up                                   http.header_timeout_s
    header      a request's header is there                 http.header_timeout_s
    busy        all requests have been answered             body and answer have bounds of their own (`guard`); HTTP/2
                                                            and WebSockets: http.idle_timeout_s without a byte, while
                                                            they are pinged three times in it
    idle        the next request begins                     http.idle_timeout_s

What waits to be sent is bounded by `_BUFFER_BYTES` and one piece for each task that sends; those that come are held
back by the application's inbox, and by what is still to be sent. An exception ends the connection alone: it is counted,
and logged at most once in ten seconds, so that nobody can fill the log.

Absent: whatever a request means. Deadlines of the application itself are its own.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import attrs
import trio
from hypercorn.config import Config as ServerConfig
from hypercorn.events import Closed, RawData, Updated
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ConnectionState

from ..config import HttpConfig
from ..counters import Counters
from ..limits import Rates
from .guard import Guard
from .protocols import Http1, Http2, PriorKnowledgeError
from .stream import ServerStream

__all__ = ["Connection", "Desk"]

log = logging.getLogger("bms.api")

_RECEIVE_BYTES = 8 * 1024  # of small frames of HTTP/2 that is 20 ms of work without a pause
_BUFFER_BYTES = 64 * 1024
_INBOX_MESSAGES = 8
_APPS_MAX = 100
_FAREWELL_S = 1.0
_LOG_INTERVAL_S = 10.0


@attrs.define(eq=False)
class Desk:
    """What all connections of a node share."""

    guard: Guard
    rates: Rates
    counters: Counters
    settings: Callable[[], HttpConfig]
    server_config: Callable[[], ServerConfig]
    _logged_at: float = -_LOG_INTERVAL_S
    _unlogged: int = 0

    def report(self, what: str, error: BaseException) -> None:
        """Count an exception, and log it unless one has just been logged."""
        self.counters.add("http.errors")
        now = trio.current_time()
        if now - self._logged_at < _LOG_INTERVAL_S:
            self._unlogged += 1
            return
        log.error("%s failed; others go on (%d more like it since the last)", what, self._unlogged, exc_info=error)
        self._logged_at, self._unlogged = now, 0


class _Inbox:
    """Messages for one run of the application. Full, it holds back whoever brings more; the end always fits."""

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self.end: Any = None
        self.is_closed = False

    async def put(self, message: Any) -> None:
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self.end = self.end or message
            self._changed.unpark_all()
            return
        while len(self._messages) >= _INBOX_MESSAGES and not self.is_closed and self.end is None:
            await self._changed.park()
        self._messages.append(message)
        self._changed.unpark_all()

    async def get(self) -> Any:
        await trio.lowlevel.checkpoint()
        while not self._messages and self.end is None:
            await self._changed.park()
        self._changed.unpark_all()
        return self._messages.popleft() if self._messages else self.end

    def close(self) -> None:
        self.is_closed = True
        self._messages.clear()
        self._changed.unpark_all()


class _Tasks:
    """Hypercorn's idea of a task group: runs the application for each request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.running = 0
        self._fewer = trio.lowlevel.ParkingLot()

    async def spawn_app(
        self, app: Any, config: ServerConfig, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        while self.running >= _APPS_MAX:  # streams that were reset count until the application has noticed
            await self._fewer.park()
        inbox = _Inbox()
        self.running += 1
        self._connection.nursery.start_soon(self._run, scope, inbox, send)
        return inbox.put

    def spawn(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        self._connection.nursery.start_soon(function, *arguments)

    async def until_quiet(self) -> None:
        while self.running:
            await self._fewer.park()

    async def _run(self, scope: Any, inbox: _Inbox, send: Callable[[Any], Awaitable[None]]) -> None:
        async def send_unless_gone(message: Any) -> None:
            if inbox.end is None:
                await send(message)
            else:
                await trio.lowlevel.checkpoint()

        desk = self._connection.desk
        try:
            try:
                await desk.guard(self._connection, scope, inbox.get, send_unless_gone)
            except Exception as error:
                desk.report(f"a request of {self._connection.address}", error)
            finally:
                inbox.close()
            if self._connection.is_up:
                await send(None)
        finally:
            self.running -= 1
            self._fewer.unpark_all()


def _worker() -> tuple[WorkerContext, trio.Event]:
    """Hypercorn's context of a worker, and the event that makes its protocols end with the requests that they have."""
    worker, event = WorkerContext(None), trio.Event()
    cast(EventWrapper, worker.terminated)._event = event
    return worker, event


class Connection:
    """One connection, from accept to close. `run` serves it; the rest may be called at any time."""

    nursery: trio.Nursery
    protocol: Http1 | Http2

    def __init__(
        self, stream: ServerStream, peer: tuple[str, int], address: str, desk: Desk, context: ssl.SSLContext | None
    ) -> None:
        self.desk = desk
        self.peer = peer
        self.address = address
        self.is_tls = context is not None
        self.client_certificate: bytes | None = None
        self.is_up = True
        self._context = context
        self._stream = stream
        self._worker, self._terminated = _worker()
        self._idle_since: float | None = trio.current_time()
        self._header_begun = False
        self._reading = trio.CancelScope(deadline=trio.current_time() + desk.settings().header_timeout_s)
        self._whole = trio.CancelScope()
        self._out = bytearray()
        self._out_changed = trio.lowlevel.ParkingLot()
        self._saw_end = self._is_finishing = self._is_written = False
        self._is_draining = self._is_over = False
        self._tasks = _Tasks(self)

    @property
    def idle_since(self) -> float | None:
        """See `limits.Guest`."""
        return self._idle_since

    # ------------------------------------------------------------------ from outside

    def evict(self) -> None:
        """Give way to another connection."""
        self.desk.counters.add("http.evicted")
        self.cut("gives way to another")

    def cut(self, why: str) -> None:
        """End it now: nothing more is sent, and its tasks are cancelled."""
        if self.is_up:
            log.debug("the connection of %s is cut: %s", self.peer[0], why)
            self.is_up = False
            self._stream.close()
            self._whole.cancel()

    def drain(self, reason: str, grace_s: float) -> None:
        """End it soon: at once if it is idle, otherwise when its requests are done.

        WebSockets that have not ended by themselves after `grace_s` are told the reason.
        """
        if self._is_draining or not self.is_up:
            return
        self._is_draining = True
        self._terminated.set()
        if self._idle_since is not None:
            self._reading.cancel()
        elif not self._is_finishing:  # its nursery may be closed already
            self.nursery.start_soon(self._close_websockets, reason, grace_s)

    async def _close_websockets(self, reason: str, grace_s: float) -> None:
        await trio.sleep(grace_s)
        for websocket in self.protocol.websockets:
            await websocket.close(1001, reason)

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Serve until the connection ends. Raises nothing but cancellation."""
        try:
            with self._whole:
                await self._run()
        except Exception as error:
            self.desk.report(f"a connection of {self.address}", error)
        finally:
            self.is_up = False
            self._stream.close()

    async def _run(self) -> None:
        if self._context is not None and not await self._handshake(self._context):
            return
        self._reading.deadline = trio.current_time() + self.desk.settings().header_timeout_s
        async with trio.open_nursery() as self.nursery:
            self.protocol = self._make_protocol(self._stream.alpn == "h2")
            self.nursery.start_soon(self._write)
            self.nursery.start_soon(self._ping)
            await self.protocol.initiate()
            with self._reading:
                await self._read()
            await self._finish()
            self.nursery.cancel_scope.cancel()

    async def _handshake(self, context: ssl.SSLContext) -> bool:
        try:
            with self._reading:
                await self._stream.handshake(context)
        except trio.BrokenResourceError as error:
            self.desk.counters.add("http.handshakes_failed")
            log.debug("no handshake with %s: %s", self.peer[0], error)
            return False
        if self._reading.cancelled_caught:
            self.desk.counters.add("http.slow_handshakes")
            return False
        self.client_certificate = self._stream.client_certificate
        self._reading = trio.CancelScope()
        return True

    def _make_protocol(self, is_http2: bool) -> Http1 | Http2:
        local = self._stream.local
        place: tuple[Any, ...] = (
            None, self.desk.server_config(), self._worker, self._tasks, ConnectionState({}), self.is_tls,
            self.peer, (local[0], local[1]), self._send,
        )  # fmt: skip
        return (Http2 if is_http2 else Http1)(*place, on_flood=self._flooded)

    def _flooded(self, what: str, is_bare: bool = True) -> None:
        self.desk.counters.count("http.floods", what)
        # What carries a little may be of a program that knows no better, and others have its address too.
        bill = self.desk.rates.punish if is_bare else self.desk.rates.charge
        bill(self.address, trio.current_time())
        log.debug("%s floods with %s", self.peer[0], what)

    async def _read(self) -> None:
        while True:
            try:
                data = await self._stream.receive(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                self._saw_end = True
                return
            settings = self.desk.settings()
            if self._idle_since is None:
                self._reading.deadline = math.inf  # what holds it up now is not the client
            elif not self._header_begun:
                self._header_begun = True
                allowed_s = settings.idle_timeout_s if isinstance(self.protocol, Http2) else settings.header_timeout_s
                self._reading.deadline = trio.current_time() + allowed_s
            await self._handle(data)
            if self._idle_since is None and (isinstance(self.protocol, Http2) or self.protocol.is_websocket):
                self._reading.deadline = trio.current_time() + settings.idle_timeout_s

    async def _handle(self, data: bytes) -> None:
        try:
            await self.protocol.handle(RawData(data))
        except PriorKnowledgeError as error:
            self.protocol = self._make_protocol(True)
            await self.protocol.initiate()
            await self.protocol.handle(RawData(error.data))

    async def _finish(self) -> None:
        """Nothing more is read: let the application know, send what is ready, say goodbye."""
        if self._reading.cancelled_caught and not self._is_draining and not self._is_over:
            self.desk.counters.count("http.timeouts", "idle" if self._idle_since is not None else "silent")
        with trio.move_on_after(_FAREWELL_S):
            await self.protocol.handle(Closed())
            await self._tasks.until_quiet()
        await self.protocol.goodbye()
        self._is_finishing = True
        self._out_changed.unpark_all()
        while not self._is_written:
            await self._out_changed.park()
        if self.protocol.is_owed and not self._saw_end:
            await self._stream.linger()

    # ------------------------------------------------------------------ Hypercorn's side

    async def _send(self, event: Any) -> None:
        """What a protocol has to say: bytes, the end, or whether it is idle now."""
        if isinstance(event, RawData):
            self._out += event.data
            self._out_changed.unpark_all()
            while len(self._out) > _BUFFER_BYTES:
                await self._out_changed.park()
        elif isinstance(event, Closed):
            self._is_over = True
            self._reading.cancel()
        elif isinstance(event, Updated):
            self._update(event.idle)

    def _update(self, is_idle: bool) -> None:
        now, settings = trio.current_time(), self.desk.settings()
        if not is_idle:
            self._idle_since = None
            self._reading.deadline = math.inf
        elif self._idle_since is None:
            self._idle_since = now
            self._header_begun = isinstance(self.protocol, Http2)  # of HTTP/2 pings and the like may come meanwhile
            self._reading.deadline = now + settings.idle_timeout_s
            if self._is_draining:
                self._reading.cancel()

    # ------------------------------------------------------------------ sending

    async def _write(self) -> None:
        """Send what there is, until all is said; then the connection ends."""
        try:
            while True:
                while not self._out:
                    if self._is_finishing:
                        self._is_written = True
                        self._out_changed.unpark_all()
                        return
                    await self._out_changed.park()
                data, self._out = bytes(self._out), bytearray()
                self._out_changed.unpark_all()
                await self._stream.send(data, self.desk.settings().send_timeout_s)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.desk.counters.add("http.broken")
            self.cut(str(error))

    async def _ping(self) -> None:
        """A sign of life is asked of HTTP/2 clients whose requests last long; WebSockets do so themselves."""
        while True:
            await trio.sleep(self.desk.settings().idle_timeout_s / 3)
            if isinstance(self.protocol, Http2) and self._idle_since is None:
                await self.protocol.ping()
