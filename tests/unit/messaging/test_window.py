"""The window over a sender's counters (RFC 4303 section 3.4.3)."""

from __future__ import annotations

from bms.messaging.window import WINDOW, DeliveryWindow, Verdict


def test_a_new_counter_is_new_until_it_is_taken() -> None:
    window = DeliveryWindow()
    assert window.check(1) is Verdict.NEW
    assert window.check(1) is Verdict.NEW
    window.take(1)
    assert window.check(1) is Verdict.SEEN


def test_gaps_stay_open() -> None:
    window = DeliveryWindow()
    window.take(10)
    assert window.check(9) is Verdict.NEW
    window.take(9)
    assert window.check(9) is Verdict.SEEN
    assert window.check(8) is Verdict.NEW
    assert window.check(10) is Verdict.SEEN


def test_what_is_as_far_behind_as_the_window_is_wide_is_too_old() -> None:
    window = DeliveryWindow()
    window.take(WINDOW + 1)
    assert window.check(1) is Verdict.TOO_OLD
    assert window.check(2) is Verdict.NEW


def test_a_jump_beyond_the_window_forgets_everything_before_it() -> None:
    window = DeliveryWindow()
    for counter in range(1, 100):
        window.take(counter)
    window.take(2**62)
    assert window.check(99) is Verdict.TOO_OLD
    assert window.check(2**62 - WINDOW) is Verdict.TOO_OLD
    assert window.check(2**62 - WINDOW + 1) is Verdict.NEW
    assert window.check(2**62) is Verdict.SEEN


def test_a_jump_to_the_windows_edge_keeps_the_last_one() -> None:
    window = DeliveryWindow()
    window.take(1)
    window.take(WINDOW)
    assert window.check(1) is Verdict.SEEN
    window.take(WINDOW + 1)
    assert window.check(1) is Verdict.TOO_OLD


def test_counter_0_which_no_sender_uses_is_taken_once_like_any_other() -> None:
    window = DeliveryWindow()
    window.take(0)
    assert window.check(0) is Verdict.SEEN
    assert window.check(1) is Verdict.NEW


def test_the_window_takes_no_more_memory_than_its_bits() -> None:
    window = DeliveryWindow()
    for counter in range(1, 50_000, 7):
        window.take(counter)
    assert window._bits.bit_length() <= WINDOW
