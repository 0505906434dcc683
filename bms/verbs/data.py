"""The verbs about data: keys and values of this node's store, which is equal to the others' by itself.

A write is durable here when it returns, and on its way to the others (docs/concepts/sync.md).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

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
        self, key: str | bytes, value: bytes, space: str = "default", ttl_s: float | None = None
    ) -> Version:
        """Write a value; durable on this node when it returns, and on its way to the others.

        `ttl_s`: seconds until it reads as missing. Raises LimitError (too large), StoreError (disk), RefusedError (no
        grant), NotFoundError (no such space).
        """
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise LocalProtocolError(f"a value is bytes, not {type(value).__name__}")
        expiry_ms = None
        if ttl_s is not None and not (math.isfinite(ttl_s) and ttl_s > 0):
            raise LocalProtocolError(f"ttl_s is a positive number of seconds, not {ttl_s!r}")
        entries = self._space(space)
        await self._settle()
        if ttl_s is not None:
            expiry_ms = entries.clock.physical_ms(self._world.wall_time()) + int(ttl_s * 1000)
        return await entries.put(key_bytes(key), bytes(value), expiry_ms=expiry_ms)

    async def retrieve_data(self, key: str | bytes, space: str = "default") -> Value:
        """Read a value from this node's store; NotFoundError if there is none (or it was deleted, or has expired)."""
        await trio.lowlevel.checkpoint()
        return self._space(space).get(key_bytes(key))

    async def delete_data(self, key: str | bytes, space: str = "default") -> Version:
        """Delete a key everywhere; durable on this node when it returns. NotFoundError if there is none."""
        entries = self._space(space)
        await self._settle()
        return await entries.put(key_bytes(key), None)

    @asynccontextmanager
    async def scan(self, prefix: str | bytes = "", space: str = "default") -> AsyncIterator[AsyncIterator[KeyInfo]]:
        """List keys in byte order: `async with mesh.scan("a/") as keys: async for info in keys`.

        The keys come as the type of `prefix`. Writes meanwhile may or may not be seen.
        """
        entries = self._space(space)
        is_text = isinstance(prefix, str)
        start = prefix.encode("utf-8", "surrogateescape") if isinstance(prefix, str) else bytes(prefix)

        async def pages() -> AsyncIterator[KeyInfo]:
            after: bytes | None = None
            while True:
                await trio.lowlevel.checkpoint()
                page = entries.scan(start, after, _SCAN_PAGE)
                for info in page:
                    assert isinstance(info.key, bytes)
                    after = info.key
                    yield attrs.evolve(info, key=after.decode("utf-8", "surrogateescape")) if is_text else info
                if len(page) < _SCAN_PAGE:
                    return

        keys = pages()
        try:
            yield keys
        finally:
            await keys.aclose()  # type: ignore[attr-defined]

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
