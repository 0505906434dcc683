"""The failure detector by hand: one machine at a time, each trap of SWIM and Lifeguard a test."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

from bms.membership.claims import (
    Ack,
    Changed,
    Claim,
    Delta,
    Digest,
    Effect,
    Get,
    Kind,
    Message,
    Nack,
    Ping,
    PingRequest,
    Refuted,
    Send,
    SyncAsk,
    Want,
)
from bms.membership.swim import Swim
from bms.membership.tuning import Tuning
from bms.values import NodeId, NodeState

T = TypeVar("T")


def node_id(number: int) -> NodeId:
    return NodeId(f"{number:064x}")


ME, ANN, BEN, CYD = node_id(0), node_id(1), node_id(2), node_id(3)


def word(of: NodeId, incarnation: int = 1, kind: Kind = Kind.ALIVE, boot: int = 1) -> Claim:
    return Claim(of, boot, incarnation, kind, of, 256)


def accusation(of: NodeId, by: NodeId, incarnation: int = 1, kind: Kind = Kind.SUSPECT, boot: int = 1) -> Claim:
    return Claim(of, boot, incarnation, kind, by, 208)


def machine(count: int = 10, **tuning: float) -> Swim:
    """A machine that knows `count` others, alive, at incarnation 1, and has told so."""

    def accuse(of: NodeId, boot: int, incarnation: int, kind: Kind) -> Claim:
        return accusation(of, ME, incarnation, kind, boot)

    chance = random.Random(1)
    swim = Swim(word(ME), accuse=accuse, refute=lambda n: word(ME, n), chance=chance, tuning=Tuning(**tuning))  # type: ignore[arg-type]
    swim.meet({node_id(number): word(node_id(number)) for number in range(1, count + 1)})
    return swim


def sent(effects: Iterable[Effect], kind: type[T]) -> list[tuple[NodeId, T]]:
    """Which messages of a kind went to whom."""
    return [
        (effect.to, message)
        for effect in effects
        if isinstance(effect, Send)
        for message in effect.messages
        if isinstance(message, kind)
    ]


def changes(effects: Iterable[Effect]) -> list[tuple[NodeId, str]]:
    return [(effect.node_id, effect.what) for effect in effects if isinstance(effect, Changed)]


def run(
    swim: Swim, until: float, answer: Callable[[NodeId, Message], list[Message]] = lambda to, message: []
) -> list[Effect]:
    """Let time pass to `until`; what the others answer arrives at once. All effects."""
    effects: list[Effect] = []
    while (deadline := swim.deadline()) is not None and deadline <= until:
        new = swim.tick(deadline)
        while new:
            effects += new
            answers: list[Effect] = []
            for to, message in sent(new, object):
                reply = answer(to, message)  # type: ignore[arg-type]
                if reply:
                    answers += swim.handle(reply, to, deadline)
            new = answers
    return effects


def all_answer(to: NodeId, message: Message) -> list[Message]:
    return [Ack(message.seq)] if isinstance(message, Ping) else []


# --- 1 to 3: what counts


def test_an_accusation_outdoes_alive_at_its_incarnation_and_only_a_higher_word_clears_it() -> None:
    swim = machine()
    swim.handle([accusation(ANN, BEN)], BEN, 0.0)
    assert swim.state(ANN) is NodeState.SUSPECT
    swim.handle([word(ANN)], BEN, 0.1)
    assert swim.state(ANN) is NodeState.SUSPECT
    assert changes(swim.handle([word(ANN, 2)], BEN, 0.2)) == [(ANN, "joined")]
    swim.handle([accusation(ANN, BEN)], BEN, 0.3)
    assert swim.state(ANN) is NodeState.ALIVE


def test_an_accused_node_goes_to_one_above_what_is_said_of_it() -> None:
    swim = machine()
    effects = swim.handle([accusation(ME, BEN, 7)], BEN, 0.0)
    assert swim.me.incarnation == 8
    assert Refuted(BEN, Kind.SUSPECT) in effects
    assert (BEN, swim.me) in sent(effects, Claim)


@pytest.mark.parametrize("far", [1 + 1025, 2**63 - 1])
def test_nobody_can_push_an_incarnation_far_ahead(far: int) -> None:
    swim = machine()
    swim.handle([accusation(ME, BEN, far)], BEN, 0.0)
    assert swim.me.incarnation == 1
    effects = swim.handle([accusation(ANN, BEN, far)], BEN, 0.0)
    assert swim.state(ANN) is NodeState.ALIVE
    assert effects == [Want(ANN, BEN)]


def test_a_newer_life_outdoes_everything_said_of_the_one_before() -> None:
    swim = machine(trial=0.0)
    swim.handle([accusation(ANN, BEN, 9, Kind.DEAD)], BEN, 0.0)
    assert swim.state(ANN) is NodeState.FAILED
    swim.handle([word(ANN, 1, boot=2)], BEN, 1.0)
    assert swim.state(ANN) is NodeState.ALIVE
    swim.handle([accusation(ANN, BEN, 9, Kind.DEAD)], BEN, 2.0)
    assert swim.state(ANN) is NodeState.ALIVE


def test_an_old_alive_word_does_not_bring_back_whom_a_later_accusation_was_about() -> None:
    swim = machine(trial=0.0)
    swim.handle([accusation(ANN, BEN, 5, Kind.DEAD)], BEN, 0.0)
    swim.handle([accusation(ANN, CYD, 10, Kind.DEAD)], CYD, 1.0)  # no change of state, but remembered
    swim.handle([word(ANN, 8)], BEN, 2.0)
    assert swim.state(ANN) is NodeState.FAILED
    swim.handle([word(ANN, 11)], BEN, 3.0)
    assert swim.state(ANN) is NodeState.ALIVE


def test_who_speaks_while_it_is_accused_is_told_but_not_too_often() -> None:
    swim = machine()
    swim.handle([accusation(ANN, BEN)], BEN, 0.0)
    effects = swim.handle([Ping(1)], ANN, 5.0)
    assert [claim.kind for to, claim in sent(effects, Claim) if to == ANN] != []
    again = [effect for effect in swim.handle([word(ANN)], ANN, 5.1) if isinstance(effect, Send)]
    assert again == []


def test_an_accusation_of_somebody_unknown_makes_its_card_wanted() -> None:
    assert machine(2).handle([accusation(node_id(99), BEN)], BEN, 0.0) == [Want(node_id(99), BEN)]


def test_an_accuser_that_is_no_member_counts_for_nothing() -> None:
    swim = machine(3)
    swim.handle([accusation(ANN, node_id(77))], BEN, 0.0)
    assert swim.state(ANN) is NodeState.ALIVE


# --- 4: suspicions


def test_a_suspicion_that_nobody_confirms_lasts_longest_and_a_confirmed_one_shortest() -> None:
    def died(*confirmers: NodeId) -> float:
        swim, now = machine(checks=0), 0.0
        swim.handle([accusation(ANN, BEN)], BEN, 0.0)
        for by in confirmers:
            swim.handle([accusation(ANN, by)], BEN, 0.5)
        while swim.state(ANN) is not NodeState.FAILED:
            deadline = swim.deadline()
            assert deadline is not None
            now = deadline
            swim.tick(now)
        return now

    shortest = 4.0 * max(1.0, 1.0413927)
    assert died() == pytest.approx(6 * shortest)
    assert died(BEN, BEN) == pytest.approx(6 * shortest), "the same accuser again is no confirmation"
    assert died(CYD, node_id(4)) == pytest.approx(shortest)
    assert shortest < died(CYD) < 6 * shortest


def test_only_the_first_confirmations_are_told_to_others() -> None:
    swim = machine(checks=0)
    told: list[NodeId] = []
    for number in range(2, 8):
        swim.handle([accusation(ANN, node_id(number))], BEN, 0.0)
    for to, claim in sent(run(swim, 3.0, all_answer), Claim):
        assert to is not None
        told.append(claim.by)
    assert set(told) == {node_id(4)}, "the last that counted: the first accuser and two confirmations"


def test_a_refuted_suspicion_does_not_end_the_next_one() -> None:
    swim = machine(checks=0)
    for number in (2, 3, 4):
        swim.handle([accusation(ANN, node_id(number))], BEN, 0.0)
    swim.handle([word(ANN, 2)], BEN, 1.0)
    swim.handle([accusation(ANN, BEN, 2)], BEN, 4.0)
    run(swim, 6.0)
    assert swim.state(ANN) is NodeState.SUSPECT


def test_with_nobody_to_confirm_a_suspicion_is_a_short_one() -> None:
    swim = machine(2, checks=0)
    swim.handle([accusation(ANN, BEN)], BEN, 0.0)
    run(swim, 4.1)
    assert swim.state(ANN) is NodeState.FAILED


def test_raising_the_incarnation_again_and_again_does_not_keep_a_dead_member_alive() -> None:
    swim = machine(checks=0)
    for step in range(40):
        swim.handle([accusation(ANN, BEN, 1 + step)], BEN, 2.0 * step)
        run(swim, 2.0 * step + 2.0)
    assert swim.state(ANN) is NodeState.FAILED


# --- 5: comparing views


def test_dead_arrives_from_a_comparison_as_a_suspicion() -> None:
    swim = machine()
    swim.handle([Delta(((word(ANN), accusation(ANN, CYD, kind=Kind.DEAD)),))], BEN, 0.0, stream=True)
    assert swim.state(ANN) is NodeState.SUSPECT


def test_left_arrives_as_left_and_an_older_alive_word_does_not_revive() -> None:
    swim = machine()
    assert changes(swim.handle([Delta(((word(ANN, 2, Kind.LEFT), None),))], BEN, 0.0)) == [(ANN, "left")]
    swim.handle([Delta(((word(ANN, 2), None),))], BEN, 1.0)
    swim.handle([accusation(ANN, BEN, 2)], BEN, 2.0)
    assert swim.state(ANN) is NodeState.LEFT


def test_who_is_behind_in_a_comparison_gets_what_is_held() -> None:
    swim = machine()
    swim.handle([word(ANN, 3, Kind.LEFT)], ANN, 0.0)
    effects = swim.handle([Delta(((word(ANN), accusation(ANN, BEN, 9, Kind.DEAD)),))], BEN, 1.0, stream=True)
    [(to, delta)] = sent(effects, Delta)
    assert to == BEN
    assert delta.pairs[0][0].kind is Kind.LEFT


def test_an_unknown_member_that_is_held_for_dead_is_asked_itself() -> None:
    swim = machine(3)
    late = node_id(50)
    effects = swim.handle([Delta(((word(late), accusation(late, BEN, kind=Kind.DEAD)),))], BEN, 0.0, stream=True)
    assert swim.state(late) is NodeState.FAILED
    assert [to for to, _ in sent(effects, Ping)] == [late]
    swim.handle([word(late, 2)], late, 0.1)
    assert swim.state(late) is NodeState.ALIVE


def test_equal_views_say_nothing_and_different_ones_a_digest() -> None:
    swim = machine()
    assert swim.handle([SyncAsk(swim.fingerprint, 11)], ANN, 0.0, stream=True) == []
    [(to, digest)] = sent(swim.handle([SyncAsk(1, 11)], ANN, 0.0, stream=True), Digest)
    assert to == ANN
    assert len(digest.ranks) == 11
    ranks = {**digest.ranks, BEN: (1, 5, 0), CYD: (0, 0, 0)}
    effects = swim.handle([Digest(ranks)], ANN, 0.0, stream=True)
    assert [get.node_ids for _, get in sent(effects, Get)] == [(BEN,)]
    assert [own.node_id for _, delta in sent(effects, Delta) for own, _ in delta.pairs] == [CYD]


def test_one_who_asks_for_everything_again_and_again_gets_it_twice() -> None:
    swim = machine(1000)
    everybody = Get(tuple(swim.known))
    given = sum(
        len(delta.pairs)
        for _ in range(100)
        for _, delta in sent(swim.handle([everybody], ANN, 0.0, stream=True), Delta)
    )
    assert given == 2 * 1000 + 256
    assert sent(swim.handle([everybody], BEN, 0.0, stream=True), Delta), "others are not worse off for it"
    invented = Digest({node_id(10_000 + number): (1, 1, 0) for number in range(100_000)})
    assert swim.handle([invented], ANN, 0.0, stream=True) == []
    assert sent(swim.handle([everybody], ANN, 40.0, stream=True), Delta)


def test_after_news_others_are_asked_soon_and_then_after_pauses_that_double_up_to_the_usual_one() -> None:
    swim = machine(100)
    swim.start(0.0)
    run(swim, 100.0, all_answer)
    assert changes(swim.handle([Delta(((word(node_id(200)), None),))], BEN, 100.0, stream=True))
    asked: list[float] = []
    while (deadline := swim.deadline()) is not None and deadline < 400.0:
        effects = swim.tick(deadline)
        asked += [deadline for _ in sent(effects, SyncAsk)]
        for to, ping in sent(effects, Ping):
            swim.handle([Ack(ping.seq)], to, deadline)
    pauses = [after - before for before, after in zip([100.0, *asked], asked, strict=False)]
    for pause, usual in zip(pauses, (1.0, 2.0, 4.0, 8.0, 16.0), strict=False):
        assert 0.5 * usual <= pause <= 1.5 * usual
    assert all(22.5 <= pause <= 37.5 for pause in pauses[6:])


# --- 6 to 9: probes


def test_helpers_are_asked_in_time_and_so_is_the_link() -> None:
    swim = machine()
    swim.start(0.0)
    effects = run(swim, 1.9, lambda to, message: [])
    [(target, _), *_] = sent(effects, Ping)
    helpers = [to for to, request in sent(effects, PingRequest) if request.target == target]
    assert len(set(helpers)) == 3
    assert target not in helpers
    assert ME not in helpers
    assert any(effect.stream and effect.to == target for effect in effects if isinstance(effect, Send))


def test_a_relay_answers_with_a_nack_before_the_prober_gives_up() -> None:
    swim = machine()
    assert [to for to, _ in sent(swim.handle([PingRequest(7, BEN, 0.9)], ANN, 0.0), Ping)] == [BEN]
    deadline = swim.deadline()
    assert deadline is not None
    assert deadline < 0.9
    [(to, nack)] = sent(swim.tick(deadline), Nack)
    assert (to, nack.seq) == (ANN, 7)


def test_an_ack_through_a_helper_is_an_answer_and_one_from_elsewhere_is_not() -> None:
    for answerer, is_good in (("helper", True), ("other", False)):
        swim = machine()
        swim.start(0.0)
        effects = run(swim, 1.0)
        [(target, ping), *_] = sent(effects, Ping)
        helpers = [to for to, _ in sent(effects, PingRequest)]
        by = helpers[0] if answerer == "helper" else next(x for x in swim.known if x not in [*helpers, target])
        swim.handle([Ack(ping.seq)], by, 1.0)
        run(swim, 1.99, all_answer)
        assert (swim.state(target) is NodeState.ALIVE) is is_good


def test_a_failed_probe_without_nacks_says_that_this_node_is_unwell_and_with_them_it_does_not() -> None:
    def health(answer: Callable[[NodeId, Message], list[Message]]) -> int:
        swim = machine()
        swim.start(0.0)
        run(swim, 1.99, answer)
        return swim.health

    assert health(lambda to, message: []) == 3
    assert health(lambda to, message: [Nack(message.seq)] if isinstance(message, PingRequest) else []) == 0


def test_bad_health_stretches_the_period() -> None:
    swim = machine()
    swim.start(0.0)
    run(swim, 60.0)
    sick = len({ping.seq for _, ping in sent(run(swim, 120.0), Ping)})
    well = machine()
    well.start(0.0)
    run(well, 60.0, all_answer)
    assert sick < len({ping.seq for _, ping in sent(run(well, 120.0, all_answer), Ping)}) / 3


def test_each_ping_to_the_accused_tells_it_also_a_relayed_one() -> None:
    swim = machine()
    swim.handle([accusation(ANN, BEN)], BEN, 0.0)
    for effects in (swim.handle([PingRequest(1, ANN, 1.0)], CYD, 0.0), swim.link_down(ANN, 0.0)):
        [send] = [effect for effect in effects if isinstance(effect, Send) and effect.to == ANN]
        assert [type(message) for message in send.messages[:2]] == [Claim, Ping]


def test_a_stalled_node_blames_nobody() -> None:
    swim = machine()
    swim.start(0.0)
    swim.handle([accusation(ANN, BEN), accusation(ANN, CYD), accusation(ANN, node_id(4))], BEN, 0.0)
    run(swim, 1.5, all_answer)
    effects = swim.tick(60.0)
    assert changes(effects) == []
    assert swim.state(ANN) is NodeState.SUSPECT
    assert swim.health == 1
    run(swim, 66.0)
    assert swim.state(ANN) is NodeState.FAILED


def test_everybody_is_probed_once_in_a_round_and_newcomers_within_the_next() -> None:
    swim = machine(20)
    swim.start(0.0)
    targets = [to for to, _ in sent(run(swim, 20.5, all_answer), Ping)]
    assert len(targets) >= 20
    assert set(targets[:20]) == set(swim.known)
    late = node_id(99)
    swim.learn([word(late)], 20.5)
    assert late in [to for to, _ in sent(run(swim, 62.0, all_answer), Ping)]


def test_one_member_cannot_make_this_node_ping_without_end() -> None:
    swim = machine()
    pings = sum(len(sent(swim.handle([PingRequest(n, BEN, 9.0)], ANN, 0.0), Ping)) for n in range(1000))
    assert pings == 16
    assert sent(swim.handle([PingRequest(1, BEN, 9.0)], CYD, 0.0), Ping)
    run(swim, 10.0, all_answer)
    assert sent(swim.handle([PingRequest(1, BEN, 9.0)], ANN, 10.0), Ping)


# --- 10 to 13, and what a lying member can do


def test_news_goes_out_a_bounded_number_of_times() -> None:
    swim = machine(10)
    swim.announce(word(ME, 2), 0.0)
    told = [to for to, claim in sent(run(swim, 30.0), Claim) if claim.node_id == ME]
    assert 12 <= len(told) <= 14
    assert swim.is_quiet


def test_a_lie_about_a_death_is_a_suspicion_until_the_accused_had_its_say() -> None:
    swim = machine(checks=0)
    assert changes(swim.handle([accusation(ANN, BEN, kind=Kind.DEAD)], BEN, 0.0)) == [(ANN, "suspected")]
    swim.handle([word(ANN, 2)], ANN, 1.0)
    assert swim.state(ANN) is NodeState.ALIVE
    swim.handle([accusation(ANN, BEN, 2, Kind.DEAD)], BEN, 2.0)
    assert (ANN, "failed") in changes(run(swim, 2.0 + 2.2))


def test_a_verdict_counts_at_once_where_the_suspicion_is_old_enough() -> None:
    swim = machine(checks=0)
    swim.handle([accusation(ANN, BEN)], BEN, 0.0)
    effects = swim.handle([accusation(ANN, CYD, kind=Kind.DEAD)], CYD, 3.0)
    assert [effect for effect in effects if isinstance(effect, Changed)] == [Changed(ANN, "failed", CYD)]


def test_one_accuser_cannot_ruin_the_health_of_another() -> None:
    swim = machine()
    for step in range(100):
        swim.handle([accusation(ME, BEN, swim.me.incarnation)], BEN, 0.05 * step)
    assert swim.health == 1
    assert swim.me.incarnation == 1 + 20 + 24, "no more often than news goes out, after a burst"


def test_a_flood_of_accusations_leaves_few_timers() -> None:
    swim = machine(checks=0)
    for step in range(1000):
        swim.handle([accusation(ANN, BEN, 1 + step)], BEN, 0.001 * step)
    assert len(swim._timers) < 10


def test_a_member_that_comes_and_goes_is_held_for_dead_until_it_is_calm_or_restarted() -> None:
    def flapping() -> tuple[Swim, float]:
        swim, now = machine(40, checks=0), 0.0
        for step in range(20):
            swim.handle([accusation(ANN, node_id(2 + step), 1 + step)], BEN, now)
            swim.handle([word(ANN, 2 + step)], ANN, now + 1.0)
            now += 10.0
        return swim, now

    swim, now = flapping()
    assert swim.state(ANN) is NodeState.SUSPECT
    effects = run(swim, now + 100.0)
    assert swim.state(ANN) is NodeState.FAILED
    effects = run(swim, now + 1500.0)
    assert (ANN, "joined") in changes(effects)
    assert swim.state(ANN) is NodeState.ALIVE
    swim, now = flapping()
    swim.handle([word(ANN, 1, boot=2)], ANN, now)
    assert swim.state(ANN) is NodeState.ALIVE


def test_a_link_that_ends_is_looked_into_at_once_and_a_refused_dial_shortens_the_suspicion() -> None:
    swim = machine(checks=0)
    swim.link_up(ANN, 0.0)
    assert [to for to, _ in sent(swim.link_down(ANN, 1.0), Ping)] == [ANN]
    assert changes(swim.refused(ANN, 1.1)) == [(ANN, "suspected")]
    assert (ANN, "failed") in changes(run(swim, 2.2))
    swim.link_up(BEN, 3.0)
    assert swim.refused(BEN, 3.1) == []


def test_the_dead_are_tried_again_so_that_a_partition_heals() -> None:
    swim = machine(3, checks=0, trial=0.0)
    swim.start(0.0)
    swim.handle([accusation(ANN, BEN, kind=Kind.DEAD)], BEN, 0.0)
    effects = run(swim, 50.0, lambda to, message: [] if to == ANN else all_answer(to, message))
    assert ANN in [to for to, _ in sent(effects, Ping)]
    assert ANN in [to for to, claim in sent(effects, Claim) if claim.kind is Kind.DEAD]


# --- leaving and forgetting


def test_a_goodbye_goes_out_at_once() -> None:
    swim = machine()
    effects = swim.leave(word(ME, 2, Kind.LEFT), 0.0)
    assert len(sent(effects, Claim)) == 3
    swim.handle([accusation(ME, BEN, 2)], BEN, 0.1)
    assert swim.me.kind is Kind.LEFT


def test_the_gone_are_forgotten_and_nothing_as_old_brings_them_back() -> None:
    swim = machine(3, checks=0, trial=0.0, forget_s=300.0)
    swim.start(0.0)
    swim.handle([accusation(ANN, BEN, 4, Kind.DEAD), word(CYD, 2, Kind.LEFT)], BEN, 0.0)
    effects = run(swim, 400.0, lambda to, message: [] if to == ANN else all_answer(to, message))
    assert {(ANN, "forgotten"), (CYD, "forgotten")} <= set(changes(effects))
    assert swim.state(ANN) is None
    swim.learn([word(CYD)], 401.0)
    swim.handle([Delta(((word(ANN), accusation(ANN, BEN, 4, Kind.DEAD)),))], BEN, 401.0)
    assert swim.state(CYD) is swim.state(ANN) is None
    swim.learn([word(CYD, boot=2)], 402.0)
    assert swim.state(CYD) is NodeState.ALIVE


def test_who_was_forgotten_as_dead_and_does_not_know_it_is_told() -> None:
    swim = machine(3, trial=0.0)
    swim.handle([accusation(ANN, BEN, 4, Kind.DEAD)], BEN, 0.0)
    swim.forget(ANN, 1.0)
    effects = swim.learn([word(ANN)], 2.0)
    assert swim.state(ANN) is NodeState.FAILED
    assert [claim.point for to, claim in sent(effects, Claim) if to == ANN] == [(1, 4)]
    swim.handle([word(ANN, 5)], ANN, 2.1)
    assert swim.state(ANN) is NodeState.ALIVE
