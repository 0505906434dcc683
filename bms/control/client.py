"""The other end of the control socket: one typed coroutine for each verb, several at once on one connection.

    async with open_control(path) as node:
        print(await node.status())
        async with node.listen("news") as messages:
            async for message in messages: ...

An error of the node is raised here as the same class of `bms.errors`. A connection that ends under a command is a
`DeliveryError` for it: whether it was carried out is unknown. Commands may be sent from several tasks; more than
`CALLS_MAX` wait for their turn, and more than `STREAMS_MAX` streams are refused.

A stream that is not read holds up everything else on its connection after `STREAM_ITEMS` items: give a stream that may
be slow a connection of its own. Deliberately absent: reconnecting.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import trio

from ..errors import ClosedError, DeliveryError, LimitError, MeshError, RemoteProtocolError
from ..nursery import open_body_nursery
from ..security.tokens import Claims
from ..values import KeyInfo, Message, Missed, Node, NodeEvent, NodeId, Value, Version, key_bytes
from ..wire import FrameReader, LocalMessage, frame_message, parse_message_untrusted
from ..wire.messages import Command, Failure, Item, Result
from .answers import CANCEL, COMMANDS_MAX, Status
from .failures import error_untrusted
from .parsing import parse_claims, parse_node, parse_status, understood
from .place import connect

__all__ = ["CALLS_MAX", "STREAMS_MAX", "ControlClient", "Stream", "open_control"]

STREAMS_MAX = 8
CALLS_MAX = COMMANDS_MAX - STREAMS_MAX
STREAM_ITEMS = 16

_FRAME_BYTES_MAX = (1 << 30) + (1 << 20)  # the longest value that a node may be set to hold, and a little
_READ_BYTES = 1 << 16

_CANCEL_S = 1.0

Key = str | bytes
T = TypeVar("T")


class _Waiting:
    """One command under way: where its items go, and its end."""

    def __init__(self, items_max: int) -> None:
        self._put, self.items = trio.open_memory_channel[Any](items_max)
        self.result: Result | None = None
        self.error: MeshError | None = None
        self.done = trio.Event()

    async def take(self, item: Item) -> None:
        """Hand one item to whoever reads the stream; waits for them."""
        try:
            await self._put.send(item.value)
        except trio.BrokenResourceError:
            pass  # they have stopped reading

    def end(self, result: Result | None = None, error: MeshError | None = None) -> None:
        """The command is over."""
        self.result, self.error = result, error
        self._put.close()
        self.done.set()


class Stream(Generic[T]):
    """An async iterator over the many answers to one command."""

    def __init__(self, waiting: _Waiting, unpack: Callable[[Any], list[T]]) -> None:
        self._waiting = waiting
        self._unpack = unpack
        self._ready: deque[T] = deque()

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            if not await self.begin():
                raise StopAsyncIteration
        return self._ready.popleft()

    async def begin(self) -> bool:
        """Wait for one item of the stream, if only to know that it has begun; False at its end."""
        try:
            item = await self._waiting.items.receive()
        except trio.EndOfChannel:
            if self._waiting.error is not None:
                raise self._waiting.error from None
            return False
        with understood():
            self._ready.extend(self._unpack(item))
        return True


class ControlClient:
    """A connection to a running node of this machine. Made by `open_control`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._sending = trio.Lock()
        self._calls = trio.CapacityLimiter(CALLS_MAX)
        self._streams = 0
        self._ended: MeshError | None = None
        self._closed = trio.Event()

    # ------------------------------------------------------------------ verbs

    async def status(self) -> Status:
        """The node in short."""
        fields = await self._call("status")
        with understood():
            return parse_status(fields)

    async def nodes(self, state: str | None = None) -> list[Node]:
        """The members as that node sees them, itself first; `state` keeps those in one state alone."""
        nodes = await self._call("nodes", state=state)
        with understood():
            return [parse_node(fields) for fields in nodes]

    async def put(self, key: Key, value: bytes, ttl_s: float | None = None) -> Version:
        """Write a value, durable on that node when this returns."""
        return Version(await self._call("put", key=key_bytes(key), value=value, ttl_s=ttl_s))

    async def get(self, key: Key) -> Value:
        """Read a value; NotFoundError if there is none."""
        found = await self._call("get", key=key_bytes(key))
        with understood():
            value, version, author = found
            return Value(value, Version(version), NodeId(author))

    async def rm(self, key: Key) -> Version:
        """Delete a key everywhere; NotFoundError if there is none."""
        return Version(await self._call("rm", key=key_bytes(key)))

    @asynccontextmanager
    async def ls(self, prefix: Key = b"") -> AsyncIterator[Stream[KeyInfo]]:
        """List keys (as bytes) in byte order, with sizes, versions and authors."""
        async with self._many("ls", _keys, prefix=_raw(prefix)) as rows:
            yield rows

    @asynccontextmanager
    async def digest(self, prefix: Key = b"") -> AsyncIterator[Stream[tuple[bytes, bytes]]]:
        """Each key with the BLAKE3 of its value, in byte order of the keys."""
        async with self._many("digest", _digests, prefix=_raw(prefix)) as rows:
            yield rows

    async def send(self, to: str, body: bytes, topic: str = "", deadline_s: float = 5.0) -> None:
        """Send to one node, by its whole id; returns when that node has acknowledged it."""
        await self._call("send", to=to, body=body, topic=topic, deadline_s=deadline_s)

    async def broadcast(self, body: bytes, topic: str = "") -> int:
        """Send to every live node; how many others it was queued for."""
        return cast(int, await self._call("broadcast", body=body, topic=topic))

    async def request(self, to: str, body: bytes, topic: str = "", deadline_s: float = 5.0) -> bytes:
        """Ask one node, by its whole id, and return its program's answer."""
        return cast(bytes, await self._call("request", to=to, body=body, topic=topic, deadline_s=deadline_s))

    @asynccontextmanager
    async def listen(self, topic: str = "") -> AsyncIterator[Stream[Message | Missed]]:
        """What comes on a topic, live from the moment this is entered."""
        async with self._many("listen", _messages, topic=topic) as messages:
            await messages.begin()  # the first item says that the subscription is there
            yield messages

    async def sync(self, peers: list[str] | None = None) -> dict[str, Any]:
        """Reconcile with `peers`, or with all that are linked, now; the report."""
        return cast(dict[str, Any], await self._call("sync", peers=peers))

    async def register(self, address: str) -> Node:
        """Connect to whoever lives at `address`."""
        fields = await self._call("register", address=address)
        with understood():
            return parse_node(fields)

    async def stats(self) -> dict[str, Any]:
        """Statistics of the node."""
        return cast(dict[str, Any], await self._call("stats"))

    async def issue_token(
        self, scopes: Sequence[str], ttl_s: float | None = None, name: str = ""
    ) -> tuple[str, Claims]:
        """A new token of that node's HTTP interface, and its claims."""
        found = await self._call("token_issue", scopes=list(scopes), ttl_s=ttl_s, name=name)
        with understood():
            return found["token"], parse_claims(found["claims"])

    async def tokens(self) -> list[Claims]:
        """The tokens in force at that node."""
        found = await self._call("tokens")
        with understood():
            return [parse_claims(fields) for fields in found]

    async def revoke_token(self, token_id: str) -> None:
        """End a token, by its id."""
        await self._call("token_revoke", id=token_id)

    async def health(self) -> dict[str, Any]:
        """Whether the node is well: `status`, and `checks` with name, status and reason."""
        return cast(dict[str, Any], await self._call("health"))

    async def report(self, form: str = "html") -> str:
        """A document with all that the node knows of itself: html, json or text."""
        return cast(str, await self._call("report", format=form))

    async def topology(self) -> dict[str, Any]:
        """`nodes` and `links`, as that node sees them."""
        return cast(dict[str, Any], await self._call("topology"))

    async def config(self) -> dict[str, Any]:
        """The settings in force, by dotted name."""
        return cast(dict[str, Any], await self._call("config"))

    async def login(self, ttl_s: float | None = None) -> dict[str, Any]:
        """A login code for the dashboard: code, expires_s, http_url, https_url, folder. ConfigError if HTTP is off."""
        return cast(dict[str, Any], await self._call("login", ttl_s=ttl_s))

    @asynccontextmanager
    async def samples(self, interval_s: float = 1.0) -> AsyncIterator[Stream[dict[str, Any]]]:
        """time, stats, nodes, links and health, every `interval_s` seconds, the first at once."""
        async with self._many("samples", _one, interval_s=interval_s) as samples:
            yield samples

    @asynccontextmanager
    async def events(self) -> AsyncIterator[Stream[NodeEvent | Missed]]:
        """What happens to nodes, live from the moment this is entered."""
        async with self._many("events", _node_events) as events:
            await events.begin()
            yield events

    async def stop(self) -> None:
        """Ask the process to drain and end; returns when it has begun to."""
        await self._call("stop")

    async def wait_closed(self) -> None:
        """Return when the node has closed the connection."""
        await self._closed.wait()

    # ------------------------------------------------------------------ inside

    async def _call(self, verb: str, **arguments: Any) -> Any:
        async with self._calls:
            number = next(self._numbers)
            waiting = self._begin(number, 0)
            try:
                await self._send(Command(number, verb, _given(arguments)))
                await waiting.done.wait()
            finally:
                self._waiting.pop(number, None)
        if waiting.error is not None:
            raise waiting.error
        assert waiting.result is not None
        return waiting.result.value

    @asynccontextmanager
    async def _many(self, verb: str, unpack: Callable[[Any], list[T]], **arguments: Any) -> AsyncIterator[Stream[T]]:
        if self._streams >= STREAMS_MAX:
            raise LimitError(f"{STREAMS_MAX} streams are open on this connection: use another")
        number = next(self._numbers)
        waiting = self._begin(number, STREAM_ITEMS)
        self._streams += 1
        try:
            await self._send(Command(number, verb, _given(arguments)))
            yield Stream(waiting, unpack)
        finally:
            self._streams -= 1
            self._waiting.pop(number, None)
            waiting.items.close()
            if not waiting.done.is_set() and self._ended is None:
                with trio.move_on_after(_CANCEL_S, shield=True):
                    await self._send(Command(next(self._numbers), CANCEL, {"id": number}))

    def _begin(self, number: int, items_max: int) -> _Waiting:
        if self._ended is not None:
            raise ClosedError(f"the connection to the node has ended: {self._ended}")
        waiting = self._waiting[number] = _Waiting(items_max)
        return waiting

    async def _send(self, message: LocalMessage) -> None:
        data = frame_message(message)
        async with self._sending:
            if self._ended is not None:
                raise self._ended
            finished = False
            try:
                await self._stream.send_all(data)
                finished = True
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise DeliveryError("the node ended before it had taken the command") from error
            finally:
                if not finished:  # a frame that was cut: nothing can follow it
                    await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        """Hand replies to those who wait for them, until the node closes the connection."""
        reader = FrameReader(_FRAME_BYTES_MAX)
        error: MeshError = DeliveryError("the node ended before it answered; whether it did what was asked is unknown")
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                for payload in reader.feed(data):
                    await self._dispatch(parse_message_untrusted(payload, local=True))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except MeshError as found:
            error = found
        finally:
            self._ended = error
            for waiting in self._waiting.values():
                waiting.end(error=error)
            self._waiting.clear()
            self._closed.set()

    async def _dispatch(self, message: object) -> None:
        if isinstance(message, Failure) and message.id == 0:
            raise error_untrusted(message)  # about the connection as a whole
        if not isinstance(message, Result | Item | Failure):
            raise RemoteProtocolError(f"a node answers commands; {type(message).__name__} is none of its answers")
        waiting = self._waiting.get(message.id)
        if waiting is None:
            return  # whoever asked has gone
        if isinstance(message, Item):
            await waiting.take(message)
        elif isinstance(message, Result):
            waiting.end(result=message)
        else:
            waiting.end(error=error_untrusted(message))


def _keys(page: Any) -> list[KeyInfo]:
    return [
        KeyInfo(key=key, size=size, version=Version(version), author=NodeId(author))
        for key, size, version, author in page
    ]


def _digests(page: Any) -> list[tuple[bytes, bytes]]:
    return [(key, digest) for key, digest in page]


def _messages(fields: Any) -> list[Message | Missed]:
    if fields is None:
        return []
    return [Missed(fields["count"]) if "count" in fields else Message(**{**fields, "sender": NodeId(fields["sender"])})]


def _one(item: Any) -> list[dict[str, Any]]:
    return [item]


def _node_events(fields: Any) -> list[NodeEvent | Missed]:
    if fields is None:
        return []
    if "count" in fields:
        return [Missed(fields["count"])]
    by = fields["by"]
    return [NodeEvent(fields["what"], NodeId(fields["node_id"]), fields["name"], None if by is None else NodeId(by))]


def _raw(prefix: Key) -> bytes:
    return prefix.encode("utf-8", "surrogateescape") if isinstance(prefix, str) else prefix


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


@asynccontextmanager
async def open_control(path: Path | str) -> AsyncIterator[ControlClient]:
    """Connect to the node whose control socket is at `path`.

    Raises UnreachableError if none is running there, RefusedError if it is another user's.
    """
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(connect(Path(path))))
    client = ControlClient(stream)
    async with stream, open_body_nursery() as nursery:
        nursery.start_soon(client._read)
        yield client
