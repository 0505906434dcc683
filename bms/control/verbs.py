"""What can be asked of a running node over its control socket, each verb as one call of the embedding API.

    verb        arguments                              answer
    status                                             the fields of `Status`
    nodes       state?                                 a list of nodes, fields as in `Node`
    put         key, value, ttl_s?                     the version
    get         key                                    [value, version, author]
    rm          key                                    the version of the deletion
    ls          prefix?                                a stream of lists of [key, size, version, author]
    digest      prefix?                                a stream of lists of [key, BLAKE3 of the value]
    send        to, body, topic?, deadline_s?          null, once it is acknowledged
    broadcast   body, topic?                           the number of nodes it was queued for
    request     to, body, topic?, deadline_s?          the reply
    listen      topic?                                 a stream: null once live, then messages and missed counts
    sync        peers?                                 the report
    register    address                                the node
    stats                                              statistics
    health                                             status, and checks with name, status, reason
    report      format?                                a document: html, json, or text
    topology                                           nodes and links
    config                                             the settings by dotted name
    samples     interval_s?                            a stream: time, stats, nodes, links, health, again and again
    events                                             a stream: null once live, then node events and missed counts
    login       ttl_s?                                 a login code: code, expires_s, http_url, https_url, folder
    token_issue scopes, ttl_s?, name?                  the token and its claims, once
    tokens                                             the claims of all that are in force
    token_revoke id                                    null, once it has ended
    stop                                               null; the process then drains and ends
    cancel      id                                     nothing: ends the command with that id

Keys and values are byte strings. Arguments that a verb does not know, lacks, or that have another type are a
`LocalProtocolError`: nothing was done. Verbs hold no state; what bounds them is what bounds the API behind them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

import attrs
import blake3
import trio

from ..errors import ConfigError, LocalProtocolError, NotFoundError, RefusedError
from ..mesh import Mesh
from .answers import Status, plain, settings

__all__ = ["STREAMS", "VERBS", "Arguments", "Host", "Put", "status_of", "version"]

ROWS_MAX = 256
"""Rows in one item of a stream."""

SAMPLE_S_MIN, SAMPLE_S_MAX = 0.1, 3600
"""How often samples may be asked for."""

Put = Callable[[object], Awaitable[None]]
"""Sends one item of a stream; waits while the client is slow."""

_NUMBER: tuple[type, ...] = (int, float)
_MISSING = object()


@attrs.frozen
class Host:
    """The node that is served: its mesh, how it is asked to end, and when serving began (Trio's clock)."""

    mesh: Mesh
    on_stop: Callable[[], None] | None
    started_at: float


class Arguments:
    """The arguments of one command: each is taken by its type, and what is left over is an error."""

    def __init__(self, verb: str, given: dict[str, Any]) -> None:
        self._verb = verb
        self._left = dict(given)

    def misuse(self, why: str) -> LocalProtocolError:
        """The error of a command that cannot be understood."""
        return LocalProtocolError(f"{self._verb}: {why}")

    def take(self, name: str, kinds: type | tuple[type, ...], default: Any = _MISSING) -> Any:
        """The argument `name`, or `default` where there is one."""
        value = self._left.pop(name, default)
        if value is _MISSING:
            raise self.misuse(f"the argument {name} is missing")
        if value is not default and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise self.misuse(f"the argument {name} cannot be {value!r:.80}")
        return value

    def end(self) -> None:
        """All arguments that the verb knows were taken."""
        if self._left:
            raise self.misuse(f"there is no argument {min(self._left)!r}")


def version() -> str:
    """Of the program, as it is installed."""
    try:
        return metadata.version("bellande-mesh-sync")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def status_of(mesh: Mesh, uptime_s: float) -> Status:
    """The node in short; `uptime_s` is how long it serves already."""
    stats = mesh.collect_stats()
    return Status(
        node_id=mesh.node_id,
        name=mesh.config.node_name,
        mesh_id=mesh.mesh_id,
        mesh_name=mesh.config.mesh_name,
        address=None if mesh.address is None else str(mesh.address),
        folder=None if mesh.folder is None else str(mesh.folder),
        version=version(),
        pid=os.getpid(),
        uptime_s=uptime_s,
        nodes=stats.nodes,
        connections=stats.connections,
        entries=stats.data.entries,
        bytes=stats.data.bytes,
        tombstones=stats.data.tombstones,
        position=stats.data.position,
        epoch=stats.data.epoch,
        fingerprint=stats.data.fingerprint,
        discovery=plain(stats.discovery),
        http_url=mesh.http_url,
        http_address=mesh.config.http_address,
        https_url=mesh.https_url,
    )


async def _status(host: Host, arguments: Arguments) -> object:
    arguments.end()
    await trio.lowlevel.checkpoint()
    return plain(status_of(host.mesh, trio.current_time() - host.started_at))


async def _nodes(host: Host, arguments: Arguments) -> object:
    state = arguments.take("state", str, None)
    arguments.end()
    await trio.lowlevel.checkpoint()
    return plain(host.mesh.nodes(state))


async def _put(host: Host, arguments: Arguments) -> object:
    key, value = arguments.take("key", bytes), arguments.take("value", bytes)
    ttl_s = arguments.take("ttl_s", _NUMBER, None)
    arguments.end()
    return await host.mesh.store_data(key, value, ttl_s=ttl_s)


async def _get(host: Host, arguments: Arguments) -> object:
    key = arguments.take("key", bytes)
    arguments.end()
    found = await host.mesh.retrieve_data(key)
    return [found.value, found.version, str(found.author)]


async def _rm(host: Host, arguments: Arguments) -> object:
    key = arguments.take("key", bytes)
    arguments.end()
    return await host.mesh.delete_data(key)


async def _send(host: Host, arguments: Arguments) -> object:
    to, body = arguments.take("to", str), arguments.take("body", bytes)
    topic, deadline_s = arguments.take("topic", str, ""), arguments.take("deadline_s", _NUMBER, 5.0)
    arguments.end()
    await host.mesh.send_message(to, body, topic=topic, deadline_s=deadline_s)
    return None


async def _broadcast(host: Host, arguments: Arguments) -> object:
    body, topic = arguments.take("body", bytes), arguments.take("topic", str, "")
    arguments.end()
    return await host.mesh.broadcast_message(body, topic=topic)


async def _request(host: Host, arguments: Arguments) -> object:
    to, body = arguments.take("to", str), arguments.take("body", bytes)
    topic, deadline_s = arguments.take("topic", str, ""), arguments.take("deadline_s", _NUMBER, 5.0)
    arguments.end()
    return await host.mesh.request(to, body, topic=topic, deadline_s=deadline_s)


async def _sync(host: Host, arguments: Arguments) -> object:
    peers = arguments.take("peers", list, None)
    arguments.end()
    if peers is not None and not all(isinstance(peer, str) for peer in peers):
        raise arguments.misuse("peers are node ids")
    return plain(await host.mesh.sync_with_peers(peers))


async def _register(host: Host, arguments: Arguments) -> object:
    address = arguments.take("address", str)
    arguments.end()
    return plain(await host.mesh.register_node(address))


async def _stats(host: Host, arguments: Arguments) -> object:
    arguments.end()
    await trio.lowlevel.checkpoint()
    return plain(host.mesh.collect_stats())


async def _token_issue(host: Host, arguments: Arguments) -> object:
    scopes, ttl_s = arguments.take("scopes", list), arguments.take("ttl_s", _NUMBER, None)
    name = arguments.take("name", str, "")
    arguments.end()
    if not all(isinstance(scope, str) for scope in scopes):
        raise arguments.misuse("scopes are texts")
    token = await host.mesh.issue_token(scopes, ttl_s, name)
    return {"token": token, "claims": plain(host.mesh.verify_token(token))}


async def _tokens(host: Host, arguments: Arguments) -> object:
    arguments.end()
    await trio.lowlevel.checkpoint()
    return plain(host.mesh.tokens())


async def _token_revoke(host: Host, arguments: Arguments) -> object:
    token_id = arguments.take("id", str)
    arguments.end()
    await host.mesh.revoke(token_id)
    return None


async def _health(host: Host, arguments: Arguments) -> object:
    arguments.end()
    await trio.lowlevel.checkpoint()
    return plain(host.mesh.check_health())


async def _report(host: Host, arguments: Arguments) -> object:
    form = arguments.take("format", str, "html")
    arguments.end()
    await trio.lowlevel.checkpoint()
    return host.mesh.generate_report(form)


async def _topology(host: Host, arguments: Arguments) -> object:
    arguments.end()
    await trio.lowlevel.checkpoint()
    return plain(host.mesh.topology())


async def _config(host: Host, arguments: Arguments) -> object:
    arguments.end()
    await trio.lowlevel.checkpoint()
    return settings(host.mesh.config)


async def _login(host: Host, arguments: Arguments) -> object:
    ttl_s = arguments.take("ttl_s", _NUMBER, 60.0)
    arguments.end()
    await trio.lowlevel.checkpoint()
    mesh = host.mesh
    if mesh.http_url is None and mesh.https_url is None:
        why = "HTTP is off at this node: start it with `bms up --http 127.0.0.1:7801`, or set http_address and reload"
        raise ConfigError("http_address", None, why)
    return {
        "code": mesh.issue_login(ttl_s=ttl_s),
        "expires_s": ttl_s,
        "http_url": mesh.http_url,
        "https_url": mesh.https_url,
        "folder": None if mesh.folder is None else str(mesh.folder),
    }


async def _stop(host: Host, arguments: Arguments) -> object:
    arguments.end()
    await trio.lowlevel.checkpoint()
    if host.on_stop is None:
        raise RefusedError("this node belongs to a program that does not take the command stop; end the program")
    host.on_stop()
    return None


async def _rows(host: Host, prefix: bytes, put: Put, row: Callable[[Any], Awaitable[object]]) -> None:
    rows: list[object] = []
    async with host.mesh.scan(prefix) as keys:
        async for info in keys:
            found = await row(info)
            if found is not None:
                rows.append(found)
            if len(rows) >= ROWS_MAX:
                await put(rows)
                rows = []
    await put(rows)


async def _ls(host: Host, arguments: Arguments, put: Put) -> None:
    prefix = arguments.take("prefix", bytes, b"")
    arguments.end()

    async def row(info: Any) -> object:
        return [info.key, info.size, info.version, str(info.author)]

    await _rows(host, prefix, put, row)


async def _digest(host: Host, arguments: Arguments, put: Put) -> None:
    prefix = arguments.take("prefix", bytes, b"")
    arguments.end()

    async def row(info: Any) -> object:
        try:
            found = await host.mesh.retrieve_data(info.key)
        except NotFoundError:
            return None  # deleted since it was listed
        return [info.key, blake3.blake3(found.value).digest()]

    await _rows(host, prefix, put, row)


async def _listen(host: Host, arguments: Arguments, put: Put) -> None:
    topic = arguments.take("topic", str, "")
    arguments.end()
    async with host.mesh.subscribe(topic) as messages:
        await put(None)
        async for message in messages:
            await put(plain(message))


async def _samples(host: Host, arguments: Arguments, put: Put) -> None:
    interval_s = arguments.take("interval_s", _NUMBER, 1.0)
    arguments.end()
    if not SAMPLE_S_MIN <= interval_s <= SAMPLE_S_MAX:
        raise arguments.misuse(f"interval_s is from {SAMPLE_S_MIN} to {SAMPLE_S_MAX}")
    mesh = host.mesh
    while True:
        topology = mesh.topology()
        await put(
            {
                "time": time.time(),
                "stats": plain(mesh.collect_stats()),
                "nodes": plain(topology.nodes),
                "links": plain(topology.links),
                "health": plain(mesh.check_health()),
            }
        )
        await trio.sleep(interval_s)


async def _events(host: Host, arguments: Arguments, put: Put) -> None:
    arguments.end()
    async with host.mesh.watch_nodes() as events:
        await put(None)
        async for event in events:
            await put(plain(event))


VERBS: dict[str, Callable[[Host, Arguments], Awaitable[object]]] = {
    "status": _status,
    "nodes": _nodes,
    "put": _put,
    "get": _get,
    "rm": _rm,
    "send": _send,
    "broadcast": _broadcast,
    "request": _request,
    "sync": _sync,
    "register": _register,
    "stats": _stats,
    "health": _health,
    "report": _report,
    "topology": _topology,
    "config": _config,
    "login": _login,
    "token_issue": _token_issue,
    "tokens": _tokens,
    "token_revoke": _token_revoke,
    "stop": _stop,
}
"""Verbs with one answer."""

STREAMS: dict[str, Callable[[Host, Arguments, Put], Awaitable[None]]] = {
    "ls": _ls,
    "digest": _digest,
    "listen": _listen,
    "samples": _samples,
    "events": _events,
}
"""Verbs with many."""
