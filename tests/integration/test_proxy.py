"""The proxies of `bms.testing`: each fault does what it says, only that, and is counted; bounds hold."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from bms.errors import LocalProtocolError
from bms.testing import proxy as proxies
from bms.testing.network import Line
from bms.testing.proxy import TcpProxy, open_datagram_proxy, open_proxy
from bms.values import Address
from helpers import until


class Server:
    """A server that echoes, or keeps what came; how its connections ended."""

    def __init__(self, echoes: bool) -> None:
        self.echoes = echoes
        self.address = Address("127.0.0.1", 0)
        self.received = b""
        self.ends: list[str] = []
        self.streams: list[trio.SocketStream] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        end = "end"
        try:
            while data := await stream.receive_some():
                self.received += data
                if self.echoes:
                    await stream.send_all(data)
        except trio.BrokenResourceError:
            end = "reset"
        except trio.ClosedResourceError:
            end = "closed here"
        self.ends.append(end)


@asynccontextmanager
async def serving(echoes: bool = True) -> AsyncIterator[Server]:
    server = Server(echoes)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.address = Address(*listeners[0].socket.getsockname()[:2])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def through(proxy: TcpProxy) -> AsyncIterator[trio.SocketStream]:
    """A connection to the proxy, once it leads on to the target."""
    before = proxy.fired["connections"]
    async with await trio.open_tcp_stream(proxy.address.host, proxy.address.port) as stream:
        await until(lambda: proxy.fired["connections"] > before)
        yield stream


async def exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    with trio.fail_after(30):
        while len(data) < size:
            more = await stream.receive_some()
            assert more, f"it ended after {len(data)} bytes"
            data += more
    return data


async def hears_nothing(stream: trio.SocketStream, seconds: float = 0.2) -> bool:
    with trio.move_on_after(seconds) as scope:
        await stream.receive_some()
    return scope.cancelled_caught


async def test_bytes_pass_whole_and_in_order_and_the_end_passes_one_way() -> None:
    body = bytes(range(256)) * 2000
    async with serving(echoes=False) as server, open_proxy(server.address, seed=1, line=Line(0.01, 0.01)) as proxy:
        async with through(proxy) as stream:
            await stream.send_all(body)
            await stream.send_eof()
            await until(lambda: server.ends)
            assert (server.received, server.ends) == (body, ["end"])
            assert proxy.fired["bytes forth"] == len(body)
        await until(lambda: proxy.connections == 0)


async def test_latency_counts_in_each_direction() -> None:
    async with serving() as server:
        async with open_proxy(server.address, seed=1, line=Line(0.2, 0), back=Line(0.1, 0)) as proxy:
            async with through(proxy) as stream:
                begin = trio.current_time()
                await stream.send_all(b"x")
                await exactly(stream, 1)
                assert trio.current_time() - begin >= 0.3


async def test_bandwidth_is_shared_by_the_connections() -> None:
    async with serving() as server:
        async with open_proxy(server.address, seed=1, line=Line(0, 0, bytes_per_s=200_000), back=Line(0, 0)) as proxy:
            async with through(proxy) as one, through(proxy) as two:
                begin = trio.current_time()
                for stream in (one, two):
                    await stream.send_all(bytes(40_000))
                for stream in (one, two):
                    await exactly(stream, 40_000)
                assert trio.current_time() - begin >= 0.4


async def test_a_lost_packet_stalls_the_stream_and_loses_nothing() -> None:
    async with serving() as server, open_proxy(server.address, seed=3, back=Line(0, 0, loss=0.5)) as proxy:
        async with through(proxy) as stream:
            begin = trio.current_time()
            await stream.send_all(b"0123456789")
            for _ in range(20):
                if proxy.fired["stall back"]:
                    break
                await stream.send_all(b"0123456789")
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert proxy.fired["stall back"] >= 1
            assert proxy.fired["stall forth"] == 0
            await until(lambda: len(server.received) >= 10)
            size = len(server.received)
            assert await exactly(stream, size) == b"0123456789" * (size // 10)
            assert trio.current_time() - begin >= 0.2


async def test_blocking_one_way_holds_that_way_alone_and_loses_nothing() -> None:
    async with serving() as server, open_proxy(server.address, seed=1) as proxy:
        async with through(proxy) as stream:
            proxy.back.block()
            await stream.send_all(b"question")
            await until(lambda: server.received == b"question")
            assert await hears_nothing(stream)
            assert proxy.fired["held back"] == 1
            assert proxy.fired["held forth"] == 0
            proxy.back.unblock()
            assert await exactly(stream, 8) == b"question"


async def test_a_connection_made_while_blocked_reaches_the_target_afterwards() -> None:
    async with serving() as server, open_proxy(server.address, seed=1) as proxy:
        proxy.forth.block()
        async with await trio.open_tcp_stream(proxy.address.host, proxy.address.port) as stream:
            await stream.send_all(b"hello")
            assert await hears_nothing(stream)
            assert server.streams == []
            proxy.forth.unblock()
            assert await exactly(stream, 5) == b"hello"


async def test_a_cut_resets_both_sides() -> None:
    async with serving() as server, open_proxy(server.address, seed=1) as proxy:
        async with through(proxy) as stream:
            await until(lambda: server.streams)
            assert proxy.cut() == 1
            with pytest.raises(trio.BrokenResourceError) as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.ECONNRESET
            await until(lambda: server.ends == ["reset"])
        assert proxy.fired["cut"] == 1
        async with through(proxy) as stream:
            await stream.send_all(b"again")
            assert await exactly(stream, 5) == b"again"


async def test_a_silent_cut_tells_nobody_and_is_forgotten_once_both_have_given_up() -> None:
    async with serving() as server, open_proxy(server.address, seed=1) as proxy:
        async with through(proxy) as stream:
            await until(lambda: server.streams)
            assert proxy.cut("nobody") == 1
            await stream.send_all(b"into the dark")
            assert await hears_nothing(stream)
            assert (server.received, server.ends, proxy.connections) == (b"", [], 0)
            assert len(proxy._connections) == 1
        await trio.sleep(0.3)
        assert server.ends == []  # half-open: the server cannot know
        await server.streams[0].aclose()
        await until(lambda: not proxy._connections)


@pytest.mark.parametrize("told", ["client", "target"])
async def test_a_cut_that_one_side_is_told_of_leaves_the_other_half_open(told: str) -> None:
    async with serving() as server, open_proxy(server.address, seed=1) as proxy:
        async with through(proxy) as stream:
            await until(lambda: server.streams)
            proxy.cut(told)  # type: ignore[arg-type]
            if told == "target":
                await until(lambda: server.ends == ["reset"])
                assert await hears_nothing(stream)
            else:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
                await trio.sleep(0.1)
                assert server.ends == []


async def test_a_reset_of_one_program_reaches_the_other() -> None:
    async with serving() as server, open_proxy(server.address, seed=1) as proxy:
        async with through(proxy) as stream:
            await stream.send_all(b"x")
            await exactly(stream, 1)
            proxies._reset(server.streams[0])
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_what_cannot_pass_stays_with_its_sender_and_passes_later() -> None:
    async with serving(echoes=False) as server, open_proxy(server.address, seed=1) as proxy:
        async with through(proxy) as stream:
            proxy.forth.block()
            sent = 0
            with trio.move_on_after(1) as scope:
                while sent < 64 << 20:
                    sent += await stream.socket.send(bytes(65_536))
            assert scope.cancelled_caught
            proxy.forth.unblock()
            await until(lambda: len(server.received) == sent)


async def test_connections_beyond_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "CONNECTIONS_MAX", 1)
    async with serving() as server, open_proxy(server.address, seed=1) as proxy:
        async with through(proxy), await trio.open_tcp_stream("127.0.0.1", proxy.address.port) as second:
            with pytest.raises(trio.BrokenResourceError):
                await second.receive_some()
            assert proxy.fired["refused"] == 1
        await until(lambda: proxy.connections == 0)
        await until(lambda: proxy._taken == 0)
        async with through(proxy) as stream:
            await stream.send_all(b"x")
            assert await exactly(stream, 1) == b"x"


async def test_without_a_target_connections_are_reset_and_it_may_be_given_later() -> None:
    async with serving() as server, open_proxy(None, seed=1) as proxy:
        for refusing in (False, True):
            proxy.is_refusing = refusing
            async with await trio.open_tcp_stream("127.0.0.1", proxy.address.port) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            proxy.target = server.address
        proxy.is_refusing = False
        async with through(proxy) as stream:
            await stream.send_all(b"x")
            assert await exactly(stream, 1) == b"x"
        assert proxy.fired["refused"] == 2


@pytest.mark.parametrize(
    "address", ["0.0.0.0:80", "192.0.2.1:80", "[::]:80", "[2001:db8::1]:80", "[::ffff:127.0.0.1]:80", "localhost:80"]
)
async def test_only_loopback_addresses_are_served_and_dialed(address: str) -> None:
    for opening in (open_proxy, open_datagram_proxy):
        with pytest.raises(LocalProtocolError):
            async with opening(address, seed=1):
                pass
        with pytest.raises(LocalProtocolError):
            async with opening(None, seed=1, host=Address.parse(address).host):
                pass
    async with open_proxy("[::1]:9", seed=1, host="::1") as proxy:
        assert proxy.address.host == "::1"
        with pytest.raises(LocalProtocolError):
            proxy.target = address


# --- datagrams


@asynccontextmanager
async def echoing() -> AsyncIterator[Address]:
    """A datagram server that echoes."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))

        async def serve() -> None:
            while True:
                data, sender = await sock.recvfrom(65_535)
                await sock.sendto(data, sender)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield Address(*sock.getsockname())
            nursery.cancel_scope.cancel()


async def echoes(address: Address, count: int, quiet_s: float = 0.75) -> list[int]:
    """Send numbered datagrams; the numbers that came back until nothing more came.

    That is: twice running. Where all stands still for a while, one wait is over before anybody else had a turn.
    """
    found: list[int] = []
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        for number in range(count):
            await sock.sendto(number.to_bytes(4, "big"), (address.host, address.port))
        quiet = 0
        while quiet < 2:
            quiet += 1
            with trio.move_on_after(quiet_s):
                found.append(int.from_bytes(await sock.recv(100), "big"))
                quiet = 0
        return found


async def test_datagrams_pass_unchanged_and_in_order_where_no_fault_is_on() -> None:
    async with echoing() as server, open_datagram_proxy(server, seed=1, line=Line(0.01, 0.02)) as proxy:
        assert await echoes(proxy.address, 100) == list(range(100))
        assert proxy.fired["datagrams"] == 200


async def test_lost_duplicated_and_overtaken_datagrams_are_those_that_were_counted() -> None:
    line = Line(0.0, 0.0, loss=0.2, duplication=0.2, reordering=0.2)
    async with echoing() as server, open_datagram_proxy(server, seed=5, line=line, back=Line(0, 0)) as proxy:
        found = await echoes(proxy.address, 200)
        fired = proxy.fired
        assert 10 < fired["loss"] < 90
        assert 10 < fired["duplicate"] < 90
        assert len(set(found)) == 200 - fired["loss"]
        assert len(found) == 200 - fired["loss"] + fired["duplicate"]
        assert fired["overtaken"] > 10
        assert found != sorted(found)


async def test_a_seed_decides_which_datagrams_are_lost() -> None:
    found = []
    for seed in (1, 1, 2):
        async with echoing() as server:
            async with open_datagram_proxy(server, seed=seed, line=Line(0, 0, loss=0.5), back=Line(0, 0)) as proxy:
                found.append(await echoes(proxy.address, 100))
    assert found[0] == found[1] != found[2]


async def test_a_blocked_way_drops_datagrams_until_it_is_unblocked() -> None:
    async with echoing() as server, open_datagram_proxy(server, seed=1) as proxy:
        proxy.back.block()
        assert await echoes(proxy.address, 5) == []
        assert (proxy.fired["blocked back"], proxy.fired["blocked forth"]) == (5, 0)
        proxy.back.unblock()
        assert await echoes(proxy.address, 5) == [0, 1, 2, 3, 4]


async def test_datagrams_beyond_the_bounds_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "DATAGRAMS_MAX", 10)
    async with echoing() as server, open_datagram_proxy(server, seed=1, line=Line(0.2, 0)) as proxy:
        assert await echoes(proxy.address, 50) == list(range(10))
        assert proxy.fired["dropped forth"] == 40
        monkeypatch.setattr(proxies, "CLIENTS_MAX", 1)
        assert await echoes(proxy.address, 3) == []
        assert proxy.fired["dropped forth"] == 43
