"""What a database leaves when something around it fails: no handle, nobody waiting."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
import trio.testing

from bms.errors import StoreError
from bms.store.database import Database


def open_files(folder: Path) -> list[str]:
    """What this process has open in a folder."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the handle of this very listing
    return [link for link in links if link.startswith(str(folder))]


class Teller:
    """A participant whose telling fails."""

    def begin(self) -> None:
        """Nothing."""

    def abandon(self) -> None:
        """Nothing."""

    def finish(self, connection: apsw.Connection) -> Callable[[], None]:
        def tell() -> None:
            raise KeyError("a bug")

        return tell


@pytest.mark.parametrize("threads", [True, False])
async def test_a_bug_in_telling_of_a_commit_keeps_nobody_waiting(
    tmp_path: Path, threads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(tmp_path / "a.sqlite", threads=threads)
    database.join(Teller())
    try:
        with trio.fail_after(60):
            assert await database.write(lambda connection: 5) == 5
            assert await database.write(lambda connection: 6) == 6
    finally:
        await database.aclose()
    assert "a bug" in caplog.text


def test_a_reader_that_cannot_be_opened_leaves_no_handle_and_no_lock(tmp_path: Path) -> None:
    class OneOnly(apsw.VFS):
        """A file system that opens one connection to a database and no second."""

        opened = 0

        def __init__(self) -> None:
            self.vfs_name = f"one-only-{secrets.token_hex(4)}"
            super().__init__(self.vfs_name, "")

        def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - its name in apsw
            if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
                self.opened += 1
                if self.opened == 2:
                    raise apsw.CantOpenError("no file handle is left")
            return super().xOpen(name, flags)

    vfs = OneOnly()
    with pytest.raises(StoreError) as caught:
        Database(tmp_path / "a.sqlite", vfs=vfs.vfs_name)
    assert vfs.opened == 2
    assert open_files(tmp_path) == [], caught
    Database(tmp_path / "a.sqlite").close()


async def test_closing_does_not_wait_for_the_programs_own_threads(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.sqlite")
    await database.write(lambda connection: None)
    limiter = trio.to_thread.current_default_thread_limiter()
    total, release = limiter.total_tokens, threading.Event()
    limiter.total_tokens = 1
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, lambda: release.wait(30))
            await trio.testing.wait_all_tasks_blocked(0.01)
            with trio.move_on_after(10):
                done = trio.Event()

                async def close() -> None:
                    await database.aclose()
                    done.set()

                nursery.start_soon(close)
                await done.wait()
            assert done.is_set()
            release.set()
    finally:
        release.set()
        limiter.total_tokens = total
