"""The command `bms`: a node for people who want one without writing a program, and a hand on those that run here.

    program     the commands by name, each loaded when it is used; how the process ends
    local       which of this machine's nodes is meant
    output      tables, JSON, what is printable
    defaults    what `bms up` does where nobody says otherwise
    terminal    a terminal taken over for a live view
    up, nodes, data, messages, top, health, report, dashboard, doctor, settings, token, identity, demo, step, completion
                the commands; `top_…`, `doctor_…` and `demo_…` are parts of theirs

Loading this module costs nothing: `bms --help` reads click and the table of commands alone. Until a command has been
loaded an interrupt simply ends the process, as it does any program that handles none: no import is left with a
traceback. Commands that have something to clean up take signals themselves.

    exit status    meaning
    0              done; `bms up` was asked to end
    1              failed: one line on standard error says why and what to do
    2              the command line could not be understood
    3              not reachable: no such node runs here, or the node could not reach another
    130            interrupted
"""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]


def _fill_streams() -> None:
    """Open the null device in place of standard streams that were closed (`>&-`), under their own numbers: otherwise
    the next socket or file would get one of those, and with it what is meant for the stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def main() -> None:
    """Run the command line of this process and end it."""
    _fill_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .program import run

    run()
