"""The measurements run and say what they promise to say. How fast anything is, nobody asserts: machines differ."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bms

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ("links", "store", "footprint", "membership", "flood", "httpapi", "monitoring")
TIMEOUT_S = 120
# Columns that tell the rows of one result apart, and the one that each row has a number in.
KEYS = {
    "links": ("what", "bytes", "in_flight"),
    "store": ("what", "writers"),
    "footprint": ("what",),
    "flood": ("what",),
    "httpapi": ("what",),
    "monitoring": ("what",),
    "membership": ("what", "nodes", "alpha"),
}
VALUES = {**dict.fromkeys(NAMES, "value"), "links": "cpu_us", "monitoring": "cpu_us"}
EXPECTED = {
    "links": {"bare echo", "link call", "send", "request", "bare one way", "link one way", "broadcast"},
    "store": {"fsync", "bare SQLite", "put", "get", "read", "scan", "remote apply", "put on three"},
    "footprint": {"import seconds", "import rss", "node rss", "node pss", "node cpu", "node wakeups", "node wire"},
    "flood": {
        f"{kind} {what}" for kind in ("forged", "replayed", "mixed") for what in ("read", "cpu", "memory", "replies")
    },
    "httpapi": {
        *(f"{what} {figure}" for what in ("bare", "livez", "put data") for figure in ("requests", "p99")),
        *("events deliveries", "events paced p99", "mesh quiet p99", "mesh load p99", "mesh rapid reset cpu"),
    },
    "monitoring": {"send", "request", "broadcast", "put"},
    "membership": {
        "killed, all know",
        "stalled, held for failed",
        "frozen, all know",
        "frozen, back with all",
        "idle rss",
        "idle cpu",
        "idle udp",
        "idle links",
    },
}


@pytest.fixture(scope="module")
def outputs() -> Iterator[dict[str, tuple[int, str, str]]]:
    """Exit status, output and errors of each measurement, all run at once: what they find does not matter here."""
    package = str(Path(bms.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"}
    running = {
        name: subprocess.Popen(
            [sys.executable, "-W", "error", str(BENCHMARKS / f"{name}.py"), "--quick", "-o", "json"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in NAMES
    }
    try:
        found = {}
        for name, process in running.items():
            output, errors = process.communicate(timeout=TIMEOUT_S)
            found[name] = (process.returncode, errors, output)
        yield found
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


@pytest.mark.parametrize("name", NAMES)
def test_a_measurement_prints_one_table_as_json(name: str, outputs: dict[str, tuple[int, str, str]]) -> None:
    status, errors, output = outputs[name]
    assert status == 0, errors
    # Nodes log what took them long, as it does on a machine that stands still. Nothing else may be said.
    assert [line for line in errors.splitlines() if not re.match(r"\w+ took \d", line)] == []
    found: dict[str, Any] = json.loads(output)
    assert found["benchmark"] == name
    assert found["quick"] is True
    assert found["runs"] == 1
    assert found["python"].count(".") == 2
    assert {row["what"] for row in found["rows"]} >= EXPECTED[name]
    keys = [tuple(row[column] for column in KEYS[name]) for row in found["rows"]]
    assert len(keys) == len(set(keys))
    for row in found["rows"]:
        assert list(row) == found["columns"]
        numbers = [value for value in row.values() if isinstance(value, int | float)]
        assert all(math.isfinite(number) and number >= 0 for number in numbers)
        assert row["low"] <= row[VALUES[name]] <= row["high"]


def test_each_size_and_depth_is_measured_beside_the_bare_socket(outputs: dict[str, tuple[int, str, str]]) -> None:
    rows = json.loads(outputs["links"][2])["rows"]
    sizes = {row["bytes"] for row in rows if row["what"] == "bare echo"}
    assert sizes == {100, 1024, 65536}
    for what in ("link call", "send", "request"):
        found = {(row["bytes"], row["in_flight"]) for row in rows if row["what"] == what and row["ratio"] > 0}
        assert found == {(size, depth) for size in sizes for depth in (1, 16)}
