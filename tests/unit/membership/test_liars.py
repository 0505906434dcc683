"""What one member can make another do, bounded: by hand, one machine at a time."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from bms.errors import RemoteProtocolError
from bms.membership.believed import Believed
from bms.membership.claims import Ack, Changed, Claim, Delta, Effect, Kind, Message, Ping, PingRequest, Send, SyncAsk
from bms.membership.pacing import Pacing
from bms.membership.packets import encode_packet, parse_packet_untrusted
from bms.membership.swim import Swim
from bms.membership.tuning import Tuning
from bms.security.trust import Trust
from bms.values import NodeId, NodeState
from bms.wire.codec import encode
from helpers import make_authority

Q, LIAR, BEN, CYD = (NodeId(f"{number:064x}") for number in range(4))


def claim(of: NodeId, incarnation: int = 1, kind: Kind = Kind.ALIVE, by: NodeId | None = None, boot: int = 1) -> Claim:
    return Claim(of, boot, incarnation, kind, by or of, 200)


def machine() -> Swim:
    swim = Swim(
        claim(Q),
        accuse=lambda of, boot, incarnation, kind: claim(of, incarnation, kind, Q, boot),
        refute=lambda incarnation: claim(Q, incarnation),
        chance=random.Random(1),
        tuning=Tuning(),
    )
    swim.meet({node_id: claim(node_id) for node_id in (LIAR, BEN, CYD)})
    return swim


def run(swim: Swim, until: float) -> list[Effect]:
    effects: list[Effect] = []
    while (deadline := swim.deadline()) is not None and deadline <= until:
        effects += swim.tick(deadline)
    return effects


def changes(effects: Iterable[Effect], node_id: NodeId) -> list[str]:
    return [effect.what for effect in effects if isinstance(effect, Changed) and effect.node_id == node_id]


# ---------------------------------------------------------------------- pacing


def test_a_key_gets_its_burst_and_then_one_in_each_interval() -> None:
    pacing = Pacing(3)
    granted = [step / 10 for step in range(100) if pacing.grants("a", step / 10, 1.0)]
    assert granted[:3] == [0.0, 0.1, 0.2]
    assert 3 + 8 <= len(granted) <= 3 + 10
    assert pacing.grants("b", 9.9, 1.0)


def test_a_key_that_was_quiet_has_its_burst_again_and_no_more() -> None:
    pacing = Pacing(3)
    for now in (0.0, 1000.0):
        assert [pacing.grants("a", now, 1.0) for _ in range(5)] == [True] * 3 + [False] * 2
    pacing.forget("a")
    assert len(pacing) == 0
    assert pacing.grants("a", 1000.0, 1.0)


# ---------------------------------------------------------------------- words


def test_of_a_flood_of_a_members_words_a_few_are_events_and_the_last_one_counts() -> None:
    swim = machine()
    effects: list[Effect] = []
    for number in range(1000):
        effects += swim.handle([claim(LIAR, 2 + number)], LIAR, number / 1000)
    assert swim.known[LIAR].incarnation < 1001
    effects += run(swim, 2.0)
    assert swim.known[LIAR].incarnation == 1001
    assert 20 <= len(changes(effects, LIAR)) <= 20 + 5 + 2
    assert not swim._held


def test_a_flood_of_a_members_words_takes_nothing_from_another() -> None:
    swim = machine()
    for number in range(1000):
        swim.handle([claim(LIAR, 2 + number)], LIAR, 0.0)
    assert changes(swim.handle([claim(BEN, 2)], BEN, 0.0), BEN) == ["updated"]
    swim.handle([claim(CYD, 1, Kind.SUSPECT, LIAR)], LIAR, 0.0)
    assert changes(swim.handle([claim(CYD, 2)], CYD, 0.0), CYD) == ["joined"]


def test_of_a_held_word_that_is_outdone_meanwhile_nothing_comes() -> None:
    swim = machine()
    for number in range(30):
        swim.handle([claim(LIAR, 2 + number)], LIAR, 0.0)
    swim.handle([claim(LIAR, 500, Kind.LEFT)], LIAR, 0.0)
    effects = run(swim, 0.5)
    assert changes(effects, LIAR) == ["left"]
    assert swim.state(LIAR) is NodeState.LEFT


def test_who_is_accused_all_the_time_takes_it_back_now_and_then_and_all_of_it() -> None:
    swim = machine()
    for number in range(1000):
        swim.handle([claim(Q, 1 + number, Kind.DEAD, LIAR)], LIAR, number / 1000)
    refuted = swim.me.incarnation
    assert refuted < 1000
    run(swim, 3.0)
    assert swim.me.incarnation == 1001


def test_an_old_accusation_is_answered_a_few_times() -> None:
    swim = machine()
    swim.handle([claim(Q, 1, Kind.DEAD, LIAR)], LIAR, 0.0)
    effects: list[Effect] = []
    for _ in range(1000):
        effects += swim.handle([claim(Q, 1, Kind.DEAD, LIAR)], LIAR, 1.0)
    assert len([effect for effect in effects if isinstance(effect, Send)]) == 4


@pytest.mark.parametrize(("boot", "incarnation"), [(1, 2**48), (1, 1027), (2, 1), (2**62, 1)])
def test_nobody_is_removed_at_a_point_of_its_life_from_which_it_could_not_come_back(
    boot: int, incarnation: int
) -> None:
    swim = machine()
    swim.handle([claim(BEN, 2, Kind.LEFT)], BEN, 0.0)
    assert changes(swim.handle([claim(BEN, incarnation, Kind.REMOVED, LIAR, boot)], LIAR, 1.0), BEN) == []
    assert swim.state(BEN) is NodeState.LEFT
    assert changes(swim.learn([claim(BEN, 3)], 2.0), BEN) == ["joined"]


@pytest.mark.parametrize("lie", ["news of itself", "knows of a million members"])
def test_who_makes_up_news_all_the_time_has_views_compared_hardly_more_often(lie: str) -> None:
    swim = machine()
    swim.start(0.0)
    asked = 0
    for step in range(3000):
        now = step / 5
        effects = run(swim, now)
        asked += sum(isinstance(m, SyncAsk) for effect in effects if isinstance(effect, Send) for m in effect.messages)
        message = Delta(((claim(LIAR, 2 + step), None),)) if lie == "news of itself" else SyncAsk(1, 1_000_000)
        swim.handle([message], LIAR, now, stream=True)
        for ping in (m for effect in effects if isinstance(effect, Send) for m in effect.messages):
            if isinstance(ping, Ping):
                for node_id in (BEN, CYD):
                    swim.handle([Ack(ping.seq)], node_id, now)
    assert 12 <= asked <= 12 + 600 / 30 + 600 / 22.5 + 1
    assert len(swim._timers) < 100


# ---------------------------------------------------------------------- reflection


@pytest.mark.parametrize("budget_s", [0.0, 0.5])
def test_one_member_has_sixteen_pings_a_period_sent_for_it_answered_or_not(budget_s: float) -> None:
    swim = machine()
    pings = 0
    for step in range(1000):
        now = step / 500
        run(swim, now)
        effects = swim.handle([PingRequest(step, BEN, budget_s)], LIAR, now)
        asked = [message for effect in effects if isinstance(effect, Send) for message in effect.messages]
        for message in asked:
            if isinstance(message, Ping):
                pings += 1
    assert 16 <= pings <= 3 * 16


def test_an_accused_member_is_checked_by_one_probe_at_a_time() -> None:
    swim = machine()
    pings = 0
    for number in range(1000):
        effects = swim.handle([claim(BEN, 1 + number, Kind.SUSPECT, LIAR)], LIAR, 0.0)
        pings += sum(isinstance(m, Ping) for effect in effects if isinstance(effect, Send) for m in effect.messages)
    assert pings <= 1


class _NoReader:
    """Nothing here is signed; lists may be as long as `most`."""

    def __init__(self, most: int = 10) -> None:
        self.most = most

    def word_untrusted(self, record: object) -> Claim | None:
        return None

    card_untrusted = accusation_untrusted = word_untrusted

    def may_list(self, count: int) -> bool:
        return count <= self.most


def test_a_packet_asks_or_answers_once() -> None:
    one: list[Message] = [Ping(1)]
    assert len(parse_packet_untrusted(encode_packet(one, stream=False), _NoReader())[0]) == 1
    for second in ([0, 2], [1, 2, b""], [2, 1, bytes(32), 5], [3, 1], [7, 1, 1], [8, []], [9, []], [10, []]):
        with pytest.raises(RemoteProtocolError, match="more than once"):
            parse_packet_untrusted(encode([[0, 1], second]), _NoReader())


def test_each_sender_may_have_so_many_bytes_decoded_at_once_and_then_a_megabyte_a_second() -> None:
    believed = Believed(Q, Trust(make_authority().bundle), lambda node_id: None)
    for now, allowed in ((0.0, 8), (0.0, 0), (1.0, 1), (3.0, 2), (1000.0, 8)):
        believed.begin(LIAR, now)
        assert sum(believed.may_read(1_000_000) for _ in range(20)) == allowed
        assert believed.dropped == 20 - allowed
    believed.begin(BEN, 0.0)
    assert believed.may_read(1_000_000)


def test_a_list_that_is_too_long_for_its_sender_is_not_read() -> None:
    ids = [bytes([number]) * 32 for number in range(11)]
    for item in ([9, ids], [8, [[node_id, 1, 1, 0] for node_id in ids]], [9, [7] * 11]):
        assert parse_packet_untrusted(encode([item]), _NoReader(10)) == ([], b"")
    for item in ([9, ids], [8, [[node_id, 1, 1, 0] for node_id in ids]]):
        assert len(parse_packet_untrusted(encode([item]), _NoReader(11))[0]) == 1
