"""Listeners: bound sockets whose connections become links.

Each connection is served on its own; nothing that a peer does reaches the accept loop. When the process has no file
handle left, accepting pauses and goes on by itself (trio.serve_listeners does that).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from ..errors import UnreachableError
from ..values import Address
from ..world import World

__all__ = ["serve_address"]

log = logging.getLogger("bms.net")

_BACKLOG = 256


async def serve_address(
    address: Address,
    serve: Callable[[trio.abc.Stream], Awaitable[object]],
    world: World,
    nursery: trio.Nursery,
    *,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen at `address` until cancelled, running `serve` in `nursery` for each connection; `started` gets the bound
    address.

    Raises UnreachableError, with what to do, if the address cannot be bound.
    """
    try:
        listeners = await world.network.listen(address, _BACKLOG)
    except OSError as error:
        raise UnreachableError(
            f"cannot listen at {address}: {(error.strerror or str(error)).lower()}; choose another address or port, "
            "or port 0 for any free one"
        ) from error
    bound = listeners[0][1]
    log.info("listening at %s", bound)
    task_status.started(bound)
    await trio.serve_listeners(serve, [listener for listener, _ in listeners], handler_nursery=nursery)
