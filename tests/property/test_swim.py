"""Failure detectors under any order of events: lost, doubled and reordered messages, crashes, restarts, silences.

Hypothesis drives a few machines over a network that does what it likes; after each step what must always hold is
looked at, and at the end, when all is calm, that all agree.
"""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bms.membership.claims import Claim, Delta, Effect, Kind, Message, Send, Want
from bms.membership.swim import Swim
from bms.membership.tuning import Tuning
from bms.values import NodeId, NodeState

COUNT = 5
TUNING = Tuning(forget_s=1e6, flaps_max=1e9, sync_interval_s=5.0, reconnect_interval_s=5.0)

which = st.integers(0, COUNT - 1)


def node_id(number: int) -> NodeId:
    return NodeId(f"{number + 1:064x}")


class Network(RuleBasedStateMachine):
    """Nodes 0 to 4, the time, and the messages under way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.chance = random.Random(0)
        self.boots = [1] * COUNT
        self.up = [True] * COUNT
        self.under_way: list[tuple[NodeId, NodeId, list[Message], bool]] = []
        self.highest: dict[tuple[int, NodeId], tuple[int, int, int]] = {}
        self.spoken: dict[NodeId, tuple[int, int]] = {}
        self.dead_at: dict[tuple[int, NodeId], tuple[int, int]] = {}

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.machines = [self.make(number) for number in range(COUNT)]
        for number in range(COUNT):
            self.meet_all(number)

    def make(self, number: int) -> Swim:
        me, boot = node_id(number), self.boots[number]

        def accuse(of: NodeId, boot: int, incarnation: int, kind: Kind) -> Claim:
            return Claim(of, boot, incarnation, kind, me, 200)

        def own(incarnation: int) -> Claim:
            self.spoken[me] = max(self.spoken.get(me, (0, 0)), (boot, incarnation))
            return Claim(me, boot, incarnation, Kind.ALIVE, me, 200)

        swim = Swim(own(1), accuse=accuse, refute=own, chance=random.Random(self.chance.random()), tuning=TUNING)
        swim.start(self.now)
        return swim

    def meet_all(self, number: int) -> None:
        for other in range(COUNT):
            if other != number and self.up[other]:
                for here, there in ((number, other), (other, number)):
                    self.act(here, self.machines[here].learn([self.machines[there].me], self.now))

    def act(self, number: int, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.under_way.append((node_id(number), effect.to, effect.messages, effect.stream))
            elif isinstance(effect, Want):
                other = int(effect.sender, 16) - 1
                if self.up[other]:
                    self.act(other, self.machines[other].give([effect.node_id], node_id(number), self.now))

    def deliver(self, place: int, *, keep: bool) -> None:
        sender, to, messages, stream = self.under_way[place] if keep else self.under_way.pop(place)
        number = int(to, 16) - 1
        if self.up[number]:
            self.act(number, self.machines[number].handle(messages, sender, self.now, stream=stream))

    # ------------------------------------------------------------------ what can happen

    @rule(steps=st.integers(1, 40), loss=st.sampled_from([0.0, 0.3, 1.0]))
    def pass_time(self, steps: int, loss: float) -> None:
        """Timers fire in order, and what is sent arrives at once or never."""
        for _ in range(steps):
            due = [
                (machine.deadline() or 0.0, number) for number, machine in enumerate(self.machines) if self.up[number]
            ]
            if not due:
                return
            self.now, number = max(self.now, min(due)[0]), min(due)[1]
            self.act(number, self.machines[number].tick(self.now))
            deadline = self.machines[number].deadline()
            assert deadline is not None
            assert deadline > self.now
            while self.under_way:
                if self.chance.random() < loss:
                    self.under_way.pop()
                else:
                    self.deliver(0, keep=False)

    @rule(number=which, seconds=st.floats(0.1, 30.0))
    def stall(self, number: int, seconds: float) -> None:
        """One gets no turn for a while; the others' timers wait as well, which is as good as all being slow."""
        self.now += seconds
        if self.up[number]:
            self.act(number, self.machines[number].tick(self.now))

    @rule(number=which)
    def fire(self, number: int) -> None:
        """What is due next at one node; its messages stay under way."""
        deadline = self.machines[number].deadline()
        if self.up[number] and deadline is not None:
            self.now = max(self.now, deadline)
            self.act(number, self.machines[number].tick(self.now))

    @rule(place=st.integers(0, 1000), keep=st.booleans())
    def arrive(self, place: int, keep: bool) -> None:
        """Any message under way, perhaps not for the last time."""
        if self.under_way:
            self.deliver(place % len(self.under_way), keep=keep)

    @rule(number=which)
    def speak(self, number: int) -> None:
        """A node says something new of itself, whatever was said of it."""
        if self.up[number]:
            me = self.machines[number].me
            word = Claim(me.node_id, me.boot, me.incarnation + 1, Kind.ALIVE, me.node_id, 200)
            self.spoken[me.node_id] = word.point
            self.machines[number].announce(word, self.now)

    @rule()
    def lose(self) -> None:
        self.under_way.clear()

    @rule(number=which)
    def crash(self, number: int) -> None:
        if sum(self.up) > 2:
            self.up[number] = False

    @rule(number=which)
    def restart(self, number: int) -> None:
        self.up[number] = True
        self.boots[number] += 1
        self.machines[number] = self.make(number)
        self.highest = {key: value for key, value in self.highest.items() if key[0] != number}
        self.dead_at = {key: value for key, value in self.dead_at.items() if key[0] != number}
        self.meet_all(number)

    @rule(liar=which, victim=which, ahead=st.sampled_from([0, 1, 1000, 5000, 2**62]), dead=st.booleans())
    def lie(self, liar: int, victim: int, ahead: int, dead: bool) -> None:
        """A member accuses another, at whatever incarnation."""
        if liar == victim or not self.up[liar]:
            return
        boot, incarnation = self.spoken[node_id(victim)]
        kind = Kind.DEAD if dead else Kind.SUSPECT
        claim = Claim(node_id(victim), boot, incarnation + ahead, kind, node_id(liar), 200)
        own = Claim(node_id(victim), boot, incarnation, Kind.ALIVE, node_id(victim), 200)
        for number in range(COUNT):
            if number != liar:
                message: Message = claim if self.chance.random() < 0.5 else Delta(((own, claim),))
                self.under_way.append((node_id(liar), node_id(number), [message], False))

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def nobody_goes_back(self) -> None:
        for number, machine in enumerate(getattr(self, "machines", [])):
            for member, own in machine.known.items():
                assert own.rank >= self.highest.get((number, member), (0, 0, 0))
                self.highest[number, member] = own.rank
            assert set(machine.known) >= {member for holder, member in self.highest if holder == number}

    @invariant()
    def only_the_subject_raises_its_incarnation(self) -> None:
        for machine in getattr(self, "machines", []):
            assert all(own.point <= self.spoken[member] for member, own in machine.known.items())

    @invariant()
    def no_dead_member_returns_without_its_own_newer_word(self) -> None:
        for number, machine in enumerate(getattr(self, "machines", [])):
            for member in machine.known:
                if machine.state(member) is NodeState.FAILED:
                    self.dead_at[number, member] = machine.accused[member].claim.point
                elif (number, member) in self.dead_at:
                    assert machine.known[member].point > self.dead_at.pop((number, member))

    @invariant()
    def sums_are_what_they_stand_for(self) -> None:
        for machine in getattr(self, "machines", []):
            assert machine.fingerprint == machine._members.recomputed_fingerprint()
            assert machine.present == sum(machine.is_present(member) for member in machine.known)

    def teardown(self) -> None:
        """Calm: everything arrives. In the end all see exactly those that run."""
        if not hasattr(self, "machines"):
            return
        self.under_way.clear()
        for number, is_up in enumerate(self.up):
            if is_up:
                self.meet_all(number)
        until = self.now + 200.0
        while self.now < until and not self.agreed():
            self.pass_time(200, 0.0)
        assert self.agreed()

    def agreed(self) -> bool:
        running = {node_id(number) for number in range(COUNT) if self.up[number]}
        return all(
            {member for member in machine.known if machine.state(member) is NodeState.ALIVE}
            == running - {machine.me.node_id}
            and {member for member in machine.known if machine.is_present(member)} == running - {machine.me.node_id}
            for number, machine in enumerate(self.machines)
            if self.up[number]
        )


TestNetwork = Network.TestCase
TestNetwork.settings = settings(
    max_examples=100, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
