"""The commands of `bms` by name, and how its process ends.

A command's module is loaded when the command is used, so the table below repeats the first line of its help; a test
holds the two equal. Every error that the package raises on purpose ends as one line on standard error.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from ..errors import MeshError, UnreachableError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["COMMANDS", "Failed", "LazyGroup", "root", "run"]

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("bms.cli.up:up", "Run a node in the foreground."),
    "demo": ("bms.cli.demo:demo", "Watch a mesh of five nodes on this machine."),
    "nodes": ("bms.cli.nodes:nodes", "List the nodes of the mesh."),
    "status": ("bms.cli.nodes:status", "Show a running node in short."),
    "sync": ("bms.cli.nodes:sync", "Reconcile the data with other nodes now."),
    "drain": ("bms.cli.nodes:drain", "Let a running node finish, leave the mesh and end."),
    "top": ("bms.cli.top:top", "Watch a running node and its mesh live."),
    "health": ("bms.cli.health:health", "Say whether a running node is well."),
    "report": ("bms.cli.report:report", "Write a report of a running node."),
    "dashboard": ("bms.cli.dashboard:dashboard", "Open the dashboard of a running node."),
    "doctor": ("bms.cli.doctor:doctor", "Find out what is wrong here, and what to do about it."),
    "put": ("bms.cli.data:put", "Store a value."),
    "get": ("bms.cli.data:get", "Write a value to standard output."),
    "ls": ("bms.cli.data:ls", "List keys."),
    "rm": ("bms.cli.data:rm", "Delete keys everywhere."),
    "send": ("bms.cli.messages:send", "Send a message to one node."),
    "broadcast": ("bms.cli.messages:broadcast", "Send a message to all nodes."),
    "listen": ("bms.cli.messages:listen", "Print messages as they come."),
    "config": ("bms.cli.settings:config", "Check and show settings."),
    "step": ("bms.cli.step:step", "Take a Bellande step from one position towards another."),
    "step experiment": ("bms.cli.step:experiment", "Walk the published experiment of the Bellande step."),
    "token": ("bms.cli.token:token", "Tokens of the HTTP interface."),
    "identity": ("bms.cli.identity:identity", "Make identities for other machines."),
    "completion": ("bms.cli.completion:completion", "Print the script that completes commands in a shell."),
}

EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 2, 3, 130


Failed = click.ClickException
"""A command failed for a reason that has no class of its own in the package: one line, exit status 1."""


class LazyGroup(click.Group):
    """A group whose commands are loaded when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with commands of two words and a guess at what was meant."""
        if (two := " ".join(args[:2])) in COMMANDS and len(args) > 1:
            return two, self.get_command(ctx, two), args[2:]
        is_unknown = bool(args) and args[0] not in COMMANDS and not args[0].startswith("-")
        if is_unknown and not ctx.resilient_parsing:  # a shell that completes a line wants no errors
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What may stand here, without loading a command: completing is done while somebody types."""
        from click.shell_completion import CompletionItem

        words = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete) and " " not in name
        ]
        return [*words, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bellande-mesh-sync", prog_name="bms")
def root() -> None:
    """A secure mesh of nodes that exchange messages and keep data in sync.

    Try it: `bms demo`. Run a node: `bms up`. Everything else talks to a node that runs on this machine.
    """


def _complain(text: str) -> None:
    from ..log import printable  # only when something went wrong

    click.echo(f"bms: {printable(text)}", err=True)


def _the_error(error: BaseException) -> BaseException:
    """What is inside groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _end_by_interrupt() -> NoReturn:
    """End as an interrupted program should, so that a shell script around it ends as well."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
    sys.exit(EXIT_INTERRUPTED)


def _end_by_complaint(error: click.ClickException) -> NoReturn:
    text = error.format_message()
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(text, err=True)  # a group by itself: its help is the answer
        sys.exit(error.exit_code)
    if isinstance(error, click.UsageError):
        see = f"see `{error.ctx.command_path if error.ctx else 'bms'} --help`"
        text = f"{text} ({see})" if text.endswith("?") else f"{text.rstrip('.')}; {see}"
    _complain(text)
    sys.exit(error.exit_code)


def _end_by_system(error: OSError) -> NoReturn:
    """End when the system said no: a full disk behind standard output, or nobody who reads it any more."""
    if error.errno != errno.EPIPE:
        place = "" if error.filename is None else f"{error.filename}: "
        _complain(f"{place}{error.strerror or error}")
    # What is still buffered cannot be written either: let the interpreter's last flush not complain again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(EXIT_FAILED)


def run() -> NoReturn:
    """Run the command line and end the process with its status."""
    try:
        status = root(prog_name="bms", standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _end_by_interrupt()
    except click.ClickException as error:
        _end_by_complaint(error)
    except (MeshError, OSError, BaseExceptionGroup) as error:
        found = _the_error(error)
        if isinstance(found, BaseExceptionGroup):
            if found.split(KeyboardInterrupt)[1] is None:
                _end_by_interrupt()
            raise
        if isinstance(found, click.ClickException):
            _end_by_complaint(found)
        if isinstance(found, KeyboardInterrupt):
            _end_by_interrupt()
        if isinstance(found, OSError):
            _end_by_system(found)
        if not isinstance(found, MeshError):
            raise
        _complain(str(found))
        sys.exit(EXIT_UNREACHABLE if isinstance(found, UnreachableError) else EXIT_FAILED)
    sys.exit(status if isinstance(status, int) else 0)  # click gives back the status of a command that raised Exit
