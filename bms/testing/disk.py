"""A simulated disk under SQLite: full, slow, or cut off by a power loss that takes what was not flushed yet.

It is a file system of SQLite (VFS) that passes everything on to the real one and remembers, for each file, the writes
since its last flush. `image(power_loss=True)` says what would be found after the power was lost now: every file as of
its last flush, with a chosen part of the later writes on top, in any combination and the last one perhaps torn at a
sector. So a commit that was acknowledged before it was flushed can be lost, and one that was flushed cannot.

    full        every write to the log raises "disk full"           counted "disk_full"
    slow        every commit waits                                  counted "disk_slow"
    lies        flushes do nothing, as some drives do               counted "disk_lies"

A full disk refuses the log alone. SQLite moves pages from the log into the database after a commit and lets that fail
in silence; an exception from here would come out of the commit all the same (apsw raises it), which is no real fault.

Absent: bit rot, and faults of reading.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import apsw
import attrs
import trio

__all__ = ["SimDisk", "SimDisks"]

_SECTOR_BYTES = 512


@attrs.define
class _Write:
    """A write that is not flushed: where, what, what was there before, and how long the file was."""

    offset: int
    data: bytes
    before: bytes
    size: int

    def undo(self, content: bytearray) -> None:
        """Take it back; writes are taken back last first."""
        content[self.offset : self.offset + len(self.before)] = self.before
        del content[self.size :]


class SimDisk:
    """The disk of one host. `is_full`, `delay_s` (seconds each commit waits; uniform between the two) and `lies` may
    be set at any time; `fired` counts what they did.
    """

    def __init__(self, folder: Path, chance: random.Random, fired: Counter[str]) -> None:
        self.folder = folder
        self.fired = fired
        self.is_full = False
        self.lies = False
        self.delay_s = (0.001, 0.004)
        self.is_slow = False
        self._chance = chance
        self._unflushed: dict[str, list[_Write]] = {}
        self._lock = trio.Lock()

    async def wait(self) -> None:
        """The time that a commit takes; commits go one after another."""
        async with self._lock:
            if self.is_slow:
                self.fired["disk_slow"] += 1
            await trio.sleep(self._chance.uniform(*self.delay_s))

    def unflushed(self, name: str) -> list[_Write]:
        """The writes to a file since its last flush."""
        return self._unflushed.setdefault(name, [])

    def image(self, *, power_loss: bool) -> dict[Path, bytes]:
        """The files as a restart would find them. The shared-memory file is left out: it does not outlive a process."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.name.endswith("-shm"):
                content = path.read_bytes()
                found[path] = self._torn(content, self.unflushed(str(path))) if power_loss else content
        return found

    def restore(self, image: dict[Path, bytes]) -> None:
        """Put the files back as they were in an image; nothing may have them open."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path not in image:
                path.unlink()
        for path, content in image.items():
            path.write_bytes(content)
        self._unflushed.clear()

    def _torn(self, found: bytes, writes: list[_Write]) -> bytes:
        content = bytearray(found)
        for write in reversed(writes):
            write.undo(content)
        for write in writes:
            if self._chance.random() < 0.5:
                continue
            data = write.data
            if self._chance.random() < 0.25:
                data = data[: self._chance.randrange(len(data) // _SECTOR_BYTES + 1) * _SECTOR_BYTES]
            if len(content) < write.offset:
                content.extend(bytes(write.offset - len(content)))
            content[write.offset : write.offset + len(data)] = data
        return bytes(content)


class _SimFile(apsw.VFSFile):
    def __init__(self, base: str, name: apsw.URIFilename | str | None, flags: list[int], disk: SimDisk | None) -> None:
        super().__init__(base, name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self._disk = disk
        self._unflushed = None if disk is None else disk.unflushed(path)
        self._is_log = path.endswith("-wal")

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        disk = self._disk
        if disk is not None and self._unflushed is not None:
            if disk.is_full and self._is_log:
                disk.fired["disk_full"] += 1
                raise apsw.FullError("the simulated disk is full")
            size = self.xFileSize()
            before = self.xRead(min(len(data), size - offset), offset) if offset < size else b""
            self._unflushed.append(_Write(offset, bytes(data), before, size))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802 - SQLite's name
        if self._unflushed is not None:
            whole = self.xFileSize()
            if size < whole:
                self._unflushed.append(_Write(size, b"", self.xRead(whole - size, size), whole))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        disk = self._disk
        if disk is not None and self._unflushed is not None:
            if disk.lies:
                disk.fired["disk_lies"] += 1
                return
            self._unflushed.clear()
        super().xSync(flags)


class SimDisks(apsw.VFS):
    """SQLite's file system over the disks of one simulated world; `vfs_name` is what `World.vfs` takes."""

    def __init__(self, vfs_name: str) -> None:
        self.vfs_name = vfs_name
        self._disks: list[SimDisk] = []
        super().__init__(vfs_name, "")

    def add(self, disk: SimDisk) -> None:
        """Take care of a disk's files."""
        self._disks.append(disk)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> _SimFile:  # noqa: N802 - SQLite's name
        """Open a file of one of the disks, or a temporary one."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        disk = next((disk for disk in self._disks if path.startswith(f"{disk.folder}/")), None)
        return _SimFile("", name, flags, disk)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802 - SQLite's name
        """Delete a file, and forget what was remembered of it."""
        for disk in self._disks:
            if name.startswith(f"{disk.folder}/"):
                disk.unflushed(name).clear()
        super().xDelete(name, sync)
