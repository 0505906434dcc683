"""The supervisor: start order, crashes that are restarted, stops that leave nothing."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from bms.counters import Counters
from bms.errors import ClosedError
from bms.supervisor import BACKOFF_MAX_S, BACKOFF_S, Supervisor


class Worker:
    """A subsystem that notes what happens to it, and crashes when told to."""

    def __init__(self, name: str, notes: list[str], crashes: int = 0, lives_s: float = 0.0) -> None:
        self.name = name
        self.notes = notes
        self.crashes = crashes
        self.lives_s = lives_s

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.notes.append(f"{self.name} starts")
        task_status.started()
        try:
            if self.crashes:
                self.crashes -= 1
                await trio.sleep(self.lives_s)
                raise ValueError("broken")
            await trio.sleep_forever()
        finally:
            self.notes.append(f"{self.name} ends")


class Refuser:
    name = "refuser"

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        raise OSError("no")


async def test_subsystems_start_in_order_and_stop_in_reverse() -> None:
    notes: list[str] = []
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, Counters())
        for name in "abc":
            await supervisor.start(Worker(name, notes))
        assert {condition.state for condition in supervisor.health().values()} == {"running"}
        await supervisor.stop(["b"])
        assert list(supervisor.health()) == ["a", "c"]
        await supervisor.stop()
    assert notes == ["a starts", "b starts", "c starts", "b ends", "c ends", "a ends"]


async def test_a_crash_is_logged_counted_and_followed_by_a_restart(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[str] = []
    counters = Counters()
    caplog.set_level(logging.ERROR)
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, counters)
        await supervisor.start(Worker("steady", notes))
        await supervisor.start(Worker("shaky", notes, crashes=3))
        await trio.sleep(BACKOFF_S * 10)
        condition = supervisor.health()["shaky"]
        assert (condition.state, condition.crashes) == ("running", 3)
        assert "broken" in condition.reason
        assert counters["supervisor.crashes"] == 3
        assert notes.count("steady starts") == 1
        await supervisor.stop()
    assert len(caplog.records) == 3
    assert all(record.exc_info for record in caplog.records)


async def test_a_crash_loop_waits_longer_and_longer_up_to_the_bound(autojump_clock: trio.testing.MockClock) -> None:
    notes: list[str] = []
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, Counters())
        await supervisor.start(Worker("loop", notes, crashes=10**6))
        await trio.sleep(3600)
        starts = notes.count("loop starts")
        assert 3600 / BACKOFF_MAX_S <= starts <= 3600 / BACKOFF_MAX_S + 10
        assert supervisor.health()["loop"].state == "restarting"
        await supervisor.stop()


async def test_a_first_start_that_fails_raises_what_kept_it_and_stops_nothing_else() -> None:
    notes: list[str] = []
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, Counters())
        await supervisor.start(Worker("a", notes))
        with pytest.raises(OSError, match="no"):
            await supervisor.start(Refuser())
        assert supervisor.health()["a"].state == "running"
        await supervisor.stop()


class Stubborn:
    """A subsystem that fails while it is being stopped."""

    name = "stubborn"

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("the folder is gone")


class Slow:
    """A subsystem that never gets as far as serving."""

    name = "slow"

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()


async def test_a_crash_while_being_stopped_does_not_leave_the_supervisor(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, counters)
        await supervisor.start(Stubborn())
        await supervisor.stop()
        assert not supervisor.health()
        await supervisor.start(Stubborn())
        nursery.cancel_scope.cancel()
    assert counters["supervisor.crashes"] == 2
    assert "the folder is gone" in caplog.text


class Late:
    """A subsystem that cannot serve before its time has come."""

    name = "late"

    def __init__(self, since: float) -> None:
        self.since = since

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        if trio.current_time() < self.since:
            raise OSError("not yet")
        task_status.started()
        await trio.sleep_forever()


async def test_a_patient_start_tries_until_it_can(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, Counters())
        await supervisor.start(Late(trio.current_time() + 100), patient=True)
        condition = supervisor.health()["late"]
        assert (condition.state, condition.crashes) == ("restarting", 1)
        assert "not yet" in condition.reason
        await trio.sleep(100 + BACKOFF_MAX_S)
        assert supervisor.health()["late"].state == "running"
        await supervisor.stop()
        await supervisor.start(Late(trio.current_time() + 100), patient=True)
        await supervisor.stop(["late"])  # while it waits
        assert not supervisor.health()
    assert not any(record.exc_info for record in caplog.records)


async def test_a_bug_in_a_restart_is_logged_with_its_traceback(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Spoilt:
        name = "spoilt"
        starts = 0

        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            self.starts += 1
            if self.starts > 1:
                raise KeyError("a bug")
            task_status.started()
            raise OSError("what was meant to be started again")

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, Counters())
        await supervisor.start(Spoilt())
        await trio.sleep(BACKOFF_MAX_S)
        await supervisor.stop()
    assert "KeyError: 'a bug'" in caplog.text


async def test_a_subsystem_that_could_not_start_is_forgotten() -> None:
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, Counters())
        with pytest.raises(OSError, match="no"):
            await supervisor.start(Refuser())
        assert not supervisor.health()


async def test_a_start_in_a_nursery_that_is_closed_leaves_nothing_to_wait_for() -> None:
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, Counters())
    with pytest.raises(RuntimeError, match="closed"):
        await supervisor.start(Slow())
    with trio.fail_after(60):
        await supervisor.stop()


async def test_a_subsystem_that_is_stopped_while_it_starts_says_so_to_its_starter() -> None:
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, Counters())
        outcomes: list[str] = []

        async def start() -> None:
            with pytest.raises(ClosedError, match="stopped while it started"):
                await supervisor.start(Slow())
            outcomes.append("refused")

        nursery.start_soon(start)
        await trio.testing.wait_all_tasks_blocked()
        supervisor.cancel()
        async with trio.open_nursery() as both:  # two may wait for the same end
            both.start_soon(supervisor.stop)
            both.start_soon(supervisor.stop)
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == ["refused"]
        with pytest.raises(ClosedError):
            await supervisor.start(Worker("late", []))
