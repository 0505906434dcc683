"""What is signed about a node's being there: admissions, node records, accusations (formats.md).

    admission   [1, mesh_id, node_id, issuer_id, serial, role, grants, extra]                       signed by an issuer
    record      [1, mesh_id, node_id, boot, boot_id, incarnation, state, details_hash, time, extra]   signed by the node
    details     [1, name, addresses, tags, box_keys, versions, extra]                         bound by the record's hash
    accusation  [1, mesh_id, accuser, node_id, boot, incarnation, kind, extra]                     signed by the accuser

A **card** is `[admission, record, details]` of one node. Parsing here checks the shape, the bounds, the encoding and
the signature against the id that the object itself names; whether that issuer and that mesh count is `trust`'s to say.

Of two admissions of one node the one with the higher serial is in force. Of two records the one with the higher
(boot, incarnation) is newer; at equal ones "left" wins, then the higher hash of the body. The bounds on boot and
incarnation stop one maximal value from making a node unable ever to speak again.

What was parsed keeps its bytes: `signed` and `details` give on exactly what was received.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from blake3 import blake3

from ..errors import RemoteProtocolError
from ..values import NodeId
from ..wire.codec import encode
from .bundle import Bundle
from .certificates import REFUSED
from .keys import NodeKey, verify
from .signed import (
    FORMAT,
    array_untrusted,
    body_untrusted,
    built,
    bytes_untrusted,
    label_untrusted,
    split_untrusted,
    text_untrusted,
    uint_untrusted,
)

__all__ = [
    "ACCUSATION_DOMAIN",
    "ADMISSION_DOMAIN",
    "ALIVE",
    "DEAD",
    "LEFT",
    "MEMBER_GRANTS",
    "RECORD_DOMAIN",
    "REMOVED",
    "SUSPECT",
    "TCP",
    "UDP",
    "Accusation",
    "Admission",
    "Bundle",
    "NodeRecord",
    "peek_record_untrusted",
]

ADMISSION_DOMAIN = "bms-admission-v1"
RECORD_DOMAIN = "bms-node-v1"
ACCUSATION_DOMAIN = "bms-accusation-v1"
DETAILS_CONTEXT = "bms details v1"
BODY_BYTES_MAX = 4096
# These go into datagrams beside other things, whatever `extra` holds one day.
RECORD_BYTES_MAX = ACCUSATION_BYTES_MAX = 512
GRANTS_MAX = 64
SCOPE_BYTES_MAX = 300
MEMBER_GRANTS: tuple[tuple[str, int], ...] = (("*", 15),)

ALIVE, LEFT = 0, 1
SUSPECT, DEAD, REMOVED = 1, 2, 3
TCP, UDP = 0, 1
ADDRESSES_MAX = 32
TAGS_MAX = 64
TAGS_BYTES_MAX = 2048
INCARNATION_MAX = 1 << 48
_PORT_MAX = 65_535
_SCOPES = ("space:", "topic:")


@attrs.frozen
class Admission:
    """An issuer's word that a node is a member. `serial` is Unix milliseconds or above, `grants` (scope, rights)."""

    mesh_id: bytes = attrs.field(repr=bytes.hex)
    node_id: NodeId
    issuer_id: bytes = attrs.field(repr=bytes.hex)
    serial: int
    role: str
    grants: tuple[tuple[str, int], ...]
    body: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)

    @property
    def signed(self) -> list[bytes]:
        """The signed object as it was received."""
        return [self.body, self.signature]

    @classmethod
    def sign(
        cls,
        issuer_key: NodeKey,
        *,
        mesh_id: bytes,
        node_id: NodeId,
        serial: int,
        role: str = "member",
        grants: Sequence[tuple[str, int]] = MEMBER_GRANTS,
    ) -> Admission:
        """A new admission by `issuer_key`; raises LocalProtocolError where a reader would refuse it."""
        listed = [[scope, rights] for scope, rights in grants]
        body = encode([FORMAT, mesh_id, node_id.raw, issuer_key.node_id.raw, serial, role, listed, {}])
        with built():
            return cls.parse_untrusted([body, issuer_key.sign(ADMISSION_DOMAIN, body)])

    @classmethod
    def parse_untrusted(cls, signed: object) -> Admission:
        """Read an admission signed by the issuer that it names; raises RemoteProtocolError."""
        body, signature = split_untrusted(signed, "admission", BODY_BYTES_MAX)
        mesh_id, node_id, issuer_id, serial, role, grants = body_untrusted(body, "admission", 6)
        admission = cls(
            bytes_untrusted(mesh_id, "admission mesh id"),
            NodeId.of(bytes_untrusted(node_id, "admission node id")),
            bytes_untrusted(issuer_id, "admission issuer id"),
            uint_untrusted(serial, "admission serial"),
            text_untrusted(role, "admission role"),
            tuple(_grant_untrusted(grant) for grant in array_untrusted(grants, "grants", 0, GRANTS_MAX)),
            body,
            signature,
        )
        if not verify(admission.issuer_id, ADMISSION_DOMAIN, body, signature):
            raise RemoteProtocolError("admission: its signature is not its issuer's", code=REFUSED)
        return admission


@attrs.frozen
class NodeRecord:
    """A node's own word about itself, with its details.

    `state` is `ALIVE` or `LEFT`; `time` is milliseconds by its clock; `addresses` are (kind, host, port) of the kinds
    `TCP` and `UDP`; `box_keys` are X25519, newest first; `versions` the lowest and highest protocol version. `details`
    is the encoding of what is bound by its hash alone, from `name` to `versions`.
    """

    mesh_id: bytes = attrs.field(repr=bytes.hex)
    node_id: NodeId
    boot: int
    boot_id: bytes = attrs.field(repr=bytes.hex)
    incarnation: int
    state: int
    details_hash: bytes = attrs.field(repr=False)
    time: int
    name: str
    addresses: tuple[tuple[int, str, int], ...]
    tags: Mapping[str, str] = attrs.field(hash=False)
    box_keys: tuple[bytes, ...] = attrs.field(repr=False)
    versions: tuple[int, int]
    body: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)
    details: bytes = attrs.field(repr=False)

    @property
    def signed(self) -> list[bytes]:
        """The signed object as it was received."""
        return [self.body, self.signature]

    @property
    def order(self) -> tuple[int, int, int, bytes]:
        """Of two records of one node the one with the greater order is in force."""
        return self.boot, self.incarnation, self.state, blake3(self.body).digest()

    @classmethod
    def sign(
        cls,
        node_key: NodeKey,
        *,
        mesh_id: bytes,
        boot: int,
        boot_id: bytes,
        incarnation: int,
        name: str,
        addresses: Sequence[tuple[int, str, int]],
        box_keys: Sequence[bytes],
        versions: tuple[int, int],
        time: int,
        state: int = ALIVE,
        tags: Mapping[str, str] | None = None,
    ) -> NodeRecord:
        """A new record of the node whose key this is; raises LocalProtocolError where a reader would refuse it."""
        placed = [list(address) for address in addresses]
        details = encode([FORMAT, name, placed, dict(tags or {}), list(box_keys), list(versions), {}])
        identity = [FORMAT, mesh_id, node_key.node_id.raw, boot, boot_id]
        body = encode([*identity, incarnation, state, _details_hash(details), time, {}])
        with built():
            return cls.parse_untrusted([body, node_key.sign(RECORD_DOMAIN, body)], details)

    @classmethod
    def parse_untrusted(cls, signed: object, details: object) -> NodeRecord:
        """Read a record signed by the node that it names, and its details; raises RemoteProtocolError.

        How far ahead the boot may be depends on the node's admission: `Trust.check_card_untrusted` looks at that.
        """
        body, signature = split_untrusted(signed, "node record", RECORD_BYTES_MAX)
        mesh_id, node_id, boot, boot_id, incarnation, state, details_hash, time = body_untrusted(body, "node record", 8)
        if type(details) is not bytes or len(details) > BODY_BYTES_MAX:
            raise RemoteProtocolError(f"node record: details are not at most {BODY_BYTES_MAX} bytes")
        if _details_hash(details) != details_hash:
            raise RemoteProtocolError("node record: these are not its details", code=REFUSED)
        name, addresses, tags, box_keys, versions = body_untrusted(details, "details", 5)
        record = cls(
            bytes_untrusted(mesh_id, "record mesh id"),
            NodeId.of(bytes_untrusted(node_id, "record node id")),
            uint_untrusted(boot, "record boot"),
            bytes_untrusted(boot_id, "record boot id", 16),
            uint_untrusted(incarnation, "record incarnation", INCARNATION_MAX),
            uint_untrusted(state, "record state", LEFT),
            details_hash,
            uint_untrusted(time, "record time"),
            label_untrusted(name, "record name"),
            _addresses_untrusted(addresses),
            _tags_untrusted(tags),
            tuple(bytes_untrusted(key, "box key") for key in array_untrusted(box_keys, "box keys", 1, 2)),
            _versions_untrusted(versions),
            body,
            signature,
            details,
        )
        if not verify(record.node_id.raw, RECORD_DOMAIN, body, signature):
            raise RemoteProtocolError("node record: its signature is not its node's", code=REFUSED)
        return record


def peek_record_untrusted(signed: object) -> tuple[NodeId, tuple[int, int], bytes]:
    """Of whom a record is, its (boot, incarnation) and the hash of its details, without a look at its signature."""
    body, _ = split_untrusted(signed, "node record", RECORD_BYTES_MAX)
    _, node_id, boot, _, incarnation, _, details_hash, _ = body_untrusted(body, "node record", 8)
    return (
        NodeId.of(bytes_untrusted(node_id, "record node id")),
        (uint_untrusted(boot, "record boot"), uint_untrusted(incarnation, "record incarnation", INCARNATION_MAX)),
        bytes_untrusted(details_hash, "record details hash"),
    )


@attrs.frozen
class Accusation:
    """A member's word that another one, at that point of its life, does not answer, or is to be forgotten.

    `kind` is `SUSPECT`, `DEAD` or `REMOVED`.
    """

    mesh_id: bytes = attrs.field(repr=bytes.hex)
    accuser: NodeId
    node_id: NodeId
    boot: int
    incarnation: int
    kind: int
    body: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)

    @property
    def signed(self) -> list[bytes]:
        """The signed object as it was received."""
        return [self.body, self.signature]

    @classmethod
    def sign(
        cls, node_key: NodeKey, *, mesh_id: bytes, node_id: NodeId, boot: int, incarnation: int, kind: int
    ) -> Accusation:
        """A new accusation by the node whose key this is; raises LocalProtocolError where a reader would refuse it."""
        accuser = node_key.node_id
        body = encode([FORMAT, mesh_id, accuser.raw, node_id.raw, boot, incarnation, kind, {}])
        with built():
            return cls.parse_untrusted([body, node_key.sign(ACCUSATION_DOMAIN, body)])

    @classmethod
    def parse_untrusted(cls, signed: object) -> Accusation:
        """Read an accusation signed by the accuser that it names; raises RemoteProtocolError."""
        body, signature = split_untrusted(signed, "accusation", ACCUSATION_BYTES_MAX)
        mesh_id, accuser, node_id, boot, incarnation, kind = body_untrusted(body, "accusation", 6)
        if kind not in (SUSPECT, DEAD, REMOVED) or type(kind) is not int:
            raise RemoteProtocolError("accusation: its kind is none of suspect, dead and removed")
        accusation = cls(
            bytes_untrusted(mesh_id, "accusation mesh id"),
            NodeId.of(bytes_untrusted(accuser, "accuser")),
            NodeId.of(bytes_untrusted(node_id, "accused node id")),
            uint_untrusted(boot, "accusation boot"),
            uint_untrusted(incarnation, "accusation incarnation", INCARNATION_MAX),
            kind,
            body,
            signature,
        )
        if accusation.accuser == accusation.node_id:
            raise RemoteProtocolError("accusation: nobody accuses itself")
        if not verify(accusation.accuser.raw, ACCUSATION_DOMAIN, body, signature):
            raise RemoteProtocolError("accusation: its signature is not its accuser's", code=REFUSED)
        return accusation


def _details_hash(details: bytes) -> bytes:
    return blake3(details, derive_key_context=DETAILS_CONTEXT).digest()


def _grant_untrusted(grant: object) -> tuple[str, int]:
    """A grant. Bits of rights that are not known are kept, and allow nothing."""
    scope, rights = array_untrusted(grant, "grant", 2, 2)
    stem = label_untrusted(scope, "grant scope", SCOPE_BYTES_MAX).removesuffix("*")
    whole = any(stem.startswith(kind) for kind in _SCOPES)
    cut = stem != scope and any(kind.startswith(stem) for kind in _SCOPES)
    if "*" in stem or not (whole or cut):
        raise RemoteProtocolError("grant scope is neither a space nor a topic nor a prefix of those")
    return scope, uint_untrusted(rights, "grant rights")


def _addresses_untrusted(addresses: object) -> tuple[tuple[int, str, int], ...]:
    """The addresses of the kinds there are; those of others are looked at and left out."""
    known = []
    for item in array_untrusted(addresses, "addresses", 0, ADDRESSES_MAX):
        kind, host, port = array_untrusted(item, "address", 3, 3)
        # What has spaces or control characters is no host, and would reach logs and resolvers.
        if not label_untrusted(host, "address host") or any(sign.isspace() for sign in host):
            raise RemoteProtocolError("address host is not a name or an address")
        uint_untrusted(port, "address port", _PORT_MAX)
        if uint_untrusted(kind, "address kind") in (TCP, UDP):
            known.append((kind, host, port))
    return tuple(known)


def _tags_untrusted(tags: Any) -> dict[str, str]:
    if not isinstance(tags, dict) or len(tags) > TAGS_MAX:
        raise RemoteProtocolError(f"tags are not a map of at most {TAGS_MAX}")
    total = 0
    for key, value in tags.items():
        label_untrusted(key, "tag", TAGS_BYTES_MAX)
        label_untrusted(value, "tag value", TAGS_BYTES_MAX)
        total += len(key.encode()) + len(value.encode())
    if total > TAGS_BYTES_MAX:
        raise RemoteProtocolError(f"tags have {total} bytes, more than {TAGS_BYTES_MAX}")
    return tags


def _versions_untrusted(versions: object) -> tuple[int, int]:
    lowest, highest = array_untrusted(versions, "versions", 2, 2)
    if uint_untrusted(lowest, "lowest version") > uint_untrusted(highest, "highest version"):
        raise RemoteProtocolError("versions: the lowest is above the highest")
    return lowest, highest
