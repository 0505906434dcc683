"""The delivery window against a set that remembers everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bms.messaging.window import WINDOW, DeliveryWindow, Verdict

near = st.integers(1, 3 * WINDOW)
counters = st.lists(near | st.integers(1, 60) | st.integers(1, 2**63 - 1), max_size=200)


@given(counters)
def test_no_counter_is_taken_twice_and_none_within_the_window_is_refused(arrivals: list[int]) -> None:
    window = DeliveryWindow()
    taken: set[int] = set()
    high = 0
    for counter in arrivals:
        verdict = window.check(counter)
        if counter in taken:
            assert verdict is not Verdict.NEW
        elif high - counter < WINDOW:
            assert verdict is Verdict.NEW
        else:
            assert verdict is Verdict.TOO_OLD
        if verdict is Verdict.NEW:
            window.take(counter)
            taken.add(counter)
            high = max(high, counter)


@given(st.permutations(range(1, 40)), st.integers(0, 2**40))
def test_any_order_of_a_burst_is_taken_completely(order: list[int], start: int) -> None:
    window = DeliveryWindow()
    for counter in order:
        assert window.check(start + counter) is Verdict.NEW
        window.take(start + counter)
    assert all(window.check(start + counter) is Verdict.SEEN for counter in order)
