"""The view of the mesh, event by event."""

from __future__ import annotations

import functools
import itertools
import random
from typing import Any

import pytest

from bms.membership.view import Changed, Dial, Spread, View
from bms.security.keys import NodeKey
from bms.security.records import ALIVE, LEFT, Admission, NodeRecord
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
    return View(
        me,
        suspicion_timeout_s=5,
        redial_interval_s=1,
        redial_interval_max_s=30,
        forget_s=1000,
        chance=random.Random(1),
    )


def test_a_card_makes_a_suspect_that_the_lower_id_dials_at_once_and_the_higher_a_moment_later() -> None:
    member = Member()
    low, high = make_view(LOWEST), make_view(HIGHEST)
    for view in (low, high):
        assert view.learn(member.admission, member.record(), 100.0, HIGHEST) == [Spread(member.node_id, HIGHEST)]
        assert view.members[member.node_id].state is NodeState.SUSPECT
    assert low.tick(100.0) == [Dial(member.node_id)]
    assert high.tick(100.0) == []
    due = high.deadline()
    assert due is not None
    assert 100.2 < due <= 100.5
    assert high.tick(due) == [Dial(member.node_id)]


def test_a_link_makes_alive_and_its_end_dials_at_once() -> None:
    view, member = make_view(), Member()
    effects = view.link_up(member.admission, member.record(), 1.0)
    assert effects == [Spread(member.node_id, None), Changed(member.node_id, "joined")]
    assert view.deadline() is None
    assert view.link_down(member.node_id, 2.0) == [Changed(member.node_id, "suspected"), Dial(member.node_id)]


def test_a_refusal_by_its_own_host_makes_failed_at_once_if_it_was_ever_heard() -> None:
    view, heard, unheard = make_view(), Member(1), Member(2)
    view.link_up(heard.admission, heard.record(), 1.0)
    view.link_down(heard.node_id, 2.0)
    assert view.dialed(heard.node_id, 2.1, refused=True) == [Changed(heard.node_id, "failed")]
    view.learn(unheard.admission, unheard.record(), 3.0)
    view.tick(4.0)
    assert view.dialed(unheard.node_id, 4.1, refused=True) == []


def test_without_an_answer_a_suspect_fails_after_the_timeout() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(), 0.0)
    assert view.tick(4.9) == [Dial(member.node_id)]
    assert view.tick(5.0) == [Changed(member.node_id, "failed")]


def test_redials_come_less_and_less_often_and_never_stop_before_it_is_forgotten() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(), 0.0)
    now, dials = 0.0, []
    while member.node_id in view.members:
        due = view.deadline()
        assert due is not None
        now = max(now, due)
        for effect in view.tick(now):
            if effect == Dial(member.node_id):
                dials.append(now)
                view.dialed(member.node_id, now, refused=False)
    waits = [later - earlier for earlier, later in itertools.pairwise(dials)]
    assert 0.75 <= waits[0] <= 1.25
    assert max(waits) <= 30 * 1.25
    assert len(dials) > 30
    assert 1000 <= now <= 1010


def test_an_older_record_changes_nothing_whatever_brings_it() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(incarnation=5, name="new"), 0.0)
    assert view.learn(member.admission, member.record(incarnation=4, name="old"), 1.0) == []
    assert view.link_up(member.admission, member.record(incarnation=4, name="old"), 2.0) == [
        Changed(member.node_id, "joined")
    ]
    assert view.members[member.node_id].record.name == "new"


def test_left_wins_a_tie_and_is_not_dialed() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(), 0.0)
    assert view.learn(member.admission, member.record(state=LEFT), 0.1) == [
        Spread(member.node_id, None),
        Changed(member.node_id, "left"),
    ]
    assert view.learn(member.admission, member.record(), 0.2) == []
    assert view.tick(500.0) == []
    assert view.members[member.node_id].state is NodeState.LEFT


def test_a_dial_that_fails_after_its_node_left_schedules_no_other() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(), 0.0)
    assert view.tick(0.0) == [Dial(member.node_id)]
    view.learn(member.admission, member.record(state=LEFT), 0.1)
    assert view.dialed(member.node_id, 0.2, refused=True) == []
    assert view.tick(900.0) == []


def test_a_link_of_a_node_that_left_does_not_make_it_alive_or_worth_a_dial() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(state=LEFT), 0.0)
    assert view.link_up(member.admission, member.record(), 1.0) == []
    assert view.members[member.node_id].state is NodeState.LEFT
    assert view.link_down(member.node_id, 2.0) == []
    assert view.tick(3.0) == []


def test_a_newer_boot_revives_a_node_that_left() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(state=LEFT), 0.0)
    effects = view.learn(member.admission, member.record(boot=2), 1.0)
    assert effects == [Spread(member.node_id, None), Changed(member.node_id, "suspected")]
    assert view.tick(1.0) == [Dial(member.node_id)]


def test_a_node_that_takes_its_leaving_back_on_an_open_link_is_alive() -> None:
    view, member = make_view(), Member()
    view.link_up(member.admission, member.record(), 0.0)
    view.learn(member.admission, member.record(incarnation=2, state=LEFT), 1.0)
    effects = view.learn(member.admission, member.record(incarnation=3), 2.0)
    assert Changed(member.node_id, "joined") in effects
    assert view.members[member.node_id].state is NodeState.ALIVE
    assert view.deadline() is None


def test_dials_that_were_cut_short_are_made_again() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(), 0.0)
    assert view.tick(0.0) == [Dial(member.node_id)]
    assert view.tick(0.1) == []
    view.no_dials()
    assert view.tick(0.1) == [Dial(member.node_id)]


def rounds_down(span: float) -> float:
    """A time t for which (t + span) - t is less than span."""
    chance = random.Random(3)
    return next(t for t in iter(lambda: chance.uniform(1, 1e6), None) if (t + span) - t < span)


@pytest.mark.parametrize("since", [0.1, 123456.789, rounds_down(5), rounds_down(1000)])
def test_what_is_due_at_the_deadline_is_done_at_the_deadline(since: float) -> None:
    """Sums and differences of floats round differently: a tick at exactly `deadline()` must move it on."""
    view, member, gone = make_view(), Member(1), Member(2)
    view.learn(gone.admission, gone.record(state=LEFT), since)
    view.link_up(member.admission, member.record(), since)
    view.link_down(member.node_id, since)
    for _ in range(200):
        due = view.deadline()
        if due is None:
            break
        view.tick(due)
        again = view.deadline()
        assert again is None or again > due
    assert not view.members


def test_failed_members_are_not_told_to_newcomers() -> None:
    view, member, other = make_view(), Member(1), Member(2)
    view.link_up(other.admission, other.record(), 0.0)
    view.link_up(member.admission, member.record(), 0.0)
    view.link_down(member.node_id, 1.0)
    view.dialed(member.node_id, 1.1, refused=True)
    assert view.cards() == [view.members[other.node_id].card]


def test_a_higher_admission_is_kept_even_with_an_older_record() -> None:
    view, member = make_view(), Member()
    view.learn(member.admission, member.record(), 0.0)
    higher = _authority().issue_admission(member.node_id, now_ms=1_900_000_000_000)
    view.learn(higher, member.record(), 1.0)
    assert view.members[member.node_id].admission.serial == 1_900_000_000_000


def test_a_node_never_learns_of_itself() -> None:
    member = Member()
    view = make_view(member.node_id)
    assert view.learn(member.admission, member.record(), 0.0) == []
    assert view.members == {}
