"""`bms put`, `get`, `ls` and `rm`: values of a node.

Values pass unchanged, byte for byte. A file is written under another name first and then renamed, so that a reader
sees the old one or the whole new one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import trio

from ..errors import NotFoundError
from ..values import KeyInfo
from .local import Choice, any_node, any_node_options, open_node
from .output import json_option, print_json, print_table, read_input, show_bytes, write_file
from .program import Failed
from .remote import AnyNode

__all__ = ["get", "ls", "put", "rm"]


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Let a missing key be named as it was typed; the node knows it as bytes."""
    try:
        yield
    except NotFoundError as error:
        raise NotFoundError(f"there is no key {key!r}") from error


@click.command()
@click.argument("key")
@click.argument("value", required=False)
@click.option(
    "--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take this file's content."
)
@click.option("--ttl", "ttl_s", type=click.FloatRange(min=0, min_open=True), help="Seconds until it expires.")
@any_node_options
def put(choice: Choice, key: str, value: str | None, path: Path | None, ttl_s: float | None) -> None:
    """Store a value.

    The value is VALUE, a file's content, or standard input with '-' or in a pipe. Returns when it is on this machine's
    disk; it is on its way to the others then.
    """
    if path is not None and value is not None:
        raise click.UsageError("give VALUE or --file, not both")
    try:
        content = read_input(value, "VALUE") if path is None else path.read_bytes()
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}") from error

    async def act() -> None:
        async with open_node(choice) as client:
            await client.put(key, content, ttl_s=ttl_s)

    trio.run(act)


@click.command()
@click.argument("key")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead.")
@any_node
async def get(client: AnyNode, key: str, out: Path | None) -> None:
    """Write a value to standard output.

    The bytes as they were stored, nothing added.
    """
    with _named(key):
        content = (await client.get(key)).value
    if out is None or str(out) == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    write_file(out, content)


def _row(info: KeyInfo) -> dict[str, object]:
    raw = info.key if isinstance(info.key, bytes) else info.key.encode()
    return {
        "key": show_bytes(raw),
        "key_hex": raw.hex(),
        "version": info.version,
        "size": info.size,
        "author": info.author,
    }


@click.command()
@click.argument("prefix", default="")
@json_option
@any_node
async def ls(client: AnyNode, prefix: str, form: str) -> None:
    """List keys.

    Those that begin with PREFIX, in byte order, with the sizes of their values.
    """
    async with client.ls(prefix) as keys:
        rows = [_row(info) async for info in keys]
    if form == "json":
        print_json(rows)
        return
    print_table(
        ("key", "size", "version", "author"),
        ((row["key"], row["size"], str(row["version"])[:8], str(row["author"])[:8]) for row in rows),
    )


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@any_node
async def rm(client: AnyNode, keys: tuple[str, ...]) -> None:
    """Delete keys everywhere.

    Stops at the first that is not there.
    """
    for key in keys:
        with _named(key):
            await client.rm(key)
