"""The Bellande step over HTTP, as the public service has it: pure, bounded, open to everybody.

    POST /api/Bellande_Step/bellande_step_nd             node0 and node1 as lists, limit, dimensions in the body
    POST /api/Bellande_Step/bellande_step_2d?limit=3     (to _10d) named coordinates in the body

An `auth` member is accepted and ignored, and so is any other that is not known. At most 1,000 dimensions. Numbers must
be finite. See `bms.geometry`.
"""

from __future__ import annotations

from typing import Any

import trio
from quart import Response

from ...errors import LocalProtocolError
from ...geometry import bellande_step
from ..routing import PUBLIC, Call, Routes, json_response
from ..schemas import Step, StepDone, StepQuery, plane_step

__all__ = ["NAMES", "routes", "step_nd"]

routes = Routes("step")

_BASE = "/api/Bellande_Step/bellande_step_"
_BYTES_MAX = 64 * 1024

NAMES = ("x", "y", "z", "w", "v", "u", "t", "s", "r", "q")
"""What the coordinates are called, in order."""


def _step(node0: list[float], node1: list[float], limit: float) -> list[float]:
    try:
        return list(bellande_step(node0, node1, limit))
    except ValueError as error:
        raise LocalProtocolError(str(error)) from None


@routes.add("POST", f"{_BASE}nd", scope=PUBLIC, body=Step, body_bytes_max=_BYTES_MAX, answers={200: StepDone})
async def step_nd(call: Call) -> Response:
    """Where one step ends, in any number of dimensions."""
    body: Step = call.body
    await trio.lowlevel.checkpoint()
    if body.dimensions is not None and not len(body.node0) == len(body.node1) == body.dimensions:
        raise LocalProtocolError(f"the positions have {len(body.node0)} and {len(body.node1)} of {body.dimensions}"
                                 " dimensions")  # fmt: skip
    return json_response(StepDone(_step(body.node0, body.node1, body.limit)))


def _add(dimensions: int) -> None:
    names = NAMES[:dimensions]
    asked, done = plane_step(names)

    async def step(call: Call) -> Response:
        body: Any = call.body
        query: StepQuery = call.query
        await trio.lowlevel.checkpoint()
        node0, node1 = ([getattr(node, name) for name in names] for node in (body.node0, body.node1))
        found = _step(node0, node1, query.limit)
        return json_response({"next_step": dict(zip(names, found, strict=True))})

    step.__name__ = f"step_{dimensions}d"
    step.__doc__ = f"Where one step ends, in {dimensions} dimensions: {', '.join(names)}."
    routes.add(
        "POST", f"{_BASE}{dimensions}d", scope=PUBLIC, query=StepQuery, body=asked, body_bytes_max=_BYTES_MAX,
        answers={200: done},
    )(step)  # fmt: skip


for _dimensions in range(2, len(NAMES) + 1):
    _add(_dimensions)
