"""The three files of an identity: what they hold, that OpenSSL uses them as they are, and what is refused."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from bms.errors import ConfigError
from bms.security import pem
from bms.security.authority import Authority
from bms.security.bundle import Bundle, State
from bms.security.certificates import build_issuer, spki_sha256
from bms.security.identity import Identity, load_identity_files
from bms.security.keys import BoxKey, NodeKey, make_tls_key
from bms.security.trust import Trust
from bms.wire.codec import encode

RandomFrom = Callable[[str], Callable[[int], bytes]]
NOW = 1_790_000_000.0
DAY = 86_400


@attrs.frozen
class Paths:
    """Where the three files are."""

    key: Path
    cert: Path
    trust: Path

    def load(self, now: float = NOW) -> Identity:
        return load_identity_files(self.key, self.cert, self.trust, now)


Issue = Callable[..., Paths]


@pytest.fixture
def issue(tmp_path: Path, random_from: RandomFrom) -> Issue:
    def make(authority: Authority, name: str = "alice", now: float = NOW) -> Paths:
        token_bytes = random_from(name)
        keys = NodeKey.generate(token_bytes), BoxKey.generate(token_bytes)
        folder = tmp_path / f"{name} of {authority.mesh_id.hex()[:8]}"
        folder.mkdir()
        for file, content in authority.issue_identity(*keys, now=now).files.items():
            (folder / file).write_bytes(content)
            (folder / file).chmod(0o600)
        return Paths(folder / "key.pem", folder / "cert.pem", folder / "trust.pem")

    return make


@pytest.fixture
def real_time_mesh(random_from: RandomFrom) -> Callable[[str], Authority]:
    """Founded now by this machine's clock, since OpenSSL looks at nothing else."""
    return lambda seed: Authority.create(token_bytes=random_from(seed), now=_clock())


def _clock() -> float:
    return time.time()


# --- what they hold


def test_the_files_hold_the_blocks_of_the_formats_page_in_order(authority: Authority, issue: Issue) -> None:
    paths = issue(authority)
    labels = {
        path.name: [label for label, _ in pem.load(path.read_bytes())] for path in (paths.key, paths.cert, paths.trust)
    }
    assert labels == {
        "key.pem": ["PRIVATE KEY"] * 3,
        "cert.pem": ["CERTIFICATE", "CERTIFICATE", "BMS ADMISSION"],
        "trust.pem": ["CERTIFICATE", "BMS AUTHORITY BUNDLE"],
    }


def test_an_identity_is_read_from_its_files(authority: Authority, issue: Issue, random_from: RandomFrom) -> None:
    paths = issue(authority)
    identity = paths.load()
    token_bytes = random_from("alice")
    assert identity.node_id == identity.node_key.node_id == NodeKey.generate(token_bytes).node_id
    assert identity.box_key.public == BoxKey.generate(token_bytes).public
    assert identity.mesh_id == authority.mesh_id
    assert identity.admission.node_id == identity.node_id
    assert identity.bundle == authority.bundle
    assert (identity.not_before, identity.not_after) == (NOW - DAY, NOW + 90 * DAY)
    assert identity.renew_at == pytest.approx(NOW - DAY + 91 * DAY * 2 / 3)
    assert identity.leaf_spki == spki_sha256(pem.load(identity.cert_pem)[0][1])
    assert identity.key_pem == paths.key.read_bytes()
    assert identity.authority is None


def test_nothing_secret_of_an_identity_shows(authority: Authority, issue: Issue) -> None:
    identity = issue(authority).load()
    shown = f"{identity!r} {identity}"
    assert identity.node_id in shown
    assert "PRIVATE" not in shown
    for _, key in pem.load(identity.key_pem):
        assert key.hex() not in shown
        assert repr(key)[2:-1] not in shown


# --- TLS with the very same files


def context(paths: Paths, *, server: bool, as_text: bool = False) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    if as_text:
        made.load_verify_locations(cadata=paths.trust.read_text())
    else:
        made.load_verify_locations(paths.trust)
    made.load_cert_chain(paths.cert, paths.key)
    return made


def handshake(dialer: ssl.SSLContext, listener: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends in one thread over memory; each has proved the peer when one byte has gone each way."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = dialer.wrap_bio(down, up)
    server = listener.wrap_bio(up, down, server_side=True)
    waiting = [client.do_handshake, server.do_handshake]
    for _ in range(10):
        for step in list(waiting):
            try:
                step()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(step)
    assert not waiting
    client.write(b">")
    server.write(b"<")
    assert (server.read(1), client.read(1)) == (b">", b"<")
    return client, server


@pytest.mark.parametrize("as_text", [False, True])
def test_two_nodes_prove_themselves_to_each_other_in_tls_1_3_with_these_files(
    issue: Issue, real_time_mesh: Callable[[str], Authority], as_text: bool
) -> None:
    authority, now = real_time_mesh("mesh"), _clock()
    alice, bob = issue(authority, "alice", now), issue(authority, "bob", now)
    client, server = handshake(context(alice, server=False, as_text=as_text), context(bob, server=True))
    assert client.version() == server.version() == "TLSv1.3"
    trust = Trust(authority.bundle)
    for end, peer in ((client, bob), (server, alice)):
        der = end.getpeercert(True)
        assert der is not None
        assert trust.check_leaf_untrusted(der) == peer.load(now).node_id
        assert spki_sha256(der) == peer.load(now).leaf_spki


def test_a_node_of_another_mesh_fails_in_the_handshake_on_either_side(
    issue: Issue, real_time_mesh: Callable[[str], Authority]
) -> None:
    now = _clock()
    alice = issue(real_time_mesh("mesh"), "alice", now)
    mallory = issue(real_time_mesh("another"), "mallory", now)
    for dialer, listener in ((alice, mallory), (mallory, alice)):
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
            handshake(context(dialer, server=False), context(listener, server=True))


# --- what is refused


def refused(paths: Paths, field: str, why: str, now: float = NOW) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        paths.load(now)
    assert caught.value.field == field
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize("name", ["key", "cert", "trust"])
def test_a_missing_file_names_its_setting(authority: Authority, issue: Issue, name: str) -> None:
    paths = issue(authority)
    getattr(paths, name).unlink()
    refused(paths, f"{name}_path", "No such file")


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_file_that_others_may_read_is_refused(authority: Authority, issue: Issue, mode: int) -> None:
    paths = issue(authority)
    paths.key.chmod(mode)
    refused(paths, "key_path", "chmod 600")


@pytest.mark.parametrize("name", ["key", "cert", "trust"])
def test_every_damage_of_a_file_names_its_setting(authority: Authority, issue: Issue, name: str) -> None:
    paths = issue(authority)
    path: Path = getattr(paths, name)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-10], whole.replace(b"A", b"*"), whole + whole):
        path.write_bytes(damaged)
        refused(paths, f"{name}_path", path.name)


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 1, 0), (0, 1), (0, 0, 2), (0, 1, 2, 2)])
def test_keys_in_another_order_or_number_are_refused(
    authority: Authority, issue: Issue, order: tuple[int, ...]
) -> None:
    paths = issue(authority)
    blocks = [pem.dump(*block) for block in pem.load(paths.key.read_bytes())]
    paths.key.write_bytes(b"".join(blocks[number] for number in order))
    refused(paths, "key_path", "in this order")


def test_keys_of_another_node_are_refused(authority: Authority, issue: Issue) -> None:
    alice, bob = issue(authority, "alice"), issue(authority, "bob")
    refused(attrs.evolve(alice, key=bob.key), "cert_path", "not of the node whose keys")


def test_a_tls_key_of_another_certificate_is_refused(authority: Authority, issue: Issue) -> None:
    alice, bob = issue(authority, "alice"), issue(authority, "bob")
    mine, theirs = (pem.load(paths.key.read_bytes()) for paths in (alice, bob))
    alice.key.write_bytes(b"".join(pem.dump(*block) for block in [theirs[0], *mine[1:]]))
    refused(alice, "cert_path", "not for the TLS key")


def test_an_admission_of_another_node_is_refused(authority: Authority, issue: Issue) -> None:
    alice, bob = issue(authority, "alice"), issue(authority, "bob")
    mine, theirs = (pem.load(paths.cert.read_bytes()) for paths in (alice, bob))
    alice.cert.write_bytes(b"".join(pem.dump(*block) for block in [*mine[:2], theirs[2]]))
    refused(alice, "cert_path", "not of the node whose keys")


def test_a_certificate_of_another_mesh_is_refused(authority: Authority, issue: Issue, random_from: RandomFrom) -> None:
    other = Authority.create(token_bytes=random_from("other"), now=NOW)
    alice, elsewhere = issue(authority), issue(other)
    refused(attrs.evolve(alice, cert=elsewhere.cert), "cert_path", "another mesh")
    refused(attrs.evolve(alice, trust=elsewhere.trust), "cert_path", "another mesh")


def test_a_chain_with_another_issuer_is_refused(authority: Authority, issue: Issue, random_from: RandomFrom) -> None:
    other = Authority.create(token_bytes=random_from("other"), now=NOW)
    alice = issue(authority)
    mine, theirs = pem.load(alice.cert.read_bytes()), pem.load(issue(other).cert.read_bytes())
    alice.cert.write_bytes(b"".join(pem.dump(*block) for block in [mine[0], theirs[1], mine[2]]))
    refused(alice, "cert_path", "issuer")


def test_a_chain_with_another_issuer_of_the_same_mesh_is_refused(authority: Authority, issue: Issue) -> None:
    """TLS would not verify it, although the bundle knows both."""
    first, root_key = authority.bundle, authority._root_key
    assert root_key is not None
    root, issuer = first.roots[0], first.issuers[0]
    second_key = NodeKey.from_seed(b"2" * 32)
    public = make_tls_key(lambda size: b"2" * size).public_key()
    der = build_issuer(public, second_key.node_id.raw, root.certificate_der, root_key, now=NOW, random=b"r" * 20)
    both = Bundle.sign(
        root_key,
        mesh_id=first.mesh_id,
        number=2,
        previous=first.sha256,
        issued_at=1,
        roots=[(root.certificate_der, root.state)],
        issuers=[
            (issuer.issuer_id, issuer.certificate_der, issuer.state, None),
            (second_key.node_id.raw, der, State.ACTIVE, None),
        ],
    )
    alice = issue(authority)
    trusted = pem.dump(pem.CERTIFICATE, root.certificate_der) + pem.dump(pem.BUNDLE, encode(both.signed))
    alice.trust.write_bytes(trusted)
    assert alice.load().bundle == both
    mine = pem.load(alice.cert.read_bytes())
    alice.cert.write_bytes(b"".join(pem.dump(*block) for block in [mine[0], (pem.CERTIFICATE, der), mine[2]]))
    refused(alice, "cert_path", "not that of the first one's issuer")


def test_a_root_that_the_bundle_does_not_name_is_refused(
    authority: Authority, issue: Issue, random_from: RandomFrom
) -> None:
    other = Authority.create(token_bytes=random_from("other"), now=NOW)
    alice, elsewhere = issue(authority), issue(other)
    alice.trust.write_bytes(pem.dump(*pem.load(elsewhere.trust.read_bytes())[0]) + alice.trust.read_bytes())
    refused(alice, "trust_path", "not the roots")


def test_an_expired_certificate_says_what_to_do(authority: Authority, issue: Issue) -> None:
    paths = issue(authority)
    assert paths.load(NOW + 90 * DAY - 1)
    refused(paths, "cert_path", "bms identity issue", NOW + 90 * DAY)


def test_a_certificate_that_is_not_valid_yet_is_a_warning_since_clocks_get_set(
    authority: Authority, issue: Issue, caplog: pytest.LogCaptureFixture
) -> None:
    assert issue(authority).load(0.0)
    assert "clock" in caplog.text
