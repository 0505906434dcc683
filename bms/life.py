"""One life of a node: everything that exists between a start and the stop that ends it.

A node's identity and store outlive its lives; the boot, the links and the view do not. Subsystems, in start order (they
stop in reverse):

    links        owns the tasks of dialed links                   (net.pool)
    membership   drives the view, dials members                   (membership.gossip)
    data         pushes and reconciles entries                    (data.replication), unless replication is off
    clock        moves the clock to the median of the members'
    identity     takes up new certificates                        (renewal), unless the identity is in memory alone
    listener     accepts connections; its address is known when it has started
    discovery    looks for first addresses                        (membership.discovery)

Routing is decided here once: each message type belongs to one room. Events of links go to the rooms in a fixed order.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from .clock import SteadyTime, median_offset_ms
from .config import Config
from .counters import Counters
from .data.entries import Entries
from .data.replication import Replication
from .errors import UnreachableError
from .membership.discovery import Discovery, Registry
from .membership.gossip import Gossip
from .membership.view import View
from .messaging.courier import Courier, RequestServer
from .messaging.topics import Topics
from .net.handshake import VERSIONS, DuplicateLinkError, Introduction
from .net.link import Handler, Link
from .net.pool import Pool
from .renewal import Renewal
from .security.identity import Identity
from .security.records import ALIVE, LEFT, TCP, NodeRecord
from .security.trust import Trust
from .supervisor import Condition, Supervisor
from .values import Address, NodeId
from .world import World

__all__ = ["Life"]

log = logging.getLogger("bms")

_FORGET_S = 86_400.0
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_CLOCK_WARN_MS = 1_000
_SETTLE_S = 2.0
_LOOK_S = 0.02


class _Listener:
    """The subsystem behind `listen_address`."""

    name = "listener"

    def __init__(self, address: Address, pool: Pool, bound: Callable[[Address], None]) -> None:
        self._address = address
        self._pool = pool
        self._bound = bound

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Listen and serve; a port chosen by the system is kept across restarts."""
        async with trio.open_nursery() as nursery:
            self._address = await nursery.start(self._pool.listen, self._address)
            self._bound(self._address)
            task_status.started()


class _Clock:
    """The subsystem that keeps the hybrid clock at the mesh's median.

    `settled` is set when that is known, or when there is nobody to learn it from; before that a write might be stamped
    with a wrong clock, so it waits, for at most `_SETTLE_S`. Without links the last offset stays in force.
    """

    name = "clock"

    def __init__(
        self,
        entries: Entries,
        links: Callable[[], Iterable[Link]],
        others: Callable[[], int],
        time: SteadyTime,
        interval_s: float,
    ) -> None:
        self.settled = trio.Event()
        self._entries = entries
        self._links = links
        self._others = others
        self._time = time
        self._interval_s = interval_s
        self._warned = False
        self._retimed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Measure until cancelled."""
        task_status.started()
        started = trio.current_time()
        while True:
            offsets = [link.clock_offset_ms for link in self._links() if link.clock_offset_ms is not None]
            # One other clock says that one of two is wrong, not which.
            if len(offsets) >= min(2, self._others()) > 0 or trio.current_time() - started >= _SETTLE_S:
                self.settled.set()
            wait_s = self._interval_s if self.settled.is_set() else _LOOK_S
            if not offsets:
                await self._pause(wait_s)
                continue
            self._time.held = True
            offset = median_offset_ms(offsets)
            self._entries.clock.offset_ms = offset
            if abs(offset) > _CLOCK_WARN_MS and not self._warned:
                self._warned = True
                log.warning(
                    "this machine's clock is %.1f s %s the mesh's; writes are stamped with the mesh's time",
                    abs(offset) / 1000,
                    "behind" if offset > 0 else "ahead of",
                )
            await self._pause(wait_s)

    def retime(self, interval_s: float) -> None:
        """Measure by another interval from now on."""
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            self._retimed.set()

    async def _pause(self, seconds: float) -> None:
        self._retimed = trio.Event()
        with trio.move_on_after(seconds):
            await self._retimed.wait()


class Life:
    """The running part of a node. Made by `Mesh.start`, ended by `Mesh.stop`."""

    def __init__(
        self,
        *,
        config: Config,
        world: World,
        identity: Identity,
        trust: Trust,
        entries: Entries,
        topics: Topics,
        counters: Counters,
        servers: dict[str, RequestServer],
        boot: int,
        registry_folder: Path | None,
        time: SteadyTime,
        renewal: Renewal | None,
    ) -> None:
        self.config = config
        self.boot = boot
        self.started_at = world.wall_time()
        self.listening: list[Address] = []
        self._world = world
        self._identity = identity
        self._entries = entries
        self._topics = topics
        self._counters = counters
        self._registry_folder = registry_folder
        self._renewal = renewal
        self._discovery: Discovery | None = None
        self._boot_id = world.token_bytes(16)
        self._incarnation, self._extra_listeners = 1, 0
        self._has_outdone = self._is_copied = False
        self._state = ALIVE
        self._observed: list[str] = []
        self._hosts: list[str] = []
        self._main: Address | None = None
        self._supervisor: Supervisor | None = None
        self._trust = trust
        self.record = self._make_record()
        self._servers = servers
        self._furnish(time)

    def _furnish(self, time: SteadyTime) -> None:
        """Make the rooms of this life and tell them of each other."""
        config, identity, world = self.config, self._identity, self._world
        counters, trust, gossip = self._counters, self._trust, self.config.gossip
        self.view = View(
            identity.node_id, suspicion_timeout_s=gossip.suspicion_timeout_s,
            redial_interval_s=gossip.redial_interval_s, redial_interval_max_s=gossip.redial_interval_max_s,
            forget_s=_FORGET_S, chance=world.random,
        )  # fmt: skip
        self.clock = _Clock(self._entries, self.links, self.view.present, time, gossip.keepalive_interval_s)
        self.gossip = Gossip(
            view=self.view, trust=trust, counters=counters, my_card=self._card, on_outdated=self._outdo,
        )  # fmt: skip
        self.courier = Courier(
            node_id=identity.node_id, boot=self.boot, admission=identity.admission, trust=trust, topics=self._topics,
            config=config, counters=counters, wall_time=world.wall_time, servers=self._servers,
            link=self._link, links=self.links,
        )  # fmt: skip
        self.replication = Replication(self._entries, config=config, counters=counters, chance=world.random)
        routes: dict[type, Handler] = {**self.gossip.routes, **self.courier.routes, **self.replication.routes}
        self.pool = Pool(
            introduce=self._introduce, trust=trust, config=config, world=world, counters=counters, routes=routes,
            on_up=self._link_up, on_down=self._link_down,
        )  # fmt: skip
        self.gossip.pool = self.pool

    # ------------------------------------------------------------------ life

    async def start(self, nursery: trio.Nursery) -> None:
        """Start all subsystems; whatever was started is stopped again if one cannot."""
        supervisor = self._supervisor = Supervisor(nursery, self._counters)
        try:
            self._topics.open()
            await supervisor.start(_Named("links", self.pool.run))
            await supervisor.start(self.gossip)
            if self.config.enable_replication:
                await self.start_data()
            if not self._expects_peers():
                self.clock.settled.set()
            await supervisor.start(self.clock)
            if self._renewal is not None:
                await supervisor.start(self._renewal)
            await self.start_listener()
            await self.start_discovery()
        except BaseException:
            await self.stop(0)
            raise

    async def start_listener(self, address: Address | None = None) -> None:
        """Bind `address`, or else `listen_address`; UnreachableError if that cannot be."""
        assert self._supervisor is not None
        if address is None:
            address = Address.parse(self.config.listen_address)
            if self.config.tcp_port is not None:
                address = Address(address.host, self.config.tcp_port)
        await self._supervisor.start(_Listener(address, self.pool, self._bound))

    async def start_data(self) -> None:
        """Exchange entries with every linked peer."""
        assert self._supervisor is not None
        for link in self.links():
            self.replication.link_up(link)
        await self._supervisor.start(_Named("data", self.replication.run))

    def _expects_peers(self) -> bool:
        """Whether there is somebody to learn the mesh's time from."""
        if self.config.bootstrap_nodes:
            return True
        folder = self._registry_folder
        return folder is not None and self.config.enable_discovery and bool(Registry(folder).others())

    async def start_discovery(self) -> None:
        """Look for the mesh as the configuration says."""
        assert self._supervisor is not None
        registry = None if self._registry_folder is None else Registry(self._registry_folder)
        self._discovery = Discovery(
            config=self.config, pool=self.pool, view=self.view, registry=registry, boot=self.boot,
            my_addresses=self.addresses, counters=self._counters,
        )  # fmt: skip
        await self._supervisor.start(self._discovery)

    async def listen(self, address: Address) -> Address:
        """One more listener; the bound address."""
        assert self._supervisor is not None
        bound: list[Address] = []

        def remember(address: Address) -> None:
            bound.append(address)
            if address not in self.listening:  # otherwise it is bound again, after a crash
                self.listening.append(address)
                self._renew()

        listener = _Listener(address, self.pool, remember)
        self._extra_listeners += 1
        listener.name = f"listener {address} {self._extra_listeners}"
        try:
            await self._supervisor.start(listener)
        except BaseException:
            self.listening = [address for address in self.listening if address not in bound]
            raise
        return bound[0]

    async def restart(self, names: Iterable[str], config: Config) -> None:
        """Put `config` in force, running the named subsystems anew; if that fails, the old one as it was, and raise."""
        old, main, names = self.config, self._main, list(names)
        try:
            await self._restart(names, config, None)
        except Exception:
            await self._restart(names, old, main)
            raise

    async def _restart(self, names: list[str], config: Config, main: Address | None) -> None:
        assert self._supervisor is not None
        self.config = config
        self.pool.reconfigure(config)
        self.gossip.reconfigure(config)
        self.courier.reconfigure(config)
        self.replication.reconfigure(config)
        self.clock.retime(config.gossip.keepalive_interval_s)
        if self._discovery is not None:
            self._discovery.config = config
        await self._supervisor.stop(names)
        if "listener" in names:
            self.listening = [address for address in self.listening if address != self._main]
            self._main = None
            await self.start_listener(main)
        if "discovery" in names:
            await self.start_discovery()
        if "data" in names:
            for link in list(self.pool.links.values()):
                self.replication.link_down(link)
            if config.enable_replication:
                await self.start_data()
        self._renew()

    def use(self, identity: Identity) -> None:
        """Show this certificate and admission from now on; the links there are go on."""
        self._identity = identity
        self.pool.use(identity)
        self.courier.use(identity.admission)
        self._renew()

    async def stop(self, drain_s: float) -> None:
        """End: with `drain_s` above 0 the mesh is told first, and links may send what they have queued."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        try:
            self.pool.refuse()
            self.gossip.is_leaving = True
            if drain_s > 0:
                with trio.CancelScope(shield=True):
                    await supervisor.stop(["discovery", *(name for name in supervisor.health() if "listener" in name)])
                self._state = LEFT
                self._renew()
                await self.pool.drain(drain_s)
        finally:
            self._topics.close()
            self.clock.settled.set()
            supervisor.cancel()
            with trio.CancelScope(shield=True):
                await supervisor.stop()
            self._supervisor = None

    def health(self) -> dict[str, Condition]:
        """The condition of each subsystem."""
        return {} if self._supervisor is None else self._supervisor.health()

    # ------------------------------------------------------------------ this node

    def links(self) -> list[Link]:
        """The open links, one a node."""
        return [link for link in self.pool.links.values() if link.is_open]

    def addresses(self) -> list[Address]:
        """What others should dial, best first."""
        if self.config.advertise_address is not None:
            return [Address.parse(self.config.advertise_address)]
        found: list[Address] = []
        for address in self.listening:
            if address.host in _WILDCARDS:
                try:
                    self._hosts = self._world.network.local_hosts()
                except OSError as error:  # no file handle is left; they will not have changed
                    log.debug("this machine's addresses cannot be read: %s", error)
                hosts = [*self._hosts, *self._observed]
                found += [Address(host, address.port) for host in hosts]
            else:
                found.append(address)
        return list(dict.fromkeys(found))

    def _make_record(self) -> NodeRecord:
        return NodeRecord.sign(
            self._identity.node_key,
            mesh_id=self._identity.mesh_id,
            boot=self.boot,
            boot_id=self._boot_id,
            incarnation=self._incarnation,
            state=self._state,
            name=self.config.node_name,
            addresses=[(TCP, address.host, address.port) for address in self.addresses()][:32],
            box_keys=[self._identity.box_key.public],
            versions=VERSIONS,
            time=int(self._world.wall_time() * 1000),
        )

    def _renew(self) -> None:
        """Sign the record anew, with a higher incarnation, and tell all."""
        self._incarnation += 1
        self.record = self._make_record()
        self.gossip.announce()

    def _bound(self, address: Address) -> None:
        self._main = address
        if address not in self.listening:
            self.listening.insert(0, address)
            self._renew()

    def _card(self) -> list[object]:
        return [self._identity.admission.signed, self.record.signed, self.record.details]

    def _introduce(self) -> Introduction:
        return Introduction(self._identity, self.record, self.config.limits.frame_bytes_max)

    def _outdo(self, seen: NodeRecord) -> None:
        """The mesh knows a record of this node that is not this one's: outdo it, if it is newer (SWIM's refutation)."""
        if seen.boot > self.boot and self._has_outdone:
            if not self._is_copied:
                self._is_copied = True
                self._counters.add("membership.copied_key")
                log.error("another node runs with this node's identity; one identity is for one node: stop one of them")
        elif seen.boot > self.boot:
            # An earlier life had a clock ahead of ours and its store is gone. Links are bound to a boot: begin them
            # anew.
            self._has_outdone = True
            log.warning("an earlier boot of this node is ahead of its clock; going on from there")
            self.boot = self.courier.boot = seen.boot + 1
            self._renew()
            for link in self.links():
                link.end("this node's boot has changed", 0)
        elif seen.order > self.record.order:
            self._incarnation = max(self._incarnation, seen.incarnation)
            self._renew()

    # ------------------------------------------------------------------ links

    def _link(self, node_id: NodeId) -> Link | None:
        return self.pool.link(node_id)

    def _link_up(self, link: Link) -> None:
        observed = link.peer.observed
        host = None if observed is None else _ip_address(observed.host)
        if host is not None and host not in self._observed and len(self._observed) < 4:
            self._observed.append(host)
            if any(address.host in _WILDCARDS for address in self.listening):
                self._renew()
        self.gossip.link_up(link)
        self.courier.link_up(link)
        if self.config.enable_replication:
            self.replication.link_up(link)

    def _link_down(self, link: Link, last: bool) -> None:
        if self.config.enable_replication:
            self.replication.link_down(link)
        self.gossip.link_down(link, last)

    async def register(self, address: Address) -> Link:
        """Dial whoever lives at `address`; its link."""
        try:
            return await self.pool.dial(address)
        except DuplicateLinkError:
            for link in self.links():
                if (TCP, address.host, address.port) in link.peer.record.addresses:
                    return link
            raise UnreachableError(f"{address} has another link to this node, which is not up yet; try again") from None


def _ip_address(host: str) -> str | None:
    """An address that a peer says it saw, in its usual form; None if it is none that others could dial."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if "%" in host or address.is_unspecified or address.is_multicast else str(address)


class _Named:
    """A subsystem made of a name and a function."""

    def __init__(self, name: str, run: Callable[..., object]) -> None:
        self.name = name
        self._run = run

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run it."""
        await self._run(task_status=task_status)  # type: ignore[misc]
