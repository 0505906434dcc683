"""How a starting node comes by its identity: each way, each refusal, and renewal."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bms.config
from bms.config import Config
from bms.errors import ConfigError
from bms.security.authority import Authority
from bms.security.identity import Identity, issue_files, load_identity_files, load_or_make_identity
from bms.security.trust import Trust

RandomFrom = Callable[[str], Callable[[int], bytes]]
NOW = 1_790_000_000.0
DAY = 86_400
LIFE = 91 * DAY  # of a certificate, which starts a day before it is issued


class Machine:
    """One machine: the home of its nodes, and a clock that is set by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.now = NOW

    def start(self, name: str | None, **fields: Any) -> Identity:
        """What a node with that folder (None: in memory) comes up as."""
        folder = None if name is None else self.root / name
        config = Config(**fields)
        return load_or_make_identity(config, folder, home=self.home, token_bytes=os.urandom, wall_time=lambda: self.now)

    def issue(self, founder: str, out: str, **options: Any) -> Path:
        """What `bms identity issue` does on the founder."""
        given: dict[str, Any] = {"node_name": "new", "token_bytes": os.urandom, "wall_time": lambda: self.now}
        issue_files(self.root / founder, self.root / out, **given | options)
        return self.root / out

    def files(self, name: str) -> dict[str, bytes]:
        """Everything in a node's folder."""
        paths = [path for path in (self.root / name).rglob("*") if path.is_file()]
        return {path.relative_to(self.root / name).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def carried(folder: Path) -> dict[str, Path]:
    """The settings that name the three files in a folder."""
    return {f"{name}_path": folder / f"{name}.pem" for name in ("key", "cert", "trust")}


# --- none


def test_a_node_with_nothing_is_told_the_four_ways(machine: Machine) -> None:
    for name in ("node", None):
        with pytest.raises(ConfigError) as caught:
            machine.start(name)
        for way in ("dev_mode", "cert_path", "key_path", "trust_path", "ticket", "bootstrap_nodes", "found_mesh"):
            assert way in caught.value.why
    assert not (machine.root / "node" / "identity").exists()
    assert not machine.home.exists()


# --- (4) founding


def test_a_founder_makes_the_authority_and_admits_itself(machine: Machine) -> None:
    identity = machine.start("node", found_mesh=True)
    assert identity.authority is not None
    assert identity.authority.mesh_id == identity.mesh_id
    assert set(machine.files("node")) - {"identity.lock"} == {
        "identity/key.pem",
        "identity/cert.pem",
        "identity/trust.pem",
        "identity/authority/root.pem",
        "identity/authority/issuer.pem",
    }
    assert Trust(identity.bundle).check_admission_untrusted(identity.admission.signed).grants == (("*", 15),)


@pytest.mark.parametrize("found_mesh", [True, False])
def test_a_founder_comes_back_as_itself_with_its_authority(machine: Machine, found_mesh: bool) -> None:
    first = machine.start("node", found_mesh=True)
    files = machine.files("node")
    again = machine.start("node", found_mesh=found_mesh)
    assert (again.node_id, again.mesh_id, again.leaf_spki) == (first.node_id, first.mesh_id, first.leaf_spki)
    assert again.authority is not None
    assert machine.files("node") == files


def test_a_founder_without_a_folder_lives_in_memory(machine: Machine) -> None:
    one, two = (machine.start(None, found_mesh=True) for _ in range(2))
    assert one.authority is not None
    assert one.mesh_id != two.mesh_id
    assert list(machine.root.iterdir()) == []


def test_an_authority_that_was_put_into_an_empty_folder_is_used(machine: Machine) -> None:
    """Such as one restored from its backup."""
    authority = Authority.create(token_bytes=os.urandom, now=NOW)
    authority.save(machine.root / "node" / "identity" / "authority")
    identity = machine.start("node", found_mesh=True)
    assert identity.mesh_id == authority.mesh_id
    assert machine.start("node").node_id == identity.node_id


def test_an_empty_identity_folder_does_not_cost_the_authority(machine: Machine) -> None:
    (machine.root / "node" / "identity").mkdir(parents=True)
    identity = machine.start("node", found_mesh=True)
    assert "identity/authority/root.pem" in machine.files("node")
    assert machine.start("node").authority is not None
    assert machine.start("node").node_id == identity.node_id


def test_an_authority_of_another_mesh_beside_an_identity_is_refused(machine: Machine) -> None:
    machine.start("one", found_mesh=True)
    machine.start("two", found_mesh=True)
    (machine.root / "one/identity/authority").rename(machine.root / "aside")
    (machine.root / "two/identity/authority").rename(machine.root / "one/identity/authority")
    with pytest.raises(ConfigError, match="another mesh"):
        machine.start("one")


# --- (2) stored


@pytest.mark.parametrize("name", ["key", "cert", "trust"])
def test_an_identity_that_lost_a_file_is_refused_and_not_replaced(machine: Machine, name: str) -> None:
    machine.start("node", found_mesh=True)
    (machine.root / f"node/identity/{name}.pem").unlink()
    left = machine.files("node")
    for fields in ({"found_mesh": True}, {"dev_mode": True}, {}):
        with pytest.raises(ConfigError, match="restore it") as caught:
            machine.start("node", **fields)
        assert caught.value.field == f"{name}_path"
    assert machine.files("node") == left


def test_a_stored_key_that_others_may_read_is_refused(machine: Machine) -> None:
    machine.start("node", found_mesh=True)
    (machine.root / "node/identity/key.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        machine.start("node")


# --- (1) files of one's own


def test_issued_files_make_another_machine_a_member(machine: Machine, tmp_path: Path) -> None:
    founder = machine.start("founder", found_mesh=True)
    folder = machine.issue("founder", "usb-stick", role="sensor", grants=[("topic:*", 3)], days=7)
    assert sorted(path.name for path in folder.iterdir()) == ["cert.pem", "key.pem", "trust.pem"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    elsewhere = Machine(tmp_path / "elsewhere")
    identity = elsewhere.start("node", **carried(folder))
    assert identity.mesh_id == founder.mesh_id
    assert identity.node_id != founder.node_id
    assert (identity.admission.role, identity.admission.grants) == ("sensor", (("topic:*", 3),))
    assert identity.not_after == NOW + 7 * DAY
    assert identity.authority is None
    assert not elsewhere.root.exists()


def test_files_of_ones_own_go_before_a_stored_identity(machine: Machine) -> None:
    machine.start("founder", found_mesh=True)
    folder = machine.issue("founder", "out")
    assert (
        machine.start("founder", **carried(folder)).node_id
        == load_identity_files(folder / "key.pem", folder / "cert.pem", folder / "trust.pem", NOW).node_id
    )


@pytest.mark.parametrize("left_out", ["key_path", "cert_path", "trust_path"])
def test_the_three_paths_go_together(machine: Machine, left_out: str) -> None:
    machine.start("founder", found_mesh=True)
    paths = carried(machine.issue("founder", "out"))
    del paths[left_out]
    with pytest.raises(ConfigError, match="together"):
        machine.start("node", **paths)


def test_issuing_needs_the_founders_folder(machine: Machine) -> None:
    machine.start("node", dev_mode=True)
    with pytest.raises(ConfigError, match="where the mesh was founded"):
        machine.issue("node", "out")
    assert not (machine.root / "out").exists()


def test_issuing_never_writes_over_anything(machine: Machine) -> None:
    machine.start("founder", found_mesh=True)
    machine.issue("founder", "out")
    before = machine.files("out")
    with pytest.raises(ConfigError, match="not empty") as caught:
        machine.issue("founder", "out")
    assert caught.value.field == "out"
    assert machine.files("out") == before
    (machine.root / "file").write_bytes(b"x")
    with pytest.raises(ConfigError):
        machine.issue("founder", "file")
    (machine.root / "empty").mkdir()
    assert len(list(machine.issue("founder", "empty").iterdir())) == 3


# --- (3) dev mode


def test_dev_nodes_of_one_mesh_name_are_one_mesh(machine: Machine) -> None:
    one, two, three = (
        machine.start("one", dev_mode=True),
        machine.start("two", dev_mode=True),
        machine.start(None, dev_mode=True),
    )
    assert one.mesh_id == two.mesh_id == three.mesh_id
    assert len({one.node_id, two.node_id, three.node_id}) == 3
    assert Trust(one.bundle).check_admission_untrusted(three.admission.signed)
    assert machine.start(None, dev_mode=True, mesh_name="other").mesh_id != one.mesh_id


def test_dev_mode_is_loud_in_the_log(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.start(None, dev_mode=True)
    assert [record.levelname for record in caplog.records if "dev_mode" in record.message] == ["WARNING"]


def test_a_dev_node_comes_back_as_itself_and_holds_no_authority(machine: Machine) -> None:
    first = machine.start("node", dev_mode=True)
    again = machine.start("node", dev_mode=True)
    assert again.node_id == first.node_id
    assert again.authority is None
    assert not (machine.root / "node/identity/authority").exists()
    assert machine.start("node").node_id == first.node_id  # without dev_mode it is a stored identity like any


def test_the_dev_authority_is_for_its_owner_alone(machine: Machine) -> None:
    machine.start(None, dev_mode=True)
    folder = machine.home / "default" / "dev-authority"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    (folder / "issuer.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        machine.start(None, dev_mode=True)
    assert caught.value.field == "dev_mode"


def test_a_folder_with_another_meshs_identity_is_refused_in_dev_mode(machine: Machine) -> None:
    founder = machine.start("node", found_mesh=True)
    machine.start(None, dev_mode=True)
    before = machine.files("node")
    with pytest.raises(ConfigError, match="another node_name") as caught:
        machine.start("node", dev_mode=True)
    assert caught.value.field == "dev_mode"
    assert founder.mesh_id.hex()[:8] in caught.value.why
    assert machine.files("node") == before


def test_a_dev_node_whose_authority_is_gone_is_refused_and_no_new_one_is_made(machine: Machine) -> None:
    machine.start("node", dev_mode=True)
    (machine.home / "default" / "dev-authority").rename(machine.root / "gone")
    with pytest.raises(ConfigError, match="move the folder away"):
        machine.start("node", dev_mode=True)
    assert not (machine.home / "default" / "dev-authority").exists()


def test_a_node_cannot_be_named_like_the_dev_authority(machine: Machine) -> None:
    machine.home = machine.root
    with pytest.raises(ConfigError) as caught:
        machine.start("default/dev-authority", dev_mode=True, node_name="dev-authority")
    assert caught.value.field == "node_name"


PROGRAM = """
import json, os, sys, time
from pathlib import Path
from bms.config import Config
from bms.security.identity import load_or_make_identity
home, name = Path(sys.argv[1]), sys.argv[2]
sys.stdin.read()  # all wait for the same moment
identity = load_or_make_identity(
    Config(dev_mode=True), home / name, home=home, token_bytes=os.urandom, wall_time=time.time
)
print(json.dumps([identity.mesh_id.hex(), identity.node_id]))
"""


def test_processes_that_start_at_once_agree_on_the_dev_authority_and_on_a_shared_folder(tmp_path: Path) -> None:
    names = ["a", "b", "shared", "shared"]
    root = str(Path(bms.config.__file__).parent.parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, root])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in names
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert {process.returncode for process in processes} == {0}
    assert len({mesh for mesh, _ in answers}) == 1
    nodes = [node for _, node in answers]
    assert nodes[2] == nodes[3]
    assert len(set(nodes)) == 3


def is_held(path: Path) -> bool:
    """Whether somebody holds that lock file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_authorities_and_identities_are_made_under_their_locks_alone(machine: Machine) -> None:
    node, dev = machine.root / "node/identity.lock", machine.home / "default/dev-authority.lock"
    seen = []

    def token_bytes(size: int) -> bytes:
        seen.append((is_held(node), is_held(dev)))
        return os.urandom(size)

    config = Config(dev_mode=True)
    load_or_make_identity(
        config, machine.root / "node", home=machine.home, token_bytes=token_bytes, wall_time=lambda: NOW
    )
    assert set(seen) == {(True, True), (True, False)}  # the authority is made first, then this node's identity
    assert sorted(seen, reverse=True) == seen
    assert not is_held(node)
    assert not is_held(dev)


# --- renewal


@pytest.mark.parametrize("fields", [{"found_mesh": True}, {"dev_mode": True}])
def test_a_certificate_is_renewed_with_a_fresh_key_after_two_thirds_of_its_life(
    machine: Machine, fields: dict[str, Any]
) -> None:
    first = machine.start("node", **fields)
    machine.now = first.renew_at - 1
    assert machine.start("node", **fields).leaf_spki == first.leaf_spki
    machine.now = first.renew_at
    renewed = machine.start("node", **fields)
    assert renewed.leaf_spki != first.leaf_spki
    assert renewed.not_after == machine.now + 90 * DAY
    assert (renewed.node_id, renewed.mesh_id) == (first.node_id, first.mesh_id)
    assert renewed.box_key.public == first.box_key.public
    assert renewed.admission == first.admission
    assert machine.start("node", **fields).leaf_spki == renewed.leaf_spki


@pytest.mark.parametrize("fields", [{"found_mesh": True}, {"dev_mode": True}])
def test_an_expired_certificate_is_renewed_too_where_an_authority_is_at_hand(
    machine: Machine, fields: dict[str, Any]
) -> None:
    first = machine.start("node", **fields)
    machine.now = first.not_after + 365 * DAY
    assert machine.start("node", **fields).node_id == first.node_id


def test_without_an_authority_at_hand_a_certificate_serves_to_its_end(machine: Machine) -> None:
    first = machine.start("node", dev_mode=True)
    machine.now = first.not_after - 1
    assert machine.start("node").leaf_spki == first.leaf_spki
    machine.now = first.not_after
    with pytest.raises(ConfigError, match="expired"):
        machine.start("node")


def test_a_renewal_that_the_disk_refuses_leaves_the_old_certificate_in_use(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    first = machine.start("node", found_mesh=True)
    (machine.root / "node/identity/.pending.new").write_bytes(b"in the way")
    machine.now = first.renew_at
    assert machine.start("node").leaf_spki == first.leaf_spki
    assert "could not be renewed" in caplog.text
    machine.now = first.not_after
    with pytest.raises(ConfigError, match="expired"):
        machine.start("node")


# --- the disk


def test_a_place_that_cannot_be_written_is_a_config_error(machine: Machine) -> None:
    (machine.root / "file").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        machine.start("file/node", found_mesh=True)
    assert caught.value.field == "persistence_path"
    machine.home = machine.root / "file"
    with pytest.raises(ConfigError) as caught:
        machine.start(None, dev_mode=True)
    assert caught.value.field == "dev_mode"
