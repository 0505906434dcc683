"""How often each member may have this node do something for it: a burst, then once in an interval. Plain.

The generic cell rate algorithm (ITU-T I.371): one number for each key, the time at which all that was granted would
have been due if it had come evenly. A key that was not used for a while costs nothing to forget; `forget` drops one.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["Pacing"]


class Pacing:
    """Grants `burst` at once to each key, and one more in each interval."""

    __slots__ = ("_burst", "_due")

    def __init__(self, burst: int) -> None:
        self._burst = burst
        self._due: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def grants(self, key: Hashable, now: float, interval_s: float) -> bool:
        """Whether this key may have one now, which then counts."""
        due = max(now, self._due.get(key, now))
        if due - now > (self._burst - 1) * interval_s:
            return False
        self._due[key] = due + interval_s
        return True

    def forget(self, key: Hashable) -> None:
        """Drop what was granted to a key."""
        self._due.pop(key, None)
