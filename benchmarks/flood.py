"""What datagrams cost a node that come from somebody who is no member: 50,000 a second at one node of three.

Each node is a process, the sender another one. It floods with one kind at a time; `what` says which:

    forged       a member's NodeId, boot and new counters, sealed with another key: one opening each
    replayed     one packet of a member that was taken before
    cross-mesh   sealed in order, by a node of another mesh
    truncated    a member's packet, cut at every length
    mixed        all of these in turn

and of each kind: `sent` and `read` packets a second (what the node does not read in time, the system drops), `cpu` of
the node in percent of a core, `request` the median and `slow request` the 99th percentile of a request between two
members in the time of the flood in milliseconds, `replies` that came to where the packets came from, `suspicions`
among the members, and `memory` by how much the node's resident memory grew. `quiet` is the same without a flood.
"""

from __future__ import annotations

import secrets
import socket
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import common
import footprint
import trio
from common import Child, Options, Row

from bms.mesh import Mesh, open_mesh
from bms.security.keys import BoxKey, NodeKey
from bms.security.pairwise import End, derive_key, seal
from bms.values import Address, Message, NodeId

COLUMNS = ("what", "value", "low", "high", "unit")
UNITS = {"sent": "1/s", "read": "1/s", "cpu": "%", "request": "ms", "slow": "ms", "memory": "MiB"}
KINDS = ("quiet", "forged", "replayed", "cross-mesh", "truncated", "mixed")
RATE = 50_000
_BATCH_S = 0.004
_POOL = 512


# ---------------------------------------------------------------------- nodes


async def serve_node(place: Path, bootstrap: list[str]) -> None:
    """In a child: a node that answers requests, makes them, and counts."""
    async with open_mesh(common.node_config(place, bootstrap)) as mesh:
        life = mesh._life
        assert life is not None

        async def answer(command: dict[str, Any]) -> dict[str, Any]:
            if "links" in command:
                return {"ids": await common.linked(mesh, command["links"])}
            if "seal" in command:  # what a member sent, as somebody on the way sees it
                packet = life.datagrams._pairs.seal(NodeId(command["seal"]), b"\x80")
                assert packet is not None
                assert life.datagrams._sockets[0].send_nowait(packet, Address("127.0.0.1", command["udp"]))
                return {"packet": packet.hex()}
            if "ask" in command:
                return {"ms": await ask(mesh, NodeId(command["ask"]), command["seconds"])}
            counters = mesh.counters
            return {
                "read": counters["datagrams.received"],
                "suspicions": counters["membership.suspected"] + counters["membership.failed"],
            }

        ready = {"address": str(mesh.address), "udp": life.listening_udp[0].port, "id": mesh.node_id}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mesh.serve_requests, "echo", echo)
            await common.answer_commands(ready, answer)
            nursery.cancel_scope.cancel()


async def echo(message: Message) -> bytes:
    """Answer with what was asked."""
    return message.body


async def ask(mesh: Mesh, node_id: NodeId, seconds: float) -> list[float]:
    """The times of requests to another member, one after the other, in milliseconds."""
    found = []
    for begin in common.until(time.perf_counter() + seconds):
        await mesh.request(node_id, b"x" * 100, "echo")
        found.append(1000 * (time.perf_counter() - begin))
        await trio.sleep(0.01)
    return found


# ---------------------------------------------------------------------- the sender


def flood(port: int, kind: str, captured: str, me: str, seconds: float) -> dict[str, Any]:
    """Send what anybody can send; how many went out, and how many replies came."""
    packets = [_packet(kind, bytes.fromhex(captured), bytes.fromhex(me), number) for number in range(_POOL)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        send, target = sock.sendto, ("127.0.0.1", port)
        sent, begin = 0, time.perf_counter()
        while (spent := time.perf_counter() - begin) < seconds:
            due = int(spent * RATE)
            while sent < due:
                send(packets[sent % _POOL], target)
                sent += 1
            time.sleep(_BATCH_S)
        time.sleep(0.1)
        replies = 0
        while True:
            try:
                sock.recvfrom(2048)
            except BlockingIOError:
                return {"sent": sent / spent, "replies": replies}
            replies += 1


def _packet(kind: str, captured: bytes, me: bytes, number: int) -> bytes:
    match kind:
        case "forged":
            return captured[:41] + (2**40 + number).to_bytes(8, "big") + secrets.token_bytes(200)
        case "cross-mesh":
            return _foreign(me, number)
        case "truncated":
            return captured[: number % len(captured)]
        case "mixed":
            return _packet(KINDS[1 + number % 4], captured, me, number)
    return captured


def _foreign(me: bytes, number: int) -> bytes:
    node_id = NodeKey.generate(secrets.token_bytes).node_id
    own, other = BoxKey.generate(secrets.token_bytes), BoxKey.generate(secrets.token_bytes)
    sender = End(node_id.raw, secrets.token_bytes(16), own.public)
    key = derive_key(secrets.token_bytes(32), own, sender, End(me, secrets.token_bytes(16), other.public))
    return seal(key, sender, number + 1, bytes(200))


async def serve_sender() -> None:
    """In a child: floods when told to."""

    async def answer(command: dict[str, Any]) -> dict[str, Any]:
        return flood(**command)

    await common.answer_commands({}, answer)


# ---------------------------------------------------------------------- measuring


def measure(nodes: list[tuple[Child, dict[str, Any]]], sender: Child, kind: str, seconds: float) -> dict[str, float]:
    """One flood at the first node, while the second one asks it for something."""
    (victim, said), (asker, _), _ = nodes
    before = [child.ask() for child, _ in nodes]
    captured = asker.ask(seal=said["id"], udp=said["udp"])["packet"]
    begin, cpu, memory = time.perf_counter(), common.cpu_of(victim.pid), footprint.memory(victim.pid)["rss"]
    if kind != "quiet":
        sender.tell(port=said["udp"], kind=kind, captured=captured, me=said["id"], seconds=seconds)
    asked = asker.ask(ask=said["id"], seconds=seconds)["ms"]
    cpu, wall = common.cpu_of(victim.pid) - cpu, time.perf_counter() - begin
    sent = {"sent": 0.0, "replies": 0} if kind == "quiet" else sender.read()
    after = [child.ask() for child, _ in nodes]
    return {
        **sent,
        "read": (after[0]["read"] - before[0]["read"]) / wall,
        "cpu": 100 * cpu / wall,
        "memory": footprint.memory(victim.pid)["rss"] - memory,
        "request": common.quantile(asked),
        "slow request": common.quantile(asked, 0.99),
        "suspicions": sum(now["suspicions"] - then["suspicions"] for now, then in zip(after, before, strict=True)),
    }


def run(chosen: Options, folder: Path) -> dict[str, list[float]]:
    """Every kind in every run."""
    found: dict[str, list[float]] = defaultdict(list)
    places = common.make_identities(folder, 3)
    with Child.many([{"place": str(places[0]), "bootstrap": []}]) as first:
        settings: list[dict[str, Any]] = [
            {"place": str(place), "bootstrap": [first[0][1]["address"]]} for place in places[1:]
        ]
        with Child.many([*settings, {}]) as rest:
            nodes, (sender, _) = [*first, *rest[:-1]], rest[-1]
            for child, _ in nodes:
                child.ask(links=2)
            for _ in range(chosen.runs):
                for kind in KINDS:
                    for what, value in measure(nodes, sender, kind, 0.2 if chosen.quick else 5.0).items():
                        found[f"{kind} {what}"].append(value)
    return found


def main() -> None:
    """Measure, or be a child."""
    chosen = common.options(__doc__ or "", runs=3)
    if chosen.child is not None:
        if "place" in chosen.child:
            trio.run(serve_node, Path(chosen.child["place"]), chosen.child["bootstrap"])
        else:
            trio.run(serve_sender)
        return
    with tempfile.TemporaryDirectory(prefix="bms-bench-") as folder:
        found = run(chosen, Path(folder))
    rows: list[Row] = [
        {"what": what, **common.spread("value", values), "unit": UNITS.get(what.split()[1], "")}
        for what, values in found.items()
    ]
    common.write_result(common.Table("flood", COLUMNS, rows), chosen)


if __name__ == "__main__":
    main()
