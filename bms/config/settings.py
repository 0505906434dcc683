"""The settings themselves. A `Config` that exists is valid: it has passed every check here, or nothing was made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from ..errors import ConfigError, LocalProtocolError
from ..values import Address
from .fields import (
    GIB,
    KIB,
    MIB,
    about,
    amount,
    check_fields,
    count,
    least,
    number,
    seconds,
    setting,
    to_path,
    to_texts,
)
from .sources import Gathered, gather, parse_text, require_known

__all__ = [
    "GROUPS",
    "TLS_SUITES",
    "Config",
    "GossipConfig",
    "HttpConfig",
    "LimitsConfig",
    "LogConfig",
    "StoreConfig",
    "changes",
    "load",
    "parse_setting",
    "setting_fields",
]

DAY_S = 86_400
NAME_BYTES_MAX = 200  # becomes the name of a folder (255 bytes), to which "-2" may be added
FRAME_HEADROOM = 1024  # what surrounds a body in its frame: type, id, boot, counter, topic, time

# RFC 2782 and RFC 1035: _service._proto and a domain, 253 characters in all; no port, which the records say.
_SRV_NAME = re.compile(
    r"dns\+srv://(?=.{1,253}$)_[a-z0-9-]{1,15}\._tcp(\.\w([\w-]{0,61}\w)?)+\.?", re.ASCII | re.IGNORECASE
)

# RFC 5289 and 7905: the suites of TLS 1.2 with forward secrecy and authenticated encryption, by OpenSSL's name.
TLS_SUITES = {
    f"TLS_ECDHE_{key}_WITH_{cipher}": f"ECDHE-{key}-{short}"
    for key in ("ECDSA", "RSA")
    for cipher, short in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
    )
}

_TICKET_HINT = "join tickets are not in this version; give the address of a node as host:port"


def _check_name(name: str) -> str | None:
    if not 0 < len(name.encode("utf-8", "surrogatepass")) <= NAME_BYTES_MAX:
        return f"a name has 1 to {NAME_BYTES_MAX} bytes of UTF-8"
    if name in (".", "..") or any(c in "/\\" or not c.isprintable() for c in name) or name != name.strip():
        return f"a name becomes the name of a folder: no slashes, control characters or outer spaces, not {name!r}"
    return None


def _check_address(text: str) -> str | None:
    try:
        Address.parse(text)
    except LocalProtocolError as error:
        return str(error)
    return None


def _overlap(host: str, other: str) -> bool:
    """Whether no port can be listened at on both. Names are not looked up."""
    both = {host, other}
    if len(both) == 1 or not both.isdisjoint(("::", "*", "")):
        return True
    return "0.0.0.0" in both and not any(":" in each for each in both)  # noqa: S104 - compared with, not bound to


def _check_dialable(text: str) -> str | None:
    wrong = _check_address(text)
    if wrong is None:
        address = Address.parse(text)
        if address.port == 0:
            wrong = f"others cannot dial port 0: {text!r}"
        elif address.host in ("0.0.0.0", "::", "*"):  # noqa: S104 - refused here
            wrong = f"{address.host} is no address that others can dial: {text!r}"
    return wrong


def _check_bootstrap(nodes: tuple[str, ...]) -> str | None:
    for node in nodes:
        if node.startswith("dns+srv://"):
            if not _SRV_NAME.fullmatch(node):
                return f"dns+srv:// names a service of a domain, as dns+srv://_bms._tcp.example.org does, not {node!r}"
            continue
        wrong = _check_dialable(node)
        if wrong is not None:
            return wrong if ":" in node or len(node) < 40 else _TICKET_HINT
    return None


def _check_suites(names: tuple[str, ...]) -> str | None:
    for name in names:
        if name not in TLS_SUITES:
            return f"of TLS 1.2 there are {', '.join(TLS_SUITES)}; not {name!r}"
    return None


def _check_db_url(url: str) -> str | None:
    if not url.startswith("sqlite:///") or url == "sqlite:///":
        scheme = url.split(":", 1)[0][:20]
        return f"this version keeps its data in SQLite alone: sqlite:///path, not {scheme!r}"
    return None


# --- the settings


@attrs.frozen(kw_only=True)
class GossipConfig:
    """How quickly this node notices that others came, went or fell silent."""

    keepalive_interval_s: float = seconds(
        (5.0, 0.05, 3600),
        "A link on which nothing was sent for so long carries a ping, which also compares the clocks.",
        "shorter costs a packet more each way on every link; that nodes are there is found out by probes",
    )
    keepalive_timeout_s: float = seconds(
        (15.0, 0.1, 86_400),
        "A link on which nothing arrived for so long is closed. Above `keepalive_interval_s`.",
        "shorter gives up sooner on connections that are dead without saying so, and drops peers that only paused",
    )
    dial_timeout_s: float = seconds(
        (5.0, 0.1, 600),
        "How long one attempt to connect may take, handshake not counted.",
        "shorter gives up on slow networks: one lost SYN costs 1 s, two 3 s (RFC 6298)",
    )
    redial_interval_s: float = seconds(
        (1.0, 0.01, 3600),
        "The pause before trying again a peer that could not be reached; doubled, with jitter, after each failure.",
        "shorter reconnects sooner and knocks more often at what is down",
    )
    redial_interval_max_s: float = seconds(
        (30.0, 0.01, 86_400),
        "The longest such pause. Not below `redial_interval_s`.",
        "how late at most a healed network is noticed",
    )
    probe_interval_s: float = seconds(
        (1.0, 0.05, 60),
        "One member, in turn, is asked so often whether it is there; without an answer by then it is suspect.",
        "shorter notices a dead node sooner and costs packets; alike on all nodes of a mesh (SWIM's protocol period)",
    )
    suspicion_alpha: float = number(
        (4.0, 1.0, 100),
        "A suspicion that several nodes confirm lasts this times max(1, log10 of the number of nodes) probe intervals.",
        "lower fails dead nodes sooner, and more nodes that were only slow (Lifeguard, section IV)",
    )
    gossip_interval_s: float = seconds(
        (0.2, 0.01, 60),
        "While there is news of members it is told to three of them so often.",
        "shorter spreads news faster and costs packets only while there is some",
    )

    def __attrs_post_init__(self) -> None:
        check_fields(self, "gossip.")
        least(self, "gossip.", "redial_interval_max_s", "redial_interval_s", "not be below")
        least(self, "gossip.", "keepalive_timeout_s", "keepalive_interval_s", "be above", strictly=True)


@attrs.frozen(kw_only=True)
class LimitsConfig:
    """Bounds. Every queue and every size has one, so that no peer and no burst can take all memory."""

    frame_bytes_max: int = amount(
        (MIB, 64 * KIB, 16 * MIB),
        "The longest frame taken from a peer; of two sides' the lower counts.",
        "larger holds more memory a link, and one transfer delays others longer",
    )
    handshakes_max: int = count(
        (64, 1, 100_000),
        "Incoming connections in their handshake at once; one more closes the oldest. Also how many one host may open "
        "a second.",
        "each costs memory and CPU before anybody knows who it is",
    )
    handshake_timeout_s: float = seconds(
        (10.0, 0.1, 600),
        "How long TLS and hello together may take.",
        "longer lets a stranger hold one of the `handshakes_max` places longer",
    )
    link_queue_bytes_max: int = amount(
        (8 * MIB, 64 * KIB, GIB),
        "What may wait to be sent on one link. Not below `frame_bytes_max`.",
        "memory for each slow peer; what does not fit is refused to its sender",
    )
    inbox_messages_max: int = count(
        (1000, 1, 10_000_000),
        "Messages that may wait for the subscribers of one topic.",
        "more rides out a longer pause of a subscriber; beyond it direct messages push back, broadcasts are dropped",
    )
    inbox_bytes_max: int = amount(
        (16 * MIB, 64 * KIB, 4 * GIB),
        "The bytes of those messages. Not below `body_bytes_max`.",
        "memory for each topic",
    )
    topics_max: int = count(
        (1000, 1, 1_000_000),
        "Topics to which nobody has subscribed yet that may hold messages of one sender.",
        "with the two bounds above, which hold for all of them together, what a peer can pile up",
    )
    body_bytes_max: int = amount(
        (768 * KIB, KIB, 16 * MIB - FRAME_HEADROOM),
        "The longest body of one message or request. At least 1 KiB below `frame_bytes_max`.",
        "what is larger is better stored than sent",
    )
    value_bytes_max: int = amount(
        (64 * MIB, KIB, GIB),
        "The longest value of one key.",
        "a value is in memory while it is written, sent or read",
    )
    drain_timeout_s: float = seconds(
        (5.0, 0.0, 600),
        "How long stopping may take to finish what has begun.",
        "longer loses fewer messages under way; what was acknowledged is safe in any case",
    )

    def __attrs_post_init__(self) -> None:
        check_fields(self, "limits.")
        least(self, "limits.", "link_queue_bytes_max", "frame_bytes_max", "hold one frame: it must not be below")
        least(self, "limits.", "inbox_bytes_max", "body_bytes_max", "hold one message: it must not be below")
        if self.body_bytes_max > self.frame_bytes_max - FRAME_HEADROOM:
            raise ConfigError(
                "limits.body_bytes_max",
                self.body_bytes_max,
                f"must be at least 1 KiB below limits.frame_bytes_max, which is {self.frame_bytes_max:,} bytes",
            )


@attrs.frozen(kw_only=True)
class StoreConfig:
    """The database of one node."""

    queue_operations_max: int = count(
        (4096, 1, 1_000_000),
        "Writes that may wait for the writing thread; others wait at their callers.",
        "more lets larger groups share one commit, and holds more memory",
    )
    cache_bytes: int = amount(
        (8 * MIB, 64 * KIB, 16 * GIB),
        "The page cache of SQLite, for each of its two connections.",
        "larger reads less from disk; the memory of the node grows by it",
    )

    def __attrs_post_init__(self) -> None:
        check_fields(self, "store.")


@attrs.frozen(kw_only=True)
class HttpConfig:
    """The HTTP interface: its bounds, its certificate, and who may use it from where."""

    connections_max: int = count(
        (256, 1, 100_000),
        "Connections at once, of HTTP and HTTPS together. Beyond it the one that has been idle longest gives way.",
        "each costs a file descriptor and about 50 KiB",
    )
    connections_per_address_max: int = count(
        (64, 1, 100_000),
        "The same for one address (of IPv6: one /64).",
        "behind a proxy all clients have one address",
    )
    requests_per_s: float = number(
        (200.0, 0.1, 1_000_000),
        "Requests and connections a second of one address; twice as many (10) at once. Others get 429, or nothing.",
        "one request costs 1 ms of CPU and more, which the mesh does not get",
    )
    header_timeout_s: float = seconds(
        (10.0, 0.1, 600),
        "How long the TLS handshake, and then the header of a request, may take.",
        "longer lets a slow client hold a connection longer",
    )
    body_timeout_s: float = seconds(
        (30.0, 0.1, 3600),
        "How long the body of a request may take, and one second more for each 16 KiB of it.",
        "longer bears slower networks",
    )
    send_timeout_s: float = seconds(
        (20.0, 0.1, 3600),
        "How long a client may take for each 64 KiB of an answer; one that does not read loses its connection.",
        "longer bears slower networks, and holds what waits to be sent",
    )
    idle_timeout_s: float = seconds(
        (60.0, 0.1, 86_400),
        "A connection without a request, or a WebSocket whose other end answers no ping, is closed after this.",
        "longer saves clients that come back a handshake",
    )
    header_bytes_max: int = amount(
        (32 * KIB, KIB, MIB),
        "The longest header of one request; its line and all its fields.",
        "memory for each connection",
    )
    body_bytes_max: int = amount(
        (8 * MIB, KIB, GIB),
        "The longest body of one request, and the longest WebSocket message.",
        "a body is in memory as a whole: times `connections_max` that is what clients can take",
    )
    cert_path: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata=about(
            "The certificate chain of HTTPS, PEM. Goes with `key_path`; read again when it changes.",
            "without one the node makes one that no browser knows, and logs its fingerprint",
        ),
    )
    key_path: Path | None = attrs.field(
        default=None, converter=to_path, metadata=about("The private key of that certificate, PEM, not encrypted.")
    )
    client_ca_path: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata=about(
            "Certificates, PEM: HTTPS takes only clients that show one issued by these.",
            "a token is needed all the same",
        ),
    )
    allowed_hosts: tuple[str, ...] = attrs.field(
        default=(),
        converter=to_texts,
        metadata=about(
            "Names, beside this machine's own and addresses, that requests may be sent to.",
            "what is not allowed is refused: a page cannot have its own name point here (DNS rebinding)",
        ),
    )
    allowed_origins: tuple[str, ...] = attrs.field(
        default=(),
        converter=to_texts,
        metadata=about(
            'Other origins whose pages may use the API (CORS), such as "https://dash.example.org". Empty: none.',
            "their pages can do whatever the token allows that somebody gives them",
        ),
    )
    events_kept: int = count(
        (10_000, 1, 10_000_000),
        "Events kept for clients that come back to where they were.",
        "memory: some hundred bytes each",
    )

    def __attrs_post_init__(self) -> None:
        check_fields(self, "http.")
        for name, other in (("cert_path", "key_path"), ("key_path", "cert_path")):
            if getattr(self, name) is None and getattr(self, other) is not None:
                raise ConfigError(f"http.{name}", None, f"is missing: http.{other} is given, and the two go together")


@attrs.frozen(kw_only=True)
class LogConfig:
    """What `bms up` writes to standard error. A program that embeds a mesh configures `logging` itself."""

    level: str = setting(
        "info",
        "The least serious message that is written.",
        "debug tells of every link and batch",
        choices=("debug", "info", "warning", "error", "critical"),
    )
    format: str = setting(
        "console",
        "Lines for people, or one JSON object on each line for programs.",
        choices=("console", "json"),
    )
    slow_operation_s: float = seconds(
        (1.0, 0.001, 3600),
        "A message, request, commit or round of synchronization that takes longer is logged, counted and reported.",
        "shorter says more",
    )
    traces: bool = setting(
        False,
        "Make OpenTelemetry spans of sends, requests, writes and rounds. Needs the extra `otel`.",
        "a span costs some 20 µs, and the exporter what it costs",
    )

    def __attrs_post_init__(self) -> None:
        check_fields(self, "log.")


GROUPS: dict[str, type[Any]] = {
    "gossip": GossipConfig,
    "limits": LimitsConfig,
    "store": StoreConfig,
    "http": HttpConfig,
    "log": LogConfig,
}
_G = TypeVar("_G")


def _to_group(kind: type[_G], name: str, value: _G | Mapping[str, Any]) -> _G:
    if not isinstance(value, Mapping):
        return value
    for key in value:
        require_known(setting_fields(), f"{name}.{key}", value[key])
    return kind(**value)


def _to_gossip(value: GossipConfig | Mapping[str, Any]) -> GossipConfig:
    return _to_group(GossipConfig, "gossip", value)


def _to_limits(value: LimitsConfig | Mapping[str, Any]) -> LimitsConfig:
    return _to_group(LimitsConfig, "limits", value)


def _to_store(value: StoreConfig | Mapping[str, Any]) -> StoreConfig:
    return _to_group(StoreConfig, "store", value)


def _to_http(value: HttpConfig | Mapping[str, Any]) -> HttpConfig:
    return _to_group(HttpConfig, "http", value)


def _to_log(value: LogConfig | Mapping[str, Any]) -> LogConfig:
    return _to_group(LogConfig, "log", value)


@attrs.frozen(kw_only=True)
class Config:
    """Every setting of one node. Immutable and valid; `ConfigError` names the setting that was not."""

    mesh_name: str = setting(
        "default",
        "What people call the mesh, and the folder of its nodes. A mesh *is* the key of its first authority.",
        check=_check_name,
    )
    node_name: str = setting(
        "node",
        "What people call this node, and its folder. A node *is* its NodeId; two nodes may have one name.",
        check=_check_name,
    )
    found_mesh: bool = setting(
        False,
        "Make the authority of this mesh if there is none yet. `bms up` does, unless it is told of another way in.",
        "two nodes that both found a mesh are in two meshes and will not speak to each other",
    )
    listen_address: str = setting(
        "127.0.0.1:0",
        'Where to listen, "host:port"; port 0 takes a free one. "[::]" takes IPv4 as well. `bms up` takes "[::]:7800".',
        "the loopback address is reachable from this machine alone",
        check=_check_address,
    )
    tcp_port: int | None = setting(
        None, "Overrides the port of `listen_address`; 0 takes a free one.", span=(0, 65_535)
    )
    udp_port: int | None = setting(
        None, "The port of datagrams in place of the listener's; 0: any free one.", span=(0, 65_535)
    )
    advertise_address: str | None = setting(
        None,
        'What others should dial, "host:port", behind NAT or in a container. None: the addresses listened on.',
        "a wrong one makes this node reachable only through links that it opens itself",
        check=_check_dialable,
    )
    bootstrap_nodes: tuple[str, ...] = attrs.field(
        default=(),
        converter=to_texts,
        metadata=about(
            'Nodes to dial first: "host:port", "[v6]:port", or "dns+srv://_bms._tcp.example.org" for what DNS says.',
            "one that is up is enough; name two or three, because any of them may be down",
            check=_check_bootstrap,
        ),
    )
    enable_discovery: bool = setting(
        True,
        "Find nodes by every means there is; False: by `bootstrap_nodes` and what their nodes tell alone.",
        "mDNS tells everybody on the network that a mesh is there; it is off where `listen_address` is loopback",
    )
    dev_mode: bool = setting(
        False,
        "Nodes of one `mesh_name` on this machine trust a throw-away authority under `BMS_HOME`, and find each other.",
        "whoever can read that folder is a member: for development alone",
    )
    cert_path: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata=about("This node's certificate chain and admission, cert.pem. Goes with `key_path` and `trust_path`."),
    )
    key_path: Path | None = attrs.field(
        default=None, converter=to_path, metadata=about("This node's private keys, key.pem, mode 0600.")
    )
    trust_path: Path | None = attrs.field(
        default=None, converter=to_path, metadata=about("The roots and the authority bundle of the mesh, trust.pem.")
    )
    enable_encryption: bool = setting(
        True, "Links are TLS 1.3 with certificates on both sides. False only in `dev_mode`."
    )
    enable_persistence: bool = setting(
        True, "Keep the identity and the data on disk; False: in memory, gone with the process."
    )
    persistence_path: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata=about(
            "The folder of this node, used by one process at a time. None: `BMS_HOME/<mesh_name>/<node_name>`.",
            "one on a network file system is neither quick nor safe: SQLite needs working locks",
        ),
    )
    tls_ciphers: tuple[str, ...] | None = attrs.field(
        default=None,
        converter=to_texts,
        metadata=about(
            "The TLS 1.2 suites of HTTPS by IANA name; none named: TLS 1.3 alone. Links, which have only TLS 1.3, and "
            "TLS 1.3 of HTTPS take OpenSSL's suites, which Python lets nobody choose.",
            check=_check_suites,
        ),
    )
    db_url: str | None = setting(
        None, "The database file, `sqlite:///path`. None: in the folder of the node.", check=_check_db_url
    )
    enable_replication: bool = setting(
        True, "Exchange data with the other nodes; False: what is stored here stays here."
    )
    replication_factor: int = setting(
        3,
        'Replicas of a key in spaces that name no number of their own. The space "default" is on all nodes.',
        absent="spaces kept on a chosen number of nodes",
    )
    sync_interval: float = seconds(
        (30.0, 0.05, 86_400),
        "The pause between two rounds of anti-entropy with one peer. New writes do not wait for it.",
        "shorter mends what was missed sooner; a round that finds nothing new costs two small frames",
    )
    node_timeout: float = seconds(
        (300.0, 1, 30 * DAY_S),
        "A failed node is hidden after this; its addresses are kept for a day longer, so that a split can heal.",
        "longer lists nodes that are gone for good",
    )
    max_connections: int = count(
        (1000, 1, 100_000),
        "Links to peers held at once.",
        "each costs a file descriptor and memory; `ulimit -n` must allow for it",
    )
    max_retries: int = count(
        (3, 0, 100),
        "Further attempts at a message whose link broke, within its deadline. It is never delivered twice.",
        "more survives a worse network",
    )
    metrics_interval: float = seconds(
        (60.0, 0.1, 86_400),
        "Between two samples of rates and latencies, for the plots of reports. The last 720 are kept.",
        "shorter shows more detail, and less far back",
    )
    http_address: str | None = setting(
        None,
        'Where the API and the dashboard listen, "host:port"; port 0 takes a free one. None: nowhere.',
        "tokens travel in clear text: loopback, or behind a proxy that speaks TLS; otherwise use `https_address`",
        check=_check_address,
    )
    https_address: str | None = setting(None, "The same over TLS 1.2 or 1.3.", check=_check_address)
    gossip: GossipConfig = attrs.field(factory=GossipConfig, converter=_to_gossip)
    limits: LimitsConfig = attrs.field(factory=LimitsConfig, converter=_to_limits)
    store: StoreConfig = attrs.field(factory=StoreConfig, converter=_to_store)
    http: HttpConfig = attrs.field(factory=HttpConfig, converter=_to_http)
    log: LogConfig = attrs.field(factory=LogConfig, converter=_to_log)

    def __attrs_post_init__(self) -> None:
        check_fields(self)
        if not self.enable_encryption and not self.dev_mode:
            raise ConfigError("enable_encryption", False, "only dev_mode may go without encryption; leave it out")
        files = {"cert_path": self.cert_path, "key_path": self.key_path, "trust_path": self.trust_path}
        given = [name for name, path in files.items() if path is not None]
        for name, path in files.items():
            if given and path is None:
                raise ConfigError(name, None, f"is missing: {given[0]} is given, and the three files go together")
        self._check_places()

    def _check_places(self) -> None:
        """No two listeners at one port. ConfigError; what else has a port is found out when it is bound."""
        places = {"listen_address" if self.tcp_port is None else "tcp_port": self.tcp_address}
        for name in ("http_address", "https_address"):
            if (text := getattr(self, name)) is None:
                continue
            place = Address.parse(text)
            for other, taken in places.items():
                if place.port and place.port == taken.port and _overlap(place.host, taken.host):
                    raise ConfigError(name, text, f"{other} is {taken} already: each listener needs a port of its own")
            places[name] = place

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
        **overrides: Any,
    ) -> Config:
        """The defaults, then the TOML file `path`, then `BMS_*` of `environ` (the process's), then `overrides`.

        Relative paths in the file are relative to its folder. Raises `ConfigError`, which says where the value stood.
        """
        return load(path, os.environ if environ is None else environ, overrides)

    def evolve(self, **fields: Any) -> Config:
        """A copy with `fields` changed; a mapping changes single settings of a group. Raises `ConfigError`."""
        for name, value in list(fields.items()):
            require_known(setting_fields(), name, value)
            if name in GROUPS and isinstance(value, Mapping):
                for key in value:
                    require_known(setting_fields(), f"{name}.{key}", value[key])
                fields[name] = attrs.evolve(getattr(self, name), **value)
        return attrs.evolve(self, **fields)

    @property
    def tcp_address(self) -> Address:
        """`listen_address` with the port that `tcp_port` says."""
        address = Address.parse(self.listen_address)
        return address if self.tcp_port is None else attrs.evolve(address, port=self.tcp_port)

    @property
    def database_path(self) -> Path | None:
        """The file that `db_url` names, if it names one."""
        return Path(self.db_url.removeprefix("sqlite:///")) if self.db_url else None


def setting_fields() -> dict[str, attrs.Attribute[Any]]:
    """Every setting by its dotted name, in the order of the documentation."""
    fields: dict[str, attrs.Attribute[Any]] = {}
    for field in attrs.fields(Config):
        if field.name in GROUPS:
            fields |= {f"{field.name}.{part.name}": part for part in attrs.fields(GROUPS[field.name])}
        else:
            fields[field.name] = field
    return fields


def parse_setting(name: str, text: str) -> object:
    """The value of the setting `name` (dotted) written as text, as in the environment. Raises `ConfigError`."""
    return parse_text(setting_fields(), name, text)


def changes(old: Config, new: Config) -> tuple[str, ...]:
    """The dotted names of the settings that differ."""

    def value(config: Config, name: str) -> Any:
        group, _, key = name.rpartition(".")
        return getattr(getattr(config, group) if group else config, key)

    return tuple(name for name in setting_fields() if value(old, name) != value(new, name))


def load(
    path: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """`Config.load`, with `defaults` of a program's own, which every source goes over."""
    found = gather(setting_fields(), path, environ, overrides)
    try:
        return Config(**{**(defaults or {}), **found.values})
    except ConfigError as error:
        raise _placed(error, found) from None


def _placed(error: ConfigError, found: Gathered) -> ConfigError:
    """The same error, with the place where the value stood."""
    place = found.places.get(error.field)
    return ConfigError(error.field, error.value, f"{error.why} ({place})") if place else error
