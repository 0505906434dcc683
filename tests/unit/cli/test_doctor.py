"""What `bms doctor` finds where something is wrong: each fault is made for real, and found with its advice."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest

from bms.cli import doctor_identity, doctor_machine, doctor_network
from bms.cli.defaults import Wishes
from bms.cli.doctor import examine
from bms.cli.doctor_finding import OK, PROBLEM, WARNING, Finding, Patient
from bms.config import Config
from bms.control.answers import Status
from bms.mesh import open_mesh
from bms.values import Address
from helpers import make_authority, make_identity, until


def patient(folder: Path, **fields: Any) -> Patient:
    """A node that does not run, in `folder`."""
    given = {name: fields.pop(name) for name in ("wishes", "status", "stats", "topology", "health") if name in fields}
    return Patient(
        Config(**{"listen_address": "127.0.0.1:0", **fields}), folder / "h", folder / "h" / "m" / "n", **given
    )


def running(**fields: Any) -> Status:
    """What a node of this process would say."""
    given: dict[str, Any] = {
        "node_id": "a" * 64, "name": "n", "mesh_id": "", "mesh_name": "m", "address": None, "folder": None,
        "version": "0.0", "pid": os.getpid(), "uptime_s": 1.0, "nodes": {}, "connections": 0, "entries": 0, "bytes": 0,
        "tombstones": 0, "position": 0, "epoch": "", "fingerprint": "", "discovery": [],
    }  # fmt: skip
    return Status(**{**given, **fields})


async def all_of(found: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in found]


def the(found: Iterable[Finding], status: str) -> Finding:
    """The only finding of that status."""
    (one,) = [finding for finding in found if finding.status == status]
    return one


# --- ports


async def test_looking_whether_a_node_takes_connections_leaves_no_line_in_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bms")
    async with open_mesh(dev_mode=True, enable_discovery=False, enable_persistence=False) as mesh:
        before = len(caplog.records)
        status = running(address=str(mesh.address))
        for _ in range(3):
            found = await all_of(doctor_network.ports(patient(tmp_path, status=status)))
            assert f"listener: {mesh.address} takes connections" in [finding.what for finding in found]
        await until(lambda: mesh.counters["net.handshakes_failed"] == 3)
        assert [record.getMessage() for record in caplog.records[before:]] == []


async def test_a_port_that_is_taken_is_named_with_the_process_that_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = await all_of(doctor_network.ports(patient(tmp_path, listen_address=f"127.0.0.1:{port}", udp_port=0)))
        taken = the(found, PROBLEM)
    assert f"127.0.0.1:{port} is taken by process {os.getpid()} (" in taken.what
    assert "listen_address" in taken.advice


async def test_a_taken_port_of_udp_is_found_as_well(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        taken = the(await all_of(doctor_network.ports(patient(tmp_path, udp_port=port))), PROBLEM)
    assert f"process {os.getpid()}" in taken.what
    assert "udp_port" in taken.advice


async def test_a_taken_port_that_is_a_wish_alone_is_no_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        found = await all_of(doctor_network.ports(patient(tmp_path, wishes=Wishes(http=address))))
    assert "starts all the same" in the(found, WARNING).advice
    assert PROBLEM not in {finding.status for finding in found}


async def test_an_address_of_another_machine_cannot_be_listened_at(tmp_path: Path) -> None:
    found = await all_of(doctor_network.ports(patient(tmp_path, listen_address="192.0.2.254:7800")))
    problems = [finding for finding in found if finding.status == PROBLEM]
    assert len(problems) == 2  # TCP and UDP
    assert "an address of this machine" in problems[0].advice


async def test_ports_of_a_running_node_are_dialed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))  # bound, but nobody listens
        status = running(
            address=f"127.0.0.1:{server.getsockname()[1]}", http_url=f"http://127.0.0.1:{dead.getsockname()[1]}"
        )
        found = await all_of(doctor_network.ports(patient(tmp_path, status=status)))
    assert "HTTP: " in the(found, PROBLEM).what
    assert [finding.what.partition(":")[0] for finding in found if finding.status == OK] == ["HTTPS is off", "listener"]


# --- peers, names, clocks, firewall


def node(name: str, address: str | None, node_id: str = "b" * 64, state: str = "alive") -> dict[str, Any]:
    return {"node_id": node_id, "name": name, "address": address, "state": state}


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0.0.0.0", "[::]", "192.0.2.1"])
async def test_http_that_other_machines_reach_is_a_warning(tmp_path: Path, host: str) -> None:
    is_inside = host in ("127.0.0.1", "[::1]")
    sick = patient(tmp_path, http_address=f"{host}:0")
    place = host if is_inside or host == "192.0.2.1" else "127.0.0.1"  # as a node says where it is found from here
    up = attrs.evolve(sick, status=running(http_url=f"http://{place}:1", http_address=f"{host}:0"))
    for found in (list(await all_of(doctor_network.ports(sick))), list(await all_of(doctor_network.ports(up)))):
        warnings = [finding for finding in found if finding.status == WARNING]
        assert [("tokens" in each.what, "https_address" in each.advice) for each in warnings] == (
            [] if is_inside else [(True, True)]
        )


async def test_a_bootstrap_nodes_name_without_an_address_is_said_once_and_no_firewall_blamed(tmp_path: Path) -> None:
    sick = patient(tmp_path, bootstrap_nodes=("nowhere.invalid:7800",))
    found = [*await all_of(doctor_network.peers(sick)), *await all_of(doctor_network.names(sick))]
    assert the(found, PROBLEM).check == "names"
    assert [finding for finding in found if "nowhere.invalid" not in finding.what] == []


async def test_a_peer_that_cannot_be_dialed_is_a_problem_unless_its_link_is_up(tmp_path: Path) -> None:
    with socket.socket() as dead, socket.create_server(("127.0.0.1", 0)) as server:
        dead.bind(("127.0.0.1", 0))
        gone, there = (f"127.0.0.1:{sock.getsockname()[1]}" for sock in (dead, server))
        nodes = [
            node("me", None, "a" * 64),
            node("cellar", gone),
            node("attic", gone, "c" * 64),
            node("hall", there, "d" * 64),
        ]
        topology = {"nodes": nodes, "links": [{"node_id": "c" * 64, "dialed": False}]}
        found = await all_of(doctor_network.peers(patient(tmp_path, status=running(), topology=topology)))
    assert the(found, PROBLEM).what.startswith("cellar bbbbbbbb does not answer at ")
    assert "the link that it opened is up" in the(found, WARNING).what
    assert the(found, OK).what == "1 of 3 other nodes take connections from here"


async def test_a_name_without_an_address_is_said_with_its_setting(tmp_path: Path) -> None:
    sick = patient(
        tmp_path, bootstrap_nodes=("nowhere.invalid:7800", "localhost:7800"), advertise_address="192.0.2.1:1"
    )
    found = await all_of(doctor_network.names(sick))
    assert "nowhere.invalid (bootstrap_nodes)" in the(found, PROBLEM).what
    assert the(found, OK).what == "localhost resolves"


@pytest.mark.parametrize(
    ("offsets", "status", "words"),
    [
        ([0.01, -0.2, 0.3], OK, "3 peers"),
        ([5.0, 5.1, None], WARNING, "behind"),
        ([-300.0], PROBLEM, "ahead of"),
        ([None], OK, "no peer's clock is known"),
    ],
)
def test_the_clock_is_compared_with_the_median_of_the_peers(
    tmp_path: Path, offsets: list[float | None], status: str, words: str
) -> None:
    stats = {"peers": [{"clock_offset_s": offset} for offset in offsets]}
    (found,) = doctor_network.clocks(patient(tmp_path, status=running(), stats=stats))
    assert (found.status, words in found.what) == (status, True)


def test_links_that_others_have_opened_show_that_no_firewall_is_in_the_way(tmp_path: Path) -> None:
    topology = {"links": [{"dialed": False}, {"dialed": True}]}
    sick = patient(tmp_path, listen_address="0.0.0.0:7800", status=running(), topology=topology)
    (found,) = doctor_network.firewall(sick)
    assert (found.status, found.what) == (OK, "others get through: 1 links were opened by them")


def test_a_node_on_loopback_that_names_other_machines_is_warned(tmp_path: Path) -> None:
    (found,) = doctor_network.firewall(patient(tmp_path, bootstrap_nodes=("192.0.2.1:7800",)))
    assert (found.status, "listen_address" in found.advice) == (WARNING, True)


def test_multicast_is_not_looked_at_where_it_is_not_used(tmp_path: Path) -> None:
    for fields in ({}, {"enable_discovery": False, "listen_address": "0.0.0.0:0"}):
        (found,) = doctor_network.multicast(patient(tmp_path, **fields))
        assert (found.status, "not used" in found.what) == (OK, True)


# --- identity


def test_an_identity_is_read_as_the_node_would_and_what_is_wrong_is_said_in_its_words(tmp_path: Path) -> None:
    make_identity(make_authority(), tmp_path, "files")
    files = {f"{name}_path": tmp_path / "files" / f"{name}.pem" for name in ("key", "cert", "trust")}
    (found,) = doctor_identity.certificates(patient(tmp_path, **files))
    assert (found.status, "valid until" in found.what) == (OK, True)
    files["key_path"].chmod(0o644)
    (found,) = doctor_identity.certificates(patient(tmp_path, **files))
    assert (found.status, "key.pem" in found.what) == (PROBLEM, True)
    files["key_path"].chmod(0o600)
    files["cert_path"].write_text("nothing")
    (found,) = doctor_identity.certificates(patient(tmp_path, **files))
    assert (found.status, "cert.pem" in found.what) == (PROBLEM, True)


def test_a_certificate_that_ends_soon_and_is_not_renewed_here_is_a_warning_and_one_that_has_ended_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = make_identity(make_authority(), tmp_path, "files")
    files = {f"{name}_path": tmp_path / "files" / f"{name}.pem" for name in ("key", "cert", "trust")}
    monkeypatch.setattr(time, "time", lambda: identity.not_after - 86_400)
    (found,) = doctor_identity.certificates(patient(tmp_path, **files))
    assert (found.status, "bms identity issue" in found.advice) == (WARNING, True)
    monkeypatch.setattr(time, "time", lambda: identity.not_after + 1)
    (found,) = doctor_identity.certificates(patient(tmp_path, **files))
    assert (found.status, "expired" in found.what) == (PROBLEM, True)
    monkeypatch.setattr(time, "time", lambda: identity.not_before - 86_400)
    (found,) = doctor_identity.certificates(patient(tmp_path, **files))
    assert (found.status, "clock" in found.advice) == (PROBLEM, True)


def test_a_node_without_identity_is_told_the_ways_to_one(tmp_path: Path) -> None:
    (found,) = doctor_identity.certificates(patient(tmp_path))
    assert (found.status, "--found" in found.advice) == (PROBLEM, True)
    (found,) = doctor_identity.certificates(patient(tmp_path, found_mesh=True))
    assert found.status == OK


# --- machine


def test_a_folder_that_cannot_be_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "h").write_text("")
    (found,) = doctor_machine.disk(patient(tmp_path))
    assert (found.status, "in the way" in found.what) == (PROBLEM, True)


def test_a_full_disk_is_told_to_make_room(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free // 4096 * 4096))
    (found,) = doctor_machine.disk(patient(small_disk))
    assert (found.status, "No space left" in found.what) == (PROBLEM, True)
    assert found.advice.startswith("make room")


def test_a_folder_that_others_can_open_is_a_warning(tmp_path: Path) -> None:
    sick = patient(tmp_path)
    assert sick.folder is not None
    sick.folder.mkdir(mode=0o700, parents=True)
    assert the(doctor_machine.disk(sick), OK).what.startswith(f"{sick.folder}: writable, ")
    sick.folder.chmod(0o755)
    assert the(doctor_machine.disk(sick), WARNING).advice.startswith("chmod 700 ")
    assert list(sick.folder.iterdir()) == []


def test_more_links_than_file_handles_are_a_warning(tmp_path: Path) -> None:
    (found,) = doctor_machine.handles(patient(tmp_path, max_connections=100_000))
    assert (found.status, "ulimit -n" in found.advice) == (WARNING, True)
    (found,) = doctor_machine.handles(patient(tmp_path, max_connections=1, status=running()))
    assert (found.status, " are open" in found.what) == (OK, True)


def test_a_node_of_another_version_than_the_installed_is_a_warning(tmp_path: Path) -> None:
    found = the(doctor_machine.versions(patient(tmp_path, status=running(version="0.0"))), WARNING)
    assert "version 0.0" in found.what
    assert "restart" in found.advice


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the kernel does not list locks here")
def test_a_process_that_holds_a_node_and_does_not_answer_is_named(tmp_path: Path) -> None:
    sick = patient(tmp_path)
    assert sick.folder is not None
    sick.folder.mkdir(mode=0o700, parents=True)
    (sick.folder / "data.sqlite.lock").touch()
    with (sick.folder / "control.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = the(doctor_machine.leftovers(sick, set()), PROBLEM)
        assert found.what == f"process {os.getpid()} serves {sick.folder} and does not answer"
        assert f"kill -CONT {os.getpid()}" in found.advice
        assert the(doctor_machine.leftovers(sick, {sick.folder}), OK).what == "1 folder of nodes without leftovers"
    with (sick.folder / "data.sqlite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"in use by process {os.getpid()}" in the(doctor_machine.leftovers(sick, set()), OK).what
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(sick.folder / "control.sock"))
    assert "the next start takes it over" in the(doctor_machine.leftovers(sick, set()), OK).what


async def test_a_machine_where_nothing_runs_is_examined_to_the_end(tmp_path: Path) -> None:
    found = await examine(patient(tmp_path, found_mesh=True), set())
    assert {"versions", "ports", "peers", "firewall", "names", "mdns", "clock", "certificates", "disk", "handles"} <= {
        finding.check for finding in found
    }
    assert [finding for finding in found if finding.status == PROBLEM] == []
    assert all(finding.advice for finding in found if finding.status != OK)
