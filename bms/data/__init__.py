"""Replicated data: signed entries that merge the same way everywhere, and how nodes bring each other up to date.

`entry`, `batch`, `blob` and `fingerprint` are formats; `tables`, `verification` and `ledger` (with `commits`, what it
tells) are the writing side; `entries` is what programs call; `pull` and `replication` move entries between nodes.
"""

from .commits import Advance, Applied, Commit, CommittedBatch, StoreState
from .entries import Entries, Totals

__all__ = ["Advance", "Applied", "Commit", "CommittedBatch", "Entries", "StoreState", "Totals"]
