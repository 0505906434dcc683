"""The peer snapshot in use: a mesh that was down as a whole finds itself again with no bootstrap nodes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

import bms
from bms import failpoints
from bms.membership.snapshot import FILE_NAME, Snapshot
from helpers import PROCESS_S, make_authority, make_identity, until

NAMES = ("one", "two", "three")


@pytest.fixture
def identities(tmp_path: Path) -> Path:
    authority = make_authority()
    for name in NAMES:
        make_identity(authority, tmp_path, name)
    return tmp_path


def settings(folder: Path, name: str, port: int = 0, seeds: Sequence[str] = ()) -> bms.Config:
    place = folder / name
    return bms.Config(
        mesh_name="home", node_name=name, listen_address=f"127.0.0.1:{port}", bootstrap_nodes=tuple(seeds),
        key_path=place / "key.pem", cert_path=place / "cert.pem", trust_path=place / "trust.pem",
        persistence_path=place / "data",
    )  # fmt: skip


@asynccontextmanager
async def running(*configs: bms.Config) -> AsyncIterator[list[bms.Mesh]]:
    """Nodes with these settings, all linked with each other."""
    async with AsyncExitStack() as stack:
        meshes = [await stack.enter_async_context(bms.open_mesh(config)) for config in configs]
        await until(lambda: all(len(mesh.nodes("alive")) == len(configs) for mesh in meshes))
        yield meshes


async def ports_of_a_first_run(folder: Path) -> dict[str, int]:
    """Let the three meet by a bootstrap node, and stop."""
    ports = {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        seed = free.getsockname()[1]
    configs = [
        settings(folder, "one", seed),
        *(settings(folder, name, 0, [f"127.0.0.1:{seed}"]) for name in NAMES[1:]),
    ]
    async with running(*configs) as meshes:
        for mesh in meshes:
            assert mesh.address is not None
            ports[mesh.config.node_name] = mesh.address.port
    return ports


async def test_three_stopped_nodes_find_each_other_without_bootstrap_nodes(identities: Path) -> None:
    ports = await ports_of_a_first_run(identities)
    for name in NAMES:
        file = identities / name / "data" / FILE_NAME
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    async with running(*(settings(identities, name, ports[name]) for name in NAMES)) as meshes:
        sources = {found.source for mesh in meshes for found in mesh.collect_stats().discovery}
        assert sources == {"snapshot"}


@pytest.mark.parametrize("stays", NAMES)
async def test_one_old_address_is_enough_for_all_to_find_each_other(stays: str, identities: Path) -> None:
    ports = await ports_of_a_first_run(identities)
    configs = [settings(identities, name, ports[name] if name == stays else 0) for name in NAMES]
    async with running(*configs) as meshes:
        moved = [mesh for mesh in meshes if mesh.config.node_name != stays]
        assert all(mesh.address is not None and mesh.address.port not in ports.values() for mesh in moved)


async def test_a_node_that_leaves_and_comes_back_without_seeds_is_there_at_once(identities: Path) -> None:
    ports = await ports_of_a_first_run(identities)
    async with running(*(settings(identities, name, ports[name]) for name in NAMES)) as (one, two, three):
        await three.stop()
        await until(lambda: one.node(three.node_id).state == two.node(three.node_id).state == "left")
        async with trio.open_nursery() as nursery:
            start = trio.current_time()
            await three.start(nursery)
            await until(lambda: three.is_connected(one.node_id) and three.is_connected(two.node_id))
            assert trio.current_time() - start < 25  # looking at it only every 30 s would be too late
            await three.stop()


async def test_a_bootstrap_node_that_leaves_and_comes_back_without_anything_is_dialed_soon(identities: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seed = settings(identities, "one", port).evolve(enable_discovery=False)
    async with bms.open_mesh(settings(identities, "two", 0, [f"127.0.0.1:{port}"])) as two:
        async with bms.open_mesh(seed) as one:
            await until(lambda: two.is_connected(one.node_id))
        await until(lambda: two.node(one.node_id).state == "left")
        async with bms.open_mesh(seed) as one:
            start = trio.current_time()
            await until(lambda: two.is_connected(one.node_id))
            assert trio.current_time() - start < 25


async def test_a_damaged_snapshot_keeps_no_node_from_starting(
    identities: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ports = await ports_of_a_first_run(identities)
    file = identities / "two" / "data" / FILE_NAME
    file.write_bytes(file.read_bytes()[:-3])
    async with running(*(settings(identities, name, ports[name]) for name in NAMES)):
        assert "is ignored: its checksum does not fit" in caplog.text


async def test_a_snapshot_that_cannot_be_written_costs_a_warning_and_nothing_else(
    identities: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(failpoints.ARMED, "snapshot.written", ["raise", 1])
    await ports_of_a_first_run(identities)
    assert "cannot be written: the failpoint snapshot.written was hit" in caplog.text
    assert not (identities / "two" / "data" / FILE_NAME).exists()


async def test_without_discovery_nothing_is_remembered(identities: Path) -> None:
    one = settings(identities, "one").evolve(enable_discovery=False)
    async with bms.open_mesh(one) as mesh:
        config = settings(identities, "two", 0, [str(mesh.address)]).evolve(enable_discovery=False)
        async with bms.open_mesh(config) as other:
            await until(lambda: other.is_connected(mesh.node_id))
    assert not (identities / "one" / "data" / FILE_NAME).exists()
    assert not (identities / "two" / "data" / FILE_NAME).exists()


# ---------------------------------------------------------------------- killed while writing

WRITER = """
import sys
from pathlib import Path
from bms.membership.snapshot import Peer, Snapshot
from bms.values import Address, NodeId

for count in (1, 2, 3):
    peers = [Peer(NodeId(f"{number:064x}"), (Address("h", 1),), 5.0) for number in range(count)]
    Snapshot(Path(sys.argv[1]), b"m" * 32).write(peers)
    print(count, flush=True)
"""


@pytest.mark.parametrize(("point", "left"), [("snapshot.written", 1), ("snapshot.renamed", 2)])
def test_a_process_killed_between_two_steps_leaves_the_old_file_or_the_new_one(
    point: str, left: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environ = {**os.environ, "BMS_FAILPOINTS": f"{point}=kill@2"}
    killed = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=PROCESS_S)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout == "1\n"
    assert len(Snapshot(tmp_path, b"m" * 32).read()) == left
    subprocess.run(command, check=True, capture_output=True, timeout=PROCESS_S)
    assert len(Snapshot(tmp_path, b"m" * 32).read()) == 3
    assert os.listdir(tmp_path) == [FILE_NAME]
