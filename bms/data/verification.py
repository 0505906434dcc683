"""Believing batches that came from elsewhere: everything is checked before anything is stored.

A batch is believed if its head is well formed, of this mesh and signed by its author; if the author had an admission
with the serial that the head names, and that admission grants what each entry does; and if each entry leads to the
signed root, all together or by its own audit path, with the author, epoch and counter that the head gives it. Through
how many hands it came does not matter.

What this version does not understand (`parse_entry_untrusted`, `parse_head_untrusted`) is *refused*: left out and
counted, without blame. Anything else that does not fit is the sender's fault, since a correct node would not have taken
it either.

Heads whose signature was verified are remembered, so that one signature pays for all entries of a batch that arrive
apart. Runs on the store's writing thread; the admissions are only read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..errors import RemoteProtocolError
from ..security.records import Admission
from ..security.trust import DELETE, WRITE, Trust
from .batch import BatchHead, check_signature_untrusted, parse_head_untrusted, path_root_untrusted, tree_root
from .entry import TOMBSTONE, Entry, entry_id, parse_entry_untrusted

__all__ = ["BLOB_BYTES_MAX", "SPACE", "CheckedBatch", "CheckedEntry", "Verifier"]

SPACE = "space:default"
BLOB_BYTES_MAX = 2**30  # no setting lets a correct node write more
_REMEMBERED_MAX = 4096


@attrs.frozen
class CheckedEntry:
    """An entry that was proved; `path` is its audit path in one piece, None where the whole batch is here."""

    leaf: int
    entry: Entry
    path: bytes | None


@attrs.frozen
class CheckedBatch:
    """A batch that was proved. `leaves` are the ids of all its entries if it came whole; `refused` entries were left
    out.
    """

    head: BatchHead
    leaves: bytes | None
    entries: list[CheckedEntry]
    refused: int


class Verifier:
    """Checks batches against the mesh, the known admissions by (author, serial), and their grants."""

    def __init__(self, mesh_id: bytes, trust: Trust, admissions: Mapping[tuple[bytes, int], Admission]) -> None:
        self._mesh_id = mesh_id
        self._trust = trust
        self._admissions = admissions
        self._verified: dict[tuple[bytes, bytes], BatchHead] = {}

    def check_untrusted(self, batch: Sequence[Any]) -> CheckedBatch | None:
        """Check one batch as it travels; None if its head is of a newer version. Raises `RemoteProtocolError`."""
        signed, members = batch
        head = self._head_untrusted(signed)
        if head is None:
            return None
        admission = self._admissions.get((head.author, head.serial))
        if admission is None:
            raise RemoteProtocolError("a batch names an admission that was not shown", code=2)
        whole = len(members) == head.size
        checked, ids, refused, last = [], [], 0, -1
        for index, body, path in members:
            if not last < index < head.size:
                raise RemoteProtocolError("the entries of a batch are not in order")
            last = index
            entry = parse_entry_untrusted(body)
            id_ = entry_id(body) if entry is None else entry.id
            if whole:
                if path:
                    raise RemoteProtocolError("a whole batch has audit paths")
                ids.append(id_)
            elif path_root_untrusted(id_, index, head.size, path) != head.root:
                raise RemoteProtocolError("an entry is not of its batch")
            if entry is None or entry.space_id != self._mesh_id or entry.size > BLOB_BYTES_MAX:
                refused += 1
                continue
            if entry.author != head.author or entry.epoch != head.epoch or entry.counter != head.first + index:
                raise RemoteProtocolError("an entry has another dot than its batch gives it")
            if not self.allows(admission, entry):
                raise RemoteProtocolError("an entry was written without a grant", code=2)
            checked.append(CheckedEntry(index, entry, None if whole else b"".join(path)))
        if whole and tree_root(ids) != head.root:
            raise RemoteProtocolError("the entries are not those of their batch")
        return CheckedBatch(head, b"".join(ids) if whole else None, checked, refused)

    def allows(self, admission: Admission, entry: Entry) -> bool:
        """Whether an admission grants writing this entry."""
        return self._trust.allows(admission, SPACE, DELETE if entry.flags & TOMBSTONE else WRITE)

    def _head_untrusted(self, signed: Sequence[bytes]) -> BatchHead | None:
        key = (signed[0], signed[1])
        head = self._verified.get(key)
        if head is None:
            head = parse_head_untrusted(signed, self._mesh_id)
            if head is None:
                return None
            check_signature_untrusted(head)
            if len(self._verified) >= _REMEMBERED_MAX:
                del self._verified[next(iter(self._verified))]
            self._verified[key] = head
        return head
