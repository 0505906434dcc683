"""Members that come and go too often are held for dead until they have been calm (after RFC 2439, route flap damping).

Each accusation by an accuser of whom none was counted in the last `_WINDOW_S` adds one, each return from the dead
`_RETURN`; the sum halves every `_HALF_LIFE_S`. At `flaps_max` the member is held: its next word does not clear
it of an accusation before the sum is below `_FREE` of that, ten minutes later. A new life of it (a restart) does, for
then somebody has done something.

So one sick or lying accuser cannot have others held, nor four together; and every node decides by what it has heard
itself, so nobody can order it.
"""

from __future__ import annotations

import math

from ..values import NodeId

__all__ = ["Damping"]

_HALF_LIFE_S = 300.0
_RETURN = 3.0
_FREE = 0.25
_WINDOW_S = 180.0


class _Flaps:
    __slots__ = ("accusers", "at", "held", "sum")

    def __init__(self, now: float) -> None:
        self.sum = 0.0
        self.at = now
        self.held = False
        self.accusers: dict[NodeId, float] = {}


class Damping:
    """What was said of members lately. Only members that were accused take room here."""

    def __init__(self) -> None:
        self._flaps: dict[NodeId, _Flaps] = {}

    def accused(self, node_id: NodeId, by: NodeId, now: float, flaps_max: float) -> None:
        """Somebody has suspected a member."""
        flaps = self._flaps.setdefault(node_id, _Flaps(now))
        if now - flaps.accusers.get(by, -math.inf) < _WINDOW_S:
            return
        flaps.accusers.pop(by, None)  # so that they stay in the order of their times
        flaps.accusers[by] = now
        while now - flaps.accusers[oldest := next(iter(flaps.accusers))] >= _WINDOW_S:
            del flaps.accusers[oldest]
        self._add(flaps, 1.0, now, flaps_max)

    def returned(self, node_id: NodeId, now: float, flaps_max: float) -> None:
        """A member that was held for dead has spoken again."""
        self._add(self._flaps.setdefault(node_id, _Flaps(now)), _RETURN, now, flaps_max)

    def holds(self, node_id: NodeId, now: float, flaps_max: float) -> bool:
        """Whether a member is to be held for dead for now."""
        flaps = self._flaps.get(node_id)
        if flaps is None:
            return False
        self._add(flaps, 0.0, now, flaps_max)
        return flaps.held

    def free_at(self, node_id: NodeId, flaps_max: float) -> float:
        """When a member that is held will be free, if nothing more is said of it."""
        flaps = self._flaps[node_id]
        return flaps.at + _HALF_LIFE_S * max(0.0, math.log2(flaps.sum / (flaps_max * _FREE))) + 1.0

    def forget(self, node_id: NodeId) -> None:
        """Drop what was said of a member."""
        self._flaps.pop(node_id, None)

    @staticmethod
    def _add(flaps: _Flaps, count: float, now: float, flaps_max: float) -> None:
        flaps.sum = flaps.sum * 0.5 ** ((now - flaps.at) / _HALF_LIFE_S) + count
        flaps.at = now
        flaps.held = flaps.sum >= flaps_max * (_FREE if flaps.held else 1.0)
