"""Hypercorn's HTTP/1.1, HTTP/2 and WebSocket protocols with what they need to face strangers.

The classes of Hypercorn 0.18 do the parsing (with h11, h2 and wsproto) and the conversation with the application. These
put in order what, as they are, ends or wedges a connection, or lets a client take more than its share:

    HTTP/1.1    an upgrade to h2c is ignored (RFC 9110, section 7.8 allows that), a WebSocket upgrade with a body is
                refused, as are frames that come before the upgrade is accepted, a body with two lengths, and lines of
                a header that end in a bare LF or go on in the next (RFC 9112, sections 2.2 and 5.2): a proxy in front
                may have read another request in them. The fields of a header are counted before they are parsed
    HTTP/2      data for a stream that has been answered is acknowledged and dropped, and the client told to stop (RFC
                9113, section 8.1); an answer that breaks off resets its stream; streams that clients reset
                (CVE-2023-44487) have a budget; priorities are ignored (RFC 9113, section 5.3.2), extended CONNECT and
                server push are not offered. h2 itself bounds CONTINUATION frames and the size of headers
    WebSocket   no compression, so nothing can unpack to more than was sent; a message that is too long, or wrong, gets
                its close code and ends the connection

Of each connection, bytes that carry nothing have a budget (`_idle_budget`): whole frames (pings, pongs, settings, empty
ones), and of a frame or chunk as much of its framing, extensions included, as is more than what it carries.

A client that breaks a budget is told so (ENHANCE_YOUR_CALM, 429, 1008) and its connection ends: `on_flood` hears of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h11
import trio
from h11._receivebuffer import ReceiveBuffer
from hypercorn.config import Config as ServerConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Data, EndBody, Request, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from hypercorn.utils import filter_pseudo_headers
from wsproto.connection import ConnectionState as WebSocketState
from wsproto.events import CloseConnection, Message, Ping, Pong
from wsproto.events import Event as WebSocketEvent
from wsproto.frame_protocol import CloseReason

from ..limits import Budget

__all__ = ["Http1", "Http2", "PriorKnowledgeError", "WebSocket", "server_config"]

PriorKnowledgeError = H2ProtocolAssumedError
"""A client without TLS speaks HTTP/2 from its first byte."""

STREAMS_MAX = 100
_RESETS_BURST, _RESETS_PER_S = 100.0, 10.0
_IDLE_BYTES_BURST, _IDLE_BYTES_PER_S = 16 * 1024.0, 1024.0
_FIELDS_MAX = 100  # of a header or trailer: each costs some 3 us to parse, and may be of three bytes, in HTTP/2 of one
_PSEUDO_FIELDS = 4  # HTTP/2 has a request's line in fields
_HTTP2_FRAMING, _WEBSOCKET_FRAMING = 9, 6  # bytes of a frame's header, a small one's
_REASON_BYTES_MAX = 120  # RFC 6455, section 5.5: 125 with the code


def server_config(log: Any, *, header_bytes_max: int, message_bytes_max: int, ping_interval_s: float) -> ServerConfig:
    """What Hypercorn's protocols go by. `log` is a `logging.Logger`."""
    config = ServerConfig()
    config.errorlog = log
    config.accesslog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = header_bytes_max
    config.h2_max_header_list_size = header_bytes_max
    config.h2_max_concurrent_streams = STREAMS_MAX
    config.keep_alive_max_requests = 1 << 62
    config.websocket_max_message_size = message_bytes_max
    config.websocket_ping_interval = ping_interval_s
    return config


def _idle_budget() -> Budget:
    return Budget(_IDLE_BYTES_PER_S, _IDLE_BYTES_BURST)


class WebSocket(WSStream):
    """One WebSocket (RFC 6455)."""

    def __init__(self, *place: Any, on_flood: Callable[..., None]) -> None:
        super().__init__(*place)
        self._on_flood = on_flood
        self._idle_bytes = _idle_budget()
        self._frame_bytes = 0  # of the frame that is coming

    async def handle(self, event: StreamEvent) -> None:
        """Take bytes, or the end."""
        if isinstance(event, Body | Data) and not self.closed:
            if not self.handshake.accepted:
                await self._send_error_response(400)
                await self.send(StreamClosed(stream_id=self.stream_id))
                return
            if self.connection.state is WebSocketState.CLOSED:
                return
        await super().handle(event)

    async def app_send(self, message: Any) -> None:
        """Take what the application says. Its "bms.message_bytes_max" of an accept bounds what it is sent."""
        if message is not None and message["type"] == "websocket.accept":
            self.buffer.max_length = min(self.buffer.max_length, message.get("bms.message_bytes_max", math.inf))
        await super().app_send(message)

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye to the client, and tell the application that it has gone."""
        if self.state is ASGIWebsocketState.CONNECTED:
            text = reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore")
            await self._send_wsproto_event(CloseConnection(code=code, reason=text))
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if not self._idle_bytes.take(self._idle_bytes_of(event), self.context.time()):
                self._on_flood("frames that carry nothing")
                await self.close(CloseReason.POLICY_VIOLATION, "too many frames that carry nothing")
                return
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except FrameTooLargeError:
                    await self.close(CloseReason.MESSAGE_TOO_BIG, f"at most {self.buffer.max_length} bytes")
                    return
                if event.message_finished:
                    assert self.app_put is not None
                    await self.app_put(self.buffer.to_message())
                    self.buffer.clear()
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                # In the state OPEN it is wsproto's own verdict on what the client has sent.
                is_verdict = self.connection.state is WebSocketState.OPEN
                if is_verdict or self.connection.state is WebSocketState.REMOTE_CLOSING:
                    await self._send_wsproto_event(event if is_verdict else event.response())
                await self.send(StreamClosed(stream_id=self.stream_id))
                return
            await trio.lowlevel.checkpoint()  # there may be hundreds in what has just come

    def _idle_bytes_of(self, event: WebSocketEvent) -> int:
        if isinstance(event, Ping | Pong):
            return _WEBSOCKET_FRAMING + len(event.payload)
        if not isinstance(event, Message):
            return 0
        self._frame_bytes += len(event.data)
        if not event.frame_finished:
            return 0
        carried, self._frame_bytes = self._frame_bytes, 0
        return max(0, _WEBSOCKET_FRAMING - carried)


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    return b",".join(value for key, value in headers if key == name).lower()


class _StrictLines(ReceiveBuffer):
    """What h11 reads a header's lines from, and a body's chunks. `take_idle` says whether so many bytes may be idle."""

    def __init__(self, take_idle: Callable[[int], bool]) -> None:
        super().__init__()
        self._take_idle = take_idle

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines of a header, if all of it is there, without their ends."""
        if not self._data.startswith(b"\r\n"):
            end = self._data.find(b"\r\n\r\n")
            ends = self._data.count(b"\n") - 1 if end < 0 else self._data.count(b"\n", 0, end)
            if ends > _FIELDS_MAX:
                raise h11.LocalProtocolError(f"a header has at most {_FIELDS_MAX} fields", error_status_hint=431)
        held = len(self)
        lines = super().maybe_extract_lines()
        if lines is not None:
            if held - len(self) != sum(len(line) + 2 for line in lines) + 2:
                raise h11.LocalProtocolError("a line of the header ends without CR LF")
            if any(line.startswith((b" ", b"\t")) for line in lines):
                raise h11.LocalProtocolError("a line of the header goes on in the next")
        return lines

    def maybe_extract_next_line(self) -> bytearray | None:
        """The line before a chunk, if all of it is there, with its end."""
        line = super().maybe_extract_next_line()
        if line is not None:
            try:
                carried = int(bytes(line).partition(b";")[0], 16)
            except ValueError:
                carried = 0  # h11 refuses it
            idle = len(line) + len(b"\r\n") - carried
            if idle > 0 and not self._take_idle(idle):
                raise h11.LocalProtocolError("too many chunks that carry little", error_status_hint=429)
        return line


class Http1(H11Protocol):
    """One HTTP/1.1 connection (RFC 9112)."""

    def __init__(self, *place: Any, on_flood: Callable[..., None]) -> None:
        super().__init__(*place)
        self._on_flood = on_flood
        self._idle_bytes = _idle_budget()
        cast(h11.Connection, self.connection)._receive_buffer = _StrictLines(self._take_idle)

    @property
    def is_websocket(self) -> bool:
        """Whether it has been upgraded, or is being."""
        return isinstance(self.stream, WebSocket)

    @property
    def websockets(self) -> list[WebSocket]:
        """The WebSocket that it carries, if it does."""
        return [self.stream] if isinstance(self.stream, WebSocket) else []

    @property
    def is_owed(self) -> bool:
        """Whether the client may have sent what nobody has read."""
        return self.connection.their_state not in (h11.IDLE, h11.DONE, h11.MUST_CLOSE, h11.CLOSED)

    def _take_idle(self, count: int) -> bool:
        enough = self._idle_bytes.take(count, self.context.time())
        if not enough:
            self._on_flood("chunks that carry little", False)
        return enough

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" and event.target == b"*" and event.http_version == b"2.0" and not self.ssl:
            raise PriorKnowledgeError(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])

    async def _create_stream(self, request: h11.Request) -> None:
        headers = list(request.headers)
        if _header(headers, b"transfer-encoding") and any(name == b"content-length" for name, _ in headers):
            await self._send_error_response(400)  # a proxy may have gone by the other (RFC 9112, section 6.1)
            await self.send(Closed())
            return
        tokens = {token.strip() for token in _header(headers, b"connection").split(b",")}
        stream: HTTPStream | WSStream
        place = (self.app, self.config, self.context, self.task_group, self.ssl, self.client, self.server)
        if b"upgrade" in tokens and _header(headers, b"upgrade") == b"websocket" and request.method == b"GET":
            texts = _header(headers, b"connection") + _header(headers, b"sec-websocket-protocol")
            has_body = _header(headers, b"transfer-encoding") or _header(headers, b"content-length").strip(b"0, ")
            if has_body or not texts.isascii():
                await self._send_error_response(400)
                await self.send(Closed())
                return
            headers = [(name, value) for name, value in headers if name != b"sec-websocket-extensions"]
            stream = WebSocket(*place, self.stream_send, 1, on_flood=self._on_flood)
            self.connection = H11WSConnection(cast(h11.Connection, self.connection))
        else:
            stream = HTTPStream(*place, self.stream_send, 1)
        self.stream = stream
        await stream.handle(
            Request(
                stream_id=1,
                headers=headers,
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def goodbye(self) -> None:
        """HTTP/1.1 has no words for it."""


class Http2(H2Protocol):
    """One HTTP/2 connection (RFC 9113)."""

    is_websocket = False
    websockets: tuple[WebSocket, ...] = ()

    def __init__(self, *place: Any, on_flood: Callable[..., None]) -> None:
        super().__init__(*place)
        self._on_flood = on_flood
        self._resets = Budget(_RESETS_PER_S, _RESETS_BURST)
        self._idle_bytes = _idle_budget()
        self._uploading: set[int] = set()
        self.is_owed = False  # whether the client may have sent what nobody has read
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.config.h2_max_concurrent_streams,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: self.config.h2_max_header_list_size,
            },
        )
        self.connection.decoder.max_header_list_size = self.config.h2_max_header_list_size

    async def handle(self, event: Event) -> None:
        """Take bytes, or the end."""
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        came = len(event.data) + self._held
        try:
            events = self.connection.receive_data(event.data)
        except h2.exceptions.ProtocolError:
            self.is_owed = True
            await self._flush()
            await self.send(Closed())
            return
        now = self.context.time()
        resets = sum(isinstance(found, h2.events.StreamReset) for found in events)
        carried = sum(_carried(found) for found in events)
        idle_bytes = max(0, came - self._held - carried)
        if any(len(getattr(found, "headers", None) or ()) > _FIELDS_MAX + _PSEUDO_FIELDS for found in events):
            await self._calm("fields of a header")
        elif not self._resets.take(resets, now):
            await self._calm("streams reset")
        elif not self._idle_bytes.take(idle_bytes, now):
            await self._calm(f"frames that carry {'little' if carried else 'nothing'}", not carried)
        else:
            await self._handle_events(events)

    @property
    def _held(self) -> int:
        """The bytes of frames that are not complete, or of a header that is not."""
        buffer = self.connection.incoming_buffer
        return len(buffer._data) + sum(_HTTP2_FRAMING + len(frame.data) for frame in buffer._headers_buffer)

    async def goodbye(self) -> None:
        """Tell the client that no more is served (GOAWAY)."""
        try:
            self.connection.close_connection()
        except h2.exceptions.ProtocolError:
            return
        await self._flush()

    async def ping(self) -> None:
        """Ask the client for a sign of life."""
        try:
            self.connection.ping(b"bms-live")
        except h2.exceptions.ProtocolError:
            return
        await self._flush()

    async def _calm(self, what: str, is_bare: bool = True) -> None:
        self._on_flood(what, is_bare)
        self.is_owed = True
        self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
        await self._flush()
        await self.send(Closed())

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                await self._request(event)
            elif isinstance(event, h2.events.DataReceived):
                await self._data(event)
            elif isinstance(event, h2.events.StreamEnded):
                self._uploading.discard(event.stream_id)
                if event.stream_id in self.streams:
                    await self.streams[event.stream_id].handle(EndBody(stream_id=event.stream_id))
            elif isinstance(event, h2.events.StreamReset):
                self._uploading.discard(event.stream_id)
                await self._close_stream(event.stream_id)
                await self.send(Updated(idle=self.idle))
            elif isinstance(event, h2.events.WindowUpdated):
                await self._window_updated(event.stream_id)
            elif isinstance(event, h2.events.RemoteSettingsChanged):
                if h2.settings.SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                    await self._window_updated(None)
            elif isinstance(event, h2.events.ConnectionTerminated):
                await self.send(Closed())
        await self._flush()

    async def _request(self, event: h2.events.RequestReceived) -> None:
        headers = cast(list[tuple[bytes, bytes]], list(event.headers or ()))
        stream_id = event.stream_id
        pseudo = {name: value for name, value in headers if name.startswith(b":")}
        method, path = pseudo.get(b":method", b"").upper(), pseudo.get(b":path", b"")
        if self.context.terminated.is_set():
            self._reset(stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif method in (b"", b"CONNECT") or not (method + path).isascii() or not path:
            self._reset(stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        else:
            await self.send(Updated(idle=False))
            self._uploading.add(stream_id)
            place = (self.app, self.config, self.context, self.task_group, self.ssl, self.client, self.server)
            stream = self.streams[stream_id] = HTTPStream(*place, self.stream_send, stream_id)
            self.stream_buffers[stream_id] = StreamBuffer(self.context.event_class)
            self.priority.insert_stream(stream_id)
            self.priority.block(stream_id)
            await stream.handle(
                Request(
                    stream_id=stream_id,
                    headers=filter_pseudo_headers(headers),
                    http_version="2",
                    method=method.decode("ascii"),
                    raw_path=path,
                    state=self.connection_state,
                )
            )
            self.keep_alive_requests += 1
        await trio.lowlevel.checkpoint()

    async def _data(self, event: h2.events.DataReceived) -> None:
        stream_id = event.stream_id
        stream = self.streams.get(stream_id)
        if stream is not None:
            await stream.handle(Body(stream_id=stream_id, data=event.data))
        try:
            self.connection.acknowledge_received_data(event.flow_controlled_length, stream_id)
        except h2.exceptions.ProtocolError:
            pass  # the stream has ended meanwhile

    async def _send_data(self, stream_id: int) -> None:
        buffer = self.stream_buffers[stream_id]
        try:
            window = self.connection.local_flow_control_window(stream_id)
            data = await buffer.pop(max(0, min(window, self.connection.max_outbound_frame_size)))
            if data:
                self._idle_bytes.give(len(data))  # whoever is sent much may acknowledge much
                self.connection.send_data(stream_id, data)
                await self._flush()
            else:
                self.priority.block(stream_id)
            if not buffer.complete or stream_id not in self.stream_buffers:
                return
            self.connection.end_stream(stream_id)
        except h2.exceptions.ProtocolError:
            pass  # the stream or the connection was closed meanwhile
        await self._forget_buffer(stream_id)
        await self._flush()
        if stream_id not in self.streams:
            await self._stop_upload(stream_id)

    async def _forget_buffer(self, stream_id: int) -> None:
        buffer = self.stream_buffers.pop(stream_id, None)
        if buffer is not None:
            await buffer.close()
            self.priority.remove_stream(stream_id)

    async def _close_stream(self, stream_id: int) -> None:
        await super()._close_stream(stream_id)
        buffer = self.stream_buffers.get(stream_id)
        if buffer is None:
            await self._stop_upload(stream_id)
        elif not buffer.complete:  # the answer breaks off, or nobody wants it any more
            await self._forget_buffer(stream_id)
            self._uploading.discard(stream_id)
            self._reset(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            await self._flush()

    async def _stop_upload(self, stream_id: int) -> None:
        """The answer is complete: the rest of the request is of no use."""
        if stream_id in self._uploading:
            self._uploading.discard(stream_id)
            self._reset(stream_id, h2.errors.ErrorCodes.NO_ERROR)
            await self._flush()

    def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        try:
            self.connection.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            pass  # it has ended already


def _carried(event: h2.events.Event) -> int:
    """The bytes of a request that an event stands for, with as much of its frame's header as it carries itself."""
    if isinstance(event, h2.events.DataReceived):
        carried = len(event.data or b"")
        return carried + min(carried, _HTTP2_FRAMING)
    if isinstance(event, h2.events.RequestReceived):
        return _HTTP2_FRAMING + sum(len(name) + len(value) for name, value in event.headers or ())
    return 0
