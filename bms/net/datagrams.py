"""A node's packets: small sealed datagrams to and from members, over UDP sockets.

Every packet is sealed for one member (`security.pairwise`), also where links are not encrypted (`enable_encryption` is
for links): a packet has no connection that could say who sends it. What is not authentic and new is dropped, counted as
`datagrams.<reason>` (`pairwise.Drop`), and nothing is ever sent in answer to it. Nothing is logged for a packet.

What a bad packet costs: without a member's NodeId one look into a table; with one, the wrong boot or a counter that was
taken, the same; otherwise one opening (four in a rotation of box keys), and a key derivation once for each member.
At most `world.DRAIN_MAX` packets are handled before other tasks get their turn.

An address of a peer is *validated* if its record lists it, or an answer has come from there to the number of
`challenge`, which was sent to that address alone and nobody could guess (RFC 9000 section 8.2): so a member behind a
network address translator is reached. To others no more than three times the bytes that came from there are sent
(section 8.1), and one challenge a second for each member: a member that forges its source address cannot make this node
flood somebody. Where no address is named, packets go to the validated one that the peer was last heard from, otherwise
to its record's UDP addresses in turn.

Kept for each member: `SOURCES_MAX` sources, and what `security.pairs` keeps; of `PEERS_MAX` members at most.

Deliberately absent: acknowledgements and retransmission (the protocol above has its own), fragments, and batching of
system calls.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs
import trio

from ..counters import Counters
from ..errors import LimitError, UnreachableError
from ..security.keys import BoxKey
from ..security.pairs import PEERS_MAX, Pairs
from ..security.pairwise import OVERHEAD_BYTES, PAYLOAD_BYTES_MAX, Drop
from ..security.records import UDP, NodeRecord
from ..values import Address, NodeId
from ..world import DatagramSocket, World

__all__ = ["SOURCES_MAX", "Datagrams"]

log = logging.getLogger("bms.net")

SOURCES_MAX = 8
_AMPLIFICATION = 3
_DRAINS_MAX = 16  # 4,096 packets: more than a receive buffer of 1 MiB holds
_COMPLAINT_S = 60.0
_CHALLENGE_S = 1.0
_CHALLENGE_BYTES = 7  # a sequence number of packets has 63 bits


@attrs.define(eq=False)
class _Source:
    """Where packets of a peer came from, and the socket that they came to."""

    socket: DatagramSocket
    is_confirmed: bool = False
    allowance: int = 0
    """Bytes that may be sent there before it is validated."""
    number: int = 0
    """The challenge; 0 before the first."""


@attrs.define(eq=False)
class _Route:
    """The addresses of a peer. `sources` are in the order of their last packets; `last` is the last validated one."""

    record: NodeRecord
    listed: tuple[Address, ...]
    sources: dict[Address, _Source] = attrs.field(factory=dict)
    last: Address | None = None
    turn: int = 0
    challenged_at: float = float("-inf")

    def is_validated(self, source: Address) -> bool:
        known = self.sources.get(source)
        return source in self.listed or (known is not None and known.is_confirmed)

    def targets(self) -> Iterator[Address]:
        """Where to send, best first; without a last source the record's addresses take turns to be the first."""
        if self.last is not None:
            yield self.last
        elif self.listed:
            self.turn = (self.turn + 1) % len(self.listed)
        yield from self.listed[self.turn :]
        yield from self.listed[: self.turn]


class Datagrams:
    """The packet service of one life of a node.

    `box_keys` are the keys that this node holds, newest first, and `my_record` its record in force. `record_of` gives
    the record in force of a member, and None for whoever is none. `on_packet(sender, payload, source)` is called for
    every packet that is authentic and new, plainly; an exception in it costs that packet alone.
    """

    payload_max: Final = PAYLOAD_BYTES_MAX

    def __init__(
        self,
        *,
        box_keys: Callable[[], Sequence[BoxKey]],
        my_record: Callable[[], NodeRecord],
        record_of: Callable[[NodeId], NodeRecord | None],
        on_packet: Callable[[NodeId, bytes, Address], None],
        counters: Counters,
        world: World,
    ) -> None:
        self._pairs = Pairs(box_keys=box_keys, my_record=my_record, record_of=record_of)
        self._record_of = record_of
        self._on_packet = on_packet
        self._counters = counters
        self._world = world
        self._sockets: list[DatagramSocket] = []
        self._routes: OrderedDict[NodeId, _Route] = OrderedDict()
        self._complained_at = float("-inf")

    async def listen(
        self, address: Address, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bind `address` and take packets until cancelled; `started` gets the bound address. Several may run.

        Raises UnreachableError, with what to do, if the address cannot be bound.
        """
        try:
            bound = await self._world.network.open_datagrams(address)
        except OSError as error:
            raise UnreachableError(
                f"cannot take datagrams at {address}: {(error.strerror or str(error)).lower()}; choose another address "
                "or port, or port 0 for any free one"
            ) from error
        self._sockets.append(bound)
        try:
            log.info("taking datagrams at %s", bound.address)
            task_status.started(bound.address)
            while True:
                self._take_all(bound, await bound.receive())
        finally:
            self._sockets.remove(bound)
            bound.close()

    # ------------------------------------------------------------------ sending

    def send(self, node_id: NodeId, payload: bytes, to: Address | None = None) -> bool:
        """Seal and send at once; `to` None: where the peer is best reached. False: it did not go out, which is counted.

        LimitError if the payload has more than `payload_max` bytes; nothing was sent.
        """
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise LimitError(f"a datagram carries at most {PAYLOAD_BYTES_MAX} bytes, not {len(payload)}")
        route = self._route(node_id)
        if route is None:
            self._counters.add("datagrams.unknown_receiver")
            return False
        size = len(payload) + OVERHEAD_BYTES
        if to is not None and not route.is_validated(to):
            known = route.sources.get(to)
            if known is None or known.allowance < size:
                self._counters.add("datagrams.over_allowance")
                return False
            known.allowance -= size
        packet = self._pairs.seal(node_id, payload)
        if packet is None:
            self._counters.add("datagrams.unsealed")
            return False
        for target in route.targets() if to is None else (to,):
            if any(bound.send_nowait(packet, target) for bound in self._sockets_for(route, target)):
                self._counters.add("datagrams.sent")
                self._counters.add("datagrams.bytes_sent", size)
                return True
        self._counters.add("datagrams.unsent")
        return False

    def _sockets_for(self, route: _Route, target: Address) -> Iterator[DatagramSocket]:
        """First the one that packets come to from there: the peer, or what stands between, knows its address."""
        known = route.sources.get(target)
        if known is not None:
            yield known.socket
        for bound in self._sockets:
            if known is None or bound is not known.socket:
                yield bound

    def room(self, node_id: NodeId, source: Address, request_bytes: int) -> int:
        """How many payload bytes a reply may have to a request with a payload of `request_bytes` from `source`.

        For a validated source that is `payload_max`. `send` holds to the sum for a source whatever is asked here.
        """
        route = self._route(node_id)
        if route is None:
            return 0
        if route.is_validated(source):
            return PAYLOAD_BYTES_MAX
        known = route.sources.get(source)
        allowance = 0 if known is None else min(known.allowance, _AMPLIFICATION * (request_bytes + OVERHEAD_BYTES))
        return max(0, min(PAYLOAD_BYTES_MAX, allowance - OVERHEAD_BYTES))

    def is_validated(self, node_id: NodeId, source: Address) -> bool:
        """Whether the peer is known to receive at `source`: its record lists it, or it has answered from there."""
        route = self._route(node_id)
        return route is not None and route.is_validated(source)

    def challenge(self, node_id: NodeId, source: Address) -> int | None:
        """A number that the peer is to send back, if `source` has to be validated and it is time: send it there alone.

        It stays the same for this source, since an answer may take longer than the pause before the next.
        """
        route, now = self._route(node_id), trio.current_time()
        known = None if route is None else route.sources.get(source)
        if route is None or known is None or route.is_validated(source) or now < route.challenged_at + _CHALLENGE_S:
            return None
        route.challenged_at = now
        if not known.number:
            known.number = int.from_bytes(self._world.token_bytes(_CHALLENGE_BYTES), "big")
        return known.number

    def confirm(self, node_id: NodeId, source: Address, number: int) -> None:
        """The peer has sent back `number` from `source`: validated, if that is the challenge that was sent there."""
        route = self._route(node_id)
        known = None if route is None else route.sources.get(source)
        if route is not None and known is not None and number and known.number == number:
            known.is_confirmed = True
            route.last = source

    def forget(self, node_id: NodeId) -> None:
        """Drop what is kept of a node. What it has sent in this boot still cannot be taken twice."""
        self._routes.pop(node_id, None)
        self._pairs.forget(node_id)

    # ------------------------------------------------------------------ receiving

    def receive_nowait(self) -> None:
        """Take what has come to any socket: before timers fire, so that a process that stood still blames nobody."""
        for bound in list(self._sockets):
            for _ in range(_DRAINS_MAX):
                packets = bound.receive_nowait()
                if not packets:
                    break
                self._take_all(bound, packets)

    def _take_all(self, bound: DatagramSocket, packets: list[tuple[bytes, Address]]) -> None:
        add = self._counters.add
        add("datagrams.received", len(packets))
        for packet, source in packets:
            opened = self._pairs.open_untrusted(packet)
            if isinstance(opened, Drop):
                add(f"datagrams.{opened}")
                continue
            node_id, payload = opened
            add("datagrams.bytes_received", len(packet))
            self._note_source(node_id, bound, source, len(packet))
            try:
                self._on_packet(node_id, payload, source)
            except Exception:
                # A bug of ours costs this packet, not the service.
                add("datagrams.handler_crashes")
                if trio.current_time() - self._complained_at >= _COMPLAINT_S:
                    self._complained_at = trio.current_time()
                    log.exception("handling a datagram of %s failed", node_id.short)

    def _note_source(self, node_id: NodeId, bound: DatagramSocket, source: Address, size: int) -> None:
        route = self._route(node_id)
        if route is None:
            return
        known = route.sources.pop(source, None) or _Source(bound)
        known.socket = bound
        known.allowance += _AMPLIFICATION * size
        route.sources[source] = known
        if len(route.sources) > SOURCES_MAX:
            del route.sources[next(iter(route.sources))]
        if route.is_validated(source):
            route.last = source
        elif route.last is not None and not route.is_validated(route.last):
            route.last = None

    # ------------------------------------------------------------------ addresses

    def _route(self, node_id: NodeId) -> _Route | None:
        """The addresses of a member as its record in force has them; None of whoever is none."""
        record, route = self._record_of(node_id), self._routes.get(node_id)
        if record is None:
            return None
        if route is None:
            route = self._routes[node_id] = _Route(record, _listed(record))
            if len(self._routes) > PEERS_MAX:
                self._routes.popitem(last=False)
            return route
        if route.record is not record:
            if route.record.boot_id != record.boot_id:
                route.sources.clear()
            route.record, route.listed, route.turn = record, _listed(record), 0
            if route.last is not None and not route.is_validated(route.last):
                route.last = None
        self._routes.move_to_end(node_id)
        return route


def _listed(record: NodeRecord) -> tuple[Address, ...]:
    return tuple(Address(host, port) for kind, host, port in record.addresses if kind == UDP)
