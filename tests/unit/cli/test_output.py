"""What commands print and read: tables in a pipe, pairs, JSON, input."""

from __future__ import annotations

import io
import json
import time

import click
import pytest

from bms.cli.output import age, print_json, print_pairs, print_table, read_input, show_bytes


def test_columns_are_aligned_and_carry_nothing_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "size"), [("a", 1), ("longer", None)])
    assert capsys.readouterr().out == "NAME    SIZE\na       1\nlonger  -\n"


def test_an_empty_table_is_its_headers(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "size"), [])
    assert capsys.readouterr().out == "NAME  SIZE\n"


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
