"""A node of another machine, or of this one over HTTP, in the place of the one behind the control socket.

    --url https://HOST:PORT       which node
    --token - | FILE              its token: the first line of standard input, or of a file; without it BMS_TOKEN
    --fingerprint, --ca           how its certificate is known; without them by the system's authorities

A token is no argument itself: everybody on a machine sees the arguments of its processes, and shells keep them. What a
command can do over HTTP is what its token allows (`bms token`). `RemoteNode` has the methods of a `ControlClient` that
such commands use; `bms.client` does the work, and is loaded when it is needed.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import click
import trio

from ..control import Status
from ..control.parsing import understood
from ..errors import RemoteProtocolError
from ..security.tokens import token_id_of
from ..values import KeyInfo, Message, Missed, Node, NodeEvent, NodeId, Value, Version

if TYPE_CHECKING:
    from ..client import Client, EventFeed

__all__ = ["TOKEN_VARIABLE", "AnyNode", "Remote", "RemoteNode", "open_remote", "read_token"]

TOKEN_VARIABLE = "BMS_TOKEN"  # noqa: S105 - its name

_TOKEN_BYTES_MAX = 4096
_ANSWER_BYTES_MAX = (1 << 30) + (1 << 20)  # the longest value that a node may be set to hold, and a little


class AnyNode(Protocol):
    """What commands ask of a node, wherever it is; `ControlClient` says more of each."""

    async def status(self) -> Status:
        """The node in short."""
        ...

    async def nodes(self, state: str | None = None) -> list[Node]:
        """The members as that node sees them, itself first."""
        ...

    async def put(self, key: str | bytes, value: bytes, ttl_s: float | None = None) -> Version:
        """Write a value."""
        ...

    async def get(self, key: str | bytes) -> Value:
        """Read a value."""
        ...

    async def rm(self, key: str | bytes) -> Version:
        """Delete a key everywhere."""
        ...

    def ls(self, prefix: str | bytes = b"") -> AbstractAsyncContextManager[AsyncIterator[KeyInfo]]:
        """List keys, as bytes."""
        ...

    async def send(self, to: str, body: bytes, topic: str = "", deadline_s: float = 5.0) -> None:
        """Send to one node, by its whole id."""
        ...

    async def broadcast(self, body: bytes, topic: str = "") -> int:
        """Send to every live node; how many others it was queued for."""
        ...

    def listen(self, topic: str = "") -> AbstractAsyncContextManager[AsyncIterator[Message | Missed]]:
        """What comes on a topic."""
        ...

    async def sync(self, peers: list[str] | None = None) -> dict[str, Any]:
        """Reconcile now; the report."""
        ...

    async def health(self) -> dict[str, Any]:
        """Whether the node is well: `status`, and `checks`."""
        ...

    async def report(self, form: str = "html") -> str:
        """A document with all that the node knows of itself."""
        ...

    def samples(self, interval_s: float = 1.0) -> AbstractAsyncContextManager[AsyncIterator[dict[str, Any]]]:
        """time, stats, nodes, links and health, every `interval_s` seconds."""
        ...

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[NodeEvent | Missed]]:
        """What happens to nodes."""
        ...


@attrs.frozen
class Remote:
    """What `--url`, `--token`, `--fingerprint` and `--ca` said."""

    url: str
    token: str = attrs.field(repr=False)
    fingerprint: str | None = None
    ca: Path | None = None


def read_token(place: str | None) -> str:
    """The token in the file `place`, on standard input ("-"), or in the environment (None). A usage error."""
    if place is None:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            raise click.UsageError(f"--url needs a token: --token FILE, --token - or the variable {TOKEN_VARIABLE}")
        return token
    if token_id_of(place) is not None:
        raise click.UsageError("--token takes a file or '-': others on this machine can see what is in a command line")
    try:
        if place == "-":
            raw = sys.stdin.buffer.readline(_TOKEN_BYTES_MAX)
        else:
            with open(place, "rb") as file:
                raw = file.readline(_TOKEN_BYTES_MAX)
    except OSError as error:
        raise click.UsageError(f"the token cannot be read from {place}: {error.strerror}") from error
    token = raw.decode("utf-8", "replace").strip()
    if not token:
        raise click.UsageError(f"there is no token in {'standard input' if place == '-' else place}")
    return token


class RemoteNode:
    """A node behind its HTTP interface."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def status(self) -> Status:
        """The node in short."""
        return await self._client.status()

    async def nodes(self, state: str | None = None) -> list[Node]:
        """The members as that node sees them."""
        return await self._client.nodes(state)

    async def put(self, key: str | bytes, value: bytes, ttl_s: float | None = None) -> Version:
        """Write a value."""
        return await self._client.store_data(key, value, ttl_s=ttl_s)

    async def get(self, key: str | bytes) -> Value:
        """Read a value."""
        return await self._client.retrieve_data(key)

    async def rm(self, key: str | bytes) -> Version:
        """Delete a key everywhere."""
        return await self._client.delete_data(key)

    def ls(self, prefix: str | bytes = b"") -> AbstractAsyncContextManager[AsyncIterator[KeyInfo]]:
        """List keys, as bytes."""
        raw = prefix.encode("utf-8", "surrogateescape") if isinstance(prefix, str) else prefix
        return self._client.scan(raw)

    async def send(self, to: str, body: bytes, topic: str = "", deadline_s: float = 5.0) -> None:
        """Send to one node."""
        await self._client.send_message(to, body, topic, deadline_s)

    async def broadcast(self, body: bytes, topic: str = "") -> int:
        """Send to every live node."""
        return await self._client.broadcast_message(body, topic)

    @asynccontextmanager
    async def listen(self, topic: str = "") -> AsyncIterator[AsyncIterator[Message | Missed]]:
        """What comes on a topic. Of a long body a stream of events has the beginning alone: that is said then."""
        async with self._client.events(["message"], topics=[topic], take=True) as events:
            messages = _messages(events)
            try:
                yield messages
            finally:
                await messages.aclose()  # type: ignore[attr-defined]

    async def sync(self, peers: list[str] | None = None) -> dict[str, Any]:
        """Reconcile now."""
        return await self._client.sync(peers)

    async def health(self) -> dict[str, Any]:
        """Whether the node is well."""
        return await self._client.health()

    async def report(self, form: str = "html") -> str:
        """A document with all that the node knows of itself."""
        return await self._client.report(form)

    @asynccontextmanager
    async def samples(self, interval_s: float = 1.0) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """time, stats, nodes, links and health. The time is this machine's: when the node was asked."""
        async with aclosing(_samples(self._client, interval_s)) as samples:
            yield samples

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[NodeEvent | Missed]]:
        """What happens to nodes."""
        async with self._client.events(["node"]) as events, aclosing(_node_events(events)) as found:
            yield found


async def _messages(events: EventFeed) -> AsyncIterator[Message | Missed]:
    async for event in events:
        try:
            if event["type"] == "missed":
                if event["count"] is None:
                    click.echo(
                        "(the node, or a part of it, has started again: messages may have been missed)", err=True
                    )
                else:
                    yield Missed(event["count"])
            elif event["type"] == "message":
                encoded = event.get("body_base64")
                body = event["body"].encode() if encoded is None else base64.b64decode(encoded)
                if event.get("truncated"):
                    click.echo(f"(of the next message {len(body)} of {event['size']} bytes are shown)", err=True)
                yield Message(event["id"], NodeId(event["sender"]), event["topic"], body, event["sent_at"])
        except (KeyError, TypeError, ValueError) as error:
            raise RemoteProtocolError("the node's events are not understood; is it of another version?") from error


async def _samples(client: Client, interval_s: float) -> AsyncGenerator[dict[str, Any], None]:
    while True:
        now, stats = time.time(), await client.stats()
        topology, health = await client.topology(), await client.health()
        with understood():
            nodes, links = topology["nodes"], topology["links"]
        yield {"time": now, "stats": stats, "nodes": nodes, "links": links, "health": health}
        await trio.sleep(interval_s)


async def _node_events(events: EventFeed) -> AsyncGenerator[NodeEvent | Missed, None]:
    async for event in events:
        if event["type"] == "missed":
            yield Missed(event["count"] or 0)
        elif event["type"] == "node":
            with understood():
                by = event["by"]
                found = NodeEvent(
                    event["what"], NodeId(event["node_id"]), event["name"], None if by is None else NodeId(by)
                )
            yield found


@asynccontextmanager
async def open_remote(remote: Remote) -> AsyncIterator[RemoteNode]:
    """The node at that URL."""
    from ..client import open_client  # httpx: a quarter of a second that commands about this machine need not wait

    async with open_client(
        remote.url, remote.token, ca=remote.ca, fingerprint=remote.fingerprint, answer_bytes_max=_ANSWER_BYTES_MAX
    ) as client:
        yield RemoteNode(client)
