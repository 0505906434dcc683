"""What a node keeps for each member: counters, windows, and keys through reboots, rotations and forgetting."""

from __future__ import annotations

import itertools

import pytest
from sealed import Club, Member

from bms.security.pairs import Pairs
from bms.security.pairwise import COUNTER_MAX, Drop


@pytest.fixture
def a() -> Member:
    return Member("a")


@pytest.fixture
def b() -> Member:
    return Member("b")


def sealed(pairs: Pairs, to: Member, payload: bytes = b"x") -> bytes:
    packet = pairs.seal(to.node_id, payload)
    assert packet is not None
    return packet


def counter_of(packet: bytes) -> int:
    return int.from_bytes(packet[41:49], "big")


def test_a_packet_is_taken_once_in_any_order_and_only_by_whom_it_is_for(a: Member, b: Member) -> None:
    c = Member("c")
    club = Club(a, b, c)
    mine, theirs, others = club.pairs(a), club.pairs(b), club.pairs(c)
    packets = [sealed(mine, b, bytes([number])) for number in range(50)]
    assert [counter_of(packet) for packet in packets] == list(range(1, 51))
    for number in reversed(range(50)):
        assert theirs.open_untrusted(packets[number]) == (a.node_id, bytes([number]))
    assert {theirs.open_untrusted(packet) for packet in packets} == {Drop.REPLAYED}
    assert others.open_untrusted(packets[0]) is Drop.UNAUTHENTIC
    assert mine.open_untrusted(packets[0]) is Drop.OWN


def test_a_forged_packet_moves_no_window(a: Member, b: Member) -> None:
    club = Club(a, b)
    mine, theirs = club.pairs(a), club.pairs(b)
    packet = sealed(mine, b)
    forged = packet[:41] + COUNTER_MAX.to_bytes(8, "big") + packet[49:]
    assert theirs.open_untrusted(forged) is Drop.UNAUTHENTIC
    assert theirs.open_untrusted(packet) == (a.node_id, b"x")


def test_whoever_is_no_member_is_neither_heard_nor_spoken_to(a: Member, b: Member) -> None:
    club = Club(a, b)
    mine, theirs = club.pairs(a), Club(b).pairs(b)
    assert theirs.open_untrusted(sealed(mine, b)) is Drop.UNKNOWN_SENDER
    assert mine.seal(Member("nobody").node_id, b"") is None
    assert mine.seal(a.node_id, b"") is None


def test_packets_across_meshes_do_not_open(b: Member) -> None:
    stranger = Member("a", mesh_id=bytes(32))
    there = Club(stranger, b).pairs(stranger)
    here = Club(stranger, b).pairs(b)  # even where both sides take the other's record for a member's
    assert here.open_untrusted(sealed(there, b)) is Drop.UNAUTHENTIC


def test_a_new_boot_of_the_sender_begins_a_new_window_and_ends_the_old_ones_packets(a: Member, b: Member) -> None:
    club = Club(a, b)
    theirs = club.pairs(b)
    before = club.pairs(a)
    old, late = sealed(before, b), sealed(before, b)
    assert theirs.open_untrusted(old) == (a.node_id, b"x")
    a.reboot()
    after = club.pairs(a)
    assert theirs.open_untrusted(sealed(after, b)) is Drop.WRONG_BOOT  # not known yet
    club.learn(a)
    packet = sealed(after, b)
    assert counter_of(packet) == 2
    assert theirs.open_untrusted(packet) == (a.node_id, b"x")
    assert theirs.open_untrusted(packet) is Drop.REPLAYED
    assert theirs.open_untrusted(late) is Drop.WRONG_BOOT


def test_after_a_new_boot_of_the_receiver_counters_go_on_and_nothing_old_opens(a: Member, b: Member) -> None:
    club = Club(a, b)
    mine = club.pairs(a)
    old = [sealed(mine, b) for _ in range(3)]
    b.reboot()
    theirs = club.pairs(b)
    assert {theirs.open_untrusted(packet) for packet in old} == {Drop.UNAUTHENTIC}
    club.learn(b)
    packet = sealed(mine, b)
    assert counter_of(packet) == 4
    assert theirs.open_untrusted(packet) == (a.node_id, b"x")


def test_a_rotation_of_box_keys_loses_no_packet_whatever_records_each_side_goes_by(a: Member, b: Member) -> None:
    """Both rotate; each side may be one step behind in what it knows of the other, never two."""

    def steps(member: Member) -> list[object]:
        def both() -> None:
            member.publish([member.new_box_key(), member.box_keys[1]])

        return [None, both, lambda: member.publish(member.box_keys[:1])]

    to_a, to_b = Club(a, b), Club(a, b)  # what each knows of the other
    mine, theirs = to_b.pairs(a), to_a.pairs(b)
    tried = 0
    for changes in zip(steps(a), steps(b), strict=True):
        for change in changes:
            if callable(change):
                change()
        for knowing in itertools.product((False, True), repeat=2):
            if knowing[0]:
                to_b.learn(b)
            if knowing[1]:
                to_a.learn(a)
            for sender, receiver, target, name in ((mine, theirs, b, a), (theirs, mine, a, b)):
                for _ in range(2):
                    assert receiver.open_untrusted(sealed(sender, target)) == (name.node_id, b"x")
                    tried += 1
        to_b.learn(b)
        to_a.learn(a)
    assert tried == 48


def test_a_key_that_is_no_longer_listed_opens_nothing(a: Member, b: Member) -> None:
    club = Club(a, b)
    mine, theirs = club.pairs(a), club.pairs(b)
    late = sealed(mine, b)
    a.publish([a.new_box_key()])
    club.learn(a)
    assert theirs.open_untrusted(late) is Drop.UNAUTHENTIC
    packet = sealed(mine, b)
    assert counter_of(packet) == 2
    assert theirs.open_untrusted(packet) == (a.node_id, b"x")


def test_counters_and_windows_go_on_when_a_key_comes_back(a: Member, b: Member) -> None:
    club = Club(a, b)
    mine, theirs = club.pairs(a), club.pairs(b)
    first = [sealed(mine, b) for _ in range(3)]
    assert theirs.open_untrusted(first[0]) == (a.node_id, b"x")
    old = b.box_keys[0]
    b.publish([b.new_box_key(), old])
    club.learn(b)
    sealed(mine, b)
    b.publish([old])
    club.learn(b)
    again = sealed(mine, b)
    assert counter_of(again) == 5  # the key is that of the first three: no nonce comes twice
    assert theirs.open_untrusted(again) == (a.node_id, b"x")
    assert theirs.open_untrusted(first[0]) is Drop.REPLAYED


def test_what_a_forgotten_member_sent_cannot_be_replayed_when_it_comes_back(a: Member, b: Member) -> None:
    club = Club(a, b)
    mine, theirs = club.pairs(a), club.pairs(b)
    packets = [sealed(mine, b) for _ in range(5)]
    for packet in packets[:4]:
        theirs.open_untrusted(packet)
    theirs.forget(a.node_id)
    theirs.forget(a.node_id)
    assert {theirs.open_untrusted(packet) for packet in packets[:4]} == {Drop.REPLAYED}
    assert theirs.open_untrusted(packets[4]) == (a.node_id, b"x")


def test_what_is_sent_to_a_forgotten_member_repeats_no_counter(a: Member, b: Member) -> None:
    club = Club(a, b)
    mine, theirs = club.pairs(a), club.pairs(b)
    packets = [sealed(mine, b) for _ in range(3)]
    mine.forget(b.node_id)
    packets += [sealed(mine, b) for _ in range(3)]
    assert len({counter_of(packet) for packet in packets}) == 6
    assert all(theirs.open_untrusted(packet) == (a.node_id, b"x") for packet in packets)


def test_more_members_than_there_is_room_for_push_out_the_one_that_was_silent_longest(a: Member) -> None:
    others = [Member(f"m{number}") for number in range(4)]
    club = Club(a, *others)
    mine, theirs = club.pairs(a, peers_max=2), [club.pairs(other) for other in others]
    taken: list[bytes] = []
    seen: set[tuple[Member, int]] = set()
    for _ in range(3):
        for other, pairs in zip(others, theirs, strict=True):
            taken.append(sealed(pairs, a))
            assert mine.open_untrusted(taken[-1]) == (other.node_id, b"x")
            packet = sealed(mine, other)
            assert (other, counter_of(packet)) not in seen
            seen.add((other, counter_of(packet)))
            assert pairs.open_untrusted(packet) == (a.node_id, b"x")
            assert len(mine._peers) == min(2, len(taken))
    assert {mine.open_untrusted(packet) for packet in taken} == {Drop.REPLAYED}


def test_a_member_whose_box_key_gives_no_secret_is_neither_heard_nor_spoken_to(a: Member, b: Member) -> None:
    club = Club(a, b)
    mine, theirs = club.pairs(a), club.pairs(b)
    packet = sealed(mine, b)
    a.list_raw(bytes(32))
    club.learn(a)
    assert theirs.open_untrusted(packet) is Drop.WEAK_KEY
    assert theirs.seal(a.node_id, b"x") is None


def test_a_sender_stops_where_the_counters_end(a: Member, b: Member) -> None:
    club = Club(a, b)
    mine, theirs = club.pairs(a), club.pairs(b)
    sealed(mine, b)
    mine._peers[b.node_id].sent = COUNTER_MAX - 1
    assert theirs.open_untrusted(sealed(mine, b)) == (a.node_id, b"x")
    assert mine.seal(b.node_id, b"x") is None
    mine.forget(b.node_id)
    assert mine.seal(b.node_id, b"x") is None  # forgetting does not turn the counter back
