"""Files with secrets: modes, and that every byte is on the disk before the rename that makes it count."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bms.errors import ConfigError
from bms.security import disk

FILES = {"key.pem": b"k" * 5000, "authority/root.pem": b"r", "authority/issuer.pem": b"i"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_written_with_all_its_files_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    disk.write_folder(tmp_path / "new" / "identity", FILES)
    assert contents(tmp_path / "new") == {f"identity/{name}": content for name, content in FILES.items()}


def test_files_are_0600_and_folders_0700_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        disk.write_folder(tmp_path / "identity", FILES)
        disk.replace_files(tmp_path / "identity", {"key.pem": b"new"})
    finally:
        os.umask(before)
    for path in [tmp_path / "identity", *(tmp_path / "identity").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_with_something_in_it_is_never_replaced(tmp_path: Path) -> None:
    disk.write_folder(tmp_path / "identity", {"key.pem": b"first"})
    with pytest.raises(OSError, match="not empty"):
        disk.write_folder(tmp_path / "identity", {"key.pem": b"second"})
    assert contents(tmp_path / "identity") == {"key.pem": b"first"}


def test_what_a_dead_process_left_half_written_is_thrown_away(tmp_path: Path) -> None:
    left = tmp_path / ".identity.new"
    left.mkdir()
    (left / "key.pem").write_bytes(b"half")
    (left / "surplus").write_bytes(b"x")
    disk.write_folder(tmp_path / "identity", FILES)
    assert contents(tmp_path) == {f"identity/{name}": content for name, content in FILES.items()}


def test_files_are_replaced_together_and_others_stay(tmp_path: Path) -> None:
    place = tmp_path / "identity"
    disk.write_folder(place, FILES)
    disk.replace_files(place, {"key.pem": b"new key", "cert.pem": b"new cert"})
    assert contents(place) == FILES | {"key.pem": b"new key", "cert.pem": b"new cert"}


def test_a_committed_replacement_is_finished_however_far_it_had_come(tmp_path: Path) -> None:
    for moved in range(3):
        place = tmp_path / str(moved)
        disk.write_folder(place, {"a": b"old", "b": b"old"})
        disk.write_folder(place / "pending", {"a": b"new", "b": b"new"})
        for name in ["a", "b"][:moved]:
            os.rename(place / "pending" / name, place / name)
        for _ in range(2):
            disk.finish_replacing(place)
            assert contents(place) == {"a": b"new", "b": b"new"}
            assert not (place / "pending").exists()


def test_where_nothing_is_pending_nothing_is_done(tmp_path: Path) -> None:
    disk.finish_replacing(tmp_path / "nowhere")
    disk.write_folder(tmp_path / "a", FILES)
    disk.finish_replacing(tmp_path / "a")
    assert contents(tmp_path / "a") == FILES


class Watched:
    """What the system was asked to make durable, and for each rename what it moved that could still have been lost."""

    def __init__(self) -> None:
        self.renames: list[tuple[str, list[str]]] = []
        self._durable: set[int] = set()
        self._fsync, self._rename = os.fsync, os.rename

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        self._durable.add(os.fstat(descriptor).st_ino)

    def rename(self, source: Path, target: Path) -> None:
        moved = [source, *source.rglob("*")] if source.is_dir() else [source]
        self.renames.append((target.name, [path.name for path in moved if not self.is_durable(path)]))
        self._rename(source, target)
        self._durable.discard(target.parent.stat().st_ino)  # the new name itself may be lost until this is flushed

    def is_durable(self, path: Path) -> bool:
        return path.stat().st_ino in self._durable


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched()
    monkeypatch.setattr(os, "fsync", watched.fsync)
    monkeypatch.setattr(os, "rename", watched.rename)
    return watched


def test_everything_is_durable_before_its_rename_and_the_rename_before_the_end(
    tmp_path: Path, watched: Watched
) -> None:
    disk.write_folder(tmp_path / "identity", FILES)
    assert watched.renames == [("identity", [])]
    assert watched.is_durable(tmp_path)
    disk.replace_files(tmp_path / "identity", {"key.pem": b"1", "cert.pem": b"2"})
    assert watched.renames[1:] == [("pending", []), ("cert.pem", []), ("key.pem", [])]
    assert watched.is_durable(tmp_path / "identity")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644, 0o777])
def test_a_private_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        disk.read_file(path, "key_path", private=True)
    assert caught.value.field == "key_path"
    assert "secret" not in str(caught.value)
    assert disk.read_file(path, "trust_path") == b"secret"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"secret")
    path.chmod(mode)
    assert disk.read_file(path, "key_path", private=True) == b"secret"


def test_what_cannot_be_read_or_is_no_usual_file_names_setting_and_path(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    for path in (tmp_path / "missing", tmp_path, tmp_path / "large"):
        with pytest.raises(ConfigError) as caught:
            disk.read_file(path, "cert_path")
        assert caught.value.field == "cert_path"
        assert str(path) in str(caught.value)
