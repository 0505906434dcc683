"""The peer snapshot: a small file that remembers where other nodes lived, for a node whose every other way in is gone.

Layout, text in UTF-8, one JSON value a line:

    bms-peers 1 CHECKSUM                        BLAKE3 of all that follows, 64 hexadecimal digits
    {"mesh": "MESH_ID"}
    {"node": "NODE_ID", "addresses": ["host:port", …], "seen": UNIX_SECONDS}      those seen last first

At most 1,000 nodes with 8 addresses each and 1 MiB. The file is valid if the checksum fits, the format is 1 and the
mesh is this node's; any other file is ignored with a warning, and never keeps a node from starting. What it says is
only a place to dial: identity is proven on the link.

It is written to a scratch file that is flushed and takes the place of the old one, after which the folder is flushed: a
process killed at any moment leaves the old file or the new one. Mode 0600, since it says who talks to whom.

Absent: cards. A place to dial is enough to learn them from whoever answers, and old ones would be listed as members.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs
import blake3

from .. import failpoints
from ..errors import LocalProtocolError
from ..security.records import TCP
from ..values import Address, NodeId, NodeState
from .view import Member

__all__ = ["FILE_NAME", "Peer", "Snapshot", "pack", "remembered", "unpack"]

log = logging.getLogger("bms.discovery")

FILE_NAME = "peers.snapshot"
PEERS_MAX = 1000
BYTES_MAX = 1024 * 1024
_ADDRESSES_MAX = 8
_CLOCK_SET_S = 1_600_000_000.0  # September 2020: whoever shows an earlier time has a clock that was not set
_MAGIC = "bms-peers"
_FORMAT = "1"


@attrs.frozen
class Peer:
    """A node that was there: its addresses, best first, and when it was last seen, Unix seconds."""

    node_id: NodeId
    addresses: tuple[Address, ...]
    seen: float


def remembered(
    old: Iterable[Peer], members: Mapping[NodeId, Member], *, now: float, wall: float, keep_s: float
) -> list[Peer]:
    """Whom to remember, those seen last first: members that have been heard, and of `old` whom nobody knows now.

    `now` is monotonic, `wall` Unix seconds; who was not seen for `keep_s` is left out, unless a machine without a clock
    has written that down.
    """
    peers = {peer.node_id: peer for peer in old if wall - peer.seen <= keep_s or peer.seen < _CLOCK_SET_S}
    for node_id, member in members.items():
        addresses = [Address(host, port) for kind, host, port in member.record.addresses if kind == TCP and port]
        if member.state is NodeState.ALIVE:
            seen = wall
        elif member.heard_at is not None:
            seen = wall - (now - member.heard_at)
        else:
            continue  # only heard of
        if addresses:
            peers[node_id] = Peer(node_id, tuple(addresses[:_ADDRESSES_MAX]), round(seen, 1))
    return sorted(peers.values(), key=lambda peer: -peer.seen)[:PEERS_MAX]


def pack(mesh_id: bytes, peers: Iterable[Peer]) -> bytes:
    """The file's content. Peers that no longer fit are left out."""
    lines = [json.dumps({"mesh": mesh_id.hex()})]
    size = len(_MAGIC) + 80 + len(lines[0])
    for peer in peers:
        addresses = [str(address) for address in peer.addresses]
        line = json.dumps({"node": str(peer.node_id), "addresses": addresses, "seen": peer.seen})
        size += len(line) + 1
        if size > BYTES_MAX:
            break
        lines.append(line)
    body = "".join(line + "\n" for line in lines).encode()
    return f"{_MAGIC} {_FORMAT} {blake3.blake3(body).hexdigest()}\n".encode() + body


def unpack(content: bytes, mesh_id: bytes) -> list[Peer]:
    """The nodes in a file's content; ValueError says why it is not valid."""
    head, _, body = content.partition(b"\n")
    magic, _, rest = head.decode("ascii", "replace").partition(" ")
    version, _, checksum = rest.partition(" ")
    if magic != _MAGIC:
        raise ValueError("it is no snapshot")
    if version != _FORMAT:
        raise ValueError(f"its format is {version[:20]!r}, which this version does not know")
    if checksum != blake3.blake3(body).hexdigest():
        raise ValueError("its checksum does not fit: it is damaged")
    first, *lines = body.decode().splitlines()
    if json.loads(first) != {"mesh": mesh_id.hex()}:
        raise ValueError("it is of another mesh")
    try:
        return [_peer(json.loads(line)) for line in lines[:PEERS_MAX]]
    except (KeyError, TypeError, AttributeError, LocalProtocolError) as error:
        raise ValueError(f"a line of it is wrong: {error}") from error


def _peer(line: Mapping[str, object]) -> Peer:
    addresses, seen = line["addresses"], line["seen"]
    if not isinstance(addresses, list) or not isinstance(seen, int | float):
        raise TypeError("addresses are a list and seen is a number")
    places = tuple(Address.parse(text) for text in addresses[:_ADDRESSES_MAX])
    return Peer(NodeId(str(line["node"])), places, float(seen))


class Snapshot:
    """The file of one node, in its folder. Blocks; the folder's lock sees to it that only one process uses it."""

    def __init__(self, folder: Path, mesh_id: bytes) -> None:
        self.path = folder / FILE_NAME
        self._mesh_id = mesh_id

    def read(self) -> list[Peer]:
        """The nodes that the file names; none, with a warning, if it cannot be read or is not valid."""
        try:
            with self.path.open("rb") as file:
                content = file.read(BYTES_MAX + 1)
            if len(content) > BYTES_MAX:
                raise ValueError(f"it has more than {BYTES_MAX:,} bytes")
            return unpack(content, self._mesh_id)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            log.warning("the peer snapshot %s is ignored: %s", self.path, error)
            return []

    def write(self, peers: Iterable[Peer]) -> None:
        """Put a new file in the place of the old one, durably. Raises OSError or StoreError; the old one is there then,
        unless only the last flush failed.
        """
        content = pack(self._mesh_id, peers)
        scratch = self.path.with_name(f".{FILE_NAME}.new")
        scratch.unlink(missing_ok=True)  # of a process that was killed
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if failpoints.ARMED:
            failpoints.hit("snapshot.written")
        os.rename(scratch, self.path)
        if failpoints.ARMED:
            failpoints.hit("snapshot.renamed")
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
