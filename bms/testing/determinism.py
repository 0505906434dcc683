"""Runs of Trio that go the same way twice: a virtual clock, a seeded order of tasks, and processes that can be frozen.

Trio shuffles the tasks that can run, on purpose. With its switch for deterministic scheduling it sorts them first and
shuffles with a generator that can be seeded, so that one seed gives one interleaving and another seed another. Time is
Trio's `MockClock`, which jumps to the next deadline whenever every task waits: an hour costs what happens in it.

This is the one place in the package that uses names that Trio keeps to itself:

    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING     sort before shuffling (hypothesis-trio sets it, too)
    trio._core._run._r                                  the generator that shuffles
    trio._core._run.GLOBAL_RUN_CONTEXT.runner.runq      the tasks that can run, for freezing

`check_trio` fails with what has moved, and a test calls it. Under the virtual clock nothing may run in threads and no
real socket may be waited for: the clock would not wait for them. The same seed gives the same run only if the program
iterates over no set whose order depends on hashes or addresses.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
import trio.testing
from trio._core import _run

__all__ = ["Freezer", "check_trio", "deterministic_scheduling", "run_deterministic", "virtual_clock"]

T = TypeVar("T")


def check_trio() -> None:
    """Raise AssertionError if this version of Trio does not have what is used here."""
    assert hasattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING"), "Trio's switch for deterministic scheduling is gone"
    assert isinstance(_run._r, random.Random), "Trio shuffles its tasks with something else"
    if hasattr(_run.GLOBAL_RUN_CONTEXT, "runner"):
        assert isinstance(_run.GLOBAL_RUN_CONTEXT.runner.runq, deque), "Trio keeps tasks that can run elsewhere"


def virtual_clock() -> trio.testing.MockClock:
    """A clock that starts at 0 and jumps to the next deadline when every task waits."""
    return trio.testing.MockClock(rate=0.0, autojump_threshold=0.0)


@contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Make every Trio run inside the block schedule its tasks as `seed` says; as it was before, afterwards."""
    check_trio()
    allowed, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc]
        _run._r.setstate(state)


def run_deterministic(main: Callable[..., Awaitable[T]], *args: Any, seed: int) -> T:
    """`trio.run(main, *args)` on virtual time, scheduled as `seed` says."""
    with deterministic_scheduling(seed):
        return trio.run(main, *args, clock=virtual_clock())


class Freezer(trio.abc.Instrument):
    """Keeps tasks of frozen processes from running, as SIGSTOP does: time goes on, and they notice afterwards.

    A process is whatever runs below one task. Its tasks are taken out of Trio's queue as they become runnable and put
    back by `thaw`, in order; so timers that have run out meanwhile all fire then. `held` counts those taken out.
    """

    def __init__(self) -> None:
        self._frozen: dict[trio.lowlevel.Task, list[trio.lowlevel.Task]] = {}
        self._roots: dict[trio.lowlevel.Task, trio.lowlevel.Task | None] = {}
        self.held = 0

    def freeze(self, root: trio.lowlevel.Task) -> None:
        """Let nothing run that runs below `root`, itself included. Not for the task that calls it."""
        if not self._frozen:
            trio.lowlevel.add_instrument(self)
        self._roots.clear()
        self._frozen[root] = []
        queue = _run.GLOBAL_RUN_CONTEXT.runner.runq
        for task in list(queue):
            if self._root_of(task) is root:
                queue.remove(task)
                self._frozen[root].append(task)
                self.held += 1

    def thaw(self, root: trio.lowlevel.Task) -> None:
        """Let it run again. Harmless if it is not frozen."""
        waiting = self._frozen.pop(root, None)
        if waiting is not None:
            _run.GLOBAL_RUN_CONTEXT.runner.runq.extend(waiting)
            self._roots.clear()
            if not self._frozen:
                trio.lowlevel.remove_instrument(self)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Trio's call for every task that becomes runnable."""
        root = self._root_of(task)
        if root is not None:
            queue = _run.GLOBAL_RUN_CONTEXT.runner.runq
            if queue and queue[-1] is task:
                queue.pop()
                self._frozen[root].append(task)
                self.held += 1

    def _root_of(self, task: trio.lowlevel.Task) -> trio.lowlevel.Task | None:
        """The frozen task above `task`, or None."""
        if task in self._roots:
            return self._roots[task]
        above: trio.lowlevel.Task | None = task
        while above is not None and above not in self._frozen:
            nursery = above.parent_nursery
            above = None if nursery is None else nursery.parent_task
        self._roots[task] = above
        return above
