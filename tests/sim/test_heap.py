"""Plain machines on a heap of events: views of many nodes without Trio."""

from __future__ import annotations

from bms.testing import Heap, ViewMesh


def test_events_run_in_order_of_time_and_then_of_asking() -> None:
    heap = Heap()
    seen: list[str] = []
    for time, name in ((2, "c"), (1, "a"), (1, "b"), (5, "late")):
        heap.at(time, seen.append, name)
    heap.after(0.5, lambda: heap.after(1, seen.append, "between"))
    heap.run(3)
    assert (seen, heap.now, heap.events) == (["a", "b", "between", "c"], 3, 5)


def test_sixty_views_join_and_notice_a_crash() -> None:
    mesh = ViewMesh(60, seed=1)
    for number in range(1, 60):
        mesh.join(number)
    assert mesh.run_until_agreed(30) < 5
    mesh.crash(7)
    assert mesh.run_until_agreed(30) < 2
    assert len(mesh.alive(0)) == 59


def test_a_hundred_views_notice_a_crash_and_heal_after_a_split() -> None:
    mesh = ViewMesh(100, seed=2)
    mesh.acquaint()
    assert mesh.agrees()
    mesh.crash(3)
    assert mesh.run_until_agreed(30) < 2
    mesh.cut(range(20))
    mesh.heap.run(mesh.heap.now + 60)
    assert len(mesh.alive(0)) == 19  # one of the twenty is the crashed one
    assert len(mesh.alive(90)) == 80
    mesh.heal()
    assert mesh.run_until_agreed(90) <= 60


def test_the_same_seed_gives_the_same_events() -> None:
    def run() -> tuple[int, int, float]:
        mesh = ViewMesh(30, seed=5)
        for number in range(1, 30):
            mesh.join(number)
        took = mesh.run_until_agreed(30)
        return mesh.heap.events, mesh.cards_sent, took

    assert run() == run()
