"""`bms report`: one document with all that a running node knows of itself, to keep or to send to somebody.

    html    a page that needs nothing else: plots are drawn in it, no script, nothing fetched
    json    the same facts, for programs
    text    the same for a terminal or a mail

The node writes it (`Mesh.generate_report`); a file is replaced as a whole, or left as it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .local import any_node
from .output import write_file
from .remote import AnyNode

__all__ = ["report"]

_ENDINGS = {".html": "html", ".htm": "html", ".json": "json", ".txt": "text", "": "text"}


def _by_ending(suffix: str) -> str:
    if suffix not in _ENDINGS:
        known = ", ".join(filter(None, _ENDINGS))
        raise click.UsageError(f"what to write is not known by the ending {suffix!r}: give --format, or one of {known}")
    return _ENDINGS[suffix]


@click.command()
@click.option(
    "--format", "form", type=click.Choice(["html", "json", "text"]), help="What to write [by FILE's ending, or text]."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@any_node
async def report(client: AnyNode, form: str | None, out: Path | None) -> None:
    """Write a report of a running node.

    To standard output, or to a file, which is replaced as a whole.
    """
    chosen = form or _by_ending("" if out is None else out.suffix.lower())
    if chosen == "html" and out is None and sys.stdout.isatty():
        raise click.UsageError("a page is for a browser: give a file with --out, as in --out report.html")
    text = await client.report(chosen)
    if out is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    write_file(out, text.encode())  # not in a thread: a FIFO may wait for its reader, and Ctrl+C should end that
    click.echo(f"{out}: {len(text.encode()):,} bytes", err=True)
