"""Peers that say nothing, or a byte a second: each is given its time and no more (virtual time, memory streams)."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hostile import Raw, context_of, hello_of, over
from trio.testing import MockClock

from bms.config import Config
from bms.errors import UnreachableError
from bms.security.identity import Identity
from bms.values import Address
from bms.wire.framing import frame
from bms.wire.messages import CloseCode, Hello, Note, Ping, encode_message
from helpers import Party, make_authority, make_identity, make_record, open_party, until

HANDSHAKE_S = Config().limits.handshake_timeout_s
SILENT_S = Config().gossip.keepalive_timeout_s


class Trickle(trio.abc.Stream):
    """A stream that sends one byte a second."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for byte in bytes(data):
            await self._stream.send_all(bytes([byte]))
            await trio.sleep(1)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


@attrs.define
class Stage:
    """A party that listens on memory streams, and a member who attacks it."""

    folder: Path
    party: Party
    attacker: Identity
    honest: Identity
    nursery: trio.Nursery

    def stream(self) -> trio.abc.Stream:
        """A connection to the party, without TLS."""
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.party.pool.serve, theirs)
        return ours

    async def connect(self) -> Raw:
        """A connection with TLS and the right certificate."""
        return await over(self.stream(), context_of(self.folder, self.attacker))

    async def serves_an_honest_member(self) -> None:
        raw = await over(self.stream(), context_of(self.folder, self.honest))
        await raw.join(self.honest)
        await until(lambda: self.party.pool.link(self.honest.node_id), 1)
        await raw.cut()
        await until(lambda: not self.party.pool.link(self.honest.node_id), 1)

    async def gives_up_after(self, seconds: float) -> None:
        """The one unfinished handshake is ended by its deadline; an honest member is served before and after."""
        started = trio.current_time()
        assert self.party.pool._handshakes.count == 1
        await self.serves_an_honest_member()
        await until(lambda: not self.party.pool._handshakes.count, 100)
        assert trio.current_time() - started == pytest.approx(seconds, abs=0.5)
        assert self.party.counters["net.handshakes_failed"] == 1
        await self.serves_an_honest_member()
        assert self.attacker.node_id not in [link.node_id for link in self.party.up]


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    authority = make_authority()
    target, attacker, honest = (make_identity(authority, folder, name) for name in ("target", "attacker", "honest"))
    async with open_party(target, listen=False) as party, trio.open_nursery() as nursery:
        yield Stage(folder, party, attacker, honest, nursery)
        await until(lambda: not party.pool._handshakes.count and not party.pool.links, 100)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_never_says_anything_has_the_handshakes_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with stage(tmp_path) as scene:
        scene.stream()
        await trio.testing.wait_all_tasks_blocked()
        await scene.gives_up_after(HANDSHAKE_S)


async def test_of_one_address_that_connects_without_end_most_is_turned_away_before_tls(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with stage(tmp_path) as scene:

        async def shout(times: int) -> tuple[int, int]:
            """Garbage again and again, in no time: how often it got as far as TLS, and how often not."""
            names = "net.handshakes_failed", "net.connections_over_limit"
            before = [scene.party.counters[name] for name in names]
            for _ in range(times):
                stream = scene.stream()
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                await trio.testing.wait_all_tasks_blocked()
            failed, over = (scene.party.counters[name] - old for name, old in zip(names, before, strict=True))
            return failed, over

        assert await shout(200) == (128, 72)
        await trio.sleep(0.5)
        assert await shout(100) == (32, 68)
        await trio.sleep(0.05)  # refusals have cost nothing
        await scene.serves_an_honest_member()


async def test_a_byte_a_second_of_tls_wins_no_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with stage(tmp_path) as scene:

        async def crawl() -> None:
            with pytest.raises((trio.BrokenResourceError, ssl.SSLError, trio.ClosedResourceError)):
                await over(Trickle(scene.stream()), context_of(scene.folder, scene.attacker))

        scene.nursery.start_soon(crawl)
        await trio.testing.wait_all_tasks_blocked()
        await scene.gives_up_after(HANDSHAKE_S)


async def crawl(raw: Raw, data: bytes) -> None:
    """Send a byte a second, until the other side has had enough."""
    try:
        for byte in data:
            await raw.send(bytes([byte]))
            await trio.sleep(1)
        raise AssertionError("all of it was taken")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def test_a_byte_a_second_of_hello_wins_no_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with stage(tmp_path) as scene:
        raw = await scene.connect()

        scene.nursery.start_soon(crawl, raw, frame(encode_message(hello_of(scene.attacker))))
        await trio.testing.wait_all_tasks_blocked()
        await scene.gives_up_after(HANDSHAKE_S)


async def test_silence_instead_of_the_proof_wins_no_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with stage(tmp_path) as scene:
        raw = await scene.connect()
        await trio.sleep(HANDSHAKE_S - 2)
        await raw.introduce(hello_of(scene.attacker))
        await scene.gives_up_after(2)


async def thrown_out(scene: Stage, raw: Raw, seconds: float) -> None:
    started = trio.current_time()
    close = await raw.fate()
    assert close is not None
    assert close.code == CloseCode.SILENT
    assert seconds - 1 <= trio.current_time() - started <= seconds + 2
    await until(lambda: not scene.party.pool.links, 1)
    await scene.serves_an_honest_member()


async def test_a_link_that_falls_silent_is_closed_with_that_reason(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with stage(tmp_path) as scene:
        raw = await scene.connect()
        await raw.join(scene.attacker)
        await thrown_out(scene, raw, SILENT_S)


async def test_a_byte_a_second_inside_a_frame_is_silence(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with stage(tmp_path) as scene:
        raw = await scene.connect()
        await raw.join(scene.attacker)

        scene.nursery.start_soon(crawl, raw, frame(encode_message(Note(1, 1, 1, "t", bytes(1000), 0))))
        await thrown_out(scene, raw, SILENT_S)


async def test_a_large_frame_that_comes_slowly_but_does_come_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    received: list[Any] = []
    async with stage(tmp_path) as scene:
        scene.party.pool._routes[Note] = lambda link, note: received.append(note)  # type: ignore[index]
        raw = await scene.connect()
        await raw.join(scene.attacker)
        data = frame(encode_message(Note(1, 1, 1, "t", bytes(20_000), 0)))
        for start in range(0, len(data), 600):
            await raw.send(data[start : start + 600])
            await trio.sleep(1)
        await until(lambda: received, 1)
        assert trio.current_time() > 30
        await raw.cut()


async def test_a_peer_that_only_pings_stays(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with stage(tmp_path) as scene:
        raw = await scene.connect()
        await raw.join(scene.attacker)
        for number in range(1, 30):
            await raw.send(Ping(number, 0))
            await trio.sleep(SILENT_S - 1)
        assert scene.party.pool.link(scene.attacker.node_id) is not None
        await raw.cut()


@pytest.mark.parametrize("manner", ["silent", "silent after hello", "a byte a second"])
async def test_a_dialer_gives_a_slow_server_the_handshakes_time(
    tmp_path: Path, autojump_clock: MockClock, manner: str
) -> None:
    """`a byte a second`: the server's half of TLS crawls."""
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    context = context_of(tmp_path, two, server=True)

    class Pipe:
        async def dial(self, address: Address) -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(serve, theirs)
            return ours

    async def serve(stream: trio.abc.Stream) -> None:
        if manner == "silent":
            await trio.sleep_forever()
        tls = trio.SSLStream(Trickle(stream) if "byte" in manner else stream, context, server_side=True)
        try:
            raw = Raw(tls)
            await raw.receive_a(Hello)
            await trio.sleep_forever()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, AssertionError):
            pass  # the dialer has given up

    async with open_party(one, listen=False, record=make_record(one)) as party, trio.open_nursery() as nursery:
        party.pool._world.network = Pipe()  # type: ignore[assignment]
        started = trio.current_time()
        with pytest.raises(UnreachableError, match="no handshake within"):
            await party.pool.dial(Address("pipe", 1))
        assert trio.current_time() - started == pytest.approx(HANDSHAKE_S, abs=0.1)
        assert not party.pool.links
        nursery.cancel_scope.cancel()
