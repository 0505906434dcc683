"""A terminal taken over for a live view, and given back whatever happens.

    open     another screen, no cursor, keys one by one and not shown
    close    the screen, the cursor and the line editing as they were; may be called again

Signals are taken while it is open, so that none ends the process with the terminal in disorder: the caller is told of
an end, SIGTSTP gives the terminal back before the process is stopped and takes it again when it goes on. Nothing is
drawn by another thread. What SIGKILL leaves behind, `reset` mends.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["END_SIGNALS", "Terminal"]

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_KEYS = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\x03": "q", b"\x04": "q"}
_READ_BYTES = 64


class Terminal:
    """Standard output as a screen and, where it is a terminal too, standard input as keys."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=sys.stdout)
        self._new_live: Callable[[], Live] = lambda: Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live: Live | None = None
        self._has_keys = sys.stdin.isatty()
        self._before: list[Any] | None = None

    def __enter__(self) -> Terminal:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Take it."""
        if self._has_keys:
            self._before = termios.tcgetattr(0)
            tty.setcbreak(0)
        self._live = self._new_live()
        self._live.start()

    def close(self) -> None:
        """Give it back. A terminal that has gone is no error."""
        live, self._live = self._live, None
        before, self._before = self._before, None
        try:
            if live is not None:
                live.stop()
                self._console.show_cursor(True)
        except OSError:
            pass
        finally:
            if before is not None:
                try:
                    termios.tcsetattr(0, termios.TCSADRAIN, before)
                except termios.error:
                    pass  # it has gone

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        return os.get_terminal_size(1)

    @property
    def is_fancy(self) -> bool:
        """Whether it shows characters beyond ASCII."""
        return self._console.encoding.startswith("utf")

    def draw(self, picture: Callable[[int, int], RenderableType]) -> None:
        """Show `picture(columns, lines)`."""
        if self._live is not None:
            columns, lines = self.size
            self._console.size = (columns, lines)
            self._live.update(picture(columns, lines), refresh=True)

    async def keys(self) -> AsyncIterator[str]:
        """Keys as they are pressed: a character, "up" or "down"; without a keyboard none, ever."""
        while self._has_keys:
            await trio.lowlevel.wait_readable(0)
            raw = os.read(0, _READ_BYTES)
            if not raw:
                return
            if raw in _KEYS:
                yield _KEYS[raw]
            elif not raw.startswith(b"\x1b"):
                for character in raw.decode("utf-8", "replace"):
                    yield _KEYS.get(character.encode(), character)
        await trio.sleep_forever()

    async def attend(
        self,
        ended: Callable[[int], None],
        redraw: Callable[[], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take the signals until cancelled: `ended` is told which one asked for the end, `redraw` that the size, or
        everything, has changed.
        """
        taken = (*END_SIGNALS, signal.SIGWINCH, signal.SIGTSTP)
        with trio.open_signal_receiver(*taken) as signals:
            task_status.started()
            async for number in signals:
                if number in END_SIGNALS:
                    ended(number)
                    continue
                if number == signal.SIGTSTP:
                    self.close()
                    os.kill(os.getpid(), signal.SIGSTOP)  # it goes on here when it is continued
                    self.open()
                redraw()
