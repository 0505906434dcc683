"""Members that turn on the mesh: each costs its own link and nothing else.

What every test asserts after its attack stands in `hostile.siege`; meanwhile `scene.witness` holds an honest member's
link.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from hostile import (
    Raw,
    Siege,
    cards_in,
    connect,
    context_of,
    hello_of,
    open_member,
    packet,
    serve_hostile,
    siege,
    tell,
)

from bms.messaging.window import WINDOW
from bms.security.records import LEFT, TCP
from bms.values import Address
from bms.wire.framing import frame
from bms.wire.messages import (
    Broadcast,
    ChunksGet,
    Close,
    CloseCode,
    EntriesGet,
    Error,
    IdsGet,
    Note,
    Ok,
    Packet,
    Ping,
    Pong,
    Proof,
    Push,
    Request,
    Response,
    Sync,
    Welcome,
    encode_message,
)  # fmt: skip
from bms.world import SystemNetwork, World
from helpers import make_authority, make_identity, make_record, open_party, until

MIB = 2**20


async def joined(scene: Siege, **options: Any) -> Raw:
    """The attacker, in."""
    raw = await scene.connect(**options)
    await raw.join(scene.attacker)
    await until(lambda: scene.mesh.is_connected(scene.attacker.node_id))
    return raw


async def thrown_out(scene: Siege, raw: Raw, code: CloseCode) -> Close:
    close = await raw.fate()
    assert close is not None
    assert close.code == code
    await until(lambda: not scene.mesh.is_connected(scene.attacker.node_id))
    return close


# ---------------------------------------------------------------------- malformed

OUT_OF_STATE: dict[str, Any] = {
    "a second hello": None,
    "a proof": Proof(bytes(64)),
    "a welcome": Welcome(1, None),
}


@pytest.mark.parametrize("message", OUT_OF_STATE.values(), ids=OUT_OF_STATE)
async def test_a_handshake_message_on_a_link_ends_it(tmp_path: Path, message: Any) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness():
        raw = await joined(scene)
        await raw.send(message or hello_of(scene.attacker))
        await thrown_out(scene, raw, CloseCode.PROTOCOL_ERROR)
        assert scene.count("net.protocol_errors") == 1


BAD_FRAMES: dict[str, tuple[bytes, CloseCode]] = {
    "4 GiB": (b"\xff\xff\xff\xff", CloseCode.AT_LIMIT),
    "above the limit": ((MIB + 1).to_bytes(4, "big"), CloseCode.AT_LIMIT),
    "empty": (bytes(4), CloseCode.PROTOCOL_ERROR),
    "no CBOR": (frame(b"\xff" * 40), CloseCode.PROTOCOL_ERROR),
    "nested a million deep": (frame(b"\x81" * (MIB - 1) + b"\x00"), CloseCode.PROTOCOL_ERROR),
    "nested maps": (frame(b"\x82\x00" + b"\xa1\x00" * 1000 + b"\x00"), CloseCode.PROTOCOL_ERROR),
    "an array of 2^56": (frame(b"\x9b\x01" + bytes(7)), CloseCode.PROTOCOL_ERROR),
    "a string of 2^40": (frame(b"\x82\x00\x5b\x00\x00\x01" + bytes(5)), CloseCode.PROTOCOL_ERROR),
    "a map of 2^32": (frame(b"\x82\x00\xbb\x00\x00\x00\x01" + bytes(4)), CloseCode.PROTOCOL_ERROR),
    "duplicate keys": (frame(b"\x82\x00\xa2\x61a\x01\x61a\x02"), CloseCode.PROTOCOL_ERROR),
    "a tag": (frame(b"\x82\x00\xc2\x41\x01"), CloseCode.PROTOCOL_ERROR),
    "bytes behind": (frame(b"\x83\x18\x40\x01\x00\x00"), CloseCode.PROTOCOL_ERROR),
    "a NaN key": (frame(b"\x83\x18\x40\x01\xa1\xf9\x7e\x00\x01"), CloseCode.PROTOCOL_ERROR),
    "an unknown type": (frame(b"\x82\x0a\x00"), CloseCode.PROTOCOL_ERROR),
    "the control socket's type": (frame(b"\x84\x18\x50\x01\x61a\xa0"), CloseCode.PROTOCOL_ERROR),
    "a negative type": (frame(b"\x82\x20\x00"), CloseCode.PROTOCOL_ERROR),
    "a type that is no number": (frame(b"\x82\x61a\x00"), CloseCode.PROTOCOL_ERROR),
    "a field missing": (frame(b"\x82\x18\x40\x01"), CloseCode.PROTOCOL_ERROR),
    "a million items": (frame(b"\x83\x18\xff\x00\x9a\x00\x0f\xff\x00" + b"\x80" * 0xFFF00), CloseCode.PROTOCOL_ERROR),
    "a million items in a packet": (
        frame(encode_message(Packet(b"\x9a\x00\x0f\xff\x00" + b"\x80" * 0xFFF00))),
        CloseCode.PROTOCOL_ERROR,
    ),
    "a field of another kind": (frame(b"\x83\x18\x40\x01\x61a"), CloseCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("data", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_a_malformed_frame_ends_the_link(tmp_path: Path, data: bytes, code: CloseCode) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness():
        raw = await joined(scene)
        started = time.process_time()
        await raw.send(data)
        await thrown_out(scene, raw, code)
        assert time.process_time() - started < 1


async def test_types_from_128_up_and_pings_are_taken_in_any_number(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness():
        raw = await joined(scene)
        unknown = frame(b"\x83\x19\x01\x00\x01\x43abc")
        await raw.send(unknown * 5000)
        pings = [Ping(number, 0) for number in range(1, 2001)]
        await raw.send(*pings)
        answered: list[int] = []
        while len(answered) < 2000:
            pong = await raw.receive_a(Pong)
            if pong.id <= 2000:
                answered.append(pong.id)
        assert answered == list(range(1, 2001))
        assert scene.mesh.is_connected(scene.attacker.node_id)
        await raw.cut()
        await until(lambda: not scene.mesh.is_connected(scene.attacker.node_id))


async def test_nothing_behind_a_close_is_looked_at(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene:
        raw = await joined(scene)
        note = Note(1, scene.mesh._life.boot, 1, "t", b"late", 0)  # type: ignore[union-attr]
        await raw.send(Close(CloseCode.GOING_AWAY, "bye"), note, note)
        await raw.fate()
        await until(lambda: not scene.mesh.is_connected(scene.attacker.node_id))
        assert scene.count("messaging.received") == 0


# ---------------------------------------------------------------------- deaf


async def test_a_peer_that_never_reads_holds_a_bounded_queue_and_stops_nobody(tmp_path: Path) -> None:
    limits = {"link_queue_bytes_max": 64 * 1024, "frame_bytes_max": 64 * 1024, "body_bytes_max": 32 * 1024}
    async with siege(tmp_path, joined=True, limits={**limits, "drain_timeout_s": 0.5}) as scene, scene.witness():
        raw = await scene.connect(receive_buffer=4096)
        await raw.join(scene.attacker)
        await until(lambda: scene.mesh.is_connected(scene.attacker.node_id))
        link = scene.pool.link(scene.attacker.node_id)
        for _ in range(400):
            await scene.mesh.broadcast_message(bytes(30_000), "flood")
            assert link._queued_bytes <= 64 * 1024 + 31_000
        assert scene.count("messaging.broadcasts_unsent") > 0
        # It goes on asking, and never reads an answer.
        with trio.move_on_after(0.5):
            while True:
                await raw.send(*(Ping(number, 0) for number in range(1, 3000)))
        assert link._queued_bytes <= 64 * 1024 + 31_000
        await scene.serves_an_honest_member()
        await raw.cut()


async def test_a_node_with_a_deaf_peer_stops_in_time(tmp_path: Path) -> None:
    authority = make_authority()
    make_identity(authority, tmp_path, "target")
    deaf = make_identity(authority, tmp_path, "deaf")
    async with open_member(
        tmp_path, "target", limits={"drain_timeout_s": 0.5}, gossip={"keepalive_timeout_s": 600.0}
    ) as mesh:
        raw = await connect(mesh.address, context_of(tmp_path, deaf), receive_buffer=4096)
        await raw.join(deaf)
        await until(lambda: mesh.is_connected(deaf.node_id))
        for _ in range(20):
            await mesh.broadcast_message(bytes(700_000), "flood")
        assert mesh._life.pool.link(deaf.node_id)._queued_bytes > 0
        started = time.monotonic()
        await mesh.stop()
        assert 0.4 < time.monotonic() - started < 60
    await raw.cut()


# ---------------------------------------------------------------------- liars


async def test_forged_cards_of_others_end_the_link_that_brought_them(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness() as witness:
        other_mesh = make_identity(make_authority(), tmp_path, "elsewhere")
        victim = make_identity(scene.authority, tmp_path, "victim")
        record, foreign = make_record(victim), make_record(other_mesh)
        leave = make_record(victim, incarnation=9, state=LEFT)
        far = make_record(victim, boot=2**62)
        forged: dict[str, list[Any]] = {
            "signature": [victim.admission.signed, [leave.body, record.signature], leave.details],
            "other mesh": [other_mesh.admission.signed, foreign.signed, foreign.details],
            "by another node": [victim.admission.signed, make_record(scene.attacker).signed, record.details],
            "details": [victim.admission.signed, record.signed, leave.details + b"x"],
            "a boot in 10,000 years": [victim.admission.signed, far.signed, far.details],
        }
        for number, card in enumerate(forged.values()):
            raw = await scene.connect()
            await raw.join(scene.attacker, make_record(scene.attacker, boot=1_800_000_000_000 + number))
            await raw.send(tell(card))
            close = await raw.fate()
            assert close is not None
            assert close.code in (CloseCode.REFUSED, CloseCode.PROTOCOL_ERROR)
        assert scene.count("net.protocol_errors") == len(forged)
        assert victim.node_id not in [node.node_id for node in scene.mesh.nodes()]
        assert scene.mesh.is_connected(witness.node_id)


async def test_an_older_card_of_another_member_changes_nothing(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness():
        victim = make_identity(scene.authority, tmp_path, "victim")
        newest, older = make_record(victim, incarnation=5, name="new"), make_record(victim, incarnation=4, name="old")
        raw = await joined(scene)
        for record in (newest, older):
            await raw.send(tell([victim.admission.signed, record.signed, record.details]))
        await raw.send(Ping(77, 0))
        while (await raw.receive_a(Pong)).id != 77:
            pass
        assert scene.mesh.node(victim.node_id).name == "new"
        assert scene.mesh.is_connected(scene.attacker.node_id)
        await raw.cut()


async def test_a_member_that_leaves_and_comes_back_on_one_link_is_shown_as_it_says(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene:
        raw = await scene.connect()
        boot_id = bytes(16)
        await raw.join(scene.attacker, make_record(scene.attacker, boot_id=boot_id))
        node_id = scene.attacker.node_id
        await until(lambda: scene.mesh.is_connected(node_id))
        for incarnation, state, shown in ((2, LEFT, "left"), (3, 0, "alive"), (4, LEFT, "left")):
            record = make_record(scene.attacker, incarnation=incarnation, state=state, boot_id=boot_id)
            await raw.send(tell([scene.attacker.admission.signed, record.signed, record.details]))
            await until(lambda shown=shown: scene.mesh.node(node_id).state == shown)  # type: ignore[misc]
        await raw.cut()


async def test_a_member_that_says_it_left_is_not_dialed(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, open_party(scene.attacker) as party:
        place = (0, party.address.host, party.address.port)
        gone = make_identity(scene.authority, tmp_path, "gone")
        record = make_record(gone, state=LEFT, addresses=[place])
        raw = await scene.connect(gone)
        await raw.join(gone, record)
        await raw.cut()
        await until(lambda: not scene.pool._all)
        assert scene.mesh.node(gone.node_id).state == "left"
        await trio.sleep(0.3)
        assert not party.up


async def test_addresses_that_cannot_be_dialed_hurt_nobody(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness():
        hosts = ["a" * 64 + ".example", "..", "\u2603" * 60, "[::1]", "%", "-", "xn--a", "a\u3002b" + "c" * 70, "0"]
        raw = await joined(scene)
        cards = []
        for number, host in enumerate(hosts):
            victim = make_identity(scene.authority, tmp_path, f"odd{number}")
            record = make_record(victim, addresses=[(0, host, 1), (0, "127.0.0.1", 0)])
            cards.append([victim.admission.signed, record.signed, record.details])
        await raw.send(tell(*cards))
        await until(lambda: len(scene.mesh.nodes()) == 3 + len(hosts))
        # Every one of them is tried, and then tried again later.
        members = scene.mesh._life.view.members  # type: ignore[union-attr]
        await until(lambda: all(member.linked or member.dial_wait_s > 0 for member in members.values()))
        assert scene.count("supervisor.crashes") == 0
        await raw.cut()


@pytest.mark.parametrize(
    "observed", ["not an address", "evil.example", "a\u00a0b", "127.0.0.1 ", "::1%lo", "::", "::1", ""]
)
async def test_an_observed_address_that_is_none_is_not_passed_on(tmp_path: Path, observed: str) -> None:
    """A listener tells the dialer where it was seen from; a liar must not get into the node's own record."""

    async def lie(raw: Raw) -> None:
        await raw.admit(scene.attacker, Welcome(1, [observed, 1]))
        done.set()
        await raw.fate()

    done = trio.Event()
    async with siege(tmp_path, joined=True, listen_address="0.0.0.0:0") as scene:
        context = scene.context(server=True, ca=scene.attacker.trust_pem)
        async with serve_hostile(context, lie) as address:
            await scene.mesh.register_node(address)
            await done.wait()
            life = scene.mesh._life
            assert life is not None
            assert observed not in [host for _, host, _ in life.record.addresses]
            life._renew()  # its record can still be signed
            scene.pool.link(scene.attacker.node_id).end("the test is over")


async def test_a_member_that_takes_only_small_frames_stops_nothing_for_others(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness() as witness:
        cards = []
        for number in range(40):
            identity = make_identity(scene.authority, tmp_path, f"crowd{number}")
            record = make_record(identity, tags={"about": "x" * 1500})
            cards.append([identity.admission.signed, record.signed, record.details])
        teller = await joined(scene)
        await teller.send(tell(*cards))
        await until(lambda: len(scene.mesh.nodes()) == 43)
        small = make_identity(scene.authority, tmp_path, "small")
        raw = await scene.connect(small)
        await raw.join(small, frame_bytes_max=0)
        await raw.send(packet([7, 0, 1]))  # "I know one node: myself"
        told: set[bytes] = set()
        while len(told) < 42:
            told |= {card[0][0] for card in cards_in(await raw.receive_a(Packet))}
        async with witness.subscribe("news") as news:
            assert await scene.mesh.broadcast_message(bytes(100_000), "news") >= 1
            async for message in news:
                assert len(message.body) == 100_000  # type: ignore[union-attr]
                break


class Dark(SystemNetwork):
    """Nobody answers in 192.0.2.0/24; counts the dials there that are under way, and where they went."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.tried: list[Address] = []

    async def dial(self, address: Address) -> trio.SocketStream:
        if not address.host.startswith("192.0.2."):
            return await super().dial(address)
        self.tried.append(address)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await trio.sleep_forever()
        finally:
            self.now -= 1
        raise AssertionError


async def test_a_crowd_that_answers_nowhere_is_dialed_a_bounded_number_at_a_time_and_in_turn(tmp_path: Path) -> None:
    dark = Dark()
    world, gossip = World(network=dark), {"dial_timeout_s": 2.0}
    async with siege(tmp_path, joined=True, world=world, gossip=gossip) as scene:
        cards = []
        for number in range(150):
            identity = make_identity(scene.authority, tmp_path, f"crowd{number}")
            record = make_record(identity, addresses=[(TCP, "192.0.2.1", 1000 + number)])
            cards.append([identity.admission.signed, record.signed, record.details])
        make_identity(scene.authority, tmp_path, "asked")
        async with open_member(tmp_path, "asked") as asked:
            raw = await joined(scene)
            await raw.send(tell(*cards))
            await until(lambda: dark.now == 64)
            await scene.mesh.register_node(asked.address)  # what a program asks for does not wait behind them
        await until(lambda: len(set(dark.tried)) == 150)
        assert len(set(dark.tried[: 6 * 64])) == 150, "nobody waits while others are dialed again and again"
        assert dark.most == 64
        await raw.cut()


# ---------------------------------------------------------------------- inventors


async def test_ten_thousand_answers_to_nothing_are_passed_over(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness():
        raw = await joined(scene)
        for start in range(0, 10_000, 500):
            numbers = range(1_000_000 + start, 1_000_500 + start)
            await raw.send(*(Ok(n) for n in numbers), *(Error(n, "busy", "") for n in numbers))
            await raw.send(*(Response(n, b"x") for n in numbers), *(Pong(n, 0) for n in numbers))
        await raw.send(Ping(77, 0))
        while (await raw.receive_a(Pong)).id != 77:
            pass
        assert scene.mesh.is_connected(scene.attacker.node_id)
        await raw.cut()


async def test_ten_thousand_made_up_requests_are_answered_with_errors(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness():
        raw = await joined(scene)
        boot = scene.mesh._life.boot  # type: ignore[union-attr]
        answers: dict[str, int] = {}

        async def read() -> None:
            while sum(answers.values()) < 10_000:
                answer = await raw.receive_a(Ok, Error, Response)
                kind = answer.kind if isinstance(answer, Error) else type(answer).__name__
                answers[kind] = answers.get(kind, 0) + 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for start in range(0, 10_000, 400):
                numbers = range(start, start + 100)
                await raw.send(*(Request(n + 1, boot, n + 1, f"topic-{n}", b"?") for n in numbers))
                await raw.send(*(Request(n + 101, boot - 1, n + 1, "old", b"?") for n in numbers))
                await raw.send(*(Note(n + 201, 12345, n + 1, "other life", b"?", 0) for n in numbers))
                await raw.send(*(Note(n + 301, boot, n * 2**40 + 1, "one", b"?", 0) for n in numbers))
        assert answers.pop("NotFoundError") == 2500
        assert answers.pop("other_boot") == 5000
        assert sum(answers.values()) == 2500
        assert answers["Ok"] <= 1000
        assert scene.mesh._topics.waiting() <= 1000
        await raw.cut()


async def test_ten_thousand_ids_that_nobody_has_are_answered_with_nothing(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness():
        raw = await joined(scene)
        hashes = [os.urandom(32) for _ in range(10_000)]
        await raw.send(EntriesGet(1, hashes[:1000]), ChunksGet(2, hashes[:32]), IdsGet(3, 77, 0, 2**40))
        await raw.send(Sync(4, 2**64 - 1, 2**62, bytes(16)), EntriesGet(5, hashes))
        await raw.send(Push(2**63, 0, 2**62, [], []), Ping(77, 0))
        with trio.move_on_after(10):
            while not isinstance(answer := await raw.receive(), Pong | None) or (answer and answer.id != 77):
                pass
        assert scene.mesh.data_summary().position == 0
        await raw.cut()


async def test_topics_without_end_hold_a_bounded_number_of_messages(tmp_path: Path) -> None:
    limits = {"topics_max": 20, "inbox_messages_max": 5}
    async with siege(tmp_path, joined=True, limits=limits) as scene:
        raw = await joined(scene)
        boot = scene.mesh._life.boot  # type: ignore[union-attr]
        await raw.send(*(Note(n, boot, n, f"topic-{n % 100}", b"x", 0) for n in range(1, 1001)))
        answers = [await raw.receive_a(Ok, Error) for _ in range(1000)]
        assert sum(isinstance(answer, Ok) for answer in answers) == 5, "all it may have waiting, however many topics"
        assert {answer.kind for answer in answers if isinstance(answer, Error)} == {"busy"}
        assert scene.mesh._topics.waiting() == 5
        await raw.cut()


async def test_counters_that_jump_or_repeat_deliver_each_message_once(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene:
        raw = await joined(scene)
        boot = scene.mesh._life.boot  # type: ignore[union-attr]
        async with scene.mesh.subscribe("t") as messages:
            counters = [1, 1, 2**62, 1, 2**62, 2**62 - WINDOW, 2**62 - WINDOW + 1, 2**62 - 1, 2**62 - 1]
            await raw.send(*(Note(n + 1, boot, c, "t", b"x", 0) for n, c in enumerate(counters)))
            await raw.send(Broadcast(2**62, "t", b"again", 0), Broadcast(2**62 + 1, "t", b"new", 0))
            kinds = []
            for _ in counters:
                answer = await raw.receive_a(Ok, Error)
                kinds.append(answer.kind if isinstance(answer, Error) else "ok")
            assert kinds == ["ok", "ok", "ok", "too_old", "ok", "too_old", "ok", "ok", "ok"]
            got = []
            async for message in messages:
                got.append(message.id.rsplit("-", 1)[1])  # type: ignore[union-attr]
                if len(got) == 5:
                    break
            assert got == [str(c) for c in (1, 2**62, 2**62 - WINDOW + 1, 2**62 - 1, 2**62 + 1)]
        await raw.cut()


async def test_messages_of_an_older_boot_do_not_reopen_the_newer_ones_window(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene:
        boot = scene.mesh._life.boot  # type: ignore[union-attr]
        old, new = await scene.connect(), await scene.connect()
        await old.join(scene.attacker, make_record(scene.attacker, boot=1_800_000_000_000))
        await new.join(scene.attacker, make_record(scene.attacker, boot=1_800_000_000_001))
        note = Note(1, boot, 1, "t", b"x", 0)
        await new.send(note)
        assert isinstance(await new.receive_a(Ok, Error), Ok)
        await old.send(note)
        await old.fate()
        await new.send(note)
        assert isinstance(await new.receive_a(Ok, Error), Ok)
        assert scene.count("messaging.received") <= 2
        assert scene.count("messaging.duplicates") == 1
        await new.cut()
