"""A heap of events for plain machines: no Trio, no tasks, no bytes; time is a number. For nodes by the thousand.

`Heap` calls what is due in order of time, and at one time in the order it was asked for. `testing.swarm` drives failure
detectors over it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

__all__ = ["Heap"]


class Heap:
    """Events in order. `now` is the time of the one that is being run; `events` counts those that were."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._asked = 0

    def at(self, time: float, call: Callable[..., object], *args: Any) -> None:
        """Call `call(*args)` at a time, not before now."""
        self._asked += 1
        heapq.heappush(self._heap, (max(time, self.now), self._asked, call, args))

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Call `call(*args)` some seconds from now."""
        self.at(self.now + seconds, call, *args)

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Run what is due up to a time, or until `stop()` after an event; whether it stopped."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, call, args = heapq.heappop(self._heap)
            self.events += 1
            call(*args)
            if stop():
                return True
        self.now = until
        return False
