"""A node killed at the worst moments keeps what it acknowledged, opens again, and becomes equal to the others."""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

import bms
from bms import failpoints
from bms.security.identity import Identity, load_identity_files
from helpers import PROCESS_S, Program, running, until

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "failpoints.md"

# A node that writes until its standard input ends, and says what was acknowledged. At first it says what it holds, and
# all the time which state its store is in.
NODE = """
import json, os, sys, time, trio, bms
from bms.world import World

def value(number):
    return (b"%d " % number) * (1 if number % 5 else 9000)

async def main():
    world = World(wall_time=lambda: time.time() - 86400 * float(sys.argv[2]))
    mesh = bms.init(dev_mode=True, node_name="victim", sync_interval=0.3, world=world)
    async with mesh.scan() as keys:
        say(held=[info.key async for info in keys])
    async with trio.open_nursery() as nursery:
        await mesh.start(nursery)
        if sys.argv[1] == "write":
            for number in range(3):
                nursery.start_soon(write, mesh, number)
        elif sys.argv[1] == "write slowly":
            nursery.start_soon(write, mesh, 0, 0.1)
        else:
            nursery.start_soon(tell, mesh)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()
    await mesh.shutdown()
    say(closed=True)

async def tell(mesh):
    while True:
        say(state=mesh.data_summary().fingerprint)
        await trio.sleep(0.05)

async def write(mesh, start, pause_s=0):
    for number in range(start, 1_000_000, 3):
        try:
            await mesh.store_data(f"victim/{number}", value(number))
        except bms.StoreError as error:
            say(refused=str(error))
            await trio.sleep(0.05)
        else:
            say(stored=f"victim/{number}")
            await trio.sleep(pause_s)

def say(**words):
    os.write(1, json.dumps(words).encode() + b"\\n")

trio.run(main)
"""

# At which time each place is hit: not the first, which starting alone comes by.
KILLS = {
    "store.before_commit": 20,
    "store.after_commit": 20,
    "store.before_checkpoint": 1,
    "store.after_checkpoint": 1,
    "data.before_push": 15,
    "data.in_apply": 60,
    "data.before_blob_entry": 8,
    "data.before_cursor": 20,
    "data.after_cursor": 20,
    "data.before_sync_cursor": 5,
    "data.after_sync_cursor": 5,
    "identity.before_rename": 1,
    "identity.written": 1,
    "identity.before_commit": 1,
    "identity.committed": 1,
    "identity.moved": 1,
    "registry.published": 1,
    "snapshot.written": 1,
    "snapshot.renamed": 1,
}

RENEWING = ("identity.before_commit", "identity.committed", "identity.moved")
RECONCILING = ("data.before_sync_cursor", "data.after_sync_cursor")
OLD_DAYS = 70.0  # a certificate of this age is renewed


@attrs.define
class Node:
    """The running program, and what it has said."""

    program: Program
    said: list[dict[str, object]] = attrs.field(factory=list)

    def all(self, word: str) -> list[object]:
        return [words[word] for words in self.said if word in words]

    @property
    def has_ended(self) -> bool:
        return self.program.process.poll() is not None

    @property
    def errors(self) -> str:
        return self.program.log.read_text()

    async def listen(self) -> None:
        rest = b""
        async for data in self.program.output:
            *lines, rest = (rest + data).split(b"\n")
            self.said += [json.loads(line) for line in lines]


@asynccontextmanager
async def run(folder: Path, task: str, points: str = "", days_ago: float = 0) -> AsyncIterator[Node]:
    """Run the program for the body, its clock so many days behind; what it has said is complete afterwards."""
    command = [sys.executable, "-W", "error", "-c", NODE, task, str(days_ago)]
    async with running(command, folder, {"BMS_FAILPOINTS": points}, may_fail=bool(points)) as program:
        node = Node(program)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.listen)
            yield node
            await program.end(signal.SIGKILL)


@asynccontextmanager
async def witness(begin: trio.Event | None = None) -> AsyncIterator[tuple[bms.Mesh, set[object], trio.CancelScope]]:
    """The other node, which writes all the time (from `begin`); every fifth value needs chunks."""
    written: set[object] = set()
    writing = trio.CancelScope()

    async def write(mesh: bms.Mesh) -> None:
        with writing:
            if begin is not None:
                await begin.wait()
            for number in range(1_000_000):
                await mesh.store_data(f"witness/{number}", b"%d" % number * (1 if number % 5 else 9000))
                written.add(f"witness/{number}")
                await trio.sleep(0.02)

    async with bms.open_mesh(dev_mode=True, node_name="witness", sync_interval=0.3) as mesh:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, mesh)
            yield mesh, written, writing
            nursery.cancel_scope.cancel()


def keys_of(node: Node) -> set[object]:
    (held,) = node.all("held")
    assert isinstance(held, list)
    return set(held)


async def check_restart(folder: Path, mesh: bms.Mesh, acknowledged: set[object]) -> None:
    """The store opens and has what was acknowledged; then both become equal."""
    async with run(folder, "tell") as again:
        await until(lambda: again.all("held") or again.has_ended, PROCESS_S)
        assert again.all("held"), again.errors
        assert acknowledged <= keys_of(again)
        await until(lambda: mesh.data_summary().fingerprint in again.all("state")[-3:], PROCESS_S)
        for key in acknowledged:
            number = int(str(key).rpartition("/")[2])
            expected = b"%d " % number * (1 if number % 5 else 9000)
            assert (await mesh.retrieve_data(str(key))).value == expected
        await again.program.end_input()
        assert await again.program.wait() == 0, again.errors


# ---------------------------------------------------------------------- killing


@pytest.mark.parametrize("name", [name for name in failpoints.POINTS if name not in RENEWING])
async def test_a_node_killed_at_a_failpoint_keeps_what_it_acknowledged_and_becomes_equal(
    name: str, tmp_path: Path
) -> None:
    begin = trio.Event()
    async with witness(begin) as (mesh, _, writing):
        if name in RECONCILING:  # a sync finds the stores equal only when nobody has written for a moment
            writing.cancel()
        task = "write slowly" if name in RECONCILING else "write"
        async with run(tmp_path, task, f"{name}=kill@{KILLS[name]}") as node:
            # What is stored for others counts as well: let something of its own be acknowledged first.
            await until(lambda: node.all("stored") or node.has_ended, PROCESS_S)
            begin.set()
            if "checkpoint" in name:
                await until(lambda: len(node.all("stored")) > 20 or node.has_ended, PROCESS_S)
                await node.program.end_input()
            assert await node.program.wait() == -signal.SIGKILL, node.errors
        assert not node.all("closed")
        acknowledged = set(node.all("stored"))
        assert bool(acknowledged) or name.split(".")[0] in ("identity", "registry")
        writing.cancel()
        await check_restart(tmp_path, mesh, acknowledged)


@pytest.mark.parametrize("name", RENEWING)
async def test_a_node_killed_while_its_certificate_is_renewed_has_one_that_fits_its_key(
    name: str, tmp_path: Path, bms_home: Path
) -> None:
    async with run(tmp_path, "write", days_ago=OLD_DAYS) as node:
        await until(lambda: len(node.all("stored")) > 20, PROCESS_S)
        await node.program.end_input()
        assert await node.program.wait() == 0, node.errors
    place = bms_home / "default" / "victim" / "identity"

    def now_there() -> Identity:
        return load_identity_files(place / "key.pem", place / "cert.pem", place / "trust.pem", time.time())

    acknowledged, old = set(node.all("stored")), now_there()
    async with run(tmp_path, "write", f"{name}=kill@{KILLS[name]}") as node:
        assert await node.program.wait() == -signal.SIGKILL, node.errors
    assert (place / "pending").exists() == (name != "identity.before_commit")
    async with witness() as (mesh, _, writing):
        writing.cancel()
        await check_restart(tmp_path, mesh, acknowledged)
    new = now_there()
    assert new.node_id == old.node_id
    assert new.renew_at > time.time() > old.renew_at
    assert not (place / "pending").exists()


async def test_a_node_that_was_frozen_after_a_commit_goes_on_where_it_was(tmp_path: Path) -> None:
    async with run(tmp_path, "write", "store.after_commit=pause@20") as node:

        def is_stopped() -> bool:
            status = Path(f"/proc/{node.program.process.pid}/stat").read_text()
            return status.rpartition(")")[2].split()[0] == "T"

        await until(is_stopped, PROCESS_S)
        count = len(node.all("stored"))
        node.program.process.send_signal(signal.SIGCONT)
        await until(lambda: len(node.all("stored")) > count + 20, PROCESS_S)
        await node.program.end_input()
        assert await node.program.wait() == 0


async def test_a_commit_that_fails_is_refused_and_what_was_acknowledged_before_it_stays(tmp_path: Path) -> None:
    async with run(tmp_path, "write", "store.before_commit=raise@20") as node:
        await until(lambda: len(node.all("refused")) > 3, PROCESS_S)
        assert "store.before_commit" in str(node.all("refused")[0])
        await node.program.end_input()
        await node.program.wait()
    async with run(tmp_path, "tell") as again:
        await until(lambda: again.all("held"), PROCESS_S)
        assert set(node.all("stored")) == keys_of(again)
        assert node.all("stored")


async def test_pushes_that_cannot_be_stored_are_made_good_after_a_restart(tmp_path: Path) -> None:
    async with witness() as (mesh, written, writing):
        async with run(tmp_path, "write", "data.in_apply=raise") as node:
            await until(lambda: len(node.all("stored")) > 20 and len(written) > 20, PROCESS_S)
            await node.program.end_input()
            await node.program.wait()
        writing.cancel()
        await check_restart(tmp_path, mesh, set(node.all("stored")))


# ---------------------------------------------------------------------- the switch and the list


def test_the_page_lists_every_failpoint_and_a_test_kills_at_each() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (yes|no) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: (text, can == "yes") for name, text, can in rows} == failpoints.POINTS
    assert set(KILLS) == set(failpoints.POINTS)


def test_every_failpoint_is_at_one_place_behind_the_switch() -> None:
    found = []
    for path in Path(failpoints.__file__).parent.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for above, line in itertools.pairwise(lines):
            if name := re.search(r'failpoints\.hit\("(.+)"\)', line):
                assert "if failpoints.ARMED" in above
                found.append(name[1])
    assert sorted(found) == sorted(failpoints.POINTS)


def test_nothing_is_armed_unless_the_environment_says_so() -> None:
    assert failpoints.ARMED == {}
    assert failpoints.parse("") == {}


@pytest.mark.parametrize("text", ["x=kill", "data.in_apply", "data.in_apply=stop", "data.in_apply=kill@x"])
def test_a_wrong_switch_is_refused(text: str) -> None:
    with pytest.raises(bms.LocalProtocolError):
        failpoints.parse(text)


def test_raise_is_refused_where_nothing_can_fail() -> None:
    with pytest.raises(bms.LocalProtocolError, match="nothing can fail"):
        failpoints.parse("store.after_commit=raise")
