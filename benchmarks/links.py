"""What a message costs: CPU of both ends and latency, over one mutual TLS 1.3 link between two processes.

Beside each other, in every run and with the same payloads:

    bare       a blocking `ssl` socket, same certificates: an echo, and messages sent one by one
    link       `Link.call` and `Link.send_nowait`, without the rooms above
    send       `Mesh.send_message`: delivered to the other program's queue and acknowledged
    request    `Mesh.request`: answered by the other program's handler
    broadcast  `Mesh.broadcast_message`, one `await` a message; consumed by the other program's subscription

`cpu_us` is CPU time of both processes for one call (there and back) or one message (one way). `ratio` and `p50_ratio`
compare with the bare echo with one call in flight, or the bare one-way send. One way is measured in bursts, each
ended by a round trip that is part of its cost. The two processes are kept on different cores, as nodes usually are on
different machines: on one core a bare echo is three times as cheap, since nobody sleeps, and ratios to it mean
something else. `fan-out` is one node's broadcast to several: CPU of all processes for one delivery.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import common
import trio
import trio.lowlevel
from common import Child, Options, Row

from bms import Message, Missed, open_mesh
from bms.config import Config
from bms.counters import Counters
from bms.mesh import Mesh
from bms.net.handshake import VERSIONS, Introduction
from bms.net.link import Handler, Link
from bms.net.pool import Pool
from bms.net.tls import make_contexts
from bms.security.identity import Identity, load_identity_files
from bms.security.records import NodeRecord
from bms.security.trust import Trust
from bms.values import Address
from bms.wire.messages import Broadcast, Request, Response
from bms.world import World

__all__ = ["main"]

SIZES = (100, 1024, 64 * 1024)
COLUMNS = ("what", "bytes", "in_flight", "cpu_us", "low", "high", "per_cpu_s", "ratio", "p50_us", "p50_ratio", "target")
TARGETS = {
    ("link call", 100, 1): "ratio ≤ 1.9, p50_ratio ≤ 1.8",
    ("link call", 100, 16): "ratio ≤ 0.35",
    ("request", 100, 1): "ratio ≤ 1.9, p50_ratio ≤ 1.8",
    ("request", 100, 16): "ratio ≤ 0.35",
    ("broadcast", 100, 1): "cpu_us ≤ 7",
    ("link one way", 100, 1): "cpu_us ≤ 7",
}
_LIMITS = {"inbox_messages_max": 10_000, "link_queue_bytes_max": 32 * 1024 * 1024}
_BURST = 1000
_BURST_BYTES = 4 * 1024 * 1024
_MANY = 16
_RECEIVE_BYTES = 256 * 1024

Cost = tuple[float, float]
Measure = Callable[[int, float], Awaitable[Cost]]


def burst_of(size: int) -> int:
    """How many messages of `size` bytes are on their way before a round trip says that they have come."""
    return min(_BURST, _BURST_BYTES // size)


# ---------------------------------------------------------------------- bare sockets


def serve_bare(place: Path) -> None:
    """In a child: one connection after another; each says how many bytes to take before answering with how many."""
    contexts = make_contexts(_identity(place))
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    buffer = bytearray(_RECEIVE_BYTES)
    answer = bytes(max(SIZES))
    while True:
        raw, _ = listener.accept()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contexts.server.wrap_socket(raw, server_side=True) as sock:
            head = sock.recv(16)
            if not head:
                return  # the parent is done
            wanted, answered = int.from_bytes(head[:8], "big"), int.from_bytes(head[8:], "big")
            missing = wanted
            while count := sock.recv_into(buffer):
                missing -= count
                if missing == 0:
                    sock.sendall(answer[:answered])
                    missing = wanted


class Bare:
    """The client of `serve_bare`."""

    def __init__(self, place: Path, port: int, pid: int) -> None:
        self._context = make_contexts(_identity(place)).client
        self._port = port
        self._pids = (pid, os.getpid())

    def _connect(self, head: bytes) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self._port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = self._context.wrap_socket(raw)
        sock.sendall(head)
        return sock

    def close(self) -> None:
        """Let the server end."""
        self._connect(b"").close()

    async def echo(self, size: int, seconds: float) -> Cost:
        """Round trips, one at a time."""
        buffer, data, times = bytearray(size), bytes(size), []
        with self._connect(size.to_bytes(8, "big") * 2) as sock:
            view = memoryview(buffer)
            cpu, end = common.cpu_of(*self._pids), time.perf_counter() + seconds
            for start in common.until(end):
                sock.sendall(data)
                count = 0
                while count < size:
                    count += sock.recv_into(view[count:])
                times.append(time.perf_counter() - start)
            return (common.cpu_of(*self._pids) - cpu) / len(times), common.quantile(times)

    async def one_way(self, size: int, seconds: float) -> Cost:
        """Messages sent one by one, in bursts."""
        burst, data, count = burst_of(size), bytes(size), 0
        with self._connect((burst * size).to_bytes(8, "big") + (1).to_bytes(8, "big")) as sock:
            cpu, begin = common.cpu_of(*self._pids), time.perf_counter()
            for _ in common.until(begin + seconds):
                for _ in range(burst):
                    sock.sendall(data)
                sock.recv(1)
                count += burst
            wall = time.perf_counter() - begin
            return (common.cpu_of(*self._pids) - cpu) / count, wall / count


def _identity(place: Path) -> Identity:
    return load_identity_files(place / "key.pem", place / "cert.pem", place / "trust.pem", time.time())


# ---------------------------------------------------------------------- links alone


@asynccontextmanager
async def open_pool(place: Path, routes: dict[type, Handler]) -> AsyncIterator[tuple[Pool, Address]]:
    """A pool with no rooms above it, listening on loopback."""
    identity = _identity(place)
    record = NodeRecord.sign(
        identity.node_key, mesh_id=identity.mesh_id, boot=int(time.time() * 1000), boot_id=bytes(16), incarnation=1,
        name=place.name, addresses=[], box_keys=[identity.box_key.public], versions=VERSIONS, time=0,
    )  # fmt: skip
    config = Config(limits=_LIMITS)
    pool = Pool(
        introduce=lambda: Introduction(identity, record, config.limits.frame_bytes_max), trust=Trust(identity.bundle),
        config=config, world=World(), counters=Counters(), routes=routes,
        on_up=lambda link: None, on_down=lambda link, last: None,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        address = await nursery.start(pool.listen, Address("127.0.0.1", 0))
        yield pool, address
        nursery.cancel_scope.cancel()


async def serve_link(place: Path) -> None:
    """In a child: answer requests in the link's reader, and take broadcasts."""

    def answer(link: Link, request: Request) -> None:
        link.send_nowait(Response(request.id, request.body))

    def take(link: Link, message: Broadcast) -> None:
        pass

    async with open_pool(place, {Request: answer, Broadcast: take}) as (_, address):
        await common.answer_commands({"address": str(address)})


@attrs.frozen
class Linked:
    """Calls and one-way messages over a bare link."""

    link: Link
    pids: tuple[int, ...]

    def calls(self, in_flight: int) -> Measure:
        """Round trips, so many at once."""

        async def measure(size: int, seconds: float) -> Cost:
            body = bytes(size)

            async def call() -> None:
                await self.link.call(Request(0, 1, 1, "echo", body))

            return await measure_calls(call, in_flight, seconds, self.pids)

        return measure

    async def one_way(self, size: int, seconds: float) -> Cost:
        """Messages queued one by one, without an `await`; the reply to a call shows that they were taken."""
        body = bytes(size)

        async def burst() -> int:
            for number in range(burst_of(size)):
                while not self.link.send_nowait(Broadcast(number, "sink", body, 0)):
                    await trio.lowlevel.checkpoint()
            await self.link.call(Request(0, 1, 1, "echo", b""))
            return burst_of(size)

        return await measure_bursts(burst, seconds, self.pids)


# ---------------------------------------------------------------------- whole nodes


async def serve_mesh(place: Path, bootstrap: list[str]) -> None:
    """In a child: a node with an echo, and a subscription that counts."""
    taken, arrived = 0, trio.Event()

    async def echo(message: Message) -> bytes:
        return message.body

    async def barrier(message: Message) -> bytes:
        """Answer when so many messages have been taken since the last time."""
        nonlocal taken
        while taken < int(message.body):
            await arrived.wait()
        taken = 0
        return b""

    async def take(mesh: Mesh, *, task_status: trio.TaskStatus[None]) -> None:
        nonlocal taken, arrived
        async with mesh.subscribe("sink") as messages:
            task_status.started()
            async for message in messages:
                assert not isinstance(message, Missed), "a burst is below the inbox's bound"
                taken += 1
                if not taken % 100:
                    arrived.set()
                    arrived = trio.Event()

    async def drain(mesh: Mesh, *, task_status: trio.TaskStatus[None]) -> None:
        async with mesh.subscribe("notes") as messages:
            task_status.started()
            async for _ in messages:
                pass

    config = common.node_config(place, bootstrap, limits=_LIMITS)
    async with open_mesh(config) as mesh, trio.open_nursery() as nursery:
        await nursery.start(take, mesh)
        await nursery.start(drain, mesh)
        nursery.start_soon(mesh.serve_requests, "echo", echo)
        nursery.start_soon(mesh.serve_requests, "barrier", barrier)
        await common.answer_commands({"address": str(mesh.address)})
        nursery.cancel_scope.cancel()


@attrs.frozen
class Meshed:
    """What programs do with a mesh."""

    mesh: Mesh
    others: list[str]
    pids: tuple[int, ...]

    def requests(self, in_flight: int) -> Measure:
        """`Mesh.request`, so many at once."""

        async def measure(size: int, seconds: float) -> Cost:
            body = bytes(size)

            async def call() -> None:
                await self.mesh.request(self.others[0], body, "echo")

            return await measure_calls(call, in_flight, seconds, self.pids)

        return measure

    def sends(self, in_flight: int) -> Measure:
        """`Mesh.send_message`, so many at once."""

        async def measure(size: int, seconds: float) -> Cost:
            body = bytes(size)

            async def call() -> None:
                await self.mesh.send_message(self.others[0], body, "notes")

            return await measure_calls(call, in_flight, seconds, self.pids)

        return measure

    async def broadcasts(self, size: int, seconds: float) -> Cost:
        """`Mesh.broadcast_message`; the cost is that of one delivery."""
        body = bytes(size)

        async def burst() -> int:
            count = burst_of(size) // 100 * 100 or burst_of(size)
            for _ in range(count):
                await self.mesh.broadcast_message(body, "sink")
            expected = str(count // 100 * 100).encode()
            for other in self.others:
                await self.mesh.request(other, expected, "barrier")
            return count * len(self.others)

        return await measure_bursts(burst, seconds, self.pids)


# ---------------------------------------------------------------------- measuring


async def measure_calls(
    call: Callable[[], Awaitable[None]], in_flight: int, seconds: float, pids: tuple[int, ...]
) -> Cost:
    """(CPU seconds a call, median latency) of `in_flight` tasks that call one after another."""
    times: list[float] = []

    async def work() -> None:
        for start in common.until(end):
            await call()
            times.append(time.perf_counter() - start)

    await call()
    cpu, end = common.cpu_of(*pids), time.perf_counter() + seconds
    if in_flight == 1:
        await work()
    else:
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(work)
    return (common.cpu_of(*pids) - cpu) / len(times), common.quantile(times)


async def measure_bursts(burst: Callable[[], Awaitable[int]], seconds: float, pids: tuple[int, ...]) -> Cost:
    """(CPU seconds, wall seconds) a message, of bursts one after another."""
    count, cpu, begin = 0, common.cpu_of(*pids), time.perf_counter()
    for _ in common.until(begin + seconds):
        count += await burst()
    wall = time.perf_counter() - begin
    return (common.cpu_of(*pids) - cpu) / count, wall / count


async def measure_pair(chosen: Options, folder: Path) -> list[Row]:
    """Everything that two processes do, alternating."""
    me = os.getpid()
    one, two = common.make_identities(folder, 2)
    with ExitStack() as stack:
        roles = ("bare", "link", "mesh")
        children = stack.enter_context(
            Child.many([{"role": role, "place": str(two), "bootstrap": []} for role in roles])
        )
        (bare_child, bare_ready), (link_child, link_ready), (mesh_child, mesh_ready) = children
        bare = Bare(one, bare_ready["port"], bare_child.pid)
        stack.callback(bare.close)
        if chosen.place == "apart":
            stack.enter_context(common.apart(child.pid for child, _ in children))
        config = common.node_config(one, [mesh_ready["address"]], limits=_LIMITS)
        async with open_pool(one, {}) as (pool, _), open_mesh(config) as mesh:
            link = Linked(await pool.dial(Address.parse(link_ready["address"])), (link_child.pid, me))
            nodes = Meshed(mesh, await common.linked(mesh, 1), (mesh_child.pid, me))
            measures: dict[tuple[str, int], Measure] = {
                ("bare echo", 1): bare.echo,
                ("link call", 1): link.calls(1),
                ("send", 1): nodes.sends(1),
                ("request", 1): nodes.requests(1),
                ("link call", _MANY): link.calls(_MANY),
                ("send", _MANY): nodes.sends(_MANY),
                ("request", _MANY): nodes.requests(_MANY),
                ("bare one way", 1): bare.one_way,
                ("link one way", 1): link.one_way,
                ("broadcast", 1): nodes.broadcasts,
            }
            found: dict[tuple[str, int, int], list[Cost]] = defaultdict(list)
            for measure in measures.values():  # warm
                await measure(100, chosen.seconds / 4)
            for _ in range(chosen.runs):
                for size in SIZES:
                    for (what, in_flight), measure in measures.items():
                        found[what, size, in_flight].append(await measure(size, chosen.seconds))
    return [_row(key, found) for key in found]


def _row(key: tuple[str, int, int], found: dict[tuple[str, int, int], list[Cost]]) -> Row:
    what, size, in_flight = key
    is_one_way = what in ("bare one way", "link one way", "broadcast")
    cpu = [cost[0] * 1e6 for cost in found[key]]
    wall = [cost[1] * 1e6 for cost in found[key]]
    beside = found["bare one way" if is_one_way else "bare echo", size, 1]
    row: Row = {
        "what": what,
        "bytes": size,
        "in_flight": None if is_one_way else in_flight,
        **common.spread("cpu_us", cpu),
        "per_cpu_s": 1e6 / common.quantile(cpu),
        "ratio": common.ratio(cpu, [cost[0] * 1e6 for cost in beside]),
        "target": TARGETS.get(key),
    }
    if not is_one_way:
        row["p50_us"] = common.quantile(wall)
        row["p50_ratio"] = common.ratio(wall, [cost[1] * 1e6 for cost in beside])
    return row


async def measure_fan_out(chosen: Options, folder: Path, count: int) -> Row:
    """One node's broadcasts of 1 KiB to `count` others."""
    places = common.make_identities(folder, count + 1)
    settings = [{"role": "mesh", "place": str(place), "bootstrap": []} for place in places[1:]]
    with Child.many(settings) as children:
        config = common.node_config(places[0], [ready["address"] for _, ready in children], limits=_LIMITS)
        async with open_mesh(config) as mesh:
            others = await common.linked(mesh, count)
            nodes = Meshed(mesh, others, (os.getpid(), *(child.pid for child, _ in children)))
            await nodes.broadcasts(1024, chosen.seconds / 4)
            cpu = [(await nodes.broadcasts(1024, chosen.seconds))[0] * 1e6 for _ in range(chosen.runs)]
    return {
        "what": f"fan-out 1 to {count}",
        "bytes": 1024,
        **common.spread("cpu_us", cpu),
        "per_cpu_s": 1e6 / common.quantile(cpu),
    }


def main() -> None:
    """Measure, or be a child."""
    chosen = common.options(__doc__ or "")
    if (settings := chosen.child) is not None:
        place = Path(settings["place"])
        role: dict[str, Callable[[], Any]] = {
            "bare": lambda: serve_bare(place),
            "link": lambda: trio.run(serve_link, place),
            "mesh": lambda: trio.run(serve_mesh, place, settings["bootstrap"]),
        }
        role[settings["role"]]()
        return
    with tempfile.TemporaryDirectory(prefix="bms-bench-") as folder:
        rows = trio.run(measure_pair, chosen, Path(folder) / "pair")
        rows.append(trio.run(measure_fan_out, chosen, Path(folder) / "fan", 1 if chosen.quick else 4))
    common.write_result(common.Table("links", COLUMNS, rows), chosen)


if __name__ == "__main__":
    main()
