"""The Bellande step: from one position towards another, at most so far, in any number of dimensions.

With d the Euclidean distance from node0 to node1:

    bellande_step   node1                               where d <= limit
                    node0 + (node1 - node0) * limit/d   otherwise
    bellande_path   where each of ceil(d/limit) steps ends, the last being node1; empty where d is 0

Invariants: a step never leaves the box between the two positions, so it cannot overshoot; a position that is reached
is node1 itself, digit for digit; what is finite stays finite, since distances are those of hypot, which neither
overflows nor underflows, and numbers whose distance is beyond a float are worked with divided by a power of two.
Positions on a path are computed from its ends and not from each other, so that rounding does not add up.

One pair is a matter of sequences of numbers: the result is a list where node1 is a list and otherwise a tuple. Many
pairs are numpy arrays; numpy costs 100 ms and 20 MB to import, so it is imported only once an array is given.

Absent: metrics other than the Euclidean one, and obstacles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PATH_NUMBERS_MAX", "PATH_STEPS_MAX", "bellande_path", "bellande_step"]

PATH_STEPS_MAX = 1_000_000
PATH_NUMBERS_MAX = 10_000_000

_NORMAL_MIN = 2.0**-1022  # below it a float loses digits


@overload
def bellande_step(
    node0: NDArray[Any], node1: NDArray[Any] | Sequence[Any], limit: float = ...
) -> NDArray[np.float64]: ...
@overload
def bellande_step(node0: Sequence[Any], node1: NDArray[Any], limit: float = ...) -> NDArray[np.float64]: ...
@overload
def bellande_step(node0: Sequence[float], node1: Sequence[float], limit: float = ...) -> Sequence[float]: ...
def bellande_step(
    node0: Sequence[float] | NDArray[Any], node1: Sequence[float] | NDArray[Any], limit: float = 75.0
) -> Sequence[float] | NDArray[np.float64]:
    """Where one step of at most `limit` from `node0` towards `node1` ends: `node1` if it is within reach.

    Positions have one number a dimension; the result is a list if `node1` is one, otherwise a tuple. numpy arrays of
    shape (pairs, dimensions), or (dimensions,), give an array of the same shape.

    Raises ValueError for unequal or zero dimensions, numbers that are not finite, and a negative limit; TypeError for
    what is no number.
    """
    if _is_array(node0) or _is_array(node1):
        return _step_arrays(*_arrays(node0, node1), _limit(limit))
    start, end = _position("node0", node0), _position("node1", node1)
    _same_dimensions(len(start), len(end))
    found = _step(start, end, _limit(limit))
    return list(found) if isinstance(node1, list) else found


@overload
def bellande_path(node0: Sequence[float], node1: Sequence[float], limit: float = ...) -> list[Sequence[float]]: ...
@overload
def bellande_path(
    node0: NDArray[Any], node1: NDArray[Any], limit: float = ...
) -> NDArray[np.float64] | list[NDArray[np.float64]]: ...
def bellande_path(
    node0: Sequence[float] | NDArray[Any], node1: Sequence[float] | NDArray[Any], limit: float = 75.0
) -> list[Sequence[float]] | NDArray[np.float64] | list[NDArray[np.float64]]:
    """Where each step of at most `limit` from `node0` to `node1` ends: ceil(d/limit) positions, the last `node1`.

    None where the two are equal. Positions are as those of `bellande_step`. An array of shape (dimensions,) gives an
    array (steps, dimensions), one of shape (pairs, dimensions) a list of such arrays.

    Raises as `bellande_step` does, and ValueError for a limit of 0 where the two differ, and for paths of more than
    1,000,000 positions or 10,000,000 numbers in all, so that a small limit cannot fill the memory.
    """
    if _is_array(node0) or _is_array(node1):
        return _path_arrays(*_arrays(node0, node1), _limit(limit))
    start, end = _position("node0", node0), _position("node1", node1)
    _same_dimensions(len(start), len(end))
    limit = _limit(limit)
    scale, distance = _distance(start, end)
    count = _count(distance, limit / scale)
    _bound(count, len(start))
    kind: Callable[[Iterable[float]], Sequence[float]] = list if isinstance(node1, list) else tuple
    found = [kind(_at(start, end, scale, distance, limit, times)) for times in range(1, count)]
    return [*found, kind(end)] if count else found


# ---------------------------------------------------------------------- what is given


def _is_array(value: object) -> TypeGuard[NDArray[Any]]:
    return hasattr(value, "__array__")


def _position(name: str, given: Iterable[Any]) -> tuple[float, ...]:
    numbers = tuple(given)
    try:
        found = tuple(map(float, numbers)) if all(map(math.isfinite, numbers)) else None  # isfinite takes no text
    except OverflowError:
        found = None  # an int beyond every float
    if found is None:
        raise ValueError(f"{name} has a number that is not finite")
    return found


def _same_dimensions(dimensions0: int, dimensions1: int) -> None:
    if dimensions0 != dimensions1:
        raise ValueError(f"node0 has {dimensions0} dimensions and node1 {dimensions1}")
    if dimensions0 == 0:
        raise ValueError("a position has at least one dimension")


def _limit(given: float) -> float:
    (limit,) = _position("limit", (given,))
    if limit < 0:
        raise ValueError(f"a step's limit is not negative: {limit}")
    return limit


def _count(distance: float, limit: float) -> int:
    """How many steps; `PATH_STEPS_MAX` + 1 for more."""
    if distance == 0:
        return 0
    if limit == 0:
        raise ValueError("with a limit of 0 no path gets anywhere")
    return math.ceil(min(distance / limit, PATH_STEPS_MAX + 1))


def _bound(steps: int, dimensions: int) -> None:
    if steps > PATH_STEPS_MAX or steps * dimensions > PATH_NUMBERS_MAX:
        raise ValueError(
            f"a path has at most {PATH_STEPS_MAX:,} positions and {PATH_NUMBERS_MAX:,} numbers: take a larger limit"
        )


# ---------------------------------------------------------------------- one pair


def _scale(dimensions: int) -> float:
    """A power of two by which positions are divided whose distance is beyond a float: more than their diagonal."""
    return math.ldexp(4.0, dimensions.bit_length())


def _distance(start: tuple[float, ...], end: tuple[float, ...]) -> tuple[float, float]:
    """(scale, distance divided by it); the scale is 1 unless the distance is beyond a float."""
    distance = math.dist(start, end)
    if distance < math.inf:
        return 1.0, distance
    scale = _scale(len(start))
    return scale, math.dist([x / scale for x in start], [y / scale for y in end])


def _step(start: tuple[float, ...], end: tuple[float, ...], limit: float) -> tuple[float, ...]:
    scale, distance = _distance(start, end)
    return end if distance <= limit / scale else _at(start, end, scale, distance, limit, 1)


def _at(
    start: tuple[float, ...], end: tuple[float, ...], scale: float, distance: float, limit: float, times: int
) -> tuple[float, ...]:
    """Where that many steps end; `distance` is what `_distance` says, and more than that many limits divided by it."""
    fraction = limit / scale * times / distance
    found = []
    for x, y in zip(start, end, strict=True):
        gap = y / scale - x / scale
        # A fraction with few digits left is worked around: then the direction has all of them, or moves nothing.
        move = gap * fraction * scale if fraction >= _NORMAL_MIN else gap / distance * limit * times
        found.append(min(max(x + move, min(x, y)), max(x, y)))
    return tuple(found)


# ---------------------------------------------------------------------- many pairs


def _arrays(node0: Any, node1: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np  # at the earliest here: see the module's text

    found: list[NDArray[np.float64]] = []
    for name, given in (("node0", node0), ("node1", node1)):
        raw = np.asarray(given)
        if raw.dtype.kind not in "biuf":
            raise TypeError(f"{name} is an array of {raw.dtype}, not of numbers")
        if raw.ndim not in (1, 2):
            raise ValueError(f"{name} has the shape {raw.shape}, which is not (pairs, dimensions) or (dimensions,)")
        with np.errstate(over="ignore"):
            array = raw.astype(np.float64)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has a number that is not finite")
        found.append(array)
    start, end = found
    _same_dimensions(start.shape[-1], end.shape[-1])
    if start.shape != end.shape:
        raise ValueError(f"node0 has the shape {start.shape} and node1 {end.shape}")
    return start, end


def _distances(start: NDArray[np.float64], end: NDArray[np.float64]) -> tuple[Any, Any]:
    """As `_distance`, of each pair; both arrays end with an axis of length 1."""
    import numpy as np

    def hypot(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
        # Along the first axis of a copy: three times as fast as along the last.
        return np.asarray(np.hypot.reduce(np.ascontiguousarray(gaps.T), axis=0))[..., None]

    with np.errstate(over="ignore", under="ignore"):
        distance = hypot(end - start)
        far = np.isinf(distance)
        if not far.any():
            return 1.0, distance
        scale = np.where(far, _scale(start.shape[-1]), 1.0)
        return scale, np.where(far, hypot(end / scale - start / scale), distance)


def _step_arrays(start: NDArray[np.float64], end: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    import numpy as np

    scale, distance = _distances(start, end)
    with np.errstate(all="ignore"):
        return np.where(distance <= limit / scale, end, _at_arrays(start, end, scale, distance, limit, 1))


def _at_arrays(start: Any, end: Any, scale: Any, distance: Any, limit: float, times: Any) -> NDArray[np.float64]:
    """As `_at`, of each pair."""
    import numpy as np

    fraction = limit / scale * times / distance
    gap = end / scale - start / scale
    move = gap * fraction * scale
    if (fraction < _NORMAL_MIN).any():
        move = np.where(fraction < _NORMAL_MIN, gap / distance * limit * times, move)
    found: NDArray[np.float64] = np.clip(start + move, np.minimum(start, end), np.maximum(start, end))
    return found


def _path_arrays(
    start: NDArray[np.float64], end: NDArray[np.float64], limit: float
) -> NDArray[np.float64] | list[NDArray[np.float64]]:
    import numpy as np

    if start.ndim == 1:
        (path,) = _path_arrays(start[None], end[None], limit)
        return np.asarray(path)
    scale, distance = _distances(start, end)
    scales, distances = np.broadcast_to(scale, distance.shape).ravel().tolist(), distance.ravel().tolist()
    counts = [_count(d, limit / s) for s, d in zip(scales, distances, strict=True)]
    _bound(sum(counts), start.shape[1])
    paths = []
    with np.errstate(all="ignore"):
        for x, y, s, d, count in zip(start, end, scales, distances, counts, strict=True):
            path = _at_arrays(x, y, s, d, limit, np.arange(1, count + 1, dtype=np.float64)[:, None])
            path[count - 1 :] = y
            paths.append(path)
    return paths
