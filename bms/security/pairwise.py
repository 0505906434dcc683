"""Sealed datagrams: one key for each direction between two nodes, AES-256-GCM, and the window against replays.

    offset  size  field
         0     1  version, 1
         1    32  sender's NodeId
        33     8  first 8 bytes of the sender's boot id
        41     8  counter, big-endian, 1 to 2^48
        49     n  sealed payload
      49+n    16  tag
    nonce = 4 zero bytes || counter        associated data = the first 49 bytes        n is at most 1,135

    shared = X25519(box key of one, box key of the other)                     all zeros: refused (RFC 7748 section 6.1)
    salt   = sender's boot id || receiver's boot id
    info   = "bms-datagram-v1" || 0x00 || mesh id || sender || receiver || sender's box key || receiver's box key
    key    = HKDF-SHA256(shared, salt, info), 32 bytes                        RFC 5869

No member can speak as another, since no two pairs share a key; who leaves takes nothing along that must be replaced.
Both boot ids being random, two boots never share a key, even where a disk was copied. Within one boot of the sender
the counter towards one receiver only grows, whatever keys come and go, so that no nonce is used twice under a key.

The window (RFC 4303 section 3.4.3, RFC 6479) is moved by what has authenticated alone. Counters may have gaps.

Deliberately absent: forward secrecy within a boot (a stolen box key opens what was recorded of boots that it was in
force in; datagrams carry membership, not data), and padding. Which keys are used when, see `pairs`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import RemoteProtocolError
from .keys import BoxKey

__all__ = [
    "COUNTER_MAX",
    "DATAGRAM_DOMAIN",
    "OVERHEAD_BYTES",
    "PACKET_BYTES_MAX",
    "PAYLOAD_BYTES_MAX",
    "WINDOW",
    "Drop",
    "End",
    "Header",
    "ReplayWindow",
    "derive_key",
    "open_untrusted",
    "read_header_untrusted",
    "seal",
]

DATAGRAM_DOMAIN = b"bms-datagram-v1\x00"
COUNTER_MAX = 1 << 48
WINDOW = 1024
PACKET_BYTES_MAX = 1200
"""Fits unfragmented through every path that carries IPv6 (RFC 8200 section 5: 1,280 bytes), with its headers."""

_VERSION = 1
_BOOT_BYTES = 8
_HEADER_BYTES = 1 + 32 + _BOOT_BYTES + 8
_TAG_BYTES = 16
OVERHEAD_BYTES = _HEADER_BYTES + _TAG_BYTES
PAYLOAD_BYTES_MAX = PACKET_BYTES_MAX - OVERHEAD_BYTES

_MASK = (1 << WINDOW) - 1


class Drop(enum.StrEnum):
    """Why a packet was dropped; nothing is ever answered. The cost of each is bounded, the cheap checks come first."""

    SHORT = "short"  # less than an empty payload takes
    OVERSIZED = "oversized"
    VERSION = "version"
    COUNTER = "counter"  # 0, or more than there are
    OWN = "own"  # it names this node as its sender
    UNKNOWN_SENDER = "unknown_sender"
    WRONG_BOOT = "wrong_boot"  # not of the boot that is in force
    REPLAYED = "replayed"  # or older than the window
    WEAK_KEY = "weak_key"  # the sender's box keys give no secret
    UNAUTHENTIC = "unauthentic"


class End(NamedTuple):
    """One end of a direction: NodeId (32 bytes), boot id (16 bytes) and the public half of the box key used there."""

    node_id: bytes
    boot_id: bytes
    box_key: bytes


class Header(NamedTuple):
    """What a packet says in the open: its sender, the beginning of the sender's boot id, the counter."""

    sender: bytes
    boot: bytes
    counter: int


def derive_key(mesh_id: bytes, own: BoxKey, sender: End, receiver: End) -> bytes:
    """The key of the direction from `sender` to `receiver`, of which `own` is the box key of either.

    Raises RemoteProtocolError if the other's box key is one of those that give no secret.
    """
    other = receiver.box_key if own.public == sender.box_key else sender.box_key
    try:
        shared = own.private_key().exchange(x25519.X25519PublicKey.from_public_bytes(other))
    except ValueError as error:  # all zeros
        raise RemoteProtocolError("this box key gives no secret") from error
    info = b"".join(
        (DATAGRAM_DOMAIN, mesh_id, sender.node_id, receiver.node_id, sender.box_key, receiver.box_key),
    )
    return HKDF(hashes.SHA256(), 32, sender.boot_id + receiver.boot_id, info).derive(shared)


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


def seal(key: bytes, sender: End, counter: int, payload: bytes) -> bytes:
    """The packet; `counter` (from 1 to `COUNTER_MAX`) must never have been used with this key."""
    assert 0 < counter <= COUNTER_MAX
    assert len(payload) <= PAYLOAD_BYTES_MAX
    header = b"\x01" + sender.node_id + sender.boot_id[:_BOOT_BYTES] + counter.to_bytes(8, "big")
    return header + AESGCM(key).encrypt(_nonce(counter), payload, header)


def read_header_untrusted(packet: bytes) -> Header | Drop:
    """What a packet says in the open, or why it is dropped; nothing of it is proven yet."""
    if len(packet) < OVERHEAD_BYTES:
        return Drop.SHORT
    if len(packet) > PACKET_BYTES_MAX:
        return Drop.OVERSIZED
    if packet[0] != _VERSION:
        return Drop.VERSION
    counter = int.from_bytes(packet[41:49], "big")
    if not 0 < counter <= COUNTER_MAX:
        return Drop.COUNTER
    return Header(packet[1:33], packet[33:41], counter)


def open_untrusted(key: bytes, counter: int, packet: bytes) -> bytes | None:
    """The payload, or None if it was not sealed with this key; `counter` is the header's."""
    try:
        return AESGCM(key).decrypt(_nonce(counter), packet[_HEADER_BYTES:], packet[:_HEADER_BYTES])
    except InvalidTag:
        return None


class ReplayWindow:
    """Which counters of one sender's boot have come: the highest, and a bit for each of the `WINDOW` up to it.

    What lies below the window might have come and is not taken any more. Made with `high`, it takes none up to there.
    """

    __slots__ = ("_bits", "high")

    def __init__(self, high: int = 0) -> None:
        self.high = high
        self._bits = _MASK

    def is_new(self, counter: int) -> bool:
        """Whether a packet with this counter may still be taken."""
        behind = self.high - counter
        return behind < 0 or (behind < WINDOW and not self._bits >> behind & 1)

    def take(self, counter: int) -> None:
        """Note that it has come; it must be new, and authenticated."""
        ahead = counter - self.high
        if ahead > 0:
            self._bits = (self._bits << ahead | 1) & _MASK if ahead < WINDOW else 1
            self.high = counter
        else:
            self._bits |= 1 << -ahead
