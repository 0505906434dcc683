"""Candidates: what is dialed when, and what a flood of them may cost."""

from __future__ import annotations

import random

import pytest

from bms.membership.candidates import BOUNDS, DIALS_MAX, SETTLED_S, Candidate, Candidates, Findings
from bms.values import Address, NodeId

ONE, TWO = NodeId("1" * 64), NodeId("2" * 64)


def place(number: int) -> list[Address]:
    return [Address(f"10.0.{number // 256}.{number % 256}", 7800)]


def absent(candidate: Candidate) -> float:
    return 0.0


@pytest.fixture
def candidates() -> Candidates:
    return Candidates(random.Random(1))


def test_an_offered_place_is_dialed_once_until_it_has_ended(candidates: Candidates) -> None:
    candidates.offer("seeds", "a", place(1), 0.0)
    (candidate,) = candidates.due(0.0, absent)
    assert candidates.due(100.0, absent) == []
    candidates.failed(candidate, 100.0, 1.0, 30.0)
    assert candidates.due(100.0, absent) == []
    assert candidates.due(101.0, absent) == [candidate]


def test_pauses_grow_to_their_bound_and_no_further(candidates: Candidates) -> None:
    candidates.offer("seeds", "a", place(1), 0.0)
    now, pauses = 0.0, []
    for _ in range(20):
        (candidate,) = candidates.due(now, absent)
        candidates.failed(candidate, now, 1.0, 30.0)
        deadline = candidates.deadline(now)
        assert deadline is not None
        pauses.append(deadline - now)
        now = deadline
    assert 0.75 <= pauses[0] <= 1.0
    assert all(pause <= 30.0 for pause in pauses)
    assert all(pause >= 22.5 for pause in pauses[-5:])


def test_at_most_eight_are_dialed_at_once_and_the_others_when_there_is_room(candidates: Candidates) -> None:
    for number in range(20):
        candidates.offer("seeds", str(number), place(number), 0.0)
    first = candidates.due(0.0, absent)
    assert len(first) == DIALS_MAX
    assert candidates.due(0.0, absent) == []
    candidates.failed(first[0], 0.0, 1.0, 30.0)
    assert len(candidates.due(0.0, absent)) == 1


def test_places_that_fail_at_once_keep_none_from_being_tried(candidates: Candidates) -> None:
    for number in range(100):
        candidates.offer("seeds", str(number), place(number), 0.0)
    candidates.offer("snapshot", "remembered", place(1000), 0.0)
    tried: set[str] = set()
    now = 0.0
    while now < 20.0:  # each dial takes a second: two rounds of 101 places
        chosen = candidates.due(now, absent)
        now += 1.0
        for candidate in chosen:
            tried.add(candidate.label)
            candidates.failed(candidate, now, 1.0, 1.0)
    assert len(tried) == 101


def test_what_a_person_named_comes_before_what_is_remembered_or_announced(candidates: Candidates) -> None:
    for number in range(100):
        candidates.offer("snapshot", str(number), place(number), 0.0)
        candidates.offer("mdns", str(number), place(1000 + number), 0.0)
    candidates.offer("seeds", "seed", place(5000), 0.0)
    chosen = candidates.due(0.0, absent)
    assert chosen[0].source == "seeds"
    assert len(chosen) <= DIALS_MAX


def test_a_full_house_of_remembered_places_leaves_room_for_others(candidates: Candidates) -> None:
    for number in range(100):
        candidates.offer("snapshot", str(number), place(number), 0.0)
    assert len(candidates.due(0.0, absent)) == BOUNDS["snapshot"].dials < DIALS_MAX
    candidates.offer("mdns", "new", place(1000), 1.0)
    assert [candidate.label for candidate in candidates.due(1.0, absent)] == ["new"]


def test_announcements_that_come_and_go_are_dialed_at_a_bounded_rate(candidates: Candidates) -> None:
    dials, now, number = 0, 0.0, 0
    while now < 60.0:
        for _ in range(50):  # a hostile neighbour: new names all the time, each withdrawn at once
            candidates.offer("mdns", str(number), place(number), now)
            number += 1
        for candidate in candidates.due(now, absent):
            dials += 1
            candidates.failed(candidate, now, 1.0, 30.0)
        for label in candidates.labels("mdns"):
            candidates.withdraw("mdns", label)
        now += 0.01
    assert number > 100_000
    assert dials <= 60 / BOUNDS["mdns"].spacing_s + 1


def test_of_one_source_only_so_many_are_kept(candidates: Candidates) -> None:
    taken = [candidates.offer("mdns", str(number), place(number), 0.0) for number in range(1000)]
    assert sum(taken) == len(list(candidates)) == BOUNDS["mdns"].candidates


def test_a_place_withdrawn_while_it_is_dialed_counts_until_that_has_ended(candidates: Candidates) -> None:
    for number in range(2):
        candidates.offer("mdns", str(number), place(number), 0.0)
    dialing = [*candidates.due(0.0, absent), *candidates.due(1.0, absent)]
    assert len(dialing) == BOUNDS["mdns"].dials
    for number in range(2):
        candidates.withdraw("mdns", str(number))
    candidates.offer("mdns", "new", place(9), 2.0)
    assert candidates.due(2.0, absent) == []
    candidates.failed(dialing[0], 3.0, 1.0, 30.0)
    assert candidates.labels("mdns") == {"new"}
    assert [candidate.label for candidate in candidates.due(3.0, absent)] == ["new"]


def test_one_address_and_one_node_are_not_dialed_twice_at_once(candidates: Candidates) -> None:
    candidates.offer("seeds", "a", place(1), 0.0)
    candidates.offer("snapshot", ONE, place(1), 0.0, ONE)
    candidates.offer("registry", TWO, place(2), 0.0, TWO)
    candidates.offer("snapshot", TWO, place(3), 0.0, TWO)
    assert [candidate.source for candidate in candidates.due(0.0, absent)] == ["seeds", "registry"]


def test_a_place_that_was_reached_rests_and_is_dialed_soon_after_its_link_has_ended(candidates: Candidates) -> None:
    candidates.offer("seeds", "a", place(1), 0.0)
    (candidate,) = candidates.due(0.0, absent)
    candidates.reached(candidate, ONE, 0.0)
    assert candidates.due(SETTLED_S - 1, absent) == []
    candidates.lost(candidate, 5.0, 1.0)
    assert candidates.due(6.0, absent) == [candidate]


def test_a_place_whose_node_is_there_by_another_way_is_not_dialed(candidates: Candidates) -> None:
    candidates.offer("seeds", "a", place(1), 0.0)
    assert candidates.due(0.0, lambda candidate: 5.0) == []
    assert candidates.deadline(0.0) == 5.0
    assert len(candidates.due(5.0, absent)) == 1


def test_new_addresses_are_dialed_at_once_and_the_same_ones_change_nothing(candidates: Candidates) -> None:
    candidates.offer("srv", "a", place(1), 0.0)
    (candidate,) = candidates.due(0.0, absent)
    candidates.failed(candidate, 0.0, 30.0, 30.0)
    candidates.offer("srv", "a", place(1), 1.0)
    assert candidates.due(1.0, absent) == []
    candidates.offer("srv", "a", place(2), 1.0)
    assert candidates.due(1.0, absent) == [candidate]
    assert candidate.addresses == tuple(place(2))


def test_the_deadline_lies_ahead_or_there_is_none(candidates: Candidates) -> None:
    assert candidates.deadline(0.0) is None
    for number in range(10):
        candidates.offer("mdns", str(number), place(number), 0.0)
    candidates.due(0.0, absent)
    assert candidates.deadline(0.0) == BOUNDS["mdns"].spacing_s


def test_findings_keep_the_last_word_on_each_place_and_say_whether_it_is_new() -> None:
    findings = Findings()
    assert findings.note("seeds", "a:1", "connection refused", 1.0)
    assert not findings.note("seeds", "a:1", "connection refused", 2.0)
    assert findings.note("seeds", "a:1", "linked with 11111111", 3.0)
    (found,) = findings.all()
    assert (found.source, found.candidate, found.outcome, found.when) == ("seeds", "a:1", "linked with 11111111", 3.0)


def test_a_flood_of_findings_of_one_source_is_bounded_and_leaves_the_others_alone() -> None:
    findings = Findings()
    findings.note("seeds", "a:1", "linked", 0.0)
    for number in range(10_000):
        findings.note("mdns", f"fake {number}", "x" * 10_000, float(number))
    kept = findings.all()
    assert kept[0].source == "seeds"
    assert len(kept) == 65
    assert kept[-1].candidate == "fake 9999"
    assert max(len(found.outcome) for found in kept) <= 300
