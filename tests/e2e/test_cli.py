"""The command `bms` as people and scripts use it: real processes, real signals, real pipes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

import bms
from bms.control import ControlClient, open_control
from helpers import PROCESS_S, ROOT, Program, bms_up, running, until

pytestmark = pytest.mark.e2e

BMS = (sys.executable, "-m", "bms")


@attrs.define
class Done:
    """How a command ended."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Machine:
    """A machine's user: a home, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.environ = {**os.environ, "BMS_HOME": str(folder / "h"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}

    async def run(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run `bms` to its end."""
        with trio.fail_after(PROCESS_S):
            done = await trio.run_process(
                [*BMS, *arguments], stdin=stdin, env=self.environ, cwd=self.folder, check=False,
                capture_stdout=True, capture_stderr=True,
            )  # fmt: skip
        error = done.stderr.decode()
        assert "Traceback" not in error, error
        return Done(done.returncode, done.stdout, error)

    async def ok(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run `bms` to its end, which is a good one."""
        done = await self.run(*arguments, stdin=stdin)
        assert done.status == 0, (arguments, done)
        return done

    def start(self, *arguments: str) -> AbstractAsyncContextManager[Program]:
        """Run `bms` for the body."""
        return running([*BMS, *arguments], self.folder, self.environ)

    def up(self, *arguments: str) -> AbstractAsyncContextManager[Program]:
        """Run `bms up` for the body, once it is ready."""
        return bms_up(self.folder, *arguments, environ=self.environ)

    async def eventually(self, condition: Callable[[Done], object], *arguments: str) -> Done:
        """Run a command until what it says is as wanted."""
        with trio.fail_after(PROCESS_S):
            while not condition(done := await self.run(*arguments)):
                pass
        return done

    async def is_well(self, *arguments: str) -> Done:
        """Ask for a node's health until it is good, but for what the machine does to it: tasks that get no turn."""

        def is_good(done: Done) -> bool:
            rows = [line.split() for line in done.text.splitlines()[2:]]
            return done.status == 0 or (bool(rows) and {row[0] for row in rows if row[1] != "ok"} == {"scheduler"})

        return await self.eventually(is_good, "health", *arguments)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def one_line(done: Done, status: int) -> str:
    """The line of an error, which is all that was said."""
    assert done.status == status, done
    assert done.out == b""
    assert done.err.startswith("bms: ")
    assert done.err.count("\n") == 1
    return done.err


async def joined(machine: Machine, node: str, count: int) -> None:
    await machine.eventually(
        lambda done: len(done.json) == count, "nodes", "--node", node, "--state", "alive", "-o", "json"
    )


async def test_two_nodes_on_one_machine_share_data_and_messages(machine: Machine) -> None:
    async with machine.up("--dev", "--name", "one") as one, machine.up("--dev", "--name", "two") as two:
        await joined(machine, "one", 2)
        names = [node["name"] for node in (await machine.ok("nodes", "--node", "two", "-o", "json")).json]
        assert names == ["two", "one"]
        table = (await machine.ok("nodes", "--node", two.ready["node_id"][:8])).text
        assert table.splitlines()[0].split() == ["NAME", "ID", "STATE", "ADDRESS", "RTT", "SEEN"]

        await machine.ok("put", "--node", "one", "greeting", "hello")
        got = await machine.eventually(lambda done: done.status == 0, "get", "--node", "two", "greeting")
        assert got.out == b"hello"
        binary = bytes(range(256)) * 1000
        await machine.ok("put", "--node", "one", "blob", "-", stdin=binary)
        await machine.ok("sync", "--node", "two")
        assert (await machine.ok("get", "--node", "two", "blob")).out == binary
        statuses = [(await machine.ok("status", "--node", name, "-o", "json")).json for name in ("one", "two")]
        assert statuses[0]["fingerprint"] == statuses[1]["fingerprint"]
        assert [status["entries"] for status in statuses] == [2, 2]
        listed = (await machine.ok("ls", "--node", "two", "-o", "json")).json
        assert [(row["key"], row["size"]) for row in listed] == [("blob", len(binary)), ("greeting", 5)]
        assert (await machine.ok("ls", "--node", "two", "gr")).text.splitlines()[1].startswith("greeting  5")
        await machine.ok("rm", "--node", "two", "greeting", "blob")
        await machine.eventually(lambda done: done.status == 1, "get", "--node", "one", "greeting")

        await machine.ok("send", "--node", "one", "two", "line\nbreak", "--topic", "t")
        await machine.ok("send", "--node", "one", two.ready["node_id"], "-", "--topic", "t", stdin=b"\xff")
        heard = await machine.ok("listen", "--node", "two", "--topic", "t", "--count", "2")
        assert heard.text.splitlines()[0].endswith(f" {one.ready['node_id'][:8]}: line\\nbreak")
        assert heard.text.splitlines()[1].endswith(": \\xff")
        await machine.ok("send", "--node", "one", two.ready["node_id"], "-", "--topic", "t", stdin=b"\xff")
        heard = await machine.ok("listen", "--node", "two", "--topic", "t", "--count", "1", "-o", "json")
        assert (heard.json["sender"], heard.json["body"], heard.json["body_base64"]) == (
            one.ready["node_id"],
            None,
            "/w==",
        )
        assert (await machine.ok("broadcast", "--node", "one", "all")).text == "sent to 1 other node\n"

        assert await two.end() == 0
        left = (await machine.ok("nodes", "--node", "one", "--state", "left", "-o", "json")).json
        assert [node["node_id"] for node in left] == [two.ready["node_id"]]
        assert (await machine.ok("nodes")).text.splitlines()[1].startswith("one")
        await machine.ok("drain")
        assert one.process.returncode == 0  # it has ended when the command returns
        assert await one.wait() == 0


async def test_what_was_acknowledged_survives_a_kill_and_the_socket_is_taken_over(machine: Machine) -> None:
    async with machine.up() as first:
        await machine.ok("put", "a", "acknowledged")
        assert await first.end(signal.SIGKILL) == -signal.SIGKILL
    assert first.control.exists()
    assert "bms up" in one_line(await machine.run("get", "a"), 3)
    async with machine.up() as second:
        assert second.ready["node_id"] == first.ready["node_id"]
        assert (await machine.ok("get", "a")).out == b"acknowledged"
        assert await second.end(signal.SIGINT) == 0
    assert not first.control.exists()


async def test_a_second_node_in_the_same_folder_is_refused(machine: Machine) -> None:
    async with machine.up("--listen", "127.0.0.1:0"):
        error = one_line(await machine.run("up", "--listen", "127.0.0.1:0"), 1)
        assert "in use by process" in error.splitlines()[-1]
        assert (await machine.ok("status", "-o", "json")).json["nodes"]["alive"] == 1


async def test_an_address_in_use_is_said_in_one_line(machine: Machine) -> None:
    async with machine.up("--dev") as first:
        done = await machine.run("up", "--no-found", "--name", "b", "--dev", "--listen", first.ready["address"])
        assert done.status == 1
        assert first.ready["address"] in done.err.splitlines()[-1]


async def test_a_node_ends_with_the_program_that_started_it(machine: Machine) -> None:
    async with machine.up("--dev") as node:
        await node.end_input()
        assert await node.wait() == 0


async def test_a_second_signal_ends_a_node_that_is_draining(machine: Machine) -> None:
    slow = ("--dev", "--set", "limits.drain_timeout_s=600", "--set", "gossip.keepalive_timeout_s=600")
    async with machine.up(*slow, "--name", "a") as a, machine.up(*slow, "--name", "b") as b:
        await joined(machine, "a", 2)
        b.process.send_signal(signal.SIGSTOP)
        async with open_control(a.control) as node:
            for _ in range(10):
                await node.broadcast(bytes(700_000))
            a.process.send_signal(signal.SIGTERM)
            with trio.fail_after(PROCESS_S):
                while await is_running(node):
                    pass
            assert a.process.poll() is None
        assert await a.end(signal.SIGTERM) == -signal.SIGTERM
        assert await b.end(signal.SIGKILL) == -signal.SIGKILL  # it is stopped


async def is_running(node: ControlClient) -> bool:
    """Whether the mesh behind the process still takes work."""
    try:
        await node.broadcast(b"")
    except bms.ClosedError:
        return False
    return True


async def test_a_signal_while_starting_ends_it_quietly(machine: Machine) -> None:
    async with machine.start("up", "--dev") as node:
        # The first line of the log comes while the identity is made, before anything is bound.
        await until(lambda: b"\n" in node.log.read_bytes(), PROCESS_S)
        assert await node.end() == 0


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (("nodes",), "click"),
        (("nodes",), "bms.values"),
        (("nodes",), "trio"),
        (("nodes",), "bms.control.client"),
        (("up", "--dev"), "cryptography.x509"),
        (("up", "--dev"), "bms.mesh"),
    ],
)
async def test_an_interrupt_while_importing_leaves_no_traceback(
    machine: Machine, arguments: tuple[str, ...], module: str
) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "bms", *arguments]
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=machine.environ, cwd=machine.folder
    )
    assert process.stderr is not None
    assert process.stdout is not None
    async with process.stdout, process.stderr:
        text, sent = b"", False
        try:
            with trio.fail_after(PROCESS_S):
                while data := await process.stderr.receive_some():
                    text += data
                    if not sent and f"| {module}\n".encode() in text.replace(b"  ", b""):
                        process.send_signal(signal.SIGINT)
                        sent = True
                status = await process.wait()
        finally:
            process.kill()  # harmless when it has ended
            with trio.CancelScope(shield=True):
                await process.wait()
    assert sent
    assert b"Traceback" not in text
    assert b"KeyboardInterrupt" not in text
    assert status in (-signal.SIGINT, 3, 0)  # 3, 0: it had come further before the signal came


async def test_an_interrupt_ends_a_listener_quietly(machine: Machine) -> None:
    async with machine.up("--dev"), machine.start("listen", "-o", "json") as listener:
        await machine.ok("send", "node", "one")
        assert json.loads(await listener.line())["body"] == "one"
        assert await listener.end(signal.SIGINT) == -signal.SIGINT
        assert listener.log.read_text() == ""


async def test_a_reader_that_leaves_early_is_no_error_to_speak_of(machine: Machine) -> None:
    async with machine.up("--dev"):
        await machine.ok("put", "a", "-", stdin=bytes(1 << 20))
        async with machine.start("get", "a") as getting:
            with trio.fail_after(PROCESS_S):
                assert await getting.output.receive_some(100)
            await getting.output.aclose()
            await getting.wait()
            assert getting.log.read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nodes",), 3, "bms up"),
        (("get", "a", "--node", "nobody"), 3, "nobody"),
        (("nodez",), 2, "'nodes'"),
        (("get",), 2, "KEY"),
        (("put", "a", "b", "--file", "/dev/null"), 2, "not both"),
        (("up", "--set", "limits.topicsmax=1"), 2, "limits.topics_max"),
        (("up", "--listen", "nowhere"), 1, "listen_address"),
        (("up", "--no-found"), 1, "--identity"),
        (("up", "--config", "none.toml"), 1, "none.toml"),
        (("config", "check", "none.toml"), 1, "none.toml"),
        (("identity", "issue", "--out", "x"), 1, "--found"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
async def test_an_error_is_one_line_that_says_what_to_do(
    machine: Machine, arguments: tuple[str, ...], status: int, words: str
) -> None:
    assert words in one_line(await machine.run(*arguments), status)


async def test_a_missing_key_and_an_unknown_node_fail_in_one_line(machine: Machine) -> None:
    async with machine.up("--dev"):
        assert "nothing" in one_line(await machine.run("get", "nothing"), 1)
        assert "nothing" in one_line(await machine.run("rm", "nothing"), 1)
        assert "bms nodes" in one_line(await machine.run("send", "stranger", "x"), 1)
        assert "1024" in one_line(await machine.run("put", "k" * 1025, "x"), 1)


async def test_several_nodes_are_listed_where_one_must_be_chosen(machine: Machine) -> None:
    async with machine.up("--dev"), machine.up("--dev", "--mesh", "other"), machine.up("--dev") as third:
        assert third.ready["name"] == "node-2"
        error = one_line(await machine.run("status"), 2)
        assert "default/node (" in error
        assert "default/node-2 (" in error
        assert "other/node (" in error
        assert (await machine.ok("status", "--mesh", "other", "-o", "json")).json["mesh_name"] == "other"
        assert (await machine.ok("status", "--node", third.ready["folder"], "-o", "json")).json["name"] == "node-2"
        assert "default/node-2" in one_line(await machine.run("status", "--node", "node-3"), 3)


async def test_values_pass_through_files(machine: Machine) -> None:
    async with machine.up("--dev") as node:
        source, target = machine.folder / "source", machine.folder / "target"
        source.write_bytes(bytes(range(256)))
        target.write_bytes(b"old")
        await machine.ok("put", "a", "--file", str(source))
        await machine.ok("get", "a", "--out", str(target))
        assert target.read_bytes() == source.read_bytes()
        names = {path.name for path in machine.folder.iterdir()}
        assert names - {node.log.name} == {"h", "source", "target"}
        assert "none/x" in one_line(await machine.run("get", "a", "--out", "none/x"), 1)


async def test_a_full_disk_ends_a_start_with_what_to_do(small_disk: Path) -> None:
    machine = Machine(small_disk / "user")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 120 * 1024))  # it is full after some of 200 kB
    done = await machine.run("up", "--dev", "--no-http")
    assert (done.status, done.out) == (1, b"")
    assert "is full, and the node has ended" in done.err.splitlines()[-1]
    ballast.unlink()
    async with machine.up("--dev", "--no-http"):
        await machine.ok("put", "a", "1")


async def test_an_identity_made_by_the_founder_brings_another_machine_into_the_mesh(tmp_path: Path) -> None:
    here, there = Machine(tmp_path / "here"), Machine(tmp_path / "there")
    async with here.up("--listen", "127.0.0.1:0", "--name", "founder") as founder:
        issued = await here.ok("identity", "issue", "--out", str(tmp_path / "files"))
        assert "not empty" in one_line(await here.run("identity", "issue", "--out", str(tmp_path / "files")), 1)
        options = ("--listen", "127.0.0.1:0", "--name", "guest", "--identity", str(tmp_path / "files"))
        async with there.up(*options, "--bootstrap", founder.ready["address"]) as guest:
            assert guest.ready["node_id"] == issued.text.strip()
            assert guest.ready["mesh_id"] == founder.ready["mesh_id"]
            await joined(there, "guest", 2)
            await here.ok("put", "a", "across")
            got = await there.eventually(lambda done: done.status == 0, "get", "a")
            assert got.out == b"across"


async def test_settings_are_shown_as_they_would_be_in_force(machine: Machine) -> None:
    path = machine.folder / "bms.toml"
    path.write_text('node_name = "from-file"\n[limits]\ntopics_max = 7\n')
    machine.environ["BMS_MESH_NAME"] = "from-environment"
    await machine.ok("config", "check", str(path))
    shown = (await machine.ok("config", "show", "--config", str(path), "-o", "json")).json
    assert (shown["node_name"], shown["mesh_name"], shown["limits.topics_max"]) == ("from-file", "from-environment", 7)
    async with machine.up("--config", str(path), "--dev") as node:
        assert (node.ready["name"], node.ready["mesh_name"]) == ("from-file", "from-environment")


# --- watching and asking


async def test_the_state_of_a_node_is_told_in_text_json_and_exit_status(machine: Machine) -> None:
    async with machine.up("--dev", "--name", "one") as one, machine.up("--dev", "--name", "two"):
        await joined(machine, "one", 2)
        health = (await machine.is_well("--node", "one")).text.splitlines()
        assert health[0] in ("ok", "degraded")
        assert health[1].split() == ["CHECK", "STATUS", "REASON"]
        assert (await machine.run("health", "--node", "one", "-o", "json")).json["status"] in ("ok", "degraded")

        page = machine.folder / "report.html"
        await machine.ok("report", "--node", "one", "--out", str(page))
        assert page.read_text().lstrip().lower().startswith("<!doctype html")
        assert (await machine.ok("report", "--node", "one", "--format", "json")).json
        picture = ("report", "--node", "one", "--out", str(machine.folder / "page.pdf"))
        assert ".html, .htm, .json, .txt" in one_line(await machine.run(*picture), 2)
        await machine.ok(*picture, "--format", "html")
        assert "two" in (await machine.ok("report", "--node", "one")).text

        once = (await machine.ok("top", "--node", "one", "--interval", "0.1")).text
        assert re.search(r"^two +\w{8} +alive ", once, re.MULTILINE)
        sample = (await machine.ok("top", "--node", "one", "--once", "-o", "json")).json
        assert set(sample) == {"time", "stats", "nodes", "links", "health", "events"}
        assert [node["name"] for node in sample["nodes"]] == ["one", "two"]

        doctor = (await machine.ok("doctor", "--node", "one", "-o", "json")).json
        assert doctor["running"] is True
        assert f"listener: {one.ready['address']} takes connections" in [row["what"] for row in doctor["findings"]]
        table = (await machine.ok("doctor", "--node", "two")).text.splitlines()
        assert table[0].startswith("Node two ")
        assert re.fullmatch(r"0 problems, \d+ warnings?\.", table[-1])


async def test_a_node_that_is_not_well_makes_health_fail(machine: Machine) -> None:
    async with machine.up("--dev") as node:
        await machine.is_well()
        node.process.send_signal(signal.SIGSTOP)
        await trio.sleep(2)
        node.process.send_signal(signal.SIGCONT)
        done = await machine.eventually(lambda done: done.status == 1, "health")
        assert done.text.splitlines()[0] == "degraded"
        assert re.search(r"^scheduler +degraded +tasks waited", done.text, re.MULTILINE)
    assert "bms up" in one_line(await machine.run("health"), 3)
    assert "bms up" in one_line(await machine.run("top", "-o", "json"), 3)


async def test_samples_end_with_the_node_and_say_so(machine: Machine) -> None:
    async with machine.up("--dev") as node, machine.start("top", "-o", "json", "--interval", "0.1") as top:
        for _ in range(3):
            assert json.loads(await top.line())["stats"]["node_id"] == node.ready["node_id"]
        await node.end()
        with trio.fail_after(PROCESS_S):
            while await top.output.receive_some():
                pass
        assert await top.wait() in (1, 3)
        assert len(top.log.read_text().splitlines()) == 1


async def test_a_doctor_without_a_node_finds_what_would_keep_one_from_starting(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        arguments = ("--set", f"listen_address=127.0.0.1:{port}", "--set", "bootstrap_nodes=nowhere.invalid:1")
        done = await machine.run("doctor", *arguments, "-o", "json")
    assert done.status == 1
    found = done.json
    assert found["running"] is False
    problems = [row["what"] for row in found["findings"] if row["status"] == "problem"]
    assert any(f"127.0.0.1:{port} is taken by process {os.getpid()} " in what for what in problems)
    assert any("nowhere.invalid" in what for what in problems)
    assert not (machine.folder / "h").exists()
    done = await machine.run("doctor", "--set", "dev_mode=true")
    assert done.text.startswith("No such node is running")


async def test_a_node_that_hangs_is_found_by_the_doctor(machine: Machine) -> None:
    async with machine.up("--dev") as node:
        node.process.send_signal(signal.SIGSTOP)
        done = await machine.run("doctor")
        node.process.send_signal(signal.SIGCONT)
        assert done.status == 1
        assert f"process {node.process.pid} serves {node.ready['folder']} and does not answer" in done.text


async def test_the_dashboards_link_logs_in_once_and_is_refused_where_http_is_off(machine: Machine) -> None:
    async with machine.up("--dev", "--http", "127.0.0.1:0") as node:
        (link,) = (await machine.ok("dashboard", "--print")).text.split()
        url, _, code = link.partition("/#login=")
        assert url == node.ready["http_url"]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.post("/api/v1/login", json={"code": code})
            assert answer.status_code == 200
            token = answer.json()["token"]
            status = await client.get("/api/v1/status", headers={"Authorization": f"Bearer {token}"})
            assert status.json()["node_id"] == node.ready["node_id"]
            assert (await client.post("/api/v1/login", json={"code": code})).status_code in (401, 403)
        browser = machine.folder / "browser"
        browser.write_text('#!/bin/sh\ncp "${1#file://}" opened.html\n')
        browser.chmod(0o755)
        machine.environ["BROWSER"] = f"{browser} %s"
        shown = await machine.ok("dashboard")
        assert "--print" in shown.text
        page = machine.folder / "opened.html"
        await until(page.exists, PROCESS_S)
        await until(lambda: f"{url}/#login=" in page.read_text(), PROCESS_S)
        assert (Path(node.ready["folder"]) / "dashboard.html").stat().st_mode & 0o777 == 0o600
    async with machine.up("--dev", "--no-http") as node:
        assert (node.ready["http_url"], node.ready["https_url"]) == (None, None)
        assert "--http" in one_line(await machine.run("dashboard", "--print"), 1)


def free_port_below_a_taken_one() -> tuple[int, socket.socket]:
    """A port that can be listened at, while the one above it is another program's."""
    while True:
        taken = socket.create_server(("127.0.0.1", 0))
        port = taken.getsockname()[1] - 1
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            taken.close()
        else:
            return port, taken


async def test_nodes_on_one_machine_do_not_take_each_others_ports(machine: Machine) -> None:
    port, taken = free_port_below_a_taken_one()
    with taken:
        done = await machine.run("up", "--dev", "--http", f"127.0.0.1:{port + 1}")
        assert done.status == 1
        assert f"127.0.0.1:{port + 1}" in done.err.splitlines()[-1]
        async with machine.up("--dev", "--listen", f"127.0.0.1:{port}") as node:
            assert node.ready["http_url"].startswith("http://127.0.0.1:")
            assert not node.ready["http_url"].endswith(f":{port + 1}")
            assert f"HTTP is at {node.ready['http_url']}" in node.log.read_text()
            url = node.ready["http_url"]
            node.process.send_signal(signal.SIGHUP)
            await until(lambda: "reloaded" in node.log.read_text(), PROCESS_S)
            assert (await machine.ok("status", "-o", "json")).json["http_url"] == url


async def test_another_machines_node_is_watched_over_http(machine: Machine) -> None:
    async with machine.up("--dev", "--name", "far", "--http", "127.0.0.1:0") as node:
        token = machine.folder / "token"
        token.write_text((await machine.ok("token", "issue", "--scope", "status:read,nodes:read")).text)
        there = ("--url", node.ready["http_url"], "--token", str(token))
        assert re.search(r"^far +\w{8} +alive ", (await machine.ok("top", *there)).text, re.MULTILINE)
        sample = (await machine.ok("top", *there, "--once", "-o", "json")).json
        assert set(sample) == {"time", "stats", "nodes", "links", "health", "events"}
        assert (await machine.is_well(*there)).text.splitlines()[0] in ("ok", "degraded")
        assert "far" in (await machine.ok("report", *there)).text
        token.write_text((await machine.ok("token", "issue", "--scope", "data:read")).text)
        assert "status:read" in one_line(await machine.run("top", *there), 1)


# --- the live view


class Screen:
    """What a program draws on a terminal of its own."""

    def __init__(self, process: trio.Process, master: int) -> None:
        self.process = process
        self.text = ""
        self._master = master

    async def until(self, words: str, *, count: int = 1) -> None:
        """Read until these words were drawn, `count` times from now on."""
        start = len(self.text)
        with trio.fail_after(PROCESS_S):
            while self.text.count(words, start) < count:
                await trio.lowlevel.wait_readable(self._master)
                self.text += os.read(self._master, 1 << 16).decode("utf-8", "replace")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def is_cooked(self) -> bool:
        """Whether the terminal edits lines and shows what is typed, as a shell left it."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ICANON)

    async def end(self) -> int:
        """The exit status, once all that was drawn has been read."""
        with trio.fail_after(PROCESS_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain)
                status = await self.process.wait()
                nursery.cancel_scope.cancel()
        os.set_blocking(self._master, False)
        try:
            while data := os.read(self._master, 1 << 16):
                self.text += data.decode("utf-8", "replace")
        except OSError:  # nothing more, or the other end is closed
            pass
        return status

    async def _drain(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._master)
            try:
                self.text += os.read(self._master, 1 << 16).decode("utf-8", "replace")
            except OSError:
                await trio.sleep_forever()


@asynccontextmanager
async def screen(machine: Machine, *arguments: str) -> AsyncIterator[Screen]:
    """Run `bms` on a terminal of 100 columns and 24 lines."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    try:
        process = await trio.lowlevel.open_process(
            ["setsid", "--ctty", *BMS, *arguments], stdin=slave, stdout=slave, stderr=slave, cwd=machine.folder,
            env={**machine.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
        )  # fmt: skip
        try:
            yield Screen(process, master)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
    finally:
        os.close(master)
        os.close(slave)


ENTER, LEAVE, CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


async def test_the_live_view_follows_the_node_and_gives_the_terminal_back(machine: Machine) -> None:
    async with machine.up("--dev", "--name", "kitchen") as node, screen(machine, "top", "--interval", "0.2") as top:
        await top.until("kitchen")
        assert ENTER in top.text
        was_cooked = top.is_cooked
        async with machine.up("--dev", "--name", "cellar"):
            await top.until("joined")
        await top.until("left")
        top.resize(60, 12)
        await top.until("quit")
        top.press("p")
        await top.until("PAUSED")
        top.press("p")
        await node.end(signal.SIGKILL)
        await top.until("NOT RUNNING")
        async with machine.up("--dev", "--name", "kitchen"):
            await top.until("runs again")
            top.press("q")
            assert await top.end() == 0
        assert (was_cooked, top.is_cooked) == (False, True)
        assert top.text.index(ENTER) < top.text.rindex(LEAVE)
        assert CURSOR in top.text[top.text.rindex(LEAVE) - 100 :]
        assert "Traceback" not in top.text


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
async def test_a_signal_ends_the_live_view_with_the_terminal_in_order(
    machine: Machine, number: signal.Signals, status: int
) -> None:
    async with machine.up("--dev"), screen(machine, "top") as top:
        await top.until("quit")
        if number == signal.SIGINT:
            top.press("\x03")
        else:
            top.process.send_signal(number)
        assert await top.end() == status
        assert top.is_cooked
        assert LEAVE in top.text
        assert "Traceback" not in top.text


async def test_without_a_node_the_terminal_is_left_alone(machine: Machine) -> None:
    async with screen(machine, "top") as top:
        assert await top.end() == 3
        assert ENTER not in top.text
        assert "bms up" in top.text


async def test_a_node_is_asked_over_http_with_a_token_that_no_command_line_shows(machine: Machine) -> None:
    async with machine.up("--dev", "--name", "one", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0") as one:
        token = (await machine.ok("token", "issue", "--scope", "*")).text.strip()
        file = machine.folder / "token"
        file.write_text(token + "\n")
        there = ("--url", one.ready["http_url"], "--token", str(file))
        piped = ("--url", one.ready["http_url"], "--token", "-")

        await machine.ok("put", *there, "greeting", "hello")
        assert (await machine.ok("get", *piped, "greeting", stdin=f"{token}\n".encode())).out == b"hello"
        binary = bytes(range(256)) * 1000
        await machine.ok("put", *piped, "a/../ü", "-", stdin=f"{token}\n".encode() + binary)
        assert (await machine.ok("get", "a/../ü")).out == binary
        for command in (("ls",), ("nodes",)):
            here = [{**row, "last_seen": None} for row in (await machine.ok(*command, "-o", "json")).json]
            assert [
                {**row, "last_seen": None} for row in (await machine.ok(*command, *there, "-o", "json")).json
            ] == here
        status = (await machine.ok("status", *there, "-o", "json")).json
        assert (status["name"], status["entries"]) == ("one", 2)
        await machine.ok("rm", *there, "greeting")
        assert "no key 'greeting'" in one_line(await machine.run("get", *there, "greeting"), 1)
        await machine.ok("send", *there, "one", "early", "--topic", "t")
        heard = await machine.ok("listen", *there, "--topic", "t", "--count", "1", "-o", "json")
        assert heard.json["body"] == "early"
        assert "sent to 0 other nodes" in (await machine.ok("broadcast", *there, "hi")).text
        assert (await machine.ok("sync", *there, "-o", "json")).json == {"peers": []}

        machine.environ["BMS_TOKEN"] = token
        assert (await machine.run("health", "--url", one.ready["http_url"], "-o", "json")).json["status"]
        assert "is not known to be that node" in one_line(
            await machine.run("nodes", "--url", one.ready["https_url"], "--fingerprint", "0" * 64), 1
        )
        shown = (await machine.run("nodes", "--url", one.ready["https_url"], "--fingerprint", "0" * 64)).err
        pin = shown.rpartition(" ")[2].strip()
        await machine.ok("nodes", "--url", one.ready["https_url"], "--fingerprint", pin)
        assert "a file or '-'" in one_line(
            await machine.run("nodes", "--url", one.ready["http_url"], "--token", token), 2
        )
    assert "cannot be reached" in one_line(await machine.run("nodes", "--url", one.ready["http_url"]), 3)
