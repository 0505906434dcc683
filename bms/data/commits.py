"""What the writing side tells the others: where a store stands, what a commit added, what became of others' entries.

Plain frozen values, made on the writing thread and read on Trio's.
"""

from __future__ import annotations

from typing import Any

import attrs

from ..values import NodeId, Version

__all__ = ["Advance", "Applied", "Commit", "CommittedBatch", "Head", "StoreState"]


@attrs.frozen
class Head:
    """What is in force under a key, without the value: its version, author, and bytes; `deleted` if it was, or has
    expired.
    """

    key: bytes
    version: Version
    author: NodeId
    size: int
    deleted: bool


@attrs.frozen
class StoreState:
    """Where a store stands: its epoch, the last position it numbered, and the fingerprint of all it holds."""

    epoch: int
    high: int
    fingerprint: bytes
    totals: tuple[int, int, int] = attrs.field(default=(0, 0, 0), eq=False)  # entries, bytes of values, tombstones


@attrs.frozen
class CommittedBatch:
    """A batch as it travels, with the positions (`after`, `upto`] of its entries and its size in bytes."""

    after: int
    upto: int
    batch: list[Any] | None
    size: int


@attrs.frozen
class Commit:
    """What one commit added in the positions (`after`, `upto`]. Own entries (`local`) come with their signed batches.

    `keys` are the keys whose visible value changed. A promotion of waiting entries has no positions of its own.
    """

    epoch: int
    after: int
    upto: int
    local: bool
    keys: tuple[bytes, ...]
    batches: tuple[CommittedBatch, ...] = ()
    admissions: tuple[list[bytes], ...] = ()


@attrs.frozen
class Advance:
    """A claim to check and keep: what `node` numbered in (`after`, `upto`] of `epoch` is in the same call."""

    node: bytes
    epoch: int
    after: int
    upto: int


@attrs.frozen
class Applied:
    """What became of entries from elsewhere: stored, here already, older than what is here, or not to be taken.

    `wanted` are hashes without which blobs are not complete: their entries were left out; apply them again afterwards.
    """

    new: int = 0
    already: int = 0
    superseded: int = 0
    refused: int = 0
    wanted: tuple[bytes, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether everything is held now, or something newer."""
        return not self.refused and not self.wanted
