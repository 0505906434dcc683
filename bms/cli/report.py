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
import trio

from .local import any_node
from .output import write_file
from .remote import AnyNode

__all__ = ["report"]


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
    endings = {".html": "html", ".htm": "html", ".json": "json"}
    chosen = form or endings.get("" if out is None else out.suffix.lower(), "text")
    if chosen == "html" and out is None and sys.stdout.isatty():
        raise click.UsageError("a page is for a browser: give a file with --out, as in --out report.html")
    text = await client.report(chosen)
    if out is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    await trio.to_thread.run_sync(write_file, out, text.encode())
    click.echo(f"{out}: {len(text.encode()):,} bytes", err=True)
