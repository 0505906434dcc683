"""A valid member that lies to the failure detector, over real TLS and real UDP: what each lie costs, and who is named.

`Liar` is admitted and linked, and says whatever a test wants, in sealed datagrams or over its link. `target` and
`victim` are whole honest nodes. After every lie: both still see each other alive and say so to a program, nothing of
ours crashed, and nobody was ever held for dead.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hostile import Raw, connect, context_of, open_member, packet

import bms
from bms.security.identity import Identity
from bms.security.pairs import Pairs
from bms.security.pairwise import PAYLOAD_BYTES_MAX
from bms.security.records import ACCUSATION_DOMAIN, DEAD, LEFT, SUSPECT, UDP, Accusation, NodeRecord
from bms.values import Address, NodeEvent, NodeId
from bms.wire.codec import decode_untrusted, encode
from bms.wire.messages import CloseCode, Packet, Ping, Pong
from bms.world import DatagramSocket, SystemNetwork
from helpers import make_authority, make_identity, make_record, until

BURST = 20
"""So many words of a member count at once, then one in each gossip interval (`membership.swim`)."""


def life_of(mesh: bms.Mesh) -> Any:
    assert mesh._life is not None
    return mesh._life


@attrs.define
class Liar:
    """The attacker's side: its identity, its link to the target, its socket, and the keys towards the target."""

    identity: Identity
    boot_id: bytes
    raw: Raw
    socket: DatagramSocket
    target: bms.Mesh
    record: NodeRecord
    pairs: Any = None

    @property
    def node_id(self) -> NodeId:
        return self.identity.node_id

    def word(self, incarnation: int, **fields: Any) -> NodeRecord:
        """What it says of itself."""
        addresses = [(UDP, self.socket.address.host, self.socket.address.port)]
        return make_record(
            self.identity,
            self.record.boot if self.pairs else 1_800_000_000_000,
            **{"incarnation": incarnation, "boot_id": self.boot_id, "addresses": addresses, "name": "liar", **fields},
        )

    def card(self, record: NodeRecord) -> list[Any]:
        return [self.identity.admission.signed, record.signed, record.details]

    def accuse(self, node_id: NodeId, boot: int, incarnation: int, kind: int = DEAD) -> list[Any]:
        said = Accusation.sign(
            self.identity.node_key,
            mesh_id=self.identity.mesh_id,
            node_id=node_id,
            boot=boot,
            incarnation=incarnation,
            kind=kind,
        )
        return [5, said.signed]

    def accuse_now(self, mesh: bms.Mesh, ahead: int = 0, kind: int = DEAD) -> list[Any]:
        record = life_of(mesh).record
        return self.accuse(mesh.node_id, record.boot, record.incarnation + ahead, kind)

    def say(self, *items: list[Any], via: DatagramSocket | None = None) -> int:
        """One datagram to the target, sealed as it must be; its bytes."""
        sealed = self.pairs.seal(self.target.node_id, encode(list(items)))
        assert (via or self.socket).send_nowait(sealed, life_of(self.target).listening_udp[0])
        return len(sealed)

    async def say_each(self, items: list[list[Any]]) -> None:
        """A datagram for each, none of which is lost on the way."""
        counters = self.target.counters
        for start in range(0, len(items), 50):
            batch = items[start : start + 50]
            expected = counters["datagrams.bytes_received"] + sum(65 + len(encode([item])) for item in batch)
            for item in batch:
                self.say(item)
            await until(lambda expected=expected: counters["datagrams.bytes_received"] >= expected)  # type: ignore[misc]

    async def tell(self, *items: list[Any]) -> None:
        """The same over its link."""
        await self.raw.send(packet(*items))

    async def settle(self) -> int:
        """Wait until all that was sent over the link was handled; the bytes of packets that came back meanwhile."""
        number = secrets.randbits(40)
        await self.raw.send(Ping(number, 0))
        size = 0
        while True:
            message = await self.raw.receive_a(Packet, Pong)
            if isinstance(message, Packet):
                size += len(message.payload)
            elif message.id == number:
                return size

    def heard(self, at: DatagramSocket | None = None) -> list[list[Any]]:
        """What came in datagrams so far, opened."""
        found: list[list[Any]] = []
        while packets := (at or self.socket).receive_nowait():
            found += self.opened(sealed for sealed, _ in packets)
        return found

    def opened(self, packets: Iterable[bytes]) -> list[list[Any]]:
        """What is in these datagrams."""
        found: list[list[Any]] = []
        for sealed in packets:
            opened = self.pairs.open_untrusted(sealed)
            if isinstance(opened, tuple):
                found += decode_untrusted(opened[1])
        return found


@attrs.define
class Scene:
    target: bms.Mesh
    victim: bms.Mesh
    liar: Liar
    events: list[NodeEvent]
    """What the target's program was told."""

    def said(self, what: str) -> int:
        return sum(event.what == what for event in self.events)

    async def is_calm(self) -> bool:
        await self.liar.settle()
        return True


@asynccontextmanager
async def scene(folder: Path, **fields: Any) -> AsyncIterator[Scene]:
    """Two honest nodes and a liar. See the top of this file for what holds at the end."""
    authority = make_authority()
    for name in ("target", "victim"):
        make_identity(authority, folder, name)
    identity = make_identity(authority, folder, "liar")
    gossip = {"keepalive_timeout_s": 600.0, **fields.pop("gossip", {})}
    options: dict[str, Any] = {"gossip": gossip, "enable_discovery": False, **fields}
    async with (
        open_member(folder, "target", **options) as target,
        open_member(folder, "victim", **options) as victim,
        trio.open_nursery() as nursery,
    ):
        await victim.register_node(target.address)
        await until(lambda: len(target.nodes("alive")) == len(victim.nodes("alive")) == 2)
        bound = await SystemNetwork().open_datagrams(Address("127.0.0.1", 0))
        raw = await connect(target.address, context_of(folder, identity))
        liar = Liar(identity, secrets.token_bytes(16), raw, bound, target, make_record(identity))
        liar.record = liar.word(1)
        await raw.join(identity, liar.record)
        liar.pairs = Pairs(
            box_keys=lambda: [identity.box_key],
            my_record=lambda: liar.record,
            record_of=lambda node_id: life_of(target).record if node_id == target.node_id else None,
        )
        found = Scene(target, victim, liar, [])
        nursery.start_soon(_listen, target, found.events)
        await until(lambda: target.is_connected(identity.node_id))
        await until(lambda: identity.node_id in [node.node_id for node in victim.nodes()])
        try:
            yield found
            await _check(found)
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await raw.cut()
            bound.close()


async def _listen(mesh: bms.Mesh, events: list[NodeEvent]) -> None:
    async with mesh.watch_nodes() as watch:
        async for event in watch:
            assert isinstance(event, NodeEvent)
            events.append(event)


async def _check(scene: Scene) -> None:
    pair = {scene.target: scene.victim, scene.victim: scene.target}
    for mesh, other in pair.items():
        await until(lambda mesh=mesh, other=other: mesh.node(other.node_id).state == "alive")  # type: ignore[misc]
        assert mesh.is_connected(other.node_id)
        for counter in ("datagrams.handler_crashes", "net.handler_crashes", "supervisor.crashes"):
            assert mesh.counters[counter] == 0, counter
        async with other.subscribe("honest") as messages:
            await mesh.send_message(other.node_id, b"still here", "honest")
            assert (await anext(messages)).body == b"still here"  # type: ignore[union-attr]
    failed = [event for event in scene.events if event.what == "failed" and event.node_id != scene.liar.node_id]
    assert not failed


def lines(caplog: pytest.LogCaptureFixture, pattern: str) -> list[str]:
    return [line for record in caplog.records if re.search(pattern, line := record.getMessage())]


# ---------------------------------------------------------------------- accusations


@pytest.mark.parametrize("kind", [SUSPECT, DEAD])
async def test_a_false_accusation_costs_one_incarnation_and_names_the_accuser(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: int
) -> None:
    caplog.set_level(logging.INFO, "bms.membership")
    async with scene(tmp_path) as s:
        before = life_of(s.victim).record.incarnation
        s.liar.say(s.liar.accuse_now(s.victim, kind=kind))
        await until(lambda: life_of(s.victim).record.incarnation > before)
        await until(lambda: s.said("suspected") and s.said("joined"))
        assert life_of(s.victim).record.incarnation == before + 1
        assert [event.by for event in s.events if event.what == "suspected"] == [s.liar.node_id]
        assert s.said("failed") == 0
        assert lines(caplog, f"suspected {s.victim.node_id.short} .*by the word of {s.liar.node_id[:8]}")
        assert lines(caplog, f"^{s.liar.node_id.short}.* held this node for .*, which it took back")


async def test_accusations_that_cannot_be_true_change_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        record = life_of(s.victim).record
        before = record.incarnation
        sent = s.target.counters["net.messages_sent"]
        points = [(record.boot, 2**48), (record.boot, before + 2000), (record.boot - 1, before), (record.boot, 0)]
        points += [(record.boot + 1, 1), (2**63 - 1, before)]
        lies = [s.liar.accuse(s.victim.node_id, *point) for point in points]
        lies += [s.liar.accuse(NodeId.of(os.urandom(32)), 1, 1) for _ in range(1000)]
        await s.liar.say_each(lies)
        await s.liar.say_each([s.liar.accuse(s.target.node_id, life_of(s.target).record.boot + 1, 1)])
        assert await s.is_calm()
        assert life_of(s.victim).record.incarnation == before
        assert not s.said("suspected")
        assert len(s.target.nodes()) == 3
        assert life_of(s.target).swim.accused.keys() <= {s.liar.node_id}
        assert s.target.counters["net.messages_sent"] - sent < 1200, "each unknown id is asked for once"


def beyond_bounds(liar: Liar, mesh: bms.Mesh, incarnation: int, extra: dict[int, bytes]) -> list[Any]:
    """An accusation that `Accusation.sign` does not make."""
    mesh_id, boot = liar.identity.mesh_id, life_of(mesh).record.boot
    body = encode([1, mesh_id, liar.node_id.raw, mesh.node_id.raw, boot, incarnation, DEAD, extra])
    return [5, [body, liar.identity.node_key.sign(ACCUSATION_DOMAIN, body)]]


@pytest.mark.parametrize(("incarnation", "extra"), [(2**63, {}), (2**48 + 1, {}), (1, {64: bytes(600)})])
async def test_an_accusation_beyond_the_bounds_is_malformed_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, incarnation: int, extra: dict[int, bytes]
) -> None:
    async with scene(tmp_path) as s:
        lie = beyond_bounds(s.liar, s.victim, incarnation, extra)
        await s.liar.say_each([lie] * 30)
        assert s.target.counters["membership.malformed_packets"] == 30
        assert len(lines(caplog, f"^{s.liar.node_id.short} liar sends packets that are malformed$")) == 1
        await s.liar.tell(lie)
        close = await s.liar.raw.fate()
        assert close is not None
        assert close.code == CloseCode.PROTOCOL_ERROR


async def test_a_flood_of_accusations_is_taken_back_no_more_often_than_news_goes_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bms.membership")
    async with scene(tmp_path) as s:
        before, started = s.target.counters["membership.refuted"], trio.current_time()
        await s.liar.say_each([s.liar.accuse_now(s.target, ahead) for ahead in range(400)])
        await until(lambda: not life_of(s.target).swim._held)
        spent_s = trio.current_time() - started
        assert 1 <= s.target.counters["membership.refuted"] - before <= BURST + spent_s / 0.2 + 1
        assert life_of(s.target).record.incarnation > 400, "every one of them is taken back all the same"
        assert len(lines(caplog, "held this node for")) == 1
        assert s.victim.node(s.target.node_id).state == "alive"


async def test_one_accusation_said_a_thousand_times_is_answered_a_few_times(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        lie = s.liar.accuse_now(s.target)
        s.liar.say(lie)
        await until(lambda: s.target.counters["membership.refuted"])
        sent, started = s.target.counters["datagrams.sent"], trio.current_time()
        await s.liar.say_each([lie] * 1000)
        spent_s = trio.current_time() - started
        assert s.target.counters["membership.refuted"] == 1
        assert s.target.counters["datagrams.sent"] - sent < 50 + 40 * spent_s


# ---------------------------------------------------------------------- its own word


async def test_the_greatest_incarnation_and_boot_of_a_member_bind_only_itself(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        far = s.liar.word(2**48)
        s.liar.say([4, far.signed])
        await until(lambda: life_of(s.target).swim.known[s.liar.node_id].incarnation == 2**48)
        boot = s.liar.identity.admission.serial + 315_000_000_000
        ahead = make_record(s.liar.identity, boot, incarnation=2**48, name="liar", boot_id=secrets.token_bytes(16))
        await s.liar.tell([6, s.liar.card(ahead)])
        await until(lambda: life_of(s.target).swim.known[s.liar.node_id].boot == boot)
        too_far = make_record(s.liar.identity, boot + 1_000_000_000, name="liar")
        await s.liar.tell([6, s.liar.card(too_far)])
        assert (await s.liar.raw.fate()) is not None
        assert life_of(s.target).swim.known[s.liar.node_id].boot == boot


async def test_a_flood_of_own_words_is_an_event_now_and_then_and_the_last_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bms.membership")
    async with scene(tmp_path) as s:
        started = trio.current_time()
        await s.liar.say_each([[4, s.liar.word(2 + number).signed] for number in range(1000)])
        await until(lambda: life_of(s.target).view.members[s.liar.node_id].record.incarnation == 1001)
        spent_s = trio.current_time() - started
        assert s.said("updated") + s.said("joined") <= 2 * (BURST + spent_s / 0.2 + 2)
        assert len(lines(caplog, "^updated ")) <= 2 * (BURST + spent_s / 10 + 2)
        await until(lambda: life_of(s.victim).swim.known[s.liar.node_id].incarnation == 1001)


async def test_who_leaves_and_comes_back_all_the_time_is_an_event_now_and_then(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        started = trio.current_time()
        words = [[4, s.liar.word(2 + number, state=LEFT * (number % 2)).signed] for number in range(400)]
        await s.liar.say_each(words)
        await until(lambda: s.target.node(s.liar.node_id).state == "left")
        spent_s = trio.current_time() - started
        assert s.said("left") + s.said("joined") <= BURST + spent_s / 0.2 + 2


async def test_more_words_than_a_node_can_check_are_dropped_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(tmp_path) as s:
        with trio.fail_after(60):
            while not s.target.counters["membership.words_over_limit"]:  # after a pause of seconds it checks more
                lies = [s.liar.accuse(NodeId.of(os.urandom(32)), 1, 1) for _ in range(6000)]
                await s.liar.tell(*lies[:4000])
                await s.liar.tell(*lies[4000:])
                await s.liar.settle()
        assert len(lines(caplog, "says more than a node can check")) == 1
        assert s.target.is_connected(s.liar.node_id)


async def test_of_long_packets_one_after_the_other_most_are_dropped_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(tmp_path) as s:
        sent = 0
        while not s.target.counters["membership.words_over_limit"]:
            await s.liar.tell([0, 1, bytes(900_000)])  # a ping, with a field of a later version
            await s.liar.settle()
            sent += 1
        assert sent >= 8, "what a newcomer is told at first is not dropped"
        assert len(lines(caplog, "says more than a node can check")) == 1
        assert s.target.is_connected(s.liar.node_id)


# ---------------------------------------------------------------------- addresses


async def test_a_member_with_anothers_addresses_takes_nothing_from_it(tmp_path: Path) -> None:
    """Its mesh dials the victim where it looks for the liar, finds the victim, and waits longer each time."""
    async with scene(tmp_path) as s:
        stolen = life_of(s.victim).record.addresses
        await s.liar.tell([6, s.liar.card(s.liar.word(2, addresses=stolen))])
        await until(lambda: life_of(s.target).view.members[s.liar.node_id].record.addresses == stolen)
        await s.liar.raw.cut()
        # Both ends dial the victim for the liar now.
        await until(lambda: life_of(s.target).view.members[s.liar.node_id].dial_wait_s > 0)
        # A dial that ends at the victim may put a new link in the place of the old one, never none.
        assert s.target.is_connected(s.victim.node_id)
        assert s.target.node(s.victim.node_id).state == "alive"


async def test_who_changes_its_addresses_all_the_time_does_not_have_others_dial_there_all_the_time(
    tmp_path: Path,
) -> None:
    dialed = 0

    async def accept(stream: trio.SocketStream) -> None:
        nonlocal dialed
        dialed += 1
        await stream.aclose()

    gossip = {"redial_interval_s": 0.5, "redial_interval_max_s": 60.0, "keepalive_timeout_s": 600.0}
    async with scene(tmp_path, gossip=gossip) as s, trio.open_nursery() as nursery:
        (somebody,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, accept, [somebody])
        port = somebody.socket.getsockname()[1]
        await s.liar.raw.cut()
        await until(lambda: not s.target.is_connected(s.liar.node_id))
        gossip_of_target, started = life_of(s.target).gossip, trio.current_time()
        for number in range(100):
            record = s.liar.word(2 + number, addresses=[(0, "127.0.0.1", port), (UDP, "127.0.0.1", 1 + number)])
            gossip_of_target.receive(s.liar.node_id, encode([[6, s.liar.card(record)]]), stream=True)
            await trio.sleep(0.02)
        await until(lambda: dialed)
        spent_s = trio.current_time() - started
        assert dialed <= 2 * (4 + 1 + spent_s / 0.5), "by two nodes"
        nursery.cancel_scope.cancel()


async def test_a_member_is_reached_where_it_is_though_its_record_does_not_say_so(tmp_path: Path) -> None:
    """As one behind a network address translator: no lie, but it needs a member that can say what it likes."""
    async with scene(tmp_path) as s:
        outside = await SystemNetwork().open_datagrams(Address("127.0.0.1", 0))
        s.liar.say([0, 5], via=outside)
        await until(lambda: (heard := s.liar.heard(outside)) and _answer(s.liar, heard, outside))
        await until(lambda: life_of(s.target).datagrams.is_validated(s.liar.node_id, outside.address))
        s.liar.heard()
        s.liar.say([0, 6], via=outside)
        await until(lambda: any(item[:2] == [1, 6] for item in s.liar.heard(outside)))
        assert not any(item[:2] == [1, 6] for item in s.liar.heard())
        outside.close()


def _answer(liar: Liar, heard: list[list[Any]], via: DatagramSocket | None = None, *, off: int = 0) -> bool:
    """Send the number of the ping that was heard back, or one that is `off`; False if there was no ping."""
    numbers = [item[1] for item in heard if item[0] == 0]
    for number in numbers:
        liar.say([1, number + off, b""], via=via)
    return bool(numbers)


async def test_an_address_that_a_member_makes_up_gets_a_few_packets_and_no_more_than_three_times_the_bytes(
    tmp_path: Path,
) -> None:
    """It cannot read what comes there: it guesses numbers, and sends them from its own address or the made up one."""
    async with scene(tmp_path) as s:
        somebody = await SystemNetwork().open_datagrams(Address("127.0.0.1", 0))
        counters, started, sent = s.target.counters, trio.current_time(), 0
        before = counters["datagrams.bytes_received"]
        for number in range(2000):
            sent += s.liar.say([0, number], via=somebody)
            sent += s.liar.say([1, number, b""], via=somebody)
            if number % 20 == 19:
                await until(lambda sent=sent: counters["datagrams.bytes_received"] >= before + sent)  # type: ignore[misc]
        got = [packet for packet, _ in somebody.receive_nowait()]
        assert got
        assert len(got) <= 2 + (trio.current_time() - started)
        assert sum(map(len, got)) <= 3 * sent
        heard, read = s.liar.opened(got), counters["datagrams.bytes_received"]
        assert _answer(s.liar, heard, somebody, off=1)
        assert _answer(s.liar, heard)
        await until(lambda: counters["datagrams.bytes_received"] >= read + 2 * len(got) * 65)
        life_of(s.target).datagrams.receive_nowait()
        assert not life_of(s.target).datagrams.is_validated(s.liar.node_id, somebody.address)
        somebody.close()


async def test_anothers_record_with_other_details_is_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        life = life_of(s.victim)
        forged = make_record(s.liar.identity, name="victim", addresses=[(0, "127.0.0.1", 9)])
        admission = life_of(s.target).view.members[s.victim.node_id].admission
        newer = life.record.incarnation + 1
        _, *fields = decode_untrusted(life.record.body)
        fields[4] = newer
        fields[6] = decode_untrusted(forged.body)[7]
        body = encode([1, *fields])
        s.liar.say([4, [body, s.liar.identity.node_key.sign("bms-node-v1", body)]])
        s.liar.say([6, [admission.signed, life.record.signed, forged.details]])
        await until(lambda: s.target.counters["datagrams.received"] >= 2)
        await s.liar.tell([6, [admission.signed, [body, life.record.signature], forged.details]])
        assert await s.liar.raw.fate() is not None
        assert life_of(s.target).view.members[s.victim.node_id].record.addresses == life.record.addresses


# ---------------------------------------------------------------------- questions without end


async def test_a_packet_of_pings_is_no_way_to_get_hundreds_of_answers(tmp_path: Path) -> None:
    """They would go wherever the liar's record says that it is."""
    async with scene(tmp_path) as s:
        s.liar.say(*([0, 7] for _ in range(PAYLOAD_BYTES_MAX // 3 - 2)))
        s.liar.say([0, 8])
        heard: list[list[Any]] = []

        def is_answered() -> bool:
            heard.extend(s.liar.heard())
            return [1, 8] in [item[:2] for item in heard]

        await until(is_answered)
        assert [1, 7] not in [item[:2] for item in heard]
        assert s.target.counters["membership.malformed_packets"] == 1


async def test_pings_through_a_node_are_a_few_in_a_period_whatever_time_they_are_given(tmp_path: Path) -> None:
    """Otherwise a member would have others send many times what it sends, to whatever address another one lists."""
    async with scene(tmp_path) as s:
        requests = [[2, number, s.victim.node_id.raw, budget] for number in range(300) for budget in (0, 500)]
        sent, started = s.target.counters["datagrams.sent"], trio.current_time()
        await s.liar.say_each(requests)
        spent_s = trio.current_time() - started
        assert s.target.counters["datagrams.sent"] - sent < 60 + (3 * 16 + 40) * spent_s


QUESTIONS: dict[str, Callable[[Scene], list[Any]]] = {
    "ask": lambda s: [7, 1, 3],
    "ask as a newcomer": lambda s: [7, 1, 1],
    "ask as one who knows the world": lambda s: [7, 1, 2**62],
    "get": lambda s: [9, [s.victim.node_id.raw, s.target.node_id.raw, s.liar.node_id.raw] * 100],
    "empty digest": lambda s: [8, []],
    "digest of the unknown": lambda s: [8, [[os.urandom(32), 2**62, 1, 3] for _ in range(1500)]],
    "get of the unknown": lambda s: [9, [os.urandom(32) for _ in range(1500)]],
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
async def test_questions_over_a_link_are_answered_up_to_an_allowance(
    tmp_path: Path, question: Callable[[Scene], list[Any]]
) -> None:
    async with scene(tmp_path) as s:
        item = question(s)
        await s.liar.settle()
        size = 0
        for _ in range(20):
            for _ in range(20):
                await s.liar.tell(item)
            size += await s.liar.settle()
        # 256 cards of some 600 bytes, or what is asked about in one digest
        assert size < 300_000
        assert s.target.is_connected(s.liar.node_id)
