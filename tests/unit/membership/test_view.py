"""Whom the view lets be dialed, and when."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest

from bms.membership.view import View
from bms.security.keys import NodeKey
from bms.security.records import ALIVE, Admission, NodeRecord
from bms.values import NodeId, NodeState
from helpers import make_authority, make_record

LOWEST, HIGHEST = NodeId("0" * 64), NodeId("f" * 64)


class Member:
    """A node that signs records of itself."""

    def __init__(self, seed: int = 1) -> None:
        authority = _authority()
        self.node_key = NodeKey.from_seed(seed.to_bytes(32, "big"))
        self.box_key = _Box()
        self.mesh_id = authority.mesh_id
        self.node_id = self.node_key.node_id
        self.admission: Admission = authority.issue_admission(self.node_id, now_ms=1_800_000_000_000)

    def record(self, boot: int = 1, incarnation: int = 1, state: int = ALIVE, **fields: Any) -> NodeRecord:
        return make_record(self, boot, incarnation=incarnation, state=state, boot_id=bytes(16), **fields)  # type: ignore[arg-type]


class _Box:
    public = bytes(32)


@functools.cache
def _authority() -> Any:
    return make_authority()


def make_view(me: NodeId = LOWEST) -> View:
    return View(me, redial_interval_s=1, redial_interval_max_s=30, chance=random.Random(1))


def known(state: NodeState = NodeState.ALIVE, me: NodeId = LOWEST) -> tuple[View, NodeId]:
    view, member = make_view(me), Member()
    view.learn(member.admission, member.record(), state, 100.0)
    return view, member.node_id


def test_the_lower_id_dials_at_once_and_the_higher_a_moment_later() -> None:
    low, node_id = known(me=LOWEST)
    high, _ = known(me=HIGHEST)
    assert low.tick(100.0, 100) == [node_id]
    assert high.tick(100.0, 100) == []
    deadline = high.deadline()
    assert deadline is not None
    assert 100.2 < deadline <= 100.5
    assert high.tick(deadline, 100) == [node_id]


def test_who_is_being_dialed_is_not_dialed_again_until_that_has_failed() -> None:
    view, node_id = known()
    assert view.tick(100.0, 100) == [node_id]
    assert view.tick(1000.0, 100) == []
    assert view.deadline() is None
    view.dialed(node_id, 1000.0)
    assert view.deadline() is not None


def test_where_there_is_no_room_for_all_those_due_for_longest_are_dialed_first() -> None:
    view = make_view()
    node_ids = []
    for number in range(5):
        member = Member(number + 1)
        view.learn(member.admission, member.record(), NodeState.ALIVE, 100.0 + number)
        node_ids.append(member.node_id)
    assert view.tick(200.0, 0) == []
    assert view.tick(200.0, 2) == node_ids[:2]
    view.dialed(node_ids[0], 200.0)  # it is due again, behind the others
    assert view.tick(300.0, 2) == node_ids[2:4]
    view.link_up(node_ids[4], 300.0)  # which came by itself
    assert view.tick(300.0, 9) == [node_ids[0]]


def test_dials_that_fail_come_less_and_less_often_but_never_end() -> None:
    view, node_id = known(NodeState.FAILED)
    now, pauses = 100.0, []
    for _ in range(12):
        assert view.tick(now, 100) == [node_id]
        view.dialed(node_id, now)
        deadline = view.deadline()
        assert deadline is not None
        pauses.append(deadline - now)
        assert view.tick(deadline - 0.001, 100) == []
        now = deadline
    for pause, expected in zip(pauses, (1, 2, 4, 8, 16, *[30] * 7), strict=True):
        assert 0.75 * expected <= pause <= 1.25 * expected


def test_a_link_ends_the_dialing_and_its_end_begins_it_at_once() -> None:
    view, node_id = known()
    view.tick(100.0, 100)
    view.dialed(node_id, 100.0)
    view.link_up(node_id, 100.5)
    assert view.tick(500.0, 100) == []
    view.link_down(node_id, 600.0)
    assert view.tick(600.0, 100) == [node_id]
    assert view.members[node_id].heard_at == 600.0


@pytest.mark.parametrize("how", ["learned", "turned"])
def test_who_has_left_is_not_dialed_until_it_is_back(how: str) -> None:
    view, member = make_view(), Member()
    if how == "learned":
        view.learn(member.admission, member.record(state=1), NodeState.LEFT, 100.0)
    else:
        view.learn(member.admission, member.record(), NodeState.ALIVE, 100.0)
        view.turned(member.node_id, NodeState.LEFT, 100.0)
    assert view.tick(1000.0, 100) == []
    view.link_down(member.node_id, 1000.0)
    assert view.tick(1000.0, 100) == []
    view.learn(member.admission, member.record(boot=2), NodeState.ALIVE, 1001.0)
    assert view.tick(1001.0, 100) == [member.node_id]


def test_new_addresses_are_tried_at_once_and_other_news_changes_no_dial() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(), NodeState.ALIVE, 100.0)
    view.tick(100.0, 100)
    for _ in range(5):
        view.dialed(member.node_id, 100.0)
    view.learn(member.admission, member.record(incarnation=2, tags={"a": "b"}), NodeState.ALIVE, 101.0)
    assert view.tick(101.0, 100) == []
    moved = member.record(incarnation=3, addresses=[(0, "127.0.0.1", 7)])
    view.learn(member.admission, moved, NodeState.ALIVE, 102.0)
    assert view.tick(102.0, 100) == [member.node_id]


def test_after_a_crash_of_who_dials_every_dial_is_made_again() -> None:
    view, node_id = known()
    assert view.tick(100.0, 100) == [node_id]
    view.no_dials()
    assert view.tick(100.0, 100) == [node_id]


def test_who_is_forgotten_is_dialed_no_more() -> None:
    view, node_id = known()
    view.forget(node_id)
    assert view.tick(1000.0, 100) == []
    for event in (view.dialed, view.link_down, view.heard):
        event(node_id, 1000.0)
    assert view.members == {}


def test_who_says_new_addresses_all_the_time_is_dialed_as_if_it_said_nothing() -> None:
    view, member = make_view(), Member()
    dials = 0
    for step in range(600):
        now = 100.0 + step / 10
        record = member.record(incarnation=1 + step, addresses=[(0, "192.0.2.1", 1 + step)])
        view.learn(member.admission, record, NodeState.ALIVE, now)
        for node_id in view.tick(now, 100):
            dials += 1
            view.dialed(node_id, now)
    assert 4 <= dials <= 4 + 3 * 5, "four at once; then after 1, 2, 4, 8, 16 s, begun anew every 30 s"


def test_who_leaves_and_comes_back_all_the_time_is_dialed_a_few_times() -> None:
    view, node_id = known()
    dials = 0
    for step in range(600):
        now = 100.0 + step / 10
        view.turned(node_id, NodeState.LEFT if step % 2 else NodeState.ALIVE, now)
        for _ in view.tick(now, 100):
            dials += 1
            view.dialed(node_id, now)
    assert 1 <= dials <= 4 + 3 * 5
