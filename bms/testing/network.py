"""A simulated network: streams and datagrams between named hosts, with real faults. Everything follows from a seed.

One task, `SimNetwork.run`, delivers what is under way, in order of time. A chunk that is sent takes its turn at the
sender's line (`bytes_per_s`), then `latency_s` and up to `jitter_s`; each lost packet of it (1,460 bytes) costs a
retransmission time-out, doubled with each further loss; a stream's chunks arrive in order. What cannot pass because of
a partition, or because the machine is off, is tried again with backoff as TCP does it (RFC 6298), so that after healing
a stream goes on by itself, late, unless somebody has given up on it.

    connect     nobody listens          refused after a round trip (ECONNREFUSED)
                machine off, blocked    no answer; SYNs again after 1, 2, 4 … s; ETIMEDOUT after two minutes
                process frozen          connected: its kernel answers, its program does not
    process     ends                    its kernel closes: peers see the end (a reset, where data was left unread)
    machine     loses power             peers hear nothing; once it runs again, what they send is answered by a reset
    window      256 KiB unread          the sender waits

Partitions are pairs of hosts in one direction, each with a label, under which it is counted what they really held up.
Datagrams are in `datagrams`; they alone meet duplication and reordering, which a stream hides. Absent: congestion
control.
"""

from __future__ import annotations

import errno
import heapq
import math
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio

from ..values import Address
from .datagrams import DatagramLines, SimDatagramSocket
from .trace import Trace

__all__ = ["Line", "NetHost", "SimListener", "SimNetwork", "SimStream"]

_PACKET_BYTES = 1460
_WINDOW_BYTES = 256 * 1024
_LOOPBACK_S = 0.00002
_TIMEOUT_S = 0.2
_TIMEOUT_MAX_S = 120.0
_GIVE_UP_S = 900.0
_SYN_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_FIRST_PORT = 49152
_RECEIVE_BYTES = 64 * 1024
_REFUSED, _RESET, _END = "refused", "reset", "end"


@attrs.frozen
class Line:
    """One direction between two regions: seconds one way, seconds of jitter at most, chance of losing a packet, and
    bytes a second that a host can send (None: no limit). For datagrams alone: the chance of arriving twice, and that of
    being held back by `overtaken_s` so that later ones overtake.
    """

    latency_s: float = 0.001
    jitter_s: float = 0.0005
    loss: float = 0.0
    bytes_per_s: float | None = None
    duplication: float = 0.0
    reordering: float = 0.0
    overtaken_s: float = 0.02


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class _Pipe:
    """One direction of a connection: what is under way, and what has arrived unread."""

    def __init__(self, network: SimNetwork, name: str, source: NetHost, target: NetHost) -> None:
        self.name = name
        self.source = source
        self.target = target
        self.reverse: _Pipe = self
        self.buffer: deque[bytes] = deque()
        self.outstanding = 0
        self.is_ended = False
        self.error: int | None = None
        self.readable = trio.Event()
        self.writable = trio.Event()
        self.on_open: Callable[[], bool] | None = None
        self._network = network
        self._life = target.life
        self._latest = 0.0
        self._stalled: deque[bytes | str] | None = None
        self._stalled_at = 0.0
        self._backoff_s = _TIMEOUT_S

    # what the sender does

    def send(self, item: bytes | str) -> None:
        """Put data, or the word that says open, end or reset, on its way."""
        size = len(item) if isinstance(item, bytes) else 40
        if isinstance(item, bytes):
            self.outstanding += size
        at = max(self._latest, self._network.arrival(self.source, self.target, size))
        self._latest = at
        self._network.post(at, self._arrive, item)

    @property
    def room(self) -> int:
        """Bytes that may be sent now."""
        return _WINDOW_BYTES - self.outstanding

    def fail(self, number: int) -> None:
        """Make the connection broken for who sends here and receives from the other direction."""
        self.error = self.error or number
        self.writable.set()
        self.reverse.readable.set()

    # on the way

    def _arrive(self, item: bytes | str) -> None:
        if self._stalled is not None:
            self._stalled.append(item)
        elif self._network.passes(self.source, self.target):
            self._deliver(item)
        else:
            self._stalled = deque([item])
            self._stalled_at = trio.current_time()
            self._backoff_s = _TIMEOUT_S
            self._network.post(self._stalled_at + self._backoff_s, self._retry)

    def _retry(self) -> None:
        now = trio.current_time()
        if self._stalled is None or not self.source.is_up or self.error is not None:
            return
        if self._network.passes(self.source, self.target):
            items, self._stalled = self._stalled, None
            for item in items:
                self._deliver(item)
        elif now - self._stalled_at > _GIVE_UP_S:
            self.fail(errno.ETIMEDOUT)
        else:
            self._backoff_s = min(_TIMEOUT_MAX_S, self._backoff_s * 2)
            self._network.post(now + self._backoff_s, self._retry)

    def _deliver(self, item: bytes | str) -> None:
        what = item if isinstance(item, str) else str(len(item))
        self._network.trace.note(f"{self.name} {what}", item if isinstance(item, bytes) else b"")
        if self.target.life != self._life:  # the machine has started anew and knows nothing of this connection
            if item != _RESET:
                self._network.answer(self.target, self.source, lambda: self.fail(errno.ECONNRESET))
        elif item == _RESET:
            self.buffer.clear()
            self.reverse.fail(errno.ECONNRESET)
        elif item == _END:
            self.is_ended = True
            self.readable.set()
        elif item == "open":
            if self.on_open is not None and not self.on_open():
                self._network.answer(self.target, self.source, lambda: self.fail(errno.ECONNRESET))
        elif isinstance(item, bytes):
            if self.reverse.error is not None:  # nobody reads this any more
                self._network.answer(self.target, self.source, lambda: self.fail(errno.ECONNRESET))
            else:
                self.buffer.append(item)
                self.readable.set()

    # what the receiver does

    def take(self, bytes_max: int) -> bytes:
        """Data that has arrived; the sender may send as much again."""
        parts, size = [], 0
        while self.buffer and size < bytes_max:
            part = self.buffer.popleft()
            if size + len(part) > bytes_max:
                self.buffer.appendleft(part[bytes_max - size :])
                part = part[: bytes_max - size]
            parts.append(part)
            size += len(part)
        self._give_room(size)
        return b"".join(parts)

    def _give_room(self, size: int) -> None:
        """The acknowledgement, which needs the way back."""
        if self._network.passes(self.target, self.source):
            self.outstanding -= size
            self.writable.set()
        else:
            self._network.post(trio.current_time() + _TIMEOUT_S, self._give_room, size)


class SimStream(trio.abc.Stream):
    """One end of a simulated connection. `address` and `peer_address` are its two ends."""

    def __init__(self, host: NetHost, sends: _Pipe, receives: _Pipe, address: Address, peer_address: Address) -> None:
        self.address = address
        self.peer_address = peer_address
        self._host = host
        self._sends = sends
        self._receives = receives
        self._is_closed = False

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this end was closed")
        if self._sends.error is not None:
            raise trio.BrokenResourceError(os.strerror(self._sends.error)) from _error(self._sends.error)

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send as much as there is room for; how many bytes that was. Raises BrokenResourceError."""
        self._check()
        part = bytes(data[: max(0, self._sends.room)])
        if part:
            self._sends.send(part)
        return len(part)

    async def wait_writable(self) -> None:
        """Wait until there is room, or the connection is broken."""
        await trio.lowlevel.checkpoint()
        while self._sends.room <= 0 and self._sends.error is None and not self._is_closed:
            self._sends.writable = trio.Event()
            await self._sends.writable.wait()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything, waiting for room. Raises BrokenResourceError or ClosedResourceError."""
        rest = memoryview(data)
        self._check()
        await trio.lowlevel.checkpoint()
        while rest:
            rest = rest[self.send_nowait(rest) :]
            if rest:
                await self.wait_writable()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room. Raises BrokenResourceError or ClosedResourceError."""
        self._check()
        await self.wait_writable()
        self._check()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte, or b"" at the end. Raises BrokenResourceError or ClosedResourceError."""
        pipe = self._receives
        if pipe.buffer or pipe.is_ended or self._is_closed or self._sends.error is not None:
            await trio.lowlevel.checkpoint()  # otherwise waiting is one
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("this end was closed")
            if pipe.buffer:
                return pipe.take(max_bytes or _RECEIVE_BYTES)
            if pipe.is_ended:
                return b""
            self._check()
            pipe.readable = trio.Event()
            await pipe.readable.wait()

    def close(self) -> None:
        """End this side at once: a reset where something was left unread, as kernels do it."""
        if self._is_closed:
            return
        self._is_closed = True
        self._host.streams.pop(self, None)
        if self._sends.error is None:
            self._sends.send(_RESET if self._receives.buffer else _END)
            self._sends.error = errno.EPIPE
        self._receives.buffer.clear()
        self._receives.readable.set()
        self._sends.writable.set()

    def sever(self, number: int = errno.ECONNABORTED) -> None:
        """Break this side without a word to the other: the machine has lost its power."""
        self._host.streams.pop(self, None)
        self._receives.buffer.clear()
        self._sends.fail(number)

    async def aclose(self) -> None:
        """Close; waits for nobody."""
        self.close()
        await trio.lowlevel.checkpoint()


class SimListener(trio.abc.Listener[SimStream]):
    """A bound port."""

    def __init__(self, host: NetHost, port: int, backlog: int) -> None:
        self._host = host
        self._port = port
        self._backlog = backlog
        self._queue: deque[SimStream] = deque()
        self._arrived = trio.Event()
        self._is_closed = False

    @property
    def has_room(self) -> bool:
        """Whether another connection may wait to be accepted."""
        return len(self._queue) < self._backlog

    def push(self, stream: SimStream) -> None:
        """Let a connection wait to be accepted."""
        self._queue.append(stream)
        self._arrived.set()

    async def accept(self) -> SimStream:
        """The next connection. Raises ClosedResourceError."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("the listener was closed")
            if self._queue:
                return self._queue.popleft()
            self._arrived = trio.Event()
            await self._arrived.wait()

    def close(self) -> None:
        """Free the port; those who wait to be accepted are cut off."""
        if not self._is_closed:
            self._is_closed = True
            self._host.listeners.pop(self._port, None)
            for stream in self._queue:
                stream.close()
            self._arrived.set()

    async def aclose(self) -> None:
        """Free the port."""
        self.close()
        await trio.lowlevel.checkpoint()


class NetHost:
    """One machine on the network; implements `bms.world.Network` for what runs on it. `life` counts its starts."""

    def __init__(self, network: SimNetwork, name: str, ip: str, region: str) -> None:
        self.name = name
        self.ip = ip
        self.region = region
        self.life = 1
        self.is_up = True
        self.busy_until = 0.0
        self.listeners: dict[int, SimListener] = {}
        self.datagrams: dict[int, SimDatagramSocket] = {}
        self.streams: dict[SimStream, None] = {}
        self._network = network
        self._next_port = _FIRST_PORT

    def free_port(self) -> int:
        """A port that nobody has had yet."""
        self._next_port += 1
        return self._next_port - 1

    async def dial(self, address: Address) -> SimStream:
        """Connect; raises OSError (refused, timed out, no such host)."""
        return await self._network.connect(self, address)

    async def listen(self, address: Address, backlog: int) -> Sequence[tuple[SimListener, Address]]:
        """Bind; port 0 takes a free one. Raises OSError."""
        await trio.lowlevel.checkpoint()
        self._check_own(address)
        port = address.port or self.free_port()
        if port in self.listeners:
            raise _error(errno.EADDRINUSE)
        listener = self.listeners[port] = SimListener(self, port, backlog)
        return [(listener, Address(address.host, port))]

    async def open_datagrams(self, address: Address) -> SimDatagramSocket:
        """Bind a socket for datagrams; port 0 takes a free one. Raises OSError."""
        await trio.lowlevel.checkpoint()
        self._check_own(address)
        return self._network.datagrams.bind(self, address)

    def _check_own(self, address: Address) -> None:
        if address.host not in (self.ip, self.name, "::", "0.0.0.0", "*", ""):  # noqa: S104 - nothing real is bound
            raise _error(errno.EADDRNOTAVAIL)

    def local_hosts(self) -> list[str]:
        """This machine's address."""
        return [self.ip]

    def end_process(self) -> None:
        """The process is gone; its kernel closes what it had open."""
        for listener in list(self.listeners.values()):
            listener.close()
        for stream in list(self.streams):
            stream.close()
        self._end_datagrams()

    def _end_datagrams(self) -> None:
        for bound in list(self.datagrams.values()):
            bound.close()

    def power_off(self) -> None:
        """The machine is gone; nobody is told."""
        self.is_up = False
        for listener in list(self.listeners.values()):
            listener._queue.clear()
            listener.close()
        for stream in list(self.streams):
            stream.sever()
        self._end_datagrams()

    def power_on(self) -> None:
        """The machine runs again, knowing nothing of earlier connections."""
        if not self.is_up:
            self.is_up = True
            self.life += 1


class SimNetwork:
    """The hosts, the lines between their regions, and what is under way. `fired` counts what faults really did."""

    def __init__(self, chance: random.Random, trace: Trace, fired: Counter[str] | None = None) -> None:
        self.trace = trace
        self.fired: Counter[str] = Counter() if fired is None else fired
        self.hosts: dict[str, NetHost] = {}
        self.line = Line()
        self.lines: dict[tuple[str, str], Line] = {}
        self.datagrams = DatagramLines(self)
        self._by_address: dict[str, NetHost] = {}
        self._chance = chance
        self._blocks: dict[tuple[NetHost, NetHost], list[str]] = {}
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._posted = 0
        self._connections = 0
        self._until = trio.CancelScope()

    # ------------------------------------------------------------------ its shape

    def add_host(self, name: str, region: str = "") -> NetHost:
        """A new machine, at the next free address of 10.0.0.0/16."""
        number = len(self.hosts) + 1
        host = NetHost(self, name, f"10.0.{number // 250}.{number % 250}", region)
        self.hosts[name] = self._by_address[name] = self._by_address[host.ip] = host
        return host

    def host_at(self, ip: str) -> NetHost | None:
        """The machine with this address, in digits; names are not looked up."""
        host = self._by_address.get(ip)
        return host if host is not None and host.ip == ip else None

    def line_between(self, source: NetHost, target: NetHost) -> Line:
        """What leads from one host to another."""
        return self.lines.get((source.region, target.region), self.line)

    def block(self, source: NetHost, target: NetHost, label: str) -> None:
        """Let nothing pass from one host to another, until `unblock`; counted as `label`."""
        self._blocks.setdefault((source, target), []).append(label)

    def unblock(self, label: str) -> None:
        """Take away all blocks of this label."""
        for pair, labels in list(self._blocks.items()):
            kept = [other for other in labels if other != label]
            if kept:
                self._blocks[pair] = kept
            else:
                del self._blocks[pair]

    def unblock_all(self) -> None:
        """Take away all blocks."""
        self._blocks.clear()

    def passes(self, source: NetHost, target: NetHost) -> bool:
        """Whether something would get through now; counts what would not."""
        labels = self._blocks.get((source, target))
        if labels:
            for label in labels:
                self.fired[label] += 1
            return False
        return target.is_up

    # ------------------------------------------------------------------ delivery

    def post(self, at: float, deliver: Callable[..., None], *args: Any) -> None:
        """Call `deliver(*args)` at a virtual time."""
        self._posted += 1
        heapq.heappush(self._heap, (at, self._posted, deliver, args))
        if self._heap[0][1] == self._posted:
            self._until.deadline = at

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled."""
        task_status.started()
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                _, _, deliver, args = heapq.heappop(self._heap)
                deliver(*args)
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf) as self._until:
                await trio.sleep_forever()

    def happens(self, chance: float) -> bool:
        """Whether something with this chance happens; what cannot happen draws nothing."""
        return chance > 0 and self._chance.random() < chance

    def arrival_once(self, source: NetHost, target: NetHost, size: int) -> float:
        """When something sent now arrives, if it is not lost."""
        now = trio.current_time()
        if source is target:
            return now + _LOOPBACK_S
        line = self.line_between(source, target)
        start = max(now, source.busy_until)
        if line.bytes_per_s is not None:
            start = source.busy_until = start + size / line.bytes_per_s
        return start + line.latency_s + line.jitter_s * self._chance.random()

    def arrival(self, source: NetHost, target: NetHost, size: int) -> float:
        """When something sent now arrives, losses and retransmissions included."""
        at = self.arrival_once(source, target, size)
        line = self.line_between(source, target)
        if line.loss and source is not target:
            at += self._retransmissions_s(line, max(1, math.ceil(size / _PACKET_BYTES)))
        return at

    def _retransmissions_s(self, line: Line, packets: int) -> float:
        """How long the packet takes that is lost most often."""
        worst = 0
        for _ in range(packets):
            losses = 0
            while losses < 10 and self._chance.random() < line.loss:
                losses += 1
            self.fired["loss"] += losses
            worst = max(worst, losses)
        timeout_s = max(_TIMEOUT_S, 3 * line.latency_s)
        return timeout_s * float(2**worst - 1)

    def answer(self, source: NetHost, target: NetHost, deliver: Callable[[], None]) -> None:
        """Call `deliver` when a small packet gets from one host to another, if it does."""

        def arrive() -> None:
            if self.passes(source, target):
                deliver()

        line = self.line_between(source, target)
        if source is target or not (line.loss and self._chance.random() < line.loss):
            latency_s = _LOOPBACK_S if source is target else line.latency_s + line.jitter_s * self._chance.random()
            self.post(trio.current_time() + latency_s, arrive)
        else:
            self.fired["loss"] += 1

    # ------------------------------------------------------------------ connecting

    async def connect(self, source: NetHost, address: Address) -> SimStream:
        """A new connection, the dialing end of it; raises OSError."""
        target = self._by_address.get(address.host)
        if target is None:
            raise _error(errno.EHOSTUNREACH)
        dial = _Dial(self, source, target, address.port)
        try:
            for wait_s in _SYN_WAITS_S:
                self.answer(source, target, dial.knock)
                with trio.move_on_after(wait_s):
                    await dial.answered.wait()
                    break
        except BaseException:
            if dial.stream is not None:
                dial.stream.close()
            raise
        finally:
            dial.is_over = True
        if dial.stream is not None:
            return dial.stream
        raise _error(errno.ECONNREFUSED if dial.is_refused else errno.ETIMEDOUT)

    def open(self, source: NetHost, target: NetHost, listener: SimListener, port: int) -> SimStream:
        """Both ends of an established connection; the listening one waits to be accepted when the last packet has
        come.
        """
        self._connections += 1
        number = self._connections
        there = _Pipe(self, f"{source.name}>{target.name}#{number}", source, target)
        back = _Pipe(self, f"{target.name}>{source.name}#{number}", target, source)
        there.reverse, back.reverse = back, there
        near, far = Address(source.ip, source.free_port()), Address(target.ip, port)
        dialed = SimStream(source, there, back, near, far)
        accepted = SimStream(target, back, there, far, near)
        source.streams[dialed] = None

        def on_open() -> bool:
            if target.listeners.get(port) is not listener or not listener.has_room:
                return False
            target.streams[accepted] = None
            listener.push(accepted)
            return True

        there.on_open = on_open
        there.send("open")
        return dialed


class _Dial:
    """One attempt to connect."""

    def __init__(self, network: SimNetwork, source: NetHost, target: NetHost, port: int) -> None:
        self.answered = trio.Event()
        self.is_refused = False
        self.is_over = False
        self.stream: SimStream | None = None
        self._network = network
        self._source = source
        self._target = target
        self._port = port
        self._life = source.life

    def knock(self) -> None:
        """A SYN has arrived."""
        listener = self._target.listeners.get(self._port)
        if listener is None:
            self._network.answer(self._target, self._source, self._refuse)
        elif listener.has_room:
            self._network.answer(self._target, self._source, lambda: self._accept(listener))

    def _refuse(self) -> None:
        if not (self.is_over or self.answered.is_set()):
            self._network.trace.note(f"{self._source.name}>{self._target.name} {_REFUSED}")
            self.is_refused = True
            self.answered.set()

    def _accept(self, listener: SimListener) -> None:
        if not (self.is_over or self.answered.is_set()) and self._source.life == self._life and self._source.is_up:
            self.stream = self._network.open(self._source, self._target, listener, self._port)
            self.answered.set()
