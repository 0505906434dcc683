"""One document with all that a node knows of itself: a page, JSON or text. To keep, to send, to compare.

It answers, in this order: is it well, and if not why; what does it do now; how did that go; who are the others; what
was slow, what failed, what was in the log. `page` writes it for people; here are the text and the JSON.

Invariants: nothing secret is in what this is given (no keys of the node, no tokens, no contents of messages or values),
and log records have had what looks like a token taken out; what comes from others is escaped for where it is put.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..log import printable
from ..values import Address
from .page import page
from .tables import Facts, moment, sections

__all__ = ["FORMATS", "Facts", "write"]

FORMATS = ("html", "json", "text")
_CELL_MAX = 48


def write(facts: Facts, form: str) -> str:
    """The report in one of the `FORMATS`."""
    if form == "json":
        return json.dumps(_plain(facts), indent=1, ensure_ascii=False) + "\n"
    return page(facts) if form == "html" else _text(facts)


def _plain(value: Any) -> Any:
    """A value as JSON carries it: objects as maps of their fields."""
    if isinstance(value, Address | Path):
        return str(value)
    if attrs.has(type(value)):
        return {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _text(facts: Facts) -> str:
    lines = [
        f"{facts.node_name} ({facts.stats.node_id.short}) of mesh {facts.mesh_name} ({facts.mesh_id[:16]})",
        f"{moment(facts.time)} UTC, bms {facts.version}",
        f"health: {facts.health.status}",
    ]
    for title, heads, rows in sections(facts):
        shown = [heads, *rows]
        widths = [min(_CELL_MAX, max(len(printable(row[place])) for row in shown)) for place in range(len(heads))]
        lines += ["", title, "-" * len(title)]
        for row in shown:
            cells = [f"{printable(cell):<{width}}" for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
    return "\n".join([printable(line) if number < 3 else line for number, line in enumerate(lines)]) + "\n"
