"""mDNS for real: on the loopback interface, under a flood, and between hosts of a network of namespaces."""

from __future__ import annotations

import gc
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import pytest
import trio

import bms
from bms.membership import mdns
from bms.membership.candidates import BOUNDS
from bms.testing.namespaces import NamespaceHost, available, open_network
from bms.values import Address, NodeId
from helpers import make_authority, make_identity, until

ONE, TWO, THREE = (NodeId(f"{number:064x}") for number in (1, 2, 3))
LOOPBACK = ["127.0.0.1"]


def sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            pass  # that of the listing itself
    return count


def responders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "mdns" in thread.name]


async def announce(
    mesh_id: bytes, node_id: NodeId, host: str, heard: dict[str, tuple[Address, ...]], *more: str
) -> None:
    def on_change(announced: mdns.Announced) -> None:
        heard.clear()
        heard.update(announced)

    addresses = [Address(host, 7800), *(Address(other, 7800) for other in more)]
    await mdns.browse_and_announce(mesh_id, node_id, addresses, LOOPBACK, on_change)


async def test_nodes_of_one_mesh_hear_of_each_other_and_not_of_other_meshes() -> None:
    mesh, other = os.urandom(32), os.urandom(32)
    first: mdns.Announced = {}
    second: mdns.Announced = {}
    third: mdns.Announced = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce, other, THREE, "10.1.2.5", third)
        nursery.start_soon(announce, mesh, ONE, "10.1.2.3", first, "2001:db8::3")
        scope = trio.CancelScope()

        async def leave_later() -> None:
            with scope:
                await announce(mesh, TWO, "10.1.2.4", second)

        nursery.start_soon(leave_later)
        await until(lambda: first and second)
        assert first == {mdns.instance_of(mesh, TWO): (Address("10.1.2.4", 7800),)}
        assert second == {mdns.instance_of(mesh, ONE): (Address("10.1.2.3", 7800), Address("2001:db8::3", 7800))}
        scope.cancel()  # it says goodbye
        await until(lambda: not first)
        assert not third
        nursery.cancel_scope.cancel()


async def test_nothing_is_left_after_a_cancellation_at_any_moment() -> None:
    before = sockets()
    heard: mdns.Announced = {}
    for pause_s in (0.0, 0.01, 0.05, 0.2, 1.0):
        with trio.fail_after(20), trio.move_on_after(pause_s):
            await announce(os.urandom(32), ONE, "10.1.2.3", heard)
        assert responders() == []
        assert sockets() == before


async def test_nothing_is_left_where_there_was_no_time_for_a_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "_CLOSE_S", 0.0)  # as on a machine that stands still meanwhile
    mesh, before, heard = os.urandom(32), sockets(), mdns.Announced()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce, mesh, ONE, "10.1.2.3", heard)
        nursery.start_soon(announce, mesh, TWO, "10.1.2.4", {})
        await until(lambda: heard)  # both are up
        nursery.cancel_scope.cancel()
    assert responders() == []
    assert sockets() == before


async def test_trio_goes_on_while_mdns_says_goodbye() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.005)
            turns += 1

    mesh, heard = os.urandom(32), mdns.Announced()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn)
        async with trio.open_nursery() as others:
            others.start_soon(announce, mesh, ONE, "10.1.2.3", heard)
            others.start_soon(announce, mesh, TWO, "10.1.2.4", {})
            await until(lambda: heard)  # both are up
            others.cancel_scope.cancel()
            turns = 0
        assert turns >= 3
        nursery.cancel_scope.cancel()


async def test_an_interface_that_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(OSError, match="mDNS cannot be used"), trio.fail_after(20):
        await mdns.browse_and_announce(os.urandom(32), ONE, [Address("10.1.2.3", 1)], ["192.0.2.77"], lambda _: None)


def announcement(mesh_id: bytes, number: int) -> bytes:
    """What a hostile neighbour says: another node of the mesh, in one packet."""
    name, target = f"fake{number}.{mdns.SERVICE_TYPE}", f"fake{number}.local."
    answer = dns.message.Message(id=0)
    answer.flags = dns.flags.QR | dns.flags.AA
    answer.answer = [
        dns.rrset.from_text(mdns.SERVICE_TYPE, 4500, "IN", "PTR", name),
        dns.rrset.from_text(name, 120, "IN", "SRV", f"0 0 7800 {target}"),
        dns.rrset.from_text(name, 4500, "IN", "TXT", f'"mesh={mesh_id.hex()}"'),
        dns.rrset.from_text(target, 120, "IN", "A", f"10.9.{number // 250 % 250}.{number % 250 + 1}"),
    ]
    return answer.to_wire()


async def flood(packet: Callable[[int], bytes], *, pause_s: float = 0.0005) -> None:
    """Send packets on loopback until cancelled."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        for number in itertools.count():
            sender.sendto(packet(number), ("224.0.0.251", 5353))
            await trio.sleep(pause_s)


def many_names(number: int) -> bytes:
    return pointers(f"fake{number}-{of}" for of in range(20))


def same_names_with_other_lives(number: int) -> bytes:
    return pointers((f"fake{of}" for of in range(20)), ttl=4500 + number % 2 * 1000)


def pointers(labels: Iterable[str], ttl: int = 4500) -> bytes:
    answer = dns.message.Message(id=0)
    answer.flags = dns.flags.QR | dns.flags.AA
    names = [f"{label}.{mdns.SERVICE_TYPE}" for label in labels]
    answer.answer = [dns.rrset.from_text(mdns.SERVICE_TYPE, ttl, "IN", "PTR", *names)]
    return answer.to_wire()


@pytest.mark.parametrize("packet", [many_names, same_names_with_other_lives])
async def test_announcements_without_end_end_mdns_and_leave_nothing(
    packet: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mdns, "_SCHEDULED_MAX", 500)
    before = sockets()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flood, packet))
        for _ in range(2):  # and whoever begins anew hears all of it again
            gc.disable()
            try:
                with pytest.raises(OSError, match="others have announced 500 times"), trio.fail_after(60):
                    await announce(os.urandom(32), ONE, "10.1.2.3", {})
            finally:
                gc.enable()
            assert responders() == []
            assert sockets() == before + 1, "the flood's own"
            assert sum(type(thing).__name__ == "Zeroconf" for thing in gc.get_objects()) == 0
        nursery.cancel_scope.cancel()


async def test_a_flood_of_announcements_is_kept_within_its_bound_and_the_last_ones_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mdns, "_SCHEDULED_MAX", 1_000_000)
    mesh, most, number = os.urandom(32), 0, 0
    heard: set[str] = set()
    now: mdns.Announced = {}

    def on_change(announced: mdns.Announced) -> None:
        nonlocal most, now
        now, most = announced, max(most, len(announced))
        heard.update(announced)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        async with trio.open_nursery() as nursery:
            run = partial(mdns.browse_and_announce, mesh, ONE, [Address("10.1.2.3", 1)], LOOPBACK, on_change)
            nursery.start_soon(run)
            with trio.fail_after(60):
                while len(heard) < 20 * mdns.ANNOUNCEMENTS_MAX:
                    sender.sendto(announcement(mesh, number), ("224.0.0.251", 5353))
                    number += 1
                    await trio.sleep(0.0005)
            nursery.start_soon(announce, mesh, TWO, "10.1.2.4", {})
            await until(lambda: mdns.instance_of(mesh, TWO) in now)
            nursery.cancel_scope.cancel()
    assert most == mdns.ANNOUNCEMENTS_MAX == BOUNDS["mdns"].candidates


@pytest.mark.parametrize(
    ("listen", "fields"),
    [
        ("127.0.0.1:0", {}),
        ("[::1]:0", {}),
        ("0.0.0.0:0", {"enable_discovery": False}),
        ("0.0.0.0:0", {"advertise_address": "node.example:7800"}),
    ],
)
async def test_a_node_that_others_cannot_dial_or_that_is_not_to_be_found_announces_nothing(
    listen: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    authority = make_authority()
    make_identity(authority, tmp_path)
    config = settings(tmp_path / "node", listen, **fields)
    async with bms.open_mesh(config, enable_persistence=False) as mesh:
        await until(lambda: mesh.collect_stats().uptime_s > 0.3)
        assert responders() == []


def settings(identity: Path, listen: str, **fields: Any) -> bms.Config:
    return bms.Config(
        mesh_name="home", node_name=identity.name, listen_address=listen, key_path=identity / "key.pem",
        cert_path=identity / "cert.pem", trust_path=identity / "trust.pem", **fields,
    )  # fmt: skip


# ---------------------------------------------------------------------- a network

NODE = """
import os, sys, trio, bms

async def main():
    place = sys.argv[1]
    files = {f"{name}_path": f"{place}/{name}.pem" for name in ("key", "cert", "trust")}
    async with bms.open_mesh(
        mesh_name="home", node_name=os.path.basename(place), listen_address="0.0.0.0:7800",
        persistence_path=f"{place}/data", **files,
    ) as mesh:
        said = None
        while True:
            names = sorted(node.name for node in mesh.nodes("alive"))
            found = sorted(f"{row.candidate} {row.outcome}" for row in mesh.collect_stats().discovery)
            if (names, found) != said:
                said = names, found
                print(",".join(names), "|", "; ".join(found), flush=True)
            await trio.sleep(0.05)

trio.run(main)
"""


async def follow(host: NamespaceHost, place: Path, lines: list[str]) -> None:
    """Run a node on a host; `lines` gets what it says."""
    command: Sequence[str] = [sys.executable, "-W", "error", "-c", NODE, str(place)]
    with (place / "errors").open("wb") as errors:
        process = await host.open_process(command, stdout=subprocess.PIPE, stderr=errors)
    try:
        assert process.stdout is not None
        rest = b""
        async for data in process.stdout:
            *whole, rest = (rest + data).split(b"\n")
            lines += [line.decode() for line in whole]
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()


@pytest.mark.skipif(available() is not None, reason=f"no network namespaces: {available()}")
async def test_nodes_on_one_network_find_each_other_with_nothing_but_their_identity(tmp_path: Path) -> None:
    authority, other_authority = make_authority(), make_authority()
    for name in ("a", "b"):
        make_identity(authority, tmp_path, name)
    make_identity(other_authority, tmp_path, "c")
    said: dict[str, list[str]] = {name: [] for name in "abc"}

    def last(name: str) -> str:
        return said[name][-1] if said[name] else ""

    async with open_network("a", "b", "c") as network, trio.open_nursery() as nursery:
        nursery.start_soon(follow, network["c"], tmp_path / "c", said["c"])
        await until(lambda: last("c").startswith("c "), 60)
        for name in "ab":
            nursery.start_soon(follow, network[name], tmp_path / name, said[name])
        await until(lambda: last("a").startswith("a,b ") and last("b").startswith("a,b "), 60)
        assert last("c").startswith("c ")
        mdns_of_both = last("a") + last("b")
        assert "linked with" in mdns_of_both
        assert network["c"].address not in mdns_of_both  # of another mesh: not even dialed
        nursery.cancel_scope.cancel()
    for name in said:
        assert (tmp_path / name / "errors").read_text().count("Traceback") == 0
