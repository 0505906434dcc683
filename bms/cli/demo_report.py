"""What a demonstration found out, filled in as it goes: the screen draws it, and `-o json` prints it.

    Report ── phases        what was done, how long each took
           ├─ nodes         one row a node
           ├─ killed        the node that was killed: who noticed when, how it came back
           └─ problems      whatever is not as promised, a line each, the first `PROBLEMS_MAX` of them

Fields of the JSON object only ever get more. Seconds are monotonic time. Bytes on the wire are those of frames, both
ways, as each node counts them; TLS adds about a hundredth. No clock and no I/O here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs

__all__ = ["PROBLEMS_MAX", "Change", "Killed", "NodeRow", "Phase", "Report"]

PROBLEMS_MAX = 20


@attrs.define
class Phase:
    """One step. `seconds` is None while it lasts; `total` is 0 where there is nothing to count."""

    name: str
    title: str
    done: int = 0
    total: int = 0
    detail: str = ""
    seconds: float | None = None


@attrs.define
class NodeRow:
    """One node, over all its lives. `seconds`: after the last file was acknowledged, until it held all of them.

    `http_url` is where its API and dashboard are in its present life.
    """

    name: str
    node_id: str = ""
    state: str = "starting"
    entries: int = 0
    bytes: int = 0
    equal: bool | None = None
    seconds: float | None = None
    wire_bytes: int = 0
    wire_bytes_before: int = 0
    http_url: str | None = None


@attrs.define
class Killed:
    """The node that was killed. Seconds: until each other saw it; from its start to serving; from then to equal."""

    name: str
    noticed_s: dict[str, float | None] = attrs.Factory(dict)
    restarted_s: float | None = None
    caught_up_s: float | None = None
    caught_up_bytes: int | None = None


@attrs.define
class Change:
    """How many values were changed, added and deleted while a node was down."""

    changed: int = 0
    added: int = 0
    deleted: int = 0

    def __str__(self) -> str:
        return f"{self.changed} changed, {self.added} added, {self.deleted} deleted"


@attrs.define
class Report:
    """Everything. `files` and `bytes` were stored; `changed_meanwhile` counts files that changed under the demo."""

    path: str
    files: int = 0
    bytes: int = 0
    skipped: Counter[str] = attrs.Factory(Counter)
    changed_meanwhile: int = 0
    verified_values: int = 0
    verified_bytes: int = 0
    phases: list[Phase] = attrs.Factory(list)
    nodes: list[NodeRow] = attrs.Factory(list)
    killed: Killed | None = None
    changes: Change | None = None
    problems: list[str] = attrs.Factory(list)
    problems_more: int = 0
    kept: dict[str, Any] | None = None
    dashboard: str | None = None
    """A link that opens the first node's dashboard, once; good while the nodes run."""

    def problem(self, text: str) -> None:
        """Note what is not as promised."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)
        else:
            self.problems_more += 1

    @property
    def is_good(self) -> bool:
        """Whether every node was found equal and nothing else went wrong."""
        return not self.problems and bool(self.nodes) and all(node.equal for node in self.nodes)

    def as_json(self) -> dict[str, Any]:
        """The object of `-o json`."""
        hidden = {"state", "wire_bytes_before"}
        return {
            "equal": bool(self.nodes) and all(node.equal for node in self.nodes),
            "path": self.path,
            "files": self.files,
            "bytes": self.bytes,
            "skipped": sum(self.skipped.values()),
            "skipped_by_reason": dict(sorted(self.skipped.items())),
            "changed_meanwhile": self.changed_meanwhile,
            "verified_values": self.verified_values,
            "verified_bytes": self.verified_bytes,
            "nodes": [attrs.asdict(node, filter=lambda field, _: field.name not in hidden) for node in self.nodes],
            "phases": [{"name": phase.name, "seconds": phase.seconds} for phase in self.phases],
            "killed": None if self.killed is None else attrs.asdict(self.killed),
            "changes": None if self.changes is None else attrs.asdict(self.changes),
            "problems": self.problems,
            "kept": self.kept,
            "dashboard": self.dashboard,
        }
