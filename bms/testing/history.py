"""What a workload attempted and what came of it: the record that checkers judge a run by.

Values and messages are unique, so that whatever is found later says who wrote it and when. An attempt whose outcome is
None is one whose program was killed meanwhile: it may have taken effect or not. Operations on keys for which several
tasks race are kept as `linearizability` takes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

from .linearizability import Operation

__all__ = ["Delivery", "History", "Sending", "Write"]

ACKNOWLEDGED, FAILED, UNKNOWN = "acknowledged", "failed", "unknown"


@attrs.define(eq=False)
class Write:
    """One attempt to write `value` under `key`, or to delete it (None). `host` is the writer's; times are virtual."""

    key: str
    value: bytes | None
    host: str
    started_at: float
    outcome: str | None = None
    error: str = ""
    done_at: float | None = None


@attrs.define(eq=False)
class Sending:
    """One attempt to send a message. `starts` is how often the receiver had been started when it was acknowledged."""

    body: bytes
    host: str
    to: str
    started_at: float
    outcome: str | None = None
    error: str = ""
    starts: int = 0


@attrs.frozen
class Delivery:
    """A message as a subscriber got it, on the host's `starts`-th start."""

    body: bytes
    host: str
    starts: int
    at: float


@attrs.define
class History:
    """All attempts, in the order they began, and all deliveries."""

    writes: list[Write] = attrs.field(factory=list)
    sendings: list[Sending] = attrs.field(factory=list)
    deliveries: list[Delivery] = attrs.field(factory=list)
    operations: list[Operation] = attrs.field(factory=list)
    _moment: float = 0.0

    def moment(self, now: float) -> float:
        """Now, and later than every moment before it: what follows another event at the same virtual time is known."""
        self._moment = max(now, math.nextafter(self._moment, math.inf))
        return self._moment

    def written(self) -> list[str]:
        """Every key that somebody tried to write, sorted."""
        return sorted({write.key for write in self.writes})

    def raced(self) -> list[str]:
        """Every key that several tasks race for, sorted."""
        return sorted({operation.key for operation in self.operations})

    def of_key(self, key: str) -> Iterator[Write]:
        """The attempts on a key, in order."""
        return (write for write in self.writes if write.key == key)

    def count(self) -> dict[str, int]:
        """How much was attempted, acknowledged and delivered."""
        return {
            "writes": len(self.writes),
            "writes acknowledged": sum(write.outcome == ACKNOWLEDGED for write in self.writes),
            "messages": len(self.sendings),
            "messages acknowledged": sum(sending.outcome == ACKNOWLEDGED for sending in self.sendings),
            "messages delivered": len(self.deliveries),
            "operations": len(self.operations),
            "operations of unknown outcome": sum(operation.returned_at is None for operation in self.operations),
        }
