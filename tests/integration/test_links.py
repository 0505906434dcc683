"""Links between honest members: who gets in, which of two links stays, calls, limits, silence, goodbye."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from bms.config import Config, GossipConfig
from bms.errors import DeliveryError, LimitError, RefusedError, RemoteError, RemoteProtocolError, UnreachableError
from bms.net.link import Link
from bms.values import Address
from bms.wire.messages import Error, Note, Ok, Request, Response
from helpers import Party, make_authority, make_identity, make_record, open_party, until


def answer(link: Link, request: Request) -> None:
    link.send_nowait(Response(request.id, request.body[::-1]))


def note(body: bytes = b"x", counter: int = 1) -> Note:
    return Note(0, 1, counter, "t", body, 0)


async def test_two_members_prove_themselves_and_call_each_other(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    async with open_party(one, routes={Request: answer}) as a, open_party(two, routes={Request: answer}) as b:
        link = await a.pool.dial(b.address)
        assert link.node_id == two.node_id
        assert link.peer.observed is not None
        assert link.peer.observed.host == "127.0.0.1"
        reply = await link.call(Request(0, 1, 1, "t", b"abc"))
        assert isinstance(reply, Response)
        assert reply.body == b"cba"
        await until(lambda: b.up)
        reply = await b.up[0].call(Request(0, 1, 1, "t", b"xyz"))
        assert isinstance(reply, Response)
        assert reply.body == b"zyx"


async def test_many_calls_at_once_get_their_own_answers(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    async with open_party(one) as a, open_party(two, routes={Request: answer}) as b:
        link = await a.pool.dial(b.address)
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            body = number.to_bytes(4, "big") * (1 + number * 50)
            reply = await link.call(Request(0, 1, number, "t", body))
            assert isinstance(reply, Response)
            answers[number] = reply.body
            assert reply.body == body[::-1]

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
        assert len(answers) == 200


async def test_an_error_reply_is_raised_and_the_link_goes_on(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")

    def refuse(link: Link, request: Request) -> None:
        link.send_nowait(Error(request.id, "SomeError", "no"))

    async with open_party(one) as a, open_party(two, routes={Request: refuse}) as b:
        link = await a.pool.dial(b.address)
        for _ in range(2):
            with pytest.raises(RemoteError) as caught:
                await link.call(Request(0, 1, 1, "t", b""))
            assert (caught.value.kind, caught.value.text) == ("SomeError", "no")


# Links that another has replaced are kept for the keep-alive's time-out. A process that stands still for as long takes
# all its links for silent, and nobody dials again here.
BRISK = Config(gossip=GossipConfig(keepalive_interval_s=0.5, keepalive_timeout_s=4.0))


async def test_simultaneous_dials_leave_the_lower_nodes_link_on_both_sides(tmp_path: Path) -> None:
    authority = make_authority()

    async def meet(round_: int) -> None:
        one = make_identity(authority, tmp_path, f"{round_}a")
        two = make_identity(authority, tmp_path, f"{round_}b")
        async with open_party(one, config=BRISK) as a, open_party(two, config=BRISK) as b:

            async def dial(party: Party, address: Address) -> None:
                try:
                    await party.pool.dial(address)
                except UnreachableError:
                    pass  # the other's dial stays

            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial, a, b.address)
                nursery.start_soon(dial, b, a.address)

            def settled(a: Party = a, b: Party = b) -> bool:
                links = [*a.pool.links.values(), *b.pool.links.values()]
                return len(links) == 2 and len(a.pool._all) == 1 and len(b.pool._all) == 1

            await until(settled)
            (at_a,), (at_b,) = a.pool.links.values(), b.pool.links.values()
            assert at_a.dialed != at_b.dialed
            assert at_a.is_open
            assert at_b.is_open

    async with trio.open_nursery() as nursery:
        for round_ in range(5):
            nursery.start_soon(meet, round_)


async def test_who_leaves_before_it_hears_its_welcome_gets_the_link_to_say_so(tmp_path: Path) -> None:
    authority, gate = make_authority(), trio.Event()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    async with open_party(one) as a, open_party(two) as b, trio.open_nursery() as nursery:

        async def relay(near: trio.SocketStream) -> None:
            async with near, await trio.open_tcp_stream(b.address.host, b.address.port) as far:
                async with trio.open_nursery() as ways:
                    ways.start_soon(pass_on, near, far)
                    ways.start_soon(pass_on, far, near)

        async def pass_on(source: trio.SocketStream, target: trio.SocketStream) -> None:
            async for data in source:
                if b.pool.links:
                    await gate.wait()
                await target.send_all(data)

        (listener,) = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
        host, port = listener.socket.getsockname()
        nursery.start_soon(a.pool.dial, Address(host, port))
        await until(lambda: one.node_id in b.pool.links)  # its welcome is on the way
        nursery.start_soon(a.pool.settle, 60)
        await until(lambda: a.pool._is_settling)
        with pytest.raises(UnreachableError, match="not running"):
            await a.pool.dial(b.address)
        gate.set()
        await until(lambda: two.node_id in a.pool.links)
        nursery.cancel_scope.cancel()


async def test_a_second_dial_of_the_same_side_replaces_its_first_link(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    routes: dict[type, Any] = {Request: answer}
    async with open_party(one, config=BRISK, routes=routes) as a, open_party(two, config=BRISK, routes=routes) as b:
        first = await a.pool.dial(b.address)
        second = await a.pool.dial(b.address)
        await until(lambda: not first.is_open and len(b.pool._all) == 1)
        assert second.is_open
        await second.call(Request(0, 1, 1, "t", b""))
        assert all(not last for _, last in b.down)


async def test_a_newer_boot_replaces_the_older_and_an_older_one_is_refused(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    async with open_party(two) as b:
        async with open_party(one, record=make_record(one, boot=1000)) as old:
            first = await old.pool.dial(b.address)
            async with open_party(one, record=make_record(one, boot=2000)) as new:
                await new.pool.dial(b.address)
                await until(lambda: not first.is_open)
                with pytest.raises(UnreachableError, match="newer boot"):
                    await old.pool.dial(b.address)
                assert [link.boot for link in b.pool.links.values()] == [2000]


async def test_one_boot_with_two_boot_ids_is_a_copied_key_and_refused(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    async with open_party(two) as b, open_party(one) as original, open_party(one) as copy:
        await original.pool.dial(b.address)
        with pytest.raises(RefusedError, match="key is in use twice"):
            await copy.pool.dial(b.address)


async def test_a_node_that_dials_itself_is_told_so(tmp_path: Path) -> None:
    async with open_party(make_identity(make_authority(), tmp_path)) as a:
        with pytest.raises((RefusedError, RemoteProtocolError), match="the node itself"):
            await a.pool.dial(a.address)


async def test_more_connections_than_allowed_are_refused_with_the_reason(tmp_path: Path) -> None:
    authority = make_authority()
    identities = [make_identity(authority, tmp_path, str(n)) for n in range(3)]
    async with (
        open_party(identities[0], config=Config(max_connections=1)) as full,
        open_party(identities[1]) as first,
        open_party(identities[2]) as second,
    ):
        await first.pool.dial(full.address)
        with pytest.raises(UnreachableError, match="1 connections"):
            await second.pool.dial(full.address)
        assert len(full.pool.links) == 1


async def test_a_call_on_a_link_that_breaks_says_that_the_outcome_is_unknown(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")

    def cut(link: Link, request: Request) -> None:
        link.end("cut by the test")

    async with open_party(one) as a, open_party(two, routes={Request: cut}) as b:
        link = await a.pool.dial(b.address)
        with pytest.raises(DeliveryError):
            await link.call(Request(0, 1, 1, "t", b""))
        with pytest.raises(UnreachableError):
            await link.call(Request(0, 1, 1, "t", b""))


async def test_a_message_larger_than_the_peers_frame_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    small = Config(limits={"frame_bytes_max": 65536, "body_bytes_max": 60000})
    async with open_party(one) as a, open_party(two, config=small, routes={Request: answer}) as b:
        link = await a.pool.dial(b.address)
        with pytest.raises(LimitError):
            await link.call(Request(0, 1, 1, "t", bytes(70_000)))
        await link.call(Request(0, 1, 1, "t", bytes(60_000)))


async def test_a_full_send_queue_says_so_and_takes_again_when_the_peer_reads(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    received: list[int] = []

    def count(link: Link, message: Note) -> None:
        received.append(message.counter)
        link.send_nowait(Ok(message.id))

    limits = Config(limits={"link_queue_bytes_max": 65536, "frame_bytes_max": 65536, "body_bytes_max": 32768})
    async with open_party(one, config=limits) as a, open_party(two, routes={Note: count}) as b:
        link = await a.pool.dial(b.address)
        taken = 0
        while link.send_nowait(note(bytes(10_000), taken + 1)):
            taken += 1
            assert taken < 1000
        await link.send(note(b"waits", taken + 1))
        await until(lambda: len(received) == taken + 1)
        assert received == list(range(1, taken + 2))


async def test_a_goodbye_comes_after_everything_queued(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    received: list[int] = []
    async with (
        open_party(one) as a,
        open_party(two, routes={Note: lambda link, message: received.append(message.counter)}) as b,
    ):
        link = await a.pool.dial(b.address)
        for number in range(300):
            assert link.send_nowait(note(bytes(5000), number + 1))
        await a.pool.drain(10)
        assert not a.pool.links
        await until(lambda: bool(b.down))
        assert received == list(range(1, 301))
        assert "leaves" in b.down[0][0].reason


async def test_links_work_over_any_stream_and_a_silent_one_is_closed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")

    class Pipes:
        """A network of memory streams, so that virtual time can pass."""

        def __init__(self) -> None:
            self.other: trio.StapledStream[Any, Any] | None = None
            self.made: list[trio.StapledStream[Any, Any]] = []

        async def dial(self, address: Address) -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            self.made.append(ours)
            nursery.start_soon(b.pool.serve, theirs)
            return ours

    network = Pipes()
    async with (
        open_party(one, listen=False) as a,
        open_party(two, listen=False, routes={Request: answer}) as b,
        trio.open_nursery() as nursery,
    ):
        a.pool._world.network = network  # type: ignore[assignment]
        link = await a.pool.dial(Address("pipe", 1))
        await link.call(Request(0, 1, 1, "t", b"hello"))
        await trio.sleep(60)
        assert link.is_open, link.reason
        assert link.rtt_s is not None

        async def swallow(data: bytes) -> None:
            """The network loses everything from now on."""

        network.made[0].send_stream.send_all = swallow
        started = trio.current_time()
        await until(lambda: len(b.down) == 1, 100)
        assert trio.current_time() - started < Config().gossip.keepalive_timeout_s + 2
        assert "silent" in b.down[0][0].reason
        nursery.cancel_scope.cancel()
