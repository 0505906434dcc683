"""A nursery for whoever gives out something that runs in the background: `async with open_x() as x`.

What the body raises is the body's, and comes out as itself: that there is a nursery around it is nobody's concern, and
`except SomeError` around the `async with` has to find it, also if the body was cancelled meanwhile. What a background
task raises comes out in a group, as from any nursery. When the body ends, the tasks are cancelled. Absent: any wait for
them; whoever has to say goodbye does it in the body's end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_body_nursery"]


@asynccontextmanager
async def open_body_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose body's exception comes out as itself; its tasks are cancelled when the body ends."""
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:
                if nursery.cancel_scope.cancel_called:
                    raise  # perhaps the nursery's own cancellation, since a task has failed
                raised = error
            nursery.cancel_scope.cancel()
    except (trio.Cancelled, BaseExceptionGroup) as error:
        is_more = isinstance(error, BaseExceptionGroup) and error.split(trio.Cancelled)[1] is not None
        if raised is None or is_more:
            raise
    if raised is not None:
        try:
            raise raised
        finally:
            raised = None  # no cycle through this frame
