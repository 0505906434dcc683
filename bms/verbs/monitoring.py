"""The verbs about the node itself: its statistics. Reads only; nothing here waits."""

from __future__ import annotations

from ..reports import Stats
from ..values import NodeState
from .data import DataVerbs

__all__ = ["MonitoringVerbs"]


class MonitoringVerbs(DataVerbs):
    """See the module."""

    def collect_stats(self) -> Stats:
        """Statistics as they are now."""
        life = self._running()
        links = life.links()
        states = [node.state for node in self._all_nodes()]
        return Stats(
            node_id=self.node_id,
            uptime_s=self._world.wall_time() - life.started_at,
            connections=len(links),
            nodes={str(state): states.count(state) for state in NodeState},
            bytes_sent=self.counters["net.bytes_sent"] + sum(link.bytes_sent for link in links),
            bytes_received=self.counters["net.bytes_received"] + sum(link.bytes_received for link in links),
            messages_waiting=self._topics.waiting(),
            data=self.data_summary(),
            subsystems=life.health(),
            counters=self.counters.snapshot(),
            discovery=life.found(),
        )
