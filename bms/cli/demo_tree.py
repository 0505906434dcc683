"""The files that a demonstration stores: what lies under a path, and their bytes, one file at a time.

    taken      regular files; the key is the path relative to the root, with forward slashes, as bytes
    skipped    symbolic links (none is followed, so nothing outside the root is read), sockets, pipes and devices,
               folders named .git, what may not be read, values or keys above the limits; each counted by its reason

Invariants: nothing is opened for writing; an open never blocks on a pipe or follows a link that was put in the place
of a file meanwhile; no more of a file is held than a little above the limit. What is read may differ from what was
listed, since the files are somebody's own and may change: whoever needs the same bytes again compares digests.

Deliberately absent: include and exclude patterns, and extended attributes, modes and times.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import blake3

from ..values import KEY_BYTES_MAX

__all__ = ["LISTED_MAX", "SPECIAL", "TOO_LARGE", "UNREADABLE", "File", "Tree", "read_file", "scan"]

LINK = "symbolic links"
SPECIAL = "special files"
GIT = ".git folders"
UNREADABLE = "unreadable"
TOO_LARGE = "too large"
TOO_LONG = "path too long"

LISTED_MAX = 1_000_000
"""More files than this are refused: each takes a line of memory."""

_READ_BYTES = 1 << 20


@attrs.frozen
class File:
    """A regular file as it was listed; `size` in bytes."""

    key: bytes
    path: bytes
    size: int


@attrs.define
class Tree:
    """What lies under `root`. `skipped` counts what was left out, by reason."""

    root: Path
    files: list[File] = attrs.Factory(list)
    skipped: Counter[str] = attrs.Factory(Counter)
    size: int = 0

    def skip(self, reason: str) -> None:
        """Leave one more out."""
        self.skipped[reason] += 1

    @property
    def skipped_text(self) -> str:
        """What was left out, for people; empty if nothing was."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.skipped.items()))

    def _take(self, entry_key: bytes, path: bytes, found: os.stat_result, value_bytes_max: int) -> None:
        if stat.S_ISLNK(found.st_mode):
            self.skip(LINK)
        elif not stat.S_ISREG(found.st_mode):
            self.skip(SPECIAL)
        elif found.st_size > value_bytes_max:
            self.skip(TOO_LARGE)
        elif len(entry_key) > KEY_BYTES_MAX:
            self.skip(TOO_LONG)
        else:
            self.files.append(File(entry_key, path, found.st_size))
            self.size += found.st_size


def _listed(folder: bytes, tree: Tree) -> Iterator[os.DirEntry[bytes]]:
    """The entries of a folder by name; none, and counted, if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError:
        tree.skip(UNREADABLE)


def scan(root: Path, value_bytes_max: int) -> Tree:
    """List what lies under `root`, a folder or one file. Raises OSError if `root` itself cannot be read.

    Blocks for as long as the disk takes.
    """
    tree = Tree(root)
    top = os.fsencode(root)
    found = os.stat(top)  # a link given by its user is followed; those below are not
    if not stat.S_ISDIR(found.st_mode):
        tree._take(os.path.basename(top), os.path.realpath(top), found, value_bytes_max)
        return tree
    os.scandir(top).close()
    todo = [top]
    start = len(os.path.join(top, b""))
    while todo and len(tree.files) <= LISTED_MAX:
        folders = []
        for entry in _listed(todo.pop(), tree):
            try:
                if not entry.is_dir(follow_symlinks=False):
                    tree._take(entry.path[start:], entry.path, entry.stat(follow_symlinks=False), value_bytes_max)
                elif entry.name == b".git":
                    tree.skip(GIT)
                else:
                    folders.append(entry.path)
            except OSError:
                tree.skip(UNREADABLE)
        todo.extend(reversed(folders))
    return tree


def read_file(path: bytes, bytes_max: int) -> tuple[bytes, bytes] | None:
    """The bytes of a regular file and their BLAKE3; None if it has more than `bytes_max`. Raises OSError.

    Blocks for as long as the disk takes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path!r} is a file no more")
        parts: list[bytes] = []
        length = 0
        while length <= bytes_max:
            part = os.read(descriptor, min(max(found.st_size - length, 4095) + 1, _READ_BYTES))
            if not part:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                return data, blake3.blake3(data).digest()
            parts.append(part)
            length += len(part)
        return None
    finally:
        os.close(descriptor)
