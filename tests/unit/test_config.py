"""`bms.config`: what is accepted, what is refused and with which words, where values come from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import pytest

from bms.config import Config, GossipConfig, LimitsConfig, changes, home, load, parse_setting, setting_fields
from bms.config.reference import reference
from bms.errors import ConfigError
from bms.values import Address

ROOT = Path(__file__).parents[2]


def refused(**fields: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config(**fields)
    return caught.value


def refused_load(path: Path | None = None, environ: dict[str, str] | None = None, **overrides: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config.load(path, environ or {}, **overrides)
    return caught.value


def written(folder: Path, text: str) -> Path:
    path = folder / "bms.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- from code


def test_the_promised_fields_have_the_promised_defaults() -> None:
    promised = {
        "mesh_name": "default",
        "node_name": "node",
        "found_mesh": False,
        "listen_address": "127.0.0.1:0",
        "tcp_port": None,
        "udp_port": None,
        "advertise_address": None,
        "bootstrap_nodes": (),
        "enable_discovery": True,
        "dev_mode": False,
        "cert_path": None,
        "key_path": None,
        "trust_path": None,
        "enable_encryption": True,
        "enable_persistence": True,
        "persistence_path": None,
        "tls_ciphers": None,
        "db_url": None,
        "enable_replication": True,
        "replication_factor": 3,
        "sync_interval": 30,
        "node_timeout": 300,
        "max_connections": 1000,
        "max_retries": 3,
        "metrics_interval": 60,
        "http_address": None,
        "https_address": None,
    }
    config = Config()
    assert {name: getattr(config, name) for name in promised} == promised
    assert {field.name for field in attrs.fields(Config)} == {*promised, "gossip", "limits", "store", "http", "log"}


def test_every_default_passes_its_own_range_and_can_be_given_explicitly() -> None:
    assert Config(**{name: getattr(Config(), name) for name in attrs.fields_dict(Config)}) == Config()


def test_a_config_from_code_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMS_MESH_NAME", "other")
    monkeypatch.setenv("BMS_NONSENSE", "1")
    assert Config().mesh_name == "default"


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Config().mesh_name = "x"  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Config().limits.frame_bytes_max = 1  # type: ignore[misc]


def test_lists_paths_whole_seconds_and_mappings_are_brought_to_their_form(tmp_path: Path) -> None:
    config = Config(
        bootstrap_nodes=["a:1", "[::1]:2"],
        persistence_path=str(tmp_path),
        sync_interval=5,
        limits={"topics_max": 7},
    )
    assert config.bootstrap_nodes == ("a:1", "[::1]:2")
    assert config.persistence_path == tmp_path
    assert (config.sync_interval, type(config.sync_interval)) == (5.0, float)
    assert config.limits == LimitsConfig(topics_max=7)
    assert hash(config) == hash(attrs.evolve(config))


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"sync_interval": "30"}, "sync_interval", "expected a number, not '30' (str)"),
        ({"sync_interval": True}, "sync_interval", "expected a number, not True (bool)"),
        ({"max_connections": 1.5}, "max_connections", "expected a whole number"),
        ({"max_connections": True}, "max_connections", "expected a whole number"),
        ({"dev_mode": 1}, "dev_mode", "expected true or false"),
        ({"mesh_name": None}, "mesh_name", "expected text"),
        ({"tcp_port": "80"}, "tcp_port", "expected a whole number or nothing"),
        ({"persistence_path": 3}, "persistence_path", "expected a path or nothing"),
        ({"bootstrap_nodes": "a:1"}, "bootstrap_nodes", "expected a list of texts"),
        ({"bootstrap_nodes": [1]}, "bootstrap_nodes", "expected a list of texts"),
        ({"limits": 3}, "limits", "expected a table of settings"),
        ({"limits": GossipConfig()}, "limits", "expected a table of settings"),
        ({"limits": {"topics_max": "x"}}, "limits.topics_max", "expected a whole number"),
    ],
)
def test_a_wrong_type_says_what_was_expected(fields: dict[str, Any], name: str, words: str) -> None:
    error = refused(**fields)
    assert error.field == name
    assert words in error.why


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"sync_interval": 0}, "sync_interval", "not within 0.05 to 86,400 s"),
        ({"sync_interval": math.nan}, "sync_interval", "not within"),
        ({"sync_interval": math.inf}, "sync_interval", "not within"),
        ({"tcp_port": 65536}, "tcp_port", "not within 0 to 65,535"),
        ({"max_retries": -1}, "max_retries", "not within 0 to 100"),
        ({"limits": {"frame_bytes_max": 1}}, "limits.frame_bytes_max", "not within 64 KiB to 16 MiB"),
        ({"log": {"format": "xml"}}, "log.format", 'expected one of "console", "json"'),
        ({"log": {"level": "INFO"}}, "log.level", "expected one of"),
        ({"gossip": {"keepalive_timeout_s": 1}}, "gossip.keepalive_timeout_s", "above gossip.keepalive_interval_s"),
        ({"gossip": {"redial_interval_s": 60}}, "gossip.redial_interval_max_s", "not be below gossip.redial_inter"),
        ({"limits": {"body_bytes_max": 1 << 20}}, "limits.body_bytes_max", "1 KiB below limits.frame_bytes_max"),
        ({"limits": {"link_queue_bytes_max": 1 << 19}}, "limits.link_queue_bytes_max", "hold one frame"),
        ({"limits": {"inbox_bytes_max": 1 << 17}}, "limits.inbox_bytes_max", "hold one message"),
    ],
)
def test_a_number_out_of_its_range_names_the_range(fields: dict[str, Any], name: str, words: str) -> None:
    error = refused(**fields)
    assert error.field == name
    assert words in error.why


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", " a", "a ", "x" * 201, "é" * 101])
@pytest.mark.parametrize("field", ["mesh_name", "node_name"])
def test_a_name_that_cannot_be_a_folder_is_refused(field: str, name: str) -> None:
    assert refused(**{field: name}).field == field


@pytest.mark.parametrize("name", ["a", "küche", "node-2", "with space", ".hidden", "x" * 200])
def test_an_ordinary_name_is_accepted(name: str) -> None:
    assert Config(mesh_name=name, node_name=name).node_name == name


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("listen_address", "localhost"),
        ("listen_address", "::1:80"),
        ("listen_address", "a:65536"),
        ("advertise_address", "a:0"),
        ("advertise_address", "0.0.0.0:80"),
        ("advertise_address", "[::]:80"),
        ("bootstrap_nodes", ["b:1", "a:x"]),
        ("bootstrap_nodes", ["a:0"]),
        ("http_address", "7801"),
        ("https_address", "::1:7802"),
        ("db_url", "sqlite:///"),
        ("db_url", "sqlite://host/x"),
    ],
)
def test_an_address_that_cannot_work_is_refused(field: str, text: object) -> None:
    assert refused(**{field: text}).field == field


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"tls_ciphers": ["TLS_AES_128_GCM_SHA256"]}, "tls_ciphers", "of TLS 1.2 there are TLS_ECDHE_ECDSA_WITH_AES"),
        ({"http": {"cert_path": "x.pem"}}, "http.key_path", "the two go together"),
        ({"http": {"key_path": "x.pem"}}, "http.cert_path", "the two go together"),
        ({"replication_factor": 2}, "replication_factor", "does not have spaces kept on a chosen number of nodes"),
        ({"db_url": "postgres://x/y"}, "db_url", "this version keeps its data in SQLite alone"),
        ({"bootstrap_nodes": ["bmst" + "q" * 80]}, "bootstrap_nodes", "join tickets are not in this version"),
        ({"enable_encryption": False}, "enable_encryption", "only dev_mode"),
    ],
)
def test_what_this_version_does_not_have_is_refused_in_those_words(
    fields: dict[str, Any], name: str, words: str
) -> None:
    error = refused(**fields)
    assert error.field == name
    assert words in error.why


@pytest.mark.parametrize(
    "node",
    [
        "dns+srv://",
        "dns+srv://mesh.example",
        "dns+srv://_bms._tcp",
        "dns+srv://_bms._tcp.",
        "dns+srv://_bms._udp.mesh.example",
        "dns+srv://bms._tcp.mesh.example",
        "dns+srv://_bms._tcp.mesh.example:7800",
        "dns+srv://_bms._tcp.mesh.example/path",
        "dns+srv://_bms._tcp..example",
        "dns+srv://_bms._tcp.-mesh.example",
        "dns+srv://_bms._tcp.mesh.example\n",
        "dns+srv://_bms._tcp." + "a" * 64 + ".example",
        "dns+srv://_bms._tcp" + ".abcdefgh" * 30,
    ],
)
def test_a_service_name_that_dns_cannot_have_is_refused_with_an_example(node: str) -> None:
    error = refused(bootstrap_nodes=["first.example:7800", node])
    assert error.field == "bootstrap_nodes"
    assert "as dns+srv://_bms._tcp.example.org does" in error.why


@pytest.mark.parametrize("node", ["dns+srv://_bms._tcp.example.org", "dns+srv://_mesh-2._tcp.x-y.a_b.Example."])
def test_a_service_name_is_a_bootstrap_node(node: str) -> None:
    assert Config(bootstrap_nodes=(node,)).bootstrap_nodes == (node,)


def test_encryption_may_be_off_in_dev_mode() -> None:
    assert not Config(enable_encryption=False, dev_mode=True).enable_encryption


def test_the_three_identity_files_go_together(tmp_path: Path) -> None:
    error = refused(cert_path=tmp_path / "cert.pem", key_path=tmp_path / "key.pem")
    assert error.field == "trust_path"
    assert "cert_path is given" in error.why
    Config(cert_path=tmp_path, key_path=tmp_path, trust_path=tmp_path)


@pytest.mark.parametrize(
    ("listen", "http", "https", "wrong", "other"),
    [
        ("127.0.0.1:7950", "127.0.0.1:7950", None, "http_address", "listen_address"),
        ("[::]:7950", "127.0.0.1:7950", None, "http_address", "listen_address"),
        ("127.0.0.1:7950", "0.0.0.0:7950", None, "http_address", "listen_address"),
        ("127.0.0.1:0", "[::1]:7950", "[::]:7950", "https_address", "http_address"),
        ("a:1", "b:2", "a:1", "https_address", "listen_address"),
        ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", None, None),
        ("127.0.0.1:7950", "[::1]:7950", "127.0.0.2:7950", None, None),
        ("[::1]:7950", "0.0.0.0:7950", None, None, None),
    ],
)
def test_two_listeners_at_one_port_are_refused_by_the_names_of_both(
    listen: str, http: str, https: str | None, wrong: str | None, other: str | None
) -> None:
    fields: dict[str, Any] = {"listen_address": listen, "http_address": http, "https_address": https}
    if wrong is None:
        Config(**fields)
        return
    error = refused(**fields)
    assert error.field == wrong
    assert error.why.startswith(f"{other} is {listen if other == 'listen_address' else http} already")


def test_the_port_of_a_listener_counts_as_tcp_port_says() -> None:
    assert refused(tcp_port=7950, http_address="127.0.0.1:7950").why.startswith("tcp_port is 127.0.0.1:7950 already")
    Config(listen_address="127.0.0.1:7950", tcp_port=7951, http_address="127.0.0.1:7950")


def test_tcp_port_overrides_the_port_of_the_listen_address() -> None:
    assert Config(listen_address="[::1]:7800").tcp_address == Address("::1", 7800)
    assert Config(listen_address="[::1]:7800", tcp_port=0).tcp_address == Address("::1", 0)


def test_the_database_url_names_a_file() -> None:
    assert Config().database_path is None
    assert Config(db_url="sqlite:///data/x.db").database_path == Path("data/x.db")
    assert Config(db_url="sqlite:////var/x.db").database_path == Path("/var/x.db")


# --- evolving and comparing


def test_changes_names_exactly_the_settings_that_differ() -> None:
    old = Config(limits={"topics_max": 5})
    new = old.evolve(node_name="b", limits={"topics_max": 6}, gossip={"dial_timeout_s": 1})
    assert changes(old, new) == ("node_name", "gossip.dial_timeout_s", "limits.topics_max")
    assert changes(old, old) == ()


def test_evolving_a_group_by_a_mapping_keeps_its_other_settings() -> None:
    config = Config(limits={"topics_max": 5, "handshakes_max": 6}).evolve(limits={"topics_max": 7})
    assert config.limits == LimitsConfig(topics_max=7, handshakes_max=6)


def test_evolving_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        Config().evolve(mesh_nam="x")
    assert (caught.value.field, "did you mean mesh_name?" in caught.value.why) == ("mesh_nam", True)
    with pytest.raises(ConfigError) as caught:
        Config().evolve(limits={"topic_max": 1})
    assert caught.value.field == "limits.topic_max"
    assert "did you mean limits.topics_max?" in caught.value.why


def test_an_unknown_setting_of_a_group_is_not_said_to_mean_the_group() -> None:
    with pytest.raises(ConfigError) as caught:
        Config().evolve(limits={"foo": 1})
    assert (caught.value.field, "did you mean" in caught.value.why) == ("limits.foo", False)
    with pytest.raises(ConfigError, match=r"did you mean limits\.topics_max\?"):
        parse_setting("limits.topics", "1")


def test_a_mapping_with_an_unknown_setting_of_a_group_names_the_nearest() -> None:
    error = refused(gossip={"keepalive_intreval_s": 1})
    assert error.field == "gossip.keepalive_intreval_s"
    assert "did you mean gossip.keepalive_interval_s?" in error.why


# --- from a file, the environment, arguments


def test_later_sources_go_over_earlier_ones_setting_by_setting(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'node_name = "file"\nmesh_name = "file"\nsync_interval = 1\n[limits]\ntopics_max = 1\nhandshakes_max = 1\n',
    )
    environ = {"BMS_NODE_NAME": "env", "BMS_MESH_NAME": "env", "BMS_LIMITS_TOPICS_MAX": "2", "PATH": "/bin"}
    config = Config.load(path, environ, node_name="argument", limits={"inbox_messages_max": 3})
    assert (config.node_name, config.mesh_name, config.sync_interval) == ("argument", "env", 1.0)
    assert config.limits == LimitsConfig(topics_max=2, handshakes_max=1, inbox_messages_max=3)


def test_a_program_may_have_defaults_of_its_own(tmp_path: Path) -> None:
    own = {"listen_address": "[::]:7800", "node_name": "own"}
    path = written(tmp_path, 'node_name = "file"\n')
    config = load(path, {}, {}, own)
    assert (config.listen_address, config.node_name) == ("[::]:7800", "file")
    assert load(None, {"BMS_LISTEN_ADDRESS": "a:1"}, {}, own).listen_address == "a:1"


def test_load_reads_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMS_MESH_NAME", "from-process")
    assert Config.load().mesh_name == "from-process"


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("BMS_LISTEN_ADDRESS", "[::]:7800", "listen_address", "[::]:7800"),
        ("BMS_BOOTSTRAP_NODES", "a:1, b:2,", "bootstrap_nodes", ("a:1", "b:2")),
        ("BMS_BOOTSTRAP_NODES", "", "bootstrap_nodes", ()),
        ("BMS_DEV_MODE", "Yes", "dev_mode", True),
        ("BMS_DEV_MODE", "0", "dev_mode", False),
        ("BMS_TCP_PORT", "80", "tcp_port", 80),
        ("BMS_TCP_PORT", "", "tcp_port", None),
        ("BMS_SYNC_INTERVAL", "2.5", "sync_interval", 2.5),
        ("BMS_PERSISTENCE_PATH", "/x/y", "persistence_path", Path("/x/y")),
    ],
)
def test_an_environment_variable_is_read_by_the_type_of_its_setting(
    variable: str, text: str, name: str, value: object
) -> None:
    assert getattr(Config.load(None, {variable: text}), name) == value


def test_the_folder_of_all_nodes_is_no_setting() -> None:
    assert Config.load(None, {"BMS_HOME": "/x"}) == Config()


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("BMS_DEV_MODE", "maybe", "expected true, false, 1, 0, yes or no, not 'maybe'"),
        ("BMS_MAX_RETRIES", "many", "expected a whole number, not 'many'"),
        ("BMS_SYNC_INTERVAL", "nan", "not within"),
        ("BMS_LIMITS_TOPICS_MAX", "-3", "not within"),
    ],
)
def test_a_wrong_value_in_the_environment_names_its_variable(variable: str, text: str, words: str) -> None:
    error = refused_load(environ={variable: text})
    assert words in error.why
    assert f"in the environment variable {variable}" in error.why


def test_an_unknown_environment_variable_names_the_nearest() -> None:
    error = refused_load(environ={"BMS_LIMIT_FRAME_BYTES_MAX": "1"})
    assert error.field == "BMS_LIMIT_FRAME_BYTES_MAX"
    assert "did you mean BMS_LIMITS_FRAME_BYTES_MAX?" in error.why


def test_an_unknown_key_in_a_file_names_the_nearest_and_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, '# comment\nmesh_name = "a"\n\nlisten_adress = "a:1"\n')
    error = refused_load(path)
    assert error.field == "listen_adress"
    assert f"did you mean listen_address? (in {path}, line 4)" in error.why


@pytest.mark.parametrize(
    ("text", "name", "line"),
    [
        ("[limits]\nframe_bytes_max = 100_000\n\n[gossip]\ndial_timeout_s = -1\n", "gossip.dial_timeout_s", 5),
        ("[limits] # bounds\n  topics_max= 0\n", "limits.topics_max", 2),
        ("limits.topics_max = 0\n", "limits.topics_max", 1),
        ('\nlimits = { "topics_max" = 0 }\n', "limits.topics_max", 2),
        ("[limitz]\ntopics_max = 1\n", "limitz", 1),
        ('[limits]\nframe = "x"\n', "limits.frame", 2),
        ('\n\nsync_interval = "x"\n', "sync_interval", 3),
        ("[mesh_name]\nx = 1\n", "mesh_name", 1),
        ("\nlimits = 3\n", "limits", 2),
    ],
)
def test_a_wrong_value_in_a_file_names_its_line(tmp_path: Path, text: str, name: str, line: int) -> None:
    path = written(tmp_path, text)
    error = refused_load(path)
    assert error.field == name
    assert error.why.endswith(f"(in {path}, line {line})")


def test_a_setting_of_a_group_named_without_it_is_found() -> None:
    assert "did you mean limits.frame_bytes_max?" in refused_load(frame_bytes_max=1).why


def test_an_unknown_argument_names_the_nearest() -> None:
    error = refused_load(bootstrap_node=["a:1"])
    assert error.field == "bootstrap_node"
    assert "did you mean bootstrap_nodes? (given as an argument)" in error.why
    assert refused_load(limits={"topic_max": 1}).field == "limits.topic_max"


def test_a_group_object_as_an_argument_replaces_the_group(tmp_path: Path) -> None:
    path = written(tmp_path, "[limits]\nhandshakes_max = 1\n")
    assert Config.load(path, {}, limits=LimitsConfig(topics_max=9)).limits == LimitsConfig(topics_max=9)


def test_relative_paths_in_a_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    path = written(tmp_path, 'persistence_path = "data"\n')
    assert Config.load(path, {}).persistence_path == tmp_path / "data"
    path = written(tmp_path, 'persistence_path = "/abs"\n')
    assert Config.load(path, {}).persistence_path == Path("/abs")


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    error = refused_load(tmp_path / "none.toml")
    assert error.field == str(tmp_path / "none.toml")
    assert "cannot be read: No such file" in error.why
    assert "cannot be read" in refused_load(tmp_path).why


def test_a_file_that_is_not_toml_is_an_error_with_the_line(tmp_path: Path) -> None:
    error = refused_load(written(tmp_path, "a = 1\nb = !\n"))
    assert "is not TOML" in error.why
    assert "line 2" in error.why
    path = tmp_path / "latin.toml"
    path.write_bytes(b'mesh_name = "\xe9"')
    assert "is not TOML" in refused_load(path).why


def test_every_setting_can_be_written_in_a_file_and_in_the_environment(tmp_path: Path) -> None:
    texts: dict[str, tuple[str, str]] = {}
    for name, field in setting_fields().items():
        value = field.default
        if isinstance(value, bool):
            texts[name] = (str(value).lower(), str(value).lower())
        elif isinstance(value, (int, float)):
            texts[name] = (str(value), str(value))
        elif isinstance(value, str):
            texts[name] = (f'"{value}"', value)
        elif value == ():
            texts[name] = ("[]", "")
    assert len(texts) > 30
    path = written(tmp_path, "".join(f"{name} = {toml}\n" for name, (toml, _) in texts.items()))
    assert Config.load(path, {}) == Config()
    environ = {"BMS_" + name.upper().replace(".", "_"): text for name, (_, text) in texts.items()}
    assert Config.load(None, environ) == Config()


def test_a_setting_as_text_has_the_type_of_the_setting() -> None:
    assert parse_setting("limits.topics_max", "7") == 7
    assert parse_setting("bootstrap_nodes", "a:1,b:2") == ("a:1", "b:2")
    with pytest.raises(ConfigError) as caught:
        parse_setting("limits", "7")
    assert "is a group" in caught.value.why
    with pytest.raises(ConfigError) as caught:
        parse_setting("limits.topicsmax", "7")
    assert "did you mean limits.topics_max?" in caught.value.why


# --- the folder of all nodes


@pytest.mark.parametrize(
    ("environ", "platform", "folder"),
    [
        ({"BMS_HOME": "/srv/bms", "HOME": "/h"}, "linux", "/srv/bms"),
        ({"HOME": "/h"}, "linux", "/h/.local/share/bms"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/d"}, "linux", "/d/bms"),
        ({"HOME": "/h", "XDG_DATA_HOME": "relative"}, "linux", "/h/.local/share/bms"),
        ({"HOME": "/h", "BMS_HOME": ""}, "linux", "/h/.local/share/bms"),
        ({"HOME": "/h"}, "darwin", "/h/Library/Application Support/bms"),
        ({"HOME": "/h", "LOCALAPPDATA": "/local"}, "win32", "/local/bms"),
        ({"HOME": "/h"}, "win32", "/h/AppData/Local/bms"),
    ],
)
def test_home_follows_the_custom_of_the_platform(environ: dict[str, str], platform: str, folder: str) -> None:
    assert home(environ, platform) == Path(folder)


def test_home_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert home({"BMS_HOME": "here"}) == tmp_path / "here"


# --- the metadata and the page


def test_every_setting_says_what_it_means() -> None:
    for name, field in setting_fields().items():
        assert field.metadata["meaning"].endswith("."), name
        numeric = str(field.type).split(" | ")[0] in ("int", "float")
        if numeric and not field.metadata["absent"]:
            assert field.metadata["low"] < field.metadata["high"], name
        if name.endswith(("_s", "_interval", "_timeout")) and not name.endswith("_per_s"):
            assert field.metadata["unit"] == "s", name
        if "bytes" in name:
            assert field.metadata["unit"] == "bytes", name


def test_the_reference_page_is_the_one_printed_from_the_metadata() -> None:
    page = ROOT / "docs" / "reference" / "config.md"
    assert page.read_text(encoding="utf-8") == reference(), "run: python -m bms.config > docs/reference/config.md"


def test_the_reference_page_names_every_setting() -> None:
    page = reference()
    assert [name for name in setting_fields() if f"| `{name}` |" not in page] == []
