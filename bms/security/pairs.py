"""What a node keeps for each member that it exchanges datagrams with: keys, the counter, the window. Plain.

Each use looks at the member's record in force. A new boot begins a new window; a new boot or new box keys drop the keys
derived before. Box keys are rotated with an overlap in which a record lists both (formats.md, "Datagrams"):

    sealing     with the sender's oldest listed key, which the readers of its last record know, too, and the
                receiver's newest, which the receiver will keep for longest; so nothing is lost in a rotation
    opening     the keys of all pairs of the sender's listed keys and this node's: at most four, usually one; the one
                that opened the last packet is tried first

Bounded: `PEERS_MAX` members, the least recently used one goes; of `PAST_MAX` that went, or were forgotten, the highest
counter is kept, so that what they have sent in this boot cannot be replayed when they come back. The counter towards a
member that went is below `floor`, at which all new ones begin: no nonce can come again under a key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import attrs

from ..errors import RemoteProtocolError
from ..values import NodeId
from .keys import BoxKey
from .pairwise import COUNTER_MAX, Drop, End, ReplayWindow, derive_key, open_untrusted, read_header_untrusted, seal
from .records import NodeRecord

__all__ = ["PAST_MAX", "PEERS_MAX", "Pairs"]

PEERS_MAX = 16_384
PAST_MAX = 65_536


@attrs.define(eq=False)
class _Peer:
    record: NodeRecord
    window: ReplayWindow
    sent: int
    """The counter of the last packet to it."""
    sealing: bytes | None = None
    opening: list[bytes] | None = None


class Pairs:
    """The sealed packets of one life of a node.

    `my_record` is this node's record in force, `box_keys` the keys that it holds, newest first (the first two count;
    asked again whenever the record is another one). `record_of` gives the record in force of a member, None of others.
    """

    def __init__(
        self,
        *,
        box_keys: Callable[[], Sequence[BoxKey]],
        my_record: Callable[[], NodeRecord],
        record_of: Callable[[NodeId], NodeRecord | None],
        peers_max: int = PEERS_MAX,
        past_max: int = PAST_MAX,
    ) -> None:
        self._box_keys = box_keys
        self._my_record = my_record
        self._record_of = record_of
        self._peers_max = peers_max
        self._past_max = past_max
        self._peers: OrderedDict[NodeId, _Peer] = OrderedDict()
        self._past: OrderedDict[NodeId, tuple[bytes, int]] = OrderedDict()
        self._floor = 0
        self._me: NodeRecord | None = None
        self._keys: list[BoxKey] = []
        self._state: object = None

    def seal(self, node_id: NodeId, payload: bytes) -> bytes | None:
        """A packet for a member; None where it is none, or this node, or there can be no key."""
        me, record = self._current(), self._record_of(node_id)
        if record is None or node_id == me.node_id:
            return None
        peer = self._peer(node_id, record)
        own = self._sealing_key(me)
        sender = End(me.node_id.raw, me.boot_id, own.public)
        if peer.sealing is None:
            receiver = End(node_id.raw, record.boot_id, record.box_keys[0])
            try:
                peer.sealing = derive_key(me.mesh_id, own, sender, receiver)
            except RemoteProtocolError:
                return None
        if peer.sent >= COUNTER_MAX:
            return None  # only another boot has new keys
        peer.sent += 1
        return seal(peer.sealing, sender, peer.sent, payload)

    def open_untrusted(self, packet: bytes) -> tuple[NodeId, bytes] | Drop:
        """The sender and the payload of a packet that is authentic and new, or why it is dropped."""
        header = read_header_untrusted(packet)
        if isinstance(header, Drop):
            return header
        node_id = NodeId.of(header.sender)
        record = self._record_of(node_id)
        if record is None:
            return Drop.UNKNOWN_SENDER
        if header.boot != record.boot_id[:8]:
            return Drop.WRONG_BOOT
        me = self._current()
        if node_id == me.node_id:
            return Drop.OWN
        peer = self._peer(node_id, record)
        if not peer.window.is_new(header.counter):
            return Drop.REPLAYED
        keys = peer.opening
        if keys is None:
            keys = peer.opening = self._opening_keys(me, record)
        for place, key in enumerate(keys):
            payload = open_untrusted(key, header.counter, packet)
            if payload is not None:
                peer.window.take(header.counter)
                if place:
                    keys.insert(0, keys.pop(place))
                return node_id, payload
        return Drop.UNAUTHENTIC if keys else Drop.WEAK_KEY

    def forget(self, node_id: NodeId) -> None:
        """Drop what is kept of a member, but for what keeps its packets from being taken twice."""
        peer = self._peers.pop(node_id, None)
        if peer is not None:
            self._retire(node_id, peer)

    # ------------------------------------------------------------------ this node

    def _current(self) -> NodeRecord:
        """This node's record; where it has changed, keys that depend on it are dropped."""
        me = self._my_record()
        if me is not self._me:
            self._me, self._keys = me, list(self._box_keys())[:2]
            state = me.boot_id, me.box_keys, tuple(key.public for key in self._keys)
            if state != self._state:
                self._state = state
                for peer in self._peers.values():
                    peer.sealing = peer.opening = None
        return me

    def _sealing_key(self, me: NodeRecord) -> BoxKey:
        """This node's oldest key that its record lists."""
        listed = [key for key in self._keys if key.public in me.box_keys]
        assert listed, "a node holds the box keys of its own record"
        return listed[-1]

    # ------------------------------------------------------------------ the others

    def _peer(self, node_id: NodeId, record: NodeRecord) -> _Peer:
        peer = self._peers.get(node_id)
        if peer is None:
            boot_id, high = self._past.pop(node_id, (b"", 0))
            window = ReplayWindow(high if boot_id == record.boot_id else 0)
            peer = self._peers[node_id] = _Peer(record, window, self._floor)
            if len(self._peers) > self._peers_max:
                self._retire(*self._peers.popitem(last=False))
            return peer
        if peer.record is not record:
            if peer.record.boot_id != record.boot_id:
                peer.window = ReplayWindow()
                peer.sealing = peer.opening = None
            elif peer.record.box_keys != record.box_keys:
                peer.sealing = peer.opening = None
            peer.record = record
        self._peers.move_to_end(node_id)
        return peer

    def _retire(self, node_id: NodeId, peer: _Peer) -> None:
        self._floor = max(self._floor, peer.sent)
        if peer.window.high:
            self._past[node_id] = (peer.record.boot_id, peer.window.high)
            if len(self._past) > self._past_max:
                self._past.popitem(last=False)

    def _opening_keys(self, me: NodeRecord, record: NodeRecord) -> list[bytes]:
        """The keys that the member may have sealed with, the likeliest first."""
        found = []
        for theirs in reversed(record.box_keys):
            for own in self._keys:
                sender = End(record.node_id.raw, record.boot_id, theirs)
                receiver = End(me.node_id.raw, me.boot_id, own.public)
                try:
                    found.append(derive_key(me.mesh_id, own, sender, receiver))
                except RemoteProtocolError:
                    continue
        return found
