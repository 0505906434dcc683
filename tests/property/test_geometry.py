"""The Bellande step against its formula: a million random pairs, and whatever numbers Hypothesis thinks of."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from bms.geometry import PATH_STEPS_MAX, bellande_path, bellande_step

numbers = st.floats(allow_nan=False, allow_infinity=False)
limits = st.floats(min_value=0, allow_nan=False, allow_infinity=False)


def pairs_of(number: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[tuple[float, ...], tuple[float, ...]]]:
    def of(dimensions: int) -> st.SearchStrategy[tuple[tuple[float, ...], tuple[float, ...]]]:
        position = st.lists(number, min_size=dimensions, max_size=dimensions).map(tuple)
        return st.tuples(position, position)

    return st.integers(1, 10).flatmap(of)


def test_a_million_random_pairs_follow_the_formula() -> None:
    chance = np.random.default_rng(4)
    done = 0
    for dimensions in range(2, 11):
        start, end = chance.uniform(-10_000, 10_000, (2, 111_112, dimensions))
        for part, limit in zip(np.array_split(np.arange(len(start)), 5), (1, 25, 50, 75, 20_000), strict=True):
            node0, node1 = start[part], end[part]
            distance = np.sqrt(((node1 - node0) ** 2).sum(axis=1, keepdims=True))
            formula = np.where(distance < limit, node1, node0 + (node1 - node0) * limit / distance)
            found = bellande_step(node0, node1, limit)
            np.testing.assert_allclose(found, formula, rtol=1e-12, atol=1e-9)
            assert (found[distance[:, 0] < limit * (1 - 1e-12)] == node1[distance[:, 0] < limit * (1 - 1e-12)]).all()
            one = bellande_step(tuple(node0[0]), tuple(node1[0]), limit)
            np.testing.assert_allclose(one, found[0], rtol=1e-14)
            done += len(part)
    assert done >= 1_000_000


@given(pairs_of(numbers), limits)
def test_a_step_stays_between_the_two_and_one_pair_is_as_many(
    pair: tuple[tuple[float, ...], tuple[float, ...]], limit: float
) -> None:
    start, end = pair
    found = bellande_step(start, end, limit)
    many = bellande_step(np.array([start]), np.array([end]), limit)[0]
    for x, y, z, array in zip(start, end, found, many, strict=True):
        assert min(x, y) <= z <= max(x, y)
        widest = max(abs(x), abs(y))
        assert math.isclose(z, array, rel_tol=1e-12, abs_tol=max(widest * 1e-12, 1e-320))


@given(pairs_of(st.floats(-1e6, 1e6)), st.floats(1e-3, 1e6))
def test_a_path_is_what_walking_step_by_step_does(
    pair: tuple[tuple[float, ...], tuple[float, ...]], limit: float
) -> None:
    start, end = pair
    distance = math.dist(start, end)
    assume(distance / limit < 300)
    path = bellande_path(start, end, limit)
    assert len(path) == math.ceil(distance / limit) <= PATH_STEPS_MAX
    assert not path or path[-1] == end
    place = start
    for number, position in enumerate(path, 1):
        assert math.dist(place, position) <= limit * (1 + 1e-9) + 1e-9
        assert math.dist(start, position) <= min(number * limit, distance) * (1 + 1e-9) + 1e-9
        place = tuple(position)
