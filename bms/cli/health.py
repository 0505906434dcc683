"""`bms health`: whether a running node is well, for people, scripts and service managers.

    exit status    meaning
    0              ok
    1              degraded or failing: the reasons stand above
    3              no node answers

What is checked, and what each status means, the node itself decides (`Mesh.check_health`); nothing is worked out here.
"""

from __future__ import annotations

import click

from .local import any_node
from .output import json_option, print_json, print_table
from .program import EXIT_FAILED
from .remote import AnyNode

__all__ = ["health"]


@click.command()
@json_option
@any_node
async def health(client: AnyNode, form: str) -> None:
    """Say whether a running node is well.

    Exits 0 if all is ok, and 1 with the reasons otherwise.
    """
    found = await client.health()
    if form == "json":
        print_json(found)
    else:
        click.echo(found["status"])
        print_table(
            ("check", "status", "reason"),
            ((check["name"], check["status"], check["reason"]) for check in found["checks"]),
        )
    if found["status"] != "ok":
        raise click.exceptions.Exit(EXIT_FAILED)
