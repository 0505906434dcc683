"""What the mesh should hold, and the proof that each node does.

For every key the expectation keeps the size and BLAKE3 of what was stored, and where its bytes can be had again: the
file, or the seed that they were drawn from. No more than a window of values is in memory at once.

    digests    each node reads all its values from its disk and tells their BLAKE3; they must be just those expected
    bytes      every value is fetched from every node and compared with the file, which is read again for it

A file that has changed since it was stored is no longer what was stored: its values are compared by size and BLAKE3
alone, and it is counted.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import attrs
import blake3
import trio

from ..errors import CorruptionError, NotFoundError
from .demo_fleet import Member
from .demo_report import Phase, Report
from .demo_tree import read_file

__all__ = ["Content", "Proof", "draw", "flow"]

_IN_FLIGHT = 40
_IN_FLIGHT_BYTES = 32 * 1024 * 1024
_DRAWN_BYTES_MAX = 8192
_AT_ONCE_BYTES_MAX = 4 * 1024 * 1024  # larger values are fetched from one node after another

T = TypeVar("T")


@attrs.frozen
class Content:
    """What one key should hold. Its bytes come from the file at `path`, or are drawn from `seed`."""

    size: int
    digest: bytes
    path: bytes | None = None
    seed: str = ""


def draw(seed: str) -> tuple[bytes, Content]:
    """Some bytes, the same for the same seed, and what is expected of them."""
    chance = random.Random(seed)
    data = chance.randbytes(chance.randrange(_DRAWN_BYTES_MAX))
    return data, Content(len(data), blake3.blake3(data).digest(), seed=seed)


class _Window:
    """How much is under way: a number of things and a number of bytes; one thing alone may be larger. For one taker."""

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0
        self._changed = trio.Event()

    async def take(self, size: int) -> None:
        """Wait until there is room."""
        while self._count and (self._count >= _IN_FLIGHT or self._bytes + size > _IN_FLIGHT_BYTES):
            self._changed = trio.Event()
            await self._changed.wait()
        self._count += 1
        self._bytes += size

    def give(self, size: int) -> None:
        """One is done."""
        self._count -= 1
        self._bytes -= size
        self._changed.set()


async def flow(items: Iterable[T], size: Callable[[T], int], act: Callable[[T], Awaitable[None]]) -> None:
    """Act on every item, as many at once as the window allows; `size` says what one holds in memory."""
    window = _Window()

    async def one(item: T, held: int) -> None:
        try:
            await act(item)
        finally:
            window.give(held)

    async with trio.open_nursery() as nursery:
        for item in items:
            held = size(item)
            await window.take(held)
            nursery.start_soon(one, item, held)


class Proof:
    """Expectation and comparison. `expected` is filled in by whoever stores."""

    def __init__(self, report: Report) -> None:
        self.expected: dict[bytes, Content] = {}
        self._report = report
        self._changed: set[bytes] = set()
        self._wrong: dict[str, int] = {}

    async def check(self, members: list[Member], phase: Phase) -> dict[str, bool]:
        """Both comparisons on every node; which are equal. What is not goes into the report."""
        self._wrong = {member.name: 0 for member in members}
        phase.total = len(self.expected) * (len(members) + 1)
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(self._check_digests, member, phase)
        await flow(
            self.expected.items(),
            lambda item: item[1].size * (2 if item[1].size > _AT_ONCE_BYTES_MAX else len(members) + 1),
            lambda item: self._check_bytes(*item, members, phase),
        )
        self._report.changed_meanwhile = len(self._changed)
        return {name: not count for name, count in self._wrong.items()}

    def _note(self, member: Member, key: bytes, what: str) -> None:
        self._wrong[member.name] += 1
        self._report.problem(f"{member.name}: {key.decode('utf-8', 'backslashreplace')} {what}")

    async def _check_digests(self, member: Member, phase: Phase) -> None:
        missing = dict.fromkeys(self.expected)
        count = max(1, len(self._wrong))
        seen = 0
        async with member.watch.digest() as digests:
            async for key, digest in digests:
                if key not in self.expected:
                    self._note(member, key, "should not be there")
                elif digest != self.expected[key].digest:
                    self._note(member, key, "has another digest")
                missing.pop(key, None)
                seen += 1
                if seen % count == 0:
                    phase.done += 1
        for key in missing:
            self._note(member, key, "is missing")

    async def _check_bytes(self, key: bytes, content: Content, members: list[Member], phase: Phase) -> None:
        original = await self._original(key, content)

        async def compare(member: Member) -> None:
            try:
                value = (await member.data.get(key)).value
            except (NotFoundError, CorruptionError) as error:
                self._note(member, key, f"cannot be fetched: {error}")
                return
            if original is not None:
                is_equal = value == original
            else:
                is_equal = len(value) == content.size and blake3.blake3(value).digest() == content.digest
            if not is_equal:
                self._note(member, key, "has other bytes")
            self._report.verified_values += 1
            self._report.verified_bytes += len(value)
            phase.done += 1

        if content.size > _AT_ONCE_BYTES_MAX:
            for member in members:
                await compare(member)
            return
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(compare, member)

    async def _original(self, key: bytes, content: Content) -> bytes | None:
        """The bytes that were stored; None if they cannot be had any more."""
        if content.path is None:
            return draw(content.seed)[0]
        try:
            found = await trio.to_thread.run_sync(read_file, content.path, content.size, abandon_on_cancel=True)
        except OSError:
            found = None
        if found is None or found[1] != content.digest:
            self._changed.add(key)
            return None
        return found[0]
