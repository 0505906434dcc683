"""Events of a live node over real sockets: what comes, to whom, from where on, and how a stream ends."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio_websocket
from trio_websocket import ConnectionClosed
from web import hang_up, websocket_on

import bms
from bms.api import events as feed_module
from bms.api import followers
from helpers import cluster, until

DEADLINE_S = 60


@asynccontextmanager
async def open_node(**fields: Any) -> AsyncIterator[bms.Mesh]:
    """A node by itself, in memory, with HTTP."""
    chosen = {"dev_mode": True, "enable_persistence": False, "enable_discovery": False, "http_address": "127.0.0.1:0"}
    with trio.fail_after(DEADLINE_S):
        async with bms.open_mesh(**{**chosen, **fields}) as mesh:
            yield mesh


class Socket:
    """The client's end of a stream."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self.connection = connection
        self.hello: dict[str, Any] = {}

    async def next(self) -> dict[str, Any]:
        event = json.loads(await self.connection.get_message())
        assert isinstance(event, dict)
        return event

    async def find(self, type_: str, **fields: Any) -> dict[str, Any]:
        """The next event that is like this."""
        while True:
            event = await self.next()
            if event["type"] == type_ and all(event.get(name) == value for name, value in fields.items()):
                return event

    async def end(self) -> tuple[int, str | None]:
        """Read until the other side ends it; its code and reason."""
        with pytest.raises(ConnectionClosed) as caught:
            await self.find("what never comes")
        reason = caught.value.reason
        assert reason is not None
        return reason.code, reason.reason


@asynccontextmanager
async def connect(
    mesh: bms.Mesh, query: str = "", *, subprotocols: tuple[str, ...] = (), headers: Mapping[str, str] | None = None
) -> AsyncIterator[Socket]:
    """A WebSocket, closed for certain at the end: the library leaves it open where the node has closed first."""
    host = (mesh.http_url or "").removeprefix("http://")
    fields = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    port = int(host.rpartition(":")[2])
    async with trio.open_nursery() as nursery, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        connection = await websocket_on(
            nursery, stream, host, f"/api/v1/events?{query}", subprotocols=subprotocols, extra_headers=fields
        )
        try:
            yield Socket(connection)
        finally:
            await hang_up(connection)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def follow(
    mesh: bms.Mesh, query: str = "", *, token: str | None = None, scopes: tuple[str, ...] = ("*",),
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Socket]:  # fmt: skip
    """A stream with the token as browsers send it, after its hello."""
    token = token or await mesh.issue_token(scopes)
    offered = ("bms.events.v1", f"bms.token.{token}")
    async with connect(mesh, query, subprotocols=offered, headers=headers) as socket:
        assert socket.connection.subprotocol == "bms.events.v1"
        socket.hello = await socket.next()
        assert socket.hello["type"] == "hello"
        yield socket


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def refusal(mesh: bms.Mesh, query: str = "", **headers: str) -> httpx.Response:
    """What the request for a WebSocket is answered with, when it is refused."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=mesh.http_url or "") as client:
        answer = await client.get(f"/api/v1/events?{query}", headers={**UPGRADE, **fields})
    assert answer.headers["content-type"] == "application/problem+json"
    return answer


# ---------------------------------------------------------------------- what comes


async def test_hello_says_where_the_stream_begins_and_who_speaks() -> None:
    async with open_node(node_name="kitchen") as mesh, follow(mesh) as socket:
        hello = socket.hello
        assert (hello["node_id"], hello["name"]) == (mesh.node_id, "kitchen")
        assert hello["types"] == ["node", "data", "message", "health"]
        assert hello["version"]
        assert "-" in hello["cursor"]


async def test_writes_deletions_and_expiry_of_any_node_are_told_by_each() -> None:
    with trio.fail_after(DEADLINE_S):
        async with cluster(2, enable_persistence=False) as (first, second):
            await first.start_http_server("127.0.0.1:0")
            async with follow(first, "types=data") as socket:
                version = await first.store_data("mine", b"123")
                event = await socket.find("data")
                assert event == {
                    "type": "data", "cursor": event["cursor"], "time": event["time"], "space": "default",
                    "key": "mine", "version": version, "size": 3, "author": first.node_id, "deleted": False,
                }  # fmt: skip
                version = await second.store_data(b"\xffyours", b"")
                event = await socket.find("data", author=second.node_id)
                assert (event["key"], base64.b64decode(event["key_base64"])) == (None, b"\xffyours")
                assert (event["version"], event["size"]) == (version, 0)
                await second.delete_data(b"\xffyours")
                event = await socket.find("data", deleted=True)
                assert (event["author"], event["size"]) == (second.node_id, 0)
                version = await second.store_data("short", b"x", ttl_s=3.0)  # it is told before it expires
                assert (await socket.find("data", key="short"))["deleted"] is False
                event = await socket.find("data", key="short")
                assert (event["deleted"], event["version"]) == (True, version)


async def test_nodes_that_come_and_go_are_told() -> None:
    with trio.fail_after(DEADLINE_S):
        async with cluster(2, enable_persistence=False) as (first, second):
            await first.start_http_server("127.0.0.1:0")
            async with follow(first, "types=node") as socket:
                await second.update_node(color="red")
                event = await socket.find("node", what="updated")
                assert (event["node_id"], event["name"], event["by"]) == (second.node_id, "n2", None)
                await second.stop()
                assert (await socket.find("node", what="left"))["node_id"] == second.node_id


async def test_messages_to_the_program_are_shown_whoever_takes_them() -> None:
    with trio.fail_after(DEADLINE_S):
        async with cluster(2, enable_persistence=False) as (first, second):
            await first.start_http_server("127.0.0.1:0")
            async with follow(first, "types=message") as socket, first.subscribe("news") as news:
                await second.send_message(first.node_id, "grüße".encode(), "news")
                event = await socket.next()
                message = await news.__anext__()
                assert isinstance(message, bms.Message)
                assert event == {
                    "type": "message", "cursor": event["cursor"], "time": event["time"], "id": message.id,
                    "sender": second.node_id, "topic": "news", "body": "grüße", "sent_at": message.sent_at, "size": 7,
                }  # fmt: skip
                await second.broadcast_message(b"\xff\x00", "nobody-listens")
                event = await socket.next()
                assert (event["topic"], base64.b64decode(event["body_base64"])) == ("nobody-listens", b"\xff\x00")
                assert "body" not in event
                await second.send_message(first.node_id, b"x" * 100_000, "news")
                event = await socket.next()
                assert (event["size"], event["truncated"]) == (100_000, True)
                assert event["body"] == "x" * feed_module.BODY_BYTES_MAX


async def test_a_client_that_takes_topics_is_a_subscriber_of_them() -> None:
    async with open_node() as mesh:
        await mesh.send_message(mesh.node_id, b"early", "a")
        async with follow(mesh, "types=message&topics=a,b&take=true") as socket:
            assert (await socket.next())["body"] == "early", "it was held for the first who comes"
            assert mesh.collect_stats().messages_waiting == 0
            await mesh.send_message(mesh.node_id, b"other", "c")
            await mesh.broadcast_message(b"late", "b")
            assert (await socket.next())["body"] == "late"
        await until(lambda: mesh._web.context.mesh._topics._attended == {})  # type: ignore[union-attr]
        await mesh.send_message(mesh.node_id, b"held again", "a")
        assert mesh.collect_stats().messages_waiting == 2


@pytest.mark.parametrize("query", ["types=message&topics=a", "types=message&topics=a&take=false", "types=message"])
@pytest.mark.parametrize("scope", ["messages:read", "*:read", "*"])
async def test_reading_takes_no_message_away(query: str, scope: str) -> None:
    async with open_node() as mesh:
        await mesh.send_message(mesh.node_id, b"early", "a")
        async with follow(mesh, query, scopes=(scope,)) as socket:
            await mesh.send_message(mesh.node_id, b"late", "a")
            event = await socket.next()
            assert (event["body"], event["held"]) == ("late", True)
            assert mesh.collect_stats().messages_waiting == 2
        async with mesh.subscribe("a") as messages:
            assert [(await messages.__anext__()).body for _ in range(2)] == [b"early", b"late"]  # type: ignore[union-attr]


@pytest.mark.parametrize("scopes", [["messages:read"], ["*:read"], ["messages:read", "messages:write"]])
async def test_taking_messages_needs_a_scope_of_its_own(scopes: list[str]) -> None:
    async with open_node() as mesh:
        await mesh.send_message(mesh.node_id, b"precious", "a")
        headers = {"Authorization": f"Bearer {await mesh.issue_token(scopes)}"}
        async with httpx.AsyncClient() as http:
            url = f"{mesh.http_url}/api/v1/events/stream?types=message&topics=a&take=true"
            answer = await http.get(url, headers=headers)
        assert (answer.status_code, "messages:take" in answer.json()["detail"]) == (403, True)
        assert mesh.collect_stats().messages_waiting == 1


async def test_a_message_that_waits_is_shown_as_held_and_again_when_it_is_taken() -> None:
    async with open_node() as mesh, follow(mesh, "types=message") as socket:
        await mesh.send_message(mesh.node_id, b"x", "later")
        first = await socket.next()
        assert first["held"] is True
        async with mesh.subscribe("later") as messages:
            await messages.__anext__()
        second = await socket.next()
        assert second["id"] == first["id"]
        assert "held" not in second


async def test_data_is_filtered_by_prefix() -> None:
    async with open_node() as mesh, follow(mesh, "types=data&prefix=a/%C3%BC") as socket:
        for key in ("a/x", "b", "a/ü1", b"a/\xc3\xbc\xff", "a/ü2"):
            await mesh.store_data(key, b"")
        found = [await socket.next() for _ in range(3)]
        assert [event["key"] for event in found] == ["a/ü1", None, "a/ü2"]


async def test_health_as_it_is_can_be_had_from_the_beginning_of_the_log() -> None:
    async with open_node() as mesh:
        life = mesh._web.context.events.life  # type: ignore[union-attr]
        async with follow(mesh, f"types=health&since={life}-0", scopes=("status:read",)) as socket:
            event = await socket.next()
            assert event["type"] == "health"
            assert event["status"] in ("ok", "degraded", "failing")
            assert isinstance(event["reasons"], list)


async def test_what_is_logged_is_told_to_those_who_may_read_it() -> None:
    import logging

    async with open_node() as mesh, follow(mesh, "types=log", scopes=("logs:read",)) as socket:
        await trio.to_thread.run_sync(logging.getLogger("bms.test").warning, "odd %s: \udcff", "thing")
        event = await socket.find("log", logger="bms.test")
        assert (event["level"], event["text"]) == ("warning", "odd thing: \\udcff")


async def test_statistics_come_every_second_to_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "CHECK_S", 0.02)
    async with open_node() as mesh, follow(mesh, "types=stats") as socket:
        first, second = await socket.next(), await socket.next()
        assert (first["type"], first["node_id"]) == ("stats", mesh.node_id)
        assert second["uptime_s"] > first["uptime_s"]
        assert "cursor" not in first


async def test_silence_is_broken_by_bookmarks_that_say_how_far_one_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(followers, "CHECK_S", 0.02)
    async with open_node() as mesh, follow(mesh, "types=node") as socket:
        log = mesh._web.context.events  # type: ignore[union-attr]
        begin = log.cursor
        await mesh.store_data("of no interest", b"")
        await until(lambda: log.cursor != begin)
        while (await socket.find("bookmark"))["cursor"] != log.cursor:
            pass


async def test_more_changes_than_can_wait_are_told_as_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_KEYS_WAITING_MAX", 5)
    async with open_node() as mesh, follow(mesh, "types=data") as socket:
        source = feed_module._Feed(mesh._web.context)  # type: ignore[union-attr]
        for number in range(8):
            await mesh.store_data(f"key{number}", b"")
        for _ in range(8):
            await socket.find("data")
        source.keys_changed([f"key{number}".encode() for number in range(8)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.tell_data)
            assert (await socket.next())["count"] == 3
            assert [(await socket.next())["key"] for _ in range(5)] == [f"key{number}" for number in range(3, 8)]
            nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------- from where on


async def test_a_client_that_comes_back_with_its_cursor_misses_nothing() -> None:
    async with open_node() as mesh:
        async with follow(mesh, "types=data") as socket:
            await mesh.store_data("one", b"")
            cursor = (await socket.find("data"))["cursor"]
        for number in range(100):
            await mesh.store_data(f"away{number}", b"")
        async with follow(mesh, f"types=data&since={cursor}") as socket:
            assert socket.hello["cursor"] == cursor
            assert [(await socket.next())["key"] for _ in range(100)] == [f"away{number}" for number in range(100)]


async def test_a_client_that_was_away_too_long_is_told_how_much_it_missed() -> None:
    async with open_node(http=bms.Config().http.__class__(events_kept=10)) as mesh:
        async with follow(mesh, "types=data") as socket:
            begin = socket.hello["cursor"]
            for number in range(30):
                await mesh.store_data(f"key{number}", b"")
                await socket.next()
        async with follow(mesh, f"types=data&since={begin}") as socket:
            missed = await socket.next()
            kept = [await socket.next() for _ in range(10)]
            assert (missed["type"], missed["cursor"]) == ("missed", socket.hello["cursor"])
            assert missed["count"] >= 20
            assert [event["key"] for event in kept] == [f"key{number}" for number in range(20, 30)]


async def test_a_cursor_of_an_earlier_life_of_the_node_says_that_nobody_knows() -> None:
    async with open_node() as mesh, follow(mesh, "types=data&since=0123456789abcdef-17") as socket:
        assert (await socket.next())["count"] is None


class ServerSent:
    """A stream of server-sent events, by hand: its answer's header, then event by event."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unread = b""
        self._text = b""
        self.header = ""

    async def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            data = await self._stream.receive_some(65536)
            assert data, "the stream has ended"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line

    async def begin(self) -> None:
        """Read the header."""
        while line := await self._line():
            self.header += line.decode() + "\n"

    async def next(self) -> dict[str, Any]:
        """The fields of the next event, its data as an object."""
        while b"\n\n" not in self._text:
            size = int(await self._line(), 16)
            while len(self._unread) < size + 2:
                self._unread += await self._stream.receive_some(65536)
            self._text, self._unread = self._text + self._unread[:size], self._unread[size + 2 :]
        event, _, self._text = self._text.partition(b"\n\n")
        fields = dict(line.split(": ", 1) for line in event.decode().split("\n"))
        return {**fields, "data": json.loads(fields["data"])}


@asynccontextmanager
async def server_sent(mesh: bms.Mesh, query: str, token: str, more: str = "") -> AsyncIterator[ServerSent]:
    """A stream of server-sent events, after its header."""
    host = (mesh.http_url or "").removeprefix("http://")
    async with await trio.open_tcp_stream("127.0.0.1", int(host.rpartition(":")[2])) as stream:
        request = f"GET /api/v1/events/stream?{query} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        await stream.send_all(f"{request}{more}\r\n".encode())
        found = ServerSent(stream)
        await found.begin()
        yield found


async def test_a_stream_by_server_sent_events_tells_the_same_and_resumes() -> None:
    async with open_node() as mesh:
        token = await mesh.issue_token(["data:read"])
        async with server_sent(mesh, "types=data", token) as stream:
            assert stream.header.startswith("HTTP/1.1 200")
            assert "content-type: text/event-stream\n" in stream.header
            hello = await stream.next()
            await mesh.store_data("a", b"1")
            event = await stream.next()
            assert (hello["event"], event["event"]) == ("hello", "data")
            assert (event["id"], event["data"]["key"]) == (event["data"]["cursor"], "a")
        await mesh.store_data("b", b"2")
        again = f"Last-Event-ID: {event['id']}\r\n"
        async with server_sent(mesh, f"types=data&since={hello['id']}", token, again) as stream:
            await stream.next()
            assert (await stream.next())["data"]["key"] == "b"


# ---------------------------------------------------------------------- to whom


@pytest.mark.parametrize(
    ("query", "scopes", "lacking"),
    [
        ("types=data", ("nodes:read",), "data:read"),
        ("types=node,log", ("nodes:read", "data:*"), "logs:read"),
        ("types=stats", ("data:*",), "status:read"),
        ("", ("config:read",), "nodes:read"),
    ],
)
async def test_a_token_without_the_scope_of_a_type_ends_the_stream(
    query: str, scopes: tuple[str, ...], lacking: str
) -> None:
    async with open_node() as mesh:
        token = await mesh.issue_token(scopes)
        headers = {"Authorization": f"Bearer {token}"}
        async with connect(mesh, query, headers=headers) as socket:
            assert await socket.end() == (1008, f"the token lacks the scope {lacking}")
        async with httpx.AsyncClient(base_url=mesh.http_url or "") as client:
            answer = await client.get(f"/api/v1/events/stream?{query}", headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (403, "RefusedError")


async def test_without_types_come_those_that_the_token_may_read() -> None:
    async with open_node() as mesh, follow(mesh, scopes=("data:read", "logs:read")) as socket:
        assert socket.hello["types"] == ["data"]


async def test_a_request_without_a_valid_token_is_refused_before_it_becomes_a_stream() -> None:
    async with open_node() as mesh:
        for headers in (
            {}, {"Authorization": "Bearer bms_0123456789abcdef_" + "x" * 43}, {"Authorization": "Basic eDp5"},
            {"Sec_WebSocket_Protocol": "bms.events.v1, bms.token.nonsense"},
        ):  # fmt: skip
            answer = await refusal(mesh, **headers)
            assert (answer.status_code, answer.json()["error"]) == (401, "RefusedError")
            assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "query",
    ["types=nodes", "types=data,", "tipes=data", "since=nonsense", "types=data&types=node", "types=data&topics=a",
     "take=true", "topics=a&take=yes",
     "topics=" + ",".join(map(str, range(100))), "types=%zz"],
)  # fmt: skip
async def test_a_query_that_cannot_be_meant_is_an_error(query: str) -> None:
    async with open_node() as mesh:
        token = await mesh.issue_token(["*"])
        answer = await refusal(mesh, query, Authorization=f"Bearer {token}")
        assert (answer.status_code, answer.json()["error"]) == (400, "LocalProtocolError")


async def test_subprotocols_without_ours_are_an_error() -> None:
    async with open_node() as mesh:
        token = await mesh.issue_token(["*"])
        assert (await refusal(mesh, Sec_WebSocket_Protocol=f"bms.token.{token}")).status_code == 400


async def test_a_page_of_another_origin_opens_no_stream() -> None:
    async with open_node() as mesh:
        token = await mesh.issue_token(["*"])
        for origin in ("http://evil.example", "null", (mesh.http_url or "").replace("http:", "https:")):
            answer = await refusal(mesh, Sec_WebSocket_Protocol=f"bms.events.v1, bms.token.{token}", Origin=origin)
            assert answer.status_code == 403, origin
        async with follow(mesh, token=token, headers={"Origin": mesh.http_url or ""}):
            pass


async def test_a_request_by_another_name_opens_no_stream() -> None:
    async with open_node() as mesh:
        port = (mesh.http_url or "").rpartition(":")[2]
        async with await trio.open_tcp_stream("127.0.0.1", int(port)) as stream:
            await stream.send_all(handshake(f"evil.example:{port}", await mesh.issue_token(["*"])))
            assert b" 421 " in await stream.receive_some(65536)


# ---------------------------------------------------------------------- how it ends


async def test_a_token_that_is_revoked_ends_its_streams_and_no_others() -> None:
    async with open_node() as mesh:
        ended, other = await mesh.issue_token(["*"]), await mesh.issue_token(["*"])
        async with (
            follow(mesh, token=ended) as first,
            follow(mesh, token=other) as second,
            server_sent(mesh, "", ended) as third,
        ):
            await third.next()
            await mesh.revoke(mesh.verify_token(ended).token_id)
            code, reason = await first.end()
            assert (code, "token" in (reason or "")) == (1008, True)
            last = await third.next()
            assert (last["event"], last["data"]["code"]) == ("end", 1008)
            await mesh.store_data("a", b"")
            assert (await second.find("data"))["key"] == "a"


async def test_a_node_that_stops_says_so_to_all_who_follow() -> None:
    async with open_node() as mesh, AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(follow(mesh)) for _ in range(5)]
        stream = await stack.enter_async_context(server_sent(mesh, "types=node", await mesh.issue_token(["*"])))
        await stream.next()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mesh.stop)
            for socket in sockets:
                assert await socket.end() == (1001, "the node stops")
            last = (await stream.next())["data"]
            assert (last["type"], last["code"], last["reason"]) == ("end", 1001, "the node stops")


async def test_a_client_that_sends_something_is_shown_the_door() -> None:
    async with open_node() as mesh, follow(mesh) as socket:
        await socket.connection.send_message("hello?")
        assert (await socket.end())[0] == 1008


async def test_beyond_the_bound_streams_are_told_to_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "STREAMS_MAX", 1)
    async with open_node() as mesh, follow(mesh) as socket:
        token = await mesh.issue_token(["*"])
        headers = {"Authorization": f"Bearer {token}"}
        async with connect(mesh, headers=headers) as late:
            assert (await late.end())[0] == 1013
        async with httpx.AsyncClient(base_url=mesh.http_url or "") as client:
            answer = await client.get("/api/v1/events/stream", headers=headers)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        await mesh.store_data("a", b"")
        assert (await socket.find("data"))["key"] == "a"


async def test_streams_are_only_read() -> None:
    async with open_node() as mesh, httpx.AsyncClient(base_url=mesh.http_url or "") as client:
        answer = await client.post("/api/v1/events/stream")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


# ---------------------------------------------------------------------- bad clients, many clients


def handshake(host: str, token: str, query: str = "") -> bytes:
    """The request for a WebSocket, by hand."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /api/v1/events?{query} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


@asynccontextmanager
async def raw(mesh: bms.Mesh, query: str = "") -> AsyncIterator[trio.SocketStream]:
    """A WebSocket without a library, after its handshake."""
    host = (mesh.http_url or "").removeprefix("http://")
    async with await trio.open_tcp_stream("127.0.0.1", int(host.rpartition(":")[2])) as stream:
        await stream.send_all(handshake(host, await mesh.issue_token(["*"]), query))
        assert b" 101 " in await stream.receive_some(256)
        yield stream


WRONG_FRAMES = {
    "unmasked": b"\x81\x02hi",
    "a reserved opcode": b"\x83\x80\0\0\0\0",
    "reserved bits": b"\xf1\x80\0\0\0\0",
    "a long ping": b"\x89\xfe\x01\x00\0\0\0\0" + b"x" * 256,
    "a continuation of nothing": b"\x80\x81\0\0\0\0x",
    "text that is no UTF-8": b"\x81\x81\0\0\0\0\xff",
    "a close code of 1 byte": b"\x88\x81\0\0\0\0x",
    "a length that nobody has": b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0",
    "noise": bytes(range(256)) * 16,
}


async def test_a_message_that_does_not_end_is_not_kept() -> None:
    async with open_node() as mesh, raw(mesh) as bad:
        await bad.send_all(b"\x01\xfe\x20\x00\0\0\0\0" + b"x" * 0x2000)  # 8 KiB of text, and more is to come
        heard = b""
        with trio.fail_after(60):
            try:
                while more := await bad.receive_some(65536):
                    heard += more
            except trio.BrokenResourceError:
                pass
        assert (1009).to_bytes(2, "big") in heard


@pytest.mark.parametrize("frame", WRONG_FRAMES.values(), ids=WRONG_FRAMES)
async def test_a_protocol_error_in_mid_send_ends_that_connection_alone(frame: bytes) -> None:
    async with open_node() as mesh, follow(mesh, "types=message&topics=x") as socket, raw(mesh) as bad:
        async with trio.open_nursery() as nursery:

            async def talk() -> None:
                for number in range(50):
                    await mesh.broadcast_message(f"{number}".encode() * 500, "x")
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(talk)
            await bad.send_all(frame)
            try:
                while await bad.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass
            assert [(await socket.next())["size"] for _ in range(50)]
        async with follow(mesh):
            pass


async def test_a_client_that_does_not_read_holds_nobody_up_and_is_cut() -> None:
    settings = bms.Config().http.__class__(send_timeout_s=0.5, events_kept=100)
    async with open_node(http=settings) as mesh, follow(mesh, "types=message") as socket, raw(mesh) as slow:
        log = mesh._web.context.events  # type: ignore[union-attr]
        count = 0
        while not mesh.counters["http.slow_readers"] + mesh.counters["http.broken"]:
            await mesh.broadcast_message(b"x" * 8000, "x")
            assert (await socket.next())["size"] == 8000
            count += 1
        assert len(log) <= 100
        with contextlib.suppress(trio.BrokenResourceError):
            while await slow.receive_some(1 << 20):
                pass
        assert count > 100, "the kernel's buffers alone hold more"


async def test_a_hundred_clients_see_every_event_in_order() -> None:
    settings = bms.Config().http.__class__(connections_per_address_max=200, requests_per_s=10_000)
    async with open_node(http=settings) as mesh, AsyncExitStack() as stack:
        token = await mesh.issue_token(["data:read"])
        sockets = [await stack.enter_async_context(follow(mesh, "types=data", token=token)) for _ in range(100)]
        seen: list[list[str]] = []

        async def read(socket: Socket) -> None:
            seen.append([(await socket.find("data"))["key"] for _ in range(20)])

        async with trio.open_nursery() as nursery:
            for socket in sockets:
                nursery.start_soon(read, socket)
            for number in range(20):
                await mesh.store_data(f"key{number}", b"")
        assert seen == [[f"key{number}" for number in range(20)]] * 100
