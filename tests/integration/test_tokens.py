"""Tokens of a real node: kept across restarts, ended at once, bounded; login codes; over the control socket."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
import trio.testing

import bms
from bms.cli.token import read_duration
from bms.control import SOCKET_NAME, ControlClient, open_control
from bms.control.server import serve_control
from bms.security.tokens import Claims
from bms.verbs import security

ALONE: dict[str, Any] = {"dev_mode": True, "enable_discovery": False, "listen_address": "127.0.0.1:0"}


async def test_a_token_is_good_across_a_restart_until_it_is_revoked() -> None:
    async with bms.open_mesh(**ALONE) as mesh:
        tokens = [await mesh.issue_token(["data:read"], name=f"job {number}") for number in range(3)]
        gone = mesh.verify_token(tokens[1]).token_id
        await mesh.revoke(gone)
        with pytest.raises(bms.RefusedError, match="not valid at this node"):
            mesh.verify_token(tokens[1])
        with pytest.raises(bms.NotFoundError, match=gone):
            await mesh.revoke(gone)
        before = mesh.tokens()
    async with bms.open_mesh(**ALONE) as mesh:
        assert mesh.tokens() == before
        assert [mesh.verify_token(token).name for token in (tokens[0], tokens[2])] == ["job 0", "job 2"]
        with pytest.raises(bms.RefusedError):
            mesh.verify_token(tokens[1])


async def test_a_token_that_is_revoked_takes_along_what_was_issued_with_it_for_good() -> None:
    async with bms.open_mesh(**ALONE) as mesh:
        claims: dict[str, Claims] = {}
        for name, issuer in (("a", None), ("ab", "a"), ("abc", "ab"), ("ad", "a"), ("e", None), ("ef", "e")):
            token = await mesh.issue_token(["*"], name=name, issuer=claims[issuer] if issuer else None)
            claims[name] = mesh.verify_token(token)
        assert [claims[name].issuer for name in ("a", "ab")] == [None, claims["a"].token_id]
        await mesh.revoke(claims["ab"].token_id)
        assert [one.name for one in mesh.tokens()] == ["a", "ad", "e", "ef"]
        await mesh.revoke(claims["a"].token_id)
        assert mesh.tokens() == [claims["e"], claims["ef"]]
    async with bms.open_mesh(**ALONE) as mesh:
        assert mesh.tokens() == [claims["e"], claims["ef"]]
        await mesh.revoke(claims["e"].token_id)  # also what a life before has issued
        assert mesh.tokens() == []


@pytest.mark.parametrize("revoked_first", [False, True])
async def test_nothing_is_issued_with_a_token_that_is_revoked_at_the_same_moment(revoked_first: bool) -> None:
    async with bms.open_mesh(**ALONE) as mesh:
        parent = mesh.verify_token(await mesh.issue_token(["*"]))
        refused: list[bms.RefusedError] = []

        async def issue() -> None:
            try:
                await mesh.issue_token(["*"], issuer=parent)
            except bms.RefusedError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            if not revoked_first:
                nursery.start_soon(issue)
                await trio.testing.wait_all_tasks_blocked()  # its write is queued
            nursery.start_soon(mesh.revoke, parent.token_id)
            await trio.testing.wait_all_tasks_blocked()
            if revoked_first:
                nursery.start_soon(issue)
        assert len(refused) == 1
        assert mesh.tokens() == []
    async with bms.open_mesh(**ALONE) as mesh:
        assert mesh.tokens() == []


async def test_a_token_of_one_node_is_none_of_another() -> None:
    async with (
        bms.open_mesh(**ALONE, node_name="one") as one,
        bms.open_mesh(**ALONE, node_name="two", enable_persistence=False) as two,
    ):
        at_one, at_two = await one.issue_token(["*"]), await two.issue_token(["*"])
        assert one.verify_token(at_one).scopes == two.verify_token(at_two).scopes == ("*",)
        for mesh, token in ((one, at_two), (two, at_one)):
            with pytest.raises(bms.RefusedError):
                mesh.verify_token(token)


async def test_the_store_holds_no_token_and_no_code(bms_home: Path) -> None:
    async with bms.open_mesh(**ALONE) as mesh:
        token, code = await mesh.issue_token(["*"], name="findable"), mesh.issue_login()
        secrets = [text[-43:].encode() for text in (token, code, await mesh.redeem_login(mesh.issue_login()))]
    held = b"".join(path.read_bytes() for path in bms_home.rglob("*") if path.is_file())  # noqa: ASYNC240 - nothing waits
    assert b"findable" in held
    assert not [secret for secret in secrets if secret in held]


async def test_a_login_code_is_good_once_even_for_two_at_the_same_time() -> None:
    async with bms.open_mesh(**ALONE) as mesh:
        code = mesh.issue_login(["nodes:read"], ttl_s=30)
        answers: list[object] = []

        async def redeem() -> None:
            try:
                answers.append(await mesh.redeem_login(code, ttl_s=60))
            except bms.RefusedError as error:
                answers.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(redeem)
        [token] = [answer for answer in answers if isinstance(answer, str)]
        claims = mesh.verify_token(token)
        assert (claims.scopes, claims.expires_at - claims.issued_at) == (("nodes:read",), 60)
        for wrong in (code, "", "bmsc_", token, "bmsc_" + "a" * 43):
            with pytest.raises(bms.RefusedError):
                await mesh.redeem_login(wrong)
        with pytest.raises(bms.RefusedError):
            mesh.verify_token(mesh.issue_login())  # a code is no token


async def test_of_many_login_codes_the_oldest_gives_way() -> None:
    async with bms.open_mesh(**ALONE, enable_persistence=False) as mesh:
        codes = [mesh.issue_login() for _ in range(security.LOGINS_MAX + 1)]
        with pytest.raises(bms.RefusedError):
            await mesh.redeem_login(codes[0])
        assert await mesh.redeem_login(codes[1])


@pytest.mark.parametrize("persistent", [False, True])
async def test_there_are_so_many_tokens_at_most_and_expired_ones_make_room(
    persistent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "TOKENS_MAX", 20)
    now = [1_800_000_000.0]
    world = bms.World(wall_time=lambda: now[0])
    async with bms.open_mesh(**ALONE, enable_persistence=persistent, world=world) as mesh:
        brief = [await mesh.issue_token(["*"], ttl_s=100) for _ in range(5)]
        lasting = [await mesh.issue_token(["*"]) for _ in range(15)]
        with pytest.raises(bms.LimitError, match="20 tokens"):
            await mesh.issue_token(["*"])
        code = mesh.issue_login()
        with pytest.raises(bms.LimitError):
            await mesh.redeem_login(code)
        now[0] += 100
        assert len(mesh.tokens()) == 15
        with pytest.raises(bms.RefusedError, match="expired"):
            mesh.verify_token(brief[0])
        await mesh.revoke(mesh.verify_token(await mesh.redeem_login(code)).token_id)  # the code is still good
        more: list[str] = []
        answers: list[object] = []

        async def issue() -> None:
            try:
                more.append(await mesh.issue_token(["*"]))
            except bms.LimitError as error:
                answers.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(issue)
        assert (len(more), len(answers)) == (5, 3)
        for token in lasting + more:
            assert mesh.verify_token(token)


async def test_after_shutdown_there_are_no_tokens_to_ask_for() -> None:
    async with bms.open_mesh(**ALONE) as mesh:
        token = await mesh.issue_token(["*"])
        await mesh.stop()
        assert mesh.verify_token(token)
    for verb in (mesh.tokens, mesh.issue_login, lambda: mesh.verify_token(token)):
        with pytest.raises(bms.ClosedError):
            verb()
    with pytest.raises(bms.ClosedError):
        await mesh.issue_token(["*"])
    with pytest.raises(bms.ClosedError):
        await mesh.revoke("0" * 16)


async def test_a_folder_of_the_version_before_gets_its_table(bms_home: Path) -> None:
    async with bms.open_mesh(**ALONE) as mesh:
        await mesh.store_data("a", b"1")
        assert mesh.folder is not None
        path = mesh.folder / "data.sqlite"
    connection = apsw.Connection(str(path))
    connection.execute("DROP TABLE tokens; DELETE FROM rooms WHERE room='tokens'")
    connection.close()
    del connection
    gc.collect()
    async with bms.open_mesh(**ALONE) as mesh:
        assert mesh.verify_token(await mesh.issue_token(["*"]))
        assert (await mesh.retrieve_data("a")).value == b"1"


async def test_over_the_control_socket_tokens_are_issued_listed_and_revoked() -> None:
    async with bms.open_mesh(**ALONE) as mesh, trio.open_nursery() as nursery:
        assert mesh.folder is not None
        await nursery.start(serve_control, mesh, mesh.folder / SOCKET_NAME)
        async with open_control(mesh.folder / SOCKET_NAME) as client:
            token, claims = await client.issue_token(["data:*", "nodes:read"], 3600, "backup")
            assert mesh.verify_token(token) == claims
            assert await client.tokens() == mesh.tokens() == [claims]
            _, lasting = await client.issue_token(["*"])
            assert round(lasting.expires_at - lasting.issued_at) == 30 * 86_400
            await client.revoke_token(claims.token_id)
            assert await client.tokens() == [lasting]
            await _refused(client)
            assert await client.tokens() == [lasting]
        nursery.cancel_scope.cancel()


async def _refused(client: ControlClient) -> None:
    with pytest.raises(bms.NotFoundError):
        await client.revoke_token("0" * 16)
    with pytest.raises(bms.LocalProtocolError, match="did you mean 'data:read'"):
        await client.issue_token(["data:reed"])
    with pytest.raises(bms.LocalProtocolError, match="scopes are texts"):
        await client.issue_token([1])  # type: ignore[list-item]
    with pytest.raises(bms.LocalProtocolError, match="ttl_s"):
        await client.issue_token(["*"], -1)


def test_a_time_is_read_with_its_unit() -> None:
    assert [read_duration(text) for text in ("90", "90s", "5min", "5m", "12h", "1.5 d")] == [
        *(90, 90, 300, 300),
        *(12 * 3600, 1.5 * 86_400),
    ]
    for wrong in ("", "h", "1w", "-5h", "1e3", "nan", "0", "99999d", "5 h 3 min"):
        with pytest.raises(bms.LocalProtocolError):
            read_duration(wrong)
