"""What a node takes from outside, in one place: time, chance, network, threads. Passed in through `init`.

The real World is the default. A simulated one replaces it as a whole, so that a mesh of many nodes can run in one
process on virtual time. Nothing else in the package reads a wall clock, draws randomness or opens a socket. Monotonic
time is Trio's own clock and needs no seam.

Datagrams are read in bursts: one wait for the socket, then all that is there without waiting (measured: six times as
many packets for the same CPU as one wait each). Neither sending nor receiving ever raises for what a peer or the
network did. No names are resolved on the way, since that blocks; addresses of IPv4 are written as such everywhere,
also where a socket of IPv6 carries them (`::ffff:192.0.2.7`, RFC 4291 section 2.5.5.2).
"""

from __future__ import annotations

import errno
import fcntl
import functools
import random
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio

from .values import Address

__all__ = ["DATAGRAM_BYTES_MAX", "DRAIN_MAX", "DatagramSocket", "Network", "SystemNetwork", "World"]

DATAGRAM_BYTES_MAX = 1500
"""Longer datagrams are dropped where they arrive."""
DRAIN_MAX = 256
"""So many datagrams are read at a time, at most."""

_SIOCGIFADDR = 0x8915
_RECEIVE_BUFFER_BYTES = 1 << 20
_MAPPED = "::ffff:"


class DatagramSocket(Protocol):
    """A bound socket for datagrams. `address` is where it is bound."""

    address: Address

    def send_nowait(self, data: bytes, to: Address) -> bool:
        """Send a datagram to an address in digits. False: it did not go out, for whatever reason; nothing is raised."""
        ...

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams; those that are there with their sources, at most `DRAIN_MAX`. trio.ClosedResourceError
        once the socket is closed.
        """
        ...

    def receive_nowait(self) -> list[tuple[bytes, Address]]:
        """The same without waiting: [] if there is none, or the socket is closed."""
        ...

    def close(self) -> None:
        """Free the address, and wake who waits. May be called again."""
        ...


class Network(Protocol):
    """Streams and datagrams between addresses."""

    async def dial(self, address: Address) -> trio.abc.Stream:
        """Connect; raises OSError."""
        ...

    async def listen(
        self, address: Address, backlog: int
    ) -> Sequence[tuple[trio.abc.Listener[trio.abc.Stream], Address]]:
        """Bind; port 0 takes a free one. Returns each listener with the address it is bound to; raises OSError."""
        ...

    async def open_datagrams(self, address: Address) -> DatagramSocket:
        """Bind a socket for datagrams; port 0 takes a free one. Raises OSError."""
        ...

    def local_hosts(self) -> list[str]:
        """The addresses of this machine that others may dial, most general first; loopback if there is no other."""
        ...


@contextmanager
def _host_names() -> Iterator[None]:
    """A host that IDNA cannot encode is an OSError like other names that nobody has."""
    try:
        yield
    except UnicodeError as error:
        raise OSError(errno.EINVAL, "that is no host name") from error


class SystemNetwork:
    """The operating system's TCP and UDP, IPv4 and IPv6. Names are dialed by RFC 8305 (happy eyeballs)."""

    async def dial(self, address: Address) -> trio.SocketStream:
        """Connect to a host name or address; raises OSError."""
        return await trio.open_tcp_stream(address.host, address.port)

    async def listen(self, address: Address, backlog: int) -> Sequence[tuple[trio.SocketListener, Address]]:
        """Bind to `address`; "::" takes IPv4 as well where the system allows it."""
        dual = address.host in ("::", "*", "")
        sock = trio.socket.socket(trio.socket.AF_INET6 if ":" in address.host or dual else trio.socket.AF_INET)
        try:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            if sock.family == trio.socket.AF_INET6:
                sock.setsockopt(trio.socket.IPPROTO_IPV6, trio.socket.IPV6_V6ONLY, 0 if dual else 1)
            with _host_names():
                await sock.bind(("::" if dual else address.host, address.port))
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return [(trio.SocketListener(sock), _address_of(sock.getsockname()))]

    async def open_datagrams(self, address: Address) -> DatagramSocket:
        """Bind a UDP socket to `address`; "::" takes IPv4 as well where the system allows it."""
        dual = address.host in ("::", "*", "")
        family = socket.AF_INET6 if ":" in address.host or dual else socket.AF_INET
        host = "::" if dual else address.host
        with _host_names():
            [(*_, place), *_] = await trio.socket.getaddrinfo(host, address.port, family, socket.SOCK_DGRAM)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)  # as much as the system gives
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
            sock.bind(place)
        except BaseException:
            sock.close()
            raise
        return _UdpSocket(sock, dual)

    def local_hosts(self) -> list[str]:
        """Every interface's IPv4 address and global IPv6 addresses; loopback if there is no other."""
        found = list(dict.fromkeys([*_ipv4_of_interfaces(), *_global_ipv6()]))
        return [host for host in found if not host.startswith("127.")] or ["127.0.0.1"]


class _UdpSocket:
    """See `DatagramSocket`."""

    def __init__(self, sock: socket.socket, dual: bool) -> None:
        self.address = _address_of(sock.getsockname())
        self._socket = sock
        self._is_dual = dual

    def send_nowait(self, data: bytes, to: Address) -> bool:
        """See `DatagramSocket`."""
        place = _place_of(to, self._socket.family, self._is_dual)
        if place is None:
            return False
        try:
            self._socket.sendto(data, place)
        except OSError:  # the buffer is full, no route, too long, an answer of ICMP to an earlier one, or closed
            return False
        return True

    async def receive(self) -> list[tuple[bytes, Address]]:
        """See `DatagramSocket`."""
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError("this socket was closed")
            await trio.lowlevel.wait_readable(self._socket)
            if found := self.receive_nowait():
                return found

    def receive_nowait(self) -> list[tuple[bytes, Address]]:
        """See `DatagramSocket`."""
        if self._socket.fileno() < 0:
            return []
        found = []
        receive = self._socket.recvfrom
        for _ in range(DRAIN_MAX):
            try:
                data, place = receive(DATAGRAM_BYTES_MAX + 1)
            except BlockingIOError:
                break
            except OSError:  # an answer of ICMP to one that was sent
                continue
            if len(data) <= DATAGRAM_BYTES_MAX:
                found.append((data, _address_of(place)))
        return found

    def close(self) -> None:
        """See `DatagramSocket`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


@functools.lru_cache(maxsize=4096)
def _place_of(address: Address, family: int, dual: bool) -> tuple[Any, ...] | None:
    """An address in digits as a socket of that family takes it; None where it takes none such, or it is a name."""
    host, _, zone = address.host.removeprefix(_MAPPED).partition("%")
    if not 0 < address.port <= 65_535:
        return None
    try:
        if ":" not in host:
            socket.inet_pton(socket.AF_INET, host)
            mapped = (_MAPPED + host, address.port, 0, 0) if dual else None
            return mapped if family == socket.AF_INET6 else (host, address.port)
        socket.inet_pton(socket.AF_INET6, host)
        scope = int(zone or "0")
    except (OSError, ValueError):
        return None
    return (host, address.port, 0, scope) if family == socket.AF_INET6 and 0 <= scope < 1 << 32 else None


def _address_of(place: tuple[Any, ...]) -> Address:
    """An address as a socket gives it, IPv4 as IPv4; the zone of a link-local one behind "%"."""
    host, port = place[0], place[1]
    if len(place) == 4:
        if place[3]:
            host = f"{host.partition('%')[0]}%{place[3]}"
        host = host.removeprefix(_MAPPED)
    return Address(host, port)


def _ipv4_of_interfaces() -> list[str]:
    hosts = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            hosts.append(socket.inet_ntoa(answer[20:24]))
    return hosts


def _global_ipv6() -> list[str]:
    """Linux's list of IPv6 addresses; elsewhere none are found this way, and peers tell what they observe."""
    hosts = []
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        digits, _, _, scope, *_ = line.split()
        if int(scope, 16) == 0:
            hosts.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    return hosts


@attrs.define
class World:
    """The outside, with the real one as default.

    `wall_time` gives Unix seconds, `monotonic` seconds that nobody sets, `token_bytes` secret random bytes, `random`
    chance for jitter and shuffling. `threads` False makes the store run on the caller's thread, for clocks that do not
    see threads.

    What is None is the real thing: `secure(stream, identity, server_side)` puts a `net.tls.Channel` on a stream (TLS),
    `home` is the folder of all nodes (`config.home()`), `vfs` the name of SQLite's file system (the system's),
    `disk_wait` is awaited before every commit while `threads` is False (no wait), and `resolve_srv(name)` gives the SRV
    records of a name as (priority, weight, port, target), and for how many seconds they hold; it raises OSError (DNS).
    """

    wall_time: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    token_bytes: Callable[[int], bytes] = secrets.token_bytes
    random: random.Random = attrs.field(factory=random.Random)
    network: Network = attrs.field(factory=SystemNetwork)
    threads: bool = True
    secure: Callable[[trio.abc.Stream, Any, bool], Awaitable[Any]] | None = None
    home: Path | None = None
    vfs: str | None = None
    disk_wait: Callable[[], Awaitable[None]] | None = None
    resolve_srv: Callable[[str], Awaitable[tuple[Sequence[tuple[int, int, int, str]], float]]] | None = None
