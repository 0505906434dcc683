"""Carries out what the view decides: dials members, tells linked nodes about new cards, and says goodbye.

One loop drives the plain machine; each dial is a task of its own. Cards from peers are verified before the view sees
them: a card speaks only for the node that signed it, whoever relays it. On a new link each side sends the cards it has,
in messages of at most `_CARDS_PER_MESSAGE`.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable

import attrs
import trio

from ..config import Config
from ..counters import Counters
from ..errors import MeshError, UnreachableError
from ..net.handshake import DuplicateLinkError
from ..net.link import Handler, Link
from ..net.pool import Pool
from ..security.records import TCP, NodeRecord
from ..security.trust import Trust
from ..values import Address, NodeId
from ..wire.messages import Members
from .view import Changed, Dial, Effect, Spread, View

__all__ = ["Gossip", "NodeEvent"]

log = logging.getLogger("bms.membership")

_CARDS_PER_MESSAGE = 64
_RESEND_S = 1.0
# Admission, record and details have 4 KiB each at most; every peer takes frames of this size.
_CARD_BYTES_MAX = 16 * 1024


@attrs.frozen
class NodeEvent:
    """What happened to a member: "joined", "suspected", "failed", "left" or "updated"."""

    what: str
    node_id: NodeId


class Gossip:
    """The membership subsystem of one node."""

    name = "membership"

    def __init__(
        self,
        *,
        view: View,
        trust: Trust,
        counters: Counters,
        my_card: Callable[[], list[object]],
        on_outdated: Callable[[NodeRecord], None],
    ) -> None:
        self.view = view
        self.pool: Pool | None = None
        self.is_leaving = False
        self._trust = trust
        self._counters = counters
        self._my_card = my_card
        self._on_outdated = on_outdated
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()
        self._owed: dict[Link, None] = {}
        """Links whose queue had no room for cards: they get all of them when there is."""
        self._resend_at = 0.0
        self._watchers: list[Callable[[NodeEvent], None]] = []
        self.routes: dict[type, Handler] = {Members: self._receive_members}

    # ------------------------------------------------------------------ life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the view until cancelled."""
        self.view.no_dials()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                while True:
                    deadline = self.view.deadline()
                    until = float("inf") if deadline is None else deadline
                    self._wake = trio.Event()
                    with trio.move_on_at(min(until, self._resend_at) if self._owed else until):
                        await self._wake.wait()
                    self._act(self.view.tick(trio.current_time()))
                    self._send_owed(trio.current_time())
        finally:
            self._nursery = None

    def reconfigure(self, config: Config) -> None:
        """Use new times at once, also for members that are suspect already."""
        self.view.retime(
            suspicion_timeout_s=config.gossip.suspicion_timeout_s,
            redial_interval_s=config.gossip.redial_interval_s,
            redial_interval_max_s=config.gossip.redial_interval_max_s,
        )
        self._wake.set()

    def watch(self, watcher: Callable[[NodeEvent], None]) -> Callable[[], None]:
        """Call `watcher` with each event from now on; returns what ends it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    # ------------------------------------------------------------------ events

    def link_up(self, link: Link) -> None:
        """A link came up: note its node, and tell it whom we know."""
        self._act(self.view.link_up(link.peer.admission, link.peer.record, trio.current_time()))
        self._send_cards(link, [self._my_card(), *self.view.cards()])

    def link_down(self, link: Link, last: bool) -> None:
        """A link ended; no evidence about its node when this one is leaving."""
        if last and not self.is_leaving:
            self._act(self.view.link_down(link.node_id, trio.current_time()))

    def announce(self) -> None:
        """Send one's own card, which has changed, to every linked node."""
        for link in self._links():
            self._send_cards(link, [self._my_card()])

    def _links(self) -> list[Link]:
        return [link for link in (self.pool.links.values() if self.pool else ()) if link.is_open]

    def _send_cards(self, link: Link, cards: list[list[object]]) -> None:
        count = min(_CARDS_PER_MESSAGE, link.peer.frame_bytes_max // _CARD_BYTES_MAX)
        for start in range(0, len(cards), count):
            if not link.send_nowait(Members(cards[start : start + count])):
                self._counters.add("membership.cards_unsent")
                if link.is_open:
                    self._owed[link] = None
                    self._wake.set()
                return

    def _send_owed(self, now: float) -> None:
        if self._owed and now >= self._resend_at:
            self._resend_at = now + _RESEND_S
            owed, self._owed = self._owed, {}
            for link in owed:
                self._send_cards(link, [self._my_card(), *self.view.cards()])

    def _receive_members(self, link: Link, message: Members) -> None:
        now = trio.current_time()
        for card in message.cards:
            admission, record = self._trust.check_card_untrusted(card)
            mine = self._my_card()
            if record.signed == mine[1]:
                continue
            self._counters.add("membership.cards_received")
            if record.node_id == self.view.me:
                self._on_outdated(record)
                continue
            self._act(self.view.learn(admission, record, now, link.node_id))

    # ------------------------------------------------------------------ effects

    def _act(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Dial):
                if self._nursery is not None:
                    self._nursery.start_soon(self._dial, effect.node_id)
            elif isinstance(effect, Spread):
                member = self.view.members[effect.node_id]
                for link in self._links():
                    if link.node_id not in (effect.node_id, effect.learned_from):
                        self._send_cards(link, [member.card])
            elif isinstance(effect, Changed):
                self._tell(NodeEvent(effect.what, effect.node_id))
        self._wake.set()

    def _tell(self, event: NodeEvent) -> None:
        member = self.view.members[event.node_id]
        log.info("%s %s %s", event.what, event.node_id.short, member.record.name)
        self._counters.add(f"membership.{event.what}")
        for watcher in list(self._watchers):
            watcher(event)

    async def _dial(self, node_id: NodeId) -> None:
        member = self.view.members.get(node_id)
        if self.pool is None or member is None:
            return
        addresses = [Address(host, port) for kind, host, port in member.record.addresses if kind == TCP]
        link, errors = await self.pool.dial_any(addresses)
        if link is None and not any(isinstance(error, DuplicateLinkError) for error in errors):
            for error in errors:
                log.debug("dialing %s: %s", node_id.short, error)
            refused = bool(errors) and all(_is_refused(error) for error in errors)
            self._act(self.view.dialed(node_id, trio.current_time(), refused=refused))
        elif link is None or link.node_id != node_id:
            # Either another link stays, and has come or comes up by itself, or somebody else lives at that address now.
            self._act(self.view.dialed(node_id, trio.current_time(), refused=False))


def _is_refused(error: MeshError) -> bool:
    """Whether the node's host itself said that nobody listens there."""
    if not isinstance(error, UnreachableError):
        return False
    seen: list[BaseException] = [error]
    while seen:
        cause = seen.pop()
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return True
        if isinstance(cause, BaseExceptionGroup):
            seen.extend(cause.exceptions)
        elif cause.__cause__ is not None:
            seen.append(cause.__cause__)
    return False
