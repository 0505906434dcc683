"""`bms config`, and the settings that `bms up` arrives at from its options."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from bms.cli.defaults import up_config
from bms.cli.settings import config, overrides
from bms.cli.up import _given, up
from bms.config import Config, setting_fields
from bms.errors import ConfigError


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(config, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_valid_file_is_said_to_be_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMS_MAX_RETRIES", "wrong, and not asked about")
    path = tmp_path / "a.toml"
    path.write_text('mesh_name = "x"\n')
    assert invoke("check", str(path)) == f"{path}: valid\n"


def test_an_invalid_file_is_the_settings_error(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('mesh_nam = "x"\n')
    with pytest.raises(ConfigError, match=r"mesh_nam: .*mesh_name.*line 1"):
        invoke("check", str(path))


def test_what_is_shown_can_be_read_again_and_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMS_BOOTSTRAP_NODES", "a:1,b:2")
    shown = invoke("show", "--set", 'node_name=quo"te', "--set", "limits.topics_max=7", "--set", "persistence_path=/x")
    path = tmp_path / "a.toml"
    path.write_text(shown)
    assert Config.load(path, {}) == Config(
        node_name='quo"te', bootstrap_nodes=("a:1", "b:2"), limits={"topics_max": 7}, persistence_path="/x"
    )


def test_shown_as_json_every_setting_has_its_dotted_name() -> None:
    fields = json.loads(invoke("show", "-o", "json", "--set", "bootstrap_nodes=a:1"))
    assert list(fields) == list(setting_fields())
    assert fields["bootstrap_nodes"] == ["a:1"]
    assert fields["http_address"] is None


def test_settings_by_key_and_value_are_read_by_their_types() -> None:
    pairs = ["limits.topics_max=7", "limits.handshakes_max=8", "dev_mode=yes", "node_name=a=b"]
    assert overrides(pairs) == {
        "limits": {"topics_max": 7, "handshakes_max": 8},
        "dev_mode": True,
        "node_name": "a=b",
    }


@pytest.mark.parametrize("pair", ["limits.topics_max", "nonsense=1", "limits=1", "dev_mode=perhaps"])
def test_a_setting_that_cannot_be_read_is_a_usage_error(pair: str) -> None:
    with pytest.raises(click.BadParameter):
        overrides([pair])


def of_up(*arguments: str, file: Path | None = None) -> Config:
    """The settings that a command line of `bms up` puts in force."""
    context = up.make_context("up", list(arguments))
    parameters: dict[str, Any] = dict(context.params)
    return up_config(file, os.environ, _given(parameters) | overrides(parameters["pairs"]))[0]


def test_a_node_without_any_option_founds_a_mesh_and_listens_everywhere() -> None:
    config = of_up()
    assert config.found_mesh
    assert config.listen_address in ("[::]:7800", "0.0.0.0:7800")


def test_who_is_told_a_way_in_founds_nothing(tmp_path: Path) -> None:
    assert not of_up("--bootstrap", "a:1").found_mesh
    assert not of_up("--identity", str(tmp_path)).found_mesh
    assert not of_up("--no-found").found_mesh
    assert of_up("--bootstrap", "a:1", "--found").found_mesh


def test_for_development_it_listens_on_loopback() -> None:
    config = of_up("--dev")
    assert (config.dev_mode, config.found_mesh, config.listen_address) == (True, False, "127.0.0.1:0")
    assert of_up("--dev", "--listen", "[::1]:9").listen_address == "[::1]:9"


def test_options_go_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.toml"
    path.write_text('listen_address = "a:1"\nmesh_name = "file"\nnode_name = "file"\n')
    monkeypatch.setenv("BMS_MESH_NAME", "environment")
    monkeypatch.setenv("BMS_NODE_NAME", "environment")
    config = of_up("--name", "option", file=path)
    assert (config.listen_address, config.mesh_name, config.node_name) == ("a:1", "environment", "option")


def test_every_option_of_up_reaches_its_setting(tmp_path: Path) -> None:
    config = of_up(
        *("--listen", "a:1", "--mesh", "m", "--name", "n", "--bootstrap", "b:1", "--bootstrap", "c:2"),
        *("--identity", str(tmp_path), "--persistence-path", "/p", "--set", "max_retries=1", "--found"),
        *("--http", "127.0.0.1:3", "--https", "127.0.0.1:4"),
    )
    assert config == Config(
        listen_address="a:1",
        mesh_name="m",
        node_name="n",
        bootstrap_nodes=("b:1", "c:2"),
        key_path=tmp_path / "key.pem",
        cert_path=tmp_path / "cert.pem",
        trust_path=tmp_path / "trust.pem",
        persistence_path="/p",
        max_retries=1,
        found_mesh=True,
        http_address="127.0.0.1:3",
        https_address="127.0.0.1:4",
    )
