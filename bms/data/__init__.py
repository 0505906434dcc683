"""Replicated data: signed entries that merge the same way everywhere, and how nodes bring each other up to date.

`entry`, `batch`, `blob` and `fingerprint` are formats; `tables`, `verification` and `ledger` are the writing side; `entries` is what
programs call; `pull` and `replication` move entries between nodes.
"""

from .entries import Entries, Totals
from .ledger import Advance, Applied, Commit, CommittedBatch, StoreState

__all__ = ["Advance", "Applied", "Commit", "CommittedBatch", "Entries", "StoreState", "Totals"]
