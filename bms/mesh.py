"""The embedding API: `init`, `open_mesh` and `Mesh`, thin over the rooms that do the work.

    init        validates, makes or loads the identity, opens the store; runs nothing
    start       one life: everything runs in the caller's nursery; returns once bound and serving
    stop        the mesh is told, queues drain, the life ends; `start` may follow
    shutdown    stop, and the store is closed: final

Cancelling the body of `open_mesh`, or an exception in it, closes within a second; a normal end drains for at most
`limits.drain_timeout_s`. Not thread-safe: a Mesh belongs to the Trio run it was started in.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from . import roster
from .clock import HybridClock, SteadyTime
from .config import Config, home
from .counters import Counters
from .data.entries import Entries
from .data.replication import SyncReport
from .errors import ClosedError, LocalProtocolError, NotFoundError, RefusedError, StoreError
from .life import Life
from .membership.watching import NodeWatch
from .messaging.courier import RequestServer
from .messaging.topics import Subscription, Topics
from .reconfiguration import plan
from .renewal import Renewal
from .reports import Changes, DataSummary, Stats
from .roster import Topology
from .security.identity import Identity, identity_paths, load_or_make_identity, reload_identity, require_way
from .security.trust import READ, Trust
from .store.database import Database
from .values import Address, KeyInfo, Message, Node, NodeId, NodeState, Value, Version, key_bytes
from .world import World

__all__ = ["Changes", "DataSummary", "Mesh", "Stats", "init", "open_mesh"]

log = logging.getLogger("bms")

_SWITCH_INTERVAL_S = 0.0005
_CLOSE_S = 0.2
_SCAN_PAGE = 500
_BROADCASTS_A_TURN = 32
_FOLDERS_MAX = 64


def init(config: Config | None = None, *, world: World | None = None, **fields: Any) -> Mesh:
    """Make a node from `config`, or from the defaults, with `fields` put over it. Nothing runs yet.

    Raises ConfigError (nothing was made), StoreError (the folder cannot be used) or CorruptionError.
    """
    if config is None:
        config = Config(**fields)
    elif fields:
        config = config.evolve(**fields)
    return Mesh(config, world or World())


@asynccontextmanager
async def open_mesh(config: Config | None = None, *, world: World | None = None, **fields: Any) -> AsyncIterator[Mesh]:
    """Run a node for the body: `init`, `start`, and at the end `shutdown`.

    Drained on a normal end; closed within a second when the body raises or is cancelled. The body's exception comes out
    as itself, not inside a group.
    """
    mesh = init(config, world=world, **fields)
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                await mesh.start(nursery)
                yield mesh
                await mesh.stop()
            except BaseException as error:
                await mesh._close_quickly()
                if nursery.cancel_scope.cancel_called:
                    raise
                raised = error
    finally:
        await mesh.shutdown()
    if raised is not None:
        try:
            raise raised
        finally:
            raised = None  # no cycle through this frame


class Mesh:
    """One node. Made by `init`; see the module for its life."""

    def __init__(self, config: Config, world: World) -> None:
        self._config = config
        self._time = SteadyTime(world.wall_time, world.monotonic)
        self._world = world = attrs.evolve(world, wall_time=self._time)
        self._life: Life | None = None
        self._turn = trio.Lock()
        """Who starts, ends or changes the life; one after the other."""
        self._starting: trio.CancelScope | None = None
        self._is_closed = False
        self._broadcasts = 0
        self.counters = Counters()
        self._home = home() if world.home is None else world.home
        self._database, self._folder = self._open_database()
        try:
            self._asked_name = config.node_name
            if self._folder is not None:
                self._config = config = config.evolve(node_name=_name_of(config, self._folder))
            self._identity = load_or_make_identity(
                config, self._folder, home=self._home, token_bytes=world.token_bytes, wall_time=world.wall_time
            )
            self._trust = Trust(self._identity.bundle)
            self._entries = Entries(
                self._database,
                mesh_id=self._identity.mesh_id,
                node_key=self._identity.node_key,
                admission=self._identity.admission,
                trust=self._trust,
                clock=HybridClock(),
                wall_time=world.wall_time,
                token_bytes=world.token_bytes,
                counters=self.counters,
                value_bytes_max=config.limits.value_bytes_max,
            )
        except BaseException:
            self._database.close()
            raise
        self._topics = Topics(config, self.counters)
        self._servers: dict[str, RequestServer] = {}
        self._tags: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Mesh {self._config.node_name} {self.node_id.short} {'running' if self.is_running else 'stopped'}>"

    # ------------------------------------------------------------------ system

    @property
    def node_id(self) -> NodeId:
        """This node's id: its public key."""
        return self._identity.node_id

    @property
    def address(self) -> Address | None:
        """The address that the node's listener is bound to; None when it is not running."""
        life = self._life
        return life.listening[0] if life is not None and life.listening else None

    @property
    def is_running(self) -> bool:
        """Whether the node is started."""
        return self._life is not None

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    @property
    def folder(self) -> Path | None:
        """Where this node keeps its data; None for a node in memory."""
        return self._folder

    @property
    def mesh_id(self) -> str:
        """The mesh's id: the SHA-256 of its first authority's key, in hexadecimal."""
        return self._identity.mesh_id.hex()

    async def start(self, nursery: trio.Nursery) -> None:
        """Run the node in `nursery`; returns once its listener is bound and it serves.

        Raises UnreachableError (the address cannot be bound), StoreError, LocalProtocolError (it runs already),
        ClosedError (after `shutdown`, or stopped meanwhile). Nothing is left running then.
        """
        async with self._turn:
            if self._is_closed:
                raise ClosedError("this mesh was shut down; make another with init")
            if self._life is not None:
                raise LocalProtocolError("this mesh is running already")
            with trio.CancelScope() as scope:
                self._starting = scope
                try:
                    self._life = await self._new_life(nursery)
                    return
                finally:
                    self._starting = None
            raise ClosedError("this mesh was stopped while it started")

    async def _new_life(self, nursery: trio.Nursery) -> Life:
        # With the default of 5 ms a busy Trio loop starves the store's writing thread.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL_S))
        boot = await self._entries.next_boot(int(self._world.wall_time() * 1000))
        registry = None
        if self._config.dev_mode:
            registry = self._home / self._config.mesh_name / "registry"
        life = Life(
            config=self._config,
            world=self._world,
            identity=self._identity,
            trust=self._trust,
            entries=self._entries,
            topics=self._topics,
            counters=self.counters,
            servers=self._servers,
            boot=boot,
            registry_folder=registry,
            folder=self._folder,
            time=self._time,
            tags=self._tags,
            renewal=Renewal(
                paths=lambda: identity_paths(self._config, self._folder), renew_at=lambda: self._identity.renew_at,
                wall_time=self._world.wall_time, reload=self._reload_identity,
            ),
        )  # fmt: skip
        await life.start(nursery)
        return life

    async def stop(self) -> None:
        """Leave the mesh: refuse new work, tell the others, send what is queued (at most `limits.drain_timeout_s`),
        end.

        Harmless when it is not running. May be started again. Cancelled, it sends no more and ends at once.
        """
        await self._end(self._config.limits.drain_timeout_s)

    async def _close_quickly(self) -> None:
        with trio.CancelScope(shield=True):
            await self._end(_CLOSE_S)

    async def _end(self, drain_s: float) -> None:
        if self._starting is not None:
            self._starting.cancel()
        async with self._turn:
            life, self._life = self._life, None
            if life is not None:
                await life.stop(drain_s)

    async def shutdown(self) -> None:
        """Stop for good and close the store. Idempotent; works under cancellation."""
        try:
            await self.stop()
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await self._end(_CLOSE_S)  # has been done, unless that was cancelled while it waited for its turn
                finally:  # Ctrl+C comes through shields
                    self._is_closed = True
                    await self._database.aclose()

    async def reconfigure(self, config: Config | None = None, **fields: Any) -> Changes:
        """Put another configuration in force, and the identity's files as they are now. Links go on.

        What each field does is in docs/reference/reconfigure.md. Raises ConfigError if the configuration is invalid,
        names a field that only a new node can take, or the files are not of this node; UnreachableError if a new
        address cannot be bound; StoreError. What was in force stays in force then.
        """
        done: list[Changes] = []
        async with self._turn:
            with trio.CancelScope(shield=True):  # all of it or nothing, and never without a listener
                done.append(await self._reconfigure(config, fields))
        return done[0]

    async def _reconfigure(self, config: Config | None, fields: dict[str, Any]) -> Changes:
        old, life = self._config, self._life
        new = config or old
        if new.node_name == self._asked_name:
            new = new.evolve(node_name=old.node_name)  # in dev_mode the folder's name, which may have a number added
        new = new.evolve(**fields)
        changed, restarted = plan(old, new)
        identity = self._identity_of(new)
        try:
            await self._use_store(old, new)
            if life is not None and changed:
                await life.restart(restarted, new)
        except BaseException:
            await self._use_store(new, old)
            raise
        self._config = new
        self._topics.reconfigure(new)
        self._entries.value_bytes_max = new.limits.value_bytes_max
        return Changes(changed, restarted if life is not None else (), self._use(identity))

    async def _use_store(self, old: Config, new: Config) -> None:
        if old.store != new.store:
            await self._database.reconfigure(
                queue_operations_max=new.store.queue_operations_max, cache_bytes=new.store.cache_bytes
            )

    def _identity_of(self, config: Config) -> Identity:
        """The identity as its files are now."""
        return reload_identity(
            self._identity, config, self._folder, home=self._home, token_bytes=self._world.token_bytes,
            wall_time=self._world.wall_time,
        )  # fmt: skip

    def _use(self, identity: Identity) -> bool:
        """Put an identity in force; False if it is already."""
        if identity is self._identity:
            return False
        self._identity = identity
        self._trust.check_admission_untrusted(identity.admission.signed)  # remembered as the one in force
        self._entries.renew(identity.admission)
        if self._life is not None:
            self._life.use(identity)
        log.info("another certificate is in force")
        return True

    async def _reload_identity(self) -> None:
        async with self._turn:
            self._use(self._identity_of(self._config))

    # ------------------------------------------------------------------ network

    async def listen_tcp(self, address: str | Address) -> Address:
        """Listen at one more address, until the node stops; the bound address back.

        Raises UnreachableError if it cannot be bound, with what to do.
        """
        return await self._running().listen(_address(address))

    async def listen_udp(self, address: str | Address) -> Address:
        """Take datagrams at one more address, until the node stops; the bound address back.

        Raises UnreachableError if it cannot be bound, with what to do.
        """
        return await self._running().listen_udp(_address(address))

    async def handle_connection(self, stream: trio.abc.Stream) -> None:
        """Be the listening side for one peer on `stream` (any byte stream), until it ends. TLS is put on it here."""
        await self._running().pool.serve(stream)

    # ------------------------------------------------------------------ nodes

    def nodes(self, state: str | None = None, offset: int = 0, limit: int | None = None) -> list[Node]:
        """The members as this node sees them, itself first, then by id. Long-failed ones are left out.

        `state` keeps "alive", "suspect", "failed" or "left" alone; `offset` and `limit` take a page.
        """
        if state is not None and state not in set(NodeState):
            raise LocalProtocolError(f"a state is one of {', '.join(NodeState)}, not {state!r}")
        if offset < 0 or (limit is not None and limit < 0):
            raise LocalProtocolError("offset and limit are 0 or more")
        found = [node for node in self._all_nodes() if state is None or node.state == state]
        return found[offset : None if limit is None else offset + limit]

    def _all_nodes(self) -> list[Node]:
        life = self._life
        me = Node(
            node_id=self.node_id,
            name=self._config.node_name,
            address=next(iter(life.addresses()), None) if life is not None else None,
            state=NodeState.ALIVE if life is not None else NodeState.LEFT,
            tags=dict(self._tags),
            incarnation=life.record.incarnation if life is not None else 0,
            rtt_s=0.0 if life is not None else None,
            last_seen=self._world.wall_time(),
        )
        if life is None:
            return [me]
        return [me, *roster.others(life, self._world.wall_time(), self._config.node_timeout)]

    def node(self, node_id: str) -> Node:
        """One member; NotFoundError if this node knows none of that id."""
        for node in self._all_nodes():
            if node.node_id == node_id:
                return node
        raise NotFoundError(f"no node {node_id!r} is known here")

    def is_connected(self, node_id: str) -> bool:
        """Whether a link to that node is up (always for this node itself, while it runs)."""
        if self._life is None:
            return False
        return node_id == self.node_id or self._life.pool.link(NodeId(node_id)) is not None

    async def register_node(self, address: str | Address) -> Node:
        """Connect to whoever lives at `address` and return it; the rest of the mesh is learned from it.

        Raises UnreachableError, RefusedError (one side did not accept the other's identity), RemoteProtocolError.
        """
        link = await self._running().register(_address(address))
        return self.node(link.node_id)

    async def update_node(self, **tags: str | None) -> Node:
        """Set tags of this node, None to take one away, and tell all; what it looks like now back.

        Tags are kept until `shutdown`. LocalProtocolError beyond 64 tags or 2 KiB in all; nothing has changed then.
        """
        merged = {**self._tags, **tags}
        kept = {tag: value for tag, value in merged.items() if value is not None}
        self._running().retag(kept)
        self._tags = kept
        return self._all_nodes()[0]

    async def remove_node(self, node_id: str | Node) -> None:
        """Have all nodes forget one that failed or left. One that is there after all comes back by itself.

        Raises NotFoundError (no such node), LocalProtocolError (it is not gone: stop it first).
        """
        await trio.lowlevel.checkpoint()
        gone = self._known(node_id)
        life = self._running()
        if gone == self.node_id or life.swim.is_present(gone):
            raise LocalProtocolError(f"node {gone.short} is there: only one that failed or left can be removed")
        life.gossip.remove(gone)

    def watch_nodes(self) -> AbstractAsyncContextManager[NodeWatch]:
        """An async context manager giving an async iterator of `NodeEvent`, and `Missed` where it was too slow.

        Live from the moment it is entered; ends when the mesh stops.
        """
        return self._running().gossip.watches.watch()

    async def find_nearest_nodes(
        self, target: str | Node | Sequence[float] | None = None, count: int = 3, metric: str = "rtt"
    ) -> list[tuple[Node, float]]:
        """The `count` live nodes nearest to `target`, with the distance, nearest first; the target is not among them.

        `metric` "rtt": the round trip from that node (this one: None) in seconds, by network coordinates, so that
        nobody is asked (docs/concepts/coordinates.md); nodes whose coordinate is not known yet are left out. "xor": the
        XOR of the NodeIds as a number. "space": the distance from a point to the positions in the nodes' tags
        (`position="x,y,z"`).

        Raises NotFoundError for a node whose coordinate is not known here, LocalProtocolError for a target that does
        not fit the metric.
        """
        await trio.lowlevel.checkpoint()
        chosen = self.node_id if target is None else target
        return roster.nearest(self._running(), self._all_nodes(), chosen, count, metric)

    def topology(self) -> Topology:
        """The nodes, and the links of this one with round trip, loss and age, as they are now."""
        return roster.topology(self._running(), self._all_nodes())

    async def sync_with_peers(self, peers: Iterable[str] | None = None) -> SyncReport:
        """Reconcile the store with `peers` (all linked ones: None) now; per peer what it took.

        Raises NotFoundError for a peer that is not linked, LocalProtocolError when replication is off.
        """
        life = self._running()
        if not self._config.enable_replication:
            raise LocalProtocolError("enable_replication is off")
        chosen = None if peers is None else [self._known(peer) for peer in peers]
        return await life.replication.sync(chosen)

    # ------------------------------------------------------------------ messages

    async def send_message(self, to: str | Node, body: bytes, topic: str = "", deadline_s: float = 5.0) -> None:
        """Send to one node; returns when it is queued for that node's program and acknowledged.

        Retried on a broken link without ever being delivered twice. Raises NotFoundError (no such node),
        UnreachableError (never sent), DeliveryError (sent, outcome unknown), LimitError (too large, or the receiver had
        no room), RefusedError (no grant).
        """
        await self._running().courier.send(self._known(to), bytes(body), topic, deadline_s)

    async def request(self, to: str | Node, body: bytes, topic: str = "", deadline_s: float = 5.0) -> bytes:
        """Ask one node and return its handler's answer. Errors as for `send_message`; a handler's error is a
        RemoteError.
        """
        return await self._running().courier.request(self._known(to), bytes(body), topic, deadline_s)

    async def serve_requests(
        self,
        topic: str,
        handler: Callable[[Message], Awaitable[bytes]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer requests on `topic` with `await handler(message)`, many at once, until cancelled.

        LocalProtocolError if the topic is served already.
        """
        await self._running().courier.serve_requests(topic, handler, task_status=task_status)

    async def broadcast_message(self, body: bytes, topic: str = "") -> int:
        """Send to every node that is linked now, and this one, at most once each; how many others it was queued for.

        It is not acknowledged; a node that is too slow loses it and sees `Missed`.
        """
        # A full checkpoint costs more than the rest of this; one in a few calls is enough to let the others run.
        self._broadcasts += 1
        if self._broadcasts % _BROADCASTS_A_TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        return self._running().courier.broadcast(bytes(body), topic)

    def subscribe(self, topic: str = "") -> AbstractAsyncContextManager[Subscription]:
        """An async context manager giving an async iterator of `Message` and `Missed` on `topic`.

        Live from the moment it is entered; ends when the mesh stops.
        """
        self._running()
        if not self._trust.allows(self._identity.admission, f"topic:{topic}", READ):
            raise RefusedError(f"this node's admission does not allow topic {topic!r}")
        return self._topics.subscribe(topic)

    # ------------------------------------------------------------------ data

    async def store_data(
        self, key: str | bytes, value: bytes, space: str = "default", ttl_s: float | None = None
    ) -> Version:
        """Write a value; durable on this node when it returns, and on its way to the others.

        `ttl_s`: seconds until it reads as missing. Raises LimitError (too large), StoreError (disk), RefusedError (no
        grant), NotFoundError (no such space).
        """
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise LocalProtocolError(f"a value is bytes, not {type(value).__name__}")
        expiry_ms = None
        if ttl_s is not None and not (math.isfinite(ttl_s) and ttl_s > 0):
            raise LocalProtocolError(f"ttl_s is a positive number of seconds, not {ttl_s!r}")
        entries = self._space(space)
        await self._settle()
        if ttl_s is not None:
            expiry_ms = entries.clock.physical_ms(self._world.wall_time()) + int(ttl_s * 1000)
        return await entries.put(key_bytes(key), bytes(value), expiry_ms=expiry_ms)

    async def retrieve_data(self, key: str | bytes, space: str = "default") -> Value:
        """Read a value from this node's store; NotFoundError if there is none (or it was deleted, or has expired)."""
        await trio.lowlevel.checkpoint()
        return self._space(space).get(key_bytes(key))

    async def delete_data(self, key: str | bytes, space: str = "default") -> Version:
        """Delete a key everywhere; durable on this node when it returns. NotFoundError if there is none."""
        entries = self._space(space)
        await self._settle()
        return await entries.put(key_bytes(key), None)

    @asynccontextmanager
    async def scan(self, prefix: str | bytes = "", space: str = "default") -> AsyncIterator[AsyncIterator[KeyInfo]]:
        """List keys in byte order: `async with mesh.scan("a/") as keys: async for info in keys`.

        The keys come as the type of `prefix`. Writes meanwhile may or may not be seen.
        """
        entries = self._space(space)
        is_text = isinstance(prefix, str)
        start = prefix.encode("utf-8", "surrogateescape") if isinstance(prefix, str) else bytes(prefix)

        async def pages() -> AsyncIterator[KeyInfo]:
            after: bytes | None = None
            while True:
                await trio.lowlevel.checkpoint()
                page = entries.scan(start, after, _SCAN_PAGE)
                for info in page:
                    assert isinstance(info.key, bytes)
                    after = info.key
                    yield attrs.evolve(info, key=after.decode("utf-8", "surrogateescape")) if is_text else info
                if len(page) < _SCAN_PAGE:
                    return

        keys = pages()
        try:
            yield keys
        finally:
            await keys.aclose()  # type: ignore[attr-defined]

    def data_summary(self) -> DataSummary:
        """What this node's store holds, in numbers."""
        totals, state = self._entries.totals(), self._entries.state()
        return DataSummary(
            entries=totals.entries,
            bytes=totals.bytes,
            tombstones=totals.tombstones,
            position=state.high,
            epoch=f"{state.epoch:016x}",
            fingerprint=state.fingerprint.hex(),
        )

    # ------------------------------------------------------------------ monitoring

    def collect_stats(self) -> Stats:
        """Statistics as they are now."""
        life = self._running()
        links = life.links()
        states = [node.state for node in self._all_nodes()]
        return Stats(
            node_id=self.node_id,
            uptime_s=self._world.wall_time() - life.started_at,
            connections=len(links),
            nodes={str(state): states.count(state) for state in NodeState},
            bytes_sent=self.counters["net.bytes_sent"] + sum(link.bytes_sent for link in links),
            bytes_received=self.counters["net.bytes_received"] + sum(link.bytes_received for link in links),
            messages_waiting=self._topics.waiting(),
            data=self.data_summary(),
            subsystems=life.health(),
            counters=self.counters.snapshot(),
            discovery=life.found(),
        )

    # ------------------------------------------------------------------ inside

    def _running(self) -> Life:
        if self._life is None:
            raise ClosedError("the mesh is not running")
        return self._life

    def _known(self, node: str | Node) -> NodeId:
        node_id = NodeId(node.node_id if isinstance(node, Node) else node)
        if node_id != self.node_id and node_id not in self._running().view.members:
            raise NotFoundError(f"no node {node_id.short} is known here")
        return node_id

    async def _settle(self) -> None:
        """Before a write is stamped: until the mesh's time is known, or cannot be learned soon."""
        if self._life is not None and not self._life.clock.settled.is_set():
            await self._life.clock.settled.wait()

    def _space(self, name: str) -> Entries:
        if self._is_closed:
            raise ClosedError("this mesh was shut down")
        if name != "default":
            raise NotFoundError(f"there is no space {name!r}")
        return self._entries

    def _open_database(self) -> tuple[Database, Path | None]:
        config = self._config
        options: dict[str, Any] = {
            "threads": self._world.threads,
            "vfs": self._world.vfs,
            "disk_wait": self._world.disk_wait,
            "queue_operations_max": config.store.queue_operations_max,
            "cache_bytes": config.store.cache_bytes,
        }
        if not config.enable_persistence:
            require_way(config, None)
            return Database(None, **options), None
        path = config.persistence_path and config.persistence_path / "data.sqlite"
        if config.db_url is not None:
            path = Path(config.db_url.removeprefix("sqlite:///"))
        if path is not None:
            require_way(config, path.parent)
            return Database(path, **options), path.parent
        require_way(config, self._home / config.mesh_name / config.node_name)
        for number in range(1, _FOLDERS_MAX + 1):
            name = config.node_name if number == 1 else f"{config.node_name}-{number}"
            folder = self._home / config.mesh_name / name
            try:
                return Database(folder / "data.sqlite", **options), folder
            except StoreError as error:
                # Several programs on one machine may use the defaults in dev_mode: each takes a folder of its own.
                if not (config.dev_mode and isinstance(error.__cause__, BlockingIOError)):
                    raise
        raise StoreError(f"{_FOLDERS_MAX} nodes named {config.node_name!r} run here already; give this one a node_name")


def _name_of(config: Config, folder: Path) -> str:
    """The node's name: in dev_mode the folder's, which may have a number added."""
    is_default = config.persistence_path is None and config.db_url is None
    return folder.name if config.dev_mode and is_default else config.node_name


def _address(place: str | Address) -> Address:
    return place if isinstance(place, Address) else Address.parse(place)
