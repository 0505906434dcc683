"""A small vocabulary for tests: authorities and forged certificates, bare links, whole meshes, processes, waiting."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import random
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bms.config import Config
from bms.control import SOCKET_NAME
from bms.counters import Counters
from bms.net.handshake import VERSIONS, Introduction
from bms.net.link import Handler, Link
from bms.net.pool import Pool
from bms.security.authority import Authority
from bms.security.identity import Identity, load_identity_files
from bms.security.keys import BoxKey, NodeKey
from bms.security.records import NodeRecord
from bms.security.trust import Trust
from bms.values import Address
from bms.world import World

__all__ = [
    "PROCESS_S",
    "ROOT",
    "Party",
    "Program",
    "bms_up",
    "cluster",
    "forge_leaf",
    "hostile_context",
    "make_authority",
    "make_identity",
    "make_record",
    "open_party",
    "running",
    "until",
]

ROOT = Path(__file__).parents[1]

# How long another process may take for a step, on a machine that is busy with others.
PROCESS_S = 120

_numbers = itertools.count()


def make_authority() -> Authority:
    """A new mesh."""
    return Authority.create(token_bytes=secrets.token_bytes, now=time.time())


def make_identity(authority: Authority, folder: Path, name: str = "node") -> Identity:
    """A member of that mesh, by way of its three files."""
    files = authority.issue_identity(
        NodeKey.generate(secrets.token_bytes), BoxKey.generate(secrets.token_bytes), now=time.time()
    )
    place = folder / name
    place.mkdir(parents=True)
    for file, content in files.files.items():
        (place / file).touch(mode=0o600)
        (place / file).write_bytes(content)
    return load_identity_files(place / "key.pem", place / "cert.pem", place / "trust.pem", time.time())


def make_record(identity: Identity, boot: int = 1_800_000_000_000, **fields: Any) -> NodeRecord:
    """A node record as that member would sign it."""
    values: dict[str, Any] = {
        "mesh_id": identity.mesh_id,
        "boot": boot,
        "boot_id": secrets.token_bytes(16),
        "incarnation": 1,
        "name": "node",
        "addresses": [],
        "box_keys": [identity.box_key.public],
        "versions": VERSIONS,
        "time": 0,
    }
    return NodeRecord.sign(identity.node_key, **{**values, **fields})


def forge_leaf(
    authority: Authority,
    uris: Sequence[str],
    *,
    ca: bool = False,
    days: float = 90,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> tuple[bytes, bytes]:
    """A leaf of the mesh's own issuer, wrong as asked: (cert chain PEM, key PEM). Without `uris` it has no SAN."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    issuer_key = serialization.load_pem_private_key(_issuer_tls_pem(authority), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_der_x509_certificate(authority.bundle.issuers[0].certificate_der)
    now = datetime.datetime.now(datetime.UTC)
    start = now - datetime.timedelta(days=2)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
    builder = x509.CertificateBuilder()
    if uris:
        builder = builder.add_extension(names, critical=True)
    certificate = (
        builder.subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, ca, ca, False, False),
            critical=True,
        )
        .add_extension(
            x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    chain = certificate.public_bytes(pem) + issuer.public_bytes(pem)
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return chain, private


def _issuer_tls_pem(authority: Authority) -> bytes:
    """The issuer's P-256 key, as its file has it (first)."""
    text = authority.files["issuer.pem"]
    start = text.index(b"-----BEGIN PRIVATE KEY-----")
    end = text.index(b"-----END PRIVATE KEY-----", start)
    return text[start:end] + b"-----END PRIVATE KEY-----\n"


def hostile_context(
    folder: Path,
    *,
    chain: bytes | None = None,
    key: bytes | None = None,
    alpn: str | None = "bms/1",
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    server: bool = False,
    ca: bytes | None = None,
) -> ssl.SSLContext:
    """A TLS context of somebody who follows our rules only where asked to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    if chain is not None and key is not None:
        path = folder / f"{secrets.token_hex(4)}.pem"
        path.write_bytes(key + chain)
        context.load_cert_chain(path)
    if server and ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=ca.decode())
    return context


@attrs.define
class Party:
    """One member with bare links and no rooms above them."""

    identity: Identity
    pool: Pool
    counters: Counters
    address: Address
    up: list[Link]
    down: list[tuple[Link, bool]]


@asynccontextmanager
async def open_party(
    identity: Identity,
    *,
    config: Config | None = None,
    routes: dict[type, Handler] | None = None,
    record: NodeRecord | None = None,
    listen: bool = True,
) -> AsyncIterator[Party]:
    """Run a pool for `identity`, listening on loopback."""
    record = record or make_record(identity)
    counters = Counters()
    up: list[Link] = []
    down: list[tuple[Link, bool]] = []
    config = config or Config()
    world = World(random=random.Random(1))
    pool = Pool(
        introduce=lambda: Introduction(identity, record, config.limits.frame_bytes_max),
        trust=Trust(identity.bundle),
        config=config,
        world=world,
        counters=counters,
        routes=routes or {},
        on_up=up.append,
        on_down=lambda link, last: down.append((link, last)),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        address = Address("127.0.0.1", 0)
        if listen:
            address = await nursery.start(pool.listen, address)
        yield Party(identity, pool, counters, address, up, down)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until `condition()` is true; fails after a generous deadline."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.01)


@asynccontextmanager
async def cluster(count: int, **fields: Any) -> AsyncIterator[list[Any]]:
    """`count` whole nodes of one dev mesh in this process, each linked with all."""
    import bms

    meshes: list[bms.Mesh] = []
    async with trio.open_nursery() as nursery:
        for number in range(count):
            mesh = bms.init(dev_mode=True, node_name=f"n{number + 1}", **fields)
            await mesh.start(nursery)
            meshes.append(mesh)
        try:
            await until(lambda: all(len(mesh.nodes("alive")) == count for mesh in meshes))
            yield meshes
        finally:
            for mesh in meshes:
                await mesh.shutdown()


# ---------------------------------------------------------------------- processes


@attrs.define(eq=False)
class Program:
    """A running program. What it writes to standard error is in `log`; `ready` is what `bms up` said when it was."""

    process: trio.Process
    log: Path
    ready: dict[str, Any] = attrs.field(factory=dict)
    was_awaited: bool = False
    _unread: bytes = b""

    @property
    def control(self) -> Path:
        """The control socket of a `bms up`."""
        return Path(self.ready["folder"]) / SOCKET_NAME

    @property
    def output(self) -> trio.abc.ReceiveStream:
        """What it writes to standard output."""
        assert self.process.stdout is not None
        return self.process.stdout

    async def line(self) -> str:
        """The next line of its output; fails, with its log, where there is none."""
        with trio.fail_after(PROCESS_S):
            while b"\n" not in self._unread:
                data = await self.output.receive_some()
                assert data, self.log.read_text()
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal; its exit status, once it has ended."""
        self.process.send_signal(number)
        return await self.wait()

    async def end_input(self) -> None:
        """Let it read the end of its standard input."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        with trio.fail_after(PROCESS_S):
            status = await self.process.wait()
        self.was_awaited = True
        return status


@asynccontextmanager
async def running(
    command: Sequence[str | Path],
    folder: Path,
    environ: Mapping[str, str] | None = None,
    *,
    status: int = 0,
    may_fail: bool = False,
) -> AsyncIterator[Program]:
    """Run a program in `folder` for the body. Unless the body has awaited its end, it is asked to end then (SIGTERM)
    and must do so with `status`. No traceback may be in its log if it may not fail. Nothing of it is left in any case.
    """
    log = folder / f"log-{next(_numbers)}"
    with log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **(environ or {})},
        )  # fmt: skip
    program = Program(process, log)
    try:
        yield program
        if not program.was_awaited:
            assert await program.end() == status, log.read_text()
        assert may_fail or "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await trio.aclose_forcefully(pipe)


@asynccontextmanager
async def bms_up(
    folder: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    within: Callable[[list[str]], list[str]] = list,
) -> AsyncIterator[Program]:
    """Run `bms up` in `folder` for the body, which begins when it is ready. `within` makes its command another's."""
    command = [sys.executable, "-W", "error", "-m", "bms", "up", "-o", "json", "--exit-with-stdin", *arguments]
    async with running(within(command), folder, environ) as program:
        program.ready = json.loads(await program.line())
        yield program
