"""How a demonstration shows itself: live on a terminal, a line a phase in a pipe, or not at all.

    Screen        says nothing; what `-o json` uses in a pipe
    LineScreen    one line when a phase ends, and at the end a table
    LiveScreen    the whole picture, drawn again several times a second, and once more at the end

Each draws from the one `Report`. Names of files may hold anything: whatever is shown goes through `printable`. Drawing
happens between two steps of the event loop and never in a thread, so that no interrupt cuts an escape sequence.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import trio

from ..log import printable
from .demo_report import NodeRow, Phase, Report
from .output import print_table, size_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["LineScreen", "LiveScreen", "Screen", "file_count", "picture", "size_text", "summary"]

FRAMES_PER_S = 10
_COLUMNS = ("node", "id", "state", "entries", "bytes", "equal", "equal after", "on the wire")
_STATE_STYLES = {"running": "green", "killed": "bold red", "restarting": "yellow", "catching up": "yellow"}


def file_count(count: int) -> str:
    """A number of files."""
    return "1 file" if count == 1 else f"{count:,} files"


def _cells(row: NodeRow) -> tuple[str, ...]:
    equal = "" if row.equal is None else "yes" if row.equal else "NO"
    seconds = "" if row.seconds is None else f"{row.seconds:.2f} s"
    return (
        row.name, row.node_id[:8], row.state, f"{row.entries:,}", size_text(row.bytes), equal, seconds,
        size_text(row.wire_bytes),
    )  # fmt: skip


def summary(report: Report) -> list[str]:
    """What came out, a sentence a line."""
    lines = []
    killed = report.killed
    if killed is not None and killed.noticed_s:
        seen = ", ".join(
            f"{name} after {seconds:.2f} s" if seconds is not None else f"{name} not at all"
            for name, seconds in sorted(killed.noticed_s.items())
        )
        lines.append(f"{killed.name} was killed; suspected by {seen}.")
    if killed is not None and killed.caught_up_s is not None and killed.caught_up_bytes is not None:
        lines.append(
            f"{killed.name} came back: it served {killed.restarted_s:.2f} s after its restart and held all "
            f"{killed.caught_up_s:.2f} s later, with {size_text(killed.caught_up_bytes)} on the wire."
        )
    if report.is_good:
        count, entries = len(report.nodes), report.nodes[0].entries
        seconds = sum(phase.seconds or 0.0 for phase in report.phases)
        lines.append(f"All {count} nodes hold the same {entries:,} entries, byte for byte; {seconds:.1f} s in all.")
    else:
        lines += report.problems
        if report.problems_more:
            lines.append(f"… and {report.problems_more:,} more")
    return lines


class Screen:
    """Shows nothing."""

    def __init__(self, report: Report) -> None:
        self._report = report

    @contextmanager
    def open(self) -> Iterator[None]:
        """Around everything that may be shown."""
        yield

    def began(self, phase: Phase) -> None:
        """A phase begins."""

    def ended(self, phase: Phase) -> None:
        """A phase is over."""

    def opened(self, link: str, command: str) -> None:
        """The dashboard can be looked at: by a link that logs in once, or by a command."""

    async def run(self) -> None:
        """Draw until cancelled."""

    def finish(self) -> None:
        """Show the outcome."""


class LineScreen(Screen):
    """For pipes and files: lines as things are done."""

    _link = ""

    def ended(self, phase: Phase) -> None:
        """Its line."""
        click.echo(f"{phase.seconds or 0.0:8.2f} s  {phase.title}: {printable(phase.detail)}{self._link}")
        self._link = ""

    def opened(self, link: str, command: str) -> None:
        """Say how, on the line of the phase. A link that logs in does not belong in a file."""
        self._link = f"; dashboard, while this runs: {link if sys.stdout.isatty() else command}"

    def finish(self) -> None:
        """The table, and what came out."""
        click.echo()
        print_table(_COLUMNS, map(_cells, self._report.nodes))
        click.echo()
        for line in summary(self._report):
            click.echo(printable(line))


class LiveScreen(Screen):
    """For people: phases, a bar, and a row a node, drawn in place."""

    def __init__(self, report: Report, console: Console) -> None:
        super().__init__(report)
        from rich.live import Live

        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Take the terminal, and give it back whatever happens."""
        try:
            with self._live:
                yield
        finally:
            self._live.console.show_cursor(True)

    def began(self, phase: Phase) -> None:
        """Draw at once."""
        self._draw()

    ended = began

    async def run(self) -> None:
        """Draw again and again."""
        while True:
            self._draw()
            await trio.sleep(1 / FRAMES_PER_S)

    def finish(self) -> None:
        """The last picture, which stays."""
        self._draw(finished=True)

    def _draw(self, *, finished: bool = False) -> None:
        fancy = self._live.console.encoding.startswith("utf")
        self._live.update(picture(self._report, fancy=fancy, finished=finished), refresh=True)


def _phases(report: Report, fancy: bool) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done, current = ("✓", "›") if fancy else ("*", ">")
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=7)
    table.add_column(ratio=1)
    for phase in report.phases:
        if phase.seconds is not None:
            seconds, detail = f"{phase.seconds:.2f} s", Text(printable(phase.detail), style="dim")
            table.add_row(Text(done, style="green"), Text(phase.title), seconds, detail)
            continue
        bar: RenderableType = ""
        if phase.total:
            line = Table.grid(padding=(0, 1))
            count = Text(f"{phase.done:,} / {phase.total:,}", style="dim")
            line.add_row(ProgressBar(total=phase.total, completed=phase.done, width=24), count)
            bar = line
        table.add_row(Text(current, style="yellow"), Text(phase.title, style="bold"), "", bar)
    return table


def _nodes(report: Report) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    for column in _COLUMNS:
        is_number = column in ("entries", "bytes", "equal after", "on the wire")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=True)
    for row in report.nodes:
        cells = [Text(cell) for cell in _cells(row)]
        cells[2].stylize(_STATE_STYLES.get(row.state, "dim"))
        cells[5].stylize("bold green" if row.equal else "bold red")
        table.add_row(*cells)
    return table


def picture(report: Report, *, fancy: bool = True, finished: bool = False) -> RenderableType:
    """The whole screen as it is now."""
    from rich.console import Group
    from rich.text import Text

    title = Text.assemble(("bms demo", "bold"), " ", printable(report.path))
    parts: list[RenderableType] = [title]
    if report.dashboard is not None and not finished:
        link = (report.dashboard, "cyan underline")
        parts.append(Text.assemble("dashboard, while this runs: ", link, overflow="fold"))
    parts += ["", _phases(report, fancy)]
    if report.nodes:
        parts += ["", _nodes(report)]
    if finished:
        style = "bold green" if report.is_good else "bold red"
        *before, last = summary(report)
        parts += [Text(printable(line)) for line in before]
        parts.append(Text(printable(last), style=style))
    return Group(*parts)
