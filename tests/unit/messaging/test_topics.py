"""Queues of a node's topics: held messages, push-back, missed broadcasts, and their bounds."""

from __future__ import annotations

import itertools

import attrs
import pytest
import trio
import trio.testing

from bms.config import Config
from bms.counters import Counters
from bms.errors import ClosedError
from bms.messaging.topics import Subscription, Topics
from bms.values import Message, Missed, NodeId

SENDER = NodeId("a" * 64)
_numbers = itertools.count(1)


def message(topic: str = "t", body: bytes = b"x") -> Message:
    return Message(str(next(_numbers)), SENDER, topic, body, 0.0)


def topics(**limits: int) -> Topics:
    return Topics(Config(limits=limits), Counters())


async def drained(subscription: Subscription) -> list[Message | Missed]:
    """What waits, without waiting for more."""
    items = []
    while subscription._queue.items:
        items.append(await anext(subscription))
    return items


async def test_direct_messages_wait_for_the_first_subscriber_in_their_order() -> None:
    inbox = topics()
    sent = [message() for _ in range(5)]
    assert all(inbox.offer(each) for each in sent)
    assert inbox.waiting() == 5
    async with inbox.subscribe("t") as first, inbox.subscribe("t") as second:
        assert await drained(first) == sent
        assert await drained(second) == []
    assert inbox.waiting() == 0


async def test_broadcasts_wait_for_nobody() -> None:
    inbox = topics()
    inbox.publish(message())
    async with inbox.subscribe("t") as subscription:
        assert await drained(subscription) == []


async def test_a_direct_message_is_taken_by_all_subscribers_or_by_none() -> None:
    inbox = topics(inbox_messages_max=2)
    async with inbox.subscribe("t") as slow, inbox.subscribe("t") as quick:
        first, second = message(), message()
        assert inbox.offer(first)
        assert inbox.offer(second)
        assert await drained(quick) == [first, second]
        assert not inbox.offer(message())
        assert await drained(quick) == []
        assert await drained(slow) == [first, second]
        assert inbox.offer(message())


async def test_missed_says_exactly_how_many_and_stands_where_they_were() -> None:
    inbox = topics(inbox_messages_max=3)
    async with inbox.subscribe("t") as subscription:
        sent = [message() for _ in range(10)]
        for each in sent[:7]:
            inbox.publish(each)
        assert await anext(subscription) == sent[0]
        inbox.publish(sent[7])
        inbox.publish(sent[8])
        inbox.publish(sent[9])
        got = await drained(subscription)
        assert got == [sent[1], sent[2], Missed(4), sent[7], Missed(2)]


async def test_a_subscriber_that_never_reads_holds_a_bounded_queue_whatever_comes() -> None:
    inbox = topics(inbox_messages_max=10)
    async with inbox.subscribe("t") as subscription:
        for _ in range(10_000):
            inbox.publish(message())
        assert len(subscription._queue.items) == 11
        assert (await drained(subscription))[-1] == Missed(9_990)


async def test_a_queue_is_bounded_in_bytes_too() -> None:
    inbox = topics(inbox_bytes_max=64 * 1024, body_bytes_max=1024)
    taken = 0
    while inbox.offer(message(body=bytes(1000))):
        taken += 1
        assert taken < 1000
    assert taken == 65
    assert inbox.offer(message(body=bytes(536)))
    assert not inbox.offer(message(body=b"x"))


async def test_topics_that_hold_something_are_bounded_in_number_and_free_again_when_taken() -> None:
    inbox = topics(topics_max=2)
    assert inbox.offer(message("a"))
    assert inbox.offer(message("b"))
    assert not inbox.offer(message("c"))
    assert inbox.offer(message("a"))
    async with inbox.subscribe("a") as subscription:
        assert len(await drained(subscription)) == 2
    assert inbox.offer(message("c"))


async def test_a_reader_sleeps_until_something_comes(autojump_clock: trio.testing.MockClock) -> None:
    inbox = topics()
    got: list[Message | Missed] = []

    async def read() -> None:
        async with inbox.subscribe("t") as subscription:
            async for item in subscription:
                got.append(item)  # noqa: PERF401 - each as it comes

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(5)
        assert got == []
        each = message()
        assert inbox.offer(each)
        await trio.sleep(5)
        assert got == [each]
        inbox.close()


async def test_closing_ends_iterators_after_what_is_queued_and_refuses_new_ones_until_opened() -> None:
    inbox = topics()
    async with inbox.subscribe("t") as subscription:
        each = message()
        assert inbox.offer(each)
        inbox.close()
        assert [item async for item in subscription] == [each]
    with pytest.raises(ClosedError):
        async with inbox.subscribe("t"):
            raise AssertionError
    inbox.open()
    async with inbox.subscribe("t"):
        pass


async def test_a_cancelled_reader_loses_no_message() -> None:
    inbox = topics()
    async with inbox.subscribe("t") as subscription:
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(subscription)
        each = message()
        assert inbox.offer(each)
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(subscription)
        assert await drained(subscription) == [each]


async def test_a_topic_without_subscribers_left_holds_again() -> None:
    inbox = topics()
    async with inbox.subscribe("t"):
        pass
    assert inbox.offer(message())
    assert inbox.waiting() == 1


def test_inventing_topics_does_not_hold_more_than_one_queue_may_and_takes_nobody_elses_room() -> None:
    topics = Topics(Config(limits={"inbox_messages_max": 10, "topics_max": 5}), Counters())
    taken = [topics.offer(message(f"invented {number % 20}", b"x")) for number in range(100)]
    assert sum(taken) == 10
    assert topics.waiting() == 10
    other = attrs.evolve(message("honest", b"y"), sender=NodeId("f" * 64))
    assert topics.offer(other)


async def test_what_a_subscriber_took_over_makes_room_for_other_topics() -> None:
    topics = Topics(Config(limits={"inbox_messages_max": 2}), Counters())
    assert topics.offer(message("a", b"1"))
    assert topics.offer(message("a", b"2"))
    assert not topics.offer(message("b", b"3"))
    async with topics.subscribe("a"):
        assert topics.offer(message("b", b"3"))


async def test_who_looks_on_is_shown_each_message_once_it_reaches_the_program() -> None:
    inbox, shown = topics(inbox_messages_max=2), list[tuple[Message, bool]]()
    end = inbox.tap(lambda found, is_held: shown.append((found, is_held)))
    direct, broadcast, refused = message(), message("nobody"), message()
    async with inbox.subscribe("t") as subscription:
        assert inbox.offer(direct)
        inbox.publish(broadcast)
        assert inbox.offer(message())
        assert not inbox.offer(refused), "the queue is full: it will be sent again"
        assert len(await drained(subscription)) == 2
    assert shown[:2] == [(direct, False), (broadcast, False)]
    assert refused not in [found for found, _ in shown]
    end()
    inbox.publish(message())
    assert len(shown) == 3


async def test_who_looks_on_is_shown_a_held_message_when_it_comes_and_when_it_is_taken() -> None:
    inbox, shown = topics(), list[tuple[Message, bool]]()
    inbox.tap(lambda found, is_held: shown.append((found, is_held)))
    sent = message()
    assert inbox.offer(sent)
    async with inbox.subscribe("t"), inbox.subscribe("t"):
        assert shown == [(sent, True), (sent, False)]


def test_an_attended_topic_holds_nothing_and_pushes_nobody_back() -> None:
    inbox, shown = topics(inbox_messages_max=3), list[tuple[Message, bool]]()
    held = message()
    assert inbox.offer(held)
    inbox.tap(lambda found, is_held: shown.append((found, is_held)))
    with inbox.attend("t"), inbox.attend("t"):
        sent = [message() for _ in range(10)]
        assert all(inbox.offer(each) for each in sent)
        assert shown == [(each, False) for each in [held, *sent]]
        assert inbox.waiting() == 0
    assert inbox.offer(message())
    assert inbox.waiting() == 1
    inbox.close()
    with pytest.raises(ClosedError), inbox.attend("t"):
        pass


async def test_an_attended_topic_still_pushes_back_for_its_subscribers() -> None:
    inbox = topics(inbox_messages_max=1)
    with inbox.attend("t"):
        async with inbox.subscribe("t"):
            assert inbox.offer(message())
            assert not inbox.offer(message())
