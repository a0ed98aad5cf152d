"""Sees every frame that leaves the host, and tells what it is."""

from __future__ import annotations

import socket
import struct
from collections import Counter

from tests.system.leak import UPLINK

ENDPOINT, ENDPOINT_NAME = ("203.0.113.1", 51820), "provider.example"
TUNNEL = f"UDP {ENDPOINT[0]} {ENDPOINT[1]}"
NEIGHBOURS = (
    131,
    132,
    133,
    135,
    136,
    143,
)  # ICMPv6: multicast listener and neighbour discovery, between link and router


class Capture:
    """A packet socket on the uplink, with room for all that a test sends: there is no thread that reads meanwhile."""

    def __init__(self) -> None:
        """Begin to capture."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.bind((UPLINK, 3))  # ETH_P_ALL
        self._socket.settimeout(0)

    def close(self) -> None:
        """End."""
        self._socket.close()

    def taken(self) -> Counter[str]:
        """What has left since the last call, without what may leave besides the tunnel's packets."""
        found: Counter[str] = Counter()
        while True:
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                break
            if kind == 4:  # PACKET_OUTGOING
                found[what(frame)] += 1
        _, dropped = struct.unpack("II", self._socket.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
        assert not dropped
        del found[""]
        return found


def what(frame: bytes) -> str:
    """The name of what a frame has in it, "" if it may leave."""
    kind, packet = int.from_bytes(frame[12:14]), frame[14:]
    if kind == 0x806:  # ARP
        return ""
    if kind == 0x800:
        protocol, target = packet[9], socket.inet_ntop(socket.AF_INET, packet[16:20])
        payload = packet[4 * (packet[0] & 15) :]
    elif kind == 0x86DD:
        protocol, target, payload = packet[6], socket.inet_ntop(socket.AF_INET6, packet[24:40]), packet[40:]
        if not protocol:  # hop-by-hop options
            protocol, payload = payload[0], payload[8 * (payload[1] + 1) :]
    else:
        return f"frame {kind:x}"
    port = int.from_bytes(payload[2:4])
    if protocol == 17 and port == 53:
        labels = name(payload[20:])
        return "" if ".".join(labels) == ENDPOINT_NAME else f"DNS {labels[0]}"
    if protocol == 58 and payload[0] in NEIGHBOURS:
        return ""
    if (
        protocol == 1 and payload[0] == 3 and target == ENDPOINT[0]
    ):  # the tunnel's packet came when its socket was closed
        return ""
    title = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMP"}.get(protocol, f"IP {protocol}")
    return f"{title} {target} {port}" if protocol in (6, 17) else f"{title} {target}"


def name(question: bytes) -> list[str]:
    """The labels of the name in a DNS question."""
    labels = []
    while question and (length := question[0]):
        labels.append(question[1 : length + 1].decode(errors="replace"))
        question = question[length + 1 :]
    return labels or [""]
