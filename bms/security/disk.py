"""Files that hold secrets, written so that a cut at any point leaves the old state or the new one, never a mixture.

A **new folder** is built beside its place under a scratch name (`.NAME.new`), every file and folder in it flushed, and
then renamed into place: the rename is the one instant at which it comes to be.

**Several files of a folder** change together through a journal inside it: the new files are collected in
`.pending.new`, flushed, and that is renamed to `pending`: the commit. Then each moves over the old one, and `pending`
goes. `finish_replacing` does the rest of that when a process died in between; call it before reading. It may run any
number of times.

    cut before the rename to `pending`      the old files; the scratch folder is thrown away next time
    cut after it                            the new files, once `finish_replacing` has run

Files are created 0600 and folders 0700, so that no instant exists in which others can read them. Whoever writes holds
`locked` on a file beside the folder; the lock ends with the process.

Of this room only this module touches the file system. Deliberately absent: systems without `flock` and POSIX renames.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .. import failpoints
from ..errors import ConfigError

__all__ = ["finish_replacing", "locked", "read_file", "replace_files", "write_folder"]

FILE_BYTES_MAX = 1 << 20
_PENDING = "pending"


def read_file(path: Path, field: str, *, private: bool = False) -> bytes:
    """A file's bytes; ConfigError about `field` if it cannot be read, or is `private` and others than its owner may."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(field, str(path), f"{path} is not a file")
            if private and status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                why = f"{path} holds private keys and others may use it (mode {mode:04o}): chmod 600 {path}"
                raise ConfigError(field, str(path), why)
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(field, str(path), f"cannot read {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(field, str(path), f"{path} is too large for what it should be")
    return content


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` (its folder is made) against other processes; waits; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `path` with `files` (names may have one folder in front), all at once.

    Raises OSError, and then `path` is as it was; so too if something other than an empty folder is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_name(f".{path.name}.new")
    _fill(scratch, files)
    if failpoints.ARMED:
        failpoints.hit("identity.before_rename")
    os.rename(scratch, path)
    _flush(path.parent)
    if failpoints.ARMED:
        failpoints.hit("identity.written")


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put `files` into the existing `folder`, over those of the same names, all together. Raises OSError.

    If it was raised before the commit nothing has changed; after it `finish_replacing` completes the change.
    """
    finish_replacing(folder)
    scratch = folder / f".{_PENDING}.new"
    _fill(scratch, files)
    if failpoints.ARMED:
        failpoints.hit("identity.before_commit")
    os.rename(scratch, folder / _PENDING)
    _flush(folder)
    if failpoints.ARMED:
        failpoints.hit("identity.committed")
    finish_replacing(folder)


def finish_replacing(folder: Path) -> None:
    """Complete a `replace_files` that was cut off after its commit; does nothing otherwise. Raises OSError."""
    pending = folder / _PENDING
    if not pending.is_dir():
        return
    for name in sorted(os.listdir(pending)):
        os.rename(pending / name, folder / name)
        if failpoints.ARMED:
            failpoints.hit("identity.moved")
    # The names must be durable before the journal that could restore them goes.
    _flush(folder)
    os.rmdir(pending)
    _flush(folder)


def _fill(scratch: Path, files: Mapping[str, bytes]) -> None:
    """Build a scratch folder anew and flush all of it."""
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir(mode=0o700)
    folders = {scratch}
    for name, content in files.items():
        target = scratch / name
        if target.parent not in folders:
            target.parent.mkdir(mode=0o700)
            folders.add(target.parent)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    for folder in sorted(folders, reverse=True):
        _flush(folder)


def _flush(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
