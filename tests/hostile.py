"""Peers that follow the protocol only as far as a test wants, and a network of memory streams for virtual time.

`Raw` speaks frames over TLS with any certificate or none; `introduce` and `proof` do its part of the handshake, with
what a test changes. `Pipes` is a World's network that can be cut. `siege` runs a listening mesh and says, when its body
is over, whether honest members were served and nothing was left behind.
"""

from __future__ import annotations

import errno
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import bms
from bms.net.handshake import DOMAIN, VERSIONS, _transcript
from bms.security.authority import Authority
from bms.security.certificates import spki_sha256
from bms.security.identity import Identity
from bms.security.records import NodeRecord
from bms.values import Address, Message
from bms.wire.codec import decode_untrusted, encode
from bms.wire.framing import FrameReader, frame
from bms.wire.messages import AnyMessage, Close, Hello, Packet, Proof, Welcome, encode_message, parse_message_untrusted
from bms.world import World
from helpers import hostile_context, make_authority, make_identity, make_record, until

__all__ = [
    "Pipes",
    "Raw",
    "Siege",
    "cards_in",
    "connect",
    "context_of",
    "files_of",
    "hello_of",
    "leaf_of",
    "open_member",
    "over",
    "packet",
    "piped",
    "plain",
    "serve_hostile",
    "siege",
    "tell",
]


def leaf_of(identity: Identity) -> bytes:
    """The DER of the certificate that an identity shows."""
    return x509.load_pem_x509_certificate(identity.cert_pem).public_bytes(serialization.Encoding.DER)


def context_of(folder: Path, identity: Identity, **wrong: Any) -> ssl.SSLContext:
    """The TLS context of a member who checks nothing."""
    return hostile_context(folder, **{"chain": identity.cert_pem, "key": identity.key_pem, **wrong})


def hello_of(identity: Identity, record: NodeRecord | None = None, **wrong: Any) -> Hello:
    """The hello of a member, with some fields wrong."""
    record = record or make_record(identity)
    fields: dict[str, Any] = {
        "versions": list(VERSIONS),
        "mesh_id": identity.mesh_id,
        "nonce": secrets.token_bytes(32),
        "card": [identity.admission.signed, record.signed, record.details],
        "frame_bytes_max": 2**20,
        "time": int(time.time() * 1000),
        "lane": 0,
    }
    return Hello(**{**fields, **wrong})


def packet(*items: list[Any]) -> Packet:
    """What the failure detector says over a link (formats.md, "Packets")."""
    return Packet(encode(list(items)))


def tell(*cards: list[Any]) -> Packet:
    """These members' cards."""
    return packet(*([6, card] for card in cards))


def cards_in(message: Packet) -> list[list[Any]]:
    """The cards that a packet brings."""
    found: list[list[Any]] = []
    for item in decode_untrusted(message.payload):
        if item[0] == 6:
            found.append(item[1])
        elif item[0] == 10:
            found += [card for card, _ in item[1]]
    return found


class Raw:
    """One end of a TLS connection that can be made to say anything."""

    def __init__(self, stream: trio.SSLStream[Any]) -> None:
        self.stream = stream
        self.hellos: list[bytes] = [b"", b""]
        self.closed_with: Close | None = None
        self._reader = FrameReader(2**20)
        self._payloads: list[bytes] = []

    async def send(self, *messages: AnyMessage | bytes) -> None:
        """Send messages; bytes go out as they are, with no frame around them."""
        parts = [part if isinstance(part, bytes) else frame(encode_message(part)) for part in messages]
        await self.stream.send_all(b"".join(parts))

    async def receive(self) -> AnyMessage | None:
        """The next message; None when the other side has ended the connection."""
        while not self._payloads:
            try:
                data = await self.stream.receive_some(65536)
            except (trio.BrokenResourceError, ssl.SSLError):
                data = b""
            if not data:
                await self.cut()
                return None
            self._payloads += self._reader.feed(data)
        payload = self._payloads.pop(0)
        message = parse_message_untrusted(payload)
        if isinstance(message, Hello):
            self.hellos[1] = payload
        if isinstance(message, Close):
            self.closed_with = message
        return message

    async def receive_a(self, *kinds: type[Any]) -> Any:
        """The next message of one of these kinds; others are passed over."""
        while True:
            message = await self.receive()
            assert message is not None, f"the connection ended ({self.closed_with}) before {kinds} came"
            if isinstance(message, kinds):
                return message

    async def cut(self) -> None:
        """Drop the connection without a word."""
        await trio.aclose_forcefully(self.stream)

    async def fate(self) -> Close | None:
        """Read to the end of the connection; the close that came, if one did."""
        with trio.fail_after(60):
            while await self.receive() is not None:
                pass
        return self.closed_with

    async def introduce(self, hello: Hello) -> tuple[Hello, Proof]:
        """Send a hello as the dialing side; the answer to it."""
        self.hellos[0] = encode_message(hello)
        await self.send(frame(self.hellos[0]))
        return await self.receive_a(Hello), await self.receive_a(Proof)

    def proof(self, identity: Identity, *, role: int = 0, hellos: Sequence[bytes] | None = None) -> Proof:
        """The proof of the dialing side, or a wrong one."""
        theirs = self.stream.getpeercert(True)
        spkis = (spki_sha256(leaf_of(identity)), spki_sha256(theirs))
        first, second = hellos or self.hellos
        return Proof(identity.node_key.sign(DOMAIN, _transcript(role, spkis, (first, second))))

    async def join(self, identity: Identity, record: NodeRecord | None = None, **fields: Any) -> Welcome:
        """The whole handshake, honestly."""
        await self.introduce(hello_of(identity, record, **fields))
        await self.send(self.proof(identity))
        welcome: Welcome = await self.receive_a(Welcome)
        return welcome

    async def admit(self, identity: Identity, welcome: Welcome) -> None:
        """The whole handshake as the listening side, ending with this welcome."""
        await self.receive_a(Hello)
        mine = encode_message(hello_of(identity))
        spkis = (spki_sha256(self.stream.getpeercert(True)), spki_sha256(leaf_of(identity)))
        signature = identity.node_key.sign(DOMAIN, _transcript(1, spkis, (self.hellos[1], mine)))
        await self.send(frame(mine), Proof(signature))
        await self.receive_a(Proof)
        await self.send(welcome)


async def plain(address: Address, *, source: str | None = None, receive_buffer: int | None = None) -> trio.SocketStream:
    """A TCP connection from the loopback address `source`."""
    sock = trio.socket.socket()
    if source is not None:
        await sock.bind((source, 0))
    if receive_buffer is not None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
    await sock.connect((address.host, address.port))
    return trio.SocketStream(sock)


async def connect(
    address: Address, context: ssl.SSLContext, *, source: str | None = None, receive_buffer: int | None = None
) -> Raw:
    """TLS to `address`, from the loopback address `source`."""
    return await over(await plain(address, source=source, receive_buffer=receive_buffer), context)


async def over(stream: trio.abc.Stream, context: ssl.SSLContext) -> Raw:
    """TLS as a client over any stream."""
    tls = trio.SSLStream(stream, context, https_compatible=True)
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return Raw(tls)


@asynccontextmanager
async def serve_hostile(context: ssl.SSLContext, script: Callable[[Raw], Awaitable[object]]) -> AsyncIterator[Address]:
    """A TLS server on loopback that runs `script` for each connection whose handshake completes.

    At the end scripts have a moment to see their connections closed.
    """
    running: set[object] = set()

    async def serve(stream: trio.SocketStream) -> None:
        running.add(stream)
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await tls.do_handshake()
            await script(Raw(tls))
        except (trio.BrokenResourceError, ssl.SSLError, AssertionError):
            pass  # the node under test has gone
        finally:
            running.discard(stream)
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield Address(*listeners[0].socket.getsockname())
        await until(lambda: not running)
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------- whole nodes


def files_of(folder: Path, name: str) -> dict[str, Any]:
    """The settings that name the three files which `make_identity` wrote."""
    place = folder / name
    return {"cert_path": place / "cert.pem", "key_path": place / "key.pem", "trust_path": place / "trust.pem"}


def open_member(folder: Path, name: str, **fields: Any) -> Any:
    """A whole node, in memory, with the identity `name`."""
    return bms.open_mesh(**{**files_of(folder, name), "enable_persistence": False, "node_name": name, **fields})


@attrs.define
class Siege:
    """A mesh's node that is attacked, and what is needed to attack it."""

    folder: Path
    authority: Authority
    mesh: bms.Mesh
    attacker: Identity
    made: int = 0
    raws: list[Raw] = attrs.field(factory=list)

    @property
    def pool(self) -> Any:
        """The pool of the attacked node."""
        assert self.mesh._life is not None
        return self.mesh._life.pool

    @property
    def address(self) -> Address:
        """Where it listens."""
        assert self.mesh.address is not None
        return self.mesh.address

    def context(self, **wrong: Any) -> ssl.SSLContext:
        """The attacker's TLS context."""
        return context_of(self.folder, self.attacker, **wrong)

    async def connect(self, identity: Identity | None = None, **options: Any) -> Raw:
        """A TLS connection of the attacker (or another member) with the right certificate; cut at the test's end."""
        raw = await connect(self.address, context_of(self.folder, identity or self.attacker), **options)
        self.raws.append(raw)
        return raw

    def count(self, *names: str) -> int:
        """The sum of some counters of the node."""
        return sum(self.mesh.counters[name] for name in names)

    @property
    def refusals(self) -> int:
        """How many connections did not become links."""
        return self.count("net.handshakes_refused", "net.handshakes_failed", "net.connections_over_limit")

    @asynccontextmanager
    async def witness(self) -> AsyncIterator[bms.Mesh]:
        """An honest member whose one link outlives the body, and works then."""
        make_identity(self.authority, self.folder, "witness")
        async with open_member(self.folder, "witness") as member:
            assert member._life is not None
            await member.register_node(self.address)
            link = member._life.pool.link(self.mesh.node_id)
            yield member
            assert member._life.pool.link(self.mesh.node_id) is link
            with trio.fail_after(60):
                await member.send_message(self.mesh.node_id, b"still here", "witness")

    async def serves_an_honest_member(self) -> None:
        """A new member gets in and is answered, now."""
        self.made += 1
        name = f"honest{self.made}"
        make_identity(self.authority, self.folder, name)
        topic = name
        async with open_member(self.folder, name) as member:
            with trio.fail_after(60):
                node = await member.register_node(self.address)
                assert node.node_id == self.mesh.node_id
                await member.send_message(node, b"hello", topic)
                async with self.mesh.subscribe(topic) as messages:
                    message = await anext(messages)
                    assert isinstance(message, Message)
                    assert message.body == b"hello"
                assert self.mesh.is_connected(member.node_id)
        await until(lambda: not self.mesh.is_connected(member.node_id))


@asynccontextmanager
async def siege(folder: Path, *, joined: bool = False, **fields: Any) -> AsyncIterator[Siege]:
    """A listening node of a new mesh, and an attacker's identity.

    Afterwards: the attacker is not in (and not even known, unless it had `joined` as a member), no handshake is left,
    an honest member is served, no handler of ours crashed, no subsystem was restarted, and the node stops in time.
    """
    authority = make_authority()
    make_identity(authority, folder, "target")
    attacker = make_identity(authority, folder, "attacker")
    with trio.fail_after(280):
        async with open_member(folder, "target", **fields) as mesh:
            scene = Siege(folder, authority, mesh, attacker)
            try:
                yield scene
            finally:
                with trio.CancelScope(shield=True):
                    for raw in scene.raws:
                        await raw.cut()
            await until(lambda: not scene.pool._handshakes.count)
            await until(lambda: not mesh.is_connected(attacker.node_id))
            # After a pause of this process the failure detector gives everybody the time back.
            await until(lambda: attacker.node_id not in [node.node_id for node in mesh.nodes("alive")], 120)
            if not joined:
                assert attacker.node_id not in [node.node_id for node in mesh.nodes()]
            await scene.serves_an_honest_member()
            assert scene.count("net.handler_crashes", "supervisor.crashes") == 0
            await until(lambda: not scene.pool._all)
            started = time.monotonic()
            await mesh.stop()
            assert time.monotonic() - started < mesh.config.limits.drain_timeout_s + 20


# ---------------------------------------------------------------------- virtual networks


class _Deaf(trio.abc.Listener[trio.abc.Stream]):
    """Nobody comes by this one: `Pipes` brings connections by itself."""

    async def accept(self) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _NoDatagrams:
    """A socket of a network that lets no datagram through."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def send_nowait(self, data: bytes, to: Address) -> bool:
        return False

    async def receive(self) -> list[tuple[bytes, Address]]:
        await trio.sleep_forever()
        raise AssertionError

    def receive_nowait(self) -> list[tuple[bytes, Address]]:
        return []

    def close(self) -> None:
        pass


class Pipes:
    """A network of memory streams, for whole nodes on virtual time. `cut` breaks every connection."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.streams: list[trio.StapledStream[Any, Any]] = []
        self.serve: dict[int, Callable[[trio.abc.Stream], Awaitable[object]]] = {}
        self._nursery = nursery

    def world(self) -> World:
        """A World with this network and nothing that runs in threads."""
        return World(network=self, threads=False)

    def attach(self, mesh: bms.Mesh) -> None:
        """Bring connections to a node's address to it."""
        assert mesh.address is not None
        self.serve[mesh.address.port] = mesh.handle_connection

    def port_of(self, mesh: bms.Mesh) -> int:
        """The port under which a node was attached."""
        return next(port for port, serve in self.serve.items() if serve == mesh.handle_connection)

    async def dial(self, address: Address) -> trio.abc.Stream:
        """See `bms.world.Network`."""
        await trio.lowlevel.checkpoint()
        serve = self.serve.get(address.port)
        if serve is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams += [ours, theirs]
        self._nursery.start_soon(self._serve, serve, theirs)
        return ours

    async def _serve(self, serve: Callable[[trio.abc.Stream], Awaitable[object]], stream: trio.abc.Stream) -> None:
        try:
            await serve(stream)
        except bms.ClosedError:
            await trio.aclose_forcefully(stream)

    async def listen(
        self, address: Address, backlog: int
    ) -> Sequence[tuple[trio.abc.Listener[trio.abc.Stream], Address]]:
        """See `bms.world.Network`."""
        await trio.lowlevel.checkpoint()
        return [(_Deaf(), address)]

    async def open_datagrams(self, address: Address) -> _NoDatagrams:
        """See `bms.world.Network`. This network has none: all goes over links."""
        await trio.lowlevel.checkpoint()
        return _NoDatagrams(address)

    def local_hosts(self) -> list[str]:
        """See `bms.world.Network`."""
        return ["127.0.0.1"]

    async def cut(self) -> int:
        """Break every connection; how many there were."""
        streams, self.streams = self.streams, []
        for stream in streams:
            await trio.aclose_forcefully(stream)
        return len(streams) // 2


@asynccontextmanager
async def piped(folder: Path, *each: dict[str, Any], **fields: Any) -> AsyncIterator[tuple[Pipes, list[bms.Mesh]]]:
    """Whole nodes of one mesh on a network of memory streams, each linked with the first.

    One for each dictionary of settings (two without any); `fields` are settings of all.
    """
    authority = make_authority()
    async with trio.open_nursery() as nursery:
        pipes = Pipes(nursery)
        meshes: list[bms.Mesh] = []
        for number, own in enumerate(each or ({}, {})):
            name = f"n{number + 1}"
            make_identity(authority, folder, name)
            place = f"127.0.0.1:{number + 1}"  # a port of its own, so that it is found again after a restart
            settings = {"enable_persistence": False, "node_name": name, "listen_address": place, **fields, **own}
            mesh = bms.init(world=pipes.world(), **files_of(folder, name), **settings)
            await mesh.start(nursery)
            pipes.attach(mesh)
            meshes.append(mesh)
        try:
            for mesh in meshes[1:]:
                await mesh.register_node(Address("127.0.0.1", pipes.port_of(meshes[0])))
            await until(lambda: all(len(mesh.nodes("alive")) == len(meshes) for mesh in meshes))
            yield pipes, meshes
        finally:
            for mesh in meshes:
                await mesh.shutdown()
            nursery.cancel_scope.cancel()
