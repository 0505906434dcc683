"""`bms demo`: a mesh of several processes on this machine, on real input, watched live.

    demo_tree      the files, listed and read
    demo_fleet     the node processes, their folder and their end
    demo_proof     what each node should hold, and whether it does
    demo_story     what happens, step by step
    demo_report    what came out
    demo_screen    how it is shown

Whatever ends it, nothing is left: SIGINT, SIGTERM and SIGHUP are taken before the first thing is made, and from then on
only set a flag and cancel the story; the processes are then ended and reaped, and the folder is removed, in a `finally`
that no signal can cut short. After SIGKILL the nodes end by themselves and their folder stays until the next
demonstration. Only `--keep`, once all is verified, leaves nodes on purpose.

    exit status    meaning
    0              every node holds every byte
    1              one does not, or something failed: a line says what
    2              the command line could not be understood
    by the signal  interrupted; a shell shows 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from ..errors import MeshError, StoreError
from .output import json_option, print_json
from .program import Failed

if TYPE_CHECKING:
    from .demo_fleet import Fleet
    from .demo_report import Report
    from .demo_screen import Screen

__all__ = ["demo"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PICTURE_COLUMNS = 118


class _Signals:
    """The first signal that asked for the end. Handlers only remember it and wake the story."""

    def __init__(self) -> None:
        self.taken: int | None = None
        self._wake: Callable[[], None] | None = None
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._take)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.taken is None:
            self.taken = number
        if self._wake is not None:
            self._wake()

    def on_signal(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` for a signal that comes, and for one that has come; None: no more."""
        self._wake = wake
        if wake is not None and self.taken is not None:
            wake()

    def restore(self) -> None:
        """Let signals end the process again; one that was taken does so now."""
        for number in _SIGNALS:
            if signal.getsignal(number) == self._take:
                signal.signal(number, signal.SIG_DFL)
        if self.taken is not None:
            try:
                click.echo("bms: interrupted; the nodes have been ended and their files removed", err=True)
            except OSError:
                pass  # the terminal has gone
            signal.raise_signal(self.taken)


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--nodes", "count", type=click.IntRange(3, 16), default=5, show_default=True, help="How many nodes.")
@click.option("--keep", is_flag=True, help="Leave the nodes running at the end, and say how to talk to them.")
@click.option("--stay", is_flag=True, help="Let the nodes run until Ctrl+C, to look around.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), hidden=True, help="Draw the last picture here.")
@json_option
def demo(path: Path | None, count: int, keep: bool, stay: bool, svg: Path | None, form: str) -> None:
    """Watch a mesh of five nodes on this machine.

    Stores every file under PATH (without it: this program's own) through one node of a mesh of processes that speak
    mutual TLS, and compares every byte on every node. Then one node is killed while values change, comes back and
    catches up, and everything is compared again. PATH is only read. While it runs, a link shows the first node's
    dashboard.
    """
    if keep and stay:
        raise click.UsageError(
            "--keep lets the nodes go on by themselves, --stay as long as this runs: give one of them"
        )
    signals = _Signals()
    try:
        is_good = _demonstrate(path, count, keep, stay, svg, form, signals)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise Failed(str(error)) from error
        _forget_output()  # whoever read it has gone
        is_good = False
    finally:
        signals.restore()
    if not is_good:
        sys.exit(1)


def _demonstrate(
    path: Path | None, count: int, keep: bool, stay: bool, svg: Path | None, form: str, signals: _Signals
) -> bool:
    """Everything between taking the signals and giving them back; whether all went well."""
    from .demo_fleet import Fleet
    from .demo_report import Report

    chosen = Path(__file__).parents[1] if path is None else path
    report = Report(str(chosen))
    screen = _screen(report, form)
    fleet: Fleet | None = None
    is_kept = False
    try:
        if signals.taken is None:
            fleet = Fleet(count)
            with screen.open():
                _run(chosen, fleet, report, screen, signals)
                if signals.taken is None:
                    screen.finish()
        if fleet is not None and signals.taken is None:
            if keep:
                report.kept = _kept(fleet, fleet.keep())
            _tell(report, form, svg)
            is_kept = keep
            if stay:
                _stay(fleet, report, form, signals)
    except (MeshError, Failed, BaseExceptionGroup) as error:
        if signals.taken is None:
            raise _explained(error, fleet) from error
    finally:
        # From here on signals change nothing but the exit status.
        problem = fleet.close(keep=is_kept and signals.taken is None) if fleet is not None else None
        if problem is not None:
            click.echo(f"bms: {problem}", err=True)
    return report.is_good


def _run(path: Path, fleet: Fleet, report: Report, screen: Screen, signals: _Signals) -> None:
    import trio

    from .demo_story import play

    async def main() -> None:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            signals.on_signal(lambda: token.run_sync_soon(scope.cancel, idempotent=True))
            try:
                await play(path, fleet, report, screen)
            finally:
                signals.on_signal(None)

    trio.run(main)


def _stay(fleet: Fleet, report: Report, form: str, signals: _Signals) -> None:
    """Let the nodes run until a signal comes. Ctrl+C is the end that was waited for, and no interruption."""
    import trio

    if form != "json":
        _explain(fleet.folder, report)
    sys.stdout.flush()

    async def wait() -> None:
        token, asked = trio.lowlevel.current_trio_token(), trio.Event()
        signals.on_signal(lambda: token.run_sync_soon(asked.set, idempotent=True))
        try:
            await asked.wait()
        finally:
            signals.on_signal(None)

    trio.run(wait)
    if signals.taken == signal.SIGINT:
        signals.taken = None


def _explain(folder: Path, report: Report) -> None:
    home, name = shlex.quote(str(folder)), report.nodes[0].name
    command = f"BMS_HOME={home} bms dashboard --node {name}"
    # A link that logs in is for who sits here; a pipe may end in a log.
    is_seen = sys.stdout.isatty()
    lines = (
        "",
        "The nodes run until Ctrl+C. Look around:",
        f"  dashboard:    {report.dashboard if is_seen else command}",
        *([f"  again:        {command}"] if is_seen else []),
        f"  a terminal:   BMS_HOME={home} bms top --node {name}",
        f"  end one:      BMS_HOME={home} bms drain --node {report.nodes[-1].name}",
    )
    for line in lines:
        click.echo(line)


def _screen(report: Report, form: str) -> Screen:
    from .demo_screen import LineScreen, LiveScreen, Screen

    stream = sys.stderr if form == "json" else sys.stdout
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console

        return LiveScreen(report, Console(file=stream))
    return Screen(report) if form == "json" else LineScreen(report)


def _tell(report: Report, form: str, svg: Path | None) -> None:
    """What is printed at the end beside the screen."""
    if svg is not None:
        _draw(report, svg)
    if form == "json":
        print_json(report.as_json())
    elif report.kept is not None:
        _explain_kept(report.kept)
    sys.stdout.flush()


def _kept(fleet: Fleet, holder: int) -> dict[str, Any]:
    """What somebody needs to go on with nodes that are kept."""
    return {
        "home": str(fleet.folder),
        "stop_pid": holder,
        "nodes": [
            {
                "name": member.name,
                "pid": member.process.pid,
                "folder": str(member.folder),
                "http_url": member.ready.get("http_url"),
            }
            for member in fleet.members
            if member.process is not None
        ],
    }


def _explain_kept(kept: dict[str, Any]) -> None:
    home, node = shlex.quote(kept["home"]), kept["nodes"][0]["name"]
    lines = (
        "",
        f"The nodes go on. Their files are in {home}",
        f"  ask one:      BMS_HOME={home} bms nodes --node {node}",
        f"                BMS_HOME={home} bms ls --node {node}",
        f"  dashboard:    BMS_HOME={home} bms dashboard --node {node}",
        f"  stop one:     BMS_HOME={home} bms drain --node {node}",
        f"  stop all:     kill {kept['stop_pid']}",
        f"  then remove:  rm -r {home}",
    )
    for line in lines:
        click.echo(line)


def _draw(report: Report, path: Path) -> None:
    from rich.console import Console

    from .demo_screen import picture

    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=_PICTURE_COLUMNS, file=nowhere, force_terminal=True)
        console.print(picture(report, finished=True))
    svg = console.export_svg(title="bms demo", unique_id="bms-demo")
    # rich names fonts on a server of others; a picture in a document should fetch nothing.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _explained(error: BaseException, fleet: Fleet | None) -> BaseException:
    """The one error that says why: a node that died first, whose end is behind all others."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if not isinstance(leaf, (MeshError, Failed)):
            return leaf if isinstance(leaf, OSError) else error
    dead = fleet.dead() if fleet is not None else None
    if dead is not None and fleet is not None:
        return Failed(fleet.epitaph(dead))
    for leaf in leaves:
        if isinstance(leaf, Failed):
            return leaf
        if isinstance(leaf, StoreError) and fleet is not None:
            return Failed(f"{leaf}. The nodes' files are under {fleet.folder.parent}: set TMPDIR to another disk")
    return leaves[0]


def _forget_output() -> None:
    """Nothing written from now on goes anywhere, so that the interpreter's own last flush does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
