"""`bms dashboard`: the running node's dashboard in a browser, logged in by a link that works once.

The code in the link comes over the control socket, which only its user may open: who may do that may do everything at
this node. It is good for a minute, and once; what the browser gets for it is a token that ends by itself.

The code is handed to the browser in a file (0600, in the node's folder) and not on its command line, which every user
of the machine can read. A browser that may not read hidden folders (as some packages shut theirs in) shows an error;
`--print` is for it, and for machines without a screen.
"""

from __future__ import annotations

import html
import os
import sys
import webbrowser
from pathlib import Path

import click
import trio

from ..control import ControlClient
from ..errors import StoreError
from .local import local_node
from .output import json_option, print_json

__all__ = ["dashboard", "login_link"]

PAGE_NAME = "dashboard.html"
_WILDCARDS = {"//0.0.0.0:": "//127.0.0.1:", "//[::]:": "//127.0.0.1:"}


def login_link(url: str, code: str) -> str:
    """The link that opens the dashboard at `url`, logged in. The code is behind "#": no server and no log gets it."""
    for everywhere, here in _WILDCARDS.items():
        url = url.replace(everywhere, here)
    return f"{url.rstrip('/')}/#login={code}"


def _has_screen() -> bool:
    if os.environ.get("BROWSER") or sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(link: str, folder: Path) -> bool:
    """Have a browser follow the link; False if there is none. Raises StoreError if the file cannot be written."""
    page = folder / PAGE_NAME
    address = html.escape(link, quote=True)
    try:
        page.unlink(missing_ok=True)
        with open(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}"><title>bms</title>\n')
    except OSError as error:
        raise StoreError(
            f"{page} cannot be written ({error.strerror}); `bms dashboard --print` needs no file"
        ) from error
    is_open = webbrowser.open(page.as_uri())
    if not is_open:
        page.unlink(missing_ok=True)
    return is_open


@click.command()
@click.option("--print", "is_printed", is_flag=True, help="Print the link instead of opening a browser.")
@json_option
@local_node
async def dashboard(client: ControlClient, is_printed: bool, form: str) -> None:
    """Open the dashboard of a running node.

    The link logs in by itself; it works once, within a minute.
    """
    found = await client.login()
    link = login_link(found["http_url"] or found["https_url"], found["code"])
    if form == "json":
        print_json({"url": link, "expires_s": found["expires_s"]})
        return
    folder = found["folder"]
    if not is_printed and folder is not None and _has_screen():
        if await trio.to_thread.run_sync(_open, link, Path(folder)):
            click.echo("The dashboard opens in your browser. If it does not: bms dashboard --print")
            return
        click.echo("no browser could be opened; open this link in one, within a minute:", err=True)
    click.echo(link)
    if found["http_url"] is None:
        click.echo(
            "the certificate is the mesh's own: a browser warns of it unless it trusts the mesh's root", err=True
        )
