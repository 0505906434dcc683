"""The control socket on real nodes: every verb, errors as they cross, what bounds a connection, whose the socket is."""

from __future__ import annotations

import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import blake3
import pytest
import trio
import trio.testing

import bms
from bms import errors
from bms.control import SOCKET_NAME, ControlClient, open_control
from bms.control.answers import COMMANDS_MAX
from bms.control.client import STREAMS_MAX
from bms.control.failures import error_untrusted, failure
from bms.control.place import connect, listening
from bms.control.server import CONNECTIONS_MAX, serve_control
from bms.control.verbs import VERBS, Arguments, Host
from bms.wire import FrameReader, frame, frame_message, parse_message_untrusted
from bms.wire.messages import Command, Failure, Item, Ping, Result
from helpers import cluster, until


@asynccontextmanager
async def served(**fields: Any) -> AsyncIterator[tuple[bms.Mesh, Path]]:
    """One node and the path of its socket."""
    async with bms.open_mesh(dev_mode=True, **fields) as mesh, trio.open_nursery() as nursery:
        assert mesh.folder is not None
        path = mesh.folder / SOCKET_NAME
        await nursery.start(serve_control, mesh, path)
        yield mesh, path
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def served_pair() -> AsyncIterator[tuple[bms.Mesh, bms.Mesh, ControlClient, ControlClient]]:
    """Two linked nodes, and a client of each."""
    async with cluster(2) as (one, two), trio.open_nursery() as nursery:
        await nursery.start(serve_control, one, one.folder / SOCKET_NAME)
        await nursery.start(serve_control, two, two.folder / SOCKET_NAME)
        async with open_control(one.folder / SOCKET_NAME) as at_one, open_control(two.folder / SOCKET_NAME) as at_two:
            yield one, two, at_one, at_two
        nursery.cancel_scope.cancel()


class Raw:
    """A client that says what it likes."""

    def __init__(self, path: Path) -> None:
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(connect(path)))
        self._reader = FrameReader(1 << 30)
        self._payloads: list[bytes] = []

    async def say(self, *messages: Any) -> None:
        await self.stream.send_all(b"".join(map(frame_message, messages)))

    async def hear(self) -> Any:
        while not self._payloads:
            data = await self.stream.receive_some(1 << 16)
            if not data:
                return None
            self._payloads += self._reader.feed(data)
        return parse_message_untrusted(self._payloads.pop(0), local=True)


# --- verbs


async def test_status_tells_what_the_node_itself_would_say() -> None:
    async with served() as (mesh, path), open_control(path) as client:
        await mesh.store_data("a", b"12345")
        status, summary = await client.status(), mesh.data_summary()
        assert (status.node_id, status.name, status.mesh_name) == (mesh.node_id, "node", "default")
        assert (status.mesh_id, status.address, status.folder) == (mesh.mesh_id, str(mesh.address), str(mesh.folder))
        assert (status.entries, status.bytes, status.position) == (1, 5, summary.position)
        assert (status.epoch, status.fingerprint) == (summary.epoch, summary.fingerprint)
        assert status.discovery == []
        assert status.nodes["alive"] == 1
        assert 0 <= status.uptime_s < 60


async def test_nodes_are_the_same_objects_as_in_the_process() -> None:
    async with served_pair() as (one, two, at_one, _):
        found = await at_one.nodes()
        assert [(node.node_id, node.name, node.address, node.state) for node in found] == [
            (node.node_id, node.name, node.address, node.state) for node in one.nodes()
        ]
        assert found[1].node_id == two.node_id
        assert await at_one.nodes("failed") == []
        assert (await at_one.register(str(two.address))).node_id == two.node_id


async def test_values_are_written_read_listed_and_deleted() -> None:
    async with served() as (mesh, path), open_control(path) as client:
        version = await client.put("a/1", b"one")
        assert await client.put(b"\xff\x00", b"", ttl_s=60)
        found = await client.get("a/1")
        assert (found.value, found.version, found.author) == (b"one", version, mesh.node_id)
        async with client.ls() as keys:
            assert [(info.key, info.size) async for info in keys] == [(b"a/1", 3), (b"\xff\x00", 0)]
        async with client.ls("a/") as keys:
            assert [info.key async for info in keys] == [b"a/1"]
        await client.rm("a/1")
        with pytest.raises(bms.NotFoundError):
            await mesh.retrieve_data("a/1")


async def test_a_long_listing_arrives_whole_and_in_order() -> None:
    async with served() as (mesh, path), open_control(path) as client:
        names = [b"%05d" % number for number in range(700)]
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(mesh.store_data, name, b"x")
        async with client.ls() as keys:
            assert [info.key async for info in keys] == names


async def test_a_listing_that_is_left_early_leaves_the_connection_usable() -> None:
    async with served() as (mesh, path), open_control(path) as client:
        async with trio.open_nursery() as nursery:
            for number in range(600):
                nursery.start_soon(mesh.store_data, f"{number:04}", b"x")
        for _ in range(STREAMS_MAX + 2):
            async with client.ls() as keys:
                async for info in keys:
                    assert info.key == b"0000"
                    break
        assert (await client.get("0599")).value == b"x"


async def test_the_digest_of_each_key_is_the_same_on_all_replicas() -> None:
    async with served_pair() as (one, _, at_one, at_two):
        values = {b"small": b"1", b"large": bytes(range(256)) * 100}
        for key, value in values.items():
            await one.store_data(key, value)
        report = await at_two.sync()
        assert [peer["node_id"] for peer in report["peers"]] == [one.node_id]
        assert [peer["equal"] for peer in (await at_two.sync([one.node_id]))["peers"]] == [True]
        async with at_one.digest() as first, at_two.digest() as second:
            digests = {key: digest async for key, digest in second}
            assert digests == {key: digest async for key, digest in first}
        assert digests == {key: blake3.blake3(value).digest() for key, value in values.items()}
        assert (await at_one.status()).fingerprint == (await at_two.status()).fingerprint


async def test_messages_pass_between_programs_of_two_nodes() -> None:
    async with served_pair() as (one, two, at_one, at_two):
        async with at_two.listen("news") as messages:
            await at_one.send(two.node_id, b"direct", topic="news")
            assert await at_one.broadcast(b"all", topic="news") == 1
            first, second = await messages.__anext__(), await messages.__anext__()
        assert isinstance(first, bms.Message)
        assert isinstance(second, bms.Message)
        assert (first.sender, first.topic, first.body) == (one.node_id, "news", b"direct")
        assert (second.sender, second.body) == (one.node_id, b"all")


async def test_a_request_brings_the_answer_or_the_handlers_error() -> None:
    async with served_pair() as (_, two, at_one, _), trio.open_nursery() as nursery:

        async def handler(message: bms.Message) -> bytes:
            if message.body == b"bad":
                raise ValueError("no good")
            return message.body.upper()

        await nursery.start(two.serve_requests, "shout", handler)
        assert await at_one.request(two.node_id, b"hey", topic="shout") == b"HEY"
        with pytest.raises(bms.RemoteError) as caught:
            await at_one.request(two.node_id, b"bad", topic="shout")
        assert (caught.value.kind, caught.value.text) == ("ValueError", "no good")
        nursery.cancel_scope.cancel()


async def test_who_stops_listening_leaves_no_subscription_behind() -> None:
    async with served() as (mesh, path), open_control(path) as client:
        async with client.listen("t"):
            pass
        await client.status()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await mesh.send_message(mesh.node_id, b"held", "t")
        with trio.fail_after(60):
            async with mesh.subscribe("t") as messages:
                message = await messages.__anext__()
        assert isinstance(message, bms.Message)
        assert message.body == b"held"


async def test_listening_ends_when_the_mesh_stops() -> None:
    async with served() as (mesh, path), open_control(path) as client:
        async with client.listen() as messages:
            await mesh.stop()
            with trio.fail_after(60):
                assert [message async for message in messages] == []
        with pytest.raises(bms.ClosedError):
            await client.broadcast(b"x")


async def test_statistics_come_as_plain_values() -> None:
    async with served() as (mesh, path), open_control(path) as client:
        await mesh.broadcast_message(b"x")
        stats = await client.stats()
        assert stats["node_id"] == mesh.node_id
        assert stats["counters"]["messaging.broadcast"] == 1
        assert stats["subsystems"]["membership"]["state"] == "running"


async def test_stop_asks_the_process_and_is_refused_where_it_does_not_listen() -> None:
    asked = []
    async with bms.open_mesh(dev_mode=True) as mesh, trio.open_nursery() as nursery:
        assert mesh.folder is not None
        path = mesh.folder / SOCKET_NAME

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_control(mesh, path, on_stop=lambda: asked.append(1), task_status=task_status)

        await nursery.start(serve)
        async with open_control(path) as client:
            await client.stop()
            assert asked == [1]
        nursery.cancel_scope.cancel()
    async with served() as (_, path), open_control(path) as client:
        with pytest.raises(bms.RefusedError):
            await client.stop()


async def test_a_value_of_many_megabytes_passes_and_one_beyond_the_limit_does_not() -> None:
    async with served(limits={"value_bytes_max": 6 << 20}) as (_, path), open_control(path) as client:
        value = bytes(range(256)) * (5 << 12)
        await client.put("big", value)
        assert (await client.get("big")).value == value
        with pytest.raises(bms.LimitError):
            await client.put("bigger", bytes((6 << 20) + 1))
        assert (await client.get("big")).value == value


async def test_many_commands_share_one_connection() -> None:
    async with served() as (_, path), open_control(path) as client:
        found: dict[int, bytes] = {}

        async def both(number: int) -> None:
            await client.put(f"k{number}", b"%d" % number)
            found[number] = (await client.get(f"k{number}")).value

        async with trio.open_nursery() as nursery:
            for number in range(3 * COMMANDS_MAX):
                nursery.start_soon(both, number)
        assert found == {number: b"%d" % number for number in range(3 * COMMANDS_MAX)}


async def test_a_slow_command_does_not_hold_up_others() -> None:
    async with served_pair() as (_, two, at_one, _), trio.open_nursery() as nursery:

        async def never(message: bms.Message) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        await nursery.start(two.serve_requests, "never", never)

        async def ask() -> None:
            await at_one.request(two.node_id, b"", topic="never", deadline_s=60)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(60):
            await at_one.put("a", b"1")
        nursery.cancel_scope.cancel()


# --- errors


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("limits.topics_max", Path("/x"), "is wrong"),
        errors.QuorumError(1, 2),
        errors.VersionConflictError("v1", b"current"),
        errors.VersionConflictError(None),
        errors.RemoteError("ValueError", "no"),
        errors.RemoteProtocolError("nonsense", 5),
        *(
            getattr(errors, name)("what happened")
            for name in errors.__all__
            if name not in ("ConfigError", "QuorumError", "VersionConflictError", "RemoteError", "RemoteProtocolError")
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_crosses_as_its_class_with_its_facts(error: errors.MeshError) -> None:
    message = parse_message_untrusted(frame_message(failure(7, error))[4:], local=True)
    assert isinstance(message, Failure)
    crossed = error_untrusted(message)
    assert type(crossed) is type(error)
    assert str(crossed) == str(error)
    facts = {name: str(fact) if isinstance(fact, Path) else fact for name, fact in vars(error).items()}
    assert vars(crossed) == facts


def test_an_error_of_a_newer_node_is_a_remote_error() -> None:
    error = error_untrusted(Failure(1, "QuotaError", "too much", {}))
    assert isinstance(error, bms.RemoteError)
    assert (error.kind, error.text) == ("QuotaError", "too much")
    assert isinstance(error_untrusted(Failure(1, "__all__", "", {})), bms.RemoteError)


def test_a_failure_without_its_facts_is_the_peers_fault() -> None:
    for facts in ({}, {"acked": 1}, {"acked": 1, "needed": "2"}):
        with pytest.raises(bms.RemoteProtocolError):
            error_untrusted(Failure(1, "QuorumError", "", facts))


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("fly", {}),
        ("get", {}),
        ("get", {"key": "text"}),
        ("get", {"key": b"a", "speed": 9}),
        ("put", {"key": b"a"}),
        ("put", {"key": b"", "value": b"1"}),
        ("put", {"key": b"a", "value": b"1", "ttl_s": -1}),
        ("put", {"key": b"a", "value": b"1", "ttl_s": True}),
        ("put", {"key": b"a", "value": b"1", "ttl_s": 1e307}),
        ("send", {"to": "nobody", "body": b""}),
        ("sync", {"peers": [1]}),
        ("listen", {"topic": b"bytes"}),
        ("nodes", {"state": "asleep"}),
    ],
)
async def test_a_command_that_makes_no_sense_is_refused_and_does_nothing(verb: str, arguments: dict[str, Any]) -> None:
    async with served() as (mesh, path):
        raw = Raw(path)
        async with raw.stream:
            await raw.say(Command(5, verb, arguments))
            answer = await raw.hear()
            assert isinstance(answer, Failure)
            assert (answer.id, answer.kind) == (5, "LocalProtocolError")
            assert mesh.data_summary().position == 0
            await raw.say(Command(6, "nodes", {}))
            assert isinstance(await raw.hear(), Result)


async def test_a_bug_in_a_command_is_told_and_logged_and_costs_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def status(host: Host, arguments: Arguments) -> object:
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(VERBS, "status", status)
    async with served() as (_, path), open_control(path) as client:
        with pytest.raises(bms.RemoteError) as caught:
            await client.status()
        assert (caught.value.kind, caught.value.text) == ("ZeroDivisionError", "a bug")
        assert "the command status failed" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert await client.put("a", b"1")


# --- connections


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        frame(b"\xff"),
        frame_message(Ping(1, 1)),
        frame_message(Result(1, None)),
    ],
    ids=["http", "huge", "empty", "malformed", "of-another-link", "no-command"],
)
async def test_garbage_ends_its_connection_and_no_other(garbage: bytes) -> None:
    async with served() as (_, path), open_control(path) as client:
        raw = Raw(path)
        async with raw.stream:
            await raw.stream.send_all(garbage)
            with trio.fail_after(60):
                try:
                    assert await raw.stream.receive_some(10) == b""
                except trio.BrokenResourceError:
                    pass  # closed with bytes of ours unread
        assert await client.put("a", b"1")


async def test_two_commands_of_one_number_end_the_connection() -> None:
    async with served() as (_, path):
        raw = Raw(path)
        async with raw.stream:
            await raw.say(Command(1, "listen", {}), Command(1, "listen", {}))
            with trio.fail_after(60):
                while await raw.hear() is not None:
                    pass


async def test_connections_are_bounded_and_one_that_ends_makes_room() -> None:
    async with served() as (_, path):
        raws = [Raw(path) for _ in range(CONNECTIONS_MAX)]
        for raw in raws:
            await raw.say(Command(1, "nodes", {}))
            assert isinstance(await raw.hear(), Result)
        async with open_control(path) as late:
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(bms.ClosedError, match=str(CONNECTIONS_MAX)):
                await late.status()
        await raws.pop().stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with open_control(path) as client:
            assert await client.nodes()
        for raw in raws:
            await raw.stream.aclose()


async def test_commands_at_once_are_bounded_and_cancel_makes_room() -> None:
    async with served() as (_, path):
        raw = Raw(path)
        async with raw.stream:
            await raw.say(*(Command(number, "listen", {}) for number in range(1, COMMANDS_MAX + 1)))
            for _ in range(COMMANDS_MAX):
                assert isinstance(await raw.hear(), Item)
            await raw.say(Command(1000, "nodes", {}))
            refused = await raw.hear()
            assert (refused.id, refused.kind) == (1000, "LimitError")
            await raw.say(Command(1001, "cancel", {"id": 1}), Command(1002, "cancel", {"id": [1]}))
            await trio.testing.wait_all_tasks_blocked(0.01)
            await raw.say(Command(1003, "nodes", {}))
            assert (await raw.hear()).id == 1003


async def test_a_client_that_never_reads_is_dropped_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bms.control.server.SEND_S", 0.3)
    async with served() as (mesh, path), open_control(path) as client:
        await mesh.store_data("big", bytes(4 << 20))
        raw = Raw(path)
        async with raw.stream:
            await raw.say(*(Command(number, "get", {"key": b"big"}) for number in range(1, 21)))
            with trio.fail_after(60):
                await client.put("a", b"1")
                # It is closed while we leave everything unread: what was in the socket comes, then the end.
                await until(lambda: "did not read its reply" in caplog.text)
                received = 0
                while data := await raw.stream.receive_some(1 << 20):
                    received += len(data)
        assert received < 4 << 20


async def test_streams_are_bounded_on_the_clients_side() -> None:
    async with served() as (_, path), open_control(path) as client:
        async with trio.open_nursery() as nursery:

            async def hold(*, task_status: trio.TaskStatus[None]) -> None:
                async with client.listen():
                    task_status.started()
                    await trio.sleep_forever()

            for _ in range(STREAMS_MAX):
                await nursery.start(hold)
            with pytest.raises(bms.LimitError):
                async with client.listen():
                    pass
            assert await client.put("a", b"1")
            nursery.cancel_scope.cancel()


async def test_a_node_that_ends_under_a_command_leaves_its_outcome_unknown(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as listener:
        listener.setblocking(False)
        async with open_control(tmp_path / "s") as client, trio.open_nursery() as nursery:
            caught: list[Exception] = []

            async def put() -> None:
                try:
                    await client.put("a", b"1")
                except bms.DeliveryError as error:
                    caught.append(error)

            nursery.start_soon(put)
            peer, _ = await trio.socket.from_stdlib_socket(listener).accept()
            assert await peer.recv(1000)
            peer.close()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(caught) == 1
            with pytest.raises(bms.ClosedError):
                await client.put("b", b"2")
            with trio.fail_after(60):
                await client.wait_closed()


@pytest.mark.parametrize("answer", [Result(1, {"node_id": "x"}), Result(1, 5), Result(1, None)])
async def test_an_answer_that_is_not_understood_is_the_nodes_fault(tmp_path: Path, answer: Result) -> None:
    with listening(tmp_path / "s") as listener:
        listener.setblocking(False)
        async with open_control(tmp_path / "s") as client, trio.open_nursery() as nursery:

            async def reply() -> None:
                peer, _ = await trio.socket.from_stdlib_socket(listener).accept()
                with peer:
                    await peer.recv(1000)
                    await peer.send(frame_message(answer))
                    await trio.sleep_forever()

            nursery.start_soon(reply)
            with trio.fail_after(60), pytest.raises(bms.RemoteProtocolError):
                await client.status()
            nursery.cancel_scope.cancel()


async def test_the_bodys_own_exception_leaves_open_control_as_itself() -> None:
    async with served() as (_, path):
        with pytest.raises(ZeroDivisionError):
            async with open_control(path):
                _ = 1 / 0


async def test_a_cancelled_command_leaves_the_connection_usable() -> None:
    async with served_pair() as (_, two, at_one, _), trio.open_nursery() as nursery:

        async def never(message: bms.Message) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        await nursery.start(two.serve_requests, "never", never)
        with trio.move_on_after(0.05) as scope:
            await at_one.request(two.node_id, b"", topic="never", deadline_s=60)
        assert scope.cancelled_caught
        assert await at_one.put("a", b"1")
        nursery.cancel_scope.cancel()


# --- the place


async def test_the_socket_is_the_users_alone_and_goes_with_the_node() -> None:
    async with served() as (_, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    with pytest.raises(bms.UnreachableError, match="bms up"):
        connect(path)


async def test_a_live_socket_is_not_taken() -> None:
    async with served() as (mesh, path):
        with pytest.raises(bms.StoreError, match="process"):
            await serve_control(mesh, path)
        async with open_control(path) as client:
            assert (await client.status()).node_id == mesh.node_id


async def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "default" / "node" / SOCKET_NAME
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
        left_behind.listen()
    with pytest.raises(bms.UnreachableError):
        connect(path)
    with listening(path):
        connect(path).close()


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / SOCKET_NAME
    path.write_text("precious")
    with pytest.raises(bms.StoreError, match="in the way"), listening(path):
        pass
    assert path.read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(bms.StoreError), listening(tmp_path / "file" / SOCKET_NAME):
        pass


def test_an_error_of_the_body_is_not_taken_for_the_sockets(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), listening(tmp_path / SOCKET_NAME):
        (tmp_path / "none").read_text()


async def test_a_path_too_long_for_a_socket_address_works_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    async with served(persistence_path=folder) as (mesh, path):
        assert len(str(path)) > 200
        async with open_control(path) as client:
            assert (await client.status()).node_id == mesh.node_id
    assert not path.exists()


def test_descriptors_are_not_leaked_by_making_and_failing(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 100) / SOCKET_NAME
    with listening(path):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(bms.StoreError), listening(path):
                pass
            connect(path).close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
