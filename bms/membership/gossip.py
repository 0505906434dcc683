"""Carries out what the membership machines decide: packets, dials, events.

`swim` decides who is there, `view` whom to dial; one loop drives both, and each dial is a task of its own. What a
member says reaches them through `believed`. Packets go as datagrams where there are any, otherwise over the link; what
is too long for a datagram, or beside a probe's datagrams, goes over the link, and so does news for whom most datagrams
are lost.

This node's own card goes to every linked node when it changes, to all others with the gossip.
"""

from __future__ import annotations

import errno
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from ..config import Config
from ..counters import Counters
from ..errors import MeshError, UnreachableError
from ..net.handshake import DuplicateLinkError
from ..net.link import Handler, Link
from ..net.pool import Pool
from ..security.identity import Identity
from ..security.pairwise import PAYLOAD_BYTES_MAX
from ..security.records import DEAD, REMOVED, SUSPECT, TCP, Accusation, NodeRecord
from ..security.trust import Trust
from ..seldom import Seldom
from ..values import Address, NodeEvent, NodeId
from ..wire.messages import Packet
from .believed import Believed, accusation_claim, own_claim
from .claims import (
    Ack,
    Changed,
    Claim,
    Delta,
    Digest,
    Effect,
    Get,
    Kind,
    Measured,
    Message,
    Ping,
    Refuted,
    Send,
    Want,
)
from .coordinates import Coordinate, Coordinates
from .pacing import Pacing
from .packets import encode_packet, parse_packet_untrusted
from .swim import Swim, Tuning
from .view import View
from .watching import Watches

__all__ = ["Gossip", "PacketService"]

log = logging.getLogger("bms.membership")

_PAIRS_PER_PACKET = 64
_PACKET_HEAD_BYTES = 64
_IDS_PER_PACKET = 256
_KINDS = {Kind.SUSPECT: SUSPECT, Kind.DEAD: DEAD, Kind.REMOVED: REMOVED}
_LOSS_MAX = 0.5
_BLAME_S = 60.0
_DIALS_MAX = 64
_WANT_S = 1.0
_WANTED_MAX = 4096
_LINES_BURST, _LINE_S = 20, 10.0
# Admission, record and details have 4 KiB each at most; every peer takes frames of this size.
_CARD_BYTES_MAX = 16 * 1024


class PacketService(Protocol):
    """What gossip needs of `net.datagrams`."""

    def send(self, node_id: NodeId, payload: bytes, to: Address | None = None) -> bool:
        """Send one datagram to a member; False if that cannot be."""
        ...

    def receive_nowait(self) -> None:
        """Handle what has arrived."""
        ...

    def challenge(self, node_id: NodeId, source: Address) -> int | None:
        """A number to ping `source` with, if it is not known that the member receives there."""
        ...

    def confirm(self, node_id: NodeId, source: Address, number: int) -> None:
        """A ping with that number was answered from `source`."""
        ...

    def forget(self, node_id: NodeId) -> None:
        """Drop the keys of a member that is gone."""
        ...


class Gossip:
    """The membership subsystem of one node. `sign(incarnation)` makes this node's record anew at that incarnation."""

    name = "membership"

    def __init__(
        self,
        *,
        identity: Identity,
        trust: Trust,
        config: Config,
        counters: Counters,
        chance: random.Random,
        my_record: Callable[[], NodeRecord],
        sign: Callable[[int], None],
        on_outdated: Callable[[NodeRecord], None],
    ) -> None:
        self.pool: Pool | None = None
        self.datagrams: PacketService | None = None
        self.is_leaving = False
        self._is_started = False
        self._identity = identity
        self._counters = counters
        self._my_record = my_record
        self._sign = sign
        self._on_outdated = on_outdated
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()
        self._owed: set[NodeId] = set()
        """Members whose link had no room for this node's card: they get it when there is."""
        self._dials = 0
        self._wants: dict[NodeId, float] = {}
        self.watches = Watches()
        self._blame = Seldom(_BLAME_S)
        self._lines = Pacing(_LINES_BURST)
        self.coordinates = Coordinates(chance)
        self.positions: dict[NodeId, Coordinate] = {}
        """The coordinates of members, as they last said."""
        self.view = View(
            identity.node_id, redial_interval_s=config.gossip.redial_interval_s,
            redial_interval_max_s=config.gossip.redial_interval_max_s, chance=chance,
        )  # fmt: skip
        self.swim = Swim(self._me(), accuse=self._accuse, refute=self._refute, chance=chance, tuning=_tuning(config))
        self._believed = Believed(identity.node_id, trust, self.swim.known.get)
        self.routes: dict[type, Handler] = {Packet: self._receive_over_link}

    # ------------------------------------------------------------------ life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the machines until cancelled."""
        self.view.no_dials()
        self._dials = 0
        if not self._is_started:
            self._is_started = True
            self.swim.start(trio.current_time())
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                while True:
                    self._wake = trio.Event()
                    with trio.move_on_at(self._deadline()):
                        await self._wake.wait()
                    self._turn()
        finally:
            self._nursery = None

    def _deadline(self) -> float:
        deadlines = [self.swim.deadline(), self.view.deadline() if self._dials < _DIALS_MAX else None]
        return min((deadline for deadline in deadlines if deadline is not None), default=float("inf"))

    def _turn(self) -> None:
        if self.datagrams is not None:
            # First what has arrived: when this process was stalled, an answer may be waiting for a time-out.
            self.datagrams.receive_nowait()
        now = trio.current_time()
        self._act(self.swim.tick(now))
        for node_id in self.view.tick(now, _DIALS_MAX - self._dials):
            if self._nursery is not None:
                self._dials += 1
                self._nursery.start_soon(self._dial, node_id)
        for node_id in list(self._owed):
            self._owed.discard(node_id)
            self._introduce(node_id)

    def reconfigure(self, config: Config) -> None:
        """Use new times from now on."""
        self.view.retime(
            redial_interval_s=config.gossip.redial_interval_s,
            redial_interval_max_s=config.gossip.redial_interval_max_s,
        )
        self.swim.retime(_tuning(config), trio.current_time())
        self._wake.set()

    def use(self, identity: Identity) -> None:
        """Show this admission from now on."""
        self._identity = identity

    # ------------------------------------------------------------------ this node's own word

    def _me(self) -> Claim:
        return own_claim(self._identity.admission, self._my_record())

    def announce(self) -> None:
        """Tell all what this node's record says now."""
        self.swim.announce(self._me(), trio.current_time())
        for link in self._links():
            self._introduce(link.node_id)
        self._wake.set()

    async def leave(self, seconds: float) -> None:
        """Tell all that this node leaves, as its record says; waits, if some are not linked, for it to get around."""
        self.is_leaving = True
        self._act(self.swim.leave(self._me(), trio.current_time()))
        linked = {link.node_id for link in self._links()}
        for node_id in linked:
            self._introduce(node_id)
        if any(self.swim.is_present(node_id) for node_id in self.swim.known.keys() - linked):
            with trio.move_on_after(seconds):
                while not self.swim.is_quiet:  # noqa: ASYNC110 - the gossip rounds are the loop's own
                    await trio.sleep(self.swim.tuning.gossip_interval_s)

    def _introduce(self, node_id: NodeId) -> None:
        if not self._send_over_link(node_id, [self.swim.me]):
            self._counters.add("membership.cards_unsent")
            if self._link(node_id) is not None:
                self._owed.add(node_id)

    def _refute(self, incarnation: int) -> Claim:
        self._sign(incarnation)
        return self._me()

    def _accuse(self, node_id: NodeId, boot: int, incarnation: int, kind: Kind) -> Claim:
        return accusation_claim(
            Accusation.sign(
                self._identity.node_key,
                mesh_id=self._identity.mesh_id,
                node_id=node_id,
                boot=boot,
                incarnation=incarnation,
                kind=_KINDS[kind],
            )
        )

    def remove(self, node_id: NodeId) -> None:
        """Forget a member that is gone, and tell all to."""
        self._act(self.swim.remove(node_id, trio.current_time()))

    # ------------------------------------------------------------------ events

    def link_up(self, link: Link) -> None:
        """A link came up, and with it its node's card."""
        now = trio.current_time()
        claim = own_claim(link.peer.admission, link.peer.record)
        self._act(self._learn([claim], now, None))
        if link.node_id in self.view.members:
            self.view.link_up(link.node_id, now)
            self.view.members[link.node_id].host = link.host
        self._act(self.swim.link_up(link.node_id, now))

    def link_down(self, link: Link, last: bool) -> None:
        """A link ended; no evidence about its node when this one is leaving."""
        if last and not self.is_leaving:
            now = trio.current_time()
            self._act(self.swim.link_down(link.node_id, now))
            self.view.link_down(link.node_id, now)
            self._wake.set()

    def receive(self, node_id: NodeId, payload: bytes, *, source: Address | None = None, stream: bool = False) -> None:
        """A packet proven to be this member's, from `source` if it is a datagram; RemoteProtocolError if malformed."""
        now = trio.current_time()
        believed = self._believed
        believed.begin(node_id, now)
        is_read = believed.may_read(len(payload))
        messages, encoded = parse_packet_untrusted(payload, believed) if is_read else ([], b"")
        # Before anything counts: a packet that is malformed at its end has said nothing at all.
        coordinate = Coordinate.parse_untrusted(encoded) if encoded else None
        self.view.heard(node_id, now)
        if believed.dropped:
            self._counters.add("membership.words_over_limit", believed.dropped)
            self.blame(node_id, "says more than a node can check; the rest of it is dropped")
        for record in believed.outdated:
            self._on_outdated(record)
        for wanted_id in believed.wanted:
            self._want(wanted_id, node_id, now)
        effects = self._handle(messages, node_id, now, stream=stream)
        if coordinate is not None:
            self._place(coordinate, node_id, effects)
        self._act(effects)
        if source is not None:
            self._validate(node_id, source, messages)

    def _validate(self, node_id: NodeId, source: Address, messages: Iterable[Message]) -> None:
        """Find out whether a member receives where a datagram of it came from, as its record may not know that."""
        if self.datagrams is None:
            return
        for message in messages:
            if isinstance(message, Ack):
                self.datagrams.confirm(node_id, source, message.seq)
        number = self.datagrams.challenge(node_id, source)
        if number is not None:
            self.datagrams.send(node_id, encode_packet([Ping(number)], stream=False), source)

    def blame(self, node_id: NodeId, what: str, level: int = logging.WARNING) -> None:
        """Say in the log, by name, what a member does that an honest one hardly does; a flood is one line a minute."""
        member = self.view.members.get(node_id)
        name = "" if member is None else f" {member.record.name}"
        now = trio.current_time()
        self._blame.log(log, level, (node_id, what), now, "%s%s %s", node_id.short, name, what)

    def _place(self, coordinate: Coordinate, node_id: NodeId, effects: list[Effect]) -> None:
        """A member has said where it is; if a round trip was measured with that, it moves this node."""
        self.positions[node_id] = coordinate
        for effect in effects:
            if isinstance(effect, Measured) and effect.node_id == node_id:
                self.coordinates.update(node_id, coordinate, effect.rtt_s)

    def _receive_over_link(self, link: Link, message: Packet) -> None:
        self.receive(link.node_id, message.payload, stream=True)

    def _handle(self, messages: Sequence[Message], node_id: NodeId, now: float, *, stream: bool) -> list[Effect]:
        before = dict.fromkeys(_words(messages))
        effects = self.swim.handle(messages, node_id, now, stream=stream)
        self._keep(before, now)
        return effects

    def _learn(self, claims: list[Claim], now: float, sender: NodeId | None) -> list[Effect]:
        effects = self.swim.learn(claims, now, sender)
        self._keep(claims, now)
        return effects

    def _keep(self, claims: Iterable[Claim], now: float) -> None:
        """Take the cards that the failure detector has accepted into the view."""
        for claim in claims:
            if self.swim.known.get(claim.node_id) is claim:
                admission, record = claim.wire
                member = self.view.members.get(claim.node_id)
                state = self.swim.state(claim.node_id)
                if state is not None and (member is None or member.record is not record):
                    self.view.learn(admission, record, state, now)

    # ------------------------------------------------------------------ effects

    def _act(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case Changed():
                    self._changed(effect)
                case Want():
                    self._want(effect.node_id, effect.sender, trio.current_time())
                case Refuted():
                    self._counters.add("membership.refuted")
                    what = f"held this node for {effect.kind.name.lower()}, which it took back"
                    self.blame(effect.by, what, logging.INFO)  # honest ones err, too
                case Measured():
                    pass  # see `_place`
        self._wake.set()

    def _send(self, send: Send) -> None:
        if not send.stream and self.datagrams is not None:
            payload = encode_packet(send.messages, stream=False, coordinate=self.coordinates.mine.encode())
            # `size` counts what is usual: a word that its member has filled up, beside an ack, may be too long.
            if len(payload) <= PAYLOAD_BYTES_MAX and self.datagrams.send(send.to, payload):
                # Where hardly any arrives (a firewall), news goes over the link as well; probes show when that ends.
                if (self.swim.loss(send.to) or 0.0) > _LOSS_MAX:
                    self._send_over_link(send.to, [message for message in send.messages if isinstance(message, Claim)])
                return
        self._send_over_link(send.to, send.messages)

    def _send_over_link(self, node_id: NodeId, messages: Sequence[Message]) -> bool:
        link = self._link(node_id)
        if link is None:
            return False
        frame_bytes_max, fitting = link.peer.frame_bytes_max, list[Message]()
        for message in messages:
            if isinstance(message, Digest) and message.size + _PACKET_HEAD_BYTES > frame_bytes_max:
                # Half a digest would look like a view that lacks the other half: all that it names in its place.
                self._act(self.swim.give(message.ranks, node_id, trio.current_time()))
            else:
                fitting.append(message)
        return all(link.send_nowait(Packet(payload)) for payload in self._payloads(fitting, frame_bytes_max))

    def _payloads(self, messages: Sequence[Message], frame_bytes_max: int) -> Iterable[bytes]:
        """Packets for a link, each of which fits into a frame."""
        count = min(_PAIRS_PER_PACKET, frame_bytes_max // _CARD_BYTES_MAX)
        short: list[Message] = []
        for message in messages:
            if isinstance(message, Delta):
                for start in range(0, len(message.pairs), count):
                    yield encode_packet([Delta(message.pairs[start : start + count])], stream=True)
            elif isinstance(message, Get):
                for start in range(0, len(message.node_ids), _IDS_PER_PACKET):
                    yield encode_packet([Get(message.node_ids[start : start + _IDS_PER_PACKET])], stream=True)
            else:
                short.append(message)
        together = encode_packet(short, stream=True)
        if len(together) + _PACKET_HEAD_BYTES <= frame_bytes_max:
            yield from [together] if short else []
        else:  # several full cards
            yield from (encode_packet([message], stream=True) for message in short)

    def _want(self, node_id: NodeId, sender: NodeId, now: float) -> None:
        """Ask for a member's card where it was spoken of, or whoever else is linked; not more often than needed."""
        if now - self._wants.get(node_id, -_WANT_S) < _WANT_S:
            return
        if len(self._wants) >= _WANTED_MAX:
            self._wants.clear()
        self._wants[node_id] = now
        asked = sender if self._link(sender) is not None else next((link.node_id for link in self._links()), None)
        if asked is not None:
            self._send_over_link(asked, [Get((node_id,))])

    def _changed(self, effect: Changed) -> None:
        now = trio.current_time()
        claim = self.swim.known.get(effect.node_id)
        if claim is not None:
            self._keep([claim], now)
        member = self.view.members.get(effect.node_id)
        if member is None:
            return
        state = self.swim.state(effect.node_id)
        if state is None:
            self.view.forget(effect.node_id)
            self._believed.forget(effect.node_id)
            self._blame.forget(effect.node_id)
            self._lines.forget(effect.node_id)
            self._wants.pop(effect.node_id, None)
            self.coordinates.forget(effect.node_id)
            self.positions.pop(effect.node_id, None)
            if self.datagrams is not None:
                self.datagrams.forget(effect.node_id)
        else:
            self.view.turned(effect.node_id, state, now)
        by = "" if effect.by in (None, self.view.me) else f", by the word of {effect.by[:8]}"
        is_seldom = self._lines.grants(effect.node_id, now, _LINE_S)
        log.log(
            logging.INFO if is_seldom else logging.DEBUG,
            "%s %s %s%s", effect.what, effect.node_id.short, member.record.name, by,
        )  # fmt: skip
        self._counters.add(f"membership.{effect.what}")
        accuser = effect.by if by else None
        self.watches.tell(NodeEvent(effect.what, effect.node_id, member.record.name, accuser))

    # ------------------------------------------------------------------ links

    def _link(self, node_id: NodeId) -> Link | None:
        return None if self.pool is None else self.pool.link(node_id)

    def _links(self) -> list[Link]:
        return [link for link in (self.pool.links.values() if self.pool else ()) if link.is_open]

    async def _dial(self, node_id: NodeId) -> None:
        try:
            await self._dial_member(node_id)
        finally:
            self._dials -= 1
            self._wake.set()

    async def _dial_member(self, node_id: NodeId) -> None:
        member = self.view.members.get(node_id)
        if self.pool is None or member is None:
            return
        addresses = [Address(host, port) for kind, host, port in member.record.addresses if kind == TCP]
        # First where its last link led. That host can say that it is gone; its other addresses may lead anywhere from
        # here, as that of a container network does.
        there = [address for address in addresses if address.host == member.host]
        elsewhere = [address for address in addresses if address not in there]
        asked = there or elsewhere
        answers: list[bool] = []

        def heard(error: MeshError) -> None:
            answers.append(_is_refused(error))
            if len(answers) == len(asked) and all(answers) and member.heard_at is not None:
                self._act(self.swim.refused(node_id, trio.current_time()))

        link, errors = await self.pool.dial_any([*there, *elsewhere], heard)
        now = trio.current_time()
        if link is None and not any(isinstance(error, DuplicateLinkError) for error in errors):
            for error in errors:
                log.debug("dialing %s: %s", node_id.short, error)
            self.view.dialed(node_id, now)
        elif link is None or link.node_id != node_id:
            # Either another link stays, and has come or comes up by itself, or somebody else lives at that address now.
            self.view.dialed(node_id, now)


def _tuning(config: Config) -> Tuning:
    gossip = config.gossip
    return Tuning(
        probe_interval_s=gossip.probe_interval_s,
        alpha=gossip.suspicion_alpha,
        gossip_interval_s=gossip.gossip_interval_s,
        reconnect_interval_s=gossip.redial_interval_max_s,
    )


def _words(messages: Iterable[Message]) -> Iterable[Claim]:
    for message in messages:
        if isinstance(message, Claim):
            if message.kind in (Kind.ALIVE, Kind.LEFT):
                yield message
        elif isinstance(message, Delta):
            yield from (own for own, _ in message.pairs)


def _is_refused(error: MeshError) -> bool:
    """Whether the node's host itself said that nobody listens there."""
    if not isinstance(error, UnreachableError):
        return False
    seen: list[BaseException] = [error]
    while seen:
        cause = seen.pop()
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return True
        if isinstance(cause, BaseExceptionGroup):
            seen.extend(cause.exceptions)
        elif cause.__cause__ is not None:
            seen.append(cause.__cause__)
    return False
