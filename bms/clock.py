"""Hybrid logical clock: stamps that follow wall time, never repeat and never go back.

A stamp is one 64-bit number, milliseconds since 1970 << 16 | counter (Kulkarni et al., "Logical Physical Clocks",
2014). Comparing two stamps of one node orders its writes; a stamp is greater than every stamp its node had seen.

Physical time is the wall clock plus `offset_ms`, the difference to the median of the members' clocks, so that a machine
whose clock is wrong still writes believable stamps. Drift is bounded: a stamp more than `DRIFT_MS_MAX` ahead of
physical time is not adopted by `observe`, so one wrong clock cannot drag the mesh into the future.

A wall clock that is set while the node runs would shift its stamps until the offset is measured anew, and stamps never
go back. `SteadyTime` therefore goes on by the monotonic clock as soon as the node is `held` by what others measured.

Plain: the wall time is passed in. One owner at a time (the store's writing thread); `offset_ms` is a single number set
from elsewhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

__all__ = ["DRIFT_MS_MAX", "STEP_S", "HybridClock", "SteadyTime", "median_offset_ms", "stamp_ms"]

DRIFT_MS_MAX = 500
STEP_S = 0.2
_COUNTER_BITS = 16


def stamp_ms(stamp: int) -> int:
    """The milliseconds of a stamp."""
    return stamp >> _COUNTER_BITS


def median_offset_ms(offsets: Iterable[int]) -> int:
    """What to add to this clock, given the other members' clocks minus it; its own, 0, takes part (milliseconds).

    Of two middle ones the later: what has no clock shows the past, and two nodes must choose the same.
    """
    return int(statistics.median_high(sorted([0, *offsets])))


class SteadyTime:
    """Unix seconds: the wall clock until `held`, then the monotonic clock on from there, so that steps do nothing.

    Differences below `STEP_S` are the slewing of a disciplined clock and are followed always. `ahead_s` tells of steps:
    OpenSSL judges certificates by the wall clock, and knows no other.
    """

    def __init__(self, wall_time: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self.held = False
        self._wall_time = wall_time
        self._monotonic = monotonic
        self._difference = wall_time() - monotonic()

    def __call__(self) -> float:
        wall, steady = self._wall_time(), self._monotonic()
        if not self.held or abs(wall - steady - self._difference) < STEP_S:
            self._difference = wall - steady
        return steady + self._difference

    def wall(self) -> float:
        """What the wall clock shows."""
        return self._wall_time()

    @property
    def ahead_s(self) -> float:
        """How far the wall clock has been set ahead of this time, or the machine has slept; 0 until `held`."""
        now = self()
        ahead_s = self._wall_time() - now
        return ahead_s if self.held and abs(ahead_s) >= STEP_S else 0.0


class HybridClock:
    """Issues and observes stamps. `last` is the high-water mark: persist it, and start the next life with it."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.offset_ms = 0

    def physical_ms(self, wall_s: float) -> int:
        """The mesh's time in milliseconds, for a wall clock that reads `wall_s` Unix seconds."""
        return max(0, int(wall_s * 1000) + self.offset_ms)

    def now(self, wall_s: float) -> int:
        """A new stamp, greater than all issued or observed. A full counter runs over into the milliseconds."""
        self.last = max(self.physical_ms(wall_s) << _COUNTER_BITS, self.last + 1)
        return self.last

    def observe(self, stamp: int, wall_s: float) -> bool:
        """Take note of another node's stamp; False if it lies too far ahead and was not adopted."""
        if stamp_ms(stamp) > self.physical_ms(wall_s) + DRIFT_MS_MAX:
            return False
        self.last = max(self.last, stamp)
        return True
