"""Cuts a program at its n-th checkpoint, and sees what that leaves: for sweeps over all of them, one after another.

A checkpoint here is a place where a task gives way to the others. A cut comes in one of these ways:

    WAITING     a scope is cancelled while the task waits at its n-th checkpoint: Cancelled is raised at this very one
    GOING_ON    it is cancelled when what the task waited for has come, before it goes on: Cancelled is raised at the
                next place that looks for one, which may be a checkpoint at which nobody gives way
    ANY_TASK    it is cancelled before the n-th step of any task that the program has started, itself included
    CTRL_C      SIGINT while the task waits there: KeyboardInterrupt at this checkpoint or the next, shielded or not

Between two checkpoints a task runs alone, so whatever a cancellation from outside can do to it, it does in one of the
first two ways: a sweep of both over all n is complete for that task. A sweep ends at the first n that the program does
not come to any more; so no checkpoint is missed, though their number may differ a little from run to run.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable

import trio

__all__ = ["ANY_TASK", "CTRL_C", "GOING_ON", "WAITING", "Blade", "handles", "threads"]

WAITING, GOING_ON, ANY_TASK, CTRL_C = "waiting", "going on", "any task", "Ctrl+C"


class Blade(trio.abc.Instrument):
    """Counts checkpoints from `take` to `rest`, and cuts at one. `trio.lowlevel.add_instrument` puts it in place."""

    def __init__(self) -> None:
        self.living: set[trio.lowlevel.Task] = set()
        """What runs of the program: its first task, and whatever that and its tasks have started."""
        self.count = 0
        self.has_cut = False
        self._root: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope()
        self._way = WAITING
        self._cut_at: int | None = None
        self._on_cut: Callable[[], object] = bool

    def take(
        self, scope: trio.CancelScope, cut_at: int | None, way: str, on_cut: Callable[[], object] = lambda: None
    ) -> None:
        """From now on count the calling task's checkpoints (or steps of all it starts); cut at `cut_at` (None: never).

        `on_cut` is called just before the cut.
        """
        self._root = trio.lowlevel.current_task()
        self.living = {self._root}
        self._scope, self._cut_at, self._way, self._on_cut = scope, cut_at, way, on_cut
        self.count, self.has_cut = 0, False

    def rest(self) -> None:
        """Count no more."""
        self._root = None

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Trio's call for a new task."""
        if task.parent_nursery is not None and task.parent_nursery.parent_task in self.living:
            self.living.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Trio's call for a task that has ended."""
        self.living.discard(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio's call when a task has come to a checkpoint and waits there, or has ended."""
        if task is self._root and self._way != ANY_TASK:
            self.count += 1
            if self._way in (WAITING, CTRL_C):
                self._cut()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio's call when a task is about to go on."""
        if self._root is None:
            return
        if self._way == ANY_TASK and task in self.living:
            self.count += 1
            self._cut()
        elif self._way == GOING_ON and task is self._root:
            self._cut()

    def _cut(self) -> None:
        if self.count != self._cut_at or self.has_cut:
            return
        self.has_cut = True
        self._on_cut()
        if self._way == CTRL_C:
            signal.raise_signal(signal.SIGINT)  # Trio's handler keeps it until the task can be told
        else:
            self._scope.cancel()


def handles() -> Counter[str]:
    """What this process has open: files by name, sockets and the like by kind."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            found[re.sub(r":\[\d+\]$", "", os.readlink(f"/proc/self/fd/{name}"))] += 1
        except FileNotFoundError:
            continue  # the handle of this very listing
    return found


def threads() -> list[str]:
    """The threads of this process but Trio's spare ones, which it keeps for ten seconds."""
    return sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio thread"))
