"""Each fact that is not well makes its check degraded or failing, with a reason; all others stay ok."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from bms.monitor.health import DEGRADED, FAILING, OK, PATIENCE_S, Facts, judge
from bms.supervisor import Condition

RUNNING = Condition("running", 0, "")
WELL = Facts(
    subsystems={"links": RUNNING, "membership": RUNNING, "discovery": RUNNING},
    uptime_s=100,
    store_failing=None,
    disk_free_bytes=1 << 40,
    certificate_left_s=60 * 86_400,
    certificate_life_s=90 * 86_400,
    clock_offset_s=0.01,
    peers_linked=2,
    peers_known=2,
    expects_peers=True,
    queues={"a link": 0.1, "writes": 0.0},
    lag_s=0.001,
    handles=100,
    handles_max=1024,
)


def test_a_node_that_is_well_is_ok_and_ready_and_each_check_says_why() -> None:
    health = judge(WELL)
    assert health.status == OK
    assert health.is_ready
    assert health.reasons == ()
    names = [check.name for check in health.checks]
    assert len(set(names)) == len(names)
    assert all(check.reason for check in health.checks)


@pytest.mark.parametrize(
    ("name", "status", "word", "facts"),
    [
        ("links", FAILING, "restarting; 2 crashes", {"subsystems": {"links": Condition("restarting", 2, "OSError()")}}),
        ("discovery", DEGRADED, "OSError", {"subsystems": {"discovery": Condition("restarting", 1, "OSError()")}}),
        ("store", FAILING, "disk is full", {"store_failing": "the store cannot be written: the disk is full"}),
        ("disk", DEGRADED, "1,024 KiB are free", {"disk_free_bytes": 1 << 20}),
        ("disk", FAILING, "100 KiB are free", {"disk_free_bytes": 100 << 10}),
        ("certificate", FAILING, "expired 2.0 hours ago", {"certificate_left_s": -7200.0}),
        ("certificate", FAILING, "not valid before 2.0 hours", {"certificate_left_s": 90 * 86_400.0 + 7200}),
        ("certificate", DEGRADED, "expires in 3 days", {"certificate_left_s": 3 * 86_400.0}),
        ("certificate", DEGRADED, "expires in 90 seconds", {"certificate_left_s": 90.0}),
        ("time", DEGRADED, "2.5 s behind", {"clock_offset_s": 2.5}),
        ("time", DEGRADED, "2.5 s ahead of", {"clock_offset_s": -2.5}),
        ("time", DEGRADED, "400 days ahead of", {"clock_offset_s": -400 * 86_400.0}),
        ("peers", DEGRADED, "2 are known, and none is linked", {"peers_linked": 0}),
        ("peers", DEGRADED, "nobody can be reached", {"peers_linked": 0, "peers_known": 0}),
        ("queues", DEGRADED, "a link 95%", {"queues": {"a link": 0.95, "writes": 0.2}}),
        ("scheduler", DEGRADED, "up to 0.8 s", {"lag_s": 0.8}),
        ("handles", DEGRADED, "1,000 of 1,024", {"handles": 1000}),
    ],
)
def test_what_is_not_well_is_named_with_its_reason(name: str, status: str, word: str, facts: dict[str, Any]) -> None:
    health = judge(attrs.evolve(WELL, **facts))
    assert health.status == status
    assert [check.name for check in health.checks if check.status != OK] == [name]
    (reason,) = health.reasons
    assert word in reason
    assert health.is_ready == (status == DEGRADED)


@pytest.mark.parametrize(
    "facts",
    [
        {"peers_linked": 0, "uptime_s": PATIENCE_S - 1},
        {"peers_linked": 0, "peers_known": 0, "expects_peers": False},
        {"disk_free_bytes": None},
        {"handles": None},
        {"handles_max": None},
        {"lag_s": None},
        {"queues": {}},
        {"subsystems": {"links": Condition("running", 3, "OSError()")}},
    ],
)
def test_what_does_not_apply_or_has_passed_is_no_complaint(facts: dict[str, Any]) -> None:
    assert judge(attrs.evolve(WELL, **facts)).status == OK


def test_the_worst_check_decides() -> None:
    both = judge(attrs.evolve(WELL, store_failing="x", lag_s=3.0))
    assert both.status == FAILING
    assert len(both.reasons) == 2
