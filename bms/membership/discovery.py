"""First addresses: where a node that knows nobody looks for its mesh.

Two means: the bootstrap nodes of the configuration, dialed until they answer and again whenever no link leads there;
and, in `dev_mode`, a registry folder of this machine in which each running node keeps one file with its addresses.

A registry file is locked (flock) by the process that wrote it for as long as it runs, so a file that can be locked is
left over from a killed node and is removed. What a registry says is only a place to dial: identity is proven on the
link.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import trio

from .. import failpoints
from ..config import Config
from ..counters import Counters
from ..errors import LocalProtocolError, MeshError, RefusedError, RemoteProtocolError
from ..net.handshake import DuplicateLinkError
from ..net.pool import Pool
from ..values import Address, NodeId
from .view import View

__all__ = ["Discovery", "Registry"]

log = logging.getLogger("bms.discovery")

_LOOK_S = 1.0
_SETTLED_S = 30.0
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
        for path in sorted(self._folder.glob("*.json")):
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


class Discovery:
    """The discovery subsystem of one node."""

    name = "discovery"

    def __init__(
        self,
        *,
        config: Config,
        pool: Pool,
        view: View,
        registry: Registry | None,
        boot: int,
        my_addresses: Callable[[], list[Address]],
        counters: Counters,
    ) -> None:
        self.config = config
        self._pool = pool
        self._view = view
        self._registry = registry
        self._boot = boot
        self._my_addresses = my_addresses
        self._counters = counters

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for the mesh until cancelled."""
        async with trio.open_nursery() as nursery:
            for text in self.config.bootstrap_nodes:
                nursery.start_soon(self._keep_seed, Address.parse(text))
            if self._registry is not None and self.config.enable_discovery:
                nursery.start_soon(self._keep_registry, self._registry)
            task_status.started()
            await trio.sleep_forever()

    async def _keep_seed(self, address: Address) -> None:
        wait_s = self.config.gossip.redial_interval_s
        node_id: NodeId | None = None
        said = ""
        while True:
            gossip = self.config.gossip
            if address in self._my_addresses():
                return
            if node_id is None or self._pool.link(node_id) is None:
                try:
                    link = await self._pool.dial(address)
                    node_id, said, wait_s = link.node_id, "", _SETTLED_S
                except DuplicateLinkError:
                    wait_s = _SETTLED_S
                except MeshError as error:
                    self._counters.add("discovery.seeds_failed")
                    if isinstance(error, RefusedError) and "the node itself" in str(error):
                        return
                    refused = isinstance(error, (RefusedError, RemoteProtocolError))
                    text = str(error).removeprefix(f"{address}: ")
                    if text != said:
                        log.log(logging.WARNING if refused else logging.INFO, "bootstrap node %s: %s", address, text)
                        said = text
                    wait_s = min(gossip.redial_interval_max_s, max(gossip.redial_interval_s, wait_s) * 1.5)
            await trio.sleep(wait_s)
            if node_id is not None:
                wait_s = gossip.redial_interval_s if self._pool.link(node_id) is None else _SETTLED_S

    async def _keep_registry(self, registry: Registry) -> None:
        said: set[str] = set()
        try:
            while True:
                if not registry.is_published(mine := self._my_addresses()):
                    registry.publish(self._view.me, self._boot, mine)
                for node_id, boot, addresses in registry.others():
                    member = self._view.members.get(node_id)
                    if node_id == self._view.me or (member is not None and member.record.boot >= boot):
                        continue  # ourselves, or known to the view, which dials by itself
                    link, errors = await self._pool.dial_any(addresses)
                    if link is None:
                        self._counters.add("discovery.registry_failed")
                        for error in errors:
                            if str(error) not in said and len(said) < 100:
                                said.add(str(error))
                                log.info("node %s of the registry: %s", node_id.short, error)
                await trio.sleep(_LOOK_S)
        finally:
            registry.withdraw()
