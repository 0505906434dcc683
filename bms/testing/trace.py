"""The trace of a simulated run: a hash over everything that happened in it, in order.

Two runs went the same way if their traces are equal, and a trace is the same in another process, with another hash
seed and on another version of Python. What counts as an event: every delivery on the network with its bytes, every
connection, every fault, every operation of a workload and its outcome, each with its virtual time. The last lines are
kept as text, for a failure's report; all of them if asked for, to find where two runs part.
"""

from __future__ import annotations

import hashlib
from collections import deque

import trio

__all__ = ["Trace"]

_LINES = 200


class Trace:
    """Events in order. `lines` are the last ones as text; `lines_max` None keeps all."""

    def __init__(self, lines_max: int | None = _LINES) -> None:
        self.events = 0
        self.lines: deque[str] = deque(maxlen=lines_max)
        self._hash = hashlib.blake2b(digest_size=16)

    def note(self, text: str, data: bytes = b"") -> None:
        """Add an event, at the virtual time that it is; `data` counts but is not kept."""
        line = f"{trio.current_time():.6f} {text}"
        self.events += 1
        self.lines.append(line)
        self._hash.update(b"%s\n%d:" % (line.encode(), len(data)))
        self._hash.update(data)

    @property
    def digest(self) -> str:
        """The hash of all events until now, in hexadecimal."""
        return self._hash.hexdigest()
