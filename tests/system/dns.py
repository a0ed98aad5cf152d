"""A name server in the internet, or in the provider's network: every name exists, and has its addresses."""

from __future__ import annotations

import select
import socket
import struct
import sys

from tests.system.capture import ENDPOINT, ENDPOINT_NAME, name
from tests.system.leak import MEMBER, RESOLVER, SOMEBODY

PLACES = {"internet": (RESOLVER, SOMEBODY), "far": (("10.64.0.1", "fd00:64::1"), MEMBER)}


def answer(query: bytes, addresses: tuple[str, str]) -> bytes:
    """The answer to a query: for a day, and of the type that was asked for if there is an address of it."""
    end = query.index(0, 12) + 5
    kind = int.from_bytes(query[end - 4 : end - 2])
    endpoint = ".".join(name(query[12:])) == ENDPOINT_NAME
    found = {1: ENDPOINT[0] if endpoint else addresses[0], 28: "" if endpoint else addresses[1]}.get(kind)
    data = b""
    if found:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in found else socket.AF_INET, found)
        data = struct.pack(">HHHIH", 0xC00C, kind, 1, 86400, len(packed)) + packed
    return query[:2] + struct.pack(">5H", 0x8180, 1, bool(data), 0, 0) + query[12:end] + data


def main(place: str) -> None:
    """Serve."""
    servers, addresses = PLACES[place]
    sockets = []
    for server in servers:
        made = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((server, 53))
        sockets.append(made)
    while True:
        for made in select.select(sockets, [], [])[0]:
            query, client = made.recvfrom(4096)
            made.sendto(answer(query, addresses), client)


if __name__ == "__main__":
    main(sys.argv[1])
