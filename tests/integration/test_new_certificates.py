"""A certificate that is replaced or renewed while the node runs: new links show it, old ones go on; wrong files change
nothing. Real files, real TLS."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hostile import files_of, leaf_of

import bms
from bms import renewal
from bms.life import Life
from bms.net.link import Link
from bms.security.authority import Authority
from bms.security.identity import Identity, load_identity_files
from bms.world import World
from helpers import make_authority, make_identity, until

DAY_S = 86_400.0


@attrs.define
class Pair:
    """Two nodes of one mesh whose identities are in files, linked."""

    folder: Path
    authority: Authority
    identities: dict[str, Identity]
    one: bms.Mesh
    two: bms.Mesh

    def issue(self, name: str = "one", now: float | None = None) -> dict[str, bytes]:
        """New files for the same node: another TLS key, another certificate."""
        old = self.identities[name]
        now = time.time() if now is None else now
        made = self.authority.issue_identity(old.node_key, old.box_key, now=now, admission=old.admission)
        return made.files

    def write(self, files: dict[str, bytes], name: str = "one") -> None:
        """Put files in place of a node's, as an administrator does: one after another, each at once."""
        for file, content in files.items():
            scratch = self.folder / name / f".{file}"
            scratch.touch(mode=0o600)
            scratch.write_bytes(content)
            scratch.rename(self.folder / name / file)

    def link(self) -> Link:
        link = life_of(self.two).pool.link(self.one.node_id)
        assert link is not None
        return link

    def shown(self) -> bytes | None:
        """The certificate that `one` has shown on the link that is up."""
        return self.link()._channel.peer_certificate

    async def link_anew(self) -> Link:
        """End the link; the one that comes in its place."""
        old = self.link()
        old.end("made anew", 0)
        await old.ended.wait()
        await until(lambda: life_of(self.two).pool.link(self.one.node_id) is not None)
        await until(lambda: self.one.is_connected(self.two.node_id))
        return self.link()

    def loaded(self) -> Identity:
        place = self.folder / "one"
        return load_identity_files(place / "key.pem", place / "cert.pem", place / "trust.pem", time.time())


def life_of(mesh: bms.Mesh) -> Life:
    assert mesh._life is not None
    return mesh._life


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with open_pair(tmp_path) as made:
        yield made


@asynccontextmanager
async def open_pair(folder: Path, **fields: Any) -> AsyncIterator[Pair]:
    authority = make_authority()
    identities = {name: make_identity(authority, folder, name) for name in ("one", "two")}
    async with bms.open_mesh(**files_of(folder, "one"), node_name="one", enable_persistence=False) as one:
        async with bms.open_mesh(
            **files_of(folder, "two"), node_name="two", enable_persistence=False, bootstrap_nodes=[str(one.address)]
        ) as two:
            await until(lambda: one.is_connected(two.node_id) and two.is_connected(one.node_id))
            yield Pair(folder, authority, identities, one, two)


async def test_new_files_are_shown_on_new_links_and_the_old_link_goes_on(pair: Pair) -> None:
    old, link = pair.shown(), pair.link()
    assert old == leaf_of(pair.identities["one"])
    pair.write(pair.issue())
    assert await pair.one.reconfigure() == bms.Changes((), (), certificate=True)
    assert await pair.one.reconfigure() == bms.Changes((), (), certificate=False)
    async with pair.one.subscribe("t") as messages:
        await pair.two.send_message(pair.one.node_id, b"still", "t")
        assert isinstance(await anext(messages), bms.Message)
    assert pair.link() is link
    assert link.is_open
    await pair.link_anew()
    assert pair.shown() == leaf_of(pair.loaded()) != old
    await pair.two.send_message(pair.one.node_id, b"new", "t")


async def test_a_node_that_dials_shows_its_new_certificate(pair: Pair) -> None:
    """Both roles have a context of their own; a mesh's links are dialed by either side."""
    pair.write(pair.issue())
    await pair.one.reconfigure()
    assert pair.two.address is not None
    life_of(pair.one).pool.links[pair.two.node_id].end("made anew", 0)
    for _ in range(20):
        link = await life_of(pair.one).register(pair.two.address)
        if link.dialed and link.is_open:
            break
        link.end("made anew", 0)
    await until(lambda: life_of(pair.two).pool.link(pair.one.node_id) is not None)
    assert pair.shown() == leaf_of(pair.loaded())


async def test_other_paths_are_taken_up_together(pair: Pair) -> None:
    shutil.copytree(pair.folder / "one", pair.folder / "moved")
    pair.write(pair.issue(), "moved")
    done = await pair.one.reconfigure(**files_of(pair.folder, "moved"))
    assert set(done.fields) == {"cert_path", "key_path", "trust_path"}
    assert done.certificate
    await pair.link_anew()
    assert pair.shown() != leaf_of(pair.identities["one"])


def cut_short(pair: Pair) -> None:
    path = pair.folder / "one" / "cert.pem"
    path.write_bytes(path.read_bytes()[:300])


def gone(pair: Pair) -> None:
    (pair.folder / "one" / "key.pem").unlink()


def half(pair: Pair) -> None:
    pair.write({"cert.pem": pair.issue()["cert.pem"]})


def of_another_node(pair: Pair) -> None:
    for name in ("key.pem", "cert.pem", "trust.pem"):
        shutil.copy(pair.folder / "two" / name, pair.folder / "one" / name)


def of_another_mesh(pair: Pair) -> None:
    make_identity(make_authority(), pair.folder, "foreign")
    for name in ("key.pem", "cert.pem", "trust.pem"):
        shutil.copy(pair.folder / "foreign" / name, pair.folder / "one" / name)


def expired(pair: Pair) -> None:
    pair.write(pair.issue(now=time.time() - 200 * DAY_S))


def for_others_to_read(pair: Pair) -> None:
    (pair.folder / "one" / "key.pem").chmod(0o644)


@pytest.mark.parametrize(
    "spoil", [cut_short, gone, half, of_another_node, of_another_mesh, expired, for_others_to_read]
)
async def test_files_that_are_wrong_are_refused_and_the_old_ones_stay(
    spoil: Callable[[Pair], None], pair: Pair
) -> None:
    before, link = pair.one.config, pair.link()
    spoil(pair)
    with pytest.raises(bms.ConfigError) as caught:
        await pair.one.reconfigure(max_retries=9)
    assert caught.value.field in ("cert_path", "key_path", "trust_path")
    assert pair.one.config is before
    assert pair.link() is link
    await pair.link_anew()
    assert pair.shown() == leaf_of(pair.identities["one"])


async def test_a_handshake_under_way_ends_with_the_certificate_that_it_began_with(pair: Pair) -> None:
    """TLS and proof speak of one certificate, also when it is replaced between the two."""
    pool = life_of(pair.one).pool
    secure, replaced = pool._secure, trio.Event()

    async def replace_in_between(*arguments: Any, **options: Any) -> Any:
        channel = await secure(*arguments, **options)
        if not replaced.is_set():
            replaced.set()
            pair.write(pair.issue())
            await pair.one.reconfigure()
        return channel

    pool._secure = replace_in_between  # type: ignore[method-assign]
    await pair.link_anew()
    assert replaced.is_set()
    assert pair.one.counters["net.handshakes_refused"] + pair.two.counters["net.handshakes_refused"] == 0


async def test_new_files_are_noticed_without_being_told(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = life_of(pair.one)._renewal
    assert watch is not None
    await watch.look()
    assert pair.one._identity.cert_pem == pair.identities["one"].cert_pem
    cut_short(pair)
    await watch.look()
    assert "stay in force" in caplog.text
    caplog.clear()
    await watch.look()
    assert not caplog.text, "said once for each state of the files"
    pair.write(pair.issue())
    await watch.look()
    assert pair.one._identity.cert_pem == pair.loaded().cert_pem
    assert pair.one.collect_stats().subsystems["identity"].state == "running"
    assert renewal.LOOK_S <= 60


async def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over(tmp_path: Path) -> None:
    passed_s = 0.0
    world = World(wall_time=lambda: time.time() + passed_s, home=tmp_path / "home")
    async with bms.open_mesh(found_mesh=True, persistence_path=tmp_path / "node", world=world) as mesh:
        first = mesh._identity
        watch = life_of(mesh)._renewal
        assert watch is not None
        await watch.look()
        assert mesh._identity is first
        passed_s = first.renew_at - time.time() + 60
        mesh._time = world.wall_time  # type: ignore[assignment]
        mesh._world.wall_time = world.wall_time
        watch._wall_time = world.wall_time
        await watch.look()
        assert mesh._identity.not_after > first.not_after
        assert mesh._identity.leaf_spki != first.leaf_spki
        assert mesh._identity.node_id == first.node_id
        assert (tmp_path / "node" / "identity" / "cert.pem").read_bytes() == mesh._identity.cert_pem
        assert os.stat(tmp_path / "node" / "identity" / "key.pem").st_mode & 0o077 == 0


async def test_a_node_that_is_stopped_starts_with_the_new_certificate(pair: Pair) -> None:
    pair.write(pair.issue())
    async with trio.open_nursery() as nursery:
        await pair.one.stop()
        assert (await pair.one.reconfigure()).certificate
        await pair.one.start(nursery)
        assert pair.one.address is not None
        await pair.two.register_node(pair.one.address)
        assert pair.shown() == leaf_of(pair.loaded())
        await pair.one.stop()
