"""Real UDP sockets: what `SystemNetwork.open_datagrams` promises, on IPv4, IPv6 and both."""

from __future__ import annotations

import pytest
import trio

from bms.values import Address
from bms.world import DATAGRAM_BYTES_MAX, DRAIN_MAX, DatagramSocket, SystemNetwork

DEADLINE_S = 20


async def open_at(host: str, port: int = 0) -> DatagramSocket:
    bound = await SystemNetwork().open_datagrams(Address(host, port))
    assert bound.address.port
    return bound


async def receive(bound: DatagramSocket, count: int = 1) -> list[tuple[bytes, Address]]:
    found: list[tuple[bytes, Address]] = []
    with trio.fail_after(DEADLINE_S):
        while len(found) < count:
            found += await bound.receive()
    return found


def reachable(bound: DatagramSocket, host: str) -> Address:
    return Address(host, bound.address.port)


@pytest.mark.parametrize(
    ("at", "to", "source"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("::", "127.0.0.1", "127.0.0.1"),
        ("::", "::1", "::1"),
        ("*", "::ffff:127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
    ],
)
async def test_packets_come_and_their_source_can_be_answered(at: str, to: str, source: str) -> None:
    a, b = await open_at(at), await open_at(at)
    try:
        assert a.send_nowait(b"hello", reachable(b, to))
        [(data, seen)] = await receive(b)
        assert (data, seen) == (b"hello", Address(source, a.address.port))
        assert b.send_nowait(b"", seen)
        assert await receive(a) == [(b"", Address(source, b.address.port))]
    finally:
        a.close()
        b.close()


async def test_a_socket_for_both_speaks_with_one_for_ipv4_alone() -> None:
    both, four = await open_at("::"), await open_at("127.0.0.1")
    try:
        assert both.send_nowait(b"from both", four.address)
        [(data, seen)] = await receive(four)
        assert (data, seen) == (b"from both", Address("127.0.0.1", both.address.port))
        assert four.send_nowait(b"back", seen)
        assert await receive(both) == [(b"back", four.address)]
    finally:
        both.close()
        four.close()


async def test_what_cannot_be_sent_is_said_and_nothing_raises() -> None:
    four, six, both = await open_at("127.0.0.1"), await open_at("::1"), await open_at("::")
    try:
        port = four.address.port
        assert not four.send_nowait(b"x", Address("::1", port))
        assert not six.send_nowait(b"x", Address("127.0.0.1", port))
        assert four.send_nowait(b"x", Address("::ffff:127.0.0.1", port))
        for host in ("localhost", "", "127.1", "fe80::1%nowhere", "<broadcast>", "a\x00b", "ü", "1.2.3.4.5"):
            assert not both.send_nowait(b"x", Address(host, port)), host
        for port in (0, -1, 65_536, 2**40):
            assert not both.send_nowait(b"x", Address("127.0.0.1", port))
        assert not four.send_nowait(bytes(70_000), four.address)
        assert not four.send_nowait(b"x", Address("255.255.255.255", port))
    finally:
        for bound in (four, six, both):
            bound.close()
    assert not four.send_nowait(b"x", six.address)


async def test_nobody_at_the_other_end_disturbs_nothing() -> None:
    a, gone, b = await open_at("127.0.0.1"), await open_at("127.0.0.1"), await open_at("127.0.0.1")
    try:
        gone.close()
        for _ in range(100):
            a.send_nowait(b"into the void", gone.address)  # the kernel answers with ICMP
        assert b.send_nowait(b"still here", a.address)
        assert await receive(a) == [(b"still here", b.address)]
    finally:
        a.close()
        b.close()


async def test_what_is_longer_than_a_packet_is_dropped_and_what_comes_after_it_is_not() -> None:
    a, b = await open_at("127.0.0.1"), await open_at("127.0.0.1")
    try:
        for size in (DATAGRAM_BYTES_MAX + 1, DATAGRAM_BYTES_MAX, 9000, 3):
            assert a.send_nowait(bytes(size), b.address)
        assert [len(data) for data, _ in await receive(b, 2)] == [DATAGRAM_BYTES_MAX, 3]
        assert b.receive_nowait() == []
    finally:
        a.close()
        b.close()


async def test_thousands_of_packets_are_read_in_bounded_bursts_and_in_order() -> None:
    a, b = await open_at("127.0.0.1"), await open_at("127.0.0.1")
    try:
        sent = received = bursts = 0
        while sent < 5_000:
            for _ in range(DRAIN_MAX + 40):
                if not a.send_nowait(sent.to_bytes(4, "big"), b.address):
                    break
                sent += 1
            while received < sent:
                found = await receive(b)
                bursts += 1
                assert len(found) <= DRAIN_MAX
                assert [int.from_bytes(data, "big") for data, _ in found] == list(
                    range(received, received + len(found))
                )
                received += len(found)
        assert bursts < sent / 100
        assert b.receive_nowait() == []
    finally:
        a.close()
        b.close()


async def test_closing_wakes_who_waits_and_may_be_done_again() -> None:
    bound = await open_at("127.0.0.1")
    woken = trio.Event()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await bound.receive()
        woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        bound.close()
        bound.close()
        with trio.fail_after(DEADLINE_S):
            await woken.wait()
    with pytest.raises(trio.ClosedResourceError):
        await bound.receive()
    assert bound.receive_nowait() == []
    again = await open_at("127.0.0.1", bound.address.port)
    again.close()


async def test_an_address_is_bound_once_and_what_cannot_be_bound_is_an_error() -> None:
    bound = await open_at("127.0.0.1")
    try:
        with pytest.raises(OSError, match="in use"):
            await open_at("127.0.0.1", bound.address.port)
        with pytest.raises(OSError):
            await open_at("192.0.2.1")
    finally:
        bound.close()
