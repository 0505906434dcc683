"""The database: group commit, isolation of operations, bounds, damage, closing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
import trio.testing

from bms.errors import ClosedError, CorruptionError, StoreError
from bms.store.database import Database

TABLES = ("CREATE TABLE notes(name TEXT PRIMARY KEY, body BLOB)",)


def insert(name: str, body: bytes = b"") -> Callable[[apsw.Connection], str]:
    def operation(connection: apsw.Connection) -> str:
        connection.execute("INSERT INTO notes VALUES(?,?)", (name, body))
        return name

    return operation


def names(database: Database) -> list[str]:
    return [name for (name,) in database.read("SELECT name FROM notes ORDER BY name")]


def open_notes(path: Path | None, **options: Any) -> Database:
    database = Database(path, **options)
    database.prepare("notes", TABLES)
    return database


KINDS = pytest.mark.parametrize(("on_disk", "threads"), [(True, True), (True, False), (False, True), (False, False)])


@KINDS
async def test_a_write_returns_its_result_and_is_read_at_once(tmp_path: Path, on_disk: bool, threads: bool) -> None:
    database = open_notes(tmp_path / "d" if on_disk else None, threads=threads)
    assert await database.write(insert("a")) == "a"
    assert names(database) == ["a"]
    await database.aclose()


@KINDS
async def test_an_operation_that_fails_is_undone_alone(tmp_path: Path, on_disk: bool, threads: bool) -> None:
    database = open_notes(tmp_path / "d" if on_disk else None, threads=threads)
    failures: list[Exception] = []

    def breaks(connection: apsw.Connection) -> None:
        insert("half")(connection)
        raise ValueError("mine alone")

    async def write(operation: Callable[[apsw.Connection], Any]) -> None:
        try:
            await database.write(operation)
        except (ValueError, StoreError) as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for operation in (insert("a"), breaks, insert("b"), insert("a"), insert("c")):
            nursery.start_soon(write, operation)
    assert names(database) == ["a", "b", "c"]
    assert sorted(type(failure).__name__ for failure in failures) == ["StoreError", "ValueError"]
    assert database.failing is None
    await database.aclose()


async def test_writes_that_wait_share_one_commit(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d")
    release = threading.Event()
    before = database.commits
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, lambda connection: release.wait(10))
        await trio.testing.wait_all_tasks_blocked()
        for i in range(100):
            nursery.start_soon(database.write, insert(f"{i:03}"))
        await trio.testing.wait_all_tasks_blocked()
        release.set()
    assert len(names(database)) == 100
    assert database.commits - before <= 2  # the waiting one, and all others together
    await database.aclose()


class Recorder:
    """A participant that keeps a number in step with the table."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fails: Exception | None = None

    def begin(self) -> None:
        self.events.append("begin")

    def finish(self, connection: apsw.Connection) -> Callable[[], None] | None:
        if self.fails is not None:
            raise self.fails
        count = connection.execute("SELECT count(*) FROM notes").get
        self.events.append(f"finish {count}")
        return lambda: self.events.append(f"told {count}")

    def abandon(self) -> None:
        self.events.append("abandon")


async def test_a_participant_is_told_before_the_writers_go_on(tmp_path: Path) -> None:
    database, recorder = open_notes(tmp_path / "d"), Recorder()
    database.join(recorder)
    await database.write(insert("a"))
    assert recorder.events == ["begin", "finish 1", "told 1"]
    recorder.events.clear()
    recorder.fails = apsw.IOError("as from a broken disk")
    with pytest.raises(StoreError):
        await database.write(insert("b"))
    assert recorder.events == ["begin", "abandon"]
    assert "broken disk" in str(database.failing)
    recorder.fails = None
    await database.write(insert("c"))
    assert database.failing is None
    assert names(database) == ["a", "c"]
    await database.aclose()


@pytest.mark.parametrize("threads", [True, False])
async def test_a_full_disk_fails_the_whole_group_and_heals_by_itself(tmp_path: Path, threads: bool) -> None:
    database = open_notes(tmp_path / "d", threads=threads)
    await database.write(insert("before"))
    pages = database.read("PRAGMA page_count")[0][0]
    await database.write(lambda connection: connection.execute(f"PRAGMA max_page_count={pages + 2}").get)
    for i in range(2):
        with pytest.raises(StoreError, match="full"):
            await database.write(insert(f"big{i}", bytes(100_000)))
    assert "full" in str(database.failing)
    assert names(database) == ["before"]
    await database.write(lambda connection: connection.execute(f"PRAGMA max_page_count={pages + 1000}").get)
    await database.write(insert("after", bytes(100_000)))
    assert database.failing is None
    assert names(database) == ["after", "before"]
    await database.aclose()


async def test_a_cancelled_write_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d")
    release = threading.Event()

    def both(connection: apsw.Connection) -> None:
        insert("left")(connection)
        release.wait(10)
        insert("right")(connection)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, both)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    release.set()
    await database.write(insert("later"))
    assert names(database) in (["later"], ["later", "left", "right"])
    await database.aclose()


async def test_a_full_queue_makes_its_callers_wait(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d", queue_operations_max=2)
    release = threading.Event()
    order: list[str] = []

    async def write(name: str, size: int) -> None:
        order.append(await database.write(insert(name), size))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, lambda connection: release.wait(10))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(write, "a", 0)
        await trio.testing.wait_all_tasks_blocked()
        for name in "bcdef":
            nursery.start_soon(write, name, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert len(database._room) == 5
        release.set()
    assert sorted(order) == list("abcdef")
    await database.aclose()


async def test_a_queue_of_bytes_is_bounded_but_takes_one_of_any_size(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d", queue_bytes_max=100)
    with trio.fail_after(60):
        assert await database.write(insert("huge"), size=10_000) == "huge"
        async with trio.open_nursery() as nursery:
            for i in range(10):
                nursery.start_soon(database.write, insert(f"{i}"), 60)
    assert len(names(database)) == 11
    await database.aclose()


async def test_closing_finishes_what_was_accepted_and_ends_the_thread(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d")
    async with trio.open_nursery() as nursery:
        for i in range(50):
            nursery.start_soon(database.write, insert(f"{i:02}"))
        await trio.testing.wait_all_tasks_blocked()
        await database.aclose()
    await database.aclose()
    assert not [thread for thread in threading.enumerate() if thread.name == "bms-store"]
    with pytest.raises(ClosedError):
        await database.write(insert("late"))
    with pytest.raises(ClosedError):
        names(database)
    again = open_notes(tmp_path / "d")
    assert len(names(again)) == 50
    again.close()


def test_a_store_can_be_closed_where_no_trio_runs(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d")

    async def main() -> None:
        await database.write(insert("a"))

    trio.run(main)
    database.close()
    again = open_notes(tmp_path / "d")
    assert names(again) == ["a"]
    again.close()


def test_tables_are_brought_up_to_date_step_by_step(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d")
    database.write_now(insert("a"))
    database.close()
    newer = Database(tmp_path / "d")
    newer.prepare("notes", (*TABLES, "ALTER TABLE notes ADD COLUMN colour TEXT DEFAULT 'red'"))
    assert newer.read("SELECT name, colour FROM notes") == [("a", "red")]
    newer.close()
    older = Database(tmp_path / "d")
    with pytest.raises(StoreError, match="newer version"):
        older.prepare("notes", TABLES)
    older.close()


async def test_a_snapshot_sees_one_commit(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d")
    await database.write(insert("a"))
    with database.snapshot():
        assert names(database) == ["a"]
        await database.write(insert("b"))
        assert names(database) == ["a"]
    assert names(database) == ["a", "b"]
    await database.aclose()


def test_a_file_that_is_no_database_is_corruption(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(CorruptionError, match="aside"):
        Database(tmp_path / "d")
    (tmp_path / "d").unlink()
    Database(tmp_path / "d").close()  # the lock of the failed attempt is gone


def test_damaged_pages_are_found_when_opening(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d")
    for i in range(200):
        database.write_now(insert(f"{i}", bytes(1000)))
    database.close()
    raw = bytearray((tmp_path / "d").read_bytes())
    for start in range(3 * 4096, len(raw), 4096):
        raw[start : start + 64] = b"\xa5" * 64
    (tmp_path / "d").write_bytes(raw)
    with pytest.raises(CorruptionError, match="aside"):
        Database(tmp_path / "d")


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "d")
    other.execute("CREATE TABLE theirs(x)")
    other.commit()
    other.close()
    before = (tmp_path / "d").read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Database(tmp_path / "d")
    assert (tmp_path / "d").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be opened"):
        Database(tmp_path / "file" / "d")


def test_the_files_are_private(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "folder" / "d")
    for path in (tmp_path / "folder").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name
    database.close()


async def test_a_transaction_that_cannot_begin_takes_back_nothing_of_the_one_before(tmp_path: Path) -> None:
    database = open_notes(tmp_path / "d", threads=False)
    recorder = Recorder()
    database.join(recorder)
    await database.write(insert("a"))
    database._writer.set_busy_timeout(0)
    other = apsw.Connection(str(tmp_path / "d"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError):
        await database.write(insert("b"))
    other.close(True)
    # What `abandon` goes back to is what `begin` marked: it must have been called after the commit of "a".
    assert recorder.events == ["begin", "finish 1", "told 1", "begin", "abandon"]
    await database.aclose()
