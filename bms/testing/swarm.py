"""Thousands of failure detectors in one process: `membership.swim.Swim` over a heap of events, without Trio or bytes.

A node is the plain machine and nothing else. Datagrams take the latency of their regions and may be lost; streams are
reliable and as fast, a lost segment costs a retransmission, and one that takes longer than ten seconds ends.

    crash, restart    the process is gone; its next life has a higher boot and knows its seeds
    freeze            the process gets no turn (SIGSTOP): no timer fires; later what had arrived is handled first
    block             the process runs, but nothing goes out or comes in: the Lifeguard paper's anomaly (section V-B)
    loss_in/out       a part of what is sent to or by a node is lost
    group             nodes of different groups do not hear each other: a split

What arrives at a node that does not read waits in a buffer of `_INBOX_MAX` datagrams, as in a socket; what a blocked
node sends, in one of `_OUTBOX_MAX`. `packets` and the bytes by node count what is sent, datagrams with the overhead of
sealing, UDP and IP. Claims are immutable and shared by all nodes, so that 10,000 views of 10,000 members fit into
memory.

What is absent: signatures (claims are made without), links and their ends, data.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Sequence

import attrs

from ..membership.claims import Changed, Claim, Effect, Kind, Message, Send, Want
from ..membership.swim import Swim
from ..membership.tuning import Tuning
from ..values import NodeId, NodeState
from .heap import Heap

__all__ = ["Swarm", "SwarmNode"]

_OWN_BYTES = 256
_CARD_BYTES = 700
_ACCUSATION_BYTES = 208
_PACKET_BYTES = 65 + 28
_SEGMENT_BYTES = 60
_RETRANSMIT_S = 0.2
_STREAM_S_MAX = 10.0
_INBOX_MAX = 256
_OUTBOX_MAX = 64
_REDIAL_S = 1.0


@attrs.define(eq=False)
class SwarmNode:
    """One node and what it has sent. `events` are (time, what, about whom, by whom)."""

    number: int
    node_id: NodeId
    swim: Swim
    boot: int = 1
    is_up: bool = True
    is_frozen: bool = False
    is_blocked: bool = False
    wake_at: float = math.inf
    loss_in: float = 0.0
    loss_out: float = 0.0
    group: int = 0
    region: int = 0
    packets: int = 0
    datagram_bytes: int = 0
    stream_bytes: int = 0
    inbox: list[tuple[list[Message], NodeId, bool]] = attrs.Factory(list)
    outbox: list[Send] = attrs.Factory(list)
    events: list[tuple[float, str, NodeId, NodeId | None]] = attrs.Factory(list)

    @property
    def reads(self) -> bool:
        """Whether it takes what arrives."""
        return self.is_up and not self.is_frozen and not self.is_blocked


class Swarm:
    """`count` nodes. They know nobody until `acquaint` (all know all) or `join`.

    `latency_s(chance, region, region)` is one way between two regions, by default that of a local network.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        tuning: Tuning | None = None,
        latency_s: Callable[[random.Random, int, int], float] | None = None,
        loss: float = 0.0,
    ) -> None:
        self.heap = Heap()
        self.chance = random.Random(seed)
        self.tuning = tuning or Tuning()
        self.loss = loss
        self.lost = 0
        self._latency_s = latency_s or (lambda chance, a, b: 0.0002 + 0.0008 * chance.random())
        self.nodes = [self._make(number, 1) for number in range(count)]
        self.by_id = {node.node_id: node for node in self.nodes}

    def _make(self, number: int, boot: int) -> SwarmNode:
        node_id = NodeId(hashlib.sha256(number.to_bytes(4, "big")).hexdigest())

        def accuse(subject: NodeId, boot: int, incarnation: int, kind: Kind) -> Claim:
            return Claim(subject, boot, incarnation, kind, node_id, _ACCUSATION_BYTES)

        def own(incarnation: int, kind: Kind = Kind.ALIVE) -> Claim:
            return Claim(node_id, boot, incarnation, kind, node_id, _OWN_BYTES)

        swim = Swim(own(1), accuse=accuse, refute=own, chance=random.Random(self.chance.random()), tuning=self.tuning)
        return SwarmNode(number, node_id, swim, boot)

    # ------------------------------------------------------------------ what happens to it

    def acquaint(self) -> None:
        """Begin with everybody knowing everybody, as after a long calm."""
        words = {node.node_id: node.swim.me for node in self.nodes}
        fingerprint = None  # the same for all: each view holds all words, one of them as its own
        for node in self.nodes:
            node.swim.meet(words, fingerprint)
            fingerprint = node.swim.fingerprint
            self.start(node)

    def start(self, node: SwarmNode) -> None:
        """Let a node run."""
        node.swim.start(self.heap.now)
        self._arm(node)

    def join(self, node: SwarmNode, seed: SwarmNode) -> None:
        """Start a node that knows one other."""
        self.start(node)
        self._hello(node, seed)

    def _hello(self, node: SwarmNode, seed: SwarmNode) -> None:
        """What a link's handshake does: each side gets the other's own word; then the views are compared."""
        self.heap.after(2 * self._delay(node, seed), self._met, node, node.boot, seed)

    def _met(self, node: SwarmNode, boot: int, seed: SwarmNode) -> None:
        if not node.is_up or node.boot != boot:
            return
        if not (node.reads and seed.reads and self._passes(node, seed)):
            self.heap.after(_REDIAL_S, self._met, node, boot, seed)
            return
        for here, there in ((node, seed), (seed, node)):
            self._act(here, here.swim.learn([there.swim.me], self.heap.now))
        for here, there in ((node, seed), (seed, node)):
            self._act(here, here.swim.link_up(there.node_id, self.heap.now))

    def crash(self, node: SwarmNode) -> None:
        """End a node's process."""
        node.is_up = node.is_frozen = node.is_blocked = False
        node.inbox.clear()
        node.outbox.clear()

    def restart(self, node: SwarmNode, seeds: Sequence[SwarmNode] = ()) -> None:
        """Start a crashed node's next life, which knows nobody but its seeds."""
        node.boot += 1
        node.swim = self._make(node.number, node.boot).swim
        node.is_up, node.wake_at = True, math.inf
        self.start(node)
        for seed in seeds:
            self._hello(node, seed)

    def freeze(self, node: SwarmNode, seconds: float) -> None:
        """Give a node's process no turn for so long."""
        if node.reads:
            node.is_frozen = True
            self.heap.after(seconds, self._thaw, node, node.boot)

    def block(self, node: SwarmNode, seconds: float) -> None:
        """Let nothing out of or into a node for so long, while it runs."""
        if node.reads:
            node.is_blocked = True
            self.heap.after(seconds, self._thaw, node, node.boot)

    def _thaw(self, node: SwarmNode, boot: int) -> None:
        if not node.is_up or node.boot != boot:
            return
        node.is_frozen = node.is_blocked = False
        outbox, node.outbox = node.outbox, []
        for send in outbox:
            self._send(node, send)
        inbox, node.inbox = node.inbox, []
        for messages, sender, stream in inbox:
            self._act(node, node.swim.handle(messages, sender, self.heap.now, stream=stream))
        node.wake_at = math.inf
        self._act(node, node.swim.tick(self.heap.now))

    def leave(self, node: SwarmNode) -> None:
        """Say goodbye; the node runs on until it is crashed."""
        me = node.swim.me
        word = Claim(node.node_id, me.boot, me.incarnation + 1, Kind.LEFT, node.node_id, _OWN_BYTES)
        self._act(node, node.swim.leave(word, self.heap.now))

    def update(self, node: SwarmNode) -> Claim:
        """Let a node say something new of itself; the new word."""
        me = node.swim.me
        word = Claim(node.node_id, me.boot, me.incarnation + 1, Kind.ALIVE, node.node_id, _OWN_BYTES)
        node.swim.announce(word, self.heap.now)
        self._arm(node)
        return word

    # ------------------------------------------------------------------ what is seen

    def sees(self, node: SwarmNode, other: SwarmNode) -> NodeState | None:
        """How a node sees another."""
        return node.swim.state(other.node_id)

    def views_right(self) -> bool:
        """Whether every running node sees exactly the running nodes as alive."""
        up = [node for node in self.nodes if node.is_up]
        return all(
            node.swim.present == len(up) - 1
            and all(other is node or self.sees(node, other) is NodeState.ALIVE for other in up)
            for node in up
        )

    def bytes_sent(self) -> int:
        """By all nodes together."""
        return sum(node.datagram_bytes + node.stream_bytes for node in self.nodes)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.heap.run(self.heap.now + seconds)

    def run_until(self, done: Callable[[], bool], seconds: float, step_s: float = 0.1) -> float:
        """Run until something holds; how long that took. TimeoutError after `seconds`."""
        start = self.heap.now
        while not done():
            if self.heap.now >= start + seconds:
                raise TimeoutError(f"not within {seconds:g} s")
            self.heap.run(self.heap.now + step_s)
        return self.heap.now - start

    # ------------------------------------------------------------------ inside

    def _delay(self, one: SwarmNode, other: SwarmNode) -> float:
        return self._latency_s(self.chance, one.region, other.region)

    def _passes(self, one: SwarmNode, other: SwarmNode) -> bool:
        return one.group == other.group

    def _is_lost(self, one: SwarmNode, other: SwarmNode) -> bool:
        kept = (1 - self.loss) * (1 - one.loss_out) * (1 - other.loss_in)
        lost = kept < 1 and self.chance.random() >= kept
        self.lost += lost
        return lost

    def _act(self, node: SwarmNode, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if type(effect) is Send:
                self._send(node, effect)
            elif type(effect) is Changed:
                node.events.append((self.heap.now, effect.what, effect.node_id, effect.by))
            elif type(effect) is Want:
                self._want(node, effect)
        self._arm(node)

    def _send(self, node: SwarmNode, send: Send) -> None:
        if node.is_blocked:
            if len(node.outbox) < _OUTBOX_MAX:
                node.outbox.append(send)
            return
        other = self.by_id[send.to]
        size = sum(message.size for message in send.messages)
        delay = self._delay(node, other)
        if send.stream:
            node.stream_bytes += size + _SEGMENT_BYTES
            timeout_s = _RETRANSMIT_S
            while self._is_lost(node, other) or self._is_lost(other, node):  # the segment, or what acknowledges it
                delay += timeout_s
                timeout_s *= 2
                if delay > _STREAM_S_MAX:
                    return
        else:
            node.packets += 1
            node.datagram_bytes += size + _PACKET_BYTES
            if self._is_lost(node, other):
                return
        if self._passes(node, other):
            self.heap.after(delay, self._arrive, other, other.boot, send.messages, node.node_id, send.stream)

    def _arrive(self, node: SwarmNode, boot: int, messages: list[Message], sender: NodeId, stream: bool) -> None:
        if not node.is_up or node.boot != boot:
            return
        if node.reads:
            if stream and sender not in node.swim.known:  # a link's handshake has told who that is
                self._act(node, node.swim.learn([self.by_id[sender].swim.me], self.heap.now))
            self._act(node, node.swim.handle(messages, sender, self.heap.now, stream=stream))
        elif stream or len(node.inbox) < _INBOX_MAX:
            node.inbox.append((messages, sender, stream))

    def _want(self, node: SwarmNode, want: Want) -> None:
        """Fetch what the sender holds of a member: there and back over the link."""
        other = self.by_id[want.sender]
        if other.reads and self._passes(node, other):
            self.heap.after(2 * self._delay(node, other), self._wanted, node, other, want.node_id)

    def _wanted(self, node: SwarmNode, other: SwarmNode, node_id: NodeId) -> None:
        if node.reads:
            other.stream_bytes += _CARD_BYTES
            effects: list[Effect] = other.swim.give([node_id], node.node_id, self.heap.now)
            for effect in effects:
                assert isinstance(effect, Send)
                self._act(node, node.swim.handle(effect.messages, other.node_id, self.heap.now, stream=True))

    def _arm(self, node: SwarmNode) -> None:
        deadline = node.swim.deadline()
        if deadline is not None and deadline < node.wake_at:
            node.wake_at = deadline
            self.heap.at(deadline, self._due, node, node.boot, deadline)

    def _due(self, node: SwarmNode, boot: int, deadline: float) -> None:
        if node.boot == boot and node.wake_at == deadline and node.is_up and not node.is_frozen:
            node.wake_at = math.inf
            self._act(node, node.swim.tick(self.heap.now))
