"""The links of one node: at most one that is used to each peer, dialed or accepted, within stated bounds.

Decisions are plain and made at once (`_verdict`); tasks only carry them out. Which of two links to a peer stays, both
sides decide alike:

    newer boot of the peer         the new link; the older boot is gone
    older boot of the peer         refused
    same boot, other boot id       refused: a copied key
    same boot, same side dialed    the new link; that side has given the old one up
    same boot, both sides dialed   the link dialed by the lower NodeId

A link that loses is retired: both sides still take in what comes on it, and calls under way may end. That holds for a
new link, too, once the listener has welcomed the dialer: from then on either side may have sent what it will not send
again. Bounds: `max_connections` links; `limits.handshakes_max` unfinished handshakes, and as many connections a second
from one address (twice as many at once). Whoever comes faster is closed before TLS. Where there is no place, the oldest
unfinished handshake of the address that has most gives way (`limits`): connections that are opened and left alone keep
nobody out, and who is taken in has a second even while its own address floods. Links are out of reach of that. A
handshake has `limits.handshake_timeout_s` altogether, however slowly its bytes come. Of what peers can cause, refusals
and the comings and ends of links, the log has one line of a kind in ten seconds (`seldom`); counters count all of it.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable, Mapping

import attrs
import trio

from ..config import Config
from ..counters import OTHER, Counters
from ..errors import MeshError, RefusedError, RemoteProtocolError, UnreachableError
from ..limits import Gate, Rates, address_key
from ..security.identity import Identity
from ..security.trust import Trust
from ..seldom import Seldom
from ..values import Address, NodeId
from ..wire.messages import CloseCode
from ..world import World
from .handshake import DuplicateLinkError, Introduction, Peer, shake_hands
from .link import Handler, Link
from .listeners import serve_address
from .tls import Channel, StreamChannel, make_contexts, open_channel

__all__ = ["Pool"]

log = logging.getLogger("bms.net")

# OpenSSL: self-signed, self-signed in the chain, issuer not known, no chain. To a mesh, a certificate of another one.
_FOREIGN = (18, 19, 20, 21)
_SAID_S = 10.0


@attrs.define(eq=False)
class _Caller:
    """Whoever has connected, until its handshake ends: a guest of the gate."""

    address: str
    idle_since: float
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def evict(self) -> None:
        """End the handshake."""
        self.scope.cancel()


class Pool:
    """Dials, accepts and keeps links. `on_up(link)` and `on_down(link, last)` are called plainly, in order.

    `last` says that no other link to that node is left.
    """

    def __init__(
        self,
        *,
        introduce: Callable[[], Introduction],
        trust: Trust,
        config: Config,
        world: World,
        counters: Counters,
        routes: Mapping[type, Handler],
        on_up: Callable[[Link], None],
        on_down: Callable[[Link, bool], None],
    ) -> None:
        self.links: dict[NodeId, Link] = {}
        self._introduce = introduce
        self._trust = trust
        self._contexts = make_contexts(introduce().identity) if world.secure is None else None
        self._config = config
        self._world = world
        self._counters = counters
        self._routes = routes
        self._on_up = on_up
        self._on_down = on_down
        self._nursery: trio.Nursery | None = None
        """Where links are served: they outlive the listener that accepted them."""
        self._listening: set[trio.CancelScope] = set()
        self._all: dict[Link, None] = {}  # in the order they came up
        self._emptied = trio.Event()
        self._handshakes = Gate()
        """The unfinished ones of those that connected."""
        self._rates = Rates(lambda: self._config.limits.handshakes_max)
        self._greeted = 0
        """Handshakes of this node's own dials under way: the others may count it in before it has a link."""
        self._all_greeted = trio.Event()
        self._is_settling = False
        self._is_draining = False
        self._seldom = Seldom(_SAID_S)

    # ------------------------------------------------------------------ life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of dialed links until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._is_settling = self._is_draining = False
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for scope in self._listening:  # they serve in the nursery that has ended
                scope.cancel()

    def reconfigure(self, config: Config) -> None:
        """Use new limits and time-outs from now on, also on the links there are."""
        self._config = config
        for link in self._all:
            link.reconfigure(config)

    def use(self, identity: Identity) -> None:
        """Show this certificate on links made from now on; those there are, and handshakes under way, keep theirs."""
        if self._contexts is not None:
            self._contexts = make_contexts(identity)

    def refuse(self) -> None:
        """Dial and accept nothing from now on."""
        self._is_settling = self._is_draining = True

    async def settle(self, seconds: float) -> None:
        """Dial and accept nothing from now on, but let dials that have been answered become links, if that is soon.

        Who was greeted there may count this node in already, and hears over the link that it leaves.
        """
        self._is_settling = True
        with trio.move_on_after(seconds):
            while self._greeted:
                self._all_greeted = trio.Event()
                await self._all_greeted.wait()
        self.refuse()

    async def drain(self, deadline_s: float) -> None:
        """Let every link send what it has queued, say goodbye, and end; none is left after `deadline_s`."""
        self.refuse()
        for link in list(self._all):
            link.finish("this node leaves", CloseCode.GOING_AWAY)
        with trio.move_on_after(deadline_s):
            if self._all:
                self._emptied = trio.Event()
                await self._emptied.wait()
        for link in list(self._all):
            link.end("drained")

    async def listen(
        self, address: Address, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen at `address` until cancelled; links made meanwhile stay. `started` gets the bound address."""
        if self._nursery is None:
            raise UnreachableError("this node is not running")
        with trio.CancelScope() as scope:
            self._listening.add(scope)
            try:
                await serve_address(address, self.serve, self._world, self._nursery, task_status=task_status)
            finally:
                self._listening.discard(scope)
        raise UnreachableError("this node's links have ended")

    def every(self) -> Iterable[Link]:
        """All links that carry something still, those that are retired among them."""
        return self._all

    def link(self, node_id: NodeId) -> Link | None:
        """The open link to a node, or None."""
        link = self.links.get(node_id)
        return link if link is not None and link.is_open else None

    # ------------------------------------------------------------------ accepting

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Be the listening side on `stream` until the link ends; never raises for what the peer did."""
        host = _host_of(stream)
        self._counters.add("net.connections_accepted")
        caller = self._admit_caller(host)
        if caller is None:
            self._counters.add("net.connections_over_limit")
            if isinstance(stream, trio.SocketStream):
                stream.socket.close()  # costs less: they may come by the thousand
            else:
                await trio.aclose_forcefully(stream)
            return
        try:
            link = await self._receive(stream, caller, host)
        except RemoteProtocolError as error:
            if error.code == CloseCode.DUPLICATE:
                return  # both sides dialed; that happens
            self._counters.count("net.handshakes_refused", _code_name(error))
            kind: tuple[object, ...] = ("refused", error.code)
            self._say(logging.WARNING, kind, "refused a connection from %s: %s", host or "a stream", error)
        except MeshError as error:
            self._counters.count("net.handshakes_failed", type(error).__name__)
            kind = ("failed", type(error).__name__)
            # Who looks whether somebody listens (`bms doctor`, a load balancer) hangs up like that.
            level = logging.DEBUG if isinstance(error.__cause__, ssl.SSLEOFError) else logging.INFO
            self._say(level, kind, "no link with %s that connected: %s", host or "a stream", error)
        except Exception as error:
            # A bug of ours costs this connection, not the node.
            self._counters.add("net.handler_crashes")
            kind = ("crashed", type(error).__name__)
            self._say(logging.ERROR, kind, "serving a connection from %s failed", host or "a stream", crash=error)
        else:
            adopted = None if link is None else await self._adopt(link)
            if adopted is not None:
                try:
                    await adopted.ended.wait()
                finally:
                    adopted.end("cancelled", CloseCode.GOING_AWAY)

    def _admit_caller(self, host: str) -> _Caller | None:
        """Take in a connection, perhaps in the place of an older one; None if it is to be closed before TLS."""
        caller, places = _Caller(address_key(host), trio.current_time()), self._config.limits.handshakes_max
        if self._is_settling or not self._rates.spend(caller.address, caller.idle_since):
            return None
        return caller if self._handshakes.admit(caller, connections_max=places, per_address_max=places) else None

    async def _receive(self, stream: trio.abc.Stream, caller: _Caller, host: str) -> Link | None:
        """The link that one who connected gets; None if its handshake gave way. Raises as `_shake` does."""
        try:
            with caller.scope:
                return await self._shake(stream, host, dialed=False, seen_as=_address_of(stream))
        finally:
            self._handshakes.leave(caller)
        self._counters.add("net.connections_over_limit")
        return None

    async def _shake(self, stream: trio.abc.Stream, host: str, *, dialed: bool, seen_as: Address | None = None) -> Link:
        """TLS and handshake under one deadline. Raises MeshError only; the stream is closed then."""
        channel: Channel | None = None
        began = trio.current_time()
        try:
            with trio.fail_after(self._config.limits.handshake_timeout_s):
                # The proof covers the certificate that TLS shows: both are of one identity, whatever comes meanwhile.
                identity = self._introduce().identity
                channel = await self._secure(stream, identity, server_side=not dialed)
                peer, reader, waiting = await shake_hands(
                    channel,
                    attrs.evolve(self._introduce(), identity=identity),
                    self._trust,
                    dialed=dialed,
                    now_ms=int(self._world.wall_time() * 1000),
                    token_bytes=self._world.token_bytes,
                    seen_as=seen_as,
                    decide=self._decide,
                )
                link = Link(
                    channel, peer, reader, waiting, dialed=dialed, config=self._config, counters=self._counters,
                    routes=self._routes, wall_time=self._world.wall_time,
                )  # fmt: skip
                link.host = host
                # Again, since a listener's welcome took time: nothing waits between this and the registration.
                self._admit(peer, dialed=dialed)
                channel = None  # the link owns it now
                self._counters.observe("net.handshake_s", trio.current_time() - began)
                return link
        except trio.TooSlowError:
            raise UnreachableError(
                f"no handshake within {self._config.limits.handshake_timeout_s:g} s; is it a node of this mesh?"
            ) from None
        except ssl.SSLError as error:
            raise RefusedError(f"TLS failed: {_tls_reason(error)}") from error
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise UnreachableError(f"the connection broke during the handshake: {error}") from error
        finally:
            if channel is not None:
                await channel.aclose()

    async def _secure(self, stream: trio.abc.Stream, identity: Identity, *, server_side: bool) -> Channel:
        if not self._config.enable_encryption:
            return StreamChannel(stream, stream)
        if self._contexts is not None:
            return await open_channel(stream, self._contexts, server_side=server_side)
        assert self._world.secure is not None
        channel: Channel = await self._world.secure(stream, identity, server_side)
        return channel

    def _decide(self, peer: Peer) -> None:
        """As the listener: refuse a proven dialer whose link would not stay."""
        self._admit(peer)
        if self._is_beaten(peer, dialed=False):
            raise RemoteProtocolError("another link to this node stays", code=CloseCode.DUPLICATE)

    def _admit(self, peer: Peer, *, dialed: bool = False) -> None:
        """Refuse a proven peer that may have no link."""
        old = self.link(peer.node_id)
        if self._is_draining or (self._is_settling and not dialed):
            raise RemoteProtocolError("this node is leaving", code=CloseCode.GOING_AWAY)
        if old is None:
            if len(self.links) >= self._config.max_connections:
                raise RemoteProtocolError(
                    f"this node has its {self._config.max_connections} connections", code=CloseCode.AT_LIMIT
                )
        elif peer.boot < old.boot:
            raise RemoteProtocolError("a newer boot of this node is connected", code=CloseCode.REPLACED)
        elif peer.boot == old.boot and peer.record.boot_id != old.peer.record.boot_id:
            raise RemoteProtocolError("this node's key is in use twice", code=CloseCode.COPIED_KEY)

    def _is_beaten(self, peer: Peer, *, dialed: bool) -> bool:
        """Whether both sides dialed, and the other one's link stays."""
        old = self.link(peer.node_id)
        if old is None or peer.boot != old.boot or dialed == old.dialed:
            return False
        me = self._introduce().identity.node_id
        return (me if dialed else peer.node_id) > (peer.node_id if dialed else me)

    def _register(self, link: Link) -> Link | None:
        """Make `link` the one that is used for its node, unless it is beaten; the one that is not used (any more)."""
        old: Link | None = link
        if not self._is_beaten(link.peer, dialed=link.dialed):
            old = self.links.get(link.node_id)
            self.links[link.node_id] = link
        self._all[link] = None
        self._counters.add("net.links_opened")
        name = link.peer.record.name
        self._say(logging.INFO, (link.node_id, "up"), "link with %s %s", link.node_id.short, name)
        self._tell(link, self._on_up, link)
        return old

    def _tell(self, link: Link, listener: Callable[..., None], *arguments: object) -> None:
        try:
            listener(*arguments)
        except Exception as error:
            # A bug of ours costs this link, not the node; the link is served, so that it ends in order.
            self._counters.add("net.handler_crashes")
            text = "closing the link to %s: its coming or going could not be told"
            self._say(logging.ERROR, (link.node_id, "untold"), text, link.node_id.short, crash=error)
            link.end("internal error", CloseCode.GOING_AWAY)

    async def _serve_link(self, link: Link, old: Link | None) -> None:
        """Serve a registered link to its end, and tell; `old` is retired meanwhile."""
        try:
            async with trio.open_nursery() as nursery:
                if old is not None and old.boot < link.boot:
                    old.finish("a newer boot of this node came", CloseCode.REPLACED)
                elif old is not None and old.is_open:
                    nursery.start_soon(old.retire)
                await link.run()
                nursery.cancel_scope.cancel()
        finally:
            link.end("cancelled", CloseCode.GOING_AWAY)
            if old is not None:  # its retirement may have been cut short, and nobody else knows it
                old.finish("another link to this node came", CloseCode.DUPLICATE)
            self._all.pop(link, None)
            if not self._all:
                self._emptied.set()
            self._counters.add("net.bytes_sent", link.bytes_sent)
            self._counters.add("net.bytes_received", link.bytes_received)
            self._counters.histogram("net.reply_s").add(link.reply_s)
            self._counters.add("net.links_closed")
            last = self.links.get(link.node_id) is link
            if last:
                del self.links[link.node_id]
            self._say_end(link)
            self._tell(link, self._on_down, link, last)
            link.ended.set()

    def _say(
        self, level: int, kind: tuple[object, ...], text: str, *arguments: object, crash: Exception | None = None
    ) -> None:
        self._seldom.log(log, level, kind, trio.current_time(), text, *arguments, error=crash)

    def _say_end(self, link: Link) -> None:
        short, fault = link.node_id.short, link.fault
        if fault is None:
            self._say(logging.INFO, (link.node_id, "down"), "link with %s ended: %s", short, link.reason)
        elif isinstance(fault, RemoteProtocolError):
            self._say(logging.WARNING, (link.node_id, "fault"), "closed the link to %s: %s", short, fault)
        else:
            text = "a handler failed; closed the link to %s"
            self._say(logging.ERROR, (link.node_id, "crash"), text, short, crash=fault)

    async def _adopt(self, link: Link) -> Link | None:
        """Register a new link and serve it in the pool's nursery; None if this node stopped meanwhile."""
        # A nursery that ends may be closed before `run` goes on, and nobody would serve the link.
        if self._nursery is None or self._nursery.cancel_scope.cancel_called or self._is_draining:
            link.end("this node stopped", CloseCode.GOING_AWAY)
            await link.run()
            return None
        self._nursery.start_soon(self._serve_link, link, self._register(link))
        return link

    # ------------------------------------------------------------------ dialing

    async def dial(self, address: Address, *, timeout_s: float | None = None) -> Link:
        """Connect to whoever answers at `address` and return the link.

        Raises UnreachableError, RefusedError (either side's identity was refused), or RemoteProtocolError. Where a link
        to that node exists already and stays, that one is returned.
        """
        if self._nursery is None or self._is_settling:
            raise UnreachableError("this node is not running")
        self._counters.add("net.dials")
        try:
            link = await self._dial(address, timeout_s)
        except DuplicateLinkError:
            raise
        except MeshError as error:
            self._counters.count("net.dials_failed", type(error).__name__)
            raise
        adopted = await self._adopt(link)
        if adopted is None:
            raise UnreachableError("this node is not running")
        return self.link(link.node_id) or adopted

    async def _dial(self, address: Address, timeout_s: float | None) -> Link:
        """A link that nobody knows yet."""
        try:
            with trio.fail_after(self._config.gossip.dial_timeout_s if timeout_s is None else timeout_s):
                stream = await self._world.network.dial(address)
        except trio.TooSlowError:
            raise UnreachableError(f"{address} does not answer") from None
        except OSError as error:
            raise UnreachableError(f"{address}: {_os_reason(error)}") from error
        except ValueError as error:  # UnicodeError among them: a host that IDNA cannot encode
            raise UnreachableError(f"{address} is no address: {error}") from error
        self._greeted += 1
        try:
            return await self._shake(stream, _host_of(stream), dialed=True)
        except DuplicateLinkError:
            raise
        except RemoteProtocolError as error:
            if error.code == CloseCode.DUPLICATE:
                raise DuplicateLinkError(str(error)) from error
            raise
        finally:
            self._greeted -= 1
            if not self._greeted:
                self._all_greeted.set()

    async def dial_any(
        self, addresses: Iterable[Address], on_error: Callable[[MeshError], None] | None = None
    ) -> tuple[Link | None, list[MeshError]]:
        """Try addresses one after another; the link, or None with what each said, which `on_error` hears at once."""
        errors: list[MeshError] = []
        for address in addresses:
            try:
                return await self.dial(address), errors
            except MeshError as error:
                errors.append(error)
                if isinstance(error, DuplicateLinkError):
                    break
                if on_error is not None:
                    on_error(error)
        return None, errors


def _code_name(error: RemoteProtocolError) -> str:
    """Why a handshake was refused, as one of few words."""
    try:
        return CloseCode(error.code).name.lower()
    except ValueError:
        return OTHER


def _os_reason(error: OSError) -> str:
    """What the system said, without the "Error connecting to (…): " that newer Trio puts before it."""
    causes = [error.__cause__, *getattr(error.__cause__, "exceptions", ())]
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower().rpartition("): ")[2]
    return (error.strerror or str(error)).lower()


def _address_of(stream: trio.abc.Stream) -> Address | None:
    if not isinstance(stream, trio.SocketStream):
        known = getattr(stream, "peer_address", None)  # other networks' streams may say it
        return known if isinstance(known, Address) else None
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return None
    return Address(host.removeprefix("::ffff:"), port)


def _host_of(stream: trio.abc.Stream) -> str:
    address = _address_of(stream)
    return "" if address is None else address.host


def _tls_reason(error: ssl.SSLError) -> str:
    """Why TLS failed; where roots do not fit, what that means here."""
    if isinstance(error, ssl.SSLCertVerificationError):
        is_foreign, text = error.verify_code in _FOREIGN, error.verify_message
    else:
        is_foreign, text = error.reason == "TLSV1_ALERT_UNKNOWN_CA", str(error.reason or error)
    return f"{text}; it is of another mesh" if is_foreign else text
