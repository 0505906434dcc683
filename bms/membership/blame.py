"""Who misbehaves, in the log: the first time at once, then at most once in `INTERVAL_S`, with how often meanwhile.

What a member does wrong is counted for all together (`membership.…` counters) and said here by name, so that one can
evict it. A flood makes one line a minute for each kind of misdeed of each member, not one for each packet. Plain.
"""

from __future__ import annotations

from ..values import NodeId

__all__ = ["INTERVAL_S", "Blame"]

INTERVAL_S = 60.0
_KEPT_MAX = 4096


class Blame:
    """What was said of whom, and when."""

    def __init__(self) -> None:
        self._said: dict[tuple[NodeId, str], tuple[float, int]] = {}

    def note(self, node_id: NodeId, what: str, now: float) -> int:
        """Note one `what` of a member: 0 if it was said lately, otherwise how many there were since it was said."""
        said = self._said.get((node_id, what))
        if said is not None and now - said[0] < INTERVAL_S:
            self._said[node_id, what] = said[0], said[1] + 1
            return 0
        if said is None and len(self._said) >= _KEPT_MAX:
            del self._said[next(iter(self._said))]
        self._said[node_id, what] = now, 0
        return 1 if said is None else said[1] + 1

    def forget(self, node_id: NodeId) -> None:
        """Drop what was said of a member."""
        for key in [key for key in self._said if key[0] == node_id]:
            del self._said[key]
