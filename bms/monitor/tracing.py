"""OpenTelemetry spans of what a node does, for programs that trace. Off by default; then nothing of it is imported.

    bms.send        a message, until it is acknowledged             peer, topic, size
    bms.request     a request, until it is answered                 peer, topic, size
    bms.broadcast   a broadcast                                     topic, size
    bms.store       a write, until it is durable                    size
    bms.delete      a deletion, likewise
    bms.sync        a round of synchronization that was asked for
    bms.http        an HTTP request that reached its route          method, route

With `log.traces` and the package `opentelemetry-api` installed (the extra `otel`), spans go to whatever provider the
program has set up; without one they go nowhere. Attributes are named `bms.…`; contents of messages and values, and
keys, are never among them. A span ends with the error of what failed in it. Absent: carrying a trace from node to node,
for which the wire has no field.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..config import Config
from ..errors import ConfigError

__all__ = ["NO_SPAN", "Tracer", "make_tracer"]

NO_SPAN: AbstractContextManager[Any] = nullcontext()
"""Stands for a span where nothing is traced."""


class Tracer:
    """Makes the spans of one node."""

    def __init__(self, tracer: Any, node_name: str) -> None:
        self._tracer = tracer
        self._node_name = node_name

    def span(self, name: str, **facts: str | int | float | None) -> AbstractContextManager[Any]:
        """A span around a `with` block; `facts` become attributes, but for those that are None."""
        attributes = {f"bms.{fact}": value for fact, value in facts.items() if value is not None}
        attributes["bms.node"] = self._node_name
        made: AbstractContextManager[Any] = self._tracer.start_as_current_span(name, attributes=attributes)
        return made


def make_tracer(config: Config) -> Tracer | None:
    """The tracer that the settings ask for; None where they ask for none. ConfigError if it is not installed."""
    if not config.log.traces:
        return None
    try:
        trace = importlib.import_module("opentelemetry.trace")
    except ImportError:
        why = "OpenTelemetry is not installed: pip install 'bellande-mesh-sync[otel]', or leave it out"
        raise ConfigError("log.traces", True, why) from None
    return Tracer(trace.get_tracer("bms"), config.node_name)
