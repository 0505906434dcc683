"""A node that serves a small application over HTTP and HTTPS, and clients that can be as rude as they like.

The application is ours and the servers are the node's own: what is tested is everything below the routes.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import attrs
import h2.config
import h2.connection
import h2.events
import trio
import trio_websocket
import wsproto.utilities

import bms
from bms.api.context import Context
from bms.api.serving import Servers
from bms.values import Address
from helpers import until

__all__ = [
    "Answer",
    "Http2Client",
    "Site",
    "answer_of",
    "ask",
    "dial",
    "forget_clients",
    "get",
    "hang_up",
    "open_site",
    "serve_site",
    "tls",
    "websocket",
    "websocket_on",
]

DEADLINE_S = 60.0
SITE_S = 240.0  # a test that waits for longer waits for ever
_dialed: list[trio.socket.SocketType] = []
ALL_AT_ONCE: dict[str, Any] = {"requests_per_s": 100_000.0}


async def _read(receive: Any) -> bytes | None:
    """A whole body; None if the client has gone before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def _reply(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@attrs.define(eq=False)
class Site:
    """The node, what its application has seen, and doors to hold requests at."""

    mesh: bms.Mesh
    servers: Any = None
    context: Any = None
    seen: list[Any] = attrs.field(factory=list)
    cancelled: int = 0  # or failed, or running still
    ended: int = 0
    door: trio.Event = attrs.field(factory=trio.Event)

    @property
    def http(self) -> Address:
        """Where HTTP is."""
        assert self.mesh.http_url is not None
        return Address.parse(self.mesh.http_url.removeprefix("http://"))

    @property
    def https(self) -> Address:
        """Where HTTPS is."""
        assert self.mesh.https_url is not None
        return Address.parse(self.mesh.https_url.removeprefix("https://"))

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self.servers._connections)

    def count(self, name: str) -> int:
        """A counter of the node."""
        return self.mesh.counters[name]

    async def settle(self) -> None:
        """Until no connection is left."""
        await until(lambda: self.connections == 0, DEADLINE_S)

    async def app(self, context: Context, scope: Any, receive: Any, send: Any) -> None:
        """The application."""
        self.seen.append(scope)
        self.cancelled += 1
        if scope["type"] == "websocket":
            await self._websocket(context, scope["path"], receive, send)
        else:
            await self._http(scope, receive, send)
        self.cancelled -= 1
        self.ended += 1

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        path, _, number = scope["path"].rpartition("/")
        if path == "/big":
            await _reply(send, 200, bytes(int(number)))
        elif path == "/body":
            body = await _read(receive)
            if body is not None:
                await _reply(send, 200, b"%d" % len(body))
        elif path == "/wait":
            await self.door.wait()
            await _reply(send, 200, b"done")
        elif path == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_gone, receive, nursery.cancel_scope)
                while True:
                    await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
        elif path == "/boom":
            raise ValueError("a bug in the application")
        else:
            await _reply(send, 200, b"hello")

    async def _until_gone(self, receive: Any, scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _websocket(self, context: Context, path: str, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if path == "/late/":
            await self.door.wait()
        await send({"type": "websocket.accept"})
        async with trio.open_nursery() as nursery:
            if path == "/polite/":
                nursery.start_soon(self._say_why, context, send)
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    break
                await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})
            nursery.cancel_scope.cancel()

    async def _say_why(self, context: Context, send: Any) -> None:
        await context.closing.wait()
        await send({"type": "websocket.close", "code": 1001, "reason": context.reason})


async def serve_site(mesh: bms.Mesh) -> Site:
    """Have a running node serve the small application in place of its own, once HTTP is switched on."""
    assert mesh._life is not None
    site = Site(mesh)

    def make(context: Context) -> Any:
        site.context = context
        return partial(site.app, context)

    site.servers = mesh._web = Servers(mesh, mesh._world, mesh._life, make)
    return site


@asynccontextmanager
async def open_site(*, https: bool = False, drain_s: float = 5.0, **http: Any) -> AsyncIterator[Site]:
    """A node with the small application at a free port; with `https` at another over TLS."""
    with trio.fail_after(SITE_S):
        async with bms.open_mesh(
            dev_mode=True, enable_discovery=False, enable_persistence=False, http={**ALL_AT_ONCE, **http},
            limits={"drain_timeout_s": drain_s},
        ) as mesh:  # fmt: skip
            site = await serve_site(mesh)
            with trio.fail_after(DEADLINE_S):
                await mesh.start_http_server("127.0.0.1:0")
                if https:
                    await mesh.start_https_server("127.0.0.1:0")
            try:
                yield site
            finally:
                forget_clients()


# ---------------------------------------------------------------------- clients


def forget_clients(keep: int = 0) -> None:
    """Close all connections that were dialed, but the newest `keep`."""
    while len(_dialed) > keep:
        _dialed.pop(0).close()


def tls(*alpn: str, **settings: Any) -> ssl.SSLContext:
    """A client's context that believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    for name, value in settings.items():
        setattr(context, name, value)
    return context


async def dial(
    address: Address, context: ssl.SSLContext | None = None, *, source: str = "127.0.0.1", receive_buffer: int = 0
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Connect, from another address of this machine if asked."""
    sock = trio.socket.socket()
    _dialed.append(sock)  # closed with the site at the latest
    try:
        if receive_buffer:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
        await sock.bind((source, 0))
        await sock.connect((address.host, address.port))
    except BaseException:
        sock.close()
        raise
    plain = trio.SocketStream(sock)
    if context is None:
        return plain
    stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
    await stream.do_handshake()
    return stream


@attrs.frozen
class Answer:
    """What came back: 0 if nothing, or nothing that is HTTP; `is_open` if the server left the connection open."""

    status: int
    head: bytes
    body: bytes


async def answer_of(stream: trio.abc.Stream) -> Answer:
    """One answer with a Content-Length, or whatever comes until the end."""
    data = b""
    with trio.fail_after(DEADLINE_S):
        while True:
            head, blank, body = data.partition(b"\r\n\r\n")
            length = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
            if blank and length and len(body) >= int(length[0]):
                break
            try:
                more = await stream.receive_some(65536)
            except trio.BrokenResourceError:
                break
            if not more:
                break
            data += more
    status = int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
    return Answer(status, head, body)


async def ask(stream: trio.abc.Stream, request: bytes) -> Answer:
    """Send raw bytes and read one answer. The server may close before all has been sent."""
    try:
        with trio.fail_after(DEADLINE_S):
            await stream.send_all(request)
    except trio.BrokenResourceError:
        pass
    return await answer_of(stream)


async def get(address: Address, path: str = "/hello/", *, source: str = "127.0.0.1") -> Answer:
    """One GET on a connection of its own."""
    stream = await dial(address, source=source)
    async with stream:
        return await ask(stream, b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())


class _Reader:
    """What trio-websocket takes for a nursery. Its reader fails on pings that come while it closes (`hang_up`)."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run the library's reader."""
        self._nursery.start_soon(self._run, task)

    async def _run(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except wsproto.utilities.LocalProtocolError:
            pass


async def websocket_on(
    nursery: trio.Nursery, stream: Any, host: str, path: str, **options: Any
) -> trio_websocket.WebSocketConnection:
    """Upgrade `stream`."""
    return await trio_websocket.wrap_client_stream(cast(trio.Nursery, _Reader(nursery)), stream, host, path, **options)


async def hang_up(connection: trio_websocket.WebSocketConnection) -> None:
    """Say goodbye and close. If the library's reader fails meanwhile, it would wait for an answer for ever."""
    with trio.move_on_after(1):
        await connection.aclose()


@asynccontextmanager
async def websocket(
    site: Site, path: str, *, secure: bool = False
) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """A well-behaved WebSocket."""
    stream = await dial(site.https if secure else site.http, tls() if secure else None)
    async with stream, trio.open_nursery() as nursery:
        connection = await websocket_on(nursery, stream, "localhost", path)
        try:
            yield connection
        finally:
            await hang_up(connection)
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()  # its reader may hold a message that nobody takes any more


class Http2Client:
    """A client that can say anything in HTTP/2; `events` is what it has heard."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.connection = h2.connection.H2Connection(config)
        self.events: list[h2.events.Event] = []
        self.is_closed = False
        self._turn = trio.Lock()

    @classmethod
    async def connect(cls, address: Address, *, source: str = "127.0.0.1") -> Http2Client:
        """Over TLS, with ALPN."""
        client = cls(await dial(address, tls("h2"), source=source))
        client.connection.initiate_connection()
        await client.flush()
        return client

    def headers(self, path: str = "/hello/", method: str = "GET", **more: str) -> list[tuple[str, str]]:
        """The header of a request."""
        pseudo = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        return [*pseudo, *more.items()]

    async def request(self, path: str = "/hello/", method: str = "GET", **more: str) -> int:
        """Begin a request and end it; its stream."""
        stream_id = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream_id, self.headers(path, method, **more), end_stream=True)
        await self.flush()
        return stream_id

    async def flush(self) -> None:
        """Send what there is; harmless once the server has closed."""
        try:
            with trio.fail_after(DEADLINE_S):
                async with self._turn:
                    await self.stream.send_all(self.connection.data_to_send())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.is_closed = True

    async def hear(self, *wanted: type[h2.events.Event]) -> Any:
        """The first event of these kinds, or None if the connection ends without one."""
        with trio.fail_after(DEADLINE_S):
            while True:
                for event in self.events:
                    if isinstance(event, wanted):
                        self.events.remove(event)
                        return event
                if self.is_closed or not await self._receive():
                    return None

    async def _receive(self) -> bool:
        try:
            data = await self.stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self.is_closed = True
            return False
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.events.append(event)
        await self.flush()
        return True

    async def body(self, stream_id: int) -> bytes:
        """All of an answer's body."""
        found = b""
        while True:
            event = await self.hear(h2.events.Event)
            assert event is not None, "the connection has ended"
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream_id:
                found += event.data
            if isinstance(event, h2.events.StreamEnded) and event.stream_id == stream_id:
                return found
