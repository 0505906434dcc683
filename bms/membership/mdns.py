"""mDNS and DNS-SD (RFC 6762, 6763): nodes of one network find each other with nothing but the mesh's identity.

    type       _bms._tcp.local.
    instance   the first 16 hexadecimal digits of BLAKE3(mesh id ‖ node id)
    SRV        bms-INSTANCE.local. and the port; A and AAAA: the node's addresses
    TXT        mesh=MESH_ID, so that only nodes of this mesh are dialed

zeroconf does the protocol. It needs asyncio, so it runs in a thread with an event loop of its own; both are imported
only when this is used. The thread ends before `browse_and_announce` returns, however that ends, with a goodbye on the
network, within `_CLOSE_S`; it leaves no thread and no socket.

What is announced is only a place to dial: identity is proven on the link. Anybody on the network can announce anything,
without end: `ANNOUNCEMENTS_MAX` are kept, those not heard of for longest go, `_ASKING_MAX` are asked about at once, and
how many are dialed is bounded by whoever dials them (candidates.py). zeroconf bounds what it keeps of packets, but not
what its browser schedules for each instance, for as long as the announcement says: after `_SCHEDULED_MAX` of that all
ends with OSError, and whoever begins anew later has the memory back. Where nobody means harm that takes days.
Everybody on the network can also see that there is a mesh, its id and where its nodes are.

Absent: networks without IPv4 (addresses of IPv6 are announced, over IPv4), and service subtypes.
"""

from __future__ import annotations

import gc
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import blake3
import trio

from ..values import Address, NodeId

if TYPE_CHECKING:
    import asyncio

    from zeroconf import RecordUpdate, RecordUpdateListener, ServiceInfo, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo

__all__ = ["ANNOUNCEMENTS_MAX", "SERVICE_TYPE", "Announced", "announceable", "browse_and_announce", "instance_of"]

log = logging.getLogger("bms.discovery")

SERVICE_TYPE = "_bms._tcp.local."
_GROUP = "224.0.0.251"
ANNOUNCEMENTS_MAX = 64
_ADDRESSES_MAX = 8
_ASKING_MAX = 4
_ASK_MS = 3000
_SCHEDULED_MAX = 10_000
_SAME_MS = 10_000  # zeroconf schedules nothing anew for a name whose time moves by less
_CLOSE_S = 0.6

Announced = dict[str, tuple[Address, ...]]
"""What the network announces: instances of this mesh and their addresses, those heard of last at the end."""


def instance_of(mesh_id: bytes, node_id: NodeId) -> str:
    """The name under which a node is announced."""
    return blake3.blake3(mesh_id + node_id.raw).hexdigest()[:16]


def announceable(addresses: Sequence[Address]) -> tuple[Address, ...]:
    """Those addresses that others on this network can be told of: digits, not loopback, with the port of the first."""
    found: list[Address] = []
    for address in addresses:
        try:
            ip = ipaddress.ip_address(address.host)
        except ValueError:
            continue  # a name: for DNS, not for here
        is_place = not (
            ip.is_loopback or ip.is_unspecified or ip.is_multicast or (ip.version == 6 and ip.is_link_local)
        )
        if is_place and (not found or address.port == found[0].port):
            found.append(address)
    return tuple(found[:_ADDRESSES_MAX])


async def browse_and_announce(
    mesh_id: bytes,
    node_id: NodeId,
    addresses: Sequence[Address],
    hosts: Sequence[str],
    on_change: Callable[[Announced], None],
) -> None:
    """Announce a node at `addresses` (all of one port) on the interfaces with the IPv4 addresses `hosts`, and call
    `on_change` with all that is announced there by others of this mesh, whenever that changes. Until cancelled.

    Raises OSError if the network does not let it.
    """
    responder = _Responder(mesh_id, node_id, addresses, hosts, on_change)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_shielded, responder)
        try:
            await responder.ended.wait()
        finally:
            responder.stop()
    raise OSError(f"mDNS cannot be used: {responder.error}") from responder.error


async def _run_shielded(responder: _Responder) -> None:
    """The thread cannot be cancelled, it is told to stop: whoever is cancelled waits for that, a moment."""
    with trio.CancelScope(shield=True):
        try:
            await trio.to_thread.run_sync(responder.run, limiter=trio.CapacityLimiter(1))
        finally:
            responder.ended.set()


def _joinable(hosts: Sequence[str]) -> list[str]:
    """Those interfaces that take part in multicast; OSError if none does. zeroconf would leave a socket open there."""
    joined: list[str] = []
    problem: OSError | None = None
    for host in hosts:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                membership = socket.inet_aton(_GROUP) + socket.inet_aton(host)
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
                joined.append(host)
            except OSError as error:
                problem = error
    if problem is not None and not joined:
        raise problem
    return joined


def _counting(on_full: Callable[[], None]) -> RecordUpdateListener:
    """A listener that counts what a browser schedules, and tells when that is too much."""
    from zeroconf import RecordUpdateListener

    class Counting(RecordUpdateListener):
        def __init__(self) -> None:
            self.count = 0
            self.due_ms: dict[str, float] = {}

        def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
            for update in records:
                record = update.new
                alias: str | None = getattr(record, "alias", None)  # that of a PTR: an instance
                if alias is None or not record.name.lower().endswith(SERVICE_TYPE):
                    continue
                due_ms, before_ms = record.get_expiration_time(75), self.due_ms.get(alias)
                if before_ms is None or abs(due_ms - before_ms) > _SAME_MS:
                    self.count += 1
                    self.due_ms[alias] = due_ms
            if self.count > _SCHEDULED_MAX:
                on_full()

    return Counting()


class _Responder:
    """One thread's work. `stop` and `ended` belong to Trio, the rest to the thread."""

    def __init__(
        self,
        mesh_id: bytes,
        node_id: NodeId,
        addresses: Sequence[Address],
        hosts: Sequence[str],
        on_change: Callable[[Announced], None],
    ) -> None:
        self.ended = trio.Event()
        self.error: Exception | None = None
        self._mesh = mesh_id.hex().encode()
        self._name = f"{instance_of(mesh_id, node_id)}.{SERVICE_TYPE}"
        self._addresses = addresses
        self._hosts = hosts
        self._on_change = on_change
        self._trio = trio.lowlevel.current_trio_token()
        self._announced: Announced = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._is_stopped = False
        self._is_flooded = False

    # ------------------------------------------------------------------ of Trio

    def stop(self) -> None:
        """Let the thread end soon."""
        with self._lock:
            self._is_stopped = True
            if self._loop is not None and self._stopping is not None:
                self._loop.call_soon_threadsafe(self._stopping.set)

    def _deliver(self) -> None:
        with self._lock:
            announced = dict(self._announced)
        if not self._is_stopped:
            self._on_change(announced)

    # ------------------------------------------------------------------ of the thread

    def run(self) -> None:
        """Serve until `stop`, or until an `error`."""
        import asyncio

        import zeroconf

        try:
            asyncio.run(self._serve())
        except (OSError, zeroconf.Error) as error:
            self.error = error.with_traceback(None)  # whose frames hold all that was announced
        if self._is_flooded:
            gc.collect()  # it refers to itself, and would pile up from one attempt to the next

    async def _serve(self) -> None:
        import asyncio

        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        stopping = asyncio.Event()

        def stop() -> None:
            self._is_flooded = True
            stopping.set()

        with self._lock:
            if self._is_stopped:
                return
            self._loop, self._stopping = asyncio.get_running_loop(), stopping
        try:
            responder = AsyncZeroconf(interfaces=_joinable(self._hosts), ip_version=IPVersion.V4Only)
            try:
                # The name is this node's alone, so nobody needs to be asked whether it is free.
                sending = await responder.async_register_service(self._info(), cooperating_responders=True)
                responder.zeroconf.async_add_listener(_counting(stop), None)
                browser = AsyncServiceBrowser(responder.zeroconf, SERVICE_TYPE, handlers=[self._heard])
                await stopping.wait()
                await browser.async_cancel()
                asyncio.ensure_future(sending).cancel()
                if self._is_flooded:
                    raise OSError(f"others have announced {_SCHEDULED_MAX:,} times; this begins anew later")
            finally:
                for task in self._asking.values():
                    task.cancel()
                await asyncio.wait([asyncio.ensure_future(responder.async_close())], timeout=_CLOSE_S)
                responder.zeroconf.engine.close()  # the sockets, where time was up before; harmless otherwise
        finally:
            with self._lock:
                self._loop = None

    def _info(self) -> ServiceInfo:
        from zeroconf import ServiceInfo

        return ServiceInfo(
            SERVICE_TYPE, self._name, port=self._addresses[0].port, properties={b"mesh": self._mesh},
            parsed_addresses=[address.host for address in self._addresses],
            server=f"bms-{self._name.partition('.')[0]}.local.",
        )  # fmt: skip

    def _heard(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        import asyncio

        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        if name == self._name:
            return
        if state_change is ServiceStateChange.Removed:
            self._take(name, ())
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._take(name, self._places(info))
        elif name not in self._asking and len(self._asking) < _ASKING_MAX:
            self._asking[name] = asyncio.ensure_future(self._ask(zeroconf, info, name))

    async def _ask(self, zeroconf: Zeroconf, info: AsyncServiceInfo, name: str) -> None:
        try:
            if await info.async_request(zeroconf, _ASK_MS):
                self._take(name, self._places(info))
        finally:
            del self._asking[name]

    def _places(self, info: AsyncServiceInfo) -> tuple[Address, ...]:
        """Where an announced node may be dialed; nothing if it is of another mesh."""
        if info.properties.get(b"mesh") != self._mesh or not info.port:
            return ()
        return announceable([Address(host, info.port) for host in info.parsed_addresses()])

    def _take(self, name: str, places: tuple[Address, ...]) -> None:
        label = name.removesuffix(f".{SERVICE_TYPE}")[:64]
        with self._lock:
            before = self._announced.pop(label, ())
            if places:
                self._announced[label] = places
            if len(self._announced) > ANNOUNCEMENTS_MAX:
                del self._announced[next(iter(self._announced))]
        if before != places:
            self._trio.run_sync_soon(self._deliver, idempotent=True)
