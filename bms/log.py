"""What the program `bms` writes to standard error: lines for people, or one JSON object a line for other programs.

For the program alone. The library only calls `logging.getLogger("bms.<room>")`; importing it configures nothing, and a
program that embeds a mesh decides for itself where the records go.

    console   12:34:56.789 info    net: joined 1f0c3a77
    json      {"time": "2031-05-06T12:34:56.789Z", "level": "info", "logger": "bms.net", "message": "joined 1f0c3a77"}

Invariants: one record is one line (console: tracebacks follow, indented); characters that could steer a terminal or
fake a line are written as escapes, since names and reasons come from peers; writing a record never raises.

Writing blocks the caller, as the standard library's handlers do: whoever takes standard error through a pipe must read
it. Deliberately absent: files, rotation, syslog (a service manager has them).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any, TextIO

__all__ = ["ConsoleFormatter", "JsonFormatter", "configure", "follow", "printable"]

_LEVEL_COLOURS = {"warning": "33", "error": "31", "critical": "31;1", "debug": "2"}
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


def printable(text: str) -> str:
    """`text` with everything that is not printable as an escape: control and formatting characters, line ends."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _error_text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


class ConsoleFormatter(logging.Formatter):
    """Local time, level, room and message; `colours` marks levels by ANSI colours."""

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback indented below it."""
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = record.levelname.lower()
        shown = f"{level:<7}"
        if self._colours and level in _LEVEL_COLOURS:
            shown = f"\x1b[{_LEVEL_COLOURS[level]}m{shown}\x1b[0m"
        room = record.name.removeprefix("bms.")
        line = f"{moment}.{int(record.msecs):03} {shown} {room}: {printable(record.getMessage())}"
        error = _error_text(self, record)
        return "\n  ".join([line, *map(printable, error.splitlines())]) if error else line


class JsonFormatter(logging.Formatter):
    """One JSON object (RFC 8259, ASCII); what was logged with `extra` stands under its own names."""

    def format(self, record: logging.LogRecord) -> str:
        """The object, without a line end in it."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        error = _error_text(self, record)
        if error:
            fields["error"] = error
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD | fields.keys()}
        return json.dumps(fields, default=str, separators=(", ", ": "))


class _ProgramHandler(logging.StreamHandler[TextIO]):
    """Known by its class, so that configuring again replaces it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Nobody reads standard error any more, or the disk under it is full: there is nowhere left to say so."""


def configure(level: str, form: str, stream: TextIO | None = None) -> logging.Handler:
    """Write records of `bms` from `level` up, and warnings of everything else, to `stream` (standard error).

    `level` and `form` are those of `Config.log`. Replaces what an earlier call set up. Returns the handler.
    """
    stream = stream or sys.stderr
    colours = stream.isatty() and not os.environ.get("NO_COLOR")  # no-color.org
    handler = _ProgramHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter(colours=colours))
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known, _ProgramHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("bms").setLevel(level.upper())
    return handler


def follow(level: str, form: str) -> None:
    """Take up other settings where `configure` set up this process's log; in any other program do nothing."""
    mine = next((known for known in logging.getLogger().handlers if isinstance(known, _ProgramHandler)), None)
    if mine is not None:
        configure(level, form, mine.stream)
