"""Whether the others answer, and how well this node itself does: SWIM's probes with Lifeguard's local health.

Each period one member is probed: a ping; without an answer in time, pings through `helpers` others and over the link,
all until the period ends; then it is suspected. The time for an answer follows the round trips measured (RFC 6298).

`health` counts what speaks against this node itself: probes that failed without the nacks by which helpers say that
they at least were heard, refutations, stalls. It stretches the period and the time-out (Lifeguard, section IV-A). A
helper's nack is sent at `_NACK_SHARE` of the time the prober gave it, so that it arrives before the prober gives up;
when all helpers have sent theirs, there is nothing left to wait for.

What others can cause: each may have `_RELAYS_MAX` pings sent by this node in the time that it gave them, and in any
period. A member that is accused again and again is checked by one probe at a time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from ..values import NodeId
from .claims import Ack, Effect, Measured, Message, Nack, Ping, PingRequest, Send
from .members import Members
from .timers import Timers

__all__ = ["Probing"]

_NACK_SHARE = 0.8
_RELAYS_MAX = 16
_STALL_PERIODS = 0.5


class _Probe:
    """One probe under way. `silent` are the helpers that have not said that they are there."""

    __slots__ = ("budget_s", "helpers", "sent_at", "silent", "target")

    def __init__(self, target: NodeId, now: float, budget_s: float) -> None:
        self.target = target
        self.sent_at = now
        self.budget_s = budget_s
        self.helpers: set[NodeId] = set()
        self.silent: set[NodeId] = set()


class Probing:
    """The probes of one node. `packet` makes a datagram, `suspect` is called with whoever did not answer."""

    def __init__(
        self,
        members: Members,
        timers: Timers,
        chance: random.Random,
        *,
        packet: Callable[[NodeId, list[Message]], Send],
        suspect: Callable[[NodeId, float, list[Effect]], None],
    ) -> None:
        self.health = 0
        self._members = members
        self._timers = timers
        self._chance = chance
        self._packet = packet
        self._suspect = suspect
        self._seq = 0
        self._round = 0
        self._probes: dict[int, _Probe] = {}
        self._relays: dict[int, tuple[NodeId, int, NodeId]] = {}
        self._relayed_for: Counter[NodeId] = Counter()
        self._rtts: dict[NodeId, tuple[float, float]] = {}
        self._losses: dict[NodeId, float] = {}

    def start(self, now: float) -> None:
        """Begin, or begin anew, at a time of chance within the first period."""
        self._round += 1
        self._timers.at(now + self._members.tuning.probe_interval_s * self._chance.random(), self._next, self._round)

    def feel(self, change: int) -> None:
        """Take note that this node does worse or better."""
        self.health = max(0, min(self._members.tuning.health_max, self.health + change))

    def is_stalled(self, late_s: float) -> bool:
        """Whether a timer that is so late says that this node got no turn; its probes then say nothing."""
        if late_s <= self._members.tuning.probe_interval_s * _STALL_PERIODS:
            return False
        self.feel(1)
        self._probes.clear()
        return True

    # ------------------------------------------------------------------ probing

    def _next(self, now: float, effects: list[Effect], begun: int) -> None:
        if begun != self._round:
            return
        budget_s = self._members.tuning.probe_interval_s * (self.health + 1)
        self._timers.at(now + budget_s, self._next, begun)
        target = self._members.next_target()
        if target is not None:
            self.begin(target, now, effects)

    def begin(self, target: NodeId, now: float, effects: list[Effect]) -> None:
        """Probe a member."""
        self._seq += 1
        seq, budget_s = self._seq, self._members.tuning.probe_interval_s * (self.health + 1)
        self._probes[seq] = _Probe(target, now, budget_s)
        effects.append(self._packet(target, [*self._buddy(target), Ping(seq)]))
        timeout_s = min(self._timeout_s(target) * (self.health + 1), budget_s / 2)
        self._timers.at(now + timeout_s, self._unanswered, seq)
        self._timers.at(now + budget_s, self._failed, seq)

    def check(self, target: NodeId, now: float, effects: list[Effect]) -> None:
        """Probe a member, unless that is being done."""
        if all(probe.target != target for probe in self._probes.values()):
            self.begin(target, now, effects)

    def try_dead(self, target: NodeId, effects: list[Effect]) -> None:
        """Tell a member what is held of it, and see whether it says something."""
        self._seq += 1
        claim = self._members.accusation(target)
        effects.append(Send(target, [*([] if claim is None else [claim]), Ping(self._seq)]))

    def _timeout_s(self, target: NodeId) -> float:
        low, high = self._members.tuning.probe_timeout_s
        measured = self._rtts.get(target)
        return high if measured is None else min(high, max(low, measured[0] + 4 * measured[1]))

    def _buddy(self, target: NodeId) -> list[Message]:
        """Whoever is accused hears of it with every ping (Lifeguard, section IV-C)."""
        claim = self._members.accusation(target) if self._members.tuning.buddy else None
        return [] if claim is None else [claim]

    def _unanswered(self, now: float, effects: list[Effect], seq: int) -> None:
        probe = self._probes.get(seq)
        if probe is None:
            return
        target = probe.target
        self._note_loss(target, 1.0)
        helpers = self._members.some(self._members.tuning.helpers, target, unaccused=True)
        probe.helpers, probe.silent = set(helpers), set(helpers)
        left_s = probe.sent_at + probe.budget_s - now
        request = PingRequest(seq, target, left_s)
        effects.extend(self._packet(helper, [*self._buddy(target), request]) for helper in helpers)
        effects.append(Send(target, [*self._buddy(target), Ping(seq)], stream=True))

    def _failed(self, now: float, effects: list[Effect], seq: int) -> None:
        probe = self._probes.pop(seq, None)
        if probe is None or not self._members.is_present(probe.target):
            return
        self.feel(len(probe.silent) if probe.helpers else 1)
        self._suspect(probe.target, now, effects)

    # ------------------------------------------------------------------ answers

    def answer(self, ping: Ping, sender: NodeId, stream: bool, effects: list[Effect]) -> None:
        """Yes, this node is here."""
        ack = Ack(ping.seq)
        effects.append(Send(sender, [ack], stream=True) if stream else self._packet(sender, [ack]))

    def acked(self, ack: Ack, sender: NodeId, stream: bool, now: float, effects: list[Effect]) -> None:
        """Somebody is there: whom this node asked, or whom it was asked about."""
        relay = self._relays.get(ack.seq)
        if relay is not None and relay[2] == sender:
            del self._relays[ack.seq]
            effects.append(self._packet(relay[0], [Ack(relay[1])]))
            return
        probe = self._probes.get(ack.seq)
        if probe is None or (sender != probe.target and sender not in probe.helpers):
            return
        del self._probes[ack.seq]
        self.feel(-1)
        if sender == probe.target and not stream:
            if not probe.helpers:
                self._note_loss(sender, 0.0)
            self._measure(sender, now - probe.sent_at)
            effects.append(Measured(sender, now - probe.sent_at))

    def nacked(self, nack: Nack, sender: NodeId, now: float, effects: list[Effect]) -> None:
        """A helper has not heard of the target either."""
        probe = self._probes.get(nack.seq)
        if probe is None or sender not in probe.silent:
            return
        probe.silent.discard(sender)
        if not probe.silent and len(probe.helpers) > 1:
            self._failed(now, effects, nack.seq)

    def rtt_s(self, node_id: NodeId) -> float | None:
        """The smoothed round trip to a member, if one was measured."""
        measured = self._rtts.get(node_id)
        return None if measured is None else measured[0]

    def loss(self, node_id: NodeId) -> float | None:
        """The share of probes of a member that it did not answer in time, smoothed; None if there was none."""
        return self._losses.get(node_id)

    def _note_loss(self, node_id: NodeId, sample: float) -> None:
        before = self._losses.get(node_id, sample)
        self._losses[node_id] = before + (sample - before) / 8

    def _measure(self, node_id: NodeId, rtt_s: float) -> None:
        measured = self._rtts.get(node_id)
        if measured is None:
            self._rtts[node_id] = (rtt_s, rtt_s / 2)
        else:
            mean, deviation = measured
            self._rtts[node_id] = (mean + (rtt_s - mean) / 8, deviation + (abs(rtt_s - mean) - deviation) / 4)

    def forget(self, node_id: NodeId) -> None:
        """Drop what was measured of a member."""
        self._rtts.pop(node_id, None)
        self._losses.pop(node_id, None)

    # ------------------------------------------------------------------ for others

    def relay(self, request: PingRequest, sender: NodeId, now: float, effects: list[Effect]) -> None:
        """Ping somebody for another, and say in time if it does not answer."""
        members = self._members
        if self._relayed_for[sender] >= _RELAYS_MAX or request.target not in members.known:
            return
        self._seq += 1
        seq = self._seq
        self._relays[seq] = (sender, request.seq, request.target)
        self._relayed_for[sender] += 1
        effects.append(self._packet(request.target, [*self._buddy(request.target), Ping(seq)]))
        budget_s = max(0.0, min(request.budget_s, members.tuning.probe_interval_s * (members.tuning.health_max + 1)))
        self._timers.at(now + budget_s * _NACK_SHARE, self._relay_unanswered, seq)
        # Neither a budget of nothing nor an answer makes room for another.
        self._timers.at(now + max(budget_s, members.tuning.probe_interval_s), self._relay_ends, seq, sender)

    def _relay_unanswered(self, now: float, effects: list[Effect], seq: int) -> None:
        relay = self._relays.get(seq)
        if relay is not None:
            effects.append(self._packet(relay[0], [Nack(relay[1])]))

    def _relay_ends(self, now: float, effects: list[Effect], seq: int, sender: NodeId) -> None:
        self._relays.pop(seq, None)
        self._relayed_for[sender] -= 1
        if not self._relayed_for[sender]:
            del self._relayed_for[sender]
