"""The batch: what an author commits together and signs once (formats.md, "Batch"; the tree is that of RFC 6962 §2.1).

    head body  = [1, mesh_id, author, serial, epoch, number, history, root, size, first, extra]      signed: Ed25519
    leaf(i)    = BLAKE3(0x00 || entry id i)         node = BLAKE3(0x01 || left || right)

An audit path lists the siblings from a leaf up; its length follows from (index, size) and is checked, so that no entry
has two proofs. `history` is the same kind of tree over the hashes of all earlier heads of the epoch; an author keeps
only its `Frontier`, the roots of its full subtrees, which is one hash for each bit of the count.

Pure. Building pairs neighbours level by level and carries an odd one up unchanged, which gives the tree that splitting
at the largest power of two gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
from blake3 import blake3

from ..errors import RemoteProtocolError
from ..security.keys import NodeKey, verify
from ..wire.codec import UINT_MAX, decode_body_untrusted, encode_fields
from .entry import INTEGER_MAX, extra_untrusted

__all__ = [
    "BATCH_DOMAIN",
    "HEAD_BYTES_MAX",
    "SIZE_MAX",
    "BatchHead",
    "Frontier",
    "audit_path",
    "check_signature_untrusted",
    "leaf_hash",
    "parse_head_untrusted",
    "path_root_untrusted",
    "sign_head",
    "tree_levels",
    "tree_root",
]

BATCH_DOMAIN = "bms-batch-v1"
SIZE_MAX = 64
HEAD_BYTES_MAX = 1024

_FORMAT = 1
_FIELDS = 11
_ZERO = bytes(32)


@attrs.frozen
class BatchHead:
    """What the author signed. `signed` is the object as it travels."""

    mesh_id: bytes
    author: bytes
    serial: int
    epoch: int
    number: int
    history: bytes
    root: bytes
    size: int
    first: int
    body: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)

    @property
    def signed(self) -> list[bytes]:
        """The signed object."""
        return [self.body, self.signature]


def leaf_hash(entry_id: bytes) -> bytes:
    """The leaf of an entry."""
    return blake3(b"\x00" + entry_id).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return blake3(b"\x01" + left + right).digest()


def tree_levels(ids: Iterable[bytes]) -> list[list[bytes]]:
    """Every level of the tree over these entry ids, leaves first, the root alone in the last; at least one id."""
    levels = [[leaf_hash(entry_id) for entry_id in ids]]
    while len(level := levels[-1]) > 1:
        above = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        levels.append(above)
    return levels


def tree_root(ids: Iterable[bytes]) -> bytes:
    """The root over these entry ids."""
    return tree_levels(ids)[-1][0]


def audit_path(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """The siblings of a leaf, from it up."""
    path = []
    for level in levels[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index //= 2
    return path


def path_root_untrusted(entry_id: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that an audit path leads to; raises `RemoteProtocolError` if its length is not that of (index, size)."""
    if not 0 <= index < size:
        raise RemoteProtocolError("an entry's index is beyond its batch")
    node, rest = leaf_hash(entry_id), iter(path)
    while size > 1:
        if index ^ 1 < size:
            sibling = next(rest, None)
            if sibling is None:
                raise RemoteProtocolError("an audit path is too short")
            node = _node(sibling, node) if index % 2 else _node(node, sibling)
        index //= 2
        size = (size + 1) // 2
    if next(rest, None) is not None:
        raise RemoteProtocolError("an audit path is too long")
    return node


@attrs.frozen
class Frontier:
    """A growing tree's full subtrees, largest first: enough to add to it and to know its root."""

    count: int = 0
    roots: tuple[bytes, ...] = ()

    def add(self, body: bytes) -> Frontier:
        """The tree with one more leaf, the hash of `body`."""
        node, roots, count = leaf_hash(blake3(body).digest()), list(self.roots), self.count
        while count % 2:
            node = _node(roots.pop(), node)
            count //= 2
        return Frontier(self.count + 1, (*roots, node))

    @property
    def root(self) -> bytes:
        """The root; 32 zero bytes of an empty tree."""
        if not self.roots:
            return _ZERO
        node = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            node = _node(left, node)
        return node


def sign_head(
    key: NodeKey,
    *,
    mesh_id: bytes,
    serial: int,
    epoch: int,
    frontier: Frontier,
    ids: Sequence[bytes],
    first: int,
) -> BatchHead:
    """Sign these entries, whose counters are `first` and up, as the next batch after those in `frontier`."""
    author, number, root = key.node_id.raw, frontier.count + 1, tree_root(ids)
    history, size = frontier.root, len(ids)
    body = encode_fields([_FORMAT, mesh_id, author, serial, epoch, number, history, root, size, first, {}])
    signature = key.sign(BATCH_DOMAIN, body)
    return BatchHead(mesh_id, author, serial, epoch, number, history, root, size, first, body, signature)


def parse_head_untrusted(signed: Sequence[bytes], mesh_id: bytes) -> BatchHead | None:
    """Read a head of this mesh without believing it yet; None if a newer version may understand it.
    `RemoteProtocolError`.
    """
    body, signature = signed
    if len(body) > HEAD_BYTES_MAX or len(signature) != 64:
        raise RemoteProtocolError("a batch head is too long")
    fields = decode_body_untrusted(body)
    if not fields or type(fields[0]) is not int:
        raise RemoteProtocolError("a batch head has no format number")
    if fields[0] != _FORMAT:
        return None
    if len(fields) != _FIELDS:
        raise RemoteProtocolError(f"a batch head has {len(fields)} fields instead of {_FIELDS}")
    _, mesh, author, serial, epoch, number, history, root, size, first, extra = fields
    if any(type(item) is not bytes or len(item) != 32 for item in (mesh, author, history, root)):
        raise RemoteProtocolError("a batch head's hash is not 32 bytes")
    for item, least, most in (
        (serial, 0, INTEGER_MAX),
        (epoch, 0, UINT_MAX),
        (number, 1, INTEGER_MAX),
        (size, 1, SIZE_MAX),
        (first, 1, INTEGER_MAX - SIZE_MAX),
    ):
        if type(item) is not int or not least <= item <= most:
            raise RemoteProtocolError("a batch head's number is out of range")
    if mesh != mesh_id:
        raise RemoteProtocolError("a batch is of another mesh")
    if not extra_untrusted(extra):
        return None
    return BatchHead(mesh, author, serial, epoch, number, history, root, size, first, body, signature)


def check_signature_untrusted(head: BatchHead) -> None:
    """Raises `RemoteProtocolError` unless the author signed this head."""
    if not verify(head.author, BATCH_DOMAIN, head.body, head.signature):
        raise RemoteProtocolError("a batch is not signed by its author")
