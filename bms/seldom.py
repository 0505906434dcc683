"""One line in the log for many like it: the first at once, then at most one in an interval, with how many there were.

What others cause, they can cause without end: connections that are refused, frames that are malformed, members that
lie. Counters count all of it (`counters`), and the log says of each kind what it is, so that nobody can fill a disk
with it. A kind is any tuple; who can be forgotten stands first in it. At most `_KEPT_MAX` kinds are remembered.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

__all__ = ["Seldom"]

_KEPT_MAX = 4096

Kind = tuple[Hashable, ...]


class Seldom:
    """Which of many like things are said, one in `interval_s` of each kind."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._said: dict[Kind, tuple[float, int]] = {}

    def note(self, kind: Kind, now: float) -> int:
        """Note one more: 0 if one like it was said lately, otherwise how many there were since it was said."""
        said = self._said.get(kind)
        if said is not None and now - said[0] < self.interval_s:
            self._said[kind] = said[0], said[1] + 1
            return 0
        if said is None and len(self._said) >= _KEPT_MAX:
            del self._said[next(iter(self._said))]
        self._said[kind] = now, 0
        return 1 if said is None else said[1] + 1

    def log(
        self,
        log: logging.Logger,
        level: int,
        kind: Kind,
        now: float,
        text: str,
        *arguments: object,
        error: BaseException | None = None,
    ) -> None:
        """Note one more, and log it if it is to be said; of an `error` with its traceback."""
        count = self.note(kind, now)
        if count:
            times = f" ({count:,} times since this was said)" if count > 1 else ""
            log.log(level, "%s%s", text % arguments, times, exc_info=error)

    def forget(self, first: Hashable) -> None:
        """Drop what was noted of the kinds that begin with `first`."""
        for kind in [kind for kind in self._said if kind[0] == first]:
            del self._said[kind]
