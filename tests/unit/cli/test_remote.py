"""Where the token of a remote node is read from, and which options go together."""

from __future__ import annotations

import io
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bms.cli.nodes import nodes
from bms.cli.remote import Remote, read_token

TOKEN = "bms_0123456789abcdef_" + "x" * 43


class Input:
    """Standard input, as far as it is used."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_a_token_is_the_first_line_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"  {TOKEN}  \nand a note\n")
    assert read_token(str(tmp_path / "token")) == TOKEN


def test_a_token_is_the_first_line_of_standard_input_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Input(f"{TOKEN}\nthe body".encode())
    monkeypatch.setattr("sys.stdin", given)
    assert read_token("-") == TOKEN
    assert given.buffer.read() == b"the body"


def test_without_an_option_the_token_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(click.UsageError, match="BMS_TOKEN"):
        read_token(None)
    monkeypatch.setenv("BMS_TOKEN", f"{TOKEN}\n")
    assert read_token(None) == TOKEN


def test_a_token_in_the_command_line_is_refused_and_not_repeated() -> None:
    with pytest.raises(click.UsageError, match="a file or '-'") as caught:
        read_token(TOKEN)
    assert TOKEN not in caught.value.message


@pytest.mark.parametrize("content", ["", "\n", "  \nlater\n"])
def test_a_file_without_a_token_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "empty").write_text(content)
    with pytest.raises(click.UsageError, match="no token in"):
        read_token(str(tmp_path / "empty"))
    with pytest.raises(click.UsageError, match="cannot be read"):
        read_token(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--token", "file"], "go with --url"),
        (["--fingerprint", "0" * 64], "go with --url"),
        (["--url", "https://h:1", "--node", "kitchen"], "leave out --mesh and --node"),
        (["--url", "https://h:1", "--mesh", "default"], "leave out --mesh and --node"),
        (["--url", "https://h:1"], "needs a token"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(options: list[str], why: str) -> None:
    done = CliRunner().invoke(nodes, options)
    assert (done.exit_code, why in done.output) == (2, True), done.output


def test_a_remote_does_not_show_its_token() -> None:
    assert TOKEN not in repr(Remote("https://h:1", TOKEN))
