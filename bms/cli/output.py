"""What commands print: aligned tables in a pipe, rich ones on a terminal, JSON on request.

JSON field names are those of the API's classes (`Node`, `KeyInfo`, `Message`, `Status`) and do not change. Names,
keys and reasons come from peers: what is not printable is shown as an escape, in tables and lines alike. What a
user's own value holds is written as it is.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..log import printable

__all__ = [
    "age",
    "json_option",
    "print_json",
    "print_pairs",
    "print_table",
    "read_input",
    "show_bytes",
    "size_text",
    "write_file",
]

F = TypeVar("F", bound=Callable[..., Any])

INPUT_BYTES_MAX = 1 << 30
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def json_option(function: F) -> F:
    """The option `-o`, as the argument `form`."""
    return click.option(
        "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
        help="For people, or JSON for programs.",
    )(function)  # fmt: skip


def print_json(value: object) -> None:
    """One JSON text on one line, ASCII."""
    click.echo(json.dumps(value, separators=(", ", ": ")))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under their headers; on a terminal as a rich table, elsewhere columns aligned by spaces."""
    cells = [[printable("-" if cell is None else str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console  # 60 ms, and only people see it
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False)
        for header in headers:
            table.add_column(header, overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    lines = [[header.upper() for header in headers], *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """One `name  value` a line, aligned."""
    shown = [(name, printable("-" if value is None else str(value))) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {value}")


def age(seen: float | None) -> str:
    """How long ago a time (Unix seconds) was."""
    if seen is None:
        return "-"
    seconds = max(0.0, time.time() - seen)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def size_text(size: float) -> str:
    """A number of bytes in decimal units."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:,.0f} {_UNITS[unit]}" if unit == 0 else f"{size:,.1f} {_UNITS[unit]}"


def show_bytes(raw: bytes) -> str:
    """Bytes as text, what is not UTF-8 as escapes."""
    return raw.decode("utf-8", "backslashreplace")


def read_input(given: str | None, what: str) -> bytes:
    """The bytes of an argument; of standard input if it is `-`, or missing and standard input is no terminal.

    At most 1 GiB.
    """
    if given is not None and given != "-":
        return given.encode("utf-8", "surrogateescape")
    if given is None and sys.stdin.isatty():
        raise click.UsageError(f"give {what} as an argument, or '-' to read standard input")
    data = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
    if len(data) > INPUT_BYTES_MAX:
        raise click.UsageError("standard input holds more than 1 GiB")
    return data


def write_file(path: Path, content: bytes) -> None:
    """Make or replace a file as a whole; one line says why if that cannot be, and then nothing has changed."""
    try:
        descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(descriptor, 0o666 & ~mask)
                file.write(content)
            os.replace(scratch, path)
        except BaseException:
            os.unlink(scratch)
            raise
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
