"""Starts, watches, restarts and stops the subsystems of one node.

A subsystem has a `name`, the Config `fields` it depends on, and `run(task_status=…)`, which calls `started` when it
serves and then runs until cancelled. Each runs in its own cancel scope.

    state        meaning
    starting     `run` has been called and has not started yet
    running      serving
    restarting   it crashed; it is run again after a wait that doubles from `BACKOFF_S` to `BACKOFF_MAX_S`, and
                 starts over after a quiet minute; the others go on
    stopped      stopped on purpose, or it ended by itself

The first start must succeed: its error goes to whoever starts the node. Later crashes never leave the supervisor: they
are logged with their traceback, counted and shown by `health`. A `patient` start has no such error: what cannot serve
yet is shown as restarting and tried again like what has crashed. It is for what was there before and has to come back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

import attrs
import trio

from .counters import Counters
from .errors import ClosedError, MeshError

__all__ = ["BACKOFF_MAX_S", "BACKOFF_S", "Condition", "Subsystem", "Supervisor"]

log = logging.getLogger("bms.supervisor")

BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
_QUIET_S = 60.0


class Subsystem(Protocol):
    """What the supervisor runs."""

    name: str

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; `task_status.started()` when serving."""
        ...


@attrs.frozen
class Condition:
    """How a subsystem is: its state (see the module), crashes so far, and the last reason."""

    state: str
    crashes: int
    reason: str


@attrs.define(eq=False)
class _Unit:
    subsystem: Subsystem
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    done: trio.Event = attrs.field(factory=trio.Event)
    state: str = "starting"
    crashes: int = 0
    reason: str = ""


class Supervisor:
    """The subsystems of one node, in start order."""

    def __init__(self, nursery: trio.Nursery, counters: Counters) -> None:
        self._nursery = nursery
        self._counters = counters
        self._units: dict[str, _Unit] = {}
        self._is_cancelled = False

    async def start(self, subsystem: Subsystem, *, patient: bool = False) -> None:
        """Run a subsystem; returns when it serves, or raises what kept it from that. ClosedError after `cancel`.

        If `patient`, it returns when it serves or has failed once, and raises nothing for that.
        """
        if self._is_cancelled:
            raise ClosedError(f"{subsystem.name} does not start: the node stops")
        unit = _Unit(subsystem)
        self._units[subsystem.name] = unit
        try:
            await self._nursery.start(self._supervise, unit, patient)
        except BaseException:
            unit.scope.cancel()
            # It never ran (the nursery was closed) or has ended; otherwise it serves still, and `stop` waits for it.
            if unit.state in ("starting", "stopped"):
                unit.done.set()
                self._forget(unit)
            raise

    async def stop(self, names: Iterable[str] | None = None) -> None:
        """Cancel subsystems (all: None) in reverse start order, each after the one before has ended."""
        chosen = None if names is None else set(names)
        for name, unit in reversed(list(self._units.items())):
            if chosen is None or name in chosen:
                unit.scope.cancel()
                await unit.done.wait()
                self._forget(unit)

    def _forget(self, unit: _Unit) -> None:
        if self._units.get(unit.subsystem.name) is unit:
            del self._units[unit.subsystem.name]

    def cancel(self) -> None:
        """Cancel all at once, without waiting; none is started any more."""
        self._is_cancelled = True
        for unit in self._units.values():
            unit.scope.cancel()

    def health(self) -> dict[str, Condition]:
        """The condition of each subsystem, by name."""
        return {name: Condition(unit.state, unit.crashes, unit.reason) for name, unit in self._units.items()}

    async def _supervise(self, unit: _Unit, patient: bool, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self._run(unit, patient, task_status)
            if unit.state == "starting":
                raise ClosedError(f"{unit.subsystem.name} was stopped while it started")
        except BaseExceptionGroup as group:
            # A group has met more than its stop. What is not a cancellation crashed while it was being stopped.
            crash, others = group.split(Exception)
            if unit.state == "starting" or crash is None:
                raise
            unit.crashes += 1
            unit.reason = repr(_alone(crash))
            self._counters.add("supervisor.crashes")
            log.error("%s crashed while it was stopped", unit.subsystem.name, exc_info=crash)
            if others is not None:
                raise others from None
        finally:
            unit.state = "stopped"
            unit.done.set()

    async def _run(self, unit: _Unit, patient: bool, task_status: trio.TaskStatus[None]) -> None:
        name = unit.subsystem.name
        is_told = False  # whoever starts it: that it serves, or that it may take a while
        wait_s = BACKOFF_S
        with unit.scope:
            while True:
                since, is_up = trio.current_time(), False
                try:
                    async with trio.open_nursery() as nursery:
                        await nursery.start(unit.subsystem.run)
                        is_up, unit.state = True, "running"
                        if not is_told:
                            is_told = True
                            task_status.started()
                    return
                except Exception as error:
                    if not is_told and not patient:
                        raise _alone(error) from None
                    unit.crashes += 1
                    unit.state = "restarting"
                    unit.reason = repr(_alone(error))
                    self._counters.add("supervisor.crashes")
                    if not is_up and isinstance(_alone(error), MeshError | OSError):
                        log.warning("%s cannot start; it is tried again: %s", name, _alone(error))
                    else:
                        log.exception("%s crashed; it is started again", name)
                if not is_told:
                    is_told = True
                    task_status.started()
                if trio.current_time() - since > _QUIET_S:
                    wait_s = BACKOFF_S
                await trio.sleep(wait_s)
                wait_s = min(BACKOFF_MAX_S, wait_s * 2)


def _alone(error: Exception) -> Exception:
    """The one exception in a group of one, however deep; otherwise the group."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
