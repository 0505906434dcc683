"""What was already delivered: a sliding window over one sender's counters, so that nothing is delivered twice.

The receiver keeps the highest counter taken and a bit for each of the `WINDOW` below it (the anti-replay window of RFC
4303 §3.4.3). A counter below the window might have been taken and is therefore never taken again. Counters may have
gaps.
"""

from __future__ import annotations

import enum

__all__ = ["WINDOW", "DeliveryWindow", "Verdict"]

WINDOW = 4096
_MASK = (1 << WINDOW) - 1


class Verdict(enum.Enum):
    """What a window says of a counter."""

    NEW = "new"
    SEEN = "seen"
    TOO_OLD = "too old"


class DeliveryWindow:
    """The window of one sender's boot. `check` asks, `take` marks."""

    __slots__ = ("_bits", "_high")

    def __init__(self) -> None:
        self._high = 0
        self._bits = 0

    def check(self, counter: int) -> Verdict:
        """Whether `counter` (from 1) was taken."""
        if counter > self._high:
            return Verdict.NEW
        if self._high - counter >= WINDOW:
            return Verdict.TOO_OLD
        return Verdict.SEEN if self._bits >> (self._high - counter) & 1 else Verdict.NEW

    def take(self, counter: int) -> None:
        """Mark `counter` as delivered; it must be new."""
        if counter > self._high:
            shift = counter - self._high
            self._bits = (self._bits << shift | 1) & _MASK if shift < WINDOW else 1
            self._high = counter
        else:
            self._bits |= 1 << (self._high - counter)
