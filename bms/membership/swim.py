"""Who is there: SWIM with Lifeguard, over a full view. A plain machine.

Messages come in with `handle`, what the owner knows or wants with the commands, time with `tick`; what is to be done
comes out as effects, in order, and `deadline` says when `tick` is due. Nothing here sends, signs or reads a clock: the
owner passes `accuse` and `refute`, which make signed claims, and checks signatures before anything comes here.

A member is, for this node,

    alive     its own word is the latest                       probed in turn, gossiped to
    suspect   somebody accused it at its present incarnation   the same, and told of it; dead when the suspicion ends
    dead      a suspicion ended                                tried again every `reconnect_interval_s`, forgotten later
    left      its own word                                     forgotten later

This module decides what counts; `members` holds it, `probing` asks whether the others answer, `suspicion` says how
long one lasts, `dissemination` tells news to all, `comparing` finds what gossip has missed, `damping` whom to distrust.

What counts. A member's own words are ordered by (boot, incarnation, kind), an accusation outdoes them at the
incarnation that it names or a lower one, and only the member goes on to a higher one. A third party's "alive" does not
exist, since each word of a member is its own. "Dead" arrives from a comparison as a suspicion, for who is suspect can
speak; from gossip it ends a suspicion, not before the accused had part of its time (`Tuning.trial`). A tick that comes
late says that this node was stalled, not the others: what was running out gets that time back.

What a lying member can do: accuse somebody at an incarnation that it has shown (further than `_JUMP_MAX` ahead nobody
listens). That costs the accused one refutation, is never an event "failed" while the accused can speak, and says by
whom. Raising the incarnation again and again keeps a suspicion from ending for twice its longest time and no more.

References: Das, Gupta, Motivala, "SWIM" (DSN 2002); Dadgar, Phillips, Currey, "Lifeguard" (DSN-W 2018). Absent: what
addresses, keys and tags a member has; that goes with its card. Two lives of one key at once are refused where links
are made.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping

from ..values import NodeId, NodeState
from .claims import (
    Ack,
    Changed,
    Claim,
    Delta,
    Digest,
    Effect,
    Get,
    Kind,
    Message,
    Nack,
    Ping,
    PingRequest,
    Question,
    Refuted,
    Send,
    SyncAsk,
    Want,
)
from .comparing import Comparing
from .damping import Damping
from .dissemination import Dissemination
from .members import Accused, Members
from .pacing import Pacing
from .probing import Probing
from .suspicion import Suspicion
from .timers import Timers
from .tuning import Tuning

__all__ = ["Swim", "Tuning"]

_JUMP_MAX = 1024
_TELL_S = 1.0
_BLAME_S = 10.0
_SWEEP_S = 60.0
_HASTE_PER = 8
_HASTE_MAX = 4
_WORDS_BURST = 20
_ANSWERS_BURST = 4


class Swim:
    """The failure detector and the view of one node.

    `known` has each member's own latest word, `accused` the accusations in force. `me` is this node's own word.
    `accuse(node_id, boot, incarnation, kind)` signs an accusation, `refute(incarnation)` gives this node's new word at
    that incarnation.
    """

    def __init__(
        self,
        me: Claim,
        *,
        accuse: Callable[[NodeId, int, int, Kind], Claim],
        refute: Callable[[int], Claim],
        chance: random.Random,
        tuning: Tuning,
    ) -> None:
        self.linked: set[NodeId] = set()
        self._accuse = accuse
        self._refute = refute
        self._chance = chance
        self._members = Members(me, chance, tuning)
        self.known: Mapping[NodeId, Claim] = self._members.known
        self.accused: Mapping[NodeId, Accused] = self._members.accused
        self._timers = Timers()
        self._probing = Probing(self._members, self._timers, chance, packet=self._packet, suspect=self._suspect)
        self._comparing = Comparing(self._members, self._timers, chance)
        self._queue = Dissemination()
        self._damping = Damping()
        self._ends: dict[NodeId, float] = {}
        """When the timer comes that looks after a suspicion; one for each member at most."""
        self._damped: set[NodeId] = set()
        self._blamed: dict[NodeId, float] = {}
        self._words = Pacing(_WORDS_BURST)
        self._answers = Pacing(_ANSWERS_BURST)
        self._held: dict[NodeId, Claim] = {}
        """The latest that was said of a member of whom too much is said for now."""
        self._removals: dict[NodeId, Claim] = {}
        """By whose word those were forgotten that are not to come back by what others still hold of them."""
        self._gossips = False

    # ------------------------------------------------------------------ commands

    def start(self, now: float) -> None:
        """Begin to probe."""
        self._probing.start(now)
        self._comparing.start(now)
        self._timers.at(now + self.tuning.reconnect_interval_s * self._chance.uniform(0.5, 1.5), self._reconnect)
        self._timers.at(now + min(_SWEEP_S, self.tuning.forget_s), self._sweep)

    def announce(self, claim: Claim, now: float) -> None:
        """Say this of oneself from now on."""
        self._members.me = claim
        self._spread(claim, now)

    def leave(self, claim: Claim, now: float) -> list[Effect]:
        """Say goodbye: a first round of gossip at once. It has reached all when `is_quiet`."""
        self.announce(claim, now)
        return self._packets()

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing left to tell."""
        return not self._queue

    def meet(self, words: Mapping[NodeId, Claim], fingerprint: int | None = None) -> None:
        """Begin with members that everybody else knows too: nothing is told, nothing is an event.

        For simulations. `fingerprint`, if the caller knows it, is that of a view with all of these and this node.
        """
        self._members.meet(words, fingerprint)

    def learn(self, claims: Iterable[Claim], now: float, sender: NodeId | None = None) -> list[Effect]:
        """Members' own words, from wherever: a link's hello, a file, another member."""
        effects: list[Effect] = []
        for claim in claims:
            self._own_word(claim, sender, now, effects)
        return effects

    def link_up(self, node_id: NodeId, now: float) -> list[Effect]:
        """A link to a member is up: it is told if it is accused, and the views are compared."""
        self.linked.add(node_id)
        effects: list[Effect] = []
        self._tell(node_id, now, effects, stream=True)
        effects.append(self._comparing.ask(node_id))
        return effects

    def link_down(self, node_id: NodeId, now: float) -> list[Effect]:
        """The link to a member has ended, which is no proof of anything: probe at once."""
        self.linked.discard(node_id)
        effects: list[Effect] = []
        if self.is_present(node_id):
            self._probing.begin(node_id, now, effects)
        return effects

    def refused(self, node_id: NodeId, now: float) -> list[Effect]:
        """The member's own host says that nobody listens where it was: suspect it, for one period."""
        effects: list[Effect] = []
        if node_id in self.linked or not self.is_present(node_id):
            return effects
        self._suspect(node_id, now, effects)
        suspicion = self.accused[node_id].suspicion
        if suspicion is not None:
            suspicion.shorten(self.tuning.probe_interval_s)
            self._watch(node_id, suspicion, now)
        return effects

    def forget(self, node_id: NodeId, now: float) -> None:
        """Drop what is known of a member; what is as old does not bring it back for `forget_s`."""
        if node_id in self.known:
            self._members.drop(node_id, now + self.tuning.forget_s)
            self._queue.drop(node_id)
            self._probing.forget(node_id)
            self._damping.forget(node_id)
            self._words.forget(node_id)
            self._answers.forget(node_id)
            self._held.pop(node_id, None)

    def remove(self, node_id: NodeId, now: float) -> list[Effect]:
        """Forget a member that is gone, and tell all to; nothing if it is there, or not known."""
        effects: list[Effect] = []
        if node_id in self._members.gone:
            boot, incarnation, _ = self._members.rank(node_id)
            self._removed(self._accuse(node_id, boot, incarnation, Kind.REMOVED), now, effects)
        return effects

    def give(self, node_ids: Iterable[NodeId], to: NodeId, now: float) -> list[Effect]:
        """Send a node what is held of these, as far as its allowance goes."""
        effects: list[Effect] = []
        self._comparing.give(node_ids, to, now, effects)
        return effects

    # ------------------------------------------------------------------ reading

    @property
    def me(self) -> Claim:
        """This node's own word."""
        return self._members.me

    @property
    def tuning(self) -> Tuning:
        """The parameters in force."""
        return self._members.tuning

    def retime(self, tuning: Tuning, now: float) -> None:
        """Go by these parameters from now on; probes at their pace begin at once, suspicions that there are go on."""
        self._members.tuning = tuning
        self._probing.start(now)

    @property
    def health(self) -> int:
        """What speaks against this node itself, 0 to `Tuning.health_max`."""
        return self._probing.health

    @property
    def fingerprint(self) -> int:
        """Equal where views are equal."""
        return self._members.fingerprint

    def state(self, node_id: NodeId) -> NodeState | None:
        """How a member is seen; None if it is not known."""
        return self._members.state(node_id)

    def is_present(self, node_id: NodeId) -> bool:
        """Whether a member is alive, or may be."""
        return self._members.is_present(node_id)

    @property
    def present(self) -> int:
        """How many others are there, or may be."""
        return self._members.present

    def rtt_s(self, node_id: NodeId) -> float | None:
        """The smoothed round trip to a member, if one was measured."""
        return self._probing.rtt_s(node_id)

    def loss(self, node_id: NodeId) -> float | None:
        """The share of probes of a member that were not answered in time, smoothed; None if there was none."""
        return self._probing.loss(node_id)

    # ------------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """When `tick` is due next."""
        return self._timers.deadline()

    def tick(self, now: float) -> list[Effect]:
        """What is due. Whoever calls this late has handled first what had arrived meanwhile."""
        effects: list[Effect] = []
        deadline = self._timers.deadline()
        late_s = 0.0 if deadline is None else now - deadline
        if self._probing.is_stalled(late_s):
            for accused in self.accused.values():
                if accused.suspicion is not None:
                    accused.suspicion.give_back(late_s, now)
        self._timers.run(now, effects)
        return effects

    def _reconnect(self, now: float, effects: list[Effect]) -> None:
        """Try one of those held for dead: a partition heals by itself, if somebody asks."""
        self._timers.at(now + self.tuning.reconnect_interval_s * self._chance.uniform(0.75, 1.25), self._reconnect)
        dead = [node_id for node_id in self._members.gone if node_id in self.accused]
        if dead:
            self._probing.try_dead(self._chance.choice(dead), effects)

    def _sweep(self, now: float, effects: list[Effect]) -> None:
        """Forget those that have been gone for long, and later that they were ever there."""
        self._timers.at(now + min(_SWEEP_S, self.tuning.forget_s), self._sweep)
        for node_id in [gone for gone, since in self._members.gone.items() if now - since >= self.tuning.forget_s]:
            self.forget(node_id, now)
            effects.append(Changed(node_id, "forgotten"))
        forgotten = self._members.forgotten
        for node_id in [node_id for node_id, (_, until) in forgotten.items() if until <= now]:
            del forgotten[node_id]
            self._removals.pop(node_id, None)

    # ------------------------------------------------------------------ messages

    def handle(self, messages: Iterable[Message], sender: NodeId, now: float, *, stream: bool = False) -> list[Effect]:
        """What a member has sent, in a datagram or over a link (`stream`)."""
        effects: list[Effect] = []
        if sender not in self.known:  # it may have been removed, and says that it is there
            return self.learn((m for m in messages if isinstance(m, Claim) and m.node_id == sender), now, sender)
        for message in messages:
            if isinstance(message, Claim):
                self._take(message, sender, now, effects)
            else:
                self._handle(message, sender, stream, now, effects)
        if sender in self.accused:
            self._tell(sender, now, effects, stream)
        return effects

    def _handle(self, message: Question, sender: NodeId, stream: bool, now: float, effects: list[Effect]) -> None:
        match message:
            case Ping():
                self._probing.answer(message, sender, stream, effects)
            case Ack():
                self._probing.acked(message, sender, stream, now, effects)
            case PingRequest():
                self._probing.relay(message, sender, now, effects)
            case Nack():
                self._probing.nacked(message, sender, now, effects)
            case SyncAsk():
                self._comparing.asked(message, sender, now, effects)
            case Digest():
                self._comparing.compare(message, sender, now, effects)
            case Get():
                self._comparing.give(message.node_ids, sender, now, effects)
            case Delta():
                self._receive(message, sender, now, effects)

    def _tell(self, node_id: NodeId, now: float, effects: list[Effect], stream: bool = False) -> None:
        """Let a member that speaks know what is said of it, so that it can take it back; not too often."""
        claim = self._members.accusation(node_id) if self.tuning.buddy else None
        if claim is not None and now - self.accused[node_id].told_at >= _TELL_S:
            self.accused[node_id].told_at = now
            effects.append(Send(node_id, [claim], stream))

    def _take(self, claim: Claim, sender: NodeId, now: float, effects: list[Effect]) -> None:
        if claim.kind is Kind.ALIVE or claim.kind is Kind.LEFT:
            self._own_word(claim, sender, now, effects)
        elif claim.node_id == self.me.node_id:
            self._about_me(claim, sender, now, effects)
        elif claim.kind is Kind.REMOVED:
            own = self.known.get(claim.node_id)
            if own is not None and _is_near(claim, own) and claim.node_id in self._members.gone:
                self._removed(claim, now, effects)
        else:
            self._accusation(claim, sender, now, effects)

    def _receive(self, delta: Delta, sender: NodeId, now: float, effects: list[Effect]) -> None:
        """What another holds of some members. Where it is behind, it gets what this node holds."""
        before = self._members.fingerprint
        for own, accusation in delta.pairs:
            if own.node_id not in self.known and own.node_id != self.me.node_id:
                removal = self._removals.get(own.node_id)
                if removal is not None and own.point <= removal.point:
                    effects.append(Send(sender, [removal]))
                else:
                    self._newcomer(own, now, effects, accusation)
                continue
            self._own_word(own, None, now, effects)
            if accusation is None or accusation.node_id != own.node_id:
                continue
            if own.node_id == self.me.node_id:
                self._about_me(accusation, sender, now, effects)
            elif self.known[own.node_id].kind is Kind.LEFT or self.known[own.node_id].point > accusation.point:
                self._comparing.give([own.node_id], sender, now, effects)
            else:
                self._accusation(accusation, sender, now, effects, synced=True)
        if self._members.fingerprint != before:
            self._comparing.soon(now)

    # ------------------------------------------------------------------ own words

    def _about_me(self, claim: Claim, sender: NodeId, now: float, effects: list[Effect]) -> None:
        """Take an accusation back by going on to a higher incarnation (SWIM, section 4.2)."""
        me = self.me
        if me.kind is Kind.LEFT or claim.point > (me.boot, me.incarnation + _JUMP_MAX):
            return  # a word about a life that this node does not have any more, or never had
        if claim.point < me.point:
            if self._answers.grants(sender, now, self.tuning.gossip_interval_s):
                effects.append(Send(sender, [me]))
        elif self._may_say(claim, now):
            # One accuser that errs all the time says more about itself than about this node.
            if now - self._blamed.get(claim.by, -math.inf) >= _BLAME_S:
                self._blamed = {by: at for by, at in self._blamed.items() if now - at < _BLAME_S}
                self._blamed[claim.by] = now
                self._probing.feel(1)
            self.announce(self._refute(claim.incarnation + 1), now)
            effects += [Refuted(claim.by, claim.kind), Send(sender, [self.me])]

    def _may_say(self, claim: Claim, now: float) -> bool:
        """Whether a member's own word, or one that this node has to take back, counts now.

        News goes out once in a gossip interval. Who says more of itself than that, or is accused more often, is not
        worth more of everybody's time: the latest waits.
        """
        node_id, interval_s = claim.node_id, self.tuning.gossip_interval_s
        if self._words.grants(node_id, now, interval_s):
            return True
        held = self._held.get(node_id)
        if held is None:
            self._timers.at(now + interval_s, self._say_held, node_id)
        if held is None or claim.rank > held.rank:
            self._held[node_id] = claim
        return False

    def _say_held(self, now: float, effects: list[Effect], node_id: NodeId) -> None:
        claim = self._held.pop(node_id, None)
        if claim is None:
            return
        if node_id == self.me.node_id:
            self._about_me(claim, claim.by, now, effects)
            return
        before = len(effects)
        self._own_word(claim, None, now, effects)
        if len(effects) == before and self.known.get(node_id) is claim:
            effects.append(Changed(node_id, "updated"))  # its owner was not told when it came

    def _own_word(self, claim: Claim, sender: NodeId | None, now: float, effects: list[Effect]) -> None:
        """A member's own word about itself."""
        node_id, members = claim.node_id, self._members
        own = members.known.get(node_id)
        if own is None:
            if node_id != self.me.node_id:
                self._newcomer(claim, now, effects)
            return
        accused = members.accused.get(node_id)
        if claim.rank <= own.rank:
            if accused is not None and sender is not None and claim.kind is Kind.ALIVE:
                self._tell(node_id, now, effects)
            return
        if accused is not None and claim.kind is Kind.ALIVE:
            if claim.point <= accused.claim.point:
                members.set(claim, accused, now)  # it has not heard of it yet
                self._tell(node_id, now, effects)
                return
            if claim.boot == accused.claim.boot and self._damping.holds(node_id, now, self.tuning.flaps_max):
                members.set(claim, accused, now)
                self._spread(claim, now)
                self._free_later(node_id)
                return
        if self._may_say(claim, now):
            self._believe(claim, accused, now, effects)

    def _believe(self, claim: Claim, accused: Accused | None, now: float, effects: list[Effect]) -> None:
        """Hold a member's word for the latest about it; `accused` is what it outdoes."""
        node_id = claim.node_id
        was = self._members.state(node_id)
        self._members.set(claim, None, now)
        self._spread(claim, now)
        if claim.kind is Kind.LEFT:
            if was is not NodeState.LEFT:
                effects.append(Changed(node_id, "left"))
        elif was is NodeState.ALIVE:
            effects.append(Changed(node_id, "updated"))
        else:
            if was is NodeState.FAILED and accused is not None and claim.boot == accused.claim.boot:
                self._damping.returned(node_id, now, self.tuning.flaps_max)
            effects.append(Changed(node_id, "joined"))

    def _newcomer(self, claim: Claim, now: float, effects: list[Effect], dead: Claim | None = None) -> None:
        """A member that is not known, or no more; `dead` is the word that came with its own."""
        node_id, members = claim.node_id, self._members
        if dead is not None and not self._may_accuse(dead, claim):
            dead = None
        rank, _ = members.forgotten.get(node_id, ((-1, 0, 0), 0.0))
        if max(claim.rank, claim.rank if dead is None else dead.rank) <= rank:
            removal = self._removals.get(node_id)
            if removal is not None and claim.kind is Kind.ALIVE:  # it is there after all, and can say so
                effects.append(Send(node_id, [removal], stream=True))
                return
            if dead is not None or claim.kind is not Kind.ALIVE or rank[2] != Kind.DEAD:
                return
            # It was forgotten as dead and does not know it: without this it could never take that back.
            dead = self._accuse(node_id, rank[0], rank[1], Kind.DEAD)
        members.forgotten.pop(node_id, None)
        self._removals.pop(node_id, None)
        members.set(claim, None if dead is None else Accused(dead, now), now)
        self._spread(dead or claim, now)
        if dead is not None:
            self._probing.try_dead(node_id, effects)
        elif claim.kind is Kind.ALIVE:
            effects.append(Changed(node_id, "joined"))

    # ------------------------------------------------------------------ accusations

    def _may_accuse(self, claim: Claim, own: Claim) -> bool:
        """Whether an accusation can be about a member whose own latest word is `own`."""
        if own.kind is Kind.LEFT or not _is_near(claim, own):
            return False
        return claim.node_id == own.node_id and (claim.by in self.known or claim.by == self.me.node_id)

    def _suspect(self, node_id: NodeId, now: float, effects: list[Effect]) -> None:
        """Accuse a member by this node's own word, or confirm what another said."""
        point = self._members.accusation(node_id) or self.known[node_id]
        self._accusation(self._accuse(node_id, *point.point, Kind.SUSPECT), None, now, effects)

    def _accusation(
        self, claim: Claim, sender: NodeId | None, now: float, effects: list[Effect], *, synced: bool = False
    ) -> None:
        """What one member says of another; `sender` is None where it is this node that says it."""
        node_id = claim.node_id
        own, accused = self.known.get(node_id), self.accused.get(node_id)
        if own is None or claim.point > (own.boot, own.incarnation + _JUMP_MAX):
            rank, _ = self._members.forgotten.get(node_id, ((-1, 0, 0), 0.0))
            if sender is not None and claim.rank > rank:
                effects.append(Want(node_id, sender))
            return
        if not self._may_accuse(claim, own) or (accused is not None and claim.point < accused.claim.point):
            return
        if accused is not None and accused.suspicion is None:
            if claim.point > accused.claim.point:  # dead already; remember how far it had come
                self._members.set(own, Accused(claim, accused.since), now)
                self._damping.accused(node_id, claim.by, now, self.tuning.flaps_max)
                self._spread(claim, now)
            return
        if accused is None or claim.point > accused.claim.point or accused.suspicion is None:
            suspicion = self._begin_suspicion(claim, now, effects)
        else:
            suspicion = accused.suspicion
            if suspicion.confirm(claim.by):
                self._damping.accused(node_id, claim.by, now, self.tuning.flaps_max)
                self._spread(claim, now)
        if claim.kind is Kind.DEAD and not synced and suspicion.verdict is None:
            suspicion.verdict = claim
            suspicion.shorten(self.tuning.trial * self._suspicion_min_s())
            self._spread(claim, now)
        if suspicion.ends <= now:
            self._dead(suspicion.verdict or claim, now, effects)
        else:
            self._watch(node_id, suspicion, now)

    def _suspicion_min_s(self) -> float:
        tuning = self.tuning
        return tuning.alpha * max(1.0, math.log10(self.present + 1)) * tuning.probe_interval_s

    def _begin_suspicion(self, claim: Claim, now: float, effects: list[Effect]) -> Suspicion:
        node_id, tuning, before = claim.node_id, self.tuning, self.accused.get(claim.node_id)
        min_s, expected = self._suspicion_min_s(), max(0, int(tuning.alpha) - 2)
        since = now if before is None else before.since
        suspicion = Suspicion(
            claim.by, now, min_s=min_s, max_s=tuning.beta * min_s,
            expected=expected if self.present - 1 >= expected else 0, latest=since + 2 * tuning.beta * min_s,
        )  # fmt: skip
        self._members.set(self.known[node_id], Accused(claim, since, suspicion), now)
        self._damping.accused(node_id, claim.by, now, tuning.flaps_max)
        self._spread(claim, now)
        if before is None:
            effects.append(Changed(node_id, "suspected", claim.by))
        # A few of those who hear of it look for themselves, so that it is confirmed, or not, by who knows.
        if claim.by != self.me.node_id and self._chance.random() * self.present < tuning.checks * (expected + 1):
            self._probing.check(node_id, now, effects)
        return suspicion

    def _watch(self, node_id: NodeId, suspicion: Suspicion, now: float) -> None:
        """Look after a suspicion when it ends; who looks too early looks again."""
        ends = max(now, suspicion.ends)  # a timer in the past would look like a stall of this node
        if ends < self._ends.get(node_id, math.inf):
            self._ends[node_id] = ends
            self._timers.at(ends, self._suspicion_ends, node_id, ends)

    def _suspicion_ends(self, now: float, effects: list[Effect], node_id: NodeId, ends: float) -> None:
        if self._ends.get(node_id) != ends:
            return  # an earlier one was asked for meanwhile, and has come
        del self._ends[node_id]
        accused = self.accused.get(node_id)
        if accused is None or accused.suspicion is None:
            return
        if accused.suspicion.ends > now:
            self._watch(node_id, accused.suspicion, now)
            return
        claim = accused.suspicion.verdict or self._accuse(node_id, *accused.claim.point, Kind.DEAD)
        self._dead(claim, now, effects)

    def _dead(self, claim: Claim, now: float, effects: list[Effect]) -> None:
        node_id = claim.node_id
        accused = self.accused[node_id]
        is_told = accused.suspicion is not None and accused.suspicion.verdict is claim
        self._members.set(self.known[node_id], Accused(claim, accused.since), now)
        if not is_told and self._members.accusation(node_id) is not None:
            self._spread(claim, now)
        effects.append(Changed(node_id, "failed", claim.by))

    def _free_later(self, node_id: NodeId) -> None:
        if node_id not in self._damped:
            self._damped.add(node_id)
            self._timers.at(self._damping.free_at(node_id, self.tuning.flaps_max), self._free, node_id)

    def _free(self, now: float, effects: list[Effect], node_id: NodeId) -> None:
        """A member that came and went too often has been calm for long enough: its latest word counts again."""
        self._damped.discard(node_id)
        if node_id not in self.accused or self._members.accusation(node_id) is not None:
            return
        if self._damping.holds(node_id, now, self.tuning.flaps_max):
            self._free_later(node_id)
            return
        self._members.set(self.known[node_id], None, now)
        effects.append(Changed(node_id, "joined"))

    def _removed(self, claim: Claim, now: float, effects: list[Effect]) -> None:
        """Forget a member that is gone, by somebody's word; its own newer one brings it back."""
        node_id = claim.node_id
        self.forget(node_id, now)
        self._members.forgotten[node_id] = (claim.rank, now + self.tuning.forget_s)
        self._removals[node_id] = claim
        self._spread(claim, now)
        effects.append(Changed(node_id, "forgotten", claim.by))

    # ------------------------------------------------------------------ telling everybody

    def _spread(self, claim: Claim, now: float) -> None:
        self._queue.put(claim)
        if not self._gossips:
            self._gossips = True
            self._timers.at(now + self.tuning.gossip_interval_s * self._chance.random(), self._gossip)

    def _gossip(self, now: float, effects: list[Effect]) -> None:
        effects += self._packets()
        self._gossips = bool(self._queue)
        if self._gossips:
            self._timers.at(now + self.tuning.gossip_interval_s, self._gossip)

    def _packets(self) -> list[Effect]:
        """One round of gossip, to more members while more is queued than goes into a packet or two.

        Nobody to talk to: it has been said to all.
        """
        effects: list[Effect] = []
        haste = min(_HASTE_MAX, 1 + len(self._queue) // _HASTE_PER)
        for node_id in self._members.some(self.tuning.gossip_nodes * haste):
            packet = self._packet(node_id, [])
            if packet.messages:
                effects.append(packet)
        if not self.present:
            self._queue = Dissemination()
        return effects

    def _packet(self, to: NodeId, messages: list[Message]) -> Send:
        """A datagram with these messages and as many claims as fit."""
        if self._queue:
            room = self.tuning.payload_bytes - sum(message.size for message in messages)
            rounds = self.tuning.retransmit * math.ceil(math.log10(self.present + 2))
            messages = [*messages, *self._queue.take(room, max(self.tuning.retransmit_min, rounds), to)]
        return Send(to, messages)


def _is_near(claim: Claim, own: Claim) -> bool:
    """Whether a member whose latest word is `own` can outdo the claim one day: otherwise it could never come back."""
    return own.point <= claim.point <= (own.boot, own.incarnation + _JUMP_MAX)
