"""Tells a service manager how the process is: systemd's protocol, sd_notify(3), without its library.

    READY=1      the node serves
    STOPPING=1   it was asked to end, and drains
    WATCHDOG=1   the event loop turns; at half of WATCHDOG_USEC, if WATCHDOG_PID is this process or not given

Each is one datagram to the Unix socket NOTIFY_SOCKET; a name that begins with "@" is an abstract one (unix(7)). Without
the variable nothing is sent. Sending never waits and never raises: a manager that does not listen is its own problem.

The variables are taken out of the environment, so that programs started from here do not speak for this one. Absent:
RELOADING=1 (a reload is over in milliseconds) and status texts.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

import trio

__all__ = ["Notifier"]

log = logging.getLogger("bms.cli")


class Notifier:
    """Call it with a state to send. `path` None: nobody wants to know. `watchdog_s` 0: no watchdog."""

    def __init__(self, path: str | None, watchdog_s: float = 0.0) -> None:
        self._path = path
        self._watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Notifier:
        """What the manager has said in the environment (the process's: None), which is taken out of it."""
        environ = os.environ if environ is None else environ
        path = environ.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_ours = pid in ("", str(os.getpid()))
        return cls(path, int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else 0.0)

    def __call__(self, state: str) -> None:
        """Send one state."""
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(state.encode(), address)
        except OSError as error:
            log.debug("the service manager was not told %s: %s", state, error)

    async def watchdog(self) -> None:
        """Say that the event loop turns, until cancelled."""
        while self._path and self._watchdog_s > 0:
            self("WATCHDOG=1")
            await trio.sleep(self._watchdog_s / 2)
