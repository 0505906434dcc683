"""The view as a state machine: whatever order events come in, records only move forward and time never stands still."""

from __future__ import annotations

import functools
import random
import secrets
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bms.membership.view import Changed, Dial, Effect, Spread, View
from bms.security.keys import NodeKey
from bms.security.records import LEFT, Admission, NodeRecord
from bms.values import NodeId, NodeState
from helpers import make_authority

NODES = 3
FORGET_S, SUSPICION_S = 100.0, 5.0


@functools.cache
def _world() -> tuple[NodeId, list[tuple[Admission, dict[tuple[int, int, int], NodeRecord]]]]:
    """This node's id (in the middle), and each other's admission and all the records that it may sign, made once."""
    authority = make_authority()
    keys = sorted((NodeKey.generate(secrets.token_bytes) for _ in range(NODES + 1)), key=lambda key: key.node_id)
    me = keys.pop(1).node_id
    others = []
    for key in keys:
        admission = authority.issue_admission(key.node_id, now_ms=1_800_000_000_000)
        records = {
            (boot, incarnation, state): NodeRecord.sign(
                key, mesh_id=authority.mesh_id, boot=boot, boot_id=bytes(16), incarnation=incarnation, state=state,
                name="n", addresses=[], box_keys=[bytes(32)], versions=(1, 1), time=0,
            )
            for boot in (1, 2) for incarnation in (1, 2) for state in (0, 1)
        }  # fmt: skip
        others.append((admission, records))
    return me, others


who = st.integers(0, NODES - 1)
which = st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.sampled_from([0, 1]))
spans = st.sampled_from([0.0, 0.1, 1 / 3, 1.0, 4.9, 5.0, 7.7, 60.0, 101.0]) | st.floats(0, 200)
SAYS = {"joined": "alive", "suspected": "suspect", "failed": "failed", "left": "left"}


class ViewMachine(RuleBasedStateMachine):
    """Drives a View with every event there is, and plays the part of whoever carries out its effects."""

    def __init__(self) -> None:
        super().__init__()
        me, self.others = _world()
        self.view = View(
            me, suspicion_timeout_s=SUSPICION_S, redial_interval_s=1, redial_interval_max_s=30, forget_s=FORGET_S,
            chance=random.Random(7),
        )  # fmt: skip
        self.now = 1234.1
        self.newest: dict[NodeId, NodeRecord] = {}
        self.shown: dict[NodeId, str] = {}
        self.dials: set[NodeId] = set()
        self.links: set[NodeId] = set()

    def take(self, effects: list[Effect]) -> None:
        """Check the effects of one event and carry them out."""
        for effect in effects:
            member = self.view.members[effect.node_id]
            if isinstance(effect, Dial):
                assert effect.node_id not in self.dials, "two dials of one node at once"
                assert effect.node_id not in self.links, "a dial of a linked node"
                assert member.record.state != LEFT, "a node that left is dialed"
                self.dials.add(effect.node_id)
            elif isinstance(effect, Changed) and effect.what != "updated":
                assert self.shown.get(effect.node_id) != effect.what, "the same news twice"
                self.shown[effect.node_id] = effect.what
        for node_id in {effect.node_id for effect in effects}:
            mine = [effect for effect in effects if effect.node_id == node_id]
            kinds = [type(effect) for effect in mine]
            assert kinds == sorted(kinds, key=[Spread, Changed, Dial].index), "spread, then news, then dials"
            assert kinds.count(Spread) <= 1
            news = [effect.what for effect in mine if isinstance(effect, Changed) and effect.what in SAYS]
            if news:
                assert SAYS[news[-1]] == self.view.members[node_id].state, "the last news is the state"

    def note(self, record: NodeRecord) -> None:
        known = self.newest.get(record.node_id)
        if known is None or record.order > known.order:
            self.newest[record.node_id] = record

    @rule(who=who, which=which, source=st.none() | who)
    def a_card_is_learned(self, who: int, which: tuple[int, int, int], source: int | None) -> None:
        admission, records = self.others[who]
        learned_from = None if source is None else self.others[source][0].node_id
        self.note(records[which])
        effects = self.view.learn(admission, records[which], self.now, learned_from)
        assert all(not isinstance(effect, Spread) or effect.learned_from == learned_from for effect in effects)
        self.take(effects)

    @rule(who=who, which=which)
    def a_link_comes_up(self, who: int, which: tuple[int, int, int]) -> None:
        admission, records = self.others[who]
        self.note(records[which])
        self.links.add(admission.node_id)
        self.dials.discard(admission.node_id)
        self.take(self.view.link_up(admission, records[which], self.now))

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def a_link_ends(self, data: Any) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.links)))
        self.links.discard(node_id)
        self.take(self.view.link_down(node_id, self.now))

    @precondition(lambda self: self.dials)
    @rule(data=st.data(), refused=st.booleans())
    def a_dial_fails(self, data: Any, refused: bool) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.dials)))
        self.dials.discard(node_id)
        self.take(self.view.dialed(node_id, self.now, refused=refused))

    @rule()
    def whoever_dials_starts_anew(self) -> None:
        self.dials.clear()
        self.view.no_dials()

    @rule(span=spans)
    def time_passes(self, span: float) -> None:
        self.now += span
        self.tick()

    @precondition(lambda self: self.view.deadline() is not None)
    @rule()
    def time_passes_to_the_deadline(self) -> None:
        due = self.view.deadline()
        assert due is not None
        self.now = max(self.now, due)
        self.tick()

    def tick(self) -> None:
        self.take(self.view.tick(self.now))
        due = self.view.deadline()
        assert due is None or due > self.now, "ticked, and due again at once: a busy loop"
        for node_id in set(self.newest) - set(self.view.members):
            del self.newest[node_id]  # forgotten, as it may be
            self.shown.pop(node_id, None)
            self.dials.discard(node_id)

    @invariant()
    def records_only_move_forward(self) -> None:
        assert {node_id: member.record for node_id, member in self.view.members.items()} == self.newest

    @invariant()
    def states_say_what_is(self) -> None:
        for node_id, member in self.view.members.items():
            assert member.linked == (node_id in self.links)
            if member.record.state == LEFT:
                assert member.state is NodeState.LEFT
                assert member.next_dial is None
            else:
                assert (member.state is NodeState.ALIVE) == member.linked

    @invariant()
    def nobody_is_left_without_a_next_step(self) -> None:
        for node_id, member in self.view.members.items():
            if not member.linked and member.state is not NodeState.LEFT:
                assert member.next_dial is not None or node_id in self.dials

    @invariant()
    def linked_members_are_never_forgotten(self) -> None:
        assert self.links <= set(self.view.members)


TestView = ViewMachine.TestCase
TestView.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
