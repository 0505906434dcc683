"""The verbs about data: keys and values of this node's store, which is equal to the others' by itself.

A write is durable here when it returns, and on its way to the others (docs/concepts/sync.md).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from ..data.commits import Head
from ..data.entries import Entries
from ..errors import ClosedError, LocalProtocolError, NotFoundError
from ..reports import DataSummary
from ..values import KeyInfo, Value, Version, key_bytes
from .core import Core

__all__ = ["DataVerbs"]

_SCAN_PAGE = 500


class DataVerbs(Core):
    """See the module."""

    async def store_data(
        self,
        key: str | bytes,
        value: bytes,
        space: str = "default",
        ttl_s: float | None = None,
        *,
        condition: Callable[[str | None], bool] | None = None,
    ) -> Version:
        """Write a value; durable on this node when it returns, and on its way to the others.

        `ttl_s`: seconds until it reads as missing. `condition(version)` is asked about the version in force on this
        node (None: there is none) within the write, so that of two of this node's writers one sees the other; another
        node's write may still win later. It is called on the store's thread, and is plain. Raises
        VersionConflictError (the condition said no), LimitError (too large), StoreError (disk), RefusedError (no
        grant), NotFoundError (no such space).
        """
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise LocalProtocolError(f"a value is bytes, not {type(value).__name__}")
        expiry_ms = None
        if ttl_s is not None and not (math.isfinite(ttl_s * 1000) and ttl_s > 0):
            raise LocalProtocolError(f"ttl_s is a positive number of seconds, not {ttl_s!r}")
        entries = self._space(space)
        await self._settle()
        if ttl_s is not None:
            expiry_ms = entries.clock.physical_ms(self._world.wall_time()) + int(ttl_s * 1000)
        with self.span("bms.store", bytes=len(value)):
            return await entries.put(key_bytes(key), bytes(value), expiry_ms=expiry_ms, condition=condition)

    async def retrieve_data(self, key: str | bytes, space: str = "default") -> Value:
        """Read a value from this node's store; NotFoundError if there is none (or it was deleted, or has expired)."""
        await trio.lowlevel.checkpoint()
        return self._space(space).get(key_bytes(key))

    async def delete_data(
        self, key: str | bytes, space: str = "default", *, condition: Callable[[str | None], bool] | None = None
    ) -> Version:
        """Delete a key everywhere; durable on this node when it returns. NotFoundError if there is none.

        `condition` is that of `store_data`.
        """
        entries = self._space(space)
        await self._settle()
        with self.span("bms.delete"):
            return await entries.put(key_bytes(key), None, condition=condition)

    @asynccontextmanager
    async def scan(
        self, prefix: str | bytes = "", space: str = "default", *, after: bytes | None = None
    ) -> AsyncIterator[AsyncIterator[KeyInfo]]:
        """List keys in byte order: `async with mesh.scan("a/") as keys: async for info in keys`.

        The keys come as the type of `prefix`; with `after` those behind that key. Writes meanwhile may or may not be
        seen.
        """
        entries = self._space(space)
        is_text = isinstance(prefix, str)
        start = prefix.encode("utf-8", "surrogateescape") if isinstance(prefix, str) else bytes(prefix)

        async def pages(last: bytes | None) -> AsyncIterator[KeyInfo]:
            while True:
                await trio.lowlevel.checkpoint()
                page = entries.scan(start, last, _SCAN_PAGE)
                for info in page:
                    assert isinstance(info.key, bytes)
                    last = info.key
                    yield attrs.evolve(info, key=last.decode("utf-8", "surrogateescape")) if is_text else info
                if len(page) < _SCAN_PAGE:
                    return

        keys = pages(after)
        try:
            yield keys
        finally:
            await keys.aclose()  # type: ignore[attr-defined]

    def tap_data(self, tap: Callable[[tuple[bytes, ...]], None]) -> Callable[[], None]:
        """Tell `tap` the keys that each commit changed, by whomever, as soon as it is on disk.

        Called on the Trio thread; must be plain, quick, and not raise. Returns what ends it.
        """
        return self._entries.on_commit(lambda commit: tap(commit.keys) if commit.keys else None)

    def key_heads(self, keys: Sequence[bytes]) -> list[Head]:
        """What is in force under these keys, without the values; deleted ones too, unknown ones not."""
        return self._entries.heads(keys)

    def expired_keys(self, after_ms: int | None = None) -> tuple[list[Head], int]:
        """Keys that expired behind `after_ms` (Unix milliseconds), and up to when that is. None: none, up to now."""
        return self._entries.expired(after_ms)

    def data_summary(self) -> DataSummary:
        """What this node's store holds, in numbers."""
        totals, state = self._entries.totals(), self._entries.state()
        return DataSummary(
            entries=totals.entries,
            bytes=totals.bytes,
            tombstones=totals.tombstones,
            position=state.high,
            epoch=f"{state.epoch:016x}",
            fingerprint=state.fingerprint.hex(),
        )

    async def _settle(self) -> None:
        """Before a write is stamped: until the mesh's time is known, or cannot be learned soon."""
        if self._life is not None and not self._life.clock.settled.is_set():
            await self._life.clock.settled.wait()

    def _space(self, name: str) -> Entries:
        if self._is_closed:
            raise ClosedError("this mesh was shut down")
        if name != "default":
            raise NotFoundError(f"there is no space {name!r}")
        return self._entries
