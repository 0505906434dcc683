"""The HTTP servers of a node: protocols, certificates, moving, ending. Real sockets and real TLS throughout."""

from __future__ import annotations

import random
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h2.events
import h2.exceptions
import pytest
import trio
import trio_websocket
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from web import DEADLINE_S, Http2Client, Site, answer_of, ask, dial, get, open_site, serve_site, tls, websocket

import bms
from bms.api.https import fingerprint
from bms.testing.network import SimNetwork
from bms.testing.trace import Trace
from bms.values import Address
from bms.world import World
from helpers import until

HELLO = b"GET /hello/ HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def shown(address: Address, **settings: Any) -> x509.Certificate:
    """The certificate that a server shows."""
    stream = await dial(address, tls(**settings))
    async with stream:
        assert isinstance(stream, trio.SSLStream)
        der = stream.getpeercert(True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def urls(mesh: bms.Mesh) -> tuple[str | None, str | None]:
    """Where HTTP and HTTPS are."""
    return mesh.http_url, mesh.https_url


# ---------------------------------------------------------------------- protocols


async def test_http_1_serves_one_request_after_the_other_on_a_connection() -> None:
    async with open_site() as site:
        async with await dial(site.http) as stream:
            for _ in range(3):
                answer = await ask(stream, HELLO)
                assert (answer.status, answer.body) == (200, b"hello")
                assert b"server:" not in answer.head.lower()
            answer = await ask(stream, b"POST /body/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde")
            assert answer.body == b"5"
            assert site.connections == 1
        await site.settle()
        assert [scope["extensions"]["bms"]["tls"] for scope in site.seen] == [False] * 4
        assert site.seen[0]["extensions"]["bms"]["peer"][0] == "127.0.0.1"
        assert site.mesh.counters.labelled("http.requests") == {("http", "GET", "200"): 3, ("http", "POST", "200"): 1}


async def test_requests_that_come_in_one_piece_are_answered_in_order() -> None:
    async with open_site() as site, await dial(site.http) as stream:
        chunked = b"POST /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        await stream.send_all(chunked + HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        data = b""
        with trio.fail_after(DEADLINE_S):
            while more := await stream.receive_some(65536):
                data += more
        first, _, second = data.partition(b"HTTP/1.1 200")[2].partition(b"HTTP/1.1 200")
        assert first.endswith(b"3")
        assert second.endswith(b"hello")


async def test_http_2_is_agreed_on_over_tls_and_serves_many_requests_at_once() -> None:
    async with open_site(https=True) as site:
        client = await Http2Client.connect(site.https)
        waiting = await client.request("/wait/")
        others = [await client.request(f"/big/{size}") for size in (1, 70_000, 300_000)]
        for stream_id, size in zip(others, (1, 70_000, 300_000), strict=True):
            assert len(await client.body(stream_id)) == size
        site.door.set()
        assert await client.body(waiting) == b"done"
        assert {scope["http_version"] for scope in site.seen} == {"2"}
        await client.stream.aclose()
        await site.settle()


async def test_large_bodies_come_whole_however_they_are_cut() -> None:
    size = 1 << 20
    async with open_site(https=True) as site:
        client = await Http2Client.connect(site.https)
        client.connection.send_headers(1, client.headers("/body/", "POST"))
        sent = 0
        while sent < size:  # frames of 16 KiB, which are never received in one piece
            while room := min(client.connection.local_flow_control_window(1), 16 * 1024, size - sent):
                client.connection.send_data(1, bytes(room), end_stream=sent + room == size)
                sent += room
            await client.flush()
            if sent < size:
                assert await client.hear(h2.events.WindowUpdated) is not None
        assert await client.body(1) == b"%d" % size
        head = b"POST /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with await dial(site.http) as stream:
            for length in (60, 60_000):
                chunk = b"%x;a=b\r\n" % length + bytes(length) + b"\r\n"
                count = 200_000 // length
                assert (await ask(stream, head + chunk * count + b"0\r\n\r\n")).body == b"%d" % (count * length)
        assert not site.mesh.counters.labelled("http.floods")


async def test_only_those_who_keep_waiting_count_as_timed_out() -> None:
    async with open_site() as site:
        async with await dial(site.http) as stream:
            assert (await ask(stream, HELLO.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n")).status == 200
            await site.settle()
        assert not site.mesh.counters.labelled("http.timeouts")


async def test_http_2_without_tls_is_served_to_who_knows_and_no_upgrade_leads_there() -> None:
    async with open_site() as site:
        client = Http2Client(await dial(site.http))
        client.connection.initiate_connection()
        assert await client.body(await client.request()) == b"hello"
        await client.stream.aclose()
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        async with await dial(site.http) as stream:
            answer = await ask(stream, HELLO.replace(b"\r\n\r\n", b"\r\n" + upgrade))
            assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize("secure", [False, True])
async def test_a_websocket_carries_messages_both_ways_and_closes(secure: bool) -> None:
    async with open_site(https=True) as site:
        async with websocket(site, "/echo/", secure=secure) as socket:
            with trio.fail_after(DEADLINE_S):
                for text in ("a", "é" * 40_000, b"\x00\xff"):
                    await socket.send_message(text)
                    assert await socket.get_message() == text
        await site.settle()
        assert site.seen[0]["scheme"] == ("wss" if secure else "ws")


async def test_no_compression_is_agreed_on() -> None:
    async with open_site() as site, await dial(site.http) as stream:
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        await stream.send_all(
            b"GET /echo/ HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" + key + offer
        )
        head = bytes(await stream.receive_some(65536))
        assert head.startswith(b"HTTP/1.1 101")
        assert b"extensions" not in head.lower()


async def test_an_idle_websocket_is_pinged_and_lives_and_one_that_does_not_answer_ends() -> None:
    async with open_site(idle_timeout_s=5.0) as site:  # while the process stands still no ping is answered
        async with websocket(site, "/echo/") as socket, await dial(site.http) as stream:
            await stream.send_all(
                b"GET /echo/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            with trio.fail_after(DEADLINE_S):
                while await stream.receive_some(65536):
                    pass  # pings, which are not answered, and then the end
                assert site.count("http.timeouts") == 1
                await socket.send_message("still there")
                assert await socket.get_message() == "still there"


async def test_plain_http_that_other_machines_reach_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    chosen: dict[str, Any] = {"dev_mode": True, "enable_persistence": False, "enable_discovery": False}
    with trio.fail_after(DEADLINE_S):
        async with bms.open_mesh(**chosen, http_address="127.0.0.1:0", https_address="0.0.0.0:0") as mesh:
            assert "clear text" not in caplog.text
            await mesh.start_http_server("0.0.0.0:0")
    assert caplog.text.count("HTTP is served in clear text at 0.0.0.0:") == 1
    assert "use https_address" in caplog.text


async def test_a_bug_in_the_application_is_a_500_and_other_requests_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async with open_site() as site:
        waiting = await dial(site.http)
        await waiting.send_all(HELLO.replace(b"hello", b"wait"))
        assert (await get(site.http, "/boom/")).status == 500
        assert (await get(site.http)).body == b"hello"
        assert (await get(site.http, "/boom/")).status == 500
        site.door.set()
        assert (await answer_of(waiting)).body == b"done"
        await waiting.aclose()
        assert site.count("http.errors") == 2
    assert caplog.text.count("a request of 127.0.0.1 failed") == 1, "the second within ten seconds is counted alone"


async def test_an_answer_before_the_end_of_the_body_reaches_a_client_that_is_still_sending() -> None:
    async with open_site(body_bytes_max=100_000) as site:
        async with await dial(site.http) as stream:
            head = b"POST /body/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer = await ask(stream, head + (b"8000\r\n" + bytes(0x8000) + b"\r\n") * 20)
            assert answer.status == 413
            assert b'"status": 413' in answer.body
        await site.settle()


async def test_an_answer_before_the_end_of_the_body_stops_that_http_2_stream_alone() -> None:
    async with open_site(https=True, body_bytes_max=1024) as site:
        client = await Http2Client.connect(site.https)
        stream_id = client.connection.get_next_available_stream_id()
        client.connection.send_headers(stream_id, client.headers("/body/", "POST"))
        client.connection.send_data(stream_id, bytes(2000))
        await client.flush()
        answer = await client.hear(h2.events.ResponseReceived)
        assert dict(answer.headers)[":status"] == "413"
        reset = await client.hear(h2.events.StreamReset)
        assert (reset.stream_id, reset.error_code) == (stream_id, 0)
        assert await client.body(await client.request()) == b"hello"
        await client.stream.aclose()


async def test_a_client_that_goes_away_ends_its_request() -> None:
    async with open_site() as site:
        stream = await dial(site.http)
        await stream.send_all(HELLO.replace(b"hello", b"stream"))
        await stream.receive_some(1000)
        await stream.aclose()
        await site.settle()
        assert (len(site.seen), site.count("http.errors")) == (1, 0)


# ---------------------------------------------------------------------- certificates


async def test_a_node_without_a_certificate_makes_one_and_keeps_it(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        async with bms.open_mesh(
            dev_mode=True, persistence_path=tmp_path / "node", https_address="127.0.0.1:0", enable_discovery=False
        ) as mesh:
            assert mesh.https_url is not None
            found.append(await shown(Address.parse(mesh.https_url.removeprefix("https://"))))
    assert fingerprint(found[0]) == fingerprint(found[1])
    assert (tmp_path / "node" / "https" / "key.pem").stat().st_mode & 0o777 == 0o600
    names = found[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert "127.0.0.1" in map(str, names.get_values_for_type(x509.IPAddress))


async def test_a_certificate_of_its_own_is_verified_by_whoever_trusts_its_fingerprint(tmp_path: Path) -> None:
    async with open_site(https=True) as site:
        pem = (await shown(site.https)).public_bytes(serialization.Encoding.PEM).decode()
        trusting = ssl.create_default_context(cadata=pem)
        async with await dial(site.https, trusting) as stream:
            assert (await ask(stream, HELLO)).status == 200


async def test_a_certificate_of_its_own_that_grows_old_is_made_anew() -> None:
    class Clock:
        def __init__(self) -> None:
            self.ahead_s = 0.0

        def __call__(self) -> float:
            return datetime.now(UTC).timestamp() + self.ahead_s

    from bms.api.https import Certificates
    from bms.config import Config

    clock = Clock()
    certificates = Certificates(Config(), None, lambda: ["198.51.100.7"], clock)
    first, context = certificates.fingerprint, certificates.context()
    certificates._looked_at -= 10
    assert certificates.context() is context
    clock.ahead_s = 300 * 86_400
    certificates._looked_at -= 10
    assert certificates.context() is not context
    assert certificates.fingerprint != first


def write_pair(ca: trustme.CA, folder: Path, name: str) -> x509.Certificate:
    """A certificate and its key, as cert.pem and key.pem."""
    leaf = ca.issue_cert(name)
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    (folder / "key.pem").write_bytes(leaf.private_key_pem.bytes())
    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())


async def test_a_certificate_is_taken_up_when_its_files_change_and_stays_when_they_break(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = trustme.CA()
    first = write_pair(ca, tmp_path, "one.example.org")
    paths: dict[str, Any] = {"cert_path": tmp_path / "cert.pem", "key_path": tmp_path / "key.pem"}
    async with open_site(https=True, **paths) as site:

        async def changed_to(certificate: x509.Certificate) -> None:
            with trio.fail_after(DEADLINE_S):
                while await shown(site.https) != certificate:  # noqa: ASYNC110 - looked at once a second
                    await trio.sleep(0.1)

        assert await shown(site.https) == first
        async with await dial(site.https, tls()) as stream:
            second = write_pair(ca, tmp_path, "two.example.org")
            await changed_to(second)
            (tmp_path / "key.pem").write_text("no key")
            await until(lambda: _look(site) and "stays" in caplog.text)
            assert await shown(site.https) == second
            await changed_to(write_pair(ca, tmp_path, "three.example.org"))
            assert (await ask(stream, HELLO)).status == 200, "connections go on with the old one"


def _look(site: Site) -> bool:
    assert site.servers._certificates is not None
    site.servers._certificates.context()
    return True


async def test_files_that_are_broken_are_refused_and_everything_stays(tmp_path: Path) -> None:
    ca = trustme.CA()
    write_pair(ca, tmp_path, "one.example.org")
    (tmp_path / "other.pem").write_bytes(ca.issue_cert("other").private_key_pem.bytes())
    (tmp_path / "junk.pem").write_text("junk")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    async with open_site(https=True) as site:
        before, url = await shown(site.https), site.mesh.https_url
        wrong: list[tuple[str, dict[str, Path]]] = [
            ("http.key_path", {"cert_path": cert, "key_path": tmp_path / "other.pem"}),
            ("http.cert_path", {"cert_path": tmp_path / "junk.pem", "key_path": key}),
            ("http.key_path", {"cert_path": cert, "key_path": tmp_path / "junk.pem"}),
            ("http.cert_path", {"cert_path": tmp_path / "none.pem", "key_path": key}),
            ("http.client_ca_path", {"client_ca_path": tmp_path / "junk.pem"}),
        ]
        for field, paths in wrong:
            with pytest.raises(bms.ConfigError) as caught:
                await site.mesh.reconfigure(http=paths)
            assert caught.value.field == field
        assert site.mesh.https_url == url
        assert await shown(site.https) == before
        await site.mesh.reconfigure(http={"cert_path": cert, "key_path": key})
        assert await shown(site.https) != before
        assert site.mesh.https_url == url


async def test_clients_without_a_certificate_are_refused_where_one_is_asked_for(tmp_path: Path) -> None:
    ca, stranger = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with open_site(https=True, client_ca_path=tmp_path / "ca.pem") as site:
        mine = tls()
        leaf = ca.issue_cert("client@example.org")
        leaf.configure_cert(mine)
        async with await dial(site.https, mine) as stream:
            assert (await ask(stream, HELLO)).status == 200
        assert site.seen[0]["extensions"]["bms"]["client_certificate"] == x509.load_pem_x509_certificate(
            leaf.cert_chain_pems[0].bytes()
        ).public_bytes(serialization.Encoding.DER)
        foreign = tls()
        stranger.issue_cert("client@example.org").configure_cert(foreign)
        for context in (tls(), foreign):
            try:
                async with await dial(site.https, context) as stream:  # TLS 1.3: the verdict comes later
                    assert (await ask(stream, HELLO)).status == 0
            except trio.BrokenResourceError:
                pass
        assert len(site.seen) == 1
        await until(lambda: site.count("http.handshakes_failed") == 2)


async def test_old_tls_is_refused_and_the_suites_are_those_asked_for() -> None:
    async with open_site(https=True) as site:
        old = ssl.TLSVersion.TLSv1_2

        async def suite() -> str:
            async with await dial(site.https, tls(maximum_version=old)) as stream:
                assert isinstance(stream, trio.SSLStream)
                found = stream.cipher()
                assert found is not None
                return str(found[0])

        assert (await suite()).startswith("ECDHE-ECDSA-")
        await site.mesh.reconfigure(tls_ciphers=["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"])
        assert await suite() == "ECDHE-ECDSA-CHACHA20-POLY1305"
        await site.mesh.reconfigure(tls_ciphers=[])
        with pytest.raises(trio.BrokenResourceError):
            await suite()
        async with await dial(site.https, tls()) as stream:
            assert (await ask(stream, HELLO)).status == 200


# ---------------------------------------------------------------------- starting, moving, ending


async def test_the_verbs_start_servers_and_say_where() -> None:
    async with bms.open_mesh(dev_mode=True, enable_discovery=False) as mesh:
        assert urls(mesh) == (None, None)
        with trio.fail_after(DEADLINE_S):
            url = await mesh.start_http_server("127.0.0.1:0")
        assert url == mesh.http_url
        assert url.startswith("http://127.0.0.1:")
        assert await mesh.start_http_server("127.0.0.1:0") == url, "it is there already"
        assert mesh.config.http_address == "127.0.0.1:0"
        assert (await get(Address.parse(url.removeprefix("http://")), "/livez")).status == 200
        with pytest.raises(bms.UnreachableError, match="choose another address or port"):
            await mesh.start_http_server("192.0.2.1:80")
        assert mesh.http_url == url
        assert mesh.config.http_address == "127.0.0.1:0"
        assert (await get(Address.parse(url.removeprefix("http://")), "/livez")).status == 200
    assert urls(mesh) == (None, None)
    with pytest.raises(bms.ClosedError):
        await mesh.start_http_server("127.0.0.1:0")


async def test_a_node_serves_from_its_start_as_its_configuration_says_and_again_after_a_stop() -> None:
    mesh = bms.init(dev_mode=True, enable_discovery=False, http_address="127.0.0.1:0", https_address="localhost:0")
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            await mesh.start(nursery)
            assert mesh.http_url is not None
            assert mesh.https_url is not None
            assert (await get(Address.parse(mesh.http_url.removeprefix("http://")), "/livez")).status == 200
            running = mesh.collect_stats().subsystems
            assert {"api", "events", "http", "https"} <= set(running)
            await mesh.stop()
            assert urls(mesh) == (None, None)
        await mesh.shutdown()


async def test_a_node_whose_http_address_is_taken_does_not_start() -> None:
    async with open_site() as site:
        taken = str(site.http)
        mesh = bms.init(dev_mode=True, enable_discovery=False, http_address=taken)
        async with trio.open_nursery() as nursery:
            with pytest.raises(bms.UnreachableError, match="choose another address or port"):
                await mesh.start(nursery)
            assert not mesh.is_running
        await mesh.shutdown()


async def test_a_simulated_network_has_no_http_and_says_so() -> None:
    host = SimNetwork(random.Random(1), Trace()).add_host("h1")
    place: dict[str, Any] = {"listen_address": f"{host.ip}:0", "http_address": f"{host.ip}:0"}
    mesh = bms.init(dev_mode=True, enable_discovery=False, world=World(network=host), **place)
    async with trio.open_nursery() as nursery:
        with pytest.raises(bms.ConfigError, match="simulated network") as caught:
            await mesh.start(nursery)
        assert caught.value.field == "http_address"
        assert not mesh.is_running
    await mesh.shutdown()


async def test_a_server_moves_and_the_request_that_asked_for_it_gets_its_answer() -> None:
    async with open_site() as site:
        old = site.http
        async with await dial(old) as busy, await dial(old) as idle:
            assert (await ask(idle, HELLO)).status == 200
            await busy.send_all(HELLO.replace(b"hello", b"wait"))
            await until(lambda: len(site.seen) == 2)
            done = await site.mesh.reconfigure(http_address="localhost:0")
            assert done.restarted == ("http",)
            assert site.http != old
            assert (await get(site.http)).body == b"hello"
            with pytest.raises(OSError, match="refused"):
                await dial(old)
            with trio.fail_after(DEADLINE_S):
                assert await idle.receive_some(1) == b"", "an idle connection is closed at once"
            site.door.set()
            assert (await answer_of(busy)).body == b"done"
            with trio.fail_after(DEADLINE_S):
                assert await busy.receive_some(1) == b""
            assert not site.context.closing.is_set()


async def test_a_server_that_is_switched_off_tells_websockets_why_and_leaves_the_other_alone() -> None:
    async with open_site(https=True, drain_s=0.5) as site:
        async with websocket(site, "/echo/") as one, websocket(site, "/echo/", secure=True) as two:
            await site.mesh.reconfigure(http_address=None)
            assert site.mesh.http_url is None
            with trio.fail_after(DEADLINE_S), pytest.raises(trio_websocket.ConnectionClosed) as caught:
                await one.get_message()
            assert caught.value.reason is not None
            assert (caught.value.reason.code, caught.value.reason.reason) == (1001, "the server is switched off")
            await two.send_message("on")
            assert await two.get_message() == "on"


async def test_a_change_that_fails_elsewhere_leaves_the_servers_where_they_were() -> None:
    async with open_site() as site:
        before = site.http
        with pytest.raises(bms.UnreachableError):
            await site.mesh.reconfigure(http_address="localhost:0", listen_address="192.0.2.1:1")
        assert site.http == before
        with pytest.raises(bms.UnreachableError):
            await site.mesh.reconfigure(http_address="192.0.2.1:1", https_address="127.0.0.1:0")
        assert (site.http, site.mesh.https_url) == (before, None)
        async with await dial(before) as stream:
            assert (await ask(stream, HELLO)).status == 200
            with pytest.raises(bms.UnreachableError):
                await site.mesh.reconfigure(http_address="192.0.2.1:1")
            assert site.http == before
            assert (await ask(stream, HELLO)).status == 200, "connections go on"
        assert (await get(before)).body == b"hello"


async def test_a_stop_lets_requests_finish_and_websockets_say_goodbye() -> None:
    async with open_site() as site:
        async with websocket(site, "/polite/") as socket, await dial(site.http) as busy, await dial(site.http) as idle:
            await busy.send_all(HELLO.replace(b"hello", b"wait"))
            await until(lambda: len(site.seen) == 2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(site.mesh.stop)
                with trio.fail_after(DEADLINE_S):
                    with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                        await socket.get_message()
                    assert await idle.receive_some(1) == b""
                assert caught.value.reason is not None
                assert (caught.value.reason.code, caught.value.reason.reason) == (1001, "the node stops")
                assert site.mesh.is_running, "a request that is being served may use the node"
                site.door.set()
                assert (await answer_of(busy)).body == b"done"
        assert site.connections == 0


async def test_a_stop_cuts_what_does_not_end_when_its_time_is_over() -> None:
    async with open_site(drain_s=0.3) as site:
        async with websocket(site, "/echo/") as socket, await dial(site.http) as stuck:
            await stuck.send_all(HELLO.replace(b"hello", b"wait"))
            await until(lambda: len(site.seen) == 2)
            with trio.fail_after(DEADLINE_S):
                await site.mesh.stop()
            assert site.connections == 0
            assert site.cancelled == 1
            with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                await socket.get_message()
            assert caught.value.reason is not None
            assert caught.value.reason.code == 1001


async def test_cancelling_the_body_ends_everything_whatever_clients_do() -> None:
    with trio.CancelScope() as scope:
        async with open_site(https=True, drain_s=600) as site:
            async with websocket(site, "/echo/", secure=True), trio.open_nursery() as nursery:
                deaf = await dial(site.http, receive_buffer=4096)
                await deaf.send_all(HELLO.replace(b"hello", b"stream"))
                await (await dial(site.http)).send_all(HELLO.replace(b"hello", b"wait"))
                await (await dial(site.https)).send_all(b"\x16\x03")
                client = await Http2Client.connect(site.https)
                await client.request("/wait/")
                nursery.start_soon(get, site.http, "/wait/")
                await until(lambda: len(site.seen) == 5)
                began = trio.current_time()
                scope.cancel()
    assert scope.cancelled_caught
    assert site.connections == 0
    assert site.cancelled + site.ended == 5
    assert trio.current_time() - began < DEADLINE_S


async def test_a_node_is_stopped_under_load_without_an_error() -> None:
    async with open_site(https=True) as site, trio.open_nursery() as nursery:
        done = 0

        async def load() -> None:
            nonlocal done
            try:
                while True:
                    done += (await get(site.http)).status == 200
            except (OSError, AssertionError):
                pass  # it has stopped

        async def load_2() -> None:
            nonlocal done
            client = await Http2Client.connect(site.https)
            await client.hear(h2.events.SettingsAcknowledged)
            with suppress(h2.exceptions.ProtocolError):  # a request after the server has said goodbye
                while not client.is_closed:
                    await client.request()
                    done += await client.hear(h2.events.StreamEnded) is not None

        nursery.start_soon(load)
        nursery.start_soon(load_2)
        await until(lambda: done > 30)
        with trio.fail_after(DEADLINE_S):
            await site.mesh.stop()
        assert site.count("http.errors") == 0
        nursery.cancel_scope.cancel()


async def test_the_own_application_is_served_when_a_node_is_made_with_it() -> None:
    async with bms.open_mesh(dev_mode=True, enable_discovery=False) as mesh:
        site = await serve_site(mesh)
        await mesh.reconfigure(http_address="127.0.0.1:0", http={"requests_per_s": 1000.0})
        assert (await get(site.http)).body == b"hello"
