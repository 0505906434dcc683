"""A simulated world: hosts on a simulated network, each of which can run a whole node, on virtual time.

    async with open_sim_world(seed=7) as sim:
        a, b = await sim.start_nodes(2)
        await sim.until(lambda: len(a.mesh.nodes("alive")) == 2)
        await a.mesh.store_data("k", b"v")
        await b.crash(power=True)

A host gives its node a `World` of its own: wall clock, chance, keys, network and disk, all following from the seed. The
node itself is the real one (`bms.Mesh`, links with handshake and proof, the store on SQLite files, in the caller's
thread). In the place of TLS each side shows its certificate, which must be signed by an issuer of the mesh; proof and
all after it is the real thing. Identities are issued before the start by the world's own authority.

    crash           the process is killed: its tasks end at once, sockets are closed by the kernel, the disk stays as of
                    the last commit; with `power` the machine goes: peers hear nothing, writes not flushed may be lost
    freeze, thaw    as SIGSTOP and SIGCONT
    partition       between groups, or one way; `heal` takes all away
    clock           `clock_offset_s` (skew; set it again for a step), `clock_absent` (counts from 1970 at each start)

It must run inside `run_simulation`, the fixtures of `bms.testing.fixtures`, or any Trio run with the virtual clock;
only the first two make the order of tasks follow from the seed.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from ..config import Config
from ..errors import LocalProtocolError, RemoteProtocolError
from ..mesh import Mesh, init
from ..net.tls import Channel
from ..security import pem
from ..security.authority import Authority
from ..security.certificates import is_issued
from ..security.identity import Identity
from ..security.keys import BoxKey, NodeKey
from ..values import Address
from ..world import World
from .determinism import Freezer, run_deterministic
from .disk import SimDisk, SimDisks
from .network import Line, NetHost, SimNetwork, SimStream
from .trace import Trace

__all__ = ["SimHost", "SimWorld", "open_sim_world", "run_simulation"]

T = TypeVar("T")

START_S = 1_800_000_000.0
"""The true Unix time at which every simulated world begins: 15 January 2027, 08:00 UTC."""

_PORT = 7800
_SEEDS = 3
_CERTIFICATE_BYTES_MAX = 16 * 1024
_names = itertools.count(1)


class _SimChannel:
    """The simulated world's place for TLS: the bytes of a simulated stream, and the certificate of its other end."""

    def __init__(self, stream: SimStream) -> None:
        self.peer_certificate: bytes | None = None
        self._stream = stream
        self._unsent = memoryview(b"")

    def send_nowait(self, data: bytes) -> bool:
        """See `net.tls.Channel`."""
        assert not self._unsent, "flush() comes first"
        self._unsent = memoryview(data)[self._stream.send_nowait(data) :]
        return not self._unsent

    async def flush(self) -> None:
        """See `net.tls.Channel`."""
        while self._unsent:
            await self._stream.wait_writable()
            self._unsent = self._unsent[self._stream.send_nowait(self._unsent) :]

    async def receive_some(self) -> bytes:
        """See `net.tls.Channel`."""
        return await self._stream.receive_some()

    async def aclose(self) -> None:
        """See `net.tls.Channel`."""
        self._stream.close()
        await trio.lowlevel.cancel_shielded_checkpoint()


class SimHost:
    """One machine. `mesh` is its running node, `node_id` that node's id; both are known once it has started."""

    def __init__(self, sim: SimWorld, name: str, region: str, fields: dict[str, Any]) -> None:
        self.sim = sim
        self.name = name
        self.fields = fields
        self.clock_offset_s = 0.0
        self.clock_absent = False
        self.starts = 0
        self.net: NetHost = sim.network.add_host(name, region)
        self.chance = sim.chance(f"host {name}")
        self.folder = sim.folder / name
        self.disk = SimDisk(self.folder / "data", sim.chance(f"disk {name}"), sim.fired)
        self._keys = sim.chance(f"keys {name}")
        self._mesh: Mesh | None = None
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._task: trio.lowlevel.Task | None = None
        self._ended = trio.Event()
        self._started_at = 0.0
        self._is_frozen = False
        sim.disks.add(self.disk)
        self._issue()

    def __repr__(self) -> str:
        return f"<SimHost {self.name} {'frozen' if self._is_frozen else 'up' if self.is_up else 'down'}>"

    # ------------------------------------------------------------------ what it is

    @property
    def mesh(self) -> Mesh:
        """Its node. LocalProtocolError if none runs."""
        if self._mesh is None:
            raise LocalProtocolError(f"no node runs on {self.name}")
        return self._mesh

    @property
    def is_up(self) -> bool:
        """Whether a node runs here (a frozen one does)."""
        return self._mesh is not None

    @property
    def is_frozen(self) -> bool:
        """Whether its process is stopped."""
        return self._is_frozen

    @property
    def address(self) -> Address:
        """Where its node listens."""
        return Address(self.net.ip, _PORT)

    def wall_time(self) -> float:
        """What its clock shows, Unix seconds."""
        if self.clock_absent:
            self.sim.fired["clock_absent"] += 1
            return trio.current_time() - self._started_at + self.clock_offset_s
        if self.clock_offset_s:
            self.sim.fired["clock_offset"] += 1
        return self.sim.true_time() + self.clock_offset_s

    def world(self) -> World:
        """The `World` of a node on this host."""
        return World(
            wall_time=self.wall_time,
            monotonic=trio.current_time,
            token_bytes=self._keys.randbytes,
            random=self.chance,
            network=self.net,
            threads=False,
            secure=self.sim._secure,
            home=self.folder / "home",
            vfs=self.sim.disks.vfs_name,
            disk_wait=self.disk.wait,
        )

    def config(self, **fields: Any) -> Config:
        """The settings of its node: an identity of the world's mesh, the first hosts as bootstrap nodes."""
        seeds = [str(host.address) for host in list(self.sim.hosts.values())[:_SEEDS] if host is not self]
        place = self.folder / "identity"
        settings: dict[str, Any] = {
            "mesh_name": "sim",
            "node_name": self.name,
            "listen_address": str(self.address),
            "bootstrap_nodes": tuple(seeds),
            "persistence_path": self.disk.folder,
            "key_path": place / "key.pem",
            "cert_path": place / "cert.pem",
            "trust_path": place / "trust.pem",
        }
        return Config(**{**settings, **self.fields, **fields})

    def _issue(self) -> None:
        node_key, box_key = NodeKey.generate(self._keys.randbytes), BoxKey.generate(self._keys.randbytes)
        files = self.sim.authority.issue_identity(node_key, box_key, now=self.sim.true_time())
        place = self.folder / "identity"
        place.mkdir(parents=True)
        for name, content in files.files.items():
            (place / name).touch(mode=0o600)
            (place / name).write_bytes(content)
        self.node_id = node_key.node_id

    # ------------------------------------------------------------------ its life

    async def start(self, **fields: Any) -> Mesh:
        """Run a node here; returns when it serves. LocalProtocolError if one runs already."""
        if self.is_up:
            raise LocalProtocolError(f"a node runs on {self.name} already")
        self.net.power_on()
        self.starts += 1
        self._started_at = trio.current_time()
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.sim.trace.note(f"start {self.name}")
        mesh: Mesh = await self.sim.nursery.start(self._live, self.config(**fields))
        return mesh

    async def _live(self, config: Config, *, task_status: trio.TaskStatus[Mesh]) -> None:
        mesh: Mesh | None = None
        try:
            with self._scope:
                mesh = init(config, world=self.world())
                async with trio.open_nursery() as nursery:
                    self._task = trio.lowlevel.current_task()
                    await mesh.start(nursery)
                    self._mesh, self._nursery = mesh, nursery
                    task_status.started(mesh)
                    await trio.sleep_forever()
        finally:
            self._mesh = self._nursery = None
            try:
                if mesh is not None:
                    await mesh.shutdown()
            finally:
                self._ended.set()

    def start_soon(self, program: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Run a program on this host, beside its node: it is frozen and ends with it."""
        if self._nursery is None:
            raise LocalProtocolError(f"no node runs on {self.name}")
        self._nursery.start_soon(program, *args)

    async def stop(self) -> None:
        """Let the node leave and end, as a program that returns does. Harmless if none runs."""
        if self._mesh is not None:
            self.thaw()
            self.sim.trace.note(f"stop {self.name}")
            await self._mesh.stop()
            self._scope.cancel()
            await self._ended.wait()

    async def crash(self, *, power: bool = False) -> bool:
        """Kill the process, or with `power` cut the machine off its power; False if nothing ran."""
        if self._mesh is None:
            return False
        self.sim.trace.note(f"crash {self.name}{' power' if power else ''}")
        self.thaw()
        image = self.disk.image(power_loss=power)
        if power:
            self.net.power_off()
        else:
            self.net.end_process()
        self._mesh = self._nursery = None
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        self.disk.restore(image)
        self.sim.fired["power_loss" if power else "crash"] += 1
        return True

    def freeze(self) -> bool:
        """Stop the process as SIGSTOP does; False if nothing runs or it is frozen already."""
        if self._mesh is None or self._is_frozen or self._task is None:
            return False
        self.sim.trace.note(f"freeze {self.name}")
        self._is_frozen = True
        self.sim.freezer.freeze(self._task)
        return True

    def thaw(self) -> None:
        """Let it go on. Harmless if it is not frozen."""
        if self._is_frozen and self._task is not None:
            self.sim.trace.note(f"thaw {self.name}")
            self._is_frozen = False
            self.sim.freezer.thaw(self._task)


class SimWorld:
    """All of it. Made by `open_sim_world`. `fired` counts what faults really did, `trace` holds what happened."""

    def __init__(self, seed: int, folder: Path, nursery: trio.Nursery, *, trace_lines: int | None = 200) -> None:
        self.seed = seed
        self.folder = folder
        self.nursery = nursery
        self.fired: Counter[str] = Counter()
        self.trace = Trace(trace_lines)
        self.network = SimNetwork(self.chance("network"), self.trace, self.fired)
        self.freezer = Freezer()
        self.hosts: dict[str, SimHost] = {}
        self.disks = SimDisks(f"bms-sim-{os.getpid()}-{next(_names)}")
        self.authority = Authority.create(token_bytes=self.chance("authority").randbytes, now=START_S)
        self._issued: dict[tuple[bytes, bytes], bool] = {}
        self._partitions = 0

    def chance(self, purpose: str) -> random.Random:
        """A generator of its own for each purpose, so that more draws for one do not change another's."""
        return random.Random(f"{self.seed} {purpose}")

    def true_time(self) -> float:
        """The true wall time, Unix seconds."""
        return START_S + trio.current_time()

    # ------------------------------------------------------------------ hosts

    def add_host(self, name: str | None = None, *, region: str = "", **fields: Any) -> SimHost:
        """A new machine, on which nothing runs yet; `fields` are settings of its node."""
        name = name or f"n{len(self.hosts) + 1}"
        host = self.hosts[name] = SimHost(self, name, region, fields)
        return host

    async def start_nodes(self, count: int, **fields: Any) -> list[SimHost]:
        """Start nodes on `count` new hosts, all at once."""
        hosts = [self.add_host(**fields) for _ in range(count)]
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(host.start)
        return hosts

    def up(self) -> list[SimHost]:
        """The hosts on which a node runs."""
        return [host for host in self.hosts.values() if host.is_up]

    async def until(self, condition: Callable[[], object], seconds: float = 60.0, step_s: float = 0.05) -> float:
        """Wait until `condition()` is true; how long that took. trio.TooSlowError after `seconds` of virtual time."""
        start = trio.current_time()
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await trio.sleep(step_s)
        return trio.current_time() - start

    async def until_joined(self, seconds: float = 60.0) -> float:
        """Wait until every running node sees exactly the running nodes alive; how long that took."""

        def joined() -> bool:
            ids = {host.node_id for host in self.up()}
            return all({node.node_id for node in host.mesh.nodes("alive")} == ids for host in self.up())

        return await self.until(joined, seconds)

    # ------------------------------------------------------------------ faults of the network

    def line(self, line: Line, source: str | None = None, target: str | None = None) -> None:
        """Use `line` from one region to another, or everywhere where nothing else was said."""
        if source is None or target is None:
            self.network.line = line
        else:
            self.network.lines[source, target] = line

    def partition(self, *groups: Iterable[SimHost], label: str = "partition") -> str:
        """Let nothing pass between the groups; hosts in none of them are one more group. Its label, for `heal`."""
        sides = [list(group) for group in groups]
        rest = [host for host in self.hosts.values() if not any(host in side for side in sides)]
        sides = [side for side in [*sides, rest] if side]
        self._partitions += 1
        label = f"{label}#{self._partitions}"
        self.trace.note(f"{label} {' | '.join(','.join(host.name for host in side) for side in sides)}")
        for one, other in itertools.permutations(sides, 2):
            for source, target in itertools.product(one, other):
                self.network.block(source.net, target.net, label)
        return label

    def partition_one_way(self, sources: Sequence[SimHost], targets: Sequence[SimHost]) -> str:
        """Let nothing pass from `sources` to `targets`; the other way everything does. Its label, for `heal`."""
        self._partitions += 1
        label = f"partition_one_way#{self._partitions}"
        self.trace.note(f"{label} {[host.name for host in sources]} {[host.name for host in targets]}")
        for source, target in itertools.product(sources, targets):
            self.network.block(source.net, target.net, label)
        return label

    def heal(self, label: str | None = None) -> None:
        """Take a partition away, or all of them."""
        self.trace.note(f"heal {label or 'all'}")
        if label is None:
            self.network.unblock_all()
        else:
            self.network.unblock(label)

    # ------------------------------------------------------------------ in the place of TLS

    async def _secure(self, stream: trio.abc.Stream, identity: Identity, server_side: bool) -> Channel:
        """Show each other's certificates, and see that an issuer of the mesh signed them."""
        if not isinstance(stream, SimStream):
            raise LocalProtocolError("a node of a simulated world takes simulated streams alone")
        channel = _SimChannel(stream)
        try:
            chain = [content for label, content in pem.load(identity.cert_pem) if label == pem.CERTIFICATE]
            await stream.send_all(struct.pack("!I", len(chain[0])) + chain[0])
            header = await _receive_exactly(stream, 4)
            size = struct.unpack("!I", header)[0]
            if size > _CERTIFICATE_BYTES_MAX:
                raise RemoteProtocolError("the peer shows no certificate", code=2)
            leaf = await _receive_exactly(stream, size)
            if not any(self._is_issued(leaf, issuer.certificate_der) for issuer in identity.bundle.issuers):
                raise RemoteProtocolError("the peer's certificate is not of this mesh", code=2)
        except BaseException:
            stream.close()
            raise
        channel.peer_certificate = leaf
        return channel

    def _is_issued(self, leaf: bytes, issuer: bytes) -> bool:
        if (leaf, issuer) not in self._issued:
            self._issued[leaf, issuer] = is_issued(leaf, issuer)
        return self._issued[leaf, issuer]


async def _receive_exactly(stream: SimStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        if not part:
            raise trio.BrokenResourceError("the peer closed the connection during the handshake")
        data += part
    return data


def _new_folder() -> Path:
    memory = "/dev/shm"  # noqa: S108 - where a flush costs nothing
    is_there = os.path.isdir(memory) and os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="bms-sim-", dir=memory if is_there else None))


@asynccontextmanager
async def open_sim_world(
    seed: int = 0, *, folder: Path | None = None, trace_lines: int | None = 200
) -> AsyncIterator[SimWorld]:
    """A simulated world for the body; at its end everything in it is stopped at once and its files are removed.

    `folder` is where the hosts' files go (a new temporary folder, in memory where there is one); `trace_lines` how many
    lines of the trace are kept as text (None: all).
    """
    place = _new_folder() if folder is None else folder
    try:
        async with trio.open_nursery() as nursery:
            sim = SimWorld(seed, place, nursery, trace_lines=trace_lines)
            try:
                await nursery.start(sim.network.run)
                yield sim
            finally:
                for host in sim.hosts.values():
                    host.thaw()
                with trio.CancelScope(shield=True):
                    for host in sim.up():
                        await host.crash()
                nursery.cancel_scope.cancel()
                sim.disks.unregister()
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def run_simulation(main: Callable[[SimWorld], Awaitable[T]], *, seed: int = 0, trace_lines: int | None = 200) -> T:
    """Run `await main(sim)` in a new simulated world on virtual time; what it returned.

    The same seed gives the same run: the same order of tasks, the same keys, the same delays, the same trace.
    """

    async def run() -> T:
        async with open_sim_world(seed, trace_lines=trace_lines) as sim:
            return await main(sim)

    return run_deterministic(run, seed=seed)
