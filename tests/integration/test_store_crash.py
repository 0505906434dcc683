"""What was acknowledged is there after kill -9, in any moment; one process a store; a disk that is really full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from bms.clock import HybridClock
from bms.data import fingerprint
from bms.data.entries import Entries
from bms.errors import StoreError
from bms.security.authority import Authority
from bms.security.keys import NodeKey
from bms.security.trust import Trust
from bms.store.database import Database

NOW = 1_800_000_000.0
KILLS = 20

WRITER = """
import sys
from pathlib import Path
import trio
sys.path.insert(0, sys.argv[2])
from test_store_crash import open_entries, value_of

async def main():
    database, entries = open_entries(Path(sys.argv[1]))

    async def write(number):
        place = b"%d/" % (number + 10 * int(sys.argv[3]))
        count = 0
        while True:
            await entries.put(place + b"%d" % count, value_of(count))
            await entries.put(b"%d/last" % number, place + b"%d" % count)
            sys.stdout.write(f"{place.decode()}{count}\\n")
            sys.stdout.flush()
            count += 1

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(write, number)

trio.run(main)
"""


def value_of(count: int) -> bytes:
    """Short, and now and then a blob."""
    return b"%d" % count if count % 10 else random.Random(count).randbytes(20_000)


def open_entries(path: Path) -> tuple[Database, Entries]:
    """The same node in every process: its keys come from fixed seeds."""
    authority = Authority.create(token_bytes=random.Random(7).randbytes, now=NOW)
    key = NodeKey.from_seed(bytes(32))
    database = Database(path)
    entries = Entries(
        database,
        mesh_id=authority.mesh_id,
        node_key=key,
        admission=authority.issue_admission(key.node_id, now_ms=int(NOW * 1000)),
        trust=Trust(authority.bundle),
        clock=HybridClock(),
        wall_time=lambda: NOW,
        token_bytes=os.urandom,
    )
    return database, entries


def start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def check(path: Path, acknowledged: list[str]) -> None:
    """Everything acknowledged is there, and what the store says of itself is true."""
    database, entries = open_entries(path)
    for key in acknowledged:
        assert entries.get(key.encode()).value == value_of(int(key.rpartition("/")[2]))
    total = fingerprint.EMPTY
    for (id_,) in database.read("SELECT id FROM entries"):
        total = fingerprint.add(total, fingerprint.expand(id_))
    assert fingerprint.digest(total) == entries.state().fingerprint
    (highest,) = database.read("SELECT max(position) FROM entries")[0]
    assert highest == entries.state().high
    assert not database.read("SELECT 1 FROM entries WHERE batch NOT IN (SELECT batch FROM batches)")
    assert not database.read("SELECT 1 FROM chunks WHERE refs<1")
    assert database.read("PRAGMA integrity_check") == [("ok",)]
    database.close()


def test_whatever_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(3)
    acknowledged: list[str] = []
    for life in range(KILLS):
        process = start(WRITER, str(tmp_path / "d"), str(Path(__file__).parent), str(life))
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(chance.randrange(1, 100)):
            line = process.stdout.readline()
            if not line:
                pytest.fail(process.stderr.read().decode())
            acknowledged.append(line.decode().strip())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().decode()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        acknowledged += [line.strip() for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        check(tmp_path / "d", acknowledged)
    assert len(acknowledged) > KILLS


def test_a_second_process_is_told_who_has_the_store(tmp_path: Path) -> None:
    path = tmp_path / "d"
    holder = start(
        "import sys; from pathlib import Path; from bms.store.database import Database;"
        "d = Database(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()",
        str(path),
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    assert holder.stdout.readline() == b"open\n"
    with pytest.raises(StoreError, match=f"process {holder.pid}:"):
        Database(path)
    holder.kill()
    holder.communicate()
    Database(path).close()


async def fill(entries: Entries, size: int) -> int:
    """Write values of this size until the store refuses one; how many it took."""
    for i in range(1000):
        try:
            await entries.put(b"%d" % i, random.Random(i).randbytes(size))
        except StoreError:
            return i
    raise AssertionError("the disk does not fill")


async def test_a_disk_that_is_full_refuses_writes_keeps_what_it_has_and_heals_by_itself(small_disk: Path) -> None:
    database, entries = open_entries(small_disk / "d")
    (small_disk / "ballast").write_bytes(bytes(2_000_000))
    written = await fill(entries, 20_000)
    assert written > 5
    assert database.failing is not None
    before = entries.state()
    for i in range(written):
        assert entries.get(b"%d" % i).value == random.Random(i).randbytes(20_000)
    with pytest.raises(StoreError):
        await entries.put(b"more", random.Random(0).randbytes(100_000))
    assert entries.state() == before
    await database.aclose()
    database, entries = open_entries(small_disk / "d")  # a node starts on a full disk, too
    assert entries.state() == before
    assert len(entries.scan()) == written
    assert await fill(entries, 100_000) < 100
    (small_disk / "ballast").unlink()
    with trio.fail_after(60):
        await entries.put(b"after", b"v" * 4000)
    assert database.failing is None
    assert entries.get(b"after").value == b"v" * 4000
    await database.aclose()
    check(small_disk / "d", [])
