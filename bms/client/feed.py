"""Events of a remote node over a WebSocket, reconnecting, from the last event on.

    EventFeed     what a program iterates over: knows the cursor, reconnects, gives up only when it was refused
    EventSocket   one connection: its reader is a task of the client's, whose end is this connection's end alone

trio-websocket raises in that task when the other side refuses, breaks off, or sends a ping while it closes; it leaves
the socket open where the other side has closed first; and it takes a refusal's text of any length. All are put right
here. An event has at most `EVENT_BYTES_MAX` bytes.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import trio
import trio_websocket

from ..errors import ClosedError, LimitError, MeshError, RefusedError, RemoteProtocolError, UnreachableError
from .answers import error_of
from .place import Place, open_stream

__all__ = ["EventFeed", "EventSocket"]

log = logging.getLogger("bms.client")

CONNECT_S = 10.0
SILENCE_S = 50.0
"""A stream of events that says nothing for so long is taken for dead; a node says something every 15 s."""
PAUSE_S, PAUSE_MAX_S = 0.25, 10.0
EVENT_BYTES_MAX = 1 << 20
"""The longest event that is taken. A node shows 8 KiB of a message's body; statistics grow with what is counted."""
OPENING_BYTES_MAX = 1 << 16
"""What a node may say before the stream of events is open: an answer's header, or a refusal."""

_CLOSE_S = 1.0
_SUBPROTOCOL = "bms.events.v1"
_POLICY, _TOO_BIG = 1008, 1009


class EventFeed:
    """An async iterator of events: maps with `type`, `time`, `cursor` and what the type has (docs/how-to/events.md).

    "hello" comes first, and again whenever the connection was lost and is there again: what happened meanwhile follows,
    or "missed" with how many events are gone (None: nobody knows, since the node has restarted). Reconnecting never
    gives up; it waits up to 10 s between attempts. RefusedError ends the iteration: the token has ended.
    """

    def __init__(self, connect: Callable[[str | None], Awaitable[EventSocket]], since: str | None) -> None:
        self._open = connect
        self._socket: EventSocket | None = None
        self._first: dict[str, Any] | None = None
        self._pause_s = PAUSE_S
        self._ended: MeshError | None = None
        self.cursor = since
        """Behind the last event that was given: what to go on from later."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now, as far as is known."""
        return self._socket is not None

    def __aiter__(self) -> EventFeed:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while True:
            if self._ended is not None:
                raise self._ended
            if self._first is not None:
                event, self._first = self._first, None
                return event
            try:
                event = await self._next()
            except (UnreachableError, LimitError, ClosedError):
                await self._drop()
                await trio.sleep(self._pause_s * random.uniform(0.5, 1.0))
                self._pause_s = min(PAUSE_MAX_S, self._pause_s * 2)
                continue
            except MeshError as error:
                self._ended = error
                await self._drop()
                raise
            if event["type"] != "bookmark":
                return event

    async def _next(self) -> dict[str, Any]:
        if self._socket is None:
            self._socket = await self._open(self.cursor)
        event = await self._socket.receive()
        if event["type"] == "hello":
            # With a cursor of ours the place where the stream begins says less: "missed" may follow.
            self.cursor = self.cursor or event.get("cursor")
        else:
            self._pause_s = PAUSE_S
            self.cursor = event.get("cursor") or self.cursor
        return event

    async def _begin(self) -> None:
        """Connect, until the node has said hello; what keeps it from that is raised."""
        self._first = await self._next()

    async def _drop(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def _close(self) -> None:
        self._ended = self._ended or ClosedError("this feed of events is closed")
        await self._drop()


class _Bounded(trio.abc.Stream):
    """A stream that gives `OPENING_BYTES_MAX` bytes until `is_open`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._left = OPENING_BYTES_MAX
        self.is_open = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self._left -= len(data)
        if self._left < 0 and not self.is_open:
            raise RemoteProtocolError(
                f"the node's answer to a request for events has more than {OPENING_BYTES_MAX} bytes"
            )
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class EventSocket:
    """One WebSocket."""

    def __init__(self, nursery: trio.Nursery, stream: trio.abc.Stream) -> None:
        self._nursery = nursery
        self._stream = stream
        self._opening = trio.CancelScope()
        self._error: Exception | None = None
        self._connection: trio_websocket.WebSocketConnection | None = None

    @classmethod
    async def open(cls, nursery: trio.Nursery, place: Place, resource: str, headers: Mapping[str, str]) -> EventSocket:
        """Connect. UnreachableError, RefusedError, or what the node says."""
        with trio.move_on_after(CONNECT_S):
            stream = _Bounded(await open_stream(place))
            socket = cls(nursery, stream)
            fields = [(name.encode(), value.encode()) for name, value in headers.items()]
            try:
                with socket._opening:
                    # The library starts its reader in what it takes for a nursery.
                    socket._connection = await trio_websocket.wrap_client_stream(
                        cast(trio.Nursery, socket), cast(trio.SocketStream, stream), place.authority, resource,
                        subprotocols=[_SUBPROTOCOL], extra_headers=fields, max_message_size=EVENT_BYTES_MAX,
                    )  # fmt: skip
                    stream.is_open = True
                    return socket
                raise socket._refusal()
            finally:
                if socket._connection is None:
                    await trio.aclose_forcefully(stream)
        raise UnreachableError(f"{place.authority} did not open a stream of events within {CONNECT_S:g} s")

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        """As a nursery's, for the library."""
        self._nursery.start_soon(self._read, task)

    async def _read(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception as error:
            # Also the library's own mistakes, as a ping that comes while it closes.
            log.debug("a connection to a node has ended: %r", error, exc_info=True)
            self._error = error
        finally:
            self._opening.cancel()

    def _refusal(self) -> MeshError:
        if isinstance(self._error, trio_websocket.ConnectionRejected):
            return error_of(self._error.status_code, self._error.body or b"")
        if isinstance(self._error, MeshError):
            return self._error
        return UnreachableError("the node ended the connection before a stream of events began")

    async def receive(self) -> dict[str, Any]:
        """The next object. UnreachableError when the connection has ended, RefusedError if that was meant."""
        assert self._connection is not None
        text: str | bytes = b""
        with trio.move_on_after(SILENCE_S) as patience:
            try:
                text = await self._connection.get_message()
            except trio_websocket.ConnectionClosed as error:
                code, reason = (error.reason.code, error.reason.reason) if error.reason else (None, None)
                if code == _POLICY:
                    raise RefusedError(reason or "the node has ended the stream of events") from None
                if code == _TOO_BIG:
                    raise RemoteProtocolError(f"the node sent an event of more than {EVENT_BYTES_MAX} bytes") from None
                raise UnreachableError(f"the node has ended the stream of events: {reason or code}") from None
        if patience.cancelled_caught:
            raise UnreachableError(f"the node has said nothing for {SILENCE_S:g} s")
        try:
            event = json.loads(text)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            raise RemoteProtocolError("what the node sent is no event")
        return event

    async def close(self) -> None:
        """Say goodbye, or do not, if that takes long."""
        assert self._connection is not None
        with trio.move_on_after(_CLOSE_S, shield=True):
            await self._connection.aclose()
        await trio.aclose_forcefully(self._stream)  # where the node has closed first, the library leaves it open
