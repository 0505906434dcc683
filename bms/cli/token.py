"""`bms token`: who may use a running node's HTTP interface, and what they may do there.

A token is printed once, alone on standard output, so that `$(bms token issue …)` and a pipe take it; the node keeps its
hash. What is said about it goes to standard error.
"""

from __future__ import annotations

import re
import time

import click

from ..control import ControlClient
from ..control.answers import plain
from ..errors import LocalProtocolError
from ..security.tokens import SCOPES, check_scopes, check_ttl
from .local import local_node
from .output import age, json_option, print_json, print_table

__all__ = ["issue", "list_tokens", "read_duration", "revoke", "token"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def read_duration(text: str) -> float:
    """Seconds from "90", "90s", "5min", "12h" or "30d"; LocalProtocolError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    if found is None or found[2] not in _UNITS:
        raise LocalProtocolError(f"a time is a number with s, min, h or d behind it, like 12h or 30d, not {text!r:.40}")
    return check_ttl(float(found[1]) * _UNITS[found[2]])


def _scopes(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return check_scopes(scope for text in given for scope in text.replace(",", " ").split())
    except LocalProtocolError as error:
        raise click.BadParameter(str(error)) from error


def _ttl(context: click.Context, parameter: click.Parameter, given: str) -> float:
    try:
        return read_duration(given)
    except LocalProtocolError as error:
        raise click.BadParameter(str(error)) from error


@click.group()
def token() -> None:
    """Tokens of the HTTP interface.

    They are a node's own: one that was issued here is good at this node alone.
    """


def _described() -> str:
    width = max(map(len, SCOPES))
    return "\b\n" + "\n".join(f"{scope.ljust(width)}  {meaning}" for scope, meaning in SCOPES.items())


@token.command(
    epilog=_described(),
)
@click.option(
    *("--scope", "scopes"), required=True, multiple=True, callback=_scopes,
    help='What it allows, from the list below; "data:*", "*:read" and "*" too. May be given several times.',
)  # fmt: skip
@click.option(
    "--ttl", "ttl_s", default="30d", show_default=True, callback=_ttl, metavar="TIME", help="How long it is good."
)
@click.option("--name", default="", help="What it is for; shown in the list.")
@json_option
@local_node
async def issue(client: ControlClient, scopes: tuple[str, ...], ttl_s: float, name: str, form: str) -> None:
    """Make a token and print it.

    It is shown this once: the node keeps a hash of it.
    """
    made, claims = await client.issue_token(scopes, ttl_s, name)
    if form == "json":
        print_json({"token": made, "claims": plain(claims)})
        return
    click.echo(made)
    click.echo(
        f"id {claims.token_id}, good for {_ahead(claims.expires_at)}: {' '.join(claims.scopes)}. "
        "It is not shown again.",
        err=True,
    )


@token.command("list")
@json_option
@local_node
async def list_tokens(client: ControlClient, form: str) -> None:
    """List the tokens in force."""
    found = await client.tokens()
    if form == "json":
        print_json(plain(found))
        return
    print_table(
        ("id", "name", "issued", "good for", "scopes"),
        (
            (each.token_id, each.name, age(each.issued_at), _ahead(each.expires_at), " ".join(each.scopes))
            for each in found
        ),
    )


@token.command()
@click.argument("token_ids", nargs=-1, required=True, metavar="ID...")
@local_node
async def revoke(client: ControlClient, token_ids: tuple[str, ...]) -> None:
    """End tokens, by their ids.

    They are refused from then on, and what they had open is closed.
    """
    for token_id in token_ids:
        await client.revoke_token(token_id)


def _ahead(at: float) -> str:
    """How far ahead a time (Unix seconds) is."""
    seconds = max(0.0, at - time.time())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
