"""A heap of events: time without a clock."""

from __future__ import annotations

from bms.testing import Heap


def test_events_run_in_order_of_time_and_then_of_asking() -> None:
    heap = Heap()
    seen: list[str] = []
    for time, name in ((2, "c"), (1, "a"), (1, "b"), (5, "late")):
        heap.at(time, seen.append, name)
    heap.after(0.5, lambda: heap.after(1, seen.append, "between"))
    heap.run(3)
    assert (seen, heap.now, heap.events) == (["a", "b", "between", "c"], 3, 5)
