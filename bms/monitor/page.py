"""The report as one HTML page: styles and plots inside, no script, nothing to load.

It can be opened from a mail or a disk, and is served under `default-src 'none'; style-src 'unsafe-inline'`. Light or
dark as the reader's system is; printable; tables scroll by themselves on narrow screens; headings and tables are
marked up as such, so that it can be heard as well as seen.

Invariant: every text is escaped here, whoever it comes from; a test puts hostile names, topics and errors into it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..log import printable
from ..reports import Sample
from .health import ORDER
from .plots import Series, plot
from .tables import Facts, Table, amount, moment, seconds, sections, size

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2026; --soft: #5a6370; --edge: #d8dde4; --head: #f3f5f8;
  --ok: #17743b; --degraded: #8a5a00; --failing: #b3261e;
  --first: #1558b0; --second: #b35309; --third: #17743b; --fourth: #7a3ea8; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14171b; --text: #e6e9ee; --soft: #a2abb8; --edge: #343b45; --head: #1d2229;
  --ok: #6fcf97; --degraded: #f2b84b; --failing: #ff8a80;
  --first: #7db3ff; --second: #ffb070; --third: #6fcf97; --fourth: #cda2f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; } h2 { margin: 2rem 0 .5rem; font-size: 1.15rem; }
.soft, .none { color: var(--soft); }
.id { font-family: ui-monospace, monospace; font-size: .85em; overflow-wrap: anywhere; }
.badge { display: inline-block; padding: .1rem .7rem; border: 2px solid; border-radius: 1rem; font-weight: 600; }
.ok { color: var(--ok); } .degraded { color: var(--degraded); } .failing { color: var(--failing); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .75rem; border: 1px solid var(--edge); border-radius: .5rem; }
figcaption { font-weight: 600; } svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; } .grid { stroke: var(--edge); }
.series0 { --colour: var(--first); } .series1 { --colour: var(--second); }
.series2 { --colour: var(--third); } .series3 { --colour: var(--fourth); }
polyline { fill: none; stroke: var(--colour); stroke-width: 1.8; stroke-linejoin: round; }
circle { fill: var(--colour); } .series1 { stroke-dasharray: 6 2; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .3rem 0 0; font-size: .85rem; }
.legend i { display: inline-block; width: 1rem; height: .3rem; margin-right: .4rem; vertical-align: middle;
  background: var(--colour); }
.table { overflow-x: auto; border: 1px solid var(--edge); border-radius: .5rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--edge); }
tr:last-child td { border-bottom: 0; } th { background: var(--head); white-space: nowrap; }
td { overflow-wrap: break-word; } td.pre { white-space: pre-wrap; min-width: 16rem; overflow-wrap: anywhere; }
td.moment { white-space: nowrap; }
summary { margin: 2rem 0 .5rem; cursor: pointer; font-size: 1.15rem; font-weight: 600; }
@media print { body { max-width: none; } figure, tr { break-inside: avoid; } }
"""

# Long tables that are looked up rather than read.
_FOLDED = ("Log", "Counters")


def page(facts: Facts) -> str:
    """The whole page."""
    stats, health = facts.stats, facts.health
    title = f"{facts.node_name} in mesh {facts.mesh_name}"
    head = (
        f"<header><h1>{_safe(title)}</h1>"
        f'<p class="soft"><span class="id">{_safe(stats.node_id)}</span><br>'
        f"{moment(facts.time)} UTC · up for {seconds(stats.uptime_s)} · bms {_safe(facts.version)}</p>"
        f'<p><span class="badge {_safe(health.status)}">{_safe(health.status)}</span></p>'
    )
    reasons = [f"<li>{_safe(reason)}</li>" for reason in health.reasons]
    head += f"<ul>{''.join(reasons)}</ul></header>" if reasons else "</header>"
    tables = sections(facts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_safe(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{head}\n<main>\n"
        f"{_plots(facts.history)}\n{''.join(map(_table, tables))}</main>\n</body>\n</html>\n"
    )


def _safe(text: str) -> str:
    """A text for between tags and in attributes; what is not printable as an escape."""
    return html.escape("\n".join(map(printable, text.split("\n"))))


def _when(time: float) -> str:
    return moment(time)[11:]


def _plots(history: Sequence[Sample]) -> str:
    times = [sample.time for sample in history]
    rates = [sample.rates for sample in history]
    drawn = (
        plot(
            "Messages a second", times,
            [
                Series("sent", [r.messages_sent for r in rates]),
                Series("received", [r.messages_received for r in rates]),
            ],
            amount, _when,
        ),
        plot(
            "Bytes a second", times,
            [Series("sent", [r.bytes_sent for r in rates]), Series("received", [r.bytes_received for r in rates])],
            size, _when, is_binary=True,
        ),
        plot(
            "Replies of peers", times,
            [
                Series("half within", [s.reply_p50_s for s in history]),
                Series("99 % within", [s.reply_p99_s for s in history]),
            ],
            seconds, _when,
        ),
        plot(
            "Commits and scheduler, 99 % within", times,
            [
                Series("commit", [s.commit_p99_s for s in history]),
                Series("scheduler lag", [s.scheduler_lag_p99_s for s in history]),
            ],
            seconds, _when,
        ),
        plot(
            "CPU, share of a core", times, [Series("this process", [r.cpu for r in rates])], lambda v: f"{v:.1%}", _when
        ),
        plot(
            "Memory", times, [Series("resident", [s.rss_bytes for s in history])], size, _when, is_binary=True
        ),
    )  # fmt: skip
    return f'<section aria-label="Plots"><h2>How it went</h2><div class="plots">{"".join(drawn)}</div></section>'


def _table(table: Table) -> str:
    title, heads, rows = table
    columns = "".join(f'<th scope="col">{_safe(head)}</th>' for head in heads)
    body = "".join(f"<tr>{''.join(map(_cell, heads, row))}</tr>" for row in rows)
    found = (
        f'<div class="table" tabindex="0" role="region" aria-label="{_safe(title)}">'
        f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )
    if title in _FOLDED:
        return f"<details><summary>{_safe(title)} ({len(rows)})</summary>{found}</details>\n"
    return f"<section><h2>{_safe(title)}</h2>{found}</section>\n"


def _cell(head: str, cell: str) -> str:
    found = {"id": "id", "text": "pre", "time": "moment"}.get(head, "")
    if head == "status" and cell in ORDER:
        found = cell
    return f'<td class="{found}">{_safe(cell)}</td>' if found else f"<td>{_safe(cell)}</td>"
