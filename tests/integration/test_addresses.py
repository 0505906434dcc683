"""Where a node takes packets and connections, and what it says of that: ports that are taken, changes, crashes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import bms
from bms.life import Life
from bms.security.records import TCP, UDP
from bms.values import Address
from bms.world import DatagramSocket, SystemNetwork, World
from helpers import until


def solo(**fields: Any) -> bms.Mesh:
    """A node alone."""
    return bms.init(**{"dev_mode": True, "enable_discovery": False, "listen_address": "127.0.0.1:0", **fields})


@asynccontextmanager
async def started(**fields: Any) -> AsyncIterator[bms.Mesh]:
    """A node alone, running."""
    mesh = solo(**fields)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await mesh.start(nursery)
            try:
                yield mesh
            finally:
                await mesh.shutdown()


def life_of(mesh: bms.Mesh) -> Life:
    assert mesh._life is not None
    return mesh._life


def said(mesh: bms.Mesh, kind: int) -> list[tuple[str, int]]:
    """What the node's record says of one kind of address."""
    return [(host, port) for found, host, port in life_of(mesh).record.addresses if found == kind]


def taken_udp_port() -> tuple[socket.socket, int]:
    """A UDP port that nobody else can bind, for as long as the socket lives."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    holder.bind(("127.0.0.1", 0))
    return holder, holder.getsockname()[1]


async def test_a_start_whose_udp_port_is_taken_leaves_nothing_and_may_be_tried_again() -> None:
    holder, port = taken_udp_port()
    mesh = solo(udp_port=port)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with holder:
                with pytest.raises(bms.UnreachableError, match="cannot take datagrams"):
                    await mesh.start(nursery)
                assert not mesh.is_running
                assert len(nursery.child_tasks) == 0
            await mesh.start(nursery)
            assert life_of(mesh).listening_udp == [Address("127.0.0.1", port)]
            async with mesh.subscribe("t") as messages:
                await mesh.send_message(mesh.node_id, b"x", "t")
                await anext(messages)
            await mesh.shutdown()


@pytest.mark.parametrize("udp_port", [None, 0])
async def test_a_new_udp_port_that_is_taken_leaves_the_old_one(udp_port: int | None) -> None:
    holder, port = taken_udp_port()
    with holder:
        async with started(udp_port=udp_port) as mesh:
            before, record = list(life_of(mesh).listening_udp), said(mesh, UDP)
            with pytest.raises(bms.UnreachableError, match="cannot take datagrams"):
                await mesh.reconfigure(udp_port=port)
            assert life_of(mesh).listening_udp == before
            assert said(mesh, UDP) == record
            assert mesh.config.udp_port == udp_port
            assert mesh.collect_stats().subsystems["datagrams"].state == "running"


async def test_a_new_address_whose_udp_port_is_taken_leaves_both_old_ones() -> None:
    holder, port = taken_udp_port()
    with holder:
        async with started() as mesh:
            before, udp = mesh.address, list(life_of(mesh).listening_udp)
            with pytest.raises(bms.UnreachableError, match="cannot take datagrams"):
                await mesh.reconfigure(listen_address=f"127.0.0.1:{port}")
            assert (mesh.address, life_of(mesh).listening_udp) == (before, udp)
            assert before is not None
            stream = await trio.open_tcp_stream(before.host, before.port)
            await stream.aclose()


class _Interrupted(SystemNetwork):
    """Somebody presses Ctrl+C while a chosen port is opened for datagrams."""

    port = -1

    async def open_datagrams(self, address: Address) -> DatagramSocket:
        if address.port == self.port:
            raise KeyboardInterrupt
        return await super().open_datagrams(address)


async def test_ctrl_c_while_an_address_changes_leaves_the_old_ones() -> None:
    holder, port = taken_udp_port()
    holder.close()
    network = _Interrupted()
    async with started(world=World(network=network)) as mesh:
        before, udp, config = mesh.address, list(life_of(mesh).listening_udp), mesh.config
        network.port = port
        try:
            await mesh.reconfigure(listen_address=f"127.0.0.1:{port}", max_connections=3)
        except* KeyboardInterrupt:
            pass
        assert mesh.config is config
        assert life_of(mesh).config is config
        assert (mesh.address, life_of(mesh).listening_udp) == (before, udp)
        await mesh.reconfigure(udp_port=0)
        assert mesh.collect_stats().subsystems["datagrams"].state == "running"


async def test_an_address_that_is_added_while_another_one_changes_is_told() -> None:
    async with started() as mesh, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(mesh.listen_udp, "127.0.0.1:0")
            nursery.start_soon(mesh.listen_tcp, "127.0.0.1:0")
        nursery.start_soon(lambda: mesh.reconfigure(tcp_port=0))
        await until(lambda: len(life_of(mesh).listening_udp) == len(life_of(mesh).listening) == 5)
        await until(lambda: len(said(mesh, UDP)) == len(said(mesh, TCP)) == 5)


@pytest.mark.parametrize("steps", range(8))
async def test_an_address_whose_adding_is_cancelled_is_not_told(steps: int) -> None:
    async with started() as mesh:
        before = said(mesh, UDP)
        added = False
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def add() -> None:
                    nonlocal added
                    await mesh.listen_udp("127.0.0.1:0")
                    added = True

                nursery.start_soon(add)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert len(said(mesh, UDP)) == len(before) + added
        assert len(life_of(mesh).listening_udp) == len(before) + added


async def test_an_added_udp_address_is_taken_again_after_a_crash_of_its_subsystem(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with started() as mesh:
        bound = await mesh.listen_udp("127.0.0.1:0")
        record = said(mesh, UDP)
        [name] = [name for name in mesh.collect_stats().subsystems if name.startswith("datagrams ")]
        with pytest.raises(bms.UnreachableError):  # it is taken: by this node
            await mesh.listen_udp(bound)
        [sock] = [sock for sock in life_of(mesh).datagrams._sockets if sock.address == bound]
        sock.close()  # as if a bug had done it
        await until(lambda: mesh.collect_stats().subsystems[name].crashes == 1)
        await until(lambda: mesh.collect_stats().subsystems[name].state == "running")
        assert bound in [sock.address for sock in life_of(mesh).datagrams._sockets]
        assert said(mesh, UDP) == record
        assert "ClosedResourceError" in caplog.text


def _link_local() -> str | None:
    """An address of this machine that holds on one link alone, with its zone."""
    path = Path("/proc/net/if_inet6")
    for line in path.read_text().splitlines() if path.exists() else []:
        digits, _, _, scope, _, name = line.split()
        if scope == "20":
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))}%{name}"
    return None


@pytest.mark.skipif(_link_local() is None, reason="this machine has no link-local address")
async def test_a_node_listens_at_a_link_local_address_with_both() -> None:
    host = str(_link_local()).partition("%")[0]
    async with started(listen_address=f"[{_link_local()}]:0") as mesh:
        [tcp], [udp] = life_of(mesh).listening, life_of(mesh).listening_udp
        assert tcp == udp
        assert tcp.host.startswith(f"{host}%")
        stream = await trio.open_tcp_stream(tcp.host, tcp.port)
        await stream.aclose()


class _Hosts(SystemNetwork):
    """A machine with these addresses."""

    def local_hosts(self) -> list[str]:
        return ["192.0.2.1", "2001:db8::1"]


async def test_a_node_that_takes_ipv4_alone_names_no_address_of_ipv6() -> None:
    async with started(listen_address="0.0.0.0:0", world=World(network=_Hosts())) as mesh:
        assert mesh.address is not None
        assert said(mesh, TCP) == said(mesh, UDP) == [("192.0.2.1", mesh.address.port)]


async def test_a_node_that_takes_both_names_both() -> None:
    async with started(listen_address="[::]:0", world=World(network=_Hosts())) as mesh:
        assert mesh.address is not None
        both = [(host, mesh.address.port) for host in ("192.0.2.1", "2001:db8::1")]
        assert said(mesh, TCP) == said(mesh, UDP) == both


async def test_an_advertised_host_has_the_port_that_datagrams_are_taken_at() -> None:
    async with started(advertise_address="192.0.2.7:7800") as mesh:
        assert said(mesh, TCP) == said(mesh, UDP) == [("192.0.2.7", 7800)]
        await mesh.reconfigure(udp_port=0)
        [bound] = life_of(mesh).listening_udp
        assert said(mesh, UDP) == [("192.0.2.7", bound.port)]
