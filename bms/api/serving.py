"""The servers of one life of a node: where they listen, how they move, how they end.

Subsystems, under the node's supervisor:

    api         the tasks of all connections, and what listens to the log for clients
    events      feeds what happens in the node to the clients' streams          (api.events)
    http        accepts connections at `http_address`
    https       the same at `https_address`, with TLS

They start when the first server does, after everything else of the node, and stop before it. A server can move or be
switched off without ending a node's other parts: its accept loop ends at once, its connections when their requests are
done, at most `limits.drain_timeout_s` later. Nobody waits for that, since it may be one of those requests that asked
for the change. `apply` does all that a new configuration asks, or nothing.

At the end `drain` refuses new connections, sets `Context.closing`, gives WebSockets and requests the time there is,
and cuts what is left. Cutting waits for nobody.

Absent: a node in a simulated network has no HTTP, since nobody in it could ask. And a request cannot stop the node that
serves it: it would wait for itself.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio
from hypercorn.config import Config as ServerConfig

from ..config import Config, HttpConfig
from ..errors import ConfigError, UnreachableError
from ..limits import Gate, Rates, address_key
from ..monitor.events import EventLog
from ..monitor.logs import RecentLogs, collecting
from ..net.listeners import serve_address
from ..supervisor import Subsystem
from ..values import Address
from ..world import SystemNetwork, World
from .app import make_app
from .connection import Connection, Desk
from .context import Context
from .events import feed
from .guard import Guard
from .https import Certificates
from .protocols import server_config
from .stream import ServerStream

if TYPE_CHECKING:
    from ..mesh import Mesh

__all__ = ["Servers", "Supervisors"]

log = logging.getLogger("bms.api")

_WILDCARDS = ("0.0.0.0", "::", "*", "")  # noqa: S104 - compared with, not bound to
_WORD_SHARE = 0.4


class Supervisors(Protocol):
    """Who runs subsystems (`life.Life`)."""

    async def attach(self, subsystem: Subsystem) -> None:
        """Start one more."""
        ...

    async def detach(self, *names: str) -> None:
        """Stop those."""
        ...


@attrs.define(eq=False)
class _Subsystem:
    name: str
    _run: Callable[..., Awaitable[None]]

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self._run(task_status=task_status)


@attrs.define(eq=False)
class _Server:
    """One of the two."""

    asked: str
    place: Address
    """Where to bind: what was asked for, then what was bound, so that a restart comes back to the same port."""
    bound: Address | None = None


class Servers:
    """HTTP and HTTPS of one life. Made when the first is switched on."""

    def __init__(
        self, mesh: Mesh, world: World, supervisors: Supervisors, make: Callable[[Context], Any] = make_app
    ) -> None:
        self._mesh = mesh
        self._world = world
        self._supervisors = supervisors
        self._config = mesh.config.evolve(http_address=None, https_address=None)  # nothing is served yet
        self._is_up = False
        self._servers: dict[str, _Server] = {}
        self._chosen: dict[tuple[str, str], Address] = {}
        self._certificates: Certificates | None = None
        self._connections: dict[Connection, str] = {}
        self._fewer = trio.lowlevel.ParkingLot()
        self._gate = Gate()
        self._nursery: trio.Nursery | None = None
        self._hypercorn: tuple[HttpConfig, ServerConfig] | None = None
        logs = RecentLogs()
        events = EventLog(world.token_bytes(8).hex(), events_max=self._http().events_kept)
        self.context = Context(mesh, events, logs)
        rates = Rates(lambda: self._http().requests_per_s)
        guard = Guard(make(self.context), self._http, rates, mesh.counters)
        self._desk = Desk(guard, rates, mesh.counters, self._http, self._server_config)

    def url(self, name: str) -> str | None:
        """The URL of "http" or "https"; None if that is off."""
        server = self._servers.get(name)
        if server is None or server.bound is None:
            return None
        host = "127.0.0.1" if server.bound.host in _WILDCARDS else server.bound.host
        return f"{name}://{Address(host, server.bound.port)}"

    # ------------------------------------------------------------------ changes

    async def apply(self, config: Config) -> None:
        """Serve as `config` says; if that cannot be, as before, and raise UnreachableError or ConfigError."""
        for name in ("http_address", "https_address"):
            if getattr(config, name) is not None and not isinstance(self._world.network, SystemNetwork):
                raise ConfigError(name, getattr(config, name), "a simulated network has no HTTP: leave it out")
        certificates = self._certificates_for(config)
        old, old_certificates = self._config, self._certificates
        try:
            self._certificates = certificates or old_certificates
            await self._apply(config)
        except BaseException:
            self._certificates = old_certificates
            with trio.CancelScope(shield=True):
                await self._apply(old)
            raise

    async def _apply(self, config: Config) -> None:
        if not self._is_up and (config.http_address or config.https_address):
            await self._supervisors.detach("events", "api")  # of an attempt that Ctrl+C has ended
            await self._supervisors.attach(_Subsystem("api", self._run))
            await self._supervisors.attach(_Subsystem("events", partial(feed, self.context)))
            self._is_up = True
        left: list[tuple[Connection, str]] = []
        self._config = config
        self.context.events.events_max = config.http.events_kept
        for name, asked in (("http", config.http_address), ("https", config.https_address)):
            running = self._servers.get(name)
            if running is not None and running.asked != asked:
                del self._servers[name]  # first: Ctrl+C comes through shields, and what is undone then looks here
                await self._supervisors.detach(name)
                reason = "the server is switched off" if asked is None else "the server moves"
                left += [(connection, reason) for connection, server in self._connections.items() if server == name]
            if asked is not None and name not in self._servers:
                await self._begin(name, asked)
        self._retire(left)

    async def _begin(self, name: str, asked: str) -> None:
        await self._supervisors.detach(name)  # as above
        places = [Address.parse(asked)]
        if places[0].port == 0 and (name, asked) in self._chosen:  # a change that is undone finds the same port
            places.insert(0, self._chosen[name, asked])
        for place in places:
            server = _Server(asked, place)
            try:
                await self._supervisors.attach(_Subsystem(name, partial(self._listen, name, server)))
            except UnreachableError as error:
                if place is places[-1]:
                    raise UnreachableError(f"{name}_address: {error}") from error
            else:
                self._servers[name] = server
                self._chosen[name, asked] = server.place
                if name == "http" and not _is_loopback(server.place.host):
                    log.warning(
                        "HTTP is served in clear text at %s: whoever is on the way can read tokens; use https_address, "
                        "or a proxy on this machine that speaks TLS", server.place,
                    )  # fmt: skip
                return

    def _retire(self, left: list[tuple[Connection, str]]) -> None:
        """End the connections of servers that are no longer there. Only now: a change may have been undone."""
        within_s = self._config.limits.drain_timeout_s
        for connection, reason in left:
            connection.drain(reason, within_s * _WORD_SHARE)
        if left and self._nursery is not None:
            self._nursery.start_soon(self._cut_after, within_s, [connection for connection, _ in left])

    async def _cut_after(self, seconds: float, connections: list[Connection]) -> None:
        await trio.sleep(seconds)
        for connection in connections:
            connection.cut("its server has gone")

    def _certificates_for(self, config: Config) -> Certificates | None:
        if config.https_address is None:
            return None
        before, old = self._certificates, self._config
        if before is not None and _tls_of(old) == _tls_of(config):
            return before
        host = Address.parse(config.https_address).host

        def hosts() -> list[str]:
            return self._world.network.local_hosts() if host in _WILDCARDS else [host]

        made = Certificates(config, self._mesh.folder, hosts, self._world.wall_time)
        log.info("HTTPS shows the certificate with SHA-256 %s", made.fingerprint)
        return made

    # ------------------------------------------------------------------ the end

    async def drain(self, reason: str, within_s: float) -> None:
        """Refuse new connections, let those there are finish, and cut what is left then. Cancelled, it cuts at once."""
        try:
            await self._supervisors.detach("https", "http")
            self._servers.clear()
            self.context.close(reason)
            with trio.move_on_after(within_s):
                for connection in list(self._connections):
                    connection.drain(reason, within_s * _WORD_SHARE)
                while self._connections:
                    await self._fewer.park()
        finally:
            self.context.close(reason)
            for connection in list(self._connections):
                connection.cut(reason)

    # ------------------------------------------------------------------ subsystems

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with collecting(self.context.logs):
            try:
                async with trio.open_nursery() as self._nursery:
                    task_status.started()
                    await trio.sleep_forever()
            finally:
                self._nursery = None

    async def _listen(self, name: str, server: _Server, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            listen = partial(serve_address, server.place, partial(self._accept, name), self._world, nursery)
            server.place = server.bound = await nursery.start(listen)
            task_status.started()

    async def _accept(self, name: str, accepted: trio.abc.Stream) -> None:
        """Take one connection in, or turn it away. It outlives its server: its tasks are those of "api"."""
        assert isinstance(accepted, trio.SocketStream)
        counters, http = self._mesh.counters, self._http()
        nursery = self._nursery
        if nursery is None:  # that has crashed, and is there again soon
            await trio.aclose_forcefully(accepted)
            return
        try:
            peer = accepted.socket.getpeername()
            host = str(peer[0]).removeprefix("::ffff:")
            address, now = address_key(host), trio.current_time()
            if self._desk.rates.take(address, now) is not None and self._desk.rates.is_barred(address, now):
                counters.add("http.refused_connections")
                accepted.socket.close()  # before anything else is made of it: they may come by the thousand
                return
            stream = ServerStream(accepted)
        except (OSError, trio.BrokenResourceError):
            await trio.aclose_forcefully(accepted)
            return
        connection = Connection(stream, (host, peer[1]), address, self._desk, self._context(name))
        most, of_one = http.connections_max, http.connections_per_address_max
        if not self._gate.admit(connection, connections_max=most, per_address_max=of_one):
            counters.add("http.refused_connections")
            stream.close()
            return
        counters.add("http.connections")
        self._connections[connection] = name
        nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            del self._connections[connection]
            self._gate.leave(connection)
            self._fewer.unpark_all()

    def _context(self, name: str) -> ssl.SSLContext | None:
        if name == "http":
            return None
        assert self._certificates is not None
        return self._certificates.context()

    # ------------------------------------------------------------------ settings

    def _http(self) -> HttpConfig:
        return self._config.http

    def _server_config(self) -> ServerConfig:
        http = self._http()
        if self._hypercorn is None or self._hypercorn[0] is not http:
            made = server_config(
                log, header_bytes_max=http.header_bytes_max, message_bytes_max=http.body_bytes_max,
                ping_interval_s=http.idle_timeout_s / 3,
            )  # fmt: skip
            self._hypercorn = http, made
        return self._hypercorn[1]


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound to an address in digits."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _tls_of(config: Config) -> tuple[Any, ...]:
    http = config.http
    return (config.https_address, config.tls_ciphers, http.cert_path, http.key_path, http.client_ca_path)
