"""Frozen values that all rooms share. No behaviour beyond parsing and printing themselves."""

from __future__ import annotations

import enum
from typing import Any, NewType

import attrs

from .errors import LocalProtocolError

__all__ = [
    "Address",
    "KeyInfo",
    "Message",
    "Missed",
    "Node",
    "NodeEvent",
    "NodeId",
    "NodeState",
    "Value",
    "Version",
    "key_bytes",
]

KEY_BYTES_MAX = 1024

Version = NewType("Version", str)
"""An opaque string; two are equal exactly when they name the same write."""


class NodeId(str):
    """A node's public Ed25519 key as 64 lower-case hexadecimal digits (RFC 8032). A `str` in every respect."""

    __slots__ = ()

    def __new__(cls, text: str) -> NodeId:
        if len(text) != 64 or text.strip("0123456789abcdef"):
            raise LocalProtocolError(f"a node id is 64 lower-case hexadecimal digits, not {text[:80]!r}")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, raw: bytes) -> NodeId:
        """The NodeId of a 32-byte public key."""
        return cls(raw.hex())

    @property
    def raw(self) -> bytes:
        """The 32-byte public key."""
        return bytes.fromhex(self)

    @property
    def short(self) -> str:
        """The first 8 digits, for people and logs."""
        return self[:8]


@attrs.frozen(order=True)
class Address:
    """Where to dial: a host (name, IPv4 or IPv6 address without brackets) and a port, 0 to 65,535."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read "host:port" or "[v6]:port"; raises `LocalProtocolError` with what is wrong."""
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise LocalProtocolError(f"an IPv6 address needs brackets, as in [{host}]:{port}: {text!r}")
        if not colon or not host:
            raise LocalProtocolError(f"an address is host:port or [v6]:port, not {text!r}")
        if not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise LocalProtocolError(f"a port is a number from 0 to 65535: {text!r}")
        return cls(host, int(port))

    @classmethod
    def of(cls, place: str | Address) -> Address:
        """An address as it is, or as `parse` reads it."""
        return place if isinstance(place, Address) else cls.parse(place)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class NodeState(enum.StrEnum):
    """What this node believes of another. Compares equal to its text."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    FAILED = "failed"
    LEFT = "left"


@attrs.frozen
class Node:
    """A member as this node sees it. `rtt_s` is seconds (None: not measured), `last_seen` Unix seconds."""

    node_id: NodeId
    name: str
    address: Address | None
    state: NodeState
    tags: dict[str, str] = attrs.field(factory=dict, hash=False)
    incarnation: int = 0
    rtt_s: float | None = None
    last_seen: float | None = None


@attrs.frozen
class NodeEvent:
    """What happened to a node: "joined", "suspected", "failed", "left", "updated" or "forgotten". `by` is the member
    whose word it is that it does not answer, if it was another's than this node's.
    """

    what: str
    node_id: NodeId
    name: str = ""
    by: NodeId | None = None


@attrs.frozen
class Message:
    """One message as a subscriber gets it. `id` is unique in the mesh; `sent_at` the sender's clock, Unix seconds."""

    id: str
    sender: NodeId
    topic: str
    body: bytes
    sent_at: float


@attrs.frozen
class Missed:
    """Stands where `count` broadcasts were dropped because this subscriber was too slow."""

    count: int


@attrs.frozen
class Value:
    """A value read. `siblings` holds concurrent values in spaces that keep them (empty elsewhere)."""

    value: bytes
    version: Version
    author: NodeId
    siblings: tuple[Any, ...] = ()


@attrs.frozen
class KeyInfo:
    """One key as `scan` lists it, without its value. `size` is the value's, in bytes."""

    key: str | bytes
    version: Version
    size: int
    author: NodeId


def key_bytes(key: str | bytes) -> bytes:
    """The stored form of a key (text is UTF-8); raises `LocalProtocolError` unless it has 1 to 1,024 bytes."""
    raw = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else bytes(key)
    if not 0 < len(raw) <= KEY_BYTES_MAX:
        raise LocalProtocolError(f"a key has 1 to {KEY_BYTES_MAX} bytes; this one has {len(raw)}")
    return raw
