"""Bootstrap nodes named by SRV records, asked of a real DNS server on loopback."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio

import bms
from bms.membership import srv
from bms.values import Address
from bms.world import World
from helpers import make_authority, make_identity, until

NAME = "_bms._tcp.mesh.example"


@attrs.define
class Server:
    """A DNS server: `zone` maps (name, type) to records in text; what is not in it does not exist."""

    address: Address
    zone: dict[tuple[str, str], list[str]] = attrs.field(factory=dict)
    ttl_s: int = 60
    questions: list[str] = attrs.field(factory=list)
    rcode: dns.rcode.Rcode | None = None

    def answer(self, packet: bytes) -> bytes:
        query = dns.message.from_wire(packet)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.questions.append(f"{name} {kind}")
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if self.rcode is not None:
            response.set_rcode(self.rcode)
        elif (name, "CNAME") in self.zone:
            (target,) = self.zone[name, "CNAME"]
            response.answer.append(dns.rrset.from_text(f"{name}.", 7, "IN", "CNAME", target))
            response.answer.append(self.records(target, kind))
        elif (name, kind) in self.zone:
            response.answer.append(self.records(f"{name}.", kind))
        elif not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()

    def records(self, name: str, kind: str) -> dns.rrset.RRset:
        return dns.rrset.from_text(name, self.ttl_s, "IN", kind, *self.zone[name.rstrip("."), kind])

    def world(self) -> World:
        return World(resolve_srv=partial(srv.resolve, nameserver=self.address))


@asynccontextmanager
async def open_server() -> AsyncIterator[Server]:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        await udp.bind(("127.0.0.1", 0))
        server = Server(Address(*udp.getsockname()))

        async def serve() -> None:
            while True:
                packet, source = await udp.recvfrom(4096)
                await udp.sendto(server.answer(packet), source)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield server
            nursery.cancel_scope.cancel()


async def test_records_come_with_the_time_for_which_they_hold() -> None:
    async with open_server() as server:
        server.zone[NAME, "SRV"] = ["10 5 7800 a.mesh.example.", "20 0 7801 b.mesh.example."]
        records, ttl_s = await srv.resolve(NAME, server.address)
        assert sorted(records) == [(10, 5, 7800, "a.mesh.example"), (20, 0, 7801, "b.mesh.example")]
        assert ttl_s == 60
        server.zone["alias.example", "CNAME"] = [f"{NAME}."]
        records, ttl_s = await srv.resolve("alias.example", server.address)
        assert len(records) == 2
        assert ttl_s == 7  # the shortest on the way counts


async def test_a_name_that_has_no_such_records_has_no_nodes_and_a_wrong_one_says_why() -> None:
    async with open_server() as server:
        server.zone[NAME, "TXT"] = ['"nothing"']
        records, _ = await srv.resolve(NAME, server.address)
        assert records == []
        with pytest.raises(OSError, match=r"wrong\.example cannot be resolved.*does not exist"):
            await srv.resolve("wrong.example", server.address)
        server.rcode = dns.rcode.SERVFAIL
        with pytest.raises(OSError, match="cannot be resolved"), trio.fail_after(60):
            await srv.resolve(NAME, server.address)


async def test_a_server_that_never_answers_can_be_left_at_any_time() -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        await silent.bind(("127.0.0.1", 0))
        with trio.fail_after(30), trio.move_on_after(0.2) as scope:
            await srv.resolve(NAME, Address(*silent.getsockname()))
        assert scope.cancelled_caught


def settings(folder: Path, name: str) -> bms.Config:
    place = folder / name
    return bms.Config(
        mesh_name="home", node_name=name, key_path=place / "key.pem", cert_path=place / "cert.pem",
        trust_path=place / "trust.pem", enable_persistence=False,
        gossip={"redial_interval_s": 0.1, "redial_interval_max_s": 0.2},
    )  # fmt: skip


def outcomes(mesh: bms.Mesh) -> dict[str, str]:
    return {found.candidate: found.outcome for found in mesh.collect_stats().discovery if found.source == "srv"}


@pytest.fixture
def identities(tmp_path: Path) -> Path:
    authority = make_authority()
    for name in ("one", "two"):
        make_identity(authority, tmp_path, name)
    make_identity(make_authority(), tmp_path, "stranger")
    return tmp_path


async def test_a_node_joins_by_srv_past_targets_that_are_down_or_of_another_mesh(
    identities: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bms.discovery")
    with socket.socket() as closed:  # bound and not listening: every dial of it is refused
        closed.bind(("127.0.0.1", 0))
        down = closed.getsockname()[1]
        async with (
            open_server() as server,
            bms.open_mesh(settings(identities, "one")) as one,
            bms.open_mesh(settings(identities, "stranger")) as stranger,
        ):
            assert one.address is not None
            assert stranger.address is not None
            server.zone[NAME, "SRV"] = [
                f"30 0 {one.address.port} localhost.",
                f"20 0 {stranger.address.port} 127.0.0.1.",
                f"10 0 {down} 127.0.0.1.",
            ]
            config = settings(identities, "two").evolve(bootstrap_nodes=(f"dns+srv://{NAME}",))
            async with bms.open_mesh(config, world=server.world()) as two:
                await until(lambda: two.is_connected(one.node_id))
                assert outcomes(two)[f"127.0.0.1:{down}"].endswith("connection refused")
                assert "another mesh" in outcomes(two)[f"127.0.0.1:{stranger.address.port}"]
                assert outcomes(two)[f"localhost:{one.address.port}"] == f"linked with {one.node_id.short}"
                assert outcomes(two)[f"dns+srv://{NAME}"].startswith(f"names 127.0.0.1:{down}, ")
            assert server.questions == [f"{NAME} SRV"]  # targets are the network's to look up
    said = [record for record in caplog.records if "another mesh" in record.getMessage()]
    assert {record.levelno for record in said if "bootstrap" in record.getMessage()} == {logging.WARNING}


async def test_a_name_that_comes_to_exist_later_is_found_and_said_once(
    identities: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_server() as server, bms.open_mesh(settings(identities, "one")) as one:
        config = settings(identities, "two").evolve(bootstrap_nodes=(f"dns+srv://{NAME}",))
        async with bms.open_mesh(config, world=server.world()) as two:
            await until(lambda: two.counters["discovery.srv_unresolved"] > 3)
            assert "does not exist" in outcomes(two)[f"dns+srv://{NAME}"]
            assert one.address is not None
            server.zone[NAME, "SRV"] = [f"0 0 {one.address.port} 127.0.0.1."]
            await until(lambda: two.is_connected(one.node_id))
    assert len([record for record in caplog.records if "does not exist" in record.getMessage()]) == 1
