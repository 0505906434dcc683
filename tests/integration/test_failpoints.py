"""A node killed at the worst moments keeps what it acknowledged, opens again, and becomes equal to the others."""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

import bms
from bms import failpoints
from helpers import until

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "failpoints.md"
SECONDS = 40

# A node that writes until its standard input ends, and says what was acknowledged. At first it says what it holds, and
# all the time which state its store is in.
NODE = """
import json, os, sys, trio, bms

def value(number):
    return (b"%d " % number) * (1 if number % 5 else 9000)

async def main():
    mesh = bms.init(dev_mode=True, node_name="victim", sync_interval=0.3)
    async with mesh.scan() as keys:
        say(held=[info.key async for info in keys])
    async with trio.open_nursery() as nursery:
        await mesh.start(nursery)
        if sys.argv[1] == "write":
            for number in range(3):
                nursery.start_soon(write, mesh, number)
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

async def write(mesh, start):
    for number in range(start, 1_000_000, 3):
        try:
            await mesh.store_data(f"victim/{number}", value(number))
        except bms.StoreError as error:
            say(refused=str(error))
            await trio.sleep(0.05)
        else:
            say(stored=f"victim/{number}")

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
    "identity.before_rename": 1,
    "identity.written": 1,
    "registry.published": 1,
}


@attrs.define
class Node:
    """A running program, and what it has said."""

    process: trio.Process
    errors: Path
    said: list[dict[str, object]] = attrs.field(factory=list)

    def all(self, word: str) -> list[object]:
        return [words[word] for words in self.said if word in words]

    async def listen(self) -> None:
        rest = b""
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.said += [json.loads(line) for line in lines]

    async def wait(self) -> int:
        with trio.fail_after(SECONDS):
            return await self.process.wait()

    async def end_input(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.aclose()


@asynccontextmanager
async def run(folder: Path, task: str, points: str = "") -> AsyncIterator[Node]:
    """Run the program for the body; killed afterwards."""
    errors = folder / f"errors-{secrets.token_hex(4)}"
    environ = {**os.environ, "BMS_FAILPOINTS": points}
    with errors.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error", "-c", NODE, task], env=environ, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip
    node = Node(process, errors)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.listen)
            yield node
            process.kill()
            await process.wait()
        assert "Traceback" not in errors.read_text() or points
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await trio.aclose_forcefully(pipe)


@asynccontextmanager
async def witness() -> AsyncIterator[tuple[bms.Mesh, set[object], trio.CancelScope]]:
    """The other node, which writes all the time; every fifth value needs chunks."""
    written: set[object] = set()
    writing = trio.CancelScope()

    async def write(mesh: bms.Mesh) -> None:
        with writing:
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
        await until(lambda: again.all("held") or again.process.returncode is not None, SECONDS)
        assert again.all("held"), again.errors.read_text()
        assert acknowledged <= keys_of(again)
        await until(lambda: mesh.data_summary().fingerprint in again.all("state")[-3:], SECONDS)
        for key in acknowledged:
            number = int(str(key).rpartition("/")[2])
            expected = b"%d " % number * (1 if number % 5 else 9000)
            assert (await mesh.retrieve_data(str(key))).value == expected
        await again.end_input()
        assert await again.wait() == 0, again.errors.read_text()


# ---------------------------------------------------------------------- killing


@pytest.mark.parametrize("name", failpoints.POINTS)
async def test_a_node_killed_at_a_failpoint_keeps_what_it_acknowledged_and_becomes_equal(
    name: str, tmp_path: Path
) -> None:
    async with witness() as (mesh, _, writing):
        async with run(tmp_path, "write", f"{name}=kill@{KILLS[name]}") as node:
            if "checkpoint" in name:
                await until(lambda: len(node.all("stored")) > 20 or node.process.returncode is not None, SECONDS)
                await node.end_input()
            assert await node.wait() == -signal.SIGKILL, node.errors.read_text()
        assert not node.all("closed")
        acknowledged = set(node.all("stored"))
        assert bool(acknowledged) or name.split(".")[0] in ("identity", "registry")
        writing.cancel()
        await check_restart(tmp_path, mesh, acknowledged)


async def test_a_node_that_was_frozen_after_a_commit_goes_on_where_it_was(tmp_path: Path) -> None:
    async with run(tmp_path, "write", "store.after_commit=pause@20") as node:

        def is_stopped() -> bool:
            status = Path(f"/proc/{node.process.pid}/stat").read_text()
            return status.rpartition(")")[2].split()[0] == "T"

        await until(is_stopped, SECONDS)
        count = len(node.all("stored"))
        node.process.send_signal(signal.SIGCONT)
        await until(lambda: len(node.all("stored")) > count + 20, SECONDS)
        await node.end_input()
        assert await node.wait() == 0


async def test_a_commit_that_fails_is_refused_and_what_was_acknowledged_before_it_stays(tmp_path: Path) -> None:
    async with run(tmp_path, "write", "store.before_commit=raise@20") as node:
        await until(lambda: len(node.all("refused")) > 3, SECONDS)
        assert "store.before_commit" in str(node.all("refused")[0])
        await node.end_input()
        await node.wait()
    async with run(tmp_path, "tell") as again:
        await until(lambda: again.all("held"), SECONDS)
        assert set(node.all("stored")) == keys_of(again)
        assert node.all("stored")


async def test_pushes_that_cannot_be_stored_are_made_good_after_a_restart(tmp_path: Path) -> None:
    async with witness() as (mesh, written, writing):
        async with run(tmp_path, "write", "data.in_apply=raise") as node:
            await until(lambda: len(node.all("stored")) > 20 and len(written) > 20, SECONDS)
            await node.end_input()
            await node.wait()
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
