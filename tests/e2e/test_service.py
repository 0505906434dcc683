"""`bms up` under a service manager: it says how it is, and takes up new settings and a new certificate on SIGHUP."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hostile import context_of, over, plain

from bms.control.client import open_control
from bms.security.authority import Authority
from bms.security.identity import Identity
from bms.values import Address
from helpers import PROCESS_S, bms_up, make_authority, make_identity, until

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_a_service_manager_hears_ready_watchdog_and_stopping(kind: str, tmp_path: Path) -> None:
    name = f"@bms-{secrets.token_hex(8)}" if kind == "abstract" else str(tmp_path / "n")
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        await manager.bind("\0" + name[1:] if kind == "abstract" else name)
        environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000"}
        async with bms_up(tmp_path, "--dev", environ=environ) as node:
            heard: list[bytes] = []
            with trio.fail_after(PROCESS_S):
                while b"READY=1" not in heard or heard.count(b"WATCHDOG=1") < 4:
                    heard.append(await manager.recv(4096))
                assert b"STOPPING=1" not in heard
                node.process.send_signal(signal.SIGTERM)
                while b"STOPPING=1" not in heard:
                    heard.append(await manager.recv(4096))
            assert await node.wait() == 0
            assert heard.count(b"READY=1") == 1


async def shown(address: str, folder: Path, identity: Identity) -> bytes:
    """The certificate that the node shows to a new connection."""
    raw = await over(await plain(Address.parse(address)), context_of(folder, identity))
    certificate: bytes = raw.stream.getpeercert(True)
    await raw.cut()
    return certificate


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def reissue(authority: Authority, old: Identity, place: Path) -> bytes:
    """Another certificate for the same node, put in place; its DER."""
    files = authority.issue_identity(old.node_key, old.box_key, now=time.time(), admission=old.admission).files
    for name in ("key.pem", "cert.pem"):
        (place / name).write_bytes(files[name])
    return der(files["cert.pem"])


async def test_sighup_takes_up_settings_log_level_and_certificate_or_says_why_not(tmp_path: Path) -> None:
    authority = make_authority()
    mine, other = (make_identity(authority, tmp_path, name) for name in ("mine", "other"))
    settings = tmp_path / "node.toml"
    settings.write_text('[log]\nlevel = "error"\n')
    arguments = ("--listen", "127.0.0.1:0", "--config", str(settings), "--identity", str(tmp_path / "mine"))
    async with bms_up(tmp_path, *arguments) as node:

        async def certificate() -> bytes:
            return await shown(node.ready["address"], tmp_path, other)

        async def logged(*words: str) -> str:
            """The line that has these words; others may follow it, such as of the connections made here."""
            found: list[str] = []

            def is_there() -> bool:
                found[:] = [line for line in node.log.read_text().splitlines() if all(word in line for word in words)]
                return bool(found)

            await until(is_there, PROCESS_S)
            return found[-1]

        assert await certificate() == der(mine.cert_pem)
        assert node.log.read_text() == ""
        new = reissue(authority, mine, tmp_path / "mine")
        settings.write_text('max_retries = 5\n[log]\nlevel = "info"\nformat = "json"\n')
        node.process.send_signal(signal.SIGHUP)
        line = await logged("reloaded: max_retries, log.level, log.format, certificate")
        assert json.loads(line)["level"] == "info"
        assert await certificate() == new

        (tmp_path / "mine" / "cert.pem").write_bytes(other.cert_pem)
        settings.write_text("max_retries = 6\n")
        node.process.send_signal(signal.SIGHUP)
        await logged("not reloaded, nothing has changed: cert_path")
        assert await certificate() == new

        reissue(authority, mine, tmp_path / "mine")
        for wrong, words in (
            ('node_name = "other"\n', "node_name"),
            ("max_retries = -1\n", "max_retries"),
            ("=", "TOML"),
        ):
            settings.write_text(wrong)
            node.process.send_signal(signal.SIGHUP)
            await logged("not reloaded, nothing has changed", words)
        assert await certificate() == new


async def test_a_log_level_that_is_set_over_http_is_in_force_at_once(tmp_path: Path) -> None:
    async with bms_up(tmp_path, "--dev", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0") as node:
        async with open_control(Path(node.ready["folder"]) / "control.sock") as control:
            code = (await control.login())["code"]
        async with httpx.AsyncClient(base_url=node.ready["http_url"]) as client:
            token = (await client.post("/api/v1/login", json={"code": code})).json()["token"]
            client.headers["authorization"] = f"Bearer {token}"
            assert " debug " not in node.log.read_text()
            done = await client.patch("/api/v1/config", json={"settings": {"log.level": "debug"}})
            assert done.status_code == 200, done.text
            await client.get("/api/v1/nodes")
            await until(lambda: " debug " in node.log.read_text(), PROCESS_S)
