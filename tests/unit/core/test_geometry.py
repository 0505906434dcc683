"""The Bellande step: the rule, its edges, numbers near the ends of what a float can hold, and many pairs at once."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import bms
from bms.geometry import PATH_NUMBERS_MAX, PATH_STEPS_MAX, bellande_path, bellande_step

MOST = sys.float_info.max
LEAST = 5e-324


def test_a_step_goes_the_limit_along_the_line() -> None:
    assert bellande_step([0, 0, 0], [100, 100, 100]) == pytest.approx([75 / math.sqrt(3)] * 3)
    assert bellande_step((0, 0), (3, 4), limit=2.5) == (1.5, 2.0)


def test_what_is_within_reach_is_reached_digit_for_digit() -> None:
    assert bellande_step((0.1, 0.2), (0.3, 0.7), limit=1) == (0.3, 0.7)
    assert bellande_step((0.1,), (0.3,), limit=0.3 - 0.1) == (0.3,)
    assert bellande_step((5, 5), (5, 5), limit=0) == (5, 5)


def test_a_limit_of_zero_stays_where_it_is() -> None:
    assert bellande_step((1, 2), (3, 4), limit=0) == (1, 2)


def test_a_list_gives_a_list_and_a_tuple_a_tuple() -> None:
    assert bellande_step((0, 0), [1, 1]) == [1.0, 1.0]
    assert bellande_step([0, 0], (1, 1)) == (1.0, 1.0)
    assert all(isinstance(x, float) for x in bellande_step([0, 0], [1, 1]))
    assert bellande_path([0], [100]) == [[75.0], [100.0]]


def test_the_package_offers_both() -> None:
    assert bms.bellande_step is bellande_step
    assert bms.bellande_path is bellande_path


@pytest.mark.parametrize(
    ("node0", "node1", "limit"),
    [
        ((0,), (1, 2), 1),
        ((), (), 1),
        ((0, math.nan), (1, 2), 1),
        ((0, 1), (math.inf, 2), 1),
        ((0,), (10**400,), 1),
        ((0,), (1,), -1),
        ((0,), (1,), math.nan),
        ((0,), (1,), math.inf),
    ],
)
def test_what_cannot_be_stepped_is_a_value_error(
    node0: tuple[float, ...], node1: tuple[float, ...], limit: float
) -> None:
    for function in (bellande_step, bellande_path):
        with pytest.raises(ValueError):
            function(node0, node1, limit)
        if len(node0) and abs(node1[0]) < 10**300:
            with pytest.raises(ValueError):
                function(np.array([node0]), np.array([node1]), limit)


def test_what_is_no_number_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        bellande_step("12", "34")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        bellande_step((0,), (1j,))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        bellande_step(np.array([[1j]]), np.array([[0]]))


@pytest.mark.parametrize(
    ("node0", "node1", "limit"),
    [
        ((-MOST,) * 10, (MOST,) * 10, MOST),
        ((-MOST, 1.0), (MOST, 2.0), MOST / 3),
        ((0.0, 0.0), (MOST, MOST), 1e300),
        ((0.0, 0.0), (1e-310, 2e-310), 1e-311),
        ((0.0, 0.0), (3 * LEAST, 4 * LEAST), 5 * LEAST / 2),
        ((0.0,), (1e308,), LEAST),
        ((0.0, 0.0), (1e300, 1e-10), 1e299),
        ((1e-300, 1e300), (-1e-300, -1e300), 1e295),
    ],
)
def test_the_largest_and_the_least_numbers_are_stepped_exactly(
    node0: tuple[float, ...], node1: tuple[float, ...], limit: float
) -> None:
    gaps = [Fraction(y) - Fraction(x) for x, y in zip(node0, node1, strict=True)]
    scale = max(map(abs, gaps))
    distance = scale * Fraction(math.sqrt(sum((gap / scale) ** 2 for gap in gaps)))
    exact = [Fraction(x) + gap * Fraction(limit) / distance for x, gap in zip(node0, gaps, strict=True)]
    many = bellande_step(np.array([node0, node0]), np.array([node1, node1]), limit)
    for found in (bellande_step(node0, node1, limit), many[0].tolist(), many[1].tolist()):
        for x, y in zip(found, exact, strict=True):
            assert abs(Fraction(x) - y) <= abs(y) / 10**15 + Fraction(LEAST)


def test_a_path_has_the_quotient_rounded_up_and_ends_at_the_end() -> None:
    path = bellande_path((0.1, 0.1), (200.7, 0.3), 75)
    assert len(path) == math.ceil(math.dist((0.1, 0.1), (200.7, 0.3)) / 75) == 3
    assert path[-1] == (200.7, 0.3)
    assert path[0] == bellande_step((0.1, 0.1), (200.7, 0.3), 75)
    assert bellande_path((0,), (225,), 75) == [(75.0,), (150.0,), (225.0,)]


def test_a_path_to_where_one_is_has_no_steps() -> None:
    assert bellande_path((1, 2), (1, 2)) == []
    assert bellande_path((1, 2), (1, 2), 0) == []
    with pytest.raises(ValueError):
        bellande_path((1, 2), (1, 3), 0)


def test_the_rounding_of_a_long_path_does_not_add_up() -> None:
    path = bellande_path((0.0, 0.0), (30_000.0, 40_000.0), 0.1)
    assert len(path) == 500_000
    assert path[249_999] == pytest.approx((15_000, 20_000), rel=1e-14)


def test_a_path_that_would_fill_the_memory_is_refused() -> None:
    assert len(bellande_path((0,), (PATH_STEPS_MAX,), 1)) == PATH_STEPS_MAX
    with pytest.raises(ValueError, match="1,000,000 positions"):
        bellande_path((0,), (PATH_STEPS_MAX + 1,), 1)
    with pytest.raises(ValueError, match="10,000,000 numbers"):
        bellande_path((0,) * 1000, (1,) * 1000, math.sqrt(1000) / (PATH_NUMBERS_MAX / 1000 + 1))
    with pytest.raises(ValueError, match="positions"):
        bellande_path((0,), (1,), LEAST)
    with pytest.raises(ValueError, match="positions"):
        bellande_path(np.zeros((3, 1)), np.full((3, 1), 400_000), 1)


def test_many_pairs_are_an_array_of_the_same_shape() -> None:
    found = bellande_step(np.array([[0, 0], [1, 1], [0, 0]], dtype=np.uint8), np.array([[30, 40], [1, 2], [0, 0]]), 25)
    assert found.tolist() == [[15.0, 20.0], [1.0, 2.0], [0.0, 0.0]]
    assert found.dtype == np.float64
    assert bellande_step(np.zeros(3), [3, 0, 4], 1).tolist() == pytest.approx([0.6, 0, 0.8])
    assert bellande_step(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0, 3)


def test_paths_of_many_pairs_are_an_array_each() -> None:
    first, second = bellande_path(np.array([[0.0], [5.0]]), np.array([[100.0], [5.0]]), 30)
    assert first.tolist() == [[30.0], [60.0], [90.0], [100.0]]
    assert second.shape == (0, 1)
    path = bellande_path(np.array([0.0, 0.0]), np.array([30.0, 40.0]), 25)
    assert np.asarray(path).tolist() == [[15.0, 20.0], [30.0, 40.0]]


def test_arrays_of_unequal_shapes_are_not_stretched() -> None:
    for other in (np.zeros((2, 2)), np.zeros((1, 3)), np.zeros(2), np.zeros((1, 1, 2))):
        with pytest.raises(ValueError):
            bellande_step(np.zeros((1, 2)), other)


def test_the_callers_arrays_are_not_touched() -> None:
    start, end = np.zeros((1, 2)), np.array([[3.0, 4.0]])
    found = bellande_step(start, end)
    found += 1
    assert (start.tolist(), end.tolist()) == ([[0, 0]], [[3, 4]])


def test_a_single_pair_does_not_load_numpy() -> None:
    program = "import sys, bms; bms.bellande_path((0, 0), (300, 400)); assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
