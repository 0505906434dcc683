"""Bad networks for real programs: TCP and UDP proxies on loopback that delay, stall, block and cut what passes.

Put one between two programs and turn its faults on and off while they run; `fired` counts what each really did.

    async with open_proxy("127.0.0.1:7800", seed=7, line=Line(latency_s=0.05, loss=0.01)) as proxy:
        ...                                        # dial proxy.address in place of 127.0.0.1:7800
        proxy.cut()                                # every connection is reset

    what                          TCP                                          UDP
    way.line: latency, jitter     chunks arrive late, in order                 datagrams arrive late, in order
    way.line: loss                a stall of 0.2, 0.4, 0.8 … s, as TCP has     the datagram is gone
    way.line: bytes_per_s         chunks take their turn                       datagrams take their turn
    way.line: duplication, …      nothing: a stream hides both                 twice, or overtaken by later ones
    way.block(), way.unblock()    chunks are held until it is unblocked        datagrams are gone
    cut(), cut(tell=…)            resets; silence for whom nothing is told
    is_refusing                   new connections are reset
    target                        where new connections lead; None resets      the same; None drops

`forth` is the way from the dialer to the target, `back` the other one. Each is changed alone: blocking one makes a
network that is broken in one direction. The seed decides all that is left to chance; how a stream falls into chunks is
the kernel's choice, so that two runs are alike but not the same. For runs that repeat exactly, use a simulated world.

Bounds, in each direction: `CHUNKS_MAX` chunks of at most 16 KiB on a connection, beyond which the sender is not read;
`CONNECTIONS_MAX` connections and `CLIENTS_MAX` datagram senders at once; `DATAGRAMS_MAX` datagrams under way.
What is beyond is refused or dropped, and counted. A proxy binds and dials 127.0.0.0/8 and ::1, nothing else.

Deliberately absent: changed bytes (TLS tells that at once; see the parsers' tests), and SYNs that get no answer, since
the kernel accepts before a program is asked: a connection made while a way is blocked opens, and then hears nothing.
"""

from __future__ import annotations

import heapq
import ipaddress
import itertools
import math
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import trio

from ..errors import LocalProtocolError
from ..values import Address
from .network import Line

__all__ = ["DatagramProxy", "TcpProxy", "Way", "open_datagram_proxy", "open_proxy"]

CHUNKS_MAX = 64
CONNECTIONS_MAX = 256
CLIENTS_MAX = 256
DATAGRAMS_MAX = 4096

_CHUNK_BYTES = 16 * 1024
_DATAGRAM_BYTES_MAX = 65_535
_PACKET_BYTES = 1460
_STALL_S = 0.2
_STALL_MAX_S = 120.0
_LOOK_S = 0.25
_TCP_INFO_ESTABLISHED = 1
_NO_LINGER = struct.pack("ii", 1, 0)  # close() then sends RST
_END, _RESET = "end", "reset"

Told = Literal["both", "client", "target", "nobody"]


class Way:
    """One direction through a proxy. `line` may be replaced at any time; what is under way keeps its time."""

    def __init__(self, name: str, line: Line, seed: int, fired: Counter[str]) -> None:
        self.name = name
        self.line = line
        self.opened = trio.Event()
        self.opened.set()
        self._chance = random.Random(f"{seed} {name}")
        self._fired = fired
        self._free_at = -math.inf

    @property
    def is_blocked(self) -> bool:
        """Whether nothing passes in this direction."""
        return not self.opened.is_set()

    def block(self) -> None:
        """Let nothing pass in this direction from now on."""
        if not self.is_blocked:
            self.opened = trio.Event()

    def unblock(self) -> None:
        """Let everything pass again."""
        self.opened.set()

    def count(self, what: str, number: int = 1) -> None:
        """Say that a fault did something here: under its name, and under its name with the way's."""
        self._fired[what] += number
        self._fired[f"{what} {self.name}"] += number

    def happens(self, chance: float) -> bool:
        """Draw."""
        return chance > 0 and self._chance.random() < chance

    def arrival(self, size: int) -> float:
        """When `size` bytes that are sent now come out, if none of them is lost."""
        line, now = self.line, trio.current_time()
        if line.bytes_per_s is not None:
            self._free_at = max(self._free_at, now) + size / line.bytes_per_s
            now = self._free_at
        return now + line.latency_s + self._chance.uniform(0, line.jitter_s)

    def stall_s(self, size: int) -> float:
        """How long lost packets hold a stream up: each costs a time-out, doubled where it is lost again (RFC 6298)."""
        total = 0.0
        for _ in range(math.ceil(size / _PACKET_BYTES)):
            wait_s = _STALL_S
            while self.happens(self.line.loss) and total < _STALL_MAX_S:
                self.count("stall")
                total += wait_s
                wait_s *= 2
        return total


class _Connection:
    """Two sockets and what is under way between them."""

    def __init__(self, client: trio.SocketStream, target: trio.SocketStream) -> None:
        self.client = client
        self.target = target
        self.scope = trio.CancelScope()
        self.told: Told | None = None
        """Who is told of a cut; None: there was none."""

    def cut(self, tell: Told) -> None:
        """End it, from the outside."""
        self.told = tell
        self.scope.cancel()

    async def run(self, forth: Way, back: Way) -> None:
        """Carry bytes both ways until both have ended or it is cut."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, self.client, self.target, forth)
                nursery.start_soon(self._carry, self.target, self.client, back)
        if self.told is None:
            return
        for name, stream in (("client", self.client), ("target", self.target)):
            if self.told in ("both", name):
                _reset(stream)
        await self._be_silent()

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream, way: Way) -> None:
        """One direction: a task that reads and one that waits and writes, with a bounded queue between them."""
        put, get = trio.open_memory_channel[tuple[float, bytes | str]](CHUNKS_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, source, put, way)
            await self._write(sink, get, way)
            nursery.cancel_scope.cancel()

    async def _read(
        self, source: trio.SocketStream, put: trio.MemorySendChannel[tuple[float, bytes | str]], way: Way
    ) -> None:
        latest = -math.inf
        item: bytes | str = b""
        while isinstance(item, bytes):
            try:
                item = await source.receive_some(_CHUNK_BYTES) or _END
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                item = _RESET
            size = len(item) if isinstance(item, bytes) else 40
            latest = max(latest, way.arrival(size) + way.stall_s(size))
            await put.send((latest, item))

    async def _write(
        self, sink: trio.SocketStream, get: trio.MemoryReceiveChannel[tuple[float, bytes | str]], way: Way
    ) -> None:
        async for at, item in get:
            await trio.sleep_until(at)
            if way.is_blocked:
                way.count("held")
            while way.is_blocked:
                await way.opened.wait()
            if item == _RESET:
                self.cut("both")
                return
            try:
                if isinstance(item, str):
                    await sink.send_eof()
                    return
                await sink.send_all(item)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.cut("both")
                return
            way.count("bytes", len(item))

    async def _be_silent(self) -> None:
        """Keep what hears nothing more until the programs have given up; the kernel tells."""
        while any(_is_established(stream.socket) for stream in (self.client, self.target)):  # noqa: ASYNC110 - no event
            await trio.sleep(_LOOK_S)


class TcpProxy:
    """A running proxy for streams; made by `open_proxy`."""

    def __init__(self, seed: int, line: Line, back: Line) -> None:
        self.fired: Counter[str] = Counter()
        """What faults really did: "stall", "held", "cut", "refused"; and "connections" and "bytes" that passed."""
        self.forth = Way("forth", line, seed, self.fired)
        self.back = Way("back", back, seed, self.fired)
        self.is_refusing = False
        self.address = Address("127.0.0.1", 0)
        self._target: Address | None = None
        self._connections: set[_Connection] = set()
        self._taken = 0

    @property
    def target(self) -> Address | None:
        """Where new connections lead; None: nowhere, they are reset."""
        return self._target

    @target.setter
    def target(self, target: Address | str | None) -> None:
        self._target = None if target is None else _loopback(target)

    @property
    def connections(self) -> int:
        """How many connections are open and not cut."""
        return sum(connection.told is None for connection in self._connections)

    def cut(self, tell: Told = "both") -> int:
        """Cut every connection; how many there were. Whoever is not told hears nothing on it ever again.

        "both" is a reset on both sides, "nobody" a black hole, "client" or "target" leaves the other one half-open.
        """
        open_now = [connection for connection in self._connections if connection.told is None]
        for connection in open_now:
            connection.cut(tell)
        self.fired["cut"] += len(open_now)
        return len(open_now)

    async def _serve(self, client: trio.SocketStream) -> None:
        if self.is_refusing or self._target is None or self._taken >= CONNECTIONS_MAX:
            self.fired["refused"] += 1
            return _reset(client)
        self._taken += 1
        try:
            for way in (self.forth, self.back):
                while way.is_blocked:  # a SYN or its answer
                    way.count("held")
                    await way.opened.wait()
            await self._join(client, self._target)
        finally:
            self._taken -= 1

    async def _join(self, client: trio.SocketStream, target: Address) -> None:
        try:
            stream = await trio.open_tcp_stream(target.host, target.port)
        except OSError:  # as it is, nobody listens there
            self.fired["refused"] += 1
            return _reset(client)
        async with stream:
            connection = _Connection(client, stream)
            self._connections.add(connection)
            self.fired["connections"] += 1
            try:
                await connection.run(self.forth, self.back)
            finally:
                self._connections.discard(connection)


@asynccontextmanager
async def open_proxy(
    target: Address | str | None,
    *,
    seed: int,
    line: Line | None = None,
    back: Line | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[TcpProxy]:
    """Run a TCP proxy on a free port of `host`; `line` is the way to `target`, `back` the way from it (the same).

    Raises LocalProtocolError where `host` or `target` is not a loopback address, in digits.
    """
    line = Line(0.0, 0.0) if line is None else line
    proxy = TcpProxy(seed, line, line if back is None else back)
    proxy.target = target
    listeners = await trio.open_tcp_listeners(0, host=_loopback(Address(host, 0)).host)
    proxy.address = Address(*listeners[0].socket.getsockname()[:2])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy._serve, listeners)
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()


class DatagramProxy:
    """A running proxy for datagrams; made by `open_datagram_proxy`. The target sees an address for each sender."""

    def __init__(self, seed: int, line: Line, back: Line, sock: trio.socket.SocketType) -> None:
        self.fired: Counter[str] = Counter()
        """What was done: "loss", "duplicate", "overtaken", "blocked", "dropped" (a bound); "datagrams" that passed."""
        self.forth = Way("forth", line, seed, self.fired)
        self.back = Way("back", back, seed, self.fired)
        self.address = Address(*sock.getsockname()[:2])
        self._target: Address | None = None
        self._socket = sock
        self._clients: dict[tuple[str, int], tuple[Address, trio.socket.SocketType]] = {}
        self._numbers = itertools.count()
        self._under_way: list[tuple[float, int, Way, trio.socket.SocketType, bytes, tuple[str, int]]] = []
        self._latest = {"forth": -math.inf, "back": -math.inf}
        self._posted = trio.Event()

    @property
    def target(self) -> Address | None:
        """Where datagrams go, those of senders already known included; None: nowhere, they are dropped."""
        return self._target

    @target.setter
    def target(self, target: Address | str | None) -> None:
        self._target = None if target is None else _loopback(target)

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver)
            while True:
                try:
                    data, sender = await self._socket.recvfrom(_DATAGRAM_BYTES_MAX)
                except OSError:
                    continue  # a sender has closed its socket (ICMP)
                outer = await self._outer(sender[:2], nursery)
                if outer is not None and self._target is not None:
                    self._post(self.forth, outer, data, (self._target.host, self._target.port))
                else:
                    self.forth.count("dropped")

    async def _outer(self, sender: tuple[str, int], nursery: trio.Nursery) -> trio.socket.SocketType | None:
        """The socket that speaks to the target for a sender; None where there are too many senders."""
        if sender not in self._clients:
            if self._target is None or len(self._clients) >= CLIENTS_MAX:
                return None
            outer = trio.socket.socket(_family(self._target.host), trio.socket.SOCK_DGRAM)
            try:
                await outer.bind(("::1" if ":" in self._target.host else "127.0.0.1", 0))
            except BaseException:
                outer.close()
                raise
            self._clients[sender] = (self._target, outer)
            nursery.start_soon(self._return, sender, outer)
        target, outer = self._clients[sender]
        usable = self._target is None or _family(self._target.host) == _family(target.host)
        return outer if usable else None

    async def _return(self, sender: tuple[str, int], outer: trio.socket.SocketType) -> None:
        with outer:
            while True:
                try:
                    data, source = await outer.recvfrom(_DATAGRAM_BYTES_MAX)
                except OSError:
                    continue
                if self._target is not None and source[:2] == (self._target.host, self._target.port):
                    self._post(self.back, self._socket, data, sender)

    def _post(self, way: Way, sock: trio.socket.SocketType, data: bytes, to: tuple[str, int]) -> None:
        """Put a datagram on its way, or not."""
        line = way.line
        if way.is_blocked:
            return way.count("blocked")
        if way.happens(line.loss):
            return way.count("loss")
        at = self._latest[way.name] = max(self._latest[way.name], way.arrival(len(data)))
        copies = 1
        if way.happens(line.reordering):
            way.count("overtaken")
            at += line.overtaken_s
        if way.happens(line.duplication):
            way.count("duplicate")
            copies = 2
        for _ in range(copies):
            if len(self._under_way) >= DATAGRAMS_MAX:
                way.count("dropped")
            else:
                heapq.heappush(self._under_way, (at, next(self._numbers), way, sock, data, to))
        self._posted.set()
        return None

    async def _deliver(self) -> None:
        while True:
            self._posted = trio.Event()
            wait_s = self._under_way[0][0] - trio.current_time() if self._under_way else math.inf
            if wait_s > 0:
                with trio.move_on_after(wait_s):
                    await self._posted.wait()
                continue
            _, _, way, sock, data, to = heapq.heappop(self._under_way)
            if way.is_blocked:
                way.count("blocked")
                continue
            try:
                await sock.sendto(data, to)
                way.count("datagrams")
            except OSError:
                way.count("dropped")  # nobody is there any more, or the socket is full


@asynccontextmanager
async def open_datagram_proxy(
    target: Address | str | None,
    *,
    seed: int,
    line: Line | None = None,
    back: Line | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[DatagramProxy]:
    """Run a UDP proxy on a free port of `host`; `line` is the way to `target`, `back` the way from it (the same).

    Raises LocalProtocolError where `host` or `target` is not a loopback address, in digits.
    """
    line = Line(0.0, 0.0) if line is None else line
    host = _loopback(Address(host, 0)).host
    with trio.socket.socket(_family(host), trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((host, 0))
        proxy = DatagramProxy(seed, line, line if back is None else back, sock)
        proxy.target = target
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy._run)
            try:
                yield proxy
            finally:
                nursery.cancel_scope.cancel()


def _loopback(address: Address | str) -> Address:
    """The address, if it is one of this machine alone."""
    found = Address.parse(address) if isinstance(address, str) else address
    try:
        number = ipaddress.ip_address(found.host)
    except ValueError:
        number = None
    if number is None or not (number in ipaddress.ip_network("127.0.0.0/8") or number == ipaddress.ip_address("::1")):
        raise LocalProtocolError(f"a proxy serves and dials 127.0.0.0/8 and ::1 alone, in digits, not {found}")
    return Address(str(number), found.port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _reset(stream: trio.SocketStream) -> None:
    """Close it with a reset."""
    if stream.socket.fileno() >= 0:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        stream.socket.close()


def _is_established(sock: trio.socket.SocketType) -> bool:
    """Whether the other side has neither closed nor reset it (tcp(7), TCP_INFO); elsewhere: whether it is open here."""
    if sock.fileno() < 0:
        return False
    if not sys.platform.startswith("linux"):
        return True
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_INFO_ESTABLISHED)
