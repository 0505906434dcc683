"""What `bms doctor` looks at on the network: ports, names, peers, the firewall, multicast, clocks of others.

Connections are opened and closed again at once, each within `DIAL_S`; ports are bound and given back. That a node can
be reached from elsewhere cannot be seen from here, only be concluded: links that others have opened show it. UDP has
no such answer at all, so nothing is said of it beyond whether its port is free.
"""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import socket
import statistics
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import attrs
import trio

from ..values import Address
from ..world import SystemNetwork
from .defaults import is_loopback
from .doctor_finding import OK, PROBLEM, WARNING, Finding, Patient

__all__ = ["clocks", "firewall", "multicast", "names", "peers", "ports"]

DIAL_S = 3.0
PEERS_MAX = 16

_WILDCARDS = {"::": "::1", "0.0.0.0": "127.0.0.1", "*": "127.0.0.1"}  # noqa: S104 - compared with
_SRV = "dns+srv://"
_CLOCK_WARNING_S, _CLOCK_PROBLEM_S = 1.0, 60.0
_GROUP = "224.0.0.251"
_UNNAMED = "its name has no address"


async def _dial(address: Address) -> str | None:
    """Whether something takes connections there; None, or why not."""
    try:
        with trio.fail_after(DIAL_S):
            await trio.aclose_forcefully(await trio.open_tcp_stream(address.host, address.port))
    except trio.TooSlowError:
        return f"no answer within {DIAL_S:g} s"
    except socket.gaierror:
        return _UNNAMED
    except OSError as error:
        causes = getattr(error.__cause__, "exceptions", (error.__cause__ or error,))
        return str(getattr(causes[0], "strerror", None) or error)
    return None


# ---------------------------------------------------------------------- ports


def _owner(port: int, kind: str) -> str:
    """Which process has a port, in words; empty where that cannot be seen."""
    inodes = set()
    for table in (kind, kind + "6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            listens = kind == "udp" or fields[3] == "0A"
            if listens and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(handle) in inodes for handle in (process / "fd").iterdir()):
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue  # another user's, or just ended
    return "another user's process"


def _bindable(address: Address, kind: socket.SocketKind) -> OSError | None:
    """Bind a port and give it back; None, or why that cannot be."""
    dual = address.host in ("::", "*", "")
    family = socket.AF_INET6 if ":" in address.host or dual else socket.AF_INET
    with socket.socket(family, kind) as sock:
        try:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
            sock.bind(("::" if dual else address.host, address.port))
            if kind == socket.SOCK_STREAM:
                sock.listen(1)
        except OSError as error:
            return error
    return None


def _free(address: Address, what: str, setting: str, *, is_wish: bool = False, udp: bool = False) -> Iterator[Finding]:
    kind, name = (socket.SOCK_DGRAM, "udp") if udp else (socket.SOCK_STREAM, "tcp")
    if address.port == 0:
        yield Finding("ports", OK, f"{what}: the system chooses a port on {address.host}")
        return
    error = _bindable(address, kind)
    text = f"{what}: {address}"
    if error is None:
        yield Finding("ports", OK, f"{text} is free")
    elif error.errno == errno.EADDRINUSE:
        owner = _owner(address.port, name)
        text += " is taken" + (f" by {owner}" if owner else "")
        if is_wish:
            advice = f"`bms up` starts all the same, with another port or without; set {setting} to choose"
            yield Finding("ports", WARNING, text, advice)
        else:
            yield Finding("ports", PROBLEM, text, f"end that process, or set {setting} to another port")
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = f"set {setting} to a port above 1023, or give the process the right to bind it"
        yield Finding("ports", PROBLEM, f"{text} may not be bound by this user", advice)
    else:
        advice = f"set {setting} to an address of this machine"
        yield Finding("ports", PROBLEM, f"{text} cannot be bound: {error.strerror}", advice)


def _would_bind(patient: Patient) -> Iterator[Finding]:
    config, wishes = patient.config, patient.wishes
    listen = config.tcp_address
    yield from _free(listen, "listener", "listen_address")
    datagrams = Address(listen.host, listen.port if config.udp_port is None else config.udp_port)
    yield from _free(datagrams, "datagrams (UDP)", "udp_port", udp=True)
    for text, wish, name in (
        (config.http_address, wishes.http, "http_address"), (config.https_address, wishes.https, "https_address")
    ):  # fmt: skip
        what = name.removesuffix("_address").upper()
        if text is not None:
            yield from _free(Address.parse(text), what, name)
        elif wish is not None:
            yield from _free(wish, what, name, is_wish=True)


def _in_clear(address: Address) -> Iterator[Finding]:
    if not is_loopback(address.host):
        what = f"HTTP: other machines reach {address}, and everybody on the way reads their tokens"
        advice = "serve others by HTTPS (https_address), and set http_address to 127.0.0.1:7801"
        yield Finding("ports", WARNING, what, f"{advice}; a proxy that speaks TLS belongs on this machine")


async def ports(patient: Patient) -> AsyncIterator[Finding]:
    """Running: whether its ports take connections from here. Otherwise whether they are free."""
    status = patient.status
    if status is None:
        for finding in _would_bind(patient):
            yield finding
        if patient.config.http_address is not None:
            for finding in _in_clear(Address.parse(patient.config.http_address)):
                yield finding
        return
    places = [] if status.address is None else [("listener", Address.parse(status.address))]
    for name, url in (("HTTP", status.http_url), ("HTTPS", status.https_url)):
        if url is None:
            yield Finding("ports", OK, f"{name} is off")
        else:
            places.append((name, Address.parse(url.partition("//")[2].partition("/")[0])))
    for name, address in places:
        if name == "HTTP":
            asked = Address.parse(status.http_address or str(address))
            for finding in _in_clear(Address(asked.host, address.port)):
                yield finding
        here = Address(_WILDCARDS.get(address.host, address.host), address.port)
        why = await _dial(here)
        if why is None:
            yield Finding("ports", OK, f"{name}: {address} takes connections")
        else:
            advice = "see the node's log; a packet filter may also cut loopback off"
            yield Finding("ports", PROBLEM, f"{name}: {address} takes no connection from this machine: {why}", advice)


# ---------------------------------------------------------------------- names


async def _resolves(name: str) -> str | None:
    """None, or why a name has no address."""
    try:
        with trio.fail_after(DIAL_S):
            await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except trio.TooSlowError:
        return f"no answer within {DIAL_S:g} s"
    except OSError as error:
        return str(error.strerror or error)
    return None


async def _srv(entry: str) -> Finding:
    from ..membership.srv import resolve

    name = entry.removeprefix(_SRV)
    try:
        with trio.fail_after(2 * DIAL_S):
            records, _ = await resolve(name)
    except (OSError, trio.TooSlowError) as error:
        why = str(error) or f"no answer within {2 * DIAL_S:g} s"
        return Finding("names", PROBLEM, f"{entry}: {why}", "see bootstrap_nodes, and this machine's DNS")
    if not records:
        return Finding("names", PROBLEM, f"{entry} has no SRV records", f"publish some under {name}")
    return Finding("names", OK, f"{entry}: {len(records)} record{'s' if len(records) > 1 else ''}")


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return False


async def names(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the names in the settings lead somewhere: bootstrap nodes, and what others are to dial."""
    config = patient.config
    entries = [("bootstrap_nodes", entry) for entry in config.bootstrap_nodes]
    entries += [("advertise_address", config.advertise_address)] if config.advertise_address else []
    looked = 0
    for setting, entry in entries:
        if entry.startswith(_SRV):
            yield await _srv(entry)
            looked += 1
            continue
        host = Address.parse(entry).host
        if not _is_name(host):
            continue
        looked += 1
        why = await _resolves(host)
        if why is None:
            yield Finding("names", OK, f"{host} resolves")
        else:
            advice = (
                f"correct {setting}, or use an address in digits; `getent hosts {host}` shows what this machine finds"
            )
            yield Finding("names", PROBLEM, f"{host} ({setting}) has no address: {why}", advice)
    if not looked:
        yield Finding("names", OK, "no setting names a host")


# ---------------------------------------------------------------------- peers


@attrs.frozen
class _Place:
    """Who should answer where. `is_linked`: a link to it is up; `is_spare`: others of the mesh are linked."""

    name: str
    address: Address
    is_linked: bool = False
    is_bootstrap: bool = False
    is_spare: bool = False


def _places(patient: Patient) -> list[_Place]:
    nodes, links = patient.topology.get("nodes", [])[1:], patient.topology.get("links", [])
    linked = {link["node_id"] for link in links}
    found = [
        _Place(f"{node['name']} {node['node_id'][:8]}", Address.parse(node["address"]), node["node_id"] in linked)
        for node in nodes
        if node["address"] is not None and node["state"] != "left"
    ][:PEERS_MAX]
    known = {place.address for place in found}
    for entry in patient.config.bootstrap_nodes[:PEERS_MAX]:
        if not entry.startswith(_SRV) and (address := Address.parse(entry)) not in known:
            found.append(_Place("the bootstrap node", address, is_bootstrap=True, is_spare=bool(links)))
    return found


async def peers(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the other nodes, and those to begin with, take connections from here."""
    places = _places(patient)
    reasons: dict[int, str | None] = {}

    async def dial(number: int) -> None:
        reasons[number] = await _dial(places[number].address)

    async with trio.open_nursery() as nursery:
        for number in range(len(places)):
            nursery.start_soon(dial, number)
    reached = 0
    for number, place in enumerate(places):
        why, address = reasons[number], place.address
        if why is None:
            reached += 1
        elif why == _UNNAMED and place.is_bootstrap:
            continue  # said by `names`
        elif place.is_linked:
            what = f"{place.name} cannot be dialed at {address} ({why}); the link that it opened is up"
            advice = "if that link breaks only that side can open another: see its firewall"
            yield Finding("peers", WARNING, what, advice)
        else:
            advice = f"is it running, and do firewalls let TCP and UDP port {address.port} through?"
            status = WARNING if place.is_spare else PROBLEM
            yield Finding("peers", status, f"{place.name} does not answer at {address}: {why}", advice)
    if reached:
        yield Finding("peers", OK, f"{reached} of {len(places)} other nodes take connections from here")
    elif not places:
        has_ways = patient.config.enable_discovery
        what = "no other node is known" + (" yet" if has_ways else "")
        advice = "" if has_ways else "name one in bootstrap_nodes, or switch enable_discovery on"
        yield Finding("peers", OK if has_ways else WARNING, what, advice)


def clocks(patient: Patient) -> Iterator[Finding]:
    """This machine's clock beside those of the peers that are linked."""
    if not patient.is_running:
        yield Finding("clock", OK, "no node runs here, so there is no peer's clock to compare with")
        return
    offsets = [peer["clock_offset_s"] for peer in patient.stats["peers"] if peer["clock_offset_s"] is not None]
    if not offsets:
        yield Finding("clock", OK, "no peer's clock is known yet")
        return
    offset = statistics.median(offsets)
    way = "behind" if offset > 0 else "ahead of"
    text = f"{abs(offset):.3f} s {way} the clocks of {len(offsets)} peer{'s' if len(offsets) > 1 else ''}"
    advice = "set this machine's clock, or theirs: a time service (chrony, systemd-timesyncd) keeps it"
    if abs(offset) < _CLOCK_WARNING_S:
        yield Finding("clock", OK, text)
    else:
        yield Finding("clock", WARNING if abs(offset) < _CLOCK_PROBLEM_S else PROBLEM, text, advice)


# ---------------------------------------------------------------------- firewall, multicast


def _filters() -> Iterable[tuple[str, str]]:
    """Packet filters that are on, as far as an ordinary user sees, with their command that opens a port."""
    try:
        if "ENABLED=yes" in Path("/etc/ufw/ufw.conf").read_text():
            yield "ufw", "sudo ufw allow {port}"
    except OSError:
        pass
    if Path("/run/firewalld").exists():
        yield (
            "firewalld",
            "sudo firewall-cmd --permanent --add-port={port}/tcp --add-port={port}/udp && sudo firewall-cmd --reload",
        )


def firewall(patient: Patient) -> Iterator[Finding]:
    """Whether others get through to this node, as far as that can be told from here."""
    listen = patient.config.tcp_address
    if is_loopback(listen.host):
        named = [entry for entry in patient.config.bootstrap_nodes if not is_loopback(entry.rpartition(":")[0])]
        if named:
            what = f"this node listens on {listen.host} alone: no other machine can open a link to it"
            yield Finding("firewall", WARNING, what, "set listen_address to [::]:7800, unless that is meant")
        else:
            yield Finding("firewall", OK, "this node listens on loopback alone: no firewall is in the way")
        return
    incoming = [link for link in patient.topology.get("links", []) if not link["dialed"]]
    if incoming:
        yield Finding("firewall", OK, f"others get through: {len(incoming)} links were opened by them")
        return
    port = listen.port
    if patient.status is not None and patient.status.address is not None:
        port = Address.parse(patient.status.address).port
    found = list(_filters())
    for name, command in found:
        what = f"{name} is on, and no other node has opened a link to this one"
        yield Finding("firewall", WARNING, what, f"let the mesh through: {command.format(port=port or 'PORT')}")
    if not found:
        place = f"port {port}" if port else "at the port it gets"
        what = f"neither ufw nor firewalld is on here; others need TCP and UDP {place}, which cannot be seen from here"
        yield Finding("firewall", OK, what)


def multicast(patient: Patient) -> Iterator[Finding]:
    """Whether nodes of one network can find each other by mDNS."""
    config = patient.config
    if not config.enable_discovery or config.dev_mode or is_loopback(config.tcp_address.host):
        why = "enable_discovery is off" if not config.enable_discovery else "nodes on loopback need none"
        yield Finding("mdns", OK, f"mDNS is not used: {why}")
        return
    if importlib.util.find_spec("zeroconf") is None:
        yield Finding("mdns", PROBLEM, "the package zeroconf is not installed", "pip install zeroconf")
        return
    hosts, joined, problem = SystemNetwork().local_hosts(), [], ""
    for host in hosts:
        if ":" in host:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                membership = socket.inet_aton(_GROUP) + socket.inet_aton(host)
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
                joined.append(host)
            except OSError as error:
                problem = f"{host}: {error.strerror}"
    if joined:
        yield Finding("mdns", OK, f"mDNS can be used on {', '.join(joined)}")
    else:
        advice = "name nodes in bootstrap_nodes; containers need the host's network for multicast"
        yield Finding("mdns", WARNING, f"no interface takes part in multicast ({problem or 'there is none'})", advice)
