"""`bms identity issue`: what the founder of a mesh makes for a node on another machine.

It reads the authority in the founder's folder; the node need not run. The files hold that node's private keys: carry
them by a way that nobody else can read, and remove them here.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import click

from ..config import home as default_home
from ..security.identity import issue_files
from .local import Choice
from .program import Failed

__all__ = ["identity", "issue"]


@click.group()
def identity() -> None:
    """Make identities for other machines."""


def _founders(choice: Choice) -> list[Path]:
    """The folders of nodes that hold an authority and fit."""
    if choice.node is not None and "/" in choice.node:
        return [Path(choice.node)]
    pattern = "*/*/identity/authority/issuer.pem"
    folders = sorted(path.parents[2] for path in choice.home.glob(pattern))
    return [
        folder for folder in folders if choice.mesh in (None, folder.parent.name) and choice.node in (None, folder.name)
    ]


@identity.command()
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="A new folder for the files."
)
@click.option("--name", default="node", show_default=True, help="What the node will be called; for the log alone.")
@click.option(
    "--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long the certificate is valid."
)
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Folder of all nodes [BMS_HOME].")
@click.option("--mesh", metavar="NAME", help="Which mesh, where several were founded here.")
@click.option("--node", metavar="NODE", help="The node that founded it: name or folder.")
def issue(out: Path, name: str, days: int, home: Path | None, mesh: str | None, node: str | None) -> None:
    """Make key.pem, cert.pem and trust.pem for a node on another machine.

    Prints the new node's id. Start it there with `bms up --identity FOLDER --bootstrap ADDRESS`.
    """
    choice = Choice(home or default_home(), mesh, node)
    founders = _founders(choice)
    if not founders:
        raise Failed(
            f"no mesh was founded here ({choice}): found one with `bms up --found`, or give its folder with --node"
        )
    if len(founders) > 1:
        listed = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in founders)
        raise click.UsageError(f"several meshes were founded here; choose with --mesh and --node: {listed}")
    click.echo(
        issue_files(founders[0], out, node_name=name, token_bytes=secrets.token_bytes, wall_time=time.time, days=days)
    )
