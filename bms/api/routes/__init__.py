"""The routes by subject, each module a list of records (`routing.Route`), and all of them in one table.

Views are thin: each reads its request as its types say, calls one verb of the mesh and shows the answer. What bounds
them is what bounds the verb behind them, and the route's deadline.
"""

from __future__ import annotations

from ..routing import Route
from . import config, crate, data, messages, monitoring, nodes, pages, security, step

__all__ = ["ROUTES"]

ROUTES: tuple[Route, ...] = tuple(
    route
    for module in (monitoring, nodes, data, messages, config, security, pages, crate, step)
    for route in module.routes.all
)
"""Every route but the streams of events, which `bms.api.events` adds."""
