"""Clients that mean harm, on real sockets: each loses its connection, and neither the mesh nor other clients notice.

"Other clients" come from another address of the loopback network where the attack uses up its own address's share.
"""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h2.errors
import h2.events
import h2.settings
import pytest
import trio
from web import DEADLINE_S, Http2Client, Site, answer_of, ask, dial, forget_clients, get, open_site, serve_site, tls

from bms.api.guard import UNDER_WAY_OF_ONE_MAX
from bms.limits import Gate, Rates, address_key
from helpers import cluster, until

HELLO = b"GET /hello/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET /echo/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
OTHER = "127.0.0.2"
BARS_FOR_LONG = 0.5
"""Requests a second: 10 at once. Who is 10 in debt is barred for 20 s, longer than a machine stands still."""


async def ended(stream: trio.abc.Stream) -> bytes:
    """What comes until the server has closed the connection."""
    data = b""
    with trio.fail_after(DEADLINE_S):
        try:
            while more := await stream.receive_some(65536):
                data += more
        except trio.BrokenResourceError:
            pass
    return data


async def poured(stream: trio.abc.Stream, data: bytes) -> bytes:
    """What comes while this is sent again and again, until the server has closed the connection."""

    async def pour() -> None:
        try:
            while True:
                await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        answer = await ended(stream)
        nursery.cancel_scope.cancel()
    return answer


# ---------------------------------------------------------------------- the three that end a stock Hypercorn


@pytest.mark.parametrize("settings", [b"AAMAAABk!!!", b"", b"AA", b"A" * 20_000])
async def test_an_upgrade_to_h2c_with_bad_settings_is_an_ordinary_request(settings: bytes) -> None:
    async with open_site() as site, await dial(site.http) as stream:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: " + settings + b"\r\n\r\n"
        assert (await ask(stream, HELLO.removesuffix(b"\r\n") + upgrade)).status == 200
        assert (await get(site.http)).status == 200
        assert site.count("http.errors") == 0


@pytest.mark.parametrize("path", [b"/echo/", b"/late/"])
async def test_bytes_behind_a_websocket_upgrade_end_that_connection(path: bytes) -> None:
    async with open_site() as site:
        async with await dial(site.http) as stream:
            await stream.send_all(UPGRADE.replace(b"/echo/", path) + b"\r\n" + b"these are no frames" * 10)
            assert (await ended(stream)).startswith(b"HTTP/1.1 ")
        await site.settle()
        assert (await get(site.http)).status == 200
        assert site.count("http.errors") == 0


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n\r\nabcde", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
async def test_an_upgrade_with_a_body_is_refused(framing: bytes) -> None:
    async with open_site() as site:
        async with await dial(site.http) as stream:
            assert (await ask(stream, UPGRADE + framing)).status == 400
        await site.settle()
        assert (await get(site.http)).status == 200
        assert site.count("http.errors") == 0


# ---------------------------------------------------------------------- slow


@pytest.mark.parametrize("path", ["/stream/", "/big/50000000"])
async def test_a_client_that_does_not_read_loses_its_connection(path: str) -> None:
    async with open_site(send_timeout_s=0.3) as site:
        stream = await dial(site.http, receive_buffer=4096)
        await stream.send_all(HELLO.replace(b"/hello/", path.encode()))
        await until(lambda: site.seen)
        await site.settle()
        assert site.count("http.broken") + site.count("http.slow_readers") >= 1
        assert site.count("http.errors") == 0


async def test_a_client_that_opens_no_window_in_http_2_loses_its_connection() -> None:
    async with open_site(https=True, send_timeout_s=0.3) as site:
        client = await Http2Client.connect(site.https)
        client.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        await client.request("/big/500000")
        assert await client.hear(h2.events.DataReceived) is None
        await site.settle()
        assert site.count("http.slow_readers") == 1


async def test_a_stop_does_not_wait_for_a_client_that_does_not_read() -> None:
    async with open_site(https=True, drain_s=0.3) as site:
        for address, context in ((site.http, None), (site.https, tls())):
            stream = await dial(address, context, receive_buffer=4096)
            await stream.send_all(HELLO.replace(b"hello", b"stream"))
        await until(lambda: len(site.seen) == 2)
        with trio.fail_after(DEADLINE_S):
            await site.mesh.stop()
        assert site.connections == 0


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_header_that_does_not_end_ends_the_connection(begun: bytes) -> None:
    async with open_site(header_timeout_s=0.3) as site, await dial(site.http) as stream:

        async def dribble() -> None:
            try:
                await stream.send_all(begun)
                while begun:
                    await stream.send_all(b"a: b\r\n")
                    await trio.sleep(0.02)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble)
            assert await ended(stream) == b""
            nursery.cancel_scope.cancel()
        assert site.count("http.timeouts") == 1


async def test_a_second_header_on_a_connection_that_does_not_end_ends_it() -> None:
    async with open_site(idle_timeout_s=600.0) as site, await dial(site.http) as stream:
        assert (await ask(stream, HELLO)).status == 200
        await site.mesh.reconfigure(http={"header_timeout_s": 0.3})  # the first one had all the time it needs
        await stream.send_all(b"GET / HT")
        assert await ended(stream) == b""


async def test_a_handshake_that_does_not_end_ends_the_connection() -> None:
    async with open_site(https=True, header_timeout_s=0.3) as site:
        for begun in (b"", b"\x16\x03\x01\x02\x00"):
            async with await dial(site.https) as stream:
                if begun:
                    await stream.send_all(begun)
                assert await ended(stream) == b""
        assert site.count("http.slow_handshakes") == 2


async def test_an_http_2_client_that_never_asks_is_closed() -> None:
    async with open_site(https=True, idle_timeout_s=0.4) as site:
        client = await Http2Client.connect(site.https)

        async def ping() -> None:
            while not client.is_closed:
                client.connection.ping(b"12345678")
                await client.flush()
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping)
            assert await client.hear(h2.events.ConnectionTerminated) is not None
            nursery.cancel_scope.cancel()
        assert site.count("http.timeouts") == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 10000", b"Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_answered_408(framing: bytes) -> None:
    async with open_site(body_timeout_s=0.3) as site, await dial(site.http) as stream:
        answer = await ask(stream, b"POST /body/ HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n1\r\n")
        assert answer.status == 408
        assert b"problem+json" in answer.head
        await ended(stream)
        assert site.count("http.slow_bodies") == 1


async def test_a_body_that_does_not_come_in_http_2_is_answered_408() -> None:
    async with open_site(https=True, body_timeout_s=0.3) as site:
        client = await Http2Client.connect(site.https)
        client.connection.send_headers(1, client.headers("/body/", "POST"))
        client.connection.send_data(1, b"a")
        await client.flush()
        answer = await client.hear(h2.events.ResponseReceived)
        assert dict(answer.headers)[":status"] == "408"
        assert await client.body(await client.request()) == b"hello"


# ---------------------------------------------------------------------- large


async def test_ten_gigabytes_are_refused_before_any_is_read() -> None:
    async with open_site() as site:
        for length in (b"10000000000", b"9" * 200):
            async with await dial(site.http) as stream:
                head = b"PUT /body/ HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n"
                assert (await ask(stream, head + bytes(100_000))).status in (400, 413)
        assert site.seen == []


async def test_a_chunked_body_without_end_is_cut_at_the_bound() -> None:
    async with open_site(body_bytes_max=1 << 20) as site, await dial(site.http) as stream:
        await stream.send_all(b"PUT /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0

        async def pour() -> None:
            nonlocal sent
            try:
                while True:
                    await stream.send_all(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                    sent += 0x10000
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            assert (await answer_of(stream)).status == 413
            await ended(stream)
            nursery.cancel_scope.cancel()
        assert sent < 1 << 28
        await site.settle()


@pytest.mark.parametrize(
    "head", [b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 40_000]
)
async def test_a_header_that_is_too_long_is_refused(head: bytes) -> None:
    async with open_site() as site, await dial(site.http) as stream:
        assert (await ask(stream, head)).status == 431
        await ended(stream)
        assert site.seen == []


async def test_a_header_that_is_too_long_ends_an_http_2_connection() -> None:
    async with open_site(https=True) as site:
        client = await Http2Client.connect(site.https)
        await client.hear(h2.events.RemoteSettingsChanged)
        await client.request(**{f"x-{number}": "y" * 4000 for number in range(12)})
        assert await client.hear(h2.events.ResponseReceived) is None
        assert site.seen == []
        assert site.count("http.errors") == 0


@pytest.mark.parametrize("size", [5, 100_000])
async def test_a_header_of_too_many_fields_is_refused_before_it_is_parsed(size: int) -> None:
    async with open_site() as site:
        for count, end, status in ((99, b"\r\n", 200), (100, b"\r\n", 431), (7500, b"\r\n", 431), (101, b"", 431)):
            head = HELLO.removesuffix(b"\r\n") + b"a:\r\n" * count + end
            async with await dial(site.http) as stream:
                for start in range(0, min(len(head), 1000 * size), size):
                    try:
                        await stream.send_all(head[start : start + size])
                    except trio.BrokenResourceError:
                        break
                assert (await answer_of(stream)).status == status
        chunked = b"POST /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        async with await dial(site.http) as stream:  # and trailers
            assert (await ask(stream, chunked + b"a:\r\n" * 99 + b"\r\n")).status == 200
            await stream.send_all(chunked + b"a:\r\n" * 200 + b"\r\n")
            assert b" 200 " not in await ended(stream)
        assert len(site.seen) == 3


async def test_a_header_of_too_many_fields_ends_an_http_2_connection() -> None:
    async with open_site(https=True) as site:
        client = await Http2Client.connect(site.https)
        assert await client.body(await client.request(**{f"x-{number}": "" for number in range(100)})) == b"hello"
        await client.request(**{f"x-{number}": "" for number in range(101)})
        goodbye = await client.hear(h2.events.ConnectionTerminated)
        assert goodbye.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert len(site.seen) == 1
        assert site.mesh.counters.labelled("http.floods") == {("fields of a header",): 1}


async def test_a_websocket_message_that_is_too_long_ends_it_with_its_code() -> None:
    async with open_site(body_bytes_max=100_000) as site, await dial(site.http) as stream:
        await stream.send_all(UPGRADE + b"\r\n")
        head = bytes(await stream.receive_some(4096))
        assert head.startswith(b"HTTP/1.1 101")
        frame = b"\x02\xfe" + (60_000).to_bytes(2, "big") + bytes(4) + bytes(60_000)  # of a message without end
        for number in range(3):
            try:
                await stream.send_all(frame if number == 0 else b"\x00" + frame[1:])
            except trio.BrokenResourceError:
                break
        assert (1009).to_bytes(2, "big") in await ended(stream)
        await site.settle()


# ---------------------------------------------------------------------- floods


async def test_streams_that_are_opened_and_reset_end_the_connection() -> None:
    async with open_site(https=True) as site:
        client = await Http2Client.connect(site.https)
        for _ in range(60):
            for _ in range(20):
                stream_id = client.connection.get_next_available_stream_id()
                client.connection.send_headers(stream_id, client.headers("/wait/"), end_stream=True)
                client.connection.reset_stream(stream_id)
            await client.flush()
            if client.is_closed:
                break
        goodbye = await client.hear(h2.events.ConnectionTerminated)
        assert goodbye is None or goodbye.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        await site.settle()
        assert site.mesh.counters.labelled("http.floods") == {("streams reset",): 1}
        assert len(site.seen) < 250
        assert site.count("http.errors") == 0


async def test_continuation_frames_without_end_end_the_connection() -> None:
    async with open_site(https=True) as site:
        client = await Http2Client.connect(site.https)
        block = client.connection.encoder.encode(client.headers())
        opening = len(block).to_bytes(3, "big") + b"\x01\x01" + (1).to_bytes(4, "big") + block  # no END_HEADERS
        piece = (16_000).to_bytes(3, "big") + b"\x09\x00" + (1).to_bytes(4, "big") + b"\x00" * 16_000
        sent = 0
        try:
            await client.stream.send_all(opening)
            with trio.fail_after(DEADLINE_S):
                while True:
                    await client.stream.send_all(piece)
                    sent += 1
        except trio.BrokenResourceError:
            pass
        assert sent < 1000
        await site.settle()
        assert site.seen == []
        assert site.count("http.errors") == 0


@pytest.mark.parametrize(
    "frame",
    [
        PING,
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\xff\xff",  # SETTINGS
        b"\x00\x00\x05\x02\x00\x00\x00\x00\x03\x00\x00\x00\x00\x10",  # PRIORITY
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x01",  # DATA, empty
        b"\x00\x00\x01\x00\x00\x00\x00\x00\x01a",  # DATA, one byte
    ],
    ids=["ping", "settings", "priority", "empty data", "small data"],
)
async def test_frames_that_carry_nothing_end_the_connection(frame: bytes) -> None:
    async with open_site(https=True) as site:
        client = await Http2Client.connect(site.https)
        client.connection.send_headers(1, client.headers("/body/", "POST"))
        await client.flush()
        await poured(client.stream, frame * 500)
        await site.settle()
        kind = "frames that carry little" if frame.endswith(b"a") else "frames that carry nothing"
        assert site.mesh.counters.labelled("http.floods") == {(kind,): 1}


@pytest.mark.parametrize(
    "frame",
    [b"\x89\x80", b"\x8a\x80", b"\x89\xfd", b"\x82\x80", b"\x81\x81", b"\x00\x80"],
    ids=["ping", "pong", "long ping", "empty message", "small message", "empty fragment"],
)
async def test_websocket_frames_that_carry_nothing_end_the_connection(frame: bytes) -> None:
    async with open_site() as site, await dial(site.http) as stream:
        await stream.send_all(UPGRADE + b"\r\n")
        assert bytes(await stream.receive_some(4096)).startswith(b"HTTP/1.1 101")
        if frame[0] == 0:
            await stream.send_all(b"\x02\x81" + bytes(5))  # the message that it goes on
        data = await poured(stream, (frame + bytes(4 + (frame[1] & 0x7F))) * 500)
        assert data.endswith((1008).to_bytes(2, "big") + b"too many frames that carry nothing")
        await site.settle()
        assert site.mesh.counters.labelled("http.floods") == {("frames that carry nothing",): 1}
        assert site.count("http.errors") == 0


@pytest.mark.parametrize("chunk", [b"1\r\n \r\n", b"2;" + b"a" * 1000 + b"\r\n  \r\n", b"00000000001\r\n \r\n"])
async def test_chunks_that_carry_nothing_end_the_connection(chunk: bytes) -> None:
    async with open_site() as site, await dial(site.http) as stream:
        await stream.send_all(b"POST /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await poured(stream, chunk * 500)).startswith(b"HTTP/1.1 429")
        await site.settle()
        assert site.mesh.counters.labelled("http.floods") == {("chunks that carry little",): 1}
        assert site.count("http.errors") == 0


async def test_small_pieces_of_a_body_wait_and_requests_of_their_address_do_not() -> None:
    async with open_site(https=True, requests_per_s=0.1, body_timeout_s=3) as site:
        head = b"POST /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with await dial(site.http) as stream:
            assert (await ask(stream, head + b"10\r\n0123456789abcdef\r\n" * 100 + b"0\r\n\r\n")).body == b"1600"
        async with await dial(site.http) as stream:
            answer = await ask(stream, head + b"10\r\n0123456789abcdef\r\n" * 300 + b"0\r\n\r\n")
        assert answer.status == 408
        assert (await get(site.http)).status == 200
        client = await Http2Client.connect(site.https, source=OTHER)
        client.connection.send_headers(1, client.headers("/body/", "POST"))
        for _ in range(500):
            client.connection.send_data(1, b"0123456789abcdef")
        await client.flush()
        assert dict((await client.hear(h2.events.ResponseReceived)).headers)[":status"] == "408"
        assert (await get(site.http, source=OTHER)).status == 200


async def test_a_flooding_address_is_shut_out_for_a_while_and_others_are_served() -> None:
    async with open_site(https=True, requests_per_s=BARS_FOR_LONG) as site:
        client = await Http2Client.connect(site.https)
        with trio.move_on_after(DEADLINE_S):
            try:
                while True:
                    await client.stream.send_all(PING * 500)
            except trio.BrokenResourceError:
                pass
        await until(lambda: site.count("http.floods") == 1)
        assert (await get(site.http)).status == 0
        assert site.count("http.refused_connections") >= 1
        assert (await get(site.http, source=OTHER)).status == 200


async def test_bodies_that_turn_out_too_long_cost_their_address_more_than_requests() -> None:
    async with open_site(requests_per_s=0.1, body_bytes_max=4096) as site:
        head = b"PUT /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        said: list[bytes] = []
        while not site.count("http.refused_connections"):
            async with await dial(site.http) as stream:
                try:
                    await stream.send_all(head + b"2000\r\n" + bytes(0x2000) + b"\r\n")
                except trio.BrokenResourceError:
                    pass
                said.append((await ended(stream))[9:12])
        assert said[:2] == [b"413"] * 2  # 10 tokens, and 4.5 for each
        assert said.count(b"413") <= 3
        assert len(said) <= 15
        assert (await get(site.http, source=OTHER)).status == 200


async def test_more_requests_than_an_address_may_make_get_429_and_later_ones_are_served() -> None:
    async with open_site(requests_per_s=2.0) as site:
        async with await dial(site.http) as stream:
            answers = [await ask(stream, HELLO)]
            while answers[-1].status == 200:  # how many there are before depends on how fast they are asked
                answers.append(await ask(stream, HELLO))
            refused = answers.pop()
            assert len(answers) >= 9
            assert refused.status == 429
            assert b"retry-after: 1" in refused.head.lower()
            assert b'"status": 429' in refused.body
            assert (await get(site.http, source=OTHER)).status == 200

            async def again() -> bool:
                return (await ask(stream, HELLO)).status == 200

            with trio.fail_after(DEADLINE_S):
                while not await again():  # noqa: ASYNC110 - the client waits, as it was told to
                    await trio.sleep(1)
        assert site.count("http.refused_rate") >= 1


@pytest.mark.parametrize("secure", [False, True])
async def test_an_address_that_goes_on_asking_loses_its_connections_too(secure: bool) -> None:
    async with open_site(https=True, requests_per_s=BARS_FOR_LONG) as site:
        if secure:
            client = await Http2Client.connect(site.https)
            while not client.is_closed:
                await client.request()
                await client.hear(h2.events.StreamEnded, h2.events.StreamReset)
        else:
            async with await dial(site.http) as stream:
                answers = [answer.status for answer in [await ask(stream, HELLO) for _ in range(40)]]
            assert answers[:9] == [200] * 9
            assert answers[-1] == 0
        assert 429 in {int(status) for _, _, status in site.mesh.counters.labelled("http.requests") if status.isdigit()}
        assert (await get(site.http)).status == 0
        assert (await get(site.http, source=OTHER)).status == 200


async def test_answers_that_nobody_takes_are_bounded_in_number() -> None:
    """In HTTP/2 a client may ask for much and open no window for any of it, on each of many connections."""
    async with open_site(https=True) as site:
        crowd = [await Http2Client.connect(site.https) for _ in range(4)]
        for client in crowd:
            client.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
            for _ in range(90):
                stream_id = client.connection.get_next_available_stream_id()
                client.connection.send_headers(stream_id, client.headers("/big/200000"), end_stream=True)
            await client.flush()
        await until(lambda: len(site.seen) + site.count("http.refused_rate") == 360, DEADLINE_S)
        assert len(site.seen) == UNDER_WAY_OF_ONE_MAX
        assert (await get(site.http)).status == 429
        assert (await get(site.http, source=OTHER)).status == 200
        for client in crowd:
            await client.stream.aclose()
        await site.settle()
        assert (await get(site.http)).status == 200


async def test_websockets_count_as_requests() -> None:
    async with open_site(requests_per_s=0.1) as site:
        async with await dial(site.http) as stream:
            assert [(await ask(stream, HELLO)).status for _ in range(9)] == [200] * 9
        async with await dial(site.http) as stream:
            assert (await ask(stream, UPGRADE + b"\r\n")).status == 429


# ---------------------------------------------------------------------- many


async def test_idle_sockets_give_way_and_nobody_is_locked_out() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 1000 if soft >= 4096 else 300
    async with open_site(connections_max=100, connections_per_address_max=60) as site:
        idle = [await dial(site.http) for _ in range(count)]
        await until(lambda: site.count("http.connections") >= count)
        assert site.connections <= 60
        assert (await get(site.http)).status == 200, "the same address"
        assert (await get(site.http, source=OTHER)).status == 200
        others = [await dial(site.http, source=OTHER) for _ in range(80)]
        await until(lambda: site.count("http.connections") >= count + 82)
        assert site.connections <= 100
        assert (await get(site.http, source="127.0.0.3")).status == 200
        for stream in (*idle, *others):
            await trio.aclose_forcefully(stream)
        await site.settle()


async def test_busy_connections_do_not_give_way() -> None:
    async with open_site(connections_per_address_max=3) as site:
        busy = [await dial(site.http) for _ in range(3)]
        for stream in busy:
            await stream.send_all(HELLO.replace(b"hello", b"wait"))
        await until(lambda: len(site.seen) == 3)
        assert (await get(site.http)).status == 0
        assert site.count("http.refused_connections") == 1
        assert (await get(site.http, source=OTHER)).status == 200
        site.door.set()
        for stream in busy:
            assert (await answer_of(stream)).body == b"done"
        assert (await get(site.http)).status == 200


def test_the_gate_prefers_those_who_hold_most() -> None:
    class Caller:
        def __init__(self, address: str, idle_since: float | None) -> None:
            self.address, self.idle_since, self.is_gone = address, idle_since, False

        def evict(self) -> None:
            self.is_gone = True

    gate = Gate()
    many = [Caller("a", float(number)) for number in range(3)]
    few = [Caller("b", 0.0)]
    for caller in (*many, *few):
        assert gate.admit(caller, connections_max=4, per_address_max=3)
    assert gate.admit(Caller("c", None), connections_max=4, per_address_max=3)
    assert [caller.is_gone for caller in (*many, *few)] == [True, False, False, False]
    gate.leave(many[0])
    assert gate.count == 4
    few[0].idle_since = many[1].idle_since = many[2].idle_since = None
    assert not gate.admit(Caller("d", 0.0), connections_max=4, per_address_max=3)


def test_rates_are_kept_for_each_host_and_debts_are_bounded() -> None:
    rates = Rates(lambda: 10.0)
    assert [rates.take("a", 0.0) for _ in range(21)] == [None] * 20 + [pytest.approx(0.2)]
    assert rates.take("b", 0.0) is None
    for _ in range(100):
        rates.take("a", 0.0)
    assert rates.is_barred("a", 0.0)
    assert rates.is_barred("a", 1.9)
    assert not rates.is_barred("a", 2.0)
    assert rates.take("a", 2.0) is not None
    assert rates.take("a", 2.3) is None
    for number in range(10_000):
        rates.take(str(number), 3.0)
    assert len(rates._budgets) <= 4096


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_host_is_its_network(host: str, key: str) -> None:
    assert address_key(host) == key


# ---------------------------------------------------------------------- garbage


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 1000,
        b"\xff\xfe" * 500,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
        UPGRADE.replace(b"dGhl", b"\x80") + b"\r\n",
    ],
)
async def test_garbage_ends_its_connection_alone(garbage: bytes) -> None:
    async with open_site() as site:
        async with await dial(site.http) as stream, await dial(site.http) as good:
            await stream.send_all(garbage)
            await stream.send_eof()
            await ended(stream)
            assert (await ask(good, HELLO)).status == 200
        await site.settle()
        assert site.count("http.errors") == 0


@pytest.mark.parametrize(
    "head",
    [
        HELLO.replace(b"\r\n", b"\n"),
        HELLO.replace(b"\r\n", b"\n", 1),
        HELLO[:-2] + b"\n",
        HELLO[:-2] + b"X: y\n\r\n",
        HELLO[:-2] + b"X: y\nContent-Length: 3\r\n\r\n",
        HELLO[:-2] + b"X: y\r\n z\r\n\r\n",
        HELLO[:-2] + b"X: y\r\n\tContent-Length: 3\r\n\r\n",
        HELLO.replace(b"Host", b" Host"),
    ],
)
async def test_lines_that_a_proxy_may_read_in_another_way_are_refused(head: bytes) -> None:
    async with open_site() as site:
        for size in (1, 1000):
            async with await dial(site.http) as stream:
                for start in range(0, len(head), size):
                    await stream.send_all(head[start : start + size])
                data = await ended(stream)
            assert data.startswith(b"HTTP/1.1 400 ")
        async with await dial(site.http) as stream:  # trailers behind a body, too
            chunked = b"POST /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
            assert (await ask(stream, chunked + b"A: b\r\nC: d\r\n\r\n")).status == 200
            await stream.send_all(chunked + b"A: b\nC: d\n\n")
            assert b" 200 " not in await ended(stream)
        assert "/hello/" not in [scope["path"] for scope in site.seen]


async def test_of_a_body_with_two_lengths_neither_counts_and_nothing_behind_it_is_read() -> None:
    async with open_site() as site:
        async with await dial(site.http) as stream:
            await stream.send_all(
                b"POST /body/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"0\r\n\r\n" + HELLO
            )
            data = await ended(stream)
        assert data.startswith(b"HTTP/1.1 400 ")
        assert data.count(b"HTTP/1.1") == 1
        assert not site.seen


@pytest.mark.parametrize("garbage", [bytes(100), b"\x16\x03\x01\x00\x05hello", b"\x16" + b"\xff" * 500])
async def test_garbage_in_place_of_tls_ends_its_connection_alone(garbage: bytes) -> None:
    async with open_site(https=True) as site:
        async with await dial(site.https) as stream:
            await stream.send_all(garbage)
            await ended(stream)
        await until(lambda: site.count("http.handshakes_failed") == 1)
        async with await dial(site.https, tls()) as stream:
            assert (await ask(stream, HELLO)).status == 200


async def test_http_on_the_port_of_https_is_told_what_is_wrong() -> None:
    async with open_site(https=True) as site:
        answer = await get(site.https)
        assert answer.status == 400
        assert b"https://" in answer.body


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "CONNECT"), (":authority", "x:1")],
        [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/"), (":authority", "x")],
        [(":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", "/\xe9")],
        [(":method", "G\xe9T"), (":scheme", "https"), (":authority", "x"), (":path", "/")],
    ],
)
async def test_http_2_requests_that_are_none_are_refused(headers: list[tuple[str, str]]) -> None:
    async with open_site(https=True) as site:
        client = await Http2Client.connect(site.https)
        client.connection.config.validate_outbound_headers = False
        client.connection.config.normalize_outbound_headers = False
        client.connection.send_headers(1, headers, end_stream=True)
        await client.flush()
        assert await client.hear(h2.events.StreamReset, h2.events.ConnectionTerminated) is not None
        other = await Http2Client.connect(site.https)
        assert await other.body(await other.request()) == b"hello"
        assert len(site.seen) == 1
        assert site.count("http.errors") == 0


# ---------------------------------------------------------------------- the mesh meanwhile

Attack = Callable[[Site], Awaitable[object]]


async def silent_sockets(site: Site) -> None:
    """A header that does not go on, on as many connections as there may be, and more."""
    await (await dial(site.http)).send_all(b"GET / HTTP/1.1\r\nx: ")


async def flood_of_requests(site: Site) -> None:
    """As many requests as fit into a connection."""
    stream = await dial(site.http)
    await stream.send_all(HELLO * 200)
    await stream.receive_some(65536)
    await trio.aclose_forcefully(stream)


async def deaf_readers(site: Site) -> None:
    """Answers that nobody reads."""
    await (await dial(site.http, receive_buffer=4096)).send_all(HELLO.replace(b"hello", b"stream"))


async def rapid_resets(site: Site) -> None:
    """HTTP/2 streams opened and reset."""
    client = await Http2Client.connect(site.https)
    while not client.is_closed:
        for _ in range(50):
            stream_id = client.connection.get_next_available_stream_id()
            client.connection.send_headers(stream_id, client.headers("/wait/"), end_stream=True)
            client.connection.reset_stream(stream_id)
        await client.flush()


async def pings(site: Site) -> None:
    """HTTP/2 frames that carry nothing."""
    client = await Http2Client.connect(site.https)
    while True:
        await client.stream.send_all(PING * 500)


async def handshakes(site: Site) -> None:
    """TLS handshakes, one after the other."""
    await trio.aclose_forcefully(await dial(site.https, tls()))


async def bodies(site: Site) -> None:
    """Bodies without end."""
    stream = await dial(site.http)
    await stream.send_all(b"PUT /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"10000\r\n" + bytes(0x10000) + b"\r\n")


@asynccontextmanager
async def under(attack: Attack, site: Site) -> AsyncIterator[None]:
    """Three attackers, who begin again whenever they are thrown out, for the body."""

    async def go_on() -> None:
        while True:
            try:
                await attack(site)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await trio.lowlevel.checkpoint()
            forget_clients(keep=200)

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(go_on)
            yield
            nursery.cancel_scope.cancel()
    finally:
        forget_clients()


@pytest.mark.parametrize(
    "attack", [silent_sockets, flood_of_requests, deaf_readers, rapid_resets, pings, handshakes, bodies]
)
async def test_the_mesh_and_other_clients_go_on_under(attack: Attack) -> None:
    places = {"http_address": None, "limits": {"drain_timeout_s": 0.5}}
    async with cluster(2, **places) as (one, two), trio.open_nursery() as nursery:  # fmt: skip
        site = await serve_site(one)
        http = {"send_timeout_s": 0.5, "header_timeout_s": 5.0, "body_bytes_max": 1 << 20, "requests_per_s": 50.0}
        await one.reconfigure(http_address="127.0.0.1:0", https_address="127.0.0.1:0", http=http)

        async def answer(message: object) -> bytes:
            return b"yes"

        await nursery.start(one.serve_requests, "question", answer)
        async with under(attack, site):
            served = 0
            with trio.fail_after(2 * DEADLINE_S):
                while served < 100 or site.count("http.connections") + site.count("http.refused_connections") < 20:
                    assert await two.request(one.node_id, b"?", "question", 60.0) == b"yes"
                    served += 1
                while (await get(site.http, source=OTHER)).status != 200:
                    pass
                assert await two.request(one.node_id, b"?", "question", 60.0) == b"yes"
        assert two.is_connected(one.node_id)
        assert site.count("http.errors") == 0
        nursery.cancel_scope.cancel()
