"""A remote node from Python: each verb over real HTTPS, errors as they were raised there, and feeds that last."""

from __future__ import annotations

import base64
import gc
import gzip
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import bms
from bms.client import feed as feed_module
from bms.client import node as node_module
from bms.config import HttpConfig
from bms.control.answers import plain
from bms.testing.proxy import open_proxy
from helpers import cluster, until

DEADLINE_S = 60


@asynccontextmanager
async def open_node(**fields: Any) -> AsyncIterator[bms.Mesh]:
    """A node by itself, in memory, with HTTP."""
    chosen = {"dev_mode": True, "enable_persistence": False, "enable_discovery": False, "http_address": "127.0.0.1:0"}
    with trio.fail_after(DEADLINE_S):
        async with bms.open_mesh(**{**chosen, **fields}) as mesh:
            yield mesh


@asynccontextmanager
async def asking(mesh: bms.Mesh, *scopes: str, **options: Any) -> AsyncIterator[bms.Client]:
    """A client of a node over plain HTTP, on this machine."""
    assert mesh.http_url is not None
    async with bms.open_client(mesh.http_url, await mesh.issue_token(scopes or ["*"]), **options) as client:
        yield client


async def fingerprint_of(mesh: bms.Mesh) -> str:
    """The SHA-256 of the certificate that a node shows."""
    host, _, port = (mesh.https_url or "").removeprefix("https://").rpartition(":")
    pem = await trio.to_thread.run_sync(ssl.get_server_certificate, (host, int(port)))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def url_at(address: object) -> str:
    return f"http://{address}"


# ---------------------------------------------------------------------- the verbs


async def test_nodes_are_asked_for_as_their_own_program_asks_for_them() -> None:
    with trio.fail_after(DEADLINE_S):
        async with cluster(3, enable_persistence=False) as meshes:
            mesh = meshes[0]
            await mesh.start_https_server("127.0.0.1:0")
            token, pin = await mesh.issue_token(["*"]), await fingerprint_of(mesh)
            async with bms.open_client(mesh.https_url, token, fingerprint=pin) as client:
                assert [node.node_id for node in await client.nodes()] == [node.node_id for node in mesh.nodes()]
                assert await client.nodes("failed") == []
                other = await client.node(meshes[1].node_id)
                assert (other.name, other.state, other.address) == ("n2", "alive", meshes[1].address)
                assert len(await client.nearest(metric="xor")) == 2
                with pytest.raises(bms.NotFoundError):
                    await client.nearest("0" * 64)
                topology = await client.topology()
                assert len(topology["links"]) == 2
                assert (await client.register_node(str(meshes[2].address))).node_id == meshes[2].node_id
                report = await client.sync([meshes[1].node_id])
                assert [(peer["node_id"], peer["equal"]) for peer in report["peers"]] == [(meshes[1].node_id, True)]
                assert await client.broadcast_message(b"to all", "t") == 2
                async with meshes[1].subscribe("mail") as mail:
                    await client.send_message(meshes[1].node_id, b"\x00\xff", "mail")
                    message = await mail.__anext__()
                    assert isinstance(message, bms.Message)
                    assert (message.body, message.sender) == (b"\x00\xff", mesh.node_id)


async def test_the_node_says_of_itself_what_it_says_at_home() -> None:
    async with open_node(node_name="kitchen") as mesh, asking(mesh) as client:
        status = await client.status()
        assert (status.name, status.node_id, status.http_url) == ("kitchen", mesh.node_id, mesh.http_url)
        assert set(await client.stats()) == set(plain(mesh.collect_stats()))
        assert (await client.health())["status"] == mesh.check_health().status
        assert "kitchen" in await client.report("text")
        assert (await client.config())["node_name"] == "kitchen"
        assert "limits.topics_max" in (await client.change_config({"limits.topics_max": 77}))["fields"]
        assert mesh.config.limits.topics_max == 77
        assert (await client.logs(limit=1))["next"] >= 0
        assert "peers" in await client.performance(0.1)


async def test_tokens_are_issued_listed_and_ended() -> None:
    async with open_node() as mesh, asking(mesh) as client:
        token, claims = await client.issue_token(["data:read"], ttl_s=60, name="reader")
        assert (mesh.verify_token(token), claims.name) == (claims, "reader")
        assert claims in await client.tokens()
        assert "*" in (await client.whoami())["scopes"]
        await client.revoke(claims.token_id)
        with pytest.raises(bms.NotFoundError):
            await client.revoke(claims.token_id)
        with pytest.raises(bms.LocalProtocolError):
            await client.issue_token(["no:such"])


KEYS: list[str | bytes] = [
    "plain", "with space", "a/b/../c", ".", "..", "a%2Fb", "ü", "?q=1#f", b"\x00\xff", "x" * 1024, "//", "\n",
]  # fmt: skip


async def test_every_key_and_every_value_passes_unchanged() -> None:
    async with open_node() as mesh, asking(mesh) as client:
        for number, key in enumerate(KEYS):
            value = bytes(range(256)) * number
            version = await client.store_data(key, value)
            assert await client.retrieve_data(key) == await mesh.retrieve_data(key)
            assert (await mesh.retrieve_data(key)).version == version
        async with client.scan(b"") as theirs, mesh.scan(b"") as ours:
            assert [info async for info in theirs] == [info async for info in ours]
        async with client.scan("a") as keys:
            assert [info.key async for info in keys] == ["a%2Fb", "a/b/../c"]
        for key in KEYS:
            await client.delete_data(key)
            with pytest.raises(bms.NotFoundError):
                await client.retrieve_data(key)


async def test_a_listing_goes_on_over_many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "PAGE", 3)
    async with open_node() as mesh, asking(mesh) as client:
        for number in range(10):
            await mesh.store_data(f"k{number}", b"")
        async with client.scan("k") as keys:
            assert [info.key async for info in keys] == [f"k{number}" for number in range(10)]


async def test_a_write_that_is_conditional_loses_against_another_version() -> None:
    async with open_node() as mesh, asking(mesh) as client:
        first = await client.store_data("a", b"1")
        second = await client.store_data("a", b"2", if_version=first)
        with pytest.raises(bms.VersionConflictError) as caught:
            await client.store_data("a", b"3", if_version=first)
        assert caught.value.current == second
        await client.store_data("short", b"", ttl_s=0.05)
        await until(lambda: not mesh._entries.scan(b"short"))


# ---------------------------------------------------------------------- errors


async def test_errors_are_raised_here_as_the_node_raised_them() -> None:
    async with open_node(http=HttpConfig(body_bytes_max=2048)) as mesh, asking(mesh) as client:
        with pytest.raises(bms.NotFoundError):
            await client.node("0" * 64)
        with pytest.raises(bms.NotFoundError):
            await client.store_data("a", b"", space="nowhere")
        with pytest.raises(bms.LocalProtocolError):
            await client.nodes("sleepy")
        with pytest.raises(bms.LimitError):
            await client.store_data("a", b"x" * 4000)
        with pytest.raises(bms.ConfigError) as caught:
            await client.change_config({"limits.topics_max": -1})
        assert caught.value.field == "limits.topics_max"
        with pytest.raises(bms.UnreachableError):
            await client.register_node("127.0.0.1:1")


async def test_a_token_that_allows_too_little_is_refused() -> None:
    async with open_node() as mesh, asking(mesh, "data:read") as client:
        with pytest.raises(bms.RefusedError, match="data:write"):
            await client.store_data("a", b"")
        with pytest.raises(bms.RefusedError, match="nodes:read"):
            await client.nodes()
        with pytest.raises(bms.RefusedError, match="nodes:read"):
            async with client.events(["node"]):
                pass


async def test_where_nobody_answers_nothing_was_sent() -> None:
    async with bms.open_client("http://127.0.0.1:1", "bms_x") as client:
        with pytest.raises(bms.UnreachableError) as caught:
            await client.store_data("a", b"")
        assert not isinstance(caught.value, bms.DeliveryError)
        with pytest.raises(bms.UnreachableError):
            async with client.events():
                pass


@asynccontextmanager
async def server(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Something that listens, and is no node."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def accept_events(stream: trio.SocketStream) -> None:
    """Take a request for events, and say hello."""
    request = await stream.receive_some(65536)
    key = next(line.split(b": ")[1] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: bms.events.v1\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    await stream.send_all(b"\x81\x1f" + b'{"type":"hello","cursor":"a-1"}')


async def test_tls_where_none_is_spoken_is_said() -> None:
    async def speak_plainly(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await stream.send_eof()
        await stream.receive_some(1)

    with trio.fail_after(DEADLINE_S):
        async with server(speak_plainly) as url:
            secure = url.replace("http://", "https://")
            async with bms.open_client(secure, "bms_x") as client:
                with pytest.raises(bms.UnreachableError, match=r"expected to speak TLS.*; is it http://\?"):
                    await client.nodes()
                with pytest.raises(bms.UnreachableError, match=r"expected to speak TLS.*; is it http://\?"):
                    async with client.events():
                        pass


async def test_a_write_without_an_answer_is_not_repeated_and_a_read_once() -> None:
    requests: list[bytes] = []

    async def hang_up(stream: trio.SocketStream) -> None:
        requests.append((await stream.receive_some(65536)).split(b" ")[0])
        await stream.aclose()

    with trio.fail_after(DEADLINE_S):
        async with server(hang_up) as url, bms.open_client(url, "bms_x") as client:
            with pytest.raises(bms.DeliveryError):
                await client.store_data("a", b"")
            with pytest.raises(bms.DeliveryError):
                await client.retrieve_data("a")
    assert requests == [b"PUT", b"GET", b"GET"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno!", bms.UnreachableError),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", bms.RefusedError),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n[]", bms.RemoteError),
        (b'HTTP/1.1 422 No\r\nContent-Length: 23\r\n\r\n{"error":"ConfigError"}', bms.RemoteProtocolError),
        (b'HTTP/1.1 418 Tea\r\nContent-Length: 16\r\n\r\n{"error": "Teaa"}'[:-1], bms.LocalProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", bms.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", bms.RemoteProtocolError),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", bms.RemoteProtocolError),
        (b"SSH-2.0-OpenSSH_9.2\r\n", bms.DeliveryError),
    ],
)
async def test_what_is_no_node_is_an_error_of_ours(answer: bytes, error: type[bms.MeshError]) -> None:
    async def reply(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(answer)
        await stream.send_eof()
        await stream.receive_some(1)

    with trio.fail_after(DEADLINE_S):
        async with server(reply) as url, bms.open_client(url, "bms_x") as client:
            with pytest.raises(error):
                await client.nodes()
            with pytest.raises(bms.MeshError):
                async with client.events():
                    pass


async def flood(stream: trio.SocketStream, head: bytes, piece: bytes, sent: list[int]) -> None:
    """Send without end, until the other side has had enough."""
    try:
        await stream.send_all(head)
        while True:
            await stream.send_all(piece)
            sent[0] += len(piece)
    except trio.BrokenResourceError:
        pass


ENDLESS = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"  # a chunk


@pytest.mark.parametrize("status", [b"200 OK", b"500 Oops"])
@pytest.mark.parametrize(
    ("length", "piece"), [(b"Transfer-Encoding: chunked", ENDLESS), (b"Content-Length: 99999999999", b"x" * 65536)]
)
async def test_an_answer_without_end_is_not_read_beyond_its_bound(status: bytes, length: bytes, piece: bytes) -> None:
    sent = [0]

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await flood(stream, b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n\r\n", piece, sent)

    with trio.fail_after(DEADLINE_S):
        async with server(serve) as url, bms.open_client(url, "bms_x", answer_bytes_max=1 << 20) as client:
            with pytest.raises(bms.LimitError, match=r"1,048,576 bytes \(answer_bytes_max\)"):
                await client.retrieve_data("a")
            with pytest.raises(bms.RemoteProtocolError, match="answer_bytes_max"):
                await client.store_data("a", b"")
            gc.collect()
    assert sent[0] < 64 << 20  # the kernel's buffers take more than was read


async def test_an_answer_at_its_bound_is_taken_and_one_byte_more_is_not() -> None:
    async with open_node() as mesh:
        await mesh.store_data("fits", b"x" * 1000)
        await mesh.store_data("more", b"x" * 1001)
        async with asking(mesh, answer_bytes_max=1000) as client:
            for _ in range(3):  # a connection that was hung up on costs the next request nothing
                assert len((await client.retrieve_data("fits")).value) == 1000
                with pytest.raises(bms.LimitError):
                    await client.retrieve_data("more")


async def test_a_packed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(50 << 20))

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        await stream.send_all(head + bomb)

    with trio.fail_after(DEADLINE_S):
        async with server(serve) as url, bms.open_client(url, "bms_x") as client:
            with pytest.raises(bms.RemoteProtocolError, match="packed"):
                await client.retrieve_data("a")


@pytest.mark.parametrize("length", [b"Transfer-Encoding: chunked", b"Content-Length: 99999999999"])
async def test_a_refusal_of_events_without_end_is_not_read_beyond_its_bound(length: bytes) -> None:
    sent = [0]

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await flood(stream, b"HTTP/1.1 403 No\r\n" + length + b"\r\n\r\n", ENDLESS, sent)

    with trio.fail_after(DEADLINE_S):
        async with server(serve) as url, bms.open_client(url, "bms_x") as client:
            with pytest.raises(bms.RemoteProtocolError, match="65536 bytes"):
                async with client.events():
                    pass
    assert sent[0] < 64 << 20


@pytest.mark.parametrize("first", [b"\x81\x7f\x00\x00\x00\xff\x00\x00\x00\x00", b"\x01\x7e\xff\xff" + b"x" * 65535])
async def test_an_event_without_end_ends_the_feed(first: bytes) -> None:
    sent = [0]
    # One frame of a terabyte, or fragments without end.
    piece = b"x" * 65536 if first[0] == 0x81 else b"\x00\x7e\xff\xff" + b"x" * 65535

    async def serve(stream: trio.SocketStream) -> None:
        await accept_events(stream)
        await flood(stream, first, piece, sent)

    with trio.fail_after(DEADLINE_S):
        async with server(serve) as url, bms.open_client(url, "bms_x") as client, client.events() as events:
            assert (await events.__anext__())["type"] == "hello"
            for _ in range(2):
                with pytest.raises(bms.RemoteProtocolError, match="an event of more than 1048576 bytes"):
                    await events.__anext__()
    assert sent[0] < 64 << 20


async def test_a_closed_client_says_so() -> None:
    async with open_node() as mesh:
        async with asking(mesh) as client:
            async with client.events(["node"]) as events:
                await events.__anext__()
            with pytest.raises(bms.ClosedError):
                await events.__anext__()
        with pytest.raises(bms.ClosedError):
            await client.nodes()


async def test_the_bodys_own_exception_comes_out_as_itself() -> None:
    async def fail(mesh: bms.Mesh) -> None:
        async with asking(mesh) as client, client.events(["node"]) as events:
            await events.__anext__()
            raise ZeroDivisionError

    async with open_node() as mesh:
        with pytest.raises(ZeroDivisionError):
            await fail(mesh)


# ---------------------------------------------------------------------- who is at the other end


async def test_a_node_is_known_by_the_authority_of_its_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    with (tmp_path / "cert.pem").open("wb") as file:
        file.writelines(blob.bytes() for blob in leaf.cert_chain_pems)
    http = HttpConfig(cert_path=tmp_path / "cert.pem", key_path=tmp_path / "key.pem")
    async with open_node(https_address="127.0.0.1:0", http=http) as mesh:
        assert mesh.https_url is not None
        token, pin = await mesh.issue_token(["*"]), await fingerprint_of(mesh)
        options: dict[str, Any] = {"ca": tmp_path / "ca.pem"}
        for right in (options, {**options, "fingerprint": pin}):
            async with bms.open_client(mesh.https_url, token, **right) as client:
                await client.nodes()
                async with client.events() as events:
                    assert (await events.__anext__())["type"] == "hello"
        for wrong, why in (
            ({}, "name its certificate"),
            ({**options, "fingerprint": "0" * 64}, "fingerprint is [0-9a-f]+$"),
        ):
            async with bms.open_client(mesh.https_url, token, **wrong) as client:
                await refused(client, why)


async def refused(client: bms.Client, why: str) -> None:
    with pytest.raises(bms.RefusedError, match=f"not known to be that node: .*{why}"):
        await client.nodes()
    with pytest.raises(bms.RefusedError, match=f"not known to be that node: .*{why}"):
        async with client.events():
            pass


async def test_a_certificate_with_another_fingerprint_is_shown_no_token() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    heard: list[bytes] = []

    async def listen(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True)
        try:
            while data := await secure.receive_some(65536):
                heard.append(bytes(data))
        except trio.BrokenResourceError:
            pass

    with trio.fail_after(DEADLINE_S):
        async with server(listen) as url:
            place = url.replace("http:", "https:")
            async with bms.open_client(place, "bms_secret", fingerprint="sha256:" + "AB:" * 31 + "AB") as client:
                await refused(client, "fingerprint is [0-9a-f]+$")
    assert heard == []


async def test_a_self_signed_node_is_known_by_its_fingerprint_in_any_spelling() -> None:
    async with open_node(https_address="127.0.0.1:0") as mesh:
        pin, token = await fingerprint_of(mesh), await mesh.issue_token(["*"])
        spelled = ":".join(pin[i : i + 2] for i in range(0, 64, 2)).upper()
        for text in (pin, spelled, f"SHA256:{pin}"):
            async with bms.open_client(mesh.https_url or "", token, fingerprint=text) as client:
                await client.nodes()


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("http://10.0.0.1:7801", {}, "reads the token"),
        ("http://node.example:7801", {}, "reads the token"),
        ("ftp://10.0.0.1", {}, "URL is"),
        ("10.0.0.1:7801", {}, "URL is"),
        ("https://user:secret@10.0.0.1", {}, "nothing behind"),
        ("https://10.0.0.1/path", {}, "nothing behind"),
        ("https://10.0.0.1:999999", {}, "no URL"),
        ("https://[10.0.0.1", {}, "no URL"),
        ("https://10.0.0.1", {"fingerprint": "abc"}, "64 hexadecimal digits"),
        ("https://10.0.0.1", {"ca": "/no/such/file"}, "file of authorities"),
        ("http://127.0.0.1:1", {"fingerprint": "0" * 64}, "https:// alone"),
    ],
)
async def test_arguments_that_cannot_work_are_refused_before_anything_is_sent(
    url: str, options: dict[str, str], why: str
) -> None:
    with pytest.raises(bms.LocalProtocolError, match=why):
        async with bms.open_client(url, "bms_x", **options):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "grüße"])
async def test_what_is_no_token_is_not_sent(token: str) -> None:
    with pytest.raises(bms.LocalProtocolError, match="no token"):
        async with bms.open_client("http://127.0.0.1:1", token):
            pass


async def test_another_machine_is_asked_in_clear_only_where_that_was_said() -> None:
    async with bms.open_client("http://10.0.0.1:7801", "bms_x", allow_plain=True):
        pass


async def test_proxies_of_the_environment_see_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with open_node() as mesh, asking(mesh) as client:
        await client.nodes()


# ---------------------------------------------------------------------- feeds


async def test_a_feed_loses_nothing_when_its_connection_is_cut_again_and_again() -> None:
    async with open_node() as mesh:
        address = (mesh.http_url or "").removeprefix("http://")
        token = await mesh.issue_token(["data:read"])
        async with open_proxy(address, seed=1) as proxy, bms.open_client(url_at(proxy.address), token) as client:
            seen: list[str] = []
            hellos = 0
            async with client.events(["data"], prefix="k/") as events, trio.open_nursery() as nursery:

                async def write() -> None:
                    for number in range(60):
                        await mesh.store_data(f"k/{number:02}", b"")
                        await mesh.store_data(f"other/{number:02}", b"")
                        if number % 15 == 7:
                            await until(lambda: proxy.connections > 0)
                            proxy.cut()

                nursery.start_soon(write)
                async for event in events:
                    assert event["type"] in ("hello", "data"), event
                    hellos += event["type"] == "hello"
                    if event["type"] == "data":
                        seen.append(event["key"])
                    if len(seen) == 60:
                        break
            assert seen == [f"k/{number:02}" for number in range(60)]
            assert hellos >= 2


async def test_a_feed_that_was_away_too_long_says_what_it_missed() -> None:
    async with open_node(http=HttpConfig(events_kept=10)) as mesh:
        address = (mesh.http_url or "").removeprefix("http://")
        token = await mesh.issue_token(["data:read"])
        async with open_proxy(address, seed=2) as proxy, bms.open_client(url_at(proxy.address), token) as client:
            async with client.events(["data"]) as events:
                await events.__anext__()
                proxy.target = None
                proxy.cut()
                for number in range(40):
                    await mesh.store_data(f"k{number:02}", b"")
                await until(lambda: mesh._web.context.events.last >= 40)  # type: ignore[union-attr]
                proxy.target = bms.Address.parse(address)
                found = [await events.__anext__() for _ in range(12)]
                assert [event["type"] for event in found] == ["hello", "missed", *["data"] * 10]
                assert found[1]["count"] >= 30
                assert [event["key"] for event in found[2:]] == [f"k{number:02}" for number in range(30, 40)]


async def test_a_feed_goes_on_when_the_node_has_started_again_and_says_that_nobody_knows() -> None:
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            mesh = bms.init(dev_mode=True, enable_persistence=False, enable_discovery=False, http_address="127.0.0.1:0")
            await mesh.start(nursery)
            await mesh.reconfigure(http_address=(mesh.http_url or "").removeprefix("http://"))
            async with asking(mesh) as client, client.events(["data"]) as events:
                await events.__anext__()
                await mesh.stop()
                await mesh.start(nursery)
                assert (await events.__anext__())["type"] == "hello"
                missed = await events.__anext__()
                assert (missed["type"], missed["count"]) == ("missed", None)
                await mesh.store_data("a", b"")
                assert (await events.__anext__())["key"] == "a"
            await mesh.shutdown()


async def test_a_feed_can_be_taken_up_where_another_ended() -> None:
    async with open_node() as mesh, asking(mesh) as client:
        async with client.events(["data"]) as events:
            await events.__anext__()
            await mesh.store_data("a", b"")
            await events.__anext__()
            cursor = events.cursor
        await mesh.store_data("b", b"")
        async with client.events(["data"], since=cursor) as events:
            await events.__anext__()
            assert (await events.__anext__())["key"] == "b"
            assert events.is_connected


async def test_a_token_that_is_revoked_ends_a_feed() -> None:
    async with open_node() as mesh, asking(mesh) as client, client.events(["data"]) as events:
        await events.__anext__()
        await mesh.revoke((await client.whoami())["token_id"])
        for _ in range(2):
            with pytest.raises(bms.RefusedError):
                await events.__anext__()
        assert not events.is_connected


async def test_a_node_that_says_nothing_is_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "SILENCE_S", 0.3)
    async with open_node() as mesh:
        address = (mesh.http_url or "").removeprefix("http://")
        token = await mesh.issue_token(["data:read"])
        async with open_proxy(address, seed=3) as proxy, bms.open_client(url_at(proxy.address), token) as client:
            async with client.events(["data"]) as events:
                await events.__anext__()
                proxy.back.block()
                await mesh.store_data("a", b"")
                async with trio.open_nursery() as nursery:

                    async def mend() -> None:
                        await until(lambda: not events.is_connected)
                        proxy.back.unblock()

                    nursery.start_soon(mend)
                    event = await events.__anext__()
                    assert event["type"] == "hello"
                    while event["type"] == "hello":  # again whenever the process itself stands still for so long
                        event = await events.__anext__()
                    assert event["key"] == "a"


async def test_a_client_that_is_slow_itself_is_told_what_it_missed() -> None:
    http = HttpConfig(events_kept=50, send_timeout_s=0.3)
    async with open_node(http=http) as mesh, asking(mesh) as client, client.events(["message"]) as events:
        await events.__anext__()
        while not mesh.counters["http.broken"] + mesh.counters["http.slow_readers"]:
            await mesh.broadcast_message(b"x" * 8000, "t")
        missed = 0
        last = mesh._web.context.events.last  # type: ignore[union-attr]
        async for event in events:
            missed += event["count"] if event["type"] == "missed" else 0
            if event["type"] == "message" and event["cursor"].endswith(f"-{last}"):
                break
        assert missed > 0


async def test_many_feeds_of_one_client_end_with_it() -> None:
    async with open_node() as mesh:
        async with asking(mesh) as client:
            feeds = [client.events(["node"]) for _ in range(5)]
            for feed in feeds:
                await (await feed.__aenter__()).__anext__()
            for feed in feeds:
                await feed.__aexit__(None, None, None)
        await until(lambda: mesh._web._connections == {})  # type: ignore[union-attr]


async def test_a_ping_that_comes_while_a_feed_closes_costs_that_connection_alone() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await accept_events(stream)
        await stream.receive_some(65536)  # its goodbye
        await stream.send_all(b"\x89\x00\x88\x00")

    with trio.fail_after(DEADLINE_S):
        async with server(serve) as url, bms.open_client(url, "bms_x") as client:
            for _ in range(3):
                async with client.events() as events:
                    assert await events.__anext__() == {"type": "hello", "cursor": "a-1"}


async def test_topics_with_a_comma_cannot_be_chosen() -> None:
    async with open_node() as mesh, asking(mesh) as client:
        with pytest.raises(bms.LocalProtocolError, match="comma"):
            async with client.events(topics=["a,b"]):
                pass
