"""Counters and histograms: what is counted is exact, quantiles are right to within a bucket, labels are bounded."""

from __future__ import annotations

import itertools
import random

import pytest

from bms.counters import BYTES, LABELS_MAX, NUMBERS, OTHER, SECONDS, Counters, Histogram


def test_bounds_rise_and_durations_go_from_ten_microseconds_to_minutes() -> None:
    for bounds in (SECONDS, BYTES, NUMBERS):
        assert list(bounds) == sorted(set(bounds))
    assert SECONDS[0] == 1e-5
    assert SECONDS[-1] == 200
    assert all(high / low <= 2.6 for low, high in itertools.pairwise(SECONDS))


def test_a_bucket_takes_what_is_at_most_its_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == pytest.approx(6.6)
    assert histogram.count == 5
    assert histogram.mean == pytest.approx(1.32)


def test_a_quantile_lies_in_the_bucket_of_the_true_one() -> None:
    chance = random.Random(1)
    values = sorted(chance.lognormvariate(-7, 1.5) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    for share in (0.01, 0.25, 0.5, 0.9, 0.99, 1.0):
        true = values[max(0, int(share * len(values)) - 1)]
        found = histogram.quantile(share)
        assert found is not None
        bucket = next(place for place, bound in enumerate(SECONDS) if true <= bound)
        assert (SECONDS[bucket - 1] if bucket else 0.0) <= found <= SECONDS[min(bucket + 1, len(SECONDS) - 1)]
    assert histogram.quantiles((0.5, 0.9, 0.99)) == [histogram.quantile(share) for share in (0.5, 0.9, 0.99)]


def test_quantiles_of_nothing_are_none_and_what_is_above_all_bounds_counts_as_the_last() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) is None
    assert histogram.mean is None
    histogram.observe(1e9)
    assert histogram.quantile(0.5) == SECONDS[-1]


def test_numbers_of_things_have_whole_quantiles() -> None:
    counters = Counters()
    for number in (1, 1, 1, 3):
        counters.observe("store.group", number)
    assert counters.histogram("store.group").quantiles((0.5, 1.0)) == [1.0, 4.0]


def test_histograms_add_up_and_a_difference_is_what_came_since() -> None:
    one, two = Histogram(), Histogram()
    one.observe(0.1)
    before = one.copy()
    two.observe(0.2)
    one.add(two)
    assert one.count == 2
    assert one.sum == pytest.approx(0.3)
    since = one.since(before)
    assert since.count == 1
    assert since.sum == pytest.approx(0.2)
    assert one.since(None).counts == one.counts
    assert before.count == 1


def test_a_name_says_the_unit_of_its_histogram() -> None:
    counters = Counters()
    assert counters.histogram("a.wait_s").bounds is SECONDS
    assert counters.histogram("a.size_bytes").bounds is BYTES
    assert counters.histogram("a.group").bounds is NUMBERS
    assert counters.histogram("a.group") is counters.histogram("a.group")


def test_totals_of_plain_labelled_and_tallied_counters_stand_in_the_snapshot() -> None:
    counters = Counters()
    counters.add("a.plain", 2)
    counters.count("b.labelled", "x")
    counters.count("b.labelled", "y", amount=4)
    row = counters.tally("c.tallied", 8)
    row[3] += 5
    assert counters.tally("c.tallied", 8) is row
    counters.put("d.level", 7)
    counters.put("d.level", 6)
    assert counters.snapshot() == {"a.plain": 2, "b.labelled": 5, "c.tallied": 5, "d.level": 6}
    assert counters["b.labelled"] == 5
    assert counters["never"] == 0
    assert counters.labelled("b.labelled") == {("x",): 1, ("y",): 4}
    assert counters.tallied("c.tallied") == {3: 5}
    assert counters.is_level("d.level")
    assert not counters.is_level("a.plain")


def test_labels_that_come_from_outside_cannot_grow_without_bound() -> None:
    counters = Counters()
    for number in range(LABELS_MAX * 3):
        counters.count("b.labelled", str(number), "what")
    found = counters.labelled("b.labelled")
    assert len(found) == LABELS_MAX + 1
    assert found[OTHER, OTHER] == LABELS_MAX * 2
    assert counters["b.labelled"] == LABELS_MAX * 3


def test_slow_operations_are_told_from_the_bound_on_that_was_asked_for() -> None:
    heard: list[tuple[str, float, object]] = []
    counters = Counters()
    assert counters.slow_s == float("inf")
    counters.slow("nobody listens", 9.0, {})
    counters.on_slow(0.5, lambda what, seconds, facts: heard.append((what, seconds, facts)))
    assert counters.slow_s == 0.5
    counters.slow("write", 0.7, {"bytes": 3})
    assert heard == [("write", 0.7, {"bytes": 3})]
