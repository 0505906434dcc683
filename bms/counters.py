"""Counters that every room counts with. No exporter here, no clock, no lock.

A counter is a name and an integer; names are `room.what` in lower case. Adding costs one dictionary operation. A
snapshot is a plain dictionary. Counting happens on the Trio thread; what other threads count they hand over with their
results.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["Counters"]


class Counters:
    """Named integers that only grow, except those written with `put` (levels such as queue lengths)."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        """Count `amount` more of `name`."""
        self._values[name] += amount

    def put(self, name: str, value: int) -> None:
        """Set the level `name`."""
        self._values[name] = value

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def snapshot(self) -> dict[str, int]:
        """All values now, by name."""
        return dict(sorted(self._values.items()))
