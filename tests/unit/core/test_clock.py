"""The hybrid logical clock: monotonic, close to wall time, not to be dragged into the future."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bms.clock import DRIFT_MS_MAX, STEP_S, HybridClock, SteadyTime, median_offset_ms, stamp_ms

NOW_S = 1_800_000_000.0


def test_stamps_rise_while_the_wall_clock_stands_still_or_goes_back() -> None:
    clock = HybridClock()
    stamps = [clock.now(NOW_S - step) for step in range(100)]
    assert stamps == sorted(set(stamps))
    assert stamp_ms(stamps[-1]) == int(NOW_S * 1000)


def test_a_full_counter_runs_over_into_the_milliseconds() -> None:
    clock = HybridClock(last=(int(NOW_S * 1000) << 16) + 0xFFFF)
    assert stamp_ms(clock.now(NOW_S)) == int(NOW_S * 1000) + 1


def test_a_stamp_after_an_observed_one_is_greater() -> None:
    clock = HybridClock()
    theirs = (int(NOW_S * 1000) + DRIFT_MS_MAX) << 16
    assert clock.observe(theirs, NOW_S)
    assert clock.now(NOW_S) > theirs


def test_a_stamp_too_far_ahead_is_not_adopted() -> None:
    clock = HybridClock()
    before = clock.now(NOW_S)
    assert not clock.observe((int(NOW_S * 1000) + DRIFT_MS_MAX + 1) << 16, NOW_S)
    assert clock.now(NOW_S) == before + 1


def test_the_offset_moves_a_wrong_wall_clock_to_the_meshs_time() -> None:
    clock = HybridClock()
    clock.offset_ms = median_offset_ms([3_600_000, 3_600_010, 3_599_990])
    assert abs(clock.physical_ms(NOW_S - 3600) - int(NOW_S * 1000)) <= 20


def test_one_liar_among_many_does_not_move_the_median() -> None:
    assert abs(median_offset_ms([10**15, 5, -3])) <= 5
    assert median_offset_ms([]) == 0


@given(st.lists(st.one_of(st.floats(0, 4e9), st.integers(0, (1 << 64) - 1)), max_size=50))
def test_whatever_is_observed_stamps_never_repeat_or_go_back(events: list[float | int]) -> None:
    clock = HybridClock()
    last = 0
    for event in events:
        if isinstance(event, float):
            stamp = clock.now(event)
            assert stamp > last
            last = stamp
        else:
            clock.observe(event, NOW_S)


class Clocks:
    """A wall clock that somebody sets, and one that nobody sets."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW_S, 17.0

    def time(self) -> SteadyTime:
        return SteadyTime(lambda: self.wall, lambda: self.steady)

    def go_on(self, seconds: float, step: float = 0.0) -> None:
        self.wall += seconds + step
        self.steady += seconds


def test_steady_time_follows_the_wall_clock_until_others_hold_it() -> None:
    clocks = Clocks()
    time = clocks.time()
    clocks.go_on(10, step=3600)
    assert time() == NOW_S + 3610
    time.held = True
    clocks.go_on(10, step=3600)
    assert time() == NOW_S + 3620
    clocks.go_on(10, step=-9000)
    assert time() == NOW_S + 3630


def test_steady_time_follows_slewing_while_it_is_held() -> None:
    clocks = Clocks()
    time = clocks.time()
    time.held = True
    for _ in range(100):
        clocks.go_on(1, step=STEP_S / 2)
        assert time() == clocks.wall


def test_steady_time_says_how_far_the_wall_clock_was_set() -> None:
    clocks = Clocks()
    time = clocks.time()
    clocks.go_on(10, step=3600)
    assert time.ahead_s == 0, "nobody else has been heard: there is no other clock"
    time.held = True
    clocks.go_on(10, step=STEP_S / 2)
    assert time.ahead_s == 0
    clocks.go_on(10, step=3600)
    assert (time.ahead_s, time.wall()) == (3600, clocks.wall)
    clocks.go_on(10, step=-7200)
    assert time.ahead_s == -3600
    clocks.go_on(10, step=3600)
    assert time.ahead_s == 0


def test_of_two_clocks_the_later_one_is_taken_by_both() -> None:
    assert median_offset_ms([3_600_000]) == 3_600_000
    assert median_offset_ms([-3_600_000]) == 0
