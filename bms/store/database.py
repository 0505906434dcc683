"""The database of one node: group commit on one writing thread, reads beside it.

    write(operation) ─> bounded queue ─> writing thread: BEGIN IMMEDIATE
                                             a savepoint an operation
                                             participants add what the whole group needs (signatures, sums)
                                         COMMIT (fsync) ─> one wake-up hands all results back

- The thread commits whenever it is free, whatever has queued; there is no timer. One writer pays one fsync, 256 share
  one.
- A result is handed back only after the fsync: what `write` has returned survives kill -9 and a power cut.
- An operation that raises is undone alone, and its exception goes to its caller alone.
- A commit that fails (disk full, I/O error) is undone as a whole: everybody in it gets `StoreError`, `failing` says
  why, and the next group is simply tried; when there is room again, `failing` is None again.
- A cancelled `write` leaves the queue or not: the write may or may not happen, but never in part.
- What a participant returns from `finish` runs on the Trio thread in the order of the commits, before the writers of
  that commit go on.
- Reads use a connection of their own on the caller's thread: WAL lets them run beside the writer, on the last commit.

`threads=False`, and every database in memory, does the same on the caller's thread, one operation a commit, each after
`disk_wait`, by which a simulated disk takes its time; `vfs` names the file system of SQLite that stands for it. Absent:
encryption at rest, and reads that wait for a particular write (a returned write is visible to the reads after it).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import apsw
import outcome
import trio

from .. import failpoints
from ..counters import Counters
from ..errors import ClosedError, StoreError
from .folder import FolderLock, open_connection, open_memory, store_error

__all__ = ["Database", "Operation", "Participant"]

log = logging.getLogger("bms.store")

T = TypeVar("T")
Operation = Callable[[apsw.Connection], T]
Row = tuple[Any, ...]

# Errors after which SQLite may have given up the whole transaction, not just the statement.
_FATAL = (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.NoMemError, apsw.ReadOnlyError)
_GROUP_MAX = 1024


class Participant(Protocol):
    """What takes part in every commit, on the writing thread. Its tables change in the same transaction."""

    def begin(self) -> None:
        """A transaction is about to start."""

    def finish(self, connection: apsw.Connection) -> Callable[[], None] | None:
        """All operations have run: write what belongs to the group; the return runs on the Trio thread once it is on
        disk.
        """

    def abandon(self) -> None:
        """The transaction since `begin` was undone: forget what it did."""


class _Job:
    __slots__ = ("asked", "operation", "outcome", "size", "task", "token")

    def __init__(self, operation: Operation[Any], size: int) -> None:
        self.operation = operation
        self.size = size
        self.outcome: outcome.Value[Any] | outcome.Error | None = None
        self.asked: float | None = None
        self.task: trio.lowlevel.Task | None = None
        self.token: trio.lowlevel.TrioToken | None = None


class Database:
    """One SQLite file (or memory, with path None). Create it, `prepare` tables, then `write` and `read`; `aclose` at
    the end.

    Raises `StoreError` (in use, unwritable, another program's) or `CorruptionError`; then nothing stays open.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        threads: bool = True,
        queue_operations_max: int = 4096,
        queue_bytes_max: int = 64 * 1024 * 1024,
        cache_bytes: int = 8 * 1024 * 1024,
        vfs: str | None = None,
        disk_wait: Callable[[], Awaitable[None]] | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.path = path
        self.failing: str | None = None
        self.commits = 0
        self._counters = Counters() if counters is None else counters
        self._threads = threads and path is not None
        self._disk_wait = disk_wait
        self._queue_operations_max = queue_operations_max
        self._queue_bytes_max = queue_bytes_max
        self._lock: FolderLock | None = None
        if path is None:
            self._writer = self._reader = open_memory()
        else:
            self._lock = FolderLock(path)
            try:
                self._writer = open_connection(path, writer=True, vfs=vfs)
                try:
                    self._reader = open_connection(path, writer=False, vfs=vfs)
                except BaseException:
                    self._writer.close(True)
                    raise
            except BaseException:
                self._lock.release()
                raise
        for connection in (self._writer, self._reader):
            _set_cache(connection, cache_bytes)
        self._participants: list[Participant] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._queued = 0
        self._queued_bytes = 0
        self._room: deque[trio.Event] = deque()
        self._thread: threading.Thread | None = None
        self._transaction = threading.Lock()
        self._commit_s = 0.0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Database {self.path or 'in memory'}{' closed' if self._is_closed else ''}>"

    # ------------------------------------------------------------------ setting up

    def prepare(self, room: str, steps: Sequence[str]) -> None:
        """Bring a room's tables up to date: `steps[i]` is the SQL that leads from version i to i + 1. Blocks; for
        `init`.
        """

        def operation(connection: apsw.Connection) -> None:
            connection.execute("CREATE TABLE IF NOT EXISTS rooms(room TEXT PRIMARY KEY, version INTEGER NOT NULL)")
            version = connection.execute("SELECT version FROM rooms WHERE room=?", (room,)).get or 0
            if version > len(steps):
                raise StoreError(f"{self.path} was written by a newer version of this program: update it")
            for step in steps[version:]:
                connection.execute(step)
            if version < len(steps):
                connection.execute("INSERT OR REPLACE INTO rooms VALUES(?,?)", (room, len(steps)))

        self.write_now(operation)

    async def reconfigure(self, *, queue_operations_max: int, cache_bytes: int) -> None:
        """Use another bound of the queue and another cache from now on."""
        self._check_open()
        await self.write(lambda connection: _set_cache(connection, cache_bytes))
        _set_cache(self._reader, cache_bytes)
        self._queue_operations_max = queue_operations_max
        while self._room:  # those who wait look again
            self._room.popleft().set()

    def join(self, participant: Participant) -> None:
        """Let a participant take part in every commit from now on."""
        self._participants.append(participant)

    def write_now(self, operation: Operation[T]) -> T:
        """Run and commit one operation on the caller's thread, blocking it: for `init`, before anything runs."""
        self._check_open()
        job = _Job(operation, 0)
        self._tell(self._commit([job]))
        self._count([job], self._commit_s)
        assert job.outcome is not None
        result: T = job.outcome.unwrap()
        return result

    # ------------------------------------------------------------------ writing

    async def write(self, operation: Operation[T], size: int = 0) -> T:
        """Run `operation(connection)` on the writing thread and return its result once it is on disk.

        `size` is about how many bytes it holds while it waits. Waits while the queue is full. Raises what the operation
        raised (then it changed nothing), `StoreError` if the commit failed (then it changed nothing) or `ClosedError`.
        Cancelled, it may still happen.
        """
        self._check_open()
        asked = trio.current_time()
        if not self._threads:
            if self._disk_wait is None:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await self._disk_wait()
            result = self.write_now(operation)
            self._counters.observe("store.write_s", trio.current_time() - asked)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return result
        while self._queued >= self._queue_operations_max or (
            self._queued and self._queued_bytes + size > self._queue_bytes_max
        ):
            event = trio.Event()
            self._room.append(event)
            await event.wait()
            self._check_open()
        job = _Job(operation, size)
        job.task = trio.lowlevel.current_task()
        job.token = trio.lowlevel.current_trio_token()
        job.asked = asked
        self._queued += 1
        self._queued_bytes += size
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_forever, name="bms-store", daemon=True)
            self._thread.start()
        self._jobs.put(job)

        def abort(raise_cancel: Any) -> trio.lowlevel.Abort:
            job.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        done: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return done

    def _write_forever(self) -> None:
        """The writing thread. Ends at the None that closing puts into the queue, after everything before it."""
        is_closing = False
        while not is_closing:
            jobs: list[_Job] = []
            item = self._jobs.get()
            while item is not None:
                jobs.append(item)
                if len(jobs) == _GROUP_MAX or self._jobs.empty():
                    break
                item = self._jobs.get()
            is_closing = item is None
            if jobs:
                self._hand_back(jobs, self._commit(jobs))

    def _hand_back(self, jobs: list[_Job], after: list[Callable[[], None]]) -> None:
        commit_s = self._commit_s

        def deliver() -> None:
            self._tell(after)
            self._count(jobs, commit_s)
            for job in jobs:
                self._queued -= 1
                self._queued_bytes -= job.size
                if job.task is not None and job.outcome is not None:
                    trio.lowlevel.reschedule(job.task, job.outcome)
            while self._room:
                self._room.popleft().set()

        token = jobs[0].token
        assert token is not None
        try:
            token.run_sync_soon(deliver)
        except trio.RunFinishedError:
            pass  # the program has ended: nobody waits any more, and what was committed is on disk

    def _count(self, jobs: list[_Job], commit_s: float) -> None:
        """Count one commit, on the Trio thread."""
        counters = self._counters
        counters.observe("store.commit_s", commit_s)
        counters.observe("store.group", len(jobs))
        size = sum(job.size for job in jobs)
        counters.observe("store.commit_bytes", size)
        failed = sum(isinstance(job.outcome, outcome.Error) for job in jobs)
        if failed:
            counters.add("store.writes_failed", failed)
        if jobs[0].asked is not None:
            now, write_s = trio.current_time(), counters.histogram("store.write_s")
            for job in jobs:
                if job.asked is not None:
                    write_s.observe(now - job.asked)
        if commit_s >= counters.slow_s:
            counters.slow("commit", commit_s, {"writes": len(jobs), "bytes": size})

    def _tell(self, after: list[Callable[[], None]]) -> None:
        for callback in after:
            try:
                callback()
            except Exception:  # a bug of ours; the commit is on disk, and those who wait for it must hear of that
                log.exception("telling of a commit failed")

    def _commit(self, jobs: list[_Job]) -> list[Callable[[], None]]:
        """Run the jobs in one transaction, leaving each its outcome; returns what is to run on the Trio thread."""
        with self._transaction:
            began = time.perf_counter()
            done = outcome.capture(self._run_group, jobs)
            self._commit_s = time.perf_counter() - began
            if isinstance(done, outcome.Value):
                if self.failing is not None:
                    log.info("the store can be written again")
                self.failing = None
                self.commits += 1
                return done.value
            outcome.capture(self._undo)
            error = done.error
            for job in jobs:
                if isinstance(job.outcome, outcome.Error):
                    continue  # its own failure says more
                if isinstance(error, apsw.Error):
                    failure: BaseException = store_error(error, "the write was not stored")
                    failure.__cause__ = error
                else:
                    failure = error
                job.outcome = outcome.Error(failure)
            if isinstance(error, apsw.Error):
                if self.failing is None:
                    log.error("the store cannot be written: %s", error)
                self.failing = str(store_error(error, "the store cannot be written"))
            return []

    def _undo(self) -> None:
        for participant in self._participants:
            participant.abandon()
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _run_group(self, jobs: list[_Job]) -> list[Callable[[], None]]:
        writer = self._writer
        for participant in self._participants:
            participant.begin()  # first, since what follows may fail, and what is abandoned is what was begun last
        writer.execute("BEGIN IMMEDIATE")
        for job in jobs:
            writer.execute("SAVEPOINT job")
            job.outcome = outcome.capture(job.operation, writer)
            if isinstance(job.outcome, outcome.Error):
                error = job.outcome.error
                if isinstance(error, _FATAL) or not writer.in_transaction:
                    job.outcome = None
                    raise error
                writer.execute("ROLLBACK TO job")
                if isinstance(error, apsw.Error):
                    failure = store_error(error, "the write was not stored")
                    failure.__cause__ = error
                    job.outcome = outcome.Error(failure)
            writer.execute("RELEASE job")
        after = [participant.finish(writer) for participant in self._participants]
        if failpoints.ARMED:
            failpoints.hit("store.before_commit")
        writer.execute("COMMIT")
        if failpoints.ARMED:
            failpoints.hit("store.after_commit")
        return [callback for callback in after if callback is not None]

    # ------------------------------------------------------------------ reading

    @property
    def queued(self) -> tuple[int, int]:
        """What waits for the writing thread: writes, and about how many bytes they hold."""
        return self._queued, self._queued_bytes

    @property
    def full_share(self) -> float:
        """How full the queue of writes is, 0 to 1."""
        return max(self._queued / self._queue_operations_max, self._queued_bytes / self._queue_bytes_max)

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query on the last commit, on the caller's thread. `CorruptionError` where pages are damaged."""
        self._check_open()
        try:
            return self._reader.execute(sql, parameters).fetchall()
        except apsw.Error as error:
            raise store_error(error, "the store cannot be read") from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several reads of one commit. Plain and short: an open snapshot keeps the log from being trimmed."""
        self._check_open()
        if self._reader.in_transaction:  # a database in memory, read inside a write
            yield
            return
        try:
            self._reader.execute("BEGIN")
            try:
                yield
            finally:
                self._reader.execute("COMMIT")
        except apsw.Error as error:
            raise store_error(error, "the store cannot be read") from error

    # ------------------------------------------------------------------ the end

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("the store is closed")

    async def aclose(self) -> None:
        """Finish every write that was accepted, then close and release the lock. Harmless twice; not interrupted by
        cancellation.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with trio.CancelScope(shield=True):  # bounded by the queue's bounds
                if self._thread is not None:
                    self._jobs.put(None)
                    # With a limiter of its own: the program's threads may all be busy.
                    await trio.to_thread.run_sync(self._thread.join, limiter=trio.CapacityLimiter(1))
                await trio.lowlevel.checkpoint()
        finally:
            if self._thread is not None:
                self._thread.join()  # it has ended, unless Ctrl+C came first, which no shield keeps out
            self._close()

    def close(self) -> None:
        """The same, blocking, for where no Trio runs."""
        if not self._is_closed:
            self._is_closed = True
            if self._thread is not None:
                self._jobs.put(None)
                self._thread.join()
            self._close()

    def _close(self) -> None:
        while self._room:
            self._room.popleft().set()
        for connection in {id(c): c for c in (self._reader, self._writer)}.values():
            if failpoints.ARMED and connection is self._writer:
                failpoints.hit("store.before_checkpoint")
            connection.close(True)
        if failpoints.ARMED:
            failpoints.hit("store.after_checkpoint")
        if self._lock is not None:
            self._lock.release()


def _set_cache(connection: apsw.Connection, size: int) -> None:
    connection.execute(f"PRAGMA cache_size=-{max(size // 1024, 64)}")
