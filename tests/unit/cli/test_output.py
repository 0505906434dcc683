"""What commands print and read: tables in a pipe, pairs, JSON, input."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from bms.cli.output import age, print_json, print_pairs, print_table, read_input, show_bytes, write_file


def test_columns_are_aligned_and_carry_nothing_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "size"), [("a", 1), ("longer", None)])
    assert capsys.readouterr().out == "NAME    SIZE\na       1\nlonger  -\n"


def test_an_empty_table_is_its_headers(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "size"), [])
    assert capsys.readouterr().out == "NAME  SIZE\n"


def test_a_long_cell_is_whole_and_makes_no_other_line_long(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("key", "size"), [("k" * 1000, 1), ("longer", 2)])
    assert capsys.readouterr().out == f"KEY     SIZE\n{'k' * 1000}  1\nlonger  2\n"


def test_names_of_peers_cannot_break_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [("a\nfake  row",), ("\x1b[2Jgone",)])
    print_pairs([("name", "a\nb"), ("address", None)])
    out = capsys.readouterr().out
    assert out.splitlines() == ["NAME", "a\\nfake  row", "\\x1b[2Jgone", "name     a\\nb", "address  -"]


def test_json_is_one_ascii_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Küche\n"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.count("\n") == 1
    assert json.loads(out) == {"name": "Küche\n"}


def test_bytes_that_are_no_text_are_shown_as_escapes() -> None:
    assert show_bytes("ü".encode() + b"\xff") == "ü\\xff"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (119, "119.0 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d"), (-5, "0.0 s")],
)
def test_an_age_has_the_unit_that_fits(seconds: float, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert age(1e9 - seconds) == shown
    assert age(None) == "-"


class Input:
    """Standard input that is a terminal or not."""

    def __init__(self, content: bytes, *, tty: bool = False) -> None:
        self.buffer = io.BytesIO(content)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


def test_an_argument_goes_before_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Input(b"\x00\xff"))
    assert read_input("text\udcff", "VALUE") == b"text\xff"
    assert read_input("-", "VALUE") == b"\x00\xff"


def test_standard_input_is_read_where_it_is_a_pipe_and_asked_for_where_a_person_sits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", Input(b"piped"))
    assert read_input(None, "VALUE") == b"piped"
    monkeypatch.setattr("sys.stdin", Input(b"", tty=True))
    with pytest.raises(click.UsageError, match="give VALUE"):
        read_input(None, "VALUE")


def test_more_input_than_any_value_may_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bms.cli.output.INPUT_BYTES_MAX", 10)
    monkeypatch.setattr("sys.stdin", Input(bytes(11)))
    with pytest.raises(click.UsageError, match="more than"):
        read_input("-", "VALUE")


# --- files


def test_a_file_that_is_replaced_keeps_who_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"first")
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12346)
    before = path.stat()
    write_file(path, b"second")
    after = path.stat()
    assert (path.read_bytes(), after.st_mode, after.st_uid, after.st_gid) == (
        b"second", before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip
    assert after.st_ino != before.st_ino  # a reader sees the old one or the whole new one
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link, dangling = tmp_path / "there" / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_bytes(b"old")
    link.symlink_to("there/target")
    dangling.symlink_to("there/made")
    for path in (link, dangling):
        write_file(path, b"new")
        assert path.is_symlink()
        assert path.read_bytes() == b"new"
    assert target.read_bytes() == b"new"
    link.unlink()
    link.symlink_to("link")
    with pytest.raises(click.ClickException, match="cannot write"):
        write_file(link, b"new")


def test_a_file_that_is_standard_output_keeps_what_stands_in_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    program = "import pathlib, bms.cli.output as o; o.write_file(pathlib.Path('/dev/stdout'), b'new\\n')"
    with log.open("ab") as output:
        subprocess.run([sys.executable, "-c", program], stdout=output, check=True, timeout=60)
    assert log.read_bytes() == b"before\nnew\n"


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_file(fifo, b"through a pipe")
    assert os.read(reading, 100) == b"through a pipe"
    os.close(reading)
    assert fifo.is_fifo()
    screen, terminal = os.openpty()
    name = Path(os.ttyname(terminal))
    (tmp_path / "terminal").symlink_to(name)  # nothing is made beside it even by what these tests hold to be wrong
    write_file(tmp_path / "terminal", b"to a device")
    assert os.read(screen, 100) == b"to a device"
    os.close(screen)
    os.close(terminal)
    assert (tmp_path / "terminal").is_symlink()
