"""What commands print: aligned tables in a pipe, rich ones on a terminal, JSON on request.

JSON field names are those of the API's classes (`Node`, `KeyInfo`, `Message`, `Status`) and do not change. Names,
keys and reasons come from peers: what is not printable is shown as an escape, in tables and lines alike. What a
user's own value holds is written as it is.
"""

from __future__ import annotations

import json
import os
import stat
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
_COLUMN_MAX = 80
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def json_option(function: F) -> F:
    """The option `-o`, as the argument `form`. Who tries `--json` is told of it."""

    def hint(context: click.Context, parameter: click.Parameter, is_given: bool) -> None:
        if is_given:
            raise click.NoSuchOption("--json", possibilities=["-o json"], ctx=context)

    function = click.option("--json", is_flag=True, is_eager=True, hidden=True, expose_value=False, callback=hint)(
        function
    )
    return click.option(
        "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
        help="For people, or JSON for programs.",
    )(function)  # fmt: skip


def print_json(value: object) -> None:
    """One JSON text on one line, ASCII."""
    click.echo(json.dumps(value, separators=(", ", ": ")))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under their headers; on a terminal as a rich table, elsewhere columns aligned by spaces.

    Nothing is shortened, for what is shown is copied: a long cell is folded on a terminal, and elsewhere stands out of
    its column, which it does not make wider.
    """
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
    widths = [
        max((len(line[column]) for line in lines if len(line[column]) <= _COLUMN_MAX), default=_COLUMN_MAX)
        for column in range(len(headers))
    ]
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
    """Make or replace a file as a whole; one line says why if that cannot be, and then nothing has changed.

    A file that is replaced keeps its mode, and its owner where this user may give it. A symbolic link stays, and what
    it leads to is replaced. What is no file, as a device or a FIFO, and what is standard output or error, is written to
    as it is.
    """
    try:
        try:
            before = os.stat(path)
        except FileNotFoundError:
            before = None
        if before is not None and (stream := _standard(before)) is not None:
            with os.fdopen(os.dup(stream), "wb") as file:  # /dev/stdout: what stands in that file stays
                file.write(content)
        elif before is None or stat.S_ISREG(before.st_mode):
            _replace(Path(os.path.realpath(path)), before, content)
        else:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), "wb") as file:
                file.write(content)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error


def _standard(found: os.stat_result) -> int | None:
    """Standard output or error, if a file is that."""
    return next((number for number in (1, 2) if os.path.samestat(found, os.fstat(number))), None)


def _replace(path: Path, before: os.stat_result | None, content: bytes) -> None:
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if before is None:
                mask = os.umask(0)
                os.umask(mask)
                mode = 0o666 & ~mask
            else:
                mode = _give(descriptor, before)
            os.fchmod(descriptor, mode)
            file.write(content)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def _give(descriptor: int, before: os.stat_result) -> int:
    """Give a file the owner and group of another as far as this user may; the mode it should have then."""
    mode = before.st_mode & 0o777
    for owner in (before.st_uid, -1):
        try:
            os.fchown(descriptor, owner, before.st_gid)
        except OSError:
            continue  # not this user's to give, or unknown in this namespace
        return mode
    return mode & 0o707  # what the group might do was meant for another
