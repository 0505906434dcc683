"""A scenario: how many nodes, for how long, what they do, which faults they meet. Frozen, and read from TOML files.

    name = "crashes"
    nodes = 5
    seconds = 40            # of virtual time, with workload and faults
    calm_s = 90             # afterwards everything is repaired: by then all must be well
    commit_s = [0.01, 0.05] # how long a commit takes on every disk; long ones are under way when a process is killed

    [line]                  # each line of the network, the fields of `network.Line`: latency_s, jitter_s, loss …
    loss = 0.01

    [workload]              # writes_per_s, deletes, messages_per_s, value_bytes, races_per_s, deadline_s
    writes_per_s = 4

    [[faults]]              # kind, count, between, lasts_s, amount, stays; see `faults`
    kind = "crash"
    count = 3
    between = [5, 30]

A key that is not known is refused, so that a misspelt fault cannot pass for one that was survived.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from ..errors import ConfigError
from .checkers import CHECKERS
from .faults import KINDS, NETWORK_KINDS, Fault
from .network import Line
from .workload import Workload

__all__ = ["Scenario"]

T = TypeVar("T")


def _known(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """An attrs value from a table; lists become tuples."""
    names = {field.name for field in attrs.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise ConfigError(
                f"{where}{name}", values[name], f"is not known here; there are {', '.join(sorted(names))}"
            )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@attrs.frozen(kw_only=True)
class Scenario:
    """See the module. `checkers` are those that must have judged something; `config` are settings of every node."""

    name: str
    nodes: int = 5
    seconds: float = 30.0
    calm_s: float = 90.0
    probe_s: float = 2.0
    commit_s: tuple[float, float] = (0.001, 0.004)
    line: Line = attrs.field(factory=Line)
    workload: Workload = attrs.field(factory=Workload)
    faults: tuple[Fault, ...] = ()
    checkers: tuple[str, ...] = tuple(CHECKERS)
    config: Mapping[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.nodes < 1 or self.seconds < 0:
            raise ConfigError("nodes", self.nodes, "a scenario has at least one node, and lasts for some time")
        for fault in self.faults:
            if fault.kind not in KINDS and fault.kind not in NETWORK_KINDS:
                kinds = ", ".join(sorted([*KINDS, *NETWORK_KINDS]))
                raise ConfigError("faults.kind", fault.kind, f"there is no such fault; there are {kinds}")
        for name in self.checkers:
            if name not in CHECKERS:
                raise ConfigError("checkers", name, f"there is no such checker; there are {', '.join(CHECKERS)}")

    @classmethod
    def load(cls, path: Path) -> Scenario:
        """Read a file. ConfigError about what is wrong in it; OSError."""
        try:
            return cls.parse(tomllib.loads(path.read_text(encoding="utf-8")))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError("scenario", str(path), str(error)) from error

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Scenario:
        """From a table as TOML gives it. ConfigError about what is wrong in it."""
        values = dict(table)
        values["line"] = _known(Line, values.get("line", {}), "line.")
        values["workload"] = _known(Workload, values.get("workload", {}), "workload.")
        values["faults"] = tuple(_known(Fault, fault, "faults.") for fault in values.get("faults", []))
        return _known(cls, values, "")
