"""An attacker on a network, as a process: it hears all that passes its interface, and sends datagrams as anybody.

Run in a network namespace by `test_forged_sources.py`. Commands are lines of JSON on standard input, one answer each:

    {"send": [hex, …], "source": [host, port], "to": [host, port]}    {"sent": number}
    {"heard": true}       {"heard": [[source, to, hex], …]}, UDP on IPv4 since the last time, hosts and ports
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from typing import Any

_PACKET_LEVEL, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1
_ETHERNET_BYTES, _UDP_BYTES, _ANY_PROTOCOL = 14, 8, 3


def open_sniffer() -> socket.socket:
    """A socket that gets each frame on eth0, whomever it is for."""
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ANY_PROTOCOL))
    sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 2**20)
    sniffer.bind(("eth0", 0))
    member = struct.pack("iHH8s", socket.if_nametoindex("eth0"), _PROMISCUOUS, 0, b"")
    sniffer.setsockopt(_PACKET_LEVEL, _ADD_MEMBERSHIP, member)
    sniffer.setblocking(False)
    return sniffer


def heard(sniffer: socket.socket) -> list[list[Any]]:
    """What has come since the last time."""
    found: list[list[Any]] = []
    while True:
        try:
            frame = sniffer.recv(65536)
        except BlockingIOError:
            return found
        packet = frame[_ETHERNET_BYTES:]
        if frame[12:14] != b"\x08\x00" or packet[9] != socket.IPPROTO_UDP:
            continue
        udp = packet[4 * (packet[0] & 15) :]
        source_port, port, length, _ = struct.unpack("!4H", udp[:_UDP_BYTES])
        hosts = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        found.append([[hosts[0], source_port], [hosts[1], port], udp[_UDP_BYTES:length].hex()])


def send(raw: socket.socket, payloads: list[str], source: tuple[str, int], to: tuple[str, int]) -> int:
    """Send datagrams with this source; the system fills in the length and the checksum of IP, UDP goes without."""
    for payload in map(bytes.fromhex, payloads):
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, *map(socket.inet_aton, (source[0], to[0]))
        )
        udp = struct.pack("!4H", source[1], to[1], _UDP_BYTES + len(payload), 0)
        raw.sendto(head + udp + payload, to)
    return len(payloads)


def main() -> None:
    """Do as told."""
    sniffer, raw = open_sniffer(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    for line in sys.stdin:
        command = json.loads(line)
        if "heard" in command:
            answer: dict[str, Any] = {"heard": heard(sniffer)}
        else:
            answer = {"sent": send(raw, command["send"], tuple(command["source"]), tuple(command["to"]))}
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
