"""Datagrams of the simulated network: bound ports, and packets that are lost, doubled, overtaken and thrown away.

A packet takes its turn at the sender's line like a stream's bytes, then the line's latency and jitter. Between two
hosts packets stay in order, whatever the jitter, but for those that `reordering` picks: such a one is held back by
`overtaken_s`, and those sent after it go by.

    what happens                                    counted in `fired` as
    lost on the line                                loss
    a second copy arrives and is taken              duplication
    arrives behind one that was sent after it       reordering
    meets a partition                               the partition's label
    the receiver's buffer is full                   datagram_overflow
    the sender's line is busy for `_LINE_S`         not at all: sending says False
    no process has the port, or the machine is off  not at all: nobody is told
    longer than `DATAGRAM_BYTES_MAX`                not at all: the receiver drops it

The buffer belongs to the receiver's kernel: a frozen process finds in it what came meanwhile, as far as it fits. It
goes with its process. Absent: fragments, ICMP, addresses that change on the way (NAT).
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING

import trio

from ..values import Address
from ..world import DATAGRAM_BYTES_MAX, DRAIN_MAX

if TYPE_CHECKING:
    from .network import Line, NetHost, SimNetwork

__all__ = ["DatagramLines", "SimDatagramSocket"]

_BUFFER_BYTES = 256 * 1024
_OVERHEAD_BYTES = 512  # what a kernel counts for each packet beside its bytes
_SEND_BYTES_MAX = 65_507  # UDP over IPv4
_LINE_S = 0.2


class SimDatagramSocket:
    """A bound port of a simulated host; see `bms.world.DatagramSocket`."""

    def __init__(self, lines: DatagramLines, host: NetHost, address: Address) -> None:
        self.address = address
        self._lines = lines
        self._host = host
        self._source = Address(host.ip, address.port)
        self._waiting: deque[tuple[bytes, Address]] = deque()
        self._room = _BUFFER_BYTES
        self._arrived = trio.Event()
        self._is_closed = False

    def send_nowait(self, data: bytes, to: Address) -> bool:
        """See `DatagramSocket`."""
        return not self._is_closed and self._lines.send(self._host, self._source, bytes(data), to)

    async def receive(self) -> list[tuple[bytes, Address]]:
        """See `DatagramSocket`."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                await trio.lowlevel.checkpoint_if_cancelled()  # so ends who was killed; it hears of no closing
                raise trio.ClosedResourceError("this socket was closed")
            if found := self.receive_nowait():
                return found
            self._arrived = trio.Event()
            await self._arrived.wait()

    def receive_nowait(self) -> list[tuple[bytes, Address]]:
        """See `DatagramSocket`."""
        found: list[tuple[bytes, Address]] = []
        while self._waiting and len(found) < DRAIN_MAX:
            data, source = self._waiting.popleft()
            self._room += len(data) + _OVERHEAD_BYTES
            if len(data) <= DATAGRAM_BYTES_MAX:
                found.append((data, source))
        return found

    def push(self, data: bytes, source: Address) -> bool:
        """Put what has arrived into the buffer; False where it does not fit."""
        if len(data) + _OVERHEAD_BYTES > self._room:
            return False
        self._room -= len(data) + _OVERHEAD_BYTES
        self._waiting.append((data, source))
        self._arrived.set()
        return True

    def close(self) -> None:
        """See `DatagramSocket`."""
        if not self._is_closed:
            self._is_closed = True
            self._host.datagrams.pop(self.address.port, None)
            self._waiting.clear()
            self._arrived.set()


class _Way:
    """From one host to another: when the last packet in order arrives, how many were sent, the last one that came."""

    __slots__ = ("came", "latest", "sent")

    def __init__(self) -> None:
        self.latest = 0.0
        self.sent = 0
        self.came = 0


class DatagramLines:
    """What datagrams meet between the hosts of a `SimNetwork`."""

    def __init__(self, network: SimNetwork) -> None:
        self._network = network
        self._ways: dict[tuple[NetHost, NetHost], _Way] = {}

    def bind(self, host: NetHost, address: Address) -> SimDatagramSocket:
        """A socket at a port of `host`, a free one for 0; raises OSError."""
        port = address.port or host.free_port()
        if port in host.datagrams:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        bound = host.datagrams[port] = SimDatagramSocket(self, host, Address(address.host, port))
        return bound

    def send(self, source: NetHost, sender: Address, data: bytes, to: Address) -> bool:
        """Put a packet on its way; False where there is none, or no room on it."""
        network, target = self._network, self._network.host_at(to.host)
        if target is None or not source.is_up or len(data) > _SEND_BYTES_MAX:
            return False
        line = None if source is target else network.line_between(source, target)
        if line is not None and line.bytes_per_s is not None and source.busy_until - trio.current_time() > _LINE_S:
            return False
        way = self._ways.setdefault((source, target), _Way())
        way.sent += 1
        number, at = way.sent, network.arrival_once(source, target, len(data))
        if line is not None and network.happens(line.loss):
            network.fired["loss"] += 1
            return True
        for copy in range(2 if line is not None and network.happens(line.duplication) else 1):
            when = at if line is None else self._in_order(way, line, at)
            network.post(when, self._arrive, source, target, sender, to.port, data, number, copy > 0)
        return True

    def _in_order(self, way: _Way, line: Line, at: float) -> float:
        """When a packet arrives that would arrive at `at` if there were no others."""
        if self._network.happens(line.reordering):
            return max(at, way.latest) + line.overtaken_s
        way.latest = max(at, way.latest)
        return way.latest

    def _arrive(
        self, source: NetHost, target: NetHost, sender: Address, port: int, data: bytes, number: int, is_copy: bool
    ) -> None:
        network = self._network
        if not network.passes(source, target):
            return
        way = self._ways[source, target]
        is_late = number < way.came
        way.came = max(way.came, number)
        bound = target.datagrams.get(port)
        if bound is None:
            return
        network.trace.note(f"{source.name}>{target.name}:{port} datagram {len(data)}", data)
        if not bound.push(data, sender):
            network.fired["datagram_overflow"] += 1
            return
        if is_copy:
            network.fired["duplication"] += 1
        if is_late:
            network.fired["reordering"] += 1
