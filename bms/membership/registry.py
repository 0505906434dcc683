"""The registry folder of `dev_mode`: each running node of one mesh on this machine keeps one file there.

A file is JSON: `{"node_id": …, "boot": …, "addresses": ["host:port", …]}`. It is locked (flock) by the process that
wrote it for as long as it runs, so a file that can be locked is left over from a killed node and is removed. What a
registry says is only a place to dial: identity is proven on the link.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path

from .. import failpoints
from ..errors import LocalProtocolError
from ..values import Address, NodeId

__all__ = ["Registry"]

log = logging.getLogger("bms.discovery")

_FILE_BYTES_MAX = 16 * 1024


class Registry:
    """The folder in which nodes of one dev mesh on this machine find each other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None
        self._path: Path | None = None
        self._addresses: list[Address] = []

    def publish(self, node_id: NodeId, boot: int, addresses: list[Address]) -> None:
        """Write this node's file, replacing its earlier one, and hold its lock."""
        self.withdraw()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{node_id}.json"
        scratch = self._folder / f".{node_id}.{os.getpid()}"
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            text = json.dumps({"node_id": node_id, "boot": boot, "addresses": [str(address) for address in addresses]})
            os.write(fd, text.encode())
            os.rename(scratch, path)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._path, self._addresses = fd, path, addresses
        if failpoints.ARMED:
            failpoints.hit("registry.published")

    def is_published(self, addresses: list[Address]) -> bool:
        """Whether this node's file is still there and says that. Whoever removed an earlier one may have hit it."""
        if self._fd is None or self._path is None or addresses != self._addresses:
            return False
        try:
            there = os.stat(self._path)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def withdraw(self) -> None:
        """Remove this node's file."""
        if self._fd is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = self._path = None

    def others(self) -> list[tuple[NodeId, int, list[Address]]]:
        """The other running nodes: id, boot, addresses. Files of dead ones are removed; unreadable ones skipped."""
        found = []
        try:
            paths = sorted(self._folder.glob("*.json"))
        except OSError as error:  # no file handle is left, or the folder is not readable
            log.debug("the registry %s cannot be read: %s", self._folder, error)
            return []
        for path in paths:
            if path == self._path:
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
                    continue
                except BlockingIOError:
                    pass  # its node is running
                entry = json.loads(os.read(fd, _FILE_BYTES_MAX))
                addresses = [Address.parse(text) for text in entry["addresses"]]
                found.append((NodeId(entry["node_id"]), int(entry["boot"]), addresses))
            except (OSError, ValueError, KeyError, TypeError, LocalProtocolError) as error:
                log.warning("the registry file %s is not readable: %s", path, error)
            finally:
                os.close(fd)
        return found
