"""Hello, proof, welcome: how a channel becomes a link to a proven node.

    dialer                          listener
    hello              ->
                       <-           hello, proof
    proof              ->
                       <-           welcome   (or close)

TLS has checked that each certificate was issued under the mesh's roots. What remains, and is done here: the certificate
has the profile of a node of this mesh; the peer's card holds an admission that the bundle's issuers signed;
certificate, card and proof name one NodeId; and the proof, by the node's long-lived key, covers both leaf keys and both
hellos, so it cannot be moved to another channel, replayed, reflected or downgraded. The dialer counts as joined only
after welcome: a TLS 1.3 client hears of its rejection only when it reads.

Format: docs/reference/formats.md "Links". Until the end of the handshake frames are at most 16 KiB, and at most
`_IGNORED_MAX` messages may be of types that are ignored.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable

import attrs
import trio

from ..errors import MeshError, RefusedError, RemoteProtocolError, UnreachableError
from ..security import keys
from ..security.certificates import spki_sha256
from ..security.identity import Identity
from ..security.records import Admission, NodeRecord
from ..security.trust import Trust
from ..values import Address, NodeId
from ..wire.fields import clip_text
from ..wire.framing import FrameReader, frame
from ..wire.messages import AnyMessage, Close, CloseCode, Hello, Proof, Welcome, encode_message, parse_message_untrusted
from .tls import Channel

__all__ = ["DOMAIN", "VERSIONS", "DuplicateLinkError", "Introduction", "Peer", "close_error", "shake_hands"]

DOMAIN = "bms-link-v1"
VERSIONS = (1, 1)
_HANDSHAKE_FRAME_BYTES_MAX = 16 * 1024
_IGNORED_MAX = 16
_NO_LEAF = bytes(32)
_REASON_BYTES = 1000


class DuplicateLinkError(UnreachableError):
    """There is another link to that node, and it stays."""


@attrs.frozen
class Introduction:
    """What this node says of itself in hello."""

    identity: Identity
    record: NodeRecord
    frame_bytes_max: int


@attrs.frozen
class Peer:
    """What a completed handshake has shown about the other side."""

    node_id: NodeId
    boot: int
    admission: Admission
    record: NodeRecord
    frame_bytes_max: int
    version: int
    observed: Address | None
    """How the peer sees this node's address (told to the dialer only)."""


def close_error(close: Close) -> MeshError:
    """The error that a peer's close means for whoever wanted the link."""
    if close.code == CloseCode.DUPLICATE:
        return DuplicateLinkError(close.reason)
    if close.code in (CloseCode.REFUSED, CloseCode.OTHER_MESH, CloseCode.NO_COMMON_VERSION, CloseCode.COPIED_KEY):
        return RefusedError(f"the peer refused this node: {close.reason}")
    return UnreachableError(f"the peer closed the connection: {close.reason}")


class _Frames:
    """Reads one handshake message after another."""

    def __init__(self, channel: Channel) -> None:
        self.reader = FrameReader(_HANDSHAKE_FRAME_BYTES_MAX)
        self.waiting: list[bytes] = []
        self._channel = channel
        self._ignored = 0

    async def next(self) -> tuple[bytes, AnyMessage]:
        while True:
            if self.waiting:
                payload = self.waiting.pop(0)
                message = parse_message_untrusted(payload)
                if isinstance(message, Close):
                    raise close_error(message)
                if message is None:  # of a type that may be ignored
                    self._ignored += 1
                    if self._ignored > _IGNORED_MAX:
                        raise RemoteProtocolError("the peer says everything but what belongs to the handshake")
                    continue
                return payload, message
            try:
                data = await self._channel.receive_some()
            except ssl.SSLError as error:
                raise RefusedError(f"the peer refused this node's certificate: {error.reason or error}") from error
            except (OSError, trio.BrokenResourceError) as error:
                raise UnreachableError(f"the connection broke during the handshake: {error}") from error
            if not data:
                raise UnreachableError("the peer closed the connection during the handshake")
            self.waiting.extend(self.reader.feed(data))


async def _send(channel: Channel, *payloads: bytes) -> None:
    try:
        if not channel.send_nowait(b"".join(frame(payload) for payload in payloads)):
            await channel.flush()
    except ssl.SSLError as error:
        raise RefusedError(f"the peer refused this node's certificate: {error.reason or error}") from error
    except (OSError, trio.BrokenResourceError) as error:
        raise UnreachableError(f"the connection broke during the handshake: {error}") from error


async def _say(channel: Channel, frames: _Frames, payload: bytes) -> None:
    """Send as the dialer. A listener that refuses may be gone before that: then what it said last is the reason."""
    try:
        await _send(channel, payload)
    except UnreachableError:
        await frames.next()
        raise


def _transcript(role: int, spkis: tuple[bytes, bytes], hellos: tuple[bytes, bytes]) -> bytes:
    """What a proof covers; both pairs are (dialer, listener)."""
    return bytes([role]) + b"".join(spkis) + b"".join(hashlib.sha256(hello).digest() for hello in hellos)


def _check_hello_untrusted(hello: AnyMessage, me: Introduction, trust: Trust, leaf_der: bytes | None) -> Peer:
    if not isinstance(hello, Hello):
        raise RemoteProtocolError(f"{type(hello).__name__} came where hello belongs")
    if hello.mesh_id != me.identity.mesh_id:
        raise RemoteProtocolError("this node belongs to another mesh", code=CloseCode.OTHER_MESH)
    version = min(hello.versions[1], VERSIONS[1])
    if version < max(hello.versions[0], VERSIONS[0]):
        raise RemoteProtocolError(
            f"no common version: {VERSIONS[0]} to {VERSIONS[1]} here, {hello.versions[0]} to {hello.versions[1]} there",
            code=CloseCode.NO_COMMON_VERSION,
        )
    admission, record = trust.check_card_untrusted(hello.card)
    if leaf_der is not None and trust.check_leaf_untrusted(leaf_der) != record.node_id:
        raise RemoteProtocolError("certificate and card name different nodes", code=CloseCode.REFUSED)
    if hello.lane != 0:
        raise RemoteProtocolError(f"this node has no lane {hello.lane}", code=CloseCode.REFUSED)
    if record.node_id == me.identity.node_id:
        if record.boot_id == me.record.boot_id:
            raise RemoteProtocolError("this is the node itself", code=CloseCode.REFUSED)
        raise RemoteProtocolError("the peer has this node's own key: it was copied", code=CloseCode.COPIED_KEY)
    return Peer(
        node_id=record.node_id, boot=record.boot, admission=admission, record=record,
        frame_bytes_max=max(hello.frame_bytes_max, _HANDSHAKE_FRAME_BYTES_MAX), version=version, observed=None,
    )  # fmt: skip


async def shake_hands(
    channel: Channel,
    me: Introduction,
    trust: Trust,
    *,
    dialed: bool,
    now_ms: int,
    token_bytes: Callable[[int], bytes],
    seen_as: Address | None = None,
    decide: Callable[[Peer], None] = lambda peer: None,
) -> tuple[Peer, FrameReader, list[bytes]]:
    """Prove both sides to each other. Returns the peer, and the reader with the payloads that came behind the
    handshake.

    `dialed` says that this side dialed. A listener's `decide` may refuse a proven peer by raising RemoteProtocolError,
    whose text and code the peer is told. Raises RefusedError, UnreachableError, DuplicateLinkError (the peer said no)
    or RemoteProtocolError (we did; the peer has been told why). The caller sets the deadline and closes the channel.
    """
    frames = _Frames(channel)
    mine = _hello(me, now_ms, token_bytes(32))
    try:
        if dialed:
            await _say(channel, frames, mine)
        theirs, hello = await frames.next()
        peer = _check_hello_untrusted(hello, me, trust, channel.peer_certificate)
        my_words, their_words = _transcripts(me, channel.peer_certificate, mine, theirs, dialed=dialed)
        proof = encode_message(Proof(signature=me.identity.node_key.sign(DOMAIN, my_words)))
        if not dialed:
            await _send(channel, mine, proof)
        _, answer = await frames.next()
        if not isinstance(answer, Proof):
            raise RemoteProtocolError(f"{type(answer).__name__} came where proof belongs")
        if not keys.verify(peer.node_id.raw, DOMAIN, their_words, answer.signature):
            raise RemoteProtocolError("the proof does not belong to this channel and node", code=CloseCode.REFUSED)
        # A member, not a stranger any more: what it sends right behind its welcome may be as long as on a link.
        frames.reader.frame_bytes_max = max(me.frame_bytes_max, _HANDSHAKE_FRAME_BYTES_MAX)
        if dialed:
            await _say(channel, frames, proof)
            peer = _welcomed_untrusted(peer, (await frames.next())[1])
        else:
            decide(peer)
            observed = None if seen_as is None else [seen_as.host, seen_as.port]
            await _send(channel, encode_message(Welcome(version=peer.version, observed=observed)))
    except RemoteProtocolError as error:
        await _send_farewell(channel, error)
        raise
    return peer, frames.reader, frames.waiting


def _hello(me: Introduction, now_ms: int, nonce: bytes) -> bytes:
    return encode_message(
        Hello(
            versions=list(VERSIONS),
            mesh_id=me.identity.mesh_id,
            nonce=nonce,
            card=[me.identity.admission.signed, me.record.signed, me.record.details],
            frame_bytes_max=me.frame_bytes_max,
            time=now_ms,
            lane=0,
        )
    )


def _transcripts(
    me: Introduction, leaf_der: bytes | None, mine: bytes, theirs: bytes, *, dialed: bool
) -> tuple[bytes, bytes]:
    """What this side's proof covers, and what the peer's does."""
    spkis = (_NO_LEAF, _NO_LEAF) if leaf_der is None else (me.identity.leaf_spki, spki_sha256(leaf_der))
    hellos = (mine, theirs)
    if not dialed:
        spkis, hellos = spkis[::-1], hellos[::-1]
    as_dialer, as_listener = _transcript(0, spkis, hellos), _transcript(1, spkis, hellos)
    return (as_dialer, as_listener) if dialed else (as_listener, as_dialer)


def _welcomed_untrusted(peer: Peer, welcome: AnyMessage) -> Peer:
    """The peer, with what its welcome says."""
    if not isinstance(welcome, Welcome) or welcome.version != peer.version:
        raise RemoteProtocolError("the peer did not say welcome, or in another version than agreed")
    return peer if welcome.observed is None else attrs.evolve(peer, observed=Address(*welcome.observed))


async def _send_farewell(channel: Channel, error: RemoteProtocolError) -> None:
    """Tell the peer why, if that needs no long wait."""
    with trio.move_on_after(1):
        try:
            await _send(channel, encode_message(Close(code=error.code, reason=clip_text(str(error), _REASON_BYTES))))
        except MeshError:
            pass  # it is gone already, or has not read what came before
