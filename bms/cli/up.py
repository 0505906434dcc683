"""`bms up`: one node in the foreground, until it is asked to end.

    event                               what happens
    SIGTERM, SIGINT, `bms drain`        drains, leaves the mesh, exits 0
    end of standard input               the same, with the hidden option --exit-with-stdin
    a second signal                     ends at once, by the signal
    SIGHUP                              reads file, environment and options again, and the identity's files; what cannot
                                        change is logged, and then nothing has changed
    it cannot be made or bound          one line says why; exits 1

Standard output carries one line, once the node serves: `ready NODE_ID ADDRESS`, or JSON. The log goes to standard
error.

Its defaults differ from the library's where a program of its own wants others: see `defaults`. HTTP and HTTPS that
nobody has asked for are served if that can be: where their port is taken, HTTP takes a free one (`bms dashboard` and
`bms status` know which), HTTPS stays off, since others could not know where else to look; the log says so.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import click
import trio

from ..config import Config, home
from ..control import SOCKET_NAME
from ..control.server import serve_control
from ..errors import ConfigError, MeshError, StoreError, UnreachableError
from ..log import configure
from ..mesh import Mesh, open_mesh
from ..values import Address
from .defaults import Wishes, up_config
from .notify import Notifier
from .output import json_option
from .program import Failed
from .settings import overrides, set_option

__all__ = ["up"]

log = logging.getLogger("bms.cli")

Read = Callable[[], tuple[Config, Wishes]]
"""Reads all settings anew."""

_READ_BYTES = 1 << 12
_NO_IDENTITY = (
    "this node has no identity yet. Give one of: --identity FOLDER, made by `bms identity issue` where the mesh was"
    " founded; --found, to start a new mesh; --dev, to try things out on this machine"
)
_NO_ROOM = (
    "the disk under this node's folder is full, and the node has ended. Nothing acknowledged is lost: make room and"
    " start it again"
)


class _Ending:
    """Whether the process was asked to end, and what to do about it at this stage."""

    def __init__(self, notify: Notifier) -> None:
        self.notify = notify
        self.asked = trio.Event()
        self.starting = trio.CancelScope()
        self.is_serving = False

    def ask(self) -> None:
        """End: by draining, or by giving up if the node is not serving yet."""
        self.notify("STOPPING=1")
        self.asked.set()
        if not self.is_serving:
            self.starting.cancel()

    async def on_signal(self, signals: AsyncIterator[int]) -> None:
        """Wait for the first; the next one then ends the process by itself."""
        async for _ in signals:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            self.ask()

    async def on_end_of_input(self) -> None:
        """Wait until whoever started this process closes its end of our standard input, or is gone."""
        while await trio.to_thread.run_sync(os.read, 0, _READ_BYTES, abandon_on_cancel=True):
            pass
        self.ask()


async def _serve(read: Read, config: Config, wishes: Wishes, form: str, *, exit_with_stdin: bool) -> None:
    notify = Notifier.from_environment()
    ending = _Ending(notify)
    with (
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
        trio.open_signal_receiver(signal.SIGHUP) as hangups,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.on_signal, signals)
            nursery.start_soon(notify.watchdog)
            if exit_with_stdin:
                nursery.start_soon(ending.on_end_of_input)
            with ending.starting:
                async with open_mesh(config) as mesh, trio.open_nursery() as control:
                    path = _folder(mesh) / SOCKET_NAME
                    await control.start(_serve_control, mesh, path, ending)
                    await _serve_http(mesh, wishes)
                    ending.is_serving = True
                    control.start_soon(_reload_on_hangup, mesh, read, hangups)
                    _announce(mesh, path, form)
                    notify("READY=1")
                    await ending.asked.wait()
                    await mesh.stop()  # commands are answered until it has
                    control.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


async def _serve_control(mesh: Mesh, path: Path, ending: _Ending, *, task_status: trio.TaskStatus[None]) -> None:
    await serve_control(mesh, path, on_stop=ending.ask, task_status=task_status)


async def _serve_http(mesh: Mesh, wishes: Wishes) -> None:
    """Serve HTTP and HTTPS where nobody has said where, or said no."""
    if wishes.http is not None:
        try:
            await mesh.start_http_server(wishes.http)
        except (UnreachableError, ConfigError) as error:
            url = await mesh.start_http_server(Address(wishes.http.host, 0))
            log.warning("HTTP is at %s, not where it usually is: %s", url, str(error).partition(";")[0])
    if wishes.https is not None:
        try:
            await mesh.start_https_server(wishes.https)
        except (UnreachableError, ConfigError) as error:
            log.warning("HTTPS is off, set https_address: %s", str(error).partition(";")[0])


def _kept(mesh: Mesh, config: Config, wishes: Wishes) -> Config:
    """Settings with the servers that go on because still nobody says otherwise."""
    fields: dict[str, Any] = {}
    if wishes.http is not None:
        fields["http_address"] = mesh.config.http_address
    if wishes.https is not None:
        fields["https_address"] = mesh.config.https_address
    return config.evolve(**fields)


async def _reload_on_hangup(mesh: Mesh, read: Read, hangups: AsyncIterator[int]) -> None:
    async for _ in hangups:
        try:
            done = await mesh.reconfigure(_kept(mesh, *read()))
        except MeshError as error:
            log.error("not reloaded, nothing has changed: %s", error)
            continue
        names = [*done.fields, *(["certificate"] if done.certificate else [])]
        log.info("reloaded: %s", ", ".join(names) or "nothing is new")


def _folder(mesh: Mesh) -> Path:
    return mesh.folder or home() / mesh.config.mesh_name / mesh.config.node_name


def _announce(mesh: Mesh, path: Path, form: str) -> None:
    if form == "table":
        click.echo(f"ready {mesh.node_id} {mesh.address}")
        return
    fields = {
        "ready": True,
        "node_id": mesh.node_id,
        "address": str(mesh.address),
        "name": mesh.config.node_name,
        "mesh_name": mesh.config.mesh_name,
        "mesh_id": mesh.mesh_id,
        "folder": str(path.parent),
        "pid": os.getpid(),
        "http_url": mesh.http_url,
        "https_url": mesh.https_url,
    }
    click.echo(json.dumps(fields))


@click.command()
@click.option("--config", "file", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file of settings.")
@click.option("--listen", metavar="ADDRESS", help="Where to listen, host:port [[::]:7800, with --dev 127.0.0.1:0].")
@click.option("--http", metavar="ADDRESS", help="Where HTTP is served [127.0.0.1:7801, or a free port].")
@click.option(
    "--https", metavar="ADDRESS", help="Where HTTPS is served [[::]:7802 if that is free, with --dev nowhere]."
)
@click.option("--no-http", is_flag=True, help="Serve neither.")
@click.option("--mesh", metavar="NAME", help="The mesh's name on this machine.")
@click.option("--name", metavar="NAME", help="The node's name.")
@click.option("--bootstrap", multiple=True, metavar="ADDRESS", help="A node to dial first; may be repeated.")
@click.option("--dev", is_flag=True, help="Trust every process of yours on this machine; for trying things out.")
@click.option(
    "--identity", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with key.pem, cert.pem and trust.pem, as `bms identity issue` makes it.",
)  # fmt: skip
@click.option("--found/--no-found", default=None, help="Found a mesh if none is known here, or never do.")
@click.option("--persistence-path", type=click.Path(file_okay=False, path_type=Path), help="The node's folder.")
@click.option(
    "--home", "home_folder", type=click.Path(file_okay=False, path_type=Path), help="Folder of all nodes [BMS_HOME]."
)
@set_option
@json_option
@click.option("--exit-with-stdin", is_flag=True, hidden=True, help="End when standard input is closed.")
def up(
    file: Path | None,
    home_folder: Path | None,
    pairs: tuple[str, ...],
    form: str,
    no_http: bool,
    exit_with_stdin: bool,
    **options: Any,
) -> None:
    """Run a node in the foreground.

    Prints one line when it serves. SIGTERM, SIGINT and `bms drain` let it finish and leave the mesh; a second signal
    ends it at once. SIGHUP reloads settings and certificate.
    """
    if home_folder is not None:
        os.environ["BMS_HOME"] = str(home_folder)
    given = _given(options) | overrides(pairs)

    def read() -> tuple[Config, Wishes]:
        return up_config(file, os.environ, given, serve_http=not no_http)

    config, wishes = read()
    configure(config.log.level, config.log.format)
    try:
        trio.run(lambda: _serve(read, config, wishes, form, exit_with_stdin=exit_with_stdin))
    except* StoreError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first.__cause__, apsw.FullError):
            raise Failed(_NO_ROOM) from None
        raise
    except* UnreachableError as group:
        raise Failed(str(group.exceptions[0])) from None  # its own address, not another node
    except* ConfigError as group:
        error = group.exceptions[0]
        if isinstance(error, ConfigError) and error.field == "found_mesh" and error.value is False:
            raise Failed(_NO_IDENTITY) from None  # the same in the words of this command
        raise


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that options name."""
    identity = options["identity"]
    settings = {
        "listen_address": options["listen"],
        "http_address": options["http"],
        "https_address": options["https"],
        "mesh_name": options["mesh"],
        "node_name": options["name"],
        "bootstrap_nodes": options["bootstrap"] or None,
        "dev_mode": options["dev"] or None,
        "found_mesh": options["found"],
        "persistence_path": options["persistence_path"],
        **({f"{name}_path": identity / f"{name}.pem" for name in ("key", "cert", "trust")} if identity else {}),
    }
    return {name: value for name, value in settings.items() if value is not None}
