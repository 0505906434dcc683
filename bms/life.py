"""One life of a node: everything that exists between a start and the stop that ends it.

A node's identity and store outlive its lives; the boot, the links and the view do not. Subsystems, in start order (they
stop in reverse):

    links        owns the tasks of dialed links                   (net.pool)
    monitor      samples, measures the scheduler's lag            (monitor.sampling)
    membership   says who is there, dials members                 (membership.gossip)
    data         pushes and reconciles entries                    (data.replication), unless replication is off
    clock        moves the clock to the median of the members'
    identity     renews the certificate, takes up new files       (renewal)
    listener     accepts connections; its address is known when it has started
    datagrams    takes sealed packets, at the listener's port     (net.datagrams)
    neighbours   answers other nodes about this one's links       (neighbours)
    discovery    looks for first addresses                        (membership.discovery)

and whatever is attached then: HTTP, if it is on (api.serving).

Routing is decided here once: each message type belongs to one room. Events of links go to the rooms in a fixed order.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import trio

from .clock import SteadyTime, median_offset_ms
from .config import Config
from .counters import Counters
from .data.entries import Entries
from .data.replication import Replication
from .errors import ClosedError, LocalProtocolError, RemoteProtocolError, UnreachableError
from .membership.candidates import Finding
from .membership.discovery import Discovery
from .membership.gossip import Gossip
from .membership.registry import Registry
from .membership.snapshot import Snapshot
from .messaging.courier import Courier, RequestServer
from .messaging.topics import Topics
from .monitor.sampling import Monitor
from .neighbours import Neighbours
from .net.datagrams import Datagrams
from .net.handshake import VERSIONS, DuplicateLinkError, Introduction
from .net.link import Handler, Link
from .net.pool import Pool
from .renewal import Renewal
from .security.identity import Identity
from .security.records import ALIVE, LEFT, TCP, UDP, NodeRecord
from .security.trust import Trust
from .supervisor import Condition, Subsystem, Supervisor
from .values import Address, NodeId, NodeState
from .world import World

__all__ = ["Life"]

log = logging.getLogger("bms")

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_CLOCK_WARN_S = 1.0
_SETTLE_S = 2.0
_LOOK_S = 0.02
_PLACES_MAX = 16
_FAREWELL_S = 0.5


class _Listener:
    """A subsystem that serves at an address: `listen` is the pool's or the datagrams'."""

    def __init__(
        self, name: str, address: Address, listen: Callable[..., Awaitable[None]], bound: Callable[[Address], None]
    ) -> None:
        self.name = name
        self._address = address
        self._listen = listen
        self._bound = bound

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Listen and serve; a port chosen by the system is kept across restarts."""
        async with trio.open_nursery() as nursery:
            self._address = await nursery.start(self._listen, self._address)
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
            if offsets:
                self._time.held = True
                self._entries.clock.offset_ms = median_offset_ms(offsets)
            self._warn(self._entries.clock.offset_ms / 1000 - self._time.ahead_s)
            await self._pause(wait_s)

    def _warn(self, behind_s: float) -> None:
        """Say once that the wall clock is wrong; again after it was right. It may be set without a link to compare."""
        is_wrong = abs(behind_s) > (_CLOCK_WARN_S / 2 if self._warned else _CLOCK_WARN_S)
        if is_wrong and not self._warned:
            log.warning(
                "this machine's clock is %.1f s %s the mesh's: certificates go by it, and only writes are stamped with "
                "the mesh's time",
                abs(behind_s),
                "behind" if behind_s > 0 else "ahead of",
            )
        self._warned = is_wrong

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
        folder: Path | None,
        time: SteadyTime,
        renewal: Renewal,
        monitor: Monitor,
        tags: dict[str, str],
    ) -> None:
        self.config = config
        self._tags = tags
        self.boot = boot
        self.started_at = world.monotonic()
        self.listening: list[Address] = []
        self.listening_udp: list[Address] = []
        self._world = world
        self._identity = identity
        self._entries = entries
        self._topics = topics
        self._counters = counters
        self._registry_folder = registry_folder
        self._snapshot = None if folder is None else Snapshot(folder, identity.mesh_id)
        self._renewal = renewal
        self.monitor = monitor
        self._discovery: Discovery | None = None
        self._boot_id = world.token_bytes(16)
        self._incarnation, self._extra_listeners = 1, 0
        self._has_outdone = self._is_copied = self._has_met = False
        self._state = ALIVE
        self._observed: list[str] = []
        self._hosts: list[str] = []
        self._main: Address | None = None
        self._main_udp: Address | None = None
        self._supervisor: Supervisor | None = None
        self._trust = trust
        self.record = self._make_record()
        self._servers = servers
        self._furnish(time)

    def _furnish(self, time: SteadyTime) -> None:
        """Make the rooms of this life and tell them of each other."""
        config, identity, world = self.config, self._identity, self._world
        counters, trust, gossip = self._counters, self._trust, config.gossip
        self.gossip = Gossip(
            identity=identity, trust=trust, config=config, counters=counters, chance=world.random,
            my_record=lambda: self.record, sign=self._sign, on_outdated=self._outdo,
        )  # fmt: skip
        self.view, self.swim = self.gossip.view, self.gossip.swim
        self.datagrams = self.gossip.datagrams = Datagrams(
            box_keys=lambda: [self._identity.box_key], my_record=lambda: self.record, record_of=self._record_of,
            on_packet=self._packet, counters=counters, world=world,
        )  # fmt: skip
        others = lambda: self.swim.present  # noqa: E731
        self.clock = _Clock(self._entries, self.links, others, time, gossip.keepalive_interval_s)
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
        self.neighbours = Neighbours(self.courier, self.links, self.rtt_s, self.swim.loss)
        self.monitor.links = self.pool.every

    # ------------------------------------------------------------------ life

    async def start(self, nursery: trio.Nursery) -> None:
        """Start all subsystems; whatever was started is stopped again if one cannot."""
        supervisor = self._supervisor = Supervisor(nursery, self._counters)
        try:
            self._topics.open()
            await supervisor.start(_Named("links", self.pool.run))
            await supervisor.start(self.monitor)
            await supervisor.start(self.gossip)
            if self.config.enable_replication:
                await self.start_data()
            if not self.expects_peers():
                self.clock.settled.set()
            await supervisor.start(self.clock)
            await supervisor.start(self._renewal)
            await self.start_listener()
            await self._start_datagrams(None)
            await supervisor.start(self.neighbours)
            await self.start_discovery()
        except BaseException:
            await self.stop(0)
            raise

    async def attach(self, subsystem: Subsystem) -> None:
        """Run one more subsystem, the last in order. Raises what keeps it from starting; ClosedError when ended."""
        if self._supervisor is None:
            raise ClosedError(f"{subsystem.name} does not start: the node stops")
        await self._supervisor.start(subsystem)

    async def detach(self, *names: str) -> None:
        """Stop subsystems that were attached."""
        if self._supervisor is not None:
            await self._supervisor.stop(names)

    async def start_listener(self, before: Address | None = None) -> None:
        """Bind `listen_address`; UnreachableError if that cannot be.

        `before` is where it was bound, if that is to be so again: now or, if somebody else has it meanwhile, later.
        """
        assert self._supervisor is not None
        listener = _Listener("listener", before or self.config.tcp_address, self.pool.listen, self._bound)
        try:
            await self._supervisor.start(listener, patient=before is not None)
        except UnreachableError as error:
            setting = "listen_address" if self.config.tcp_port is None else "tcp_port"
            raise UnreachableError(f"{setting}: {error}") from error

    async def _start_datagrams(self, before: Address | None) -> None:
        """Bind UDP beside the listener; where its port is taken, any other will do if none was asked for.

        `before` is where it was bound, if that is to be so again: now or later, as for the listener.
        """
        assert self._supervisor is not None
        asked = self.config.udp_port
        if before is None:
            assert self._main is not None
            places = [Address(self._main.host, self._main.port if asked is None else asked)]
        else:
            places = [before]
        if not (self.config.tcp_address.port if asked is None else asked):
            places.append(Address(places[0].host, 0))
        for place in places:
            patient = before is not None and place is places[-1]
            listener = _Listener("datagrams", place, self.datagrams.listen, self._bound_udp)
            try:
                await self._supervisor.start(listener, patient=patient)
            except UnreachableError as error:
                if place is places[-1]:
                    raise UnreachableError(f"{'listen_address' if asked is None else 'udp_port'}: {error}") from error
            else:
                return

    async def start_data(self) -> None:
        """Exchange entries with every linked peer."""
        assert self._supervisor is not None
        for link in self.links():
            self.replication.link_up(link)
        await self._supervisor.start(_Named("data", self.replication.run))

    def expects_peers(self) -> bool:
        """Whether others are expected: named, or found before. Who has said goodbye is not, unless it is named."""
        if self.config.bootstrap_nodes:
            return True
        if not self.config.enable_discovery:
            return False
        folder, snapshot = self._registry_folder, self._snapshot
        if folder is not None and Registry(folder).others():
            return True
        if self._has_met:
            return any(member.state is not NodeState.LEFT for member in self.view.members.values())
        return snapshot is not None and snapshot.path.exists()

    async def start_discovery(self) -> None:
        """Look for the mesh as the configuration says."""
        assert self._supervisor is not None
        registry = None if self._registry_folder is None else Registry(self._registry_folder)
        self._discovery = Discovery(
            config=self.config, world=self._world, mesh_id=self._identity.mesh_id, pool=self.pool, view=self.view,
            registry=registry, snapshot=self._snapshot, boot=self.boot, my_addresses=self.addresses,
            counters=self._counters,
        )  # fmt: skip
        await self._supervisor.start(self._discovery)

    def found(self) -> list[Finding]:
        """Where this node has looked for others, and what became of it."""
        return [] if self._discovery is None else self._discovery.found()

    async def listen(self, address: Address) -> Address:
        """One more listener; the bound address."""
        assert self._supervisor is not None
        return await self._listen_besides(address, self.pool.listen, self.listening, "listener")

    async def listen_udp(self, address: Address) -> Address:
        """Take datagrams at one more address; the bound one."""
        return await self._listen_besides(address, self.datagrams.listen, self.listening_udp, "datagrams")

    async def _listen_besides(
        self, address: Address, listen: Callable[..., Awaitable[None]], listening: list[Address], name: str
    ) -> Address:
        assert self._supervisor is not None
        bound: list[Address] = []

        def remember(address: Address) -> None:
            bound.append(address)
            if address not in listening:  # otherwise it is bound again, after a crash
                listening.append(address)
                self._renew()

        self._extra_listeners += 1
        try:
            await self._supervisor.start(
                _Listener(f"{name} {address} {self._extra_listeners}", address, listen, remember)
            )
        except BaseException:
            if bound:  # cancelled just as it served
                listening[:] = [address for address in listening if address not in bound]
                self._renew()
            raise
        return bound[0]

    async def restart(self, names: Iterable[str], config: Config) -> None:
        """Put `config` in force, running the named subsystems anew; if that fails, the old one as it was, and raise.

        An old address that cannot be bound again is tried until it can, as `health` shows.
        """
        old, names = self.config, list(names)
        main, main_udp = self._main, self._main_udp
        try:
            await self._restart(names, config, None, None)
        except BaseException:  # Ctrl+C too: whoever catches it has a node that is as it was
            await self._restart(names, old, main, main_udp)
            raise

    async def _restart(self, names: list[str], config: Config, main: Address | None, main_udp: Address | None) -> None:
        assert self._supervisor is not None
        self.config = config
        self.pool.reconfigure(config)
        self.gossip.reconfigure(config)
        self.courier.reconfigure(config)
        self.replication.reconfigure(config)
        self.monitor.reconfigure(config)
        self.clock.retime(config.gossip.keepalive_interval_s)
        if self._discovery is not None:
            self._discovery.config = config
        await self._supervisor.stop(names)
        if "listener" in names:
            self.listening[:] = [address for address in self.listening if address != self._main]
            self._main = main
            await self.start_listener(main)
        if "datagrams" in names:
            self.listening_udp[:] = [address for address in self.listening_udp if address != self._main_udp]
            self._main_udp = main_udp
            await self._start_datagrams(main_udp)
        if "discovery" in names:
            await self.start_discovery()
        if "data" in names:
            for link in list(self.pool.links.values()):
                self.replication.link_down(link)
            if config.enable_replication:
                await self.start_data()
        self._renew()

    def retag(self, tags: dict[str, str]) -> None:
        """Give this node these tags, and tell all."""
        old, self._tags = self._tags, tags
        try:
            self._renew()
        except LocalProtocolError:
            self._tags = old
            raise

    def use(self, identity: Identity) -> None:
        """Show this certificate and admission from now on; the links there are go on."""
        self._identity = identity
        self.pool.use(identity)
        self.courier.use(identity.admission)
        self.gossip.use(identity)
        self._renew(always=True)  # its card says something else

    async def stop(self, drain_s: float) -> None:
        """End: with `drain_s` above 0 the mesh is told first, and links may send what they have queued."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        try:
            self.gossip.is_leaving = True
            await self.pool.settle(min(drain_s, _FAREWELL_S))
            if drain_s > 0:
                with trio.CancelScope(shield=True):
                    await supervisor.stop(["discovery", *(name for name in supervisor.health() if "listener" in name)])
                self._state = LEFT
                self._sign(self._incarnation + 1)
                await self.gossip.leave(min(drain_s, _FAREWELL_S))
                await self.pool.drain(drain_s)
        finally:
            self._topics.close()
            self.gossip.watches.close()
            self.clock.settled.set()
            supervisor.cancel()
            with trio.CancelScope(shield=True):
                await supervisor.stop()
            self._supervisor = None

    def health(self) -> dict[str, Condition]:
        """The condition of each subsystem."""
        return {} if self._supervisor is None else self._supervisor.health()

    # ------------------------------------------------------------------ this node

    def rtt_s(self, node_id: NodeId) -> float | None:
        """The smoothed round trip to a member: of its link's pings, or else of the failure detector's."""
        link = self.pool.link(node_id)
        measured = None if link is None else link.rtt_s
        return self.swim.rtt_s(node_id) if measured is None else measured

    def links(self) -> list[Link]:
        """The open links, one a node."""
        return [link for link in self.pool.links.values() if link.is_open]

    def addresses(self) -> list[Address]:
        """What others should dial, best first."""
        if self.config.advertise_address is not None:
            return [Address.parse(self.config.advertise_address)]
        return self._reachable(self.listening)

    def _udp_addresses(self) -> list[Address]:
        """Where others should send datagrams, best first."""
        if self.config.advertise_address is None:
            return self._reachable(self.listening_udp)
        advertised = Address.parse(self.config.advertise_address)
        if self.config.udp_port is None:  # whoever passes one port on passes the same one of UDP on
            return [advertised]
        return [] if self._main_udp is None else [Address(advertised.host, self._main_udp.port)]

    def _reachable(self, listening: list[Address]) -> list[Address]:
        """What stands for these addresses elsewhere: for a wildcard every address of this machine."""
        found: list[Address] = []
        for address in listening:
            if address.host in _WILDCARDS:
                try:
                    self._hosts = self._world.network.local_hosts()
                except OSError as error:  # no file handle is left; they will not have changed
                    log.debug("this machine's addresses cannot be read: %s", error)
                hosts = [host for host in [*self._hosts, *self._observed] if address.host == "::" or ":" not in host]
                found += [Address(host, address.port) for host in hosts]
            else:
                found.append(address)
        return list(dict.fromkeys(found))

    def _make_record(self) -> NodeRecord:
        places = [(TCP, address.host, address.port) for address in self.addresses()][:_PLACES_MAX]
        places += [(UDP, address.host, address.port) for address in self._udp_addresses()][:_PLACES_MAX]
        return NodeRecord.sign(
            self._identity.node_key,
            mesh_id=self._identity.mesh_id,
            boot=self.boot,
            boot_id=self._boot_id,
            incarnation=self._incarnation,
            state=self._state,
            name=self.config.node_name,
            addresses=places,
            tags=self._tags,
            box_keys=[self._identity.box_key.public],
            versions=VERSIONS,
            time=int(self._world.wall_time() * 1000),
        )

    def _renew(self, *, always: bool = False) -> None:
        """Sign the record anew, with a higher incarnation, and tell all; unless it would say the same as before."""
        if always or self._make_record().details != self.record.details:
            self._sign(self._incarnation + 1)
            self.gossip.announce()

    def _sign(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self.record = self._make_record()

    def _bound(self, address: Address) -> None:
        self._main = address
        if address not in self.listening:
            self.listening.insert(0, address)
            self._renew()

    def _bound_udp(self, address: Address) -> None:
        self._main_udp = address
        if address not in self.listening_udp:
            self.listening_udp.insert(0, address)
            self._renew()

    def _record_of(self, node_id: NodeId) -> NodeRecord | None:
        member = self.view.members.get(node_id)
        return None if member is None else member.record

    def _packet(self, node_id: NodeId, payload: bytes, source: Address) -> None:
        try:
            self.gossip.receive(node_id, payload, source=source)
        except RemoteProtocolError as error:
            self._counters.add("membership.malformed_packets")
            log.debug("a packet of %s from %s: %s", node_id.short, source, error)
            self.gossip.blame(node_id, "sends packets that are malformed")

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
            self._renew(always=True)
            for link in self.links():
                link.end("this node's boot has changed", 0)
        elif seen.order > self.record.order:
            self._incarnation = max(self._incarnation, seen.incarnation)
            self._renew(always=True)

    # ------------------------------------------------------------------ links

    def _link(self, node_id: NodeId) -> Link | None:
        return self.pool.link(node_id)

    def _link_up(self, link: Link) -> None:
        self._has_met = True
        observed = link.peer.observed
        host = None if observed is None else _ip_address(observed.host)
        if host is not None and host not in self._observed and len(self._observed) < 4:
            self._observed.append(host)
            if any(address.host in _WILDCARDS for address in self.listening):
                self._renew()
        self.gossip.link_up(link)
        self.courier.link_up(link)
        if self.config.enable_replication:
            self.replication.link_up(link, stays=self.pool.link(link.node_id) is link)

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
    is_nobodys = address.is_unspecified or address.is_multicast or address.is_loopback
    return None if "%" in host or is_nobodys else str(address)


class _Named:
    """A subsystem made of a name and a function."""

    def __init__(self, name: str, run: Callable[..., object]) -> None:
        self.name = name
        self._run = run

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run it."""
        await self._run(task_status=task_status)  # type: ignore[misc]
