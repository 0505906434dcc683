"""A heap of events for plain machines: no Trio, no tasks, no bytes; time is a number. For nodes by the thousand.

`Heap` calls what is due in order of time, and at one time in the order it was asked for. `ViewMesh` drives
`membership.view.View`, one for each node, over it: dials, links and cards take a latency, hosts can be down or cut off
from each other, and effects are carried out as `membership.gossip` does it. What is absent is everything a link
carries besides cards, and failures of single messages: those are for the simulated world.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from typing import Any

from ..membership.view import Dial, Effect, Spread, View
from ..security.keys import NodeKey
from ..security.records import Admission, NodeRecord
from ..values import NodeId, NodeState

__all__ = ["Heap", "ViewMesh"]

_MESH_ID = bytes(32)


class Heap:
    """Events in order. `now` is the time of the one that is being run; `events` counts those that were."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._asked = 0

    def at(self, time: float, call: Callable[..., object], *args: Any) -> None:
        """Call `call(*args)` at a time, not before now."""
        self._asked += 1
        heapq.heappush(self._heap, (max(time, self.now), self._asked, call, args))

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Call `call(*args)` some seconds from now."""
        self.at(self.now + seconds, call, *args)

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Run what is due up to a time, or until `stop()` after an event; whether it stopped."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, call, args = heapq.heappop(self._heap)
            self.events += 1
            call(*args)
            if stop():
                return True
        self.now = until
        return False


class _Machine:
    """One node: its view, its links, and when it is to be woken."""

    def __init__(self, node_id: NodeId, admission: Admission, record: NodeRecord, view: View) -> None:
        self.node_id = node_id
        self.admission = admission
        self.record = record
        self.view = view
        self.links: dict[NodeId, _Machine] = {}
        self.is_up = True
        self.wake_at = float("inf")


class ViewMesh:
    """`count` nodes that see each other through `View`. `machines` are in the order of their numbers.

    `latency_s` is the span of one way. Links are kept between each two nodes that could dial each other.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        latency_s: tuple[float, float] = (0.001, 0.002),
        suspicion_timeout_s: float = 5.0,
        dial_timeout_s: float = 5.0,
    ) -> None:
        self.heap = Heap()
        self.chance = random.Random(seed)
        self.machines: list[_Machine] = []
        self.cards_sent = 0
        self._latency_s = latency_s
        self._dial_timeout_s = dial_timeout_s
        self._cut: set[tuple[NodeId, NodeId]] = set()
        issuer = NodeKey.generate(self.chance.randbytes)
        for number in range(count):
            key = NodeKey.generate(self.chance.randbytes)
            view = View(
                key.node_id, suspicion_timeout_s=suspicion_timeout_s, redial_interval_s=1.0,
                redial_interval_max_s=30.0, forget_s=86_400.0, chance=self.chance,
            )  # fmt: skip
            admission = Admission.sign(
                issuer, mesh_id=_MESH_ID, node_id=key.node_id, serial=1, role="member", grants=[("*", 15)]
            )
            record = NodeRecord.sign(
                key, mesh_id=_MESH_ID, boot=1, boot_id=bytes(16), incarnation=1, name=f"n{number}", addresses=[],
                box_keys=[bytes(32)], versions=(1, 1), time=0,
            )  # fmt: skip
            self.machines.append(_Machine(key.node_id, admission, record, view))
        self._by_id = {machine.node_id: machine for machine in self.machines}

    # ------------------------------------------------------------------ what happens to it

    def join(self, number: int, seed: int = 0) -> None:
        """Let a node dial another, as its bootstrap node."""
        self.heap.after(self._delay(), self._link, self.machines[number], self.machines[seed])

    def acquaint(self) -> None:
        """Begin with links between all nodes, as after a long calm, without the cards that lead there."""
        for machine in self.machines:
            for other in self.machines:
                if other is not machine:
                    machine.links[other.node_id] = other
                    machine.view.link_up(other.admission, other.record, self.heap.now)

    def crash(self, number: int) -> None:
        """End a node's process; its host refuses who dials."""
        machine = self.machines[number]
        machine.is_up = False
        for other in list(machine.links.values()):
            self.heap.after(self._delay(), self._unlink, other, machine)
        machine.links.clear()

    def cut(self, group: Iterable[int]) -> None:
        """Let nothing pass between these nodes and all others; their links end after the silence of a few seconds."""
        inside = {self.machines[number].node_id for number in group}
        for machine in self.machines:
            for other in list(machine.links.values()):
                if (machine.node_id in inside) != (other.node_id in inside):
                    self.heap.after(self.chance.uniform(5, 6), self._unlink, machine, other)
        self._cut = {(a, b) for a in self._by_id for b in self._by_id if (a in inside) != (b in inside)}

    def heal(self) -> None:
        """Let everything pass again."""
        self._cut.clear()

    # ------------------------------------------------------------------ what is seen

    def alive(self, number: int) -> set[NodeId]:
        """The nodes that one sees alive, itself among them."""
        machine = self.machines[number]
        seen = machine.view.members.items()
        return {machine.node_id, *(node_id for node_id, member in seen if member.state is NodeState.ALIVE)}

    def agrees(self) -> bool:
        """Whether every running node sees exactly the running nodes alive."""
        up = {machine.node_id for machine in self.machines if machine.is_up}
        return all(self.alive(number) == up for number, machine in enumerate(self.machines) if machine.is_up)

    def run_until_agreed(self, seconds: float, step_s: float = 0.25) -> float:
        """Run until all agree; how long that took. TimeoutError after `seconds`."""
        start = self.heap.now
        while self.heap.now < start + seconds:
            self.heap.run(self.heap.now + step_s)
            if self.agrees():
                return self.heap.now - start
        raise TimeoutError(f"the nodes do not agree after {seconds:g} s")

    # ------------------------------------------------------------------ inside

    def _delay(self) -> float:
        return self.chance.uniform(*self._latency_s)

    def _passes(self, one: _Machine, other: _Machine) -> bool:
        return (one.node_id, other.node_id) not in self._cut

    def _link(self, one: _Machine, other: _Machine) -> None:
        if not (one.is_up and other.is_up and self._passes(one, other)) or other.node_id in one.links:
            return
        one.links[other.node_id], other.links[one.node_id] = other, one
        for here, there in ((one, other), (other, one)):
            self._act(here, here.view.link_up(there.admission, there.record, self.heap.now))
            for member in list(here.view.members.values()):
                if member.state is not NodeState.FAILED and member.record.node_id != there.node_id:
                    self._tell(there, member.admission, member.record, here)

    def _unlink(self, one: _Machine, other: _Machine) -> None:
        one.links.pop(other.node_id, None)
        if one.is_up:
            self._act(one, one.view.link_down(other.node_id, self.heap.now))

    def _tell(self, to: _Machine, admission: Admission, record: NodeRecord, teller: _Machine) -> None:
        self.cards_sent += 1
        known = to.view.members.get(record.node_id)
        if known is None or record.order > known.record.order:
            self.heap.after(self._delay(), self._learn, to, admission, record, teller.node_id)

    def _learn(self, machine: _Machine, admission: Admission, record: NodeRecord, teller: NodeId) -> None:
        if machine.is_up:
            self._act(machine, machine.view.learn(admission, record, self.heap.now, teller))

    def _act(self, machine: _Machine, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Dial):
                self._dial(machine, self._by_id[effect.node_id])
            elif isinstance(effect, Spread):
                member = machine.view.members[effect.node_id]
                for node_id, other in machine.links.items():
                    if node_id not in (effect.node_id, effect.learned_from):
                        self._tell(other, member.admission, member.record, machine)
        self._arm(machine)

    def _dial(self, machine: _Machine, other: _Machine) -> None:
        if not self._passes(machine, other):
            self.heap.after(self._dial_timeout_s, self._dialed, machine, other, False)
        elif not other.is_up:
            self.heap.after(2 * self._delay(), self._dialed, machine, other, True)
        else:
            self.heap.after(2 * self._delay(), self._link, machine, other)

    def _dialed(self, machine: _Machine, other: _Machine, refused: bool) -> None:
        if machine.is_up and other.node_id not in machine.links:
            self._act(machine, machine.view.dialed(other.node_id, self.heap.now, refused=refused))

    def _arm(self, machine: _Machine) -> None:
        deadline = machine.view.deadline()
        if deadline is not None and deadline < machine.wake_at:
            machine.wake_at = deadline
            self.heap.at(deadline, self._tick, machine, deadline)

    def _tick(self, machine: _Machine, deadline: float) -> None:
        if machine.wake_at == deadline:
            machine.wake_at = float("inf")
            if machine.is_up:
                self._act(machine, machine.view.tick(self.heap.now))
