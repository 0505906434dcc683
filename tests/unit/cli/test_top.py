"""`bms top` without a terminal: what it makes of samples, and that its picture fits whatever there is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

import bms
from bms.cli.top_screen import cells, lines, picture, plot
from bms.cli.top_view import EVENTS_MAX, LATE_S, View
from bms.control.answers import Status, plain
from bms.reports import DataSummary, PeerStats, Quantiles, Resources, Stats

ME, OTHER, THIRD = ("a" * 64, "b" * 64, "c" * 64)


def status(name: str = "kitchen") -> Status:
    return Status(
        node_id=ME, name=name, mesh_id="", mesh_name="home", address=None, folder=None, version="1", pid=1, uptime_s=0,
        nodes={}, connections=2, entries=0, bytes=0, tombstones=0, position=0, epoch="", fingerprint="", discovery=[],
    )  # fmt: skip


def sample(time: float, **changes: Any) -> dict[str, Any]:
    """One sample, as the control socket gives it: two peers, of which one is linked."""
    given = {"bytes_in": 0, "uptime_s": time, "peer_in": 0, "age_s": time, "position": 0, "cpu_s": 0.0, **changes}
    peer = PeerStats(
        node_id=bms.NodeId(OTHER), name="cellar", rtt_s=0.002, reply_s=Quantiles(1, 0.001, 0.001, 0.001, 0.004),
        bytes_sent=0, bytes_received=given["peer_in"], queued_bytes=5, queued_messages=1, clock_offset_s=0.0,
        age_s=given["age_s"],
    )  # fmt: skip
    stats = Stats(
        node_id=bms.NodeId(ME), uptime_s=given["uptime_s"], connections=1, nodes={"alive": 3}, bytes_sent=0,
        bytes_received=given["bytes_in"], messages_waiting=0,
        data=DataSummary(7, 1000, 0, given["position"], "e", "f" * 32), subsystems={}, counters={}, discovery=[],
        messages={"sent": {}, "received": {"push": given["bytes_in"] // 10}}, peers=(peer,),
        resources=Resources(cpu_s=given["cpu_s"], rss_bytes=50_000_000),
    )  # fmt: skip
    nodes = [
        bms.Node(
            bms.NodeId(node_id), name, bms.Address("192.0.2.7", 7800), bms.NodeState.ALIVE, last_seen=0.0, rtt_s=rtt
        )
        for node_id, name, rtt in (
            (ME, "kitchen", 0.0),
            (OTHER, changes.get("name", "cellar"), 0.2),
            (THIRD, "attic", 0.1),
        )
    ]
    health = {"status": "degraded", "checks": [{"name": "disk", "status": "degraded", "reason": "nearly full"}]}
    return {"time": time, "stats": plain(stats), "nodes": plain(nodes), "links": [], "health": health}


def view_of(*samples: dict[str, Any]) -> View:
    view = View(1.0)
    view.status = status()
    for found in samples:
        view.take(found, found["time"])
    return view


# --- what is known


def test_rates_are_what_two_samples_differ_by_a_second() -> None:
    view = view_of(sample(10.0), sample(12.0, bytes_in=400, peer_in=100, position=6, cpu_s=1.0))
    assert view.flow is not None
    assert (view.flow.bytes_in, view.flow.messages_in, view.flow.writes, view.flow.cpu) == (200.0, 20.0, 3.0, 0.5)
    assert view.flow.peers == {OTHER: (50.0, 0.0)}
    assert [row["bytes_in"] for row in view.nodes()] == [None, 50.0, None]


def test_a_restarted_node_has_no_rates_until_its_second_sample() -> None:
    samples = [sample(10.0, bytes_in=10_000), sample(11.0, uptime_s=0.5, bytes_in=3)]
    assert view_of(*samples).flow is None
    flow = view_of(*samples, sample(12.0, uptime_s=1.5, bytes_in=5)).flow
    assert flow is not None
    assert flow.bytes_in == 2.0


def test_a_link_that_is_new_has_no_rate_yet() -> None:
    view = view_of(sample(10.0, peer_in=1000, age_s=50.0), sample(11.0, peer_in=5, age_s=0.2))
    assert view.flow is not None
    assert view.flow.peers == {}


def test_silence_and_absence_are_told_apart_and_end_with_the_next_sample() -> None:
    view = view_of(sample(10.0))
    assert view.trouble(10.0 + LATE_S) is None
    assert "NO ANSWER for 4 s" in str(view.trouble(14.0))
    view.lose("it ended", 20.0)
    view.lose("still not there", 23.0)
    assert "NOT RUNNING for 5 s (still not there)" in str(view.trouble(25.0))
    view.take(sample(26.0), 26.0)
    assert view.trouble(26.0) is None


def test_a_pause_holds_the_picture_and_is_no_silence() -> None:
    view = view_of(sample(10.0))
    view.press("p")
    view.take(sample(20.0, bytes_in=1000), 20.0)
    assert view.sample is not None
    assert (view.sample["time"], view.trouble(20.5)) == (10.0, None)
    view.press("p")
    view.take(sample(21.0), 21.0)
    assert view.sample["time"] == 21.0


@pytest.mark.parametrize(
    ("presses", "names"),
    [
        ("", ["kitchen", "cellar", "attic"]),
        ("s", ["kitchen", "attic", "cellar"]),
        ("ss", ["kitchen", "attic", "cellar"]),
        ("sss", ["kitchen", "cellar", "attic"]),
        ("ssss", ["kitchen", "cellar", "attic"]),
    ],
)
def test_nodes_are_sorted_by_turns_this_one_first(presses: str, names: list[str]) -> None:
    view = view_of(sample(10.0), sample(11.0, peer_in=9))
    for key in presses:
        view.press(key)
    assert [row["name"] for row in view.nodes()] == names


def test_events_are_bounded() -> None:
    view = view_of(sample(1.0))
    for number in range(EVENTS_MAX + 5):
        view.note(float(number), str(number))
    assert len(view.happenings) == EVENTS_MAX
    assert view.happenings[-1].text == str(EVENTS_MAX + 4)


# --- how it looks


def drawn(view: View, columns: int, rows: int, now: float = 12.0, *, fancy: bool = True) -> list[str]:
    """The picture as lines of text."""
    console = Console(file=io.StringIO(), width=columns, height=rows, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(picture(view, columns, rows, now, fancy=fancy), end="")
    return capture.get().rstrip("\n").split("\n")


@pytest.mark.parametrize("columns", [30, 80, 200])
@pytest.mark.parametrize("rows", [8, 16, 60])
def test_the_picture_fills_the_terminal_and_no_more(columns: int, rows: int) -> None:
    view = view_of(*(sample(float(second), bytes_in=second * 1000) for second in range(1, 12)))
    for number in range(50):
        view.note(1.0, f"event {number}")
    shown = drawn(view, columns, rows)
    assert max(map(len, shown)) <= columns
    assert len(shown) == rows
    assert shown[-1].startswith("q quit")
    assert shown[0].startswith("bms top kitchen")


def test_the_last_event_is_always_there() -> None:
    view = view_of(sample(10.0), sample(11.0))
    for number in range(50):
        view.note(1.0, f"event {number}.")
    for rows in (10, 12, 24, 50):
        assert "event 49." in "\n".join(drawn(view, 80, rows))


def test_the_picture_says_who_it_is_how_it_is_and_what_is_there() -> None:
    shown = "\n".join(drawn(view_of(sample(10.0), sample(11.0, bytes_in=5000)), 120, 30))
    for part in (
        "kitchen aaaaaaaa",
        "degraded",
        "disk: nearly full",
        "3 alive; 1 linked",
        "5.0 kB/s",
        "4.0 ms",
        "attic",
    ):
        assert part in shown


def test_a_pause_is_said_on_a_narrow_terminal_too() -> None:
    view = view_of(sample(10.0))
    view.press("p")
    assert "PAUSED" in drawn(view, 40, 12)[0]


def test_a_node_that_is_gone_is_said_to_be_in_the_second_line() -> None:
    view = view_of(sample(10.0), sample(11.0))
    view.lose("no node is running", 11.0)
    shown = drawn(view, 100, 20, now=15.0)
    assert shown[1].startswith("NOT RUNNING for 4 s (no node is running)")
    assert "degraded" not in shown[0]
    assert "cellar" in "\n".join(shown)


def test_a_list_that_is_longer_than_the_terminal_can_be_moved_to_its_end_and_not_beyond() -> None:
    view = view_of(sample(10.0))
    assert view.sample is not None
    template = view.sample["nodes"][1]
    view.sample["nodes"] += [{**template, "node_id": f"{number:064x}", "name": f"n{number}"} for number in range(40)]
    assert "more nodes" in "\n".join(drawn(view, 100, 20))
    assert "n39" not in "\n".join(drawn(view, 100, 20))
    for _ in range(100):
        view.press("down")
    assert "n39" in "\n".join(drawn(view, 100, 20))
    end = view.offset
    view.press("up")
    drawn(view, 100, 20)
    assert view.offset == end - 1


def test_names_of_peers_steer_no_terminal() -> None:
    view = view_of(sample(10.0, name="\x1b[2J[bold]x"), sample(11.0, name="\x1b[2J[bold]x"))
    view.note(1.0, "\x1b]0;title\x07 joined")
    shown = "\n".join(drawn(view, 120, 24))
    assert "\x1b[2J" not in shown
    assert "\x1b]0" not in shown
    assert "\\x1b[2J[bold]x" in shown


def test_without_a_sample_there_is_a_title_and_no_figures() -> None:
    view = View(1.0)
    view.status = status()
    assert lines(view, 80) == []
    assert drawn(view, 80, 12)[0].startswith("bms top kitchen")


def test_a_plot_is_as_wide_as_asked_with_the_newest_at_the_right() -> None:
    assert plot([0.0, 1.0, 2.0, 4.0], 6) == "   ▂▄█"
    assert plot([5.0] * 50, 3) == "███"
    assert plot([], 4) == "    "
    assert plot([0.0, 0.0], 4) == "    "
    assert plot([1.0, 1000.0], 2, fancy=False).isascii()


def test_what_is_not_known_is_left_empty() -> None:
    row = view_of(sample(10.0)).nodes()[2]
    shown = cells(row)
    assert (shown["p99"], shown["in/s"], shown["queued"]) == ("", "", "")
