"""What is due when, for a plain machine: calls in the order of their times, and at one time as they were asked for.

A timer is never taken back. Whoever it calls looks whether that is still of interest, and whoever asks for many
takes care that they cannot pile up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from .claims import Effect

__all__ = ["Timers"]


class Timers:
    """Calls to come. Each gets the time at which it is made, the list for its effects, and what it was asked with."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, time: float, call: Callable[..., None], *args: Any) -> None:
        """Call `call(now, effects, *args)` at a time."""
        self._asked += 1
        heapq.heappush(self._heap, (time, self._asked, call, args))

    def deadline(self) -> float | None:
        """When the next is due."""
        return self._heap[0][0] if self._heap else None

    def run(self, now: float, effects: list[Effect]) -> None:
        """Make all calls that are due, also those that come up meanwhile."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, call, args = heapq.heappop(heap)
            call(now, effects, *args)
