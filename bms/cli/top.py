"""`bms top`: a running node and its mesh, live in a terminal; or samples, for programs.

    where                        what
    a terminal                   the live view: drawn again with every sample, key and change of size, until q
    a pipe, or --once            one picture, as text
    -o json                      one object a line for each sample, until interrupted; with --once a single one

    remote      where samples come from: two streams of the control socket, samples and events, or the same over HTTP
    top_view    what is known
    top_screen  how it looks
    terminal    the terminal, taken and given back

Every figure is the node's own; rates are differences of two samples. In the live view a node that goes away stays on
the screen as it was last known, marked as such, and is looked for again; everywhere else its end is the command's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import click
import trio

from ..control import Status
from ..control.answers import plain
from ..errors import MeshError, RefusedError
from ..values import Missed, NodeEvent
from .local import Choice, any_node_options, open_node
from .output import json_option, print_json, print_pairs, print_table
from .remote import AnyNode
from .terminal import Terminal
from .top_screen import COLUMNS, cells, duration, lines, picture
from .top_view import View

__all__ = ["top"]

_AGAIN_S = 1.0
_ONCE_S = 1.0
_PLAIN_COLUMNS = 120

Take = Callable[[dict[str, Any]], None]
Note = Callable[["NodeEvent | Missed"], None]


def _words(event: NodeEvent | Missed) -> str:
    if isinstance(event, Missed):
        return f"{event.count} events were missed"
    by = "" if event.by is None else f" (said by {event.by.short})"
    return f"{event.name or 'a node'} {event.node_id.short} {event.what}{by}"


async def _follow(client: AnyNode, interval_s: float, take: Take, note: Note) -> None:
    """Pass on samples and events until the node ends, which is raised."""
    raised: list[MeshError] = []

    async def events(scope: trio.CancelScope) -> None:
        try:
            async with client.events() as found:
                async for event in found:
                    note(event)
        except MeshError as error:
            raised.append(error)
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(events, nursery.cancel_scope)
        try:
            async with client.samples(interval_s) as samples:
                async for sample in samples:
                    take(sample)
        except MeshError as error:
            raised.append(error)
        nursery.cancel_scope.cancel()
    if raised:
        raise raised[0]


@asynccontextmanager
async def _opened(choice: Choice) -> AsyncIterator[tuple[AnyNode, Status]]:
    async with open_node(choice) as client:
        yield client, await client.status()


# ---------------------------------------------------------------------- the live view


class _Live:
    """The view, the terminal and what drives them."""

    def __init__(self, choice: Choice, interval_s: float) -> None:
        self.view = View(interval_s)
        self.ended_by: int | None = None
        self._choice = choice
        self._drawn = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Show it until somebody has enough of it. Raises MeshError or a usage error if it cannot begin."""
        async with _opened(self._choice) as (_, status):  # before the terminal is taken
            self._meet(status)
        terminal = Terminal()
        with terminal, self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(terminal.attend, self._end, self._redraw)
                nursery.start_soon(self._look)
                nursery.start_soon(self._obey, terminal)
                nursery.start_soon(self._draw, terminal)

    def _meet(self, status: Status) -> None:
        """From now on it is this node, whichever others there are."""
        self.view.status = status
        if status.folder is not None and self._choice.remote is None:
            self._choice = attrs.evolve(self._choice, node=str(Path(status.folder)))

    def _end(self, number: int) -> None:
        self.ended_by = number
        self._scope.cancel()

    def _redraw(self) -> None:
        self._drawn.set()

    async def _look(self) -> None:
        """Take what the node says; where it has gone, look for it again."""
        view = self.view
        while True:
            try:
                async with _opened(self._choice) as (client, status):
                    if view.sample is not None and view.trouble(trio.current_time()):
                        view.note(time.time(), f"{status.name} runs again, process {status.pid}")
                    self._meet(status)
                    await _follow(client, view.interval_s, self._take, self._note)
            except (MeshError, click.UsageError) as error:
                text = error.format_message() if isinstance(error, click.UsageError) else str(error)
                how = "NOT RUNNING" if self._choice.remote is None else "NOT REACHABLE"
                view.lose(text, trio.current_time(), "REFUSED" if isinstance(error, RefusedError) else how)
                self._redraw()
            await trio.sleep(_AGAIN_S)

    def _take(self, sample: dict[str, Any]) -> None:
        self.view.take(sample, trio.current_time())
        self._redraw()

    def _note(self, event: NodeEvent | Missed) -> None:
        self.view.note(time.time(), _words(event))
        self._redraw()

    async def _obey(self, terminal: Terminal) -> None:
        async for key in terminal.keys():
            if key in ("q", "Q"):
                break
            self.view.press(key)
            self._redraw()
        self._scope.cancel()

    async def _draw(self, terminal: Terminal) -> None:
        while True:
            self._drawn = trio.Event()
            now = trio.current_time()
            fancy = terminal.is_fancy
            terminal.draw(lambda columns, rows: picture(self.view, columns, rows, now, fancy=fancy))  # noqa: B023
            with trio.move_on_after(_AGAIN_S):  # the clock, and how long it has been gone
                await self._drawn.wait()


# ---------------------------------------------------------------------- text and JSON


async def _print_samples(choice: Choice, interval_s: float, count: int | None) -> None:
    """One object a line; `count` None: until the node ends or somebody interrupts."""
    waiting: list[Any] = []
    left = count
    async with _opened(choice) as (client, _):
        with trio.CancelScope() as scope:

            def take(sample: dict[str, Any]) -> None:
                nonlocal left
                print_json({**sample, "events": [plain(event) for event in waiting]})
                sys.stdout.flush()
                waiting.clear()
                if left is not None:
                    left -= 1
                    if left == 0:
                        scope.cancel()

            await _follow(client, interval_s, take, waiting.append)


async def _print_once(choice: Choice, interval_s: float) -> None:
    """One picture as text, of two samples, so that it has rates."""
    view = View(interval_s)
    async with _opened(choice) as (client, view.status), client.samples(interval_s) as samples:
        async for found in samples:
            view.take(found, trio.current_time())
            if view.flow is not None:
                break
    status, sample = view.status, view.sample
    assert sample is not None
    health = sample["health"]
    reasons = [f"{check['name']}: {check['reason']}" for check in health["checks"] if check["status"] != "ok"]
    print_pairs(
        [
            ("node", f"{status.name} {status.node_id[:8]} of {status.mesh_name}"),
            ("up", duration(sample["stats"]["uptime_s"])),
            ("health", "; ".join([health["status"], *reasons])),
            *lines(view, _PLAIN_COLUMNS, fancy=False),
        ]
    )
    click.echo()
    print_table(COLUMNS, ([row[name] for name in COLUMNS] for row in map(cells, view.nodes())))


@click.command()
@click.option("--once", is_flag=True, help="Show it once and end.")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True,
    help="Seconds between two samples.",
)  # fmt: skip
@json_option
@any_node_options
def top(choice: Choice, once: bool, interval_s: float, form: str) -> None:
    """Watch a running node and its mesh live.

    Nodes, throughput, queues and events; q ends it. In a pipe it is shown once. JSON gives an object a line for each
    sample: time, stats, nodes, links, health, events.
    """
    if form == "json":
        trio.run(_print_samples, choice, interval_s, 1 if once else None)
    elif once or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        trio.run(_print_once, choice, min(interval_s, _ONCE_S))
    else:
        live = _Live(choice, interval_s)
        trio.run(live.run)
        if live.ended_by is not None and live.ended_by != signal.SIGINT:
            signal.signal(live.ended_by, signal.SIG_DFL)
            signal.raise_signal(live.ended_by)
