"""The database file and its lock: made private, held by one process, looked at before it is trusted.

Layout in the node's folder: `<file>` (SQLite), `<file>-wal` and `<file>-shm` (its write-ahead log) and `<file>.lock`,
which holds the process id of whoever has the store open. The lock is flock(2)'s: it ends with the process, however that
ends; the number in the file is only for the message. It covers the whole folder, so also `identity/` and
`peers.snapshot` (membership/snapshot.py).

What is checked when opening: that the file is a SQLite database and one of ours (`application_id`), and, up to
`CHECK_BYTES_MAX`, that its pages hang together (`PRAGMA quick_check`). Larger files are only checked as their pages are
read. Pages carry no checksums of their own: entries and chunks are content-addressed, so damage within a page shows
when they are read.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import apsw

from ..errors import CorruptionError, StoreError

__all__ = ["CHECK_BYTES_MAX", "FolderLock", "open_connection", "open_memory", "store_error"]

CHECK_BYTES_MAX = 32 * 1024 * 1024

_APPLICATION_ID = 0x424D5331  # "BMS1"
_CORRUPT = (apsw.CorruptError, apsw.NotADBError)


class FolderLock:
    """Holds `<file>.lock` until `release`; raises `StoreError` naming the process that has it."""

    def __init__(self, database: Path) -> None:
        path = database.with_name(database.name + ".lock")
        try:
            database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"the store {database} cannot be opened: {error.strerror}: check the folder's owner and rights"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StoreError(
                f"the store {database} is in use by process {holder}:"
                " stop it, or give this node another persistence_path"
            ) from error
        except OSError as error:
            os.close(self._descriptor)
            raise StoreError(f"the lock {path} cannot be taken: {error.strerror}") from error

    def release(self) -> None:
        """Let others open the store. Once only."""
        os.close(self._descriptor)


def store_error(error: apsw.Error, what: str) -> StoreError:
    """What SQLite said, as this package's error: `CorruptionError` for damage, otherwise `StoreError`."""
    if isinstance(error, _CORRUPT):
        return CorruptionError(
            f"{what}: the database is damaged ({error}). Move its folder aside and start again:"
            " the node then fetches from its peers what they have"
        )
    if isinstance(error, apsw.FullError):
        return StoreError(f"{what}: the disk is full. Nothing acknowledged is lost; writing goes on when there is room")
    return StoreError(f"{what}: {error}")


def open_connection(path: Path, *, writer: bool, vfs: str | None = None) -> apsw.Connection:
    """Open the file: WAL, every commit fsynced. The writer makes the file if need be and checks it; readers cannot
    change it. `vfs` is SQLite's name of the file system, if not the system's own.
    """
    try:
        if writer and not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        flags = apsw.SQLITE_OPEN_READWRITE
        connection = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=200)
    except OSError as error:
        raise StoreError(
            f"the store {path} cannot be opened: {error.strerror}: check the folder's owner and rights"
        ) from error
    except apsw.Error as error:
        raise store_error(error, f"the store {path} cannot be opened") from error
    try:
        connection.set_busy_timeout(5000)
        if writer:
            _check(connection, path)
            connection.execute("PRAGMA synchronous=FULL")
        else:
            connection.execute("PRAGMA query_only=1")
    except apsw.Error as error:
        connection.close(True)
        raise store_error(error, f"the store {path} cannot be opened") from error
    except BaseException:
        connection.close(True)
        raise
    return connection


def _check(connection: apsw.Connection, path: Path) -> None:
    owner = connection.execute("PRAGMA application_id").get
    if owner not in (0, _APPLICATION_ID) or (
        owner == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").get
    ):
        raise StoreError(f"{path} is the database of another program: give this node another persistence_path")
    if connection.execute("PRAGMA journal_mode=WAL").get != "wal":
        raise StoreError(f"the file system of {path} cannot hold a write-ahead log: use a local disk")
    if path.stat().st_size <= CHECK_BYTES_MAX and (verdict := connection.execute("PRAGMA quick_check(1)").get) != "ok":
        raise CorruptionError(
            f"the database {path} is damaged ({verdict}). Move its folder aside and start again:"
            " the node then fetches from its peers what they have"
        )
    if owner == 0:
        connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")


def open_memory() -> apsw.Connection:
    """A database that ends with the process."""
    return apsw.Connection(":memory:", statementcachesize=200)
