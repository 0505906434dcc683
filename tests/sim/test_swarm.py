"""Many failure detectors together, in virtual time: what a mesh of them promises, at sizes that take a second."""

from __future__ import annotations

import pytest

from bms.membership.tuning import Tuning
from bms.testing.swarm import Swarm
from bms.values import NodeId, NodeState


def calm(count: int, seed: int = 0, *, loss: float = 0.0, **tuning: float) -> Swarm:
    swarm = Swarm(count, seed=seed, tuning=Tuning(**tuning), loss=loss)  # type: ignore[arg-type]
    swarm.acquaint()
    swarm.run(5)
    return swarm


def failed(swarm: Swarm) -> set[NodeId]:
    return {whom for node in swarm.nodes for _, what, whom, _ in node.events if what == "failed"}


def test_calm_is_silent_but_for_the_probes() -> None:
    swarm = calm(50)
    swarm.run(60)
    assert swarm.views_right()
    assert not any(node.events for node in swarm.nodes)
    assert swarm.bytes_sent() / 65 / 50 < 640


@pytest.mark.parametrize("count", [2, 3, 10, 60])
def test_a_crash_is_known_to_all_and_a_restart_as_well(count: int) -> None:
    swarm = calm(count)
    swarm.crash(swarm.nodes[1])
    assert swarm.run_until(swarm.views_right, 30) > 4.0
    swarm.restart(swarm.nodes[1], [swarm.nodes[0]])
    assert swarm.run_until(swarm.views_right, 10) < 5.0
    assert failed(swarm) == {swarm.nodes[1].node_id}


@pytest.mark.parametrize("alpha", [3.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_is_confirmed_in_time_for_the_shortest_suspicion(seed: int, alpha: float) -> None:
    swarm = calm(100, seed, alpha=alpha)
    victim, *others = swarm.nodes
    swarm.crash(victim)
    swarm.run_until(lambda: not any(node.swim.is_present(victim.node_id) for node in others), 30)
    first = {
        said: min(
            when for node in others for when, what, whom, _ in node.events if (what, whom) == (said, victim.node_id)
        )
        for said in ("suspected", "failed")
    }
    assert first["failed"] - first["suspected"] == pytest.approx(alpha * 2.0, abs=0.001)


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_is_stopped_for_three_seconds_is_not_held_for_dead(seed: int) -> None:
    swarm = calm(10, seed)
    swarm.freeze(swarm.nodes[3], 3.0)
    swarm.run(30)
    assert failed(swarm) == set()
    assert swarm.views_right()


def test_nodes_that_cannot_be_heard_for_long_accuse_no_healthy_one() -> None:
    swarm = calm(64)
    bad = swarm.nodes[:12]
    for node in bad:
        swarm.block(node, 32.768)
    swarm.run(70)
    healthy = {node.node_id for node in swarm.nodes[12:]}
    wrong = [
        event for node in swarm.nodes[12:] for event in node.events if event[1] == "failed" and event[2] in healthy
    ]
    assert wrong == []
    assert failed(swarm) >= {node.node_id for node in bad}
    assert swarm.views_right()


def test_a_split_heals_by_itself() -> None:
    swarm = calm(40)
    for node in swarm.nodes[20:]:
        node.group = 1
    swarm.run(120)
    assert swarm.sees(swarm.nodes[0], swarm.nodes[39]) is NodeState.FAILED
    for node in swarm.nodes:
        node.group = 0
    assert swarm.run_until(swarm.views_right, 60) <= 60


def test_a_goodbye_reaches_all_within_two_seconds() -> None:
    swarm = calm(60)
    swarm.leave(swarm.nodes[7])
    swarm.run(2)
    assert all(swarm.sees(node, swarm.nodes[7]) is NodeState.LEFT for node in swarm.nodes if node is not swarm.nodes[7])
    assert failed(swarm) == set()


@pytest.mark.parametrize("seed", [2, 3])
def test_of_three_hundred_that_join_at_once_through_one_the_last_need_not_wait_for_the_usual_comparison(
    seed: int,
) -> None:
    swarm = Swarm(300, seed=seed)
    swarm.start(swarm.nodes[0])
    for node in swarm.nodes[1:]:
        swarm.join(node, swarm.nodes[0])
    assert swarm.run_until(swarm.views_right, 40, step_s=0.5) < 5


def test_what_gossip_misses_a_comparison_finds() -> None:
    swarm = calm(30)
    swarm.loss = 1.0
    swarm.update(swarm.nodes[0])
    swarm.run(1.0)
    swarm.loss = 0.0
    swarm.run(60)
    assert len({node.swim.fingerprint for node in swarm.nodes}) == 1


def test_a_node_that_hears_only_now_and_then_is_removed_and_stays_so() -> None:
    swarm = calm(100)
    sick = swarm.nodes[0]
    for step in range(16):
        sick.loss_in = float(step % 2 == 0)
        swarm.run(20)
    sick.loss_in = 0.0
    swarm.run(5)
    assert all(swarm.sees(node, sick) is NodeState.FAILED for node in swarm.nodes[1:])
    assert failed(swarm) - {sick.node_id} == set() or sick.events  # whom the sick one accuses is its own affair
    assert all(whom == sick.node_id for node in swarm.nodes[1:] for _, what, whom, _ in node.events if what == "failed")
    swarm.run(1200)
    assert swarm.views_right(), "and comes back when it has been well for long"


def test_who_is_removed_is_forgotten_by_all_and_comes_back_when_it_was_only_cut_off() -> None:
    swarm = calm(20, sync_interval_s=5.0)
    lost = swarm.nodes[4]
    lost.group = 1
    swarm.run_until(
        lambda: all(swarm.sees(node, lost) is NodeState.FAILED for node in swarm.nodes if node is not lost), 60
    )
    others = [node for node in swarm.nodes if node is not lost]
    swarm._act(others[0], others[0].swim.remove(lost.node_id, swarm.heap.now))
    swarm.run_until(lambda: all(swarm.sees(node, lost) is None for node in others), 10)
    swarm.run(60)
    assert all(swarm.sees(node, lost) is None for node in others)
    lost.group = 0
    for node in others:  # the owner dials all that it knows
        swarm._hello(lost, node)
    assert swarm.run_until(swarm.views_right, 60) < 30


def test_one_that_missed_a_removal_hears_of_it_when_views_are_compared() -> None:
    swarm = calm(10, sync_interval_s=5.0)
    gone, deaf = swarm.nodes[4], swarm.nodes[7]
    swarm.crash(gone)
    swarm.run_until(swarm.views_right, 30)
    deaf.loss_in = 1.0
    swarm._act(swarm.nodes[0], swarm.nodes[0].swim.remove(gone.node_id, swarm.heap.now))
    swarm.run(3)
    assert swarm.sees(deaf, gone) is NodeState.FAILED
    deaf.loss_in = 0.0
    swarm.run_until(lambda: swarm.sees(deaf, gone) is None, 60)
    swarm.run(30)
    assert all(gone.node_id not in node.swim.known for node in swarm.nodes if node.is_up)
