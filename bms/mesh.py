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
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio

from .clock import HybridClock, SteadyTime
from .config import Config, home
from .counters import Counters
from .data.entries import Entries
from .errors import ClosedError, LocalProtocolError, StoreError
from .life import Life
from .log import follow
from .messaging.courier import RequestServer
from .messaging.topics import Topics
from .monitor.journal import Journal
from .monitor.sampling import Monitor
from .monitor.tracing import make_tracer
from .nursery import open_body_nursery
from .reconfiguration import plan
from .renewal import Renewal
from .reports import Changes
from .security.identity import Identity, identity_paths, load_or_make_identity, reload_identity, require_way
from .security.trust import Trust
from .store.database import Database
from .values import Address
from .verbs.messages import MessageVerbs
from .verbs.monitoring import MonitoringVerbs
from .verbs.nodes import NodeVerbs
from .verbs.security import SecurityVerbs, TokenTable
from .world import World

__all__ = ["Mesh", "init", "open_mesh"]

log = logging.getLogger("bms")

_SWITCH_INTERVAL_S = 0.0005
_CLOSE_S = 0.2
_FOLDERS_MAX = 64
_WEB = ("http", "https")  # subsystems that _Web moves, not the life


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
    try:
        async with open_body_nursery() as nursery:
            try:
                await mesh.start(nursery)
                yield mesh
                await mesh.stop()
            except BaseException:
                await mesh._close_quickly()
                raise
    finally:
        await mesh.shutdown()


class _Web(Protocol):
    """What serves HTTP (`api.serving.Servers`), which is loaded only when it is on."""

    def url(self, name: str) -> str | None: ...

    async def apply(self, config: Config) -> None: ...

    async def drain(self, reason: str, within_s: float) -> None: ...


class Mesh(NodeVerbs, MessageVerbs, MonitoringVerbs, SecurityVerbs):
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
        self._journal = Journal(self.counters, world.wall_time)
        self._tracer = make_tracer(config)
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
            self._tokens = TokenTable(self._database, world.wall_time())
        except BaseException:
            self._database.close()
            raise
        self._topics = Topics(config, self.counters)
        self._servers: dict[str, RequestServer] = {}
        self._tags: dict[str, str] = {}
        self._web: _Web | None = None
        self._logins = {}

    def __repr__(self) -> str:
        return f"<Mesh {self._config.node_name} {self.node_id.short} {'running' if self.is_running else 'stopped'}>"

    # ------------------------------------------------------------------ system

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
    def folder(self) -> Path | None:
        """Where this node keeps its data; None for a node in memory."""
        return self._folder

    @property
    def http_url(self) -> str | None:
        """Where the API and the dashboard are served; None if `http_address` is, or when it is not running."""
        return None if self._web is None else self._web.url("http")

    @property
    def https_url(self) -> str | None:
        """The same over TLS."""
        return None if self._web is None else self._web.url("https")

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
                    await self._start_web(self._life)
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
            monitor=Monitor(
                config=self._config, counters=self.counters, topics=self._topics, database=self._database,
                journal=self._journal, wall_time=self._world.wall_time, folder=self._folder,
            ),
            renewal=Renewal(
                paths=lambda: identity_paths(self._config, self._folder), renew_at=lambda: self._identity.renew_at,
                wall_time=self._world.wall_time, reload=self._reload_identity,
            ),
        )  # fmt: skip
        await life.start(nursery)
        return life

    async def _start_web(self, life: Life) -> None:
        """Serve HTTP as the configuration says; without that the life ends."""
        try:
            await self._use_web(life, self._config)
        except BaseException:
            self._life = self._web = None
            await life.stop(0)
            raise

    async def _use_web(self, life: Life, config: Config) -> None:
        if self._web is None and (config.http_address or config.https_address):
            from .api.serving import Servers

            self._web = Servers(self, self._world, life)
        if self._web is not None:
            await self._web.apply(config)

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
            life, web, started = self._life, self._web, self._world.monotonic()
            if life is None:
                return
            try:
                if web is not None:  # its requests still use this node
                    await web.drain("the node stops", drain_s)
            finally:
                self._life = self._web = None
                await life.stop(max(min(drain_s, _CLOSE_S), drain_s - (self._world.monotonic() - started)))

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
        tracer = make_tracer(new)
        try:
            await self._use_store(old, new)
            if life is not None and changed:
                await self._use_web(life, new)
                await life.restart([name for name in restarted if name not in _WEB], new)
        except BaseException:
            try:
                await self._use_store(new, old)
            finally:  # where the store says no
                if life is not None and changed:
                    await self._use_web(life, old)
            raise
        self._config = new
        follow(new.log.level, new.log.format)
        self._tracer = tracer
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
        return await self._running().listen(Address.of(address))

    async def listen_udp(self, address: str | Address) -> Address:
        """Take datagrams at one more address, until the node stops; the bound address back.

        Raises UnreachableError if it cannot be bound, with what to do.
        """
        return await self._running().listen_udp(Address.of(address))

    async def start_http_server(self, address: str | Address) -> str:
        """Serve the API and the dashboard at `address` from now on, in place of where they are served; the URL back.

        Sets `http_address`. Raises UnreachableError if it cannot be bound, with what to do; it stays as it was then.
        """
        return await self._serve_web("http", Address.of(address))

    async def start_https_server(self, address: str | Address) -> str:
        """The same over TLS, with the certificate that `http.cert_path` names, or one that the node makes for itself.

        Sets `https_address`. Raises UnreachableError or ConfigError (the certificate's files are broken).
        """
        return await self._serve_web("https", Address.of(address))

    async def _serve_web(self, name: str, address: Address) -> str:
        self._running()
        fields: dict[str, Any] = {f"{name}_address": str(address)}
        await self.reconfigure(**fields)
        url = self.http_url if name == "http" else self.https_url
        if url is None:
            raise ClosedError("the mesh was stopped meanwhile")
        return url

    async def handle_connection(self, stream: trio.abc.Stream) -> None:
        """Be the listening side for one peer on `stream` (any byte stream), until it ends. TLS is put on it here."""
        await self._running().pool.serve(stream)

    # ------------------------------------------------------------------ inside

    def _open_database(self) -> tuple[Database, Path | None]:
        config = self._config
        options: dict[str, Any] = {
            "threads": self._world.threads,
            "vfs": self._world.vfs,
            "disk_wait": self._world.disk_wait,
            "counters": self.counters,
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
