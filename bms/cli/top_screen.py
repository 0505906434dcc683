"""How `bms top` looks: one function from what is known (`top_view`) and the terminal's size to a picture.

    which node, how long it runs, whether it is well          never left out
    nodes, throughput, queues, resources, data                one line each
    the table of nodes                                        as many as fit; the arrows move it
    the last events                                           at least `EVENT_LINES` where there is room
    the keys

When the node does not answer, the picture says so in its first line and everything else is dimmed: what is shown is
what was last known. Names and reasons come from peers: all text goes through `printable`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..log import printable
from .output import age, size_text
from .top_view import View

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["COLUMNS", "EVENT_LINES", "cells", "duration", "lines", "picture", "plot"]

COLUMNS = ("name", "id", "state", "rtt", "p99", "in/s", "out/s", "queued", "seen", "address")
EVENT_LINES = 6
_LEAST_BELOW = 7  # a blank line, two heads, a node, an event, the keys, and one to spare

_NUMBERS = ("rtt", "p99", "in/s", "out/s", "queued", "seen")
_MOST_WANTED = ("name", "state", "rtt", "in/s", "out/s", "id", "seen", "p99", "queued", "address")
_WIDTHS = {"id": 8, "state": 7, "rtt": 9, "p99": 9, "in/s": 9, "out/s": 9, "queued": 9, "seen": 8}
_NAME_COLUMNS, _ADDRESS_COLUMNS = (8, 24), 21
_STATE_STYLES = {"alive": "green", "suspect": "yellow", "failed": "bold red", "left": "dim"}
_HEALTH_STYLES = {"ok": "bold green", "degraded": "bold yellow", "failing": "bold red"}
_BARS = " ▁▂▃▄▅▆▇█"
_PLAIN_BARS = " .:-=+*#@"


def duration(seconds: float) -> str:
    """A length of time in the unit that fits, as people say it."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def plot(values: Sequence[float], columns: int, *, highest: float | None = None, fancy: bool = True) -> str:
    """The last `columns` values as bars, the newest at the right; `highest` (theirs: None) is as high as a line."""
    bars = _BARS if fancy else _PLAIN_BARS
    shown = list(values)[-columns:]
    highest = max(shown, default=0.0) if highest is None else highest
    if highest <= 0:
        return " " * columns
    drawn = "".join(bars[-(-int(value / highest * 800) // 100)] if value > 0 else " " for value in shown)
    return drawn.rjust(columns)


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _rate(bytes_: float | None) -> str:
    return "" if bytes_ is None else size_text(bytes_).replace(" bytes", " B")


def cells(row: dict[str, Any]) -> dict[str, str]:
    """One node as texts, by column."""
    return {
        "name": printable(row["name"]),
        "id": row["node_id"][:8],
        "state": row["state"],
        "rtt": _ms(row["rtt_s"]),
        "p99": _ms(row["reply_p99_s"]),
        "in/s": _rate(row["bytes_in"]),
        "out/s": _rate(row["bytes_out"]),
        "queued": _rate(row["queued"]),
        "seen": age(row["last_seen"]),
        "address": printable(row["address"] or ""),
    }


def _counted(pairs: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in pairs.items() if count)


def lines(view: View, columns: int, *, fancy: bool = True) -> list[tuple[str, str]]:
    """The lines between the title and the table: name and text."""
    if view.sample is None:
        return []
    stats, flow = view.sample["stats"], view.flow
    data, queues, used = stats["data"], stats["queues"], stats["resources"]
    found = [("nodes", f"{_counted(stats['nodes'])}; {stats['connections']} linked")]
    if flow is None:
        found.append(("flow", "(rates need a second sample)"))
    else:
        bars = max(8, min(40, (columns - 76) // 2))
        both = [*list(view.plot_in)[-bars:], *list(view.plot_out)[-bars:]]
        highest = max(both, default=0.0)  # one scale, so that the two can be compared
        shown = [
            f"in {_rate(flow.bytes_in):>8}/s {plot(view.plot_in, bars, highest=highest, fancy=fancy)}",
            f"out {_rate(flow.bytes_out):>8}/s {plot(view.plot_out, bars, highest=highest, fancy=fancy)}",
            f"messages {flow.messages_in:,.0f}/s in {flow.messages_out:,.0f}/s out",
        ]
        found.append(("flow", "  ".join(shown)))
    waiting = [
        f"links {_rate(queues['link_bytes'])} in {queues['link_messages']:,}",
        f"inbox {queues['inbox_messages']:,}",
        f"store {queues['store_writes']:,}",
    ]
    found.append(("queues", "  ".join(waiting)))
    resources = [
        "" if flow is None or flow.cpu is None else f"cpu {flow.cpu:.1%}",
        "" if used["rss_bytes"] is None else f"memory {size_text(used['rss_bytes'])}",
        "" if used["handles"] is None else f"handles {used['handles']:,} of {used['handles_max'] or 0:,}",
        "" if used["scheduler_lag_s"]["p99"] is None else f"lag p99 {_ms(used['scheduler_lag_s']['p99'])}",
        "" if used["disk_free_bytes"] is None else f"disk {size_text(used['disk_free_bytes'])} free",
    ]
    found.append(("use", "  ".join(filter(None, resources))))
    commit = stats["store"]["commit_s"]["p99"]
    stored = [
        f"{data['entries']:,} entries, {size_text(data['bytes'])}",
        "" if flow is None else f"{flow.writes:,.0f} changes/s",
        "" if commit is None else f"commit p99 {_ms(commit)}",
        f"fingerprint {data['fingerprint'][:12]}",
    ]
    found.append(("data", "  ".join(filter(None, stored))))
    return found


def _title(view: View, now: float, columns: int) -> list[Text]:
    from rich.text import Text

    status, sample = view.status, view.sample
    title = Text.assemble(
        ("bms top ", "bold"), ("PAUSED " if view.is_paused else "", "bold yellow"),
        (f"{printable(status.name)} ", "bold cyan"), f"{status.node_id[:8]} ",
        (f"mesh {printable(status.mesh_name)} ", "dim"),
    )  # fmt: skip
    trouble = view.trouble(now)
    if sample is not None and trouble is None:
        health = sample["health"]["status"]
        title.append(f" up {duration(sample['stats']['uptime_s'])}  ")
        title.append(health, _HEALTH_STYLES.get(health, "bold"))
    clock = time.strftime("%H:%M:%S")
    title.append(clock.rjust(max(0, columns - title.cell_len)) if columns - title.cell_len > len(clock) else "")
    shown = [title]
    if trouble is not None:
        shown.append(Text(printable(trouble), style="bold white on red"))
    elif sample is not None:
        bad = [check for check in sample["health"]["checks"] if check["status"] != "ok"]
        shown += [
            Text(printable(f"{check['name']}: {check['reason']}"), style=_HEALTH_STYLES[check["status"]])
            for check in bad[:4]
        ]
    return shown


def _shown_columns(columns: int, rows: list[dict[str, str]]) -> dict[str, int]:
    """The columns that fit beside each other, the most wanted first, with their widths."""
    low, high = _NAME_COLUMNS
    longest = max((len(row["name"]) for row in rows), default=low)
    address = max((len(row["address"]) for row in rows), default=_ADDRESS_COLUMNS)
    widths = {**_WIDTHS, "name": min(max(longest, low), high), "address": address}
    room, chosen = columns, set()
    for name in _MOST_WANTED:
        if widths[name] + 2 <= room:
            room -= widths[name] + 2
            chosen.add(name)
    return {name: widths[name] for name in COLUMNS if name in chosen}


def _table(rows: list[dict[str, str]], columns: int, is_old: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold reverse", pad_edge=False, padding=(0, 2, 0, 0), width=columns)
    shown = _shown_columns(columns, rows)
    for name, width in shown.items():
        justify = "right" if name in _NUMBERS else "left"
        table.add_column(name, justify=justify, no_wrap=True, width=width, overflow="ellipsis")  # type: ignore[arg-type]
    table.add_column("", ratio=1)
    for row in rows:
        texts = [Text(row[name], style="dim" if is_old or row["state"] == "left" else "") for name in shown]
        if "state" in shown and not is_old:
            texts[list(shown).index("state")].stylize(_STATE_STYLES.get(row["state"], ""))
        table.add_row(*texts, "")
    return table


def picture(view: View, columns: int, rows: int, now: float, *, fancy: bool = True) -> RenderableType:
    """The whole screen; `now` is Trio's clock."""
    from rich.console import Group
    from rich.text import Text

    is_old = view.trouble(now) is not None
    head = _title(view, now, columns)
    style = "dim" if is_old else ""
    head += [
        Text.assemble((f"{name:<8}", "bold"), text, style=style) for name, text in lines(view, columns, fancy=fancy)
    ]
    head = head[: max(2, rows - _LEAST_BELOW)]
    keys = (
        f"q quit  s sort: {view.sort}  p {'go on' if view.is_paused else 'pause'}  {'↑↓' if fancy else 'arrows'} move"
    )
    found = view.nodes()
    room = max(2, rows - len(head) - 4)  # beside a blank line, the table's head, the events' head, the keys
    wanted = min(EVENT_LINES, max(1, len(view.happenings)))
    node_room = max(1, min(len(found), room - wanted))
    event_room = max(1, room - node_room)
    view.offset = max(0, min(view.offset, len(found) - node_room))
    listed = [cells(row) for row in found[view.offset : view.offset + node_room]]
    more = len(found) - len(listed)
    title = f"events{f' ({more} more nodes)' if more > 0 else ''}"
    events = [
        Text(f"{time.strftime('%H:%M:%S', time.localtime(one.time))}  {printable(one.text)}", style=style)
        for one in list(view.happenings)[-event_room:]
    ] or [Text("nothing yet", style="dim")]
    blank = [Text("")] * (event_room - len(events))
    parts: list[RenderableType] = [
        *head, Text(""), _table(listed, columns, is_old), Text(title.ljust(columns), style="bold reverse"),
        *events, *blank, Text(keys, style="dim"),
    ]  # fmt: skip
    for part in parts:
        if isinstance(part, Text):
            part.no_wrap, part.overflow = True, "ellipsis"
            part.truncate(columns, overflow="ellipsis" if fancy else "crop")
    return Group(*parts)
