"""What a transaction of the writing thread has placed so far, until it is signed and told (`ledger`).

A *group* will be one batch: own entries of one epoch, with counters that follow each other. Entries may be replaced
before they are signed; they keep their place in the batch but do not travel with it. A group of which nothing is left
is never signed.

A *run* is a stretch of consecutive positions of own or of others' entries. Plain; nothing here touches the tables.
"""

from __future__ import annotations

from typing import Any

from .batch import audit_path, tree_levels
from .entry import Entry

__all__ = ["Group", "Run"]


class Group:
    """Own entries that will be signed together."""

    def __init__(self, batch: int, first: int, after: int) -> None:
        self.batch = batch
        self.first = first
        self.after = after
        self.entries: list[Entry] = []
        self.gone: set[int] = set()
        self.size = 0

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it is held any more."""
        return len(self.gone) == len(self.entries)

    def members(self) -> list[list[Any]]:
        """The entries that are still held, as they travel: with audit paths unless all are."""
        if not self.gone:
            return [[i, entry.body, []] for i, entry in enumerate(self.entries)]
        levels = tree_levels(entry.id for entry in self.entries)
        held = (i for i in range(len(self.entries)) if i not in self.gone)
        return [[i, self.entries[i].body, audit_path(levels, i)] for i in held]


class Run:
    """Consecutive positions of own or of others' entries."""

    def __init__(self, local: bool, after: int) -> None:
        self.local = local
        self.after = after
        self.upto = after
        self.groups: list[Group] = []
        self.keys: list[bytes] = []
