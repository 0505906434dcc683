"""The last records of the log, kept in memory so that they can be asked for. A `logging.Handler` like any other.

Each record gets a number, counted from 1; whoever has read up to some number asks for those after it, and sees by the
numbers whether some are gone meanwhile. Bounded in records and in the length of each. What looks like a token or a
ticket of the mesh is left out of the text: logs are shown to people who hold less than that.

A program that has set up no logging hears warnings on standard error, by the standard library's last resort, which a
handler like this one would end: so it is asked from here.

Records may come from any thread; `on_record` is called on the thread that logs, and must be plain and quick.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

__all__ = ["TEXT_MAX", "LogRecord", "RecentLogs", "collecting", "without_secrets"]

TEXT_MAX = 4096
"""Characters of one record, its traceback included; the rest is cut."""

_SECRETS = re.compile(r"bms(?:_[0-9a-f]{16}|c)_[A-Za-z0-9_-]{20,}|(?<=#login=)[^\s&\"']+|(?<=Bearer )[^\s,;\"']+")


def without_secrets(text: str) -> str:
    """`text` without what would let somebody in: tokens, one-time codes."""
    return _SECRETS.sub("[secret]", text)


@attrs.frozen
class LogRecord:
    """One record: its number `n`, when (Unix seconds), level and logger as `logging` names them, in lower case."""

    n: int
    time: float
    level: str
    logger: str
    text: str


class RecentLogs(logging.Handler):
    """Keeps the last `capacity` records. `on_record` hears of each one that comes."""

    def __init__(self, capacity: int = 1000, on_record: Callable[[LogRecord], None] | None = None) -> None:
        super().__init__()
        self.on_record = on_record
        self._records: deque[LogRecord] = deque(maxlen=capacity)
        self._last = 0
        self._guard = threading.Lock()

    @property
    def last(self) -> int:
        """The number of the newest record; 0 if none has come."""
        return self._last

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record. Never raises."""
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
        except (TypeError, ValueError):  # the arguments do not fit the text: a mistake of whoever logs
            text = str(record.msg)
        with self._guard:
            self._last += 1
            kept = LogRecord(
                n=self._last,
                time=record.created,
                level=record.levelname.lower(),
                logger=record.name,
                text=without_secrets(text[: TEXT_MAX + 200])[:TEXT_MAX],  # not cutting one in two first
            )
            self._records.append(kept)
        if self.on_record is not None:
            self.on_record(kept)
        if logging.lastResort is not None and record.levelno >= logging.lastResort.level and self._is_alone(record):
            logging.lastResort.handle(record)

    def _is_alone(self, record: logging.LogRecord) -> bool:
        """Whether nobody else hears this record, other keepers like this one apart, of which the first speaks."""
        found: list[logging.Handler] = []
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            found += logger.handlers
            logger = logger.parent if logger.propagate else None
        return all(isinstance(handler, RecentLogs) for handler in found) and found[:1] == [self]

    def after(self, n: int = 0, limit: int | None = None) -> list[LogRecord]:
        """The records with a number above `n` that are still kept, oldest first, at most `limit`."""
        with self._guard:
            first = self._records[0].n if self._records else self._last + 1
            found = list(self._records)[max(0, n + 1 - first) :]
        return found if limit is None else found[:limit]

    def newest(self, limit: int) -> list[LogRecord]:
        """The last `limit` records, oldest first."""
        with self._guard:
            return list(self._records)[-limit:] if limit > 0 else []


@contextmanager
def collecting(logs: RecentLogs) -> Iterator[RecentLogs]:
    """Let `logs` hear what is logged under "bms", for the body."""
    logger = logging.getLogger("bms")
    logger.addHandler(logs)
    try:
        yield logs
    finally:
        logger.removeHandler(logs)
