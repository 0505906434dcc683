"""Network coordinates: where a node is among the others, so that the round trip between any two can be told unmeasured.

Vivaldi with height (Dabek, Cox, Kaashoek, Morris: SIGCOMM 2004), moved by limited Bellande steps. A coordinate is a
vector in 8 dimensions, whose distances stand for the core of the network, and a height for the way into it; all in
seconds. A plain machine: round trips go in, `mine` is what this node tells others.

One sample is a peer, its coordinate and a round trip:

    filter      the median of the last 3 round trips with that peer counts, the lower of 2
    error       each side says how wrong it expects to be; the sample weighs own/(own + peer's), and by CE times that
                this node's error moves towards how wrong it was just now
    move        CC x weight x (what the estimate was wrong by), at most the limit; a part of it, as heights are part of
                the distance, changes the height, never below 10 us
    step        the rest is a Bellande step towards the peer, or towards a point behind this node if it is too near
    gravity     a step of (distance/150)^2 s towards the origin, so that the mesh as a whole does not drift away
    adjustment  half the mean of what the last 20 estimates were wrong by: what no position can express (Lee et al.
                2010)

The limit, 1.5 ms, is what bounds a liar: whatever coordinate a peer claims and however late it answers, one sample
moves vector and height together by at most the limit (and gravity by as much), and the adjustment by at most 3.75 ms,
since none of the 20 counts by more than 75 ms. It costs time: 150 ms are 100 samples. It also finds better places,
since a mesh that starts as one point unfolds slowly enough not to stay bent (docs/concepts/coordinates.md has figures).

Error, window, filter, gravity and the least height are those of hashicorp/serf, after Ledlie et al. (NSDI 2007). CC is
0.2 in place of 0.25: together with the adjustment 0.25 does not settle where many nodes are equally far apart.

Nothing that is not a number, infinite, negative or above 10 s is taken, neither as a round trip nor in a coordinate.
Packed it is 44 bytes, so it travels in any datagram: 8 of vector, height, error, adjustment, each a big-endian float of
32 bits (IEEE 754). Absent: authentication, which is that of what carries it, and finding out who lies.
"""

from __future__ import annotations

import collections
import math
import random
import struct

import attrs

from ..errors import RemoteProtocolError
from ..geometry import bellande_step
from ..values import NodeId

__all__ = ["COORDINATE_BYTES", "DIMENSIONS", "RTT_S_MAX", "STEP_S_MAX", "Coordinate", "Coordinates"]

DIMENSIONS = 8
RTT_S_MAX = 10.0
STEP_S_MAX = 0.0015
RESIDUAL_S_MAX = 0.075

ERROR_MAX = 1.5
HEIGHT_S_MIN = 10e-6
PLACE_S_MAX = 10.0
PEERS_MAX = 4096

_CE = 0.25
_CC = 0.2
_ADJUSTMENT_WINDOW = 20
_FILTER_SAMPLES = 3
_GRAVITY_RHO = 150.0
_NEAR_ZERO_S = 1e-6

_PACKED = struct.Struct(f">{DIMENSIONS + 3}f")
COORDINATE_BYTES = _PACKED.size


@attrs.frozen
class Coordinate:
    """Where a node is, in seconds. `error` is how wrong, as a share, its estimates are expected to be: 0 to 1.5."""

    vector: tuple[float, ...]
    height: float = HEIGHT_S_MIN
    error: float = ERROR_MAX
    adjustment: float = 0.0

    def distance_s(self, other: Coordinate) -> float:
        """The estimated round trip between the two, in seconds; ValueError where their dimensions differ."""
        raw = self.raw_distance_s(other)
        adjusted = raw + self.adjustment + other.adjustment
        return adjusted if adjusted > 0 else raw

    def raw_distance_s(self, other: Coordinate) -> float:
        """The same without adjustments."""
        return math.dist(self.vector, other.vector) + self.height + other.height

    def is_sound(self, dimensions: int = DIMENSIONS) -> bool:
        """Whether all numbers are finite and within their bounds; comparisons with NaN are False."""
        return (
            len(self.vector) == dimensions
            and all(abs(x) <= PLACE_S_MAX for x in self.vector)
            and 0 <= self.height <= PLACE_S_MAX
            and 0 <= self.error <= ERROR_MAX
            and abs(self.adjustment) <= RESIDUAL_S_MAX
        )

    def encode(self) -> bytes:
        """As it travels: `COORDINATE_BYTES` bytes."""
        return _PACKED.pack(*self.vector, self.height, self.error, self.adjustment)

    @classmethod
    def parse_untrusted(cls, raw: bytes) -> Coordinate:
        """Read what a peer has sent; raises RemoteProtocolError unless it is the encoding of a sound coordinate."""
        if len(raw) != COORDINATE_BYTES:
            raise RemoteProtocolError(f"a coordinate has {COORDINATE_BYTES} bytes, not {len(raw)}")
        *vector, height, error, adjustment = _PACKED.unpack(raw)
        found = cls(tuple(vector), height, error, adjustment)
        if not found.is_sound():
            raise RemoteProtocolError("a coordinate with numbers that are out of bounds")
        return found


class Coordinates:
    """This node's coordinate, `mine`, and what is remembered of its peers' round trips.

    `chance` gives the direction in which two nodes at one place part. `mine` may be one from before a restart.
    """

    def __init__(self, chance: random.Random, *, dimensions: int = DIMENSIONS, mine: Coordinate | None = None) -> None:
        self.mine = mine or Coordinate((0.0,) * dimensions)
        self.resets = 0
        self._chance = chance
        self._dimensions = dimensions
        self._origin = (0.0,) * dimensions
        self._wrong_by: collections.deque[float] = collections.deque(maxlen=_ADJUSTMENT_WINDOW)
        self._round_trips: collections.OrderedDict[NodeId, collections.deque[float]] = collections.OrderedDict()

    def update(self, peer_id: NodeId, coordinate: Coordinate, rtt_s: float) -> bool:
        """Take one round trip with a peer, and the coordinate it had. False: one was not sound, and nothing changed."""
        if not (0 <= rtt_s <= RTT_S_MAX and coordinate.is_sound(self._dimensions)):
            return False
        rtt_s = max(self._filtered(peer_id, rtt_s), _NEAR_ZERO_S)
        self._move(coordinate, rtt_s)
        self._adjust(coordinate, rtt_s)
        if not self.mine.is_sound(self._dimensions):  # gravity should not let it get there: begin again
            self.resets += 1
            self.mine = Coordinate(self._origin)
            self._wrong_by.clear()
        return True

    def forget(self, peer_id: NodeId) -> None:
        """Drop what is remembered of a peer."""
        self._round_trips.pop(peer_id, None)

    def _filtered(self, peer_id: NodeId, rtt_s: float) -> float:
        """The median of the peer's last round trips. At most `PEERS_MAX` are remembered, those heard last."""
        if peer_id not in self._round_trips:
            self._round_trips[peer_id] = collections.deque(maxlen=_FILTER_SAMPLES)
            if len(self._round_trips) > PEERS_MAX:
                self._round_trips.popitem(last=False)
        self._round_trips.move_to_end(peer_id)
        samples = self._round_trips[peer_id]
        samples.append(rtt_s)
        return sorted(samples)[(len(samples) - 1) // 2]

    def _move(self, peer: Coordinate, rtt_s: float) -> None:
        mine = self.mine
        wrong_by = rtt_s - mine.distance_s(peer)
        weight = mine.error / max(mine.error + peer.error, _NEAR_ZERO_S)
        error = mine.error + _CE * weight * (abs(wrong_by) / rtt_s - mine.error)
        move = _within(_CC * weight * wrong_by, STEP_S_MAX)

        apart = math.dist(mine.vector, peer.vector)
        heights = mine.height + peer.height
        rise = move * heights / (apart + heights) if apart > _NEAR_ZERO_S else 0.0
        move -= rise
        # Nearer, the peer is where the step leads; farther, a point on the same line behind this node.
        goal = peer.vector if move < 0 else self._behind(peer.vector, apart, 2 * move)
        vector = bellande_step(mine.vector, goal, abs(move))
        gravity = (math.hypot(*vector) / _GRAVITY_RHO) ** 2
        vector = bellande_step(vector, self._origin, min(gravity, STEP_S_MAX))
        self.mine = attrs.evolve(
            mine, vector=tuple(vector), height=max(HEIGHT_S_MIN, mine.height + rise), error=min(error, ERROR_MAX)
        )

    def _behind(self, peer: tuple[float, ...], apart: float, distance: float) -> tuple[float, ...]:
        """The point that far from here, on the line from the peer through here; in any direction if both are one."""
        gaps = [x - y for x, y in zip(self.mine.vector, peer, strict=True)]
        while apart <= _NEAR_ZERO_S:
            gaps = [self._chance.uniform(-1, 1) for _ in gaps]
            apart = math.hypot(*gaps)
        return tuple(x + gap / apart * distance for x, gap in zip(self.mine.vector, gaps, strict=True))

    def _adjust(self, peer: Coordinate, rtt_s: float) -> None:
        wrong_by = rtt_s - self.mine.raw_distance_s(peer)
        self._wrong_by.append(_within(wrong_by, RESIDUAL_S_MAX))
        self.mine = attrs.evolve(self.mine, adjustment=sum(self._wrong_by) / (2 * _ADJUSTMENT_WINDOW))


def _within(value: float, bound: float) -> float:
    return max(-bound, min(value, bound))
