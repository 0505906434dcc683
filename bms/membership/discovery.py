"""First addresses: where a node that knows nobody looks for its mesh, and where it looks again.

    source      what it gives                                                    used
    seeds       "host:port" of `bootstrap_nodes`                                 always
    srv         "dns+srv://…" of `bootstrap_nodes`: the targets (srv.py)         always
    registry    the running nodes of this machine (registry.py)                  in `dev_mode`
    mdns        what nodes of this network announce (mdns.py)                    not in `dev_mode`, not on loopback
    snapshot    where others lived when this node last ran (snapshot.py)         with a folder

The last three need `enable_discovery`. One driver dials what they give (candidates.py: how many at once, when again).
A place counts as there while a link leads to it or the view has its node as alive; when that ends it is dialed again at
the pace of `gossip.redial_interval_s`, up to every 30 s, without end; a place of the snapshot for a day, and only until
the view knows its node, which then dials it by itself.

What became of each place is kept (`found`) and logged once per change. Nothing that a source says is believed beyond
where to dial: identity is proven on the link.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import trio

from ..config import Config
from ..counters import Counters
from ..errors import MeshError, RefusedError, RemoteProtocolError, StoreError
from ..net.handshake import DuplicateLinkError
from ..net.link import Link
from ..net.pool import Pool
from ..security.records import TCP
from ..values import Address, NodeId, NodeState
from ..world import World
from . import mdns, srv
from .candidates import SETTLED_S, Candidate, Candidates, Finding, Findings
from .registry import Registry
from .snapshot import Peer, Snapshot, remembered
from .view import View

__all__ = ["SRV_SCHEME", "Discovery"]

log = logging.getLogger("bms.discovery")

T = TypeVar("T")

SRV_SCHEME = "dns+srv://"

_LOOK_S = 1.0
_UNLINKED_S = 5.0
_SRV_TTL_S = (30.0, 3600.0)
_MDNS_RETRY_S = 60.0
_MDNS_LOOK_S = 5.0
_SNAPSHOT_PAUSE_S = 3.0
_SNAPSHOT_KEEP_S = 30 * 86_400.0
_SNAPSHOT_DIAL_S = 86_400.0
_WORDS = {
    "seeds": "bootstrap node",
    "srv": "bootstrap node by DNS",
    "registry": "node of the registry",
    "mdns": "node announced on this network",
    "snapshot": "remembered node",
}


class Discovery:
    """The discovery subsystem of one node."""

    name = "discovery"

    def __init__(
        self,
        *,
        config: Config,
        world: World,
        mesh_id: bytes,
        pool: Pool,
        view: View,
        registry: Registry | None,
        snapshot: Snapshot | None,
        boot: int,
        my_addresses: Callable[[], list[Address]],
        counters: Counters,
    ) -> None:
        self.config = config
        self._world = world
        self._mesh_id = mesh_id
        self._pool = pool
        self._view = view
        self._registry = registry
        self._snapshot = snapshot
        self._boot = boot
        self._my_addresses = my_addresses
        self._counters = counters
        self._candidates = Candidates(world.random)
        self._findings = Findings()
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()

    def found(self) -> list[Finding]:
        """What each source has named, and what became of it."""
        return self._findings.all()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for the mesh until cancelled."""
        self._candidates = Candidates(self._world.random)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for entry in self.config.bootstrap_nodes:
                if entry.startswith(SRV_SCHEME):
                    nursery.start_soon(self._keep_srv, entry)
                else:
                    self._offer("seeds", entry, [Address.parse(entry)])
            if self.config.enable_discovery:
                if self._registry is not None:
                    nursery.start_soon(self._keep_registry, self._registry)
                if self._snapshot is not None:
                    nursery.start_soon(self._keep_snapshot, self._snapshot)
                if self._world.threads and not self.config.dev_mode:
                    nursery.start_soon(self._keep_mdns)
            task_status.started()
            await self._drive(nursery)

    # ------------------------------------------------------------------ dialing

    async def _drive(self, nursery: trio.Nursery) -> None:
        while True:
            self._wake = trio.Event()
            for candidate in self._candidates.due(trio.current_time(), self._rest_s):
                nursery.start_soon(self._dial, candidate)
            deadline = self._candidates.deadline(trio.current_time())
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                await self._wake.wait()

    def _offer(
        self, source: str, label: str, addresses: list[Address] | tuple[Address, ...], node_id: NodeId | None = None
    ) -> None:
        if not self._candidates.offer(source, label, addresses, trio.current_time(), node_id):
            self._counters.add("discovery.candidates_over_limit")
        self._wake.set()

    async def _dial(self, candidate: Candidate) -> None:
        """Try the addresses of a candidate in order, until one leads to a node."""
        for address in candidate.addresses:
            lives_there = self._lives_at(address)
            if lives_there is None:
                try:
                    lives_there = (await self._pool.dial(address)).node_id
                except DuplicateLinkError:
                    # Another link to whoever lives there stays; it is up, or nearly.
                    self._note(candidate.source, address, "it has another link to this node")
                    self._again(candidate)
                    return
                except MeshError as error:
                    if "the node itself" not in str(error):
                        self._refused(candidate, address, error)
                        continue
                    lives_there = self._view.me
            itself = lives_there == self._view.me
            self._note(candidate.source, address, "this node itself" if itself else f"linked with {lives_there.short}")
            self._candidates.reached(candidate, lives_there, trio.current_time())
            self._watch(candidate)
            self._wake.set()
            return
        self._again(candidate)

    def _again(self, candidate: Candidate) -> None:
        gossip = self.config.gossip
        now = trio.current_time()
        self._candidates.failed(candidate, now, gossip.redial_interval_s, gossip.redial_interval_max_s)
        self._wake.set()

    def _refused(self, candidate: Candidate, address: Address, error: MeshError) -> None:
        self._counters.add(f"discovery.{candidate.source}_failed")
        refused = isinstance(error, (RefusedError, RemoteProtocolError))
        # Whom a person has named should be of this mesh; in other places anybody may live.
        is_wrong = refused and candidate.source in ("seeds", "srv")
        text = str(error).removeprefix(f"{address}: ").removeprefix(f"{address} ")
        self._note(candidate.source, address, text, logging.WARNING if is_wrong else logging.INFO)

    def _note(self, source: str, place: Address | str, outcome: str, level: int = logging.INFO) -> None:
        if self._findings.note(source, str(place), outcome, self._world.wall_time()):
            log.log(level, "%s %s: %s", _WORDS[source], place, outcome)

    def _rest_s(self, candidate: Candidate) -> float:
        """For how long a candidate need not be looked at: its node is there, or is this one."""
        node_id = candidate.node_id
        if node_id is None or candidate.source == "registry":  # which asks the view by itself
            return 0.0
        if node_id == self._view.me or self._pool.link(node_id) is not None:
            self._watch(candidate)
            return SETTLED_S
        member = self._view.members.get(node_id)
        return _UNLINKED_S if member is not None and member.state is NodeState.ALIVE else 0.0

    def _watch(self, candidate: Candidate) -> None:
        """See to it that a candidate is dialed again soon after the last link to its node has ended."""
        link = None if candidate.node_id is None else self._pool.link(candidate.node_id)
        if link is not None and not candidate.is_watched and self._nursery is not None:
            candidate.is_watched = True
            self._nursery.start_soon(self._await_end, candidate, link)

    async def _await_end(self, candidate: Candidate, link: Link | None) -> None:
        while link is not None:
            await link.ended.wait()
            link = self._pool.link(link.node_id)
        candidate.is_watched = False
        self._candidates.lost(candidate, trio.current_time(), self.config.gossip.redial_interval_s)
        self._wake.set()

    def _lives_at(self, address: Address) -> NodeId | None:
        """The node that says it lives there: this one, or a linked member."""
        if address in self._my_addresses():
            return self._view.me
        place = (TCP, address.host, address.port)
        for node_id, member in self._view.members.items():
            if place in member.record.addresses and self._pool.link(node_id) is not None:
                return node_id
        return None

    # ------------------------------------------------------------------ sources

    async def _keep_srv(self, entry: str) -> None:
        name, wait_s = entry.removeprefix(SRV_SCHEME), 0.0
        resolve = self._world.resolve_srv or (srv.resolve if self._world.threads else _resolve_nothing)
        while True:
            try:
                records, ttl_s = await resolve(name)
            except OSError as error:
                self._counters.add("discovery.srv_unresolved")
                self._note("srv", entry, str(error), logging.WARNING)
                gossip = self.config.gossip
                wait_s = min(gossip.redial_interval_max_s, max(gossip.redial_interval_s, wait_s * 1.5))
            else:
                addresses = srv.order(records, self._world.random)
                self._note("srv", entry, f"names {', '.join(map(str, addresses)) or 'no nodes'}")
                if addresses:
                    self._offer("srv", entry, addresses)
                else:
                    self._candidates.withdraw("srv", entry)
                wait_s = min(max(ttl_s, _SRV_TTL_S[0]), _SRV_TTL_S[1])
            await trio.sleep(wait_s)

    async def _keep_registry(self, registry: Registry) -> None:
        try:
            while True:
                if not registry.is_published(mine := self._my_addresses()):
                    registry.publish(self._view.me, self._boot, mine)
                unknown = set()
                for node_id, boot, addresses in registry.others():
                    member = self._view.members.get(node_id)
                    if node_id == self._view.me or (member is not None and member.record.boot >= boot):
                        continue  # ourselves, or known to the view, which dials by itself
                    unknown.add(f"{node_id} {boot}")
                    self._offer("registry", f"{node_id} {boot}", addresses, node_id)
                for label in self._candidates.labels("registry") - unknown:
                    self._candidates.withdraw("registry", label)
                await trio.sleep(_LOOK_S)
        finally:
            registry.withdraw()

    async def _keep_mdns(self) -> None:
        while True:
            addresses = mdns.announceable(self._my_addresses())
            if addresses and (hosts := self._mdns_hosts(addresses)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._use_mdns, addresses, hosts)
                    while addresses == mdns.announceable(self._my_addresses()):  # noqa: ASYNC110 - nobody tells
                        await trio.sleep(_MDNS_LOOK_S)
                    nursery.cancel_scope.cancel()  # this machine has moved
            else:
                await trio.sleep(_MDNS_LOOK_S)

    def _mdns_hosts(self, addresses: tuple[Address, ...]) -> list[str]:
        """The IPv4 addresses of the interfaces on which to announce: those that are listened on."""
        try:
            hosts = [host for host in self._world.network.local_hosts() if ":" not in host]
        except OSError:  # no file handle is left
            return []
        own = [address.host for address in addresses]
        return [host for host in hosts if host in own] or [host for host in hosts if not host.startswith("127.")]

    async def _use_mdns(self, addresses: tuple[Address, ...], hosts: list[str]) -> None:
        while True:
            try:
                await mdns.browse_and_announce(self._mesh_id, self._view.me, addresses, hosts, self._announced)
            except OSError as error:
                self._note("mdns", mdns.SERVICE_TYPE, str(error), logging.WARNING)
            await trio.sleep(_MDNS_RETRY_S)

    def _announced(self, announced: mdns.Announced) -> None:
        for label in self._candidates.labels("mdns") - set(announced):
            self._candidates.withdraw("mdns", label)
        known = {mdns.instance_of(self._mesh_id, node_id): node_id for node_id in self._view.members}
        for label, addresses in announced.items():
            self._offer("mdns", label, addresses, known.get(label))

    # ------------------------------------------------------------------ what is remembered

    async def _keep_snapshot(self, snapshot: Snapshot) -> None:
        """Offer what the file says, for a day, and keep it up to date."""
        until = trio.current_time() + _SNAPSHOT_DIAL_S
        peers = [peer for peer in await self._in_thread(snapshot.read) if peer.node_id != self._view.me]
        for peer in peers:
            self._offer("snapshot", peer.node_id, peer.addresses, peer.node_id)
        written = {peer.node_id: peer.addresses for peer in peers}
        try:
            while True:
                for label in self._candidates.labels("snapshot"):
                    if label in self._view.members or trio.current_time() > until:
                        self._candidates.withdraw("snapshot", label)
                peers = self._remembered(peers)
                content = {peer.node_id: peer.addresses for peer in peers}
                if content != written:  # that somebody was seen again is worth no write
                    await self._write(snapshot, peers)
                    written = content
                await trio.sleep(_SNAPSHOT_PAUSE_S)
        finally:
            if peers := self._remembered(peers):
                with trio.CancelScope(shield=True):
                    await self._write(snapshot, peers)

    def _remembered(self, old: list[Peer]) -> list[Peer]:
        wall, members = self._world.wall_time(), self._view.members
        return remembered(old, members, now=trio.current_time(), wall=wall, keep_s=_SNAPSHOT_KEEP_S)

    async def _write(self, snapshot: Snapshot, peers: list[Peer]) -> None:
        try:
            await self._in_thread(lambda: snapshot.write(peers))
        except (OSError, StoreError) as error:
            self._counters.add("discovery.snapshots_unwritten")
            log.warning("the peer snapshot %s cannot be written: %s", snapshot.path, error)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if self._world.threads:
            return await trio.to_thread.run_sync(call)
        await trio.lowlevel.checkpoint()
        return call()


async def _resolve_nothing(name: str) -> tuple[list[srv.Record], float]:
    raise OSError(f"{name} cannot be resolved: there is no DNS in this world")
