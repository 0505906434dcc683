"""The authority: founded, stored, read back with its damage named, and what it signs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bms.errors import ConfigError, RefusedError
from bms.security import pem
from bms.security.authority import Authority
from bms.security.bundle import Bundle, State
from bms.security.certificates import describe
from bms.security.keys import BoxKey, NodeKey
from bms.security.trust import Trust

RandomFrom = Callable[[str], Callable[[int], bytes]]
NOW = 1_790_000_000.0
NODE = NodeKey.from_seed(b"n" * 32)


@pytest.fixture
def token_bytes(random_from: RandomFrom) -> Callable[[int], bytes]:
    return random_from("authority tests")


@pytest.fixture
def stored(authority: Authority, tmp_path: Path) -> Path:
    authority.save(tmp_path / "authority")
    return tmp_path / "authority"


def test_the_same_random_bytes_found_the_same_mesh(random_from: RandomFrom) -> None:
    one, two, other = (Authority.create(token_bytes=random_from(seed), now=NOW) for seed in ("a", "a", "b"))
    assert one.files == two.files
    assert one.mesh_id != other.mesh_id


def test_what_is_stored_comes_back_and_signs_as_before(stored: Path, authority: Authority) -> None:
    loaded = Authority.load(stored, token_bytes=os.urandom)
    assert loaded.bundle == authority.bundle
    assert loaded.files == authority.files
    assert loaded.has_root_key
    node_id, now_ms = NODE.node_id, int(NOW * 1000)
    assert loaded.issue_admission(node_id, now_ms=now_ms) == authority.issue_admission(node_id, now_ms=now_ms)


def test_its_files_are_for_the_owner_alone(stored: Path) -> None:
    assert {path.name: path.stat().st_mode & 0o777 for path in stored.iterdir()} == {
        "root.pem": 0o600,
        "issuer.pem": 0o600,
    }


def test_it_is_never_written_over_another(stored: Path, random_from: RandomFrom, authority: Authority) -> None:
    with pytest.raises(OSError, match="not empty"):
        Authority.create(token_bytes=random_from("b"), now=NOW).save(stored)
    assert Authority.load(stored, token_bytes=os.urandom).mesh_id == authority.mesh_id


def test_it_admits_members_with_the_root_key_offline(stored: Path, trust: Trust) -> None:
    (stored / "root.pem").rename(stored.parent / "in the safe")
    loaded = Authority.load(stored, token_bytes=os.urandom)
    assert not loaded.has_root_key
    assert set(loaded.files) == {"issuer.pem"}
    trust.check_admission_untrusted(loaded.issue_admission(NODE.node_id, now_ms=1).signed)


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def block(text: bytes, label: str, number: int = 0) -> bytes:
    found = [content for name, content in pem.load(text) if name == label][number]
    return pem.dump(label, found)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("root.pem", "CERTIFICATE"),
        ("root.pem", "PRIVATE KEY"),
        ("issuer.pem", "CERTIFICATE"),
        ("issuer.pem", "PRIVATE KEY"),
        ("issuer.pem", "BMS AUTHORITY BUNDLE"),
    ],
)
def test_a_file_that_lacks_a_block_is_named(stored: Path, name: str, label: str) -> None:
    path = stored / name
    damage(path, lambda text: text.replace(block(text, label), b""))
    with pytest.raises(ConfigError, match=name) as caught:
        Authority.load(stored, token_bytes=os.urandom)
    assert caught.value.field == "found_mesh"


@pytest.mark.parametrize("label", ["CERTIFICATE", "PRIVATE KEY", "BMS AUTHORITY BUNDLE"])
def test_a_block_of_another_authority_is_refused(
    stored: Path, label: str, random_from: RandomFrom, tmp_path: Path
) -> None:
    Authority.create(token_bytes=random_from("b"), now=NOW).save(tmp_path / "b")
    foreign = (tmp_path / "b" / "issuer.pem").read_bytes()
    damage(stored / "issuer.pem", lambda text: text.replace(block(text, label), block(foreign, label)))
    with pytest.raises(ConfigError):
        Authority.load(stored, token_bytes=os.urandom)


def test_a_root_key_of_another_authority_is_refused(stored: Path, random_from: RandomFrom, tmp_path: Path) -> None:
    Authority.create(token_bytes=random_from("b"), now=NOW).save(tmp_path / "b")
    damage(stored / "root.pem", lambda _: (tmp_path / "b" / "root.pem").read_bytes())
    with pytest.raises(ConfigError, match="not a root of the bundle"):
        Authority.load(stored, token_bytes=os.urandom)


@pytest.mark.parametrize("change", [lambda text: b"", lambda text: text[:-30], lambda text: text.replace(b"M", b"?")])
def test_damage_is_a_config_error_that_quotes_nothing(stored: Path, change: Callable[[bytes], bytes]) -> None:
    secret = (stored / "issuer.pem").read_bytes().splitlines()
    damage(stored / "issuer.pem", change)
    with pytest.raises(ConfigError) as caught:
        Authority.load(stored, token_bytes=os.urandom, field="dev_mode")
    assert caught.value.field == "dev_mode"
    assert not any(line.decode() in str(caught.value) for line in secret if len(line) > 40)


@pytest.mark.parametrize("name", ["root.pem", "issuer.pem"])
def test_files_that_others_may_read_are_refused(stored: Path, name: str) -> None:
    (stored / name).chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Authority.load(stored, token_bytes=os.urandom)


def test_a_missing_authority_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Authority.load(tmp_path, token_bytes=os.urandom)


def test_a_serial_is_the_time_or_follows_the_last_one(authority: Authority) -> None:
    assert authority.issue_admission(NODE.node_id, now_ms=500).serial == 500
    assert authority.issue_admission(NODE.node_id, now_ms=500, last_serial=499).serial == 500
    assert authority.issue_admission(NODE.node_id, now_ms=500, last_serial=500).serial == 501
    assert authority.issue_admission(NODE.node_id, now_ms=500, last_serial=9000).serial == 9001


def test_a_certificate_is_for_the_days_asked_for(authority: Authority, token_bytes: Callable[[int], bytes]) -> None:
    files = authority.issue_identity(NODE, BoxKey.generate(token_bytes), now=NOW, days=7)
    assert describe(files.cert_pem).not_after == NOW + 7 * 86_400


def test_each_identity_gets_a_tls_key_of_its_own(authority: Authority, token_bytes: Callable[[int], bytes]) -> None:
    box = BoxKey.generate(token_bytes)
    one, two = (describe(authority.issue_identity(NODE, box, now=NOW).cert_pem) for _ in range(2))
    assert one.node_id == two.node_id
    assert one.spki_sha256 != two.spki_sha256


@pytest.mark.parametrize("state", [State.RETIRED, State.REVOKED])
def test_an_issuer_that_is_not_active_signs_nothing_new(authority: Authority, state: State) -> None:
    first = authority.bundle
    root_key = authority._root_key
    assert root_key is not None
    second = Bundle.sign(
        root_key,
        mesh_id=first.mesh_id,
        number=2,
        previous=first.sha256,
        issued_at=1,
        roots=[(root.certificate_der, root.state) for root in first.roots],
        issuers=[(issuer.issuer_id, issuer.certificate_der, state, None) for issuer in first.issuers],
    )
    ended = Authority(second, authority._issuer_key, authority._certifying_key, root_key, os.urandom)
    with pytest.raises(RefusedError, match=state.name.lower()):
        ended.issue_admission(NODE.node_id, now_ms=1)
    with pytest.raises(RefusedError, match=state.name.lower()):
        ended.issue_identity(NODE, BoxKey(bytes(32)), now=NOW)


def test_nothing_secret_shows(authority: Authority, token_bytes: Callable[[int], bytes]) -> None:
    files = authority.issue_identity(NODE, BoxKey.generate(token_bytes), now=NOW)
    shown = f"{authority!r} {authority} {files!r} {files}"
    assert "PRIVATE" not in shown
    for secret in (files.key_pem, *authority.files.values()):
        keys = [content for label, content in pem.load(secret) if label == pem.PRIVATE_KEY]
        assert keys
        assert not any(key.hex() in shown or repr(key)[2:-1] in shown for key in keys)
