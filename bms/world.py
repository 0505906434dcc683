"""What a node takes from outside, in one place: time, chance, network, threads. Passed in through `init`.

The real World is the default. A simulated one replaces it as a whole, so that a mesh of many nodes can run in one
process on virtual time. Nothing else in the package reads a wall clock, draws randomness or opens a socket. Monotonic
time is Trio's own clock and needs no seam.
"""

from __future__ import annotations

import fcntl
import random
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio

from .values import Address

__all__ = ["Network", "TcpNetwork", "World"]

_SIOCGIFADDR = 0x8915


class Network(Protocol):
    """Streams between addresses."""

    async def dial(self, address: Address) -> trio.abc.Stream:
        """Connect; raises OSError."""
        ...

    async def listen(
        self, address: Address, backlog: int
    ) -> Sequence[tuple[trio.abc.Listener[trio.abc.Stream], Address]]:
        """Bind; port 0 takes a free one. Returns each listener with the address it is bound to; raises OSError."""
        ...

    def local_hosts(self) -> list[str]:
        """The addresses of this machine that others may dial, most general first; loopback if there is no other."""
        ...


class TcpNetwork:
    """The operating system's TCP, IPv4 and IPv6. Names are resolved and tried by RFC 8305 (happy eyeballs)."""

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
            await sock.bind(("::" if dual else address.host, address.port))
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        host, port = sock.getsockname()[:2]
        return [(trio.SocketListener(sock), Address(host, port))]

    def local_hosts(self) -> list[str]:
        """Every interface's IPv4 address and global IPv6 addresses; loopback if there is no other."""
        found = list(dict.fromkeys([*_ipv4_of_interfaces(), *_global_ipv6()]))
        return [host for host in found if not host.startswith("127.")] or ["127.0.0.1"]


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
    `home` is the folder of all nodes (`config.home()`), `vfs` the name of SQLite's file system (the system's), and
    `disk_wait` is awaited before every commit while `threads` is False (no wait).
    """

    wall_time: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    token_bytes: Callable[[int], bytes] = secrets.token_bytes
    random: random.Random = attrs.field(factory=random.Random)
    network: Network = attrs.field(factory=TcpNetwork)
    threads: bool = True
    secure: Callable[[trio.abc.Stream, Any, bool], Awaitable[Any]] | None = None
    home: Path | None = None
    vfs: str | None = None
    disk_wait: Callable[[], Awaitable[None]] | None = None
