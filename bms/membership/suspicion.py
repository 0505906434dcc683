"""How long a suspicion lasts (Lifeguard, section IV-B): the more members confirm it, the shorter.

It starts at `max_s` and falls with the logarithm of the confirmations to `min_s`, reached at `expected` of them.
Distinct accusers count, the first one not among them. With nobody else to confirm it lasts `min_s`.
"""

from __future__ import annotations

import math

from ..values import NodeId
from .claims import Claim

__all__ = ["Suspicion"]


class Suspicion:
    """One suspicion of one member. Times are of the machine's clock; it ends by `latest` in any case.

    `verdict` is the word of another by which the member is dead, if there is one: it counts when the suspicion ends.
    """

    __slots__ = ("_confirmed", "_expected", "_first", "_latest", "_max_s", "_min_s", "_started", "verdict")

    def __init__(
        self, first: NodeId, now: float, *, min_s: float, max_s: float, expected: int, latest: float = math.inf
    ) -> None:
        self.verdict: Claim | None = None
        self._started = now
        self._latest = latest
        self._first = first
        self._min_s = min_s
        self._max_s = max_s if expected > 0 else min_s
        self._expected = expected
        self._confirmed: set[NodeId] = set()

    def confirm(self, by: NodeId) -> bool:
        """Take note of another accuser; whether it counts, and so is worth telling others."""
        if by == self._first or by in self._confirmed or len(self._confirmed) >= self._expected:
            return False
        self._confirmed.add(by)
        return True

    def shorten(self, seconds: float) -> None:
        """Let it last at most so long from its start."""
        self._min_s = min(self._min_s, seconds)
        self._max_s = min(self._max_s, seconds)

    def give_back(self, seconds: float, now: float) -> None:
        """So much time has passed in which nobody could be heard: it does not count."""
        self._started = min(now, self._started + seconds)
        self._latest += seconds

    @property
    def ends(self) -> float:
        """When the member is held for dead if nothing comes."""
        seconds = self._min_s
        if self._expected:
            share = math.log(len(self._confirmed) + 1) / math.log(self._expected + 1)
            seconds = max(self._min_s, self._max_s - (self._max_s - self._min_s) * share)
        return min(self._latest, self._started + seconds)
