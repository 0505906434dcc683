"""Tokens on a machine that loses its power, whose disk is full, or whose clock is set."""

from __future__ import annotations

import pytest
import trio

import bms
from bms.testing.fixtures import MeshCluster


@pytest.mark.parametrize("power", [False, True])
async def test_what_was_issued_and_revoked_is_so_after_a_crash(mesh_cluster: MeshCluster, power: bool) -> None:
    [host] = await mesh_cluster(1)
    kept, ended = [await host.mesh.issue_token([scope], name=scope) for scope in ("data:read", "data:write")]
    await host.mesh.revoke(host.mesh.verify_token(ended).token_id)
    await host.crash(power=power)
    mesh = await host.start()
    claims = mesh.verify_token(kept)
    assert mesh.tokens() == [claims]
    assert (claims.name, claims.scopes) == ("data:read", ("data:read",))
    with pytest.raises(bms.RefusedError):
        mesh.verify_token(ended)


async def test_on_a_full_disk_no_token_is_made_but_one_can_still_log_in(mesh_cluster: MeshCluster) -> None:
    [host] = await mesh_cluster(1)
    mesh = host.mesh
    before = await mesh.issue_token(["*"])
    code = mesh.issue_login(["*:read"])
    host.disk.is_full = True
    with pytest.raises(bms.StoreError):
        await mesh.issue_token(["*"])
    assert len(mesh.tokens()) == 1
    token = await mesh.redeem_login(code)
    assert mesh.verify_token(token).scopes == ("*:read",)
    with pytest.raises(bms.StoreError):  # it has ended all the same
        await mesh.revoke(mesh.verify_token(before).token_id)
    with pytest.raises(bms.RefusedError):
        mesh.verify_token(before)
    host.disk.is_full = False
    await mesh.revoke(mesh.verify_token(token).token_id)
    assert mesh.tokens() == []


async def test_tokens_and_codes_end_when_their_time_has_come(mesh_cluster: MeshCluster) -> None:
    [host] = await mesh_cluster(1)
    mesh = host.mesh
    short, long = await mesh.issue_token(["data:read"], ttl_s=10), await mesh.issue_token(["data:read"], ttl_s=3600)
    early, late = mesh.issue_login(), mesh.issue_login(ttl_s=120)
    await trio.sleep(9.9)
    assert mesh.verify_token(short)
    await trio.sleep(0.1)
    with pytest.raises(bms.RefusedError, match="expired"):
        mesh.verify_token(short)
    assert [claims.token_id for claims in mesh.tokens()] == [mesh.verify_token(long).token_id]
    await trio.sleep(50)
    with pytest.raises(bms.RefusedError):
        await mesh.redeem_login(early)
    assert mesh.verify_token(await mesh.redeem_login(late)).scopes == ("*",)
    await mesh.issue_token(["data:read"])  # expired rows go when another is written
    await host.crash()
    mesh = await host.start()
    with pytest.raises(bms.RefusedError, match="not valid"):
        mesh.verify_token(short)
    assert mesh.verify_token(long)


async def test_a_login_code_does_not_live_longer_because_the_clock_was_set_back(mesh_cluster: MeshCluster) -> None:
    [host] = await mesh_cluster(1)
    code = host.mesh.issue_login(ttl_s=60)
    host.clock_offset_s = -3600
    await trio.sleep(61)
    with pytest.raises(bms.RefusedError):
        await host.mesh.redeem_login(code)
