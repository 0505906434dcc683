"""Finding the mesh: the registry of this machine, and bootstrap nodes that come late or are wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

import bms
from bms.membership.registry import Registry
from bms.values import Address, NodeId
from helpers import cluster, until

ONE, TWO = NodeId("1" * 64), NodeId("2" * 64)


def outcomes(mesh: bms.Mesh) -> list[tuple[str, str, str]]:
    return [(found.source, found.candidate, found.outcome) for found in mesh.collect_stats().discovery]


def test_registered_nodes_are_seen_by_others_and_not_by_themselves(tmp_path: Path) -> None:
    first, second = Registry(tmp_path), Registry(tmp_path)
    first.publish(ONE, 7, [Address("127.0.0.1", 1)])
    second.publish(TWO, 8, [Address("::1", 2)])
    assert first.others() == [(TWO, 8, [Address("::1", 2)])]
    assert second.others() == [(ONE, 7, [Address("127.0.0.1", 1)])]
    second.withdraw()
    assert first.others() == []


def test_the_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from bms.membership.registry import Registry; from bms.values import Address, NodeId\n"
        f"r = Registry(Path({str(tmp_path)!r})); r.publish(NodeId('1' * 64), 1, [Address('127.0.0.1', 1)])\n"
        "print('ready', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        reader = Registry(tmp_path)
        assert [node_id for node_id, _, _ in reader.others()] == [ONE]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        assert reader.others() == []
        assert list(tmp_path.glob("*.json")) == []
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_unreadable_files_are_skipped(tmp_path: Path) -> None:
    first, second = Registry(tmp_path), Registry(tmp_path)
    first.publish(ONE, 1, [])
    second.publish(TWO, 1, [Address("127.0.0.1", 5)])
    for name in (f"{ONE}.json", f"{TWO}.json"):
        if name.startswith(ONE):
            (tmp_path / name).write_text('{"node_id": 5')
    assert second.others() == []
    assert [node_id for node_id, _, _ in first.others()] == [TWO]


async def test_a_bootstrap_node_that_comes_later_is_found() -> None:
    async with cluster(1) as (one,), trio.open_nursery() as nursery:
        taken = one.address
        assert taken is not None
        await one.stop()
        early = bms.init(
            dev_mode=True, node_name="early", enable_discovery=False, bootstrap_nodes=[str(taken)],
            gossip={"redial_interval_s": 0.05, "redial_interval_max_s": 0.2},
        )  # fmt: skip
        await early.start(nursery)
        await until(lambda: early.counters["discovery.seeds_failed"] > 0)
        again = bms.init(dev_mode=True, node_name="late", enable_discovery=False, listen_address=str(taken))
        await again.start(nursery)
        await until(lambda: early.is_connected(again.node_id))
        await again.shutdown()
        await early.shutdown()


async def test_a_bootstrap_list_that_names_the_node_itself_does_no_harm() -> None:
    async with cluster(1) as (one,), trio.open_nursery() as nursery:
        port = one.address.port if one.address else 0
        await one.stop()
        seeds = [f"127.0.0.1:{port}", f"localhost:{port}"]
        itself = bms.init(dev_mode=True, node_name="self", listen_address=f"127.0.0.1:{port}", bootstrap_nodes=seeds)
        await itself.start(nursery)
        await until(lambda: len(outcomes(itself)) == 2)
        assert set(outcomes(itself)) == {("seeds", seed, "this node itself") for seed in seeds}
        assert [node.node_id for node in itself.nodes()] == [itself.node_id]
        await itself.shutdown()


async def test_a_killed_nodes_returning_with_another_port_is_found_again() -> None:
    async with cluster(2) as (one, two), trio.open_nursery() as nursery:
        before = two.address
        await two._end(0)
        await until(lambda: one.node(two.node_id).state in ("suspect", "failed"))
        await two.start(nursery)
        assert two.address != before
        await until(lambda: one.is_connected(two.node_id))
        await two.stop()
