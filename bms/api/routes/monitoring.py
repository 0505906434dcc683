"""Routes about how the node is: for people, for dashboards, for Prometheus, for whoever restarts processes.

`/livez` and `/readyz` need no token and say next to nothing: the first is 200 as long as this process serves (a full
disk is no reason to restart it), the second 503 while something is failing. `?verbose` names the checks, and gives
their reasons to those whose token may read the status.
"""

from __future__ import annotations

import trio
from quart import Response, g, request

from ...control.answers import Status
from ...control.verbs import status_of
from ...monitor.metrics import exposition
from ...monitor.sampling import RECENT_MAX, RECENT_S
from ...reports import Health, Performance, Stats
from ...security.tokens import allows
from ..routing import JSON, PUBLIC, Call, Media, Routes, json_response
from ..schemas import History, HistoryQuery, Logs, LogsQuery, PerformanceAsked, ReadyQuery, ReportQuery

__all__ = [
    "get_health",
    "get_history",
    "get_live",
    "get_logs",
    "get_metrics",
    "get_ready",
    "get_report",
    "get_stats",
    "get_status",
    "measure_performance",
    "routes",
]

routes = Routes("status")

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# A page of its own with styles and pictures inside, and no script.
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"


@routes.add("GET", "/api/v1/status", scope="status:read", answers={200: Status})
async def get_status(call: Call) -> Response:
    """The node in short."""
    await trio.lowlevel.checkpoint()
    return json_response(status_of(call.mesh, call.mesh.collect_stats().uptime_s))


@routes.add("GET", "/api/v1/stats", scope="status:read", answers={200: Stats})
async def get_stats(call: Call) -> Response:
    """Statistics as they are now."""
    await trio.lowlevel.checkpoint()
    return json_response(call.mesh.collect_stats())


@routes.add("GET", "/api/v1/history", scope="status:read", query=HistoryQuery, answers={200: History})
async def get_history(call: Call) -> Response:
    """How it went: a sample every 5 s for up to ten minutes back, one every `metrics_interval` for longer."""
    query: HistoryQuery = call.query
    await trio.lowlevel.checkpoint()
    samples = call.mesh.history(recent=query.seconds <= RECENT_S * RECENT_MAX)
    first = call.mesh.now() - query.seconds
    return json_response(History([sample for sample in samples if sample.time >= first]))


@routes.add("GET", "/api/v1/health", scope="status:read", answers={200: Health})
async def get_health(call: Call) -> Response:
    """How the node is, with a reason for everything that is not well. The answer is 200 whatever it says."""
    await trio.lowlevel.checkpoint()
    return json_response(call.mesh.check_health())


@routes.add(
    "POST", "/api/v1/performance", scope="status:read", body=PerformanceAsked, body_is_optional=True,
    answers={200: Performance}, limit_status=429,
)  # fmt: skip
async def measure_performance(call: Call) -> Response:
    """Measure round trips, throughput, durable writes and the scheduler's lag for some seconds."""
    body: PerformanceAsked = call.body
    return json_response(await call.mesh.measure_performance(body.seconds))


@routes.add(
    "GET", "/api/v1/report", scope="status:read", query=ReportQuery, answers={200: Media(HTML, others=(JSON, TEXT))}
)
async def get_report(call: Call) -> Response:
    """All of this in one page: HTML with plots and without script, JSON, or text.

    What is in the log is for logs:read alone, the nodes for nodes:read.
    """
    query: ReportQuery = call.query
    await trio.lowlevel.checkpoint()
    assert call.claims is not None, "the route needs a token"
    with_log, with_nodes = (allows(call.claims.scopes, scope) for scope in ("logs:read", "nodes:read"))
    text = call.mesh.generate_report(query.format, with_log=with_log, with_nodes=with_nodes)
    report = text.encode("utf-8", "backslashreplace")
    kind = {"html": HTML, "json": JSON, "text": TEXT}[query.format]
    headers = {"Content-Security-Policy": _REPORT_POLICY} if query.format == "html" else {}
    return Response(report, headers=headers, content_type=kind)


@routes.add("GET", "/api/v1/logs", scope="logs:read", query=LogsQuery, answers={200: Logs})
async def get_logs(call: Call) -> Response:
    """Records of the node's log: those behind `since`, or the newest."""
    query: LogsQuery = call.query
    await trio.lowlevel.checkpoint()
    logs = call.context.logs
    found = logs.newest(query.limit) if query.since is None else logs.after(query.since, query.limit)
    return json_response(Logs(found, found[-1].n if found else max(query.since or 0, logs.last)))


@routes.add("GET", "/metrics", scope="status:read", answers={200: Media(OPENMETRICS)})
async def get_metrics(call: Call) -> Response:
    """Metrics for Prometheus, as OpenMetrics; in its older text format for who accepts that alone."""
    await trio.lowlevel.checkpoint()
    kind, body = exposition(call.mesh, request.headers.get("Accept"))
    return Response(body, content_type=kind)


@routes.add("GET", "/livez", scope=PUBLIC, query=ReadyQuery, answers={200: Media(TEXT)})
async def get_live(call: Call) -> Response:
    """200 as long as this process serves."""
    await trio.lowlevel.checkpoint()
    return Response(b"ok\n", content_type=TEXT)


@routes.add("GET", "/readyz", scope=PUBLIC, query=ReadyQuery, answers={200: Media(TEXT), 503: Media(TEXT)})
async def get_ready(call: Call) -> Response:
    """200 if work may be given to this node, 503 while something is failing or it drains."""
    query: ReadyQuery = call.query
    await trio.lowlevel.checkpoint()
    health = call.mesh.check_health()
    is_ready = health.is_ready and not call.context.closing.is_set()
    lines = []
    if query.verbose is not None:
        claims = g.get("claims")
        may_read = claims is not None and allows(claims.scopes, "status:read")
        for check in health.checks:
            reason = f": {check.reason}" if may_read and check.reason else ""
            lines.append(f"[{'+' if check.status == 'ok' else '-'}] {check.name} {check.status}{reason}")
    lines.append("ready" if is_ready else "not ready")
    text = "\n".join(lines) + "\n"
    return Response(text.encode("utf-8", "backslashreplace"), status=200 if is_ready else 503, content_type=TEXT)
