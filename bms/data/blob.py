"""Blobs: values above 4,096 bytes, as chunks under a tree of hashes (formats.md, "Blob").

    level 0    chunks of 262,144 bytes, the last may be shorter          hash = KDF("bms chunk v1")
    level n    nodes: up to 1,024 hashes of level n - 1, in order        hash = KDF("bms manifest v1")

until one is left, the root. Chunks and nodes have hashes of different domains, so one never passes for the other. The
size gives the shape of the tree and the length of everything in it: each piece can be checked by itself when it
arrives, and a reference that does not fit its tree is found out.

Pure. Absent: content-defined cutting (`layout` numbers other than 0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from blake3 import blake3

from ..errors import RemoteProtocolError

__all__ = [
    "CHUNK",
    "CHUNK_BYTES",
    "FANOUT",
    "LAYOUT",
    "MANIFEST",
    "BlobReference",
    "Piece",
    "Walk",
    "chunk_hash",
    "kind_of_untrusted",
    "manifest_hash",
    "reference_untrusted",
    "shape",
    "split",
    "walk_untrusted",
]

CHUNK_BYTES = 262_144
FANOUT = 1024
LAYOUT = 0
CHUNK, MANIFEST = 0, 1

_HASH_BYTES = 32
_SIZE_MAX = 2**63 - 1


@attrs.frozen
class BlobReference:
    """What an entry says of its blob: `size` in bytes, and the hash of the tree's root."""

    size: int
    root: bytes

    @property
    def field(self) -> list[Any]:
        """As it stands in an entry."""
        return [LAYOUT, self.size, self.root]


@attrs.frozen
class Piece:
    """One chunk or manifest node."""

    hash: bytes
    kind: int
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Walk:
    """What a tree consists of: `manifests` and `chunks` as far as known, and the `missing`, manifests first."""

    manifests: list[bytes]
    chunks: list[bytes]
    missing: list[bytes]


def chunk_hash(data: bytes) -> bytes:
    """The hash of a chunk."""
    return blake3(data, derive_key_context="bms chunk v1").digest()


def manifest_hash(data: bytes) -> bytes:
    """The hash of a manifest node."""
    return blake3(data, derive_key_context="bms manifest v1").digest()


def kind_of_untrusted(hash_: bytes, data: bytes) -> int:
    """Whether bytes with this hash are a chunk or a manifest node; raises `RemoteProtocolError` if they are neither."""
    if 0 < len(data) <= CHUNK_BYTES:
        if chunk_hash(data) == hash_:
            return CHUNK
        if len(data) <= FANOUT * _HASH_BYTES and len(data) % _HASH_BYTES == 0 and manifest_hash(data) == hash_:
            return MANIFEST
    raise RemoteProtocolError("a chunk is not what its hash says")


def reference_untrusted(field: Any) -> BlobReference:
    """Read a blob reference of layout 0; raises `RemoteProtocolError`."""
    if type(field) is not list or len(field) != 3:
        raise RemoteProtocolError("a blob reference is not [layout, size, root]")
    layout, size, root = field
    if type(layout) is not int or layout != LAYOUT or type(size) is not int or not 0 < size <= _SIZE_MAX:
        raise RemoteProtocolError("a blob reference has a number out of range")
    if type(root) is not bytes or len(root) != _HASH_BYTES:
        raise RemoteProtocolError("a blob's root is not a hash")
    return BlobReference(size, root)


def shape(size: int) -> list[int]:
    """How many pieces each level of a blob's tree has: chunks first, the single root last."""
    levels = [-(-size // CHUNK_BYTES)]
    while levels[-1] > 1:
        levels.append(-(-levels[-1] // FANOUT))
    return levels


def split(value: bytes) -> tuple[BlobReference, list[Piece]]:
    """Cut a value: its reference, and every piece of its tree once."""
    view = memoryview(value)
    pieces: dict[bytes, Piece] = {}
    hashes = []
    for start in range(0, len(value), CHUNK_BYTES):
        data = bytes(view[start : start + CHUNK_BYTES])
        hashes.append(chunk_hash(data))
        pieces[hashes[-1]] = Piece(hashes[-1], CHUNK, data)
    while len(hashes) > 1:
        nodes = [b"".join(hashes[start : start + FANOUT]) for start in range(0, len(hashes), FANOUT)]
        hashes = [manifest_hash(node) for node in nodes]
        pieces.update((hash_, Piece(hash_, MANIFEST, node)) for hash_, node in zip(hashes, nodes, strict=True))
    return BlobReference(len(value), hashes[0]), list(pieces.values())


def walk_untrusted(
    reference: BlobReference, manifest: Callable[[bytes], bytes | None], chunk_size: Callable[[bytes], int | None]
) -> Walk:
    """Follow a tree through what is stored: `manifest` gives a node's bytes, `chunk_size` a chunk's length, None if
    not here.

    Raises `RemoteProtocolError` where a piece does not have the length that the reference's size asks for.
    """
    levels = shape(reference.size)
    walk = Walk([], [], [])
    hashes = [(0, reference.root)]
    for level in range(len(levels) - 1, 0, -1):
        children: list[tuple[int, bytes]] = []
        for place, hash_ in hashes:
            walk.manifests.append(hash_)
            node = manifest(hash_)
            if node is None:
                walk.missing.append(hash_)
                continue
            first = place * FANOUT
            if len(node) != _HASH_BYTES * min(FANOUT, levels[level - 1] - first):
                raise RemoteProtocolError("a blob's manifest does not fit its size")
            children.extend((first + i, node[i * 32 : i * 32 + 32]) for i in range(len(node) // _HASH_BYTES))
        hashes = children
    for place, hash_ in hashes:
        walk.chunks.append(hash_)
        length = chunk_size(hash_)
        if length is None:
            walk.missing.append(hash_)
        elif length != min(CHUNK_BYTES, reference.size - place * CHUNK_BYTES):
            raise RemoteProtocolError("a blob's chunk does not fit its size")
    return walk
