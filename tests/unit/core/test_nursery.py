"""The nursery behind `async with open_x()`: whose exceptions come out how, and what is left running (nothing)."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from bms.nursery import open_body_nursery

STRANGE = [ValueError("x"), KeyboardInterrupt(), StopAsyncIteration("x"), ExceptionGroup("g", [ValueError("x")])]


@asynccontextmanager
async def open_thing(ended: list[str]) -> AsyncIterator[trio.Nursery]:
    """As `open_mesh` uses it: inside another context manager, with a task."""

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("work")

    try:
        async with open_body_nursery() as nursery:
            nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            yield nursery
    finally:
        ended.append("all")


@pytest.mark.parametrize("error", STRANGE, ids=lambda error: type(error).__name__)
async def test_what_the_body_raises_comes_out_as_itself_after_the_tasks_have_ended(error: BaseException) -> None:
    ended: list[str] = []
    with pytest.raises(type(error)) as caught:
        async with open_thing(ended):
            raise error
    assert caught.value is error
    assert ended == ["work", "all"]


async def test_what_the_body_raises_while_it_is_cancelled_comes_out() -> None:
    ended: list[str] = []
    with trio.CancelScope() as scope:  # with `scope`'s own Cancelled out of the nursery it would be silent
        try:
            async with open_thing(ended):
                scope.cancel()
                raise KeyError("why")
        except KeyError as error:
            ended.append(str(error))
    assert ended == ["work", "all", "'why'"]


async def test_tasks_are_cancelled_when_the_body_ends() -> None:
    ended: list[str] = []
    async with open_thing(ended):
        assert ended == []
    assert ended == ["work", "all"]


async def test_a_cancelled_body_ends_with_its_own_scope_and_no_other() -> None:
    ended: list[str] = []
    with trio.CancelScope() as outer:
        with trio.CancelScope() as inner:
            async with open_thing(ended):
                inner.cancel()
                await trio.sleep_forever()
        assert inner.cancelled_caught
        assert ended == ["work", "all"]
        await trio.lowlevel.checkpoint()
    assert not outer.cancelled_caught


async def test_a_task_that_fails_ends_the_body_and_comes_out_in_a_group() -> None:
    ended: list[str] = []

    async def fail() -> None:
        raise ValueError("a task's")

    async def body() -> None:
        async with open_thing(ended) as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await body()
    assert caught.group_contains(ValueError, match="a task's", depth=1)
    assert ended == ["work", "all"]


async def test_an_exception_that_came_out_is_in_no_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        error: ValueError | None = ValueError("x")
        gone: list[str] = []

        class Witness:
            def __del__(self) -> None:
                gone.append("gone")

        error.witness = Witness()  # type: ignore[union-attr]
        try:
            async with open_thing([]):
                raise error  # type: ignore[misc]
        except ValueError:
            error = None
        assert gone == ["gone"]
    finally:
        gc.enable()
