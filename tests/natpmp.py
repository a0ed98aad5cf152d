"""A NAT-PMP server (RFC 6886) for the tests, in a provider's network namespace."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import Self

from wgns_helpers import netns

PORT = 5351


def opened(namespace: str, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    """A socket of a network namespace."""
    with open(netns.open_namespace(namespace), "rb") as there, netns.Inside(there.fileno()):
        return socket.socket(socket.AF_INET, kind)


class Gateway:
    """Answers in a thread, until the end of a with statement. What it answers can change meanwhile.

    As Proton's, it takes the internal port 0 for the same port as outside, and chooses that port. With `standard` it
    refuses 0, as miniupnpd.
    """

    def __init__(self, namespace: str, port: int = 40000, *, lifetime: int = 2, standard: bool = False) -> None:
        self.namespace, self.port, self.lifetime, self.standard = namespace, port, lifetime, standard
        self.address, self.refusal, self.silent = "198.51.100.7", 0, False
        self.companion = 0  # the port for TCP, if it is another
        self.garbage: list[bytes] = []  # sent before each answer to a mapping
        self.strangers: list[socket.socket] = []  # they answer before the gateway does
        self.requests: list[tuple[int, int, int, int]] = []  # operation, internal and external port, lifetime

    def __enter__(self) -> Self:
        """Begin to answer; the port mapping table is empty (section 3.6)."""
        self._begin, self._over = time.monotonic(), threading.Event()
        self._socket = opened(self.namespace)
        self._socket.bind(("10.64.0.1", PORT))
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def mappings(self) -> list[tuple[int, int, int, int]]:
        """The requests for a mapping, or for the end of one."""
        return [request for request in self.requests if request[0]]

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                request, client = self._socket.recvfrom(64)
            except TimeoutError:
                continue
            if self.silent:
                continue
            answer = self._answer(request)
            for stranger in self.strangers:
                stranger.sendto(answer.replace(struct.pack("!H", self.port), struct.pack("!H", 50000)), client)
            for packet in self.garbage if request[1] else []:
                self._socket.sendto(packet, client)
            self._socket.sendto(answer, client)

    def _answer(self, request: bytes) -> bytes:
        operation, inside, outside, lifetime = request[1], 0, 0, 0
        if operation:
            inside, outside, lifetime = struct.unpack("!HHI", request[4:12])
        self.requests.append((operation, inside, outside, lifetime))
        refusal = self.refusal or (2 if operation and self.standard and not inside and lifetime else 0)
        head = struct.pack("!BBHI", 0, 128 | operation, refusal, int(time.monotonic() - self._begin))
        if not operation:
            return head + socket.inet_aton(self.address)
        port = (operation == 2 and self.companion) or self.port if lifetime else 0
        return head + struct.pack("!HHI", inside, port, self.lifetime if lifetime else 0)
