"""What went wrong or took long, in short: the last errors that the program reported, and the last slow operations.

Both lists are bounded, and so is each text in them. An operation is slow from `log.slow_operation_s` on; it is written
to the log ("bms.slow") as well, at most one line a second of each kind, so that a slow disk does not fill it.

Plain: the time of day is passed in. Facts and context are whatever the caller gives, kept as short texts or numbers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ..counters import Counters
from ..reports import ErrorRecord, SlowOperation
from .logs import without_secrets

__all__ = ["KEPT_MAX", "Journal"]

log = logging.getLogger("bms.slow")
error_log = logging.getLogger("bms.errors")

KEPT_MAX = 100
_FACTS_MAX = 16
_TEXT_MAX = 500
_SAY_S = 1.0


class Journal:
    """The errors and slow operations of one node, newest last."""

    def __init__(self, counters: Counters, wall_time: Callable[[], float]) -> None:
        self.errors: deque[ErrorRecord] = deque(maxlen=KEPT_MAX)
        self.slow: deque[SlowOperation] = deque(maxlen=KEPT_MAX)
        self._counters = counters
        self._wall_time = wall_time
        self._said: dict[str, float] = {}

    def took_long(self, what: str, seconds: float, facts: Mapping[str, object]) -> None:
        """Note a slow operation; a listener of `Counters.on_slow`."""
        now, kept = self._wall_time(), _short(facts)
        self.slow.append(SlowOperation(now, what, seconds, kept))
        self._counters.count("monitor.slow_operations", what)
        if abs(now - self._said.get(what, float("-inf"))) >= _SAY_S:
            self._said[what] = now
            log.warning("%s took %.3f s: %s", what, seconds, _listed(kept))

    def failed(self, error: BaseException, context: Mapping[str, object]) -> ErrorRecord:
        """Note an error, count it by its class, and write it to the log with its traceback."""
        record = ErrorRecord(self._wall_time(), type(error).__name__, _text(str(error)), _short(context))
        self.errors.append(record)
        self._counters.count("monitor.errors", record.error)
        error_log.error(
            "%s: %s%s",
            record.error,
            record.text,
            f" ({_listed(record.context)})" if context else "",
            exc_info=error if error.__traceback__ is not None else None,
        )
        return record


def _text(text: str) -> str:
    text = without_secrets(text)
    return text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 1] + "…"


def _short(facts: Mapping[str, object]) -> dict[str, Any]:
    short: dict[str, Any] = {}
    for name, value in list(facts.items())[:_FACTS_MAX]:
        if value is None:
            continue
        is_plain = isinstance(value, (bool, int, float)) and value == value  # not a number is no JSON
        short[_text(name)] = value if is_plain and abs(value) != float("inf") else _text(str(value))  # type: ignore[arg-type]
    return short


def _listed(facts: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in facts.items())
